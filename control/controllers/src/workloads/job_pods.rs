//! How a job sees its pods: active, leaving, succeeded, failed; and what its failure policy makes of a failure. Pure.

use crate::{
    common::{
        objects::{after, annotation, controlled_by, deleting, has_finalizer, labels, name, namespace, uid},
        pods::{finished, phase},
        selector::{is_empty, matches},
    },
    framework::{Action, Kind, Target, View},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::{Job, PodFailurePolicyRule},
    core::v1::Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;
use std::sync::Arc;

pub(super) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub(super) const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Waits between a failure and the next attempt.
const FIRST_BACKOFF: i64 = 10;
const LONGEST_BACKOFF: i64 = 600;
/// Doublings after which the longest wait is certainly reached.
const MAX_DOUBLINGS: usize = 8;

/// What the policy makes of a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts towards the limit.
    Count,
    /// It does not count.
    Ignore,
    /// Its index will not be tried again.
    FailIndex,
    /// The job ends, with this message.
    FailJob(String),
}

/// A job's pods by state.
#[derive(Debug, Default)]
pub(super) struct Pods<'a> {
    pub(super) active: Vec<&'a Arc<Pod>>,
    pub(super) leaving: Vec<&'a Arc<Pod>>,
    pub(super) succeeded: Vec<&'a Arc<Pod>>,
    pub(super) failed: Vec<&'a Arc<Pod>>,
}

/// Whether a pod is replaced only once it has really ended.
pub(super) fn replaces_only_failed(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.pod_replacement_policy.as_deref()) == Some("Failed")
}

/// Sorts the pods of a job.
pub(super) fn sort<'a>(job: &Job, view: &'a View) -> Pods<'a> {
    let mut pods = Pods::default();
    for pod in view.pods.owned_by(uid(&job.metadata)) {
        let leaving = deleting(&pod.metadata) && !finished(pod);
        if phase(pod) == "Succeeded" {
            pods.succeeded.push(pod);
        } else if phase(pod) == "Failed" || (leaving && !replaces_only_failed(job)) {
            pods.failed.push(pod);
        }
        if leaving {
            pods.leaving.push(pod);
        } else if !finished(pod) {
            pods.active.push(pod);
        }
    }
    pods
}

/// Whether a job's selector fits a pod; `None` while the job has none.
pub(super) fn selects(job: &Job, pod: &Pod) -> Option<bool> {
    let selector = job.spec.as_ref()?.selector.as_ref().filter(|selector| !is_empty(selector))?;
    Some(matches(selector, labels(&pod.metadata)))
}

/// What must change hands: pods of the job that its selector fits no more, and pods without an owner that it fits.
pub(super) fn claim(job: &Job, view: &View) -> Vec<Action> {
    let meta = &job.metadata;
    let change = |pod: &Pod, owners: Vec<OwnerReference>, tracked: bool| {
        let mut finalizers: Vec<&str> = pod.metadata.finalizers.iter().flatten().map(String::as_str).collect();
        finalizers.retain(|have| *have != TRACKING);
        finalizers.extend(tracked.then_some(TRACKING));
        let body = json!({"metadata": {"ownerReferences": owners, "finalizers": finalizers}});
        Action::patch(Target::exact(Kind::Pod, &pod.metadata), body)
    };
    let owners = |pod: &Pod| pod.metadata.owner_references.clone().unwrap_or_default();
    let foreign = view.pods.owned_by(uid(meta)).filter(|pod| selects(job, pod) == Some(false));
    let released = foreign.map(|pod| {
        let rest = owners(pod).into_iter().filter(|owner| owner.uid != uid(meta)).collect();
        change(pod, rest, false)
    });
    let strays = view.pods.orphans(namespace(meta));
    let strays = strays.filter(|pod| !deleting(&pod.metadata) && selects(job, pod) == Some(true));
    let adopted = strays.map(|pod| {
        let mut all = owners(pod);
        all.push(controlled_by(Kind::Job, meta));
        change(pod, all, true)
    });
    released.chain(adopted).collect()
}

/// Whether the job still has to take note of the pod.
pub(super) fn tracked(pod: &Pod) -> bool {
    has_finalizer(&pod.metadata, TRACKING)
}

/// The completion index of a pod.
pub(super) fn index(pod: &Pod) -> Option<i32> {
    annotation(&pod.metadata, INDEX)?.parse().ok()
}

/// How often the pod's index had failed before it.
pub(super) fn index_failures(pod: &Pod) -> i32 {
    annotation(&pod.metadata, INDEX_FAILURES).and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// What the job's policy says to a failed pod: the first rule that fits decides.
pub(super) fn verdict(job: &Job, pod: &Pod) -> Verdict {
    let policy = job.spec.as_ref().and_then(|spec| spec.pod_failure_policy.as_ref());
    let Some(policy) = policy.filter(|_| phase(pod) == "Failed") else { return Verdict::Count };
    for (at, rule) in policy.rules.iter().enumerate() {
        let Some(why) = fits(rule, pod) else { continue };
        return match rule.action.as_str() {
            "FailJob" => Verdict::FailJob(format!("{why} matching FailJob rule at index {at}")),
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

/// Why a rule fits a pod, in upstream's words.
fn fits(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let place = format!("{}/{}", namespace(&pod.metadata), name(&pod.metadata));
    let status = pod.status.as_ref()?;
    if let Some(wanted) = &rule.on_exit_codes {
        let containers =
            status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
        for container in containers {
            let code =
                container.state.as_ref().and_then(|state| state.terminated.as_ref()).map(|ended| ended.exit_code);
            let Some(code) = code.filter(|code| *code != 0) else { continue };
            if wanted.container_name.as_ref().is_some_and(|name| *name != container.name) {
                continue;
            }
            if wanted.values.contains(&code) == (wanted.operator == "In") {
                return Some(format!("Container {} for pod {place} failed with exit code {code}", container.name));
            }
        }
        return None;
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let found = rule.on_pod_conditions.iter().flatten().find(|wanted| {
        let status = wanted.status.as_deref().unwrap_or("True");
        conditions.iter().any(|condition| condition.type_ == wanted.type_ && condition.status == status)
    });
    found.map(|wanted| format!("Pod {place} has condition {}", wanted.type_))
}

fn ended_at(pod: &Pod) -> Timestamp {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let ends = containers
        .into_iter()
        .flatten()
        .filter_map(|container| container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0));
    ends.max().unwrap_or_else(|| {
        let since = pod.metadata.deletion_timestamp.as_ref().or(pod.metadata.creation_timestamp.as_ref());
        since.map_or(Timestamp::UNIX_EPOCH, |time| time.0)
    })
}

/// Until when the next attempt waits: longer with each failure since the last success.
pub(super) fn backoff(failed: &[&Arc<Pod>], succeeded: &[&Arc<Pod>]) -> Option<Timestamp> {
    let success = succeeded.iter().map(|pod| ended_at(pod)).max().unwrap_or(Timestamp::MIN);
    let failures: Vec<Timestamp> = failed.iter().map(|pod| ended_at(pod)).filter(|at| *at > success).collect();
    let last = failures.iter().max()?;
    let doublings = u32::try_from((failures.len() - 1).min(MAX_DOUBLINGS)).unwrap_or(0);
    Some(after(*last, (FIRST_BACKOFF << doublings).min(LONGEST_BACKOFF)))
}
