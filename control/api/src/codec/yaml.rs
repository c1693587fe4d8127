//! YAML bodies: read into a tree, then brought into form by the schema.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::{DecodeError, Decoded, Limits, coerce};
use crate::{Object, Schema, TypeId, Value};

/// One YAML document as an object of type `ty`.
///
/// # Errors
/// What is no YAML, or no object of that type.
pub fn decode_yaml(schema: &Schema, ty: TypeId, bytes: &[u8], limits: &Limits) -> Result<Decoded, DecodeError> {
    coerce(schema, ty, decode_yaml_untyped(bytes, limits)?, limits)
}

/// One YAML document as a tree.
///
/// # Errors
/// What is no YAML, is larger than allowed or nests deeper.
pub fn decode_yaml_untyped(bytes: &[u8], limits: &Limits) -> Result<Value, DecodeError> {
    if bytes.len() > limits.bytes {
        return Err(DecodeError::TooLarge { limit: limits.bytes });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| DecodeError::Yaml(error.to_string()))?;
    serde_saphyr::from_str(text).map_err(|error| DecodeError::Yaml(error.to_string()))
}

/// One YAML document as a tree in which the last of several members of a name wins; and the first name that is
/// there twice, in the words of upstream's parser.
pub(crate) fn decode_yaml_lenient(bytes: &[u8], limits: &Limits) -> Result<(Value, Option<String>), String> {
    if bytes.len() > limits.bytes {
        return Err(DecodeError::TooLarge { limit: limits.bytes }.to_string());
    }
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let problem = match serde_saphyr::from_str(text) {
        Ok(value) => return Ok((value, None)),
        Err(error) => error.to_string(),
    };
    let first = problem.lines().next().unwrap_or_default();
    let (place, what) = first.split_once(" column ").map_or((first, first), |(place, rest)| {
        (place.rsplit(' ').next().unwrap_or_default(), rest.split_once(": ").map_or(rest, |(_, what)| what))
    });
    let Some(key) = what.strip_prefix("duplicate mapping key: ") else { return Err(format!("yaml: {what}")) };
    let key = key.split(", set ").next().unwrap_or(key);
    let options = serde_saphyr::options! { duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough };
    let value = serde_saphyr::from_str_with_options(text, options).map_err(|error| format!("yaml: {error}"))?;
    Ok((value, Some(format!("yaml: unmarshal errors:\n  line {place}: key {key:?} already set in map"))))
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Tree)
    }
}

struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        Value::deserialize(from)
    }
    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Bool(truth))
    }
    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Int(number))
    }
    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        #[expect(clippy::cast_precision_loss, reason = "beyond 64 bits a number becomes a float, as in Go")]
        Ok(i64::try_from(number).map_or(Value::Float(number as f64), Value::Int))
    }
    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Float(number))
    }
    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut members = Vec::new();
        while let Some((key, value)) = entries.next_entry::<YamlKey, Value>()? {
            members.push((key.0, value));
        }
        Ok(Value::Object(Object::from_members(members)))
    }
}

/// A key; YAML allows numbers and booleans there, JSON makes them text.
struct YamlKey(crate::Key);

impl<'de> Deserialize<'de> for YamlKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            Value::String(text) => Ok(Self(text)),
            Value::Int(number) => Ok(Self(number.to_string().into())),
            Value::Bool(truth) => Ok(Self(truth.to_string().into())),
            Value::Float(number) => Ok(Self(number.to_string().into())),
            _ => Err(serde::de::Error::custom("a key must be text")),
        }
    }
}
