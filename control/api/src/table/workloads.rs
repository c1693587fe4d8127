//! Rows of workloads and what scales and protects them.

use jiff::Timestamp;

use super::duration::human_duration;
use super::read::{
    NONE, UNKNOWN, UNSET, age, amount, condition, containers, count, int, labels, name, seconds_between, selector,
    since, some_of, text, text_or,
};
use crate::Value;

const TEMPLATE: [&str; 4] = ["spec", "template", "spec", "containers"];

fn ready_of(object: &Value) -> Value {
    let number = |path: &[&str]| object.int_at(path).unwrap_or(0);
    Value::from(format!("{}/{}", number(&["status", "readyReplicas"]), number(&["spec", "replicas"])))
}

pub(super) fn pod_template(object: &Value, _: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object.list_at(&["template", "spec", "containers"]));
    vec![name(object), names, images, labels(object.at(&["template", "metadata", "labels"]))]
}

fn replicas(object: &Value, now: Timestamp, selector: Value) -> Vec<Value> {
    let [names, images] = containers(object.list_at(&TEMPLATE));
    vec![
        name(object),
        int(object, &["spec", "replicas"]),
        int(object, &["status", "replicas"]),
        int(object, &["status", "readyReplicas"]),
        age(object, now),
        names,
        images,
        selector,
    ]
}

pub(super) fn replication_controller(object: &Value, now: Timestamp) -> Vec<Value> {
    replicas(object, now, labels(object.at(&["spec", "selector"])))
}

pub(super) fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    replicas(object, now, selector(object.at(&["spec", "selector"])))
}

pub(super) fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object.list_at(&TEMPLATE));
    vec![
        name(object),
        ready_of(object),
        int(object, &["status", "updatedReplicas"]),
        int(object, &["status", "availableReplicas"]),
        age(object, now),
        names,
        images,
        selector(object.at(&["spec", "selector"])),
    ]
}

pub(super) fn stateful_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object.list_at(&TEMPLATE));
    vec![name(object), ready_of(object), age(object, now), names, images]
}

pub(super) fn daemon_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object.list_at(&TEMPLATE));
    let status = |member: &str| int(object, &["status", member]);
    vec![
        name(object),
        status("desiredNumberScheduled"),
        status("currentNumberScheduled"),
        status("numberReady"),
        status("updatedNumberScheduled"),
        status("numberAvailable"),
        labels(object.at(&["spec", "template", "spec", "nodeSelector"])),
        age(object, now),
        names,
        images,
        selector(object.at(&["spec", "selector"])),
    ]
}

pub(super) fn controller_revision(object: &Value, now: Timestamp) -> Vec<Value> {
    let owners = object.list_at(&["metadata", "ownerReferences"]);
    let owner = owners.iter().find(|owner| owner.bool_at(&["controller"]) == Some(true));
    let owner = owner.map_or(NONE.to_owned(), |owner| {
        let group = owner.str_at(&["apiVersion"]).split_once('/').map_or("", |(group, _)| group);
        format!("{}/{}", crate::qualified(group, owner.str_at(&["kind"])).to_lowercase(), owner.str_at(&["name"]))
    });
    vec![name(object), Value::from(owner), int(object, &["revision"]), age(object, now)]
}

fn completions(job: &Value) -> String {
    let done = job.int_at(&["status", "succeeded"]).unwrap_or(0);
    match (job.int_at(&["spec", "completions"]), job.int_at(&["spec", "parallelism"]).unwrap_or(0)) {
        (Some(wanted), _) => format!("{done}/{wanted}"),
        (None, parallel) if parallel > 1 => format!("{done}/1 of {parallel}"),
        (None, _) => format!("{done}/1"),
    }
}

fn job_state(job: &Value) -> &'static str {
    let leaving = job.at(&["metadata", "deletionTimestamp"]).is_some_and(|time| !time.is_null());
    if condition(job, "Complete") {
        "Complete"
    } else if condition(job, "Failed") {
        "Failed"
    } else if leaving {
        "Terminating"
    } else if condition(job, "Suspended") {
        "Suspended"
    } else if condition(job, "FailureTarget") {
        "FailureTarget"
    } else if condition(job, "SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

pub(super) fn job(object: &Value, now: Timestamp) -> Vec<Value> {
    let time = |member: &str| object.str_at(&["status", member]).parse::<Timestamp>().ok();
    let duration = time("startTime")
        .map_or(String::new(), |start| human_duration(seconds_between(start, time("completionTime").unwrap_or(now))));
    let [names, images] = containers(object.list_at(&TEMPLATE));
    vec![
        name(object),
        Value::from(job_state(object)),
        Value::from(completions(object)),
        Value::from(duration),
        age(object, now),
        names,
        images,
        selector(object.at(&["spec", "selector"])),
    ]
}

pub(super) fn cron_job(object: &Value, now: Timestamp) -> Vec<Value> {
    let job = ["spec", "jobTemplate", "spec"];
    let job = object.at(&job).cloned().unwrap_or_default();
    let [names, images] = containers(job.list_at(&["template", "spec", "containers"]));
    let suspended = match object.bool_at(&["spec", "suspend"]) {
        Some(true) => "True",
        Some(false) => "False",
        None => UNSET,
    };
    let last = object.str_at(&["status", "lastScheduleTime"]);
    vec![
        name(object),
        text(object, &["spec", "schedule"]),
        text_or(object, &["spec", "timeZone"], NONE),
        Value::from(suspended),
        count(object, &["status", "active"]),
        Value::from(if last.is_empty() { NONE.to_owned() } else { since(last, now) }),
        age(object, now),
        names,
        images,
        selector(job.at(&["selector"])),
    ]
}

pub(super) fn scale(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), int(object, &["spec", "replicas"]), int(object, &["status", "replicas"]), age(object, now)]
}

