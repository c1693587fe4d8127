//! Pods and pod templates.

mod containers;
mod env;
mod probes;
mod scheduling;
mod security;
mod update;
mod volumes;

use std::collections::BTreeSet;

pub(super) use scheduling::{node_selector, tolerations};
pub(super) use update::{ephemeral_update, resize, status_update, update};
pub(super) use volumes::host_path;

use super::check::{self, given, labels, maybe_name, one_of, texts};
use super::metadata::annotations;
use super::resources;
use crate::names;
use crate::{FieldErrors, Path, Value};

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_BYTES: usize = 2048;
const MAX_HOSTNAME: usize = 64;
const MAX_SECONDS: i64 = 2_147_483_647;

/// What containers need to know of the pod around them.
struct Around<'a> {
    volumes: &'a [Value],
    claims: BTreeSet<&'a str>,
    restart_policy: &'a str,
    grace: Option<i64>,
    host_users: bool,
    os: &'a str,
}

/// A pod that is created.
pub(super) fn create(pod: &Value, errors: &mut FieldErrors) {
    metadata_and_spec(pod, errors);
    let path = Path::new("spec");
    if !pod.list_at(&["spec", "ephemeralContainers"]).is_empty() {
        errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    let gated = !pod.list_at(&["spec", "schedulingGates"]).is_empty();
    if gated && !pod.str_at(&["spec", "nodeName"]).is_empty() {
        errors.forbidden(&path.child("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
}

/// What holds for a pod at any time.
fn metadata_and_spec(pod: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let Some(spec) = given(pod, &["spec"]) else { return errors.required(&path, "") };
    self::spec(spec, pod.str_at(&["metadata", "name"]), true, &path, errors);
    if spec.str_at(&["serviceAccountName"]).is_empty() {
        tokens_without_account(spec, &path, errors);
    }
    for list in ["containers", "initContainers"] {
        let list_path = path.child(list);
        for (at, container) in spec.list_at(&[list]).iter().enumerate() {
            trimmed_image(container, &list_path.index(at), errors);
        }
    }
}

fn trimmed_image(container: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let image = container.str_at(&["image"]);
    if image.trim() != image {
        errors.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
}

fn tokens_without_account(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("volumes");
    for (at, volume) in spec.list_at(&["volumes"]).iter().enumerate() {
        let volume_path = list.index(at);
        let sources = volume_path.child("projected.sources");
        for (at, source) in volume.list_at(&["projected", "sources"]).iter().enumerate() {
            if given(source, &["serviceAccountToken"]).is_some() {
                let detail = "must not be specified when serviceAccountName is not set";
                errors.forbidden(&sources.index(at).child("serviceAccountToken"), detail);
            }
        }
    }
}

/// The template of pods.
pub(super) fn template(template: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(template) = template.filter(|template| !template.is_null()) else { return errors.required(path, "") };
    labels(template.at(&["metadata", "labels"]), &path.child("labels"), errors);
    annotations(template.at(&["metadata", "annotations"]), &path.child("annotations"), errors);
    let empty = Value::object();
    let spec = given(template, &["spec"]).unwrap_or(&empty);
    self::spec(spec, "", false, &path.child("spec"), errors);
    if !spec.list_at(&["ephemeralContainers"]).is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.forbidden(&path.child("spec.ephemeralContainers"), detail);
    }
}

/// `spec` of a pod (`is_pod`) or of a template.
fn spec(spec: &Value, pod_name: &str, is_pod: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut around = Around {
        volumes: spec.list_at(&["volumes"]),
        claims: spec.list_at(&["resourceClaims"]).iter().map(|claim| claim.str_at(&["name"])).collect(),
        restart_policy: spec.str_at(&["restartPolicy"]),
        grace: spec.int_at(&["terminationGracePeriodSeconds"]),
        host_users: spec.bool_at(&["hostUsers"]).unwrap_or(true),
        os: spec.str_at(&["os", "name"]),
    };
    if around.grace.is_none() {
        errors.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let before = errors.len();
    volumes::volumes(around.volumes, pod_name, &path.child("volumes"), errors);
    let sound: Vec<Value>;
    if errors.len() > before {
        sound = around.volumes.iter().filter(|volume| volumes::is_sound(volume, pod_name)).cloned().collect();
        around.volumes = &sound;
    }
    resource_claims(spec, &path.child("resourceClaims"), errors);
    containers::all(spec, &around, path, errors);
    let whole = spec.get("resources");
    resources::requirements(whole, true, &around.claims, &path.child("resources"), errors);
    host_network_ports(spec, is_pod, path, errors);
    one_of(spec, "restartPolicy", &["Always", "OnFailure", "Never"], path, errors);
    one_of(spec, "dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], path, errors);
    labels(spec.get("nodeSelector"), &path.child("nodeSelector"), errors);
    security::pod(spec, &path.child("securityContext"), errors);
    scheduling::affinity(spec, &path.child("affinity"), errors);
    dns_config(spec, &path.child("dnsConfig"), errors);
    gates(spec, path, errors);
    scheduling::spread(spec, &path.child("topologySpreadConstraints"), errors);
    security::host_users(spec, path, errors);
    hostname_override(spec, path, errors);
    small_fields(spec, path, errors);
    tolerations(spec, &path.child("tolerations"), errors);
    host_aliases(spec, &path.child("hostAliases"), errors);
    overhead(spec, &path.child("overhead"), errors);
    security::operating_system(spec, path, errors);
}

fn small_fields(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for member in ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] {
        maybe_name(spec, member, names::dns_subdomain, path, errors);
    }
    for member in ["hostname", "subdomain"] {
        maybe_name(spec, member, names::dns_label, path, errors);
    }
    if let Some(seconds) = spec.int_at(&["activeDeadlineSeconds"]).filter(|s| !(1..=MAX_SECONDS).contains(s)) {
        errors.invalid(&path.child("activeDeadlineSeconds"), seconds, names::range_message(1, MAX_SECONDS));
    }
    check::maybe_one_of(spec, "preemptionPolicy", &["PreemptLowerPriority", "Never"], path, errors);
}

fn resource_claims(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (at, claim) in spec.list_at(&["resourceClaims"]).iter().enumerate() {
        let path = path.index(at);
        let name = claim.str_at(&["name"]);
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if seen.insert(name) {
            errors.invalid_each(&path.child("name"), name, names::dns_label(name));
        } else {
            errors.duplicate(&path.child("name"), name);
        }
        let is_given = |member| given(claim, &[member]).is_some();
        match (is_given("resourceClaimName"), is_given("resourceClaimTemplateName")) {
            (true, true) => errors.invalid(
                &path,
                claim.clone(),
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
            (false, false) => errors.invalid(
                &path,
                claim.clone(),
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
            _ => {}
        }
        for member in ["resourceClaimName", "resourceClaimTemplateName"] {
            maybe_name(claim, member, names::dns_subdomain, &path, errors);
        }
    }
}

fn host_network_ports(spec: &Value, is_pod: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    if spec.bool_at(&["hostNetwork"]) != Some(true) {
        return;
    }
    let list = path.child("containers");
    for (at, container) in spec.list_at(&["containers"]).iter().enumerate() {
        let container_path = list.index(at);
        let ports = container_path.child("ports");
        for (at, port) in container.list_at(&["ports"]).iter().enumerate() {
            let (host, own) = (port.int_at(&["hostPort"]).unwrap_or(0), port.int_at(&["containerPort"]).unwrap_or(0));
            if (is_pod || host != 0) && host != own {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(&ports.index(at).child("hostPort"), host, detail);
            }
        }
    }
}

fn dns_config(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let config = given(spec, &["dnsConfig"]);
    let servers = config.map(|config| texts(config, &["nameservers"])).unwrap_or_default();
    if spec.str_at(&["dnsPolicy"]) == "None" {
        if config.is_none() {
            return errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return errors.required(&path.child("nameservers"), detail);
        }
    }
    let Some(config) = config else { return };
    let shown = |member: &str| config.get(member).cloned().unwrap_or_default();
    let list = path.child("nameservers");
    if servers.len() > MAX_NAMESERVERS {
        errors.invalid(&list, shown("nameservers"), format!("must not have more than {MAX_NAMESERVERS} nameservers"));
    }
    for (at, server) in servers.iter().enumerate() {
        check::legacy(server, &[], names::ip, &list.index(at), errors);
    }
    let (searches, list) = (texts(config, &["searches"]), path.child("searches"));
    if searches.len() > MAX_SEARCHES {
        errors.invalid(&list, shown("searches"), format!("must not have more than {MAX_SEARCHES} search paths"));
    }
    if searches.join(" ").len() > MAX_SEARCH_BYTES {
        let detail =
            format!("must not have more than {MAX_SEARCH_BYTES} characters (including spaces) in the search list");
        errors.invalid(&list, shown("searches"), detail);
    }
    for (at, search) in searches.iter().enumerate().filter(|(_, search)| **search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        errors.invalid_each(&list.index(at), search, names::dns_subdomain_underscore(search));
    }
    let list = path.child("options");
    for (at, option) in config.list_at(&["options"]).iter().enumerate() {
        if option.str_at(&["name"]).is_empty() {
            errors.required(&list.index(at), "must not be empty");
        }
    }
}

fn gates(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("readinessGates");
    for (at, gate) in spec.list_at(&["readinessGates"]).iter().enumerate() {
        let kind = gate.str_at(&["conditionType"]);
        errors.invalid_each(&list.index(at).child("conditionType"), kind, names::qualified_name(kind));
    }
    let list = path.child("schedulingGates");
    let mut seen = BTreeSet::new();
    for (at, gate) in spec.list_at(&["schedulingGates"]).iter().enumerate() {
        let name = gate.str_at(&["name"]);
        errors.invalid_each(&list.index(at), name, names::qualified_name(name));
        if !seen.insert(name) {
            errors.duplicate(&list.index(at), name);
        }
    }
}

fn hostname_override(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(name) = given(spec, &["hostnameOverride"]).and_then(Value::as_str) else { return };
    let path = path.child("hostnameOverride");
    for (member, words) in [("setHostnameAsFQDN", "setHostnameAsFQDN"), ("hostNetwork", "hostNetwork")] {
        if spec.bool_at(&[member]) == Some(true) {
            errors.forbidden(&path, format!("may not be specified when {words} is true"));
        }
    }
    if name.len() > MAX_HOSTNAME {
        errors.too_long(&path, MAX_HOSTNAME);
    }
    errors.invalid_each(&path, name, names::dns_subdomain(name));
}

fn host_aliases(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (at, alias) in spec.list_at(&["hostAliases"]).iter().enumerate() {
        let path = path.index(at);
        check::legacy(alias.str_at(&["ip"]), &[], names::ip, &path.child("ip"), errors);
        let list = path.child("hostnames");
        for (at, name) in texts(alias, &["hostnames"]).into_iter().enumerate() {
            errors.invalid_each(&list.index(at), name, names::dns_subdomain(name));
        }
    }
}

fn overhead(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (name, value) in check::entries(spec, &["overhead"]) {
        let path = path.child("limits");
        resources::container_resource(name, &path.key(name), errors);
        resources::amount(name, value, &path.key(name), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{creates, merged};
    use crate::strategy::KindRef;
    use serde_json::{Value as Json, json};

    pub(super) const POD: KindRef<'static> = KindRef::builtin("", "Pod", true);

    pub(super) fn container() -> Json {
        json!({"name": "c", "image": "i", "terminationMessagePolicy": "File", "imagePullPolicy": "Always"})
    }

    pub(super) fn base() -> Json {
        json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {
            "containers": [container()], "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
            "terminationGracePeriodSeconds": 30, "serviceAccountName": "default",
        }})
    }

    #[expect(clippy::needless_pass_by_value, reason = "callers build the patch in place")]
    pub(super) fn spec(patch: Json) -> Json {
        json!({"spec": patch})
    }

    /// A patch that gives the pod one container with these members.
    #[expect(clippy::needless_pass_by_value, reason = "callers build the patch in place")]
    pub(super) fn with(patch: Json) -> Json {
        spec(json!({"containers": [merged(&container(), &patch)]}))
    }

    #[test]
    fn specs_are_judged() {
        creates(
            POD,
            &base(),
            &[
                (json!({}), &[]),
                (spec(json!({"containers": []})), &["spec.containers: Required value"]),
                (
                    spec(json!({"restartPolicy": "Sometimes"})),
                    &[
                        "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \
                   \"Never\"",
                    ],
                ),
                (
                    spec(json!({"activeDeadlineSeconds": 0})),
                    &["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
                ),
                (
                    spec(json!({"dnsPolicy": "None"})),
                    &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
                ),
                (
                    spec(json!({"dnsConfig": {"nameservers": ["x"], "searches": ["a_b.", "."], "options": [{}]}})),
                    &[
                        "spec.dnsConfig.nameservers[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or \
                     2001:db8::ffff)",
                        "spec.dnsConfig.options[0]: Required value: must not be empty",
                    ],
                ),
                (spec(json!({"ephemeralContainers": []})), &[]),
                (
                    spec(json!({"nodeName": "n", "schedulingGates": [{"name": "g"}, {"name": "g"}]})),
                    &[
                        "spec.schedulingGates[1]: Duplicate value: \"g\"",
                        "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
                    ],
                ),
                (
                    spec(json!({"resourceClaims": [{"name": "a"}]})),
                    &[
                        "spec.resourceClaims[0]: Invalid value: {\"name\":\"a\"}: must specify one of: `resourceClaimName`, \
                   `resourceClaimTemplateName`",
                    ],
                ),
                (
                    spec(json!({"hostAliases": [{"ip": "1.2.3.4", "hostnames": ["A"]}], "hostNetwork": true})),
                    &[
                        "spec.hostAliases[0].hostnames[0]: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist \
                   of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric \
                   character (e.g. 'example.com', regex used for validation is \
                   '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    ],
                ),
            ],
        );
    }
}
