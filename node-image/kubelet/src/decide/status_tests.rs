//! The status of a pod as it follows from what its containers do.

use super::*;
use crate::decide::backoff::Backoff;
use crate::decide::model::{ObservedSandbox, ProbeResults, StartFailure, Termination};
use serde_json::{Value, json};

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("time")
}

fn pod(spec: &Value) -> Pod {
    let mut full = json!({"containers": [{"name": "a", "image": "img"}]});
    full.as_object_mut().expect("map").extend(spec.as_object().expect("map").clone());
    serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3}, "spec": full}),
    )
    .expect("pod")
}

fn run(name: &str, attempt: u32, exit: Option<i32>) -> ObservedContainer {
    ObservedContainer {
        id: format!("{name}{attempt}"),
        name: name.into(),
        attempt,
        sandbox_id: "sb".into(),
        state: if exit.is_some() { RunState::Exited } else { RunState::Running },
        created_at: time(i64::from(attempt)),
        started_at: Some(time(10)),
        finished_at: exit.map(|_| time(20)),
        exit_code: exit.unwrap_or(0),
        reason: String::new(),
        message: String::new(),
        image: "img".into(),
        image_ref: "sha256:1".into(),
        hash: String::new(),
        log_path: String::new(),
        termination_message: exit.map(|_| "bye".to_owned()),
        limits: None,
    }
}

fn observed(containers: &[(&str, u32, Option<i32>)]) -> Observed {
    Observed {
        sandboxes: vec![ObservedSandbox {
            id: "sb".into(),
            attempt: 0,
            ready: true,
            created_at: time(0),
            ips: vec!["10.1.0.2".into()],
        }],
        containers: containers.iter().map(|(name, attempt, exit)| run(name, *attempt, *exit)).collect(),
    }
    .sorted()
}

fn facts() -> NodeFacts {
    NodeFacts { ips: vec!["10.0.0.1".into()], runtime: "containerd".into() }
}

fn of(spec: &Value, containers: &[(&str, u32, Option<i32>)], memory: &Memory) -> PodStatus {
    status(&pod(spec), &observed(containers), memory, &facts(), time(25))
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> &'a PodCondition {
    status.conditions.iter().flatten().find(|one| one.type_ == kind).expect("condition")
}

#[test]
fn phases() {
    let plain = |policy: &str| json!({"restartPolicy": policy});
    let init = |policy: &str| json!({"restartPolicy": policy, "initContainers": [{"name": "i"}]});
    let ended = || Memory {
        termination: Some(Termination { since: time(20), grace_seconds: 1, deleted: true, failed: None }),
        ..Memory::default()
    };
    for (spec, containers, memory, expected) in [
        (plain("Always"), vec![], Memory::default(), "Pending"),
        (plain("Always"), vec![("a", 0, None)], Memory::default(), "Running"),
        (plain("Always"), vec![("a", 0, Some(0))], Memory::default(), "Running"),
        (plain("OnFailure"), vec![("a", 0, Some(1))], Memory::default(), "Running"),
        (plain("OnFailure"), vec![("a", 0, Some(0))], Memory::default(), "Succeeded"),
        (plain("Never"), vec![("a", 0, Some(1))], Memory::default(), "Failed"),
        (plain("Always"), vec![("a", 0, Some(0))], ended(), "Succeeded"),
        (plain("Always"), vec![("a", 0, Some(137))], ended(), "Failed"),
        (plain("Always"), vec![], ended(), "Failed"),
        (plain("Always"), vec![("a", 0, None)], ended(), "Running"),
        (init("Always"), vec![("i", 0, None)], Memory::default(), "Pending"),
        (init("Always"), vec![("i", 0, Some(1))], Memory::default(), "Pending"),
        (init("Never"), vec![("i", 0, Some(1))], Memory::default(), "Failed"),
        (init("Never"), vec![("i", 0, Some(0))], Memory::default(), "Pending"),
        (init("Never"), vec![("i", 0, Some(0)), ("a", 0, None)], Memory::default(), "Running"),
    ] {
        assert_eq!(of(&spec, &containers, &memory).phase.as_deref(), Some(expected), "{spec} {containers:?}");
    }
}

fn reason(status: &ContainerStatus) -> String {
    let state = status.state.as_ref().expect("state");
    let waiting = state.waiting.as_ref().and_then(|one| one.reason.clone());
    let terminated = state.terminated.as_ref().and_then(|one| one.reason.clone());
    waiting.or(terminated).unwrap_or_else(|| "Running".into())
}

#[test]
fn why_a_container_waits() {
    let failure = |reason, retry| {
        let mut memory = Memory::default();
        let failure = StartFailure { reason, message: "why".into(), retry_at: time(retry) };
        memory.failures.insert("a".into(), failure);
        memory
    };
    let mut crashed = Memory::default();
    let mut backoff = Backoff::default();
    backoff.next(time(20), time(20));
    crashed.crashes.insert("a".into(), backoff);
    let init = json!({"initContainers": [{"name": "i"}]});
    for (spec, containers, memory, expected) in [
        (json!({}), vec![], Memory::default(), "ContainerCreating"),
        (init, vec![], Memory::default(), "PodInitializing"),
        (json!({}), vec![], failure("ErrImagePull", 20), "ErrImagePull"),
        (json!({}), vec![], failure("ErrImagePull", 30), "ImagePullBackOff"),
        (json!({}), vec![], failure("CreateContainerConfigError", 30), "CreateContainerConfigError"),
        (json!({}), vec![("a", 0, Some(1))], crashed.clone(), "CrashLoopBackOff"),
        (json!({}), vec![("a", 0, Some(1))], Memory::default(), "Error"),
        (json!({}), vec![("a", 0, Some(0))], Memory::default(), "Completed"),
        (json!({"restartPolicy": "Never"}), vec![("a", 0, Some(1))], crashed, "Error"),
        (json!({}), vec![("a", 0, None)], Memory::default(), "Running"),
    ] {
        let status = of(&spec, &containers, &memory);
        assert_eq!(reason(&status.container_statuses.expect("set")[0]), expected, "{spec} {containers:?}");
    }
}

