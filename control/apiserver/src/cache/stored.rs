//! The form of an object in the store, and of the same object in the cache.
//!
//! Stored: a header of parsed columns (labels, selectable fields), then the object's JSON without
//! `apiVersion`, `kind` and `metadata.resourceVersion`, `metadata` first. The three are left out because the
//! version is known only at commit and one object is served under several API versions. In the cache the
//! revision is spliced in and `,{` put before, so that a list is its items joined without a copy of their own.

use super::Entry;
use bytes::{BufMut, Bytes};
use std::{borrow::Cow, sync::Arc};
use timonel_api::{Limits, Object, Value, decode_json_object, encode_json_into, field_value};
use timonel_store::Revision;

/// First byte of every stored object; another one means a form that this program does not know.
const FORMAT: u8 = 1;
/// What every body starts with, right before the first member of `metadata`.
const METADATA: &[u8] = b"\"metadata\":{";
/// What the cached text starts with: the separator of list items and the opening brace.
pub(super) const ITEM_START: &[u8] = b",{";

/// What stands before the revision.
const REVISION: &[u8] = b"\"resourceVersion\":\"";
/// Bounds of what is stored: the store itself bounds its values.
const LIMITS: Limits = Limits { bytes: usize::MAX, depth: 400 };

/// What is kept beside an object's bytes so that selectors need not decode it.
#[derive(Clone, Debug)]
pub(crate) enum Columns {
    /// Of a built-in kind: selectable fields beyond name and namespace, in this order, as
    /// [`timonel_api::field_value`] knows them.
    Builtin { kind: &'static str, labels: &'static [&'static str] },
    /// Of a custom kind.
    Custom(Arc<CustomColumns>),
}

/// Columns of a custom kind: first the form that the object is stored in, then labels and values in pairs, so
/// that objects written under another definition can still be read.
#[derive(Debug, Default)]
pub(crate) struct CustomColumns {
    /// Names version and schema of what is stored.
    pub(crate) form: String,
    /// Selectable fields: label, and path of member names.
    pub(crate) fields: Vec<(String, Vec<String>)>,
}

impl Columns {
    /// Of a built-in kind.
    pub(crate) const fn builtin(kind: &'static str, labels: &'static [&'static str]) -> Self {
        Self::Builtin { kind, labels }
    }

    /// A selectable field of a cached object.
    pub(crate) fn value<'e>(&self, entry: &'e Entry, label: &str) -> Cow<'e, str> {
        match self {
            Self::Builtin { labels, .. } => {
                let at = labels.iter().position(|known| *known == label);
                Cow::Borrowed(at.map_or("", |at| entry.field(at)))
            }
            Self::Custom(columns) => {
                if let Some(value) = entry.labelled(label) {
                    return Cow::Borrowed(value);
                }
                let Some((_, path)) = columns.fields.iter().find(|(known, _)| known == label) else {
                    return Cow::Borrowed("");
                };
                // Stored before the field was selectable.
                Cow::Owned(entry.decode().map(|object| scalar(&object, path)).unwrap_or_default())
            }
        }
    }

    /// A selectable field of an object as a tree.
    pub(crate) fn read(&self, object: &Value, label: &str) -> String {
        match self {
            Self::Builtin { kind, .. } => field_value(kind, label, object).into_owned(),
            Self::Custom(columns) => {
                let known = columns.fields.iter().find(|(known, _)| known == label);
                known.map(|(_, path)| scalar(object, path)).unwrap_or_default()
            }
        }
    }

    fn write(&self, out: &mut Vec<u8>, object: &Value) {
        match self {
            Self::Builtin { kind, labels } => {
                put_count(out, labels.len());
                for label in *labels {
                    put_text(out, &field_value(kind, label, object));
                }
            }
            Self::Custom(columns) => {
                put_count(out, 1 + 2 * columns.fields.len());
                put_text(out, &columns.form);
                for (label, path) in &columns.fields {
                    put_text(out, label);
                    put_text(out, &scalar(object, path));
                }
            }
        }
    }
}

/// A scalar as selectors compare it; empty when absent.
fn scalar(object: &Value, path: &[String]) -> String {
    let found = path.iter().try_fold(object, |node, name| node.get(name));
    match found {
        Some(Value::String(text)) => text.to_string(),
        Some(Value::Int(number)) => number.to_string(),
        Some(Value::Bool(truth)) => truth.to_string(),
        _ => String::new(),
    }
}

/// Why stored bytes cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoredError {
    /// The header ends early or has another format.
    #[error("stored object has an unknown or damaged header")]
    Header,
    /// The JSON does not start as it must, or does not parse.
    #[error("stored object has a damaged body")]
    Body,
}

