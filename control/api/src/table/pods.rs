//! The row of a pod: what state its containers add up to.

use jiff::Timestamp;

use super::read::{NONE, age, name, since, text_or};
use crate::Value;

/// What containers add up to.
#[derive(Default)]
struct Sum<'a> {
    ready: usize,
    restarts: i64,
    /// When a container ended last.
    last: &'a str,
    reason: String,
}

impl<'a> Sum<'a> {
    fn restarted(&mut self, status: &'a Value) {
        self.restarts += status.int_at(&["restartCount"]).unwrap_or(0);
        let ended = status.str_at(&["lastState", "terminated", "finishedAt"]);
        // Times of the API compare as text: same zone, same width.
        if ended > self.last {
            self.last = ended;
        }
    }
}

fn is_sidecar(container: Option<&Value>) -> bool {
    container.is_some_and(|container| container.str_at(&["restartPolicy"]) == "Always")
}

fn has_condition(pod: &Value, kind: &str) -> bool {
    super::read::condition(pod, kind)
}

/// `Signal:9` or `ExitCode:1` of a container that gave no reason.
fn ended(state: &Value) -> String {
    let number = |member: &str| state.int_at(&[member]).unwrap_or(0);
    match (state.str_at(&["reason"]), number("signal")) {
        ("", 0) => format!("ExitCode:{}", number("exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// Whether init containers still hold the pod up; counts sidecars on the way.
fn init<'a>(pod: &'a Value, all: &mut Sum<'a>, sidecars: &mut Sum<'a>) -> bool {
    let declared = pod.list_at(&["spec", "initContainers"]);
    for (at, status) in pod.list_at(&["status", "initContainerStatuses"]).iter().enumerate() {
        all.restarted(status);
        let own = declared.iter().find(|one| one.str_at(&["name"]) == status.str_at(&["name"]));
        let sidecar = is_sidecar(own);
        if sidecar {
            sidecars.restarted(status);
        }
        let terminated = status.at(&["state", "terminated"]).filter(|state| !state.is_null());
        let waiting = status.str_at(&["state", "waiting", "reason"]);
        if terminated.is_some_and(|state| state.int_at(&["exitCode"]).unwrap_or(0) == 0) {
            continue;
        }
        if sidecar && status.bool_at(&["started"]) == Some(true) {
            all.ready += usize::from(status.bool_at(&["ready"]) == Some(true));
            continue;
        }
        all.reason = match terminated {
            Some(state) => format!("Init:{}", ended(state)),
            None if !matches!(waiting, "" | "PodInitializing") => format!("Init:{waiting}"),
            None => format!("Init:{at}/{}", declared.len()),
        };
        return true;
    }
    false
}

fn main_containers<'a>(pod: &'a Value, sum: &mut Sum<'a>) {
    let (mut running, mut failure) = (false, String::new());
    for status in pod.list_at(&["status", "containerStatuses"]).iter().rev() {
        sum.restarted(status);
        let waiting = status.str_at(&["state", "waiting", "reason"]);
        let state = |kind: &str| status.at(&["state", kind]).filter(|state| !state.is_null());
        if !waiting.is_empty() {
            sum.reason = waiting.to_owned();
        } else if let Some(terminated) = state("terminated") {
            sum.reason = ended(terminated);
            if terminated.int_at(&["exitCode"]).unwrap_or(0) != 0 {
                failure.clone_from(&sum.reason);
            }
        } else if status.bool_at(&["ready"]) == Some(true) && state("running").is_some() {
            running = true;
            sum.ready += 1;
        }
    }
    if sum.reason == "Completed" {
        if running && has_condition(pod, "Ready") {
            sum.reason = "Running".into();
        } else if !failure.is_empty() {
            sum.reason = failure;
        } else if running {
            sum.reason = "NotReady".into();
        }
    }
}

fn state(pod: &Value) -> Sum<'_> {
    let phase = pod.str_at(&["status", "phase"]);
    let given = pod.str_at(&["status", "reason"]);
    let mut sum = Sum { reason: if given.is_empty() { phase } else { given }.to_owned(), ..Sum::default() };
    let gated = |one: &Value| one.str_at(&["type"]) == "PodScheduled" && one.str_at(&["reason"]) == "SchedulingGated";
    if pod.list_at(&["status", "conditions"]).iter().any(gated) {
        sum.reason = "SchedulingGated".into();
    }
    let mut sidecars = Sum::default();
    let initializing = init(pod, &mut sum, &mut sidecars);
    if !initializing || has_condition(pod, "Initialized") {
        sum.restarts = sidecars.restarts;
        sum.last = sidecars.last;
        main_containers(pod, &mut sum);
    }
    let leaving = pod.at(&["metadata", "deletionTimestamp"]).is_some_and(|time| !time.is_null());
    if leaving && given == "NodeLost" {
        sum.reason = "Unknown".into();
    } else if leaving && !matches!(phase, "Succeeded" | "Failed") {
        sum.reason = "Terminating".into();
    }
    sum
}

fn gates(pod: &Value) -> String {
    let gates = pod.list_at(&["spec", "readinessGates"]);
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let open = gates.iter().filter(|gate| has_condition(pod, gate.str_at(&["conditionType"]))).count();
    format!("{open}/{}", gates.len())
}

pub(super) fn pod(pod: &Value, now: Timestamp) -> Vec<Value> {
    let sidecars = pod.list_at(&["spec", "initContainers"]).iter().filter(|one| is_sidecar(Some(one))).count();
    let total = pod.list_at(&["spec", "containers"]).len() + sidecars;
    let sum = state(pod);
    let restarts = if sum.restarts != 0 && !sum.last.is_empty() {
        format!("{} ({} ago)", sum.restarts, since(sum.last, now))
    } else {
        sum.restarts.to_string()
    };
    let ip = pod.list_at(&["status", "podIPs"]).first().map_or("", |first| first.str_at(&["ip"]));
    vec![
        name(pod),
        Value::from(format!("{}/{total}", sum.ready)),
        Value::from(sum.reason),
        Value::from(restarts),
        age(pod, now),
        Value::from(if ip.is_empty() { NONE } else { ip }),
        text_or(pod, &["spec", "nodeName"], NONE),
        text_or(pod, &["status", "nominatedNodeName"], NONE),
        Value::from(gates(pod)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    fn shown(json: Json) -> (String, String, String) {
        let cells = pod(&Value::from(json), Timestamp::from_second(360).unwrap());
        let text = |at: usize| cells[at].as_str().unwrap().to_owned();
        (text(1), text(2), text(3))
    }

    #[test]
    fn states_read_like_upstream() {
        let running = json!({"name": "c", "ready": true, "state": {"running": {}}});
        let two = json!([{"name": "c"}, {"name": "d"}]);
        for (spec, status, expected) in [
            (json!({"containers": two}), json!({"phase": "Pending"}), ("0/2", "Pending", "0")),
            (
                json!({"containers": two}),
                json!({"phase": "Running", "containerStatuses": [running, {"state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "restartCount": 3, "lastState": {"terminated": {"finishedAt": "1970-01-01T00:01:00Z"}}}]}),
                ("1/2", "CrashLoopBackOff", "3 (5m ago)"),
            ),
            (
                json!({"containers": [{"name": "c"}]}),
                json!({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"reason": "Completed"}}}]}),
                ("0/1", "Completed", "0"),
            ),
            (
                json!({"containers": [{"name": "c"}]}),
                json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}),
                ("0/1", "ExitCode:3", "0"),
            ),
            (
                json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i"}, {"name": "j"}]}),
                json!({"phase": "Pending", "initContainerStatuses": [
                    {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]}),
                ("0/1", "Init:1/2", "0"),
            ),
            (
                json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i"}]}),
                json!({"initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
                ("0/1", "Init:Error", "0"),
            ),
            (
                json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i", "restartPolicy": "Always"}]}),
                json!({"phase": "Running", "initContainerStatuses": [{"name": "i", "started": true, "ready": true}],
                       "containerStatuses": [running]}),
                ("2/2", "Running", "0"),
            ),
        ] {
            let got = shown(json!({"spec": spec, "status": status}));
            assert_eq!((got.0.as_str(), got.1.as_str(), got.2.as_str()), expected);
        }
    }

    #[test]
    fn a_deleted_pod_terminates() {
        let pod = json!({"metadata": {"deletionTimestamp": "t"}, "status": {"phase": "Running"}});
        assert_eq!(shown(pod).1, "Terminating");
        let lost =
            json!({"metadata": {"deletionTimestamp": "t"}, "status": {"phase": "Running", "reason": "NodeLost"}});
        assert_eq!(shown(lost).1, "Unknown");
    }
}
