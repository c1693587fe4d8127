//! Before an object, its status or another part of it is updated.

use jiff::Timestamp;

use super::create::{
    TEMPLATE_GENERATION, clean_secret_references, fold_string_data, has_generation, normalize_data_sources, timestamp,
};
use super::semantic::semantic_equal;
use super::{KindRef, services};
use crate::{Object, Value};

/// Members at the top of an object that no update of a part may touch.
const ENVELOPE: [&str; 3] = ["apiVersion", "kind", "metadata"];
/// Metadata that an update of the status leaves alone, for kinds that are strict about it.
const STATUS_KEEPS: [&str; 9] = [
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "creationTimestamp",
    "selfLink",
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
];

/// Whether `PUT` to a name that does not exist creates the object.
#[must_use]
pub fn allows_create_on_update(kind: KindRef<'_>) -> bool {
    !kind.custom
        && match kind.group {
            "" => matches!(kind.kind, "LimitRange" | "Event" | "Service" | "Endpoints"),
            "events.k8s.io" | "rbac.authorization.k8s.io" => true,
            "node.k8s.io" => kind.kind == "RuntimeClass",
            "coordination.k8s.io" => true,
            _ => false,
        }
}

/// Whether an update may leave out the resource version.
#[must_use]
pub fn allows_unconditional_update(kind: KindRef<'_>) -> bool {
    !kind.custom
        && match kind.group {
            "admissionregistration.k8s.io"
            | "coordination.k8s.io"
            | "node.k8s.io"
            | "policy"
            | "storagemigration.k8s.io"
            | "internal.apiserver.k8s.io"
            | "apiextensions.k8s.io"
            | "apiregistration.k8s.io" => false,
            "certificates.k8s.io" => kind.kind == "CertificateSigningRequest",
            "resource.k8s.io" => kind.kind != "ResourcePoolStatusRequest",
            "storage.k8s.io" => matches!(kind.kind, "StorageClass" | "VolumeAttributesClass"),
            _ => true,
        }
}

fn keep(new: &mut Value, old: &Value, path: &[&str]) {
    match old.at(path) {
        Some(value) if !value.is_null() => new.set_at(path, value.clone()),
        _ => {
            new.remove_at(path);
        }
    }
}

/// Metadata that no client changes.
fn keep_system_fields(new: &mut Value, old: &Value) {
    keep(new, old, &["metadata", "generation"]);
    if new.str_at(&["metadata", "uid"]).is_empty() {
        keep(new, old, &["metadata", "uid"]);
    }
    if old.at(&["metadata", "creationTimestamp"]).is_some() {
        keep(new, old, &["metadata", "creationTimestamp"]);
    }
    if old.at(&["metadata", "deletionTimestamp"]).is_some() {
        keep(new, old, &["metadata", "deletionTimestamp"]);
    } else {
        new.remove_at(&["metadata", "deletionTimestamp"]);
    }
    if new.at(&["metadata", "deletionGracePeriodSeconds"]).is_none() {
        keep(new, old, &["metadata", "deletionGracePeriodSeconds"]);
    }
    new.remove_at(&["metadata", "selfLink"]);
}

fn bump_generation(new: &mut Value, old: &Value) {
    let generation = old.int_at(&["metadata", "generation"]).unwrap_or(0);
    new.set_at(&["metadata", "generation"], generation + 1);
}

/// Whether an update asks for something else than before.
fn wishes_changed(kind: &KindRef<'_>, new: &Value, old: &Value) -> bool {
    let differs = |path: &[&str]| !semantic_equal(new.at(path), old.at(path));
    match (kind.group, kind.kind) {
        _ if kind.custom => members_differ(new, old, if kind.status { &["status"] } else { &[] }),
        ("", "PodTemplate") => differs(&["template"]),
        ("scheduling.k8s.io", "PriorityClass") => false,
        ("apps", "Deployment") => differs(&["spec"]) || differs(&["metadata", "annotations"]),
        ("discovery.k8s.io", "EndpointSlice") => members_differ(new, old, &[]) || differs(&["metadata", "labels"]),
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => {
            differs(&["webhooks"])
        }
        _ => differs(&["spec"]),
    }
}

