//! Whole stores and parts of them on the move: into an archive, out of it, and from one engine to another while readers
//! go on. Nothing that is there is ever overwritten.

use crate::{
    archive::ArchiveWriter,
    types::{
        Compare, EventKind, KeyRange, KeyValue, LeaseId, Op, RangeRequest, RangeResult, Revision, Store, StoreError,
        Txn, TxnResult, WatchStream,
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::RwLock;

/// Most keys and bytes of one transaction of a transfer: within what a stock etcd takes.
const BATCH_KEYS: usize = 100;
const BATCH_BYTES: usize = 1 << 20;
/// What is bound to a lease lives that long after a move, at most.
const LEASE_SECONDS: u64 = 3600;
/// A follower that is that close to the source is there but for the last step.
const CLOSE: Revision = 100;
/// Most rounds of catching up before the source is held; fewer when they bring the copy no closer.
const ROUNDS: usize = 8;

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

/// What was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transferred {
    /// Keys.
    pub keys: u64,
    /// The source's revision that they are from.
    pub revision: Revision,
}

/// Every key of a range as of one revision, page by page.
fn pages(
    store: Arc<dyn Store>,
    range: KeyRange,
    revision: Revision,
) -> impl Stream<Item = Result<Vec<KeyValue>, StoreError>> + Send {
    stream::unfold(Some(range), move |rest| {
        let store = Arc::clone(&store);
        async move {
            let mut range = rest?;
            let request = RangeRequest { range: range.clone(), revision: Some(revision), limit: 0 };
            match store.range(request).await {
                Ok(page) => {
                    let last = page.items.last().map(|item| item.key.clone());
                    let next = last.filter(|_| page.more).map(|last| {
                        range.start = KeyRange::key(last).end;
                        range
                    });
                    Some((Ok(page.items), next))
                }
                Err(error) => Some((Err(error), None)),
            }
        }
    })
}

/// A consistent archive of all keys under `prefix`, which they lose. What is bound to a lease (events) stays out.
pub fn export(
    store: Arc<dyn Store>,
    prefix: Bytes,
    header: &[u8],
    revision: Revision,
) -> impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static {
    let (writer, first) = ArchiveWriter::begin(header);
    let pages = Box::pin(pages(store, KeyRange::prefix(prefix.clone()), revision));
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

/// Copies all of `source` into the empty `target`, following what changes meanwhile; holds `source` for the last step,
/// after which both are the same. `source` stays held.
///
/// # Errors
/// When a store fails, `target` is not empty, or the copy turns out to differ; `source` is open again then.
pub async fn migrate(source: &GatedStore, target: Arc<dyn Store>) -> Result<Transferred, TransferError> {
    let moved = copy(source, &target).await;
    if moved.is_err() {
        source.open();
    }
    moved
}

async fn copy(source: &GatedStore, target: &Arc<dyn Store>) -> Result<Transferred, TransferError> {
    let first = target.range(RangeRequest { range: KeyRange::all(), revision: None, limit: 1 }).await?;
    if let Some(first) = first.items.first() {
        return Err(TransferError::Occupied(String::from_utf8_lossy(&first.key).into_owned()));
    }
    let from = source.revision().await?;
    let mut changes = source.inner.watch(KeyRange::all(), from + 1).await?;
    let lease = target.grant_lease(LEASE_SECONDS).await?;
    let mut importer = Importer::new(Arc::clone(target));
    let mut pages = Box::pin(pages(Arc::clone(&source.inner), KeyRange::all(), from));
    while let Some(page) = pages.next().await {
        for item in page? {
            importer.put(item.key, item.value, item.lease.map(|_| lease)).await?;
        }
    }
    importer.finish().await?;
    let mut at = from;
    let mut behind = Revision::MAX;
    for _ in 0..ROUNDS {
        let newest = source.revision().await?;
        let before = std::mem::replace(&mut behind, newest.saturating_sub(at));
        if behind < CLOSE || behind > before / 2 {
            break;
        }
        at = follow(source, target, &mut changes, at, newest, lease).await?;
    }
    source.hold().await;
    let last = source.revision().await?;
    follow(source, target, &mut changes, at, last, lease).await?;
    compare(source, target, last).await
}

/// Applies changes up to `until`.
async fn follow(
    source: &GatedStore,
    target: &Arc<dyn Store>,
    changes: &mut WatchStream,
    mut at: Revision,
    until: Revision,
    lease: LeaseId,
) -> Result<Revision, TransferError> {
    source.request_progress(KeyRange::all()).await?;
    // Nobody reads the target yet: of several changes of a key only the last counts.
    let mut waiting: BTreeMap<Bytes, Op> = BTreeMap::new();
    let mut bytes = 0;
    while at < until {
        let batch = changes.next().await.unwrap_or(Err(StoreError::Closed))?;
        at = batch.revision;
        for event in batch.events {
            let key = event.current.key;
            let more = key.len() + event.current.value.len();
            if waiting.len() == BATCH_KEYS || bytes + more > BATCH_BYTES {
                apply(target, &mut waiting).await?;
                bytes = 0;
            }
            bytes += more;
            let op = match event.kind {
                EventKind::Put => {
                    let lease = event.current.lease.map(|_| lease);
                    Op::Put { key: key.clone(), value: event.current.value, lease }
                }
                EventKind::Delete => Op::Delete(key.clone()),
            };
            waiting.insert(key, op);
        }
    }
    apply(target, &mut waiting).await?;
    Ok(at)
}

async fn apply(target: &Arc<dyn Store>, waiting: &mut BTreeMap<Bytes, Op>) -> Result<(), TransferError> {
    let then: Vec<Op> = std::mem::take(waiting).into_values().collect();
    if !then.is_empty() {
        target.txn(Txn { then, ..Txn::default() }).await?;
    }
    Ok(())
}

/// Whether `target` holds exactly what `source` held at `revision`. What a lease may end meanwhile does not count.
async fn compare(
    source: &GatedStore,
    target: &Arc<dyn Store>,
    revision: Revision,
) -> Result<Transferred, TransferError> {
    let copied = target.revision().await?;
    let ours = Box::pin(pages(Arc::clone(&source.inner), KeyRange::all(), revision));
    let theirs = Box::pin(pages(Arc::clone(target), KeyRange::all(), copied));
    let (mut ours, mut theirs) = (items(ours), items(theirs));
    let mut keys = 0;
    loop {
        match (ours.next().await.transpose()?, theirs.next().await.transpose()?) {
            (None, None) => return Ok(Transferred { keys, revision }),
            (Some(a), Some(b)) if a.key == b.key && a.value == b.value => keys += 1,
            (a, b) => {
                let key = a.or(b).map(|item| item.key).unwrap_or_default();
                return Err(TransferError::Differs(String::from_utf8_lossy(&key).into_owned()));
            }
        }
    }
}

fn items(
    pages: impl Stream<Item = Result<Vec<KeyValue>, StoreError>> + Send + Unpin,
) -> impl Stream<Item = Result<KeyValue, StoreError>> + Send + Unpin {
    let flat = pages.flat_map(|page| match page {
        Ok(items) => stream::iter(items.into_iter().filter(|item| item.lease.is_none()).map(Ok).collect::<Vec<_>>()),
        Err(error) => stream::iter(vec![Err(error)]),
    });
    Box::pin(flat)
}

/// A store whose writes can be held while reads go on.
#[derive(Clone, Debug)]
pub struct GatedStore {
    inner: Arc<dyn Store>,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    held: AtomicBool,
    /// Every write holds it for reading.
    writes: RwLock<()>,
}

impl GatedStore {
    /// An open gate before `inner`.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, gate: Arc::default() }
    }

    /// Refuses writes from here on; those under way have ended when it returns.
    pub async fn hold(&self) {
        self.gate.held.store(true, Ordering::SeqCst);
        drop(self.gate.writes.write().await);
    }

    /// Takes writes again.
    pub fn open(&self) {
        self.gate.held.store(false, Ordering::SeqCst);
    }

    async fn enter(&self) -> Result<tokio::sync::RwLockReadGuard<'_, ()>, StoreError> {
        let entered = self.gate.writes.read().await;
        if self.gate.held.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("the store is being moved and takes no writes".into()));
        }
        Ok(entered)
    }
}

