//! Rows of services, endpoints, ingresses, policies and addresses.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::read::{NONE, UNKNOWN, UNSET, age, joined, labels, name, selector, some_of, text, text_or};
use crate::Value;

const SHOWN: usize = 3;

/// Addresses a load balancer got, sorted, each once.
fn balancer(object: &Value) -> String {
    let ingress = object.list_at(&["status", "loadBalancer", "ingress"]);
    let addresses: BTreeSet<&str> = ingress
        .iter()
        .map(|one| if one.str_at(&["ip"]).is_empty() { one.str_at(&["hostname"]) } else { one.str_at(&["ip"]) })
        .filter(|address| !address.is_empty())
        .collect();
    addresses.into_iter().collect::<Vec<_>>().join(",")
}

fn external(service: &Value) -> String {
    let own = joined(service, &["spec", "externalIPs"]);
    match service.str_at(&["spec", "type"]) {
        "ClusterIP" | "NodePort" => {
            if own.is_empty() {
                NONE.to_owned()
            } else {
                own
            }
        }
        "LoadBalancer" => match (balancer(service), own) {
            (given, own) if given.is_empty() && own.is_empty() => "<pending>".to_owned(),
            (given, own) if own.is_empty() => given,
            (given, own) if given.is_empty() => own,
            (given, own) => format!("{given},{own}"),
        },
        "ExternalName" => service.str_at(&["spec", "externalName"]).to_owned(),
        _ => UNKNOWN.to_owned(),
    }
}

pub(super) fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = object
        .list_at(&["spec", "ports"])
        .iter()
        .map(|port| {
            let (number, protocol) = (port.int_at(&["port"]).unwrap_or(0), port.str_at(&["protocol"]));
            match port.int_at(&["nodePort"]).unwrap_or(0) {
                0 => format!("{number}/{protocol}"),
                node => format!("{number}:{node}/{protocol}"),
            }
        })
        .collect();
    let address = object.list_at(&["spec", "clusterIPs"]).first().and_then(Value::as_str).unwrap_or(NONE);
    vec![
        name(object),
        text(object, &["spec", "type"]),
        Value::from(address),
        Value::from(external(object)),
        Value::from(if ports.is_empty() { NONE.to_owned() } else { ports.join(",") }),
        age(object, now),
        labels(object.at(&["spec", "selector"])),
    ]
}

pub(super) fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in object.list_at(&["subsets"]) {
        let addresses = || subset.list_at(&["addresses"]).iter().map(|address| address.str_at(&["ip"]));
        let ports = subset.list_at(&["ports"]);
        if ports.is_empty() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            let number = port.int_at(&["port"]).unwrap_or(0);
            all.extend(
                addresses().map(
                    |ip| {
                        if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }
                    },
                ),
            );
        }
    }
    let empty = if object.list_at(&["subsets"]).is_empty() { NONE } else { "" };
    vec![name(object), Value::from(some_of(&all, SHOWN, ",", empty)), age(object, now)]
}

pub(super) fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = object
        .list_at(&["ports"])
        .iter()
        .map(|port| match (port.int_at(&["port"]), port.get("name").and_then(Value::as_str)) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => "*".to_owned(),
        })
        .collect();
    let addresses: Vec<String> = object
        .list_at(&["endpoints"])
        .iter()
        .flat_map(|endpoint| endpoint.list_at(&["addresses"]))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    vec![
        name(object),
        text(object, &["addressType"]),
        Value::from(some_of(&ports, SHOWN, ",", UNSET)),
        Value::from(some_of(&addresses, SHOWN, ",", UNSET)),
        age(object, now),
    ]
}

fn hosts(ingress: &Value) -> String {
    let rules = ingress.list_at(&["spec", "rules"]);
    let mut list = Vec::new();
    let mut more = false;
    for rule in rules {
        let host = rule.str_at(&["host"]);
        more |= list.len() == SHOWN;
        if !more && !host.is_empty() {
            list.push(host);
        }
    }
    match (list.is_empty(), more) {
        (true, _) => "*".to_owned(),
        (false, true) => format!("{} + {} more...", list.join(","), rules.len() - SHOWN),
        (false, false) => list.join(","),
    }
}

