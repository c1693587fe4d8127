//! What makes a schema structural, and what else upstream asks of it.

use crate::structural::{Structural, problem_of_pattern};
use crate::{FieldErrors, Path, Value};

/// Levels of a schema.
const MAX_DEPTH: usize = 64;
const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// Members that may stand at the root of a schema with a status subresource, as upstream lists them.
const AT_ROOT: [&str; 22] = [
    "Description",
    "Type",
    "Format",
    "Title",
    "Maximum",
    "ExclusiveMaximum",
    "Minimum",
    "ExclusiveMinimum",
    "MaxLength",
    "MinLength",
    "Pattern",
    "MaxItems",
    "MinItems",
    "UniqueItems",
    "MultipleOf",
    "Required",
    "Items",
    "Properties",
    "ExternalDocs",
    "Example",
    "XPreserveUnknownFields",
    "XValidations",
];

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

fn given<'a>(value: &'a Value, member: &str) -> Option<&'a Value> {
    value.get(member).filter(|value| !value.is_null())
}

fn truth(value: &Value, member: &str) -> bool {
    value.bool_at(&[member]) == Some(true)
}

fn children(schema: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let properties = schema.get("properties").and_then(Value::as_object);
    properties.into_iter().flat_map(|map| map.iter().map(|(name, child)| (name.as_str(), child)))
}

fn schema_at<'a>(schema: &'a Value, member: &str) -> Option<&'a Value> {
    schema.get(member).filter(|value| value.as_object().is_some())
}

/// Judges the schema of one version.
pub(super) fn validate(schema: &Value, path: &Path<'_>, status: bool, errors: &mut FieldErrors) {
    if status {
        at_root(schema, path, errors);
    }
    if truth(schema, "nullable") {
        errors.forbidden(&path.child("nullable"), "nullable cannot be true at the root");
    }
    let mut found = FieldErrors::new();
    structural(schema, Level::Root, path, 0, &mut found);
    complete(schema, path, &mut found);
    let mut sorted: Vec<_> = found.iter().cloned().collect();
    sorted.sort_by_key(ToString::to_string);
    let sound = sorted.is_empty();
    sorted.into_iter().for_each(|error| errors.push(error));
    if sound {
        defaults(schema, path, 0, errors);
    }
    let scope = Scope { defaults: Ok(()), inside_meta: false };
    general(schema, true, &scope, path, 0, errors);
}

fn at_root(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = |member: &str| match member.strip_prefix("x-kubernetes-") {
        Some("validations") => "XValidations".to_owned(),
        Some("preserve-unknown-fields") => "XPreserveUnknownFields".to_owned(),
        Some(other) => other.to_owned(),
        None => {
            let mut chars = member.chars();
            chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
        }
    };
    let ty = schema.str_at(&["type"]);
    if !matches!(ty, "" | "object") {
        let detail =
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        return errors.invalid(&path.child("type"), ty, detail);
    }
    for (member, value) in schema.as_object().into_iter().flat_map(|members| members.iter()) {
        let unset = value.is_null() || *value == Value::Bool(false) || value.as_list().is_some_and(<[Value]>::is_empty);
        if !unset && !AT_ROOT.contains(&name(member).as_str()) {
            let detail = format!(
                "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
                AT_ROOT.join(" ")
            );
            return errors.invalid(path, schema.clone(), detail);
        }
    }
}

