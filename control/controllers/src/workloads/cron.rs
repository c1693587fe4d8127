//! Cron jobs: a job at each time of a schedule.

use super::{job_outcome::terminal, schedule::Schedule};
use crate::{
    common::objects::{annotation, controlled_by, created, deleting, name, own_or_owner_keys, uid},
    framework::{Action, Change, Controller, Key, Kind, Note, Plan, Propagation, Target, Tone, View, Write, reference},
};
use jiff::{Timestamp, tz::TimeZone};
use k8s_openapi::{
    api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use std::{collections::BTreeMap, sync::Arc};

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Missed times that are worth a warning; the search for the latest goes no further than a multiple of it.
const MANY_MISSED: usize = 100;
const MAX_MISSED: usize = 100_000;

/// Runs cron jobs.
#[derive(Debug)]
pub(crate) struct CronJobs;

impl Controller for CronJobs {
    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::CronJob, Kind::Job]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("CronJob", "status"), ("Job", "created and deleted for a CronJob")]
    }

    fn keys(&self, _view: &View, change: &Change, keys: &mut Vec<Key>) {
        own_or_owner_keys(change, Kind::CronJob, keys);
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let Some(cron) = view.cron_jobs.get(key).filter(|cron| !deleting(&cron.metadata)) else { return Plan::none() };
        let mut jobs: Vec<&Arc<Job>> = view.jobs.owned_by(uid(&cron.metadata)).collect();
        jobs.sort_by_key(|job| (created(&job.metadata), name(&job.metadata)));
        Look { cron, spec: &cron.spec, jobs, now }.plan()
    }
}

struct Look<'a> {
    cron: &'a CronJob,
    spec: &'a CronJobSpec,
    jobs: Vec<&'a Arc<Job>>,
    now: Timestamp,
}

fn scheduled_at(job: &Job) -> Option<Timestamp> {
    annotation(&job.metadata, SCHEDULED)?.parse().ok()
}

