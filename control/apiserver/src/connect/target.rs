//! Where a request goes: from the objects of the cluster to a node and an address behind it.

use super::kubelet;
use crate::{
    cache::{Selection, Trigger},
    http::Query,
    registry::Call,
    streams::NodeTarget,
};
use timonel_api::{LabelSelector, Status, Value};

/// The way of a request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Way {
    pub(super) node: String,
    pub(super) target: NodeTarget,
    pub(super) path_and_query: String,
    /// For the `Host` header and for links back.
    pub(super) host: String,
    /// Whether TLS is spoken inside (its certificates are nobody's business, as in upstream).
    pub(super) tls: bool,
}

fn own_object(call: &Call<'_>, name: &str) -> Result<Value, Status> {
    let entry = call.view.slot.get(call.namespace(), name).ok_or_else(|| call.view.not_found(name))?;
    call.view.decode_stored(&entry)
}

fn containers(pod: &Value) -> impl Iterator<Item = &str> {
    ["containers", "initContainers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|list| pod.list_at(&["spec", list]))
        .map(|container| container.str_at(&["name"]))
}

/// The container a request is about: the one it names, or the only one there is; pure.
fn container<'a>(pod: &'a Value, asked: &'a str) -> Result<&'a str, Status> {
    let name = pod.str_at(&["metadata", "name"]);
    if !asked.is_empty() {
        let known = containers(pod).any(|known| known == asked);
        let refused = || Status::bad_request(format!("container {asked} is not valid for pod {name}"));
        return known.then_some(asked).ok_or_else(refused);
    }
    let names = |list: &str| {
        let list = pod.list_at(&["spec", list]).iter().map(|container| container.str_at(&["name"]));
        list.collect::<Vec<_>>().join(" ")
    };
    match pod.list_at(&["spec", "containers"]) {
        [one] => Ok(one.str_at(&["name"])),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
        _ => {
            let mut text =
                format!("a container name must be specified for pod {name}, choose one of: [{}]", names("containers"));
            let init = names("initContainers");
            if !init.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{init}]"));
            }
            Err(Status::bad_request(text))
        }
    }
}

fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn with_query(path: String, parameters: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    if pairs.is_empty() { path } else { format!("{path}?{}", pairs.join("&")) }
}

/// The way to a container's log; none for a pod that has no node.
pub(super) fn log(call: &Call<'_>) -> Result<Option<Way>, Status> {
    let pod = own_object(call, &call.info.name)?;
    let container = container(&pod, call.query.get("container"))?;
    let node = pod.str_at(&["spec", "nodeName"]);
    if node.is_empty() {
        return Ok(None);
    }
    let path = format!("/containerLogs/{}/{}/{container}", call.namespace(), call.info.name);
    let kept = ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];
    let query: Vec<(&str, &str)> = kept
        .into_iter()
        .filter_map(|name| Some((name, call.query.find(name)?)))
        .filter(|(_, v)| !v.is_empty())
        .collect();
    Ok(Some(kubelet(node, with_query(path, &query))))
}

/// The way of exec, attach and port-forward.
pub(super) fn stream(call: &Call<'_>) -> Result<Way, Status> {
    let name = &*call.info.name;
    let pod = own_object(call, name)?;
    let node = pod.str_at(&["spec", "nodeName"]);
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    Ok(kubelet(node, stream_path(&pod, call.namespace(), &call.info.subresource, call.query)?))
}

/// The kubelet's path for a stream; pure.
fn stream_path(pod: &Value, namespace: &str, subresource: &str, query: &Query<'_>) -> Result<String, Status> {
    let name = pod.str_at(&["metadata", "name"]);
    if subresource == "portforward" {
        let ports: Vec<(&str, &str)> = query.all("ports").map(|port| ("port", port)).collect();
        return Ok(with_query(format!("/portForward/{namespace}/{name}"), &ports));
    }
    let container = container(pod, query.get("container"))?;
    let mut parameters: Vec<(&str, &str)> = query.all("command").map(|word| ("command", word)).collect();
    for (asked, passed) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if query.flag(asked) && !(asked == "stderr" && query.flag("tty")) {
            parameters.push((passed, "1"));
        }
    }
    Ok(with_query(format!("/{subresource}/{namespace}/{name}/{container}"), &parameters))
}

/// `[scheme:]name[:port]` of a proxied object; pure.
fn split_name(text: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        [name] => Some(("", name, "")),
        [name, port] => Some(("", name, port)),
        [scheme @ ("" | "http" | "https"), name, port] => Some((scheme, name, port)),
        _ => None,
    }
}