/// The invariants of a structural schema.
fn structural(schema: &Value, level: Level, path: &Path<'_>, depth: usize, errors: &mut FieldErrors) {
    if depth > MAX_DEPTH {
        return errors.invalid(path, "", format!("must not be deeper than {MAX_DEPTH} levels"));
    }
    let ty = schema.str_at(&["type"]);
    let items = given(schema, "items");
    if ty == "array" && items.is_none() {
        errors.required(&path.child("items"), "must be specified");
    }
    if let Some(items) = schema_at(schema, "items") {
        structural(items, Level::Item, &path.child("items"), depth + 1, errors);
    }
    let properties = path.child("properties");
    for (name, child) in children(schema) {
        structural(child, Level::Field, &properties.key(name), depth + 1, errors);
    }
    let additional = given(schema, "additionalProperties");
    if additional.is_some() && level == Level::Root {
        errors.forbidden(&path.child("additionalProperties"), "must not be used at the root");
    }
    if let Some(child) = schema_at(schema, "additionalProperties") {
        structural(child, Level::Field, &path.child("additionalProperties"), depth + 1, errors);
    }
    let int_or_string = truth(schema, "x-kubernetes-int-or-string");
    let preserve = truth(schema, "x-kubernetes-preserve-unknown-fields");
    let embedded = truth(schema, "x-kubernetes-embedded-resource");
    for (set, name) in
        [(preserve, "x-kubernetes-preserve-unknown-fields"), (embedded, "x-kubernetes-embedded-resource")]
    {
        if int_or_string && set {
            errors.invalid(&path.child(name), true, "must be false if x-kubernetes-int-or-string is true");
        }
    }
    nested_all(schema, int_or_string, path, depth, errors);
    let place = path.child("type");
    if embedded && ty != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        if ty.is_empty() { errors.required(&place, detail) } else { errors.invalid(&place, ty, detail) }
    } else if ty.is_empty() && !int_or_string && !preserve {
        let what = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.required(&place, what);
    }
    if embedded && additional.is_some() {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.forbidden(&path.child("additionalProperties"), detail);
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.invalid(&place, ty, "must be object at the root");
    }
    envelope(schema, level, embedded, path, errors);
    if embedded && !preserve && children(schema).next().is_none() {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without \
                      x-kubernetes-preserve-unknown-fields";
        errors.required(&path.child("properties"), detail);
    }
}

fn envelope(schema: &Value, level: Level, embedded: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    if level != Level::Root && !embedded {
        return;
    }
    let properties = path.child("properties");
    for name in ["kind", "apiVersion"] {
        if let Some(ty) = schema.at(&["properties", name]).map(|child| child.str_at(&["type"]))
            && ty != "string"
        {
            errors.invalid(&properties.key(name).child("type"), ty, "must be string");
        }
    }
    let Some(metadata) = schema.at(&["properties", "metadata"]) else { return };
    let place = properties.key("metadata");
    let ty = metadata.str_at(&["type"]);
    if ty != "object" {
        errors.invalid(&place.child("type"), ty, "must be object");
    }
    if level == Level::Root {
        let only_names = children(metadata).all(|(name, _)| matches!(name, "name" | "generateName"));
        let known = |name: &str| matches!(name, "type" | "properties" | "default");
        let bare = metadata.as_object().is_none_or(|members| members.iter().all(|(name, _)| known(name)));
        if !only_names || !bare {
            let detail =
                "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.forbidden(&place, detail);
        }
    }
}

fn either(list: Option<&Value>) -> bool {
    let Some(Value::List(list)) = list else { return false };
    let bare = |one: &Value, ty: &str| {
        one.str_at(&["type"]) == ty && one.as_object().is_some_and(|members| members.len() == 1)
    };
    matches!(&list[..], [first, second] if bare(first, "integer") && bare(second, "string"))
}

/// What stands under `allOf`, `anyOf`, `oneOf` and `not`, and the pattern.
fn nested_all(schema: &Value, int_or_string: bool, path: &Path<'_>, depth: usize, errors: &mut FieldErrors) {
    let skip_any = int_or_string && either(schema.get("anyOf"));
    let skip_first = int_or_string && either(schema.list_at(&["allOf"]).first().and_then(|first| first.get("anyOf")));
    for list in ["anyOf", "allOf", "oneOf"] {
        let place = path.child(list);
        for (at, one) in schema.list_at(&[list]).iter().enumerate() {
            if list == "anyOf" && skip_any {
                continue;
            }
            nested(one, list == "allOf" && at == 0 && skip_first, &place.index(at), depth + 1, errors);
        }
    }
    if let Some(not) = schema_at(schema, "not") {
        nested(not, false, &path.child("not"), depth + 1, errors);
    }
    let pattern = schema.str_at(&["pattern"]);
    if let Some(problem) = problem_of_pattern(pattern) {
        let detail = format!("must be a valid regular expression, but isn't: {problem}");
        errors.invalid(&path.child("pattern"), pattern, detail);
    }
}

