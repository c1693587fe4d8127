//! The engine for tests and simulation: everything in memory, no thread or task of its own, same answers for
//! the same calls. Time passes only in [`MemoryStore::expire_leases`].

use crate::{
    evaluate::{Load, check_bounds, evaluate},
    hub::{Chunk, Commit, History, Hub, WatchLimits, check_start},
    index::{Index, Version},
    leases::{Leases, check_ttl},
    read::{check_revision, past_event},
    types::{
        EventKind, KeyRange, LeaseId, RangeRequest, RangeResult, Revision, Store, StoreError, Txn, TxnResult,
        WatchStream,
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use std::{collections::VecDeque, sync::Arc};
use timonel_runtime::Clock;

/// Most keys of an ended lease deleted in one revision.
const LEASE_DELETE_KEYS: usize = 512;
/// Most events of one chunk of history, unless a single revision has more.
const HISTORY_CHUNK_EVENTS: usize = 1000;

/// A store in memory. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    clock: Clock,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    hub: Arc<Hub>,
}

#[derive(Debug)]
struct State {
    index: Index<Bytes>,
    leases: Leases,
    /// Revisions from `oldest` on, each.
    log: VecDeque<Arc<Commit>>,
    newest: Revision,
    oldest: Revision,
}

struct InIndex;

impl Load<Bytes> for InIndex {
    fn load(&self, version: &Version<Bytes>) -> Result<Bytes, StoreError> {
        Ok(version.value.clone())
    }
}

impl MemoryStore {
    /// An empty store; `clock` times its leases.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self::with_limits(clock, WatchLimits::default())
    }

    /// An empty store with its own bounds for watchers.
    #[must_use]
    pub fn with_limits(clock: Clock, limits: WatchLimits) -> Self {
        let state = State {
            index: Index::default(),
            leases: Leases::default(),
            log: VecDeque::new(),
            newest: FIRST_REVISION,
            oldest: FIRST_REVISION,
        };
        let hub = Arc::new(Hub::new(FIRST_REVISION, limits));
        Self { shared: Arc::new(Shared { state: Mutex::new(state), hub }), clock }
    }

    /// Ends every lease whose time is over at `now` and deletes its keys.
    ///
    /// # Errors
    /// None that a store in memory has met; the type is that of every write.
    pub fn expire_leases(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock();
        while let Some(lease) = state.leases.ended(now) {
            self.end_lease(&mut state, lease)?;
        }
        Ok(())
    }

    fn end_lease(&self, state: &mut State, lease: LeaseId) -> Result<(), StoreError> {
        while let Some(txn) = state.leases.deletion(lease, LEASE_DELETE_KEYS) {
            self.commit(state, &txn)?;
        }
        if state.leases.remove(lease) { Ok(()) } else { Err(StoreError::NoLease) }
    }

    fn commit(&self, state: &mut State, txn: &Txn) -> Result<TxnResult, StoreError> {
        let outcome = evaluate(&state.index, &state.leases, &InIndex, state.newest, txn)?;
        if outcome.changes.is_empty() {
            return Ok(outcome.result);
        }
        state.newest = outcome.result.revision;
        for (place, change) in outcome.changes.iter().enumerate() {
            let current = &change.event.current;
            state.index.push(&current.key, change.version(place, current.value.clone()));
            state.leases.follow(&change.event);
        }
        let commit = Arc::new(Commit { revision: state.newest, changes: outcome.changes });
        state.log.push_back(Arc::clone(&commit));
        self.shared.hub.publish(&[commit]);
        Ok(outcome.result)
    }
}

impl State {
    /// Forgets every version that no reader at `oldest` or later can see.
    fn compact(&mut self, oldest: Revision) {
        let (log, index) = (&mut self.log, &mut self.index);
        for commit in log.iter().take_while(|commit| commit.revision <= oldest) {
            for (place, change) in commit.changes.iter().enumerate() {
                let key = &change.event.current.key;
                if let Some(replaced) = change.replaces {
                    index.remove(key, replaced);
                }
                if change.event.kind == EventKind::Delete && commit.revision < oldest {
                    index.remove(key, change.version(place, ()).position());
                }
            }
        }
        while log.front().is_some_and(|commit| commit.revision < oldest) {
            log.pop_front();
        }
        self.oldest = oldest;
    }
}

impl History for Shared {
    fn read(&self, range: &KeyRange, from: Revision, until: Revision) -> Result<Chunk, StoreError> {
        let state = self.state.lock();
        check_start(from, state.oldest)?;
        let mut chunk = Chunk { events: Vec::new(), until };
        let start = state.log.partition_point(|commit| commit.revision < from);
        for commit in state.log.range(start..).take_while(|commit| commit.revision <= until) {
            let wanted = commit.changes.iter().filter(|change| range.contains(&change.event.current.key));
            chunk.events.extend(wanted.map(|change| past_event(change.event.clone(), state.oldest)));
            if chunk.events.len() >= HISTORY_CHUNK_EVENTS {
                chunk.until = commit.revision;
                break;
            }
        }
        Ok(chunk)
    }
}

/// The revision of an empty store.
pub(crate) const FIRST_REVISION: Revision = 1;

#[async_trait]
impl Store for MemoryStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeResult, StoreError> {
        let state = self.shared.state.lock();
        let at = check_revision(request.revision, state.oldest, state.newest)?;
        crate::read::range(&state.index, &InIndex, &request, at, state.newest)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        check_bounds(&txn)?;
        self.commit(&mut self.shared.state.lock(), &txn)
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, StoreError> {
        let state = self.shared.state.lock();
        check_start(from, state.oldest)?;
        Ok(self.shared.hub.watch(range, from, Arc::clone(&self.shared) as Arc<dyn History>))
    }

    async fn request_progress(&self, range: KeyRange) -> Result<(), StoreError> {
        self.shared.hub.request_progress(&range);
        Ok(())
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.shared.state.lock().newest)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock();
        crate::read::check_compaction(revision, state.oldest, state.newest)?;
        state.compact(revision);
        Ok(())
    }

    async fn grant_lease(&self, ttl_seconds: u64) -> Result<LeaseId, StoreError> {
        check_ttl(ttl_seconds)?;
        let leases = &mut self.shared.state.lock().leases;
        let lease = leases.next();
        leases.insert(lease, ttl_seconds, self.clock.now());
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<u64, StoreError> {
        self.shared.state.lock().leases.keep_alive(lease, self.clock.now())
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock();
        self.end_lease(&mut state, lease)
    }
}
