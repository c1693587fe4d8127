//! What jobs do, as tables: a job and its pods in, actions out.

use super::{
    job::Jobs,
    job_pods::{INDEX, TRACKING},
};
use crate::{
    framework::{Change, Controller, Key, Object, View},
    testing::{Outline, at, object, outline},
};
use serde_json::{Value, json};

fn job(spec: Value, status: Value) -> Value {
    let mut job = json!({"metadata": {"name": "sum", "namespace": "default", "uid": "job", "resourceVersion": "1"},
        "spec": {"template": {"spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"}}}, "status": status});
    for (key, value) in spec.as_object().into_iter().flatten() {
        job["spec"][key] = value.clone();
    }
    job
}

fn pod(name: &str, phase: &str, tracked: bool) -> Value {
    let finalizers: Vec<&str> = tracked.then_some(TRACKING).into_iter().collect();
    json!({"metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": "1", "finalizers": finalizers,
            "creationTimestamp": "1970-01-01T00:00:00Z",
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "sum", "uid": "job", "controller": true}]},
        "spec": {"containers": []}, "status": {"phase": phase}})
}

fn indexed(name: &str, phase: &str, index: &str) -> Value {
    let mut pod = pod(name, phase, true);
    pod["metadata"]["annotations"] = json!({INDEX: index});
    pod
}

fn plan(job: Value, pods: &[Value], now: i64) -> Vec<Outline> {
    let mut view = View::default();
    view.jobs.insert(object(job));
    for pod in pods {
        view.pods.insert(object(pod.clone()));
    }
    outline(&Jobs.plan(&view, &Key::new("default", "sum"), at(now)))
}

fn check(job: Value, pods: &[Value], expected: &[&str]) -> Value {
    let made = plan(job, pods, 1000);
    let lines: Vec<_> = made.iter().map(|made| made.line.as_str()).collect();
    assert_eq!(lines, expected);
    made.last().map(|made| made.body["status"].clone()).unwrap_or_default()
}

const STATUS: &str = "status Job default/sum";
const CREATE: &str = "create Pod default/sum-";

fn started() -> Value {
    json!({"startTime": "1970-01-01T00:10:00Z", "uncountedTerminatedPods": {}})
}

#[test]
fn a_pod_that_its_job_let_go_is_no_longer_counted() {
    let mut loose = pod("loose", "Succeeded", true);
    loose["metadata"]["ownerReferences"] = json!([]);
    let mut view = View::default();
    for pod in [loose.clone(), pod("kept", "Running", true)] {
        view.pods.insert(object(pod));
    }
    let change = Change { old: None, new: Some(Object::Pod(std::sync::Arc::new(object(loose)))) };
    let mut keys = Vec::new();
    Jobs.keys(&view, &change, &mut keys);
    let lines: Vec<_> = keys.iter().flat_map(|key| outline(&Jobs.plan(&view, key, at(1000)))).map(|o| o.line).collect();
    assert_eq!(lines, ["patch Pod default/loose"]);
}

#[test]
fn pods_change_hands_by_the_selector() {
    let wanted = json!({"parallelism": 1, "selector": {"matchLabels": {"job": "sum"}}});
    let (mut stray, mut loose) = (pod("stray", "Running", false), pod("loose", "Running", true));
    stray["metadata"]["ownerReferences"] = json!([]);
    stray["metadata"]["labels"] = json!({"job": "sum"});
    loose["metadata"]["labels"] = json!({"job": "other"});
    let made = plan(job(wanted.clone(), started()), &[stray.clone(), loose], 1000);
    let lines: Vec<_> = made.iter().map(|made| made.line.as_str()).collect();
    assert_eq!(lines, ["patch Pod default/loose", "patch Pod default/stray"]);
    assert_eq!(made[0].body["metadata"], json!({"ownerReferences": [], "finalizers": []}));
    assert_eq!(made[1].body["metadata"]["ownerReferences"][0]["uid"], "job");
    assert_eq!(made[1].body["metadata"]["finalizers"], json!([TRACKING]));
    // Nobody else takes the mark from a pod that a running job is about to take.
    let mut view = View::default();
    stray["metadata"]["finalizers"] = json!([TRACKING]);
    view.jobs.insert(object(job(wanted, started())));
    view.pods.insert(object(stray.clone()));
    let change = Change { old: None, new: Some(Object::Pod(std::sync::Arc::new(object(stray)))) };
    let mut keys = Vec::new();
    Jobs.keys(&view, &change, &mut keys);
    assert_eq!(keys, [Key::new("default", "sum"), Key::new("default", "")]);
    assert!(Jobs.plan(&view, &keys[1], at(1000)).actions.is_empty());
}