#[async_trait]
impl Store for GatedStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeResult, StoreError> {
        self.inner.range(request).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        let _entered = self.enter().await?;
        self.inner.txn(txn).await
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, StoreError> {
        self.inner.watch(range, from).await
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
        let _entered = self.enter().await?;
        self.inner.grant_lease(ttl_seconds).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<u64, StoreError> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        let _entered = self.enter().await?;
        self.inner.revoke_lease(lease).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ArchivePart, ArchiveReader, EmbeddedConfig, EmbeddedStore, MemoryStore, etcd::testing::Alone, suite};
    use timonel_runtime::Clock;

    fn memory() -> Arc<dyn Store> {
        Arc::new(MemoryStore::new(Clock::system()))
    }

    async fn put(store: &Arc<dyn Store>, key: &str, value: &str) {
        suite::write(store, vec![suite::put(key, value)]).await;
    }

    async fn pairs(store: &Arc<dyn Store>) -> Vec<(Bytes, Bytes)> {
        suite::read(store, KeyRange::all(), None).await.into_iter().map(|item| (item.key, item.value)).collect()
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
        let mut parts = Box::pin(export(Arc::clone(&store), "/a/".into(), b"about", revision));
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
        assert_eq!(importer.finish().await.unwrap(), 2);
        let restored = suite::read(&store, KeyRange::prefix("/c/"), None).await;
        let restored: Vec<_> = restored.iter().map(|item| (&item.key[..], &item.value[..])).collect();
        assert_eq!(restored, [(&b"/c/1"[..], &b"one"[..]), (b"/c/2", b"two")]);
        let guard = Compare::ModRevision("/guard".into(), 0);
        let mut again = Importer::guarded(Arc::clone(&store), guard.clone());
        again.put("/c/1".into(), "lost".into(), None).await.unwrap();
        assert!(matches!(again.finish().await, Err(TransferError::Occupied(_))));
        put(&store, "/guard", "another").await;
        let mut late = Importer::guarded(store, guard);
        late.put("/c/3".into(), "late".into(), None).await.unwrap();
        assert!(matches!(late.finish().await, Err(TransferError::Unguarded)));
    }

