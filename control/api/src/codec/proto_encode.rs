//! [`Value`] to protobuf, led by the schema; the envelope; lists and watch events put together from objects
//! that are encoded already.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::json_encode::encode_json_into;
use super::wire::{put_bytes, put_fixed64, put_message, put_number};
use crate::schema::{Field, FieldType, Inline, TypeDef};
use crate::{Schema, TypeId, Value};

/// What every protobuf body starts with.
pub(super) const MAGIC: &[u8; 4] = b"k8s\0";

/// An object in its envelope; `apiVersion` and `kind` are the object's own.
#[must_use]
pub fn encode_proto(schema: &Schema, ty: TypeId, value: &Value) -> Vec<u8> {
    let mut body = Vec::with_capacity(1024);
    encode_proto_body(schema, ty, value, &mut body);
    seal(value.str_at(&["apiVersion"]), value.str_at(&["kind"]), &body)
}

/// Puts an encoded object into its envelope.
#[must_use]
pub fn seal(api_version: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + api_version.len() + kind.len() + 24);
    out.extend_from_slice(MAGIC);
    put_message(1, &mut out, |out| {
        put_bytes(1, api_version.as_bytes(), out);
        put_bytes(2, kind.as_bytes(), out);
    });
    put_bytes(2, body, &mut out);
    // Go writes the two empty texts too.
    put_bytes(3, b"", &mut out);
    put_bytes(4, b"", &mut out);
    out
}

/// Appends an object without its envelope: as it stands in a list, or in another object.
pub fn encode_proto_body(schema: &Schema, ty: TypeId, value: &Value, out: &mut Vec<u8>) {
    Writer { schema }.object(schema.get(ty), value, out);
}

/// The metadata of a list, as the first bytes of its body; items follow by [`proto_list_item`].
#[must_use]
pub fn proto_list_head(schema: &Schema, list_meta: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    if let Some(id) = schema.id("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta") {
        put_message(1, &mut out, |out| encode_proto_body(schema, id, list_meta, out));
    }
    out
}

/// Appends one item, encoded already and without envelope, to a list's body.
pub fn proto_list_item(item: &[u8], out: &mut Vec<u8>) {
    put_bytes(2, item, out);
}

/// A whole list in its envelope from items encoded already, without decoding any.
#[must_use]
pub fn encode_proto_list<'i>(
    schema: &Schema,
    api_version: &str,
    list_kind: &str,
    list_meta: &Value,
    items: impl IntoIterator<Item = &'i [u8]>,
) -> Vec<u8> {
    let mut body = proto_list_head(schema, list_meta);
    for item in items {
        proto_list_item(item, &mut body);
    }
    seal(api_version, list_kind, &body)
}

/// One watch event in protobuf, framed: `object` is in its own envelope.
#[must_use]
pub fn encode_proto_watch_event(event: &str, object: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(object.len() + 32);
    put_bytes(1, event.as_bytes(), &mut body);
    put_message(2, &mut body, |out| put_bytes(1, object, out));
    frame(&body)
}

/// A length of four bytes, and the bytes: how events follow one another in a stream.
///
/// # Panics
/// If the body is 4 GiB or larger, which no bound on objects allows.
#[must_use]
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 4);
    out.extend_from_slice(&u32::try_from(body.len()).expect("bodies are bounded far below 4 GiB").to_be_bytes());
    out.extend_from_slice(body);
    out
}

pub(super) struct Writer<'s> {
    pub(super) schema: &'s Schema,
}