#[test]
fn it_starts_as_many_as_it_may() {
    let status = check(job(json!({"completions": 5, "parallelism": 2}), json!({})), &[], &[CREATE, CREATE, STATUS]);
    assert_eq!(status["startTime"], "1970-01-01T00:16:40Z");
    let made = plan(job(json!({}), json!({})), &[], 0);
    assert_eq!(made[0].body["metadata"]["finalizers"], json!([TRACKING]));
    check(job(json!({"suspend": true}), json!({})), &[], &["tell", STATUS]);
}

#[test]
fn a_success_is_noted_then_freed_then_counted() {
    let spec = json!({"completions": 1, "parallelism": 1});
    let status = check(job(spec.clone(), started()), &[pod("a", "Succeeded", true)], &[STATUS]);
    assert_eq!(status["uncountedTerminatedPods"]["succeeded"], json!(["a"]));
    assert_eq!(status["conditions"][0]["type"], "SuccessCriteriaMet");
    assert_eq!(
        plan(job(spec.clone(), status.clone()), &[pod("a", "Succeeded", true)], 1000)[0].line,
        "patch Pod default/a"
    );
    let status = check(job(spec.clone(), status), &[pod("a", "Succeeded", false)], &["tell", STATUS]);
    assert_eq!((&status["succeeded"], &status["conditions"][1]["type"]), (&json!(1), &json!("Complete")));
    check(job(spec, status), &[pod("a", "Succeeded", false)], &[]);
}

#[test]
fn failures_wait_and_then_end_the_job() {
    let spec = json!({"backoffLimit": 1});
    let mut once = pod("a", "Failed", false);
    once["status"]["containerStatuses"] = json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 3, "finishedAt": "1970-01-01T00:16:35Z"}}}]);
    let mut counted = started();
    counted["failed"] = json!(1);
    counted["ready"] = json!(0);
    counted["terminating"] = json!(0);
    check(job(spec.clone(), counted.clone()), std::slice::from_ref(&once), &[]);
    let made = plan(job(spec.clone(), counted.clone()), std::slice::from_ref(&once), 1005);
    assert_eq!(made[0].line, CREATE);
    let status = check(job(spec, counted), &[once.clone(), pod("b", "Failed", true)], &[STATUS]);
    assert_eq!(status["conditions"][0]["reason"], "BackoffLimitExceeded");

    let rule = |action: &str| {
        json!({"podFailurePolicy": {"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [3]}}]},
            "podReplacementPolicy": "Failed"})
    };
    once["metadata"]["finalizers"] = json!([TRACKING]);
    let status = check(job(rule("FailJob"), started()), std::slice::from_ref(&once), &[STATUS]);
    let message = "Container c for pod default/a failed with exit code 3 matching FailJob rule at index 0";
    assert_eq!(status["conditions"][0]["message"], message);
    let made = plan(job(rule("Ignore"), started()), &[once], 2000);
    assert_eq!(made[0].line, "patch Pod default/a", "let go without being counted");
    assert_eq!(made[1].line, CREATE);
}

#[test]
fn deadlines_and_suspension_take_pods_away() {
    let running = [pod("a", "Running", true)];
    let lines = ["delete Pod default/a", STATUS];
    let status = check(job(json!({"activeDeadlineSeconds": 100}), started()), &running, &lines);
    assert_eq!(status["conditions"][0]["reason"], "DeadlineExceeded");
    let lines = ["tell", "patch Pod default/a", "delete Pod default/a", STATUS];
    let status = check(job(json!({"suspend": true}), started()), &running, &lines);
    assert_eq!(status["conditions"][0]["reason"], "JobSuspended");
    assert_eq!(status.get("startTime"), None);
}

#[test]
fn indexes_are_completed_one_by_one() {
    let spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 2});
    let made = plan(job(spec, started()), &[indexed("a", "Succeeded", "0"), indexed("b", "Running", "1")], 1000);
    assert_eq!(made[0].line, "create Pod default/sum-2-");
    assert_eq!(made[0].body["spec"]["hostname"], "sum-2");
    assert_eq!(made[0].body["spec"]["containers"][0]["env"][0]["name"], "JOB_COMPLETION_INDEX");
    assert_eq!(made[1].body["status"]["completedIndexes"], "0");
    let limited = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimitPerIndex": 0});
    let made = plan(job(limited, started()), &[indexed("a", "Failed", "0"), indexed("b", "Succeeded", "1")], 1000);
    let status = &made.last().expect("a status").body["status"];
    assert_eq!((&status["failedIndexes"], &status["conditions"][0]["reason"]), (&json!("0"), &json!("FailedIndexes")));
    let early = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3,
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]}});
    let status = check(
        job(early, started()),
        &[indexed("a", "Succeeded", "0"), indexed("b", "Running", "1")],
        &["delete Pod default/b", STATUS],
    );
    assert_eq!(status["conditions"][0]["reason"], "SuccessPolicy");
}

#[test]
fn others_jobs_are_theirs() {
    check(job(json!({"managedBy": "example.org/x"}), json!({})), &[], &[]);
}
