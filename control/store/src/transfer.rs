//! Parts of stores on the move: into an archive and out of it. Nothing that is there is ever overwritten.

use crate::{
    archive::ArchiveWriter,
    types::{Compare, KeyRange, KeyValue, LeaseId, Op, RangeRequest, Revision, Store, StoreError, Txn},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use std::{fmt, sync::Arc};

/// Most keys and bytes of one transaction of a transfer: within what a stock etcd takes.
pub(crate) const BATCH_KEYS: usize = 100;
pub(crate) const BATCH_BYTES: usize = 1 << 20;
/// Why a transfer did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransferError {
    /// A store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is something where it was to go.
    #[error("{0:?} exists already, and nothing is overwritten")]
    Occupied(String),
    /// What every step was bound to holds no longer: somebody else has taken over.
    #[error("the transfer was given up by another")]
    Unguarded,
    /// The copy is not what the source is.
    #[error("the copy differs from its source: {0}")]
    Differs(String),
}

/// Which keys of a store take part.
pub type Keep = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// A store that keys are read from, as of one of its revisions.
#[derive(Clone)]
pub struct Source {
    /// Which.
    pub store: Arc<dyn Store>,
    /// As of when.
    pub revision: Revision,
    /// What of it.
    pub keep: Keep,
}

impl fmt::Debug for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Source").field("store", &self.store).field("revision", &self.revision).finish_non_exhaustive()
    }
}

/// The keys of a range that take part, page by page.
pub(crate) fn pages(
    source: Source,
    range: KeyRange,
) -> impl Stream<Item = Result<Vec<KeyValue>, StoreError>> + Send + 'static {
    stream::unfold(Some(range), move |rest| {
        let Source { store, revision, keep } = source.clone();
        async move {
            let mut range = rest?;
            let request = RangeRequest { range: range.clone(), revision: Some(revision), limit: 0 };
            match store.range(request).await {
                Ok(mut page) => {
                    let last = page.items.last().map(|item| item.key.clone());
                    let next = last.filter(|_| page.more).map(|last| {
                        range.start = KeyRange::key(last).end;
                        range
                    });
                    page.items.retain(|item| keep(&item.key));
                    Some((Ok(page.items), next))
                }
                Err(error) => Some((Err(error), None)),
            }
        }
    })
}

/// An archive of all keys under `prefix`, which they lose; consistent within each source. What is bound to a lease
/// (events) stays out.
pub fn export(
    sources: Vec<Source>,
    prefix: Bytes,
    header: &[u8],
) -> impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static {
    let (writer, first) = ArchiveWriter::begin(header);
    let range = KeyRange::prefix(prefix.clone());
    let pages = Box::pin(stream::iter(sources).flat_map(move |source| Box::pin(pages(source, range.clone()))));
    let rest = stream::unfold(Some((writer, pages)), move |state| {
        let length = prefix.len();
        async move {
            let (mut writer, mut pages) = state?;
            match pages.next().await {
                Some(Ok(items)) => {
                    let kept = items.iter().filter(|item| item.lease.is_none());
                    let parts: Vec<Bytes> = kept.map(|item| writer.record(&item.key[length..], &item.value)).collect();
                    Some((Ok(Bytes::from(parts.concat())), Some((writer, pages))))
                }
                Some(Err(error)) => Some((Err(error), None)),
                None => Some((Ok(writer.end()), None)),
            }
        }
    });
    stream::iter([Ok(first)]).chain(rest)
}

/// Puts keys where there is nothing.
#[derive(Debug)]
pub struct Importer<S> {
    store: S,
    guard: Option<Compare>,
    batch: Vec<(Bytes, Bytes, Option<LeaseId>)>,
    bytes: usize,
    keys: u64,
}

impl<S: Store> Importer<S> {
    /// Puts into `store`.
    pub fn new(store: S) -> Self {
        Self { store, guard: None, batch: Vec::new(), bytes: 0, keys: 0 }
    }

    /// Puts into `store` for as long as `guard` holds.
    pub fn guarded(store: S, guard: Compare) -> Self {
        Self { guard: Some(guard), ..Self::new(store) }
    }