fn count_template(new: &mut Value, old: &Value) {
    let before: i64 = old.str_at(&TEMPLATE_GENERATION).parse().unwrap_or(1);
    let template = ["spec", "template"];
    let changed = !semantic_equal(new.at(&template), old.at(&template));
    new.set_at(&TEMPLATE_GENERATION, (before + i64::from(changed)).to_string());
}

fn members_differ(new: &Value, old: &Value, except: &[&str]) -> bool {
    let bare = |value: &Value| {
        let mut members = value.as_object().cloned().unwrap_or_default();
        members.retain(|name, _| !ENVELOPE.contains(&name.as_str()) && !except.contains(&name.as_str()));
        Value::Object(members)
    };
    !semantic_equal(Some(&bare(new)), Some(&bare(old)))
}

/// Keeps status and system fields, and counts the generation up when the wishes changed.
pub fn prepare_update(kind: KindRef<'_>, new: &mut Value, old: &Value) {
    if !kind.namespaced {
        new.remove_at(&["metadata", "namespace"]);
    }
    keep_system_fields(new, old);
    if kind.status {
        keep(new, old, &["status"]);
    }
    match (kind.group, kind.kind) {
        _ if kind.custom => {}
        ("", "Namespace") => keep(new, old, &["spec", "finalizers"]),
        ("", "Service") => services::prepare_update(new, old),
        ("", "ServiceAccount") => clean_secret_references(new),
        ("", "Secret") => {
            fold_string_data(new);
            if new.str_at(&["type"]).is_empty() {
                keep(new, old, &["type"]);
            }
        }
        ("", "PersistentVolumeClaim") => normalize_data_sources(new),
        ("apps", "DaemonSet") => count_template(new, old),
        ("certificates.k8s.io", "CertificateSigningRequest") => keep(new, old, &["spec"]),
        _ => {}
    }
    if (has_generation(&kind) || kind.is("storage.k8s.io", "CSIDriver")) && wishes_changed(&kind, new, old) {
        bump_generation(new, old);
    }
}

/// Keeps everything but the status (and what metadata the kind lets a status update change).
pub fn prepare_status_update(kind: KindRef<'_>, new: &mut Value, old: &Value, now: Timestamp) {
    keep_all_but(new, old, &["status"]);
    let strict = kind.custom
        || matches!(kind.group, "flowcontrol.apiserver.k8s.io" | "apiregistration.k8s.io")
        || matches!(
            kind.kind,
            "VolumeAttachment"
                | "ResourceClaim"
                | "PodCertificateRequest"
                | "ServiceCIDR"
                | "ValidatingAdmissionPolicy"
                | "StorageVersion"
                | "StorageVersionMigration"
                | "DeviceTaintRule"
                | "PodGroup"
        );
    keep_system_fields(new, old);
    if strict {
        keep_metadata(new, old);
    }
    match (kind.group, kind.kind) {
        _ if kind.custom => {}
        ("", "Pod") => {
            keep(new, old, &["metadata", "ownerReferences"]);
            if new.str_at(&["status", "qosClass"]).is_empty() {
                keep(new, old, &["status", "qosClass"]);
            }
        }
        ("apps", "Deployment") => keep(new, old, &["metadata", "labels"]),
        ("", "PersistentVolume") => phase_transition(new, old, now),
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            keep_decisions(new, old);
            stamp_conditions(new, old, now);
        }
        _ => {}
    }
}

/// Keeps everything but `spec.finalizers`, for the `finalize` subresource of namespaces.
pub fn prepare_finalize(new: &mut Value, old: &Value) {
    keep_system_fields(new, old);
    keep(new, old, &["status"]);
}

