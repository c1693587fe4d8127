//! A deployment's status: counts, conditions, and whether a rollout progresses or is stuck.

use super::deployment::{Rollout, size};
use crate::{
    common::objects::{after, created, generation},
    framework::{Action, Plan},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Time,
};

/// A deadline that means there is none.
const NO_DEADLINE: i32 = i32::MAX;

fn sum<'a>(sets: impl Iterator<Item = &'a ReplicaSet>, field: impl Fn(&ReplicaSet) -> i32) -> i32 {
    sets.map(field).sum()
}

/// The status with counts and the `Available` condition; the other conditions are as they were.
pub(super) fn status_with_counts(rollout: &Rollout<'_>, now: Timestamp) -> DeploymentStatus {
    let old = rollout.deployment.status.clone().unwrap_or_default();
    let all = || rollout.all().map(|set| &**set);
    let status = |set: &ReplicaSet| set.status.clone().unwrap_or_default();
    let available = sum(all(), |set| status(set).available_replicas.unwrap_or(0));
    let total = sum(all(), size);
    let mut new = DeploymentStatus {
        observed_generation: Some(generation(&rollout.deployment.metadata)),
        replicas: Some(sum(all(), |set| status(set).replicas)),
        updated_replicas: Some(rollout.new.map_or(0, |set| status(set).replicas)),
        ready_replicas: Some(sum(all(), |set| status(set).ready_replicas.unwrap_or(0))),
        available_replicas: Some(available),
        unavailable_replicas: Some((total - available).max(0)),
        terminating_replicas: Some(sum(all(), |set| status(set).terminating_replicas.unwrap_or(0))),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    if available >= rollout.wanted() - rollout.unavailable() {
        let message = "Deployment has minimum availability.";
        set_condition(&mut new, "Available", "True", "MinimumReplicasAvailable", message, now);
    } else {
        let message = "Deployment does not have minimum availability.";
        set_condition(&mut new, "Available", "False", "MinimumReplicasUnavailable", message, now);
    }
    new
}

fn find<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
    }
}

fn set_condition(status: &mut DeploymentStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let known = find(status, kind).cloned();
    if known.as_ref().is_some_and(|known| known.status == value && known.reason.as_deref() == Some(reason)) {
        return;
    }
    let since = known.filter(|known| known.status == value).and_then(|known| known.last_transition_time);
    remove(status, kind);
    status.conditions.get_or_insert_default().push(DeploymentCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(since.unwrap_or(Time(now))),
    });
}

/// Sets the `Progressing` condition.
pub(super) fn set_progressing(status: &mut DeploymentStatus, value: &str, reason: &str, message: &str, now: Timestamp) {
    set_condition(status, "Progressing", value, reason, message, now);
}

/// Whether the status says that the rollout is done.
pub(super) fn complete(rollout: &Rollout<'_>) -> bool {
    rollout.deployment.status.as_ref().is_some_and(|status| is_complete(rollout, status))
}

fn is_complete(rollout: &Rollout<'_>, status: &DeploymentStatus) -> bool {
    let wanted = Some(rollout.wanted());
    let or_zero = |count: Option<i32>| Some(count.unwrap_or(0));
    or_zero(status.updated_replicas) == wanted
        && or_zero(status.replicas) == wanted
        && or_zero(status.available_replicas) == wanted
        && status.observed_generation.unwrap_or(0) >= generation(&rollout.deployment.metadata)
}

fn deadline(deployment: &Deployment) -> Option<i32> {
    let given = deployment.spec.as_ref()?.progress_deadline_seconds;
    given.filter(|seconds| *seconds != NO_DEADLINE)
}

/// Completes the conditions and adds the status to the plan if it changed. `estimate` says whether a rollout is under
/// way whose progress counts.
pub(super) fn finish_status(
    rollout: &Rollout<'_>,
    mut status: DeploymentStatus,
    estimate: bool,
    now: Timestamp,
    plan: &mut Plan,
) {
    match deadline(rollout.deployment) {
        None => remove(&mut status, "Progressing"),
        Some(seconds) => {
            pause_or_resume(rollout, &mut status, now);
            if estimate {
                follow_progress(rollout, &mut status, seconds, now);
                look_again_at_deadline(rollout, &status, seconds, now, plan);
            }
        }
    }
    replica_failure(rollout, &mut status, now);
    let old = normal(rollout.deployment.status.clone().unwrap_or_default());
    if normal(status.clone()) != old {
        let deployment = Deployment { status: Some(status), ..rollout.deployment.clone() };
        plan.push(Action::update_status(deployment));
    }
}

fn pause_or_resume(rollout: &Rollout<'_>, status: &mut DeploymentStatus, now: Timestamp) {
    let paused = rollout.deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
    let reason = find(status, "Progressing").and_then(|condition| condition.reason.clone()).unwrap_or_default();
    if paused && reason != "DeploymentPaused" && reason != "ProgressDeadlineExceeded" {
        set_progressing(status, "Unknown", "DeploymentPaused", "Deployment is paused", now);
    } else if !paused && reason == "DeploymentPaused" {
        set_progressing(status, "Unknown", "DeploymentResumed", "Deployment is resumed", now);
    }
}

