//! What extends the API: webhooks, admission policies, custom resource definitions, aggregated APIs, flow control.

use std::collections::BTreeSet;

use super::check::{self, given, label_selector, maybe_one_of, one_of, texts};
use crate::names;
use crate::{FieldErrors, Path, Value};

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const MAX_WEBHOOK_SECONDS: i64 = 30;

fn rule(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let operations = texts(rule, &["operations"]);
    let list = path.child("operations");
    if operations.is_empty() {
        errors.required(&list, "");
    }
    for (at, operation) in operations.iter().enumerate().filter(|(_, one)| !OPERATIONS.contains(one)) {
        errors.not_supported(&list.index(at), *operation, &OPERATIONS);
    }
    for (member, words) in [("operations", "operations"), ("apiGroups", "API groups"), ("apiVersions", "API versions")]
    {
        let all = texts(rule, &[member]);
        if all.is_empty() && member != "operations" {
            errors.required(&path.child(member), "");
        }
        if all.len() > 1 && all.contains(&"*") {
            let shown = rule.get(member).cloned().unwrap_or_default();
            errors.invalid(&path.child(member), shown, format!("if '*' is present, must not specify other {words}"));
        }
    }
    if texts(rule, &["resources"]).is_empty() {
        errors.required(&path.child("resources"), "");
    }
    maybe_one_of(rule, "scope", &["*", "Cluster", "Namespaced"], path, errors);
}

