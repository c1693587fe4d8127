//! Values of expressions. What comes from an API object is read where it lies: a node becomes a value of
//! the language only when an expression touches it.

use compact_str::CompactString;
use jiff::{SignedDuration, Timestamp};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use timonel_api::{Limits, Object, Value, decode_json_untyped};

use crate::error::EvalError;
use crate::escape::unescape;
use crate::extension::Extension;
use crate::regex::Pattern;
use crate::types::{ListSemantics, ListType, ObjectType, Type};

/// A value during an evaluation. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Val<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A floating point number.
    Double(f64),
    /// Text.
    String(Text<'a>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A point in time.
    Timestamp(Timestamp),
    /// A span of time.
    Duration(SignedDuration),
    /// A list.
    List(List<'a>),
    /// A map or an object.
    Map(Map<'a>),
    /// A value that may be absent.
    Optional(Option<Rc<Val<'a>>>),
    /// A type, by name.
    Type(CompactString),
    /// A value of a library.
    Extension(Rc<Extension<'a>>),
}

/// Text, borrowed from an object or shared.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// A node's.
    Borrowed(&'a str),
    /// Made by the evaluation, or a literal.
    Shared(Arc<str>),
    /// A literal that is also a regular expression.
    #[doc(hidden)]
    Pattern(Arc<Pattern>),
}

impl Text<'_> {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
            Self::Pattern(pattern) => pattern.source(),
        }
    }
}

/// A list: a node's, or made by the evaluation.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// Elements of a node, read as this type says; `None` when nothing is known of them.
    Node(&'a [Value], Option<Arc<ListType>>),
    /// Made by the evaluation.
    Shared(Rc<Vec<Val<'a>>>),
}

/// A map: a node's, or made by the evaluation, or one whose members are computed.
#[derive(Clone)]
pub enum Map<'a> {
    /// Members of a node, read as this says.
    Node(&'a Object, Reading),
    /// Made by the evaluation.
    Shared(Rc<BTreeMap<MapKey, Val<'a>>>),
    /// Members are computed when asked for.
    Computed(Rc<dyn Fields<'a> + 'a>),
}

/// How the members of a node are read.
#[derive(Clone, Debug)]
pub enum Reading {
    /// As they are.
    Dyn,
    /// Each as this type.
    Map(Arc<(Type, Type)>),
    /// By field; what the type does not know is not there.
    Object(ObjectType),
}

/// Members that are computed when asked for.
pub trait Fields<'a> {
    /// The member of this name; `None` when there is none.
    fn get(&self, name: &str) -> Option<Result<Val<'a>, EvalError>>;
    /// How many there are.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Map<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(object, _) => object.fmt(to),
            Self::Shared(map) => map.fmt(to),
            Self::Computed(_) => to.write_str("Computed"),
        }
    }
}

/// A key of a map. Unsigned integers that fit are signed ones, so that `1` finds `1u`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MapKey {
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i128),
    /// Text.
    String(CompactString),
}

impl fmt::Display for MapKey {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(truth) => truth.fmt(to),
            Self::Int(number) => number.fmt(to),
            Self::String(text) => text.fmt(to),
        }
    }
}

impl MapKey {
    fn of(val: &Val<'_>) -> Option<Self> {
        Some(match val {
            Val::Bool(truth) => Self::Bool(*truth),
            Val::Int(number) => Self::Int((*number).into()),
            Val::Uint(number) => Self::Int((*number).into()),
            #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and in range")]
            Val::Double(number) if number.fract() == 0.0 && number.abs() < 9.2e18 => Self::Int(*number as i128),
            Val::String(text) => Self::String(text.as_str().into()),
            _ => return None,
        })
    }

    pub(crate) fn to_val<'a>(&self) -> Val<'a> {
        match self {
            Self::Bool(truth) => Val::Bool(*truth),
            Self::Int(number) => {
                i64::try_from(*number).map_or_else(|_| Val::Uint(u64::try_from(*number).unwrap_or(u64::MAX)), Val::Int)
            }
            Self::String(text) => Val::string(text.as_str()),
        }
    }
}

impl<'a> Val<'a> {
    /// Text made by the evaluation.
    #[must_use]
    pub fn string(text: impl Into<Arc<str>>) -> Self {
        Self::String(Text::Shared(text.into()))
    }

