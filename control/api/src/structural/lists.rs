//! Lists that are sets or maps: no item, or no key, twice.

use super::node::{Additional, ListType, Node};
use crate::{FieldErrors, Key, Object, Path, Value};

/// Judges every such list; an update is let pass when the old object was wrong already.
pub(super) fn validate(root: &Node, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    if !root.lists_below {
        return;
    }
    let mut found = FieldErrors::new();
    walk(root, object, &Path::root(), &mut found);
    if found.is_empty() {
        return;
    }
    let mut before = FieldErrors::new();
    if let Some(old) = old {
        walk(root, old, &Path::root(), &mut before);
    }
    if before.is_empty() {
        errors.extend(found);
    }
}

fn walk(node: &Node, value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if !node.lists_below {
        return;
    }
    match value {
        Value::Object(object) => {
            for (name, member) in object.iter() {
                if let Some(child) = node.property(name) {
                    walk(child, member, &path.child(name), errors);
                } else if let Some(Additional::Of(child)) = &node.additional {
                    walk(child, member, &path.key(name), errors);
                }
            }
        }
        Value::List(list) => {
            match &node.list {
                ListType::Atomic => {}
                ListType::Set => set(list, path, errors),
                ListType::Map(keys) => map(keys, list, path, errors),
            }
            for (at, item) in list.iter().enumerate() {
                if let Some(items) = &node.items {
                    walk(items, item, &path.index(at), errors);
                }
            }
        }
        _ => {}
    }
}

/// Places of items that are there before; each value is told once, at its second place.
fn repeated<T: PartialEq>(items: &[T]) -> Vec<usize> {
    let count = |at: usize| items[..at].iter().filter(|other| **other == items[at]).count();
    (1..items.len()).filter(|at| count(*at) == 1).collect()
}

fn set(list: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    for at in repeated(list) {
        errors.duplicate(&path.index(at), list[at].clone());
    }
}

fn map(keys: &[Key], list: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    for (at, item) in list.iter().enumerate() {
        if !matches!(item, Value::Object(_) | Value::Null) {
            let detail = "must be an object for an array of list-type map";
            return errors.invalid(&path.index(at), item.clone(), detail);
        }
    }
    let named: Vec<Value> = list.iter().map(|item| key_of(keys, item)).collect();
    for at in repeated(&named) {
        errors.duplicate(&path.index(at), named[at].clone());
    }
}

/// The members that tell an item apart.
fn key_of(keys: &[Key], item: &Value) -> Value {
    let member = |key: &Key| item.get(key).map(|value| (key.clone(), value.clone()));
    Value::Object(keys.iter().filter_map(member).collect::<Object>())
}

/// The item of `before` with the same key.
pub(super) fn correlated<'v>(keys: &[Key], item: &Value, before: &'v [Value]) -> Option<&'v Value> {
    let key = key_of(keys, item);
    before.iter().find(|other| key_of(keys, other) == key)
}
