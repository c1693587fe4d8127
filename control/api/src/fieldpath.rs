//! Where in an object a rule was broken, and how: field paths and the errors of validation, in the words
//! clients of Kubernetes know.
//!
//! A path is a chain of borrowed segments on the stack: walking a valid object costs no allocation, only an
//! error renders its path. Never decides whether a value is valid.

use std::fmt;

use crate::Value;

#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    Root,
    Child(&'a str),
    Index(usize),
    Key(&'a str),
}

/// A path in an object, as `spec.containers[0].env[NAME]`.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
}

impl<'a> Path<'a> {
    /// The object itself.
    #[must_use]
    pub const fn root() -> Path<'static> {
        Path { parent: None, segment: Segment::Root }
    }

    /// A path that starts with members, as `spec` or `spec.template`.
    #[must_use]
    pub const fn new(members: &'a str) -> Self {
        Self { parent: None, segment: Segment::Child(members) }
    }

    /// A member, or several joined by dots.
    #[must_use]
    pub const fn child<'b>(&'b self, members: &'b str) -> Path<'b> {
        Path { parent: Some(self), segment: Segment::Child(members) }
    }

    /// An item of a list.
    #[must_use]
    pub const fn index(&self, at: usize) -> Path<'_> {
        Path { parent: Some(self), segment: Segment::Index(at) }
    }

    /// An entry of a map.
    #[must_use]
    pub const fn key<'b>(&'b self, key: &'b str) -> Path<'b> {
        Path { parent: Some(self), segment: Segment::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chain: smallvec::SmallVec<[&Path<'_>; 16]> = smallvec::SmallVec::new();
        let mut next = Some(self);
        while let Some(path) = next {
            chain.push(path);
            next = path.parent;
        }
        let mut first = true;
        for path in chain.iter().rev() {
            match path.segment {
                Segment::Root => continue,
                Segment::Child(name) if first => f.write_str(name)?,
                Segment::Child(name) => write!(f, ".{name}")?,
                Segment::Index(at) => write!(f, "[{at}]")?,
                Segment::Key(key) => write!(f, "[{key}]")?,
            }
            first = false;
        }
        if first { f.write_str("<nil>") } else { Ok(()) }
    }
}

/// What kind of rule was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// A reference leads nowhere.
    NotFound,
    /// A value is missing.
    Required,
    /// A value that must be unique is there twice.
    Duplicate,
    /// A value breaks its rule.
    Invalid,
    /// A value is none of the known ones.
    NotSupported,
    /// A value is not allowed here.
    Forbidden,
    /// Text is too long.
    TooLong,
    /// Text is too short.
    TooShort,
    /// A list is too long.
    TooMany,
    /// A list is too short.
    TooFew,
    /// The server failed to judge.
    Internal,
    /// A value has the wrong type.
    TypeInvalid,
}

impl FieldErrorKind {
    /// The cause type in a `Status`.
    #[must_use]
    pub const fn cause(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooShort => "FieldValueTooShort",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooShort => "Too short",
            Self::TooMany => "Too many",
            Self::TooFew => "Too few",
            Self::Internal => "Internal error",
        }
    }
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// The kind of rule.
    pub kind: FieldErrorKind,
    /// The rendered path.
    pub field: String,
    /// The offending value, where the message shows it.
    pub value: Option<Value>,
    /// What the rule asks for.
    pub detail: String,
}

