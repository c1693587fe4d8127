//! Pods and their templates.

use super::{addresses::ip, selectors, volumes};
use crate::Value;
use std::collections::{BTreeMap, BTreeSet};

const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APPARMOR_CONTAINER: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";

/// A pod, or a template at a path.
struct Look<'a> {
    object: &'a Value,
    /// Where the object is, with a dot behind it when it is somewhere.
    path: String,
    is_template: bool,
}

/// Tells about a pod (`path` is empty), or about a template.
pub(super) fn pod(object: &Value, path: &str, out: &mut Vec<String>) {
    let dotted = if path.is_empty() { String::new() } else { format!("{path}.") };
    let look = Look { object, path: dotted, is_template: !path.is_empty() };
    look.placement(out);
    look.annotations(out);
    volumes::of_pod(look.spec(&["volumes"]), &look.at("volumes"), out);
    look.lists(out);
    for resource in ["memory", "ephemeral-storage"] {
        volumes::fraction(object.at(&["spec", "overhead"]), resource, &look.at("overhead"), out);
    }
    look.containers(out);
    look.ports(out);
    look.rest(out);
}

fn is_null(value: Option<&Value>) -> bool {
    value.is_none_or(Value::is_null)
}

impl<'a> Look<'a> {
    fn at(&self, field: &str) -> String {
        format!("{}spec.{field}", self.path)
    }

