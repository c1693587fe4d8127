//! The plan for one pod, case by case.

use super::*;
use crate::decide::backoff::Backoff;
use crate::decide::model::{ObservedSandbox, ProbeResults, StartFailure};
use crate::decide::names::container_hash;
use serde_json::{Value, json};

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("time")
}

fn pod(spec: &Value) -> Pod {
    let mut full = json!({"containers": [{"name": "a"}]});
    full.as_object_mut().expect("map").extend(spec.as_object().expect("map").clone());
    serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": full})).expect("pod")
}

/// Sandbox and containers as words: `sb`, `sb!` (dead), `a=run`, `a=0` (exited with that code), `a#1=run`, `a@old=run`.
fn observed(pod: &Pod, words: &str) -> Observed {
    let mut out = Observed::default();
    for (index, word) in words.split_whitespace().enumerate() {
        let index = i64::try_from(index).expect("small");
        let Some((name, state)) = word.split_once('=') else {
            let ready = !word.ends_with('!');
            out.sandboxes.push(ObservedSandbox {
                id: word.trim_end_matches('!').into(),
                attempt: u32::from(word.starts_with("sb1")),
                ready,
                created_at: time(index),
                ips: vec!["10.0.0.2".into()],
            });
            continue;
        };
        let (name, sandbox) = name.split_once('@').unwrap_or((name, "sb"));
        let (name, attempt) = name.split_once('#').unwrap_or((name, "0"));
        let exit = state.parse().ok();
        let hash =
            crate::decide::model::container_named(pod, name).map(|(_, one)| container_hash(&one)).unwrap_or_default();
        out.containers.push(ObservedContainer {
            id: format!("{name}{attempt}"),
            name: name.into(),
            attempt: attempt.parse().expect("number"),
            sandbox_id: sandbox.into(),
            state: match (exit, state) {
                (Some(_), _) => RunState::Exited,
                (None, "created") => RunState::Created,
                _ => RunState::Running,
            },
            created_at: time(index),
            started_at: Some(time(50)),
            finished_at: exit.map(|_| time(100)),
            exit_code: exit.unwrap_or(0),
            reason: String::new(),
            message: String::new(),
            image: String::new(),
            image_ref: String::new(),
            hash: if state == "changed" { "other".into() } else { hash },
            log_path: String::new(),
            termination_message: None,
            limits: None,
        });
    }
    out.sorted()
}

