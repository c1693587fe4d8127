//! Nodes as [`crate::TypeDef`]s: what server-side apply and the other walkers of schema tables see of a custom kind.

use std::sync::Arc;

use super::Structural;
use super::node::{Additional, ListType, Node, ScalarType};
use crate::schema::SchemaBuilder;
use crate::{Field, FieldType, Key, ListKind, TypeId};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

impl Structural {
    /// Declares the types of a kind called `name`; returns those of one object and of a list.
    pub(crate) fn declare(self: &Arc<Self>, schema: &mut SchemaBuilder, name: &str) -> (TypeId, TypeId) {
        let object = structure(schema, name, &self.root, true);
        if let Some(ty) = schema.type_mut(object) {
            ty.structural = Some(self.clone());
        }
        let list = schema.declare(format!("{name}List"));
        let meta = schema.id(LIST_META).map_or(FieldType::Any, FieldType::Struct);
        if let Some(ty) = schema.type_mut(list) {
            ty.fields = vec![
                Field::new("apiVersion", FieldType::String),
                Field::new("kind", FieldType::String),
                Field::new("metadata", meta),
                Field { required: true, ..Field::new("items", FieldType::List(Box::new(FieldType::Struct(object)))) },
            ];
        }
        (object, list)
    }
}

fn structure(schema: &mut SchemaBuilder, name: &str, node: &Node, envelope: bool) -> TypeId {
    let id = schema.declare(name);
    let required = node.limits.as_ref().map(|limits| limits.required.as_slice()).unwrap_or_default();
    let mut fields = Vec::with_capacity(node.properties.len() + 3);
    for (key, child) in &node.properties {
        if envelope && super::prune::is_envelope(key) {
            continue;
        }
        let ty = field_type(schema, &format!("{name}.{key}"), child);
        fields.push(Field {
            required: required.contains(key),
            default: child.default.clone(),
            list: list_kind(child),
            atomic: child.atomic,
            ..Field::new(key.clone(), ty)
        });
    }
    if envelope {
        let meta = schema.id(OBJECT_META).map_or(FieldType::Any, FieldType::Struct);
        fields.push(Field::new("apiVersion", FieldType::String));
        fields.push(Field::new("kind", FieldType::String));
        fields.push(Field::new("metadata", meta));
    }
    if let Some(ty) = schema.type_mut(id) {
        ty.fields = fields;
        ty.atomic = node.atomic;
        ty.preserve_unknown = node.preserve;
    }
    id
}

fn list_kind(node: &Node) -> ListKind {
    match &node.list {
        ListType::Atomic => ListKind::Atomic,
        ListType::Set => ListKind::Set,
        ListType::Map(keys) => ListKind::Map(keys.clone()),
    }
}

fn field_type(schema: &mut SchemaBuilder, name: &str, node: &Node) -> FieldType {
    match node.ty {
        None => FieldType::Any,
        Some(ScalarType::Boolean) => FieldType::Bool,
        Some(ScalarType::String) => FieldType::String,
        Some(ScalarType::Integer) => FieldType::Int64,
        Some(ScalarType::Number) => FieldType::Float,
        Some(ScalarType::IntOrString) => FieldType::IntOrString,
        Some(ScalarType::Array) => {
            let items = node.items.as_ref().map_or(FieldType::Any, |items| field_type(schema, name, items));
            FieldType::List(Box::new(items))
        }
        Some(ScalarType::Object) => match &node.additional {
            Some(Additional::Of(child)) if node.properties.is_empty() => {
                FieldType::Map(Box::new(field_type(schema, name, child)))
            }
            Some(Additional::Any) if node.properties.is_empty() => FieldType::Map(Box::new(FieldType::Any)),
            // Nothing is known of its members: they are told apart as they come.
            None if node.preserve && node.properties.is_empty() && !node.embedded => {
                FieldType::Map(Box::new(FieldType::Any))
            }
            _ => FieldType::Struct(structure(schema, name, node, node.embedded)),
        },
    }
}

/// The name of a kind's type: the group backwards, the version, the kind.
pub(crate) fn type_name(group: &str, version: &str, kind: &str) -> Key {
    let mut parts: Vec<&str> = group.rsplit('.').collect();
    parts.extend([version, kind]);
    parts.join(".").into()
}
