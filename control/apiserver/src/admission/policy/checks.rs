//! Expressions of admission's own kinds, checked when they are written: what does not compile is not stored. Pure.

use super::{
    compiled::{compile_variables, compiled},
    expressions::environment,
    mutating::MutationStructs,
};
use std::sync::Arc;
use timonel_api::{FieldErrors, KindRef, Path, Value};
use timonel_cel::{Environment, ObjectType, Type};

const GROUP: &str = "admissionregistration.k8s.io";

/// What is wrong with the expressions of an object of admission's kinds; nothing for every other kind.
pub(crate) fn check_expressions(kind: KindRef<'_>, object: &Value, old: Option<&Value>) -> FieldErrors {
    let mut errors = FieldErrors::new();
    if kind.group != GROUP {
        return errors;
    }
    match kind.kind {
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            let webhooks = Path::new("webhooks");
            let before = old.map_or(&[][..], |old| old.list_at(&["webhooks"]));
            for (at, webhook) in object.list_at(&["webhooks"]).iter().enumerate() {
                let same = before
                    .get(at)
                    .is_some_and(|before| before.get("matchConditions") == webhook.get("matchConditions"));
                if !same {
                    conditions(webhook, &webhooks.index(at), &environment(false, true), &mut errors);
                }
            }
        }
        "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy" => policy(kind.kind, object, &mut errors),
        _ => {}
    }
    errors
}

fn conditions(holder: &Value, path: &Path<'_>, environment: &Environment, errors: &mut FieldErrors) {
    let path = path.child("matchConditions");
    for (at, condition) in holder.list_at(&["matchConditions"]).iter().enumerate() {
        let text = condition.str_at(&["expression"]).trim();
        expression(text, &path.index(at).child("expression"), environment, &[Type::Bool], errors);
    }
}

/// One expression; one that is absent is the business of other rules.
fn expression(text: &str, path: &Path<'_>, environment: &Environment, wanted: &[Type], errors: &mut FieldErrors) {
    if text.trim().is_empty() {
        return;
    }
    if let Err(why) = compiled(text, environment, wanted) {
        errors.invalid(path, text, why);
    }
}

fn policy(kind: &str, object: &Value, errors: &mut FieldErrors) {
    let params = object.at(&["spec", "paramKind"]).is_some_and(|kind| !kind.is_null());
    let base = environment(params, true);
    let spec = Path::new("spec");
    let holder = object.get("spec").unwrap_or(&Value::Null);
    conditions(holder, &spec, &base, errors);
    let (variables, full) = compile_variables(object, &base);
    let place = spec.child("variables");
    for (at, ((_, outcome), variable)) in variables.iter().zip(object.list_at(&["spec", "variables"])).enumerate() {
        let text = variable.str_at(&["expression"]);
        if let (Err(why), false) = (outcome, text.trim().is_empty()) {
            errors.invalid(&place.index(at).child("expression"), text, why.clone());
        }
    }
    if kind == "MutatingAdmissionPolicy" {
        return mutations(object, &full.mutation(Arc::new(MutationStructs)), errors);
    }
    let plain = compile_variables(object, &environment(params, false)).1;
    let place = spec.child("validations");
    for (at, validation) in object.list_at(&["spec", "validations"]).iter().enumerate() {
        let path = place.index(at);
        let at = |member: &str| validation.str_at(&[member]);
        expression(at("expression"), &path.child("expression"), &full, &[Type::Bool], errors);
        expression(at("messageExpression"), &path.child("messageExpression"), &plain, &[Type::String], errors);
    }
    let place = spec.child("auditAnnotations");
    for (at, annotation) in object.list_at(&["spec", "auditAnnotations"]).iter().enumerate() {
        let (text, path) = (annotation.str_at(&["valueExpression"]), place.index(at));
        expression(text, &path.child("valueExpression"), &full, &[Type::String, Type::Null], errors);
    }
}

