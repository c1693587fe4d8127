//! What keeps the cache up to date: one load and one watch of a cluster's whole range in each place.

use super::{
    place::Place,
    slot::{Slot, objects_range, resource_of},
};
use crate::config::Apart;
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::StreamExt;
use std::{collections::BTreeMap, fmt, sync::Arc, task::Waker, time::Duration};
use timonel_api::GroupResource;
use timonel_runtime::{OnError, Tasks};
use timonel_store::{KeyValue, RangeRequest, Revision, Store, StoreError, WatchBatch, WatchStream};
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
    /// The first is for everything that is not kept apart.
    places: Vec<Arc<Place>>,
    apart: BTreeMap<GroupResource, usize>,
    cluster: Bytes,
    index_field: IndexField,
    slots: ArcSwap<BTreeMap<GroupResource, Arc<Slot>>>,
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
        apart: &[Apart],
        cluster: Bytes,
        index_field: IndexField,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, CacheError> {
        let objects = objects_range(&cluster);
        let stores = [&store].into_iter().chain(apart.iter().map(|apart| &apart.store));
        let named =
            apart.iter().zip(1..).flat_map(|(apart, at)| apart.resources.iter().map(move |name| (name.clone(), at)));
        let cache = Arc::new(Self {
            places: stores.map(|store| Arc::new(Place::new(store.clone(), objects.clone()))).collect(),
            apart: named.collect(),
            cluster,
            index_field,
            slots: ArcSwap::default(),
            listeners: ArcSwap::default(),
        });
        for at in 0..cache.places.len() {
            let stream = cache.load(at).await?;
            let (fed, token) = (cache.clone(), tasks.token());
            tasks.spawn("watch-cache", OnError::EndScope, async move {
                token.run_until_cancelled(fed.feed(at, stream)).await;
                fed.slots.load().values().for_each(|slot| slot.end_watches());
                Ok::<(), CacheError>(())
            });
        }
        Ok(cache)
    }

    /// All places, the first first.
    pub(crate) fn places(&self) -> &[Arc<Place>] {
        &self.places
    }

    /// The place of a resource's objects.
    pub(crate) fn place_of(&self, resource: &GroupResource) -> &Arc<Place> {
        &self.places[self.place_at(resource)]
    }

    /// The place of a key: of what is no object the first.
    pub(crate) fn place_of_key(&self, key: &[u8]) -> &Arc<Place> {
        match self.resource_of(key) {
            Some(resource) if !self.apart.is_empty() => self.place_of(&resource),
            _ => &self.places[0],
        }
    }

    fn place_at(&self, resource: &GroupResource) -> usize {
        self.apart.get(resource).copied().unwrap_or(0)
    }

    /// Reads everything and starts to watch right after.
    async fn load(&self, at: usize) -> Result<WatchStream, CacheError> {
        let place = &self.places[at];
        let mut request = RangeRequest { range: place.objects().clone(), revision: None, limit: 0 };
        let mut found: BTreeMap<GroupResource, Vec<KeyValue>> = BTreeMap::new();
        let revision = loop {
            let page = place.store().range(request.clone()).await?;
            let revision = *request.revision.get_or_insert(page.revision);
            if let Some(last) = page.items.last() {
                request.range.start = Bytes::from([&last.key[..], &[0]].concat());
            }
            let more = page.more && !page.items.is_empty();
            for item in page.items {
                if let Some(key) = self.resource_in(at, &item.key) {
                    found.entry(key).or_default().push(item);
                }
            }
            if !more {
                break revision;
            }
        };
        let stream = place.store().watch(place.objects().clone(), revision + 1).await?;
        for key in self.slots.load().keys().filter(|key| self.place_at(key) == at) {
            found.entry(key.clone()).or_default();
        }
        for (key, items) in found {
            self.slot_at(&key, revision).reset(&items, revision);
        }
        self.listeners.load().iter().for_each(|listener| (listener.hear)());
        place.advance(revision);
        Ok(stream)
    }

    async fn feed(&self, at: usize, mut stream: WatchStream) {
        loop {
            let error = match stream.next().await {
                Some(Ok(batch)) => {
                    self.apply(at, &batch);
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
                match self.resume(at, &error).await {
                    Ok(stream) => break stream,
                    Err(CacheError::Store(StoreError::Closed)) => return,
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            };
        }
    }

    async fn resume(&self, at: usize, error: &StoreError) -> Result<WatchStream, CacheError> {
        let place = &self.places[at];
        let from = place.delivered() + 1;
        if !matches!(error, StoreError::Compacted { .. }) {
            match place.store().watch(place.objects().clone(), from).await {
                Ok(stream) => return Ok(stream),
                Err(StoreError::Compacted { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        self.load(at).await
    }

    /// The resource of a key, unless its place is another: what lies there is from before it was kept apart.
    fn resource_in(&self, at: usize, key: &[u8]) -> Option<GroupResource> {
        self.resource_of(key).filter(|resource| self.apart.is_empty() || self.place_at(resource) == at)
    }

    fn apply(&self, at: usize, batch: &WatchBatch) {
        let listeners = self.listeners.load();
        // One bit for each of the first listeners; there are a handful.
        let mut heard = 0_u64;
        let mut wakers = Vec::new();
        for part in batch.events.chunks(WAKE_AFTER) {
            for event in part {
                if let Some(key) = self.resource_in(at, &event.current.key) {
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
        self.places[at].advance(batch.revision);
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
        self.slot_at(key, self.place_of(key).delivered())
    }

    fn slot_at(&self, key: &GroupResource, revision: Revision) -> Arc<Slot> {
        let new = Arc::new(Slot::new(self.place_of(key), &self.cluster, key, (self.index_field)(key), revision));
        self.slots.rcu(|slots| {
            let mut slots = BTreeMap::clone(slots);
            slots.entry(key.clone()).or_insert_with(|| new.clone());
            slots
        });
        self.slots.load().get(key).cloned().unwrap_or(new)
    }
}