    /// Moves a store while somebody writes to it; then nobody can, and both are the same.
    async fn moves(source: Arc<dyn Store>, target: Arc<dyn Store>) {
        for number in 0..1_500 {
            put(&source, &format!("/k/{number:05}"), &format!("{number}")).await;
        }
        let gated = GatedStore::new(Arc::clone(&source));
        let writes = async {
            let mut done = 0;
            loop {
                let key = format!("/k/{:05}", done * 7 % 2_000);
                let op = if done % 5 == 4 { suite::delete(&key) } else { suite::put(&key, &format!("new {done}")) };
                match gated.txn(Txn { then: vec![op], ..Txn::default() }).await {
                    Ok(_) => done += 1,
                    Err(StoreError::Unavailable(_)) => return done,
                    Err(other) => panic!("{other}"),
                }
                tokio::task::yield_now().await;
            }
        };
        let (moved, written) = tokio::join!(migrate(&gated, Arc::clone(&target)), writes);
        assert!(written > 0);
        let (here, there) = (pairs(&source).await, pairs(&target).await);
        assert_eq!(moved.unwrap().keys, here.len() as u64);
        assert_eq!(here, there);
        gated.range(RangeRequest { range: KeyRange::all(), revision: None, limit: 1 }).await.unwrap();
        let again = migrate(&gated, target).await;
        assert!(matches!(again, Err(TransferError::Occupied(_))), "{again:?}");
        gated.txn(Txn { then: vec![suite::put("/x", "1")], ..Txn::default() }).await.unwrap();
    }

    fn embedded() -> Arc<dyn Store> {
        let directory = tempfile::tempdir().unwrap();
        Arc::new(EmbeddedStore::open(directory.path(), EmbeddedConfig::default()).unwrap())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn from_embedded_to_etcd() {
        let etcd = Alone::start().await;
        moves(embedded(), Arc::new(etcd.store.clone())).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn from_etcd_to_embedded() {
        let etcd = Alone::start().await;
        moves(Arc::new(etcd.store.clone()), embedded()).await;
    }
}
