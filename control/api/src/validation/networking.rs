//! Ingresses, network policies, service ranges and addresses.

use super::check::{self, given, immutable, label_selector, maybe_name, required_name, texts};
use crate::names;
use crate::strategy::semantic_equal;
use crate::{FieldErrors, Path, Value};

const MAX_CONTROLLER: usize = 250;
const BAD_SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const BAD_ENDS: [&str; 2] = ["/..", "/."];
const FLOWS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

pub(super) fn ingress(object: &Value, errors: &mut FieldErrors) {
    let (path, empty) = (Path::new("spec"), Value::object());
    let spec = object.get("spec").unwrap_or(&empty);
    let rules = spec.list_at(&["rules"]);
    let default = given(spec, &["defaultBackend"]);
    if rules.is_empty() && default.is_none() {
        let shown = spec.get("rules").cloned().unwrap_or_default();
        errors.invalid(&path, shown, "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(backend) = default {
        self::backend(backend, &path.child("defaultBackend"), errors);
    }
    let list = path.child("rules");
    for (at, rule) in rules.iter().enumerate() {
        let path = list.index(at);
        host(rule.str_at(&["host"]), &path.child("host"), errors);
        let Some(http) = given(rule, &["http"]) else { continue };
        let list = path.child("http.paths");
        if http.list_at(&["paths"]).is_empty() {
            errors.required(&list, "");
        }
        for (at, path) in http.list_at(&["paths"]).iter().enumerate() {
            http_path(path, &list.index(at), errors);
        }
    }
    let list = path.child("tls");
    for (at, tls) in spec.list_at(&["tls"]).iter().enumerate() {
        let path = list.index(at);
        let hosts = path.child("hosts");
        for (at, name) in texts(tls, &["hosts"]).into_iter().enumerate() {
            dns_host(name, &hosts.index(at), errors);
        }
        maybe_name(tls, "secretName", names::dns_subdomain, &path, errors);
    }
    check::name_if_given(spec, "ingressClassName", names::dns_subdomain, &path, errors);
}

fn dns_host(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let rule = if name.contains('*') { names::wildcard_dns_subdomain } else { names::dns_subdomain };
    errors.invalid_each(path, name, rule(name));
}

fn host(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if name.is_empty() {
        return;
    }
    if names::parse_ip_sloppy(name).is_some() {
        errors.invalid(path, name, "must be a DNS name, not an IP address");
    }
    dns_host(name, path, errors);
}

fn http_path(http: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (kind, text) = (http.str_at(&["pathType"]), http.str_at(&["path"]));
    let place = path.child("path");
    match kind {
        "" if given(http, &["pathType"]).is_none() => {
            return errors.required(&path.child("pathType"), "pathType must be specified");
        }
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                errors.invalid(&place, text, "must be an absolute path");
            }
            for bad in BAD_SEQUENCES.iter().filter(|bad| text.contains(**bad)) {
                errors.invalid(&place, text, format!("must not contain '{bad}'"));
            }
            for bad in BAD_ENDS.iter().filter(|bad| text.ends_with(**bad)) {
                errors.invalid(&place, text, format!("cannot end with '{bad}'"));
            }
        }
        "ImplementationSpecific" if !text.is_empty() && !text.starts_with('/') => {
            errors.invalid(&place, text, "must be an absolute path");
        }
        "ImplementationSpecific" => {}
        _ => {
            errors.not_supported(&path.child("pathType"), kind, &["Exact", "ImplementationSpecific", "Prefix"]);
        }
    }
    backend(http.get("backend").unwrap_or(&Value::Null), &path.child("backend"), errors);
}

