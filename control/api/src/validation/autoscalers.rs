//! Horizontal autoscalers.

use super::check::{NEGATIVE, NOT_POSITIVE, given, quantity, required_name};
use super::resources;
use crate::names;
use crate::{FieldErrors, Path, Value};

const METRICS: [(&str, &str); 5] = [
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

/// The order in which upstream looks at the sources of a metric; of several, only the first is judged.
const SOURCES: [&str; 5] = ["object", "external", "pods", "resource", "containerResource"];

fn whole_segment(text: &str) -> Vec<String> {
    names::path_segment(text, false)
}

/// A reference to an object of some kind; `grouped` when the version must name a group.
fn reference(value: &Value, grouped: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    for member in ["kind", "name"] {
        required_name(value, member, whole_segment, path, errors);
    }
    let version = value.str_at(&["apiVersion"]);
    let problem = match version.matches('/').count() {
        0 if grouped => "apiVersion must specify API group".to_owned(),
        0 | 1 => return,
        _ => format!("unexpected GroupVersion string: {version}"),
    };
    errors.invalid(&path.child("apiVersion"), version, problem);
}

pub(super) fn autoscaler(object: &Value, errors: &mut FieldErrors) {
    judge(object, None, errors);
}

pub(super) fn autoscaler_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    judge(new, Some(old), errors);
}

fn judge(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let (path, empty) = (Path::new("spec"), Value::object());
    let spec = object.get("spec").unwrap_or(&empty);
    let (minimum, maximum) = (spec.int_at(&["minReplicas"]), spec.int_at(&["maxReplicas"]).unwrap_or(0));
    if let Some(number) = minimum.filter(|number| *number < 1) {
        errors.invalid(&path.child("minReplicas"), number, "must be greater than or equal to 1");
    }
    if maximum == 0 {
        errors.required(&path.child("maxReplicas"), "must be set and greater than 0");
    } else if maximum < 0 {
        errors.invalid(&path.child("maxReplicas"), maximum, "must be greater than or equal to 1");
    }
    if minimum.is_some_and(|minimum| maximum < minimum) {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.invalid(&path.child("maxReplicas"), maximum, detail);
    }
    let target = spec.get("scaleTargetRef").unwrap_or(&empty);
    // What was stored without a group may stay so.
    let version = ["spec", "scaleTargetRef", "apiVersion"];
    let tolerated = old.is_some_and(|old| !old.str_at(&version).contains('/'));
    reference(target, !tolerated, &path.child("scaleTargetRef"), errors);
    if let Some(percent) = spec.int_at(&["targetCPUUtilizationPercentage"]).filter(|percent| *percent < 1) {
        errors.invalid(&path.child("targetCPUUtilizationPercentage"), percent, NOT_POSITIVE);
    }
    let list = path.child("metrics");
    for (at, value) in spec.list_at(&["metrics"]).iter().enumerate() {
        metric(value, &list.index(at), errors);
    }
    let wakes = |metric: &Value| matches!(metric.str_at(&["type"]), "Object" | "External");
    if minimum == Some(0) && !spec.list_at(&["metrics"]).iter().any(wakes) {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden(&list, detail);
    }
    let behavior = path.child("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        if let Some(rules) = given(spec, &["behavior", direction]) {
            scaling_rules(rules, &behavior.child(direction), errors);
        }
    }
}

fn metric(metric: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = metric.str_at(&["type"]);
    let known = METRICS.map(|(kind, _)| kind);
    let expected = METRICS.iter().find(|(known, _)| *known == kind).map(|(_, member)| *member);
    if kind.is_empty() {
        errors.required(&path.child("type"), "must specify a metric source type");
    }
    if expected.is_none() {
        errors.not_supported(&path.child("type"), kind, &known);
    }
    let mut present: Vec<&str> = SOURCES.into_iter().filter(|member| given(metric, &[member]).is_some()).collect();
    if let Some(first) = present.first() {
        source(metric.get(first).unwrap_or(&Value::Null), first, &path.child(first), errors);
    }
    if let Some(own) = expected.filter(|own| given(metric, &[own]).is_none()) {
        errors.required(&path.child(own), "must populate information for the given metric source");
    }
    if present.len() != 1 {
        present.retain(|member| Some(*member) != expected);
        for other in present {
            errors.forbidden(&path.child(other), "must populate the given metric source only");
        }
    }
}

