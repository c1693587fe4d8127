//! Before an object is created.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;

use super::{KindRef, pods};
use crate::Value;

/// Characters of generated names: no vowels, nothing that looks like something else.
pub const NAME_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// How many of them a generated name ends in.
pub const GENERATED_SUFFIX: usize = 5;
/// The longest generated name.
const MAX_GENERATED: usize = 63;

/// A time as the API writes it.
#[must_use]
pub fn timestamp(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The name for a `generateName` prefix; `random` are [`GENERATED_SUFFIX`] bytes of any value.
#[must_use]
pub fn generate_name(prefix: &str, random: &[u8; GENERATED_SUFFIX]) -> String {
    let mut end = prefix.len().min(MAX_GENERATED - GENERATED_SUFFIX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = prefix[..end].to_owned();
    name.extend(random.iter().map(|byte| char::from(NAME_ALPHABET[usize::from(*byte) % NAME_ALPHABET.len()])));
    name
}

/// Sets what only the server sets in the metadata of a new object.
pub fn fill_system_fields(object: &mut Value, uid: &str, now: Timestamp) {
    let metadata = object.entry_at(&["metadata"]).make_object();
    for name in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion", "generation"] {
        metadata.remove(name);
    }
    metadata.insert("uid", uid);
    metadata.insert("creationTimestamp", timestamp(now));
}

/// Where a DaemonSet counts changes of its template.
pub(super) const TEMPLATE_GENERATION: [&str; 3] =
    ["metadata", "annotations", "deprecated.daemonset.template.generation"];

/// Kinds whose metadata counts changes of what people want.
pub(super) fn has_generation(kind: &KindRef<'_>) -> bool {
    kind.custom
        || match kind.group {
            "" => matches!(kind.kind, "Pod" | "PodTemplate" | "ReplicationController"),
            "apps" => kind.kind != "ControllerRevision",
            "batch" | "apiextensions.k8s.io" => true,
            "networking.k8s.io" => matches!(kind.kind, "Ingress" | "IngressClass" | "NetworkPolicy"),
            "policy" => kind.kind == "PodDisruptionBudget",
            "discovery.k8s.io" => kind.kind == "EndpointSlice",
            "scheduling.k8s.io" => kind.kind == "PriorityClass",
            "flowcontrol.apiserver.k8s.io" | "admissionregistration.k8s.io" => true,
            "resource.k8s.io" => matches!(kind.kind, "ResourceSlice" | "DeviceClass" | "DeviceTaintRule"),
            _ => false,
        }
}

/// Resets, adds and generates what the server decides for a new object. The metadata's UID and creation time are
/// set before ([`fill_system_fields`]).
pub fn prepare_create(kind: KindRef<'_>, object: &mut Value, now: Timestamp) {
    if !kind.namespaced {
        object.remove_at(&["metadata", "namespace"]);
    }
    let keeps_status = (kind.custom && !kind.status) || kind.is("", "Node");
    if !keeps_status && let Some(members) = object.as_object_mut() {
        members.remove("status");
    }
    if has_generation(&kind) {
        object.set_at(&["metadata", "generation"], 1);
    }
    if kind.custom {
        return;
    }
    match (kind.group, kind.kind) {
        ("", "Pod") => pods::prepare_create(object),
        ("", "Namespace") => namespace(object),
        ("", "Secret") => fold_string_data(object),
        ("", "PersistentVolume") => {
            object.set_at(&["status", "phase"], "Pending");
            object.set_at(&["status", "lastPhaseTransitionTime"], timestamp(now));
        }
        ("", "PersistentVolumeClaim") => {
            object.set_at(&["status", "phase"], "Pending");
            drop_old_data_source(object);
            normalize_data_sources(object);
        }
        ("", "ServiceAccount") => clean_secret_references(object),
        ("batch", "Job") => job_selector(object),
        ("apps", "DaemonSet") => object.set_at(&TEMPLATE_GENERATION, "1"),
        ("apiregistration.k8s.io", "APIService") => local_service(object, now),
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            for name in ["username", "uid", "groups", "extra"] {
                object.remove_at(&["spec", name]);
            }
        }
        _ => {}
    }
}