fn backend(backend: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match (given(backend, &["service"]), given(backend, &["resource"])) {
        (Some(_), Some(_)) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (None, None) => errors.invalid(path, "", "resource or service backend is required"),
        (None, Some(resource)) => {
            let path = path.child("resource");
            check::name_if_given(resource, "apiGroup", names::dns_subdomain, &path, errors);
            for member in ["kind", "name"] {
                required_name(resource, member, |text| names::path_segment(text, false), &path, errors);
            }
        }
        (Some(service), None) => {
            let own = path.child("service");
            required_name(service, "name", names::dns_label, &own, errors);
            let (name, number) = (service.str_at(&["port", "name"]), service.int_at(&["port", "number"]).unwrap_or(0));
            match (name, number) {
                ("", 0) => errors.required(path, "port name or number is required"),
                ("", _) => {
                    for rule in names::port_number(number) {
                        errors.invalid(&own.child("port.number"), number, rule);
                    }
                }
                (name, 0) => errors.invalid_each(&own.child("port.name"), name, names::port_name(name)),
                _ => errors.invalid(path, "", "cannot set both port name & port number"),
            }
        }
    }
}

fn prefixed_path(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    match text.split_once('/') {
        None if text.is_empty() => errors.required(path, ""),
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            errors.invalid_each(path, domain, names::dns_subdomain(domain));
        }
        _ => errors.invalid(path, text, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
}

pub(super) fn ingress_class(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let controller = object.str_at(&["spec", "controller"]);
    if controller.len() > MAX_CONTROLLER {
        errors.too_long(&path.child("controller"), MAX_CONTROLLER);
    }
    prefixed_path(controller, &path.child("controller"), errors);
    let Some(parameters) = given(object, &["spec", "parameters"]) else { return };
    let path = path.child("parameters");
    check::name_if_given(parameters, "apiGroup", names::dns_subdomain, &path, errors);
    for member in ["kind", "name"] {
        required_name(parameters, member, |text| names::path_segment(text, false), &path, errors);
    }
    if given(parameters, &["scope"]).is_none() {
        errors.required(&path.child("scope"), "");
    }
    check::known_if_given(parameters, "scope", &["Cluster", "Namespace"], &path, errors);
    let namespace = given(parameters, &["namespace"]);
    match (parameters.str_at(&["scope"]), namespace) {
        ("Namespace", None) => {
            errors.required(&path.child("namespace"), "`parameters.scope` is set to 'Namespace'");
        }
        ("Cluster", Some(_)) => {
            errors.forbidden(&path.child("namespace"), "`parameters.scope` is set to 'Cluster'");
        }
        _ => maybe_name(parameters, "namespace", names::dns_label, &path, errors),
    }
}

pub(super) fn ingress_class_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    immutable(new, old, &["spec", "controller"], errors);
    ingress_class(new, errors);
}

pub(super) fn network_policy(object: &Value, errors: &mut FieldErrors) {
    let (path, empty) = (Path::new("spec"), Value::object());
    let spec = object.get("spec").unwrap_or(&empty);
    label_selector(spec.get("podSelector"), &path.child("podSelector"), errors);
    for (flow, peers) in FLOWS {
        let list = path.child(flow);
        for (at, rule) in spec.list_at(&[flow]).iter().enumerate() {
            let path = list.index(at);
            let ports = path.child("ports");
            for (at, port) in rule.list_at(&["ports"]).iter().enumerate() {
                policy_port(port, &ports.index(at), errors);
            }
            let list = path.child(peers);
            for (at, peer) in rule.list_at(&[peers]).iter().enumerate() {
                policy_peer(peer, &list.index(at), errors);
            }
        }
    }
    let kinds = texts(spec, &["policyTypes"]);
    let list = path.child("policyTypes");
    if kinds.len() > FLOWS.len() {
        let shown = spec.get("policyTypes").cloned().unwrap_or_default();
        return errors.invalid(&list, shown, "may not specify more than two policyTypes");
    }
    for (at, kind) in kinds.into_iter().enumerate() {
        if !matches!(kind, "Ingress" | "Egress") {
            errors.not_supported(&list.index(at), kind, &["Ingress", "Egress"]);
        }
    }
}

