//! Autoscalers: `autoscaling/v1` knows one metric, the processor's share. Everything else that v2 says travels
//! in annotations, in the older form of the same types.

use crate::{Limits, Object, Value, decode_json_untyped, encode_json};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// The share aimed at when nothing is said.
const CPU_UTILIZATION: i64 = 80;

fn is_cpu(metric: &Value) -> bool {
    metric.str_at(&["type"]) == "Resource" && metric.str_at(&["resource", "name"]) == "cpu"
}

fn cpu_metric(part: &str, share: Value) -> Value {
    let mut metric = Value::object();
    metric.set_at(&["type"], "Resource");
    metric.set_at(&["resource", "name"], "cpu");
    if part == "target" {
        metric.set_at(&["resource", part, "type"], "Utilization");
    }
    metric.set_at(&["resource", part, "averageUtilization"], share);
    metric
}

fn annotate(value: &mut Value, name: &'static str, content: &Value) {
    let text = match content {
        Value::List(items) => format!("[{}]", items.iter().map(type_first).collect::<Vec<_>>().join(",")),
        other => type_first(other),
    };
    value.set_at(&["metadata", "annotations", name], text);
}

/// JSON as upstream's types write it: an item's type before what it is about.
fn type_first(item: &Value) -> String {
    let text = |value: &Value| String::from_utf8(encode_json(value)).expect("JSON is text");
    let Some(kind) = item.get("type") else { return text(item) };
    let mut rest = item.clone();
    rest.remove_at(&["type"]);
    let rest = text(&rest);
    let comma = if rest == "{}" { "" } else { "," };
    format!("{{\"type\":{}{comma}{}", text(kind), &rest[1..])
}

fn take_annotation(value: &mut Value, name: &str) -> Option<Value> {
    let text = value.remove_at(&["metadata", "annotations", name])?;
    decode_json_untyped(text.as_str()?.as_bytes(), &Limits::default()).ok()
}

fn drop_empty_annotations(value: &mut Value) {
    if value.at(&["metadata", "annotations"]).and_then(Value::as_object).is_some_and(Object::is_empty) {
        value.remove_at(&["metadata", "annotations"]);
    }
}

fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::List(list)) => list,
        _ => Vec::new(),
    }
}

/// From v2 to v1.
pub(super) fn to_old(value: &mut Value) {
    for name in [METRICS, CURRENT, CONDITIONS, BEHAVIOR] {
        value.remove_at(&["metadata", "annotations", name]);
    }
    let has_share =
        |metric: &Value| is_cpu(metric) && metric.int_at(&["resource", "target", "averageUtilization"]).is_some();
    let metrics = list(value.remove_at(&["spec", "metrics"]));
    if let Some(share) = metrics.iter().find(|metric| has_share(metric)) {
        let share = share.int_at(&["resource", "target", "averageUtilization"]).unwrap_or(CPU_UTILIZATION);
        value.set_at(&["spec", "targetCPUUtilizationPercentage"], share);
    }
    let others: Vec<Value> =
        metrics.into_iter().filter(|metric| !has_share(metric)).map(|metric| old_metric(metric, "target")).collect();
    if !others.is_empty() {
        annotate(value, METRICS, &Value::List(others));
    }
    let current = list(value.remove_at(&["status", "currentMetrics"]));
    for metric in current.iter().filter(|metric| is_cpu(metric)) {
        if let Some(share) = metric.int_at(&["resource", "current", "averageUtilization"]) {
            value.set_at(&["status", "currentCPUUtilizationPercentage"], share);
        }
    }
    if !current.is_empty() {
        let current = current.into_iter().map(|metric| old_metric(metric, "current")).collect();
        annotate(value, CURRENT, &Value::List(current));
    }
    if let Some(behavior) = value.remove_at(&["spec", "behavior"]) {
        annotate(value, BEHAVIOR, &behavior_names(behavior, true));
    }
    let conditions = list(value.remove_at(&["status", "conditions"]));
    if !conditions.is_empty() {
        annotate(value, CONDITIONS, &Value::List(conditions));
    }
    for count in ["currentReplicas", "desiredReplicas"] {
        if value.get("status").is_some() && value.at(&["status", count]).is_none() {
            value.set_at(&["status", count], 0);
        }
    }
    drop_empty_annotations(value);
}

