//! What keeps the cache up to date: one load and one watch of a cluster's whole range.

use super::slot::{Slot, objects_range, resource_of};
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::StreamExt;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};
use timonel_api::GroupResource;
use timonel_runtime::{OnError, Tasks};
use timonel_store::{KeyValue, RangeRequest, Revision, Store, StoreError, WatchBatch, WatchStream};
use tokio::sync::Notify;

/// How long a read waits for the cache to reach a revision.
const CATCH_UP: Duration = Duration::from_secs(3);
/// Changes after which watchers are woken at the latest; far below the bound of their queues.
const WAKE_AFTER: usize = 256;
/// Pause before the store is asked again after a failure.
const RETRY: Duration = Duration::from_millis(250);

/// Listeners of one cache.
const MAX_LISTENERS: usize = 64;

/// Why the cache cannot serve a read.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CacheError {
    /// It has not reached the revision in time.
    #[error("Too large resource version: {asked}, current: {current}")]
    Behind { asked: Revision, current: Revision },
    /// The store failed.
    #[error("reading the store")]
    Store(#[from] StoreError),
}

/// Which field of a resource watches are indexed by, as a place in its table of fields.
pub(crate) type IndexField = fn(&GroupResource) -> Option<usize>;

/// All objects of one cluster.
#[derive(Debug)]
pub(crate) struct Cache {
    store: Arc<dyn Store>,
    cluster: Bytes,
    index_field: IndexField,
    slots: ArcSwap<BTreeMap<GroupResource, Arc<Slot>>>,
    delivered: AtomicU64,
    /// Wakes waiters in the order in which they came, unlike a watch channel: a simulation depends on it.
    progress: Notify,
    listeners: ArcSwap<Vec<Arc<Listener>>>,
}

/// Hears of changes to one resource, in order, before any reader is told that they are there.
struct Listener {
    resource: GroupResource,
    hear: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Listener").field("resource", &self.resource).finish_non_exhaustive()
    }
}

impl Cache {
    /// Loads everything under `cluster` and keeps it up to date for as long as `tasks` runs.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn start(
        store: Arc<dyn Store>,
        cluster: Bytes,
        index_field: IndexField,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, CacheError> {
        let cache = Arc::new(Self {
            store,
            cluster,
            index_field,
            slots: ArcSwap::default(),
            delivered: AtomicU64::new(0),
            progress: Notify::new(),
            listeners: ArcSwap::default(),
        });
        let stream = cache.load().await?;
        let fed = cache.clone();
        let token = tasks.token();
        tasks.spawn("watch-cache", OnError::EndScope, async move {
            token.run_until_cancelled(fed.feed(stream)).await;
            fed.slots.load().values().for_each(|slot| slot.end_watches());
            Ok::<(), CacheError>(())
        });
        Ok(cache)
    }

    /// Reads everything and starts to watch right after.
    async fn load(&self) -> Result<WatchStream, CacheError> {
        let mut request = RangeRequest { range: objects_range(&self.cluster), revision: None, limit: 0 };
        let mut found: BTreeMap<GroupResource, Vec<KeyValue>> = BTreeMap::new();
        let revision = loop {
            let page = self.store.range(request.clone()).await?;
            let revision = *request.revision.get_or_insert(page.revision);
            if let Some(last) = page.items.last() {
                request.range.start = Bytes::from([&last.key[..], &[0]].concat());
            }
            let more = page.more && !page.items.is_empty();
            for item in page.items {
                if let Some(key) = resource_of(&self.cluster, &item.key) {
                    found.entry(key).or_default().push(item);
                }
            }
            if !more {
                break revision;
            }
        };
        let stream = self.store.watch(objects_range(&self.cluster), revision + 1).await?;
        for key in self.slots.load().keys() {
            found.entry(key.clone()).or_default();
        }
        for (key, items) in found {
            self.slot_at(&key, revision).reset(&items, revision);
        }
        self.listeners.load().iter().for_each(|listener| (listener.hear)());
        self.advance(revision);
        Ok(stream)
    }