    /// A list made by the evaluation.
    #[must_use]
    pub fn list(elements: Vec<Self>) -> Self {
        Self::List(List::Shared(Rc::new(elements)))
    }

    /// A map from text made by the evaluation.
    #[must_use]
    pub fn map<K: Into<CompactString>>(members: impl IntoIterator<Item = (K, Self)>) -> Self {
        let members = members.into_iter().map(|(key, value)| (MapKey::String(key.into()), value));
        Self::Map(Map::Shared(Rc::new(members.collect())))
    }

    /// A value whose members are computed when asked for.
    #[must_use]
    pub fn computed(fields: Rc<dyn Fields<'a> + 'a>) -> Self {
        Self::Map(Map::Computed(fields))
    }

    pub(crate) fn some(inner: Self) -> Self {
        Self::Optional(Some(Rc::new(inner)))
    }

    pub(crate) fn extension(extension: Extension<'a>) -> Self {
        Self::Extension(Rc::new(extension))
    }

    /// A node, as it is.
    #[must_use]
    pub fn of(node: &'a Value) -> Self {
        match node {
            Value::Null => Self::Null,
            Value::Bool(truth) => Self::Bool(*truth),
            Value::Int(number) => Self::Int(*number),
            Value::Float(number) => Self::Double(*number),
            Value::String(text) => Self::String(Text::Borrowed(text)),
            Value::List(list) => Self::List(List::Node(list, None)),
            Value::Object(object) => Self::Map(Map::Node(object, Reading::Dyn)),
            Value::Raw(text) => {
                Self::fields(decode_json_untyped(text.as_bytes(), &Limits::default()).unwrap_or_default())
            }
        }
    }

    /// A set of owned fields, read from its text: objects within objects.
    fn fields(tree: Value) -> Self {
        let Value::Object(object) = tree else { return Self::Null };
        let member = |(name, below)| (MapKey::String(name), Self::fields(below));
        Self::Map(Map::Shared(Rc::new(object.into_iter().map(member).collect())))
    }

    /// A node read as a type: times, durations and bytes are parsed, objects know only their fields.
    ///
    /// # Errors
    /// When the node's text is not what the type wants.
    pub fn typed(node: &'a Value, ty: &Type) -> Result<Self, EvalError> {
        Ok(match (node, ty.plain()) {
            (Value::List(list), Type::List(of)) => Self::List(List::Node(list, Some(of.clone()))),
            (Value::Object(object), Type::Object(of)) => Self::Map(Map::Node(object, Reading::Object(of.clone()))),
            (Value::Object(object), Type::Map(of)) => Self::Map(Map::Node(object, Reading::Map(of.clone()))),
            #[expect(clippy::cast_precision_loss, reason = "numbers of such a field are floating")]
            (Value::Int(number), Type::Double) => Self::Double(*number as f64),
            #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and in range")]
            (Value::Float(number), Type::Int) if number.fract() == 0.0 && number.abs() < 9.2e18 => {
                Self::Int(*number as i64)
            }
            (Value::String(text), Type::Timestamp) => Self::Timestamp(crate::time::parse_field(text)?),
            (Value::String(text), Type::Duration) => Self::Duration(crate::time::parse_duration(text)?),
            (Value::String(text), Type::Bytes) => Self::Bytes(decode_base64(text)?.into()),
            (node, _) => Self::of(node),
        })
    }