/// What the API server answers itself is always available.
fn local_service(object: &mut Value, now: Timestamp) {
    if object.at(&["spec", "service"]).is_some_and(|service| !service.is_null()) {
        return;
    }
    let mut condition = Value::object();
    for (field, text) in [
        ("type", "Available"),
        ("status", "True"),
        ("lastTransitionTime", &*timestamp(now)),
        ("reason", "Local"),
        ("message", "Local APIServices are always available"),
    ] {
        condition.set_at(&[field], text);
    }
    object.set_at(&["status", "conditions"], vec![condition]);
}

/// Moves what a Secret says in plain text (`stringData`, which is never stored) into `data`; of a key in both the
/// plain text wins.
pub(super) fn fold_string_data(secret: &mut Value) {
    let Some(Value::Object(plain)) = secret.remove_at(&["stringData"]) else { return };
    if plain.is_empty() {
        return;
    }
    let data = secret.entry_at(&["data"]).make_object();
    for (key, value) in plain {
        let encoded = BASE64.encode(value.as_str().unwrap_or_default());
        data.insert(key, encoded);
    }
}

fn namespace(object: &mut Value) {
    object.set_at(&["status", "phase"], "Active");
    let finalizers = object.entry_at(&["spec", "finalizers"]).make_list();
    if !finalizers.iter().any(|name| name.as_str() == Some("kubernetes")) {
        finalizers.push("kubernetes".into());
    }
}

/// Secrets of a service account are named, nothing else.
pub(super) fn clean_secret_references(object: &mut Value) {
    if let Some(secrets) = object.at_mut(&["secrets"]).and_then(Value::as_list_mut) {
        for secret in secrets {
            let name = secret.str_at(&["name"]).to_owned();
            *secret = Value::object();
            secret.set_at(&["name"], name);
        }
    }
}

/// `dataSource` only ever meant claims and snapshots; anything else in it was and is ignored.
fn drop_old_data_source(object: &mut Value) {
    if object.at(&["spec", "dataSourceRef"]).is_some_and(|reference| !reference.is_null()) {
        return;
    }
    let source = |member: &str| object.str_at(&["spec", "dataSource", member]);
    let known = [("", "PersistentVolumeClaim"), ("snapshot.storage.k8s.io", "VolumeSnapshot")];
    if !known.contains(&(source("apiGroup"), source("kind"))) {
        object.remove_at(&["spec", "dataSource"]);
    }
}

/// `dataSource` and `dataSourceRef` of a claim say the same, whichever was given.
pub(super) fn normalize_data_sources(object: &mut Value) {
    let source = object.at(&["spec", "dataSource"]).filter(|source| !source.is_null()).cloned();
    let reference = object.at(&["spec", "dataSourceRef"]).filter(|source| !source.is_null()).cloned();
    match (source, reference) {
        (Some(source), None) => object.set_at(&["spec", "dataSourceRef"], source),
        (None, Some(reference)) if reference.str_at(&["namespace"]).is_empty() => {
            object.set_at(&["spec", "dataSource"], reference);
            object.remove_at(&["spec", "dataSource", "namespace"]);
        }
        _ => {}
    }
}