/// Where a webhook is called.
pub(super) fn client(config: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let url = config.and_then(|config| given(config, &["url"]));
    let service = config.and_then(|config| given(config, &["service"]));
    match (url, service) {
        (Some(url), None) => {
            let text = url.as_str().unwrap_or("");
            if !text.starts_with("https://") {
                let detail = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
                errors.invalid(&path.child("url"), text, detail);
            }
        }
        (None, Some(service)) => {
            let path = path.child("service");
            for member in ["name", "namespace"] {
                if service.str_at(&[member]).is_empty() {
                    errors.required(&path.child(member), format!("service {member} is required"));
                }
            }
            if let Some(port) = service.int_at(&["port"]).filter(|port| !names::port_number(*port).is_empty()) {
                let detail = format!("port is not valid: {}", names::port_number(port).join(","));
                errors.invalid(&path.child("port"), port, detail);
            }
        }
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}

pub(super) fn webhooks(object: &Value, errors: &mut FieldErrors) {
    let list = Path::new("webhooks");
    let mut seen = BTreeSet::new();
    for (at, hook) in object.list_at(&["webhooks"]).iter().enumerate() {
        let path = list.index(at);
        webhook(hook, &path, errors);
        let name = hook.str_at(&["name"]);
        if !name.is_empty() && !seen.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        let versions = texts(hook, &["admissionReviewVersions"]);
        let place = path.child("admissionReviewVersions");
        if versions.is_empty() {
            errors.required(&place, "must specify one of v1, v1beta1");
        } else if !versions.iter().any(|version| matches!(*version, "v1" | "v1beta1")) {
            let shown = hook.get("admissionReviewVersions").cloned().unwrap_or_default();
            errors.invalid(&place, shown, "must include at least one of v1, v1beta1");
        }
    }
}

fn webhook(hook: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = check::required(hook, "name", path, errors);
    if !name.is_empty() {
        errors.invalid_each(&path.child("name"), name, names::fqdn(name, 3));
    }
    let list = path.child("rules");
    for (at, one) in hook.list_at(&["rules"]).iter().enumerate() {
        rule(one, &list.index(at), errors);
    }
    maybe_one_of(hook, "failurePolicy", &["Fail", "Ignore"], path, errors);
    maybe_one_of(hook, "matchPolicy", &["Equivalent", "Exact"], path, errors);
    if hook.str_at(&["sideEffects"]).is_empty() {
        errors.required(&path.child("sideEffects"), "must specify one of None, NoneOnDryRun");
    }
    maybe_one_of(hook, "sideEffects", &["None", "NoneOnDryRun"], path, errors);
    if let Some(seconds) = hook.int_at(&["timeoutSeconds"]).filter(|s| !(1..=MAX_WEBHOOK_SECONDS).contains(s)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(&path.child("timeoutSeconds"), seconds, detail);
    }
    for member in ["namespaceSelector", "objectSelector"] {
        label_selector(hook.get(member), &path.child(member), errors);
    }
    client(hook.get("clientConfig"), &path.child("clientConfig"), errors);
    maybe_one_of(hook, "reinvocationPolicy", &["IfNeeded", "Never"], path, errors);
}

/// Both kinds of admission policies.
pub(super) fn policy(object: &Value, rules: &str, errors: &mut FieldErrors) {
    let (path, empty) = (Path::new("spec"), Value::object());
    let spec = object.get("spec").unwrap_or(&empty);
    one_of(spec, "failurePolicy", &["Fail", "Ignore"], &path, errors);
    if let Some(kind) = given(spec, &["paramKind"]) {
        for member in ["apiVersion", "kind"] {
            check::required(kind, member, &path.child("paramKind"), errors);
        }
    }
    let place = path.child("matchConstraints");
    match given(spec, &["matchConstraints"]) {
        None => errors.required(&place, ""),
        Some(constraints) => {
            let list = place.child("resourceRules");
            if constraints.list_at(&["resourceRules"]).is_empty() {
                errors.required(&list, "");
            }
            for (at, one) in constraints.list_at(&["resourceRules"]).iter().enumerate() {
                rule(one, &list.index(at), errors);
            }
        }
    }
    let list = path.child(rules);
    let entries = spec.list_at(&[rules]);
    if entries.is_empty() && spec.list_at(&["auditAnnotations"]).is_empty() {
        let detail = if rules == "validations" {
            "validations or auditAnnotations must contain at least one item"
        } else {
            "mutations must contain at least one item"
        };
        errors.required(&list, detail);
    }
    if rules == "validations" {
        for (at, entry) in entries.iter().enumerate() {
            if entry.str_at(&["expression"]).trim().is_empty() {
                errors.required(&list.index(at).child("expression"), "expression is not specified");
            }
        }
    }
}

pub(super) fn policy_binding(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = object.get("spec").unwrap_or(&Value::Null);
    check::required_name(spec, "policyName", names::dns_subdomain, &path, errors);
    if object.str_at(&["kind"]) == "ValidatingAdmissionPolicyBinding" {
        let actions = texts(spec, &["validationActions"]);
        let list = path.child("validationActions");
        if actions.is_empty() {
            errors.required(&list, "at least one validation action is required");
        }
        for (at, action) in actions.iter().enumerate().filter(|(_, one)| !matches!(**one, "Audit" | "Deny" | "Warn")) {
            errors.not_supported(&list.index(at), *action, &["Audit", "Deny", "Warn"]);
        }
    }
}

pub(super) fn api_service(object: &Value, errors: &mut FieldErrors) {
    let (path, empty) = (Path::new("spec"), Value::object());
    let spec = object.get("spec").unwrap_or(&empty);
    let (group, version) = (spec.str_at(&["group"]), spec.str_at(&["version"]));
    let (name, wanted) = (object.str_at(&["metadata", "name"]), format!("{version}.{group}"));
    if name != wanted {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {}", crate::quote(&wanted));
        errors.invalid(&Path::new("metadata.name"), name, detail);
    }
    if group.is_empty() && version != "v1" {
        let detail = "only v1 may have an empty group and it better be legacy kube";
        errors.required(&path.child("group"), detail);
    }
    if !group.is_empty() {
        errors.invalid_each(&path.child("group"), group, names::dns_subdomain(group));
    }
    errors.invalid_each(&path.child("version"), version, names::dns1035_label(version));
    for (member, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
        let number = spec.int_at(&[member]).unwrap_or(0);
        if !(1..=max).contains(&number) {
            errors.invalid(&path.child(member), number, format!("must be positive and less than {max}"));
        }
    }
    if let Some(service) = given(spec, &["service"]) {
        for member in ["namespace", "name"] {
            check::required(service, member, &path.child("service"), errors);
        }
        if spec.bool_at(&["insecureSkipTLSVerify"]) == Some(true) && !spec.str_at(&["caBundle"]).is_empty() {
            errors.invalid(&path.child("insecureSkipTLSVerify"), true, "may not be true if caBundle is present");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{creates, merged};
    use crate::strategy::KindRef;
    use serde_json::{Value as Json, json};

    #[test]
    fn webhooks_and_policies() {
        let kind = KindRef::builtin("admissionregistration.k8s.io", "ValidatingWebhookConfiguration", false);
        let hook = json!({"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://x"}});
        let with = |patch: Json| json!({"webhooks": [merged(&hook, &patch)]});
        creates(
            kind,
            &json!({"metadata": {"name": "w"}}),
            &[
                (with(json!({})), &[]),
                (
                    with(json!({"name": "a"})),
                    &[
                        "webhooks[0].name: Invalid value: \"a\": should be a domain with at least three segments separated by dots",
                    ],
                ),
                (
                    with(json!({"clientConfig": null, "timeoutSeconds": 31})),
                    &[
                        "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
                        "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
                    ],
                ),
                (
                    with(
                        json!({"rules": [{"operations": ["FLY"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}]}),
                    ),
                    &[
                        "webhooks[0].rules[0].operations[0]: Unsupported value: \"FLY\": supported values: \"*\", \"CONNECT\", \
                 \"CREATE\", \"DELETE\", \"UPDATE\"",
                    ],
                ),
            ],
        );
        let kind = KindRef::builtin("admissionregistration.k8s.io", "ValidatingAdmissionPolicy", false);
        creates(
            kind,
            &json!({"metadata": {"name": "p"}, "spec": {"failurePolicy": "Fail"}}),
            &[(
                json!({}),
                &[
                    "spec.matchConstraints: Required value",
                    "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                ],
            )],
        );
    }

    #[test]
    fn aggregation_and_flow_control() {
        let kind = KindRef::builtin("apiregistration.k8s.io", "APIService", false);
        let base = json!({"metadata": {"name": "v1.a.b"}, "spec": {"group": "a.b", "version": "v1",
            "groupPriorityMinimum": 100, "versionPriority": 10}});
        creates(
            kind,
            &base,
            &[
                (json!({}), &[]),
                (
                    json!({"metadata": {"name": "x"}}),
                    &["metadata.name: Invalid value: \"x\": must be `spec.version+\".\"+spec.group`: \"v1.a.b\""],
                ),
                (
                    json!({"spec": {"versionPriority": 0}}),
                    &["spec.versionPriority: Invalid value: 0: must be positive and less than 1000"],
                ),
            ],
        );
        let kind = KindRef::builtin("flowcontrol.apiserver.k8s.io", "FlowSchema", false);
        creates(
            kind,
            &json!({"metadata": {"name": "f"}, "spec": {"matchingPrecedence": 2}}),
            &[(json!({}), &["spec.priorityLevelConfiguration.name: Required value: must reference a priority level"])],
        );
    }
}
