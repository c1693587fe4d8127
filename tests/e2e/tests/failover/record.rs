//! What all clients of a run record, and what must hold of it.

use crate::watch::Watched;
use anyhow::{bail, ensure};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use timonel_faults::{Call, Kind, check};
use timonel_harness::{Door, eventually};

pub(crate) const KEYS: u64 = 10;
/// The object whose appearance ends all watches.
const END: &str = "end";

/// One run.
pub(crate) struct Run {
    pub(crate) path: String,
    start: Instant,
    values: AtomicU64,
    stopped: AtomicBool,
    calls: Mutex<BTreeMap<u64, Vec<Call>>>,
    /// Resource version, key and value of every acknowledged change that left an object.
    acknowledged: Mutex<Vec<(u64, u64, u64)>>,
    unknown: AtomicU64,
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn name(key: u64) -> String {
    format!("key-{key}")
}

/// Key, value and resource version of an object of ours; `None` for others, which controllers make.
pub(crate) fn read(object: &Value) -> Option<(u64, u64, u64)> {
    let key = object["metadata"]["name"].as_str()?.strip_prefix("key-")?.parse().ok()?;
    let value = object["data"]["value"].as_str()?.parse().ok()?;
    Some((key, value, version(object)?))
}

pub(crate) fn version(object: &Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

pub(crate) fn is_end(object: &Value) -> bool {
    object["metadata"]["name"] == END
}

impl Run {
    pub(crate) fn new(namespace: &str) -> Self {
        Self {
            path: format!("/api/v1/namespaces/{namespace}/configmaps"),
            start: Instant::now(),
            values: AtomicU64::new(1),
            stopped: AtomicBool::new(false),
            calls: Mutex::default(),
            acknowledged: Mutex::default(),
            unknown: AtomicU64::new(0),
        }
    }

    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(crate) fn value(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn goes_on(&self) -> bool {
        !self.stopped.load(Ordering::Relaxed)
    }

    pub(crate) fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    /// Records a call; without `answered` nobody knows what became of it.
    pub(crate) fn record(&self, key: u64, start: u64, answered: bool, kind: Kind) {
        self.unknown.fetch_add(u64::from(!answered), Ordering::Relaxed);
        let end = answered.then(|| self.now());
        lock(&self.calls).entry(key).or_default().push(Call { start, end, kind });
    }

    pub(crate) fn acknowledge(&self, version: u64, key: u64, value: u64) {
        lock(&self.acknowledged).push((version, key, value));
    }

    /// Everything is well again and nobody else writes: the last state is read, and watches are told to end.
    pub(crate) fn end(&self, door: &Door) -> anyhow::Result<()> {
        let start = self.now();
        let last = eventually("the last state", 60, || {
            let answer = door.open_within(Duration::from_secs(5))?.ask("GET", &self.path, "", b"")?;
            ensure!(answer.status == 200, "{}", answer.text());
            Ok(answer.json())
        })?;
        self.listed(&last, start);
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": END}}).to_string();
        eventually("the end", 60, || {
            let mut line = door.open_within(Duration::from_secs(5))?;
            let answer = line.ask("POST", &self.path, "application/json", object.as_bytes())?;
            ensure!(matches!(answer.status, 201 | 409), "{}", answer.text());
            Ok(())
        })
    }

    /// A list is a read of every key.
    pub(crate) fn listed(&self, list: &Value, start: u64) {
        let found = list["items"].as_array().into_iter().flatten().filter_map(read);
        let found: BTreeMap<u64, u64> = found.map(|(key, value, _)| (key, value)).collect();
        for key in 0..KEYS {
            self.record(key, start, true, Kind::Read(found.get(&key).copied()));
        }
    }

    /// Whether one order of all calls explains every answer; how many there were.
    pub(crate) fn check_calls(&self) -> anyhow::Result<usize> {
        let calls = lock(&self.calls);
        for (key, history) in calls.iter() {
            if let Err(call) = check(history) {
                bail!("key {key}: nothing explains {call:?}");
            }
        }
        Ok(calls.values().map(Vec::len).sum())
    }

    /// Whether a watch told every acknowledged change, once and in order, and ends with what is there.
    pub(crate) fn check_watch(&self, watched: &Watched) -> anyhow::Result<()> {
        let mut last = 0;
        let mut told = BTreeMap::new();
        for event in &watched.events {
            ensure!(event.version > last, "told {} after {last}", event.version);
            last = event.version;
            told.insert(event.version, (event.key, event.state));
        }
        for (version, key, value) in lock(&self.acknowledged).iter() {
            // Where a watch had to begin anew, only the newest of some changes is told.
            let skipped = watched.skipped.iter().any(|(from, to)| version > from && version <= to);
            let found = told.get(version) == Some(&(*key, Some(*value)));
            ensure!(found || skipped, "key {key}: value {value} of {version} was acknowledged and not told");
        }
        let calls = lock(&self.calls);
        for (key, history) in calls.iter() {
            let newest = history.iter().rev().find_map(|call| match call.kind {
                Kind::Read(state) => Some(state),
                _ => None,
            });
            let state = watched.states.get(key).copied();
            ensure!(newest == Some(state), "key {key}: {newest:?} is there, {state:?} was told last");
        }
        Ok(())
    }
}
