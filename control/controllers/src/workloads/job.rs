//! Jobs: pods that run to their end, counted exactly once, retried within limits.
//!
//! A finished pod is first noted in the status, then loses its finalizer, then is counted; whatever fails between,
//! the next look finds where it stopped.

use super::{
    job_indexes::{format as write_indexes, parse as read_indexes},
    job_outcome::{condition, outcome, set_condition, terminal},
    job_pods::{
        INDEX, INDEX_FAILURES, Pods, TRACKING, Verdict, backoff, claim, index, index_failures, replaces_only_failed,
        selects, sort, tracked, verdict,
    },
};
use crate::{
    common::{
        objects::{deleting, name, namespace, orphan, own_or_owner_keys, set_finalizer, uid},
        pods::ready,
        template::pod_from,
    },
    framework::{Action, Change, Controller, Key, Kind, Note, Object, Plan, Target, Tone, View},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec, JobStatus, UncountedTerminatedPods},
        core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Pods created or deleted in one look, and finished pods noted in one status.
const BURST: usize = 500;

/// Name in the key of a namespace's pods that their job has let go while they were still counted.
const NOBODY: &str = "";

/// Runs jobs.
#[derive(Debug)]
pub(crate) struct Jobs;

impl Controller for Jobs {
    fn name(&self) -> &'static str {
        "job-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Job, Kind::Pod]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("Job", "status"), ("Pod", "created and deleted for a Job"), ("Pod", "metadata.finalizers[job-tracking]")]
    }

    fn keys(&self, view: &View, change: &Change, keys: &mut Vec<Key>) {
        own_or_owner_keys(change, Kind::Job, keys);
        let Some(Object::Pod(pod)) = orphan(change) else { return };
        keys.extend(suitors(view, pod).map(|job| Key::of(&job.metadata)));
        if tracked(pod) {
            keys.push(Key::new(namespace(&pod.metadata), NOBODY));
        }
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let Some(job) = view.jobs.get(key) else { return orphaned(view, key) };
        let Some(spec) = &job.spec else { return Plan::none() };
        if spec.managed_by.as_deref().is_some_and(|manager| manager != "kubernetes.io/job-controller") {
            return Plan::none();
        }
        let pods = sort(job, view);
        if deleting(&job.metadata) || terminal(job).is_some() {
            return untrack(view, job);
        }
        let changes = claim(job, view);
        if !changes.is_empty() {
            return changes.into();
        }
        Look { job, spec, pods, now }.plan()
    }
}

/// The running jobs that would take a pod without an owner.
fn suitors<'a>(view: &'a View, pod: &'a Pod) -> impl Iterator<Item = &'a Arc<Job>> {
    let jobs = view.jobs.in_namespace(namespace(&pod.metadata));
    jobs.filter(|job| !deleting(&job.metadata) && terminal(job).is_none() && selects(job, pod) == Some(true))
}

/// Pods of a job that is gone need not wait for it; one that a running job takes over keeps its finalizer.
fn orphaned(view: &View, key: &Key) -> Plan {
    if key.name == NOBODY {
        let let_go = view.pods.orphans(&key.namespace).filter(|pod| tracked(pod));
        let let_go = let_go.filter(|pod| deleting(&pod.metadata) || suitors(view, pod).next().is_none());
        return let_go.map(|pod| set_finalizer(Kind::Pod, &pod.metadata, TRACKING, false)).collect::<Vec<_>>().into();
    }
    let ours = view.pods.in_namespace(&key.namespace).filter(|pod| {
        tracked(pod) && crate::common::objects::owner_key(&pod.metadata, Kind::Job).as_ref() == Some(key)
    });
    ours.map(|pod| set_finalizer(Kind::Pod, &pod.metadata, TRACKING, false)).collect::<Vec<_>>().into()
}

fn untrack(view: &View, job: &Job) -> Plan {
    let tracked = view.pods.owned_by(uid(&job.metadata)).filter(|pod| tracked(pod));
    tracked.map(|pod| set_finalizer(Kind::Pod, &pod.metadata, TRACKING, false)).collect::<Vec<_>>().into()
}

/// One look at a job.
pub(super) struct Look<'a> {
    pub(super) job: &'a Job,
    pub(super) spec: &'a JobSpec,
    pub(super) pods: Pods<'a>,
    pub(super) now: Timestamp,
}

