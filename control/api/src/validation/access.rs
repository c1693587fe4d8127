//! Roles and bindings, certificate requests.

use base64::Engine as _;

use super::check::{self, given, texts};
use crate::names;
use crate::strategy::semantic_equal;
use crate::{FieldErrors, Path, Value};

const GROUP: &str = "rbac.authorization.k8s.io";
const MIN_CERTIFICATE_SECONDS: i64 = 600;

pub(super) fn role(object: &Value, namespaced: bool, errors: &mut FieldErrors) {
    let list = Path::new("rules");
    for (at, rule) in object.list_at(&["rules"]).iter().enumerate() {
        let path = list.index(at);
        let given = |member: &str| !rule.list_at(&[member]).is_empty();
        if !given("verbs") {
            errors.required(&path.child("verbs"), "verbs must contain at least one value");
        }
        if given("nonResourceURLs") {
            let shown = || rule.get("nonResourceURLs").cloned().unwrap_or_default();
            let place = path.child("nonResourceURLs");
            if namespaced {
                errors.invalid(&place, shown(), "namespaced rules cannot apply to non-resource URLs");
            }
            if given("apiGroups") || given("resources") || given("resourceNames") {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(&place, shown(), detail);
            }
            continue;
        }
        if !given("apiGroups") {
            errors.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if !given("resources") {
            errors.required(&path.child("resources"), "resource rules must supply at least one resource");
        }
    }
    let list = Path::new("aggregationRule.clusterRoleSelectors");
    let selectors = object.list_at(&["aggregationRule", "clusterRoleSelectors"]);
    if given(object, &["aggregationRule"]).is_some() && selectors.is_empty() {
        errors.required(&list, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for (at, selector) in selectors.iter().enumerate() {
        let mut broken = FieldErrors::new();
        check::label_selector(Some(selector), &list.index(at), &mut broken);
        let sound = broken.is_empty();
        errors.extend(broken);
        if !sound {
            errors.invalid(&list.index(at), selector.clone(), "invalid label selector.");
        }
    }
}

pub(super) fn binding(object: &Value, namespaced: bool, errors: &mut FieldErrors) {
    let path = Path::new("roleRef");
    let role = object.get("roleRef").unwrap_or(&Value::Null);
    if role.str_at(&["apiGroup"]) != GROUP {
        errors.not_supported(&path.child("apiGroup"), role.str_at(&["apiGroup"]), &[GROUP]);
    }
    let known: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !known.contains(&role.str_at(&["kind"])) {
        errors.not_supported(&path.child("kind"), role.str_at(&["kind"]), known);
    }
    check::required_name(role, "name", |text| names::path_segment(text, false), &path, errors);
    let list = Path::new("subjects");
    for (at, subject) in object.list_at(&["subjects"]).iter().enumerate() {
        self::subject(subject, namespaced, &list.index(at), errors);
    }
}

fn subject(subject: &Value, namespaced: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = check::required(subject, "name", path, errors);
    let group = subject.str_at(&["apiGroup"]);
    match subject.str_at(&["kind"]) {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.invalid_each(&path.child("name"), name, names::dns_subdomain(name));
            }
            if !group.is_empty() {
                errors.not_supported(&path.child("apiGroup"), group, &[""]);
            }
            if !namespaced && subject.str_at(&["namespace"]).is_empty() {
                errors.required(&path.child("namespace"), "");
            }
        }
        "User" | "Group" if group != GROUP => errors.not_supported(&path.child("apiGroup"), group, &[GROUP]),
        "User" | "Group" => {}
        kind => errors.not_supported(&path.child("kind"), kind, &["ServiceAccount", "User", "Group"]),
    }
}

pub(super) fn binding_update(new: &Value, old: &Value, namespaced: bool, errors: &mut FieldErrors) {
    binding(new, namespaced, errors);
    if !semantic_equal(new.get("roleRef"), old.get("roleRef")) {
        errors.invalid(&Path::new("roleRef"), new.get("roleRef").cloned().unwrap_or_default(), "cannot change roleRef");
    }
}

fn signer(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if text.is_empty() {
        return errors.required(path, "");
    }
    let Some((domain, name)) = text.split_once('/').filter(|(_, name)| !name.contains('/')) else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(path, text, detail);
    };
    if domain.split('.').count() < 2 {
        errors.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
    errors.invalid_each(path, domain, names::dns_subdomain(domain));
    errors.invalid_each(path, name, names::dns_subdomain(name));
}

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// Whether base64 text holds a PEM block with a request for a certificate.
fn is_request(text: &str) -> bool {
    let decoded = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
    String::from_utf8_lossy(&decoded).contains("-----BEGIN CERTIFICATE REQUEST-----")
}

pub(super) fn signing_request(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let request = object.str_at(&["spec", "request"]);
    if !is_request(request) {
        let shown = if request.is_empty() { Value::Null } else { request.into() };
        errors.invalid(&path.child("request"), shown, "PEM block type must be CERTIFICATE REQUEST");
    }
    let usages = texts(object, &["spec", "usages"]);
    if usages.is_empty() {
        errors.required(&path.child("usages"), "");
    }
    let list = path.child("usages");
    for (at, usage) in usages.iter().enumerate() {
        if !USAGES.contains(usage) {
            errors.not_supported(&list.index(at), *usage, &USAGES);
        }
        if usages[..at].contains(usage) {
            errors.duplicate(&list.index(at), *usage);
        }
    }
    signer(object.str_at(&["spec", "signerName"]), &path.child("signerName"), errors);
    let seconds = object.int_at(&["spec", "expirationSeconds"]);
    if let Some(seconds) = seconds.filter(|seconds| *seconds < MIN_CERTIFICATE_SECONDS) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid(&path.child("expirationSeconds"), seconds, detail);
    }
    conditions(object, errors);
}

