//! Rows of nodes, namespaces, events, access, certificates, admission, flow control and the rest.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::duration::human_duration;
use super::read::{NONE, UNKNOWN, UNSET, age, amount, count, int, labels, name, since, some_of, text, text_or, truth};
use crate::Value;

pub(super) fn name_and_age(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

pub(super) fn name_and_creation(object: &Value, _: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, &["metadata", "creationTimestamp"])]
}

fn roles(node: &Value) -> String {
    let labels = node.at(&["metadata", "labels"]).and_then(Value::as_object);
    let roles: BTreeSet<&str> = labels
        .into_iter()
        .flat_map(|labels| labels.iter())
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    if roles.is_empty() { NONE.to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

pub(super) fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let conditions = object.list_at(&["status", "conditions"]);
    let mut state = match conditions.iter().find(|one| one.str_at(&["type"]) == "Ready") {
        Some(ready) if ready.str_at(&["status"]) == "True" => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if object.bool_at(&["spec", "unschedulable"]) == Some(true) {
        state.push_str(",SchedulingDisabled");
    }
    let address = |kind: &str| {
        let addresses = object.list_at(&["status", "addresses"]);
        let found = addresses.iter().find(|one| one.str_at(&["type"]) == kind);
        Value::from(found.map_or(NONE, |one| one.str_at(&["address"])))
    };
    let info = |member: &str| match object.str_at(&["status", "nodeInfo", member]) {
        "" => UNKNOWN,
        text => text,
    };
    let architecture = object.str_at(&["status", "nodeInfo", "architecture"]);
    let kernel = match architecture {
        "" => info("kernelVersion").to_owned(),
        architecture => format!("{} ({architecture})", info("kernelVersion")),
    };
    vec![
        name(object),
        Value::from(state),
        Value::from(roles(object)),
        age(object, now),
        text(object, &["status", "nodeInfo", "kubeletVersion"]),
        address("InternalIP"),
        address("ExternalIP"),
        Value::from(info("osImage")),
        Value::from(kernel),
        Value::from(info("containerRuntimeVersion")),
    ]
}

/// The first that is not empty: events of the two groups name their members differently.
fn either<'a>(object: &'a Value, paths: &[&[&str]]) -> &'a str {
    paths.iter().map(|path| object.str_at(path)).find(|text| !text.is_empty()).unwrap_or("")
}

pub(super) fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let happened = object.str_at(&["eventTime"]);
    let at = |paths: &[&[&str]], otherwise: &str| match either(object, paths) {
        "" => since(otherwise, now),
        time => since(time, now),
    };
    let first = at(&[&["firstTimestamp"], &["deprecatedFirstTimestamp"]], happened);
    let mut last = match either(object, &[&["lastTimestamp"], &["deprecatedLastTimestamp"]]) {
        "" => first.clone(),
        time => since(time, now),
    };
    let counted = object.int_at(&["count"]).or_else(|| object.int_at(&["deprecatedCount"])).unwrap_or(0);
    let mut times = counted.max(1);
    if let Some(series) = object.get("series").filter(|series| !series.is_null()) {
        last = since(series.str_at(&["lastObservedTime"]), now);
        times = series.int_at(&["count"]).unwrap_or(0);
    }
    let about = object.get("involvedObject").or_else(|| object.get("regarding")).cloned().unwrap_or_default();
    let kind = about.str_at(&["kind"]).to_lowercase();
    let target = match about.str_at(&["name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component = either(
        object,
        &[
            &["source", "component"],
            &["deprecatedSource", "component"],
            &["reportingComponent"],
            &["reportingController"],
        ],
    );
    let host = either(object, &[&["source", "host"], &["deprecatedSource", "host"], &["reportingInstance"]]);
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    vec![
        Value::from(last),
        text(object, &["type"]),
        text(object, &["reason"]),
        Value::from(target),
        text(&about, &["fieldPath"]),
        Value::from(source),
        Value::from(either(object, &[&["message"], &["note"]]).trim()),
        Value::from(first),
        Value::Int(times),
        name(object),
    ]
}

pub(super) fn namespace(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, &["status", "phase"]), age(object, now)]
}

pub(super) fn secret(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, &["type"]), count(object, &["data"]), age(object, now)]
}

pub(super) fn config_map(object: &Value, now: Timestamp) -> Vec<Value> {
    let entries = [count(object, &["data"]), count(object, &["binaryData"])];
    let entries = entries.iter().filter_map(Value::as_int).sum::<i64>();
    vec![name(object), Value::Int(entries), age(object, now)]
}

