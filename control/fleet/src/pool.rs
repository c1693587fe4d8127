//! `NodePool`: machines of one shape for one cluster.

use crate::resource::fleet_kind;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

fleet_kind! {
    /// Machines of one shape for one cluster.
    NodePool, "nodepools", NodePoolSpec, NodePoolStatus
}

/// What a pool is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodePoolSpec {
    /// Name of the cluster, in the same project.
    pub cluster: String,
    /// How many machines.
    #[serde(default)]
    pub replicas: i32,
    /// Instance type, in the cloud's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance_type: String,
    /// Zones to spread over; empty leaves it to the cloud.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// Labels of the nodes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Taints of the nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<NodeTaint>,
    /// Node image; empty is the cloud's default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
}

/// A taint that nodes register with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeTaint {
    /// Key.
    pub key: String,
    /// Value, may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// What a pool is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodePoolStatus {
    /// `metadata.generation` that the rest speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Machines there are.
    #[serde(default)]
    pub replicas: i32,
    /// Machines whose node is ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// `Ready`, with reason and message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
