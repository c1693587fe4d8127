//! ServiceAccount: every pod runs as a service account and finds its token.

use super::{AdmissionError, AdmissionPlugin, AdmissionRequest, Lookup, Operation};
use crate::{authn::POD_TOKEN_SECONDS, authz::pod_names};
use serde_json::json;
use std::sync::{Arc, LazyLock};
use timonel_api::Value;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
const VOLUME_SUFFIX_LENGTH: usize = 5;
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";
/// Read by all: what `0644` is in decimal.
const TOKEN_FILE_MODE: i64 = 420;

/// See the module.
#[derive(Debug, Default)]
pub struct ServiceAccountAdmission;

impl AdmissionPlugin for ServiceAccountAdmission {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn mutate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        if !request.is("", "pods") || request.operation != Operation::Create || is_mirror(request.object) {
            return Ok(());
        }
        let named = request.object.str_at(&["spec", "serviceAccountName"]);
        let name = if named.is_empty() { "default".to_owned() } else { named.to_owned() };
        request.object.set_at(&["spec", "serviceAccountName"], name.as_str());
        request.object.set_at(&["spec", "serviceAccount"], name.as_str());
        let account = find(request, &name, lookup)?;
        let automount = |of: &Value, path: &[&str]| of.bool_at(path);
        let wanted = automount(request.object, &["spec", "automountServiceAccountToken"])
            .or_else(|| automount(&account, &["automountServiceAccountToken"]))
            .unwrap_or(true);
        if wanted {
            let fresh = format!("{VOLUME_PREFIX}{}", request.entropy.suffix(VOLUME_SUFFIX_LENGTH));
            mount_token(request.object, fresh);
        }
        let pull = account.list_at(&["imagePullSecrets"]);
        if request.object.list_at(&["spec", "imagePullSecrets"]).is_empty() && !pull.is_empty() {
            request.object.set_at(&["spec", "imagePullSecrets"], pull.to_vec());
        }
        Ok(())
    }

    fn validate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        let creates = request.is("", "pods") && request.operation == Operation::Create;
        let debugs = request.is_any("", "pods") && request.subresource == "ephemeralcontainers";
        if !creates && !debugs {
            return Ok(());
        }
        if creates && is_mirror(request.object) {
            return check_mirror(request);
        }
        let name = request.object.str_at(&["spec", "serviceAccountName"]);
        if name.is_empty() {
            let (namespace, pod) = (request.namespace, request.display_name());
            return Err(request.forbidden(&format!("no service account specified for pod {namespace}/{pod}")));
        }
        let account = find(request, name, lookup)?;
        let enforced = account.str_at(&["metadata", "annotations", ENFORCE_MOUNTABLE]);
        if matches!(enforced, "1" | "t" | "T" | "true" | "TRUE" | "True") {
            check_secrets(request.object, &account, debugs).map_err(|why| request.forbidden(&why))?;
        }
        Ok(())
    }
}

fn is_mirror(pod: &Value) -> bool {
    pod.at(&["metadata", "annotations", MIRROR_ANNOTATION]).is_some()
}

/// The account. Its absence is `transient`: a controller makes the default one soon after the namespace.
fn find(request: &AdmissionRequest<'_>, name: &str, lookup: &dyn Lookup) -> Result<Arc<Value>, AdmissionError> {
    lookup.get("", "serviceaccounts", request.namespace, name).ok_or_else(|| {
        let namespace = request.namespace;
        let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
        request.forbidden(&why).transient()
    })
}