pub(super) fn resource_quota(object: &Value, now: Timestamp) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    let hard = object.at(&["status", "hard"]).and_then(Value::as_object);
    for (resource, hard) in hard.into_iter().flat_map(|hard| hard.iter()) {
        let used = amount(object.at(&["status", "used", resource]));
        let column = if resource.starts_with("limits.") { &mut limits } else { &mut requests };
        column.push(format!("{resource}: {used}/{}", amount(Some(hard))));
    }
    vec![name(object), Value::from(requests.join(", ")), Value::from(limits.join(", ")), age(object, now)]
}

pub(super) fn component_status(object: &Value, _: Timestamp) -> Vec<Value> {
    let healthy = object.list_at(&["conditions"]).iter().find(|one| one.str_at(&["type"]) == "Healthy");
    let state = match healthy {
        Some(one) if one.str_at(&["status"]) == "True" => "Healthy",
        Some(_) => "Unhealthy",
        None => "Unknown",
    };
    let part = |member: &str| Value::from(healthy.map_or("", |one| one.str_at(&[member])));
    vec![name(object), Value::from(state), part("message"), part("error")]
}

pub(super) fn role_binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let role = format!("{}/{}", object.str_at(&["roleRef", "kind"]), object.str_at(&["roleRef", "name"]));
    let subjects = |kind: &str| {
        let subjects = object.list_at(&["subjects"]).iter().filter(|one| one.str_at(&["kind"]) == kind);
        let names = subjects.map(|one| match kind {
            "ServiceAccount" => format!("{}/{}", one.str_at(&["namespace"]), one.str_at(&["name"])),
            _ => one.str_at(&["name"]).to_owned(),
        });
        Value::from(names.collect::<Vec<_>>().join(", "))
    };
    vec![
        name(object),
        Value::from(role),
        age(object, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

pub(super) fn signing_request(object: &Value, now: Timestamp) -> Vec<Value> {
    let conditions = object.list_at(&["status", "conditions"]);
    let has = |kind: &str| conditions.iter().any(|one| one.str_at(&["type"]) == kind);
    let mut state = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !object.str_at(&["status", "certificate"]).is_empty() {
        state.push_str(",Issued");
    }
    let duration = object.int_at(&["spec", "expirationSeconds"]);
    vec![
        name(object),
        age(object, now),
        text_or(object, &["spec", "signerName"], NONE),
        text(object, &["spec", "username"]),
        Value::from(duration.map_or_else(|| NONE.to_owned(), human_duration)),
        Value::from(state),
    ]
}

pub(super) fn trust_bundle(object: &Value, _: Timestamp) -> Vec<Value> {
    vec![name(object), text_or(object, &["spec", "signerName"], NONE)]
}

pub(super) fn pod_certificate_request(object: &Value, _: Timestamp) -> Vec<Value> {
    let conditions = object.list_at(&["status", "conditions"]);
    let known = |one: &&Value| matches!(one.str_at(&["type"]), "Issued" | "Denied" | "Failed");
    let state = conditions.iter().rev().find(known).map_or("Pending", |one| one.str_at(&["type"]));
    vec![
        name(object),
        text(object, &["spec", "podName"]),
        text(object, &["spec", "serviceAccountName"]),
        text(object, &["spec", "nodeName"]),
        text(object, &["spec", "signerName"]),
        Value::from(state),
        labels(object.at(&["spec", "unverifiedUserAnnotations"])),
    ]
}

pub(super) fn lease(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, &["spec", "holderIdentity"]), age(object, now)]
}

pub(super) fn lease_candidate(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text(object, &["spec", "leaseName"]),
        text(object, &["spec", "binaryVersion"]),
        text(object, &["spec", "emulationVersion"]),
        age(object, now),
    ]
}

pub(super) fn priority_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        int(object, &["value"]),
        truth(object, &["globalDefault"], false),
        age(object, now),
        text(object, &["preemptionPolicy"]),
    ]
}

pub(super) fn runtime_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, &["handler"]), age(object, now)]
}

pub(super) fn webhooks(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), count(object, &["webhooks"]), age(object, now)]
}

fn policy(object: &Value, now: Timestamp, rules: &str) -> Vec<Value> {
    let parameters = object.at(&["spec", "paramKind"]).filter(|kind| !kind.is_null());
    let parameters = parameters.map_or_else(
        || UNSET.to_owned(),
        |kind| format!("{}/{}", kind.str_at(&["apiVersion"]), kind.str_at(&["kind"])),
    );
    vec![name(object), count(object, &["spec", rules]), Value::from(parameters), age(object, now)]
}

