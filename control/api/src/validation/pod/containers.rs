//! Containers of every sort: ordinary, init, ephemeral.

use std::collections::BTreeSet;

use super::super::check::{self, given, one_of};
use super::super::endpoints::PROTOCOLS;
use super::super::resources;
use super::{Around, env, probes, security, volumes};
use crate::names;
use crate::{FieldErrors, Path, Value};

const POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const MAX_RESTART_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const NOT_FOR_INIT: &str = "may not be set for init containers without restartPolicy=Always";
const NOT_FOR_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

pub(super) fn all(spec: &Value, around: &Around<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let ordinary = spec.list_at(&["containers"]);
    let list = path.child("containers");
    if ordinary.is_empty() {
        errors.required(&list, "");
    }
    let mut names = BTreeSet::new();
    for (at, container) in ordinary.iter().enumerate() {
        let path = list.index(at);
        common(container, around, &path, errors);
        if !names.insert(container.str_at(&["name"])) {
            errors.duplicate(&path.child("name"), container.str_at(&["name"]));
        }
        probes::lifecycle(container, around, &path, errors);
        probes::all(container, &path, errors);
        restart_policy(container, &path, errors);
    }
    host_ports(ordinary, &list, errors);
    init(spec, around, &mut names, &path.child("initContainers"), errors);
    ephemeral(spec, around, names, &path.child("ephemeralContainers"), errors);
}

fn init<'a>(
    spec: &'a Value,
    around: &Around<'_>,
    names: &mut BTreeSet<&'a str>,
    list: &Path<'_>,
    errors: &mut FieldErrors,
) {
    for (at, container) in spec.list_at(&["initContainers"]).iter().enumerate() {
        let path = list.index(at);
        common(container, around, &path, errors);
        restart_policy(container, &path, errors);
        let name = container.str_at(&["name"]);
        if !name.is_empty() && !names.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        host_ports(std::slice::from_ref(container), list, errors);
        if container.str_at(&["restartPolicy"]) == "Always" {
            probes::lifecycle(container, around, &path, errors);
            probes::all(container, &path, errors);
            continue;
        }
        for member in std::iter::once("lifecycle").chain(PROBES) {
            if given(container, &[member]).is_some() {
                errors.forbidden(&path.child(member), NOT_FOR_INIT);
            }
        }
    }
}

fn ephemeral<'a>(
    spec: &'a Value,
    around: &Around<'_>,
    mut names: BTreeSet<&'a str>,
    list: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let others = names.clone();
    for (at, container) in spec.list_at(&["ephemeralContainers"]).iter().enumerate() {
        let path = list.index(at);
        common(container, around, &path, errors);
        super::trimmed_image(container, &path, errors);
        if !names.insert(container.str_at(&["name"])) {
            errors.duplicate(&path.child("name"), container.str_at(&["name"]));
        }
        let target = container.str_at(&["targetContainerName"]);
        if !target.is_empty() && !others.contains(target) {
            errors.not_found(&path.child("targetContainerName"), target);
        }
        for member in ["ports", "lifecycle", "resources", "resizePolicy", "restartPolicy"].into_iter().chain(PROBES) {
            if !crate::strategy::semantic_equal(container.get(member), None) {
                errors.forbidden(&path.child(member), NOT_FOR_EPHEMERAL);
            }
        }
        let mounts = path.child("volumeMounts");
        for (at, mount) in container.list_at(&["volumeMounts"]).iter().enumerate() {
            for member in ["subPath", "subPathExpr"] {
                if !mount.str_at(&[member]).is_empty() {
                    errors.forbidden(&mounts.index(at).child(member), NOT_FOR_EPHEMERAL);
                }
            }
        }
    }
}

