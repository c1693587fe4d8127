//! Admission policies and what binds them.

use std::collections::BTreeSet;

use super::super::check::{self, given, known_if_given, label_selector, texts};
use super::{FAILURES, MATCHES, REINVOCATIONS, conditions, rule, shown};
use crate::names;
use crate::{FieldErrors, Path, Value};

const MUTATED: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];
const PATCHES: [&str; 2] = ["ApplyConfiguration", "JSONPatch"];
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
const MAX_AUDIT_ANNOTATIONS: usize = 20;
/// Bytes of an expression that makes the value of an audit annotation.
const MAX_ANNOTATION_EXPRESSION: usize = 5 << 10;

/// Words that cannot name a variable of an expression.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

fn named_rules(holder: &Value, member: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child(member);
    for (at, one) in holder.list_at(&[member]).iter().enumerate() {
        let path = list.index(at);
        let place = path.child("resourceNames");
        let mut seen = BTreeSet::new();
        for (at, name) in texts(one, &["resourceNames"]).into_iter().enumerate() {
            errors.invalid_each(&place.index(at), name, names::path_segment(name, false));
            if !seen.insert(name) {
                errors.duplicate(&place.index(at), name);
            }
        }
        rule(one, &path, errors);
    }
}

fn match_resources(resources: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if given(resources, &["matchPolicy"]).is_none() {
        errors.required(&path.child("matchPolicy"), "");
    }
    known_if_given(resources, "matchPolicy", &MATCHES, path, errors);
    for member in ["namespaceSelector", "objectSelector"] {
        if given(resources, &[member]).is_none() {
            errors.required(&path.child(member), "");
        }
        label_selector(resources.get(member), &path.child(member), errors);
    }
    named_rules(resources, "resourceRules", path, errors);
    named_rules(resources, "excludeResourceRules", path, errors);
}

/// Objects that are being deleted cannot be changed any more.
fn only_changes(resources: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for one in resources.list_at(&["resourceRules"]) {
        for operation in texts(one, &["operations"]).into_iter().filter(|one| !MUTATED.contains(one)) {
            errors.not_supported(&path.child("resourceRules.operations"), operation, &MUTATED);
        }
    }
}

fn param_kind(kind: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let text = check::required(kind, "apiVersion", path, errors);
    let place = path.child("apiVersion");
    let (group, version) = text.split_once('/').unwrap_or(("", text));
    if version.contains('/') {
        errors.invalid(&place, text, format!("unexpected GroupVersion string: {text}"));
    } else if !text.is_empty() {
        let broken = if group.is_empty() { Vec::new() } else { names::dns_subdomain(group) };
        if !broken.is_empty() {
            errors.invalid(&place, group, broken.join(","));
        }
        let broken = names::dns1035_label(version);
        if version.is_empty() {
            errors.invalid(&place, text, "version must be specified");
        } else if !broken.is_empty() {
            errors.invalid(&place, version, broken.join(","));
        }
    }
    let name = check::required(kind, "kind", path, errors);
    let broken = names::dns1035_label(&name.to_lowercase());
    if !name.is_empty() && !broken.is_empty() {
        let detail = format!("may have mixed case, but should otherwise match: {}", broken.join(","));
        errors.invalid(&path.child("kind"), name, detail);
    }
}

fn variables(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("variables");
    for (at, variable) in spec.list_at(&["variables"]).iter().enumerate() {
        let path = list.index(at);
        let name = variable.str_at(&["name"]);
        let plain = name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric());
        if name.trim().is_empty() {
            errors.required(&path.child("name"), "name is not specified");
        } else if !plain || name.starts_with(|c: char| c.is_ascii_digit()) || RESERVED.contains(&name) {
            errors.invalid(&path.child("name"), name, "must be a valid CEL identifier");
        }
        if variable.str_at(&["expression"]).trim().is_empty() {
            errors.required(&path.child("expression"), "expression is not specified");
        }
    }
}

/// What both kinds of policies have before their rules.
fn policy_head(spec: &Value, mutating: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    if given(spec, &["failurePolicy"]).is_none() {
        errors.required(&path.child("failurePolicy"), "");
    }
    known_if_given(spec, "failurePolicy", &FAILURES, path, errors);
    if let Some(kind) = given(spec, &["paramKind"]) {
        param_kind(kind, &path.child("paramKind"), errors);
    }
    let place = path.child("matchConstraints");
    match given(spec, &["matchConstraints"]) {
        None => errors.required(&place, ""),
        Some(constraints) => {
            match_resources(constraints, &place, errors);
            if constraints.list_at(&["resourceRules"]).is_empty() {
                errors.required(&place.child("resourceRules"), "");
            }
            if mutating {
                only_changes(constraints, &place, errors);
            }
        }
    }
    conditions(spec, path, errors);
    variables(spec, path, errors);
}

/// Judges a policy that validates.
pub(in crate::validation) fn validating_policy(object: &Value, errors: &mut FieldErrors) {
    let (path, empty) = (Path::new("spec"), Value::object());
    let spec = object.get("spec").unwrap_or(&empty);
    policy_head(spec, false, &path, errors);
    let (rules, annotations) = (spec.list_at(&["validations"]), spec.list_at(&["auditAnnotations"]));
    if rules.is_empty() && annotations.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.required(&path.child("validations"), detail);
        return errors.required(&path.child("auditAnnotations"), detail);
    }
    let list = path.child("validations");
    for (at, one) in rules.iter().enumerate() {
        validation(one, &list.index(at), errors);
    }
    let list = path.child("auditAnnotations");
    if annotations.len() > MAX_AUDIT_ANNOTATIONS {
        let detail = format!("must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations");
        errors.invalid(&list, shown(spec, "auditAnnotations"), detail);
    }
    let mut seen = BTreeSet::new();
    for (at, one) in annotations.iter().enumerate() {
        let path = list.index(at);
        audit_annotation(one, object.str_at(&["metadata", "name"]), &path, errors);
        let key = one.str_at(&["key"]);
        if !seen.insert(key) {
            errors.duplicate(&path.child("key"), key);
        }
    }
}