pub(super) fn validating_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    policy(object, now, "validations")
}

pub(super) fn mutating_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    policy(object, now, "mutations")
}

pub(super) fn policy_binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let reference = object.at(&["spec", "paramRef"]).filter(|reference| !reference.is_null());
    let parameters = reference.map_or_else(
        || UNSET.to_owned(),
        |reference| match (reference.str_at(&["namespace"]), reference.str_at(&["name"])) {
            (_, "") => super::read::selector(reference.get("selector")).as_str().unwrap_or(UNSET).to_owned(),
            ("", name) => format!("*/{name}"),
            (namespace, name) => format!("{namespace}/{name}"),
        },
    );
    vec![name(object), text(object, &["spec", "policyName"]), Value::from(parameters), age(object, now)]
}

pub(super) fn api_service(object: &Value, now: Timestamp) -> Vec<Value> {
    let service = object.at(&["spec", "service"]).filter(|service| !service.is_null());
    let service = service.map_or_else(
        || "Local".to_owned(),
        |service| format!("{}/{}", service.str_at(&["namespace"]), service.str_at(&["name"])),
    );
    let conditions = object.list_at(&["status", "conditions"]);
    let available = match conditions.iter().find(|one| one.str_at(&["type"]) == "Available") {
        Some(one) if one.str_at(&["status"]) != "True" => {
            format!("{} ({})", one.str_at(&["status"]), one.str_at(&["reason"]))
        }
        Some(one) => one.str_at(&["status"]).to_owned(),
        None => "Unknown".to_owned(),
    };
    vec![name(object), Value::from(service), Value::from(available), age(object, now)]
}

pub(super) fn flow_schema(object: &Value, now: Timestamp) -> Vec<Value> {
    let conditions = object.list_at(&["status", "conditions"]);
    let dangling = conditions.iter().find(|one| one.str_at(&["type"]) == "Dangling");
    vec![
        name(object),
        text(object, &["spec", "priorityLevelConfiguration", "name"]),
        int(object, &["spec", "matchingPrecedence"]),
        text_or(object, &["spec", "distinguisherMethod", "type"], NONE),
        age(object, now),
        Value::from(dangling.map_or("?", |one| one.str_at(&["status"]))),
    ]
}

pub(super) fn priority_level(object: &Value, now: Timestamp) -> Vec<Value> {
    let number = |path: &[&str]| object.at(path).filter(|v| !v.is_null()).cloned().unwrap_or_else(|| NONE.into());
    let queuing = |member: &str| number(&["spec", "limited", "limitResponse", "queuing", member]);
    vec![
        name(object),
        text(object, &["spec", "type"]),
        number(&["spec", "limited", "nominalConcurrencyShares"]),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        age(object, now),
    ]
}

pub(super) fn storage_version(object: &Value, now: Timestamp) -> Vec<Value> {
    const SHOWN: usize = 3;
    let versions: Vec<String> = object
        .list_at(&["status", "storageVersions"])
        .iter()
        .map(|one| format!("{}={}", one.str_at(&["apiServerID"]), one.str_at(&["encodingVersion"])))
        .collect();
    vec![
        name(object),
        text_or(object, &["status", "commonEncodingVersion"], UNSET),
        Value::from(some_of(&versions, SHOWN, ",", UNSET)),
        age(object, now),
    ]
}

pub(super) fn storage_version_migration(object: &Value, _: Timestamp) -> Vec<Value> {
    let resource = ["spec", "resource"];
    let resource = object.at(&resource).cloned().unwrap_or_default();
    let conditions = object.list_at(&["status", "conditions"]);
    let known = |one: &&Value| {
        one.str_at(&["status"]) == "True" && matches!(one.str_at(&["type"]), "Running" | "Failed" | "Succeeded")
    };
    let state = conditions.iter().rev().find(known).map_or("Unknown", |one| one.str_at(&["type"]));
    let resource = crate::qualified(resource.str_at(&["group"]), resource.str_at(&["resource"]));
    vec![name(object), Value::from(resource), Value::from(state)]
}

pub(super) fn resource_claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let given = |path: &[&str]| object.at(path).is_some_and(|value| !value.is_null());
    let leaving = given(&["metadata", "deletionTimestamp"]);
    let mut states = Vec::new();
    if leaving {
        states.push("deleted");
    }
    if given(&["status", "allocation"]) {
        states.push("allocated");
        if !object.list_at(&["status", "reservedFor"]).is_empty() {
            states.push("reserved");
        }
    } else if !leaving {
        states.push("pending");
    }
    vec![name(object), Value::from(states.join(",")), age(object, now)]
}