/// Encodes an object for the store; `apiVersion`, `kind` and `resourceVersion` of `object` are left out.
pub(crate) fn encode(object: &Value, columns: &Columns) -> Bytes {
    let mut out = Vec::with_capacity(4096);
    encode_columns(&mut out, object, columns);
    encode_body(&mut out, object);
    // The store keeps the newest of these for watchers, and counts what is in them, not what they might hold.
    out.shrink_to_fit();
    out.into()
}

fn encode_columns(out: &mut Vec<u8>, object: &Value, columns: &Columns) {
    let metadata = object.get("metadata");
    out.put_u8(FORMAT);
    // Room for flags.
    out.put_u8(0);
    let start = out.len();
    out.put_u32_le(0);
    let labels = metadata.and_then(|m| m.get("labels")).and_then(Value::as_object);
    put_count(out, labels.map_or(0, Object::len));
    for (key, value) in labels.into_iter().flat_map(Object::iter) {
        put_text(out, key);
        put_text(out, value.as_str().unwrap_or(""));
    }
    columns.write(out, object);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.put_u16_le(u16::try_from(count).unwrap_or(u16::MAX));
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // Labels and selectable fields are far shorter; a longer one is cut and then matches nothing longer.
    let bytes = &text.as_bytes()[..text.len().min(usize::from(u16::MAX))];
    put_count(out, bytes.len());
    out.put_slice(bytes);
}

fn encode_body(out: &mut Vec<u8>, object: &Value) {
    out.put_slice(METADATA);
    let empty = Object::new();
    let mut first = true;
    for (name, value) in object.get("metadata").and_then(Value::as_object).unwrap_or(&empty).iter() {
        if name != "resourceVersion" {
            put_member(out, name, value, &mut first);
        }
    }
    out.put_u8(b'}');
    first = false;
    for (name, value) in object.as_object().unwrap_or(&empty).iter() {
        if !matches!(name.as_str(), "metadata" | "apiVersion" | "kind") {
            put_member(out, name, value, &mut first);
        }
    }
    out.put_u8(b'}');
}

fn put_member(out: &mut Vec<u8>, name: &str, value: &Value, first: &mut bool) {
    if !std::mem::take(first) {
        out.put_u8(b',');
    }
    encode_json_into(&Value::String(name.into()), out);
    out.push(b':');
    encode_json_into(value, out);
}

/// One object at one revision, as the cache holds it: columns and text in one allocation.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    buffer: Box<[u8]>,
    text_at: usize,
}

impl Packed {
    /// Splices the revision into what the store holds.
    pub(super) fn new(stored: &[u8], revision: Revision) -> Result<Self, StoredError> {
        let columns = columns_end(stored)?;
        let body = &stored[columns..];
        let rest = body.strip_prefix(METADATA).ok_or(StoredError::Body)?;
        let mut digits = itoa_buffer();
        let number = format_revision(revision, &mut digits);
        let mut buffer = Vec::with_capacity(stored.len() + number.len() + 24);
        buffer.extend_from_slice(&stored[..columns]);
        buffer.extend_from_slice(ITEM_START);
        buffer.extend_from_slice(METADATA);
        buffer.extend_from_slice(REVISION);
        buffer.extend_from_slice(number);
        buffer.extend_from_slice(if rest.first() == Some(&b'}') { b"\"" } else { b"\"," });
        buffer.extend_from_slice(rest);
        Ok(Self { buffer: buffer.into(), text_at: columns })
    }

    /// The same object under another revision (what a deletion shows).
    pub(super) fn at_revision(&self, revision: Revision) -> Self {
        let text = &self.buffer[self.text_at + ITEM_START.len() + METADATA.len() + REVISION.len()..];
        let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let mut scratch = itoa_buffer();
        let number = format_revision(revision, &mut scratch);
        let head = self.buffer.len() - text.len();
        let mut buffer = Vec::with_capacity(self.buffer.len() + number.len());
        buffer.extend_from_slice(&self.buffer[..head]);
        buffer.extend_from_slice(number);
        buffer.extend_from_slice(&text[digits..]);
        Self { buffer: buffer.into(), text_at: self.text_at }
    }

    /// `,{"metadata":…}`: a list item with its separator, no `apiVersion`, no `kind`.
    pub(super) fn item_ref(&self) -> &[u8] {
        &self.buffer[self.text_at..]
    }

    /// Bytes held.
    pub(super) fn size(&self) -> usize {
        self.buffer.len()
    }

