//! Events of the core group and of `events.k8s.io`: the same facts under other names.

use crate::{Object, Value};

/// Core name, name in `events.k8s.io`.
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(value: &mut Value, pairs: impl Iterator<Item = (&'static str, &'static str)>) {
    let Some(object) = value.as_object_mut() else { return };
    for (old, new) in pairs {
        if let Some(member) = object.remove(old) {
            object.insert(new, member);
        }
    }
}

pub(super) fn to_events(value: &mut Value) {
    rename(value, NAMES.into_iter());
    if let Some(object) = value.as_object_mut() {
        // What the core always writes and the newer group leaves out when empty.
        for name in ["reportingController", "reportingInstance", "note"] {
            drop_empty(object, name);
        }
    }
}

pub(super) fn to_core(value: &mut Value) {
    rename(value, NAMES.into_iter().map(|(core, events)| (events, core)));
    if let Some(object) = value.as_object_mut() {
        for name in ["reportingComponent", "reportingInstance"] {
            if !object.contains(name) {
                object.insert(name, "");
            }
        }
        for name in ["involvedObject", "source"] {
            object.entry(name).make_object();
        }
    }
}

fn drop_empty(object: &mut Object, name: &str) {
    if object.get(name).and_then(Value::as_str) == Some("") {
        object.remove(name);
    }
}
