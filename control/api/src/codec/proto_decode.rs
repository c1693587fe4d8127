//! Protobuf to [`Value`], led by the schema.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::error::ROOT;
use super::json_decode::decode_json_untyped;
use super::proto_encode::MAGIC;
use super::wire::{Reader, Wire};
use super::{DecodeError, Limits, scalar};
use crate::schema::{FieldType, Inline, Slot, TypeDef};
use crate::{Key, Object, Schema, TypeId, Value};

/// What the envelope of a protobuf body says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Envelope<'b> {
    /// The object's `apiVersion`.
    pub api_version: &'b str,
    /// The object's `kind`.
    pub kind: &'b str,
    /// The object itself.
    pub raw: &'b [u8],
    /// Empty for protobuf.
    pub content_type: &'b str,
    /// Empty; no other is known.
    pub content_encoding: &'b str,
}

/// Whether bytes start as a protobuf body does.
#[must_use]
pub fn is_proto(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

impl<'b> Envelope<'b> {
    /// Opens a body.
    ///
    /// # Errors
    /// What has no envelope, or a broken one.
    pub fn open(bytes: &'b [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.strip_prefix(MAGIC).ok_or(DecodeError::NoEnvelope)?);
        let mut envelope = Self::default();
        while let Some((number, wire)) = reader.field()? {
            match (number, wire) {
                (1, Wire::Bytes(meta)) => {
                    let mut meta = Reader::new(meta);
                    while let Some((number, wire)) = meta.field()? {
                        match (number, wire) {
                            (1, Wire::Bytes(bytes)) => envelope.api_version = text(bytes)?,
                            (2, Wire::Bytes(bytes)) => envelope.kind = text(bytes)?,
                            _ => {}
                        }
                    }
                }
                (2, Wire::Bytes(bytes)) => envelope.raw = bytes,
                (3, Wire::Bytes(bytes)) => envelope.content_encoding = text(bytes)?,
                (4, Wire::Bytes(bytes)) => envelope.content_type = text(bytes)?,
                _ => {}
            }
        }
        Ok(envelope)
    }
}

fn text(bytes: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(bytes)
        .map_err(|error| DecodeError::Proto { problem: "text is no UTF-8", offset: error.valid_up_to() })
}

/// Decodes a body in its envelope; the object gets the envelope's `apiVersion` and `kind`.
///
/// # Errors
/// What is no envelope, holds no protobuf, is too large or too deep.
pub fn decode_proto(schema: &Schema, ty: TypeId, bytes: &[u8], limits: &Limits) -> Result<Value, DecodeError> {
    let envelope = Envelope::open(bytes)?;
    if !envelope.content_encoding.is_empty() {
        return Err(DecodeError::Content(envelope.content_encoding.to_owned()));
    }
    let mut value = match envelope.content_type {
        "" | "application/vnd.kubernetes.protobuf" => decode_proto_body(schema, ty, envelope.raw, limits)?,
        "application/json" => super::decode_json(schema, ty, envelope.raw, limits)?.value,
        other => return Err(DecodeError::Content(other.to_owned())),
    };
    if !envelope.kind.is_empty() {
        value.set_at(&["apiVersion"], envelope.api_version);
        value.set_at(&["kind"], envelope.kind);
    }
    Ok(value)
}

/// Decodes an object without envelope.
///
/// # Errors
/// What is no protobuf of that type, too large or too deep.
pub fn decode_proto_body(schema: &Schema, ty: TypeId, bytes: &[u8], limits: &Limits) -> Result<Value, DecodeError> {
    if bytes.len() > limits.bytes {
        return Err(DecodeError::TooLarge { limit: limits.bytes });
    }
    Walk { schema, limits, depth: limits.depth }.object(ty, bytes)
}

struct Walk<'s> {
    schema: &'s Schema,
    limits: &'s Limits,
    depth: usize,
}

const WRONG_WIRE: DecodeError = DecodeError::Proto { problem: "wrong wireType", offset: 0 };

/// Members of an open message by position, in no order yet.
type Members = Vec<(u16, Value)>;

fn slot_of(members: &mut Members, at: u16) -> &mut Value {
    // Elements of a list follow one another, so the last member is looked at first.
    let found = members.iter().rposition(|(other, _)| *other == at);
    let found = found.unwrap_or_else(|| {
        members.push((at, Value::Null));
        members.len() - 1
    });
    &mut members[found].1
}