    /// The language's name of the value's type.
    #[must_use]
    pub fn type_name(&self) -> Cow<'_, str> {
        Cow::Borrowed(match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::List(_) => "list",
            Self::Map(Map::Node(_, Reading::Object(object))) => return Cow::Owned(object.name().to_owned()),
            Self::Map(_) => "map",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Extension(extension) => extension.type_name(),
        })
    }

    /// The text, if this is text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text.as_str()) } else { None }
    }

    /// The boolean, if this is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(truth) = self { Some(*truth) } else { None }
    }

    /// Characters, bytes, elements or members, where the value has a size.
    pub(crate) fn size(&self) -> Option<u64> {
        let size = match self {
            Self::String(text) => {
                let text = text.as_str();
                if text.is_ascii() { text.len() } else { text.chars().count() }
            }
            Self::Bytes(bytes) => bytes.len(),
            Self::List(list) => list.len(),
            Self::Map(map) => map.len(),
            Self::Optional(Some(inner)) => return inner.size(),
            Self::Extension(extension) => return extension.size(),
            _ => return None,
        };
        Some(size as u64)
    }

    /// What the estimator and the run-time cost call the size: 1 for all that has none.
    pub(crate) fn cost_size(&self) -> u64 {
        self.size().unwrap_or(1)
    }

    /// Whether both are equal; values of different types are not.
    #[must_use]
    pub fn equals(&self, other: &Val<'_>) -> bool {
        match (self, other) {
            (Self::Null, Val::Null) => true,
            (Self::Bool(a), Val::Bool(b)) => a == b,
            (Self::String(a), Val::String(b)) => a.as_str() == b.as_str(),
            (Self::Bytes(a), Val::Bytes(b)) => a == b,
            (Self::Timestamp(a), Val::Timestamp(b)) => a == b,
            (Self::Duration(a), Val::Duration(b)) => a == b,
            (Self::Type(a), Val::Type(b)) => a == b,
            (Self::List(a), Val::List(b)) => a.equals(b),
            (Self::Map(a), Val::Map(b)) => a.equals(b),
            (Self::Optional(a), Val::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b),
                (a, b) => a.is_none() && b.is_none(),
            },
            (Self::Extension(a), Val::Extension(b)) => a.equals(b),
            (a, b) => compare_numbers(a, b) == Some(Ordering::Equal),
        }
    }

    /// Order of two values that have one between them.
    #[must_use]
    pub fn compare(&self, other: &Val<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
            (Self::String(a), Val::String(b)) => Some(a.as_str().cmp(b.as_str())),
            (Self::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
            (Self::Timestamp(a), Val::Timestamp(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
            (a, b) => compare_numbers(a, b),
        }
    }

    /// The value as a tree, for those who keep it.
    ///
    /// # Errors
    /// When it has no form in JSON.
    pub fn to_value(&self) -> Result<Value, EvalError> {
        Ok(match self {
            Self::Null | Self::Optional(None) => Value::Null,
            Self::Bool(truth) => Value::Bool(*truth),
            Self::Int(number) => Value::Int(*number),
            #[expect(clippy::cast_precision_loss, reason = "as JSON readers take such numbers")]
            Self::Uint(number) => i64::try_from(*number).map_or(Value::Float(*number as f64), Value::Int),
            Self::Double(number) => Value::Float(*number),
            Self::String(text) => Value::from(text.as_str()),
            Self::Bytes(bytes) => Value::from(encode_base64(bytes)),
            Self::Timestamp(time) => Value::from(crate::time::spell(*time)),
            Self::Duration(span) => Value::from(crate::time::spell_duration(*span)),
            Self::List(list) => Value::List(list.iter().map(|item| item?.to_value()).collect::<Result<_, _>>()?),
            Self::Map(map) => return map.to_value(),
            Self::Optional(Some(inner)) => return inner.to_value(),
            Self::Extension(extension) => return extension.to_value(),
            Self::Type(name) => return Err(EvalError::failed(format!("type {name} has no JSON form"))),
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "as the language defines comparison across number types")]
fn compare_numbers(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => Some(a.cmp(b)),
        (Val::Uint(a), Val::Uint(b)) => Some(a.cmp(b)),
        (Val::Int(a), Val::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Val::Uint(a), Val::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
        (Val::Double(a), Val::Int(b)) => a.partial_cmp(&(*b as f64)),
        (Val::Int(a), Val::Double(b)) => (*a as f64).partial_cmp(b),
        (Val::Double(a), Val::Uint(b)) => a.partial_cmp(&(*b as f64)),
        (Val::Uint(a), Val::Double(b)) => (*a as f64).partial_cmp(b),
        _ => None,
    }
}

impl<'a> List<'a> {
    /// How many elements there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Node(list, _) => list.len(),
            Self::Shared(list) => list.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at a position; `None` past the end.
    #[must_use]
    pub fn get(&self, at: usize) -> Option<Result<Val<'a>, EvalError>> {
        match self {
            Self::Node(list, None) => list.get(at).map(|node| Ok(Val::of(node))),
            Self::Node(list, Some(ty)) => list.get(at).map(|node| Val::typed(node, &ty.element)),
            Self::Shared(list) => list.get(at).cloned().map(Ok),
        }
    }

    /// The elements in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Val<'a>, EvalError>> + '_ {
        (0..self.len()).filter_map(|at| self.get(at))
    }

    /// The elements, read.
    pub(crate) fn to_vec(&self) -> Result<Vec<Val<'a>>, EvalError> {
        self.iter().collect()
    }

    fn semantics(&self) -> Option<&ListSemantics> {
        match self {
            Self::Node(_, Some(ty)) if ty.semantics != ListSemantics::Ordered => Some(&ty.semantics),
            _ => None,
        }
    }

    fn equals(&self, other: &List<'_>) -> bool {
        if self.len() != other.len() {
            return false;
        }
        let (Ok(a), Ok(b)) = (self.to_vec(), other.to_vec()) else { return false };
        match self.semantics().or_else(|| other.semantics()) {
            None => a.iter().zip(&b).all(|(a, b)| a.equals(b)),
            Some(_) => {
                a.iter().all(|a| b.iter().any(|b| a.equals(b))) && b.iter().all(|b| a.iter().any(|a| a.equals(b)))
            }
        }
    }

    /// Addition: one after the other; sets and maps unite, and the right one wins.
    pub(crate) fn plus(self, other: &Self) -> Result<Self, EvalError> {
        let semantics = self.semantics().cloned();
        let mut sum = match self {
            // The accumulator of a fold is held once: it grows in place.
            Self::Shared(list) => Rc::try_unwrap(list).unwrap_or_else(|shared| (*shared).clone()),
            Self::Node(..) => self.to_vec()?,
        };
        for item in other.iter() {
            let item = item?;
            let found = match &semantics {
                None => None,
                Some(ListSemantics::Map(keys)) => sum.iter().position(|held| same_keys(held, &item, keys)),
                Some(_) => sum.iter().position(|held| held.equals(&item)),
            };
            match found {
                Some(at) => sum[at] = item,
                None => sum.push(item),
            }
        }
        Ok(Self::Shared(Rc::new(sum)))
    }
}