#[test]
fn a_restarted_container_remembers() {
    let status = of(&json!({}), &[("a", 0, Some(3)), ("a", 1, None)], &Memory::default());
    let one = &status.container_statuses.as_ref().expect("set")[0];
    assert_eq!((one.restart_count, one.ready, one.started), (1, true, Some(true)));
    let last = one.last_state.as_ref().and_then(|state| state.terminated.as_ref()).expect("terminated");
    assert_eq!((last.exit_code, last.message.as_deref()), (3, Some("bye")));
    assert_eq!(one.container_id.as_deref(), Some("containerd://a1"));
    assert_eq!(status.pod_ip.as_deref(), Some("10.1.0.2"));
    assert_eq!(status.observed_generation, Some(3));
}

#[test]
fn readiness_follows_probes_and_gates() {
    let probed = json!({"containers": [{"name": "a", "readinessProbe": {}}]});
    let mut memory = Memory::default();
    let state = [("a", 0, None)];
    assert_eq!(condition(&of(&probed, &state, &memory), "Ready").reason.as_deref(), Some("ContainersNotReady"));
    memory.probes.insert("a0".into(), ProbeResults { ready: true, ..ProbeResults::default() });
    assert_eq!(condition(&of(&probed, &state, &memory), "Ready").status, "True");
    let gated = json!({"readinessGates": [{"conditionType": "x/y"}]});
    let status = of(&gated, &state, &Memory::default());
    assert_eq!(condition(&status, "ContainersReady").status, "True");
    assert_eq!(condition(&status, "Ready").reason.as_deref(), Some("ReadinessGatesNotReady"));
}

#[test]
fn startup_comes_before_ready() {
    let spec = json!({"containers": [{"name": "a", "startupProbe": {}}]});
    let mut memory = Memory::default();
    let one = |memory: &Memory| of(&spec, &[("a", 0, None)], memory).container_statuses.expect("set").remove(0);
    assert_eq!((one(&memory).started, one(&memory).ready), (Some(false), false));
    memory.probes.insert("a0".into(), ProbeResults { started: true, ..ProbeResults::default() });
    assert_eq!((one(&memory).started, one(&memory).ready), (Some(true), true));
}

#[test]
fn strangers_conditions_and_transition_times_stay() {
    let mut pod = pod(&json!({}));
    pod.status = Some(
        serde_json::from_value(json!({"conditions": [
            {"type": "DisruptionTarget", "status": "True"},
            {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"},
        ]}))
        .expect("status"),
    );
    let status = status(&pod, &observed(&[("a", 0, None)]), &Memory::default(), &facts(), time(25));
    assert_eq!(condition(&status, "DisruptionTarget").status, "True");
    let ready = condition(&status, "Ready");
    assert_eq!(ready.last_transition_time.as_ref().expect("set").0.to_string(), "2020-01-01T00:00:00Z");
}

#[test]
fn refused_and_evicted_pods_say_why() {
    let memory = Memory { rejected: Some(("OutOfcpu".into(), "full".into())), ..Memory::default() };
    let refused = status(&pod(&json!({})), &Observed::default(), &memory, &facts(), time(25));
    assert_eq!((refused.phase.as_deref(), refused.reason.as_deref()), (Some("Failed"), Some("OutOfcpu")));
    assert!(refused.container_statuses.is_none());
    let failed = Some(("Evicted".to_owned(), "low".to_owned()));
    let termination = Termination { since: time(20), grace_seconds: 0, deleted: false, failed };
    let memory = Memory { termination: Some(termination), ..Memory::default() };
    let going = of(&json!({}), &[("a", 0, None)], &memory);
    assert_eq!(going.phase.as_deref(), Some("Running"));
    let gone = of(&json!({}), &[("a", 0, Some(137))], &memory);
    assert_eq!((gone.phase.as_deref(), gone.reason.as_deref()), (Some("Failed"), Some("Evicted")));
}

#[test]
fn what_the_runtime_lost_is_not_running() {
    let mut pod = pod(&json!({}));
    pod.status = Some(
        serde_json::from_value(
            json!({"phase": "Running", "containerStatuses": [{"name": "a", "image": "img", "imageID": "x",
            "ready": true, "restartCount": 2, "containerID": "containerd://z", "state": {"running": {}}}]}),
        )
        .expect("status"),
    );
    let termination = Termination { since: time(20), grace_seconds: 0, deleted: true, failed: None };
    let memory = Memory { termination: Some(termination), ..Memory::default() };
    let got = status(&pod, &Observed::default(), &memory, &facts(), time(25));
    let one = &got.container_statuses.as_ref().expect("set")[0];
    assert_eq!((reason(one).as_str(), one.restart_count), ("ContainerStatusUnknown", 2));
    assert_eq!(got.phase.as_deref(), Some("Failed"));
}

#[test]
fn durations_are_gos() {
    for (seconds, expected) in [(10, "10s"), (80, "1m20s"), (300, "5m0s")] {
        assert_eq!(go_duration(seconds), expected);
    }
}
