//! OpenAPI of custom kinds: the declared schemas with what every object has, in the two dialects.

use super::{
    openapi::{Dialect, kind_extension},
    paths, schemas,
};
use crate::{custom::Custom, registry::Resources};
use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use timonel_api::definition::Version;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
/// What `metadata` of every object is.
const STANDARD: &str = "Standard object's metadata.";
/// Levels of a schema that are described; compiled schemas are no deeper.
const MAX_DEPTH: usize = 70;

/// Groups and versions of custom kinds, each with a tag of what it defines.
pub(super) type Groups = BTreeMap<(String, String), String>;

/// The groups and versions that definitions serve.
pub(super) fn groups(resources: &Resources) -> Groups {
    let mut hashes: BTreeMap<(String, String), Sha256> = BTreeMap::new();
    for served in resources.served().values() {
        for view in served.views() {
            let Some(custom) = &view.custom else { continue };
            let resource = &view.resource;
            let hash = hashes.entry((resource.group.to_string(), resource.version.to_string())).or_default();
            hash.update(format!("{}\0{:?}\0", custom.form, resource));
        }
    }
    let text = |hash: Sha256| hash.finalize().iter().map(|byte| format!("{byte:02X}")).collect();
    hashes.into_iter().map(|(key, hash)| (key, text(hash))).collect()
}

/// Paths and schemas of one group and version.
pub(super) fn parts(
    resources: &Resources,
    group: &str,
    version: &str,
    dialect: Dialect,
) -> (Map<String, Json>, Map<String, Json>) {
    let (mut listed, mut defined) = (Map::new(), Map::new());
    for custom in resources.custom(group, version) {
        let scheme = &custom.definition.scheme;
        let mut needed = schemas::Needed::default();
        listed.extend(paths::of(scheme, group, version, dialect, &mut needed));
        let own: Vec<_> = custom
            .definition
            .versions
            .iter()
            .flat_map(|one| [Some(one.resource.body), one.resource.list_body])
            .collect();
        needed.without(|id| own.contains(&Some(id)));
        for name in [OBJECT_META, LIST_META] {
            if let Some(id) = scheme.schema().id(name) {
                needed.reference(scheme, id, dialect);
            }
        }
        defined.extend(schemas::all(scheme, needed, dialect));
        if let Some(created) =
            defined.get_mut(OBJECT_META).and_then(|meta| meta.pointer_mut("/properties/creationTimestamp"))
        {
            describe(created, "CreationTimestamp is a timestamp of the moment in which the server made the object.");
        }
        define(custom, dialect, &mut defined);
    }
    (listed, defined)
}

/// A description beside a reference, in the form that clients read.
fn describe(schema: &mut Json, text: &str) {
    if schema.get("$ref").is_some() {
        *schema = json!({ "allOf": [schema.take()] });
    }
    schema["description"] = text.into();
}

/// A reference with a description of its own.
fn described(name: &str, dialect: Dialect, text: &str) -> Json {
    let mut reference = json!({"$ref": format!("{}{name}", dialect.reference())});
    match dialect {
        // Readers of the third version take a reference for all that it refers to, and drop its neighbours.
        Dialect::V3 => describe(&mut reference, text),
        Dialect::V2 => reference["description"] = text.into(),
    }
    reference
}

fn define(custom: &Custom, dialect: Dialect, defined: &mut Map<String, Json>) {
    let version = custom.version();
    let resource = &version.resource;
    let name = |kind: &str| {
        let mut parts: Vec<&str> = resource.group.rsplit('.').collect();
        parts.extend([resource.version.as_str(), kind]);
        parts.join(".")
    };
    let kind = |kind: &str| json!([kind_extension(&resource.group, &resource.version, kind)]);
    let selectable: Vec<Json> = version.selectable.iter().map(|path| json!({"fieldPath": path.as_str()})).collect();
    let mut object = object(version, dialect);
    object["x-kubernetes-group-version-kind"] = kind(&resource.kind);
    let item = format!("{}{}", dialect.reference(), name(&resource.kind));
    let mut list = json!({
        "type": "object",
        "description": format!("{} is a list of {}", resource.list_kind, resource.kind),
        "required": ["items"],
        "properties": {
            "items": {"type": "array", "description": format!("List of {}.", resource.plural), "items": {"$ref": item}},
            "metadata": described(LIST_META, dialect, "Standard list metadata."),
        },
        "x-kubernetes-group-version-kind": kind(&resource.list_kind),
    });
    envelope(&mut list, dialect, false);
    if !selectable.is_empty() {
        object["x-kubernetes-selectable-fields"] = selectable.clone().into();
        list["x-kubernetes-selectable-fields"] = selectable.into();
    }
    defined.insert(name(&resource.kind), object);
    defined.insert(name(&resource.list_kind), list);
}

/// `apiVersion`, `kind` and, for objects, `metadata`.
fn envelope(schema: &mut Json, dialect: Dialect, metadata: bool) {
    schema["properties"]["apiVersion"] = json!({
        "type": "string",
        "description": "APIVersion defines the group and version of the schema that this object follows.",
    });
    schema["properties"]["kind"] =
        json!({"type": "string", "description": "Kind is the name of the type that this object is of, in CamelCase."});
    if metadata {
        schema["properties"]["metadata"] = described(OBJECT_META, dialect, STANDARD);
    }
}

