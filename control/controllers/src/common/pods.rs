//! What controllers ask of a pod.

use super::objects::{after, created, deleting};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use std::cmp::Ordering;

/// The phase, or nothing.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether its containers ended for good.
pub(crate) fn finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether it runs or may still run.
pub(crate) fn active(pod: &Pod) -> bool {
    !finished(pod) && !deleting(&pod.metadata)
}

/// Whether its deletion was requested while it was still running.
pub(crate) fn terminating(pod: &Pod) -> bool {
    !finished(pod) && deleting(&pod.metadata)
}

/// A condition by its type.
pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// Whether it is ready.
pub(crate) fn ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Since when it is ready.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let condition = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    condition.last_transition_time.as_ref().map(|time| time.0)
}

/// When it will have been ready for `min_seconds`, if it stays so; none when it is not ready.
pub(crate) fn available_at(pod: &Pod, min_seconds: i32) -> Option<Timestamp> {
    if !ready(pod) {
        return None;
    }
    if min_seconds == 0 {
        return Some(Timestamp::MIN);
    }
    ready_since(pod).map(|since| after(since, i64::from(min_seconds)))
}

/// Whether it has been ready for `min_seconds`.
pub(crate) fn available(pod: &Pod, min_seconds: i32, now: Timestamp) -> bool {
    available_at(pod, min_seconds).is_some_and(|at| at <= now)
}

/// The node it is bound to, or nothing.
pub(crate) fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// The most restarts of any of its containers.
pub(crate) fn restarts(pod: &Pod) -> i32 {
    let Some(status) = &pod.status else { return 0 };
    let regular = status.container_statuses.iter().flatten();
    regular.chain(status.init_container_statuses.iter().flatten()).map(|status| status.restart_count).max().unwrap_or(0)
}

/// The annotation that says how dear a pod is to its users when some must go.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

fn deletion_cost(pod: &Pod) -> i32 {
    super::objects::annotation(&pod.metadata, DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

fn phase_rank(pod: &Pod) -> u8 {
    match phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    }
}

/// Which pod goes first when some must go: unbound, pending, not ready, cheap, crowded, young, restarted ones.
/// `crowd` says how many related pods share a pod's node.
pub(crate) fn deletion_order(a: &Pod, b: &Pod, crowd: impl Fn(&Pod) -> usize) -> Ordering {
    let bound = |pod: &Pod| !node(pod).is_empty();
    bound(a)
        .cmp(&bound(b))
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| ready(a).cmp(&ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| crowd(b).cmp(&crowd(a)))
        .then_with(|| ready_since(b).cmp(&ready_since(a)))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| created(&b.metadata).cmp(&created(&a.metadata)))
        .then_with(|| a.metadata.name.cmp(&b.metadata.name))
}
