//! Namespaces and events.

use super::check::given;
use crate::names;
use crate::strategy::semantic_equal;
use crate::{FieldErrors, Path, Value};

const MAX_EVENT_TEXT: usize = 128;
const MAX_EVENT_MESSAGE: usize = 1024;

pub(super) fn namespace(object: &Value, errors: &mut FieldErrors) {
    for name in super::check::texts(object, &["spec", "finalizers"]) {
        errors.invalid_each(&Path::new("spec.finalizers"), name, names::qualified_name(name));
        if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&Path::new("spec.finalizers"), name, detail);
        }
    }
}

pub(super) fn namespace_status(new: &Value, errors: &mut FieldErrors) {
    let (path, phase) = (Path::new("status.Phase"), new.str_at(&["status", "phase"]));
    let leaving = given(new, &["metadata", "deletionTimestamp"]).is_some();
    if !leaving && phase != "Active" {
        errors.invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty");
    }
    if leaving && phase != "Terminating" {
        errors.invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
    }
}

/// What was always asked of an event. Its members have the names of the core group, in which it is stored, whichever
/// group it came through; `core` is that group.
fn legacy(event: &Value, core: bool, errors: &mut FieldErrors) {
    let namespace = event.str_at(&["metadata", "namespace"]);
    let about = event.str_at(&["involvedObject", "namespace"]);
    let foreign = "does not match event.namespace";
    let path = Path::new("involvedObject.namespace");
    if event.str_at(&["eventTime"]).is_empty() {
        let fits = if about.is_empty() { matches!(namespace, "" | "default") } else { namespace == about };
        if !fits {
            errors.invalid(&path, about, foreign);
        }
    } else {
        if about.is_empty() && !matches!(namespace, "default" | "kube-system") {
            errors.invalid(&path, about, foreign);
        }
        new_style(event, core, errors);
    }
    errors.invalid_each(&Path::new("namespace"), namespace, names::dns_subdomain(namespace));
}

fn new_style(event: &Value, core: bool, errors: &mut FieldErrors) {
    let reporter = Path::new(if core { "reportingComponent" } else { "reportingController" });
    let name = event.str_at(&["reportingComponent"]);
    if name.is_empty() {
        errors.required(&reporter, "");
    }
    errors.invalid_each(&reporter, name, names::qualified_name(name));
    for field in ["reportingInstance", "action", "reason"] {
        let (text, path) = (event.str_at(&[field]), Path::new(field));
        if text.is_empty() {
            errors.required(&path, "");
        }
        if text.len() > MAX_EVENT_TEXT {
            errors.invalid(&path, "", format!("can have at most {MAX_EVENT_TEXT} characters"));
        }
    }
    if event.str_at(&["message"]).len() > MAX_EVENT_MESSAGE {
        errors.invalid(&Path::new("message"), "", format!("can have at most {MAX_EVENT_MESSAGE} characters"));
    }
}

fn series(event: &Value, errors: &mut FieldErrors) {
    let Some(series) = given(event, &["series"]) else { return };
    if series.int_at(&["count"]).unwrap_or(0) < 2 {
        errors.invalid(&Path::new("series.count"), "", "should be at least 2");
    }
    if series.str_at(&["lastObservedTime"]).is_empty() {
        errors.required(&Path::new("series.lastObservedTime"), "");
    }
}

/// Judges a new event, as stored; the later group is strict.
pub(super) fn event(event: &Value, core: bool, errors: &mut FieldErrors) {
    legacy(event, core, errors);
    if core {
        return;
    }
    series(event, errors);
    if event.str_at(&["eventTime"]).is_empty() {
        errors.required(&Path::new("eventTime"), "");
    }
    let kind = event.str_at(&["type"]);
    if !matches!(kind, "Normal" | "Warning") {
        errors.invalid(&Path::new("type"), "", format!("has invalid value: {kind}"));
    }
    for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        if !semantic_equal(event.get(field), None) {
            errors.invalid(&Path::new(field), "", "needs to be unset");
        }
    }
}

/// Judges how an event changes, as stored; through the later group only its series may.
pub(super) fn event_update(new: &Value, old: &Value, core: bool, errors: &mut FieldErrors) {
    legacy(new, core, errors);
    if core {
        return;
    }
    if !semantic_equal(new.get("series"), old.get("series")) {
        series(new, errors);
    }
    for (field, path) in [
        ("involvedObject", "involvedObject"),
        ("reason", "reason"),
        ("message", "message"),
        ("source", "source"),
        ("firstTimestamp", "firstTimestamp"),
        ("lastTimestamp", "lastTimestamp"),
        ("count", "count"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        if !semantic_equal(new.get(field), old.get(field)) {
            let text = matches!(old.get(field), Some(Value::String(_)));
            let missing = if text { Value::from("") } else { Value::Null };
            let shown = new.get(field).cloned().unwrap_or(missing);
            errors.invalid(&Path::new(path), shown, super::check::IMMUTABLE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{creates, status_updates, updates};
    use crate::strategy::KindRef;
    use serde_json::json;

    #[test]
    fn namespaces() {
        let kind = KindRef::builtin("", "Namespace", false);
        let base = json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}});
        let detail = "spec.finalizers: Invalid value: \"own\": name is neither a standard finalizer name nor is it \
                      fully qualified";
        creates(kind, &base, &[(json!({}), &[]), (json!({"spec": {"finalizers": ["own"]}}), &[detail])]);
        status_updates(
            kind,
            &base,
            &[
                (json!({"status": {"phase": "Active"}}), &[]),
                (
                    json!({"status": {"phase": "Terminating"}}),
                    &["status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is \
                       empty"],
                ),
            ],
        );
    }

    #[test]
    fn events() {
        let base = json!({"metadata": {"name": "a", "namespace": "n"}, "involvedObject": {"namespace": "n"}});
        creates(
            KindRef::builtin("", "Event", true),
            &base,
            &[
                (json!({}), &[]),
                (
                    json!({"involvedObject": {"namespace": "m"}}),
                    &["involvedObject.namespace: Invalid value: \"m\": does not match event.namespace"],
                ),
            ],
        );
        let kind = KindRef::builtin("events.k8s.io", "Event", true);
        let base = json!({
            "metadata": {"name": "a", "namespace": "n"}, "involvedObject": {"namespace": "n"}, "type": "Normal",
            "eventTime": "2024-01-01T00:00:00.000000Z", "reportingComponent": "a/b", "reportingInstance": "i",
            "action": "Do", "reason": "Why",
        });
        creates(
            kind,
            &base,
            &[
                (json!({}), &[]),
                (json!({"action": null}), &["action: Required value"]),
                (json!({"type": "Other"}), &["type: Invalid value: \"\": has invalid value: Other"]),
                (
                    json!({"series": {"count": 1}}),
                    &[
                        "series.count: Invalid value: \"\": should be at least 2",
                        "series.lastObservedTime: Required value",
                    ],
                ),
            ],
        );
        updates(
            kind,
            &base,
            &[
                (json!({"reason": "x"}), &["reason: Invalid value: \"x\": field is immutable"]),
                (json!({"message": "x"}), &["message: Invalid value: \"x\": field is immutable"]),
                (json!({"type": null}), &["type: Invalid value: \"\": field is immutable"]),
                (
                    json!({"reportingComponent": "x"}),
                    &["reportingController: Invalid value: \"x\": field is immutable"],
                ),
                (json!({"series": {"count": 2, "lastObservedTime": "2024-01-01T00:00:00.000000Z"}}), &[]),
            ],
        );
    }
}