fn source(source: &Value, member: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let has = |name: &str| given(source, &["target", name]).is_some();
    let place = path.child("target");
    match member {
        "object" => {
            let described = source.get("describedObject").unwrap_or(&Value::Null);
            reference(described, false, &path.child("describedObject"), errors);
            identifier(source, path, errors);
            target(source, &place, errors);
            if !has("value") && !has("averageValue") {
                errors.required(&place.child("averageValue"), "must set either a target value or averageValue");
            }
        }
        "external" => {
            identifier(source, path, errors);
            target(source, &place, errors);
            if !has("value") && !has("averageValue") {
                let detail = "must set either a target value for metric or a per-pod target";
                errors.required(&place.child("averageValue"), detail);
            }
            if has("value") && has("averageValue") {
                let detail = "may not set both a target value for metric and a per-pod target";
                errors.forbidden(&place.child("value"), detail);
            }
        }
        "pods" => {
            identifier(source, path, errors);
            target(source, &place, errors);
            if !has("averageValue") {
                errors.required(&place.child("averageValue"), "must specify a positive target averageValue");
            }
        }
        _ => resource(source, member == "containerResource", path, errors),
    }
}

fn resource(source: &Value, of_container: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = source.str_at(&["name"]);
    if name.is_empty() {
        errors.required(&path.child("name"), "must specify a resource name");
    } else if of_container {
        resources::container_resource(name, &path.child("name"), errors);
    }
    if of_container {
        let container = source.str_at(&["container"]);
        if container.is_empty() {
            errors.required(&path.child("container"), "must specify a container");
        } else {
            errors.invalid_each(&path.child("container"), container, names::dns_label(container));
        }
    }
    let place = path.child("target");
    target(source, &place, errors);
    let has = |name: &str| given(source, &["target", name]).is_some();
    match (has("averageUtilization"), has("averageValue")) {
        (false, false) => {
            let detail = "must set either a target raw value or a target utilization";
            errors.required(&place.child("averageUtilization"), detail);
        }
        (true, true) => {
            let detail = "may not set both a target raw value and a target utilization";
            errors.forbidden(&place.child("averageValue"), detail);
        }
        _ => {}
    }
}

fn identifier(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = source.str_at(&["metric", "name"]);
    let path = path.child("metric.name");
    if name.is_empty() {
        errors.required(&path, "must specify a metric name");
    } else {
        errors.invalid_each(&path, name, whole_segment(name));
    }
}

fn target(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let empty = Value::object();
    let target = source.get("target").unwrap_or(&empty);
    let kind = target.str_at(&["type"]);
    if kind.is_empty() {
        errors.required(&path.child("type"), "must specify a metric target type");
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        errors.invalid(&path.child("type"), kind, "must be either Utilization, Value, or AverageValue");
    }
    for member in ["value", "averageValue"] {
        if let Some(value) = given(target, &[member]).filter(|value| quantity(value).signum() != 1) {
            errors.invalid(&path.child(member), value.clone(), "must be positive");
        }
    }
    if let Some(percent) = target.int_at(&["averageUtilization"]).filter(|percent| *percent < 1) {
        errors.invalid(&path.child("averageUtilization"), percent, NOT_POSITIVE);
    }
}

fn scaling_rules(rules: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    const MAX_WINDOW: i64 = 3600;
    const MAX_PERIOD: i64 = 1800;
    const ZERO: &str = "must be greater than zero";
    let window = rules.int_at(&["stabilizationWindowSeconds"]);
    let place = path.child("stabilizationWindowSeconds");
    if let Some(seconds) = window.filter(|seconds| *seconds < 0) {
        errors.invalid(&place, seconds, "must be greater than or equal to zero");
    }
    if let Some(seconds) = window.filter(|seconds| *seconds > MAX_WINDOW) {
        errors.invalid(&place, seconds, format!("must be less than or equal to {MAX_WINDOW}"));
    }
    let select = rules.str_at(&["selectPolicy"]);
    let policies_known = ["Disabled", "Max", "Min"];
    if given(rules, &["selectPolicy"]).is_some() && !policies_known.contains(&select) {
        errors.not_supported(&path.child("selectPolicy"), select, &policies_known);
    }
    let policies = rules.list_at(&["policies"]);
    let list = path.child("policies");
    if policies.is_empty() {
        errors.required(&list, "must specify at least one Policy");
    }
    for (at, policy) in policies.iter().enumerate() {
        let path = list.index(at);
        let kind = policy.str_at(&["type"]);
        if !matches!(kind, "Percent" | "Pods") {
            errors.not_supported(&path.child("type"), kind, &["Percent", "Pods"]);
        }
        for member in ["value", "periodSeconds"] {
            let number = policy.int_at(&[member]).unwrap_or(0);
            if number <= 0 {
                errors.invalid(&path.child(member), number, ZERO);
            }
            if member == "periodSeconds" && number > MAX_PERIOD {
                errors.invalid(&path.child(member), number, format!("must be less than or equal to {MAX_PERIOD}"));
            }
        }
    }
    if let Some(tolerance) = given(rules, &["tolerance"]).filter(|value| quantity(value).signum() < 0) {
        errors.invalid(&path.child("tolerance"), tolerance.clone(), NEGATIVE);
    }
}
