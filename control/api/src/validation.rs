//! What the API accepts: rules per kind, on create, on update and on a status update, with the field paths and
//! messages that clients of Kubernetes know.
//!
//! Runs after decoding, defaulting and [`crate::strategy`]; objects have the right shape by then (the schema
//! checked types). Never changes an object; never looks at another one.

mod access;
mod batch;
mod check;
mod cron;
mod endpoints;
mod extensions;
mod kinds;
mod metadata;
mod namespaces;
mod networking;
mod nodes;
mod pod;
mod policies;
mod quotas;
mod resources;
mod secrets;
mod services;
mod volumes;
mod workloads;

pub use metadata::{validate_name, validate_object_meta, validate_object_meta_update};

use crate::strategy::KindRef;
use crate::{FieldErrors, Path, Value};

/// Judges a new object.
#[must_use]
pub fn validate_create(kind: KindRef<'_>, object: &Value) -> FieldErrors {
    let mut errors = FieldErrors::new();
    validate_object_meta(kind, object, &mut errors);
    if !kind.custom {
        kinds::create(&kind, object, &mut errors);
    }
    errors
}

/// Judges the new state of an object that exists.
#[must_use]
pub fn validate_update(kind: KindRef<'_>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = FieldErrors::new();
    validate_object_meta_update(new, old, &mut errors);
    if !kind.custom {
        kinds::update(&kind, new, old, &mut errors);
    }
    errors
}

/// Judges the new status of an object that exists.
#[must_use]
pub fn validate_status_update(kind: KindRef<'_>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = FieldErrors::new();
    validate_object_meta_update(new, old, &mut errors);
    if !kind.custom {
        kinds::status_update(&kind, new, old, &mut errors);
    }
    errors
}

/// Judges an update through the `ephemeralcontainers` subresource of pods.
#[must_use]
pub fn validate_ephemeral_containers(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = FieldErrors::new();
    validate_object_meta_update(new, old, &mut errors);
    pod::ephemeral_update(new, old, &mut errors);
    errors
}

/// Judges an update through the `resize` subresource of pods.
#[must_use]
pub fn validate_resize(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = FieldErrors::new();
    validate_object_meta_update(new, old, &mut errors);
    pod::resize(new, old, &mut errors);
    errors
}

/// Judges an update through the `finalize` subresource of namespaces.
#[must_use]
pub fn validate_finalize(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = FieldErrors::new();
    validate_object_meta_update(new, old, &mut errors);
    namespaces::namespace(new, &mut errors);
    errors
}

/// Judges the binding of a pod to a node.
#[must_use]
pub fn validate_binding(binding: &Value) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let path = Path::new("target");
    let kind = binding.str_at(&["target", "kind"]);
    if !matches!(kind, "" | "Node") {
        errors.not_supported(&path.child("kind"), kind, &["Node", "<empty>"]);
    }
    if binding.str_at(&["target", "name"]).is_empty() {
        errors.required(&path.child("name"), "");
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn subresources_have_rules_of_their_own() {
        let message = |errors: FieldErrors| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(message(validate_binding(&json!({"target": {"name": "n"}}).into())), Vec::<String>::new());
        assert_eq!(
            message(validate_binding(&json!({"target": {"kind": "Rack"}}).into())),
            [
                "target.kind: Unsupported value: \"Rack\": supported values: \"Node\", \"<empty>\"",
                "target.name: Required value",
            ]
        );
        let old = Value::from(
            json!({"metadata": {"name": "a", "resourceVersion": "1"}, "spec": {"finalizers": ["kubernetes"]}}),
        );
        let new = Value::from(json!({"metadata": {"name": "a", "resourceVersion": "1"}, "spec": {"finalizers": []}}));
        assert!(validate_finalize(&new, &old).is_empty());
    }
}
