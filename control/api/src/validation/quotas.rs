//! ResourceQuotas and LimitRanges.

use std::collections::{BTreeMap, BTreeSet};

use super::check::{IMMUTABLE, entries, given, quantity, texts};
use super::resources;
use crate::names;
use crate::{FieldErrors, Path, Quantity, Value};

const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
const EXCLUSIVE: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];
const PODS: [&str; 1] = ["pods"];
const COMPUTE: [&str; 7] = ["cpu", "memory", "pods", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

fn hard(object: &Value, part: &str, lists: &[&str], errors: &mut FieldErrors) {
    for list in lists {
        let path = format!("{part}.{list}");
        let path = Path::new(&path);
        for (name, value) in entries(object, &[part, list]) {
            let path = path.key(name);
            resources::resource_name(name, &path, errors);
            if !name.contains('/') && !resources::is_quota_resource(name) {
                errors.invalid(&path, name, "must be a standard resource for quota");
            }
            resources::amount(name, value, &path, errors);
        }
    }
}

fn fits(scope: &str, name: &str) -> bool {
    match scope {
        "BestEffort" => PODS.contains(&name),
        "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage"),
        _ => COMPUTE.contains(&name) || name.ends_with("ephemeral-storage"),
    }
}

pub(super) fn quota(object: &Value, errors: &mut FieldErrors) {
    hard(object, "spec", &["hard"], errors);
    let scopes = texts(object, &["spec", "scopes"]);
    let (path, shown) = (Path::new("spec.scopes"), object.at(&["spec", "scopes"]).cloned().unwrap_or_default());
    let applies = |scope: &str| {
        entries(object, &["spec", "hard"]).all(|(name, _)| !resources::is_quota_resource(name) || fits(scope, name))
    };
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            errors.invalid(&path, shown.clone(), "unsupported scope");
        } else if !applies(scope) {
            errors.invalid(&path, shown.clone(), "unsupported scope applied to resource");
        }
    }
    for pair in EXCLUSIVE {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            errors.invalid(&path, shown.clone(), "conflicting scopes");
        }
    }
    let path = Path::new("spec.scopeSelector.matchExpressions");
    for expression in object.list_at(&["spec", "scopeSelector", "matchExpressions"]) {
        scope_expression(expression, &path, errors);
    }
}

fn scope_expression(expression: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (scope, operator) = (expression.str_at(&["scopeName"]), expression.str_at(&["operator"]));
    if !SCOPES.contains(&scope) {
        errors.invalid(&path.child("scopeName"), scope, "unsupported scope");
    }
    if !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && SCOPES.contains(&scope) && operator != "Exists" {
        let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                      ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort \
                      or ResourceQuotaScopeCrossNamespacePodAffinity";
        errors.invalid(&path.child("operator"), operator, detail);
    }
    let values = texts(expression, &["values"]);
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            errors.required(&path.child("values"), detail);
        }
        "In" | "NotIn" => {}
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
            errors.invalid(&path.child("values"), expression.get("values").cloned().unwrap_or_default(), detail);
        }
        "Exists" | "DoesNotExist" => {}
        _ => errors.invalid(&path.child("operator"), operator, "not a valid selector operator"),
    }
}

pub(super) fn quota_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    quota(new, errors);
    let scopes =
        |object| -> BTreeSet<String> { texts(object, &["spec", "scopes"]).into_iter().map(str::to_owned).collect() };
    if scopes(new) != scopes(old) {
        let shown = new.at(&["spec", "scopes"]).cloned().unwrap_or_default();
        errors.invalid(&Path::new("spec.scopes"), shown, IMMUTABLE);
    }
}

pub(super) fn quota_status(new: &Value, errors: &mut FieldErrors) {
    hard(new, "status", &["hard", "used"], errors);
}

type Amounts = BTreeMap<String, Quantity>;

fn amounts(limit: &Value, list: &str, kind: &str, path: &Path<'_>, errors: &mut FieldErrors) -> Amounts {
    let path = path.child(list);
    let mut amounts = Amounts::new();
    for (name, value) in entries(limit, &[list]) {
        if matches!(kind, "Pod" | "Container") {
            resources::container_resource(name, &path.key(name), errors);
        } else {
            resources::resource_name(name, &path.key(name), errors);
        }
        amounts.insert(name.to_owned(), quantity(value));
    }
    amounts
}

pub(super) fn limit_range(object: &Value, errors: &mut FieldErrors) {
    let list = Path::new("spec.limits");
    let mut kinds = BTreeSet::new();
    for (at, limit) in object.list_at(&["spec", "limits"]).iter().enumerate() {
        let path = list.index(at);
        let kind = limit.str_at(&["type"]);
        let broken = names::qualified_name(kind);
        if broken.is_empty() && !kind.contains('/') && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim") {
            errors.invalid(&path.child("type"), kind, "must be a standard limit type or fully qualified");
        }
        errors.invalid_each(&path.child("type"), kind, broken);
        if !kinds.insert(kind) {
            errors.duplicate(&path.child("type"), kind);
        }
        let max = amounts(limit, "max", kind, &path, errors);
        let min = amounts(limit, "min", kind, &path, errors);
        let (mut defaults, mut requests) = (Amounts::new(), Amounts::new());
        if kind == "Pod" {
            for list in ["default", "defaultRequest"] {
                if entries(limit, &[list]).next().is_some() {
                    errors.forbidden(&path.child(list), "may not be specified when `type` is 'Pod'");
                }
            }
        } else {
            defaults = amounts(limit, "default", kind, &path, errors);
            requests = amounts(limit, "defaultRequest", kind, &path, errors);
        }
        let storage = |list| given(limit, &[list, "storage"]).is_some();
        if kind == "PersistentVolumeClaim" && !storage("min") && !storage("max") {
            let detail = "either minimum or maximum storage value is required, but neither was provided";
            errors.required(&path.child("limits"), detail);
        }
        let ratios = amounts(limit, "maxLimitRequestRatio", kind, &path, errors);
        let all = Limits { min, max, defaults, requests, ratios };
        all.compare(&path, errors);
    }
}

