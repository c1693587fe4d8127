//! Pods that wait for a node: who is next, who has to wait a while, who waits for the cluster to change. Pure.

use crate::{pod::PodInfo, reason::Reason};
use jiff::{SignedDuration, Timestamp};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// Wait after the first failure; doubled by each further one.
const FIRST_WAIT: SignedDuration = SignedDuration::from_secs(1);
/// Longest wait after a failure.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_secs(10);
/// After so long a pod is tried again whatever happened.
const GIVE_ANOTHER_CHANCE: SignedDuration = SignedDuration::from_mins(5);

/// What changed in the cluster that may let a pod in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A node came.
    NodeAdded,
    /// A node offers something else.
    NodeResources,
    /// A node's labels.
    NodeLabels,
    /// A node's taints, or whether it takes pods.
    NodeTaints,
    /// A pod left its node, or takes less.
    PodGone,
    /// A pod came to a node, or got other labels.
    PodPlaced,
    /// A claim, volume, storage class or a node's volume limit.
    Volumes,
    /// A namespace's labels.
    Namespace,
}

/// Whether a pod that was kept out for `reason` may get in after `change`.
fn helps(change: Change, reason: &Reason) -> bool {
    use Reason as R;
    match change {
        Change::NodeAdded => true,
        Change::NodeResources => matches!(reason, R::Insufficient(..) | R::TooManyPods),
        Change::NodeLabels => !matches!(reason, R::Insufficient(..) | R::TooManyPods | R::Ports | R::Taint),
        Change::NodeTaints => matches!(reason, R::Taint | R::Unschedulable | R::Spread),
        Change::PodGone => matches!(
            reason,
            R::Insufficient(..)
                | R::TooManyPods
                | R::Ports
                | R::SingleUserVolume
                | R::TooManyVolumes
                | R::Spread
                | R::AntiAffinity
                | R::OthersAntiAffinity
        ),
        Change::PodPlaced => matches!(reason, R::Affinity | R::Spread | R::OthersAntiAffinity | R::AntiAffinity),
        Change::Volumes => matches!(
            reason,
            R::VolumeMissing
                | R::VolumeAffinity
                | R::VolumeUnavailable
                | R::VolumeZone
                | R::TooManyVolumes
                | R::SingleUserVolume
        ),
        Change::Namespace => matches!(reason, R::Affinity | R::AntiAffinity | R::OthersAntiAffinity),
    }
}

/// More important first, then older.
type Rank = (Reverse<i32>, Timestamp, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be tried at the next opportunity.
    Active(Rank),
    /// To be tried at that time.
    Waiting(Timestamp),
    /// To be tried when something changes.
    Unschedulable,
    /// Not to be tried: its owner holds it back.
    Gated,
    /// Being tried or bound.
    InHand,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    state: State,
    since: Timestamp,
    failed_at: Timestamp,
    failures: u32,
    reasons: Vec<Reason>,
    number: u64,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<String, Entry>,
    active: BTreeMap<Rank, String>,
    waiting: BTreeSet<(Timestamp, String)>,
    unschedulable: BTreeSet<String>,
    numbers: u64,
}

impl Queue {
    /// Pods by state: to be tried, waiting, unschedulable, gated.
    #[must_use]
    pub fn lengths(&self) -> [usize; 4] {
        let gated = self.entries.values().filter(|entry| entry.state == State::Gated).count();
        [self.active.len(), self.waiting.len(), self.unschedulable.len(), gated]
    }

    /// Adds a pod, or follows a change of one.
    pub fn set(&mut self, pod: &Arc<PodInfo>, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(&pod.uid) else { return self.add(pod, now) };
        let changed = entry.pod.generation != pod.generation
            || entry.pod.labels != pod.labels
            || entry.pod.gates != pod.gates
            || entry.pod.generation == 0;
        let reranked = entry.pod.priority != pod.priority;
        entry.pod = Arc::clone(pod);
        let state = entry.state;
        match state {
            State::InHand => {}
            State::Gated if !pod.gates.is_empty() => {}
            State::Gated => self.activate(&pod.uid),
            State::Active(_) if reranked => self.activate(&pod.uid),
            State::Unschedulable if changed => self.wake(&pod.uid, now),
            State::Active(_) | State::Waiting(_) | State::Unschedulable => {}
        }
    }