impl Look<'_> {
    fn plan(&self) -> Plan {
        let mut plan = Plan::none();
        let old = self.cron.status.clone().unwrap_or_default();
        let status = self.status(&old, &mut plan);
        self.clean_up(&mut plan);
        if self.spec.suspend != Some(true) {
            self.schedule(&status, &mut plan);
        }
        if status != normal(old) {
            plan.push(Action::update_status(CronJob { status: Some(status), ..self.cron.clone() }));
        }
        plan
    }

    fn running(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs.iter().copied().filter(|job| terminal(job).is_none())
    }

    fn status(&self, old: &CronJobStatus, plan: &mut Plan) -> CronJobStatus {
        for entry in old.active.iter().flatten() {
            let ended = self.jobs.iter().find(|job| job.metadata.uid == entry.uid).and_then(|job| terminal(job));
            if let Some(ended) = ended {
                let job = entry.name.as_deref().unwrap_or_default();
                let message = format!("Saw completed job: {job}, condition: {}", ended.type_);
                plan.push(Action::tell(self.note(Tone::Normal, "SawCompletedJob", message)));
            }
        }
        let active: Vec<_> = self
            .running()
            .map(|job| {
                // The version would change with each of the job's own changes.
                let mut entry = reference(Kind::Job, &job.metadata);
                entry.resource_version = None;
                entry
            })
            .collect();
        let last = |old: &Option<Time>, seen: Option<Timestamp>| seen.max(old.as_ref().map(|time| time.0)).map(Time);
        let succeeded =
            self.jobs.iter().filter_map(|job| job.status.as_ref()?.completion_time.as_ref().map(|time| time.0));
        CronJobStatus {
            active: Some(active),
            last_schedule_time: last(
                &old.last_schedule_time,
                self.jobs.iter().filter_map(|job| scheduled_at(job)).max(),
            ),
            last_successful_time: last(&old.last_successful_time, succeeded.max()),
        }
    }

    /// Deletes the oldest finished jobs beyond the history limits.
    fn clean_up(&self, plan: &mut Plan) {
        let limits = [
            ("Complete", self.spec.successful_jobs_history_limit.unwrap_or(3)),
            ("Failed", self.spec.failed_jobs_history_limit.unwrap_or(1)),
        ];
        for (kind, limit) in limits {
            let ended: Vec<_> = self
                .jobs
                .iter()
                .filter(|job| terminal(job).is_some_and(|ended| ended.type_ == kind) && !deleting(&job.metadata))
                .collect();
            let excess = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            plan.actions.extend(ended.into_iter().take(excess).map(|job| self.delete(job)));
        }
    }

    fn delete(&self, job: &Job) -> Action {
        let target = Target::of(Kind::Job, &job.metadata);
        let write = Write::Delete { target, propagation: Some(Propagation::Background), grace_seconds: None };
        let message = format!("Deleted job {}", name(&job.metadata));
        Action::from(write).on_success(self.note(Tone::Normal, "SuccessfulDelete", message))
    }

    fn schedule(&self, status: &CronJobStatus, plan: &mut Plan) {
        let Some(schedule) = Schedule::parse(&self.spec.schedule) else {
            let message = format!("unparseable schedule: \"{}\"", self.spec.schedule);
            plan.push(Action::tell(self.note(Tone::Warning, "UnparseableSchedule", message)));
            return;
        };
        let zone = match self.spec.time_zone.as_deref() {
            None => TimeZone::UTC,
            Some(wanted) => match TimeZone::get(wanted) {
                Ok(zone) => zone,
                Err(_) => {
                    let message = format!("invalid timeZone: \"{wanted}\"");
                    plan.push(Action::tell(self.note(Tone::Warning, "UnknownTimeZone", message)));
                    return;
                }
            },
        };
        let last = status.last_schedule_time.as_ref().map_or(created(&self.cron.metadata), |time| time.0);
        let (missed, next) = self.missed(&schedule, &zone, last, plan);
        if let Some(next) = next {
            plan.look_again(next);
        }
        if let Some(due) = missed {
            self.start(due, plan);
        }
    }

    /// The latest time that has come and was not used, and the next one.
    fn missed(
        &self,
        schedule: &Schedule,
        zone: &TimeZone,
        last: Timestamp,
        plan: &mut Plan,
    ) -> (Option<Timestamp>, Option<Timestamp>) {
        let deadline = self.spec.starting_deadline_seconds;
        let earliest = deadline.map(|seconds| crate::common::objects::after(self.now, -seconds));
        let from = earliest.map_or(last, |earliest| earliest.max(last));
        let (mut missed, mut count) = (None, 0);
        let mut next = schedule.next(from, zone);
        while let Some(at) = next.filter(|at| *at <= self.now && count < MAX_MISSED) {
            missed = Some(at);
            count += 1;
            next = schedule.next(at, zone);
        }
        if count > MANY_MISSED {
            let message = format!(
                "too many missed start times: {count}. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
            );
            plan.push(Action::tell(self.note(Tone::Warning, "TooManyMissedTimes", message)));
        }
        (missed, next)
    }

    fn start(&self, due: Timestamp, plan: &mut Plan) {
        let job_name = format!("{}-{}", name(&self.cron.metadata), due.as_second() / 60);
        if self.jobs.iter().any(|job| name(&job.metadata) == job_name) {
            return;
        }
        let policy = self.spec.concurrency_policy.as_deref().unwrap_or("Allow");
        if policy == "Forbid" && self.running().next().is_some() {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.push(Action::tell(self.note(Tone::Normal, "JobAlreadyActive", message.to_owned())));
            return;
        }
        if policy == "Replace" {
            plan.actions.extend(self.running().filter(|job| !deleting(&job.metadata)).map(|job| self.delete(job)));
        }
        let given = self.spec.job_template.metadata.clone().unwrap_or_default();
        let mut annotations: BTreeMap<String, String> = given.annotations.unwrap_or_default();
        let zone = self.spec.time_zone.as_deref().and_then(|zone| TimeZone::get(zone).ok()).unwrap_or(TimeZone::UTC);
        let stamp = if zone == TimeZone::UTC {
            due.to_string()
        } else {
            due.display_with_offset(zone.to_offset(due)).to_string()
        };
        annotations.insert(SCHEDULED.to_owned(), stamp);
        let job = Job {
            metadata: ObjectMeta {
                name: Some(job_name.clone()),
                namespace: self.cron.metadata.namespace.clone(),
                labels: given.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![controlled_by(Kind::CronJob, &self.cron.metadata)]),
                creation_timestamp: None,
                ..ObjectMeta::default()
            },
            spec: self.spec.job_template.spec.clone(),
            status: None,
        };
        plan.push(
            Action::create(job)
                .on_success(self.note(Tone::Normal, "SuccessfulCreate", format!("Created job {job_name}")))
                .on_failure(self.note(Tone::Warning, "FailedCreate", "Error creating job: {}".to_owned())),
        );
    }

    fn note(&self, tone: Tone, reason: &'static str, message: String) -> Note {
        Note::about(Kind::CronJob, &self.cron.metadata, tone, reason, message)
    }
}

