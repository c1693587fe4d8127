//! Whole stores on the move: from some engines into others, while readers go on. Nothing that is there is ever
//! overwritten, and the copy is compared before anyone may rely on it.

use crate::{
    gate::GatedStore,
    transfer::{BATCH_BYTES, BATCH_KEYS, Importer, Keep, Source, TransferError, pages},
    types::{EventKind, KeyRange, KeyValue, LeaseId, Op, RangeRequest, Revision, Store, StoreError, Txn, WatchStream},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream, stream::BoxStream};
use std::{collections::BTreeMap, fmt, pin::Pin, sync::Arc};

/// What is bound to a lease lives that long after a move, at most.
const LEASE_SECONDS: u64 = 3600;
/// A follower that is that close to the source is there but for the last step.
const CLOSE: Revision = 100;
/// Most rounds of catching up before the source is held; fewer when they bring the copy no closer.
const ROUNDS: usize = 8;

/// What was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transferred {
    /// How many keys.
    pub keys: u64,
}

/// A store that is to move, with what of it counts: the rest is from before it was kept elsewhere.
#[derive(Clone)]
pub struct Moving {
    /// Which.
    pub store: GatedStore,
    /// What of it.
    pub keep: Keep,
}

/// The number of the store that a key goes to.
pub type RouteOf = dyn Fn(&[u8]) -> usize + Send + Sync;

/// Where keys go.
#[derive(Clone)]
pub struct Targets {
    /// Empty stores.
    pub stores: Vec<Arc<dyn Store>>,
    /// Which of them a key goes to.
    pub route: Arc<RouteOf>,
}

impl fmt::Debug for Moving {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Moving").field("store", &self.store).finish_non_exhaustive()
    }
}

impl fmt::Debug for Targets {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Targets").field("stores", &self.stores).finish_non_exhaustive()
    }
}

impl From<Arc<dyn Store>> for Targets {
    fn from(only: Arc<dyn Store>) -> Self {
        Self { stores: vec![only], route: Arc::new(|_| 0) }
    }
}

/// Copies all `sources` into the empty `targets`, following what changes meanwhile; holds the sources for the last
/// step, after which both are the same. The sources stay held.
///
/// # Errors
/// When a store fails, a target is not empty, or the copy turns out to differ; the sources are open again then.
pub async fn migrate(sources: &[Moving], targets: &Targets) -> Result<Transferred, TransferError> {
    let moved = copy(sources, targets).await;
    if moved.is_err() {
        sources.iter().for_each(|source| source.store.open());
    }
    moved
}

/// A source being copied.
struct Copying<'a> {
    source: &'a Moving,
    targets: &'a Targets,
    /// One in each target, for what was bound to one.
    leases: &'a [LeaseId],
    changes: WatchStream,
    at: Revision,
}

async fn copy(sources: &[Moving], targets: &Targets) -> Result<Transferred, TransferError> {
    let mut leases = Vec::new();
    for target in &targets.stores {
        let first = target.range(RangeRequest { range: KeyRange::all(), revision: None, limit: 1 }).await?;
        if let Some(first) = first.items.first() {
            return Err(TransferError::Occupied(String::from_utf8_lossy(&first.key).into_owned()));
        }
        leases.push(target.grant_lease(LEASE_SECONDS).await?);
    }
    let mut all = Vec::new();
    for source in sources {
        all.push(Copying::begin(source, targets, &leases).await?);
    }
    for copying in &mut all {
        copying.catch_up().await?;
    }
    for source in sources {
        source.store.hold().await;
    }
    for copying in &mut all {
        let last = copying.source.store.revision().await?;
        copying.follow(last).await?;
    }
    let ends: Vec<Source> = all.iter().map(Copying::end).collect();
    let mut keys = 0;
    for (number, target) in targets.stores.iter().enumerate() {
        keys += compare(&ends, targets, number, target).await?;
    }
    Ok(Transferred { keys })
}

impl<'a> Copying<'a> {
    /// Copies what is there now.
    async fn begin(source: &'a Moving, targets: &'a Targets, leases: &'a [LeaseId]) -> Result<Self, TransferError> {
        let store = &source.store;
        let at = store.revision().await?;
        let changes = store.inner.watch(KeyRange::all(), at + 1).await?;
        let copying = Self { source, targets, leases, changes, at };
        let mut importers: Vec<_> = targets.stores.iter().map(|target| Importer::new(target.clone())).collect();
        let mut pages = Box::pin(pages(copying.end(), KeyRange::all()));
        while let Some(page) = pages.next().await {
            for item in page? {
                let to = (targets.route)(&item.key);
                importers[to].put(item.key, item.value, item.lease.map(|_| leases[to])).await?;
            }
        }
        for importer in importers {
            importer.finish().await?;
        }
        Ok(copying)
    }

