//! A part of a store as a store: one engine holds many clusters, each under a prefix of its own.

use crate::{
    evaluate::check_bounds,
    types::{
        Compare, Event, KeyRange, KeyValue, LeaseId, Op, OpResult, RangeRequest, RangeResult, Revision, Store,
        StoreError, Txn, TxnResult, WatchBatch, WatchStream,
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

/// Most keys deleted in one revision when a whole prefix goes.
const DELETE_BATCH_KEYS: usize = 500;

/// The keys of `inner` under a prefix, without it. Revisions and leases are those of `inner`.
#[derive(Clone, Debug)]
pub struct PrefixStore<S> {
    inner: S,
    prefix: Bytes,
}

/// The keys of `inner` that start with `prefix`, as a store of their own whose keys lack the prefix.
#[must_use]
pub fn prefixed<S: Store>(inner: S, prefix: impl Into<Bytes>) -> PrefixStore<S> {
    PrefixStore { inner, prefix: prefix.into() }
}

/// Deletes every key that starts with `prefix`, some hundred at a time; returns how many there were.
///
/// # Errors
/// Those of [`Store::range`] and [`Store::txn`]; what was deleted until then stays deleted.
pub async fn delete_prefix(store: &(impl Store + ?Sized), prefix: impl Into<Bytes>) -> Result<u64, StoreError> {
    let range = KeyRange::prefix(prefix.into());
    let mut gone = 0;
    loop {
        let request = RangeRequest { range: range.clone(), revision: None, limit: DELETE_BATCH_KEYS };
        let page = store.range(request).await?;
        let Some(last) = page.items.last() else { return Ok(gone) };
        // One step, whatever an engine's bound on them.
        let end = KeyRange::key(last.key.clone()).end;
        let then = vec![Op::DeleteRange(KeyRange { start: range.start.clone(), end })];
        let result = store.txn(Txn { then, ..Txn::default() }).await?;
        for one in result.results {
            let OpResult::Deleted(found) = one else { continue };
            gone += found.len() as u64;
        }
    }
}

impl<S> PrefixStore<S> {
    fn outer(&self, key: &Bytes) -> Bytes {
        [&self.prefix[..], key].concat().into()
    }

    fn outer_range(&self, range: &KeyRange) -> KeyRange {
        let end = if range.end.is_empty() { KeyRange::prefix(self.prefix.clone()).end } else { self.outer(&range.end) };
        KeyRange { start: self.outer(&range.start), end }
    }

    fn outer_op(&self, op: Op) -> Op {
        match op {
            Op::Put { key, value, lease } => Op::Put { key: self.outer(&key), value, lease },
            Op::Delete(key) => Op::Delete(self.outer(&key)),
            Op::DeleteRange(range) => Op::DeleteRange(self.outer_range(&range)),
            Op::Get(key) => Op::Get(self.outer(&key)),
        }
    }

    fn outer_compare(&self, compare: Compare) -> Compare {
        match compare {
            Compare::ModRevision(key, revision) => Compare::ModRevision(self.outer(&key), revision),
            Compare::Value(key, value) => Compare::Value(self.outer(&key), value),
        }
    }

    fn inner_result(&self, result: &mut OpResult) {
        match result {
            OpResult::Put(found) | OpResult::Got(found) => strip(found, self.prefix.len()),
            OpResult::Deleted(found) => strip(found, self.prefix.len()),
        }
    }
}

fn strip<'a>(items: impl IntoIterator<Item = &'a mut KeyValue>, length: usize) {
    for item in items {
        item.key = item.key.slice(length..);
    }
}

fn strip_batch(mut batch: WatchBatch, length: usize) -> WatchBatch {
    for Event { current, previous, .. } in &mut batch.events {
        strip([current], length);
        strip(previous.as_mut(), length);
    }
    batch
}

#[async_trait]
impl<S: Store> Store for PrefixStore<S> {
    async fn range(&self, mut request: RangeRequest) -> Result<RangeResult, StoreError> {
        request.range = self.outer_range(&request.range);
        let mut result = self.inner.range(request).await?;
        strip(&mut result.items, self.prefix.len());
        Ok(result)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        check_bounds(&txn)?;
        let ops = |ops: Vec<Op>| ops.into_iter().map(|op| self.outer_op(op)).collect();
        let outer = Txn {
            compare: txn.compare.into_iter().map(|compare| self.outer_compare(compare)).collect(),
            then: ops(txn.then),
            otherwise: ops(txn.otherwise),
            lane: txn.lane,
        };
        let mut result = self.inner.txn(outer).await?;
        for one in &mut result.results {
            self.inner_result(one);
        }
        Ok(result)
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, StoreError> {
        let length = self.prefix.len();
        let inner = self.inner.watch(self.outer_range(&range), from).await?;
        Ok(inner.map(move |batch| batch.map(|batch| strip_batch(batch, length))).boxed())
    }

    async fn request_progress(&self, range: KeyRange) -> Result<(), StoreError> {
        self.inner.request_progress(self.outer_range(&range)).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }

    /// History belongs to the whole engine: whoever owns that compacts it.
    async fn compact(&self, _: Revision) -> Result<(), StoreError> {
        Err(StoreError::Invalid("a part of a store cannot be compacted alone".into()))
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
