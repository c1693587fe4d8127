//! From a schema in OpenAPI's form (of a CustomResourceDefinition, or published) to a type, with the sizes
//! that the schema or the largest request bounds.

use compact_str::CompactString;
use std::sync::Arc;
use timonel_api::{Object, Value};

use crate::types::{ListSemantics, ListType, MAX_REQUEST_BYTES, ObjectType, Type};

/// Smallest forms in JSON, in bytes.
const MIN_STRING: u64 = 2;
const MIN_BOOL: u64 = 4;
const MIN_NUMBER: u64 = 1;
const MIN_DURATION: u64 = 3;
const MIN_DATETIME: u64 = 21;
const DATE: u64 = 12;
/// Largest forms.
const MAX_DURATION: u64 = 32;
const MAX_DATETIME: u64 = 32;
/// Deepest schema that becomes a type: what lies deeper is not known to expressions.
const MAX_DEPTH: usize = 128;

/// The type that expressions see for a schema; `None` when they do not see it at all. `resource_root` says
/// that the schema is that of a whole object, which always has its kind and its name.
#[must_use]
pub fn type_of_openapi(schema: &Value, resource_root: bool) -> Option<Type> {
    made(schema, resource_root, MAX_DEPTH).map(|made| made.ty)
}

/// Bytes of the smallest value of a schema in JSON; `None` when expressions do not see it.
#[must_use]
pub fn smallest_of_openapi(schema: &Value, resource_root: bool) -> Option<u64> {
    made(schema, resource_root, MAX_DEPTH).map(|made| made.smallest)
}

/// The members that every object's root has for expressions, whatever its schema says.
#[must_use]
pub fn object_meta_at_root() -> Vec<(CompactString, Type)> {
    let string = || Type::String.sized(MAX_REQUEST_BYTES - 2);
    let meta = ObjectType::new("object", [("name".into(), string()), ("generateName".into(), string())]);
    vec![("apiVersion".into(), string()), ("kind".into(), string()), ("metadata".into(), Type::Object(meta))]
}

struct Made {
    ty: Type,
    /// Bytes of the smallest value in JSON.
    smallest: u64,
}

fn made(schema: &Value, root: bool, depth: usize) -> Option<Made> {
    let depth = depth.checked_sub(1)?;
    let max_length = || schema.int_at(&["maxLength"]).map(|length| u64::try_from(length).unwrap_or(0));
    if schema.bool_at(&["x-kubernetes-int-or-string"]) == Some(true) {
        let size = max_length().map_or(MAX_REQUEST_BYTES - 2, |length| length.saturating_mul(4));
        return Some(Made { ty: Type::Dyn.sized(size), smallest: 1 });
    }
    match schema.str_at(&["type"]) {
        "array" => array(schema, depth),
        "object" => object(schema, root, depth),
        "string" => Some(string(schema, max_length())),
        "boolean" => Some(Made { ty: Type::Bool, smallest: MIN_BOOL }),
        "number" => Some(Made { ty: Type::Double, smallest: MIN_NUMBER }),
        "integer" => Some(Made { ty: Type::Int, smallest: MIN_NUMBER }),
        _ => None,
    }
}

fn embedded(schema: &Value) -> bool {
    schema.bool_at(&["x-kubernetes-embedded-resource"]) == Some(true)
}

fn bound(schema: &Value, name: &str, otherwise: u64) -> u64 {
    schema.int_at(&[name]).map_or(otherwise, |most| u64::try_from(most).unwrap_or(0))
}

fn array(schema: &Value, depth: usize) -> Option<Made> {
    let items = schema.get("items")?;
    let element = made(items, embedded(items), depth)?;
    let most = bound(schema, "maxItems", (MAX_REQUEST_BYTES - 2) / (element.smallest + 1));
    let semantics = match schema.str_at(&["x-kubernetes-list-type"]) {
        "set" => ListSemantics::Set,
        "map" => {
            let keys = schema.list_at(&["x-kubernetes-list-map-keys"]).iter().filter_map(Value::as_str);
            ListSemantics::Map(keys.map(CompactString::from).collect())
        }
        _ => ListSemantics::Ordered,
    };
    let list = Type::List(Arc::new(ListType { element: element.ty, semantics }));
    Some(Made { ty: list.sized(most), smallest: 2 })
}

