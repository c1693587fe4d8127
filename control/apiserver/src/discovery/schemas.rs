//! Schema tables as OpenAPI schemas: names, types, defaults, descriptions and the extensions that clients read.
//! Pure.

use super::openapi::{Dialect, kind_extension};
use serde_json::{Map, Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use timonel_api::{Field, FieldType, ListKind, Scheme, TypeDef, TypeId};

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const DURATION: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Duration";
const FIELDS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1";
const RAW: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";

/// Types that a document refers to.
#[derive(Debug, Default)]
pub(super) struct Needed {
    structs: BTreeSet<TypeId>,
    scalars: BTreeMap<&'static str, Json>,
}

impl Needed {
    /// A reference to a type.
    pub(super) fn reference(&mut self, scheme: &Scheme, id: TypeId, dialect: Dialect) -> Json {
        self.structs.insert(id);
        json!({"$ref": format!("{}{}", dialect.reference(), scheme.schema().get(id).name)})
    }

    /// Leaves out types that are described otherwise.
    pub(super) fn without(&mut self, left_out: impl Fn(TypeId) -> bool) {
        self.structs.retain(|id| !left_out(*id));
    }

    fn scalar(&mut self, name: &'static str, schema: Json, dialect: Dialect) -> Json {
        self.scalars.entry(name).or_insert(schema);
        json!({"$ref": format!("{}{name}", dialect.reference())})
    }
}

/// The schemas of all types needed, and of those they need.
pub(super) fn all(scheme: &Scheme, mut needed: Needed, dialect: Dialect) -> Map<String, Json> {
    let kinds = kinds(scheme);
    let mut made: BTreeMap<String, Json> = BTreeMap::new();
    let mut done: BTreeSet<TypeId> = BTreeSet::new();
    // Every type is entered once, so that the loop is bounded by the number of types.
    while let Some(id) = needed.structs.difference(&done).next().copied() {
        done.insert(id);
        let ty = scheme.schema().get(id);
        let mut schema = object(scheme, ty, &mut needed, dialect);
        if let Some(kinds) = kinds.get(&id) {
            schema["x-kubernetes-group-version-kind"] = kinds.clone().into();
        }
        made.insert(ty.name.to_string(), schema);
    }
    made.extend(needed.scalars.into_iter().map(|(name, mut schema)| {
        if let Some(text) = scheme.schema().describe_name(name) {
            schema["description"] = text.into();
        }
        (name.to_owned(), schema)
    }));
    made.into_iter().collect()
}

/// The kinds that types are the bodies of.
fn kinds(scheme: &Scheme) -> BTreeMap<TypeId, Vec<Json>> {
    let mut kinds: BTreeMap<TypeId, Vec<Json>> = BTreeMap::new();
    for resource in scheme.resources() {
        let mut add = |id: TypeId, kind: &str| {
            let extension = kind_extension(&resource.group, &resource.version, kind);
            let known = kinds.entry(id).or_default();
            if !known.contains(&extension) {
                known.push(extension);
            }
        };
        add(resource.body, &resource.kind);
        if let Some(list) = resource.list_body {
            add(list, &resource.list_kind);
        }
    }
    for resource in scheme.resources() {
        for sub in &resource.subresources {
            if let Some(id) = sub.body {
                let extension = kind_extension(&sub.gvk.group, &sub.gvk.version, &sub.gvk.kind);
                let known = kinds.entry(id).or_default();
                if !known.contains(&extension) {
                    known.push(extension);
                }
            }
        }
    }
    kinds
}

fn object(scheme: &Scheme, ty: &TypeDef, needed: &mut Needed, dialect: Dialect) -> Json {
    let mut schema = json!({"type": "object"});
    if let Some(text) = scheme.schema().describe(ty) {
        schema["description"] = text.into();
    }
    let mut properties = Map::new();
    for field in &ty.fields {
        properties.insert(field.name.to_string(), property(scheme, ty, field, needed, dialect));
    }
    if !properties.is_empty() {
        schema["properties"] = properties.into();
    }
    let required: Vec<&str> =
        ty.fields.iter().filter(|field| field.required).map(|field| field.name.as_str()).collect();
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    if ty.atomic {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    if ty.preserve_unknown {
        schema["x-kubernetes-preserve-unknown-fields"] = true.into();
    }
    schema
}

fn property(scheme: &Scheme, ty: &TypeDef, field: &Field, needed: &mut Needed, dialect: Dialect) -> Json {
    let mut schema = value(scheme, &field.ty, needed, dialect);
    let default = field.default.as_ref().map(Json::from);
    let text = scheme.schema().describe_field(ty, field);
    if dialect == Dialect::V3 && schema.get("$ref").is_some() && (default.is_some() || text.is_some()) {
        // Beside a reference OpenAPI 3.0 ignores everything else.
        schema = json!({ "allOf": [schema] });
    }
    if let Some(default) = default {
        schema["default"] = default;
    }
    if let Some(text) = text {
        schema["description"] = text.into();
    }
    if !field.allowed.is_empty() {
        schema["enum"] = field.allowed.iter().map(|value| value.as_str()).collect::<Vec<_>>().into();
    }
    if matches!(field.ty, FieldType::List(_)) {
        match &field.list {
            ListKind::Atomic => schema["x-kubernetes-list-type"] = "atomic".into(),
            ListKind::Set => schema["x-kubernetes-list-type"] = "set".into(),
            ListKind::Map(keys) => {
                schema["x-kubernetes-list-type"] = "map".into();
                schema["x-kubernetes-list-map-keys"] = keys.iter().map(|key| key.as_str()).collect::<Vec<_>>().into();
            }
        }
    } else if field.atomic {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    let patch = &field.patch;
    let named = [(patch.merge, "merge"), (patch.replace, "replace"), (patch.retain_keys, "retainKeys")];
    let strategies: Vec<&str> = named.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect();
    if !strategies.is_empty() {
        schema["x-kubernetes-patch-strategy"] = strategies.join(",").into();
    }
    if let Some(key) = &patch.merge_key {
        schema["x-kubernetes-patch-merge-key"] = key.as_str().into();
    }
    schema
}

fn value(scheme: &Scheme, ty: &FieldType, needed: &mut Needed, dialect: Dialect) -> Json {
    let text_or_number = || match dialect {
        Dialect::V2 => json!({"type": "string"}),
        Dialect::V3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
    };
    match ty {
        FieldType::Bool => json!({"type": "boolean"}),
        FieldType::Int32 => json!({"type": "integer", "format": "int32"}),
        FieldType::Int64 => json!({"type": "integer", "format": "int64"}),
        FieldType::Float => json!({"type": "number", "format": "double"}),
        FieldType::String => json!({"type": "string"}),
        FieldType::Bytes => json!({"type": "string", "format": "byte"}),
        FieldType::Quantity => needed.scalar(QUANTITY, text_or_number(), dialect),
        FieldType::IntOrString => {
            let schema = match dialect {
                Dialect::V2 => json!({"type": "string", "format": "int-or-string"}),
                Dialect::V3 => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            };
            needed.scalar(INT_OR_STRING, schema, dialect)
        }
        FieldType::Time => needed.scalar(TIME, json!({"type": "string", "format": "date-time"}), dialect),
        FieldType::MicroTime => needed.scalar(MICRO_TIME, json!({"type": "string", "format": "date-time"}), dialect),
        FieldType::Duration => needed.scalar(DURATION, json!({"type": "string"}), dialect),
        FieldType::FieldsV1 => needed.scalar(FIELDS, json!({"type": "object"}), dialect),
        FieldType::RawExtension => needed.scalar(RAW, json!({"type": "object"}), dialect),
        FieldType::Any
        | FieldType::Json
        | FieldType::SchemaOrList(_)
        | FieldType::SchemaOrBool(_)
        | FieldType::SchemaOrNames(_) => json!({}),
        FieldType::Struct(id) => needed.reference(scheme, *id, dialect),
        FieldType::List(item) => json!({"type": "array", "items": value(scheme, item, needed, dialect)}),
        FieldType::Map(item) => {
            json!({"type": "object", "additionalProperties": value(scheme, item, needed, dialect)})
        }
    }
}