/// Actions in short words.
fn words(plan: &Plan) -> String {
    let word = |action: &Action| match action {
        Action::CreateSandbox { attempt } => format!("sandbox#{attempt}"),
        Action::StopSandbox { id } => format!("stop:{id}"),
        Action::Start { name, attempt } => format!("start:{name}#{attempt}"),
        Action::Kill { name, grace_seconds, .. } => format!("kill:{name}/{grace_seconds}"),
        Action::Remove { id } => format!("remove:{id}"),
        Action::Resize { name, .. } => format!("resize:{name}"),
        Action::Terminate(_) => "terminate".into(),
        Action::TearDown => "teardown".into(),
    };
    plan.actions.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn check(spec: &Value, state: &str, expected: &str) {
    let pod = pod(spec);
    let got = plan(&pod, &observed(&pod, state), &Memory::default(), time(100));
    assert_eq!(words(&got), expected, "{spec} with {state:?}");
}

#[test]
fn a_plain_pod() {
    for (policy, state, expected) in [
        ("Always", "", "sandbox#0"),
        ("Always", "sb", "start:a#0"),
        ("Always", "sb a=run", ""),
        ("Always", "sb a=created", "remove:a0 start:a#0"),
        ("Always", "sb a=0", "start:a#1"),
        ("Always", "sb a=0 a#1=run", ""),
        ("OnFailure", "sb a=1", "start:a#1"),
        ("OnFailure", "sb a=0", "stop:sb"),
        ("Never", "sb a=1", "stop:sb"),
        ("Never", "sb! a=1", "teardown"),
        ("Always", "sb a=changed", "kill:a/30"),
        ("Always", "sb! a=run", "kill:a/2"),
        ("Always", "sb! a=137", "stop:sb sandbox#1"),
        ("Always", "sb! sb1 a=137", "start:a#1"),
        ("Always", "sb! sb1 a=run", "kill:a/2 start:a#1"),
    ] {
        check(&json!({"restartPolicy": policy}), state, expected);
    }
}

#[test]
fn init_containers_run_in_order() {
    let spec = |policy: &str| json!({"restartPolicy": policy, "initContainers": [{"name": "i"}, {"name": "j"}]});
    for (policy, state, expected) in [
        ("Always", "sb", "start:i#0"),
        ("Always", "sb i=run", ""),
        ("Always", "sb i=0", "start:j#0"),
        ("Always", "sb i=1", "start:i#1"),
        ("Always", "sb i=0 j=0", "start:a#0"),
        ("Never", "sb i=1", "stop:sb"),
        ("Never", "sb! i=1", "teardown"),
        ("Always", "sb i=0 j=0 a=run", ""),
        ("Always", "sb! i=0 j=0 a=1", "stop:sb sandbox#1"),
        ("Always", "sb! sb1 i=0 j=0 a=1", "start:i#1"),
    ] {
        check(&spec(policy), state, expected);
    }
}

#[test]
fn sidecars_start_in_order_and_end_last() {
    let spec = |policy: &str| {
        json!({"restartPolicy": policy, "initContainers": [
            {"name": "s", "restartPolicy": "Always"}, {"name": "i"}, {"name": "t", "restartPolicy": "Always"}]})
    };
    for (policy, state, expected) in [
        ("Never", "sb", "start:s#0"),
        ("Never", "sb s=run", "start:i#0"),
        ("Never", "sb s=1", "start:s#1"),
        ("Never", "sb s=run i=0", "start:t#0"),
        ("Never", "sb s=run i=0 t=run", "start:a#0"),
        ("Never", "sb s=0 i=0 t=run a=run", "start:s#1"),
        ("Never", "sb s=run i=0 t=run a=0", "kill:t/30"),
        ("Never", "sb s=run i=0 t=0 a=0", "kill:s/30"),
        ("Never", "sb s=0 i=0 t=0 a=0", "stop:sb"),
    ] {
        check(&spec(policy), state, expected);
    }
}

#[test]
fn ephemeral_containers_start_once() {
    let spec = json!({"ephemeralContainers": [{"name": "e", "image": "x"}]});
    check(&spec, "sb a=run", "start:e#0");
    check(&spec, "sb a=run e=1", "");
}

#[test]
fn a_containers_own_policy_wins() {
    let rules = json!({"restartPolicy": "Never", "containers": [{"name": "a", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]});
    check(&rules, "sb a=42", "start:a#1");
    check(&rules, "sb a=1", "stop:sb");
    check(
        &json!({"restartPolicy": "Never", "containers": [{"name": "a", "restartPolicy": "OnFailure"}]}),
        "sb a=1",
        "start:a#1",
    );
}

#[test]
fn crashes_wait() {
    let pod = pod(&json!({}));
    let mut memory = Memory::default();
    let mut backoff = Backoff::default();
    backoff.next(time(100), time(100));
    memory.crashes.insert("a".into(), backoff);
    let state = observed(&pod, "sb a=1");
    let early = plan(&pod, &state, &memory, time(105));
    assert_eq!((words(&early).as_str(), early.wake_at), ("", Some(time(110))));
    assert_eq!(words(&plan(&pod, &state, &memory, time(110))), "start:a#1");
}

#[test]
fn failed_starts_wait() {
    let pod = pod(&json!({}));
    let mut memory = Memory::default();
    let failure = StartFailure { reason: "ErrImagePull", message: String::new(), retry_at: time(200) };
    memory.failures.insert("a".into(), failure.clone());
    let waiting = plan(&pod, &observed(&pod, "sb"), &memory, time(150));
    assert_eq!((words(&waiting).as_str(), waiting.wake_at), ("", Some(time(200))));
    assert_eq!(words(&plan(&pod, &observed(&pod, "sb"), &memory, time(200))), "start:a#0");
    memory.pod_failure = Some(failure);
    assert_eq!(words(&plan(&pod, &observed(&pod, ""), &memory, time(150))), "");
}

#[test]
fn failed_probes_end_a_container() {
    let pod = pod(&json!({"containers": [{"name": "a", "livenessProbe": {"terminationGracePeriodSeconds": 7}}]}));
    let mut memory = Memory::default();
    memory.probes.insert("a0".into(), ProbeResults { failed: Some("liveness"), ..ProbeResults::default() });
    assert_eq!(words(&plan(&pod, &observed(&pod, "sb a=run"), &memory, time(100))), "kill:a/7");
    memory.killing.insert("a0".into());
    assert_eq!(words(&plan(&pod, &observed(&pod, "sb a=run"), &memory, time(100))), "");
}

#[test]
fn a_sidecar_holds_back_until_its_startup_probe_passed() {
    let pod = pod(&json!({"initContainers": [{"name": "s", "restartPolicy": "Always", "startupProbe": {}}]}));
    let mut memory = Memory::default();
    let state = observed(&pod, "sb s=run");
    assert_eq!(words(&plan(&pod, &state, &memory, time(100))), "");
    memory.probes.insert("s0".into(), ProbeResults { started: true, ..ProbeResults::default() });
    assert_eq!(words(&plan(&pod, &state, &memory, time(100))), "start:a#0");
}

#[test]
fn a_deadline_ends_the_pod() {
    let pod = pod(&json!({"activeDeadlineSeconds": 30}));
    let memory = Memory { started_at: Some(time(100)), ..Memory::default() };
    let state = observed(&pod, "sb a=run");
    assert_eq!(plan(&pod, &state, &memory, time(129)).wake_at, Some(time(130)));
    assert_eq!(words(&plan(&pod, &state, &memory, time(130))), "terminate");
}

#[test]
fn deletion_step_by_step() {
    let spec = json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}]});
    let pod = pod(&spec);
    let ending = |grace_seconds| Memory {
        termination: Some(Termination { since: time(100), grace_seconds, deleted: true, failed: None }),
        ..Memory::default()
    };
    for (grace, now, state, expected) in [
        (30, 100, "sb s=run a=run", "kill:a/30"),
        (30, 120, "sb s=run a=run", "kill:a/10"),
        (30, 200, "sb s=run a=run", "kill:a/2"),
        (30, 110, "sb s=run a=0", "kill:s/20"),
        (0, 100, "sb s=run a=run", "kill:s/0 kill:a/0"),
        (30, 110, "sb s=0 a=0", "stop:sb"),
        (30, 110, "sb! s=0 a=0", "teardown"),
    ] {
        let got = plan(&pod, &observed(&pod, state), &ending(grace), time(now));
        let mut sorted: Vec<_> = words(&got).split(' ').map(str::to_owned).collect();
        sorted.sort_by_key(|word| std::cmp::Reverse(word.clone()));
        assert_eq!(sorted.join(" "), expected, "{grace} {now} {state}");
    }
    let done = Memory { torn_down: true, ..ending(30) };
    assert_eq!(plan(&pod, &observed(&pod, "sb! a=0"), &done, time(110)), Plan::default());
}

#[test]
fn what_is_over_stays_over() {
    let mut pod = pod(&json!({"restartPolicy": "Always"}));
    pod.status = Some(serde_json::from_value(json!({"phase": "Failed"})).expect("status"));
    let got = plan(&pod, &observed(&pod, ""), &Memory::default(), time(100));
    assert_eq!(words(&got), "teardown");
    assert!(got.finished);
    // Also when a status that was under way has written over it.
    pod.status = Some(serde_json::from_value(json!({"phase": "Running"})).expect("status"));
    let got = plan(&pod, &observed(&pod, ""), &Memory { over: true, ..Memory::default() }, time(100));
    assert_eq!(words(&got), "teardown");
}
