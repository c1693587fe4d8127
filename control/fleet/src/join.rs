//! What a machine and the service say to each other when the machine joins. Words only; `timonel-service` decides.

use serde::{Deserialize, Serialize};

/// Path on a cluster's port.
pub const JOIN_PATH: &str = "/timonel/v1/join";
/// Path on the fleet's port below which `PROJECT/NAME` is the kubeconfig of a cluster.
pub const KUBECONFIG_PATH: &str = "/timonel/v1/kubeconfig";
/// TLS application protocol of the tunnel that a node dials on the same port.
pub const TUNNEL_ALPN: &str = "timonel-tunnel/1";

/// Application protocol (ALPN) between control machines, on the fleet's port.
pub const PEER_ALPN: &str = "timonel-peer/1";

/// What a machine sends.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinRequest {
    /// The instance identity document, as the metadata service gave it.
    pub document: String,
    /// Its signature, as the metadata service gave it.
    pub signature: String,
    /// Certificate request for the node's client certificate, PEM.
    pub request: String,
}

/// What it gets.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinAnswer {
    /// The client certificate, PEM.
    pub certificate: String,
    /// The cluster's authority, PEM.
    pub authority: String,
    /// Seconds after which the node is to join again, for a fresh certificate.
    pub renew_after_seconds: u32,
    /// How the node is to be set up.
    pub node: NodeSettings,
}

/// How a node is to be set up; the cluster's side of the agent's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSettings {
    /// Its name.
    pub name: String,
    /// Labels to register with.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Taints to register with, `key=value:effect`.
    pub taints: Vec<String>,
    /// Range of the cluster's pods.
    pub pod_cidr: String,
    /// Range of the cluster's services.
    pub service_cidr: String,
    /// Address of the cluster's DNS.
    pub dns_address: String,
    /// The cluster's DNS domain.
    pub domain: String,
}
