//! The environment of a container: service links, imported maps, references, and `$(NAME)` expansion.

use super::quantity::{milli, units};
use super::resources::{limit, request};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, ResourceFieldSelector, Secret};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use thiserror::Error;

/// Why an environment cannot be made; the text is what the user sees.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum EnvError {
    #[error("{kind} {name:?} not found")]
    NoObject { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { kind: &'static str, namespace: String, name: String, key: String },
    #[error("field label not supported: {0}")]
    Field(String),
    #[error("container {0} not found")]
    NoContainer(String),
    #[error("unsupported container resource: {0}")]
    Resource(String),
}

/// Objects that a pod refers to, fetched before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    pub(crate) config_maps: BTreeMap<String, Arc<ConfigMap>>,
    pub(crate) secrets: BTreeMap<String, Arc<Secret>>,
}

/// What the environment tells of pod and node beside the spec.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) node_name: String,
    pub(crate) host_ips: Vec<String>,
    pub(crate) pod_ips: Vec<String>,
    /// CPU in thousandths, memory and ephemeral storage in bytes: stand in for limits that are not set.
    pub(crate) allocatable: BTreeMap<String, i64>,
}

/// A service as pods see it in their environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceLink {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) ip: String,
    /// Name, protocol and number.
    pub(crate) ports: Vec<(String, String, i32)>,
}

/// The environment in order, and the command and arguments with references expanded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    pub(crate) vars: Vec<(String, String)>,
    pub(crate) command: Vec<String>,
    pub(crate) args: Vec<String>,
}

/// Builds a container's environment.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    links: &[ServiceLink],
    facts: &Facts,
) -> Result<Environment, EnvError> {
    let mut vars = Vars::default();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match sources.config_maps.get(&reference.name) {
                Some(map) => map
                    .data
                    .iter()
                    .flatten()
                    .for_each(|(key, value)| vars.set(&format!("{prefix}{key}"), value.clone())),
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoObject { kind: "configmap", name: reference.name.clone() }),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match sources.secrets.get(&reference.name) {
                Some(secret) => {
                    secret
                        .data
                        .iter()
                        .flatten()
                        .for_each(|(key, value)| vars.set(&format!("{prefix}{key}"), text(value)));
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoObject { kind: "secret", name: reference.name.clone() }),
            }
        }
    }
    let service = service_vars(pod, links);
    for one in container.env.iter().flatten() {
        let value = match (&one.value, &one.value_from) {
            (Some(value), _) if !value.is_empty() => {
                Some(expand(value, |name| vars.get(name).or_else(|| service.get(name).cloned())))
            }
            (_, Some(source)) => reference(pod, container, source, sources, facts)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            vars.set(&one.name, value);
        }
    }
    for (name, value) in service {
        if vars.get(&name).is_none() {
            vars.set(&name, value);
        }
    }
    let all =
        |list: &Option<Vec<String>>| list.iter().flatten().map(|one| expand(one, |name| vars.get(name))).collect();
    let (command, args) = (all(&container.command), all(&container.args));
    Ok(Environment { vars: vars.0, command, args })
}

#[derive(Default)]
struct Vars(Vec<(String, String)>);

impl Vars {
    fn get(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1 = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }
}

fn text(bytes: &ByteString) -> String {
    String::from_utf8_lossy(&bytes.0).into_owned()
}

fn reference(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    sources: &Sources,
    facts: &Facts,
) -> Result<Option<String>, EnvError> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    if let Some(field) = &source.field_ref {
        return downward_field(pod, &field.field_path, facts).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return downward_resource(pod, container, resource, facts).map(Some);
    }
    if let Some(key) = &source.config_map_key_ref {
        let optional = key.optional == Some(true);
        let map = sources.config_maps.get(&key.name);
        let found = map.and_then(|map| map.data.as_ref()?.get(&key.key).cloned());
        return required(found, map.is_some(), optional, "configmap", "ConfigMap", namespace, &key.name, &key.key);
    }
    if let Some(key) = &source.secret_key_ref {
        let optional = key.optional == Some(true);
        let secret = sources.secrets.get(&key.name);
        let found = secret.and_then(|secret| secret.data.as_ref()?.get(&key.key).map(text));
        return required(found, secret.is_some(), optional, "secret", "Secret", namespace, &key.name, &key.key);
    }
    Ok(Some(String::new()))
}

#[allow(clippy::too_many_arguments, reason = "two kinds of objects share one rule with their own words")]
fn required(
    found: Option<String>,
    object: bool,
    optional: bool,
    kind: &'static str,
    title: &'static str,
    namespace: String,
    name: &str,
    key: &str,
) -> Result<Option<String>, EnvError> {
    match (found, object) {
        (Some(found), _) => Ok(Some(found)),
        (None, _) if optional => Ok(None),
        (None, false) => Err(EnvError::NoObject { kind, name: name.to_owned() }),
        (None, true) => Err(EnvError::NoKey { kind: title, namespace, name: name.to_owned(), key: key.to_owned() }),
    }
}

