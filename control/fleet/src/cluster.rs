//! `Cluster`: one hosted control plane.

use crate::resource::fleet_kind;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};

fleet_kind! {
    /// One hosted control plane.
    Cluster, "clusters", ClusterSpec, ClusterStatus
}

/// What a cluster is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSpec {
    /// Kubernetes version, `major.minor`.
    #[serde(default)]
    pub version: String,
    /// The cloud that its machines, routes, load balancers and volumes come from.
    #[serde(default)]
    pub cloud: String,
    /// Address ranges; what is left out is chosen at creation and then stays.
    #[serde(default)]
    pub network: ClusterNetwork,
    /// Which parts of the control plane are run, and where it is reached.
    #[serde(default, skip_serializing_if = "ControlPlane::is_default")]
    pub control_plane: ControlPlane,
    /// Who its users are, what they may and what is written down of it; without it only its own tokens and
    /// certificates are taken, nodes and roles decide, and nothing is written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<ClusterAccess>,
}

/// Audit, authentication and authorization of a cluster, in upstream's file formats. Files that these name are keys of
/// one Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterAccess {
    /// An `AuthenticationConfiguration`: identity providers, and who may come without credentials.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub authentication: String,
    /// An `AuthorizationConfiguration`: who is asked whether one may, in order.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub authorization: String,
    /// File with the kubeconfig of the webhook that reviews tokens nobody else knows.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token_webhook: String,
    /// What is written down of requests, and where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<ClusterAudit>,
    /// Secret of the same project whose keys are the files.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub files_secret: String,
}

/// How a cluster is audited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterAudit {
    /// An audit `Policy`.
    #[serde(default)]
    pub policy: String,
    /// File with the kubeconfig of the webhook that events go to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub webhook: String,
    /// Leave out the log file of the service.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_log: bool,
    /// Days that old log files are kept; 0 keeps them as long as there are few.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub log_max_age_days: i32,
    /// Old log files that are kept; 0 is 10.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub log_max_backups: i32,
    /// Megabytes at which a log file is put aside; 0 is 100.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub log_max_size_mb: i32,
}

/// How a control plane is run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ControlPlane {
    /// Leave out the controllers: the user runs a controller manager of his own against the API. Certificate requests
    /// are signed all the same, for the keys never leave the service.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_controllers: bool,
    /// Leave out the scheduler: the user runs one of his own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_scheduler: bool,
    /// Port of the cluster's own endpoint; 0 has one chosen, which then stays.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub port: i32,
}

impl ControlPlane {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(port: &i32) -> bool {
    *port == 0
}

/// Address ranges of a cluster. They cannot change after creation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNetwork {
    /// Where pod addresses come from, a CIDR; each node takes a /24 of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod_cidr: String,
    /// Where ClusterIPs come from, a CIDR.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service_cidr: String,
}

/// Life of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub enum ClusterPhase {
    /// Accepted, nothing done.
    #[default]
    Pending,
    /// Keys, ranges and defaults are being made.
    Provisioning,
    /// The API answers.
    Ready,
    /// It cannot be made or run; the `Ready` condition says why.
    Failed,
    /// Its machines and data are being removed.
    Deleting,
}

/// What a cluster is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Where in its life it is.
    #[serde(default)]
    pub phase: ClusterPhase,
    /// `metadata.generation` that the rest speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Address of the API, `https://host:port`: any client reaches it there, whatever name it sends.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// Port of that endpoint, chosen once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub port: i32,
    /// Name by which the shared port knows the cluster (TLS server name).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub server_name: String,
    /// `sha256:` and the hash of the cluster CA's public key, for joining.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ca_hash: String,
    /// Kubernetes version that is served.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Ranges in use.
    #[serde(default)]
    pub network: ClusterNetwork,
    /// `Ready`, `EndpointListening` and, with `spec.access`, `AccessConfigured`, with reason and message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
