//! A store whose objects lie sealed in another: what goes in is sealed, what comes out is opened.

use crate::{
    encryption::Encryption,
    provider::{Providers, SealError},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use std::sync::Arc;
use timonel_store::{
    Compare, Event, EventKind, KeyRange, KeyValue, LeaseId, Op, OpResult, RangeRequest, RangeResult, Revision, Store,
    StoreError, Txn, TxnResult, WatchBatch, WatchStream,
};

/// Which resource a key of the store belongs to, as group and resource; `None` for what is no object.
pub type Layout = fn(&[u8]) -> Option<(&str, &str)>;

/// How often an object that others change is tried to be sealed anew.
const TRIES: usize = 8;

/// A store with encryption at rest.
#[derive(Clone, Debug)]
pub struct EncryptedStore<S> {
    inner: S,
    encryption: Arc<Encryption>,
    layout: Layout,
}

/// What a re-encryption did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Objects of resources that the configuration names.
    pub objects: u64,
    /// Those among them that were sealed otherwise than they are today, and are no longer.
    pub rewritten: u64,
}

fn told(key: &[u8], error: &SealError) -> StoreError {
    match error {
        SealError::NoProvider | SealError::Damaged => {
            StoreError::Corrupt(format!("{}: {error}", String::from_utf8_lossy(key)))
        }
        SealError::Plugin { .. } | SealError::Sealing => StoreError::Unavailable(error.to_string()),
    }
}

impl<S: Store> EncryptedStore<S> {
    /// Keeps in `inner` what the configuration names sealed.
    pub fn new(inner: S, encryption: Arc<Encryption>, layout: Layout) -> Self {
        Self { inner, encryption, layout }
    }

    fn providers(&self, key: &[u8]) -> Option<Arc<Providers>> {
        let (group, resource) = (self.layout)(key)?;
        self.encryption.providers(group, resource)
    }

    fn seal(&self, key: &Bytes, plain: &Bytes) -> Result<Bytes, StoreError> {
        match self.providers(key) {
            Some(providers) => providers.seal(key, plain).map_err(|error| told(key, &error)),
            None => Ok(plain.clone()),
        }
    }

    async fn open(&self, found: &mut KeyValue) -> Result<(), StoreError> {
        if let Some(providers) = self.providers(&found.key) {
            let opened = providers.open(&found.key, &found.value).await;
            found.value = opened.map_err(|error| told(&found.key, &error))?.0;
        }
        Ok(())
    }

    async fn open_event(&self, event: &mut Event) -> Result<(), StoreError> {
        if event.kind == EventKind::Put {
            self.open(&mut event.current).await?;
        }
        if let Some(previous) = &mut event.previous
            && self.open(previous).await.is_err()
        {
            // Nobody needs what cannot be read any more, and watchers must get past it.
            event.previous = None;
        }
        Ok(())
    }

    async fn open_batch(&self, batch: Result<WatchBatch, StoreError>) -> Result<WatchBatch, StoreError> {
        let mut batch = batch?;
        for event in &mut batch.events {
            self.open_event(event).await?;
        }
        Ok(batch)
    }

    fn seal_ops(&self, ops: Vec<Op>) -> Result<Vec<Op>, StoreError> {
        let one = |op| match op {
            Op::Put { key, value, lease } => Ok(Op::Put { value: self.seal(&key, &value)?, key, lease }),
            other => Ok(other),
        };
        ops.into_iter().map(one).collect()
    }

    /// A comparison with a value in clear becomes one with the sealed value that lies there.
    async fn seal_compare(&self, compare: Compare) -> Result<Compare, StoreError> {
        let Compare::Value(key, value) = &compare else { return Ok(compare) };
        let Some(providers) = self.providers(key) else { return Ok(compare) };
        let Some(found) = self.stored(key).await? else { return Ok(compare) };
        let (plain, _) = providers.open(key, &found.value).await.map_err(|error| told(key, &error))?;
        // Another value fits nothing that is sealed: the comparison fails, as it must.
        Ok(if plain == value { Compare::Value(key.clone(), found.value) } else { compare })
    }

    async fn stored(&self, key: &Bytes) -> Result<Option<KeyValue>, StoreError> {
        let request = RangeRequest { range: KeyRange::key(key.clone()), revision: None, limit: 1 };
        Ok(self.inner.range(request).await?.items.pop())
    }