pub(super) fn ingress(object: &Value, now: Timestamp) -> Vec<Value> {
    let tls = !object.list_at(&["spec", "tls"]).is_empty();
    vec![
        name(object),
        text_or(object, &["spec", "ingressClassName"], NONE),
        Value::from(hosts(object)),
        Value::from(balancer(object)),
        Value::from(if tls { "80, 443" } else { "80" }),
        age(object, now),
    ]
}

pub(super) fn ingress_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut shown = object.str_at(&["metadata", "name"]).to_owned();
    if object.str_at(&["metadata", "annotations", "ingressclass.kubernetes.io/is-default-class"]) == "true" {
        shown.push_str(" (default)");
    }
    let parameters = match object.at(&["spec", "parameters"]).filter(|value| !value.is_null()) {
        None => NONE.to_owned(),
        Some(parameters) => {
            let kind = crate::qualified(parameters.str_at(&["apiGroup"]), parameters.str_at(&["kind"]));
            format!("{kind}/{}", parameters.str_at(&["name"]))
        }
    };
    vec![Value::from(shown), text(object, &["spec", "controller"]), Value::from(parameters), age(object, now)]
}

pub(super) fn network_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), selector(object.at(&["spec", "podSelector"])), age(object, now)]
}

pub(super) fn service_cidr(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), Value::from(joined(object, &["spec", "cidrs"])), age(object, now)]
}

pub(super) fn ip_address(object: &Value, now: Timestamp) -> Vec<Value> {
    let parent = match object.at(&["spec", "parentRef"]).filter(|value| !value.is_null()) {
        None => NONE.to_owned(),
        Some(parent) => {
            let resource = crate::qualified(parent.str_at(&["group"]), parent.str_at(&["resource"])).to_lowercase();
            match parent.str_at(&["namespace"]) {
                "" => format!("{resource}/{}", parent.str_at(&["name"])),
                namespace => format!("{resource}/{namespace}/{}", parent.str_at(&["name"])),
            }
        }
    };
    vec![name(object), Value::from(parent), age(object, now)]
}

#[cfg(test)]
mod tests {
    use super::super::Printer;
    use super::*;
    use serde_json::{Value as Json, json};

    #[test]
    fn services_and_endpoints_read_like_upstream() {
        let table: &[(&str, &str, Json, Json)] = &[
            (
                "",
                "Service",
                json!({"spec": {"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"], "selector": {"a": "b"},
                    "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}]}}),
                json!(["x", "LoadBalancer", "10.0.0.1", "<pending>", "80:30000/TCP", "2m", "a=b"]),
            ),
            (
                "",
                "Service",
                json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "2.2.2.2"}, {"ip": "1.1.1.1"}]}}}),
                json!(["x", "LoadBalancer", "<none>", "1.1.1.1,2.2.2.2", "<none>", "2m", "<none>"]),
            ),
            (
                "",
                "Endpoints",
                json!({"subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}], "ports": [{"port": 1}, {"port": 2}]}]}),
                json!(["x", "1.1.1.1:1,1.1.1.2:1,1.1.1.1:2 + 1 more...", "2m"]),
            ),
            (
                "discovery.k8s.io",
                "EndpointSlice",
                json!({"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": []}),
                json!(["x", "IPv4", "80", "<unset>", "2m"]),
            ),
            (
                "networking.k8s.io",
                "Ingress",
                json!({"spec": {"rules": [{"host": "a"}, {"host": "b"}], "tls": [{}]}}),
                json!(["x", "<none>", "a,b", "", "80, 443", "2m"]),
            ),
        ];
        for (group, kind, object, cells) in table {
            let mut object = object.clone();
            object["metadata"] = json!({"name": "x", "creationTimestamp": "1970-01-01T00:00:00Z"});
            let now = Timestamp::from_second(120).unwrap();
            let got = Printer::builtin(group, kind).cells(&object.into(), now);
            assert_eq!(Json::from(&Value::from(got)), *cells, "{kind}");
        }
    }
}
