//! Definitions of custom resources: what is accepted, refused and settled.

use super::*;
use crate::{FieldErrors, strategy::KindRef, validate_create, validate_update};
use jiff::Timestamp;
use serde_json::{Value as Json, json};

const KIND: KindRef<'static> = KindRef::builtin("apiextensions.k8s.io", "CustomResourceDefinition", false);

#[allow(clippy::needless_pass_by_value, reason = "calls read better with a value")]
fn with_schema(schema: Json) -> Value {
    let mut crd = Value::from(json!({
        "metadata": {"name": "things.a.b", "uid": "u"},
        "spec": {"group": "a.b", "scope": "Namespaced", "conversion": {"strategy": "None"},
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList", "shortNames": ["th"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]},
    }));
    prepare_definition(&mut crd);
    crd
}

fn messages(errors: &FieldErrors) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn schemas_must_be_structural() {
    let at = "spec.validation.openAPIV3Schema";
    let object = |properties: Json| json!({"type": "object", "properties": properties});
    for (schema, expected) in [
        (object(json!({"spec": {"type": "object"}})), ""),
        (json!({}), "type: Required value: must not be empty at the root"),
        (
            json!({"type": "array", "items": {"type": "string"}}),
            "type: Invalid value: \"array\": must be object at the root",
        ),
        (object(json!({"a": {}})), "properties[a].type: Required value: must not be empty for specified object fields"),
        (object(json!({"a": {"x-kubernetes-preserve-unknown-fields": true}})), ""),
        (
            object(
                json!({"a": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}),
            ),
            "",
        ),
        (object(json!({"a": {"type": "array"}})), "properties[a].items: Required value: must be specified"),
        (
            object(json!({"a": {"type": "object", "anyOf": [{"properties": {"b": {"minimum": 1}}}]}})),
            "properties[a].properties[b]: Required value: because it is defined in \
             spec.validation.openAPIV3Schema.properties[a].anyOf[0].properties[b]",
        ),
        (
            object(json!({"a": {"type": "string", "allOf": [{"type": "string"}]}})),
            "properties[a].allOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            object(json!({"metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 4}}}})),
            "",
        ),
        (
            object(json!({"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}})),
            "properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is \
             implicitly specified",
        ),
        (object(json!({"a": {"type": "integer", "default": 1, "minimum": 1}})), ""),
        (
            object(json!({"a": {"type": "integer", "default": 0, "minimum": 1}})),
            "properties[a].default: Invalid value: 0: ",
        ),
        (
            object(json!({"a": {"type": "object", "default": {"x": 1}, "properties": {"y": {"type": "string"}}}})),
            "properties[a].default: Invalid value: {\"x\":1}: must not have unknown fields",
        ),
        (
            object(json!({"a": {"type": "string", "pattern": "("}})),
            "properties[a].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: ",
        ),
        (
            object(json!({"a": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "properties": {"k": {"type": "string"}}}}})),
            "properties[a].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so \
             it must have a default or be a required property",
        ),
        (
            object(json!({"a": {"type": "object", "properties": {"b": {"type": "string"}},
                "additionalProperties": {"type": "string"}}})),
            "properties[a].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ),
        (
            object(json!({"a": {"type": "array", "uniqueItems": true, "items": {"type": "string"}}})),
            "properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ),
        (
            object(json!({"a": {"type": "string", "x-kubernetes-validations": [{"rule": ""}]}})),
            "properties[a].x-kubernetes-validations[0].rule: Required value: rule is not specified",
        ),
    ] {
        let found = messages(&validate_create(KIND, &with_schema(schema.clone())));
        if expected.is_empty() {
            assert!(found.is_empty(), "{schema}: {found:?}");
        } else {
            let expected = format!("{at}.{expected}");
            assert!(found.iter().any(|one| one.starts_with(&expected)), "{schema}: {found:?}");
        }
    }
}

#[test]
fn definitions_have_rules_beyond_their_schemas() {
    let plain = json!({"type": "object"});
    for (path, value, expected) in [
        (
            vec!["metadata", "name"],
            json!("x"),
            "metadata.name: Invalid value: \"x\": must be spec.names.plural+\".\"+spec.group",
        ),
        (
            vec!["spec", "group"],
            json!("b"),
            "spec.group: Invalid value: \"b\": should be a domain with at least one dot",
        ),
        (vec!["spec", "scope"], json!("Any"), "spec.scope: Unsupported value: \"Any\""),
        (
            vec!["spec", "names", "listKind"],
            json!("Thing"),
            "spec.names.listKind: Invalid value: \"Thing\": kind and listKind may not be the same",
        ),
        (vec!["spec", "names", "kind"], json!(""), "spec.names.kind: Required value"),
        (
            vec!["spec", "versions"],
            json!([]),
            "spec.versions: Invalid value: []: must have exactly one version marked as storage version",
        ),
        (
            vec!["spec", "preserveUnknownFields"],
            json!(true),
            "spec.preserveUnknownFields: Invalid value: true: cannot set to true",
        ),
        (
            vec!["spec", "conversion"],
            json!({"strategy": "Webhook"}),
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
        ),
        (
            vec!["status", "storedVersions"],
            json!(["v0", "v1"]),
            "status.storedVersions[0]: Invalid value: \"v0\": missing from spec.versions",
        ),
    ] {
        let mut crd = with_schema(plain.clone());
        crd.set_at(&path, Value::from(value));
        let found = messages(&validate_create(KIND, &crd));
        assert!(found.iter().any(|one| one.starts_with(expected)), "{path:?}: {found:?}");
    }
    let old = with_schema(plain.clone());
    let mut old = old;
    settle(&mut old, [], Timestamp::UNIX_EPOCH);
    old.set_at(&["metadata", "resourceVersion"], "1");
    assert!(messages(&validate_update(KIND, &old, &old)).is_empty());
    let mut new = old.clone();
    new.set_at(&["spec", "scope"], "Cluster");
    assert_eq!(
        messages(&validate_update(KIND, &new, &old)),
        ["spec.scope: Invalid value: \"Cluster\": field is immutable"]
    );
    let mut foreign = with_schema(plain);
    foreign.set_at(&["spec", "group"], "x.k8s.io");
    foreign.set_at(&["metadata", "name"], "things.x.k8s.io");
    assert!(
        messages(&validate_create(KIND, &foreign))[0]
            .starts_with("metadata.annotations[api-approved.kubernetes.io]: Required value")
    );
}

#[test]
fn names_go_to_who_came_first() {
    let now = Timestamp::UNIX_EPOCH;
    let mut first = with_schema(json!({"type": "object"}));
    settle(&mut first, [], now);
    assert!(is_established(&first));
    let mut second = with_schema(json!({"type": "object"}));
    second.set_at(&["metadata", "name"], "others.a.b");
    second.set_at(&["spec", "names", "plural"], "others");
    second.set_at(&["spec", "names", "singular"], "other");
    settle(&mut second, [&first], now);
    assert!(!is_established(&second));
    let conflict = condition(&second, "NamesAccepted").unwrap();
    assert_eq!(
        (conflict.str_at(&["reason"]), conflict.str_at(&["message"])),
        ("ListKindConflict", "\"ThingList\" is already in use")
    );
    assert_eq!(second.str_at(&["status", "acceptedNames", "plural"]), "others");
    settle(&mut second, [], now);
    assert!(is_established(&second));
}

#[test]
fn versions_are_ordered_as_clients_prefer_them() {
    let mut versions = ["v1alpha1", "v2", "foo10", "v1beta2", "v10", "v1", "v1beta10", "foo1"];
    versions.sort_by_key(|version| std::cmp::Reverse(version_order(version)));
    assert_eq!(versions, ["v10", "v2", "v1", "v1beta10", "v1beta2", "v1alpha1", "foo1", "foo10"]);
}

#[test]
fn a_definition_compiles_to_resources_and_types() {
    let mut crd = with_schema(json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "n": {"type": "integer"}, "m": {"type": "object", "additionalProperties": {"type": "string"}},
        "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}}}}));
    settle(&mut crd, [], Timestamp::UNIX_EPOCH);
    let base = Scheme::kubernetes();
    let definition = Definition::compile(&base, &crd).unwrap();
    let resource = &definition.stored().resource;
    assert_eq!((resource.api_version().as_str(), resource.list_kind.as_str()), ("a.b/v1", "ThingList"));
    assert!(resource.custom && resource.namespaced && resource.allows(Verb::DeleteCollection));
    let schema = definition.scheme.schema();
    assert_eq!(schema.get(resource.body).name, "b.a.v1.Thing");
    let list = schema.field_at(resource.body, &["spec", "l"]).unwrap();
    assert_eq!(list.list, crate::ListKind::Map(vec!["k".into()]));
    assert_eq!(schema.field_at(resource.body, &["metadata", "name"]).unwrap().ty, crate::FieldType::String);
    assert!(definition.scheme.resource("", "v1", "pods").is_some(), "what lies below is found");
    assert_eq!(definition.scheme.resources().len(), 1);
    let listing = base.listing([resource.clone()]);
    assert_eq!(listing.groups().last().unwrap().name, "a.b");
    assert_eq!(listing.resources().len(), base.resources().len() + 1);
}
