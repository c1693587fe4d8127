//! What the API accepts: rules per kind, on create, on update and on a status update, with the field paths and
//! messages that clients of Kubernetes know.
//!
//! Runs after decoding, defaulting and [`crate::strategy`]; objects have the right shape by then (the schema
//! checked types). Never changes an object; never looks at another one.

mod access;
mod admission;
mod autoscalers;
mod batch;
mod check;
mod cron;
mod devices;
mod endpoints;
mod extensions;
mod fairness;
mod job_policies;
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
mod webhook_client;
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
    metadata::update_finalizers(kind, new, &mut errors);
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

/// Judges where a webhook is called.
pub(crate) fn webhook_client(config: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    webhook_client::client(Some(config), path, errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FieldValidation, Gvk, Limits, Scheme, coerce, default_object, strategy};
    use jiff::Timestamp;
    use serde_json::json;

    /// What people write passes once it is decoded, defaulted and prepared, and again when nothing changes.
    #[test]
    fn ordinary_manifests_pass_the_whole_way() {
        let scheme = Scheme::kubernetes();
        let pods = json!({"metadata": {"labels": {"app": "a"}}, "spec": {
            "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}],
                "readinessProbe": {"httpGet": {"port": 80}}, "resources": {"requests": {"cpu": 0.1, "memory": "64Mi"}},
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "configMap": {"name": "m"}}], "serviceAccountName": "default"}});
        let mut once = pods.clone();
        once["spec"]["restartPolicy"] = json!("Never");
        let selector = json!({"matchLabels": {"app": "a"}});
        let rules = json!([{"host": "a.b", "http": {"paths": [{"path": "/", "pathType": "Prefix",
            "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]);
        let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        let manifests = [
            ("v1", "Pod", json!({"spec": pods["spec"]})),
            ("apps/v1", "Deployment", json!({"spec": {"selector": selector, "template": pods}})),
            ("apps/v1", "DaemonSet", json!({"spec": {"selector": selector, "template": pods}})),
            (
                "apps/v1",
                "StatefulSet",
                json!({"spec": {"selector": selector, "template": pods, "serviceName": "s",
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}]}}),
            ),
            ("batch/v1", "Job", json!({"spec": {"template": once}})),
            (
                "batch/v1",
                "CronJob",
                json!({"spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": once}}}}),
            ),
            ("v1", "PersistentVolumeClaim", json!({"spec": claim})),
            ("networking.k8s.io/v1", "Ingress", json!({"spec": {"rules": rules}})),
            ("networking.k8s.io/v1", "NetworkPolicy", json!({"spec": {"podSelector": {}}})),
            ("policy/v1", "PodDisruptionBudget", json!({"spec": {"minAvailable": 1, "selector": selector}})),
            ("storage.k8s.io/v1", "StorageClass", json!({"provisioner": "a.b"})),
        ];
        for (version, kind, body) in manifests {
            let resource = scheme.resource_of_kind(&Gvk::of(version, kind)).expect("a built-in kind");
            let rules = KindRef::builtin(&resource.group, &resource.kind, resource.namespaced);
            let decoded = coerce(scheme.schema(), resource.body, body.into(), &Limits::default()).expect("decodes");
            let (mut object, _) = decoded.checked(FieldValidation::Strict).expect("has only known fields");
            default_object(&scheme, resource, &mut object);
            object.set_at(&["metadata", "name"], "x");
            object.set_at(&["metadata", "namespace"], "n");
            strategy::fill_system_fields(&mut object, "u", Timestamp::UNIX_EPOCH);
            strategy::prepare_create(rules, &mut object, Timestamp::UNIX_EPOCH);
            assert_eq!(validate_create(rules, &object), FieldErrors::new(), "{kind}");
            object.set_at(&["metadata", "resourceVersion"], "1");
            let mut again = object.clone();
            strategy::prepare_update(rules, &mut again, &object);
            assert_eq!(validate_update(rules, &again, &object), FieldErrors::new(), "{kind}");
            assert_eq!(again, object, "{kind}: an update that changes nothing changes nothing");
        }
    }

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