    /// The source as far as it is copied.
    fn end(&self) -> Source {
        Source { store: self.source.store.inner.clone(), revision: self.at, keep: self.source.keep.clone() }
    }

    /// Follows until the source is close, or does not come closer.
    async fn catch_up(&mut self) -> Result<(), TransferError> {
        let mut behind = Revision::MAX;
        for _ in 0..ROUNDS {
            let newest = self.source.store.revision().await?;
            let before = std::mem::replace(&mut behind, newest.saturating_sub(self.at));
            if behind < CLOSE || behind > before / 2 {
                break;
            }
            self.follow(newest).await?;
        }
        Ok(())
    }

    /// Applies changes up to `until`.
    async fn follow(&mut self, until: Revision) -> Result<(), TransferError> {
        self.source.store.request_progress(KeyRange::all()).await?;
        // Nobody reads the targets yet: of several changes of a key only the last counts.
        let mut waiting: BTreeMap<(usize, Bytes), Op> = BTreeMap::new();
        let mut bytes = 0;
        while self.at < until {
            let batch = self.changes.next().await.unwrap_or(Err(StoreError::Closed))?;
            self.at = batch.revision;
            for event in batch.events {
                let key = event.current.key;
                if !(self.source.keep)(&key) {
                    continue;
                }
                let more = key.len() + event.current.value.len();
                if waiting.len() == BATCH_KEYS || bytes + more > BATCH_BYTES {
                    apply(self.targets, &mut waiting).await?;
                    bytes = 0;
                }
                bytes += more;
                let to = (self.targets.route)(&key);
                let op = match event.kind {
                    EventKind::Put => {
                        let lease = event.current.lease.map(|_| self.leases[to]);
                        Op::Put { key: key.clone(), value: event.current.value, lease }
                    }
                    EventKind::Delete => Op::Delete(key.clone()),
                };
                waiting.insert((to, key), op);
            }
        }
        apply(self.targets, &mut waiting).await
    }
}

async fn apply(targets: &Targets, waiting: &mut BTreeMap<(usize, Bytes), Op>) -> Result<(), TransferError> {
    let mut steps: BTreeMap<usize, Vec<Op>> = BTreeMap::new();
    for ((to, _), op) in std::mem::take(waiting) {
        steps.entry(to).or_default().push(op);
    }
    for (to, then) in steps {
        targets.stores[to].txn(Txn { then, ..Txn::default() }).await?;
    }
    Ok(())
}

/// Whether a target holds exactly what the sources held for it; how many keys. What a lease may end meanwhile does not
/// count.
async fn compare(
    sources: &[Source],
    targets: &Targets,
    number: usize,
    target: &Arc<dyn Store>,
) -> Result<u64, TransferError> {
    let mut ours = Merged { heads: Vec::new() };
    for source in sources {
        let (route, keep) = (targets.route.clone(), source.keep.clone());
        let keep: Keep = Arc::new(move |key| keep(key) && route(key) == number);
        ours.add(items(Source { keep, ..source.clone() })).await?;
    }
    let copied = Source { store: target.clone(), revision: target.revision().await?, keep: Arc::new(|_| true) };
    let mut theirs = items(copied);
    let mut keys = 0;
    loop {
        match (ours.next().await?, theirs.next().await.transpose()?) {
            (None, None) => return Ok(keys),
            (Some(a), Some(b)) if a.key == b.key && a.value == b.value => keys += 1,
            (a, b) => {
                let key = a.or(b).map(|item| item.key).unwrap_or_default();
                return Err(TransferError::Differs(String::from_utf8_lossy(&key).into_owned()));
            }
        }
    }
}

type Items = Pin<Box<dyn Stream<Item = Result<KeyValue, StoreError>> + Send>>;

fn items(source: Source) -> Items {
    let flat = pages(source, KeyRange::all()).flat_map(|page| -> BoxStream<'static, _> {
        match page {
            Ok(items) => stream::iter(items.into_iter().filter(|item| item.lease.is_none()).map(Ok)).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    });
    Box::pin(flat)
}

