//! Three etcd members, killed, stopped and cut off at random; two clients, as two control machines would be. What was
//! acknowledged is there, every answer fits one order of all calls, watches tell each change once and in order, and
//! no interruption lasts.
//!
//! `TIMONEL_FAULT_RUNS` runs with seeds from `TIMONEL_FAULT_SEED` on, `TIMONEL_FAULT_SECONDS` each; no interruption may
//! be longer than `TIMONEL_FAULT_GAP_MS`.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod cluster;

use bytes::Bytes;
use cluster::{Cluster, MEMBERS, Way};
use futures::{StreamExt, future::join_all};
use parking_lot::Mutex;
use rustix::process::Signal;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use timonel_faults::{Call, Kind, State, check};
use timonel_runtime::{Entropy, Tasks};
use timonel_store::{
    Compare, EtcdStore, Event, EventKind, KeyRange, Op, RangeRequest, Revision, Store, StoreError, Txn, TxnResult,
};
use tokio::time::{Instant, sleep, timeout};

const KEYS: u64 = 12;
const CLIENTS_PER_STORE: u64 = 4;
/// Time for a cluster to start, and to be whole again at the end of a run.
const PATIENCE: Duration = Duration::from_secs(60);
/// Without `TIMONEL_FAULT_GAP_MS`: a busy machine starts and schedules slowly.
const GAP_MS: u64 = 12_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// What all clients of a run share.
struct Run {
    start: Instant,
    values: AtomicU64,
    calls: Mutex<BTreeMap<u64, Vec<Call>>>,
    /// Revision and value of every acknowledged change, by key.
    acknowledged: Mutex<Vec<(Revision, u64, State)>>,
    unknown: AtomicU64,
}

/// When reads and writes of one store were answered, for the longest time without.
#[derive(Default)]
struct Answers {
    last: Mutex<[u64; 2]>,
    longest: Mutex<[u64; 2]>,
}

impl Answers {
    fn answered(&self, kind: usize, now: u64) {
        let (mut last, mut longest) = (self.last.lock(), self.longest.lock());
        longest[kind] = longest[kind].max(now.saturating_sub(last[kind]));
        last[kind] = last[kind].max(now);
    }
}

impl Run {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap()
    }

    fn record(&self, key: u64, start: u64, end: Option<u64>, kind: Kind) {
        self.calls.lock().entry(key).or_default().push(Call { start, end, kind });
    }
}

fn name(key: u64) -> Bytes {
    format!("k/{key:02}").into()
}

fn text(value: u64) -> Bytes {
    value.to_string().into()
}

fn value(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).unwrap().parse().unwrap()
}

/// Reads and changes keys until `end`.
async fn client(run: &Run, store: &EtcdStore, answers: &Answers, entropy: Entropy, end: Instant) {
    let mut known: BTreeMap<u64, (State, Revision)> = BTreeMap::new();
    while Instant::now() < end {
        let key = entropy.below(KEYS);
        let start = run.now();
        match entropy.below(10) {
            0..4 => {
                if let Some(found) = read(run, store, key, start).await {
                    answers.answered(0, run.now());
                    known.insert(key, found);
                }
            }
            4 => {
                let new = run.values.fetch_add(1, Ordering::Relaxed);
                let then = vec![Op::Put { key: name(key), value: text(new), lease: None }];
                let outcome = store.txn(Txn { then, ..Txn::default() }).await;
                written(run, answers, (key, start), Some(new), outcome, |_| Kind::Put(new));
            }
            choice => {
                let Some((expect, base)) = known.remove(&key) else { continue };
                let new = (choice < 9 || expect.is_none()).then(|| run.values.fetch_add(1, Ordering::Relaxed));
                let op = match new {
                    Some(new) => Op::Put { key: name(key), value: text(new), lease: None },
                    None => Op::Delete(name(key)),
                };
                let compare = vec![Compare::ModRevision(name(key), base)];
                let outcome = store.txn(Txn { compare, then: vec![op], ..Txn::default() }).await;
                written(run, answers, (key, start), new, outcome, |held| Kind::Swap { expect, new, held });
            }
        }
        sleep(Duration::from_micros(entropy.below(8_000))).await;
    }
}

