//! What the controllers are told.

use ipnet::Ipv4Net;
use std::time::Duration;
use timonel_cloud_core::HealthCheck;

/// Port and path of the service proxy's health on every node.
const PROXY_HEALTH_PORT: u16 = 10_256;

/// Which halves run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halves {
    /// Nodes.
    pub nodes: bool,
    /// Routes.
    pub routes: bool,
    /// Services.
    pub services: bool,
    /// Volumes.
    pub volumes: bool,
}

impl Halves {
    /// All of them.
    pub const ALL: Self = Self { nodes: true, routes: true, services: true, volumes: true };
}

/// Configuration for one cluster.
#[derive(Clone, Debug)]
pub struct CloudControllerConfig {
    /// UID of the cluster: the tag by which its objects in the cloud are found.
    pub cluster: String,
    /// Which halves run.
    pub halves: Halves,
    /// Time between two observations of the cloud while nothing happens.
    pub period: Duration,
    /// `spec.loadBalancerClass` that is ours.
    pub load_balancer_class: String,
    /// Whether Services without a class are ours too.
    pub default_class: bool,
    /// How nodes are checked for Services with `externalTrafficPolicy: Cluster`; `None` checks the first TCP port.
    pub cluster_health: Option<HealthCheck>,
    /// CSI driver name, which is the provisioner of our storage classes.
    pub driver: String,
    /// Name of the default storage class that is made if missing; empty makes neither it nor the CSIDriver.
    pub storage_class: String,
    /// Range out of which nodes without pod range get one; `None` leaves that to others.
    pub pod_ranges: Option<Ipv4Net>,
    /// Length of such a range's prefix.
    pub node_prefix: u8,
}

impl CloudControllerConfig {
    /// The usual configuration of a cluster on a cloud of that provider.
    #[must_use]
    pub fn new(cluster: &str, provider: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            halves: Halves::ALL,
            period: Duration::from_secs(if provider == "local" { 5 } else { 30 }),
            load_balancer_class: format!("timonel.io/{provider}"),
            default_class: true,
            cluster_health: Some(HealthCheck::Http { port: PROXY_HEALTH_PORT, path: "/healthz".to_owned() }),
            driver: format!("{provider}.csi.timonel.io"),
            storage_class: "standard".to_owned(),
            pod_ranges: None,
            node_prefix: 24,
        }
    }
}

/// Configuration for the fleet's Machines.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// UID of the fleet: only instances with this tag are looked at.
    pub fleet: String,
    /// Time between two observations of the cloud while nothing happens.
    pub period: Duration,
}