fn same_keys(a: &Val<'_>, b: &Val<'_>, keys: &[CompactString]) -> bool {
    let (Val::Map(Map::Node(a, _)), Val::Map(Map::Node(b, _))) = (a, b) else { return false };
    keys.iter().all(|key| a.get(key) == b.get(key))
}

impl<'a> Map<'a> {
    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Node(object, Reading::Object(ty)) => {
                let known = |name: &str| crate::escape::escape(name).is_some_and(|name| ty.field(&name).is_some());
                object.iter().filter(|(name, _)| known(name)).count()
            }
            Self::Node(object, _) => object.len(),
            Self::Shared(map) => map.len(),
            Self::Computed(fields) => fields.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The member that an expression names so; `None` when there is none.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<Result<Val<'a>, EvalError>> {
        match self {
            Self::Node(object, Reading::Object(ty)) => {
                let ty = ty.field(name)?;
                object.get(&unescape(name)?).map(|node| Val::typed(node, &ty))
            }
            Self::Node(object, Reading::Map(map)) => object.get(name).map(|node| Val::typed(node, &map.1)),
            Self::Node(object, Reading::Dyn) => object.get(name).map(|node| Ok(Val::of(node))),
            Self::Shared(map) => map.get(&MapKey::String(name.into())).cloned().map(Ok),
            Self::Computed(fields) => fields.get(name),
        }
    }

    /// The member of this key.
    #[must_use]
    pub fn get(&self, key: &Val<'_>) -> Option<Result<Val<'a>, EvalError>> {
        match (self, key) {
            (_, Val::String(name)) => self.field(name.as_str()),
            (Self::Shared(map), key) => map.get(&MapKey::of(key)?).cloned().map(Ok),
            _ => None,
        }
    }

    /// Keys in order.
    pub(crate) fn keys(&self) -> Vec<Val<'a>> {
        match self {
            Self::Node(object, Reading::Object(ty)) => {
                let names = object.iter().filter_map(|(name, _)| {
                    let escaped = crate::escape::escape(name)?;
                    ty.field(&escaped).is_some().then(|| Val::string(escaped.as_ref()))
                });
                names.collect()
            }
            Self::Node(object, _) => {
                object.iter().map(|(name, _)| Val::String(Text::Borrowed(name.as_str()))).collect()
            }
            Self::Shared(map) => map.keys().map(MapKey::to_val).collect(),
            Self::Computed(_) => Vec::new(),
        }
    }

    fn equals(&self, other: &Map<'_>) -> bool {
        let keys = self.keys();
        keys.len() == other.len()
            && keys.iter().all(|key| match (self.get(key), other.get(key)) {
                (Some(Ok(a)), Some(Ok(b))) => a.equals(&b),
                _ => false,
            })
    }

    fn to_value(&self) -> Result<Value, EvalError> {
        match self {
            Self::Node(object, _) => Ok(Value::Object((*object).clone())),
            Self::Shared(map) => {
                let mut members = Vec::with_capacity(map.len());
                for (key, value) in map.iter() {
                    let MapKey::String(name) = key else {
                        return Err(EvalError::failed(format!("map key {key} is not a string")));
                    };
                    members.push((name.clone(), value.to_value()?));
                }
                Ok(Value::Object(Object::from_members(members)))
            }
            Self::Computed(_) => Err(EvalError::failed("computed members have no JSON form")),
        }
    }
}

