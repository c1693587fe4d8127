//! The fleet's controllers: what follows from Clusters, NodePools and Machines. `plan` is pure; `run` executes.

mod operations;
mod plan;
mod run;
mod view;

pub use plan::{Action, Reasons, plan};
pub(crate) use run::{Fleet, run};
pub use view::{ClusterFacts, FleetView};