fn named(rollout: &Rollout<'_>) -> String {
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    match rollout.new {
        Some(set) => format!("ReplicaSet \"{}\"", name(&set.metadata.name)),
        None => format!("Deployment \"{}\"", name(&rollout.deployment.metadata.name)),
    }
}

fn follow_progress(rollout: &Rollout<'_>, status: &mut DeploymentStatus, seconds: i32, now: Timestamp) {
    note_new_set(rollout, status, now);
    let known = find(status, "Progressing").cloned();
    let reason = known.as_ref().and_then(|known| known.reason.as_deref()).unwrap_or_default();
    if status.replicas == status.updated_replicas && reason == "NewReplicaSetAvailable" {
        return;
    }
    let subject = named(rollout);
    if is_complete(rollout, status) {
        let message = format!("{subject} has successfully progressed.");
        set_progressing(status, "True", "NewReplicaSetAvailable", &message, now);
    } else if progressed(rollout, status) {
        let since = known.filter(|known| known.status == "True").and_then(|known| known.last_transition_time);
        remove(status, "Progressing");
        set_progressing(status, "True", "ReplicaSetUpdated", &format!("{subject} is progressing."), now);
        if let (Some(since), Some(condition)) = (since, status.conditions.as_mut().and_then(|all| all.last_mut())) {
            condition.last_transition_time = Some(since);
        }
    } else if timed_out(known.as_ref(), seconds, now) {
        let message = format!("{subject} has timed out progressing.");
        set_progressing(status, "False", "ProgressDeadlineExceeded", &message, now);
    }
}

/// A replica set younger than what the condition tells of starts a new story.
fn note_new_set(rollout: &Rollout<'_>, status: &mut DeploymentStatus, now: Timestamp) {
    let Some(new) = rollout.new else { return };
    let name = new.metadata.name.as_deref().unwrap_or_default();
    let born = created(&new.metadata);
    match find(status, "Progressing") {
        None if born >= created(&rollout.deployment.metadata) => {
            set_progressing(
                status,
                "True",
                "NewReplicaSetCreated",
                &format!("Created new replica set \"{name}\""),
                now,
            );
        }
        None => {
            set_progressing(status, "True", "FoundNewReplicaSet", &format!("Found new replica set \"{name}\""), now)
        }
        Some(known) => {
            let ended = matches!(
                known.reason.as_deref(),
                Some("NewReplicaSetAvailable" | "ProgressDeadlineExceeded" | "ReplicaSetCreateError")
            );
            if ended && known.last_update_time.as_ref().is_some_and(|at| born > at.0) {
                set_progressing(
                    status,
                    "True",
                    "NewReplicaSetCreated",
                    &format!("Created new replica set \"{name}\""),
                    now,
                );
            }
        }
    }
}

fn progressed(rollout: &Rollout<'_>, new: &DeploymentStatus) -> bool {
    let old = rollout.deployment.status.clone().unwrap_or_default();
    let value = |count: Option<i32>| count.unwrap_or(0);
    let leftover = |status: &DeploymentStatus| value(status.replicas) - value(status.updated_replicas);
    value(new.updated_replicas) > value(old.updated_replicas)
        || leftover(new) < leftover(&old)
        || value(new.ready_replicas) > value(old.ready_replicas)
        || value(new.available_replicas) > value(old.available_replicas)
}

fn timed_out(known: Option<&DeploymentCondition>, seconds: i32, now: Timestamp) -> bool {
    let Some(known) = known else { return false };
    match known.reason.as_deref() {
        Some("NewReplicaSetAvailable") => false,
        Some("ProgressDeadlineExceeded") => true,
        _ => known.last_update_time.as_ref().is_some_and(|from| after(from.0, i64::from(seconds)) < now),
    }
}

fn look_again_at_deadline(
    rollout: &Rollout<'_>,
    status: &DeploymentStatus,
    seconds: i32,
    now: Timestamp,
    plan: &mut Plan,
) {
    let Some(condition) = find(status, "Progressing") else { return };
    if is_complete(rollout, status) || condition.reason.as_deref() == Some("ProgressDeadlineExceeded") {
        return;
    }
    if let Some(from) = &condition.last_update_time {
        plan.look_again(after(from.0, i64::from(seconds) + 1).max(after(now, 1)));
    }
}

/// Repeats a replica set's failure as the deployment's, the new one's before the old ones'.
fn replica_failure(rollout: &Rollout<'_>, status: &mut DeploymentStatus, now: Timestamp) {
    let failure = rollout.new.into_iter().chain(rollout.old.iter().copied()).find_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == "ReplicaFailure")
    });
    match failure {
        Some(found) => {
            let (reason, message) =
                (found.reason.as_deref().unwrap_or_default(), found.message.as_deref().unwrap_or_default());
            set_condition(status, "ReplicaFailure", &found.status, reason, message, now);
        }
        None => remove(status, "ReplicaFailure"),
    }
}

/// Absent counts are zeros, and no conditions are none: what a server leaves out is no difference.
fn normal(mut status: DeploymentStatus) -> DeploymentStatus {
    let counts = [
        &mut status.replicas,
        &mut status.updated_replicas,
        &mut status.ready_replicas,
        &mut status.available_replicas,
        &mut status.unavailable_replicas,
        &mut status.terminating_replicas,
    ];
    for count in counts {
        *count = Some(count.unwrap_or(0));
    }
    status.conditions.get_or_insert_default();
    status
}
