//! What joins other servers' APIs: aggregated APIs.

use super::check::{self, given};
use super::webhook_client;
use crate::names;
use crate::{FieldErrors, Path, Value};

/// The only name that the registration of a group and version may have.
pub(super) fn api_service_name(object: &Value) -> String {
    format!("{}.{}", object.str_at(&["spec", "version"]), object.str_at(&["spec", "group"]))
}

pub(super) fn api_service(object: &Value, errors: &mut FieldErrors) {
    let (path, empty) = (Path::new("spec"), Value::object());
    let spec = object.get("spec").unwrap_or(&empty);
    let (group, version) = (spec.str_at(&["group"]), spec.str_at(&["version"]));
    if group.is_empty() && version != "v1" {
        let detail = "only v1 may have an empty group and it better be legacy kube";
        errors.required(&path.child("group"), detail);
    }
    if !group.is_empty() {
        errors.invalid_each(&path.child("group"), group, names::dns_subdomain(group));
    }
    errors.invalid_each(&path.child("version"), version, names::dns1035_label(version));
    for (member, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
        let number = spec.int_at(&[member]).unwrap_or(0);
        if !(1..=max).contains(&number) {
            errors.invalid(&path.child(member), number, format!("must be positive and less than {max}"));
        }
    }
    let (insecure, bundle) = (spec.bool_at(&["insecureSkipTLSVerify"]) == Some(true), spec.str_at(&["caBundle"]));
    let Some(service) = given(spec, &["service"]) else {
        if !bundle.is_empty() {
            let bytes = format!("{} bytes", bundle.trim_end_matches('=').len() * 3 / 4);
            errors.invalid(&path.child("caBundle"), bytes, "local APIServices may not have a caBundle");
        }
        if insecure {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            errors.invalid(&path.child("insecureSkipTLSVerify"), true, detail);
        }
        return;
    };
    let place = path.child("service");
    for member in ["namespace", "name"] {
        check::required(service, member, &place, errors);
    }
    webhook_client::port(service, &place, errors);
    if insecure && !bundle.is_empty() {
        errors.invalid(&path.child("insecureSkipTLSVerify"), true, "may not be true if caBundle is present");
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::creates;
    use crate::strategy::KindRef;
    use serde_json::json;

    #[test]
    fn aggregation_and_flow_control() {
        let kind = KindRef::builtin("apiregistration.k8s.io", "APIService", false);
        let base = json!({"metadata": {"name": "v1.a.b"}, "spec": {"group": "a.b", "version": "v1",
            "groupPriorityMinimum": 100, "versionPriority": 10}});
        creates(
            kind,
            &base,
            &[
                (json!({}), &[]),
                (
                    json!({"metadata": {"name": "x"}}),
                    &["metadata.name: Invalid value: \"x\": must be `spec.version+\".\"+spec.group`: \"v1.a.b\""],
                ),
                (
                    json!({"spec": {"insecureSkipTLSVerify": true}}),
                    &["spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have \
                         insecureSkipTLSVerify"],
                ),
                (
                    json!({"spec": {"service": {"name": "s", "port": 0}}}),
                    &[
                        "spec.service.namespace: Required value",
                        "spec.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
                    ],
                ),
                (
                    json!({"spec": {"versionPriority": 0}}),
                    &["spec.versionPriority: Invalid value: 0: must be positive and less than 1000"],
                ),
            ],
        );
        let kind = KindRef::builtin("flowcontrol.apiserver.k8s.io", "FlowSchema", false);
        creates(
            kind,
            &json!({"metadata": {"name": "f"}, "spec": {"matchingPrecedence": 2}}),
            &[(json!({}), &["spec.priorityLevelConfiguration.name: Required value: must reference a priority level"])],
        );
    }
}