/// Several streams in one order of keys.
struct Merged {
    heads: Vec<(KeyValue, Items)>,
}

impl Merged {
    async fn add(&mut self, mut items: Items) -> Result<(), StoreError> {
        if let Some(head) = items.next().await.transpose()? {
            self.heads.push((head, items));
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<KeyValue>, StoreError> {
        let first = self.heads.iter().enumerate().min_by(|(_, (a, _)), (_, (b, _))| a.key.cmp(&b.key));
        let Some((at, _)) = first else { return Ok(None) };
        let (head, items) = self.heads.swap_remove(at);
        self.add(items).await?;
        Ok(Some(head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EmbeddedConfig, EmbeddedStore, MemoryStore, etcd::testing::Alone, suite};
    use timonel_runtime::Clock;

    async fn put(store: &Arc<dyn Store>, key: &str, value: &str) {
        suite::write(store, vec![suite::put(key, value)]).await;
    }

    async fn pairs(store: &Arc<dyn Store>) -> Vec<(Bytes, Bytes)> {
        suite::read(store, KeyRange::all(), None).await.into_iter().map(|item| (item.key, item.value)).collect()
    }

    fn whole(store: &GatedStore) -> [Moving; 1] {
        [Moving { store: store.clone(), keep: Arc::new(|_| true) }]
    }

    /// Moves a store while somebody writes to it; then nobody can, and both are the same.
    async fn moves(source: Arc<dyn Store>, target: Arc<dyn Store>) {
        for number in 0..1_500 {
            put(&source, &format!("/k/{number:05}"), &format!("{number}")).await;
        }
        let gated = GatedStore::new(Arc::clone(&source));
        let (sources, into) = (whole(&gated), Targets::from(Arc::clone(&target)));
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
        let (moved, written) = tokio::join!(migrate(&sources, &into), writes);
        assert!(written > 0);
        let (here, there) = (pairs(&source).await, pairs(&target).await);
        assert_eq!(moved.unwrap().keys, here.len() as u64);
        assert_eq!(here, there);
        gated.range(RangeRequest { range: KeyRange::all(), revision: None, limit: 1 }).await.unwrap();
        let again = migrate(&sources, &into).await;
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

    /// Events lie in an etcd of their own, in the source and then in the target; what lies in the wrong place counts
    /// nowhere.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_kept_apart_moves_along() {
        let (etcd, events) = (Alone::start().await, Alone::start().await);
        let (main, apart) = (embedded(), embedded());
        let is_event = |key: &[u8]| key.starts_with(b"/events/");
        for number in 0..300 {
            put(&main, &format!("/k/{number:03}"), "main").await;
            put(&apart, &format!("/events/{number:03}"), "apart").await;
        }
        put(&main, "/events/000", "from before").await;
        let lease = apart.grant_lease(600).await.unwrap();
        let bound = Op::Put { key: "/events/bound".into(), value: "x".into(), lease: Some(lease) };
        suite::write(&apart, vec![bound]).await;
        let gates = [GatedStore::new(main.clone()), GatedStore::new(apart.clone())];
        let sources = [
            Moving { store: gates[0].clone(), keep: Arc::new(move |key| !is_event(key)) },
            Moving { store: gates[1].clone(), keep: Arc::new(is_event) },
        ];
        let stores: Vec<Arc<dyn Store>> = vec![Arc::new(etcd.store.clone()), Arc::new(events.store.clone())];
        let into = Targets { stores: stores.clone(), route: Arc::new(move |key| usize::from(is_event(key))) };
        assert_eq!(migrate(&sources, &into).await.unwrap().keys, 600);
        assert_eq!((pairs(&stores[0]).await.len(), pairs(&stores[1]).await.len()), (300, 301));
        assert_eq!(pairs(&stores[1]).await[0].1, "apart");
        for gate in &gates {
            let refused = gate.txn(Txn { then: vec![suite::put("/x", "1")], ..Txn::default() }).await;
            assert!(matches!(refused, Err(StoreError::Unavailable(_))));
        }
        // Back into one store for all.
        let back: Arc<dyn Store> = Arc::new(MemoryStore::new(Clock::system()));
        let sources: Vec<_> = stores
            .into_iter()
            .map(|store| Moving { store: GatedStore::new(store), keep: Arc::new(|_| true) })
            .collect();
        assert_eq!(migrate(&sources, &Targets::from(back.clone())).await.unwrap().keys, 600);
        assert_eq!(pairs(&back).await.len(), 601);
    }
}