fn check_mirror(request: &AdmissionRequest<'_>) -> Result<(), AdmissionError> {
    let pod = &*request.object;
    if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        return Err(request.forbidden("a mirror pod may not reference service accounts"));
    }
    if names_any_secret(pod) {
        return Err(request.forbidden("a mirror pod may not reference secrets"));
    }
    let projects_token = pod.list_at(&["spec", "volumes"]).iter().any(|volume| {
        volume.list_at(&["projected", "sources"]).iter().any(|source| source.get("serviceAccountToken").is_some())
    });
    if projects_token {
        return Err(request.forbidden("a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}

/// Whether a pod names any secret: asks for each text in it that could be one.
fn names_any_secret(pod: &Value) -> bool {
    fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::String(text) => found.push(text),
            Value::List(list) => list.iter().for_each(|item| texts(item, found)),
            Value::Object(object) => object.iter().for_each(|(_, item)| texts(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    if let Some(spec) = pod.get("spec") {
        texts(spec, &mut found);
    }
    found.iter().any(|name| !name.is_empty() && pod_names(pod, true, name))
}

fn mount_token(pod: &mut Value, fresh: String) {
    let existing = pod
        .list_at(&["spec", "volumes"])
        .iter()
        .map(|volume| volume.str_at(&["name"]))
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let has_volume = existing.is_some();
    let name = existing.unwrap_or(fresh);
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        let containers = pod.at_mut(&["spec", list]).and_then(Value::as_list_mut);
        for container in containers.into_iter().flatten() {
            let mounts = container.list_at(&["volumeMounts"]);
            if mounts.iter().any(|mount| mount.str_at(&["mountPath"]) == MOUNT_PATH) {
                continue;
            }
            let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
            container.entry_at(&["volumeMounts"]).make_list().push(mount.into());
            needed = true;
        }
    }
    if needed && !has_volume {
        pod.entry_at(&["spec", "volumes"]).make_list().push(token_volume(&name));
    }
}

/// The volume of a pod's token. Nearly every pod gets one: it is built once and copied.
fn token_volume(name: &str) -> Value {
    static VOLUME: LazyLock<Value> = LazyLock::new(|| {
        Value::from(json!({"projected": {"defaultMode": TOKEN_FILE_MODE, "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": POD_TOKEN_SECONDS}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}}))
    });
    let mut volume = VOLUME.clone();
    volume.set_at(&["name"], name);
    volume
}

fn check_secrets(pod: &Value, account: &Value, ephemeral: bool) -> Result<(), String> {
    let listed = |list: &str, name: &str| account.list_at(&[list]).iter().any(|item| item.str_at(&["name"]) == name);
    let owner = account.str_at(&["metadata", "name"]);
    let refusal = |what: String| {
        Err(format!("{what} is not allowed because service account {owner} does not reference that secret"))
    };
    let kinds: &[(&str, &str)] = if ephemeral {
        &[("ephemeralContainers", "ephemeral container")]
    } else {
        &[("initContainers", "init container"), ("containers", "container")]
    };
    let volumes = if ephemeral { &[] } else { pod.list_at(&["spec", "volumes"]) };
    for volume in volumes {
        let name = volume.str_at(&["secret", "secretName"]);
        if !name.is_empty() && !listed("secrets", name) {
            return refusal(format!("volume with secret.secretName=\"{name}\""));
        }
    }
    for (list, kind) in kinds {
        for container in pod.list_at(&["spec", list]) {
            let of = container.str_at(&["name"]);
            for env in container.list_at(&["env"]) {
                let name = env.str_at(&["valueFrom", "secretKeyRef", "name"]);
                if !name.is_empty() && !listed("secrets", name) {
                    let variable = env.str_at(&["name"]);
                    return refusal(format!(
                        "{kind} {of} with envVar {variable} referencing secret.secretName=\"{name}\""
                    ));
                }
            }
            for from in container.list_at(&["envFrom"]) {
                let name = from.str_at(&["secretRef", "name"]);
                if !name.is_empty() && !listed("secrets", name) {
                    return refusal(format!("{kind} {of} with envFrom referencing secret.secretName=\"{name}\""));
                }
            }
        }
    }
    let pull = if ephemeral { &[] } else { pod.list_at(&["spec", "imagePullSecrets"]) };
    for (at, secret) in pull.iter().enumerate() {
        let name = secret.str_at(&["name"]);
        if !listed("imagePullSecrets", name) {
            return Err(format!(
                "imagePullSecrets[{at}].name=\"{name}\" is not allowed because service account {owner} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value, reason = "tables of literals read better without references")]
mod tests {
    use super::*;
    use crate::admission::testing::{Objects, Write};
    use serde_json::Value as Json;

    fn world() -> Objects {
        let account = |name: &str, more: Json| {
            let mut account = json!({"metadata": {"name": name, "namespace": "ns"}});
            account.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            account
        };
        let mut strict = account("strict", json!({"secrets": [{"name": "ok"}]}));
        strict["metadata"]["annotations"] = json!({ENFORCE_MOUNTABLE: "true"});
        Objects::default()
            .with("", "serviceaccounts", account("default", json!({"imagePullSecrets": [{"name": "pull"}]})))
            .with("", "serviceaccounts", account("quiet", json!({"automountServiceAccountToken": false})))
            .with("", "serviceaccounts", strict)
    }

    fn pod(spec: Json) -> Json {
        json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec})
    }

    #[test]
    fn a_pod_gets_account_token_and_pull_secrets() {
        let made = Write::create("", "pods", pod(json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}]})))
            .run(&ServiceAccountAdmission, &world())
            .unwrap()
            .object;
        let spec = &made["spec"];
        assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("default"), &json!("default")));
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "pull"}]));
        let volume = spec["volumes"][0]["name"].as_str().unwrap();
        assert!(volume.starts_with(VOLUME_PREFIX) && volume.len() == VOLUME_PREFIX.len() + VOLUME_SUFFIX_LENGTH);
        assert_eq!(
            spec["containers"][0]["volumeMounts"],
            json!([{"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}])
        );
        assert_eq!(spec["initContainers"][0]["volumeMounts"].as_array().unwrap().len(), 1);
        assert_eq!(spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
    }

    #[test]
    fn automount_is_a_choice_of_pod_then_account() {
        for (spec, mounted) in [
            (json!({"serviceAccountName": "quiet"}), false),
            (json!({"serviceAccountName": "quiet", "automountServiceAccountToken": true}), true),
            (json!({"automountServiceAccountToken": false}), false),
        ] {
            let mut spec = spec;
            spec["containers"] = json!([{"name": "c"}]);
            let made = Write::create("", "pods", pod(spec.clone())).run(&ServiceAccountAdmission, &world()).unwrap();
            assert_eq!(made.object["spec"]["volumes"].is_array(), mounted, "{spec}");
        }
    }

    #[test]
    fn refusals() {
        let env = json!([{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "x"}}}]}]);
        for (object, refusal) in [
            (
                pod(json!({"serviceAccountName": "none"})),
                "pods \"p\" is forbidden: error looking up service account ns/none: serviceaccount \"none\" not found",
            ),
            (
                pod(json!({"serviceAccountName": "strict", "containers": env})),
                "pods \"p\" is forbidden: container c with envVar E referencing secret.secretName=\"x\" is not allowed because service account strict does not reference that secret",
            ),
            (pod(json!({"serviceAccountName": "strict", "volumes": [{"secret": {"secretName": "ok"}}]})), ""),
            (
                json!({"metadata": {"name": "p", "namespace": "ns", "annotations": {MIRROR_ANNOTATION: "x"}}, "spec": {"volumes": [{"secret": {"secretName": "s"}}]}}),
                "pods \"p\" is forbidden: a mirror pod may not reference secrets",
            ),
        ] {
            let refused = Write::create("", "pods", object).run(&ServiceAccountAdmission, &world()).err();
            assert_eq!(refused.map(|error| error.message).unwrap_or_default(), refusal);
        }
    }
}
