//! Whether a job has succeeded or failed, and its conditions. Pure.

use super::{
    job::{Look, Tally},
    job_indexes::parse,
};
use crate::{common::objects::after, framework::Plan};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

/// How a job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) success: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

impl Ending {
    /// The reason as an event carries it.
    pub(super) fn event_reason(&self) -> &'static str {
        const KNOWN: [&str; 5] = [
            "PodFailurePolicy",
            "BackoffLimitExceeded",
            "DeadlineExceeded",
            "MaxFailedIndexesExceeded",
            "FailedIndexes",
        ];
        KNOWN.into_iter().find(|known| *known == self.reason).unwrap_or("Failed")
    }
}

/// A condition by its type.
pub(super) fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// The condition that says that the job is over.
pub(super) fn terminal(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True")
}

/// Sets a condition; its time stays if its status does.
pub(super) fn set_condition(
    status: &mut JobStatus,
    kind: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    if condition(status, kind).is_some_and(|known| known.status == value && known.reason.as_deref() == Some(reason)) {
        return;
    }
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != kind);
    conditions.push(JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
}

/// The end that the job has been promised, or that what was seen calls for.
pub(super) fn outcome(look: &Look<'_>, status: &JobStatus, tally: &Tally, plan: &mut Plan) -> Option<Ending> {
    for (kind, success) in [("FailureTarget", false), ("SuccessCriteriaMet", true)] {
        if let Some(known) = condition(status, kind).filter(|known| known.status == "True") {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            return Some(Ending { success, reason: text(&known.reason), message: text(&known.message) });
        }
    }
    let ending = |success, reason: &str, message: &str| {
        Some(Ending { success, reason: reason.to_owned(), message: message.to_owned() })
    };
    if let Some(message) = &tally.fail_job {
        return ending(false, "PodFailurePolicy", message);
    }
    if beyond_limit(look, tally) {
        return ending(false, "BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    if let (Some(seconds), Some(start), false) =
        (look.spec.active_deadline_seconds, &status.start_time, look.spec.suspend == Some(true))
    {
        let due = after(start.0, seconds);
        if due <= look.now {
            return ending(false, "DeadlineExceeded", "Job was active longer than specified deadline");
        }
        plan.look_again(due);
    }
    if look.indexed() {
        let failed = i32::try_from(tally.failed_indexes.len()).unwrap_or(i32::MAX);
        if look.spec.max_failed_indexes.is_some_and(|limit| failed > limit) {
            return ending(
                false,
                "MaxFailedIndexesExceeded",
                "Job has exceeded the specified maximal number of failed indexes",
            );
        }
        if failed > 0 && look.spec.completions.is_some_and(|all| failed.saturating_add(tally.succeeded) >= all) {
            return ending(false, "FailedIndexes", "Job has failed indexes");
        }
        if let Some(rule) = success_rule(look, tally) {
            return ending(true, "SuccessPolicy", &format!("Matched rules at index {rule}"));
        }
    }
    complete(look, tally)
        .then(|| ending(true, "CompletionsReached", "Reached expected number of succeeded pods"))
        .flatten()
}

fn complete(look: &Look<'_>, tally: &Tally) -> bool {
    let succeeded = tally.succeeded + look.uncounted_succeeded(tally);
    match look.spec.completions {
        None => succeeded > 0 && look.pods.active.is_empty(),
        Some(completions) => succeeded >= completions && look.pods.active.is_empty(),
    }
}

fn beyond_limit(look: &Look<'_>, tally: &Tally) -> bool {
    // With a limit per index the job's own has no bound unless it is stated.
    let limit =
        look.spec.backoff_limit.unwrap_or(if look.spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 });
    if tally.failed + look.uncounted_failed(tally) > limit {
        return true;
    }
    let policy = look.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let restarts: i32 = look.pods.active.iter().map(|pod| restarts(pod)).sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

fn restarts(pod: &Pod) -> i32 {
    let Some(status) = &pod.status else { return 0 };
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    all.map(|container| container.restart_count).sum()
}

/// The first rule of the success policy that is met.
fn success_rule(look: &Look<'_>, tally: &Tally) -> Option<usize> {
    let policy = look.spec.success_policy.as_ref()?;
    policy.rules.iter().position(|rule| {
        let end = look.spec.completions.unwrap_or(i32::MAX);
        let wanted = rule.succeeded_indexes.as_deref().map(|text| parse(text, end));
        let met = tally.completed.iter().filter(|at| wanted.as_ref().is_none_or(|wanted| wanted.contains(at))).count();
        match (rule.succeeded_count, &wanted) {
            (Some(count), _) => i32::try_from(met).unwrap_or(i32::MAX) >= count,
            (None, Some(wanted)) => met == wanted.len(),
            (None, None) => false,
        }
    })
}