fn policy_port(port: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    check::known_if_given(port, "protocol", &["TCP", "UDP", "SCTP"], path, errors);
    let end = port.int_at(&["endPort"]);
    let end_path = path.child("endPort");
    match (given(port, &["port"]), end) {
        (None, Some(end)) => errors.invalid(&end_path, end, "may not be specified when `port` is not specified"),
        (None, None) => {}
        (Some(Value::Int(number)), end) => {
            check::port(port, "port", path, errors);
            if let Some(end) = end {
                if end < *number {
                    errors.invalid(&end_path, *number, "must be greater than or equal to `port`");
                }
                check::port(port, "endPort", path, errors);
            }
        }
        (Some(name), end) => {
            if let Some(end) = end {
                errors.invalid(&end_path, end, "may not be specified when `port` is non-numeric");
            }
            check::port_or_name(Some(name), &path.child("port"), errors);
        }
    }
}

fn policy_peer(peer: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let block = given(peer, &["ipBlock"]);
    let mut count = usize::from(block.is_some());
    for member in ["podSelector", "namespaceSelector"] {
        if let Some(selector) = given(peer, &[member]) {
            count += 1;
            label_selector(Some(selector), &path.child(member), errors);
        }
    }
    if let Some(block) = block {
        ip_block(block, &path.child("ipBlock"), errors);
    }
    if count == 0 {
        errors.required(path, "must specify a peer");
    } else if count > 1 && block.is_some() {
        errors.forbidden(path, "may not specify both ipBlock and another peer");
    }
}

fn ip_block(block: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let range = check::required(block, "cidr", path, errors);
    if range.is_empty() {
        return;
    }
    check::legacy(range, &[], names::cidr, &path.child("cidr"), errors);
    let Ok(whole) = range.parse::<ipnet::IpNet>() else { return };
    let list = path.child("except");
    for (at, text) in texts(block, &["except"]).into_iter().enumerate() {
        let path = list.index(at);
        check::legacy(text, &[], names::cidr, &path, errors);
        let Ok(part) = text.parse::<ipnet::IpNet>() else { continue };
        if !whole.contains(&part) || whole.prefix_len() >= part.prefix_len() {
            errors.invalid(&path, text, "must be a strict subset of `cidr`");
        }
    }
}

pub(super) fn service_range(object: &Value, errors: &mut FieldErrors) {
    let ranges = texts(object, &["spec", "cidrs"]);
    let list = Path::new("spec.cidrs");
    let shown = || object.at(&["spec", "cidrs"]).cloned().unwrap_or_default();
    match ranges.as_slice() {
        [] => return errors.required(&list, "at least one CIDR required"),
        [_] => {}
        [a, b] if names::is_ipv6_cidr(a) != names::is_ipv6_cidr(b) => {}
        [_, _] => errors.invalid(
            &list,
            shown(),
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        ),
        _ => return errors.invalid(&list, shown(), "may only hold up to 2 values"),
    }
    for (at, range) in ranges.iter().enumerate() {
        errors.invalid_each(&list.index(at), range, names::cidr_strict(range));
    }
}

pub(super) fn service_range_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (after, before) = (texts(new, &["spec", "cidrs"]), texts(old, &["spec", "cidrs"]));
    let list = Path::new("spec.cidrs");
    if after.len() < before.len() {
        let shown = new.at(&["spec", "cidrs"]).cloned().unwrap_or_else(|| Value::List(Vec::new()));
        return errors.invalid(&list, shown, check::IMMUTABLE);
    }
    for (at, (after, _)) in after.iter().zip(&before).enumerate().filter(|(_, (after, before))| after != before) {
        errors.invalid(&list.index(at), *after, check::IMMUTABLE);
    }
    if after.len() > before.len() {
        service_range(new, errors);
    }
}

