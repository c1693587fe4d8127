//! The fleet's controllers: what follows from Clusters, NodePools and Machines. `plan` is pure; `run` executes.

mod endpoints;
mod operations;
mod plan;
mod ports;
mod run;
mod view;

pub use plan::{Action, Reasons, plan};
pub(crate) use run::{Fleet, Stores, run};
pub use view::{AccessFact, ClusterFacts, ClusterPorts, FleetView};
