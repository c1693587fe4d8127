//! `status.typeChecking` of validating policies: expressions checked against the types that the policy names.
//! What upstream's controller finds out later is known here when the policy is written.

use super::expressions::{environment_for, with_variables};
use crate::registry::Resources;
use std::sync::Arc;
use timonel_api::{Gvk, KindRef, Scheme, Value};
use timonel_cel::{Environment, ObjectType, Type, compile, type_of_openapi};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
/// Types that one policy is checked against, at most.
const MAX_TYPES: usize = 10;

/// Writes what a policy's status says of its expressions; nothing for every other kind.
pub(crate) fn write_type_checks(resources: &Resources, kind: KindRef<'_>, object: &mut Value) {
    if (kind.group, kind.kind) != ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") {
        return;
    }
    let generation = object.int_at(&["metadata", "generation"]).unwrap_or(1);
    if object.int_at(&["status", "observedGeneration"]) == Some(generation) {
        return;
    }
    let warnings = warnings(resources, object);
    object.set_at(&["status", "observedGeneration"], generation);
    object.set_at(&["status", "typeChecking"], Value::object());
    if !warnings.is_empty() {
        object.set_at(&["status", "typeChecking", "expressionWarnings"], warnings);
    }
}

fn warnings(resources: &Resources, policy: &Value) -> Vec<Value> {
    let scheme = resources.base();
    let kinds = kinds(resources, policy);
    let param_kind = policy.at(&["spec", "paramKind"]).filter(|kind| !kind.is_null());
    let params = param_kind.map(|kind| {
        let gvk = Gvk::of(kind.str_at(&["apiVersion"]), kind.str_at(&["kind"]));
        scheme.type_of(&gvk).map_or(Type::Dyn, |id| Type::of_scheme(scheme, id))
    });
    let mut found = Vec::new();
    for (at, validation) in policy.list_at(&["spec", "validations"]).iter().enumerate() {
        for member in ["expression", "messageExpression"] {
            let text = validation.str_at(&[member]);
            let faults: Vec<String> = kinds
                .iter()
                .filter(|_| !text.is_empty())
                .filter_map(|(gvk, object)| {
                    let environment = variables(policy, &environment_for(object, params.as_ref(), true));
                    let errors = compile(text, &environment).err()?;
                    Some(format!("{gvk}: compilation failed: {errors}\n"))
                })
                .collect();
            if !faults.is_empty() {
                let mut warning = Value::object();
                warning.set_at(&["fieldRef"], format!("spec.validations[{at}].{member}"));
                warning.set_at(&["warning"], faults.join("\n"));
                found.push(warning);
            }
        }
    }
    found
}

fn variables(policy: &Value, base: &Environment) -> Environment {
    let mut types = Vec::new();
    for variable in policy.list_at(&["spec", "variables"]) {
        let environment = with_variables(base, &types);
        let program = compile(variable.str_at(&["expression"]), &environment);
        let ty = program.map_or(Type::Dyn, |program| program.result_type().clone());
        types.push((variable.str_at(&["name"]).into(), ty));
    }
    with_variables(base, &types)
}

/// Kinds that the policy's rules name without wildcards, sorted.
fn kinds(served: &Resources, policy: &Value) -> Vec<(Gvk, Type)> {
    let scheme = served.base();
    let mut found: Vec<(Gvk, Type)> = Vec::new();
    let mut add = |gvk: Gvk, ty: &dyn Fn() -> Type| {
        if found.len() < MAX_TYPES && !found.iter().any(|(held, _)| *held == gvk) {
            found.push((gvk, ty()));
        }
    };
    for rule in policy.list_at(&["spec", "matchConstraints", "resourceRules"]) {
        let texts = |field: &str| rule.list_at(&[field]).iter().filter_map(Value::as_str).collect::<Vec<_>>();
        let (groups, versions, resources) = (texts("apiGroups"), texts("apiVersions"), texts("resources"));
        if groups.iter().chain(&versions).any(|text| text.contains('*')) {
            continue;
        }
        for resource in scheme.resources() {
            let named = groups.contains(&resource.group.as_str())
                && versions.contains(&resource.version.as_str())
                && resources.contains(&resource.plural.as_str());
            if named {
                add(resource.gvk(), &|| Type::of_scheme(scheme, resource.body));
            }
        }
        for custom in groups.iter().flat_map(|group| versions.iter().flat_map(|version| served.custom(group, version)))
        {
            let version = custom.version();
            if resources.contains(&version.resource.plural.as_str()) {
                add(version.resource.gvk(), &|| declared(scheme, &version.schema()));
            }
        }
    }
    found.sort_by(|a, b| (&a.0.group, &a.0.version, &a.0.kind).cmp(&(&b.0.group, &b.0.version, &b.0.kind)));
    found
}