/// The value of a field of the pod, as `fieldRef` names it.
pub(crate) fn downward_field(pod: &Pod, path: &str, facts: &Facts) -> Result<String, EnvError> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(EnvError::Field(path.to_owned())),
        };
        return Ok(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let lines = |map: &Option<BTreeMap<String, String>>| {
        let lines: Vec<String> =
            map.iter().flatten().map(|(key, value)| format!("{key}={}", go_quote(value))).collect();
        lines.join("\n")
    };
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(&meta.labels),
        "metadata.annotations" => lines(&meta.annotations),
        "spec.nodeName" => facts.node_name.clone(),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(EnvError::Field(path.to_owned())),
    })
}

/// A string in double quotes with Go's escapes, as downward API files show label values.
fn go_quote(value: &str) -> String {
    let mut out = String::from("\"");
    for character in value.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control.is_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// The value of a container's request or limit, as `resourceFieldRef` names it.
pub(crate) fn downward_resource(
    pod: &Pod,
    container: &Container,
    selector: &ResourceFieldSelector,
    facts: &Facts,
) -> Result<String, EnvError> {
    let named = match selector.container_name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => super::model::container_named(pod, name)
            .map(|(_, found)| found)
            .ok_or_else(|| EnvError::NoContainer(name.into()))?,
        None => container.clone(),
    };
    let (list, name) =
        selector.resource.split_once('.').ok_or_else(|| EnvError::Resource(selector.resource.clone()))?;
    let known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    let value = match list {
        "limits" if known => {
            limit(&named, name).filter(|value| *value > 0).or_else(|| facts.allocatable.get(name).copied())
        }
        "requests" if known => request(&named, name),
        _ => return Err(EnvError::Resource(selector.resource.clone())),
    };
    let value = value.unwrap_or(0);
    let one = Quantity("1".into());
    let divisor = selector.divisor.as_ref().filter(|divisor| divisor.0 != "0" && !divisor.0.is_empty()).unwrap_or(&one);
    let divisor = if name == "cpu" { milli(divisor) } else { units(divisor) }.unwrap_or(1).max(1);
    Ok((value / divisor + i64::from(value % divisor != 0)).to_string())
}

fn service_vars(pod: &Pod, links: &[ServiceLink]) -> BTreeMap<String, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let all = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let master = |link: &&ServiceLink| link.namespace == "default" && link.name == "kubernetes";
    let mut vars = BTreeMap::new();
    let own = links.iter().filter(|link| all && link.namespace == namespace);
    for link in links.iter().filter(master).chain(own) {
        link_vars(link, &mut vars);
    }
    vars
}

fn link_vars(link: &ServiceLink, vars: &mut BTreeMap<String, String>) {
    let Some((_, _, first)) = link.ports.first() else { return };
    let prefix = link.name.to_uppercase().replace('-', "_");
    let host = if link.ip.contains(':') { format!("[{}]", link.ip) } else { link.ip.clone() };
    vars.insert(format!("{prefix}_SERVICE_HOST"), link.ip.clone());
    vars.insert(format!("{prefix}_SERVICE_PORT"), first.to_string());
    for (index, (name, protocol, port)) in link.ports.iter().enumerate() {
        if !name.is_empty() {
            vars.insert(format!("{prefix}_SERVICE_PORT_{}", name.to_uppercase().replace('-', "_")), port.to_string());
        }
        let url = format!("{}://{host}:{port}", protocol.to_lowercase());
        if index == 0 {
            vars.insert(format!("{prefix}_PORT"), url.clone());
        }
        let base = format!("{prefix}_PORT_{port}_{}", protocol.to_uppercase());
        vars.insert(format!("{base}_PROTO"), protocol.to_lowercase());
        vars.insert(format!("{base}_PORT"), port.to_string());
        vars.insert(format!("{base}_ADDR"), link.ip.clone());
        vars.insert(base, url);
    }
}