fn validation(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if rule.str_at(&["expression"]).trim().is_empty() {
        errors.required(&path.child("expression"), "expression is not specified");
    }
    for member in ["messageExpression", "message"] {
        let text = rule.str_at(&[member]);
        if !text.is_empty() && text.trim().is_empty() {
            errors.invalid(&path.child(member), text, "must be non-empty if specified");
        }
    }
    let message = rule.str_at(&["message"]);
    if message.trim().contains(['\n', '\r']) {
        errors.invalid(&path.child("message"), message, "must not contain line breaks");
    }
    known_if_given(rule, "reason", &REASONS, path, errors);
}

fn audit_annotation(annotation: &Value, policy: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let key = annotation.str_at(&["key"]);
    if policy.is_empty() {
        errors.invalid(&path.child("key"), key, "requires metadata.name be non-empty");
    } else {
        let full = format!("{policy}/{key}");
        errors.invalid_each(&path.child("key"), &full, names::qualified_name(&full));
    }
    let (text, place) = (annotation.str_at(&["valueExpression"]).trim(), path.child("valueExpression"));
    if text.is_empty() {
        errors.required(&place, "valueExpression is not specified");
    } else if text.len() > MAX_ANNOTATION_EXPRESSION {
        errors.required(&place, format!("must not exceed {MAX_ANNOTATION_EXPRESSION} bytes in length"));
    }
}

/// Judges a policy that mutates.
pub(in crate::validation) fn mutating_policy(object: &Value, errors: &mut FieldErrors) {
    let (path, empty) = (Path::new("spec"), Value::object());
    let spec = object.get("spec").unwrap_or(&empty);
    policy_head(spec, true, &path, errors);
    let list = path.child("mutations");
    let mutations = spec.list_at(&["mutations"]);
    if mutations.is_empty() {
        errors.required(&list, "mutations must contain at least one item");
    }
    for (at, one) in mutations.iter().enumerate() {
        mutation(one, &list.index(at), errors);
    }
    check::one_of(spec, "reinvocationPolicy", &REINVOCATIONS, &path, errors);
}

fn mutation(mutation: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = mutation.str_at(&["patchType"]);
    let (wanted, other) = match kind {
        "JSONPatch" => ("jsonPatch", "applyConfiguration"),
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
        _ => return check::one_of(mutation, "patchType", &PATCHES, path, errors),
    };
    match given(mutation, &[wanted]) {
        None => errors.required(&path.child(wanted), format!("must be specified when patchType is {kind}")),
        Some(patch) if patch.str_at(&["expression"]).trim().is_empty() => {
            errors.required(&path.child(wanted).child("expression"), "");
        }
        Some(_) => {}
    }
    if given(mutation, &[other]).is_some() {
        let detail = format!("must not be specified when patchType is {kind}");
        errors.invalid(&path.child(other), format!("{{{other}}}"), detail);
    }
}

fn param_ref(reference: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = reference.str_at(&["name"]);
    let selector = given(reference, &["selector"]);
    let both = "name and selector are mutually exclusive";
    if !name.is_empty() {
        errors.invalid_each(&path.child("name"), name, names::path_segment(name, false));
        if selector.is_some() {
            errors.forbidden(&path.child("name"), both);
        }
    }
    if selector.is_some() {
        label_selector(selector, &path.child("selector"), errors);
        if !name.is_empty() {
            errors.forbidden(&path.child("selector"), both);
        }
    }
    if name.is_empty() && selector.is_none() {
        errors.required(path, "one of name or selector must be specified");
    }
    check::one_of(reference, "parameterNotFoundAction", &["Deny", "Allow"], path, errors);
}

/// Judges what binds a policy of either kind.
pub(in crate::validation) fn policy_binding(object: &Value, mutating: bool, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = object.get("spec").unwrap_or(&Value::Null);
    check::required_name(spec, "policyName", names::dns_subdomain, &path, errors);
    if let Some(reference) = given(spec, &["paramRef"]) {
        param_ref(reference, &path.child("paramRef"), errors);
    }
    if let Some(resources) = given(spec, &["matchResources"]) {
        let place = path.child("matchResources");
        match_resources(resources, &place, errors);
        if mutating {
            only_changes(resources, &place, errors);
        }
    }
    if !mutating {
        validation_actions(spec, &path.child("validationActions"), errors);
    }
}

fn validation_actions(spec: &Value, list: &Path<'_>, errors: &mut FieldErrors) {
    let actions = texts(spec, &["validationActions"]);
    let mut seen = BTreeSet::new();
    for (at, action) in actions.iter().enumerate() {
        if !matches!(*action, "Audit" | "Deny" | "Warn") {
            errors.not_supported(&list.index(at), *action, &["Audit", "Deny", "Warn"]);
        }
        if !seen.insert(*action) {
            errors.duplicate(&list.index(at), *action);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                      response and headers serves no purpose)";
        errors.invalid(list, shown(spec, "validationActions"), detail);
    }
    if seen.is_empty() {
        errors.required(list, "at least one validation action is required");
    }
}