/// Keeps everything but the conditions, for the `approval` subresource of certificate requests.
pub fn prepare_approval(new: &mut Value, old: &Value, now: Timestamp) {
    keep_system_fields(new, old);
    stamp_conditions(new, old, now);
    let conditions = new.remove_at(&["status", "conditions"]);
    keep(new, old, &["spec"]);
    keep(new, old, &["status"]);
    if let Some(conditions) = conditions {
        new.set_at(&["status", "conditions"], conditions);
    }
}

pub(super) fn keep_all_but(new: &mut Value, old: &Value, changing: &[&str]) {
    let may_change = |name: &str| ENVELOPE.contains(&name) || changing.contains(&name);
    let members = new.make_object();
    members.retain(|name, _| may_change(name));
    for (name, value) in old.as_object().unwrap_or(&Object::new()).iter() {
        if !may_change(name) {
            members.insert(name.clone(), value.clone());
        }
    }
}

/// Labels, annotations, finalizers and owners stay; managed fields may change.
pub(super) fn keep_metadata(new: &mut Value, old: &Value) {
    for name in STATUS_KEEPS {
        keep(new, old, &["metadata", name]);
    }
}

/// A volume's phase carries the time it was entered.
fn phase_transition(new: &mut Value, old: &Value, now: Timestamp) {
    const TIME: [&str; 2] = ["status", "lastPhaseTransitionTime"];
    let same_phase = new.str_at(&["status", "phase"]) == old.str_at(&["status", "phase"]);
    let given = new.str_at(&TIME);
    if same_phase && given.is_empty() {
        keep(new, old, &TIME);
    } else if !same_phase && (given.is_empty() || given == old.str_at(&TIME)) {
        new.set_at(&TIME, timestamp(now));
    }
}

/// A status update neither adds nor removes an approval or a denial.
fn keep_decisions(new: &mut Value, old: &Value) {
    let decision = |condition: &Value| matches!(condition.str_at(&["type"]), "Approved" | "Denied");
    let mut conditions: Vec<Value> =
        old.list_at(&["status", "conditions"]).iter().filter(|c| decision(c)).cloned().collect();
    conditions.extend(new.list_at(&["status", "conditions"]).iter().filter(|c| !decision(c)).cloned());
    if conditions.is_empty() {
        new.remove_at(&["status", "conditions"]);
    } else {
        new.set_at(&["status", "conditions"], conditions);
    }
}

