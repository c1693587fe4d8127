//! The one way to the store: a compare-and-swap of one object, with what must change together with it.

use super::view::View;
use crate::{
    cache::{Cache, CacheError, Entry},
    metrics::StoreMetrics,
};
use bytes::Bytes;
use std::sync::Arc;
use timonel_api::Status;
use timonel_runtime::{remember_trace, traces_are_on};
use timonel_store::{Compare, KeyValue, Lane, LeaseId, Op, Revision, Store, StoreError, Txn};
use tracing::{Instrument, Span};

/// A further key that a write changes, with its precondition.
#[derive(Clone, Debug)]
pub(crate) struct Beside {
    pub(crate) compare: Option<Compare>,
    pub(crate) op: Op,
}

impl Beside {
    fn key(&self) -> &[u8] {
        match &self.op {
            Op::Put { key, .. } | Op::Delete(key) | Op::Get(key) => key,
            Op::DeleteRange(range) => &range.start,
        }
    }
}

/// What a write did.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is stored, under this revision.
    Done(Revision),
    /// The object (or one beside it) is not what the write was based on.
    Raced,
}

/// The stores, by the cache that follows them.
#[derive(Clone, Debug)]
pub(crate) struct Committer {
    pub(crate) cache: Arc<Cache>,
    pub(crate) metrics: StoreMetrics,
}

/// One object's change.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) key: Bytes,
    /// The revision it is based on; 0 when it must not exist.
    pub(crate) based_on: Revision,
    /// The new stored bytes; `None` deletes.
    pub(crate) value: Option<Bytes>,
    pub(crate) lease: Option<LeaseId>,
    pub(crate) lane: Lane,
    pub(crate) beside: Vec<Beside>,
}

impl Committer {
    /// Commits, and waits until the cache shows it, so that whoever is answered can read what it wrote.
    pub(crate) async fn commit(&self, change: Change) -> Result<Outcome, Status> {
        let resource = self.cache.resource_of(&change.key);
        let operation = match (&change.value, change.based_on) {
            (None, _) => "delete",
            (_, 0) => "create",
            _ => "update",
        };
        let op = match change.value {
            Some(value) => Op::Put { key: change.key.clone(), value, lease: change.lease },
            None => Op::Delete(change.key.clone()),
        };
        let place = self.cache.place_of_key(&change.key).clone();
        let (beside, elsewhere): (Vec<_>, Vec<_>) =
            change.beside.into_iter().partition(|beside| Arc::ptr_eq(self.cache.place_of_key(beside.key()), &place));
        if !self.before(elsewhere).await? {
            return Ok(Outcome::Raced);
        }
        let mut txn = Txn {
            compare: vec![Compare::ModRevision(change.key, change.based_on)],
            then: vec![op],
            lane: change.lane,
            ..Txn::default()
        };
        for beside in beside {
            txn.compare.extend(beside.compare);
            txn.then.push(beside.op);
        }
        let started = tokio::time::Instant::now();
        let span = if traces_are_on() { tracing::info_span!("store", operation) } else { Span::none() };
        let result = place.store().txn(txn).instrument(span).await.map_err(store_status)?;
        if let Some(resource) = resource {
            self.metrics.wrote(operation, &resource, started.elapsed());
        }
        // A cache that is behind does not make the write undone: the answer then comes from the write itself.
        let _ = place.wait_until(result.revision).await;
        Ok(if result.succeeded { Outcome::Done(result.revision) } else { Outcome::Raced })
    }

    /// What lies in another place than the object cannot change together with it, so it changes before: usage that a
    /// quota counts too much is corrected by its controller, usage that it missed would not be. Whether it held.
    async fn before(&self, elsewhere: Vec<Beside>) -> Result<bool, Status> {
        for beside in elsewhere {
            let place = self.cache.place_of_key(beside.key()).clone();
            let txn = Txn { compare: beside.compare.into_iter().collect(), then: vec![beside.op], ..Txn::default() };
            let result = place.store().txn(txn).await.map_err(store_status)?;
            let _ = place.wait_until(result.revision).await;
            if !result.succeeded {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Stores an object of a view and returns it as readers see it; `None` when something else came first.
    pub(crate) async fn put(&self, view: &View, put: Put) -> Result<Option<Arc<Entry>>, Status> {
        let value = put.value;
        let change = Change {
            key: put.key.clone(),
            based_on: put.based_on,
            value: Some(value.clone()),
            lease: put.lease,
            lane: lane_of(view),
            beside: put.beside,
        };
        match self.commit(change).await? {
            Outcome::Raced => Ok(None),
            Outcome::Done(revision) => {
                let entry = self.written(view, put.key, value, revision)?;
                if traces_are_on() && belongs_to_traces(view) {
                    remember_trace(&Span::current(), &entry.uid());
                }
                Ok(Some(entry))
            }
        }
    }

    fn written(&self, view: &View, key: Bytes, value: Bytes, revision: Revision) -> Result<Arc<Entry>, Status> {
        match view.slot.get_key(&key) {
            Some(entry) if entry.revision == revision => Ok(entry),
            _ => view.slot.entry(&stored(key, value, revision)).map_err(Status::internal),
        }
    }
}

/// An object to store.
#[derive(Debug)]
pub(crate) struct Put {
    pub(crate) key: Bytes,
    pub(crate) based_on: Revision,
    /// As [`crate::cache::encode`] makes it.
    pub(crate) value: Bytes,
    pub(crate) lease: Option<LeaseId>,
    pub(crate) beside: Vec<Beside>,
}

/// Heartbeats and events have a lane of their own.
pub(crate) fn lane_of(view: &View) -> Lane {
    match (view.storage.storage.group.as_str(), view.storage.storage.resource.as_str()) {
        ("coordination.k8s.io", "leases") | ("", "events") => Lane::Batched,
        _ => Lane::Prompt,
    }
}

/// Whether what happens to objects of a view follows from the request that wrote them: heartbeats do not.
pub(crate) fn belongs_to_traces(view: &View) -> bool {
    lane_of(view) == Lane::Prompt && view.storage.storage.resource.as_str() != "nodes"
}

/// A stored object at a revision that is not (yet) read from the store.
pub(crate) fn stored(key: Bytes, value: Bytes, revision: Revision) -> KeyValue {
    KeyValue { key, value, create_revision: revision, mod_revision: revision, version: 1, lease: None }
}

/// What a client is told about the store's failures.
pub(crate) fn store_status(error: StoreError) -> Status {
    match error {
        StoreError::Invalid(why) => Status::request_entity_too_large(&why),
        StoreError::Compacted { .. } => super::continuation::too_old(),
        StoreError::Unavailable(why) => {
            Status::timeout(&format!("request did not complete within the allotted timeout: {why}"), 1)
        }
        StoreError::Closed | StoreError::Lagged => Status::service_unavailable("the server is shutting down"),
        StoreError::Future { newest } => too_large(0, newest),
        other => Status::internal(other),
    }
}

/// The same for the cache.
pub(crate) fn cache_status(error: CacheError) -> Status {
    match error {
        CacheError::Behind { asked, current } => too_large(asked, current),
        CacheError::Store(error) => store_status(error),
    }
}

/// 504: a revision that has not happened here.
pub(crate) fn too_large(asked: Revision, current: Revision) -> Status {
    Status::timeout(&format!("Too large resource version: {asked}, current: {current}"), 1).with_cause(
        "ResourceVersionTooLarge",
        "Too large resource version",
        "",
    )
}
