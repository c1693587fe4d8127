//! Defaults of a schema, and nulls that stand where none may.

use super::node::Node;
use crate::Value;

/// Fills in and cleans an object.
pub(super) fn apply(node: &Node, value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (name, child) in &node.properties {
                let Some(default) = &child.default else { continue };
                let absent = object.get(name).is_none_or(|found| found.is_null() && !child.nullable);
                if absent {
                    object.insert(name.clone(), default.clone());
                }
            }
            object.retain(|name, member| {
                let Some(child) = node.member(name) else { return true };
                if !settle(child, member) {
                    return false;
                }
                apply(child, member);
                true
            });
        }
        Value::List(list) => {
            let Some(items) = &node.items else { return };
            for item in list {
                settle(items, item);
                apply(items, item);
            }
        }
        _ => {}
    }
}

/// Puts the default in place of a null that may not be; whether the value may stay.
fn settle(node: &Node, value: &mut Value) -> bool {
    if !value.is_null() || node.nullable {
        return true;
    }
    match &node.default {
        Some(default) => *value = default.clone(),
        None => return false,
    }
    true
}
