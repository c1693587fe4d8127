//! Defaults of the named groups that depend on other members.

use super::core::{default_labels, missing, set_if_missing, set_if_null, text};
use super::rules::RBAC;
use crate::{Object, Value};

/// The processor share an autoscaler aims at when it says nothing.
const CPU_UTILIZATION: i64 = 80;

fn is_rolling(object: &Object) -> bool {
    text(object, "type") == "RollingUpdate"
}

pub(super) fn deployment_strategy(object: &mut Object) {
    if is_rolling(object) {
        let rolling = object.entry("rollingUpdate").make_object();
        set_if_missing(rolling, "maxUnavailable", "25%");
        set_if_missing(rolling, "maxSurge", "25%");
    }
}

pub(super) fn daemon_set_strategy(object: &mut Object) {
    if is_rolling(object) {
        let rolling = object.entry("rollingUpdate").make_object();
        set_if_missing(rolling, "maxUnavailable", 1);
        set_if_missing(rolling, "maxSurge", 0);
    }
}

pub(super) fn stateful_set_spec(object: &mut Object) {
    let strategy = object.entry("updateStrategy").make_object();
    if missing(strategy, "type") {
        strategy.insert("type", "RollingUpdate");
        strategy.entry("rollingUpdate").make_object();
    }
    let rolling = is_rolling(strategy);
    if let Some(Value::Object(update)) = strategy.get_mut("rollingUpdate").filter(|_| rolling) {
        set_if_missing(update, "partition", 0);
    }
    // Claims carry their kind, as upstream's conversion makes them.
    for claim in object.get_mut("volumeClaimTemplates").and_then(Value::as_list_mut).into_iter().flatten() {
        claim.set_at(&["apiVersion"], "v1");
        claim.set_at(&["kind"], "PersistentVolumeClaim");
    }
}

/// Where upstream keeps the count of template changes, which no client sets.
pub(super) fn daemon_set(object: &mut Object) {
    const COUNT: &str = "deprecated.daemonset.template.generation";
    let metadata = object.entry("metadata").make_object();
    set_if_missing(metadata.entry("annotations").make_object(), COUNT, "0");
}

pub(super) fn autoscaler(object: &mut Object) {
    let current = text(object, "apiVersion") != "autoscaling/v1";
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    set_if_missing(spec, "minReplicas", 1);
    if !current {
        return;
    }
    if spec.get("metrics").and_then(Value::as_list).unwrap_or_default().is_empty() {
        let mut metric = Value::object();
        metric.set_at(&["type"], "Resource");
        metric.set_at(&["resource", "name"], "cpu");
        metric.set_at(&["resource", "target", "type"], "Utilization");
        metric.set_at(&["resource", "target", "averageUtilization"], CPU_UTILIZATION);
        spec.insert("metrics", vec![metric]);
    }
    if let Some(Value::Object(behavior)) = spec.get_mut("behavior") {
        let up = behavior.entry("scaleUp").make_object();
        set_if_missing(up, "stabilizationWindowSeconds", 0);
        scaling_rules(up, &[("Pods", 4, 15), ("Percent", 100, 15)]);
        let down = behavior.entry("scaleDown").make_object();
        scaling_rules(down, &[("Percent", 100, 15)]);
    }
}

fn scaling_rules(rules: &mut Object, policies: &[(&str, i64, i64)]) {
    set_if_null(rules, "selectPolicy", "Max");
    if missing(rules, "policies") {
        let policies: Vec<Value> = policies
            .iter()
            .map(|(kind, value, period)| {
                let mut policy = Value::object();
                policy.set_at(&["type"], *kind);
                policy.set_at(&["value"], *value);
                policy.set_at(&["periodSeconds"], *period);
                policy
            })
            .collect();
        rules.insert("policies", policies);
    }
}

pub(super) fn job(object: &mut Object) {
    let labels = object.get("spec").and_then(|spec| spec.at(&["template", "metadata", "labels"])).cloned();
    if let Some(labels) = labels {
        default_labels(object, labels);
    }
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if missing(spec, "completions") && missing(spec, "parallelism") {
        spec.insert("completions", 1);
    }
    set_if_missing(spec, "parallelism", 1);
    let backoff = if missing(spec, "backoffLimitPerIndex") { 6 } else { i32::MAX };
    set_if_missing(spec, "backoffLimit", backoff);
    set_if_null(spec, "completionMode", "NonIndexed");
    set_if_missing(spec, "suspend", false);
    let replacement = if missing(spec, "podFailurePolicy") { "TerminatingOrFailed" } else { "Failed" };
    set_if_null(spec, "podReplacementPolicy", replacement);
    set_if_missing(spec, "manualSelector", false);
}

pub(super) fn network_policy_spec(object: &mut Object) {
    let filled =
        |object: &Object, name: &str| !object.get(name).and_then(Value::as_list).unwrap_or_default().is_empty();
    if !filled(object, "policyTypes") {
        let mut types = vec![Value::from("Ingress")];
        if filled(object, "egress") {
            types.push(Value::from("Egress"));
        }
        object.insert("policyTypes", types);
    }
}

pub(super) fn subject(object: &mut Object) {
    if matches!(text(object, "kind"), "User" | "Group") {
        set_if_missing(object, "apiGroup", RBAC);
    }
}

pub(super) fn mutating_webhook(object: &mut Object) {
    set_if_null(object, "reinvocationPolicy", "Never");
}

pub(super) fn definition(object: &mut Object) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let names = spec.entry("names").make_object();
    let kind = text(names, "kind").to_owned();
    if !kind.is_empty() {
        set_if_missing(names, "singular", kind.to_lowercase());
        set_if_missing(names, "listKind", format!("{kind}List"));
    }
    if missing(spec, "conversion") {
        let mut conversion = Value::object();
        conversion.set_at(&["strategy"], "None");
        spec.insert("conversion", conversion);
    }
    let stored = spec.get("versions").and_then(Value::as_list).unwrap_or_default().iter();
    let stored =
        stored.filter(|version| version.bool_at(&["storage"]) == Some(true)).map(|version| version.str_at(&["name"]));
    let stored: Vec<Value> = stored.take(1).map(Value::from).collect();
    let status = object.entry("status").make_object();
    if status.get("storedVersions").and_then(Value::as_list).unwrap_or_default().is_empty() {
        status.insert("storedVersions", stored);
    }
}

pub(super) fn device_request(object: &mut Object) {
    set_if_missing(object, "allocationMode", "ExactCount");
    if text(object, "allocationMode") == "ExactCount" && matches!(object.get("count"), None | Some(Value::Int(0))) {
        object.insert("count", 1);
    }
}

/// Before `exactly` and `firstAvailable` were told apart (v1beta1), a request was an exact one unless it
/// offered choices.
pub(super) fn old_device_request(object: &mut Object) {
    let exact = !text(object, "deviceClassName").is_empty();
    if exact && missing(object, "firstAvailable") && missing(object, "exactly") {
        device_request(object);
    }
}