    fn spec(&self, path: &[&str]) -> &'a [Value] {
        let path: Vec<&str> = ["spec"].iter().chain(path).copied().collect();
        self.object.list_at(&path)
    }

    fn annotation(&self, name: &str) -> bool {
        self.object.at(&["metadata", "annotations", name]).is_some()
    }

    fn placement(&self, out: &mut Vec<String>) {
        let path = self.at("nodeSelector");
        let labels = selectors::labels(self.object.at(&["spec", "nodeSelector"]));
        out.extend(labels.map(|(label, message)| format!("{path}[{label}]: {message}")));
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        let terms = self.spec(&["affinity", "nodeAffinity", required, "nodeSelectorTerms"]);
        for (at, term) in terms.iter().enumerate() {
            let path = self.at(&format!("affinity.nodeAffinity.{required}.nodeSelectorTerms[{at}]"));
            selectors::term(term, &path, false, out);
        }
        for (at, term) in self.spec(&["affinity", "nodeAffinity", preferred]).iter().enumerate() {
            let path = self.at(&format!("affinity.nodeAffinity.{preferred}[{at}].preference"));
            selectors::term(term.get("preference").unwrap_or(&Value::Null), &path, true, out);
        }
        for (at, spread) in self.spec(&["topologySpreadConstraints"]).iter().enumerate() {
            let path = self.at(&format!("topologySpreadConstraints[{at}]"));
            selectors::key(&format!("{path}.topologyKey"), spread.str_at(&["topologyKey"]), out);
            if is_null(spread.get("labelSelector")) {
                out.push(format!("{path}.labelSelector: {NO_SELECTOR}"));
            }
        }
    }

    fn annotations(&self, out: &mut Vec<String>) {
        let there = ANNOTATIONS.iter().filter(|(name, _)| self.annotation(name));
        out.extend(there.map(|(name, message)| format!("{}metadata.annotations[{name}]: {message}", self.path)));
    }

    /// Lists whose entries should differ.
    fn lists(&self, out: &mut Vec<String>) {
        for (list, field) in [("hostAliases", "ip"), ("imagePullSecrets", "name")] {
            let mut seen = BTreeSet::new();
            for (at, entry) in self.spec(&[list]).iter().enumerate() {
                let text = entry.str_at(&[field]);
                if !seen.insert(text) {
                    out.push(format!("{}: duplicate {field} {text:?}", self.at(&format!("{list}[{at}].{field}"))));
                }
            }
        }
        for (at, secret) in self.spec(&["imagePullSecrets"]).iter().enumerate() {
            if secret.str_at(&["name"]).is_empty() {
                out.push(format!("{}: invalid empty name \"\"", self.at(&format!("imagePullSecrets[{at}].name"))));
            }
        }
    }

    /// Containers with their paths, in upstream's order.
    fn each(&self) -> impl Iterator<Item = (&'a Value, String)> {
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |list| {
            let containers = self.spec(&[list]).iter().enumerate();
            containers.map(move |(at, container)| (container, self.at(&format!("{list}[{at}]"))))
        })
    }

    fn containers(&self, out: &mut Vec<String>) {
        let security = self.object.at(&["spec", "securityContext"]);
        let profile = |context: Option<&Value>, field: &str| !is_null(context.and_then(|context| context.get(field)));
        if !profile(security, "seccompProfile") && self.annotation(SECCOMP_POD) {
            out.push(format!("{}metadata.annotations[{SECCOMP_POD}]: {SECCOMP}", self.path));
        }
        for (container, path) in self.each() {
            let (name, own) = (container.str_at(&["name"]), container.get("securityContext"));
            let seccomp = format!("{SECCOMP_CONTAINER}{name}");
            if !profile(own, "seccompProfile") && self.annotation(&seccomp) {
                out.push(format!("{}metadata.annotations[{seccomp}]: {SECCOMP}", self.path));
            }
            let apparmor = format!("{APPARMOR_CONTAINER}{name}");
            let said = profile(own, "appArmorProfile") || profile(security, "appArmorProfile");
            if self.is_template && !said && self.annotation(&apparmor) {
                let message = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
                out.push(format!("{}metadata.annotations[{apparmor}]: {message}", self.path));
            }
            for resource in ["memory", "ephemeral-storage"] {
                for part in ["limits", "requests"] {
                    let amounts = container.at(&["resources", part]);
                    volumes::fraction(amounts, resource, &format!("{path}.resources.{part}"), out);
                }
            }
            environment(container, &path, out);
        }
    }

    fn ports(&self, out: &mut Vec<String>) {
        let mut known: BTreeMap<String, Vec<(String, &Value)>> = BTreeMap::new();
        let mut names: BTreeMap<&str, String> = BTreeMap::new();
        let mut named = Vec::new();
        for (container, path) in self.each() {
            for (at, port) in container.list_at(&["ports"]).iter().enumerate() {
                let path = format!("{path}.ports[{at}]");
                out.extend(only_address(port).map(|shown| format!("{path}: hostIP set without hostPort: {shown}")));
                let key = format!("{}/{}", port.int_at(&["containerPort"]).unwrap_or(0), port.str_at(&["protocol"]));
                let others = known.entry(key).or_default();
                out.extend(others.iter().filter_map(|(other_path, other)| {
                    Some(format!("{path}: {} with {other_path}", overlap(port, other)?))
                }));
                others.push((path.clone(), port));
                let name = port.str_at(&["name"]);
                match names.get(name).filter(|_| !name.is_empty()) {
                    Some(other) => named.push(format!(
                        "{path}: duplicate port name {name:?} with {other}, services and probes that select ports by \
                         name will use {other}"
                    )),
                    None => drop(names.insert(name, path)),
                }
            }
        }
        out.extend(named);
    }

    fn rest(&self, out: &mut Vec<String>) {
        if self.object.int_at(&["spec", "terminationGracePeriodSeconds"]).is_some_and(|seconds| seconds < 0) {
            let path = self.at("terminationGracePeriodSeconds");
            out.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
        }
        for kind in ["podAffinity", "podAntiAffinity"] {
            for (when, inner) in [("required", ""), ("preferred", "podAffinityTerm")] {
                let when = format!("{when}DuringSchedulingIgnoredDuringExecution");
                for (at, term) in self.spec(&["affinity", kind, &when]).iter().enumerate() {
                    let (term, inner) = match inner {
                        "" => (Some(term), String::new()),
                        inner => (term.get(inner), format!(".{inner}")),
                    };
                    if is_null(term.and_then(|term| term.get("labelSelector"))) {
                        let path = self.at(&format!("affinity.{kind}.{when}[{at}]{inner}.labelSelector"));
                        out.push(format!("{path}: {NO_SELECTOR}"));
                    }
                }
            }
        }
        for (at, server) in self.spec(&["dnsConfig", "nameservers"]).iter().filter_map(Value::as_str).enumerate() {
            ip(&self.at(&format!("dnsConfig.nameservers[{at}]")), server, out);
        }
        for (at, alias) in self.spec(&["hostAliases"]).iter().enumerate() {
            ip(&self.at(&format!("hostAliases[{at}].ip")), alias.str_at(&["ip"]), out);
        }
    }
}