/// From v1 to v2.
pub(super) fn to_current(value: &mut Value) {
    let mut metrics: Vec<Value> =
        list(take_annotation(value, METRICS)).into_iter().map(|metric| new_metric(metric, "target")).collect();
    if let Some(share) = value.remove_at(&["spec", "targetCPUUtilizationPercentage"]) {
        metrics.push(cpu_metric("target", share));
    }
    if metrics.is_empty() {
        metrics.push(cpu_metric("target", CPU_UTILIZATION.into()));
    }
    value.set_at(&["spec", "metrics"], metrics);
    if let Some(behavior @ Value::Object(_)) = take_annotation(value, BEHAVIOR) {
        value.set_at(&["spec", "behavior"], behavior_names(behavior, false));
    }
    let share = value.remove_at(&["status", "currentCPUUtilizationPercentage"]);
    match take_annotation(value, CURRENT) {
        Some(Value::List(current)) => {
            let current: Vec<Value> = current.into_iter().map(|metric| new_metric(metric, "current")).collect();
            value.set_at(&["status", "currentMetrics"], current);
        }
        _ => {
            if let Some(share) = share {
                value.set_at(&["status", "currentMetrics"], vec![cpu_metric("current", share)]);
            }
        }
    }
    if let Some(conditions @ Value::List(_)) = take_annotation(value, CONDITIONS) {
        value.set_at(&["status", "conditions"], conditions);
    }
    drop_empty_annotations(value);
}

/// Upstream writes the behaviour with the names of Go's members, which start with a capital.
fn behavior_names(value: Value, capitals: bool) -> Value {
    let first = |name: &str| {
        let mut letters = name.chars();
        let first = letters.next().map(|c| if capitals { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() });
        first.into_iter().chain(letters).collect::<compact_str::CompactString>()
    };
    match value {
        Value::Object(object) => Value::Object(
            object
                .into_iter()
                .filter(|(_, member)| !member.is_null())
                .map(|(name, member)| (first(&name), behavior_names(member, capitals)))
                .collect(),
        ),
        Value::List(list) => Value::List(list.into_iter().map(|item| behavior_names(item, capitals)).collect()),
        other => other,
    }
}

/// The member of a metric that holds its source: `resource`, `pods`, `object`, `external`, `containerResource`.
fn source_name(metric: &Value) -> String {
    let kind = metric.str_at(&["type"]);
    let mut letters = kind.chars();
    letters.next().map(|c| c.to_ascii_lowercase()).into_iter().chain(letters).collect()
}

/// What the older form calls the members of a target (or of a current value), by kind of metric.
fn value_names(source: &str, part: &str) -> [(&'static str, &'static str); 3] {
    match (source, part) {
        ("resource" | "containerResource", "target") => [
            ("averageUtilization", "targetAverageUtilization"),
            ("averageValue", "targetAverageValue"),
            ("value", "targetValue"),
        ],
        ("resource" | "containerResource", _) => [
            ("averageUtilization", "currentAverageUtilization"),
            ("averageValue", "currentAverageValue"),
            ("value", "currentValue"),
        ],
        ("object", "target") => [
            ("value", "targetValue"),
            ("averageValue", "averageValue"),
            ("averageUtilization", "targetAverageUtilization"),
        ],
        ("object", _) => [
            ("value", "currentValue"),
            ("averageValue", "averageValue"),
            ("averageUtilization", "currentAverageUtilization"),
        ],
        (_, "target") => [
            ("value", "targetValue"),
            ("averageValue", "targetAverageValue"),
            ("averageUtilization", "targetAverageUtilization"),
        ],
        _ => [
            ("value", "currentValue"),
            ("averageValue", "currentAverageValue"),
            ("averageUtilization", "currentAverageUtilization"),
        ],
    }
}

fn old_metric(mut metric: Value, part: &str) -> Value {
    let name = source_name(&metric);
    let Some(Value::Object(source)) = metric.at_mut(&[&name]) else { return metric };
    if let Some(values) = source.remove(part) {
        for (new, old) in value_names(&name, part) {
            if let Some(value) = values.get(new) {
                source.insert(old, value.clone());
            }
        }
    }
    if let Some(Value::Object(identifier)) = source.remove("metric") {
        let selector = if name == "external" { "metricSelector" } else { "selector" };
        for (member, value) in identifier {
            source.insert(if member == "selector" { selector } else { "metricName" }, value);
        }
    }
    if let Some(described) = source.remove("describedObject") {
        source.insert("target", described);
    }
    metric
}

fn new_metric(mut metric: Value, part: &str) -> Value {
    let name = source_name(&metric);
    let Some(Value::Object(source)) = metric.at_mut(&[&name]) else { return metric };
    if name == "object"
        && let Some(described) = source.remove("target")
    {
        source.insert("describedObject", described);
    }
    let mut values = Object::new();
    for (new, old) in value_names(&name, part) {
        if let Some(value) = source.remove(old) {
            values.insert(new, value);
        }
    }
    if part == "target" {
        let kind = if values.contains("averageUtilization") {
            "Utilization"
        } else if values.contains("averageValue") {
            "AverageValue"
        } else {
            "Value"
        };
        values.insert("type", kind);
    }
    source.insert(compact_str::CompactString::from(part), values);
    if let Some(metric_name) = source.remove("metricName") {
        source.entry("metric").set_at(&["name"], metric_name);
        let selector = if name == "external" { "metricSelector" } else { "selector" };
        if let Some(selector) = source.remove(selector) {
            source.entry("metric").set_at(&["selector"], selector);
        }
    }
    metric
}
