//! Nodes.

use std::collections::BTreeSet;

use super::check::{self, entries, texts};
use super::resources;
use crate::names;
use crate::{FieldError, FieldErrorKind, FieldErrors, Path, Value};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Taints of a node. Upstream reports them below `metadata`, and clients match on that.
fn taints(node: &Value, errors: &mut FieldErrors) {
    let list = Path::new("metadata.taints");
    let mut seen = BTreeSet::new();
    for (at, taint) in node.list_at(&["spec", "taints"]).iter().enumerate() {
        let path = list.index(at);
        let (key, value, effect) = (taint.str_at(&["key"]), taint.str_at(&["value"]), taint.str_at(&["effect"]));
        errors.invalid_each(&path.child("key"), key, names::qualified_name(key));
        let broken = names::label_value(value);
        if !broken.is_empty() {
            errors.invalid(&path.child("value"), value, broken.join(";"));
        }
        if effect.is_empty() {
            errors.required(&path.child("effect"), "");
        } else if !EFFECTS.contains(&effect) {
            errors.not_supported(&path.child("effect"), effect, &EFFECTS);
        }
        if !seen.insert((effect, key)) {
            errors.push(FieldError {
                kind: FieldErrorKind::Duplicate,
                field: path.to_string(),
                value: Some(taint.clone()),
                detail: "taints must be unique by key and effect pair".into(),
            });
        }
    }
}

fn amounts(node: &Value, errors: &mut FieldErrors) {
    for list in ["capacity", "allocatable"] {
        let path = format!("status.{list}");
        let path = Path::new(&path);
        for (name, amount) in entries(node, &["status", list]) {
            resources::amount(name, amount, &path.child(name), errors);
        }
    }
}

pub(super) fn create(node: &Value, errors: &mut FieldErrors) {
    taints(node, errors);
    amounts(node, errors);
    pod_ranges(node, errors);
}

fn pod_ranges(node: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec.podCIDRs");
    let ranges = texts(node, &["spec", "podCIDRs"]);
    for (at, range) in ranges.iter().enumerate() {
        check::legacy(range, &[], names::cidr, &path.index(at), errors);
    }
    let families: BTreeSet<bool> = ranges.iter().map(|range| names::is_ipv6_cidr(range)).collect();
    if ranges.len() > 2 || ranges.len() > families.len().max(1) {
        let shown = node.at(&["spec", "podCIDRs"]).cloned().unwrap_or_default();
        errors.invalid(&path, shown, "may specify no more than one CIDR for each IP family");
    }
}

pub(super) fn update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    amounts(new, errors);
    let addresses = new.list_at(&["status", "addresses"]);
    for (at, address) in addresses.iter().enumerate() {
        if addresses[..at].contains(address) {
            errors.duplicate(&Path::new("status.addresses").index(at), address.clone());
        }
    }
    let before = texts(old, &["spec", "podCIDRs"]);
    if before != texts(new, &["spec", "podCIDRs"]) {
        pod_ranges(new, errors);
    }
    if !before.is_empty() && before != texts(new, &["spec", "podCIDRs"]) {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.forbidden(&Path::new("spec.podCIDRs"), detail);
    }
    let before = old.str_at(&["spec", "providerID"]);
    if !before.is_empty() && before != new.str_at(&["spec", "providerID"]) {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.forbidden(&Path::new("spec.providerID"), detail);
    }
    taints(new, errors);
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{creates, updates};
    use crate::strategy::KindRef;
    use serde_json::json;

    const NODE: KindRef<'static> = KindRef::builtin("", "Node", false);

    #[test]
    fn nodes() {
        let base = json!({"metadata": {"name": "n"}, "spec": {"podCIDRs": ["10.0.0.0/24"], "providerID": "a"}});
        creates(
            NODE,
            &base,
            &[
                (json!({}), &[]),
                (
                    json!({"spec": {"taints": [{"key": "a", "effect": "Never"}]}}),
                    &["metadata.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \
                       \"PreferNoSchedule\", \"NoExecute\""],
                ),
                (
                    json!({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}, {"key": "a", "effect": "NoExecute"}]}}),
                    &["metadata.taints[1]: Duplicate value: {\"effect\":\"NoExecute\",\"key\":\"a\"}: taints must be \
                       unique by key and effect pair"],
                ),
                (
                    json!({"spec": {"podCIDRs": ["10.0.0.0/24", "10.1.0.0/24"]}}),
                    &["spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.1.0.0/24\"]: may specify no more than one \
                       CIDR for each IP family"],
                ),
                (
                    json!({"status": {"capacity": {"cpu": "-1"}}}),
                    &["status.capacity.cpu: Invalid value: \"-1\": must be greater than or equal to 0"],
                ),
            ],
        );
        updates(
            NODE,
            &base,
            &[
                (json!({"metadata": {"labels": {"a": "b"}}}), &[]),
                (
                    json!({"spec": {"providerID": "b", "podCIDRs": null}}),
                    &[
                        "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
                        "spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid",
                    ],
                ),
            ],
        );
    }
}
