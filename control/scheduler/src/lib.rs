//! The scheduler: gives every waiting pod a node.
//!
//! `core` and everything below it is pure: objects in, decisions out, with time and chance as arguments; its
//! state follows the cluster change by change, so that a decision never walks over all pods. `shell` watches
//! an API server, carries decisions out and reports. It knows no API server in particular.

mod actions;
mod cluster;
mod core;
mod filter;
mod metrics;
mod node;
mod pod;
mod preempt;
mod queue;
mod reason;
mod resources;
mod schedule;
mod score;
mod selector;
mod shell;
mod terms;
mod volumes;
mod watch;
#[cfg(test)]
mod world;

pub use cluster::{Cluster, NodeChange};
pub use core::{Decision, Scheduler, Update};
pub use metrics::Metrics;
pub use pod::PodInfo;
pub use preempt::{Budgets, Preemption};
pub use queue::{Change, Queue};
pub use reason::Reason;
pub use resources::Resources;
pub use shell::{Error, SchedulerConfig, run};
pub use volumes::VolumeStep;
