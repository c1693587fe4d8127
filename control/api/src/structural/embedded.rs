//! Objects within objects that have `apiVersion`, `kind` and `metadata` of their own.

use super::node::{Additional, Node};
use crate::strategy::KindRef;
use crate::{FieldErrors, Path, Value, names, validation};

/// Judges every embedded object.
pub(super) fn validate(root: &Node, object: &Value, errors: &mut FieldErrors) {
    walk(root, object, &Path::root(), errors);
}

fn walk(node: &Node, value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if !node.embedded_below {
        return;
    }
    match value {
        Value::Object(object) => {
            if node.embedded {
                envelope(value, path, errors);
            }
            for (name, member) in object.iter() {
                if let Some(child) = node.property(name) {
                    walk(child, member, &path.child(name), errors);
                } else if let Some(Additional::Of(child)) = &node.additional {
                    walk(child, member, &path.key(name), errors);
                }
            }
        }
        Value::List(list) => {
            for (at, item) in list.iter().enumerate() {
                if let Some(items) = &node.items {
                    walk(items, item, &path.index(at), errors);
                }
            }
        }
        _ => {}
    }
}

fn envelope(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for name in ["apiVersion", "kind"] {
        let place = path.child(name);
        match value.get(name) {
            None => errors.required(&place, ""),
            Some(Value::String(text)) if text.is_empty() => errors.invalid(&place, "", "must not be empty"),
            Some(Value::String(text)) if name == "apiVersion" => {
                if text.matches('/').count() > 1 {
                    errors.invalid(&place, text.as_str(), format!("unexpected GroupVersion string: {text}"));
                }
            }
            Some(Value::String(text)) => {
                let broken = names::dns1035_label(&text.to_lowercase());
                if !broken.is_empty() {
                    let detail = format!("may have mixed case, but should otherwise match: {}", broken.join(","));
                    errors.invalid(&place, text.as_str(), detail);
                }
            }
            Some(other) => errors.invalid(&place, other.clone(), "must be a string"),
        }
    }
    if value.get("metadata").is_some_and(|metadata| metadata.as_object().is_some()) {
        metadata(value, path, errors);
    }
}

fn metadata(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut bare = Value::object();
    bare.set_at(&["metadata"], value.get("metadata").cloned().unwrap_or_default());
    if bare.str_at(&["metadata", "name"]).is_empty() {
        // The name is the outer object's affair; judging the rest needs one.
        bare.set_at(&["metadata", "name"], "fakename");
    }
    let namespaced = !bare.str_at(&["metadata", "namespace"]).is_empty();
    let mut found = FieldErrors::new();
    validation::validate_object_meta(KindRef::custom("", "", namespaced, true), &bare, &mut found);
    for error in &found {
        let mut error = error.clone();
        error.field = path.child(&error.field).to_string();
        errors.push(error);
    }
}
