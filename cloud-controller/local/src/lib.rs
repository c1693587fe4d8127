//! The built-in cloud: machines as network-namespace hosts on this machine, with routes, load balancers, volumes and
//! an instance metadata service.
//!
//! Owns everything under its data directory, its name prefix and its address ranges, and nothing else: several of them
//! live side by side. Machines outlive this process and are taken up again by the next. Needs root and Linux.

mod cgroup;
mod cloud;
mod command;
mod config;
mod edge;
mod error;
mod health;
mod identity;
mod imds;
mod local;
mod machine;
mod namespace;
mod network;
mod process;
mod records;
mod rules;
mod volume;

pub use config::{HealthSettings, LocalConfig, LocalPlace};
pub use error::LocalError;
pub use identity::{IdentityDocument, IdentityError, verify_identity};
pub use local::LocalCloud;
