//! `Operation`: a long action, step by step, that anybody may watch.

use crate::resource::fleet_kind;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

fleet_kind! {
    /// A long action with its steps, progress and errors.
    Operation, "operations", OperationSpec, OperationStatus
}

/// What is being done, to what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationSpec {
    /// `CreateCluster`, `DeleteCluster`, `ScaleNodePool`.
    pub action: String,
    /// The resource it acts on.
    pub target: OperationTarget,
}

/// The resource an operation acts on, in the same project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationTarget {
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// UID, so that a later resource of the same name is not mistaken for it.
    pub uid: String,
}

/// Life of an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub enum OperationPhase {
    /// Not begun.
    #[default]
    Pending,
    /// Under way.
    Running,
    /// Done.
    Succeeded,
    /// Ended without its goal; a step says why.
    Failed,
}

/// Life of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub enum StepPhase {
    /// Not begun.
    #[default]
    Pending,
    /// Under way.
    Running,
    /// Done.
    Succeeded,
    /// Given up.
    Failed,
}

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// What it does, in a few words.
    pub name: String,
    /// How far it is.
    #[serde(default)]
    pub phase: StepPhase,
    /// What it waits for, or why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationStatus {
    /// How far the whole is.
    #[serde(default)]
    pub phase: OperationPhase,
    /// Its steps, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
}