fn object(version: &Version, dialect: Dialect) -> Json {
    let declared = Json::from(&version.schema());
    if dialect == Dialect::V2 && flag(&declared, "x-kubernetes-preserve-unknown-fields") {
        // With any property listed, clients would take all others for unknown.
        return json!({"type": "object"});
    }
    let mut schema = node(declared, dialect, 0);
    envelope(&mut schema, dialect, true);
    schema
}

fn flag(schema: &Json, name: &str) -> bool {
    schema.get(name) == Some(&Json::Bool(true))
}

/// One declared node in a dialect; version 2 knows neither alternatives nor null.
fn node(mut schema: Json, dialect: Dialect, depth: usize) -> Json {
    let Some(members) = schema.as_object_mut().filter(|_| depth < MAX_DEPTH) else { return schema };
    for name in ["nullable", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource", "uniqueItems"] {
        if members.get(name) == Some(&Json::Bool(false)) {
            members.remove(name);
        }
    }
    match dialect {
        Dialect::V3 => int_or_string(members),
        Dialect::V2 => simplify(members),
    }
    for name in ["items", "additionalProperties"] {
        if let Some(child) = members.get_mut(name) {
            *child = node(child.take(), dialect, depth + 1);
        }
    }
    if let Some(Json::Object(properties)) = members.get_mut("properties") {
        for (_, child) in properties.iter_mut() {
            *child = node(child.take(), dialect, depth + 1);
        }
    }
    let open = flag(&schema, "x-kubernetes-preserve-unknown-fields") && dialect == Dialect::V2;
    if flag(&schema, "x-kubernetes-embedded-resource") && !open {
        envelope(&mut schema, dialect, true);
        let mut required = schema["required"].as_array().cloned().unwrap_or_default();
        for name in ["kind", "apiVersion"] {
            if !required.iter().any(|known| known == name) {
                required.push(name.into());
            }
        }
        schema["required"] = required.into();
    }
    schema
}

/// Says in plain OpenAPI what `x-kubernetes-int-or-string` means.
fn int_or_string(members: &mut Map<String, Json>) {
    if members.get("x-kubernetes-int-or-string") != Some(&Json::Bool(true)) {
        return;
    }
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    let said = |list: Option<&Json>| list == Some(&either);
    if said(members.get("anyOf"))
        || said(members.get("allOf").and_then(|all| all.get(0)).and_then(|one| one.get("anyOf")))
    {
        return;
    }
    if members.contains_key("anyOf") {
        let mut all = members.get("allOf").and_then(Json::as_array).cloned().unwrap_or_default();
        all.insert(0, json!({ "anyOf": either }));
        members.insert("allOf".into(), all.into());
    } else {
        members.insert("anyOf".into(), either);
    }
}

fn simplify(members: &mut Map<String, Json>) {
    for name in ["allOf", "oneOf", "anyOf", "not"] {
        members.remove(name);
    }
    let is = |members: &Map<String, Json>, name: &str| members.get(name) == Some(&Json::Bool(true));
    if is(members, "nullable") {
        for name in ["type", "nullable", "items", "properties"] {
            members.remove(name);
        }
    }
    let open = is(members, "x-kubernetes-preserve-unknown-fields");
    if open {
        members.remove("items");
        members.remove("properties");
    }
    let ty = members.get("type").and_then(Json::as_str).unwrap_or("").to_owned();
    if (ty == "array" && !members.contains_key("items")) || (ty == "object" && open) {
        members.remove("type");
    }
    let null = |child: &Json| flag(child, "nullable");
    let nullable: Vec<String> = members
        .get("properties")
        .and_then(Json::as_object)
        .map(|all| all.iter().filter(|(_, child)| null(child)).map(|(name, _)| name.clone()).collect())
        .unwrap_or_default();
    if members.get("additionalProperties").is_some_and(null) {
        members.remove("required");
    } else if let Some(Json::Array(required)) = members.get_mut("required") {
        required.retain(|name| !nullable.iter().any(|other| name == other));
        if required.is_empty() {
            members.remove("required");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_version_is_told_less() {
        let schema = json!({"type": "object", "required": ["a", "b"], "properties": {
            "a": {"type": "string", "nullable": true}, "b": {"x-kubernetes-int-or-string": true},
            "c": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"x": {"type": "string"}}},
            "d": {"type": "array", "items": {"type": "object", "anyOf": [{"required": ["z"]}]}}}});
        assert_eq!(
            node(schema.clone(), Dialect::V2, 0),
            json!({"type": "object", "required": ["b"], "properties": {"a": {}, "b": {"x-kubernetes-int-or-string": true},
                "c": {"x-kubernetes-preserve-unknown-fields": true},
                "d": {"type": "array", "items": {"type": "object"}}}})
        );
        let third = node(schema, Dialect::V3, 0);
        assert_eq!(third["properties"]["b"]["anyOf"], json!([{"type": "integer"}, {"type": "string"}]));
        assert_eq!(third["properties"]["a"]["nullable"], true);
    }

    #[test]
    fn embedded_objects_have_an_envelope() {
        let schema = json!({"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}});
        let schema = node(schema, Dialect::V3, 0);
        assert_eq!(schema["required"], json!(["kind", "apiVersion"]));
        let metadata = &schema["properties"]["metadata"];
        assert_eq!(metadata["allOf"], json!([{"$ref": format!("#/components/schemas/{OBJECT_META}")}]));
        assert_eq!(metadata["description"], STANDARD);
    }
}
