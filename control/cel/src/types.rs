//! Types of expressions: what the checker infers and what callers declare for their variables.
//!
//! Owns type identity, assignability's raw material and how a type is spelled in messages. Never looks
//! at a value.

use compact_str::CompactString;
use std::fmt;
use std::sync::Arc;
use timonel_api::{FieldType, ListKind, Scheme, TypeId};

use crate::escape::{escape, unescape};

/// Largest request the API takes, which bounds every string and list of unknown size.
pub(crate) const MAX_REQUEST_BYTES: u64 = 3 * 1024 * 1024;

/// The type of an expression or a variable.
#[derive(Clone, Debug, Default)]
pub enum Type {
    /// Known at run time only.
    #[default]
    Dyn,
    /// What a faulty expression has; suppresses follow-up errors.
    Error,
    /// `null`.
    Null,
    /// `true` and `false`.
    Bool,
    /// Signed 64 bits.
    Int,
    /// Unsigned 64 bits.
    Uint,
    /// A floating point number.
    Double,
    /// Text.
    String,
    /// Bytes.
    Bytes,
    /// A point in time.
    Timestamp,
    /// A span of time.
    Duration,
    /// A list.
    List(Arc<ListType>),
    /// A map: keys and values.
    Map(Arc<(Type, Type)>),
    /// An object with known fields.
    Object(ObjectType),
    /// A value that may be absent.
    Optional(Arc<Type>),
    /// A type of a library, by its full name.
    Opaque(&'static str),
    /// The type of a type.
    TypeOf(Arc<Type>),
    /// A type variable of an overload or of an inference.
    Param(u32),
    /// A type of bounded size: characters of a string, elements of a list or map.
    Sized(Arc<(Type, u64)>),
}

/// How equality and addition treat a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListSemantics {
    /// In order.
    #[default]
    Ordered,
    /// As a set of scalars.
    Set,
    /// As a map whose keys are these members of each element.
    Map(Vec<CompactString>),
}

/// A list's type.
#[derive(Clone, Debug, Default)]
pub struct ListType {
    /// What its elements are.
    pub element: Type,
    /// How equality and addition treat it.
    pub semantics: ListSemantics,
}

/// An object's type: its fields, declared or looked up in the API's schema as they are asked for.
#[derive(Clone)]
pub struct ObjectType(Source);

#[derive(Clone)]
enum Source {
    Declared(Arc<Declared>),
    Schema(Arc<Scheme>, TypeId),
    /// Any field, of any type.
    Open(CompactString),
}

struct Declared {
    name: CompactString,
    fields: Vec<(CompactString, Type)>,
}

impl ObjectType {
    /// An object of these fields, named as in JSON. Fields whose name no identifier can spell are left out.
    #[must_use]
    pub fn new(name: &str, fields: impl IntoIterator<Item = (CompactString, Type)>) -> Self {
        let fields = fields.into_iter().filter_map(|(name, ty)| Some((escape(&name)?.into(), ty)));
        let mut fields: Vec<(CompactString, Type)> = fields.collect();
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Self(Source::Declared(Arc::new(Declared { name: name.into(), fields })))
    }

    /// An object of a type of the API's schema.
    #[must_use]
    pub fn of_scheme(scheme: Arc<Scheme>, id: TypeId) -> Self {
        Self(Source::Schema(scheme, id))
    }

    /// An object that may have any field; what they hold is known at run time only.
    #[must_use]
    pub fn open(name: &str) -> Self {
        Self(Source::Open(name.into()))
    }

    /// The type's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.0 {
            Source::Declared(declared) => &declared.name,
            Source::Schema(scheme, id) => scheme.schema().get(*id).name.as_str(),
            Source::Open(name) => name,
        }
    }

    /// The type of the field that an expression spells `escaped`.
    #[must_use]
    pub fn field(&self, escaped: &str) -> Option<Type> {
        match &self.0 {
            Source::Declared(declared) => {
                let find = |name: &str| declared.fields.binary_search_by(|(held, _)| held.as_str().cmp(name)).ok();
                // A word that no name may be is one all the same behind a dot, as in `request.namespace`.
                let is_word = escaped.bytes().all(|byte| byte.is_ascii_lowercase());
                let at = find(escaped).or_else(|| find(&escape(escaped).filter(|_| is_word)?))?;
                Some(declared.fields[at].1.clone())
            }
            Source::Open(_) => Some(Type::Dyn),
            Source::Schema(scheme, id) => {
                let field = scheme.schema().get(*id).field(&unescape(escaped)?)?;
                let plain = of_field(scheme, &field.ty);
                Some(match (&field.list, plain) {
                    (ListKind::Set, Type::List(list)) => with_semantics(&list, ListSemantics::Set),
                    (ListKind::Map(keys), Type::List(list)) => with_semantics(&list, ListSemantics::Map(keys.clone())),
                    (_, plain) => plain,
                })
            }
        }
    }

    fn same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Source::Declared(a), Source::Declared(b)) => Arc::ptr_eq(a, b) || (a.name == b.name && same_fields(a, b)),
            (Source::Schema(a, x), Source::Schema(b, y)) => Arc::ptr_eq(a, b) && x == y,
            (Source::Open(a), Source::Open(b)) => a == b,
            _ => false,
        }
    }
}

fn same_fields(a: &Declared, b: &Declared) -> bool {
    a.fields.len() == b.fields.len() && a.fields.iter().zip(&b.fields).all(|(a, b)| a.0 == b.0 && a.1.is_exactly(&b.1))
}

fn with_semantics(list: &ListType, semantics: ListSemantics) -> Type {
    Type::List(Arc::new(ListType { element: list.element.clone(), semantics }))
}