fn named<'a>(call: &'a Call<'_>) -> Result<(&'a str, &'a str, &'a str), Status> {
    split_name(&call.info.name)
        .ok_or_else(|| Status::bad_request(format!("invalid {} request {:?}", call.view.singular(), call.info.name)))
}

fn proxied(call: &Call<'_>, node: &str, host: &str, port: u16, tls: bool) -> Way {
    let path = if call.info.rest.is_empty() { "/" } else { call.info.rest };
    let query = if call.raw_query.is_empty() { String::new() } else { format!("?{}", call.raw_query) };
    Way {
        node: node.to_owned(),
        target: NodeTarget::Tcp { host: host.to_owned(), port },
        path_and_query: format!("{path}{query}"),
        host: if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") },
        tls,
    }
}

/// The way to a pod.
pub(super) fn pod(call: &Call<'_>) -> Result<Way, Status> {
    let (scheme, name, port) = named(call)?;
    let pod = own_object(call, name)?;
    let port = match port {
        "" => first_port(&pod).unwrap_or(if scheme == "https" { 443 } else { 80 }),
        text => text.parse().map_err(|_| Status::bad_request(format!("invalid pod request {:?}", call.info.name)))?,
    };
    let address = pod.str_at(&["status", "podIP"]);
    if address.is_empty() {
        return Err(Status::bad_request("address not allowed"));
    }
    Ok(proxied(call, pod.str_at(&["spec", "nodeName"]), address, port, scheme == "https"))
}

fn first_port(pod: &Value) -> Option<u16> {
    let containers = pod.list_at(&["spec", "containers"]).iter();
    let ports = containers.flat_map(|container| container.list_at(&["ports"]));
    ports.filter_map(|port| port.int_at(&["containerPort"])).find_map(|port| u16::try_from(port).ok())
}

/// The way to a node: its kubelet, or a port of the node itself.
pub(super) fn node(call: &Call<'_>) -> Result<Way, Status> {
    let (scheme, name, port) = named(call)?;
    let node = own_object(call, name)?;
    let kubelet_port = node.int_at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).unwrap_or(10_250);
    let asked = port.parse::<u16>().ok();
    if port.is_empty() || asked.map(i64::from) == Some(kubelet_port) {
        let path = if call.info.rest.is_empty() { "/" } else { call.info.rest };
        let query = if call.raw_query.is_empty() { String::new() } else { format!("?{}", call.raw_query) };
        return Ok(kubelet(name, format!("{path}{query}")));
    }
    let port = asked.ok_or_else(|| Status::bad_request(format!("invalid node request {:?}", call.info.name)))?;
    let addresses = node.list_at(&["status", "addresses"]);
    let internal = addresses.iter().find(|address| address.str_at(&["type"]) == "InternalIP");
    let address = internal.map_or("127.0.0.1", |address| address.str_at(&["address"]));
    Ok(proxied(call, name, address, port, scheme == "https"))
}

/// The way to one ready endpoint of a service.
pub(super) fn service(call: &Call<'_>) -> Result<Way, Status> {
    let (scheme, name, port) = named(call)?;
    let service = own_object(call, name)?;
    let port_name = service_port(&service, port)
        .ok_or_else(|| Status::service_unavailable(format!("no service port {port:?} found for service {name:?}")))?;
    let ready = endpoints(call, name, &port_name)?;
    let chosen = usize::try_from(call.server.entropy.below(ready.len() as u64)).unwrap_or(0);
    let (node, address, port) = ready
        .get(chosen)
        .ok_or_else(|| Status::service_unavailable(format!("no endpoints available for service {name:?}")))?;
    Ok(proxied(call, node, address, *port, scheme == "https"))
}

/// The name of the port that a request means; pure.
fn service_port(service: &Value, asked: &str) -> Option<String> {
    let ports = service.list_at(&["spec", "ports"]);
    let name = |port: &Value| port.str_at(&["name"]).to_owned();
    match (asked.parse::<i64>(), ports) {
        (Ok(number), _) => ports.iter().find(|port| port.int_at(&["port"]) == Some(number)).map(name),
        (Err(_), [one]) if asked.is_empty() => Some(name(one)),
        (Err(_), _) => Some(asked.to_owned()),
    }
}

