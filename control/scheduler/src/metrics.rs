//! The scheduler's metrics, under upstream's names.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use std::time::Duration;
use timonel_runtime::Registry;

/// Upper bounds of the buckets, in seconds (upstream's).
const BUCKETS: [f64; 15] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
/// The parts of the queue, in the order in which it tells their lengths.
const QUEUES: [&str; 4] = ["active", "backoff", "unschedulable", "gated"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    queue: &'static str,
}

/// How a decision ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    Scheduled,
    Unschedulable,
}

/// Metrics of one cluster's scheduler; clones are the same ones, so that they outlive a restart of the scheduler.
#[derive(Clone, Debug)]
pub struct Metrics {
    attempts: Family<ResultLabels, Counter>,
    durations: Family<ResultLabels, Histogram, fn() -> Histogram>,
    pending: Family<QueueLabels, Gauge>,
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

impl Default for Metrics {
    /// Registered nowhere.
    fn default() -> Self {
        let durations = Family::new_with_constructor(histogram as fn() -> Histogram);
        Self { attempts: Family::default(), durations, pending: Family::default() }
    }
}

impl Metrics {
    /// New ones, told by `registry`.
    #[must_use]
    pub fn register(registry: &Registry) -> Self {
        let new = Self::default();
        registry.register("scheduler_schedule_attempts", "Decisions by how they ended", new.attempts.clone());
        registry.register(
            "scheduler_scheduling_attempt_duration_seconds",
            "Seconds that a decision took",
            new.durations.clone(),
        );
        registry.register("scheduler_pending_pods", "Pods that wait, by what for", new.pending.clone());
        new
    }

    pub(crate) fn attempted(&self, attempt: Attempt, took: Duration) {
        let result = match attempt {
            Attempt::Scheduled => "scheduled",
            Attempt::Unschedulable => "unschedulable",
        };
        self.attempts.get_or_create(&ResultLabels { result }).inc();
        self.durations.get_or_create(&ResultLabels { result }).observe(took.as_secs_f64());
    }

    pub(crate) fn pending(&self, lengths: [usize; 4]) {
        for (queue, length) in QUEUES.into_iter().zip(lengths) {
            self.pending.get_or_create(&QueueLabels { queue }).set(i64::try_from(length).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_told_under_upstreams_names() {
        let registry = Registry::default();
        let metrics = Metrics::register(&registry);
        metrics.attempted(Attempt::Scheduled, Duration::from_millis(1));
        metrics.attempted(Attempt::Unschedulable, Duration::from_millis(1));
        metrics.pending([4, 3, 2, 1]);
        let text = registry.text();
        timonel_runtime::parse_metrics(&text).unwrap();
        for expected in [
            "scheduler_schedule_attempts_total{result=\"unschedulable\"} 1",
            "scheduler_scheduling_attempt_duration_seconds_count{result=\"scheduled\"} 1",
            "scheduler_pending_pods{queue=\"active\"} 4",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }
}
