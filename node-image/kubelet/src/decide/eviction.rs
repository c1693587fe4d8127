//! Which pod goes first when the node runs short of memory or disk.

use super::resources::{Qos, pod_request, qos};
use k8s_openapi::api::core::v1::Pod;

/// What the node is short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pressure {
    Memory,
    Disk,
    Pids,
}

impl Pressure {
    pub(crate) fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "ephemeral-storage",
            Self::Pids => "pids",
        }
    }
}

/// Free amounts below which pods are evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvictionThresholds {
    /// Bytes of memory that must stay available.
    pub memory_bytes: u64,
    /// Per cent of the root file system that must stay free.
    pub disk_percent: u64,
    /// Process ids that must stay free.
    pub pids: u64,
}

impl Default for EvictionThresholds {
    fn default() -> Self {
        Self { memory_bytes: 100 << 20, disk_percent: 10, pids: 256 }
    }
}

/// What is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Free {
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) disk_total: u64,
    pub(crate) pids: u64,
}

/// What the node is short of.
pub(crate) fn pressures(free: &Free, thresholds: &EvictionThresholds) -> Vec<Pressure> {
    let disk_percent = (free.disk_bytes * 100).checked_div(free.disk_total).unwrap_or(100);
    [
        (Pressure::Memory, free.memory_bytes < thresholds.memory_bytes),
        (Pressure::Disk, disk_percent < thresholds.disk_percent),
        (Pressure::Pids, free.pids < thresholds.pids),
    ]
    .into_iter()
    .filter_map(|(pressure, short)| short.then_some(pressure))
    .collect()
}

/// The pod to evict: one that uses more than it asked for, of the lowest priority, by most excess.
pub(crate) fn victim<'a>(pods: &[(&'a Pod, u64)], pressure: Pressure) -> Option<&'a Pod> {
    let rank = |pod: &Pod, usage: u64| {
        let asked = u64::try_from(pod_request(pod, pressure.resource())).unwrap_or(0);
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        (usage > asked, std::cmp::Reverse(priority), usage.saturating_sub(asked))
    };
    let candidates = pods.iter().filter(|(pod, _)| !critical(pod));
    let candidates =
        candidates.filter(|(pod, _)| pressure != Pressure::Memory || qos(pod) != Qos::Guaranteed || pods.len() == 1);
    candidates.max_by_key(|(pod, usage)| (rank(pod, *usage), pod.metadata.uid.clone())).map(|(pod, _)| *pod)
}

fn critical(pod: &Pod) -> bool {
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
    let fixed = pod.metadata.annotations.iter().flatten().any(|(key, _)| key == super::names::CONFIG_MIRROR);
    priority >= 2_000_000_000 || fixed
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, priority: i32, memory: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name},
            "spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"memory": memory}}}]},
        }))
        .expect("pod")
    }

    #[test]
    fn pressure_starts_at_the_threshold() {
        let limits = EvictionThresholds { memory_bytes: 100, disk_percent: 10, pids: 10 };
        let fine = Free { memory_bytes: 100, disk_bytes: 10, disk_total: 100, pids: 10 };
        assert!(pressures(&fine, &limits).is_empty());
        let short = Free { memory_bytes: 99, disk_bytes: 9, disk_total: 100, pids: 9 };
        assert_eq!(pressures(&short, &limits), [Pressure::Memory, Pressure::Disk, Pressure::Pids]);
        assert!(pressures(&Free { disk_total: 0, ..fine }, &limits).is_empty());
    }

    #[test]
    fn who_exceeds_goes_before_who_matters_less() {
        let (low, high, critical) = (pod("low", 0, "100"), pod("high", 10, "10"), pod("crit", 2_000_000_001, "0"));
        for (pods, expected) in [
            (vec![(&low, 50), (&high, 50)], Some("high")),
            (vec![(&low, 150), (&high, 500)], Some("low")),
            (vec![(&critical, 1000)], None),
            (vec![], None),
        ] {
            let name = victim(&pods, Pressure::Memory).and_then(|pod| pod.metadata.name.as_deref());
            assert_eq!(name, expected);
        }
    }
}