    /// Seals anew what lies in `range` and would be sealed otherwise today.
    ///
    /// # Errors
    /// Those of the store, and of objects that cannot be opened; what was done until then stays done.
    pub async fn rewrite(&self, mut range: KeyRange) -> Result<Rewritten, StoreError> {
        let mut done = Rewritten::default();
        loop {
            let page = self.inner.range(RangeRequest { range: range.clone(), revision: None, limit: 0 }).await?;
            let Some(last) = page.items.last() else { return Ok(done) };
            range.start = KeyRange::key(last.key.clone()).end;
            for item in page.items {
                let Some(providers) = self.providers(&item.key) else { continue };
                done.objects += 1;
                done.rewritten += u64::from(self.rewrite_one(&providers, item).await?);
            }
            if !page.more {
                return Ok(done);
            }
        }
    }

    async fn rewrite_one(&self, providers: &Providers, mut item: KeyValue) -> Result<bool, StoreError> {
        for _ in 0..TRIES {
            let key = item.key.clone();
            let opened = providers.open(&key, &item.value).await.map_err(|error| told(&key, &error))?;
            let (plain, true) = opened else { return Ok(false) };
            let value = providers.seal(&key, &plain).map_err(|error| told(&key, &error))?;
            let txn = Txn {
                compare: vec![Compare::ModRevision(key.clone(), item.mod_revision)],
                then: vec![Op::Put { key: key.clone(), value, lease: item.lease }],
                ..Txn::default()
            };
            if self.inner.txn(txn).await?.succeeded {
                return Ok(true);
            }
            match self.stored(&key).await? {
                Some(newer) => item = newer,
                None => return Ok(false),
            }
        }
        Err(StoreError::Unavailable(format!("{} changes all the time", String::from_utf8_lossy(&item.key))))
    }

    /// What lay at `from`, as it must lie at `to`.
    ///
    /// # Errors
    /// When it cannot be opened or sealed.
    pub async fn move_value(&self, from: &Bytes, to: &Bytes, stored: &Bytes) -> Result<Bytes, StoreError> {
        let plain = match self.providers(from) {
            Some(providers) => providers.open(from, stored).await.map_err(|error| told(from, &error))?.0,
            None => stored.clone(),
        };
        self.seal(to, &plain)
    }
}

#[async_trait]
impl<S: Store + Clone> Store for EncryptedStore<S> {
    async fn range(&self, request: RangeRequest) -> Result<RangeResult, StoreError> {
        let mut result = self.inner.range(request).await?;
        for item in &mut result.items {
            self.open(item).await?;
        }
        Ok(result)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        let mut compare = Vec::with_capacity(txn.compare.len());
        for one in txn.compare {
            compare.push(self.seal_compare(one).await?);
        }
        let (then, otherwise) = (self.seal_ops(txn.then)?, self.seal_ops(txn.otherwise)?);
        let mut result = self.inner.txn(Txn { compare, then, otherwise, lane: txn.lane }).await?;
        for one in &mut result.results {
            match one {
                OpResult::Put(Some(found)) | OpResult::Got(Some(found)) => self.open(found).await?,
                OpResult::Put(None) | OpResult::Got(None) => {}
                OpResult::Deleted(found) => {
                    for one in found {
                        self.open(one).await?;
                    }
                }
            }
        }
        Ok(result)
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, StoreError> {
        let stream = self.inner.watch(range, from).await?;
        let opener = self.clone();
        let opened = stream.then(move |batch| {
            let opener = opener.clone();
            async move { opener.open_batch(batch).await }
        });
        // A watch ends after its first error.
        let ended = opened.scan(false, |ended, batch| {
            let before = std::mem::replace(ended, batch.is_err());
            std::future::ready((!before).then_some(batch))
        });
        Ok(ended.boxed())
    }

    async fn request_progress(&self, range: KeyRange) -> Result<(), StoreError> {
        self.inner.request_progress(range).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }

    async fn grant_lease(&self, ttl_seconds: u64) -> Result<LeaseId, StoreError> {
        self.inner.grant_lease(ttl_seconds).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<u64, StoreError> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.revoke_lease(lease).await
    }
}