async fn read(run: &Run, store: &EtcdStore, key: u64, start: u64) -> Option<(State, Revision)> {
    let request = RangeRequest { range: KeyRange::key(name(key)), revision: None, limit: 1 };
    let found = store.range(request).await.ok()?.items.pop();
    let state = found.as_ref().map(|found| value(&found.value));
    run.record(key, start, Some(run.now()), Kind::Read(state));
    Some((state, found.map_or(0, |found| found.mod_revision)))
}

fn written(
    run: &Run,
    answers: &Answers,
    (key, start): (u64, u64),
    new: State,
    outcome: Result<TxnResult, StoreError>,
    kind: impl Fn(Option<bool>) -> Kind,
) {
    match outcome {
        Ok(result) => {
            run.record(key, start, Some(run.now()), kind(Some(result.succeeded)));
            answers.answered(1, run.now());
            if result.succeeded && result.changed() {
                run.acknowledged.lock().push((result.revision, key, new));
            }
        }
        Err(StoreError::Unavailable(_)) => {
            run.unknown.fetch_add(1, Ordering::Relaxed);
            run.record(key, start, None, kind(None));
        }
        Err(other) => panic!("{other}"),
    }
}

/// Hurts one member after the other until `end`, and leaves all of them well.
async fn faults(cluster: &mut Cluster, entropy: &Entropy, end: Instant) -> Vec<String> {
    let mut told = Vec::new();
    let some = |low: u64, high: u64| Duration::from_millis(low + entropy.below(high - low));
    while Instant::now() < end {
        let member = entropy.below(MEMBERS as u64) as usize;
        let (fault, time) = (entropy.below(5), some(200, 2_200));
        told.push(format!("{member}:{fault}:{}ms", time.as_millis()));
        match fault {
            0 | 1 => {
                cluster.kill(member);
                sleep(time / 2).await;
                cluster.restart(member);
            }
            2 => {
                cluster.signal(member, Signal::STOP);
                sleep(time).await;
                cluster.signal(member, Signal::CONT);
            }
            3 => {
                cluster.relay(member, Way::Held);
                sleep(time).await;
                cluster.relay(member, Way::Open);
            }
            _ => {
                cluster.relay(member, Way::Cut);
                sleep(time / 2).await;
                cluster.relay(member, Way::Open);
            }
        }
        // The quorum must be whole again before the next member is hurt.
        sleep(some(700, 1_500)).await;
    }
    told
}

/// Everything a watch told, until its `revision`.
async fn watched(mut stream: timonel_store::WatchStream, until: impl Future<Output = Revision>) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    tokio::pin!(until);
    let (mut end, mut at) = (None, 0);
    while end.is_none_or(|end| at < end) {
        tokio::select! {
            batch = stream.next() => {
                let batch = batch.unwrap().expect("a watch outlives its member");
                assert!(batch.revision >= at);
                at = batch.revision;
                events.extend(batch.events);
            }
            revision = &mut until, if end.is_none() => end = Some(revision),
        }
    }
    events
}

fn check_watch(events: &[Event], run: &Run, last: &BTreeMap<u64, State>) {
    assert!(events.is_sorted_by(|a, b| a.current.mod_revision < b.current.mod_revision), "once and in order");
    let told: BTreeMap<Revision, (Bytes, State)> = events
        .iter()
        .map(|event| {
            let new = (event.kind == EventKind::Put).then(|| value(&event.current.value));
            (event.current.mod_revision, (event.current.key.clone(), new))
        })
        .collect();
    for (revision, key, new) in run.acknowledged.lock().iter() {
        assert_eq!(told.get(revision), Some(&(name(*key), *new)), "acknowledged at {revision}");
    }
    let mut state: BTreeMap<Bytes, State> = BTreeMap::new();
    for (key, new) in told.into_values() {
        state.insert(key, new);
    }
    for (key, found) in last {
        assert_eq!(state.get(&name(*key)).copied().flatten(), *found, "last state of {key}");
    }
}

