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

pub use cluster::{
    Cluster, ClusterAccess, ClusterAudit, ClusterNetwork, ClusterPhase, ClusterSpec, ClusterStatus, ControlPlane,
};
pub use join::{JOIN_PATH, JoinAnswer, JoinRequest, KUBECONFIG_PATH, NodeSettings, PEER_ALPN, TUNNEL_ALPN};
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
    /// As `descriptions.tsv`.
    pub descriptions: &'static str,
}

/// The fleet's tables.
pub const TABLES: Tables = Tables {
    types: include_str!("../tables/types.tsv"),
    fields: include_str!("../tables/fields.tsv"),
    resources: include_str!("../tables/resources.tsv"),
    descriptions: include_str!("../tables/descriptions.tsv"),
};

/// Label on everything that belongs to a cluster: the cluster's name.
pub const LABEL_CLUSTER: &str = "timonel.io/cluster";
/// Label on machines and nodes: the node pool's name.
pub const LABEL_POOL: &str = "timonel.io/node-pool";
/// Finalizer by which the service tears down what stands behind a resource before it goes.
pub const FINALIZER: &str = "timonel.io/teardown";

#[cfg(test)]
mod tests {
    use super::TABLES;
    use std::collections::BTreeSet;

    /// Rows of a table by type and field; a type's version is left out.
    fn keys(text: &'static str, fields: bool) -> BTreeSet<(String, &'static str)> {
        let key = |line: &'static str| {
            let mut cells = line.split('\t');
            let ty = cells.next().unwrap_or_default().replace(".v1.", ".");
            (ty, cells.next().filter(|_| fields).unwrap_or_default())
        };
        text.lines().skip(1).map(key).collect()
    }

    #[test]
    fn every_type_and_field_is_described_but_those_that_all_kinds_have() {
        let common = ["apiVersion", "kind", "metadata", "spec", "status", "items"];
        let mut known = keys(TABLES.types, false);
        known.extend(keys(TABLES.fields, true));
        let described = keys(TABLES.descriptions, true);
        assert_eq!(described.difference(&known).next(), None, "a row for nothing");
        let kinds = keys(TABLES.types, false);
        let left = known.difference(&described).filter(|(ty, field)| {
            let list = ty.strip_suffix("List").is_some_and(|item| kinds.contains(&(item.to_owned(), "")));
            !(common.contains(field) || list && field.is_empty())
        });
        assert_eq!(left.collect::<Vec<_>>(), Vec::<&(String, &str)>::new());
        let mut lines = TABLES.descriptions.lines().skip(1);
        assert!(lines.clone().is_sorted() && lines.all(|line| line.ends_with('.') && line.is_ascii()));
    }
}
