//! Structural schemas: values pruned, defaulted and judged.

use super::*;
use crate::{DecodeError, Decoded, FieldValidation, Limits, SchemaBuilder, Scheme, coerce, decode_json};
use serde_json::{Value as Json, json};
use std::sync::Arc;

fn compile(schema: Json) -> Structural {
    Structural::compile(&Value::from(schema)).unwrap()
}

fn json_of(value: &Value) -> Json {
    value.into()
}

fn problems(schema: &Json, object: &Json, old: Option<&Json>) -> Vec<String> {
    let mut errors = FieldErrors::new();
    let old = old.map(|old| Value::from(old.clone()));
    compile(schema.clone()).validate(&Value::from(object.clone()), old.as_ref(), &mut errors);
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn values_are_judged_in_upstreams_words() {
    let spec = |property: Json| json!({"type": "object", "properties": {"a": property}});
    for (schema, value, expected) in [
        (
            json!({"type": "integer"}),
            json!("x"),
            &["a: Invalid value: \"string\": a in body must be of type integer: \"string\""][..],
        ),
        (
            json!({"type": "string"}),
            json!(null),
            &["a: Invalid value: \"null\": a in body must be of type string: \"null\""],
        ),
        (json!({"type": "string", "nullable": true}), json!(null), &[]),
        (json!({"type": "number"}), json!(1), &[]),
        (json!({"type": "integer"}), json!(1.0), &[]),
        (json!({"x-kubernetes-int-or-string": true}), json!(1), &[]),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            &["a: Invalid value: \"boolean\": a in body must be of type integer,string: \"boolean\""],
        ),
        (
            json!({"type": "integer", "minimum": 2}),
            json!(1),
            &["a: Invalid value: 1: a in body should be greater than or equal to 2"],
        ),
        (
            json!({"type": "integer", "maximum": 2, "exclusiveMaximum": true}),
            json!(2),
            &["a: Invalid value: 2: a in body should be less than 2"],
        ),
        (
            json!({"type": "number", "multipleOf": 0.5}),
            json!(0.75),
            &["a: Invalid value: 0.75: a in body should be a multiple of 0.5"],
        ),
        (json!({"type": "string", "maxLength": 2}), json!("xyz"), &["a: Too long: may not be more than 2 bytes"]),
        (
            json!({"type": "string", "minLength": 2}),
            json!("x"),
            &["a: Invalid value: \"x\": a in body should be at least 2 chars long"],
        ),
        (
            json!({"type": "string", "pattern": "^y$"}),
            json!("x"),
            &["a: Invalid value: \"x\": a in body should match '^y$'"],
        ),
        (
            json!({"type": "string", "enum": ["p", "q"]}),
            json!("x"),
            &["a: Unsupported value: \"x\": supported values: \"p\", \"q\""],
        ),
        (
            json!({"type": "string", "format": "date"}),
            json!("x"),
            &["a: Invalid value: \"x\": a in body must be of type date: \"x\""],
        ),
        (json!({"type": "string", "format": "unheard-of"}), json!("x"), &[]),
        (
            json!({"type": "array", "maxItems": 1, "items": {"type": "string"}}),
            json!(["x", "y", 1]),
            &[
                "a[2]: Invalid value: \"integer\": a[2] in body must be of type string: \"integer\"",
                "a: Too many: 3: must have at most 1 item",
            ],
        ),
        (
            json!({"type": "object", "required": ["k"], "additionalProperties": {"type": "string"}}),
            json!({"x": 1}),
            &[
                "a.x: Invalid value: \"integer\": a.x in body must be of type string: \"integer\"",
                "a.k: Required value",
            ],
        ),
        (
            json!({"type": "object", "properties": {"p": {"type": "string"}, "q": {"type": "string"}},
                "oneOf": [{"required": ["p"]}, {"required": ["q"]}]}),
            json!({"p": "", "q": ""}),
            &[
                "<nil>: Invalid value: \"\": \"a\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
            ],
        ),
        (
            json!({"type": "object", "properties": {"p": {"type": "string"}}, "anyOf": [{"required": ["p"]}]}),
            json!({}),
            &["<nil>: Invalid value: \"\": \"a\" must validate at least one schema (anyOf)", "a.p: Required value"],
        ),
        (
            json!({"type": "string", "not": {"enum": ["x"]}}),
            json!("x"),
            &["<nil>: Invalid value: \"\": \"a\" must not validate the schema (not)"],
        ),
        (
            json!({"type": "string", "allOf": [{"minLength": 2}, {"maxLength": 3}]}),
            json!("x"),
            &[
                "a: Invalid value: \"x\": a in body should be at least 2 chars long",
                "<nil>: Invalid value: \"\": \"a\" must validate all the schemas (allOf)",
            ],
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}),
            json!(["x", "y", "x"]),
            &["a[2]: Duplicate value: \"x\""],
        ),
        (
            json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
            json!({"kind": "K", "metadata": {"labels": {"-": "x"}}}),
            &["a.apiVersion: Required value"],
        ),
    ] {
        let found = problems(&spec(schema.clone()), &json!({"a": value}), None);
        for one in expected {
            assert!(found.iter().any(|text| text == one), "{schema} {value}: {found:?}");
        }
        assert_eq!(found.is_empty(), expected.is_empty(), "{schema} {value}: {found:?}");
    }
}

