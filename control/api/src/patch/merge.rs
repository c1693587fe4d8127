//! JSON merge patch (RFC 7386): objects merge member by member, null removes, all else replaces.

use crate::{Object, Value};

/// The object with the patch merged in.
#[must_use]
pub fn merge_patch(value: Value, patch: Value) -> Value {
    let Value::Object(patch) = patch else { return patch };
    let mut object = match value {
        Value::Object(object) => object,
        _ => Object::new(),
    };
    for (name, change) in patch {
        if change.is_null() {
            object.remove(&name);
        } else if matches!(change, Value::Object(_)) {
            let member = object.entry(&name);
            *member = merge_patch(std::mem::take(member), change);
        } else {
            object.insert(name, change);
        }
    }
    Value::Object(object)
}
