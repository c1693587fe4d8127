//! Jobs and CronJobs.

use super::check::{self, given, immutable, label_selector, nonnegative_at, one_of};
use super::{cron, job_policies, pod};
use crate::names;
use crate::strategy::semantic_equal;
use crate::{FieldErrors, LabelSelector, Path, Value};

const INDEXED: &str = "Indexed";
const NEEDS_INDEX: &str = "requires indexed completion mode";
const MAX_PARALLEL_INDEXED: i64 = 100_000;
const MAX_FAILED_INDEXES: i64 = 100_000;
const MAX_CRON_NAME: usize = 52;

pub(super) fn job(object: &Value, errors: &mut FieldErrors) {
    generated_selector(object, errors);
    spec(object.get("spec").unwrap_or(&Value::Null), true, &Path::new("spec"), errors);
    let completions = object.int_at(&["spec", "completions"]).unwrap_or(0);
    if object.str_at(&["spec", "completionMode"]) == INDEXED && completions > 0 {
        let name = object.str_at(&["metadata", "name"]);
        let host = format!("{name}-{}", completions - 1);
        if !names::dns_label(&host).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {host}");
            errors.invalid(&Path::new("metadata.name"), name, detail);
        }
    }
}

/// What the server generated must be what it would generate.
fn generated_selector(object: &Value, errors: &mut FieldErrors) {
    if object.bool_at(&["spec", "manualSelector"]) == Some(true) {
        return;
    }
    let (name, uid) = (object.str_at(&["metadata", "name"]), object.str_at(&["metadata", "uid"]));
    let labels = Path::new("spec.template.metadata.labels");
    let detail = |want: &str| format!("must be '{want}'");
    for (key, want) in [("batch.kubernetes.io/controller-uid", uid), ("batch.kubernetes.io/job-name", name)] {
        let got = object.str_at(&["spec", "template", "metadata", "labels", key]);
        if got.is_empty() && !want.is_empty() {
            errors.required(&labels.key(key), detail(want));
        } else if got != want {
            errors.invalid(&labels.key(key), got, detail(want));
        }
    }
    let selector = object.at(&["spec", "selector"]);
    let own =
        selector.is_some_and(|selector| selector.str_at(&["matchLabels", "batch.kubernetes.io/controller-uid"]) == uid);
    if !own {
        let detail = "`selector` not auto-generated";
        errors.invalid(&Path::new("spec.selector"), selector.cloned().unwrap_or_default(), detail);
    }
}

fn spec(spec: &Value, standalone: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    for member in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        nonnegative_at(spec, member, path, errors);
    }
    let number = |member: &str| spec.int_at(&[member]);
    if number("maxFailedIndexes").is_some() && number("backoffLimitPerIndex").is_none() {
        errors.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    managed_by(spec, &path.child("managedBy"), errors);
    completion_mode(spec, path, errors);
    job_policies::failure_policy(spec, &path.child("podFailurePolicy"), errors);
    if given(spec, &["successPolicy"]).is_some() && spec.str_at(&["completionMode"]) != INDEXED {
        let shown = spec.get("successPolicy").cloned().unwrap_or_default();
        errors.invalid(&path.child("successPolicy"), shown, NEEDS_INDEX);
    } else {
        job_policies::success_policy(spec, &path.child("successPolicy"), errors);
    }
    replacement_policy(spec, path, errors);
    template(spec, &path.child("template"), errors);
    if standalone {
        selector(spec, path, errors);
    }
}

fn managed_by(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    const MAX: usize = 63;
    let Some(manager) = given(spec, &["managedBy"]).and_then(Value::as_str) else { return };
    match manager.split_once('/') {
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            errors.invalid_each(path, domain, names::dns_subdomain(domain));
        }
        _ => errors.invalid(path, manager, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
    if manager.len() > MAX {
        errors.too_long(path, MAX);
    }
}

fn completion_mode(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mode = spec.str_at(&["completionMode"]);
    let number = |member: &str| spec.int_at(&[member]);
    let known = ["NonIndexed", INDEXED];
    check::known_if_given(spec, "completionMode", &known, path, errors);
    if mode != INDEXED {
        if given(spec, &["completionMode"]).is_some() && !known.contains(&mode) {
            return;
        }
        for member in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(value) = number(member) {
                errors.invalid(&path.child(member), value, NEEDS_INDEX);
            }
        }
        return;
    }
    if number("completions").is_none() {
        errors.required(&path.child("completions"), format!("when completion mode is {INDEXED}"));
    }
    if let Some(value) = number("parallelism").filter(|value| *value > MAX_PARALLEL_INDEXED) {
        let detail = format!("must be less than or equal to {MAX_PARALLEL_INDEXED} when completion mode is {INDEXED}");
        errors.invalid(&path.child("parallelism"), value, detail);
    }
    let Some(failed) = number("maxFailedIndexes") else { return };
    if number("completions").is_some_and(|completions| failed > completions) {
        errors.invalid(&path.child("maxFailedIndexes"), failed, "must be less than or equal to completions");
    }
    if failed > MAX_FAILED_INDEXES {
        let detail = format!("must be less than or equal to {MAX_FAILED_INDEXES}");
        errors.invalid(&path.child("maxFailedIndexes"), failed, detail);
    }
}

