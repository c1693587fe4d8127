//! Types as data: what members an object of each type has, and how each is written in JSON and protobuf,
//! merged, defaulted and owned.
//!
//! Built once from the tables beside this crate (see [`Tables`]); custom resources and the service's own
//! kinds add types of the same form at run time. Never holds an object; never does I/O.

mod build;
mod descriptions;
mod load;

use std::collections::HashMap;
use std::sync::Arc;

pub use build::SchemaBuilder;
pub(crate) use load::rows;
pub use load::{TableError, Tables};

use crate::{Key, Structural, Value};

/// A type of a [`Schema`], by position. Ids of a base schema stay valid in every schema that extends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(pub(crate) u32);

/// What a member, an element or a map value holds.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldType {
    /// `true` or `false`.
    Bool,
    /// A number of 32 bits.
    Int32,
    /// A number of 64 bits.
    Int64,
    /// A number with a fraction.
    Float,
    /// Text.
    String,
    /// Bytes, as base64 text in JSON and in [`Value`].
    Bytes,
    /// `resource.Quantity`: text or a number in JSON, kept in canonical text.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// `meta/v1.Time`: RFC 3339 to the second, in UTC.
    Time,
    /// `meta/v1.MicroTime`: RFC 3339 to the microsecond, in UTC.
    MicroTime,
    /// `meta/v1.Duration`: Go's notation (`1m30s`).
    Duration,
    /// Anything, without a protobuf form.
    Any,
    /// `runtime.RawExtension`: an object of a kind known to others.
    RawExtension,
    /// `meta/v1.FieldsV1`: a set of owned fields.
    FieldsV1,
    /// `apiextensions.JSON`: any JSON, carried as bytes in protobuf.
    Json,
    /// A schema, or a list of schemas.
    SchemaOrList(TypeId),
    /// A schema, or a boolean.
    SchemaOrBool(TypeId),
    /// A schema, or a list of names.
    SchemaOrNames(TypeId),
    /// An object with known members.
    Struct(TypeId),
    /// A list.
    List(Box<FieldType>),
    /// A map from text.
    Map(Box<FieldType>),
}

/// How the elements of a list relate under server-side apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// Owned and replaced as a whole.
    #[default]
    Atomic,
    /// A set of scalars.
    Set,
    /// Elements are told apart by these members.
    Map(Vec<Key>),
}

/// How strategic merge patch treats a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Lists merge element by element, by [`PatchStrategy::merge_key`] or, for scalars, by value.
    pub merge: bool,
    /// The whole member is replaced, even an object.
    pub replace: bool,
    /// A patch may name the members that survive (`$retainKeys`).
    pub retain_keys: bool,
    /// The member that tells elements apart.
    pub merge_key: Option<Key>,
}

/// One member of a type.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name in JSON.
    pub name: Key,
    /// What it holds.
    pub ty: FieldType,
    /// Whether the schema says it must be there.
    pub required: bool,
    /// The schema's default.
    pub default: Option<Value>,
    /// The values allowed; empty when any.
    pub allowed: Vec<Key>,
    /// Whether upstream tells absent from zero: what is optional behind a pointer in Go.
    pub pointer: bool,
    /// Whether a zero value is left out of JSON.
    pub omit_empty: bool,
    /// How elements relate, for lists.
    pub list: ListKind,
    /// Whether a map or struct is owned and replaced as a whole under server-side apply.
    pub atomic: bool,
    /// Whether it is owned member by member although its type is owned as a whole elsewhere.
    pub granular: bool,
    /// How strategic merge patch treats it.
    pub patch: PatchStrategy,
    /// Its number in protobuf, 0 when it has none of its own in this message.
    pub proto: u32,
}

/// An embedded message that JSON flattens into its parent.
#[derive(Clone, Debug)]
pub(crate) struct Inline {
    /// The message's number in its parent.
    pub(crate) number: u32,
    /// Its own members: number within the message, and position among the fields of the flattened type.
    pub(crate) members: Vec<(u32, u16)>,
    /// Messages embedded in it.
    pub(crate) inner: Vec<Inline>,
}