impl FieldError {
    /// The message without its path.
    #[must_use]
    pub fn body(&self) -> String {
        let mut text = self.kind.words().to_owned();
        if let Some(value) = &self.value {
            text.push_str(": ");
            text.push_str(&shown(value));
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        other => serde_json::to_string(other).unwrap_or_default(),
    }
}

/// Text in double quotes with Go's escapes, as its `%q` writes it.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// All broken rules of one object, in the order they were found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    /// No errors.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Whether every rule held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many rules were broken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The errors in order.
    pub fn iter(&self) -> std::slice::Iter<'_, FieldError> {
        self.0.iter()
    }

    /// Appends one.
    pub fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    /// Appends those of another object.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    fn add(&mut self, kind: FieldErrorKind, path: &Path<'_>, value: Option<Value>, detail: impl Into<String>) {
        self.0.push(FieldError { kind, field: path.to_string(), value, detail: detail.into() });
    }

    /// A value is missing; `detail` may be empty.
    pub fn required(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.add(FieldErrorKind::Required, path, None, detail);
    }

    /// A value breaks its rule.
    pub fn invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.add(FieldErrorKind::Invalid, path, Some(value.into()), detail);
    }

    /// A value that says nothing when shown breaks its rule.
    pub fn invalid_unshown(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.add(FieldErrorKind::Invalid, path, None, detail);
    }

    /// One value breaks several rules: an error for each message.
    pub fn invalid_each(&mut self, path: &Path<'_>, value: &str, details: Vec<String>) {
        for detail in details {
            self.invalid(path, value, detail);
        }
    }

    /// A value has the wrong type.
    pub fn type_invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.add(FieldErrorKind::TypeInvalid, path, Some(value.into()), detail);
    }

    /// A value is none of the known ones.
    pub fn not_supported(&mut self, path: &Path<'_>, value: impl Into<Value>, known: &[&str]) {
        let known: Vec<String> = known.iter().map(|text| quote(text)).collect();
        let detail = if known.is_empty() { String::new() } else { format!("supported values: {}", known.join(", ")) };
        self.add(FieldErrorKind::NotSupported, path, Some(value.into()), detail);
    }

    /// A value is not allowed here.
    pub fn forbidden(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.add(FieldErrorKind::Forbidden, path, None, detail);
    }

    /// A value that must be unique is there twice.
    pub fn duplicate(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.add(FieldErrorKind::Duplicate, path, Some(value.into()), "");
    }

    /// A reference leads nowhere.
    pub fn not_found(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.add(FieldErrorKind::NotFound, path, Some(value.into()), "");
    }

    /// Text has more than `max` bytes.
    pub fn too_long(&mut self, path: &Path<'_>, max: usize) {
        let unit = if max == 1 { "byte" } else { "bytes" };
        self.add(FieldErrorKind::TooLong, path, None, format!("may not be more than {max} {unit}"));
    }

    /// Text has more than `max` characters.
    pub fn too_long_characters(&mut self, path: &Path<'_>, max: usize) {
        let unit = if max == 1 { "character" } else { "characters" };
        self.add(FieldErrorKind::TooLong, path, None, format!("may not be more than {max} {unit}"));
    }

    /// A list has `actual` items, more than `max`.
    pub fn too_many(&mut self, path: &Path<'_>, actual: usize, max: usize) {
        let unit = if max == 1 { "item" } else { "items" };
        self.add(FieldErrorKind::TooMany, path, Some(int(actual)), format!("must have at most {max} {unit}"));
    }

    /// A list has `actual` items, fewer than `min`.
    pub fn too_few(&mut self, path: &Path<'_>, actual: usize, min: usize) {
        let unit = if min == 1 { "item" } else { "items" };
        self.add(FieldErrorKind::TooFew, path, Some(int(actual)), format!("must have at least {min} {unit}"));
    }

    /// The server failed to judge.
    pub fn internal(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.add(FieldErrorKind::Internal, path, None, detail);
    }

    /// One line: a single error as it is, several in brackets, each text once.
    #[must_use]
    pub fn message(&self) -> String {
        let mut texts: Vec<String> = Vec::with_capacity(self.0.len());
        for error in &self.0 {
            let text = error.to_string();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        match texts.len() {
            1 => texts.swap_remove(0),
            _ => format!("[{}]", texts.join(", ")),
        }
    }
}

impl<'a> IntoIterator for &'a FieldErrors {
    type Item = &'a FieldError;
    type IntoIter = std::slice::Iter<'a, FieldError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

fn int(number: usize) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_render_like_upstream() {
        let root = Path::root();
        let spec = Path::new("spec");
        let containers = spec.child("containers");
        let first = containers.index(0);
        assert_eq!(first.child("name").to_string(), "spec.containers[0].name");
        assert_eq!(root.child("data").key("a.b").to_string(), "data[a.b]");
        assert_eq!(root.to_string(), "<nil>");
    }

    #[test]
    fn errors_read_like_upstream() {
        let path = Path::new("spec.type");
        let mut errors = FieldErrors::new();
        errors.required(&path, "");
        errors.required(&path, "why");
        errors.invalid(&path, "x\"y", "must be so");
        errors.invalid(&path, -1, "must be greater than or equal to 0");
        errors.not_supported(&path, "x", &["a", "b"]);
        errors.forbidden(&path, "no");
        errors.duplicate(&path, "x");
        errors.not_found(&path, "x");
        errors.too_long(&path, 63);
        errors.too_many(&path, 3, 1);
        errors.too_few(&path, 0, 2);
        errors.internal(&path, "oops");
        errors.type_invalid(&path, Value::object(), "must be a string");
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.type: Required value",
                "spec.type: Required value: why",
                "spec.type: Invalid value: \"x\\\"y\": must be so",
                "spec.type: Invalid value: -1: must be greater than or equal to 0",
                "spec.type: Unsupported value: \"x\": supported values: \"a\", \"b\"",
                "spec.type: Forbidden: no",
                "spec.type: Duplicate value: \"x\"",
                "spec.type: Not found: \"x\"",
                "spec.type: Too long: may not be more than 63 bytes",
                "spec.type: Too many: 3: must have at most 1 item",
                "spec.type: Too few: 0: must have at least 2 items",
                "spec.type: Internal error: oops",
                "spec.type: Invalid value: {}: must be a string",
            ]
        );
    }

    #[test]
    fn a_message_holds_each_text_once() {
        let path = Path::new("a");
        let mut errors = FieldErrors::new();
        errors.required(&path, "");
        errors.required(&path, "");
        assert_eq!(errors.message(), "a: Required value");
        errors.forbidden(&path, "b");
        assert_eq!(errors.message(), "[a: Required value, a: Forbidden: b]");
    }
}
