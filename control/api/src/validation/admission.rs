//! Admission's own kinds: webhook configurations here, policies and what binds them below.
//!
//! Judges all but the expressions, which are compiled where the expression language is known.

mod policies;

pub(super) use policies::{mutating_policy, policy_binding, validating_policy};

use std::collections::BTreeSet;

use super::check::{self, given, known_if_given, label_selector, texts};
use super::webhook_client::client;
use crate::names;
use crate::{FieldErrors, Path, Value};

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];
const FAILURES: [&str; 2] = ["Fail", "Ignore"];
const MATCHES: [&str; 2] = ["Equivalent", "Exact"];
const REINVOCATIONS: [&str; 2] = ["IfNeeded", "Never"];
const HARMLESS: [&str; 2] = ["None", "NoneOnDryRun"];
const EFFECTS: [&str; 4] = ["None", "NoneOnDryRun", "Some", "Unknown"];
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];
const MAX_SECONDS: i64 = 30;
const MAX_CONDITIONS: usize = 64;

fn shown(value: &Value, member: &str) -> Value {
    value.get(member).cloned().unwrap_or_default()
}

fn rule(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    wildcard_alone(rule, "operations", "operations", path, errors);
    let list = path.child("operations");
    for (at, operation) in texts(rule, &["operations"]).iter().enumerate() {
        if !OPERATIONS.contains(operation) {
            errors.not_supported(&list.index(at), *operation, &OPERATIONS);
        }
    }
    wildcard_alone(rule, "apiGroups", "API groups", path, errors);
    wildcard_alone(rule, "apiVersions", "API versions", path, errors);
    let list = path.child("apiVersions");
    for (at, _) in texts(rule, &["apiVersions"]).iter().enumerate().filter(|(_, version)| version.is_empty()) {
        errors.required(&list.index(at), "");
    }
    resources(rule, &path.child("resources"), errors);
    known_if_given(rule, "scope", &SCOPES, path, errors);
}

/// A list that must not be empty, and in which `*` stands alone.
fn wildcard_alone(rule: &Value, member: &str, words: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let all = texts(rule, &[member]);
    if all.is_empty() {
        errors.required(&path.child(member), "");
    }
    if all.len() > 1 && all.contains(&"*") {
        let detail = format!("if '*' is present, must not specify other {words}");
        errors.invalid(&path.child(member), shown(rule, member), detail);
    }
}

fn resources(rule: &Value, list: &Path<'_>, errors: &mut FieldErrors) {
    let all = texts(rule, &["resources"]);
    if all.is_empty() {
        errors.required(list, "");
    }
    let (mut whole, mut everywhere) = (BTreeSet::new(), BTreeSet::new());
    let mut plain = false;
    for (at, one) in all.iter().enumerate() {
        let place = list.index(at);
        if one.is_empty() {
            errors.required(&place, "");
            continue;
        }
        let Some((resource, part)) = one.split_once('/') else {
            plain = *one != "*";
            continue;
        };
        if whole.contains(resource) {
            errors.invalid(&place, *one, format!("if '{resource}/*' is present, must not specify {one}"));
        }
        if everywhere.contains(part) {
            errors.invalid(&place, *one, format!("if '*/{part}' is present, must not specify {one}"));
        }
        if part == "*" {
            whole.insert(resource);
        }
        if resource == "*" {
            everywhere.insert(part);
        }
    }
    if all.len() > 1 && all.contains(&"*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.invalid(list, shown(rule, "resources"), detail);
    }
    if all.contains(&"*") && plain {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(list, shown(rule, "resources"), detail);
    }
}

/// What an update is spared because the object before it broke the rule already.
#[derive(Debug, Default)]
struct Spared {
    effects: bool,
    reviews: bool,
    names: bool,
}

