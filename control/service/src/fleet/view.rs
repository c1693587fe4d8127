//! What the fleet's plan sees: the fleet's objects and a few facts about what runs. Plain values.

use std::{collections::BTreeMap, sync::Arc};
use timonel_fleet::{Cluster, Machine, NodePool, Operation};

/// What is known of a cluster beyond its object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterFacts {
    /// Its API is being served by this process.
    pub serving: bool,
    /// `sha256:` hash of its authority.
    pub ca_hash: String,
    /// Why it could not be opened at the last try.
    pub failure: Option<String>,
    /// Nothing of it is left in the cloud.
    pub released: bool,
}

/// One look at the fleet. Lists are in order of project and name.
#[derive(Clone, Debug, Default)]
pub struct FleetView {
    /// Clusters.
    pub clusters: Vec<Arc<Cluster>>,
    /// Node pools.
    pub pools: Vec<Arc<NodePool>>,
    /// Machines.
    pub machines: Vec<Arc<Machine>>,
    /// Operations.
    pub operations: Vec<Arc<Operation>>,
    /// Facts by cluster UID.
    pub facts: BTreeMap<String, ClusterFacts>,
    /// `https://host:port` of the shared port, as clients are told.
    pub endpoint: String,
    /// The same as nodes are told.
    pub node_endpoint: String,
    /// Kubernetes version that is served, `v1.36.2` or so.
    pub version: String,
}

impl FleetView {
    /// Pools of a cluster.
    pub fn pools_of<'a>(&'a self, cluster: &'a Cluster) -> impl Iterator<Item = &'a Arc<NodePool>> {
        let (project, name) = (&cluster.metadata.namespace, cluster.metadata.name.as_deref().unwrap_or_default());
        self.pools.iter().filter(move |pool| pool.metadata.namespace == *project && pool.spec.cluster == name)
    }

    /// Machines of a pool.
    pub fn machines_of<'a>(&'a self, pool: &'a NodePool) -> impl Iterator<Item = &'a Arc<Machine>> {
        let uid = pool.metadata.uid.as_deref().unwrap_or_default();
        self.machines
            .iter()
            .filter(move |machine| machine.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid))
    }

    /// The cluster of a pool.
    #[must_use]
    pub fn cluster_of(&self, pool: &NodePool) -> Option<&Arc<Cluster>> {
        self.clusters.iter().find(|cluster| {
            cluster.metadata.namespace == pool.metadata.namespace
                && cluster.metadata.name.as_deref() == Some(pool.spec.cluster.as_str())
        })
    }
}
