//! The fleet's controllers: what follows from Clusters, NodePools and Machines. `plan` is pure; `run` executes.

mod operations;
mod plan;
mod view;

pub use plan::{Action, Reasons, plan};
pub use view::{ClusterFacts, FleetView};
