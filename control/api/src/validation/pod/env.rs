//! Environment variables and the fields of the pod they may show.

use super::super::check::{given, quantity, required, required_name};
use super::Around;
use crate::names;
use crate::{FieldErrors, Path, Value};

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SIZES: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];

pub(super) fn env(container: &Value, around: &Around<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("env");
    for (at, variable) in container.list_at(&["env"]).iter().enumerate() {
        let path = list.index(at);
        required_name(variable, "name", names::env_var_name_relaxed, &path, errors);
        if let Some(from) = given(variable, &["valueFrom"]) {
            value_from(from, variable.str_at(&["value"]), around, &path.child("valueFrom"), errors);
        }
    }
    let list = path.child("envFrom");
    for (at, from) in container.list_at(&["envFrom"]).iter().enumerate() {
        let path = list.index(at);
        let prefix = from.str_at(&["prefix"]);
        if !prefix.is_empty() {
            errors.invalid_each(&path.child("prefix"), prefix, names::env_var_name_relaxed(prefix));
        }
        let mut count = 0;
        for source in ["configMapRef", "secretRef"] {
            if let Some(reference) = given(from, &[source]) {
                count += 1;
                required_name(reference, "name", names::dns_subdomain, &path.child(source), errors);
            }
        }
        match count {
            0 => errors.invalid(&list, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(&list, "", "may not have more than one field specified at a time"),
        }
    }
}

fn value_from(from: &Value, value: &str, around: &Around<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut count = 0;
    for source in SOURCES {
        let Some(reference) = given(from, &[source]) else { continue };
        count += 1;
        let path = path.child(source);
        match source {
            "fieldRef" => field(reference, &ENV_FIELDS, &path, errors),
            "resourceFieldRef" => resource_field(reference, false, &path, errors),
            "fileKeyRef" => file_key(reference, around, &path, errors),
            _ => key_selector(reference, &path, errors),
        }
    }
    if count == 0 {
        let detail =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.invalid(path, "", detail);
    } else if !value.is_empty() {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if count > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
}

fn key_selector(reference: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = reference.str_at(&["name"]);
    errors.invalid_each(&path.child("name"), name, names::dns_subdomain(name));
    required_name(reference, "key", names::config_key, path, errors);
}

fn file_key(reference: &Value, around: &Around<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    required_name(reference, "key", names::env_var_name_relaxed, path, errors);
    required_name(reference, "volumeName", names::dns_label, path, errors);
    let file = required(reference, "path", path, errors);
    if file.split('/').any(|part| part == "..") {
        errors.invalid(&path.child("path"), file, "must not contain '..'");
    }
    let name = reference.str_at(&["volumeName"]);
    match around.volumes.iter().find(|volume| volume.str_at(&["name"]) == name) {
        None => errors.not_found(&path.child("volumeName"), name),
        Some(volume) if given(volume, &["emptyDir"]).is_none() => {
            errors.invalid(&path.child("volumeName"), name, "referenced volume must be of type emptyDir");
        }
        Some(_) => {}
    }
}

fn field(reference: &Value, known: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    if required(reference, "apiVersion", path, errors).is_empty() {
        return;
    }
    let text = required(reference, "fieldPath", path, errors);
    if text.is_empty() {
        return;
    }
    if let Some((map, key)) = text.strip_suffix("']").and_then(|text| text.split_once("['")) {
        match map {
            "metadata.annotations" => {
                let key = key.to_lowercase();
                errors.invalid_each(path, &key, names::qualified_name(&key));
            }
            "metadata.labels" => errors.invalid_each(path, key, names::qualified_name(key)),
            _ => errors.invalid(path, map, "does not support subscript"),
        }
        return;
    }
    let convertible = ENV_FIELDS.contains(&text)
        || VOLUME_FIELDS.contains(&text)
        || matches!(text, "spec.restartPolicy" | "status.phase");
    if !convertible {
        let detail = format!("error converting fieldPath: field label not supported: {text}");
        errors.invalid(&path.child("fieldPath"), text, detail);
    } else if !known.contains(&text) {
        errors.not_supported(&path.child("fieldPath"), text, known);
    }
}

fn resource_field(reference: &Value, volume: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let resource = reference.str_at(&["resource"]);
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if volume && reference.str_at(&["containerName"]).is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !RESOURCES.contains(&resource) && !huge {
        errors.not_supported(&path.child("resource"), resource, &RESOURCES);
    }
    let divisor = reference.get("divisor").map(quantity).unwrap_or_default();
    if divisor.is_zero() {
        return;
    }
    let divisor = divisor.to_string();
    let (known, words): (&[&str], &str) = if resource.ends_with(".cpu") {
        (&["1m", "1"], "1m and 1 are supported with the cpu resource")
    } else {
        let kind = match resource.split_once('.').map_or("", |(_, name)| name) {
            "memory" => "memory resource",
            "ephemeral-storage" => "local ephemeral storage resource",
            _ => "hugepages resource",
        };
        let words = match kind {
            "memory resource" => {
                "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource"
            }
            "local ephemeral storage resource" => {
                "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the local ephemeral storage resource"
            }
            _ => "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the hugepages resource",
        };
        (&SIZES, words)
    };
    if !known.contains(&divisor.as_str()) {
        errors.invalid(&path.child("divisor"), resource, format!("only divisor's values {words}"));
    }
}

/// One file of a downward API volume.
pub(super) fn downward_file(file: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    required(file, "path", path, errors);
    super::volumes::local_path(file.str_at(&["path"]), &path.child("path"), errors);
    match (given(file, &["fieldRef"]), given(file, &["resourceFieldRef"])) {
        (Some(reference), other) => {
            field(reference, &VOLUME_FIELDS, &path.child("fieldRef"), errors);
            if other.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.invalid(path, "resource", detail);
            }
        }
        (None, Some(reference)) => resource_field(reference, true, &path.child("resourceFieldRef"), errors),
        (None, None) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    super::volumes::mode(file, "mode", path, errors);
}

#[cfg(test)]
mod tests {
    use super::super::super::check::tests::creates;
    use super::super::tests::{POD, base, with};
    use serde_json::{Value as Json, json};

    #[test]
    fn variables_are_judged() {
        let from = |from: Json| with(json!({"env": [{"name": "A", "valueFrom": from}]}));
        let field = |path: &str| from(json!({"fieldRef": {"apiVersion": "v1", "fieldPath": path}}));
        creates(
            POD,
            &base(),
            &[
                (with(json!({"env": [{"name": "A B", "value": "x"}]})), &[]),
                (with(json!({"env": [{"value": "x"}]})), &["spec.containers[0].env[0].name: Required value"]),
                (field("status.podIP"), &[]),
                (field("metadata.labels['a']"), &[]),
                (
                    field("spec.containers"),
                    &[
                        "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.containers\": error \
                   converting fieldPath: field label not supported: spec.containers",
                    ],
                ),
                (
                    from(json!({})),
                    &["spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, \
                   `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"],
                ),
                (
                    from(json!({"secretKeyRef": {"name": "s"}})),
                    &["spec.containers[0].env[0].valueFrom.secretKeyRef.key: Required value"],
                ),
                (
                    from(json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}})),
                    &[
                        "spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only \
                   divisor's values 1m and 1 are supported with the cpu resource",
                    ],
                ),
                (
                    with(json!({"envFrom": [{}]})),
                    &[
                        "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
                    ],
                ),
            ],
        );
    }
}
