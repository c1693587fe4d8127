//! Where a pod may run: affinity, spread, tolerations.

use super::super::check::{self, given, label_selector, maybe_one_of, texts};
use crate::names;
use crate::{FieldErrors, Path, Value};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
const WEIGHT: &str = "must be in the range 1-100";

pub(super) fn affinity(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(node) = given(spec, &["affinity", "nodeAffinity"]) {
        let path = path.child("nodeAffinity");
        if let Some(selector) = given(node, &[REQUIRED]) {
            node_selector(selector, &path.child(REQUIRED), errors);
        }
        let list = path.child(PREFERRED);
        for (at, term) in node.list_at(&[PREFERRED]).iter().enumerate() {
            weight(term, &list.index(at), errors);
            if let Some(preference) = term.get("preference") {
                node_term(preference, &list.index(at).child("preference"), false, errors);
            }
        }
    }
    for side in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = given(spec, &["affinity", side]) else { continue };
        let path = path.child(side);
        let list = path.child(REQUIRED);
        for (at, term) in affinity.list_at(&[REQUIRED]).iter().enumerate() {
            pod_term(term, &list.index(at), errors);
        }
        let list = path.child(PREFERRED);
        for (at, weighted) in affinity.list_at(&[PREFERRED]).iter().enumerate() {
            weight(weighted, &list.index(at), errors);
            if let Some(term) = weighted.get("podAffinityTerm") {
                pod_term(term, &list.index(at).child("podAffinityTerm"), errors);
            }
        }
    }
}

fn weight(term: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let weight = term.int_at(&["weight"]).unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, WEIGHT);
    }
}

/// A `NodeSelector`, of pods and of volumes.
pub(in super::super) fn node_selector(selector: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let terms = selector.list_at(&["nodeSelectorTerms"]);
    let list = path.child("nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(&list, "must have at least one node selector term");
    }
    for (at, term) in terms.iter().enumerate() {
        node_term(term, &list.index(at), true, errors);
    }
}

fn node_term(term: &Value, path: &Path<'_>, values: bool, errors: &mut FieldErrors) {
    let list = path.child("matchExpressions");
    for (at, expression) in term.list_at(&["matchExpressions"]).iter().enumerate() {
        node_expression(expression, values, &list.index(at), errors);
    }
    let list = path.child("matchFields");
    for (at, field) in term.list_at(&["matchFields"]).iter().enumerate() {
        let path = list.index(at);
        let (values, operator) = (texts(field, &["values"]), field.str_at(&["operator"]));
        match operator {
            "In" | "NotIn" if values.len() != 1 => {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.required(&path.child("values"), detail);
            }
            "In" | "NotIn" => {}
            _ => errors.invalid(&path.child("operator"), operator, "not a valid selector operator"),
        }
        let key = field.str_at(&["key"]);
        if key != "metadata.name" {
            errors.invalid(&path.child("key"), key, "not a valid field selector key");
        } else {
            let list = path.child("values");
            for (at, value) in values.iter().enumerate() {
                errors.invalid_each(&list.index(at), value, names::dns_subdomain(value));
            }
        }
    }
}

