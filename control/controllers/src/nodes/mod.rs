//! Controllers of nodes and of what happens to pods when a node is gone, unwell or not wanted.

mod eviction;
mod lifecycle;
mod pod_garbage;
mod ranges;
mod taints;

use crate::{framework::Controller, run::ControllersConfig};
use jiff::SignedDuration;

/// The controllers of this family.
pub(crate) fn controllers(config: &ControllersConfig) -> Vec<Box<dyn Controller>> {
    let grace = SignedDuration::try_from(config.node_monitor_grace).unwrap_or(SignedDuration::MAX);
    let mut all: Vec<Box<dyn Controller>> = vec![
        Box::new(lifecycle::NodeLifecycle { grace }),
        Box::new(eviction::TaintEviction),
        Box::new(pod_garbage::PodGarbage { threshold: config.terminated_pod_threshold }),
    ];
    if let Some(node_ranges) = &config.node_ranges {
        all.push(Box::new(ranges::NodeAddressRanges { ranges: node_ranges.clone() }));
    }
    all
}
