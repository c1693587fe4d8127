//! `FieldsV1`: a set of fields as JSON, read and written without a tree of values in between.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::element::Element;
use super::set::FieldSet;

/// A set of fields that does not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FieldsError(String);

impl FieldSet {
    /// Reads a set; steps of kinds that are not known are left out.
    ///
    /// # Errors
    /// What is no JSON object, or has steps that do not read.
    pub fn parse(text: &str) -> Result<Self, FieldsError> {
        let mut from = serde_json::Deserializer::from_str(text);
        let (set, _) = Below.deserialize(&mut from).map_err(|error| FieldsError(error.to_string()))?;
        from.end().map_err(|error| FieldsError(error.to_string()))?;
        Ok(set)
    }

    /// The set as JSON.
    #[must_use]
    pub fn to_json(&self) -> Box<str> {
        let mut out = Vec::with_capacity(512);
        self.write(false, &mut out);
        String::from_utf8(out).expect("built from text and ASCII").into_boxed_str()
    }

    fn write(&self, member: bool, out: &mut Vec<u8>) {
        out.push(b'{');
        let mut first = true;
        if member && !self.is_empty() {
            out.extend_from_slice(b"\".\":{}");
            first = false;
        }
        for node in self.nodes() {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            node.element.write(out);
            out.push(b':');
            node.below.write(node.member, out);
        }
        out.push(b'}');
    }
}

/// What is below a step, and whether the step itself is in the set.
struct Below;

impl<'de> DeserializeSeed<'de> for Below {
    type Value = (FieldSet, bool);

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Below {
    type Value = (FieldSet, bool);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of fields")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let (mut set, mut member) = (FieldSet::new(), false);
        while let Some(step) = map.next_key_seed(Name)? {
            match step {
                Step::This => {
                    map.next_value::<IgnoredAny>()?;
                    member = true;
                }
                Step::Unknown => drop(map.next_value::<IgnoredAny>()?),
                Step::Element(element) => {
                    let (below, inside) = map.next_value_seed(Below)?;
                    set.push(element, inside, below);
                }
            }
        }
        set.settle();
        let member = member || set.is_empty();
        Ok((set, member))
    }
}

enum Step {
    This,
    Unknown,
    Element(Element),
}

struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Step;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Step, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Step;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a step of a path")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Step, E> {
        if text == "." {
            return Ok(Step::This);
        }
        let element =
            Element::parse(text).map_err(|error| E::custom(format!("parsing key as path element: {error}")))?;
        Ok(element.map_or(Step::Unknown, Step::Element))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_written_as_it_was_read() {
        for text in [
            "{}",
            r#"{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:replicas":{}}}"#,
            r#"{"f:spec":{"f:containers":{"k:{\"name\":\"x\"}":{".":{},"f:image":{},"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}}}}}}}"#,
            r#"{"f:metadata":{"f:finalizers":{".":{},"v:\"a/b\"":{}}}}"#,
        ] {
            assert_eq!(&*FieldSet::parse(text).unwrap().to_json(), text);
        }
    }

    #[test]
    fn what_is_not_known_is_left_out_and_order_is_made() {
        let set = FieldSet::parse(r#"{"x:new":{"f:a":{}},"f:b":{},"f:a":{"z:q":{}}}"#).unwrap();
        assert_eq!(&*set.to_json(), r#"{"f:a":{},"f:b":{}}"#);
        for text in ["", "[]", "{", r#"{"name":{}}"#, r#"{"f:a":1}"#, "{} {}", &"{\"f:a\":".repeat(5000)] {
            assert!(FieldSet::parse(text).is_err(), "{text}");
        }
    }
}