pub(super) fn resource_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text(object, &["spec", "nodeName"]),
        text(object, &["spec", "driver"]),
        text(object, &["spec", "pool", "name"]),
        age(object, now),
    ]
}

pub(super) fn device_taint(object: &Value, now: Timestamp) -> Vec<Value> {
    let added = object.str_at(&["spec", "taint", "timeAdded"]);
    vec![
        name(object),
        text(object, &["spec", "taint", "key"]),
        text(object, &["spec", "taint", "value"]),
        text(object, &["spec", "taint", "effect"]),
        Value::from(if added.is_empty() { String::new() } else { since(added, now) }),
        age(object, now),
    ]
}

pub(super) fn pod_group(object: &Value, now: Timestamp) -> Vec<Value> {
    let gang = object.at(&["spec", "schedulingPolicy", "gang"]).is_some_and(|gang| !gang.is_null());
    let conditions = object.list_at(&["status", "conditions"]);
    let find = |kind: &str| conditions.iter().rev().find(|one| one.str_at(&["type"]) == kind);
    let state = match (find("DisruptionTarget"), find("PodGroupScheduled")) {
        (Some(target), _) => target.str_at(&["reason"]),
        (None, Some(scheduled)) if scheduled.str_at(&["status"]) == "True" => "Scheduled",
        (None, Some(_)) => "Unschedulable",
        (None, None) => "Pending",
    };
    vec![
        name(object),
        Value::from(if gang { "Gang" } else { "Basic" }),
        text_or(object, &["spec", "podGroupTemplateRef", "workload", "workloadName"], NONE),
        Value::from(state),
        age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::Printer;
    use super::*;
    use serde_json::{Value as Json, json};

    #[test]
    fn rows_read_like_upstream() {
        let table: &[(&str, &str, Json, Json)] = &[
            (
                "",
                "Node",
                json!({"spec": {"unschedulable": true}, "status": {
                    "conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                    "nodeInfo": {"kubeletVersion": "v1.36.0", "kernelVersion": "6.1", "architecture": "amd64"}}}),
                json!([
                    "x",
                    "Ready,SchedulingDisabled",
                    "<none>",
                    "2m",
                    "v1.36.0",
                    "10.0.0.1",
                    "<none>",
                    "<unknown>",
                    "6.1 (amd64)",
                    "<unknown>"
                ]),
            ),
            (
                "",
                "Event",
                json!({"involvedObject": {"kind": "Pod", "name": "p"}, "type": "Normal", "reason": "R", "message": " m ",
                    "lastTimestamp": "1970-01-01T00:01:00Z", "source": {"component": "kubelet", "host": "n"}}),
                json!(["60s", "Normal", "R", "pod/p", "", "kubelet, n", "m", "<unknown>", 1, "x"]),
            ),
            (
                "",
                "ResourceQuota",
                json!({"status": {"hard": {"pods": "2", "limits.cpu": "1"}, "used": {"pods": "1"}}}),
                json!(["x", "pods: 1/2", "limits.cpu: 0/1", "2m"]),
            ),
            (
                "rbac.authorization.k8s.io",
                "RoleBinding",
                json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [
                    {"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "namespace": "n", "name": "s"}]}),
                json!(["x", "Role/r", "2m", "u", "", "n/s"]),
            ),
            (
                "certificates.k8s.io",
                "CertificateSigningRequest",
                json!({"spec": {"signerName": "s", "username": "u", "expirationSeconds": 3600},
                    "status": {"conditions": [{"type": "Approved"}], "certificate": "c"}}),
                json!(["x", "2m", "s", "u", "60m", "Approved,Issued"]),
            ),
            ("rbac.authorization.k8s.io", "Role", json!({}), json!(["x", "1970-01-01T00:00:00Z"])),
            (
                "apiregistration.k8s.io",
                "APIService",
                json!({"status": {"conditions": [{"type": "Available", "status": "False", "reason": "Gone"}]}}),
                json!(["x", "Local", "False (Gone)", "2m"]),
            ),
            (
                "resource.k8s.io",
                "ResourceClaim",
                json!({"status": {"allocation": {}, "reservedFor": [{}]}}),
                json!(["x", "allocated,reserved", "2m"]),
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

    #[test]
    fn roles_come_from_labels() {
        let node =
            json!({"metadata": {"labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "edge"}}});
        assert_eq!(roles(&node.into()), "edge,worker");
    }
}