impl Writer<'_> {
    fn object(&self, ty: &TypeDef, value: &Value, out: &mut Vec<u8>) {
        let Some(object) = value.as_object() else { return };
        // Both sides are in order of name, so one walk finds every member's field.
        let mut fields = ty.fields.iter();
        for (key, member) in object.iter() {
            let Some(field) = fields.by_ref().find(|field| field.name >= *key) else { break };
            if field.name != *key {
                // A member the type does not know: start over for the next one.
                fields = ty.fields[ty.fields.partition_point(|field| field.name <= *key)..].iter();
                continue;
            }
            if field.proto > 0 {
                self.member(field, field.proto, member, out);
            }
        }
        for inline in &ty.inlines {
            self.inline(ty, inline, value, out);
        }
    }

    fn inline(&self, ty: &TypeDef, inline: &Inline, value: &Value, out: &mut Vec<u8>) {
        put_message(inline.number, out, |out| {
            for (number, at) in &inline.members {
                let field = &ty.fields[usize::from(*at)];
                if let Some(member) = value.get(&field.name) {
                    self.member(field, *number, member, out);
                }
            }
            for inner in &inline.inner {
                self.inline(ty, inner, value, out);
            }
        });
    }

    fn member(&self, field: &Field, number: u32, value: &Value, out: &mut Vec<u8>) {
        match (&field.ty, value) {
            (_, Value::Null) => {}
            (FieldType::List(inner), Value::List(items)) => {
                for item in items {
                    self.single(inner, number, item, out);
                }
            }
            (FieldType::Map(inner), Value::Object(members)) => {
                for (key, member) in members.iter() {
                    put_message(number, out, |out| {
                        put_bytes(1, key.as_bytes(), out);
                        match &**inner {
                            // A list as a map's value is a message of one list.
                            FieldType::List(element) => put_message(2, out, |out| {
                                for item in member.as_list().unwrap_or_default() {
                                    self.single(element, 1, item, out);
                                }
                            }),
                            inner => self.single(inner, 2, member, out),
                        }
                    });
                }
            }
            (ty, value) => self.single(ty, number, value, out),
        }
    }

    pub(super) fn single(&self, ty: &FieldType, number: u32, value: &Value, out: &mut Vec<u8>) {
        match (ty, value) {
            (FieldType::Bool, Value::Bool(truth)) => put_number(number, u64::from(*truth), out),
            (FieldType::Int32 | FieldType::Int64, Value::Int(int)) => put_number(number, int.cast_unsigned(), out),
            #[expect(clippy::cast_precision_loss, reason = "whole floats are kept as integers below 2^53")]
            (FieldType::Float, Value::Int(int)) => put_fixed64(number, (*int as f64).to_bits(), out),
            (FieldType::Float, Value::Float(float)) => put_fixed64(number, float.to_bits(), out),
            (FieldType::String, Value::String(text)) => put_bytes(number, text.as_bytes(), out),
            (FieldType::Bytes, Value::String(text)) => {
                put_bytes(number, &STANDARD.decode(text.as_bytes()).unwrap_or_default(), out);
            }
            (FieldType::Struct(id), value) => {
                put_message(number, out, |out| self.object(self.schema.get(*id), value, out));
            }
            (ty, value) => put_message(number, out, |out| self.special(ty, value, out)),
        }
    }

    /// The content of the messages that JSON writes as something else.
    fn special(&self, ty: &FieldType, value: &Value, out: &mut Vec<u8>) {
        match (ty, value) {
            (FieldType::Quantity, Value::String(text)) => put_bytes(1, text.as_bytes(), out),
            (FieldType::IntOrString, Value::Int(int)) => {
                put_number(1, 0, out);
                put_number(2, int.cast_unsigned(), out);
                put_bytes(3, b"", out);
            }
            (FieldType::IntOrString, Value::String(text)) => {
                put_number(1, 1, out);
                put_number(2, 0, out);
                put_bytes(3, text.as_bytes(), out);
            }
            (FieldType::Time | FieldType::MicroTime, Value::String(text)) => {
                let time: Timestamp = text.parse().unwrap_or_default();
                // The wire wants nanoseconds that count forward, before 1970 too.
                let nanos = time.as_nanosecond();
                let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or_default();
                let nanos = u64::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or_default();
                put_number(1, seconds.cast_unsigned(), out);
                put_number(2, nanos, out);
            }
            (FieldType::Duration, Value::String(text)) => {
                put_number(1, super::scalar::duration_nanos(text).unwrap_or_default().cast_unsigned(), out);
            }
            (FieldType::SchemaOrBool(_), Value::Bool(truth)) => put_number(1, u64::from(*truth), out),
            (FieldType::SchemaOrBool(id), value) => {
                put_number(1, 1, out);
                put_message(2, out, |out| self.object(self.schema.get(*id), value, out));
            }
            (FieldType::SchemaOrList(id), Value::List(list)) => {
                for item in list {
                    put_message(2, out, |out| self.object(self.schema.get(*id), item, out));
                }
            }
            (FieldType::SchemaOrNames(_), Value::List(list)) => {
                for item in list {
                    put_bytes(2, item.as_str().unwrap_or_default().as_bytes(), out);
                }
            }
            (FieldType::SchemaOrList(id) | FieldType::SchemaOrNames(id), value) => {
                put_message(1, out, |out| self.object(self.schema.get(*id), value, out));
            }
            (_, value) => put_message(1, out, |out| encode_json_into(value, out)),
        }
    }
}