impl Spared {
    fn of(old: Option<&Value>) -> Self {
        let Some(hooks) = old.map(|old| old.list_at(&["webhooks"])) else { return Self::default() };
        let mut seen = BTreeSet::new();
        Self {
            effects: hooks.iter().any(|hook| !HARMLESS.contains(&hook.str_at(&["sideEffects"]))),
            reviews: hooks.iter().any(|hook| {
                let versions = texts(hook, &["admissionReviewVersions"]);
                !versions.is_empty() && !versions.iter().any(|version| REVIEWS.contains(version))
            }),
            names: hooks.iter().any(|hook| !seen.insert(hook.str_at(&["name"]))),
        }
    }
}

/// Judges a webhook configuration of either kind.
pub(super) fn webhooks(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let list = Path::new("webhooks");
    let spared = Spared::of(old);
    let mut seen = BTreeSet::new();
    for (at, hook) in object.list_at(&["webhooks"]).iter().enumerate() {
        let path = list.index(at);
        webhook(hook, &spared, &path, errors);
        review_versions(hook, &spared, &path.child("admissionReviewVersions"), errors);
        let name = hook.str_at(&["name"]);
        if !spared.names && !name.is_empty() && !seen.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
    }
}

fn review_versions(hook: &Value, spared: &Spared, place: &Path<'_>, errors: &mut FieldErrors) {
    let versions = texts(hook, &["admissionReviewVersions"]);
    if versions.is_empty() {
        return errors.required(place, "must specify one of v1, v1beta1");
    }
    let mut seen = BTreeSet::new();
    for (at, version) in versions.iter().enumerate() {
        if seen.insert(version) {
            errors.invalid_each(&place.index(at), version, names::dns1035_label(version));
        } else {
            errors.invalid(&place.index(at), *version, "duplicate version");
        }
    }
    if !spared.reviews && !versions.iter().any(|version| REVIEWS.contains(version)) {
        errors.invalid(place, shown(hook, "admissionReviewVersions"), "must include at least one of v1, v1beta1");
    }
}

fn webhook(hook: &Value, spared: &Spared, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = check::required(hook, "name", path, errors);
    if !name.is_empty() {
        errors.invalid_each(&path.child("name"), name, names::fqdn(name, 3));
    }
    let list = path.child("rules");
    for (at, one) in hook.list_at(&["rules"]).iter().enumerate() {
        rule(one, &list.index(at), errors);
    }
    known_if_given(hook, "failurePolicy", &FAILURES, path, errors);
    known_if_given(hook, "matchPolicy", &MATCHES, path, errors);
    let effects: &[&str] = if spared.effects { &EFFECTS } else { &HARMLESS };
    if given(hook, &["sideEffects"]).is_none() {
        errors.required(&path.child("sideEffects"), format!("must specify one of {}", effects.join(", ")));
    }
    known_if_given(hook, "sideEffects", effects, path, errors);
    if let Some(seconds) = hook.int_at(&["timeoutSeconds"]).filter(|s| !(1..=MAX_SECONDS).contains(s)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(&path.child("timeoutSeconds"), seconds, detail);
    }
    for member in ["namespaceSelector", "objectSelector"] {
        label_selector(hook.get(member), &path.child(member), errors);
    }
    known_if_given(hook, "reinvocationPolicy", &REINVOCATIONS, path, errors);
    client(hook.get("clientConfig"), &path.child("clientConfig"), errors);
    conditions(hook, path, errors);
}

fn conditions(holder: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("matchConditions");
    let all = holder.list_at(&["matchConditions"]);
    if all.len() > MAX_CONDITIONS {
        errors.too_many(&list, all.len(), MAX_CONDITIONS);
    }
    let mut seen = BTreeSet::new();
    for (at, condition) in all.iter().enumerate() {
        let path = list.index(at);
        if condition.str_at(&["expression"]).trim().is_empty() {
            errors.required(&path.child("expression"), "");
        }
        check::required_name(condition, "name", names::qualified_name, &path, errors);
        let name = condition.str_at(&["name"]);
        if !name.is_empty() && !seen.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
    }
}

#[cfg(test)]
mod tests;