/// A schema that only judges values.
fn nested(schema: &Value, skip_any: bool, path: &Path<'_>, depth: usize, errors: &mut FieldErrors) {
    if depth > MAX_DEPTH {
        return errors.invalid(path, "", format!("must not be deeper than {MAX_DEPTH} levels"));
    }
    if skip_any {
        let mut rest = schema.clone();
        rest.remove_at(&["anyOf"]);
        return nested(&rest, false, path, depth, errors);
    }
    nested_all(schema, false, path, depth, errors);
    if let Some(items) = schema_at(schema, "items") {
        nested(items, false, &path.child("items"), depth + 1, errors);
    }
    let properties = path.child("properties");
    for (name, child) in children(schema) {
        nested(child, false, &properties.key(name), depth + 1, errors);
    }
    let set = |member: &str| match schema.get(member) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::List(list)) => !list.is_empty(),
        Some(_) => true,
    };
    for (member, detail) in [
        ("type", "must be empty to be structural"),
        ("additionalProperties", "must be undefined to be structural"),
        ("default", "must be undefined to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("nullable", "must be false to be structural"),
        ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
        ("x-kubernetes-embedded-resource", "must be false to be structural"),
        ("x-kubernetes-int-or-string", "must be false to be structural"),
        ("x-kubernetes-list-map-keys", "must be empty to be structural"),
        ("x-kubernetes-list-type", "must be undefined to be structural"),
        ("x-kubernetes-map-type", "must be undefined to be structural"),
        ("x-kubernetes-validations", "must be empty to be structural"),
    ] {
        if set(member) || (member == "additionalProperties" && given(schema, member).is_some()) {
            errors.forbidden(&path.child(member), detail);
        }
    }
    if schema.at(&["properties", "metadata"]).is_some() {
        errors.forbidden(&properties.key("metadata"), "must not be specified in a nested context");
    }
}

/// What is judged must be declared outside of the judging too.
fn complete(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    declared(schema, Some(schema), path, path, errors);
    if let Some(items) = schema_at(schema, "items") {
        complete(items, &path.child("items"), errors);
    }
    let properties = path.child("properties");
    for (name, child) in children(schema) {
        complete(child, &properties.key(name), errors);
    }
    if let Some(child) = schema_at(schema, "additionalProperties") {
        complete(child, &path.child("additionalProperties"), errors);
    }
}

fn declared(judging: &Value, main: Option<&Value>, main_path: &Path<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    for list in ["allOf", "anyOf", "oneOf"] {
        let place = path.child(list);
        for (at, one) in judging.list_at(&[list]).iter().enumerate() {
            nested_declared(one, main, main_path, &place.index(at), errors);
        }
    }
    if let Some(not) = schema_at(judging, "not") {
        nested_declared(not, main, main_path, &path.child("not"), errors);
    }
}

fn nested_declared(
    judging: &Value,
    main: Option<&Value>,
    main_path: &Path<'_>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let Some(main) = main else {
        return errors.required(main_path, format!("because it is defined in {path}"));
    };
    declared(judging, Some(main), main_path, path, errors);
    if let Some(items) = schema_at(judging, "items") {
        nested_declared(items, schema_at(main, "items"), &main_path.child("items"), &path.child("items"), errors);
    }
    let (main_properties, properties) = (main_path.child("properties"), path.child("properties"));
    for (name, child) in children(judging) {
        let found = main.at(&["properties", name]);
        nested_declared(child, found, &main_properties.key(name), &properties.key(name), errors);
    }
}

