//! Equality as the API means it: what is absent equals what is empty or zero.

use crate::{Object, Value};

/// Whether a node says nothing: `null`, `false`, 0, empty text, or a list or object of nothing but such.
#[must_use]
pub fn semantic_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Int(number) => *number == 0,
        Value::Float(number) => *number == 0.0,
        Value::String(text) => text.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Object(object) => object.iter().all(|(_, value)| semantic_zero(value)),
        Value::Raw(_) => false,
    }
}

/// Whether two nodes mean the same; an absent one equals an empty one.
#[must_use]
pub fn semantic_equal(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a.unwrap_or(&Value::Null), b.unwrap_or(&Value::Null)) {
        (Value::Object(a), Value::Object(b)) => objects_equal(a, b),
        (Value::List(a), Value::List(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| semantic_equal(Some(a), Some(b)))
        }
        (a, b) => a == b || (semantic_zero(a) && semantic_zero(b)),
    }
}

fn objects_equal(a: &Object, b: &Object) -> bool {
    a.iter().all(|(key, value)| semantic_equal(Some(value), b.get(key)))
        && b.iter().all(|(key, value)| a.contains(key) || semantic_zero(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_equals_empty() {
        for (a, b, equal) in [
            (json!({"a": 1}), json!({"a": 1, "b": [], "c": {}, "d": "", "e": false}), true),
            (json!({"a": [1]}), json!({"a": [1, 2]}), false),
            (json!({"a": {"b": {}}}), json!({}), true),
            (json!({"a": 1}), json!({}), false),
            (json!(null), json!({}), true),
            (json!("1"), json!(1), false),
        ] {
            let (a, b) = (Value::from(a), Value::from(b));
            assert_eq!(semantic_equal(Some(&a), Some(&b)), equal, "{a:?} {b:?}");
            assert_eq!(semantic_equal(Some(&b), Some(&a)), equal, "{b:?} {a:?}");
        }
    }
}
