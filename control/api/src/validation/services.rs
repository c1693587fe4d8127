//! Services. Runs after the API server allocated addresses and ports.

use std::collections::BTreeSet;

use super::check::{self, given, known_if_given, labels, maybe_one_of, one_of, port_or_name, texts};
use super::endpoints::PROTOCOLS;
use crate::names;
use crate::strategy::semantic_equal;
use crate::{FieldErrors, Path, Value};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const FAMILY_POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
const TRAFFIC: [&str; 3] = ["PreferClose", "PreferSameZone", "PreferSameNode"];
const BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
const ONCE: &str = "may not change once set";
/// The longest time a client sticks to an endpoint: a day.
const MAX_AFFINITY_SECONDS: i64 = 86_400;
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

fn kind(service: &Value) -> &str {
    service.str_at(&["spec", "type"])
}

fn is_headless(service: &Value) -> bool {
    texts(service, &["spec", "clusterIPs"]) == ["None"]
}

fn is_external(service: &Value) -> bool {
    matches!(kind(service), "NodePort" | "LoadBalancer")
        || (kind(service) == "ClusterIP" && !service.list_at(&["spec", "externalIPs"]).is_empty())
}

fn needs_health_check(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && service.str_at(&["spec", "externalTrafficPolicy"]) == "Local"
}

pub(super) fn service(new: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let Some(spec) = new.get("spec") else { return errors.required(&path, "") };
    let kind = kind(new);
    if spec.list_at(&["ports"]).is_empty() && !is_headless(new) && kind != "ExternalName" {
        errors.required(&path.child("ports"), "");
    }
    by_type(new, spec, &path, errors);
    ports(spec, is_headless(new), &path, errors);
    labels(spec.get("selector"), &path.child("selector"), errors);
    affinity(spec, &path, errors);
    if kind != "ExternalName" {
        addresses(new, spec, old, &path, errors);
    }
    external_ips(spec, old, &path, errors);
    one_of(spec, "type", &TYPES, &path, errors);
    port_clashes(spec, kind, &path, errors);
    source_ranges(new, old, &path, errors);
    balancer_fields(spec, kind, &path, errors);
    traffic(new, spec, &path, errors);
}

fn by_type(service: &Value, spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = kind(service);
    if matches!(kind, "LoadBalancer" | "NodePort") && is_headless(service) {
        let detail = format!("may not be set to 'None' for {kind} services");
        errors.invalid(&path.child("clusterIPs").index(0), "None", detail);
    }
    if kind != "ExternalName" {
        return;
    }
    for member in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if !semantic_equal(spec.get(member), None) {
            errors.forbidden(&path.child(member), "may not be set for ExternalName services");
        }
    }
    let host = spec.str_at(&["externalName"]);
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() {
        errors.required(&path.child("externalName"), "");
    } else {
        errors.invalid_each(&path.child("externalName"), host, names::dns_subdomain(host));
    }
}

fn ports(spec: &Value, _headless: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let ports = spec.list_at(&["ports"]);
    let list = path.child("ports");
    let mut seen = BTreeSet::new();
    for (at, port) in ports.iter().enumerate() {
        let path = list.index(at);
        let name = port.str_at(&["name"]);
        if name.is_empty() && ports.len() > 1 {
            errors.required(&path.child("name"), "");
        } else if !name.is_empty() {
            errors.invalid_each(&path.child("name"), name, names::dns_label(name));
            if !seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
        }
        check::port(port, "port", &path, errors);
        one_of(port, "protocol", &PROTOCOLS, &path, errors);
        port_or_name(port.get("targetPort"), &path.child("targetPort"), errors);
        check::name_if_given(port, "appProtocol", names::qualified_name, &path, errors);
    }
}