fn replacement_policy(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let known: &[&str] =
        if given(spec, &["podFailurePolicy"]).is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    check::known_if_given(spec, "podReplacementPolicy", known, path, errors);
}

fn template(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    pod::template(spec.get("template"), path, errors);
    let place = path.child("spec.restartPolicy");
    match spec.str_at(&["template", "spec", "restartPolicy"]) {
        "" | "Always" => errors.required(&place, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if given(spec, &["podFailurePolicy"]).is_some() => {
            errors.invalid(&place, "OnFailure", "only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" | "Never" => {}
        other => errors.not_supported(&place, other, &["OnFailure", "Never"]),
    }
}

fn selector(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(selector) = given(spec, &["selector"]) else {
        errors.required(&path.child("selector"), "");
        return;
    };
    label_selector(Some(selector), &path.child("selector"), errors);
    let labels = spec.at(&["template", "metadata", "labels"]);
    if LabelSelector::from_value(Some(selector)).is_ok_and(|selector| !selector.matches(&labels)) {
        let detail = "`selector` does not match template `labels`";
        errors.invalid(&path.child("template.metadata.labels"), labels.cloned().unwrap_or_default(), detail);
    }
}

pub(super) fn job_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    spec(new.get("spec").unwrap_or(&Value::Null), true, &Path::new("spec"), errors);
    completions_stay(new, old, errors);
    immutable(new, old, &["spec", "selector"], errors);
    template_stays(new, old, errors);
    for member in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        immutable(new, old, &["spec", member], errors);
    }
}

fn completions_stay(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let completions = ["spec", "completions"];
    if new.str_at(&["spec", "completionMode"]) != INDEXED {
        return immutable(new, old, &completions, errors);
    }
    let Some(after) = new.int_at(&completions) else { return };
    if old.int_at(&completions) != Some(after) && new.int_at(&["spec", "parallelism"]) != Some(after) {
        let detail = "can only be modified in tandem with spec.parallelism";
        errors.invalid(&Path::new("spec.completions"), after, detail);
    }
}

/// A job that never started may still be steered to nodes and given other resources.
fn template_stays(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let suspended = old.bool_at(&["spec", "suspend"]) == Some(true);
    let unstarted = old.str_at(&["status", "startTime"]).is_empty();
    let mut before = old.at(&["spec", "template"]).cloned().unwrap_or_default();
    let after = new.at(&["spec", "template"]).cloned().unwrap_or_default();
    if suspended && unstarted {
        for path in [
            &["spec", "affinity", "nodeAffinity"][..],
            &["spec", "nodeSelector"],
            &["spec", "tolerations"],
            &["spec", "schedulingGates"],
            &["metadata", "annotations"],
            &["metadata", "labels"],
        ] {
            match after.at(path) {
                Some(value) => before.set_at(path, value.clone()),
                None => {
                    before.remove_at(path);
                }
            }
        }
        for list in [["spec", "containers"], ["spec", "initContainers"]] {
            let wished = after.list_at(&list).to_vec();
            let containers = before.at_mut(&list).and_then(Value::as_list_mut);
            for (container, wished) in containers.into_iter().flatten().zip(wished) {
                container.set_at(&["resources"], wished.get("resources").cloned().unwrap_or_default());
            }
        }
    }
    if !semantic_equal(Some(&after), Some(&before)) {
        errors.invalid(&Path::new("spec.template"), after, check::IMMUTABLE);
    }
}

pub(super) fn job_status(new: &Value, errors: &mut FieldErrors) {
    let path = Path::new("status");
    let status = new.get("status").cloned().unwrap_or_else(Value::object);
    for member in ["active", "succeeded", "failed", "ready", "terminating"] {
        nonnegative_at(&status, member, &path, errors);
    }
    let conditions = status.list_at(&["conditions"]);
    let is =
        |kind: &str| conditions.iter().any(|one| one.str_at(&["type"]) == kind && one.str_at(&["status"]) == "True");
    if is("Complete") && is("Failed") {
        let shown = status.get("conditions").cloned().unwrap_or_default();
        errors.invalid(&path.child("conditions"), shown, "cannot set Complete=True and Failed=true conditions");
    }
}

pub(super) fn cron_job(object: &Value, errors: &mut FieldErrors) {
    cron_spec(object, None, errors);
    let name = object.str_at(&["metadata", "name"]);
    if name.len() > MAX_CRON_NAME {
        let detail = format!("must be no more than {MAX_CRON_NAME} characters");
        errors.invalid(&Path::new("metadata.name"), name, detail);
    }
}

pub(super) fn cron_job_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    cron_spec(new, Some(old), errors);
}