impl Walk<'_> {
    fn enter(&mut self) -> Result<(), DecodeError> {
        self.depth = self.depth.checked_sub(1).ok_or(DecodeError::TooDeep { limit: self.limits.depth })?;
        Ok(())
    }

    fn object(&mut self, id: TypeId, bytes: &[u8]) -> Result<Value, DecodeError> {
        self.enter()?;
        let schema = self.schema;
        let ty = schema.get(id);
        let mut members: Members = Vec::with_capacity(ty.fields.len().min(16));
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.field()? {
            match ty.slots.get(number as usize).copied().unwrap_or(Slot::None) {
                Slot::None => {}
                Slot::Field(at) => self.member(ty, at, wire, &mut members)?,
                Slot::Inline(at) => match wire {
                    Wire::Bytes(bytes) => self.inline(ty, &ty.inlines[usize::from(at)], bytes, &mut members)?,
                    _ => return Err(WRONG_WIRE),
                },
            }
        }
        self.depth += 1;
        Ok(close(ty, members))
    }

    fn inline(
        &mut self,
        ty: &TypeDef,
        inline: &Inline,
        bytes: &[u8],
        members: &mut Members,
    ) -> Result<(), DecodeError> {
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.field()? {
            if let Some((_, at)) = inline.members.iter().find(|(known, _)| *known == number) {
                self.member(ty, *at, wire, members)?;
            } else if let (Some(inner), Wire::Bytes(bytes)) =
                (inline.inner.iter().find(|inner| inner.number == number), wire)
            {
                self.inline(ty, inner, bytes, members)?;
            }
        }
        Ok(())
    }

    fn member(&mut self, ty: &TypeDef, at: u16, wire: Wire<'_>, members: &mut Members) -> Result<(), DecodeError> {
        match &ty.fields[usize::from(at)].ty {
            FieldType::List(inner) => {
                let mut packed = None;
                if let (Wire::Bytes(bytes), FieldType::Int32 | FieldType::Int64 | FieldType::Bool) = (wire, &**inner) {
                    packed = Some(Reader::new(bytes));
                }
                let Some(mut packed) = packed else {
                    let item = self.single(inner, wire)?;
                    slot_of(members, at).make_list().push(item);
                    return Ok(());
                };
                while !packed.is_empty() {
                    let item = self.single(inner, Wire::Varint(packed.varint()?))?;
                    slot_of(members, at).make_list().push(item);
                }
            }
            FieldType::Map(inner) => {
                let Wire::Bytes(bytes) = wire else { return Err(WRONG_WIRE) };
                let (key, member) = self.entry(inner, bytes)?;
                slot_of(members, at).make_object().insert(key, member);
            }
            ty => {
                let value = self.single(ty, wire)?;
                *slot_of(members, at) = value;
            }
        }
        Ok(())
    }

    fn entry(&mut self, inner: &FieldType, bytes: &[u8]) -> Result<(Key, Value), DecodeError> {
        let (mut key, mut member) = (Key::default(), None);
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.field()? {
            match (number, wire) {
                (1, Wire::Bytes(bytes)) => key = text(bytes)?.into(),
                (2, Wire::Bytes(bytes)) if matches!(inner, FieldType::List(_)) => {
                    member = Some(self.wrapped_list(inner, bytes)?);
                }
                (2, wire) => member = Some(self.single(inner, wire)?),
                _ => {}
            }
        }
        let empty = || if matches!(inner, FieldType::List(_)) { Value::List(Vec::new()) } else { scalar::zero(inner) };
        Ok((key, member.unwrap_or_else(empty)))
    }

    fn wrapped_list(&mut self, list: &FieldType, bytes: &[u8]) -> Result<Value, DecodeError> {
        let FieldType::List(element) = list else { return Err(WRONG_WIRE) };
        let mut items = Vec::new();
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.field()? {
            if number == 1 {
                items.push(self.single(element, wire)?);
            }
        }
        Ok(Value::List(items))
    }

    fn single(&mut self, ty: &FieldType, wire: Wire<'_>) -> Result<Value, DecodeError> {
        Ok(match (ty, wire) {
            (FieldType::Bool, Wire::Varint(number)) => Value::Bool(number != 0),
            (FieldType::Int64, Wire::Varint(number)) => Value::Int(number.cast_signed()),
            #[expect(clippy::cast_possible_truncation, reason = "the wire carries 32 bits sign-extended to 64")]
            (FieldType::Int32, Wire::Varint(number)) => Value::Int(i64::from(number as i32)),
            (FieldType::Float, Wire::Fixed64(bits)) => scalar::float(f64::from_bits(bits)),
            (FieldType::String, Wire::Bytes(bytes)) => Value::from(text(bytes)?),
            (FieldType::Bytes, Wire::Bytes(bytes)) => Value::from(STANDARD.encode(bytes)),
            (FieldType::Struct(id), Wire::Bytes(bytes)) => self.object(*id, bytes)?,
            (ty, Wire::Bytes(bytes)) => self.special(ty, bytes)?,
            _ => return Err(WRONG_WIRE),
        })
    }

    /// The messages that JSON writes as something else.
    fn special(&mut self, ty: &FieldType, bytes: &[u8]) -> Result<Value, DecodeError> {
        let parts = Parts::read(bytes)?;
        Ok(match ty {
            FieldType::Quantity => {
                let text = if parts.text(1)?.is_empty() { "0" } else { parts.text(1)? };
                Value::String(scalar::quantity(text).map_err(|problem| ROOT.scalar(problem))?)
            }
            #[expect(clippy::cast_possible_truncation, reason = "the wire carries 32 bits sign-extended to 64")]
            FieldType::IntOrString if parts.number(1) == 0 => Value::Int(i64::from(parts.number(2) as i32)),
            FieldType::IntOrString => Value::from(parts.text(3)?),
            FieldType::Time | FieldType::MicroTime if bytes.is_empty() => Value::Null,
            FieldType::Time => Value::from(scalar::format_time(timestamp(parts.number(1), 0)?)),
            FieldType::MicroTime => {
                Value::from(scalar::format_micro_time(timestamp(parts.number(1), parts.number(2))?))
            }
            FieldType::Duration => Value::from(scalar::format_duration(parts.number(1).cast_signed())),
            FieldType::SchemaOrBool(id) => match parts.last(2) {
                Some(schema) => self.object(*id, schema)?,
                None => Value::Bool(parts.number(1) != 0),
            },
            FieldType::SchemaOrList(id) | FieldType::SchemaOrNames(id) => match parts.last(1) {
                Some(schema) => self.object(*id, schema)?,
                None => {
                    let mut list = Vec::new();
                    for item in parts.all(2) {
                        list.push(match ty {
                            FieldType::SchemaOrList(_) => self.object(*id, item)?,
                            _ => Value::from(text(item)?),
                        });
                    }
                    Value::List(list)
                }
            },
            _ => match parts.last(1) {
                None | Some([]) => Value::Null,
                Some(raw) if is_proto(raw) => {
                    return Err(DecodeError::Content("protobuf within a raw extension".into()));
                }
                Some(raw) => {
                    let tree = decode_json_untyped(raw, &Limits { depth: self.depth, ..*self.limits })?;
                    if *ty == FieldType::FieldsV1 && tree.as_object().is_some() { scalar::raw(&tree) } else { tree }
                }
            },
        })
    }
}