/// Defaults must be valid, and hold nothing that would be pruned.
fn defaults(schema: &Value, path: &Path<'_>, depth: usize, errors: &mut FieldErrors) {
    if depth > MAX_DEPTH {
        return;
    }
    if let Some(default) = given(schema, "default")
        && let Ok(compiled) = Structural::compile(schema)
    {
        let place = path.child("default");
        let ty = schema.str_at(&["type"]);
        if !ty.is_empty() && !TYPES.contains(&ty) {
            let found = type_name(default);
            errors.type_invalid(&place, found, format!(" in body must be of type {ty}: {}", crate::quote(found)));
        }
        let mut pruned = default.clone();
        compiled.prune_value(&mut pruned);
        if pruned != *default {
            errors.invalid(&place, default.clone(), "must not have unknown fields");
        }
        let mut found = FieldErrors::new();
        compiled.validate(default, None, &mut found);
        for error in &found {
            let mut error = error.clone();
            error.field = match error.field.as_str() {
                "<nil>" => place.to_string(),
                field => place.child(field).to_string(),
            };
            errors.push(error);
        }
    }
    if let Some(items) = schema_at(schema, "items") {
        defaults(items, &path.child("items"), depth + 1, errors);
    }
    let properties = path.child("properties");
    for (name, child) in children(schema) {
        defaults(child, &properties.key(name), depth + 1, errors);
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::String(_) => "string",
        Value::List(_) => "array",
        Value::Object(_) => "object",
        other if other.as_int().is_some() => "integer",
        _ => "number",
    }
}

/// Where a schema stands.
#[derive(Clone)]
struct Scope {
    /// Whether defaults are allowed; else why not.
    defaults: Result<(), String>,
    inside_meta: bool,
}

/// The rules that hold for every schema, structural or not.
fn general(schema: &Value, root: bool, scope: &Scope, path: &Path<'_>, depth: usize, errors: &mut FieldErrors) {
    if depth > MAX_DEPTH {
        return;
    }
    standard(schema, scope, path, errors);
    if truth(schema, "uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&path.child("uniqueItems"), detail);
    }
    if let Some(additional) = given(schema, "additionalProperties") {
        let place = path.child("additionalProperties");
        if children(schema).next().is_some() && *additional != Value::Bool(true) {
            errors.forbidden(&place, "additionalProperties and properties are mutual exclusive");
        }
        if additional.as_object().is_some() {
            let mut inner = scope.clone();
            if scope.inside_meta {
                inner.defaults = Err("inside additionalProperties applying to object metadata".into());
            }
            general(additional, false, &inner, &place, depth + 1, errors);
        }
    }
    let properties = path.child("properties");
    for (name, child) in children(schema) {
        let mut inner = scope.clone();
        let envelope = matches!(name, "metadata" | "kind" | "apiVersion");
        if envelope && (root || truth(schema, "x-kubernetes-embedded-resource")) {
            inner.inside_meta = true;
            if root {
                inner.defaults = Err(format!("in top-level {name}"));
            }
        }
        general(child, false, &inner, &properties.key(name), depth + 1, errors);
    }
    if let Some(not) = schema_at(schema, "not") {
        general(not, false, scope, &path.child("not"), depth + 1, errors);
    }
    for list in ["allOf", "oneOf", "anyOf"] {
        let place = path.child(list);
        for (at, one) in schema.list_at(&[list]).iter().enumerate() {
            general(one, false, scope, &place.index(at), depth + 1, errors);
        }
    }
    if let Some(items) = schema_at(schema, "items") {
        general(items, false, scope, &path.child("items"), depth + 1, errors);
    }
    if schema.bool_at(&["x-kubernetes-preserve-unknown-fields"]) == Some(false) {
        let place = path.child("x-kubernetes-preserve-unknown-fields");
        errors.invalid(&place, false, "must be true or undefined");
    }
    map_type(schema, path, errors);
    list_type(schema, path, errors);
    rules(schema, path, errors);
}

