//! Random histories against a model that keeps everything: what each engine answers must be what the model
//! answers, restarts included.

use crate::{
    Compare, EmbeddedConfig, EmbeddedStore, Event, EventKind, KeyRange, KeyValue, Lane, LeaseId, MemoryStore, Op,
    RangeRequest, Revision, Store, StoreError, Txn, WatchStream, suite::until,
};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use tempfile::TempDir;
use timonel_runtime::Clock;

type Map = BTreeMap<Bytes, KeyValue>;

/// Every revision's whole state, and every event.
#[derive(Debug)]
struct Model {
    states: Vec<Map>,
    events: Vec<Event>,
    oldest: Revision,
    leases: BTreeSet<LeaseId>,
}

impl Model {
    fn new() -> Self {
        Self { states: vec![Map::new(), Map::new()], events: Vec::new(), oldest: 1, leases: BTreeSet::new() }
    }

    fn newest(&self) -> Revision {
        self.states.len() as u64 - 1
    }

    fn now(&self) -> &Map {
        self.states.last().unwrap()
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::ModRevision(key, revision) => {
                self.now().get(key).map_or(0, |found| found.mod_revision) == *revision
            }
            Compare::Value(key, value) => self.now().get(key).is_some_and(|found| found.value == *value),
        }
    }

    /// Whether it succeeded, unless it is refused.
    fn txn(&mut self, txn: &Txn) -> Option<bool> {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let steps = if succeeded { &txn.then } else { &txn.otherwise };
        let revision = self.newest() + 1;
        let mut state = self.now().clone();
        let mut events: Vec<Event> = Vec::new();
        for op in steps {
            let (range, value) = match op {
                Op::Put { key, value, lease } => {
                    if lease.is_some_and(|lease| !self.leases.contains(&lease)) {
                        return None;
                    }
                    (KeyRange::key(key.clone()), Some((key, value, lease)))
                }
                Op::Delete(key) => (KeyRange::key(key.clone()), None),
                Op::DeleteRange(range) => (range.clone(), None),
                Op::Get(_) => continue,
            };
            if events.iter().any(|event| range.contains(&event.current.key)) {
                return None;
            }
            match value {
                Some((key, value, lease)) => {
                    let previous = state.get(key).cloned();
                    let current = KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                        create_revision: previous.as_ref().map_or(revision, |previous| previous.create_revision),
                        mod_revision: revision,
                        version: previous.as_ref().map_or(0, |previous| previous.version) + 1,
                        lease: *lease,
                    };
                    state.insert(key.clone(), current.clone());
                    events.push(Event { kind: EventKind::Put, current, previous });
                }
                None => {
                    let gone: Vec<Bytes> = state.keys().filter(|key| range.contains(key)).cloned().collect();
                    for key in gone {
                        let previous = state.remove(&key);
                        let current = crate::evaluate::deleted(key, revision);
                        events.push(Event { kind: EventKind::Delete, current, previous });
                    }
                }
            }
        }
        if !events.is_empty() {
            self.states.push(state);
            self.events.extend(events);
        }
        Some(succeeded)
    }

    fn revoke(&mut self, lease: LeaseId) -> bool {
        let known = self.leases.remove(&lease);
        let held = self.now().values().filter(|item| item.lease == Some(lease));
        let then: Vec<Op> = held.map(|item| Op::Delete(item.key.clone())).collect();
        if known && !then.is_empty() {
            self.txn(&Txn { then, ..Txn::default() }).unwrap();
        }
        known
    }

    fn watched(&self, range: &KeyRange, from: Revision) -> Vec<Event> {
        let wanted = |event: &&Event| event.current.mod_revision >= from && range.contains(&event.current.key);
        self.events.iter().filter(wanted).cloned().collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Txn { compare: Vec<(u8, u8)>, then: Vec<Change>, otherwise: Vec<Change>, batched: bool },
    Range { from: u8, to: u8, back: Option<u64>, limit: usize },
    Watch { from: u8, to: u8, back: u64 },
    Compact { back: u64 },
    Grant,
    Revoke { lease: u64 },
    Reopen,
}

#[derive(Clone, Debug)]
enum Change {
    Put(u8, u8, Option<u64>),
    Delete(u8),
    DeleteRange(u8, u8),
    Get(u8),
}

const KEYS: u8 = 6;

fn name(key: u8) -> Bytes {
    Bytes::from(format!("/{key}"))
}

fn range(from: u8, to: u8) -> KeyRange {
    KeyRange { start: name(from), end: name(to) }
}