    fn add(&mut self, pod: &Arc<PodInfo>, now: Timestamp) {
        self.numbers += 1;
        let entry = Entry {
            pod: Arc::clone(pod),
            state: State::Gated,
            since: now,
            failed_at: Timestamp::MIN,
            failures: 0,
            reasons: Vec::new(),
            number: self.numbers,
        };
        self.entries.insert(pod.uid.clone(), entry);
        if pod.gates.is_empty() {
            self.activate(&pod.uid);
        }
    }

    /// Forgets a pod.
    pub fn remove(&mut self, uid: &str) {
        self.leave(uid);
        self.entries.remove(uid);
    }

    /// Whether a pod is here, in hand included.
    #[must_use]
    pub fn contains(&self, uid: &str) -> bool {
        self.entries.contains_key(uid)
    }

    /// Takes a pod out of the list of its state.
    fn leave(&mut self, uid: &str) {
        match self.entries.get(uid).map(|entry| entry.state) {
            Some(State::Active(rank)) => drop(self.active.remove(&rank)),
            Some(State::Waiting(until)) => drop(self.waiting.remove(&(until, uid.to_owned()))),
            Some(State::Unschedulable) => drop(self.unschedulable.remove(uid)),
            Some(State::Gated | State::InHand) | None => {}
        }
    }

    fn enter(&mut self, uid: &str, state: State) {
        self.leave(uid);
        match state {
            State::Active(rank) => drop(self.active.insert(rank, uid.to_owned())),
            State::Waiting(until) => drop(self.waiting.insert((until, uid.to_owned()))),
            State::Unschedulable => drop(self.unschedulable.insert(uid.to_owned())),
            State::Gated | State::InHand => {}
        }
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.state = state;
        }
    }

    fn activate(&mut self, uid: &str) {
        let Some(entry) = self.entries.get(uid) else { return };
        let rank = (Reverse(entry.pod.priority), entry.since, entry.number);
        self.enter(uid, State::Active(rank));
    }

    /// Tries a pod again, once its wait is over.
    fn wake(&mut self, uid: &str, now: Timestamp) {
        let Some(entry) = self.entries.get(uid) else { return };
        let until = entry.failed_at.saturating_add(wait(entry.failures)).unwrap_or(Timestamp::MAX);
        if until <= now { self.activate(uid) } else { self.enter(uid, State::Waiting(until)) }
    }

    /// The next pod to try; it stays in hand until [`Self::failed`], [`Self::again`] or [`Self::remove`].
    pub fn pop(&mut self, now: Timestamp) -> Option<Arc<PodInfo>> {
        self.flush(now);
        let (_, uid) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&uid)?;
        entry.state = State::InHand;
        Some(Arc::clone(&entry.pod))
    }

    /// No node would have the pod, for these reasons.
    pub fn failed(&mut self, uid: &str, reasons: Vec<Reason>, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.failures += 1;
        entry.failed_at = now;
        entry.reasons = reasons;
        self.enter(uid, State::Unschedulable);
    }

    /// Something went wrong that has nothing to do with the pod: it is tried again after a wait.
    pub fn again(&mut self, uid: &str, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.failures += 1;
        entry.failed_at = now;
        self.wake(uid, now);
    }

    /// Wakes those pods that `change` may help.
    pub fn changed(&mut self, change: Change, now: Timestamp) {
        if self.unschedulable.is_empty() {
            return;
        }
        let helped = |uid: &&String| {
            self.entries.get(*uid).is_some_and(|entry| {
                entry.reasons.is_empty() || entry.reasons.iter().any(|reason| helps(change, reason))
            })
        };
        let wake: Vec<String> = self.unschedulable.iter().filter(helped).cloned().collect();
        for uid in wake {
            self.wake(&uid, now);
        }
    }

    fn flush(&mut self, now: Timestamp) {
        while let Some((until, uid)) = self.waiting.first().cloned() {
            if until > now {
                break;
            }
            self.activate(&uid);
        }
    }

    /// Gives pods that have been unschedulable for long another chance.
    pub fn refresh(&mut self, now: Timestamp) {
        let long = now.saturating_sub(GIVE_ANOTHER_CHANCE).unwrap_or(Timestamp::MIN);
        let old = |uid: &&String| self.entries.get(*uid).is_some_and(|entry| entry.failed_at <= long);
        let old: Vec<String> = self.unschedulable.iter().filter(old).cloned().collect();
        for uid in old {
            self.activate(&uid);
        }
    }

    /// When the next pod's wait is over; now, if one is ready.
    #[must_use]
    pub fn next_at(&self, now: Timestamp) -> Option<Timestamp> {
        if !self.active.is_empty() {
            return Some(now);
        }
        self.waiting.first().map(|(until, _)| *until)
    }
}