async fn one_run(seed: u64, seconds: u64, gap_ms: u64) {
    let tasks = Tasks::root("faults");
    let entropy = Entropy::seeded(seed);
    let mut cluster = Cluster::start(&tasks).await;
    let mut stores = Vec::new();
    for at in 0..2 {
        let open = async {
            loop {
                let config = cluster.config(at, Entropy::seeded(seed * 100 + at as u64));
                match EtcdStore::open(config, &tasks).await {
                    Ok(store) => break store,
                    Err(_) => sleep(Duration::from_millis(100)).await,
                }
            }
        };
        stores.push(timeout(PATIENCE, open).await.expect("three members start"));
    }
    let run = Run {
        start: Instant::now(),
        values: AtomicU64::new(1),
        calls: Mutex::default(),
        acknowledged: Mutex::default(),
        unknown: AtomicU64::new(0),
    };
    let answers = [Answers::default(), Answers::default()];
    let from = stores[0].revision().await.unwrap() + 1;
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut watches = Vec::new();
    let (ended, at_end) = tokio::sync::watch::channel(0);
    for store in &stores {
        let stream = store.watch(KeyRange::all(), from).await.unwrap();
        let mut at_end = at_end.clone();
        watches.push(watched(stream, async move { *at_end.wait_for(|revision| *revision > 0).await.unwrap() }));
    }
    let mut clients = Vec::new();
    for (at, store) in stores.iter().enumerate() {
        for client_at in 0..CLIENTS_PER_STORE {
            let own = Entropy::seeded(seed * 1000 + at as u64 * 100 + client_at);
            clients.push(client(&run, store, &answers[at], own, end));
        }
    }
    let work = async {
        let (told, _) = tokio::join!(faults(&mut cluster, &entropy, end), join_all(clients));
        let mut last = BTreeMap::new();
        for key in 0..KEYS {
            let (state, _) = read(&run, &stores[0], key, run.now()).await.expect("all members are well again");
            last.insert(key, state);
        }
        let newest = stores[1].revision().await.unwrap();
        for store in &stores {
            store.request_progress(KeyRange::all()).await.unwrap();
        }
        ended.send_replace(newest);
        (told, last)
    };
    let whole = async { tokio::join!(work, join_all(watches)) };
    let limit = Duration::from_secs(seconds) + PATIENCE;
    let ((told, last), events) = timeout(limit, whole).await.unwrap_or_else(|_| panic!("seed {seed}: it hangs"));
    for events in &events {
        check_watch(events, &run, &last);
    }
    let mut calls = 0;
    for (key, history) in run.calls.lock().iter() {
        calls += history.len();
        if let Err(call) = check(history) {
            panic!("seed {seed}: key {key}: nothing explains {call:?}; faults {told:?}");
        }
    }
    let longest: Vec<_> = answers.iter().map(|answers| answers.longest.lock().map(|micros| micros / 1000)).collect();
    println!(
        "seed {seed}: {calls} calls, {} changes, {} unknown; longest without a read, a write: {longest:?} ms; faults {}",
        events[0].len(),
        run.unknown.load(Ordering::Relaxed),
        told.join(" ")
    );
    assert!(calls > 20 * seconds as usize, "seed {seed}: {calls} calls");
    assert!(longest.iter().flatten().all(|gap| *gap < gap_ms), "seed {seed}: interrupted for {longest:?} ms");
    tasks.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_may_fail_one_at_a_time() {
    let (runs, seed) = (setting("TIMONEL_FAULT_RUNS", 1), setting("TIMONEL_FAULT_SEED", 1));
    for seed in seed..seed + runs {
        one_run(seed, setting("TIMONEL_FAULT_SECONDS", 6), setting("TIMONEL_FAULT_GAP_MS", GAP_MS)).await;
    }
}