fn timestamp(seconds: u64, nanos: u64) -> Result<Timestamp, DecodeError> {
    let nanos = i32::try_from(nanos).map_err(|_| DecodeError::Proto { problem: "time out of range", offset: 0 })?;
    Timestamp::new(seconds.cast_signed(), nanos)
        .map_err(|_| DecodeError::Proto { problem: "time out of range", offset: 0 })
}

/// The fields of a small message.
struct Parts<'b>(Vec<(u32, Wire<'b>)>);

impl<'b> Parts<'b> {
    fn read(bytes: &'b [u8]) -> Result<Self, DecodeError> {
        let mut parts = Vec::new();
        let mut reader = Reader::new(bytes);
        while let Some(part) = reader.field()? {
            parts.push(part);
        }
        Ok(Self(parts))
    }

    fn number(&self, field: u32) -> u64 {
        self.0
            .iter()
            .rev()
            .find_map(|(number, wire)| match wire {
                Wire::Varint(value) if *number == field => Some(*value),
                _ => None,
            })
            .unwrap_or_default()
    }

    fn all(&self, field: u32) -> impl DoubleEndedIterator<Item = &'b [u8]> {
        self.0.iter().filter_map(move |(number, wire)| match wire {
            Wire::Bytes(bytes) if *number == field => Some(*bytes),
            _ => None,
        })
    }

    fn last(&self, field: u32) -> Option<&'b [u8]> {
        self.all(field).next_back()
    }

    fn text(&self, field: u32) -> Result<&'b str, DecodeError> {
        text(self.last(field).unwrap_or_default())
    }
}

/// Sorts members, leaves out what Go leaves out, adds what Go always writes.
fn close(ty: &TypeDef, mut members: Members) -> Value {
    members.retain(|(at, value)| !value.is_null() && !scalar::is_left_out(&ty.fields[usize::from(*at)], value));
    for (at, zero) in &ty.always {
        if !members.iter().any(|(other, _)| other == at) {
            members.push((*at, zero.clone()));
        }
    }
    members.sort_unstable_by_key(|(at, _)| *at);
    Value::Object(Object::from_sorted(
        members.into_iter().map(|(at, value)| (ty.fields[usize::from(at)].name.clone(), value)).collect(),
    ))
}
