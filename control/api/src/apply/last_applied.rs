//! `kubectl apply` keeps what it applied in an annotation; `kubectl apply --server-side` takes over from there.

use super::Tracker;
use super::compare::compare;
use super::set::FieldSet;
use crate::{Limits, Value, decode_json_untyped, encode_json};

const ANNOTATION: [&str; 3] = ["metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"];

/// The fields that `kubectl apply` set and that are still as it set them; `None` without the annotation, or when
/// it is of another version.
pub(super) fn unchanged(tracker: &Tracker<'_>, live: &Value) -> Option<FieldSet> {
    let text = live.at(&ANNOTATION)?.as_str().filter(|text| !text.is_empty())?;
    let applied = decode_json_untyped(text.as_bytes(), &Limits::default()).ok()?;
    if applied.str_at(&["apiVersion"]) != tracker.api_version {
        return None;
    }
    let set = tracker.fields_of_config(&applied).ok()?;
    let changes = compare(tracker.schema, tracker.ty, &applied, live).ok()?;
    Some(set.difference(&changes.modified).difference(&changes.added).difference(&changes.removed))
}

/// Keeps the annotation true, where there is one.
pub(super) fn refresh(object: &mut Value, applied: &Value) {
    if object.str_at(&ANNOTATION).is_empty() {
        return;
    }
    let mut applied = applied.clone();
    applied.remove_at(&ANNOTATION);
    let mut text = String::from_utf8_lossy(&encode_json(&applied)).into_owned();
    text.push('\n');
    object.set_at(&ANNOTATION, text);
}
