//! The shell around the decisions of `timonel-cloud-core`: watches, observes, executes.
//!
//! Owns the halves that tie a cluster to its cloud (nodes, routes, services, volumes) and the one that ties the fleet's
//! Machines to instances. Decides nothing itself, and works against any Kubernetes API server.

mod cluster;
mod config;
mod events;
mod execute;
#[cfg(test)]
mod fake_api;
mod fleet;
mod retries;
mod watch;

pub use cluster::run;
pub use config::{CloudControllerConfig, FleetConfig, Halves};
pub use fleet::run_machines;
