//! What the fleet's plan sees: the fleet's objects and a few facts about what runs. Plain values.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
};
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
    /// Port of its own that this process listens on for it.
    pub listening: Option<u16>,
    /// The port that could not be had at the last try, and why.
    pub refused_port: Option<(u16, String)>,
    /// The controllers run here.
    pub controllers: bool,
    /// The scheduler runs here.
    pub scheduler: bool,
    /// Whether its access is in force as wanted.
    pub access: AccessFact,
}

/// What became of the access that a cluster's spec asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessFact {
    /// It is in force; nothing may have been asked for.
    #[default]
    InForce,
    /// It was changed and not tried yet.
    Changed,
    /// It cannot be used, for this reason; what was in force before still is.
    Refused(String),
}

/// Ports from which clusters get one each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPorts {
    /// All there are.
    pub range: RangeInclusive<u16>,
    /// Those that were found taken by another program.
    pub busy: BTreeSet<u16>,
    /// Host of the endpoints, as clients are told; an IPv6 address in brackets.
    pub host: String,
}

impl Default for ClusterPorts {
    fn default() -> Self {
        Self { range: crate::ServiceConfig::CLUSTER_PORTS, busy: BTreeSet::new(), host: String::new() }
    }
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
    /// Ports of the clusters' own endpoints.
    pub ports: ClusterPorts,
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
