//! One step of a path: a member, an element told apart by keys, an element of a set, or a place.

use std::cmp::Ordering;
use std::fmt;

use crate::fieldpath::quote;
use crate::{Key, Value, encode_json_into};

/// One step of a path, in the order in which sets keep and write them.
#[derive(Clone, Debug)]
pub enum Element {
    /// A member of a struct or an entry of a map.
    Field(Key),
    /// The element of a list that has these keys, sorted by name.
    Keys(Box<[(Key, Value)]>),
    /// The element of a set that is this value.
    Value(Value),
    /// A place in a list; nothing makes these any more, stored sets may have them.
    Index(i64),
}

/// What does not read as a step of a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ElementError {
    /// Shorter than its prefix.
    #[error("key must be 2 characters long:")]
    Short,
    /// No colon after the letter.
    #[error("missing colon: {0}")]
    Colon(String),
    /// What follows the prefix is not what it promises.
    #[error("{0}")]
    Content(String),
}

impl Element {
    /// Reads `f:name`, `k:{…}`, `v:…` or `i:…`; `None` for a letter that is not known.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, ElementError> {
        let Some((prefix, rest)) = text.split_at_checked(2) else { return Err(ElementError::Short) };
        if prefix.as_bytes()[1] != b':' {
            return Err(ElementError::Colon(text.to_owned()));
        }
        let content = |error: serde_json::Error| ElementError::Content(error.to_string());
        Ok(Some(match prefix.as_bytes()[0] {
            b'f' => Self::Field(rest.into()),
            b'v' => Self::Value(serde_json::from_str(rest).map_err(content)?),
            b'k' => match serde_json::from_str(rest).map_err(content)? {
                Value::Object(keys) => Self::Keys(keys.into_iter().collect()),
                _ => return Err(ElementError::Content("keys are no object".into())),
            },
            b'i' => Self::Index(rest.parse().map_err(|_| ElementError::Content("index is no number".into()))?),
            _ => return Ok(None),
        }))
    }

    /// Appends the step as a JSON string.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        match self {
            Self::Field(name) => {
                out.extend_from_slice(b"f:");
                escape(name.as_bytes(), out);
            }
            Self::Index(at) => out.extend_from_slice(format!("i:{at}").as_bytes()),
            Self::Value(value) => {
                out.extend_from_slice(b"v:");
                escape(&inner_json(value), out);
            }
            Self::Keys(keys) => {
                out.extend_from_slice(b"k:{");
                for (at, (name, value)) in keys.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    escape(&inner_json(&Value::String(name.clone())), out);
                    out.push(b':');
                    escape(&inner_json(value), out);
                }
                out.push(b'}');
            }
        }
        out.push(b'"');
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Keys(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

/// A scalar as JSON, with the characters escaped that upstream's encoder escapes for HTML's sake.
fn inner_json(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    encode_json_into(value, &mut out);
    if out.iter().any(|byte| matches!(byte, b'<' | b'>' | b'&')) {
        let mut escaped = Vec::with_capacity(out.len() + 15);
        for byte in out {
            match byte {
                b'<' => escaped.extend_from_slice(b"\\u003c"),
                b'>' => escaped.extend_from_slice(b"\\u003e"),
                b'&' => escaped.extend_from_slice(b"\\u0026"),
                _ => escaped.push(byte),
            }
        }
        return escaped;
    }
    out
}

/// Appends text within a JSON string.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    for byte in text {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(*byte),
        }
    }
}

/// The order of values of any kind: numbers, text, booleans, lists, objects, null.
pub(super) fn compare_values(a: &Value, b: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Int(_) | Value::Float(_) => 0,
        Value::String(_) | Value::Raw(_) => 1,
        Value::Bool(_) => 2,
        Value::List(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    };
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Int(_) | Value::Float(_), Value::Int(_) | Value::Float(_)) => number(a).total_cmp(&number(b)),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::List(a), Value::List(b)) => {
            let unequal = a.iter().zip(b).map(|(a, b)| compare_values(a, b)).find(|order| order.is_ne());
            unequal.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Value::Object(a), Value::Object(b)) => {
            let pairs = a.iter().zip(b.iter());
            let orders = pairs.map(|((a, x), (b, y))| a.cmp(b).then_with(|| compare_values(x, y)));
            orders.into_iter().find(|order| order.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

fn number(value: &Value) -> f64 {
    match value {
        #[expect(clippy::cast_precision_loss, reason = "upstream compares whole numbers with others as floats")]
        Value::Int(number) => *number as f64,
        Value::Float(number) => *number,
        _ => 0.0,
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Keys(a), Self::Keys(b)) => {
                let pairs = a.iter().zip(b.iter());
                let mut orders = pairs.map(|((a, x), (b, y))| a.cmp(b).then_with(|| compare_values(x, y)));
                orders.find(|order| order.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
            }
            (Self::Value(a), Self::Value(b)) => compare_values(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Element {}

/// As upstream's messages write a step: `.name`, `[name="x"]`, `[="x"]`, `[0]`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Keys(keys) => {
                f.write_str("[")?;
                for (at, (name, value)) in keys.iter().enumerate() {
                    let comma = if at > 0 { "," } else { "" };
                    write!(f, "{comma}{name}={}", shown(value))?;
                }
                f.write_str("]")
            }
            Self::Value(value) => write!(f, "[={}]", shown(value)),
            Self::Index(at) => write!(f, "[{at}]"),
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        other => String::from_utf8_lossy(&crate::encode_json(other)).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_written_as_they_were_read() {
        for (text, shown) in [
            (r#"f:image"#, ".image"),
            (r#"f:a\b"#, ".a\\b"),
            (r#"k:{"containerPort":80,"protocol":"TCP"}"#, r#"[containerPort=80,protocol="TCP"]"#),
            (r#"v:"finalizer""#, r#"[="finalizer"]"#),
            (r#"v:true"#, "[=true]"),
            (r#"i:3"#, "[3]"),
        ] {
            let element = Element::parse(text).unwrap().unwrap();
            assert_eq!(element.to_string(), shown);
            let mut out = Vec::new();
            element.write(&mut out);
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
        assert_eq!(Element::parse("x:y"), Ok(None));
        for text in ["", "f", "name", "k:[", "k:1", "i:a"] {
            assert!(Element::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn steps_have_upstreams_order() {
        let order = [
            "f:a",
            "f:b",
            r#"k:{"a":1}"#,
            r#"k:{"a":1,"b":1}"#,
            r#"k:{"a":2}"#,
            r#"k:{"a":"1"}"#,
            "v:1",
            "v:1.5",
            "v:2",
            r#"v:"1""#,
            "v:false",
            "v:true",
            "i:0",
            "i:1",
        ];
        let elements: Vec<Element> = order.iter().map(|text| Element::parse(text).unwrap().unwrap()).collect();
        assert!(elements.is_sorted(), "{elements:?}");
    }
}
