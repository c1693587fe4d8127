//! Rules of `metadata`, and which rule the name of each kind obeys.

use super::check::{self, entries, immutable, texts};
use super::extensions::api_service_name;
use crate::names;
use crate::strategy::KindRef;
use crate::{FieldErrors, Path, Value};

const MAX_MANAGER: usize = 128;
const MAX_SUBRESOURCE: usize = 256;

/// The broken rules of an object's name; `prefix` when it is a `generateName`.
#[must_use]
pub fn validate_name(kind: KindRef<'_>, name: &str, prefix: bool) -> Vec<String> {
    let masked = if prefix { names::mask_trailing_dash(name) } else { name.to_owned() };
    match (kind.group, kind.kind) {
        _ if kind.custom => names::dns_subdomain(&masked),
        ("", "Namespace" | "Service") | ("apps", "StatefulSet") => names::dns_label(&masked),
        ("rbac.authorization.k8s.io", _) | ("apiregistration.k8s.io", _) => names::path_segment(name, prefix),
        ("certificates.k8s.io", "ClusterTrustBundle") => {
            names::dns_subdomain(masked.rsplit(':').next().unwrap_or(&masked))
        }
        ("networking.k8s.io", "IPAddress") => names::ip_strict(name),
        // Kinds whose own rules never asked for more.
        ("internal.apiserver.k8s.io", _)
        | ("", "Event")
        | ("policy", "PodDisruptionBudget")
        | ("certificates.k8s.io", "CertificateSigningRequest") => names::path_segment(name, prefix),
        _ => names::dns_subdomain(&masked),
    }
}

/// The broken rules of a name, with what the rest of the object asks of it.
fn name_faults(kind: KindRef<'_>, object: &Value, name: &str, prefix: bool) -> Vec<String> {
    let mut faults = validate_name(kind, name, prefix);
    match (kind.group, kind.kind) {
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            let plural = object.str_at(&["spec", "names", "plural"]);
            if name != format!("{plural}.{}", object.str_at(&["spec", "group"])) {
                faults.push("must be spec.names.plural+\".\"+spec.group".to_owned());
            }
        }
        ("apiregistration.k8s.io", "APIService") if faults.is_empty() => {
            let wanted = api_service_name(object);
            if name != wanted {
                faults.push(format!("must be `spec.version+\".\"+spec.group`: {}", crate::quote(&wanted)));
            }
        }
        _ => {}
    }
    faults
}

/// A name that the rest of the object must go on to agree with.
pub(super) fn kept_name(kind: &KindRef<'_>, object: &Value, errors: &mut FieldErrors) {
    let name = object.str_at(&["metadata", "name"]);
    errors.invalid_each(&Path::new("metadata.name"), name, name_faults(*kind, object, name, false));
}

/// Judges the metadata of a new object.
pub fn validate_object_meta(kind: KindRef<'_>, object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("metadata");
    let meta = object.get("metadata").cloned().unwrap_or_default();
    let (prefix, name) = (meta.str_at(&["generateName"]), meta.str_at(&["name"]));
    if !prefix.is_empty() {
        errors.invalid_each(&path.child("generateName"), prefix, name_faults(kind, object, prefix, true));
    }
    if name.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        errors.invalid_each(&path.child("name"), name, name_faults(kind, object, name, false));
    }
    let namespace = meta.str_at(&["namespace"]);
    match (kind.namespaced, namespace) {
        (true, "") => errors.required(&path.child("namespace"), ""),
        (true, _) => errors.invalid_each(&path.child("namespace"), namespace, names::dns_label(namespace)),
        (false, "") => {}
        (false, _) => errors.forbidden(&path.child("namespace"), "not allowed on this type"),
    }
    check::nonnegative_at(&meta, "generation", &path, errors);
    common(&meta, &path, errors);
    finalizers(&meta, &path.child("finalizers"), errors);
    standard_finalizers(kind, &meta, &path.child("finalizers"), errors);
}

/// The same for an update; a few kinds ask only of new objects.
pub(super) fn update_finalizers(kind: KindRef<'_>, new: &Value, errors: &mut FieldErrors) {
    const NEW_ONLY: [&str; 6] = [
        "Job",
        "PersistentVolume",
        "PersistentVolumeClaim",
        "ReplicationController",
        "Namespace",
        "VolumeAttributesClass",
    ];
    if !NEW_ONLY.contains(&kind.kind) {
        let meta = new.get("metadata").unwrap_or(&Value::Null);
        standard_finalizers(kind, meta, &Path::new("metadata.finalizers"), errors);
    }
}