    /// Labels in order of key.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut reader = Reader(&self.buffer[6..self.text_at]);
        let count = reader.count();
        (0..count).map(move |_| (reader.text(), reader.text()))
    }

    /// Selectable fields in the order of the resource's table.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        let mut reader = Reader(&self.buffer[6..self.text_at]);
        for _ in 0..reader.count() * 2 {
            reader.text();
        }
        let count = reader.count();
        (0..count).map(move |_| reader.text())
    }

    /// The object as a tree, `resourceVersion` included, `apiVersion` and `kind` not.
    pub(super) fn decode(&self) -> Result<Value, StoredError> {
        decode_json_object(&self.item_ref()[1..], &LIMITS).map_err(|_| StoredError::Body)
    }

    /// Whether this is what `stored` would be, its revision aside.
    pub(super) fn is(&self, stored: &[u8]) -> bool {
        let Ok(columns) = columns_end(stored) else { return false };
        let start = self.text_at + ITEM_START.len() + METADATA.len() + REVISION.len();
        let digits = self.buffer[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        // After the digits: the closing quote, and a comma unless there is no other member.
        let rest = &self.buffer[start + digits + 1..];
        let rest = rest.strip_prefix(b",").unwrap_or(rest);
        self.buffer[..self.text_at] == stored[..columns] && stored[columns..].strip_prefix(METADATA) == Some(rest)
    }
}

fn columns_end(stored: &[u8]) -> Result<usize, StoredError> {
    let header: [u8; 6] = stored.get(..6).and_then(|h| h.try_into().ok()).ok_or(StoredError::Header)?;
    let length = u32::from_le_bytes([header[2], header[3], header[4], header[5]]) as usize;
    let end = 6usize.checked_add(length).ok_or(StoredError::Header)?;
    if header[0] == FORMAT && end <= stored.len() { Ok(end) } else { Err(StoredError::Header) }
}

const fn itoa_buffer() -> [u8; 20] {
    [0; 20]
}

fn format_revision(mut revision: Revision, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (revision % 10) as u8;
        revision /= 10;
        if revision == 0 || at == 0 {
            return &digits[at..];
        }
    }
}

/// Reads what [`encode_columns`] wrote; damaged bytes read as empty.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn count(&mut self) -> usize {
        let Some((head, rest)) = self.0.split_first_chunk::<2>() else { return 0 };
        self.0 = rest;
        usize::from(u16::from_le_bytes(*head))
    }

    fn text(&mut self) -> &'a str {
        let length = self.count().min(self.0.len());
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        std::str::from_utf8(text).unwrap_or("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: serde_json::Value) -> Value {
        Value::from(json)
    }

    const NONE: Columns = Columns::builtin("", &[]);

    fn pod() -> Value {
        value(serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "data": {"z": 1},
            "metadata": {"name": "a", "labels": {"app": "x", "tier": ""}, "resourceVersion": "7", "deletionTimestamp": "t"},
            "spec": {"nodeName": "n1", "hostNetwork": true},
        }))
    }

    #[test]
    fn the_text_carries_the_revision_and_neither_kind_nor_version() {
        let packed = Packed::new(&encode(&pod(), &NONE), 42).unwrap();
        let text = String::from_utf8(packed.item_ref().to_vec()).unwrap();
        assert!(text.starts_with(r#",{"metadata":{"resourceVersion":"42","#), "{text}");
        assert!(!text.contains("apiVersion") && !text.contains("\"7\""), "{text}");
        assert_eq!(packed.decode().unwrap().str_at(&["spec", "nodeName"]), "n1");
    }

    #[test]
    fn an_object_without_metadata_still_gets_a_revision() {
        let stored = encode(&value(serde_json::json!({"a": 1})), &NONE);
        let packed = Packed::new(&stored, 3).unwrap();
        assert!(packed.is(&stored));
        assert_eq!(packed.item_ref(), br#",{"metadata":{"resourceVersion":"3"},"a":1}"#);
    }

    #[test]
    fn another_revision_changes_nothing_else() {
        let packed = Packed::new(&encode(&pod(), &NONE), 9).unwrap();
        let later = packed.at_revision(1000);
        assert_eq!(later.item_ref(), Packed::new(&encode(&pod(), &NONE), 1000).unwrap().item_ref());
        assert!(packed.is(&encode(&pod(), &NONE)) && later.is(&encode(&pod(), &NONE)));
        let mut other = pod();
        other.set_at(&["spec", "nodeName"], "n2");
        assert!(!packed.is(&encode(&other, &NONE)) && !packed.is(b""));
    }

    #[test]
    fn columns_come_back() {
        let columns = Columns::builtin("Pod", &["spec.nodeName", "spec.hostNetwork", "status.phase"]);
        let packed = Packed::new(&encode(&pod(), &columns), 1).unwrap();
        assert_eq!(packed.labels().collect::<Vec<_>>(), [("app", "x"), ("tier", "")]);
        assert_eq!(packed.fields().collect::<Vec<_>>(), ["n1", "true", ""]);
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let good = encode(&pod(), &NONE);
        assert_eq!(Packed::new(b"", 1).unwrap_err(), StoredError::Header);
        assert_eq!(Packed::new(&good[..4], 1).unwrap_err(), StoredError::Header);
        assert_eq!(Packed::new(&[2, 0, 0, 0, 0, 0, b'{'], 1).unwrap_err(), StoredError::Header);
        assert_eq!(Packed::new(&[1, 0, 0, 0, 0, 0, b'{'], 1).unwrap_err(), StoredError::Body);
    }
}
