//! Disruption budgets, priority and runtime classes, leases.

use super::check::{
    self, NOT_POSITIVE, given, immutable, int_or_percent, label_selector, labels, percentage, required_name,
};
use super::{pod, resources};
use crate::names;
use crate::{FieldErrors, Path, Value};

const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;
const SYSTEM_PRIORITIES: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
pub(super) fn budget(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let both = ["minAvailable", "maxUnavailable"].map(|member| given(object, &["spec", member]));
    if both.iter().all(Option::is_some) {
        let shown = object.get("spec").cloned().unwrap_or_default();
        errors.invalid(&path, shown, "minAvailable and maxUnavailable cannot be both set");
    }
    for (member, value) in ["minAvailable", "maxUnavailable"].into_iter().zip(both) {
        let Some(value) = value else { continue };
        int_or_percent(value, &path.child(member), errors);
        if percentage(value).is_some_and(|percent| percent > 100) {
            errors.invalid(&path.child(member), value.clone(), "must not be greater than 100%");
        }
    }
    let spec = object.get("spec").unwrap_or(&Value::Null);
    label_selector(spec.get("selector"), &path.child("selector"), errors);
    check::known_if_given(spec, "unhealthyPodEvictionPolicy", &["AlwaysAllow", "IfHealthyBudget"], &path, errors);
}

pub(super) fn budget_status(object: &Value, errors: &mut FieldErrors) {
    let status = object.get("status").cloned().unwrap_or_else(Value::object);
    for member in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        check::nonnegative_at(&status, member, &Path::new("status"), errors);
    }
}

pub(super) fn priority_class(object: &Value, errors: &mut FieldErrors) {
    let (name, value) = (object.str_at(&["metadata", "name"]), object.int_at(&["value"]).unwrap_or(0));
    if name.starts_with("system-") {
        let known = SYSTEM_PRIORITIES.iter().find(|(system, _)| *system == name);
        let why = match known {
            Some((_, want)) if *want != value => Some(format!("value of {name} PriorityClass must be {want}")),
            Some(_) if object.bool_at(&["globalDefault"]) == Some(true) => {
                Some(format!("globalDefault of {name} PriorityClass must be false"))
            }
            Some(_) => None,
            None => Some(format!("{name} is not a known system priority class")),
        };
        if let Some(why) = why {
            let detail =
                format!("priority class names with 'system-' prefix are reserved for system use only. error: {why}");
            errors.forbidden(&Path::new("metadata.name"), detail);
        }
    } else if value > HIGHEST_USER_PRIORITY {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
        errors.forbidden(&Path::new("value"), detail);
    }
    if given(object, &["preemptionPolicy"]).is_some() {
        check::one_of(object, "preemptionPolicy", &["PreemptLowerPriority", "Never"], &Path::root(), errors);
    }
}

pub(super) fn priority_class_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if new.int_at(&["value"]) != old.int_at(&["value"]) {
        errors.forbidden(&Path::new("value"), "may not be changed in an update.");
    }
    immutable(new, old, &["preemptionPolicy"], errors);
}

pub(super) fn runtime_class(object: &Value, errors: &mut FieldErrors) {
    required_name(object, "handler", names::dns_label, &Path::root(), errors);
    let overhead = Path::new("overhead.limits");
    for (name, value) in check::entries(object, &["overhead", "podFixed"]) {
        resources::container_resource(name, &overhead.key(name), errors);
        resources::amount(name, value, &overhead.key(name), errors);
    }
    if let Some(scheduling) = given(object, &["scheduling"]) {
        let path = Path::new("scheduling");
        labels(scheduling.get("nodeSelector"), &path.child("nodeSelector"), errors);
        let list = path.child("tolerations");
        pod::tolerations(scheduling, &list, errors);
        let all = scheduling.list_at(&["tolerations"]);
        for (at, toleration) in all.iter().enumerate().filter(|(at, toleration)| all[..*at].contains(toleration)) {
            errors.duplicate(&list.index(at), toleration.clone());
        }
    }
}

pub(super) fn runtime_class_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    runtime_class(new, errors);
    immutable(new, old, &["handler"], errors);
}

pub(super) fn lease(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    if let Some(seconds) = object.int_at(&["spec", "leaseDurationSeconds"]).filter(|seconds| *seconds <= 0) {
        errors.invalid(&path.child("leaseDurationSeconds"), seconds, NOT_POSITIVE);
    }
    check::nonnegative(object.int_at(&["spec", "leaseTransitions"]), &path.child("leaseTransitions"), errors);
    let preferred = object.str_at(&["spec", "preferredHolder"]);
    if !preferred.is_empty() && object.str_at(&["spec", "strategy"]).is_empty() {
        errors.forbidden(&path.child("preferredHolder"), "may only be specified if `strategy` is defined");
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{creates, updates};
    use crate::strategy::KindRef;
    use serde_json::json;

    #[test]
    fn budgets_and_scalers() {
        let kind = KindRef::builtin("policy", "PodDisruptionBudget", true);
        let base = json!({"metadata": {"name": "b", "namespace": "n"}, "spec": {"minAvailable": 1}});
        creates(
            kind,
            &base,
            &[
                (json!({}), &[]),
                (
                    json!({"spec": {"maxUnavailable": 1}}),
                    &[
                        "spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":1}: minAvailable and maxUnavailable cannot be \
                 both set",
                    ],
                ),
                (
                    json!({"spec": {"minAvailable": "150%"}}),
                    &["spec.minAvailable: Invalid value: \"150%\": must not be greater than 100%"],
                ),
            ],
        );
        let kind = KindRef::builtin("autoscaling", "HorizontalPodAutoscaler", true);
        let base = json!({"metadata": {"name": "h", "namespace": "n"}, "spec": {
            "minReplicas": 1, "maxReplicas": 2, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
        creates(
            kind,
            &base,
            &[
                (json!({}), &[]),
                (
                    json!({"spec": {"maxReplicas": 0}}),
                    &[
                        "spec.maxReplicas: Required value: must be set and greater than 0",
                        "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`",
                    ],
                ),
                (
                    json!({"spec": {"metrics": [{"type": "Resource"}]}}),
                    &[
                        "spec.metrics[0].resource: Required value: must populate information for the given metric source",
                    ],
                ),
            ],
        );
    }

    #[test]
    fn classes_and_leases() {
        let kind = KindRef::builtin("scheduling.k8s.io", "PriorityClass", false);
        let base = json!({"metadata": {"name": "p"}, "value": 5});
        creates(
            kind,
            &base,
            &[
                (json!({}), &[]),
                (
                    json!({"value": 1_000_000_001}),
                    &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
                ),
                (
                    json!({"metadata": {"name": "system-x"}}),
                    &[
                        "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. \
                 error: system-x is not a known system priority class",
                    ],
                ),
                (json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000}), &[]),
            ],
        );
        updates(kind, &base, &[(json!({"value": 6}), &["value: Forbidden: may not be changed in an update."])]);
        let kind = KindRef::builtin("coordination.k8s.io", "Lease", true);
        let base = json!({"metadata": {"name": "l", "namespace": "n"}});
        creates(
            kind,
            &base,
            &[
                (json!({"spec": {"leaseDurationSeconds": 10}}), &[]),
                (
                    json!({"spec": {"leaseDurationSeconds": 0}}),
                    &["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"],
                ),
            ],
        );
        let kind = KindRef::builtin("node.k8s.io", "RuntimeClass", false);
        creates(kind, &json!({"metadata": {"name": "r"}}), &[(json!({}), &["handler: Required value"])]);
    }
}