/// Replaces `$(NAME)` where `lookup` knows the name; `$$` is a literal `$`.
pub(crate) fn expand(input: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    let _ = write!(out, "$({name})");
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// [`expand`], but every name must be known; gives the first that is not.
pub(crate) fn expand_strictly(input: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let missing = std::cell::RefCell::new(None);
    let out = expand(input, |name| {
        let found = lookup(name);
        if found.is_none() {
            missing.borrow_mut().get_or_insert_with(|| name.to_owned());
        }
        found
    });
    missing.into_inner().map_or(Ok(out), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn expansion() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        for (input, expected) in [
            ("x$(A)y", "x1y"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$(A", "$(A"),
            ("$A$", "$A$"),
            ("$$$(A)", "$1"),
            ("", ""),
        ] {
            assert_eq!(expand(input, lookup), expected, "{input}");
        }
        assert_eq!(expand_strictly("$(A)/$$(B)", lookup), Ok("1/$(B)".into()));
        assert_eq!(expand_strictly("$(A)/$(B)", lookup), Err("B".into()));
    }

    fn pod(container: &Value) -> (Pod, Container) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"a": "x\"y"}},
            "spec": {"containers": [container], "serviceAccountName": "sa"},
        }))
        .expect("pod");
        let container = pod.spec.as_ref().expect("spec").containers[0].clone();
        (pod, container)
    }

    fn sources() -> Sources {
        let map = serde_json::from_value(json!({"data": {"k": "v", "k-2": "w"}})).expect("map");
        let secret = serde_json::from_value(json!({"data": {"s": "c2VjcmV0"}})).expect("secret");
        Sources {
            config_maps: [("m".to_owned(), Arc::new(map))].into(),
            secrets: [("s".to_owned(), Arc::new(secret))].into(),
        }
    }

    fn facts() -> Facts {
        Facts {
            node_name: "n".into(),
            host_ips: vec!["10.0.0.1".into()],
            pod_ips: vec!["10.1.0.1".into(), "fd00::1".into()],
            allocatable: [("cpu".to_owned(), 2000), ("memory".to_owned(), 1 << 30)].into(),
        }
    }

    #[allow(clippy::needless_pass_by_value, reason = "called with literals")]
    fn built(container: Value) -> Result<Environment, EnvError> {
        let (pod, container) = pod(&container);
        environment(&pod, &container, &sources(), &[], &facts())
    }

    #[test]
    fn sources_in_order_and_expanded() {
        let got = built(json!({
            "name": "c",
            "command": ["run", "$(FROM_k)", "$(NONE)"],
            "envFrom": [{"prefix": "FROM_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}}],
            "env": [
                {"name": "A", "value": "1"},
                {"name": "B", "value": "$(A)-$(s)-$(LATER)"},
                {"name": "LATER", "value": "x"},
                {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
                {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "none", "optional": true}}},
                {"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
                {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
            ],
        }))
        .expect("environment");
        let expected = [
            ("FROM_k", "v"),
            ("FROM_k-2", "w"),
            ("s", "secret"),
            ("A", "1"),
            ("B", "1-secret-$(LATER)"),
            ("LATER", "x"),
            ("K", "v"),
            ("IPS", "10.1.0.1,fd00::1"),
            ("L", "x\"y"),
        ];
        assert_eq!(got.vars, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(got.command, ["run", "v", "$(NONE)"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let key = |kind: &str, name: &str, key: &str| {
            built(json!({"name": "c", "env": [{"name": "A", "valueFrom": {kind: {"name": name, "key": key}}}]}))
                .expect_err("missing")
                .to_string()
        };
        assert_eq!(key("configMapKeyRef", "x", "k"), "configmap \"x\" not found");
        assert_eq!(key("configMapKeyRef", "m", "z"), "couldn't find key z in ConfigMap ns/m");
        assert_eq!(key("secretKeyRef", "s", "z"), "couldn't find key z in Secret ns/s");
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let (pod, container) = pod(&json!({"name": "c", "resources":
            {"limits": {"cpu": "1500m", "memory": "100Mi"}, "requests": {"cpu": "250m"}}}));
        for (resource, divisor, expected) in [
            ("limits.cpu", "1", "2"),
            ("limits.cpu", "1m", "1500"),
            ("requests.cpu", "0", "1"),
            ("limits.memory", "1Mi", "100"),
            ("limits.memory", "1Gi", "1"),
            ("requests.memory", "1", "104857600"),
            ("limits.ephemeral-storage", "1", "0"),
        ] {
            let selector = ResourceFieldSelector {
                resource: resource.into(),
                divisor: Some(Quantity(divisor.into())),
                container_name: None,
            };
            let got = downward_resource(&pod, &container, &selector, &facts()).expect("value");
            assert_eq!(got, expected, "{resource} / {divisor}");
        }
    }

    #[test]
    fn services_appear_in_the_docker_style() {
        let link = |namespace: &str, name: &str| ServiceLink {
            namespace: namespace.into(),
            name: name.into(),
            ip: "10.0.0.9".into(),
            ports: vec![("http-x".into(), "TCP".into(), 80), ("dns".into(), "UDP".into(), 53)],
        };
        let links = [link("ns", "my-svc"), link("default", "kubernetes"), link("other", "hidden")];
        let (mut pod, container) = pod(&json!({"name": "c"}));
        let vars = |pod: &Pod| -> BTreeMap<String, String> {
            environment(pod, &container, &sources(), &links, &facts()).expect("env").vars.into_iter().collect()
        };
        let all = vars(&pod);
        assert_eq!(all["MY_SVC_SERVICE_HOST"], "10.0.0.9");
        assert_eq!(all["MY_SVC_SERVICE_PORT_HTTP_X"], "80");
        assert_eq!(all["MY_SVC_PORT"], "tcp://10.0.0.9:80");
        assert_eq!(all["MY_SVC_PORT_53_UDP_ADDR"], "10.0.0.9");
        assert!(!all.contains_key("HIDDEN_SERVICE_HOST"));
        pod.spec.as_mut().expect("spec").enable_service_links = Some(false);
        let few = vars(&pod);
        assert!(few.contains_key("KUBERNETES_SERVICE_HOST") && !few.contains_key("MY_SVC_PORT"));
    }
}