pub(super) fn disruption_budget(object: &Value, now: Timestamp) -> Vec<Value> {
    let bound = |member: &str| match object.at(&["spec", member]) {
        Some(Value::Int(number)) => Value::from(number.to_string()),
        Some(Value::String(text)) => Value::String(text.clone()),
        _ => Value::from("N/A"),
    };
    vec![
        name(object),
        bound("minAvailable"),
        bound("maxUnavailable"),
        int(object, &["status", "disruptionsAllowed"]),
        age(object, now),
    ]
}

/// `cpu: 20%/80%` of one metric and its status.
fn metric(spec: &Value, status: Option<&Value>) -> String {
    let (member, prefix) = match spec.str_at(&["type"]) {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".to_owned(),
    };
    let status = status.and_then(|status| status.get(member)).filter(|status| !status.is_null());
    let current = |field: &str| status.and_then(|status| status.at(&["current", field])).filter(|v| !v.is_null());
    let target = |field: &str| spec.at(&[member, "target", field]).filter(|value| !value.is_null());
    let shown = |value: Option<&Value>| value.map_or_else(|| UNKNOWN.to_owned(), |value| amount(Some(value)));
    let percent = |value: Option<&Value>, otherwise: &str| {
        value.and_then(Value::as_int).map_or_else(|| otherwise.to_owned(), |number| format!("{number}%"))
    };
    let resource = if prefix { format!("{}: ", spec.str_at(&[member, "name"])) } else { String::new() };
    match (target("averageValue"), prefix) {
        (Some(average), _) => {
            let note = if prefix || member == "pods" { "" } else { " (avg)" };
            format!("{resource}{}/{}{note}", shown(current("averageValue")), amount(Some(average)))
        }
        (None, true) => format!(
            "{resource}{}/{}",
            percent(current("averageUtilization"), UNKNOWN),
            percent(target("averageUtilization"), "<auto>")
        ),
        (None, false) => format!("{}/{}", shown(current("value")), amount(target("value"))),
    }
}

/// Version 1 of the kind has CPU only.
fn cpu_target(object: &Value) -> Option<String> {
    let target = object.int_at(&["spec", "targetCPUUtilizationPercentage"])?;
    let current = object.int_at(&["status", "currentCPUUtilizationPercentage"]);
    Some(format!("cpu: {}/{target}%", current.map_or_else(|| UNKNOWN.to_owned(), |number| format!("{number}%"))))
}

pub(super) fn autoscaler(object: &Value, now: Timestamp) -> Vec<Value> {
    const SHOWN: usize = 2;
    let statuses = object.list_at(&["status", "currentMetrics"]);
    let mut metrics: Vec<String> = object
        .list_at(&["spec", "metrics"])
        .iter()
        .enumerate()
        .map(|(at, spec)| metric(spec, statuses.get(at)))
        .collect();
    metrics.extend(cpu_target(object));
    let target = ["spec", "scaleTargetRef"];
    let target = object.at(&target).cloned().unwrap_or_default();
    let minimum = object.int_at(&["spec", "minReplicas"]);
    vec![
        name(object),
        Value::from(format!("{}/{}", target.str_at(&["kind"]), target.str_at(&["name"]))),
        Value::from(some_of(&metrics, SHOWN, ", ", NONE)),
        Value::from(minimum.map_or_else(|| UNSET.to_owned(), |number| number.to_string())),
        int(object, &["spec", "maxReplicas"]),
        int(object, &["status", "currentReplicas"]),
        age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::Printer;
    use super::*;
    use serde_json::{Value as Json, json};

    #[test]
    fn workloads_read_like_upstream() {
        let template = json!({"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]}});
        let selector = json!({"matchLabels": {"a": "b"}});
        let table: &[(&str, &str, Json, Json)] = &[
            (
                "apps",
                "Deployment",
                json!({"spec": {"replicas": 3, "template": template, "selector": selector}, "status": {"readyReplicas": 1}}),
                json!(["x", "1/3", 0, 0, "2m", "a,b", "i,j", "a=b"]),
            ),
            (
                "batch",
                "Job",
                json!({"spec": {"completions": 2}, "status": {"succeeded": 1, "startTime": "1970-01-01T00:01:00Z"}}),
                json!(["x", "Running", "1/2", "60s", "2m", "", "", "<none>"]),
            ),
            (
                "batch",
                "CronJob",
                json!({"spec": {"schedule": "* * * * *", "suspend": false}, "status": {"active": [{}]}}),
                json!(["x", "* * * * *", "<none>", "False", 1, "<none>", "2m", "", "", "<none>"]),
            ),
            (
                "policy",
                "PodDisruptionBudget",
                json!({"spec": {"minAvailable": "50%"}, "status": {"disruptionsAllowed": 2}}),
                json!(["x", "50%", "N/A", 2, "2m"]),
            ),
            (
                "autoscaling",
                "HorizontalPodAutoscaler",
                json!({
                    "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "minReplicas": 1, "maxReplicas": 5,
                        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}}]},
                    "status": {"currentMetrics": [{"type": "Resource", "resource": {"current": {"averageUtilization": 20}}}]},
                }),
                json!(["x", "Deployment/d", "cpu: 20%/80%", "1", 5, 0, "2m"]),
            ),
        ];
        for (group, kind, object, cells) in table {
            let mut object = object.clone();
            object["metadata"] = json!({"name": "x", "creationTimestamp": "1970-01-01T00:00:00Z"});
            let now = Timestamp::from_second(120).unwrap();
            let got = Printer::builtin(group, kind).cells(&object.into(), now);
            assert_eq!(Json::from(&Value::from(got)), *cells, "{kind}");
        }
    }
}