fn object(schema: &Value, root: bool, depth: usize) -> Option<Made> {
    if let Some(values @ Value::Object(_)) = schema.get("additionalProperties") {
        let value = made(values, embedded(values), depth)?;
        let most = bound(schema, "maxProperties", (MAX_REQUEST_BYTES - 2) / (value.smallest + 6));
        // Upstream's type of keys has no size: what costs by their length counts as nothing.
        let key = Type::String.sized(0);
        return Some(Made { ty: Type::map(key, value.ty).sized(most), smallest: 2 });
    }
    let none = Object::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    let required = schema.list_at(&["required"]);
    let mut smallest = 2;
    let mut fields: Vec<(CompactString, Type)> = Vec::with_capacity(properties.len());
    for (name, property) in properties.iter() {
        let Some(field) = made(property, embedded(property), depth) else { continue };
        if required.iter().any(|required| required.as_str() == Some(name)) && property.get("default").is_none() {
            smallest += name.len() as u64 + field.smallest + 4;
        }
        fields.push((name.clone(), field.ty));
    }
    if root {
        add_object_meta(&mut fields, properties);
    }
    Some(Made { ty: Type::Object(ObjectType::new("object", fields)), smallest })
}

/// A root's own words of kind and metadata hold when they are what every object has.
fn add_object_meta(fields: &mut Vec<(CompactString, Type)>, properties: &Object) {
    let is = |path: &[&str], ty: &str| {
        let (first, rest) = path.split_first().expect("a path has a step");
        let mut path = rest.to_vec();
        path.push("type");
        properties.get(first).is_some_and(|property| property.str_at(&path) == ty)
    };
    let complete = is(&["kind"], "string")
        && is(&["apiVersion"], "string")
        && is(&["metadata"], "object")
        && is(&["metadata", "properties", "name"], "string")
        && is(&["metadata", "properties", "generateName"], "string");
    if complete {
        return;
    }
    for (name, ty) in object_meta_at_root() {
        fields.retain(|(held, _)| *held != name);
        fields.push((name, ty));
    }
}

fn string(schema: &Value, max_length: Option<u64>) -> Made {
    let whole = MAX_REQUEST_BYTES - 2;
    match schema.str_at(&["format"]) {
        "byte" => Made { ty: Type::Bytes.sized(max_length.unwrap_or(whole)), smallest: MIN_STRING },
        "duration" => Made { ty: Type::Duration.sized(MAX_DURATION), smallest: MIN_DURATION },
        "date" => Made { ty: Type::Timestamp.sized(DATE), smallest: DATE },
        "date-time" => Made { ty: Type::Timestamp.sized(MAX_DATETIME), smallest: MIN_DATETIME },
        _ => {
            let longest = schema.list_at(&["enum"]).iter().filter_map(Value::as_str).map(str::len).max();
            let size = max_length
                .map(|length| length.saturating_mul(4))
                .or(longest.map(|length| length as u64))
                .unwrap_or(whole);
            Made { ty: Type::String.sized(size), smallest: MIN_STRING }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(text: &str) -> Value {
        serde_json::from_str::<serde_json::Value>(text).expect("valid").into()
    }

    #[test]
    fn sizes_follow_from_bounds_or_from_the_largest_request() {
        for (text, spelled, size) in [
            (r#"{"type":"string","maxLength":5}"#, "string", Some(20)),
            (r#"{"type":"string","enum":["a","bcd"]}"#, "string", Some(3)),
            (r#"{"type":"array","items":{"type":"boolean"}}"#, "list(bool)", Some((MAX_REQUEST_BYTES - 2) / 5)),
            (r#"{"type":"array","maxItems":7,"items":{"type":"integer"}}"#, "list(int)", Some(7)),
            (r#"{"type":"object","additionalProperties":{"type":"number"}}"#, "map(string, double)", Some(449_389)),
            (r#"{"x-kubernetes-int-or-string":true}"#, "dyn", Some(MAX_REQUEST_BYTES - 2)),
            (r#"{"type":"integer"}"#, "int", None),
        ] {
            let ty = type_of_openapi(&schema(text), false).expect("seen by expressions");
            assert_eq!((ty.to_string().as_str(), ty.max_size()), (spelled, size), "{text}");
        }
        assert!(type_of_openapi(&schema(r#"{"x-kubernetes-preserve-unknown-fields":true}"#), false).is_none());
    }

    #[test]
    fn roots_have_their_kind_and_name() {
        let root = schema(r#"{"type":"object","properties":{"metadata":{"type":"object"},"spec":{"type":"string"}}}"#);
        let Some(Type::Object(object)) = type_of_openapi(&root, true) else { panic!("an object") };
        let Some(Type::Object(meta)) = object.field("metadata") else { panic!("metadata") };
        assert!(meta.field("name").is_some() && object.field("kind").is_some() && object.field("spec").is_some());
    }
}