impl Change {
    fn op(&self) -> Op {
        match *self {
            Self::Put(key, value, lease) => {
                Op::Put { key: name(key), value: vec![value; usize::from(value)].into(), lease }
            }
            Self::Delete(key) => Op::Delete(name(key)),
            Self::DeleteRange(from, to) => Op::DeleteRange(range(from, to)),
            Self::Get(key) => Op::Get(name(key)),
        }
    }
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        6 => (0..KEYS, any::<u8>(), proptest::option::weighted(0.2, 1..4_u64)).prop_map(|(k, v, l)| Change::Put(k, v, l)),
        2 => (0..KEYS).prop_map(Change::Delete),
        1 => (0..KEYS, 0..KEYS).prop_map(|(from, to)| Change::DeleteRange(from, to)),
        1 => (0..KEYS).prop_map(Change::Get),
    ];
    proptest::collection::vec(change, 0..4)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let compare = proptest::collection::vec((0..KEYS, 0..3_u8), 0..2);
    let step = prop_oneof![
        12 => (compare, changes(), changes(), any::<bool>())
            .prop_map(|(compare, then, otherwise, batched)| Step::Txn { compare, then, otherwise, batched }),
        4 => (0..KEYS, 0..KEYS, proptest::option::of(0..8_u64), 0..4_usize)
            .prop_map(|(from, to, back, limit)| Step::Range { from, to, back, limit }),
        2 => (0..KEYS, 0..KEYS, 0..8_u64).prop_map(|(from, to, back)| Step::Watch { from, to, back }),
        2 => (0..6_u64).prop_map(|back| Step::Compact { back }),
        1 => Just(Step::Grant),
        1 => (1..4_u64).prop_map(|lease| Step::Revoke { lease }),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..50)
}

/// An engine that can be restarted.
trait Engine: Store {
    fn reopen(self) -> Self;
}

impl Engine for MemoryStore {
    fn reopen(self) -> Self {
        self
    }
}

/// A watch that is at the newest revision, with where it started.
struct Watched {
    stream: WatchStream,
    range: KeyRange,
    since: Revision,
}

struct Run<E> {
    store: Option<E>,
    model: Model,
    watches: Vec<Watched>,
}

impl<E: Engine> Run<E> {
    fn store(&self) -> &E {
        self.store.as_ref().unwrap()
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Txn { compare, then, otherwise, batched } => self.txn(compare, &then, &otherwise, batched).await,
            Step::Range { from, to, back, limit } => self.range(range(from, to), back, limit).await,
            Step::Watch { from, to, back } => self.watch(range(from, to), back).await,
            Step::Compact { back } => self.compact(back).await,
            Step::Grant => {
                let lease = self.store().grant_lease(10_000).await.unwrap();
                assert!(self.model.leases.insert(lease), "a lease's identity is new");
            }
            Step::Revoke { lease } => {
                assert_eq!(self.store().revoke_lease(lease).await.is_ok(), self.model.revoke(lease));
            }
            Step::Reopen => {
                self.check_watches().await;
                self.watches.clear();
                self.store = self.store.take().map(E::reopen);
            }
        }
        assert_eq!(self.store().revision().await.unwrap(), self.model.newest());
    }

    async fn txn(&mut self, compare: Vec<(u8, u8)>, then: &[Change], otherwise: &[Change], batched: bool) {
        let compare = compare.into_iter().map(|(key, how)| {
            let current = self.model.now().get(&name(key));
            match how {
                0 => Compare::ModRevision(name(key), 0),
                1 => Compare::ModRevision(name(key), current.map_or(0, |found| found.mod_revision)),
                _ => Compare::Value(name(key), current.map_or(Bytes::new(), |found| found.value.clone())),
            }
        });
        let txn = Txn {
            compare: compare.collect(),
            then: then.iter().map(Change::op).collect(),
            otherwise: otherwise.iter().map(Change::op).collect(),
            lane: if batched { Lane::Batched } else { Lane::Prompt },
        };
        let expected = self.model.txn(&txn);
        let answer = self.store().txn(txn).await;
        assert_eq!(answer.as_ref().ok().map(|result| result.succeeded), expected, "{answer:?}");
        if let Ok(result) = answer {
            assert_eq!(result.revision, self.model.newest());
        }
    }

    async fn range(&self, range: KeyRange, back: Option<u64>, limit: usize) {
        let revision = back.map(|back| (self.model.newest() + 1).saturating_sub(back));
        let request = RangeRequest { range: range.clone(), revision, limit };
        let answer = self.store().range(request).await;
        let at = revision.unwrap_or(self.model.newest());
        match answer {
            Err(StoreError::Compacted { oldest }) => assert!(at < oldest && oldest == self.model.oldest),
            Err(StoreError::Future { newest }) => assert!(at > newest && newest == self.model.newest()),
            Err(error) => panic!("{error}"),
            Ok(result) => {
                assert!(at >= self.model.oldest && at <= self.model.newest());
                let all: Vec<_> =
                    self.model.states[at as usize].values().filter(|item| range.contains(&item.key)).cloned().collect();
                let listed = if limit == 0 { all.len() } else { limit.min(all.len()) };
                assert_eq!((result.items, result.count), (all[..listed].to_vec(), all.len() as u64));
                assert_eq!(result.more, listed < all.len());
            }
        }
    }

    async fn watch(&mut self, range: KeyRange, back: u64) {
        let from = (self.model.newest() + 1).saturating_sub(back).max(1);
        match self.store().watch(range.clone(), from).await {
            Err(StoreError::Compacted { oldest }) => assert!(from < oldest && oldest == self.model.oldest),
            Err(error) => panic!("{error}"),
            Ok(mut stream) => {
                assert!(from >= self.model.oldest);
                let past = until(&mut stream, self.model.newest()).await;
                let mut expected = self.model.watched(&range, from);
                for event in expected.iter_mut().filter(|event| event.current.mod_revision <= self.model.oldest) {
                    event.previous = None;
                }
                assert_eq!(past, expected);
                self.watches.push(Watched { stream, range, since: self.model.newest() + 1 });
            }
        }
    }

    async fn compact(&mut self, back: u64) {
        let revision = (self.model.newest() + 1).saturating_sub(back);
        match self.store().compact(revision).await {
            Ok(()) => {
                assert!(revision > self.model.oldest && revision <= self.model.newest());
                self.model.oldest = revision;
            }
            Err(StoreError::Compacted { oldest }) => assert!(revision <= oldest && oldest == self.model.oldest),
            Err(StoreError::Future { .. }) => assert!(revision > self.model.newest()),
            Err(error) => panic!("{error}"),
        }
    }

    async fn check_watches(&mut self) {
        self.store().request_progress(KeyRange::all()).await.unwrap();
        for watched in &mut self.watches {
            let seen = until(&mut watched.stream, self.model.newest()).await;
            assert_eq!(seen, self.model.watched(&watched.range, watched.since));
            watched.since = self.model.newest() + 1;
        }
    }
}

