//! What the schema says about a node: owned as one, or by members, entries or elements.
//!
//! The only place here that knows how types are described; built-in and custom types are the same to it.

use crate::schema::{Field, FieldType, ListKind, TypeDef};
use crate::{Key, Schema, TypeId, Value};

use super::element::Element;

/// The type of a node, with what its parent says about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ty<'s> {
    /// `None` where nothing is known: what the value is decides.
    ty: Option<&'s FieldType>,
    field: Option<&'s Field>,
    root: Option<TypeId>,
}

/// How a node is owned.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape<'s> {
    /// As one.
    Leaf,
    /// Member by member.
    Struct(&'s TypeDef),
    /// Entry by entry.
    Map(Ty<'s>),
    /// Element by element, told apart by keys.
    Keyed(Ty<'s>, &'s [Key]),
    /// Element by element, each a scalar.
    Set,
}

impl Shape<'_> {
    /// Whether two nodes are owned in the same way, so that their parts can be compared.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// What a value is, where its type leaves that open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Null,
    Scalar,
    List,
    Object,
}

fn form(value: &Value) -> Form {
    match value {
        Value::Null => Form::Null,
        Value::List(_) => Form::List,
        Value::Object(_) => Form::Object,
        _ => Form::Scalar,
    }
}

impl<'s> Ty<'s> {
    /// An object of a type.
    pub(super) fn of(id: TypeId) -> Self {
        Self { ty: None, field: None, root: Some(id) }
    }

    const UNKNOWN: Self = Self { ty: None, field: None, root: None };

    fn inner(ty: &'s FieldType) -> Self {
        Self { ty: Some(ty), field: None, root: None }
    }

    /// The type of a member, an entry or an element; `None` for a member that the type does not have.
    pub(super) fn member(shape: &Shape<'s>, name: &str) -> Option<Self> {
        match shape {
            Shape::Struct(ty) => match ty.field(name) {
                Some(field) => Some(Self { ty: Some(&field.ty), field: Some(field), root: None }),
                None => ty.preserve_unknown.then_some(Self::UNKNOWN),
            },
            Shape::Map(inner) => Some(*inner),
            _ => None,
        }
    }

    /// How a value of this type is owned.
    pub(super) fn shape(&self, schema: &'s Schema, value: &Value) -> Shape<'s> {
        if let Some(id) = self.root {
            return Shape::Struct(schema.get(id));
        }
        let Some(ty) = self.ty else { return untyped(value) };
        match ty {
            FieldType::Struct(id) => self.of_struct(schema.get(*id)),
            FieldType::Map(inner) if !self.field.is_some_and(|field| field.atomic) => Shape::Map(Self::inner(inner)),
            FieldType::List(inner) => match self.field.map(|field| &field.list) {
                Some(ListKind::Map(keys)) if !keys.is_empty() => Shape::Keyed(Self::inner(inner), keys),
                Some(ListKind::Set) => Shape::Set,
                _ => Shape::Leaf,
            },
            FieldType::Any
            | FieldType::Json
            | FieldType::SchemaOrBool(_)
            | FieldType::SchemaOrList(_)
            | FieldType::SchemaOrNames(_)
                if !self.field.is_some_and(|field| field.atomic) =>
            {
                untyped(value)
            }
            _ => Shape::Leaf,
        }
    }

    /// The shape of a type by itself, for a set of fields without an object.
    pub(super) fn bare_shape(&self, schema: &'s Schema) -> Option<Shape<'s>> {
        let known = self.root.is_some()
            || matches!(self.ty, Some(FieldType::Struct(_) | FieldType::Map(_) | FieldType::List(_)));
        known.then(|| self.shape(schema, &Value::Null))
    }

    fn of_struct(&self, ty: &'s TypeDef) -> Shape<'s> {
        let whole = match self.field {
            Some(field) => field.atomic || (ty.atomic && !field.granular),
            None => ty.atomic,
        };
        if whole { Shape::Leaf } else { Shape::Struct(ty) }
    }

    /// Why a value cannot be of this type, in upstream's words.
    pub(super) fn mismatch(&self, value: &Value) -> Option<String> {
        let (ty, form) = (self.ty?, form(value));
        if form == Form::Null {
            return None;
        }
        let shown = || format!("&{{{}}}", go_text(value));
        match ty {
            FieldType::Struct(_) | FieldType::Map(_) if form != Form::Object => {
                Some(format!("expected map, got {}", shown()))
            }
            FieldType::List(_) if form != Form::List => Some(format!("expected list, got {}", shown())),
            FieldType::Bool if !matches!(value, Value::Bool(_)) => Some(format!("expected boolean, got {}", shown())),
            FieldType::Int32 | FieldType::Int64 | FieldType::Float
                if !matches!(value, Value::Int(_) | Value::Float(_)) =>
            {
                Some(format!("expected numeric (int or float), got {}", go_type(value)))
            }
            FieldType::String | FieldType::Bytes if !matches!(value, Value::String(_)) => {
                Some(format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_syntax(value)))
            }
            FieldType::Quantity
            | FieldType::IntOrString
            | FieldType::Time
            | FieldType::MicroTime
            | FieldType::Duration
                if form != Form::Scalar =>
            {
                Some(format!("expected any scalar, got {}", shown()))
            }
            _ => None,
        }
    }

    /// The step to an element of a list with keys.
    pub(super) fn key_of(&self, schema: &'s Schema, keys: &[Key], item: &Value) -> Result<Element, String> {
        let Some(object) = item.as_object() else {
            return Err(if item.is_null() {
                "associative list with keys may not have a null element".into()
            } else {
                "associative list with keys may not have non-map elements".into()
            });
        };
        let element_type = match self.ty {
            Some(FieldType::Struct(id)) => Some(schema.get(*id)),
            _ => None,
        };
        let mut found: Vec<(Key, Value)> = Vec::with_capacity(keys.len());
        for key in keys {
            let default = || element_type.and_then(|ty| ty.field(key)).and_then(|field| field.default.as_ref());
            if let Some(value) = object.get(key).or_else(default) {
                found.push((key.clone(), value.clone()));
            }
        }
        if found.is_empty() {
            let names: Vec<String> = keys.iter().map(|key| crate::fieldpath::quote(key)).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                names.join(" ")
            ));
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Element::Keys(found.into()))
    }
}