fn standard(schema: &Value, scope: &Scope, path: &Path<'_>, errors: &mut FieldErrors) {
    let ty = schema.str_at(&["type"]);
    if !ty.is_empty() && !TYPES.contains(&ty) {
        errors.not_supported(&path.child("type"), ty, &TYPES);
    }
    if let (Some(_), Err(reason)) = (given(schema, "default"), &scope.defaults) {
        errors.forbidden(&path.child("default"), format!("must not be set {reason}"));
    }
    for (member, detail) in [
        ("id", "id is not supported"),
        ("additionalItems", "additionalItems is not supported"),
        ("patternProperties", "patternProperties is not supported"),
        ("definitions", "definitions is not supported"),
        ("dependencies", "dependencies is not supported"),
        ("$ref", "$ref is not supported"),
    ] {
        if given(schema, member).is_some() {
            errors.forbidden(&path.child(member), detail);
        }
    }
    if ty == "null" {
        let detail = "type cannot be set to null, use nullable as an alternative";
        errors.forbidden(&path.child("type"), detail);
    }
    if schema.get("items").is_some_and(|items| items.as_list().is_some()) {
        errors.forbidden(&path.child("items"), "items must be a schema object and not an array");
    }
    if scope.inside_meta && truth(schema, "x-kubernetes-embedded-resource") {
        let place = path.child("x-kubernetes-embedded-resource");
        errors.forbidden(&place, "must not be used inside of resource meta");
    }
}

fn typed(schema: &Value, wanted: &str, extension: &str, path: &Path<'_>, errors: &mut FieldErrors) -> bool {
    let ty = schema.str_at(&["type"]);
    let detail = format!("must be {wanted} if {extension} is specified");
    match ty {
        "" => errors.required(&path.child("type"), detail),
        _ if ty != wanted => errors.invalid(&path.child("type"), ty, detail),
        _ => return true,
    }
    false
}

fn map_type(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = "x-kubernetes-map-type";
    let Some(kind) = given(schema, name).and_then(Value::as_str) else { return };
    typed(schema, "object", name, path, errors);
    if !matches!(kind, "atomic" | "granular") {
        errors.not_supported(&path.child(name), kind, &["atomic", "granular"]);
    }
}

fn list_type(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (name, keys_name) = ("x-kubernetes-list-type", "x-kubernetes-list-map-keys");
    let kind = given(schema, name).and_then(Value::as_str);
    let keys: Vec<&str> = schema.list_at(&[keys_name]).iter().map(|key| key.as_str().unwrap_or("")).collect();
    let items = schema_at(schema, "items");
    if let Some(kind) = kind {
        if typed(schema, "array", name, path, errors)
            && kind == "set"
            && let Some(items) = items
        {
            set_items(items, path, errors);
        }
        if !matches!(kind, "atomic" | "set" | "map") {
            errors.not_supported(&path.child(name), kind, &["atomic", "set", "map"]);
        }
    }
    if !keys.is_empty() && kind != Some("map") {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        match kind {
            None => errors.required(&path.child(name), detail),
            Some(kind) => errors.invalid(&path.child(name), kind, detail),
        }
    }
    if kind == Some("map") {
        map_keys(schema, &keys, items, path, errors);
    }
    if let (Some(kind @ ("set" | "map")), Some(items)) = (kind, items) {
        if truth(items, "nullable") {
            let detail = format!("cannot be nullable when x-kubernetes-list-type is {kind}");
            errors.forbidden(&path.child("items").child("nullable"), detail);
        }
        if kind == "map" {
            key_fields(&keys, items, path, errors);
        }
    }
}

fn set_items(items: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let (extension, fine) = match items.str_at(&["type"]) {
        "array" => {
            let kind = items.str_at(&["x-kubernetes-list-type"]);
            ("x-kubernetes-list-type", matches!(kind, "" | "atomic"))
        }
        "object" => ("x-kubernetes-map-type", items.str_at(&["x-kubernetes-map-type"]) == "atomic"),
        _ => return,
    };
    if !fine {
        let shown = items.get(extension).cloned().unwrap_or_default();
        errors.invalid(&path.child("items").child(extension), shown, detail);
    }
}