#[test]
fn what_was_wrong_and_did_not_change_passes() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string", "maxLength": 1}, "b": {"type": "string"},
        "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items":
            {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer", "maximum": 1}}}}}});
    let old = json!({"a": "xyz", "l": [{"k": "one", "v": 5}, {"k": "two", "v": 1}]});
    let unchanged = json!({"a": "xyz", "b": "new", "l": [{"k": "two", "v": 0}, {"k": "one", "v": 5}]});
    assert!(problems(&schema, &unchanged, Some(&old)).is_empty());
    let changed = json!({"a": "xy", "l": [{"k": "one", "v": 6}]});
    assert_eq!(problems(&schema, &changed, Some(&old)).len(), 2);
    assert_eq!(problems(&schema, &unchanged, None).len(), 2);
}

#[test]
fn defaults_fill_and_nulls_go() {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "integer", "default": 5}, "b": {"type": "string"}, "c": {"type": "string", "nullable": true, "default": "x"},
        "d": {"type": "object", "default": {}, "properties": {"e": {"type": "string", "default": "deep"}}},
        "l": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer", "default": 1}}}},
        "m": {"type": "object", "additionalProperties": {"type": "string", "default": "m"}}}});
    let compiled = compile(schema);
    for (object, expected) in [
        (json!({}), json!({"a": 5, "c": "x", "d": {"e": "deep"}})),
        (
            json!({"a": null, "b": null, "c": null, "d": {"e": null}, "l": [{}], "m": {"k": null}}),
            json!({"a": 5, "c": null, "d": {"e": "deep"}, "l": [{"n": 1}], "m": {"k": "m"}}),
        ),
    ] {
        let mut value = Value::from(object);
        compiled.default(&mut value);
        assert_eq!(json_of(&value), expected);
    }
}

/// Decodes as a request's body and as a patch's result; both must agree.
fn decode(schema: Json, object: &Json) -> Result<Decoded, DecodeError> {
    let structural = Arc::new(compile(schema));
    let base = Scheme::kubernetes();
    let mut builder = SchemaBuilder::extending(&Arc::new(base.schema().clone()));
    let (ty, _) = structural.declare(&mut builder, "b.a.v1.Thing");
    let schema = builder.build();
    let bytes = object.to_string();
    let decoded = decode_json(&schema, ty, bytes.as_bytes(), &Limits::default())?;
    let coerced = coerce(&schema, ty, Value::from(object.clone()), &Limits::default())?;
    assert_eq!(decoded.value, coerced.value);
    assert_eq!(decoded.findings.len(), coerced.findings.len());
    Ok(decoded)
}

#[test]
fn what_the_schema_does_not_list_is_dropped_and_told() {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"a": {"type": "string"}, "l": {"type": "array", "items": {"type": "object",
            "properties": {"x": {"type": "integer"}}}}}},
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"in": {"type": "object"}}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"y": {"type": "string"}}}},
        "emb": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}}}});
    let object = json!({"apiVersion": "a.b/v1", "kind": "Thing", "metadata": {"name": "n", "nonsense": 1},
        "spec": {"a": 5, "b": 1, "l": [{"x": "wrong", "z": 1}]},
        "open": {"any": {"thing": [1]}, "in": {"gone": 1}},
        "map": {"k": {"y": "1", "n": 2}}, "extra": 1,
        "emb": {"apiVersion": "v1", "kind": "K", "metadata": {"name": "e"}, "data": 1, "spec": {}}});
    let decoded = decode(schema, &object).unwrap();
    assert_eq!(
        json_of(&decoded.value),
        json!({"apiVersion": "a.b/v1", "kind": "Thing", "metadata": {"name": "n"},
            "spec": {"a": 5, "l": [{"x": "wrong"}]}, "open": {"any": {"thing": [1]}, "in": {}}, "map": {"k": {"y": "1"}},
            "emb": {"apiVersion": "v1", "kind": "K", "metadata": {"name": "e"}, "spec": {}}})
    );
    let refused = decoded.checked(FieldValidation::Strict).unwrap_err().to_string();
    assert_eq!(
        refused,
        "strict decoding error: unknown field \"emb.data\", unknown field \"extra\", unknown field \"map.k.n\", unknown \
         field \"metadata.nonsense\", unknown field \"open.in.gone\", unknown field \"spec.b\", unknown field \"spec.l[0].z\""
    );
}

#[test]
fn the_envelope_has_types() {
    for object in [json!({"kind": 1}), json!({"metadata": {"labels": 5}}), json!([])] {
        assert!(decode(json!({"type": "object"}), &object).is_err(), "{object}");
    }
}