fn stamp_conditions(new: &mut Value, old: &Value, now: Timestamp) {
    let Some(conditions) = new.at_mut(&["status", "conditions"]).and_then(Value::as_list_mut) else { return };
    for condition in conditions {
        if condition.str_at(&["lastUpdateTime"]).is_empty() {
            condition.set_at(&["lastUpdateTime"], timestamp(now));
        }
        if !condition.str_at(&["lastTransitionTime"]).is_empty() {
            continue;
        }
        let known = old.list_at(&["status", "conditions"]).iter().find(|known| {
            known.str_at(&["type"]) == condition.str_at(&["type"])
                && known.str_at(&["status"]) == condition.str_at(&["status"])
        });
        let since = known.map_or("", |known| known.str_at(&["lastTransitionTime"]));
        let since = if since.is_empty() { timestamp(now) } else { since.to_owned() };
        condition.set_at(&["lastTransitionTime"], since);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    type Prepare = fn(KindRef<'_>, &mut Value, &Value);

    fn run(kind: KindRef<'_>, prepare: Prepare, new: serde_json::Value, old: serde_json::Value) -> serde_json::Value {
        let mut new = Value::from(new);
        prepare(kind, &mut new, &Value::from(old));
        (&new).into()
    }

    fn status(kind: KindRef<'_>, new: &mut Value, old: &Value) {
        prepare_status_update(kind, new, old, Timestamp::UNIX_EPOCH);
    }

    #[test]
    fn updates_keep_status_and_count() {
        let deployment = KindRef::builtin("apps", "Deployment", true);
        let old = json!({"metadata": {"uid": "u", "generation": 4}, "spec": {"a": 1}, "status": {"b": 1}});
        let changed = json!({"metadata": {"generation": 9}, "spec": {"a": 2}, "status": {"b": 2}});
        assert_eq!(
            run(deployment, prepare_update, changed, old.clone()),
            json!({"metadata": {"uid": "u", "generation": 5}, "spec": {"a": 2}, "status": {"b": 1}})
        );
        let same = json!({"metadata": {"labels": {"x": "y"}}, "spec": {"a": 1, "c": []}});
        assert_eq!(run(deployment, prepare_update, same, old)["metadata"]["generation"], 4);
    }

    #[test]
    fn status_updates_keep_the_rest() {
        let old = json!({"metadata": {"uid": "u", "generation": 4, "labels": {"l": "1"}}, "spec": {"a": 1}});
        let new = json!({"metadata": {"labels": {"l": "2"}}, "spec": {"a": 2}, "status": {"b": 2}});
        for (kind, label) in [
            (KindRef::builtin("", "Node", false), "2"),
            (KindRef::builtin("apps", "Deployment", true), "1"),
            (KindRef::custom("a.b", "Thing", true, true), "1"),
        ] {
            let metadata = json!({"uid": "u", "generation": 4, "labels": {"l": label}});
            assert_eq!(
                run(kind, status, new.clone(), old.clone()),
                json!({"metadata": metadata, "spec": {"a": 1}, "status": {"b": 2}})
            );
        }
    }

    #[test]
    fn a_custom_resource_counts_every_change_outside_status() {
        let old = json!({"metadata": {"generation": 1}, "data": 1, "status": 1});
        for (status, new, generation) in [
            (true, json!({"metadata": {}, "data": 1, "status": 2}), 1),
            (false, json!({"metadata": {}, "data": 1, "status": 2}), 2),
            (true, json!({"metadata": {}, "data": 2}), 2),
        ] {
            let kind = KindRef::custom("a.b", "Thing", true, status);
            assert_eq!(run(kind, prepare_update, new, old.clone())["metadata"]["generation"], generation);
        }
    }

    #[test]
    fn a_daemon_set_counts_its_templates() {
        let kind = KindRef::builtin("apps", "DaemonSet", true);
        let counted = |count: &str| json!({"deprecated.daemonset.template.generation": count});
        let old = json!({"metadata": {"annotations": counted("2")}, "spec": {"template": {"a": 1}}});
        for (template, count) in [(json!({"a": 1}), "2"), (json!({"a": 2}), "3")] {
            let new = json!({"metadata": {}, "spec": {"template": template}});
            assert_eq!(run(kind, prepare_update, new, old.clone())["metadata"]["annotations"], counted(count));
        }
    }

    #[test]
    fn a_deletion_time_stays() {
        let old = json!({"metadata": {"deletionTimestamp": "t", "deletionGracePeriodSeconds": 3}});
        let kind = KindRef::builtin("", "ConfigMap", true);
        assert_eq!(run(kind, prepare_update, json!({"metadata": {}}), old.clone()), old);
        let forged = json!({"metadata": {"deletionTimestamp": "t"}});
        assert_eq!(run(kind, prepare_update, forged, json!({"metadata": {}})), json!({"metadata": {}}));
    }

    #[test]
    fn approvals_touch_conditions_only() {
        let mut new = Value::from(json!({
            "spec": {"request": "forged"},
            "status": {"certificate": "forged", "conditions": [{"type": "Approved", "status": "True"}]},
        }));
        prepare_approval(&mut new, &Value::from(json!({"spec": {"request": "r"}})), Timestamp::UNIX_EPOCH);
        let time = "1970-01-01T00:00:00Z";
        let condition =
            json!({"type": "Approved", "status": "True", "lastUpdateTime": time, "lastTransitionTime": time});
        let expected = json!({"metadata": {}, "spec": {"request": "r"}, "status": {"conditions": [condition]}});
        let mut got = serde_json::Value::from(&new);
        got["metadata"] = json!({});
        assert_eq!(got, expected);
    }
}