fn map_keys(schema: &Value, keys: &[&str], items: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let place = path.child("x-kubernetes-list-map-keys");
    let shown = || schema.get("x-kubernetes-list-map-keys").cloned().unwrap_or_default();
    if keys.is_empty() {
        errors.required(&place, "must not be empty if x-kubernetes-list-type is map");
    }
    let Some(items) = items else {
        return errors.required(&path.child("items"), "must have a schema if x-kubernetes-list-type is map");
    };
    let ty = items.str_at(&["type"]);
    if ty != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        return errors.invalid(&path.child("items").child("type"), ty, detail);
    }
    for (at, key) in keys.iter().enumerate() {
        match items.at(&["properties", key]) {
            Some(child) if matches!(child.str_at(&["type"]), "array" | "object") => {
                let (items_path, detail) =
                    (path.child("items"), "must be a scalar type if parent array's x-kubernetes-list-type is map");
                errors.invalid(&items_path.child("properties").key(key).child("type"), ty, detail);
            }
            Some(_) => {}
            None => errors.invalid(&place, shown(), "entries must all be names of item properties"),
        }
        if keys[..at].contains(key) {
            errors.invalid(&place, shown(), "must not contain duplicate entries");
        }
    }
}

fn key_fields(keys: &[&str], items: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let required = items.list_at(&["required"]);
    let items_path = path.child("items");
    let properties = items_path.child("properties");
    for key in keys {
        let Some(child) = items.at(&["properties", key]) else { continue };
        if !required.iter().any(|name| name.as_str() == Some(*key)) && given(child, "default").is_none() {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required \
                          property";
            errors.required(&properties.key(key).child("default"), detail);
        }
        if truth(child, "nullable") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.forbidden(&properties.key(key).child("nullable"), detail);
        }
    }
}

/// What rules in CEL must be besides compiling.
fn rules(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    const REASONS: [&str; 4] =
        ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
    let breaks = |text: &str| text.contains(['\n', '\r']);
    let list = path.child("x-kubernetes-validations");
    for (at, one) in schema.list_at(&["x-kubernetes-validations"]).iter().enumerate() {
        let path = list.index(at);
        let (rule, message) = (one.str_at(&["rule"]).trim(), one.str_at(&["message"]));
        if rule.is_empty() {
            errors.required(&path.child("rule"), "rule is not specified");
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.invalid(&path.child("message"), message, "must be non-empty if specified");
        } else if breaks(message.trim()) {
            errors.invalid(&path.child("message"), message, "must not contain line breaks");
        } else if breaks(rule) && message.trim().is_empty() {
            errors.required(&path.child("message"), "message must be specified if rule contains line breaks");
        }
        let expression = one.str_at(&["messageExpression"]);
        if !expression.is_empty() && expression.trim().is_empty() {
            errors.required(&path.child("messageExpression"), "messageExpression must be non-empty if specified");
        }
        if let Some(reason) = given(one, "reason").and_then(Value::as_str).filter(|reason| !REASONS.contains(reason)) {
            errors.not_supported(&path.child("reason"), reason, &REASONS);
        }
        let field = one.str_at(&["fieldPath"]);
        if !field.is_empty() && field.trim().is_empty() {
            errors.invalid(&path.child("fieldPath"), field, "must be non-empty if specified");
        }
        if breaks(field) {
            errors.invalid(&path.child("fieldPath"), field, "must not contain line breaks");
        }
        if !field.is_empty() && !leads_somewhere(schema, field) {
            errors.invalid(&path.child("fieldPath"), field, "must be a valid path");
        }
    }
}

/// Whether a path like `.spec.list[key].a` leads to a declared field.
fn leads_somewhere(schema: &Value, path: &str) -> bool {
    let mut node = Some(schema);
    let mut rest = path;
    while !rest.is_empty() {
        let (name, after) = if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            (&after[..end], &after[end..])
        } else if let Some(after) = rest.strip_prefix('[') {
            let Some(end) = after.find(']') else { return false };
            (after[..end].trim_matches(['\'', '"']), &after[end + 1..])
        } else {
            return false;
        };
        rest = after;
        node = node.and_then(|node| node.at(&["properties", name]).or_else(|| schema_at(node, "additionalProperties")));
        if name.is_empty() || node.is_none() {
            return false;
        }
    }
    !path.is_empty()
}
