//! The fleet's own kinds, group `timonel.io/v1`: `Cluster`, `NodePool`, `Machine`, `Operation`.
//!
//! Owns their types and the tables from which the API server serves them. Decides nothing and does no I/O:
//! the service, the cloud-controller and the command line all speak of the fleet in these words.

mod cluster;
mod join;
mod machine;
mod operation;
mod pool;
mod resource;

pub use cluster::{Cluster, ClusterNetwork, ClusterPhase, ClusterSpec, ClusterStatus};
pub use join::{JOIN_PATH, JoinAnswer, JoinRequest, NodeSettings, TUNNEL_ALPN};
pub use machine::{Machine, MachineAddress, MachinePhase, MachineSpec, MachineStatus};
pub use operation::{Operation, OperationPhase, OperationSpec, OperationStatus, OperationTarget, Step, StepPhase};
pub use pool::{NodePool, NodePoolSpec, NodePoolStatus, NodeTaint};
pub use resource::{GROUP, VERSION};

/// Rows that add the fleet's kinds to the API server's tables, in the columns of `control/api/tables`.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// As `types.tsv`.
    pub types: &'static str,
    /// As `fields.tsv`.
    pub fields: &'static str,
    /// As `resources.tsv`.
    pub resources: &'static str,
}

/// The fleet's tables.
pub const TABLES: Tables = Tables {
    types: include_str!("../tables/types.tsv"),
    fields: include_str!("../tables/fields.tsv"),
    resources: include_str!("../tables/resources.tsv"),
};

/// Label on everything that belongs to a cluster: the cluster's name.
pub const LABEL_CLUSTER: &str = "timonel.io/cluster";
/// Label on machines and nodes: the node pool's name.
pub const LABEL_POOL: &str = "timonel.io/node-pool";
/// Finalizer by which the service tears down what stands behind a resource before it goes.
pub const FINALIZER: &str = "timonel.io/teardown";
