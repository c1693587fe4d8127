//! What a service is started with, and what others plug into it.

use crate::join::IdentityVerifier;
use ipnet::IpNet;
use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, sync::Arc, time::Duration};
use timonel_apiserver::{AccessConfig, Apart};
use timonel_encryption::Encryption;
use timonel_runtime::{Clock, Entropy, Tasks};
use timonel_store::Store;

/// Everything a service is given.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// Where all clusters live.
    pub store: Arc<dyn Store>,
    /// Where objects of some resources live instead.
    pub apart: Vec<Apart>,
    /// The store serves other control machines too: one of them leads, elected with these times.
    pub election: Option<LeaderTimes>,
    /// Opens the store that this one is to move to; without it it cannot.
    pub opener: Option<Arc<dyn StoreOpener>>,
    /// How objects lie in the store; without it in clear.
    pub encryption: Option<Arc<Encryption>>,
    /// Audit, authentication and authorization of the fleet's own API.
    pub fleet_access: AccessConfig,
    /// Directory of the master key, the administrator's kubeconfig and the clusters' audit logs.
    pub data: PathBuf,
    /// Addresses of the one TLS port; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Ports from which each cluster gets one of its own, on the same addresses.
    pub cluster_ports: RangeInclusive<u16>,
    /// Ranges in which nodes without a tunnel may be dialled at the addresses that they claim: their kubelets and
    /// pods. Nothing else is ever dialled, for whoever writes Nodes and Endpoints chooses those addresses.
    pub direct_nodes: Vec<IpNet>,
    /// Loopback and link-local ranges of this machine at which clusters' webhooks, token issuers and extension API
    /// servers may be. The fleet's own, which only the operator configures, may be anywhere.
    pub local_destinations: Vec<IpNet>,
    /// `host:port` by which other control machines reach it; empty is the first address listened on that says which
    /// machine it is.
    pub peer_endpoint: String,
    /// `host:port` by which nodes reach it; empty is the first address listened on.
    pub node_endpoint: String,
    /// `host:port` that goes into kubeconfigs; empty is the first address listened on.
    pub public_endpoint: String,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub entropy: Entropy,
    /// Who checks identity documents of machines; without it none can join.
    pub verifier: Option<Arc<dyn IdentityVerifier>>,
    /// Who ties clusters to a cloud; without it clusters have no nodes of their own.
    pub cloud: Option<Arc<dyn CloudTie>>,
}

impl ServiceConfig {
    /// Ports of clusters where none are given: below those of NodePort Services and of outgoing connections.
    pub const CLUSTER_PORTS: RangeInclusive<u16> = 20_000..=29_999;
}

/// Opens another store.
#[async_trait::async_trait]
pub trait StoreOpener: Send + Sync + std::fmt::Debug + 'static {
    /// Opens the store at `address`.
    ///
    /// # Errors
    /// Why it cannot, for the operator.
    async fn open(&self, address: &str) -> Result<Arc<dyn Store>, String>;

    /// Opens what `overrides` say, each `GROUP/RESOURCE#ADDRESS`.
    ///
    /// # Errors
    /// Why it cannot, for the operator.
    async fn open_apart(&self, overrides: &[String]) -> Result<Vec<Apart>, String>;
}

/// How an elected leader keeps its place. Times must grow in the order of the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderTimes {
    /// How often it renews, and others look.
    pub renew: Duration,
    /// Without a renewal it stops by then.
    pub give_up: Duration,
    /// Without a renewal another takes over.
    pub lease: Duration,
}

impl Default for LeaderTimes {
    fn default() -> Self {
        Self { renew: Duration::from_secs(2), give_up: Duration::from_secs(6), lease: Duration::from_secs(10) }
    }
}

/// A cluster that this process serves, as a cloud sees it.
#[derive(Clone)]
pub struct HostedCluster {
    /// UID: the owner tag of everything in the cloud.
    pub uid: String,
    /// Name.
    pub name: String,
    /// Project.
    pub project: String,
    /// Range of its pods, a CIDR.
    pub pod_cidr: String,
    /// A client of its API with the rights of the cloud-controller.
    pub client: kube::Client,
    /// Ends with the cluster.
    pub tasks: Tasks,
}

impl std::fmt::Debug for HostedCluster {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "HostedCluster({}/{} {})", self.project, self.name, self.uid)
    }
}

/// The tie between clusters and their cloud.
#[async_trait::async_trait]
pub trait CloudTie: Send + Sync + std::fmt::Debug + 'static {
    /// A cluster is being served: start what it needs in its `tasks`.
    async fn attach(&self, cluster: HostedCluster);

    /// Removes everything of a cluster that goes; `Ok(false)` when something is left and it should be asked again.
    ///
    /// # Errors
    /// Why it could not; it is asked again.
    async fn release(&self, cluster_uid: &str) -> Result<bool, String>;
}