/// Finalizers without a domain are the few that Kubernetes itself knows. Groups that came later do not ask.
pub(super) fn standard_finalizers(kind: KindRef<'_>, meta: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    const LATER: [&str; 6] = [
        "coordination.k8s.io",
        "node.k8s.io",
        "policy",
        "admissionregistration.k8s.io",
        "apiextensions.k8s.io",
        "apiregistration.k8s.io",
    ];
    if kind.custom || LATER.contains(&kind.group) || kind.is("", "Event") {
        return;
    }
    for (at, name) in texts(meta, &["finalizers"]).into_iter().enumerate() {
        if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&path.index(at), name, detail);
        }
    }
}

/// Judges how the metadata of an object changes.
pub fn validate_object_meta_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("metadata");
    if old.at(&["metadata", "deletionTimestamp"]).is_some() {
        no_new_finalizers(new, old, &path.child("finalizers"), errors);
    }
    if new.str_at(&["metadata", "resourceVersion"]).is_empty() {
        errors.invalid(&path.child("resourceVersion"), "", "must be specified for an update");
    }
    let generation = |object: &Value| object.int_at(&["metadata", "generation"]).unwrap_or(0);
    if generation(new) < generation(old) {
        errors.invalid(&path.child("generation"), generation(new), "must not be decremented");
    }
    for name in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        immutable(new, old, &["metadata", name], errors);
    }
    if let Some(meta) = new.get("metadata") {
        common(meta, &path, errors);
    }
}

/// Labels, annotations, owners and managers: judged on every write.
fn common(meta: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    check::labels(meta.get("labels"), &path.child("labels"), errors);
    annotations(meta.get("annotations"), &path.child("annotations"), errors);
    owners(meta, &path.child("ownerReferences"), errors);
    managers(meta, &path.child("managedFields"), errors);
}