/// The key of a map made by the evaluation.
pub(crate) fn map_key(key: &Val<'_>) -> Result<MapKey, EvalError> {
    MapKey::of(key).ok_or_else(|| EvalError::failed(format!("unsupported key type: {}", key.type_name())))
}

fn decode_base64(text: &str) -> Result<Vec<u8>, EvalError> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|error| EvalError::failed(format!("invalid base64: {error}")))
}

fn encode_base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Value {
        serde_json::from_str::<serde_json::Value>(text).expect("valid").into()
    }

    #[test]
    fn numbers_compare_across_types() {
        for (a, b, order) in [
            (Val::Int(-1), Val::Uint(u64::MAX), Some(Ordering::Less)),
            (Val::Int(1), Val::Double(1.0), Some(Ordering::Equal)),
            (Val::Uint(2), Val::Int(1), Some(Ordering::Greater)),
            (Val::Double(f64::NAN), Val::Int(1), None),
            (Val::string("a"), Val::Int(1), None),
        ] {
            assert_eq!(a.compare(&b), order, "{a:?} {b:?}");
            assert_eq!(a.equals(&b), order == Some(Ordering::Equal));
        }
    }

    #[test]
    fn lists_of_sets_and_maps_have_no_order() {
        let (a, b) = (json(r#"[{"k":1,"v":1},{"k":2}]"#), json(r#"[{"k":2},{"k":1,"v":1}]"#));
        let ordered = Type::list(Type::Dyn);
        let mapped =
            Type::List(Arc::new(ListType { element: Type::Dyn, semantics: ListSemantics::Map(vec!["k".into()]) }));
        for (ty, same) in [(ordered, false), (mapped.clone(), true)] {
            let (a, b) = (Val::typed(&a, &ty).expect("read"), Val::typed(&b, &ty).expect("read"));
            assert_eq!(a.equals(&b), same);
        }
        let newer = json(r#"[{"k":1,"v":3},{"k":9}]"#);
        let (Val::List(a), Val::List(b)) = (Val::typed(&a, &mapped).expect("read"), Val::of(&newer)) else {
            panic!("lists")
        };
        let sum = Val::List(a.plus(&b).expect("added")).to_value().expect("a tree");
        assert_eq!(sum, json(r#"[{"k":1,"v":3},{"k":2},{"k":9}]"#));
    }

    #[test]
    fn typed_objects_know_only_their_fields() {
        let ty =
            Type::Object(ObjectType::new("object", [("a-b".into(), Type::Double), ("when".into(), Type::Timestamp)]));
        let node = json(r#"{"a-b":1,"when":"2026-01-02T03:04:05Z","other":1}"#);
        let Val::Map(map) = Val::typed(&node, &ty).expect("read") else { panic!("a map") };
        assert_eq!(map.len(), 2);
        assert!(matches!(map.field("a__dash__b"), Some(Ok(Val::Double(1.0)))));
        assert!(matches!(map.field("when"), Some(Ok(Val::Timestamp(_)))));
        assert!(map.field("other").is_none());
    }
}