/// A Job without a selector of its own gets one by its UID, and its pods the labels that match.
fn job_selector(object: &mut Value) {
    if object.bool_at(&["spec", "manualSelector"]) == Some(true) {
        return;
    }
    let (name, uid) = (object.str_at(&["metadata", "name"]).to_owned(), object.str_at(&["metadata", "uid"]).to_owned());
    let labels = object.entry_at(&["spec", "template", "metadata", "labels"]).make_object();
    for (label, value) in [
        ("job-name", &name),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("batch.kubernetes.io/controller-uid", &uid),
    ] {
        if !labels.contains(label) {
            labels.insert(label, value.as_str());
        }
    }
    let selector = object.entry_at(&["spec", "selector", "matchLabels"]).make_object();
    if !selector.contains("batch.kubernetes.io/controller-uid") {
        selector.insert("batch.kubernetes.io/controller-uid", uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn prepared(kind: KindRef<'_>, json: serde_json::Value) -> serde_json::Value {
        let mut value = Value::from(json);
        prepare_create(kind, &mut value, Timestamp::UNIX_EPOCH);
        (&value).into()
    }

    #[test]
    fn plain_text_of_a_secret_is_stored_as_data_and_wins() {
        let text = r#"{"data": {"a": "b2xk", "b": "Yg=="}, "stringData": {"a": "new"}}"#;
        let mut secret = Value::from(serde_json::from_str::<serde_json::Value>(text).unwrap());
        prepare_create(KindRef::builtin("", "Secret", true), &mut secret, Timestamp::UNIX_EPOCH);
        assert_eq!(secret.str_at(&["data", "a"]), "bmV3");
        assert_eq!(secret.str_at(&["data", "b"]), "Yg==");
        assert_eq!(secret.get("stringData"), None);
    }

    #[test]
    fn status_is_dropped_and_generations_start() {
        for (kind, input, output) in [
            (
                KindRef::builtin("apps", "Deployment", true),
                json!({"spec": {}, "status": {"replicas": 3}}),
                json!({"metadata": {"generation": 1}, "spec": {}}),
            ),
            (KindRef::builtin("", "ConfigMap", true), json!({"data": {"a": "b"}}), json!({"data": {"a": "b"}})),
            (KindRef::builtin("", "Node", false), json!({"status": {"phase": "x"}}), json!({"status": {"phase": "x"}})),
            (
                KindRef::builtin("", "Namespace", false),
                json!({}),
                json!({"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
            ),
            (
                KindRef::builtin("apiregistration.k8s.io", "APIService", false),
                json!({"spec": {}}),
                json!({"spec": {}, "status": {"conditions": [{"type": "Available", "status": "True", "reason": "Local",
                    "lastTransitionTime": "1970-01-01T00:00:00Z", "message": "Local APIServices are always available"}]}}),
            ),
            (
                KindRef::builtin("apiregistration.k8s.io", "APIService", false),
                json!({"spec": {"service": {}}, "status": {"conditions": []}}),
                json!({"spec": {"service": {}}}),
            ),
            (
                KindRef::builtin("", "PersistentVolume", false),
                json!({}),
                json!({"status": {"phase": "Pending", "lastPhaseTransitionTime": "1970-01-01T00:00:00Z"}}),
            ),
            (
                KindRef::builtin("storage.k8s.io", "StorageClass", false),
                json!({"metadata": {"name": "a", "namespace": "ignored"}}),
                json!({"metadata": {"name": "a"}}),
            ),
            (
                KindRef::custom("a.b", "Pod", true, false),
                json!({"status": 1}),
                json!({"metadata": {"generation": 1}, "status": 1}),
            ),
            (KindRef::custom("a.b", "Pod", true, true), json!({"status": 1}), json!({"metadata": {"generation": 1}})),
            (
                KindRef::builtin("", "PersistentVolumeClaim", true),
                json!({"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "a"}}}),
                json!({"status": {"phase": "Pending"}, "spec": {
                    "dataSource": {"kind": "PersistentVolumeClaim", "name": "a"},
                    "dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "a"}}}),
            ),
        ] {
            assert_eq!(prepared(kind, input), output);
        }
    }

    #[test]
    fn a_job_gets_its_selector() {
        let kind = KindRef::builtin("batch", "Job", true);
        let job = prepared(kind, json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {}}}));
        let labels = json!({
            "job-name": "j", "batch.kubernetes.io/job-name": "j",
            "controller-uid": "u", "batch.kubernetes.io/controller-uid": "u",
        });
        assert_eq!(job["spec"]["template"]["metadata"]["labels"], labels);
        assert_eq!(job["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}));
        let manual = json!({"metadata": {"uid": "u"}, "spec": {"manualSelector": true}});
        assert_eq!(prepared(kind, manual)["spec"], json!({"manualSelector": true}));
    }

    #[test]
    fn system_fields_are_the_servers() {
        let mut object = Value::from(json!({"metadata": {"name": "a", "uid": "x", "deletionTimestamp": "y"}}));
        fill_system_fields(&mut object, "u", Timestamp::UNIX_EPOCH);
        let metadata = json!({"name": "a", "uid": "u", "creationTimestamp": "1970-01-01T00:00:00Z"});
        assert_eq!(serde_json::Value::from(&object)["metadata"], metadata);
    }

    #[test]
    fn generated_names_are_bounded() {
        assert_eq!(generate_name("a-", &[0, 1, 2, 26, 27]), "a-bcd9b");
        assert_eq!(generate_name(&"x".repeat(100), &[0; 5]).len(), 63);
    }
}