fn check(store: impl Engine, steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut run = Run { store: Some(store), model: Model::new(), watches: Vec::new() };
        for step in steps {
            run.step(step).await;
        }
        run.check_watches().await;
        for revision in run.model.oldest..=run.model.newest() {
            run.range(KeyRange::all(), Some(run.model.newest() + 1 - revision), 0).await;
        }
    });
}

/// The embedded engine with its directory.
#[derive(Debug)]
struct OnDisk {
    store: EmbeddedStore,
    directory: TempDir,
    tail_bytes: usize,
}

impl OnDisk {
    fn open(directory: TempDir, tail_bytes: usize) -> Self {
        let batch_wait = std::time::Duration::from_millis(1);
        let config = EmbeddedConfig { tail_bytes, batch_wait, ..EmbeddedConfig::default() };
        Self { store: EmbeddedStore::open(directory.path(), config).unwrap(), directory, tail_bytes }
    }
}

impl Engine for OnDisk {
    fn reopen(self) -> Self {
        let Self { store, directory, tail_bytes } = self;
        drop(store);
        Self::open(directory, tail_bytes)
    }
}

#[async_trait::async_trait]
impl Store for OnDisk {
    async fn range(&self, request: RangeRequest) -> Result<crate::RangeResult, StoreError> {
        self.store.range(request).await
    }
    async fn txn(&self, txn: Txn) -> Result<crate::TxnResult, StoreError> {
        self.store.txn(txn).await
    }
    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, StoreError> {
        self.store.watch(range, from).await
    }
    async fn request_progress(&self, range: KeyRange) -> Result<(), StoreError> {
        self.store.request_progress(range).await
    }
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.store.revision().await
    }
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.store.compact(revision).await
    }
    async fn grant_lease(&self, ttl_seconds: u64) -> Result<LeaseId, StoreError> {
        self.store.grant_lease(ttl_seconds).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<u64, StoreError> {
        self.store.keep_alive(lease).await
    }
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke_lease(lease).await
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_memory_engine_is_the_model(steps in steps()) {
        check(MemoryStore::new(Clock::system()), steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_embedded_engine_is_the_model(steps in steps(), tail in prop_oneof![Just(0_usize), Just(2000), Just(1 << 20)]) {
        check(OnDisk::open(tempfile::tempdir().unwrap(), tail), steps);
    }
}
