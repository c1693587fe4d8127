//! Rows of volumes, claims, classes and drivers.

use jiff::Timestamp;

use super::read::{NONE, UNSET, age, amount, count, joined, name, text, text_or, truth};
use crate::Value;

const CLASS_ANNOTATION: [&str; 3] = ["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"];

/// `RWO,ROX` of access modes, each once.
fn modes(object: &Value, path: &[&str]) -> String {
    let modes = object.list_at(path);
    let has = |mode: &str| modes.iter().any(|one| one.as_str() == Some(mode));
    [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")]
        .iter()
        .filter(|(mode, _)| has(mode))
        .map(|(_, short)| *short)
        .collect::<Vec<_>>()
        .join(",")
}

fn phase(object: &Value) -> Value {
    if object.at(&["metadata", "deletionTimestamp"]).is_some_and(|time| !time.is_null()) {
        return Value::from("Terminating");
    }
    text(object, &["status", "phase"])
}

fn class_of(object: &Value) -> Value {
    let annotated = object.str_at(&CLASS_ANNOTATION);
    if annotated.is_empty() { text(object, &["spec", "storageClassName"]) } else { Value::from(annotated) }
}

pub(super) fn volume(object: &Value, now: Timestamp) -> Vec<Value> {
    let claim = object.at(&["spec", "claimRef"]).filter(|claim| !claim.is_null());
    let claim =
        claim.map_or(String::new(), |claim| format!("{}/{}", claim.str_at(&["namespace"]), claim.str_at(&["name"])));
    vec![
        name(object),
        Value::from(amount(object.at(&["spec", "capacity", "storage"]))),
        Value::from(modes(object, &["spec", "accessModes"])),
        text(object, &["spec", "persistentVolumeReclaimPolicy"]),
        phase(object),
        Value::from(claim),
        class_of(object),
        text_or(object, &["spec", "volumeAttributesClassName"], UNSET),
        text(object, &["status", "reason"]),
        age(object, now),
        text_or(object, &["spec", "volumeMode"], UNSET),
    ]
}

pub(super) fn claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let bound = !object.str_at(&["spec", "volumeName"]).is_empty();
    let capacity = if bound { amount(object.at(&["status", "capacity", "storage"])) } else { String::new() };
    let modes = if bound { modes(object, &["status", "accessModes"]) } else { String::new() };
    vec![
        name(object),
        phase(object),
        text(object, &["spec", "volumeName"]),
        Value::from(capacity),
        Value::from(modes),
        class_of(object),
        text_or(object, &["spec", "volumeAttributesClassName"], UNSET),
        age(object, now),
        text_or(object, &["spec", "volumeMode"], UNSET),
    ]
}

pub(super) fn class(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut shown = object.str_at(&["metadata", "name"]).to_owned();
    let default = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    if default.iter().any(|key| object.str_at(&["metadata", "annotations", key]) == "true") {
        shown.push_str(" (default)");
    }
    vec![
        Value::from(shown),
        text(object, &["provisioner"]),
        text_or(object, &["reclaimPolicy"], "Delete"),
        text_or(object, &["volumeBindingMode"], "Immediate"),
        truth(object, &["allowVolumeExpansion"], false),
        age(object, now),
    ]
}

pub(super) fn attributes_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, &["driverName"]), age(object, now)]
}

pub(super) fn attachment(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text(object, &["spec", "attacher"]),
        text(object, &["spec", "source", "persistentVolumeName"]),
        text(object, &["spec", "nodeName"]),
        truth(object, &["status", "attached"], false),
        age(object, now),
    ]
}

pub(super) fn csi_node(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), count(object, &["spec", "drivers"]), age(object, now)]
}

pub(super) fn csi_driver(object: &Value, now: Timestamp) -> Vec<Value> {
    let modes = joined(object, &["spec", "volumeLifecycleModes"]);
    let tokens = match object.at(&["spec", "tokenRequests"]) {
        Some(Value::List(list)) => {
            list.iter().map(|request| request.str_at(&["audience"])).collect::<Vec<_>>().join(",")
        }
        _ => UNSET.to_owned(),
    };
    vec![
        name(object),
        truth(object, &["spec", "attachRequired"], true),
        truth(object, &["spec", "podInfoOnMount"], false),
        truth(object, &["spec", "storageCapacity"], false),
        Value::from(tokens),
        truth(object, &["spec", "requiresRepublish"], false),
        Value::from(if modes.is_empty() { NONE.to_owned() } else { modes }),
        age(object, now),
    ]
}

pub(super) fn csi_capacity(object: &Value, _: Timestamp) -> Vec<Value> {
    let capacity = object.get("capacity").filter(|value| !value.is_null());
    let capacity = capacity.map_or_else(|| UNSET.to_owned(), |value| amount(Some(value)));
    vec![name(object), text(object, &["storageClassName"]), Value::from(capacity)]
}

#[cfg(test)]
mod tests {
    use super::super::Printer;
    use super::*;
    use serde_json::{Value as Json, json};

    #[test]
    fn volumes_read_like_upstream() {
        let table: &[(&str, &str, Json, Json)] = &[
            (
                "",
                "PersistentVolume",
                json!({"spec": {"capacity": {"storage": "1024Mi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
                    "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": "n", "name": "c"},
                    "storageClassName": "s", "volumeMode": "Filesystem"}, "status": {"phase": "Bound"}}),
                json!(["x", "1Gi", "RWO,RWX", "Retain", "Bound", "n/c", "s", "<unset>", "", "2m", "Filesystem"]),
            ),
            (
                "",
                "PersistentVolumeClaim",
                json!({"spec": {"accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Pending"}}),
                json!(["x", "Pending", "", "", "", "", "<unset>", "2m", "<unset>"]),
            ),
            (
                "storage.k8s.io",
                "StorageClass",
                json!({"provisioner": "p", "reclaimPolicy": "Retain"}),
                json!(["x", "p", "Retain", "Immediate", false, "2m"]),
            ),
        ];
        for (group, kind, object, cells) in table {
            let mut object = object.clone();
            object["metadata"] = json!({"name": "x", "creationTimestamp": "1970-01-01T00:00:00Z"});
            let now = Timestamp::from_second(120).unwrap();
            let got = Printer::builtin(group, kind).cells(&object.into(), now);
            assert_eq!(Json::from(&Value::from(got)), *cells, "{kind}");
        }
    }
}