/// What a protobuf number of a message means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Nothing known: skip it.
    None,
    /// The field at this position.
    Field(u16),
    /// The embedded message at this position.
    Inline(u16),
}

/// One type: members sorted by name.
#[derive(Clone, Debug)]
pub struct TypeDef {
    /// The type's name in OpenAPI, such as `io.k8s.api.core.v1.Pod`.
    pub name: Key,
    /// Its members, sorted by name.
    pub fields: Vec<Field>,
    /// Whether server-side apply owns it as a whole.
    pub atomic: bool,
    /// Whether members that are not listed are kept as they are (custom resources).
    pub preserve_unknown: bool,
    /// The schema of a custom kind, which leads decoding and judging in place of the members' types.
    pub structural: Option<Arc<Structural>>,
    /// Members that Go always writes, with their zero values: `(position among fields, zero)`.
    pub(crate) always: Vec<(u16, Value)>,
    /// Members that Go writes as null when nobody set them.
    pub(crate) nulls: Vec<u16>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) inlines: Vec<Inline>,
}

impl TypeDef {
    /// The member called `name`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.position(name).map(|at| &self.fields[at])
    }

    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.fields.binary_search_by(|field| field.name.as_str().cmp(name)).ok()
    }

    /// Whether objects of the type can be written in protobuf: custom ones cannot.
    #[must_use]
    pub fn has_protobuf(&self) -> bool {
        !self.slots.is_empty()
    }

    /// The type's name without its package: `Pod`.
    #[must_use]
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    /// The name as Go prints it: `v1.Pod`.
    #[must_use]
    pub fn go_name(&self) -> &str {
        let mut dots = self.name.rmatch_indices('.');
        dots.nth(1).map_or(self.name.as_str(), |(at, _)| &self.name[at + 1..])
    }
}

/// All types an API server knows, by id and by name. A schema over another one holds its own types only.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    first: u32,
    types: Vec<TypeDef>,
    names: HashMap<Key, TypeId>,
    base: Option<Arc<Schema>>,
    /// Tables of descriptions, without those of the base.
    descriptions: Vec<&'static str>,
}

impl Schema {
    /// The type of an id.
    ///
    /// # Panics
    /// If the id comes from a schema that this one does not extend.
    #[must_use]
    pub fn get(&self, id: TypeId) -> &TypeDef {
        match &self.base {
            Some(base) if id.0 < self.first => base.get(id),
            _ => &self.types[(id.0 - self.first) as usize],
        }
    }

    /// How many types there are, those below included.
    fn len(&self) -> u32 {
        self.first + u32::try_from(self.types.len()).expect("types are counted in thousands")
    }

    /// The id of a type's name.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<TypeId> {
        self.names.get(name).copied().or_else(|| self.base.as_ref().and_then(|base| base.id(name)))
    }

    /// Ids of all types.
    pub fn ids(&self) -> impl Iterator<Item = TypeId> + use<> {
        (0..self.len()).map(TypeId)
    }

    /// The type of the field at a path of member names; lists and maps are entered without a step.
    #[must_use]
    pub fn field_at(&self, id: TypeId, path: &[&str]) -> Option<&Field> {
        let (last, parents) = path.split_last()?;
        let mut at = id;
        for name in parents {
            at = struct_of(&self.get(at).field(name)?.ty)?;
        }
        self.get(at).field(last)
    }
}

/// Puts back the members at an object's top that Go always writes.
pub fn fill_always(schema: &Schema, ty: TypeId, object: &mut Value) {
    let ty = schema.get(ty);
    let members = object.make_object();
    for (at, zero) in &ty.always {
        let name = &ty.fields[usize::from(*at)].name;
        if !members.contains(name) {
            members.insert(name.clone(), zero.clone());
        }
    }
}

/// The struct a type is made of, behind lists and maps.
#[must_use]
pub fn struct_of(ty: &FieldType) -> Option<TypeId> {
    match ty {
        FieldType::Struct(id) => Some(*id),
        FieldType::List(inner) | FieldType::Map(inner) => struct_of(inner),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