fn normal(mut status: CronJobStatus) -> CronJobStatus {
    for entry in status.active.get_or_insert_default() {
        entry.resource_version = None;
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, outline};
    use serde_json::{Value, json};

    fn check(spec: Value, jobs: &[Value], now: i64, expected: &[&str], again: Option<i64>) {
        let mut cron = json!({"metadata": {"name": "tick", "namespace": "d", "uid": "cron", "creationTimestamp": "1970-01-01T00:00:30Z"},
            "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {}}}}, "status": {}});
        for (key, value) in spec.as_object().into_iter().flatten() {
            cron["spec"][key] = value.clone();
        }
        let mut view = View::default();
        view.cron_jobs.insert(object(cron));
        for job in jobs {
            view.jobs.insert(object(job.clone()));
        }
        let plan = CronJobs.plan(&view, &Key::new("d", "tick"), at(now));
        let lines: Vec<_> =
            outline(&plan).into_iter().map(|made| made.line).filter(|line| !line.starts_with("status")).collect();
        assert_eq!(lines, expected);
        assert_eq!(plan.again, again.map(at));
    }

    fn job(minute: i64, ended: Option<&str>) -> Value {
        let conditions: Vec<Value> = ended.map(|kind| json!({"type": kind, "status": "True"})).into_iter().collect();
        json!({"metadata": {"name": format!("tick-{minute}"), "namespace": "d", "uid": minute.to_string(),
                "creationTimestamp": at(minute * 60).to_string(), "annotations": {SCHEDULED: at(minute * 60).to_string()},
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "tick", "uid": "cron", "controller": true}]},
            "spec": {"template": {}}, "status": {"conditions": conditions}})
    }

    #[test]
    fn on_time_and_once() {
        check(json!({}), &[], 59, &[], Some(60));
        check(json!({}), &[], 61, &["create Job d/tick-1"], Some(120));
        check(json!({}), &[job(1, None)], 90, &[], Some(120));
        check(json!({}), &[], 400, &["create Job d/tick-6"], Some(420));
        check(json!({"suspend": true}), &[], 61, &[], None);
        check(json!({"schedule": "nonsense"}), &[], 61, &["tell"], None);
        check(json!({"timeZone": "Nowhere/Here"}), &[], 61, &["tell"], None);
    }

    #[test]
    fn policies_and_history() {
        check(json!({"concurrencyPolicy": "Forbid"}), &[job(1, None)], 121, &["tell"], Some(180));
        check(
            json!({"concurrencyPolicy": "Replace"}),
            &[job(1, None)],
            121,
            &["delete Job d/tick-1 Background", "create Job d/tick-2"],
            Some(180),
        );
        let done: Vec<Value> = (1..=4).map(|minute| job(minute, Some("Complete"))).collect();
        check(json!({}), &done, 250, &["delete Job d/tick-1 Background"], Some(300));
        let deadline = json!({"startingDeadlineSeconds": 10, "schedule": "0 * * * *"});
        check(deadline, &[], 3700, &[], Some(7200));
    }
}