/// The step to an element of a set.
pub(super) fn value_of(item: &Value) -> Result<Element, String> {
    match item {
        Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
        Value::List(_) => Err("not supported: associative list with lists as elements".into()),
        Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
        scalar => Ok(Element::Value(scalar.clone())),
    }
}

fn untyped<'s>(value: &Value) -> Shape<'s> {
    if matches!(value, Value::Object(_) | Value::Null) { Shape::Map(Ty::UNKNOWN) } else { Shape::Leaf }
}

/// A value as Go prints it.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.to_string(),
        Value::List(list) => format!("[{}]", list.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(object) => {
            let entries: Vec<String> = object.iter().map(|(key, value)| format!("{key}:{}", go_text(value))).collect();
            format!("map[{}]", entries.join(" "))
        }
        other => String::from_utf8_lossy(&crate::encode_json(other)).into_owned(),
    }
}

/// A value as Go's source has it.
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".into(),
        Value::String(text) => crate::fieldpath::quote(text),
        Value::List(list) => {
            format!("[]interface {{}}{{{}}}", list.iter().map(go_syntax).collect::<Vec<_>>().join(", "))
        }
        Value::Object(object) => {
            let entries: Vec<String> = object
                .iter()
                .map(|(key, value)| format!("{}:{}", crate::fieldpath::quote(key), go_syntax(value)))
                .collect();
            format!("map[string]interface {{}}{{{}}}", entries.join(", "))
        }
        other => String::from_utf8_lossy(&crate::encode_json(other)).into_owned(),
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int64",
        Value::Float(_) => "float64",
        Value::String(_) | Value::Raw(_) => "string",
        Value::List(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

impl<'s> Ty<'s> {
    /// An element of a set.
    pub(super) const fn of_scalar() -> Self {
        Self::UNKNOWN
    }

    /// What is inside of something that is owned as one; lists as if their elements had keys.
    pub(super) fn inside(&self, schema: &'s Schema) -> Option<Shape<'s>> {
        Some(match self.ty? {
            FieldType::Struct(id) => Shape::Struct(schema.get(*id)),
            FieldType::Map(inner) => Shape::Map(Self::inner(inner)),
            FieldType::List(inner) => Shape::Keyed(Self::inner(inner), &[]),
            _ => return None,
        })
    }
}
