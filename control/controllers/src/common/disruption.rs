//! The condition that says why a pod is taken away by the system.

use super::pods;
use crate::framework::{Action, Kind, Target};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::json;

const TARGET: &str = "DisruptionTarget";

/// Sets the condition, and the phase if one is given; nothing when the pod has it already.
pub(crate) fn mark(pod: &Pod, phase: Option<&str>, reason: &str, message: &str, now: Timestamp) -> Option<Action> {
    let marked = pods::condition(pod, TARGET).is_some_and(|condition| condition.status == "True");
    let phase = phase.filter(|_| !pods::finished(pod));
    if marked && phase.is_none() {
        return None;
    }
    let mut conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    conditions.retain(|condition| condition.type_ != TARGET);
    conditions.push(PodCondition {
        type_: TARGET.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    });
    let mut patch = json!({"status": {"conditions": conditions}});
    if let Some(phase) = phase {
        patch["status"]["phase"] = json!(phase);
    }
    Some(Action::patch_status(Target::exact(Kind::Pod, &pod.metadata), patch))
}