    /// Adds a key.
    ///
    /// # Errors
    /// [`TransferError::Occupied`], and the store's.
    pub async fn put(&mut self, key: Bytes, value: Bytes, lease: Option<LeaseId>) -> Result<(), TransferError> {
        let bytes = key.len() + value.len();
        if self.batch.len() == BATCH_KEYS || (self.bytes + bytes > BATCH_BYTES && !self.batch.is_empty()) {
            self.flush().await?;
        }
        self.bytes += bytes;
        self.batch.push((key, value, lease));
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), TransferError> {
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        let Some((first, ..)) = batch.first() else { return Ok(()) };
        let (first, count) = (first.clone(), batch.len() as u64);
        let absent = batch.iter().map(|(key, ..)| Compare::ModRevision(key.clone(), 0));
        let compare = absent.chain(self.guard.clone()).collect();
        let then = batch.into_iter().map(|(key, value, lease)| Op::Put { key, value, lease }).collect();
        if !self.store.txn(Txn { compare, then, ..Txn::default() }).await?.succeeded {
            self.check_guard().await?;
            return Err(TransferError::Occupied(String::from_utf8_lossy(&first).into_owned()));
        }
        self.keys += count;
        Ok(())
    }

    async fn check_guard(&self) -> Result<(), TransferError> {
        let compare: Vec<Compare> = self.guard.iter().cloned().collect();
        let holds = self.store.txn(Txn { compare, ..Txn::default() }).await?.succeeded;
        if holds { Ok(()) } else { Err(TransferError::Unguarded) }
    }

    /// Puts what is left; returns how many keys there were.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn finish(mut self) -> Result<u64, TransferError> {
        self.flush().await?;
        Ok(self.keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ArchivePart, ArchiveReader, MemoryStore, suite};
    use timonel_runtime::Clock;

    fn memory() -> Arc<dyn Store> {
        Arc::new(MemoryStore::new(Clock::system()))
    }

    async fn put(store: &Arc<dyn Store>, key: &str, value: &str) {
        suite::write(store, vec![suite::put(key, value)]).await;
    }

    #[tokio::test]
    async fn a_part_of_a_store_goes_into_an_archive_and_elsewhere() {
        let store = memory();
        for (key, value) in [("/a/1", "one"), ("/a/2", "two"), ("/b/1", "other")] {
            put(&store, key, value).await;
        }
        let lease = store.grant_lease(60).await.unwrap();
        suite::write(&store, vec![Op::Put { key: "/a/event".into(), value: "x".into(), lease: Some(lease) }]).await;
        let revision = store.revision().await.unwrap();
        put(&store, "/a/2", "later").await;
        let mut reader = ArchiveReader::default();
        let apart = memory();
        put(&apart, "/a/3", "apart").await;
        put(&apart, "/a/1", "left from before").await;
        let keep: Keep = Arc::new(|key| key != b"/a/3");
        let sources = [
            Source { store: Arc::clone(&store), revision, keep },
            Source {
                store: apart.clone(),
                revision: apart.revision().await.unwrap(),
                keep: Arc::new(|key| key == b"/a/3"),
            },
        ];
        let mut parts = Box::pin(export(sources.into(), "/a/".into(), b"about"));
        while let Some(piece) = parts.next().await {
            reader.feed(&piece.unwrap());
        }
        let mut importer = Importer::new(Arc::clone(&store));
        while let Some(part) = reader.part().unwrap() {
            if let ArchivePart::Record(key, value) = part {
                importer.put([b"/c/", &key[..]].concat().into(), value, None).await.unwrap();
            }
        }
        reader.finish().unwrap();
        assert_eq!(importer.finish().await.unwrap(), 3);
        let restored = suite::read(&store, KeyRange::prefix("/c/"), None).await;
        let restored: Vec<_> = restored.iter().map(|item| (&item.key[..], &item.value[..])).collect();
        assert_eq!(restored, [(&b"/c/1"[..], &b"one"[..]), (b"/c/2", b"two"), (b"/c/3", b"apart")]);
        let guard = Compare::ModRevision("/guard".into(), 0);
        let mut again = Importer::guarded(Arc::clone(&store), guard.clone());
        again.put("/c/1".into(), "lost".into(), None).await.unwrap();
        assert!(matches!(again.finish().await, Err(TransferError::Occupied(_))));
        put(&store, "/guard", "another").await;
        let mut late = Importer::guarded(store, guard);
        late.put("/c/4".into(), "late".into(), None).await.unwrap();
        assert!(matches!(late.finish().await, Err(TransferError::Unguarded)));
    }
}