fn conditions(object: &Value, errors: &mut FieldErrors) {
    let list = Path::new("status.conditions");
    let all = object.list_at(&["status", "conditions"]);
    for (at, condition) in all.iter().enumerate() {
        let path = list.index(at);
        let kind = condition.str_at(&["type"]);
        if kind.is_empty() {
            errors.required(&path.child("type"), "");
        }
        check::one_of(condition, "status", &["False", "True", "Unknown"], &path, errors);
        if matches!(kind, "Approved" | "Denied" | "Failed") && condition.str_at(&["status"]) == "False" {
            errors.not_supported(&path.child("status"), "False", &["True"]);
        }
        if all[..at].iter().any(|other| other.str_at(&["type"]) == kind) {
            errors.duplicate(&path.child("type"), kind);
        }
    }
    let has = |kind: &str| all.iter().any(|one| one.str_at(&["type"]) == kind);
    if has("Approved") && has("Denied") {
        let shown = object.at(&["status", "conditions"]).cloned().unwrap_or_default();
        errors.invalid(&list, shown, "Approved and Denied conditions are mutually exclusive");
    }
}

pub(super) fn signing_request_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    conditions(new, errors);
    for kind in ["Approved", "Denied", "Failed"] {
        let has =
            |object: &Value| object.list_at(&["status", "conditions"]).iter().any(|one| one.str_at(&["type"]) == kind);
        if has(old) && !has(new) {
            let detail = format!("updates may not remove a condition of type {}", crate::quote(kind));
            errors.forbidden(&Path::new("status.conditions"), detail);
        }
    }
    let certificate = ["status", "certificate"];
    let before = old.str_at(&certificate);
    if !before.is_empty() && before != new.str_at(&certificate) {
        errors.forbidden(&Path::new("status.certificate"), "updates may not set certificate content");
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{creates, status_updates, updates};
    use crate::strategy::KindRef;
    use serde_json::json;

    #[test]
    fn roles_and_bindings() {
        let kind = KindRef::builtin("rbac.authorization.k8s.io", "Role", true);
        let base = json!({"metadata": {"name": "r:1", "namespace": "n"}});
        creates(
            kind,
            &base,
            &[
                (json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}), &[]),
                (
                    json!({"rules": [{"apiGroups": [""], "resources": ["pods"]}]}),
                    &["rules[0].verbs: Required value: verbs must contain at least one value"],
                ),
                (
                    json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]}),
                    &[
                        "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
                    ],
                ),
            ],
        );
        let kind = KindRef::builtin("rbac.authorization.k8s.io", "ClusterRoleBinding", false);
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"});
        let base = json!({"metadata": {"name": "b"}, "roleRef": role});
        creates(
            kind,
            &base,
            &[
                (json!({}), &[]),
                (
                    json!({"subjects": [{"kind": "ServiceAccount", "name": "s"}]}),
                    &["subjects[0].namespace: Required value"],
                ),
                (
                    json!({"roleRef": {"kind": "Role"}}),
                    &["roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\""],
                ),
            ],
        );
        let patch = json!({"roleRef": {"name": "x"}});
        updates(
            kind,
            &base,
            &[(
                patch,
                &[
                    "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"x\"}: \
             cannot change roleRef",
                ],
            )],
        );
    }

    #[test]
    fn signing_requests() {
        let kind = KindRef::builtin("certificates.k8s.io", "CertificateSigningRequest", false);
        let base = json!({"metadata": {"name": "c"}, "spec": {"request": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KQUE9PQotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K", "usages": ["client auth"],
            "signerName": "a.b/c"}});
        creates(
            kind,
            &base,
            &[
                (json!({}), &[]),
                (json!({"spec": {"usages": []}}), &["spec.usages: Required value"]),
                (json!({"spec": {"usages": ["any", "any"]}}), &["spec.usages[1]: Duplicate value: \"any\""]),
                (
                    json!({"spec": {"request": "eA=="}}),
                    &["spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST"],
                ),
                (
                    json!({"spec": {"signerName": "x"}}),
                    &["spec.signerName: Invalid value: \"x\": must be a fully qualified domain and path of the form \
                 'example.com/signer-name'"],
                ),
                (
                    json!({"spec": {"expirationSeconds": 5}}),
                    &[
                        "spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 600 seconds (10 minutes)",
                    ],
                ),
            ],
        );
        let mut approved = base;
        approved["status"] = json!({"conditions": [{"type": "Approved", "status": "True"}]});
        status_updates(
            kind,
            &approved,
            &[(
                json!({"status": {"conditions": []}}),
                &["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""],
            )],
        );
    }
}
