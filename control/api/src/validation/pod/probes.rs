//! Probes and lifecycle handlers.

use super::super::check::{given, maybe_one_of, nonnegative_at, port_or_name, required};
use super::Around;
use crate::names;
use crate::{FieldErrors, Path, Value};

const PROBE_HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];
const LIFECYCLE_HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "sleep"];
const WINDOWS_SIGNALS: [&str; 2] = ["SIGKILL", "SIGTERM"];

pub(super) fn all(container: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = given(container, &[kind]) else { continue };
        let path = path.child(kind);
        handler(probe, &PROBE_HANDLERS, None, &path, errors);
        for member in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            nonnegative_at(probe, member, &path, errors);
        }
        let grace = probe.int_at(&["terminationGracePeriodSeconds"]);
        let grace_path = path.child("terminationGracePeriodSeconds");
        if let Some(seconds) = grace.filter(|seconds| *seconds <= 0) {
            errors.invalid(&grace_path, seconds, "must be greater than 0");
        }
        if kind == "readinessProbe" {
            if let Some(seconds) = grace {
                errors.invalid(&grace_path, seconds, "must not be set for readinessProbes");
            }
        } else if let Some(times) = probe.int_at(&["successThreshold"]).filter(|times| *times != 1) {
            errors.invalid(&path.child("successThreshold"), times, "must be 1");
        }
    }
}

pub(super) fn lifecycle(container: &Value, around: &Around<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(lifecycle) = given(container, &["lifecycle"]) else { return };
    let path = path.child("lifecycle");
    for hook in ["postStart", "preStop"] {
        if let Some(action) = given(lifecycle, &[hook]) {
            handler(action, &LIFECYCLE_HANDLERS, around.grace, &path.child(hook), errors);
        }
    }
    let signal = lifecycle.str_at(&["stopSignal"]);
    if signal.is_empty() {
        return;
    }
    let path = path.child("stopSignal");
    match around.os {
        "" => errors.forbidden(&path, "may not be set for containers with empty `spec.os.name`"),
        "windows" if !WINDOWS_SIGNALS.contains(&signal) => errors.not_supported(&path, signal, &WINDOWS_SIGNALS),
        _ if !signal.starts_with("SIG") => errors.not_supported(&path, signal, &[]),
        _ => {}
    }
}

fn handler(action: &Value, kinds: &[&str], grace: Option<i64>, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut found = false;
    for kind in kinds {
        let Some(one) = given(action, &[kind]) else { continue };
        let path = path.child(kind);
        if found {
            errors.forbidden(&path, "may not specify more than 1 handler type");
            continue;
        }
        found = true;
        match *kind {
            "exec" => {
                if one.list_at(&["command"]).is_empty() {
                    errors.required(&path.child("command"), "");
                }
            }
            "httpGet" => http_get(one, &path, errors),
            "sleep" => sleep(one, grace, &path, errors),
            _ => port_or_name(one.get("port"), &path.child("port"), errors),
        }
    }
    if !found {
        errors.required(path, "must specify a handler type");
    }
}

fn http_get(get: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if get.get("path").is_some() {
        required(get, "path", path, errors);
    }
    port_or_name(get.get("port"), &path.child("port"), errors);
    maybe_one_of(get, "scheme", &["HTTP", "HTTPS"], path, errors);
    for header in get.list_at(&["httpHeaders"]) {
        let name = header.str_at(&["name"]);
        errors.invalid_each(&path.child("httpHeaders"), name, names::http_header_name(name));
    }
}

fn sleep(sleep: &Value, grace: Option<i64>, path: &Path<'_>, errors: &mut FieldErrors) {
    let seconds = sleep.int_at(&["seconds"]).unwrap_or(0);
    if let Some(grace) = grace.filter(|grace| seconds < 0 || seconds > *grace) {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.invalid(path, seconds, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::check::tests::creates;
    use super::super::tests::{POD, base, with};
    use serde_json::{Value as Json, json};

    #[test]
    fn handlers_are_judged() {
        let live = |probe: Json| with(json!({"livenessProbe": probe}));
        creates(
            POD,
            &base(),
            &[
                (live(json!({"httpGet": {"path": "/", "port": "http", "scheme": "HTTP"}, "successThreshold": 1})), &[]),
                (live(json!({})), &["spec.containers[0].livenessProbe: Required value: must specify a handler type"]),
                (
                    live(json!({"exec": {"command": ["x"]}, "tcpSocket": {"port": 1}})),
                    &[
                        "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
                    ],
                ),
                (
                    live(json!({"tcpSocket": {"port": 70000}, "successThreshold": 2})),
                    &[
                        "spec.containers[0].livenessProbe.tcpSocket.port: Invalid value: 70000: must be between 1 and \
                     65535, inclusive",
                        "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
                    ],
                ),
                (
                    with(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 60}}}})),
                    &[
                        "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 60: must be non-negative and less than \
                   terminationGracePeriodSeconds (30)",
                    ],
                ),
                (
                    with(json!({"lifecycle": {"postStart": {"exec": {}}, "stopSignal": "SIGTERM"}})),
                    &[
                        "spec.containers[0].lifecycle.postStart.exec.command: Required value",
                        "spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty \
                     `spec.os.name`",
                    ],
                ),
            ],
        );
    }
}
