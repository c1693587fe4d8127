//! The work queue of a cluster's controllers: keyed, without duplicates, one attempt per key at a time, with back-off
//! per key and one ordered list of deadlines. Pure: the engine tells it the time.

use super::kinds::Key;
use crate::metrics::QueueMetrics;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The first wait after a failed attempt.
const FIRST_RETRY: SignedDuration = SignedDuration::from_millis(10);
/// The longest wait after failed attempts.
const LONGEST_RETRY: SignedDuration = SignedDuration::from_secs(60);
/// Doublings after which the longest wait is certainly reached.
const MAX_DOUBLINGS: u32 = 16;

/// A controller's index and one of its keys.
pub(crate) type Item = (usize, Key);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    ready: VecDeque<Item>,
    waiting: BTreeSet<Item>,
    running: BTreeSet<Item>,
    /// Touched while running: look again when the attempt ends.
    again: BTreeSet<Item>,
    deadlines: BTreeSet<(Timestamp, Item)>,
    due: BTreeMap<Item, Timestamp>,
    failures: BTreeMap<Item, u32>,
    /// By controller; decides nothing.
    metrics: Vec<QueueMetrics>,
}

impl Queue {
    /// An empty queue that tells of itself.
    pub(crate) fn with_metrics(metrics: Vec<QueueMetrics>) -> Self {
        Self { metrics, ..Self::default() }
    }

    /// Says that `item` is worth a look.
    pub(crate) fn touch(&mut self, item: Item) {
        if self.running.contains(&item) {
            self.again.insert(item);
        } else if self.waiting.insert(item.clone()) {
            if let Some(metrics) = self.metrics.get(item.0) {
                metrics.adds.inc();
                metrics.depth.inc();
            }
            self.ready.push_back(item);
        }
    }

    /// Says that `item` is worth a look at `at`; the earliest wish counts.
    pub(crate) fn touch_at(&mut self, item: Item, at: Timestamp) {
        if let Some(known) = self.due.get(&item).copied() {
            if known <= at {
                return;
            }
            self.deadlines.remove(&(known, item.clone()));
        }
        self.due.insert(item.clone(), at);
        self.deadlines.insert((at, item));
    }

    /// The next item to attempt.
    pub(crate) fn next(&mut self) -> Option<Item> {
        let item = self.ready.pop_front()?;
        self.waiting.remove(&item);
        if let Some(metrics) = self.metrics.get(item.0) {
            metrics.depth.dec();
        }
        self.running.insert(item.clone());
        Some(item)
    }

    /// Says how an attempt ended.
    pub(crate) fn done(&mut self, item: Item, failed: bool, now: Timestamp) {
        self.running.remove(&item);
        let touched = self.again.remove(&item);
        if failed {
            if let Some(metrics) = self.metrics.get(item.0) {
                metrics.retries.inc();
            }
            let failures = self.failures.entry(item.clone()).or_default();
            *failures = failures.saturating_add(1);
            let doublings = (*failures - 1).min(MAX_DOUBLINGS);
            let wait = FIRST_RETRY.saturating_mul(1 << doublings).min(LONGEST_RETRY);
            self.touch_at(item, now.saturating_add(wait).unwrap_or(Timestamp::MAX));
        } else {
            self.failures.remove(&item);
            if touched {
                self.touch(item);
            }
        }
    }

    /// Moves items whose time has come to the front line.
    pub(crate) fn advance(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.deadlines.first()
            && *at <= now
        {
            if let Some((_, item)) = self.deadlines.pop_first() {
                self.due.remove(&item);
                self.touch(item);
            }
        }
    }

    /// When the next deadline is.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str) -> Item {
        (0, Key::new("default", name))
    }

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(milliseconds).expect("in range")
    }

    #[test]
    fn a_key_waits_once_and_runs_once() {
        let mut queue = Queue::default();
        queue.touch(item("a"));
        queue.touch(item("a"));
        assert_eq!(queue.next(), Some(item("a")));
        assert_eq!(queue.next(), None);
        queue.touch(item("a"));
        assert_eq!(queue.next(), None, "it is running");
        queue.done(item("a"), false, at(0));
        assert_eq!(queue.next(), Some(item("a")), "touched while it ran");
    }

    #[test]
    fn failures_wait_longer_each_time_up_to_a_bound() {
        let mut queue = Queue::default();
        let mut waits = Vec::new();
        for _ in 0..20 {
            queue.touch(item("a"));
            assert!(queue.next().is_some());
            queue.done(item("a"), true, at(0));
            let due = queue.next_deadline().expect("a retry is due");
            waits.push(due.as_millisecond());
            queue.advance(due);
        }
        assert_eq!(&waits[..4], &[10, 20, 40, 80]);
        assert_eq!(waits[19], 60_000);
    }

    #[test]
    fn the_earliest_wish_counts() {
        let mut queue = Queue::default();
        queue.touch_at(item("a"), at(50));
        queue.touch_at(item("a"), at(90));
        queue.touch_at(item("a"), at(20));
        assert_eq!(queue.next_deadline(), Some(at(20)));
        queue.advance(at(20));
        assert_eq!(queue.next(), Some(item("a")));
        assert_eq!(queue.next_deadline(), None);
    }
}