pub(super) fn address(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec.parentRef");
    let Some(parent) = given(object, &["spec", "parentRef"]) else { return errors.required(&path, "") };
    maybe_name(parent, "group", names::dns_subdomain, &path, errors);
    for member in ["resource", "name"] {
        required_name(parent, member, |text| names::path_segment(text, false), &path, errors);
    }
    maybe_name(parent, "namespace", |text| names::path_segment(text, false), &path, errors);
}

pub(super) fn address_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    address(new, errors);
    if !semantic_equal(new.get("spec"), old.get("spec")) {
        immutable(new, old, &["spec", "parentRef"], errors);
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{creates, updates};
    use crate::strategy::KindRef;
    use serde_json::{Value as Json, json};

    #[test]
    fn ingresses() {
        let kind = KindRef::builtin("networking.k8s.io", "Ingress", true);
        let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
        let base = json!({"metadata": {"name": "i", "namespace": "n"}, "spec": {"defaultBackend": backend}});
        let rule = |path: Json| json!({"spec": {"rules": [{"host": "a.b", "http": {"paths": [path]}}]}});
        creates(
            kind,
            &base,
            &[
                (json!({}), &[]),
                (
                    json!({"spec": {"defaultBackend": null}}),
                    &["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"],
                ),
                (rule(json!({"path": "/", "pathType": "Prefix", "backend": backend})), &[]),
                (
                    rule(json!({"path": "/", "backend": backend})),
                    &["spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"],
                ),
                (
                    rule(json!({"path": "x//y", "pathType": "Exact", "backend": {}})),
                    &[
                        "spec.rules[0].http.paths[0].path: Invalid value: \"x//y\": must be an absolute path",
                        "spec.rules[0].http.paths[0].path: Invalid value: \"x//y\": must not contain '//'",
                        "spec.rules[0].http.paths[0].backend: Invalid value: \"\": resource or service backend is required",
                    ],
                ),
                (
                    json!({"spec": {"rules": [{"host": "1.2.3.4"}]}}),
                    &["spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address"],
                ),
            ],
        );
        let kind = KindRef::builtin("networking.k8s.io", "IngressClass", false);
        let base = json!({"metadata": {"name": "c"}, "spec": {"controller": "a.b/c"}});
        creates(
            kind,
            &base,
            &[
                (json!({}), &[]),
                (
                    json!({"spec": {"controller": "x"}}),
                    &[
                        "spec.controller: Invalid value: \"x\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                    ],
                ),
            ],
        );
    }

    #[test]
    fn policies_and_ranges() {
        let kind = KindRef::builtin("networking.k8s.io", "NetworkPolicy", true);
        let base = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"podSelector": {}}});
        let from = |peer: Json| json!({"spec": {"ingress": [{"from": [peer]}]}});
        creates(
            kind,
            &base,
            &[
                (from(json!({"podSelector": {}})), &[]),
                (from(json!({})), &["spec.ingress[0].from[0]: Required value: must specify a peer"]),
                (
                    from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}})),
                    &[
                        "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset \
                   of `cidr`",
                    ],
                ),
                (
                    json!({"spec": {"egress": [{"ports": [{"port": 80, "endPort": 70}]}]}}),
                    &["spec.egress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`"],
                ),
            ],
        );
        let kind = KindRef::builtin("networking.k8s.io", "ServiceCIDR", false);
        let base = json!({"metadata": {"name": "r"}, "spec": {"cidrs": ["10.0.0.0/16"]}});
        creates(
            kind,
            &base,
            &[
                (json!({}), &[]),
                (json!({"spec": {"cidrs": []}}), &["spec.cidrs: Required value: at least one CIDR required"]),
            ],
        );
        let changed = "spec.cidrs[0]: Invalid value: \"10.1.0.0/16\": field is immutable";
        updates(kind, &base, &[(json!({"spec": {"cidrs": ["10.1.0.0/16"]}}), &[changed])]);
    }
}