/// The type of a definition's objects, with what every object has.
fn declared(scheme: &Arc<Scheme>, schema: &Value) -> Type {
    if schema.bool_at(&["x-kubernetes-preserve-unknown-fields"]) == Some(true) {
        return Type::Dyn;
    }
    let meta = scheme.schema().id(OBJECT_META).map_or(Type::Dyn, |id| Type::of_scheme(scheme, id));
    let every = [("apiVersion", Type::String), ("kind", Type::String), ("metadata", meta)];
    let properties = schema.get("properties").and_then(Value::as_object);
    let own = properties.into_iter().flat_map(|properties| properties.iter()).filter_map(|(name, property)| {
        let known = matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
        let embedded = property.bool_at(&["x-kubernetes-embedded-resource"]) == Some(true);
        Some((name.as_str().into(), type_of_openapi(property, embedded).filter(|_| !known)?))
    });
    Type::Object(ObjectType::new("object", every.map(|(name, ty)| (name.into(), ty)).into_iter().chain(own)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[allow(clippy::needless_pass_by_value, reason = "calls read better with a value")]
    fn checked(validation: serde_json::Value) -> Value {
        let mut policy: Value = json!({"metadata": {"generation": 2}, "spec": {
            "matchConstraints": {"resourceRules": [
                {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments", "deployments/scale"]}]},
            "variables": [{"name": "n", "expression": "object.spec.replicas"}],
            "validations": [validation]}})
        .into();
        let kind = KindRef::builtin("admissionregistration.k8s.io", "ValidatingAdmissionPolicy", true);
        write_type_checks(&Resources::listed(&Scheme::kubernetes()), kind, &mut policy);
        policy
    }

    #[test]
    fn sound_policies_have_no_warnings() {
        let policy = checked(json!({"expression": "variables.n > 1 && object.metadata.name.startsWith('a')"}));
        assert_eq!(policy.int_at(&["status", "observedGeneration"]), Some(2));
        assert_eq!(policy.at(&["status", "typeChecking"]), Some(&Value::object()));
    }

    #[test]
    fn fields_that_are_not_there_are_named_with_the_kind() {
        let policy = checked(json!({"expression": "object.spec.maxReplicas > 1", "messageExpression": "object.x"}));
        let warnings = policy.list_at(&["status", "typeChecking", "expressionWarnings"]);
        let shown: Vec<(&str, &str)> =
            warnings.iter().map(|warning| (warning.str_at(&["fieldRef"]), warning.str_at(&["warning"]))).collect();
        assert_eq!(shown.len(), 2);
        assert_eq!(shown[0].0, "spec.validations[0].expression");
        assert_eq!(
            shown[0].1,
            "apps/v1, Kind=Deployment: compilation failed: ERROR: <input>:1:12: undefined field 'maxReplicas'\n | object.spec.maxReplicas > 1\n | ...........^\n"
        );
        assert_eq!(shown[1].0, "spec.validations[0].messageExpression");
    }

    #[test]
    fn what_a_definition_declares_is_checked() {
        let schema: Value = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "replicas": {"type": "integer"}}}, "metadata": {"type": "object"}}})
        .into();
        let ty = declared(&Scheme::kubernetes(), &schema);
        for (text, error) in [
            ("object.spec.replicas > 1 && 'a' in object.metadata.labels", None),
            ("object.spec.replicas > '1'", Some("found no matching overload for '_>_' applied to '(int, string)'")),
            ("object.spec.maxRetries < 10", Some("undefined field 'maxRetries'")),
        ] {
            let found = compile(text, &environment_for(&ty, None, true)).err().map(|error| error.to_string());
            assert_eq!(found.is_some(), error.is_some(), "{text}: {found:?}");
            assert!(found.unwrap_or_default().contains(error.unwrap_or_default()), "{text}");
        }
    }
}