/// What the status says after everything seen so far is noted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) succeeded: i32,
    pub(super) failed: i32,
    pub(super) completed: BTreeSet<i32>,
    pub(super) failed_indexes: BTreeSet<i32>,
    pub(super) fail_job: Option<String>,
    uncounted: UncountedTerminatedPods,
}

impl Look<'_> {
    pub(super) fn indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    fn per_index(&self) -> Option<i32> {
        self.spec.backoff_limit_per_index
    }

    fn plan(&self) -> Plan {
        let mut plan = Plan::none();
        let old = self.job.status.clone().unwrap_or_default();
        let mut status = old.clone();
        let tally = self.tally(&old, &mut plan);
        self.start(&mut status, &mut plan);
        let ending = outcome(self, &status, &tally, &mut plan);
        self.count(&tally, &mut status);
        match &ending {
            Some(ending) => self.end(ending, &tally, &mut status, &mut plan),
            None => self.manage(&tally, &mut plan),
        }
        if normal(&status) != normal(&old) {
            let job = Job { status: Some(status), ..self.job.clone() };
            plan.push(Action::update_status(job));
        }
        plan
    }

    /// Takes note of finished pods, and frees those whose note the server has.
    fn tally(&self, old: &JobStatus, plan: &mut Plan) -> Tally {
        let end = self.spec.completions.unwrap_or(i32::MAX);
        let stored = old.uncounted_terminated_pods.clone().unwrap_or_default();
        let mut tally = Tally {
            succeeded: old.succeeded.unwrap_or(0),
            failed: old.failed.unwrap_or(0),
            completed: read_indexes(old.completed_indexes.as_deref().unwrap_or_default(), end),
            failed_indexes: read_indexes(old.failed_indexes.as_deref().unwrap_or_default(), end),
            ..Tally::default()
        };
        let stored_completed = tally.completed.clone();
        let noted =
            |list: &Option<Vec<String>>, pod: &Pod| list.iter().flatten().any(|noted| noted == uid(&pod.metadata));
        for pod in self.pods.succeeded.iter().filter(|pod| tracked(pod)).take(BURST) {
            let at = index(pod).filter(|_| self.indexed());
            let known = at.map_or_else(|| noted(&stored.succeeded, pod), |at| stored_completed.contains(&at));
            match at {
                Some(at) if at < end => drop(tally.completed.insert(at)),
                Some(_) => {}
                None if self.indexed() => {}
                None => tally.uncounted.succeeded.get_or_insert_default().push(uid(&pod.metadata).to_owned()),
            }
            if known {
                plan.push(set_finalizer(Kind::Pod, &pod.metadata, TRACKING, false));
            }
        }
        for pod in self.pods.failed.iter().filter(|pod| tracked(pod)).take(BURST) {
            self.note_failure(pod, noted(&stored.failed, pod), &mut tally, plan);
        }
        // What was noted and has lost its finalizer is counted now.
        let settled = |list: &Option<Vec<String>>, still: &Option<Vec<String>>| {
            let gone = list.iter().flatten().filter(|uid| !still.iter().flatten().any(|still| still == *uid));
            i32::try_from(gone.count()).unwrap_or(i32::MAX)
        };
        tally.succeeded += settled(&stored.succeeded, &tally.uncounted.succeeded);
        tally.failed += settled(&stored.failed, &tally.uncounted.failed);
        if self.indexed() {
            tally.succeeded = i32::try_from(tally.completed.len()).unwrap_or(i32::MAX);
        }
        tally
    }

    fn note_failure(&self, pod: &Pod, known: bool, tally: &mut Tally, plan: &mut Plan) {
        let verdict = verdict(self.job, pod);
        if verdict == Verdict::Ignore {
            plan.push(set_finalizer(Kind::Pod, &pod.metadata, TRACKING, false));
            return;
        }
        tally.uncounted.failed.get_or_insert_default().push(uid(&pod.metadata).to_owned());
        if let (Some(at), Some(limit)) = (index(pod), self.per_index())
            && (verdict == Verdict::FailIndex || index_failures(pod) + 1 > limit)
            && !tally.completed.contains(&at)
        {
            tally.failed_indexes.insert(at);
        }
        if let Verdict::FailJob(message) = verdict {
            tally.fail_job.get_or_insert(message);
        }
        if known {
            plan.push(set_finalizer(Kind::Pod, &pod.metadata, TRACKING, false));
        }
    }

    fn count(&self, tally: &Tally, status: &mut JobStatus) {
        let number = |count: usize| Some(i32::try_from(count).unwrap_or(i32::MAX));
        status.active = number(self.pods.active.len()).filter(|count| *count > 0);
        status.ready = number(self.pods.active.iter().filter(|pod| ready(pod)).count());
        status.terminating = number(self.pods.leaving.len());
        status.succeeded = Some(tally.succeeded).filter(|count| *count > 0);
        status.failed = Some(tally.failed).filter(|count| *count > 0);
        if self.indexed() {
            status.completed_indexes = Some(write_indexes(&tally.completed)).filter(|text| !text.is_empty());
        }
        if self.per_index().is_some() {
            status.failed_indexes = Some(write_indexes(&tally.failed_indexes));
        }
        status.uncounted_terminated_pods = Some(tally.uncounted.clone());
    }

    /// Starts, suspends or resumes.
    fn start(&self, status: &mut JobStatus, plan: &mut Plan) {
        let was = condition(status, "Suspended").map(|condition| condition.status == "True");
        let note = |reason, message: &str| Action::tell(self.note(Tone::Normal, reason, message));
        if self.suspended() {
            if was != Some(true) {
                set_condition(status, "Suspended", "True", "JobSuspended", "Job suspended", self.now);
                plan.push(note("Suspended", "Job suspended"));
            }
            status.start_time = None;
        } else {
            if was == Some(true) {
                set_condition(status, "Suspended", "False", "JobResumed", "Job resumed", self.now);
                plan.push(note("Resumed", "Job resumed"));
            }
            status.start_time.get_or_insert(Time(self.now));
        }
    }

    /// Removes what still runs; when nothing does and all is counted, the job is over.
    fn end(&self, ending: &super::job_outcome::Ending, tally: &Tally, status: &mut JobStatus, plan: &mut Plan) {
        plan.actions.extend(self.pods.active.iter().take(BURST).map(|pod| self.delete(pod)));
        let target = if ending.success { "SuccessCriteriaMet" } else { "FailureTarget" };
        set_condition(status, target, "True", &ending.reason, &ending.message, self.now);
        let uncounted = tally.uncounted.succeeded.iter().chain(&tally.uncounted.failed).any(|list| !list.is_empty());
        let tracked = self.pods.succeeded.iter().chain(&self.pods.failed).any(|pod| tracked(pod));
        if uncounted || tracked || !self.pods.active.is_empty() || !self.pods.leaving.is_empty() {
            return;
        }
        let kind = if ending.success { "Complete" } else { "Failed" };
        set_condition(status, kind, "True", &ending.reason, &ending.message, self.now);
        status.uncounted_terminated_pods = Some(UncountedTerminatedPods::default());
        if ending.success {
            status.completion_time = Some(Time(self.now));
            plan.push(Action::tell(self.note(Tone::Normal, "Completed", "Job completed")));
        } else {
            plan.push(Action::tell(self.note(Tone::Warning, ending.event_reason(), &ending.message)));
        }
    }

    /// Creates and removes pods so that as many run as should.
    fn manage(&self, tally: &Tally, plan: &mut Plan) {
        let parallelism = usize::try_from(self.spec.parallelism.unwrap_or(1)).unwrap_or(0);
        let active = self.pods.active.len();
        let wanted = if self.suspended() { 0 } else { self.wanted(parallelism, tally) };
        if active > wanted {
            let mut order = self.pods.active.clone();
            order.sort_by(|a, b| crate::common::pods::deletion_order(a, b, |_| 0));
            for pod in order.into_iter().take((active - wanted).min(BURST)) {
                // A pod that we take away is no failure: it is let go before it is deleted.
                plan.push(set_finalizer(Kind::Pod, &pod.metadata, TRACKING, false));
                plan.push(self.delete(pod));
            }
            return;
        }
        let occupied = active + if replaces_only_failed(self.job) { self.pods.leaving.len() } else { 0 };
        let missing = wanted.saturating_sub(occupied).min(BURST);
        if missing == 0 {
            return;
        }
        if self.per_index().is_none()
            && let Some(due) = backoff(&self.pods.failed, &self.pods.succeeded)
            && due > self.now
        {
            plan.look_again(due);
            return;
        }
        if self.indexed() {
            self.create_indexed(missing, tally, plan);
        } else {
            plan.actions.extend((0..missing).map(|_| self.create(self.new_pod(None, 0))));
        }
    }

    fn wanted(&self, parallelism: usize, tally: &Tally) -> usize {
        let succeeded = tally.succeeded + self.uncounted_succeeded(tally);
        match self.spec.completions {
            None if succeeded > 0 => self.pods.active.len(),
            None => parallelism,
            Some(completions) => parallelism.min(usize::try_from(completions - succeeded).unwrap_or(0)),
        }
    }

    pub(super) fn uncounted_succeeded(&self, tally: &Tally) -> i32 {
        i32::try_from(tally.uncounted.succeeded.as_ref().map_or(0, Vec::len)).unwrap_or(i32::MAX)
    }

    pub(super) fn uncounted_failed(&self, tally: &Tally) -> i32 {
        i32::try_from(tally.uncounted.failed.as_ref().map_or(0, Vec::len)).unwrap_or(i32::MAX)
    }

    fn create_indexed(&self, missing: usize, tally: &Tally, plan: &mut Plan) {
        let leaving = self.pods.leaving.iter().filter(|_| replaces_only_failed(self.job));
        let busy: BTreeSet<i32> = self.pods.active.iter().chain(leaving).filter_map(|pod| index(pod)).collect();
        let mut failures: BTreeMap<i32, Vec<&Arc<Pod>>> = BTreeMap::new();
        for pod in &self.pods.failed {
            failures.entry(index(pod).unwrap_or(-1)).or_default().push(pod);
        }
        let open = (0..self.spec.completions.unwrap_or(0))
            .filter(|at| !busy.contains(at) && !tally.completed.contains(at) && !tally.failed_indexes.contains(at));
        let mut made = 0;
        for at in open {
            if made == missing {
                return;
            }
            let before = failures.get(&at).map(Vec::as_slice).unwrap_or_default();
            if self.per_index().is_some()
                && let Some(due) = backoff(before, &[])
                && due > self.now
            {
                plan.look_again(due);
                continue;
            }
            let count = before
                .iter()
                .filter(|pod| verdict(self.job, pod) != Verdict::Ignore)
                .map(|pod| index_failures(pod) + 1)
                .max();
            plan.push(self.create(self.new_pod(Some(at), count.unwrap_or(0))));
            made += 1;
        }
    }

    fn new_pod(&self, at: Option<i32>, failures: i32) -> Pod {
        let mut pod = pod_from(&self.spec.template, Kind::Job, &self.job.metadata);
        pod.metadata.finalizers.get_or_insert_default().push(TRACKING.to_owned());
        let Some(at) = at else { return pod };
        let job_name = name(&self.job.metadata);
        pod.metadata.generate_name = Some(format!("{job_name}-{at}-"));
        pod.metadata.annotations.get_or_insert_default().insert(INDEX.to_owned(), at.to_string());
        pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), at.to_string());
        if self.per_index().is_some() {
            pod.metadata.annotations.get_or_insert_default().insert(INDEX_FAILURES.to_owned(), failures.to_string());
        }
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(format!("{job_name}-{at}"));
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            let env = container.env.get_or_insert_default();
            if env.iter().all(|variable| variable.name != "JOB_COMPLETION_INDEX") {
                let field =
                    ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") };
                let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
                env.push(EnvVar { name: "JOB_COMPLETION_INDEX".to_owned(), value: None, value_from: Some(source) });
            }
        }
        pod
    }

    fn create(&self, pod: Pod) -> Action {
        Action::create(pod)
            .on_success(self.note(Tone::Normal, "SuccessfulCreate", "Created pod: {}"))
            .on_failure(self.note(Tone::Warning, "FailedCreate", "Error creating: {}"))
    }

    fn delete(&self, pod: &Pod) -> Action {
        let message = format!("Deleted pod: {}", name(&pod.metadata));
        Action::delete(Target::of(Kind::Pod, &pod.metadata))
            .on_success(self.note(Tone::Normal, "SuccessfulDelete", &message))
            .on_failure(self.note(Tone::Warning, "FailedDelete", "Error deleting: {}"))
    }

    fn note(&self, tone: Tone, reason: &'static str, message: &str) -> Note {
        Note::about(Kind::Job, &self.job.metadata, tone, reason, message)
    }
}

/// Absent counts are zeros, an absent list is an empty one: what a server leaves out is no difference.
fn normal(status: &JobStatus) -> JobStatus {
    let mut status = status.clone();
    for count in
        [&mut status.active, &mut status.ready, &mut status.terminating, &mut status.succeeded, &mut status.failed]
    {
        count.get_or_insert(0);
    }
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    for list in [&mut uncounted.succeeded, &mut uncounted.failed] {
        list.get_or_insert_default();
    }
    status.conditions.get_or_insert_default();
    status
}