/// Variables that hide earlier ones.
fn environment(container: &Value, path: &str, out: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (at, variable) in container.list_at(&["env"]).iter().enumerate() {
        let (name, value) = (variable.str_at(&["name"]), variable.str_at(&["value"]));
        if seen.insert(name) {
            continue;
        }
        let reference = format!("$({name})");
        let builds_on = is_null(variable.get("valueFrom")) && value != reference && value.contains(&reference);
        if !builds_on {
            out.push(format!(
                "{path}.env[{at}]: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
    }
}

/// A port that names an address of the node and no port of it, as Go prints it.
fn only_address(port: &Value) -> Option<String> {
    let (address, number) = (port.str_at(&["hostIP"]), |field: &str| port.int_at(&[field]).unwrap_or(0));
    (!address.is_empty() && number("hostPort") == 0).then(|| {
        let (name, protocol) = (port.str_at(&["name"]), port.str_at(&["protocol"]));
        format!(
            "{{Name:{name} HostPort:0 ContainerPort:{} Protocol:{protocol} HostIP:{address}}}",
            number("containerPort")
        )
    })
}

/// How two ports of the same number and protocol stand to each other.
fn overlap(a: &Value, b: &Value) -> Option<&'static str> {
    let address = |port: &'_ Value| port.str_at(&["hostIP"]).to_owned();
    let number = |port: &Value| port.int_at(&["hostPort"]).unwrap_or(0);
    if address(a) == address(b) && number(a) == number(b) {
        Some("duplicate port definition")
    } else if number(a) == 0 || number(b) == 0 {
        Some("overlapping port definition")
    } else if number(a) == number(b) && address(a).is_empty() != address(b).is_empty() {
        Some("dangerously ambiguous port definition")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_are_told_about_in_upstreams_words() {
        let affinity =
            json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"podAffinityTerm": {}}]}});
        let ports = json!([{"name": "a", "containerPort": 1, "protocol": "TCP"},
            {"name": "a", "containerPort": 1, "protocol": "TCP", "hostPort": 5}, {"containerPort": 2, "hostIP": "1.2.3.4"}]);
        let pod_json = json!({"metadata": {"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "x"}}, "spec": {
            "hostAliases": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.1"}], "imagePullSecrets": [{"name": ""}],
            "terminationGracePeriodSeconds": -1, "affinity": affinity,
            "topologySpreadConstraints": [{"topologyKey": "beta.kubernetes.io/os"}],
            "containers": [{"name": "c", "ports": ports, "resources": {"limits": {"memory": "1500m"}},
                "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}, {"name": "A", "value": "3"}]}]}});
        let mut out = Vec::new();
        pod(&pod_json.into(), "", &mut out);
        assert_eq!(
            out,
            [
                "spec.topologySpreadConstraints[0].topologyKey: beta.kubernetes.io/os is deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
                "spec.hostAliases[1].ip: duplicate ip \"1.1.1.1\"",
                "spec.imagePullSecrets[0].name: invalid empty name \"\"",
                "metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the \"seccompProfile\" field instead",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
                "spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
                "spec.containers[0].ports[2]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:2 Protocol: HostIP:1.2.3.4}",
                "spec.containers[0].ports[1]: duplicate port name \"a\" with spec.containers[0].ports[0], services and probes that select ports by name will use spec.containers[0].ports[0]",
                "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
                "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector: a null labelSelector results in matching no pod",
            ]
        );
    }
}
