//! Making a schema: types are declared first, then filled, so that they may refer to one another.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Field, FieldType, Inline, Schema, Slot, TypeDef, TypeId};
use crate::{Key, Object, Value};

/// Nesting of zero structs that are written out; the built-in types need four.
const MAX_ZERO_DEPTH: usize = 12;

/// A protobuf number above this is not looked up by position, and so not known.
const MAX_PROTO_NUMBER: u32 = 4096;

/// Collects types until [`SchemaBuilder::build`].
#[derive(Debug, Default)]
pub struct SchemaBuilder {
    base: Option<Arc<Schema>>,
    types: Vec<TypeDef>,
    names: HashMap<Key, TypeId>,
    pending_inlines: Vec<(TypeId, u32, Vec<PendingInline>)>,
    pub(super) descriptions: Vec<&'static str>,
}

/// An embedded message before positions are known.
#[derive(Clone, Debug)]
pub(crate) enum PendingInline {
    Member(u32, Key),
    Inner(u32, Vec<PendingInline>),
}

impl SchemaBuilder {
    /// A builder that starts from nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A builder whose schema knows everything `base` knows, under the same ids.
    #[must_use]
    pub fn extending(base: &Arc<Schema>) -> Self {
        Self { base: Some(base.clone()), ..Self::default() }
    }

    fn first(&self) -> u32 {
        self.base.as_ref().map_or(0, |base| base.len())
    }

    /// The id of `name`, declared when new. A declared type without fields is an empty object.
    pub fn declare(&mut self, name: impl Into<Key>) -> TypeId {
        let name = name.into();
        if let Some(id) = self.id(&name) {
            return id;
        }
        let id = TypeId(self.first() + u32::try_from(self.types.len()).expect("types are counted in thousands"));
        self.types.push(TypeDef::empty(name.clone()));
        self.names.insert(name, id);
        id
    }

    /// The id of a type declared here or in the base.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<TypeId> {
        self.names.get(name).copied().or_else(|| self.base.as_ref().and_then(|base| base.id(name)))
    }

    /// The type of an id, to fill; `None` for types of the base, which cannot change.
    pub fn type_mut(&mut self, id: TypeId) -> Option<&mut TypeDef> {
        let at = id.0.checked_sub(self.first())? as usize;
        self.types.get_mut(at)
    }

    pub(crate) fn inline(&mut self, id: TypeId, number: u32, members: Vec<PendingInline>) {
        self.pending_inlines.push((id, number, members));
    }

    /// Sorts members, numbers them for protobuf, works out zero values.
    #[must_use]
    pub fn build(mut self) -> Schema {
        for ty in &mut self.types {
            ty.fields.sort_by(|a, b| a.name.cmp(&b.name));
            ty.fields.dedup_by(|later, earlier| later.name == earlier.name);
            ty.slots = direct_slots(ty);
        }
        let first = self.first();
        for (id, number, members) in std::mem::take(&mut self.pending_inlines) {
            let at = id.0.checked_sub(first).map(|at| at as usize);
            let Some(ty) = at.and_then(|at| self.types.get_mut(at)) else { continue };
            let inline = resolve(ty, number, &members);
            let at = u16::try_from(ty.inlines.len()).expect("a message embeds a handful");
            ty.inlines.push(inline);
            set_slot(&mut ty.slots, number, Slot::Inline(at));
        }
        let descriptions = self.descriptions;
        let mut schema = Schema { first, types: self.types, names: self.names, base: self.base, descriptions };
        for at in 0..schema.types.len() {
            let ty = &schema.types[at];
            let always = always_written(&schema, ty, 0);
            let null =
                |at: usize| !ty.fields[at].omit_empty && !always.iter().any(|(other, _)| usize::from(*other) == at);
            let nulls = (0..ty.fields.len()).filter(|at| null(*at)).filter_map(|at| u16::try_from(at).ok()).collect();
            schema.types[at].nulls = nulls;
            schema.types[at].always = always;
        }
        schema
    }
}

impl TypeDef {
    pub(crate) fn empty(name: Key) -> Self {
        Self {
            name,
            fields: Vec::new(),
            atomic: false,
            preserve_unknown: false,
            structural: None,
            always: Vec::new(),
            nulls: Vec::new(),
            slots: Vec::new(),
            inlines: Vec::new(),
        }
    }
}

impl Field {
    /// A field of the commonest kind: optional, left out when absent, without a protobuf number.
    #[must_use]
    pub fn new(name: impl Into<Key>, ty: FieldType) -> Self {
        Self {
            name: name.into(),
            ty,
            required: false,
            default: None,
            allowed: Vec::new(),
            pointer: true,
            omit_empty: true,
            list: super::ListKind::Atomic,
            atomic: false,
            granular: false,
            patch: super::PatchStrategy::default(),
            proto: 0,
        }
    }
}

fn direct_slots(ty: &TypeDef) -> Vec<Slot> {
    let mut slots = Vec::new();
    for (at, field) in ty.fields.iter().enumerate() {
        if field.proto > 0 {
            set_slot(
                &mut slots,
                field.proto,
                Slot::Field(u16::try_from(at).expect("a type has at most hundreds of fields")),
            );
        }
    }
    slots
}

fn set_slot(slots: &mut Vec<Slot>, number: u32, slot: Slot) {
    if number > MAX_PROTO_NUMBER {
        return;
    }
    let at = number as usize;
    if slots.len() <= at {
        slots.resize(at + 1, Slot::None);
    }
    slots[at] = slot;
}

fn resolve(ty: &TypeDef, number: u32, pending: &[PendingInline]) -> Inline {
    let mut inline = Inline { number, members: Vec::new(), inner: Vec::new() };
    for part in pending {
        match part {
            PendingInline::Member(number, name) => {
                if let Some(at) = ty.position(name) {
                    inline.members.push((*number, u16::try_from(at).expect("a type has at most hundreds of fields")));
                }
            }
            PendingInline::Inner(number, members) => inline.inner.push(resolve(ty, *number, members)),
        }
    }
    inline
}

/// The members that Go writes even when nobody set them: whatever is no pointer and has no `omitempty`, and
/// every embedded struct, for which `omitempty` means nothing.
fn always_written(schema: &Schema, ty: &TypeDef, depth: usize) -> Vec<(u16, Value)> {
    let mut always = Vec::new();
    for (position, field) in ty.fields.iter().enumerate() {
        if field.pointer {
            continue;
        }
        let zero = match &field.ty {
            FieldType::Struct(inner) if depth < MAX_ZERO_DEPTH => {
                let inner = schema.get(*inner);
                Some(Value::Object(
                    always_written(schema, inner, depth + 1)
                        .into_iter()
                        .map(|(at, zero)| (inner.fields[at as usize].name.clone(), zero))
                        .collect::<Object>(),
                ))
            }
            FieldType::Quantity => Some(Value::from("0")),
            FieldType::IntOrString => Some(Value::Int(0)),
            _ if field.omit_empty => None,
            FieldType::Bool => Some(Value::Bool(false)),
            FieldType::Int32 | FieldType::Int64 => Some(Value::Int(0)),
            FieldType::Float => Some(Value::Int(0)),
            // An object's own kind is a matter of its envelope.
            FieldType::String if field.proto == 0 && matches!(field.name.as_str(), "kind" | "apiVersion") => None,
            FieldType::String => Some(Value::from("")),
            _ => None,
        };
        if let Some(zero) = zero {
            always.push((u16::try_from(position).expect("a type has at most hundreds of fields"), zero));
        }
    }
    always
}