fn node_expression(expression: &Value, judge_values: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let values = texts(expression, &["values"]);
    let place = path.child("values");
    match expression.str_at(&["operator"]) {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&place, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.forbidden(&place, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errors.required(&place, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    let key = expression.str_at(&["key"]);
    errors.invalid_each(&path.child("key"), key, names::qualified_name(key));
    for (at, value) in values.iter().enumerate().filter(|_| judge_values) {
        errors.invalid_each(&place.index(at), value, names::label_value(value));
    }
}

fn pod_term(term: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    label_selector(term.get("labelSelector"), &path.child("labelSelector"), errors);
    label_selector(term.get("namespaceSelector"), &path.child("namespaceSelector"), errors);
    for name in texts(term, &["namespaces"]) {
        errors.invalid_each(&path.child("namespace"), name, names::dns_label(name));
    }
    label_keys(term, path, errors);
    let key = term.str_at(&["topologyKey"]);
    if key.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    }
    errors.invalid_each(&path.child("topologyKey"), key, names::qualified_name(key));
}

fn label_keys(term: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for member in ["matchLabelKeys", "mismatchLabelKeys"] {
        let keys = texts(term, &[member]);
        let list = path.child(member);
        if !keys.is_empty() && given(term, &["labelSelector"]).is_none() {
            errors.forbidden(&list, "must not be specified when labelSelector is not set");
        }
        for (at, key) in keys.iter().enumerate() {
            errors.invalid_each(&list.index(at), key, names::qualified_name(key));
            if member == "matchLabelKeys" && texts(term, &["mismatchLabelKeys"]).contains(key) {
                let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
                errors.invalid(&list.index(at), *key, detail);
            }
        }
    }
}

pub(super) fn spread(spec: &Value, list: &Path<'_>, errors: &mut FieldErrors) {
    let constraints = spec.list_at(&["topologySpreadConstraints"]);
    for (at, constraint) in constraints.iter().enumerate() {
        let path = list.index(at);
        let skew = constraint.int_at(&["maxSkew"]).unwrap_or(0);
        if skew <= 0 {
            errors.invalid(&path.child("maxSkew"), skew, "must be greater than zero");
        }
        let (key, action) = (constraint.str_at(&["topologyKey"]), constraint.str_at(&["whenUnsatisfiable"]));
        if key.is_empty() {
            errors.required(&path.child("topologyKey"), "can not be empty");
        }
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            errors.not_supported(&path.child("whenUnsatisfiable"), action, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        let same =
            |other: &Value| other.str_at(&["topologyKey"]) == key && other.str_at(&["whenUnsatisfiable"]) == action;
        if constraints[at + 1..].iter().any(same) {
            errors.duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), format!("{{{key}, {action}}}"));
        }
        if let Some(domains) = constraint.int_at(&["minDomains"]) {
            let path = path.child("minDomains");
            if domains <= 0 {
                errors.invalid(&path, domains, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.invalid(&path, domains, detail);
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            maybe_one_of(constraint, policy, &["Honor", "Ignore"], &path, errors);
        }
        label_keys(constraint, &path, errors);
        label_selector(constraint.get("labelSelector"), &path.child("labelSelector"), errors);
    }
}

/// `tolerations`, of pods and of runtime classes.
pub(in super::super) fn tolerations(holder: &Value, list: &Path<'_>, errors: &mut FieldErrors) {
    for (at, toleration) in holder.list_at(&["tolerations"]).iter().enumerate() {
        toleration_rules(toleration, &list.index(at), errors);
    }
}

fn toleration_rules(toleration: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let text = |member: &str| toleration.str_at(&[member]);
    let (key, operator, value, effect) = (text("key"), text("operator"), text("value"), text("effect"));
    if !key.is_empty() {
        errors.invalid_each(&path.child("key"), key, names::qualified_name(key));
    }
    if key.is_empty() && operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.invalid(&path.child("operator"), operator, detail);
    }
    if given(toleration, &["tolerationSeconds"]).is_some() && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.invalid(&path.child("effect"), effect, detail);
    }
    match operator {
        "Equal" | "" => {
            let broken = names::label_value(value);
            if !broken.is_empty() {
                errors.invalid(&path.child("operator"), value, broken.join(";"));
            }
        }
        "Exists" if !value.is_empty() => {
            errors.invalid(&path.child("operator"), value, "value must be empty when `operator` is 'Exists'");
        }
        "Exists" => {}
        "Lt" | "Gt" => {
            errors.not_supported(&path.child("operator"), operator, &["Equal", "Exists", "Lt", "Gt"]);
        }
        _ => errors.not_supported(&path.child("operator"), operator, &["Equal", "Exists"]),
    }
    if !effect.is_empty() {
        check::one_of(toleration, "effect", &EFFECTS, path, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::check::tests::creates;
    use super::super::tests::{POD, base, spec};
    use serde_json::json;

    #[test]
    fn scheduling_is_judged() {
        creates(
            POD,
            &base(),
            &[
                (
                    spec(json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}})),
                    &["spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: \
                   Required value: must have at least one node selector term"],
                ),
                (
                    spec(json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Gt", "values": []}]}]}}}})),
                    &[
                        "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].\
                   matchExpressions[0].values: Required value: must be specified single value when `operator` is 'Lt' \
                   or 'Gt'",
                    ],
                ),
                (
                    spec(json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 101, "podAffinityTerm": {"topologyKey": "k"}}]}}})),
                    &[
                        "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid \
                   value: 101: must be in the range 1-100",
                    ],
                ),
                (
                    spec(json!({"topologySpreadConstraints": [
                    {"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 1}]})),
                    &[
                        "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
                        "spec.topologySpreadConstraints[0].minDomains: Invalid value: 1: can only use minDomains if \
                     whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
                    ],
                ),
                (spec(json!({"tolerations": [{"operator": "Exists"}, {"key": "a", "value": "b"}]})), &[]),
                (
                    spec(
                        json!({"tolerations": [{"key": "a", "operator": "Exists", "value": "x", "tolerationSeconds": 1}]}),
                    ),
                    &[
                        "spec.tolerations[0].effect: Invalid value: \"\": effect must be 'NoExecute' when \
                     `tolerationSeconds` is set",
                        "spec.tolerations[0].operator: Invalid value: \"x\": value must be empty when `operator` is 'Exists'",
                    ],
                ),
                (
                    spec(json!({"tolerations": [{}]})),
                    &[
                        "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, \
                   which means \"match all values and all keys\"",
                    ],
                ),
            ],
        );
    }
}