fn common(container: &Value, around: &Around<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    check::required_name(container, "name", names::dns_label, path, errors);
    check::required(container, "image", path, errors);
    one_of(container, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"], path, errors);
    ports(container, &path.child("ports"), errors);
    env::env(container, around, path, errors);
    volumes::mounts(container, around.volumes, path, errors);
    one_of(container, "imagePullPolicy", &POLICIES_OF_PULL, path, errors);
    let wanted = container.get("resources");
    resources::requirements(wanted, false, &around.claims, &path.child("resources"), errors);
    resize_policy(container, around, &path.child("resizePolicy"), errors);
    security::container(container, around, &path.child("securityContext"), errors);
}

const POLICIES_OF_PULL: [&str; 3] = ["Always", "IfNotPresent", "Never"];

fn ports(container: &Value, list: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (at, port) in container.list_at(&["ports"]).iter().enumerate() {
        let path = list.index(at);
        let name = port.str_at(&["name"]);
        if !name.is_empty() {
            let broken = names::port_name(name);
            if broken.is_empty() && !seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
            errors.invalid_each(&path.child("name"), name, broken);
        }
        if port.int_at(&["containerPort"]).unwrap_or(0) == 0 {
            errors.required(&path.child("containerPort"), "");
        } else {
            check::port(port, "containerPort", &path, errors);
        }
        if port.int_at(&["hostPort"]).unwrap_or(0) != 0 {
            check::port(port, "hostPort", &path, errors);
        }
        one_of(port, "protocol", &PROTOCOLS, &path, errors);
    }
}

fn host_ports(containers: &[Value], list: &Path<'_>, errors: &mut FieldErrors) {
    let mut taken = BTreeSet::new();
    for (at, container) in containers.iter().enumerate() {
        let path = list.index(at);
        let ports = path.child("ports");
        for (at, port) in container.list_at(&["ports"]).iter().enumerate() {
            let number = port.int_at(&["hostPort"]).unwrap_or(0);
            if number == 0 {
                continue;
            }
            let key = format!("{}/{}/{number}", port.str_at(&["protocol"]), port.str_at(&["hostIP"]));
            if taken.contains(&key) {
                errors.duplicate(&ports.index(at).child("hostPort"), key);
            } else {
                taken.insert(key);
            }
        }
    }
}

fn resize_policy(container: &Value, around: &Around<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (at, policy) in container.list_at(&["resizePolicy"]).iter().enumerate() {
        let (resource, restart) = (policy.str_at(&["resourceName"]), policy.str_at(&["restartPolicy"]));
        if !seen.insert(resource) {
            errors.duplicate(&path.index(at), resource);
        }
        for (text, known) in [(resource, ["cpu", "memory"]), (restart, ["NotRequired", "RestartContainer"])] {
            if text.is_empty() {
                errors.required(path, "");
            } else if !known.contains(&text) {
                errors.not_supported(path, text, &known);
            }
        }
        if around.restart_policy == "Never" && restart != "NotRequired" {
            errors.invalid(path, restart, "must be 'NotRequired' when pod `restartPolicy` is 'Never'");
        }
    }
}

fn restart_policy(container: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let rules = container.list_at(&["restartPolicyRules"]);
    if given(container, &["restartPolicy"]).is_none() {
        if !rules.is_empty() {
            let detail = "must specify restartPolicy when restart rules are used";
            errors.required(&path.child("restartPolicy"), detail);
        }
    } else {
        check::known_if_given(container, "restartPolicy", &POLICIES, path, errors);
    }
    let list = path.child("restartPolicyRules");
    if rules.len() > MAX_RESTART_RULES {
        errors.too_many(&list, rules.len(), MAX_RESTART_RULES);
    }
    for (at, rule) in rules.iter().enumerate() {
        let path = list.index(at);
        one_of(rule, "action", &["Restart", "RestartAllContainers"], &path, errors);
        let Some(codes) = given(rule, &["exitCodes"]) else {
            errors.required(&path.child("exitCodes"), "must be specified");
            continue;
        };
        let path = path.child("exitCodes");
        one_of(codes, "operator", &["In", "NotIn"], &path, errors);
        let values = codes.list_at(&["values"]);
        if values.len() > MAX_EXIT_CODES {
            errors.too_many(&path.child("values"), values.len(), MAX_EXIT_CODES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::check::tests::{creates, merged};
    use super::super::tests::{POD, base, container, spec, with};
    use serde_json::{Value as Json, json};

    #[expect(clippy::needless_pass_by_value, reason = "callers build the patch in place")]
    fn init(patch: Json) -> Json {
        let own = merged(&container(), &json!({"name": "init"}));
        spec(json!({"initContainers": [merged(&own, &patch)]}))
    }

    #[test]
    fn containers_are_judged() {
        let port = json!({"containerPort": 80, "hostPort": 80, "protocol": "TCP"});
        creates(
            POD,
            &base(),
            &[
                (with(json!({"name": ""})), &["spec.containers[0].name: Required value"]),
                (with(json!({"image": null})), &["spec.containers[0].image: Required value"]),
                (
                    with(json!({"image": " i"})),
                    &["spec.containers[0].image: Invalid value: \" i\": must not have leading or trailing whitespace"],
                ),
                (
                    spec(json!({"containers": [container(), container()]})),
                    &["spec.containers[1].name: Duplicate value: \"c\""],
                ),
                (
                    with(json!({"ports": [{"protocol": "TCP"}]})),
                    &["spec.containers[0].ports[0].containerPort: Required value"],
                ),
                (
                    with(json!({"ports": [port, port]})),
                    &["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\""],
                ),
                (
                    with(json!({"imagePullPolicy": "Maybe"})),
                    &[
                        "spec.containers[0].imagePullPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \
                   \"IfNotPresent\", \"Never\"",
                    ],
                ),
                (
                    with(json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}})),
                    &[
                        "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit \
                   of 1",
                    ],
                ),
                (init(json!({})), &[]),
                (init(json!({"restartPolicy": "Always", "readinessProbe": {"tcpSocket": {"port": 1}}})), &[]),
                (
                    init(json!({"readinessProbe": {"tcpSocket": {"port": 1}}})),
                    &["spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without \
                   restartPolicy=Always"],
                ),
                (init(json!({"name": "c"})), &["spec.initContainers[0].name: Duplicate value: \"c\""]),
                (
                    spec(json!({"ephemeralContainers": [merged(&container(), &json!({
                    "name": "e", "targetContainerName": "x", "ports": [{"containerPort": 1, "protocol": "TCP"}]}))]})),
                    &[
                        "spec.ephemeralContainers[0].targetContainerName: Not found: \"x\"",
                        "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
                        "spec.ephemeralContainers: Forbidden: cannot be set on create",
                    ],
                ),
            ],
        );
    }
}
