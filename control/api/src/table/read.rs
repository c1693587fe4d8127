//! How cells read an object.

use jiff::Timestamp;

use super::duration::human_duration;
use crate::{LabelSelector, Quantity, Value};

pub(super) const NONE: &str = "<none>";
pub(super) const UNSET: &str = "<unset>";
pub(super) const UNKNOWN: &str = "<unknown>";

/// How long ago a time was.
pub(super) fn since(text: &str, now: Timestamp) -> String {
    match text.parse::<Timestamp>() {
        Ok(then) => human_duration(seconds_between(then, now)),
        Err(_) => UNKNOWN.to_owned(),
    }
}

pub(super) fn seconds_between(then: Timestamp, now: Timestamp) -> i64 {
    let nanoseconds = now.as_nanosecond() - then.as_nanosecond();
    i64::try_from(nanoseconds / 1_000_000_000).unwrap_or(i64::MAX)
}

pub(super) fn name(object: &Value) -> Value {
    Value::from(object.str_at(&["metadata", "name"]))
}

pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    Value::from(since(object.str_at(&["metadata", "creationTimestamp"]), now))
}

pub(super) fn text(object: &Value, path: &[&str]) -> Value {
    Value::from(object.str_at(path))
}

/// Text, or a stand-in when there is none.
pub(super) fn text_or(object: &Value, path: &[&str], otherwise: &str) -> Value {
    let text = object.str_at(path);
    Value::from(if text.is_empty() { otherwise } else { text })
}

pub(super) fn int(object: &Value, path: &[&str]) -> Value {
    Value::Int(object.int_at(path).unwrap_or(0))
}

pub(super) fn truth(object: &Value, path: &[&str], otherwise: bool) -> Value {
    Value::Bool(object.bool_at(path).unwrap_or(otherwise))
}

pub(super) fn count(object: &Value, path: &[&str]) -> Value {
    let length = match object.at(path) {
        Some(Value::List(list)) => list.len(),
        Some(Value::Object(map)) => map.len(),
        _ => 0,
    };
    Value::Int(i64::try_from(length).unwrap_or(i64::MAX))
}

/// An amount in canonical form; `0` when there is none, as upstream prints the zero amount.
pub(super) fn amount(value: Option<&Value>) -> String {
    value.and_then(|value| Quantity::from_value(value).ok()).unwrap_or_default().to_string()
}

/// `a=b,c=d` of a map.
pub(super) fn labels(map: Option<&Value>) -> Value {
    let pairs: Vec<String> = map
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|map| map.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))))
        .collect();
    if pairs.is_empty() { Value::from(NONE) } else { Value::from(pairs.join(",")) }
}

/// A `LabelSelector` in its text form.
pub(super) fn selector(selector: Option<&Value>) -> Value {
    match LabelSelector::from_value(selector) {
        Ok(selector) if selector.requirements().is_empty() => Value::from(NONE),
        Ok(selector) => Value::from(selector.to_string()),
        Err(_) => Value::from("<error>"),
    }
}

/// Names and images of containers, each joined by commas.
pub(super) fn containers(list: &[Value]) -> [Value; 2] {
    ["name", "image"].map(|member| {
        Value::from(list.iter().map(|container| container.str_at(&[member])).collect::<Vec<_>>().join(","))
    })
}

/// Whether a condition is there with status `True`.
pub(super) fn condition(object: &Value, kind: &str) -> bool {
    let conditions = object.list_at(&["status", "conditions"]);
    conditions.iter().any(|one| one.str_at(&["type"]) == kind && one.str_at(&["status"]) == "True")
}

/// The first three of a list, and how many more there are.
pub(super) fn some_of(all: &[String], shown: usize, separator: &str, otherwise: &str) -> String {
    let first = all.iter().take(shown).map(String::as_str).collect::<Vec<_>>().join(separator);
    match all.len() {
        0 => otherwise.to_owned(),
        length if length > shown => format!("{first} + {} more...", length - shown),
        _ => first,
    }
}

pub(super) fn joined(object: &Value, path: &[&str]) -> String {
    object.list_at(path).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}