fn affinity(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    one_of(spec, "sessionAffinity", &["ClientIP", "None"], path, errors);
    let config = given(spec, &["sessionAffinityConfig"]);
    let place = path.child("sessionAffinityConfig");
    match spec.str_at(&["sessionAffinity"]) {
        "ClientIP" => {
            let Some(config) = config else {
                errors.required(&place, "when session affinity type is ClientIP");
                return;
            };
            if given(config, &["clientIP"]).is_none() {
                errors.required(&place.child("clientIP"), "when session affinity type is ClientIP");
                return;
            }
            let seconds = config.int_at(&["clientIP", "timeoutSeconds"]);
            let seconds_path = place.child("clientIP.timeoutSeconds");
            match seconds {
                None => errors.required(&seconds_path, "when session affinity type is ClientIP"),
                Some(seconds) if !(1..=MAX_AFFINITY_SECONDS).contains(&seconds) => {
                    let detail = format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
                    errors.invalid(&seconds_path, seconds, detail);
                }
                Some(_) => {}
            }
        }
        "None" if config.is_some() => {
            errors.forbidden(&place, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

fn addresses(service: &Value, spec: &Value, old: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let (first, all) = (spec.str_at(&["clusterIP"]), texts(spec, &["clusterIPs"]));
    let (list, shown) = (path.child("clusterIPs"), spec.get("clusterIPs").cloned().unwrap_or_default());
    match (first, all.first()) {
        ("", Some(_)) => errors.invalid(&list, shown.clone(), "must be empty when `clusterIP` is not specified"),
        ("", None) => {}
        (_, None) => errors.required(&list, ""),
        (first, Some(one)) if first != *one => {
            errors.invalid(&list, shown.clone(), "first value must match `clusterIP`");
        }
        _ => {}
    }
    families(spec, path, errors);
    let before = old.map(|old| texts(old, &["spec", "clusterIPs"])).unwrap_or_default();
    let mut readable = true;
    for (at, ip) in all.iter().enumerate() {
        if at == 0 && *ip == "None" {
            if all.len() > 1 {
                readable = false;
                errors.invalid(&list, shown.clone(), "'None' must be the first and only value");
            }
            continue;
        }
        readable &= check::legacy(ip, &before, names::ip, &list.index(at), errors);
    }
    if all.len() > 2 {
        errors.invalid(&list, shown.clone(), "may only hold up to 2 values");
    }
    if !readable || is_headless(service) {
        return;
    }
    let is_v6 = |ip: &str| names::parse_ip_sloppy(ip).is_some_and(|ip| ip.is_ipv6());
    if all.len() > 1 && all.iter().map(|ip| is_v6(ip)).collect::<BTreeSet<_>>().len() < 2 {
        errors.invalid(&list, shown, "may specify no more than one IP for each IP family");
    }
    for (at, (ip, family)) in all.iter().zip(texts(spec, &["ipFamilies"])).enumerate() {
        if (family == "IPv4" && is_v6(ip)) || (family == "IPv6" && !is_v6(ip)) {
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{at}]`");
            errors.invalid(&list.index(at), *ip, detail);
        }
    }
}

fn families(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("ipFamilies");
    let mut seen = BTreeSet::new();
    for (at, family) in texts(spec, &["ipFamilies"]).into_iter().enumerate() {
        if !FAMILIES.contains(&family) {
            errors.not_supported(&list.index(at), family, &FAMILIES);
        }
        if !seen.insert(family) {
            errors.duplicate(&list.index(at), family);
        }
    }
    known_if_given(spec, "ipFamilyPolicy", &FAMILY_POLICIES, path, errors);
}

fn external_ips(spec: &Value, old: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let before = old.map(|old| texts(old, &["spec", "externalIPs"])).unwrap_or_default();
    let list = path.child("externalIPs");
    for (at, ip) in texts(spec, &["externalIPs"]).into_iter().enumerate() {
        if check::legacy(ip, &before, names::ip, &list.index(at), errors) {
            errors.invalid_each(&list.index(at), ip, names::endpoint_ip(ip));
        }
    }
}

fn port_clashes(spec: &Value, kind: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("ports");
    let (mut node_ports, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (at, port) in spec.list_at(&["ports"]).iter().enumerate() {
        let path = list.index(at);
        let protocol = port.str_at(&["protocol"]);
        let node_port = port.int_at(&["nodePort"]).unwrap_or(0);
        if node_port != 0 && kind == "ClusterIP" {
            errors.forbidden(&path.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
        if node_port != 0 && !node_ports.insert((protocol, node_port)) {
            errors.duplicate(&path.child("nodePort"), node_port);
        }
        let number = port.int_at(&["port"]).unwrap_or(0);
        if !numbers.insert((protocol, number)) {
            let mut shown = Value::object();
            shown.set_at(&["protocol"], protocol);
            shown.set_at(&["port"], number);
            errors.duplicate(&path, shown);
        }
    }
}

fn source_ranges(service: &Value, old: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let ranges = texts(service, &["spec", "loadBalancerSourceRanges"]);
    let list = path.child("LoadBalancerSourceRanges");
    if !ranges.is_empty() {
        if kind(service) != "LoadBalancer" {
            errors.forbidden(&list, BALANCER_ONLY);
        }
        let before = old.map(|old| texts(old, &["spec", "loadBalancerSourceRanges"])).unwrap_or_default();
        let before: Vec<&str> = before.into_iter().map(str::trim).collect();
        for (at, range) in ranges.into_iter().enumerate() {
            check::legacy(range.trim(), &before, names::cidr, &list.index(at), errors);
        }
        return;
    }
    let annotation = ["metadata", "annotations", SOURCE_RANGES];
    let Some(text) = service.at(&annotation).and_then(Value::as_str) else { return };
    let annotations = Path::new("metadata.annotations");
    let path = annotations.key(SOURCE_RANGES);
    if kind(service) != "LoadBalancer" {
        errors.forbidden(&path, BALANCER_ONLY);
    }
    if old.is_none_or(|old| old.str_at(&annotation) != text) && !text.trim().is_empty() {
        for range in text.split(',') {
            check::legacy(range.trim(), &[], names::cidr, &path, errors);
        }
    }
}

fn balancer_fields(spec: &Value, kind: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let allocate = given(spec, &["allocateLoadBalancerNodePorts"]).is_some();
    if allocate && kind != "LoadBalancer" {
        errors.forbidden(&path.child("allocateLoadBalancerNodePorts"), BALANCER_ONLY);
    }
    if !allocate && kind == "LoadBalancer" {
        errors.required(&Path::new("allocateLoadBalancerNodePorts"), "");
    }
    if given(spec, &["loadBalancerClass"]).is_some() {
        if kind == "LoadBalancer" {
            let class = spec.str_at(&["loadBalancerClass"]);
            errors.invalid_each(&path.child("loadBalancerClass"), class, names::qualified_name(class));
        } else {
            errors.forbidden(&path.child("loadBalancerClass"), BALANCER_ONLY);
        }
    }
}

fn traffic(service: &Value, spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let policy = spec.str_at(&["externalTrafficPolicy"]);
    if is_external(service) {
        one_of(spec, "externalTrafficPolicy", &["Cluster", "Local"], path, errors);
    } else if !policy.is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.invalid(&path.child("externalTrafficPolicy"), policy, detail);
    }
    let (port, place) = (spec.int_at(&["healthCheckNodePort"]).unwrap_or(0), path.child("healthCheckNodePort"));
    if !needs_health_check(service) {
        if port != 0 {
            let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.invalid(&place, port, detail);
        }
    } else if port == 0 {
        errors.required(&place, "");
    } else {
        check::port(spec, "healthCheckNodePort", path, errors);
    }
    let policy = given(spec, &["internalTrafficPolicy"]);
    if policy.is_none() && matches!(kind(service), "ClusterIP" | "NodePort" | "LoadBalancer") {
        errors.required(&path.child("internalTrafficPolicy"), "");
    }
    known_if_given(spec, "internalTrafficPolicy", &["Cluster", "Local"], path, errors);
    known_if_given(spec, "trafficDistribution", &TRAFFIC, path, errors);
}

pub(super) fn service_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if kind(new) != "ExternalName" && kind(old) != "ExternalName" {
        keep_addresses(new, old, errors);
        keep_families(new, old, errors);
    }
    let class = ["spec", "loadBalancerClass"];
    if kind(new) == "LoadBalancer" && kind(old) == "LoadBalancer" && !semantic_equal(new.at(&class), old.at(&class)) {
        errors.invalid(&Path::new("spec.loadBalancerClass"), new.at(&class).cloned().unwrap_or_default(), ONCE);
    }
    let port = ["spec", "healthCheckNodePort"];
    if needs_health_check(new) && needs_health_check(old) && new.int_at(&port) != old.int_at(&port) {
        errors.forbidden(&Path::new("spec.healthCheckNodePort"), check::IMMUTABLE);
    }
    service(new, Some(old), errors);
}

fn keep_addresses(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if is_headless(old) && is_headless(new) {
        return;
    }
    keep_list(new, old, "clusterIPs", ["primary clusterIP can not be unset", "clusterIP"], errors);
}

fn keep_families(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if is_headless(old) || is_headless(new) {
        return;
    }
    keep_list(new, old, "ipFamilies", ["primary ipFamily can not be unset", "ipFamily"], errors);
}

/// The first entry stays; a second one may come, and may go under `SingleStack`.
fn keep_list(new: &Value, old: &Value, member: &str, words: [&str; 2], errors: &mut FieldErrors) {
    let (after, before) = (texts(new, &["spec", member]), texts(old, &["spec", member]));
    let shown = || new.at(&["spec", member]).cloned().unwrap_or_default();
    let spec = Path::new("spec");
    let list = spec.child(member);
    for (at, (new, old)) in after.iter().zip(&before).enumerate() {
        if new != old && (at == 0 || after.len() == before.len()) {
            errors.invalid(&list.index(if member == "ipFamilies" { 0 } else { at }), shown(), ONCE);
        }
    }
    if after.len() < before.len() {
        if after.is_empty() {
            errors.invalid(&list.index(0), shown(), words[0]);
        }
        let policy = new.str_at(&["spec", "ipFamilyPolicy"]);
        if after.len() == 1 && policy != "SingleStack" {
            let detail = format!("must be set to 'SingleStack' when releasing the secondary {}", words[1]);
            errors.invalid(&spec.child("ipFamilyPolicy"), policy, detail);
        }
    }
}

/// `loadBalancer` of a status, for Services (`check_mode`) and Ingresses.
pub(super) fn balancer_status(new: &Value, old: &Value, check_mode: bool, errors: &mut FieldErrors) {
    let list = Path::new("status.loadBalancer.ingress");
    let ingress = new.list_at(&["status", "loadBalancer", "ingress"]);
    if check_mode && kind(new) != "LoadBalancer" && !ingress.is_empty() {
        errors.forbidden(&list, "may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    let before: Vec<&str> =
        old.list_at(&["status", "loadBalancer", "ingress"]).iter().map(|one| one.str_at(&["ip"])).collect();
    for (at, one) in ingress.iter().enumerate() {
        let path = list.index(at);
        let (ip, host) = (one.str_at(&["ip"]), one.str_at(&["hostname"]));
        if !ip.is_empty() {
            check::legacy(ip, &before, names::ip, &path.child("ip"), errors);
        }
        let mode = one.str_at(&["ipMode"]);
        if check_mode && mode.is_empty() && !ip.is_empty() {
            errors.required(&path.child("ipMode"), "must be specified when `ip` is set");
        } else if check_mode && !mode.is_empty() && ip.is_empty() {
            errors.forbidden(&path.child("ipMode"), "may not be specified when `ip` is not set");
        } else if check_mode {
            maybe_one_of(one, "ipMode", &["Proxy", "VIP"], &path, errors);
        }
        if !host.is_empty() {
            errors.invalid_each(&path.child("hostname"), host, names::dns_subdomain(host));
            if names::parse_ip_sloppy(host).is_some() {
                errors.invalid(&path.child("hostname"), host, "must be a DNS name, not an IP address");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{creates, status_updates, updates};
    use crate::strategy::KindRef;
    use serde_json::{Value as Json, json};

    const SERVICE: KindRef<'static> = KindRef::builtin("", "Service", true);

    fn base() -> Json {
        json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {
            "type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        }})
    }

    #[test]
    fn services() {
        let spec = |spec: Json| json!({"spec": spec});
        creates(
            SERVICE,
            &base(),
            &[
                (json!({}), &[]),
                (spec(json!({"ports": []})), &["spec.ports: Required value"]),
                (spec(json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": []})), &[]),
                (
                    spec(json!({"type": "Other"})),
                    &["spec.type: Unsupported value: \"Other\": supported values: \"ClusterIP\", \"ExternalName\", \
                       \"LoadBalancer\", \"NodePort\""],
                ),
                (
                    spec(json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": "a b"},
                                          {"name": "b", "port": 80, "protocol": "TCP", "targetPort": 1}]})),
                    &[
                        "spec.ports[0].name: Required value",
                        "spec.ports[0].targetPort: Invalid value: \"a b\": must contain only alpha-numeric characters \
                         (a-z, 0-9), and hyphens (-)",
                        "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
                    ],
                ),
                (
                    spec(json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80, "nodePort": 30000}]})),
                    &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
                ),
                (
                    spec(json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]})),
                    &["spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"],
                ),
                (
                    spec(json!({"externalTrafficPolicy": "Local"})),
                    &[
                        "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible \
                       services",
                    ],
                ),
                (
                    spec(
                        json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
                    ),
                    &[
                        "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and \
                       less than 86400",
                    ],
                ),
                (
                    spec(json!({"type": "ExternalName", "clusterIP": null, "clusterIPs": null, "ipFamilies": null,
                                "ipFamilyPolicy": null, "ports": null})),
                    &["spec.externalName: Required value"],
                ),
                (
                    spec(json!({"ipFamilies": ["IPv6"]})),
                    &["spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by \
                       `ipFamilies[0]`"],
                ),
            ],
        );
    }

    #[test]
    fn addresses_stay() {
        updates(
            SERVICE,
            &base(),
            &[
                (json!({"spec": {"selector": {"a": "b"}}}), &[]),
                (
                    json!({"spec": {"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]}}),
                    &["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"],
                ),
            ],
        );
    }

    #[test]
    fn only_load_balancers_have_their_status() {
        status_updates(
            SERVICE,
            &base(),
            &[(
                json!({"status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4", "ipMode": "VIP"}]}}}),
                &["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"],
            )],
        );
    }
}