    async fn feed(&self, mut stream: WatchStream) {
        loop {
            let error = match stream.next().await {
                Some(Ok(batch)) => {
                    self.apply(&batch);
                    continue;
                }
                Some(Err(error)) => error,
                None => StoreError::Closed,
            };
            stream = loop {
                if matches!(error, StoreError::Closed) {
                    return;
                }
                tracing::warn!(%error, "the watch of the store ended");
                match self.resume(&error).await {
                    Ok(stream) => break stream,
                    Err(CacheError::Store(StoreError::Closed)) => return,
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            };
        }
    }

    async fn resume(&self, error: &StoreError) -> Result<WatchStream, CacheError> {
        let from = self.delivered() + 1;
        if !matches!(error, StoreError::Compacted { .. }) {
            match self.store.watch(objects_range(&self.cluster), from).await {
                Ok(stream) => return Ok(stream),
                Err(StoreError::Compacted { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        self.load().await
    }

    fn apply(&self, batch: &WatchBatch) {
        let listeners = self.listeners.load();
        // One bit for each of the first listeners; there are a handful.
        let mut heard = 0_u64;
        let mut wakers = Vec::new();
        for part in batch.events.chunks(WAKE_AFTER) {
            for event in part {
                if let Some(key) = resource_of(&self.cluster, &event.current.key) {
                    self.slot(&key).apply(event, &mut wakers);
                    let hears = listeners.iter().enumerate().filter(|(_, listener)| listener.resource == key);
                    heard = hears.fold(heard, |heard, (at, _)| heard | (1 << at));
                }
            }
            // Watchers wake to all of a commit's changes at once: woken at the first, each would be polled, framed
            // and sent as often as there are changes.
            wakers.drain(..).for_each(Waker::wake);
        }
        let told = listeners.iter().enumerate().filter(|(at, _)| heard & (1 << at) != 0);
        told.for_each(|(_, listener)| (listener.hear)());
        self.advance(batch.revision);
    }

    fn advance(&self, revision: Revision) {
        if revision > self.delivered.load(Ordering::Acquire) {
            self.delivered.store(revision, Ordering::Release);
            self.progress.notify_waiters();
        }
    }

    /// Has `hear` called after every change to a resource, before readers see that the cache has it; in the order
    /// in which listeners came.
    pub(crate) fn listen(&self, resource: GroupResource, hear: impl Fn() + Send + Sync + 'static) {
        let new = Arc::new(Listener { resource, hear: Box::new(hear) });
        self.listeners.rcu(|known| {
            assert!(known.len() < MAX_LISTENERS, "each listener has a bit");
            known.iter().cloned().chain([new.clone()]).collect::<Vec<_>>()
        });
    }

    /// Forgets a resource that is no longer served; its watches end.
    pub(crate) fn forget(&self, key: &GroupResource) {
        let gone = self.slots.load().get(key).cloned();
        if let Some(slot) = gone {
            self.slots.rcu(|slots| {
                let mut slots = BTreeMap::clone(slots);
                slots.remove(key);
                slots
            });
            slot.end_watches();
        }
    }

    /// How many objects each resource has.
    pub(crate) fn counts(&self) -> Vec<(GroupResource, usize)> {
        self.slots.load().iter().map(|(key, slot)| (key.clone(), slot.count())).collect()
    }

    /// The resource that a key of this cluster belongs to.
    pub(crate) fn resource_of(&self, key: &[u8]) -> Option<GroupResource> {
        resource_of(&self.cluster, key)
    }

    /// The place of a resource, made on first use.
    pub(crate) fn slot(&self, key: &GroupResource) -> Arc<Slot> {
        if let Some(slot) = self.slots.load().get(key) {
            return slot.clone();
        }
        self.slot_at(key, self.delivered())
    }

    fn slot_at(&self, key: &GroupResource, revision: Revision) -> Arc<Slot> {
        let new = Arc::new(Slot::new(&self.cluster, key, (self.index_field)(key), revision));
        self.slots.rcu(|slots| {
            let mut slots = BTreeMap::clone(slots);
            slots.entry(key.clone()).or_insert_with(|| new.clone());
            slots
        });
        self.slots.load().get(key).cloned().unwrap_or(new)
    }

    /// Everything up to this revision is in the cache.
    pub(crate) fn delivered(&self) -> Revision {
        self.delivered.load(Ordering::Acquire)
    }

    /// Waits until everything up to `revision` is in the cache.
    ///
    /// # Errors
    /// [`CacheError::Behind`] when that takes too long.
    pub(crate) async fn wait_until(&self, revision: Revision) -> Result<(), CacheError> {
        if self.delivered() >= revision {
            return Ok(());
        }
        let reached = async {
            loop {
                let progress = self.progress.notified();
                if self.delivered() >= revision {
                    return;
                }
                progress.await;
            }
        };
        match tokio::time::timeout(CATCH_UP, reached).await {
            Ok(()) => Ok(()),
            Err(_) => Err(CacheError::Behind { asked: revision, current: self.delivered() }),
        }
    }

    /// Waits until the cache has all that the store has acknowledged to anyone; returns that revision.
    ///
    /// # Errors
    /// Those of the store, and [`CacheError::Behind`].
    pub(crate) async fn wait_newest(&self) -> Result<Revision, CacheError> {
        let newest = self.store.revision().await?;
        if self.delivered() < newest {
            // Others may have written outside this cluster's range; then only a progress report tells.
            self.store.request_progress(objects_range(&self.cluster)).await?;
            self.wait_until(newest).await?;
        }
        Ok(self.delivered())
    }
}