struct Limits {
    min: Amounts,
    max: Amounts,
    defaults: Amounts,
    requests: Amounts,
    ratios: Amounts,
}

impl Limits {
    fn compare(&self, path: &Path<'_>, errors: &mut FieldErrors) {
        let names: BTreeSet<&String> = [&self.min, &self.max, &self.defaults, &self.requests, &self.ratios]
            .into_iter()
            .flat_map(|m| m.keys())
            .collect();
        for name in names {
            self.orders(name, path, errors);
            self.ratio(name, path, errors);
        }
    }

    fn orders(&self, name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
        let Self { min, max, defaults, requests, .. } = self;
        let mut order = |low: &Amounts, high: &Amounts, list: &str, shown: &Amounts, words: [&str; 2]| {
            let (Some(low), Some(high)) = (low.get(name), high.get(name)) else { return };
            if low > high {
                let shown = shown.get(name).map_or(Value::Null, Value::from);
                let detail = format!("{} value {low} is greater than {} value {high}", words[0], words[1]);
                errors.invalid(&path.child(list).key(name), shown, detail);
            }
        };
        order(min, max, "min", min, ["min", "max"]);
        order(min, requests, "defaultRequest", requests, ["min", "default request"]);
        order(requests, max, "defaultRequest", requests, ["default request", "max"]);
        order(requests, defaults, "defaultRequest", requests, ["default request", "default limit"]);
        order(min, defaults, "default", min, ["min", "default"]);
        order(defaults, max, "default", max, ["default", "max"]);
        if let (Some(default), Some(request)) = (defaults.get(name), requests.get(name))
            && default != request
            && !resources::may_overcommit(name)
        {
            let detail = format!("default value {default} must equal to defaultRequest value {request} in {name}");
            errors.invalid(&path.child("defaultRequest").key(name), Value::from(request), detail);
        }
    }

    fn ratio(&self, name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
        let Some(ratio) = self.ratios.get(name) else { return };
        let list = path.child("maxLimitRequestRatio");
        if *ratio < Quantity::from(1) {
            errors.invalid(&list.key(name), Value::from(ratio), format!("ratio {ratio} is less than 1"));
        }
        if let (Some(min), Some(max)) = (self.min.get(name), self.max.get(name)) {
            let limit = max.as_f64() / min.as_f64();
            if ratio.as_f64() > limit {
                let detail = format!("ratio {ratio} is greater than max/min = {limit:.6}");
                errors.invalid(&list.key(name), Value::from(ratio), detail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{creates, updates};
    use crate::strategy::KindRef;
    use serde_json::json;

    #[test]
    fn quotas() {
        let kind = KindRef::builtin("", "ResourceQuota", true);
        let base = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"hard": {"pods": "1"}}});
        creates(
            kind,
            &base,
            &[
                (json!({"spec": {"scopes": ["BestEffort"]}}), &[]),
                (json!({"spec": {"hard": {"count/deployments.apps": "2", "requests.nvidia.com/gpu": "1"}}}), &[]),
                (
                    json!({"spec": {"hard": {"pods": "-1"}}}),
                    &["spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0"],
                ),
                (
                    json!({"spec": {"hard": {"cpu": "1"}, "scopes": ["BestEffort"]}}),
                    &["spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource"],
                ),
                (
                    json!({"spec": {"scopes": ["Terminating", "NotTerminating"]}}),
                    &["spec.scopes: Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting scopes"],
                ),
                (
                    json!({"spec": {"hard": {"bananas": "1"}}}),
                    &[
                        "spec.hard[bananas]: Invalid value: \"bananas\": must be a standard resource type or fully \
                         qualified",
                        "spec.hard[bananas]: Invalid value: \"bananas\": must be a standard resource for quota",
                    ],
                ),
            ],
        );
        let patch = json!({"spec": {"scopes": ["BestEffort"]}});
        updates(kind, &base, &[(patch, &["spec.scopes: Invalid value: [\"BestEffort\"]: field is immutable"])]);
    }

    #[test]
    fn limit_ranges() {
        let kind = KindRef::builtin("", "LimitRange", true);
        let base = json!({"metadata": {"name": "a", "namespace": "n"}});
        let limits = |limit: serde_json::Value| json!({"spec": {"limits": [limit]}});
        creates(
            kind,
            &base,
            &[
                (limits(json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}})), &[]),
                (
                    limits(json!({"type": "Container", "min": {"cpu": "3"}, "max": {"cpu": "2"}})),
                    &["spec.limits[0].min[cpu]: Invalid value: \"3\": min value 3 is greater than max value 2"],
                ),
                (
                    limits(json!({"type": "Pod", "default": {"cpu": "3"}})),
                    &["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"],
                ),
                (
                    limits(json!({"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "2"}})),
                    &["spec.limits[0].defaultRequest[cpu]: Invalid value: \"2\": default request value 2 is greater \
                       than default limit value 1"],
                ),
                (
                    limits(json!({"type": "PersistentVolumeClaim"})),
                    &[
                        "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but \
                       neither was provided",
                    ],
                ),
            ],
        );
    }
}
