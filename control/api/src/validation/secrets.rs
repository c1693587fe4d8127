//! ConfigMaps and Secrets.

use base64::Engine;

use super::check::{IMMUTABLE, entries};
use crate::names;
use crate::strategy::semantic_equal;
use crate::{FieldErrors, Path, Value};

/// What all data of one object may weigh.
const MAX_BYTES: usize = 1024 * 1024;
const LOCKED: &str = "field is immutable when `immutable` is set";

/// Length of what base64 text decodes to, without decoding it.
fn decoded_length(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

pub(super) fn config_map(object: &Value, errors: &mut FieldErrors) {
    let mut size = 0;
    let data = Path::new("data");
    for (key, value) in entries(object, &["data"]) {
        errors.invalid_each(&data.key(key), key, names::config_key(key));
        if object.at(&["binaryData", key]).is_some() {
            errors.invalid(&data.key(key), key, "duplicate of key present in binaryData");
        }
        size += value.as_str().map_or(0, str::len);
    }
    let binary = Path::new("binaryData");
    for (key, value) in entries(object, &["binaryData"]) {
        errors.invalid_each(&binary.key(key), key, names::config_key(key));
        size += value.as_str().map_or(0, decoded_length);
    }
    if size > MAX_BYTES {
        errors.too_long(&Path::new(""), MAX_BYTES);
    }
}

fn locked(new: &Value, old: &Value, members: &[&str], errors: &mut FieldErrors) {
    if old.bool_at(&["immutable"]) != Some(true) {
        return;
    }
    if new.bool_at(&["immutable"]) != Some(true) {
        errors.forbidden(&Path::new("immutable"), LOCKED);
    }
    for member in members {
        if !semantic_equal(new.get(member), old.get(member)) {
            errors.forbidden(&Path::new(member), LOCKED);
        }
    }
}

pub(super) fn config_map_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    locked(new, old, &["data", "binaryData"], errors);
    config_map(new, errors);
}

pub(super) fn secret(object: &Value, errors: &mut FieldErrors) {
    let data = Path::new("data");
    let mut size = 0;
    for (key, value) in entries(object, &["data"]) {
        errors.invalid_each(&data.key(key), key, names::config_key(key));
        size += value.as_str().map_or(0, decoded_length);
    }
    if size > MAX_BYTES {
        errors.too_long(&data, MAX_BYTES);
    }
    let value = |key: &str| object.at(&["data", key]).and_then(Value::as_str);
    let mut need = |key: &str, missing: bool| {
        if missing {
            errors.required(&data.key(key), "");
        }
    };
    match object.str_at(&["type"]) {
        "kubernetes.io/service-account-token" => {
            let name = "kubernetes.io/service-account.name";
            if object.str_at(&["metadata", "annotations", name]).is_empty() {
                errors.required(&Path::new("metadata.annotations").key(name), "");
            }
        }
        "kubernetes.io/dockercfg" => docker(value(".dockercfg"), &data.key(".dockercfg"), errors),
        "kubernetes.io/dockerconfigjson" => {
            docker(value(".dockerconfigjson"), &data.key(".dockerconfigjson"), errors);
        }
        "kubernetes.io/basic-auth" => {
            let neither = value("username").is_none() && value("password").is_none();
            need("username", neither);
            need("password", neither);
        }
        "kubernetes.io/ssh-auth" => need("ssh-privatekey", value("ssh-privatekey").is_none_or(str::is_empty)),
        "kubernetes.io/tls" => {
            need("tls.crt", value("tls.crt").is_none());
            need("tls.key", value("tls.key").is_none());
        }
        _ => {}
    }
}

fn docker(text: Option<&str>, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(text) = text else {
        errors.required(path, "");
        return;
    };
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&bytes) {
        errors.invalid(path, "<secret contents redacted>", error.to_string());
    }
}

pub(super) fn secret_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if new.str_at(&["type"]) != old.str_at(&["type"]) {
        errors.invalid(&Path::new("type"), new.str_at(&["type"]), IMMUTABLE);
    }
    locked(new, old, &["data"], errors);
    secret(new, errors);
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{creates, updates};
    use crate::strategy::KindRef;
    use serde_json::json;

    const CONFIG: KindRef<'static> = KindRef::builtin("", "ConfigMap", true);
    const SECRET: KindRef<'static> = KindRef::builtin("", "Secret", true);

    #[test]
    fn config_maps() {
        let base = json!({"metadata": {"name": "a", "namespace": "n"}, "data": {"a": "b"}});
        creates(
            CONFIG,
            &base,
            &[
                (json!({}), &[]),
                (json!({"data": {"..x": "y"}}), &["data[..x]: Invalid value: \"..x\": must not start with '..'"]),
                (
                    json!({"binaryData": {"a": "YQ=="}}),
                    &["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"],
                ),
                (json!({"data": {"b": "x".repeat(1024 * 1024)}}), &[": Too long: may not be more than 1048576 bytes"]),
            ],
        );
        let mut locked = base;
        locked["immutable"] = json!(true);
        updates(
            CONFIG,
            &locked,
            &[
                (json!({"metadata": {"labels": {"a": "b"}}}), &[]),
                (json!({"data": {"a": "c"}}), &["data: Forbidden: field is immutable when `immutable` is set"]),
                (json!({"immutable": null}), &["immutable: Forbidden: field is immutable when `immutable` is set"]),
            ],
        );
    }

    #[test]
    fn secrets() {
        let base = json!({"metadata": {"name": "a", "namespace": "n"}, "type": "Opaque"});
        creates(
            SECRET,
            &base,
            &[
                (json!({"data": {"a": "Yg=="}}), &[]),
                (
                    json!({"type": "kubernetes.io/tls"}),
                    &["data[tls.crt]: Required value", "data[tls.key]: Required value"],
                ),
                (
                    json!({"type": "kubernetes.io/service-account-token"}),
                    &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
                ),
                (json!({"type": "kubernetes.io/dockercfg", "data": {".dockercfg": "e30="}}), &[]),
                (json!({"type": "kubernetes.io/ssh-auth"}), &["data[ssh-privatekey]: Required value"]),
            ],
        );
        updates(SECRET, &base, &[(json!({"type": "x"}), &["type: Invalid value: \"x\": field is immutable"])]);
    }
}
