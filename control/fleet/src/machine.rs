//! `Machine`: one machine of a node pool, from order to removal.

use crate::resource::fleet_kind;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};

fleet_kind! {
    /// One machine of a node pool. Its name is the node's name.
    Machine, "machines", MachineSpec, MachineStatus
}

/// What a machine is to be. Nothing of it changes after creation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineSpec {
    /// Name of the cluster, in the same project.
    pub cluster: String,
    /// UID of the cluster: the tag by which the cloud's objects are found again.
    #[serde(rename = "clusterUID")]
    pub cluster_uid: String,
    /// Name of the pool.
    pub pool: String,
    /// Instance type, in the cloud's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance_type: String,
    /// Zone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// Node image.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// What the machine reads at boot. Holds no secret: only where the cluster is and how to know it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user_data: String,
}

/// Life of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub enum MachinePhase {
    /// Wanted, not ordered.
    #[default]
    Pending,
    /// Ordered from the cloud.
    Provisioning,
    /// The instance runs, its node has not joined.
    Booting,
    /// Its node joined.
    Running,
    /// The cloud refused, for good or for long; the `Ready` condition says why.
    Failed,
    /// The instance is being removed.
    Deleting,
}

/// One address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineAddress {
    /// `InternalIP`, `ExternalIP` or `Hostname`, as a Node says it.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address.
    pub address: String,
}

/// What a machine is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineStatus {
    /// Where in its life it is.
    #[serde(default)]
    pub phase: MachinePhase,
    /// The cloud's name for the instance.
    #[serde(default, rename = "instanceID", skip_serializing_if = "String::is_empty")]
    pub instance_id: String,
    /// `spec.providerID` of its node.
    #[serde(default, rename = "providerID", skip_serializing_if = "String::is_empty")]
    pub provider_id: String,
    /// Where it is reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<MachineAddress>,
    /// UID that its join was granted for; a second join must come from the same instance.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub joined_instance: String,
    /// `Ready`, with reason and message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
