//! The controllers' metrics, under upstream's names: one work queue for each controller.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use std::time::Duration;
use timonel_runtime::Registry;

/// Upper bounds of the buckets, in seconds (upstream's, of those that an attempt can reach).
const BUCKETS: [f64; 8] = [0.000_01, 0.000_1, 0.001, 0.01, 0.1, 1.0, 10.0, 100.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    name: &'static str,
}

/// Metrics of one cluster's controllers; clones are the same ones, so that they outlive a restart of the controllers.
#[derive(Clone, Debug)]
pub struct Metrics {
    adds: Family<Name, Counter>,
    depth: Family<Name, Gauge>,
    retries: Family<Name, Counter>,
    work: Family<Name, Histogram, fn() -> Histogram>,
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

impl Default for Metrics {
    /// Registered nowhere.
    fn default() -> Self {
        Self {
            adds: Family::default(),
            depth: Family::default(),
            retries: Family::default(),
            work: Family::new_with_constructor(histogram),
        }
    }
}

impl Metrics {
    /// New ones, told by `registry`.
    #[must_use]
    pub fn register(registry: &Registry) -> Self {
        let new = Self::default();
        registry.register("workqueue_adds", "Keys that were queued", new.adds.clone());
        registry.register("workqueue_depth", "Keys that wait", new.depth.clone());
        registry.register("workqueue_retries", "Keys that were queued again after a failure", new.retries.clone());
        registry.register(
            "workqueue_work_duration_seconds",
            "Seconds that carrying out what was planned for a key took",
            new.work.clone(),
        );
        new
    }

    /// Those of one controller.
    pub(crate) fn of(&self, name: &'static str) -> QueueMetrics {
        let name = Name { name };
        QueueMetrics {
            adds: self.adds.get_or_create_owned(&name),
            depth: self.depth.get_or_create_owned(&name),
            retries: self.retries.get_or_create_owned(&name),
            work: self.work.get_or_create_owned(&name),
        }
    }
}

/// Metrics of one controller's keys.
#[derive(Clone, Debug)]
pub(crate) struct QueueMetrics {
    pub(crate) adds: Counter,
    pub(crate) depth: Gauge,
    pub(crate) retries: Counter,
    work: Histogram,
}

impl QueueMetrics {
    /// An attempt took so long.
    pub(crate) fn worked(&self, took: Duration) {
        self.work.observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_told_under_upstreams_names() {
        let registry = Registry::default();
        let metrics = Metrics::register(&registry);
        let queue = metrics.of("job");
        queue.adds.inc();
        queue.depth.inc();
        queue.retries.inc();
        queue.worked(Duration::from_millis(3));
        let families = timonel_runtime::parse_metrics(&registry.text()).unwrap();
        let names: Vec<_> = families.iter().map(|family| family.name.as_str()).collect();
        let expected =
            ["workqueue_adds_total", "workqueue_depth", "workqueue_retries_total", "workqueue_work_duration_seconds"];
        assert_eq!(names, expected);
        assert!(families.iter().all(|family| family.samples[0].labels[0].1 == "job"));
    }
}