fn of_field(scheme: &Arc<Scheme>, ty: &FieldType) -> Type {
    match ty {
        FieldType::Bool => Type::Bool,
        FieldType::Int32 | FieldType::Int64 => Type::Int,
        FieldType::Float => Type::Double,
        FieldType::String | FieldType::Quantity | FieldType::Duration => Type::String,
        FieldType::Bytes => Type::Bytes,
        FieldType::Time | FieldType::MicroTime => Type::Timestamp,
        FieldType::Struct(id) => Type::Object(ObjectType::of_scheme(scheme.clone(), *id)),
        FieldType::List(element) => Type::list(of_field(scheme, element)),
        FieldType::Map(value) => Type::map(Type::String, of_field(scheme, value)),
        FieldType::IntOrString
        | FieldType::Any
        | FieldType::RawExtension
        | FieldType::FieldsV1
        | FieldType::Json
        | FieldType::SchemaOrList(_)
        | FieldType::SchemaOrBool(_)
        | FieldType::SchemaOrNames(_) => Type::Dyn,
    }
}

impl fmt::Debug for ObjectType {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "ObjectType({})", self.name())
    }
}

impl Type {
    /// A list of `element`.
    #[must_use]
    pub fn list(element: Self) -> Self {
        Self::List(Arc::new(ListType { element, semantics: ListSemantics::Ordered }))
    }

    /// A map from `key` to `value`.
    #[must_use]
    pub fn map(key: Self, value: Self) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    /// A value that may be absent.
    #[must_use]
    pub fn optional(inner: Self) -> Self {
        Self::Optional(Arc::new(inner))
    }

    /// This type with at most `size` characters or elements.
    #[must_use]
    pub fn sized(self, size: u64) -> Self {
        Self::Sized(Arc::new((self.plain().clone(), size)))
    }

    /// An object type of the API's schema.
    #[must_use]
    pub fn of_scheme(scheme: &Arc<Scheme>, id: TypeId) -> Self {
        Self::Object(ObjectType::of_scheme(scheme.clone(), id))
    }

    /// What the variable `authorizer` is.
    #[must_use]
    pub const fn authorizer() -> Self {
        Self::Opaque(crate::library::AUTHORIZER)
    }

    /// What the variable `authorizer.requestResource` is.
    #[must_use]
    pub const fn resource_check() -> Self {
        Self::Opaque(crate::library::RESOURCE_CHECK)
    }

    /// The type without its size.
    #[must_use]
    pub fn plain(&self) -> &Self {
        if let Self::Sized(inner) = self { &inner.0 } else { self }
    }

    /// The most characters or elements, where that is known.
    #[must_use]
    pub fn max_size(&self) -> Option<u64> {
        if let Self::Sized(inner) = self { Some(inner.1) } else { None }
    }

    pub(crate) fn is_dyn(&self) -> bool {
        matches!(self.plain(), Self::Dyn)
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self.plain(), Self::Dyn | Self::Error)
    }

    /// What a list holds; `Dyn` for every other type.
    pub(crate) fn element(&self) -> Self {
        match self.plain() {
            Self::List(list) => list.element.clone(),
            _ => Self::Dyn,
        }
    }

    /// Whether both are the same type, sizes aside.
    #[must_use]
    pub fn is_exactly(&self, other: &Self) -> bool {
        match (self.plain(), other.plain()) {
            (Self::List(a), Self::List(b)) => a.element.is_exactly(&b.element),
            (Self::Map(a), Self::Map(b)) => a.0.is_exactly(&b.0) && a.1.is_exactly(&b.1),
            (Self::Object(a), Self::Object(b)) => a.same(b),
            (Self::Optional(a), Self::Optional(b)) | (Self::TypeOf(a), Self::TypeOf(b)) => a.is_exactly(b),
            (Self::Opaque(a), Self::Opaque(b)) => a == b,
            (Self::Param(a), Self::Param(b)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => to.write_str("dyn"),
            Self::Error => to.write_str("!error!"),
            Self::Null => to.write_str("null"),
            Self::Bool => to.write_str("bool"),
            Self::Int => to.write_str("int"),
            Self::Uint => to.write_str("uint"),
            Self::Double => to.write_str("double"),
            Self::String => to.write_str("string"),
            Self::Bytes => to.write_str("bytes"),
            Self::Timestamp => to.write_str("timestamp"),
            Self::Duration => to.write_str("duration"),
            Self::List(list) => write!(to, "list({})", list.element),
            Self::Map(map) => write!(to, "map({}, {})", map.0, map.1),
            Self::Object(object) => to.write_str(object.name()),
            Self::Optional(inner) => write!(to, "optional_type({inner})"),
            Self::Opaque(name) => to.write_str(name),
            Self::TypeOf(inner) => write!(to, "type({inner})"),
            Self::Param(number) => write!(to, "_var{number}"),
            Self::Sized(inner) => inner.0.fmt(to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_spelled_as_messages_want_them() {
        let object = ObjectType::new("object", [("a-b".into(), Type::String), ("namespace".into(), Type::Int)]);
        for (ty, spelled) in [
            (Type::list(Type::Int), "list(int)"),
            (Type::map(Type::String, Type::Dyn.sized(3)), "map(string, dyn)"),
            (Type::optional(Type::Object(object.clone())), "optional_type(object)"),
        ] {
            assert_eq!(ty.to_string(), spelled);
        }
        assert!(object.field("a__dash__b").is_some_and(|ty| ty.is_exactly(&Type::String.sized(4))));
        assert!(object.field("__namespace__").is_some());
        assert!(object.field("a-b").is_none());
    }
}