fn mutations(object: &Value, environment: &Environment, errors: &mut FieldErrors) {
    let spec = Path::new("spec");
    let place = spec.child("mutations");
    for (at, step) in object.list_at(&["spec", "mutations"]).iter().enumerate() {
        let path = place.index(at);
        let (member, wanted) = match step.str_at(&["patchType"]) {
            "ApplyConfiguration" => ("applyConfiguration", apply_type()),
            "JSONPatch" => ("jsonPatch", patch_type()),
            _ => continue,
        };
        let text = step.str_at(&[member, "expression"]).trim();
        expression(text, &path.child(member).child("expression"), environment, &[wanted], errors);
    }
}

/// What an apply configuration's expression makes.
pub(super) fn apply_type() -> Type {
    Type::Object(ObjectType::open("Object"))
}

/// What a JSON patch's expression makes.
pub(super) fn patch_type() -> Type {
    Type::list(Type::Object(MutationStructs::patch()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn faults(kind: &str, object: serde_json::Value) -> Vec<String> {
        let errors = check_expressions(KindRef::builtin(GROUP, kind, false), &object.into(), None);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_does_not_compile_is_named_with_its_place() {
        let policy = |spec: serde_json::Value| json!({ "spec": spec });
        for (kind, object, fault) in [
            (
                "ValidatingWebhookConfiguration",
                json!({"webhooks": [{"matchConditions": [{"name": "a", "expression": "..."}]}]}),
                "webhooks[0].matchConditions[0].expression: Invalid value: \"...\": compilation failed: ERROR: <input>:1:2: Syntax error",
            ),
            (
                "ValidatingAdmissionPolicy",
                policy(json!({"validations": [{"expression": "object.x"}]})),
                "spec.validations[0].expression: Invalid value: \"object.x\": must evaluate to bool but got dyn",
            ),
            (
                "ValidatingAdmissionPolicy",
                policy(json!({"validations": [{"expression": "params.x == 1"}]})),
                "undeclared reference to 'params'",
            ),
            (
                "ValidatingAdmissionPolicy",
                policy(json!({"variables": [{"name": "a", "expression": "b"}]})),
                "spec.variables[0].expression: Invalid value: \"b\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'b'",
            ),
            (
                "ValidatingAdmissionPolicy",
                policy(json!({"validations": [{"expression": "true", "messageExpression": "1"}]})),
                "spec.validations[0].messageExpression: Invalid value: \"1\": must evaluate to string but got int",
            ),
            (
                "ValidatingAdmissionPolicy",
                policy(json!({"auditAnnotations": [{"key": "k", "valueExpression": "true"}]})),
                "must evaluate to one of [string null_type] but got bool",
            ),
            (
                "MutatingAdmissionPolicy",
                policy(
                    json!({"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "[1]"}}]}),
                ),
                "spec.mutations[0].applyConfiguration.expression: Invalid value: \"[1]\": must evaluate to Object but got list(int)",
            ),
        ] {
            let found = faults(kind, object.clone());
            assert!(found.iter().any(|found| found.contains(fault)), "{object}: {found:?}");
        }
    }

    #[test]
    fn sound_expressions_pass() {
        let policy = json!({"spec": {
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "matchConditions": [{"name": "a", "expression": "request.userInfo.username != 'x' && has(object.spec)"}],
            "variables": [
                {"name": "n", "expression": "object.spec.replicas"},
                {"name": "big", "expression": "variables.n > int(params.data.max)"}
            ],
            "validations": [{
                "expression": "!variables.big || authorizer.group('').resource('pods').check('get').allowed()",
                "messageExpression": "'too many: ' + string(variables.n)"
            }],
            "auditAnnotations": [{"key": "k", "valueExpression": "variables.big ? 'big' : null"}]
        }});
        let found = faults("ValidatingAdmissionPolicy", policy);
        assert!(found.iter().all(|fault| fault.contains("auditAnnotations")), "{found:?}");
        let mutating = json!({"spec": {"mutations": [
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                "Object{metadata: Object.metadata{labels: Object.metadata.labels{a: 'b'}}, spec: Object.spec{replicas: 3}}"}},
            {"patchType": "JSONPatch", "jsonPatch": {"expression":
                "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'c'}]"}}
        ]}});
        assert_eq!(faults("MutatingAdmissionPolicy", mutating), Vec::<String>::new());
    }
}
