//! The decoded form of any API object: a tree that knows nothing of kinds.
//!
//! Objects keep their members sorted by name, so that encoding is deterministic and look-up is a binary
//! search; names and short strings live inside the node, without an allocation of their own.
//! Never does I/O; never interprets a member (that is the schema's work).

use compact_str::CompactString;

/// A member's name. Up to 24 bytes need no allocation; names known at build time never do.
pub type Key = CompactString;

/// Members that are looked through one after the other.
const FEW: usize = 12;

/// One node of a decoded object.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// JSON `null`; also what an absent optional reads as.
    #[default]
    Null,
    /// A boolean.
    Bool(bool),
    /// Any integer; the API has none beyond 64 bits.
    Int(i64),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// Text, and everything the API writes as text (times, quantities, base64 bytes).
    String(CompactString),
    /// A list, in order.
    List(Vec<Value>),
    /// A struct or a map.
    Object(Object),
    /// JSON text that travels as it is: a set of owned fields (`fieldsV1`), which only server-side apply reads.
    Raw(Box<str>),
}

/// Members sorted by name, each name once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object(Vec<(Key, Value)>);

impl Object {
    /// An object without members.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// An object with room for `members`.
    #[must_use]
    pub fn with_capacity(members: usize) -> Self {
        Self(Vec::with_capacity(members))
    }

    /// Takes members in any order; of those that share a name the last wins.
    #[must_use]
    pub fn from_members(mut members: Vec<(Key, Value)>) -> Self {
        if !members.is_sorted_by(|a, b| a.0 < b.0) {
            members.sort_by(|a, b| a.0.cmp(&b.0));
            members.dedup_by(|later, earlier| {
                let same = later.0 == earlier.0;
                if same {
                    std::mem::swap(&mut later.1, &mut earlier.1);
                }
                same
            });
        }
        Self(members)
    }

    /// Takes members that are in order of name already, each name once.
    pub(crate) fn from_sorted(members: Vec<(Key, Value)>) -> Self {
        debug_assert!(members.is_sorted_by(|a, b| a.0 < b.0), "members out of order");
        Self(members)
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(key, _)| key.as_str().cmp(name))
    }

    /// Where the member called `name` is. Names of few members mostly differ in length, which is cheaper to see than
    /// what a binary search compares on its way.
    fn position(&self, name: &str) -> Option<usize> {
        if self.0.len() <= FEW { self.0.iter().position(|(key, _)| key.as_str() == name) } else { self.find(name).ok() }
    }

    /// The member called `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.position(name).map(|at| &self.0[at].1)
    }

    /// The member called `name`, to change in place.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        self.position(name).map(|at| &mut self.0[at].1)
    }

    /// Sets a member and returns what it was.
    pub fn insert(&mut self, name: impl Into<Key>, value: impl Into<Value>) -> Option<Value> {
        let (name, value) = (name.into(), value.into());
        match self.find(&name) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                self.0.insert(at, (name, value));
                None
            }
        }
    }

    /// The member called `name`, made `Null` first when absent.
    pub fn entry(&mut self, name: &str) -> &mut Value {
        let at = match self.find(name) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, (name.into(), Value::Null));
                at
            }
        };
        &mut self.0[at].1
    }

    /// Takes a member out.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        self.position(name).map(|at| self.0.remove(at).1)
    }

    /// Whether there is a member of that name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    /// Members in order of name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Key, &Value)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// Members in order of name, values to change in place.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (&Key, &mut Value)> {
        self.0.iter_mut().map(|(key, value)| (&*key, value))
    }

    /// Keeps the members for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&Key, &mut Value) -> bool) {
        self.0.retain_mut(|(key, value)| keep(key, value));
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl IntoIterator for Object {
    type Item = (Key, Value);
    type IntoIter = std::vec::IntoIter<(Key, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(Key, Value)> for Object {
    fn from_iter<I: IntoIterator<Item = (Key, Value)>>(members: I) -> Self {
        Self::from_members(members.into_iter().collect())
    }
}

impl Value {
    /// An object without members.
    #[must_use]
    pub const fn object() -> Self {
        Self::Object(Object::new())
    }

    /// The member `name` of an object; `None` for every other node.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.as_object().and_then(|object| object.get(name))
    }

    /// The node at a path of member names.
    #[must_use]
    pub fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, name| node.get(name))
    }

    /// The node at a path of member names, to change in place.
    pub fn at_mut(&mut self, path: &[&str]) -> Option<&mut Self> {
        path.iter().try_fold(self, |node, name| node.as_object_mut()?.get_mut(name))
    }

    /// Text at a path of member names; `""` when absent or not text, as Go reads an absent string.
    #[must_use]
    pub fn str_at(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Self::as_str).unwrap_or("")
    }

    /// Integer at a path of member names.
    #[must_use]
    pub fn int_at(&self, path: &[&str]) -> Option<i64> {
        self.at(path).and_then(Self::as_int)
    }

    /// Boolean at a path of member names.
    #[must_use]
    pub fn bool_at(&self, path: &[&str]) -> Option<bool> {
        self.at(path).and_then(Self::as_bool)
    }

    /// List at a path of member names; empty when absent or not a list.
    #[must_use]
    pub fn list_at(&self, path: &[&str]) -> &[Self] {
        self.at(path).and_then(Self::as_list).unwrap_or(&[])
    }

    /// Sets the node at a path, making objects on the way (anything else in the way is replaced).
    pub fn set_at(&mut self, path: &[&str], value: impl Into<Self>) {
        *self.entry_at(path) = value.into();
    }

    /// The node at a path, made on the way when absent (anything in the way that is no object is replaced).
    pub fn entry_at(&mut self, path: &[&str]) -> &mut Self {
        path.iter().fold(self, |node, name| node.make_object().entry(name))
    }

    /// Takes the node at a path out of its object.
    pub fn remove_at(&mut self, path: &[&str]) -> Option<Self> {
        let (last, parents) = path.split_last()?;
        self.at_mut(parents)?.as_object_mut()?.remove(last)
    }

    /// This node as an object, replaced by an empty one when it is something else.
    pub fn make_object(&mut self) -> &mut Object {
        if !matches!(self, Self::Object(_)) {
            *self = Self::object();
        }
        match self {
            Self::Object(object) => object,
            _ => unreachable!("made an object above"),
        }
    }

    /// This node as a list, replaced by an empty one when it is something else.
    pub fn make_list(&mut self) -> &mut Vec<Self> {
        if !matches!(self, Self::List(_)) {
            *self = Self::List(Vec::new());
        }
        match self {
            Self::List(list) => list,
            _ => unreachable!("made a list above"),
        }
    }

    /// The object, if this is one.
    #[must_use]
    pub fn as_object(&self) -> Option<&Object> {
        if let Self::Object(object) = self { Some(object) } else { None }
    }

    /// The object, if this is one, to change in place.
    pub fn as_object_mut(&mut self) -> Option<&mut Object> {
        if let Self::Object(object) = self { Some(object) } else { None }
    }

    /// The list, if this is one.
    #[must_use]
    pub fn as_list(&self) -> Option<&[Self]> {
        if let Self::List(list) = self { Some(list) } else { None }
    }

    /// The list, if this is one, to change in place.
    pub fn as_list_mut(&mut self) -> Option<&mut Vec<Self>> {
        if let Self::List(list) = self { Some(list) } else { None }
    }

    /// The text, if this is text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// The integer, if this is one.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        if let Self::Int(number) = self { Some(*number) } else { None }
    }

    /// The boolean, if this is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(truth) = self { Some(*truth) } else { None }
    }

    /// Whether this is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}
impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text.into())
    }
}
impl From<CompactString> for Value {
    fn from(text: CompactString) -> Self {
        Self::String(text)
    }
}
impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}
impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}
impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Int(number.into())
    }
}
impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object)
    }
}
impl From<Vec<Value>> for Value {
    fn from(list: Vec<Value>) -> Self {
        Self::List(list)
    }
}

/// From what `serde_json` reads; numbers beyond 64 bits become floats, as Go's untyped decoder makes them.
impl From<serde_json::Value> for Value {
    fn from(json: serde_json::Value) -> Self {
        use serde_json::Value as J;
        match json {
            J::Null => Self::Null,
            J::Bool(truth) => Self::Bool(truth),
            J::Number(number) => {
                number.as_i64().map_or_else(|| Self::Float(number.as_f64().unwrap_or(f64::MAX)), Self::Int)
            }
            J::String(text) => Self::String(text.into()),
            J::Array(list) => Self::List(list.into_iter().map(Self::from).collect()),
            J::Object(members) => {
                Self::Object(members.into_iter().map(|(key, value)| (key.into(), Self::from(value))).collect())
            }
        }
    }
}

/// To what `serde_json` reads, for libraries that take nothing else.
impl From<&Value> for serde_json::Value {
    fn from(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(truth) => Self::Bool(*truth),
            Value::Int(number) => Self::from(*number),
            Value::Float(number) => Self::from(*number),
            Value::String(text) => Self::String(text.to_string()),
            Value::Raw(text) => serde_json::from_str(text).unwrap_or_default(),
            Value::List(list) => Self::Array(list.iter().map(Self::from).collect()),
            Value::Object(object) => {
                Self::Object(object.iter().map(|(key, value)| (key.to_string(), Self::from(value))).collect())
            }
        }
    }
}

impl serde::Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::{SerializeMap, SerializeSeq};
        match self {
            Self::Null => to.serialize_unit(),
            Self::Bool(truth) => to.serialize_bool(*truth),
            Self::Int(number) => to.serialize_i64(*number),
            Self::Float(number) => to.serialize_f64(*number),
            Self::String(text) => to.serialize_str(text),
            Self::Raw(text) => {
                let tree: serde_json::Value = serde_json::from_str(text).map_err(serde::ser::Error::custom)?;
                tree.serialize(to)
            }
            Self::List(list) => {
                let mut seq = to.serialize_seq(Some(list.len()))?;
                for item in list {
                    seq.serialize_element(item)?;
                }
                seq.end()
            }
            Self::Object(object) => {
                let mut map = to.serialize_map(Some(object.len()))?;
                for (key, value) in object.iter() {
                    map.serialize_entry(key.as_str(), value)?;
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_sorted_and_the_last_of_a_name_wins() {
        let object = Object::from_members(vec![
            ("b".into(), Value::Int(1)),
            ("a".into(), Value::Int(2)),
            ("b".into(), Value::Int(3)),
        ]);
        assert_eq!(object.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(object.get("b"), Some(&Value::Int(3)));
    }

    #[test]
    fn a_node_is_small() {
        assert!(size_of::<Value>() <= 32, "{}", size_of::<Value>());
    }

    #[test]
    fn paths_read_and_write() {
        let mut value = Value::Null;
        value.set_at(&["metadata", "name"], "x");
        assert_eq!(value.str_at(&["metadata", "name"]), "x");
        assert_eq!(value.str_at(&["metadata", "uid"]), "");
        assert_eq!(value.remove_at(&["metadata", "name"]), Some(Value::from("x")));
        assert_eq!(value.at(&["metadata"]), Some(&Value::object()));
    }
}