fn wait(failures: u32) -> SignedDuration {
    let doubled = FIRST_WAIT * 2_i32.saturating_pow(failures.saturating_sub(1).min(8));
    doubled.min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn pod(name: &str, priority: i32, gates: &[&str]) -> Arc<PodInfo> {
        let gates: Vec<_> = gates.iter().map(|gate| json!({"name": gate})).collect();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name, "generation": 1},
            "spec": {"priority": priority, "containers": [], "schedulingGates": gates}
        }))
        .unwrap();
        Arc::new(PodInfo::new(&pod))
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn next(queue: &mut Queue, seconds: i64) -> Option<String> {
        queue.pop(at(seconds)).map(|pod| pod.name.clone())
    }

    #[test]
    fn important_first_then_old_then_first_come() {
        let mut queue = Queue::default();
        for (name, priority, seconds) in [("c", 0, 2), ("a", 0, 1), ("b", 0, 1), ("vip", 9, 5)] {
            queue.set(&pod(name, priority, &[]), at(seconds));
        }
        let order: Vec<_> = std::iter::from_fn(|| next(&mut queue, 9)).collect();
        assert_eq!(order, ["vip", "a", "b", "c"]);
    }

    #[test]
    fn a_failed_pod_waits_for_a_change_that_helps_and_for_its_time() {
        let mut queue = Queue::default();
        queue.set(&pod("a", 0, &[]), at(0));
        assert_eq!(next(&mut queue, 0).unwrap(), "a");
        queue.failed("a", vec![Reason::Taint], at(0));
        queue.changed(Change::PodGone, at(100));
        assert_eq!(next(&mut queue, 100), None, "that does not help");
        queue.changed(Change::NodeTaints, at(100));
        assert_eq!(next(&mut queue, 100).unwrap(), "a");
        queue.failed("a", vec![Reason::Taint], at(100));
        queue.changed(Change::NodeTaints, at(101));
        assert_eq!((next(&mut queue, 101), queue.next_at(at(101))), (None, Some(at(102))));
        assert_eq!(next(&mut queue, 102).unwrap(), "a");
        queue.failed("a", vec![Reason::Taint], at(102));
        queue.refresh(at(102 + 299));
        assert_eq!(next(&mut queue, 401), None);
        queue.refresh(at(102 + 300));
        assert_eq!(next(&mut queue, 402).unwrap(), "a");
    }

    #[test]
    fn waits_double_up_to_a_bound() {
        let seconds: Vec<_> = (1..8).map(|failures| wait(failures).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10, 10]);
    }

    #[test]
    fn gates_hold_a_pod_back() {
        let mut queue = Queue::default();
        queue.set(&pod("a", 0, &["quota"]), at(0));
        assert_eq!((next(&mut queue, 1), queue.lengths()), (None, [0, 0, 0, 1]));
        queue.set(&pod("a", 0, &[]), at(1));
        assert_eq!(next(&mut queue, 1).unwrap(), "a");
        queue.remove("a");
        assert_eq!(queue.lengths(), [0; 4]);
    }
}
