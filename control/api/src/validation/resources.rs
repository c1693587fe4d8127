//! Names and amounts of resources (CPU, memory, huge pages, devices), and requests and limits.

use std::collections::BTreeSet;

use super::check::{self, NEGATIVE, NOT_WHOLE, entries, quantity};
use crate::names;
use crate::{FieldErrors, Path, Quantity, Value};

const CONTAINER: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
const QUOTA: [&str; 18] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
];
const COUNTED: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const POD_LEVEL: [&str; 2] = ["cpu", "memory"];

pub(super) fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

pub(super) fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

fn is_standard(name: &str) -> bool {
    is_quota_resource(name) || name == "storage"
}

/// Whether a quota can bound it.
pub(super) fn is_quota_resource(name: &str) -> bool {
    QUOTA.contains(&name)
        || name == "services.loadbalancers"
        || is_huge_page(name)
        || name.strip_prefix("requests.").is_some_and(is_huge_page)
}

/// Whether limits may exceed requests.
pub(super) fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// A resource of any kind.
pub(super) fn resource_name(name: &str, path: &Path<'_>, errors: &mut FieldErrors) -> bool {
    let broken = names::qualified_name(name);
    if !broken.is_empty() {
        errors.invalid_each(path, name, broken);
        return false;
    }
    if !name.contains('/') && !is_standard(name) {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
        return false;
    }
    true
}

/// A resource that containers ask for.
pub(super) fn container_resource(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    resource_name(name, path, errors);
    if !name.contains('/') {
        if !CONTAINER.contains(&name) && !is_huge_page(name) {
            errors.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

fn pod_resource(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if resource_name(name, path, errors) && !POD_LEVEL.contains(&name) && !is_huge_page(name) {
        errors.not_supported(path, name, &POD_LEVEL);
    }
}

/// An amount: not negative, and whole where only whole things exist.
pub(super) fn amount(name: &str, value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let number = quantity(value);
    if number.signum() < 0 {
        errors.invalid(path, value.clone(), NEGATIVE);
    }
    if (COUNTED.contains(&name) || is_extended(name)) && !number.is_whole(0) {
        errors.invalid(path, value.clone(), NOT_WHOLE);
    }
}

/// Huge pages come in whole pages.
fn huge_page_fits(name: &str, number: &Quantity) -> bool {
    let size: Option<Quantity> = name.strip_prefix("hugepages-").and_then(|size| size.parse().ok());
    size.is_none_or(|size| size.value() > 0 && number.is_whole(0) && number.value() % size.value() == 0)
}

/// `resources` of a container, or of a whole pod; `claims` are the names the pod declares.
pub(super) fn requirements(
    resources: Option<&Value>,
    whole_pod: bool,
    claims: &BTreeSet<&str>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let Some(resources) = resources.filter(|resources| !resources.is_null()) else { return };
    let mut huge_pages = false;
    let mut ordinary = false;
    let limits = path.child("limits");
    for (name, value) in entries(resources, &["limits"]) {
        one(name, value, whole_pod, &limits.key(name), errors);
        huge_pages |= is_huge_page(name);
        ordinary |= matches!(name, "cpu" | "memory");
    }
    let requests = path.child("requests");
    for (name, value) in entries(resources, &["requests"]) {
        one(name, value, whole_pod, &requests.key(name), errors);
        let number = quantity(value);
        match resources.at(&["limits", name]) {
            Some(limit) => {
                let limit = quantity(limit);
                if number != limit && !may_overcommit(name) {
                    let detail = format!("must be equal to {name} limit of {limit}");
                    errors.invalid(&requests, value.clone(), detail);
                } else if number > limit {
                    let detail = format!("must be less than or equal to {name} limit of {limit}");
                    errors.invalid(&requests, value.clone(), detail);
                }
            }
            None if !may_overcommit(name) => {
                errors.required(&limits, "Limit must be set for non overcommitable resources");
            }
            None => {}
        }
        huge_pages |= is_huge_page(name);
        ordinary |= matches!(name, "cpu" | "memory");
    }
    if huge_pages && !ordinary && !whole_pod {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
    claimed(resources, claims, &path.child("claims"), errors);
}

fn one(name: &str, value: &Value, whole_pod: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    if whole_pod {
        pod_resource(name, path, errors);
    } else {
        container_resource(name, path, errors);
    }
    amount(name, value, path, errors);
    let number = quantity(value);
    if is_huge_page(name) && !huge_page_fits(name, &number) {
        let detail = format!("{number} is not positive integer multiple of {name}");
        errors.invalid(path, value.clone(), detail);
    }
}

fn claimed(resources: &Value, claims: &BTreeSet<&str>, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (at, claim) in resources.list_at(&["claims"]).iter().enumerate() {
        let path = path.index(at);
        let name = check::required(claim, "name", &path, errors);
        if name.is_empty() {
            continue;
        }
        let request = claim.str_at(&["request"]);
        if !seen.insert((name, request)) {
            errors.duplicate(&path, if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") });
        }
        if !claims.contains(name) {
            errors.not_found(&path.child("name"), name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_and_limits_are_judged() {
        for (resources, expected) in [
            (json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}), ""),
            (
                json!({"requests": {"cpu": "3"}, "limits": {"cpu": "2"}}),
                "r.requests: Invalid value: \"3\": must be less than or equal to cpu limit of 2",
            ),
            (
                json!({"requests": {"a.b/gpu": "1"}}),
                "r.limits: Required value: Limit must be set for non overcommitable resources",
            ),
            (json!({"limits": {"a.b/gpu": "500m"}}), "r.limits[a.b/gpu]: Invalid value: \"500m\": must be an integer"),
            (
                json!({"limits": {"cpu": "-1"}}),
                "r.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            ),
            (
                json!({"limits": {"pods": "1"}}),
                "r.limits[pods]: Invalid value: \"pods\": must be a standard resource for containers",
            ),
            (json!({"limits": {"hugepages-2Mi": "2Mi"}}), "r: Forbidden: HugePages require cpu or memory"),
            (
                json!({"limits": {"hugepages-2Mi": "3Mi", "cpu": "1"}}),
                "r.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
            ),
            (json!({"claims": [{"name": "x"}]}), "r.claims[0].name: Not found: \"x\""),
        ] {
            let mut errors = FieldErrors::new();
            let resources = Value::from(resources);
            requirements(Some(&resources), false, &BTreeSet::new(), &Path::new("r"), &mut errors);
            let message = if errors.is_empty() { String::new() } else { errors.message() };
            assert_eq!(message, expected);
        }
    }
}