fn cron_spec(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let empty = Value::object();
    let own = object.get("spec").unwrap_or(&empty);
    let schedule = check::required(own, "schedule", &path, errors);
    if !schedule.is_empty() {
        let place = path.child("schedule");
        let (bare, zoned) = cron::without_zone(schedule);
        if let Err(why) = cron::check(bare) {
            errors.invalid(&place, schedule, why);
        }
        let before = old.is_some_and(|old| old.str_at(&["spec", "schedule"]).contains("TZ"));
        if zoned && !before {
            let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errors.invalid(&place, schedule, detail);
        } else if zoned && given(own, &["timeZone"]).is_some() {
            errors.invalid(&place, schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
        }
    }
    nonnegative_at(own, "startingDeadlineSeconds", &path, errors);
    time_zone(own, &path.child("timeZone"), errors);
    one_of(own, "concurrencyPolicy", &["Allow", "Forbid", "Replace"], &path, errors);
    let job = own.at(&["jobTemplate", "spec"]).cloned().unwrap_or_else(Value::object);
    let place = path.child("jobTemplate");
    spec(&job, false, &place.child("spec"), errors);
    if job.bool_at(&["manualSelector"]) == Some(true) {
        errors.not_supported(&place.child("spec.manualSelector"), true, &["nil", "false"]);
    }
    for member in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        nonnegative_at(own, member, &path, errors);
    }
}

/// The form of a time zone's name; whether the zone exists is for who has the zone files.
fn time_zone(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(zone) = given(spec, &["timeZone"]).and_then(Value::as_str) else { return };
    let fits = |part: &str| {
        !matches!(part, "" | "." | "..")
            && !part.starts_with('-')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'+'))
    };
    if zone.is_empty() {
        errors.invalid(path, zone, "timeZone must be nil or non-empty string");
    } else if !zone.split('/').all(fits) {
        errors.invalid(path, zone, format!("unknown time zone {zone}"));
    } else if zone.eq_ignore_ascii_case("Local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(path, zone, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{creates, updates};
    use super::super::workloads::tests::template;
    use crate::strategy::KindRef;
    use serde_json::{Value as Json, json};

    fn job_spec() -> Json {
        let mut template = template();
        template["spec"]["restartPolicy"] = json!("Never");
        template["metadata"]["labels"] =
            json!({"batch.kubernetes.io/job-name": "j", "batch.kubernetes.io/controller-uid": "u"});
        json!({"template": template, "parallelism": 1, "completions": 1, "backoffLimit": 6,
               "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}})
    }

    #[test]
    fn jobs() {
        let kind = KindRef::builtin("batch", "Job", true);
        let base = json!({"metadata": {"name": "j", "namespace": "n", "uid": "u"}, "spec": job_spec()});
        let spec = |spec: Json| json!({"spec": spec});
        creates(
            kind,
            &base,
            &[
                (json!({}), &[]),
                (
                    spec(json!({"backoffLimit": -1})),
                    &["spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0"],
                ),
                (
                    spec(json!({"template": {"spec": {"restartPolicy": "Always"}}})),
                    &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
                ),
                (
                    spec(json!({"completionMode": "Indexed", "completions": null})),
                    &["spec.completions: Required value: when completion mode is Indexed"],
                ),
                (
                    spec(json!({"backoffLimitPerIndex": 1})),
                    &["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"],
                ),
            ],
        );
        updates(
            kind,
            &base,
            &[
                (spec(json!({"parallelism": 4})), &[]),
                (spec(json!({"completions": 4})), &["spec.completions: Invalid value: 4: field is immutable"]),
            ],
        );
        let mut suspended = base;
        suspended["spec"]["suspend"] = json!(true);
        updates(kind, &suspended, &[(spec(json!({"template": {"spec": {"nodeSelector": {"a": "b"}}}})), &[])]);
    }

    #[test]
    fn cron_jobs() {
        let kind = KindRef::builtin("batch", "CronJob", true);
        let mut job = job_spec();
        job.as_object_mut().unwrap().remove("selector");
        let base = json!({"metadata": {"name": "j", "namespace": "n"}, "spec": {
            "schedule": "*/5 * * * *", "concurrencyPolicy": "Allow", "jobTemplate": {"spec": job}}});
        let spec = |spec: Json| json!({"spec": spec});
        creates(
            kind,
            &base,
            &[
                (json!({}), &[]),
                (spec(json!({"schedule": null})), &["spec.schedule: Required value"]),
                (
                    spec(json!({"schedule": "error"})),
                    &["spec.schedule: Invalid value: \"error\": expected exactly 5 fields, found 1: [error]"],
                ),
                (
                    spec(json!({"schedule": "TZ=UTC 0 * * * *"})),
                    &["spec.schedule: Invalid value: \"TZ=UTC 0 * * * *\": cannot use TZ or CRON_TZ in schedule, use \
                   timeZone field instead"],
                ),
                (
                    spec(json!({"timeZone": "Local"})),
                    &["spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone as defined in \
                   https://www.iana.org/time-zones"],
                ),
            ],
        );
    }
}
