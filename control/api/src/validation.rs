//! What the API accepts: rules per kind, on create, on update and on a status update, with the field paths and
//! messages that clients of Kubernetes know.
//!
//! Runs after decoding, defaulting and [`crate::strategy`]; objects have the right shape by then (the schema
//! checked types). Never changes an object; never looks at another one.

mod batch;
mod check;
mod cron;
mod endpoints;
mod kinds;
mod metadata;
mod namespaces;
mod nodes;
mod pod;
mod quotas;
mod resources;
mod secrets;
mod services;
mod volumes;
mod workloads;

pub use metadata::{validate_name, validate_object_meta, validate_object_meta_update};

use crate::strategy::KindRef;
use crate::{FieldErrors, Value};

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