/// Keys and size of annotations.
pub(super) fn annotations(annotations: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut size = 0;
    for (key, value) in annotations.into_iter().flat_map(|annotations| entries(annotations, &[])) {
        errors.invalid_each(path, key, names::qualified_name(&key.to_lowercase()));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > names::MAX_ANNOTATION_BYTES {
        errors.too_long(path, names::MAX_ANNOTATION_BYTES);
    }
}

fn owners(meta: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut controller: Option<String> = None;
    for owner in meta.list_at(&["ownerReferences"]) {
        let (version, kind, name) = (owner.str_at(&["apiVersion"]), owner.str_at(&["kind"]), owner.str_at(&["name"]));
        if version.rsplit('/').next().unwrap_or("").is_empty() || version.split('/').count() > 2 {
            errors.invalid(&path.child("apiVersion"), version, "version must not be empty");
        }
        for member in ["kind", "name", "uid"] {
            if owner.str_at(&[member]).is_empty() {
                errors.invalid(&path.child(member), "", "must not be empty");
            }
        }
        if version == "v1" && kind == "Event" {
            errors.invalid(path, owner.clone(), "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.bool_at(&["controller"]) != Some(true) {
            continue;
        }
        let this = format!("{kind}/{name}");
        if let Some(first) = &controller {
            let detail = format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
            );
            errors.invalid(path, meta.get("ownerReferences").cloned().unwrap_or_default(), detail);
        } else {
            controller = Some(this);
        }
    }
}

fn finalizers(meta: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let all = texts(meta, &["finalizers"]);
    for name in &all {
        errors.invalid_each(path, name, names::qualified_name(name));
    }
    if all.contains(&"orphan") && all.contains(&"foregroundDeletion") {
        let shown = meta.get("finalizers").cloned().unwrap_or_default();
        errors.invalid(path, shown, "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

fn no_new_finalizers(new: &Value, old: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let before = texts(old, &["metadata", "finalizers"]);
    let mut extra = texts(new, &["metadata", "finalizers"]);
    extra.retain(|name| !before.contains(name));
    extra.sort_unstable();
    extra.dedup();
    if !extra.is_empty() {
        let extra: Vec<String> = extra.into_iter().map(crate::quote).collect();
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            extra.join(", ")
        );
        errors.forbidden(path, detail);
    }
}

fn managers(meta: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (at, entry) in meta.list_at(&["managedFields"]).iter().enumerate() {
        let path = path.index(at);
        let operation = entry.str_at(&["operation"]);
        if !matches!(operation, "Apply" | "Update") {
            errors.invalid(&path.child("operation"), operation, "must be `Apply` or `Update`");
        }
        let format = entry.str_at(&["fieldsType"]);
        if !matches!(format, "" | "FieldsV1") {
            errors.invalid(&path.child("fieldsType"), format, "must be `FieldsV1`");
        }
        if entry.str_at(&["manager"]).len() > MAX_MANAGER {
            errors.too_long(&path.child("manager"), MAX_MANAGER);
        }
        if entry.str_at(&["subresource"]).len() > MAX_SUBRESOURCE {
            errors.too_long(&path.child("subresource"), MAX_SUBRESOURCE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check::tests::{creates, updates};
    use super::*;
    use serde_json::json;

    const POD_LIKE: KindRef<'static> = KindRef::custom("a.b", "Thing", true, true);

    #[test]
    fn metadata_is_judged_on_create() {
        creates(
            POD_LIKE,
            &json!({"metadata": {"name": "a", "namespace": "n"}}),
            &[
                (json!({}), &[]),
                (json!({"metadata": {"generateName": "a-"}}), &[]),
                (
                    json!({"metadata": {"name": null}}),
                    &["metadata.name: Required value: name or generateName is required"],
                ),
                (json!({"metadata": {"namespace": null}}), &["metadata.namespace: Required value"]),
                (
                    json!({"metadata": {"generation": -1}}),
                    &["metadata.generation: Invalid value: -1: must be greater than or equal to 0"],
                ),
                (
                    json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "a"}]}}),
                    &["metadata.ownerReferences.uid: Invalid value: \"\": must not be empty"],
                ),
                (
                    json!({"metadata": {"finalizers": ["orphan", "foregroundDeletion"]}}),
                    &["metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and \
                       foregroundDeletion cannot be both set"],
                ),
                (
                    json!({"metadata": {"annotations": {"a": "x".repeat(256 * 1024)}}}),
                    &["metadata.annotations: Too long: may not be more than 262144 bytes"],
                ),
                (json!({"metadata": {"annotations": {"UPPER/case": "fine"}}}), &[]),
                (
                    json!({"metadata": {"managedFields": [{"operation": "Do", "fieldsType": "x"}]}}),
                    &[
                        "metadata.managedFields[0].operation: Invalid value: \"Do\": must be `Apply` or `Update`",
                        "metadata.managedFields[0].fieldsType: Invalid value: \"x\": must be `FieldsV1`",
                    ],
                ),
            ],
        );
        let cluster = KindRef::custom("a.b", "Thing", false, true);
        let base = json!({"metadata": {"name": "a", "namespace": "n"}});
        creates(cluster, &base, &[(json!({}), &["metadata.namespace: Forbidden: not allowed on this type"])]);
    }

    #[test]
    fn only_one_owner_controls() {
        let owner = |name: &str| json!({"apiVersion": "v1", "kind": "A", "name": name, "uid": "u", "controller": true});
        let object = Value::from(json!({
            "metadata": {"name": "a", "namespace": "n", "ownerReferences": [owner("a"), owner("b")]}
        }));
        let mut errors = FieldErrors::new();
        validate_object_meta(POD_LIKE, &object, &mut errors);
        let message = errors.message();
        assert!(message.ends_with(
            "Only one reference can have Controller set to true. Found \"true\" in references for A/a and A/b"
        ));
    }

    #[test]
    fn identity_is_immutable() {
        updates(
            POD_LIKE,
            &json!({"metadata": {"name": "a", "namespace": "n", "uid": "u", "generation": 2}}),
            &[
                (json!({"metadata": {"labels": {"a": "b"}}}), &[]),
                (json!({"metadata": {"uid": "v"}}), &["metadata.uid: Invalid value: \"v\": field is immutable"]),
                (
                    json!({"metadata": {"generation": 1}}),
                    &["metadata.generation: Invalid value: 1: must not be decremented"],
                ),
                (
                    json!({"metadata": {"resourceVersion": null}}),
                    &["metadata.resourceVersion: Invalid value: \"\": must be specified for an update"],
                ),
            ],
        );
        updates(
            POD_LIKE,
            &json!({"metadata": {"name": "a", "namespace": "n", "deletionTimestamp": "t", "finalizers": ["a/b"]}}),
            &[
                (json!({"metadata": {"finalizers": []}}), &[]),
                (
                    json!({"metadata": {"finalizers": ["a/b", "c/d"]}}),
                    &[
                        "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, \
                       found new finalizers []string{\"c/d\"}",
                    ],
                ),
            ],
        );
    }

    #[test]
    fn names_differ_by_kind() {
        for (kind, name, fine) in [
            (KindRef::builtin("", "Namespace", false), "a.b", false),
            (KindRef::builtin("", "Pod", true), "a.b", true),
            (KindRef::builtin("", "Service", true), "1a", true),
            (KindRef::builtin("rbac.authorization.k8s.io", "ClusterRole", false), "system:node", true),
            (KindRef::builtin("rbac.authorization.k8s.io", "ClusterRole", false), "a/b", false),
            (KindRef::builtin("networking.k8s.io", "IPAddress", false), "10.0.0.1", true),
            (KindRef::builtin("networking.k8s.io", "IPAddress", false), "a", false),
        ] {
            assert_eq!(validate_name(kind, name, false).is_empty(), fine, "{kind:?} {name}");
        }
    }
}