fn endpoints(call: &Call<'_>, service: &str, port_name: &str) -> Result<Vec<(String, String, u16)>, Status> {
    let resources = call.server.resources.load_full();
    let slices = resources.get("discovery.k8s.io", "v1", "endpointslices").ok_or_else(Status::no_such_resource)?;
    let selector = LabelSelector::parse(&format!("kubernetes.io/service-name={service}")).map_err(Status::internal)?;
    let selection = Selection {
        trigger: Trigger::Namespace(call.namespace().to_owned()),
        predicate: Some(std::sync::Arc::new(move |entry| selector.matches(entry))),
    };
    let mut found = Vec::new();
    for entry in slices.slot.list(&selection) {
        ready_in(&slices.decode_stored(&entry)?, port_name, &mut found);
    }
    Ok(found)
}

/// Node, address and port of the ready endpoints of a slice; pure.
fn ready_in(slice: &Value, port_name: &str, found: &mut Vec<(String, String, u16)>) {
    let port = slice.list_at(&["ports"]).iter().find(|port| port.str_at(&["name"]) == port_name);
    let Some(port) = port.and_then(|port| port.int_at(&["port"])).and_then(|port| u16::try_from(port).ok()) else {
        return;
    };
    for endpoint in slice.list_at(&["endpoints"]) {
        if endpoint.bool_at(&["conditions", "ready"]) != Some(false)
            && let Some(address) = endpoint.list_at(&["addresses"]).first().and_then(Value::as_str)
        {
            found.push((endpoint.str_at(&["nodeName"]).to_owned(), address.to_owned(), port));
        }
    }
}

/// A path segment as it was before encoding, for tests of names with colons.
#[cfg(test)]
fn plain(text: &str) -> String {
    crate::http::decode(text, false).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod_of(names: &[&str]) -> Value {
        let containers: Vec<_> = names.iter().map(|name| json!({ "name": name })).collect();
        json!({"metadata": {"name": "p"}, "spec": {"containers": containers, "initContainers": [{"name": "i"}]}}).into()
    }

    #[test]
    fn the_container_is_named_or_the_only_one() {
        for (names, asked, expected) in [
            (&["a"][..], "", Ok("a")),
            (&["a", "b"], "b", Ok("b")),
            (&["a", "b"], "i", Ok("i")),
            (&["a"], "x", Err("container x is not valid for pod p")),
            (
                &["a", "b"],
                "",
                Err(
                    "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]",
                ),
            ),
        ] {
            let pod = pod_of(names);
            assert_eq!(container(&pod, asked).map_err(|status| status.message), expected.map_err(str::to_owned));
        }
    }

    #[test]
    fn streams_have_the_kubelets_paths() {
        let pod = pod_of(&["a"]);
        for (subresource, query, expected) in [
            (
                "exec",
                "command=sh&command=-c&command=a%20b&stdin=true&stdout=true&tty=true&stderr=true",
                "/exec/n/p/a?command=sh&command=-c&command=a%20b&input=1&output=1&tty=1",
            ),
            ("attach", "stdout=1&stderr=1", "/attach/n/p/a?output=1&error=1"),
            ("portforward", "ports=80&ports=81", "/portForward/n/p?port=80&port=81"),
        ] {
            assert_eq!(stream_path(&pod, "n", subresource, &Query::parse(query)).unwrap(), expected);
        }
    }

    #[test]
    fn proxied_names_carry_scheme_and_port() {
        for (text, expected) in [
            ("a", Some(("", "a", ""))),
            ("a:80", Some(("", "a", "80"))),
            ("https:a:web", Some(("https", "a", "web"))),
            ("http%3Aa%3A", Some(("http", "a", ""))),
            ("ftp:a:1", None),
        ] {
            assert_eq!(split_name(&plain(text)), expected);
        }
    }

    #[test]
    fn a_service_leads_to_ready_endpoints() {
        let service = json!({"spec": {"ports": [{"name": "web", "port": 80}, {"name": "x", "port": 81}]}}).into();
        assert_eq!(service_port(&service, "81").as_deref(), Some("x"));
        assert_eq!(service_port(&service, "web").as_deref(), Some("web"));
        assert_eq!(service_port(&service, "82"), None);
        let slice = json!({"ports": [{"name": "web", "port": 8080}], "endpoints": [
            {"addresses": ["10.0.0.1"], "nodeName": "n", "conditions": {"ready": true}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false}}]});
        let mut found = Vec::new();
        ready_in(&slice.into(), "web", &mut found);
        assert_eq!(found, [("n".to_owned(), "10.0.0.1".to_owned(), 8080)]);
    }
}
