//! Labels of nodes that have been replaced by others.

use crate::{Value, names};

const DEPRECATED: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// What to tell about a label of nodes.
pub(super) fn deprecated(label: &str) -> Option<&'static str> {
    DEPRECATED.iter().find(|(known, _)| *known == label).map(|(_, message)| *message)
}

/// Tells about a label that stands for something.
pub(super) fn key(path: &str, label: &str, out: &mut Vec<String>) {
    out.extend(deprecated(label).map(|message| format!("{path}: {label} is {message}")));
}

/// A term of a node selector; values are looked at where validation does not.
pub(super) fn term(term: &Value, path: &str, values: bool, out: &mut Vec<String>) {
    for (at, expression) in term.list_at(&["matchExpressions"]).iter().enumerate() {
        let path = format!("{path}.matchExpressions[{at}]");
        key(&format!("{path}.key"), expression.str_at(&["key"]), out);
        if !values {
            continue;
        }
        for (index, value) in expression.list_at(&["values"]).iter().filter_map(Value::as_str).enumerate() {
            let problems = names::label_value(value);
            out.extend(problems.iter().map(|why| format!("{path}.values[{index}]: {value} is invalid, {why}")));
        }
    }
}

/// Keys of a map of labels.
pub(super) fn labels(map: Option<&Value>) -> impl Iterator<Item = (&str, &'static str)> {
    let members = map.and_then(Value::as_object).into_iter().flat_map(|members| members.iter());
    members.filter_map(|(label, _)| Some((label.as_str(), deprecated(label)?)))
}

/// A selector of labels of nodes.
pub(super) fn label_selector(selector: Option<&Value>, path: &str, out: &mut Vec<String>) {
    let Some(selector) = selector.filter(|selector| !selector.is_null()) else { return };
    term(selector, path, false, out);
    out.extend(
        labels(selector.get("matchLabels")).map(|(label, message)| format!("{path}.matchLabels.{label}: {message}")),
    );
}

/// Where a class of storage allows volumes.
pub(super) fn topologies(class: &Value, out: &mut Vec<String>) {
    for (at, topology) in class.list_at(&["allowedTopologies"]).iter().enumerate() {
        for (index, expression) in topology.list_at(&["matchLabelExpressions"]).iter().enumerate() {
            if let Some(message) = deprecated(expression.str_at(&["key"])) {
                out.push(format!("allowedTopologies[{at}].matchLabelExpressions[{index}].key: {message}"));
            }
        }
    }
}

/// Where a class of runtimes has its pods.
pub(super) fn runtime_class(class: &Value, out: &mut Vec<String>) {
    let selector = class.at(&["scheduling", "nodeSelector"]);
    out.extend(labels(selector).map(|(_, message)| format!("scheduling.nodeSelector: {message}")));
}
