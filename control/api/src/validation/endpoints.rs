//! Endpoints and EndpointSlices.

use std::collections::BTreeSet;

use super::check::{self, given, immutable, labels, maybe_name, one_of, required_name};
use crate::names;
use crate::strategy::semantic_equal;
use crate::{FieldErrors, Path, Value};

pub(super) const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;
const MAX_ADDRESSES: usize = 100;
const MAX_ZONE_HINTS: usize = 8;

fn address(address: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let ip = address.str_at(&["ip"]);
    check::legacy(ip, &[], names::ip, &path.child("ip"), errors);
    maybe_name(address, "hostname", names::dns_label, path, errors);
    maybe_name(address, "nodeName", names::dns_subdomain, path, errors);
    if names::parse_ip_sloppy(ip).is_some() {
        errors.invalid_each(&path.child("ip"), ip, names::endpoint_ip(ip));
    } else {
        errors.invalid(&path.child("ip"), ip, "must be a valid IP address");
    }
}

fn subsets(object: &Value, errors: &mut FieldErrors) {
    let list = Path::new("subsets");
    for (at, subset) in object.list_at(&["subsets"]).iter().enumerate() {
        let path = list.index(at);
        let kinds = ["addresses", "notReadyAddresses"];
        if kinds.iter().all(|kind| subset.list_at(&[kind]).is_empty()) {
            errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for kind in kinds {
            let path = path.child(kind);
            for (at, one) in subset.list_at(&[kind]).iter().enumerate() {
                address(one, &path.index(at), errors);
            }
        }
        let ports = subset.list_at(&["ports"]);
        let path = path.child("ports");
        for (at, port) in ports.iter().enumerate() {
            let path = path.index(at);
            if ports.len() > 1 {
                required_name(port, "name", names::dns_label, &path, errors);
            } else {
                maybe_name(port, "name", names::dns_label, &path, errors);
            }
            check::port(port, "port", &path, errors);
            one_of(port, "protocol", &PROTOCOLS, &path, errors);
            maybe_name(port, "appProtocol", names::qualified_name, &path, errors);
        }
    }
}

pub(super) fn endpoints(object: &Value, errors: &mut FieldErrors) {
    subsets(object, errors);
}

pub(super) fn endpoints_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if !semantic_equal(new.get("subsets"), old.get("subsets")) {
        subsets(new, errors);
    }
}

pub(super) fn slice(object: &Value, errors: &mut FieldErrors) {
    const KINDS: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
    one_of(object, "addressType", &KINDS, &Path::root(), errors);
    slice_endpoints(object, errors);
    slice_ports(object, errors);
}

fn slice_endpoints(object: &Value, errors: &mut FieldErrors) {
    let list = Path::new("endpoints");
    let endpoints = object.list_at(&["endpoints"]);
    if endpoints.len() > MAX_ENDPOINTS {
        errors.too_many(&list, endpoints.len(), MAX_ENDPOINTS);
        return;
    }
    for (at, endpoint) in endpoints.iter().enumerate() {
        let path = list.index(at);
        let addresses = check::texts(endpoint, &["addresses"]);
        let place = path.child("addresses");
        if addresses.is_empty() {
            errors.required(&place, "must contain at least 1 address");
        } else if addresses.len() > MAX_ADDRESSES {
            errors.too_many(&place, addresses.len(), MAX_ADDRESSES);
        }
        for (at, text) in addresses.iter().enumerate() {
            slice_address(object.str_at(&["addressType"]), text, &place.index(at), errors);
        }
        check::name_if_given(endpoint, "nodeName", names::dns_subdomain, &path, errors);
        check::name_if_given(endpoint, "hostname", names::dns_label, &path, errors);
        labels(endpoint.get("deprecatedTopology"), &path.child("deprecatedTopology"), errors);
        hints(endpoint, &path, errors);
    }
}

fn slice_address(kind: &str, text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    match kind {
        "FQDN" => errors.invalid_each(path, text, names::fqdn(text, 2)),
        "IPv4" | "IPv6" => {
            let (v6, detail) =
                if kind == "IPv4" { (false, "must be an IPv4 address") } else { (true, "must be an IPv6 address") };
            let broken = names::ip(text);
            if broken.is_empty() && names::parse_ip_sloppy(text).is_some_and(|ip| ip.is_ipv6() != v6) {
                errors.invalid(path, text, detail);
            }
            let readable = broken.is_empty();
            errors.invalid_each(path, text, broken);
            if readable {
                errors.invalid_each(path, text, names::endpoint_ip(text));
            }
        }
        _ => {}
    }
}

fn hints(endpoint: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (list, rule) in [("forZones", names::label_value as check::NameRule), ("forNodes", names::dns_subdomain)] {
        let hints = endpoint.list_at(&["hints", list]);
        let place = path.child("hints");
        let place = place.child(list);
        if hints.len() > MAX_ZONE_HINTS {
            errors.too_many(&place, hints.len(), MAX_ZONE_HINTS);
        }
        let mut seen = BTreeSet::new();
        for (at, hint) in hints.iter().enumerate() {
            let name = hint.str_at(&["name"]);
            if !seen.insert(name) {
                errors.duplicate(&place.index(at).child("name"), name);
            }
            errors.invalid_each(&place.index(at).child("name"), name, rule(name));
        }
    }
}

fn slice_ports(object: &Value, errors: &mut FieldErrors) {
    let list = Path::new("ports");
    let ports = object.list_at(&["ports"]);
    if ports.len() > MAX_PORTS {
        errors.too_many(&list, ports.len(), MAX_PORTS);
        return;
    }
    let mut seen = BTreeSet::new();
    for (at, port) in ports.iter().enumerate() {
        let path = list.index(at);
        let name = port.str_at(&["name"]);
        maybe_name(port, "name", names::dns_label, &path, errors);
        if !seen.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        if given(port, &["protocol"]).is_none() {
            errors.required(&path.child("protocol"), "");
        }
        check::known_if_given(port, "protocol", &PROTOCOLS, &path, errors);
        check::name_if_given(port, "appProtocol", names::qualified_name, &path, errors);
    }
}

pub(super) fn slice_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    slice(new, errors);
    immutable(new, old, &["addressType"], errors);
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{creates, updates};
    use crate::strategy::KindRef;
    use serde_json::json;

    #[test]
    fn endpoints() {
        let base = json!({"metadata": {"name": "a", "namespace": "n"}});
        let subsets = |subset: serde_json::Value| json!({"subsets": [subset]});
        let address = json!([{"ip": "10.0.0.1"}]);
        creates(
            KindRef::builtin("", "Endpoints", true),
            &base,
            &[
                (subsets(json!({"addresses": address, "ports": [{"port": 80, "protocol": "TCP"}]})), &[]),
                (subsets(json!({})), &["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"]),
                (
                    subsets(json!({"addresses": [{"ip": "127.0.0.1"}]})),
                    &["subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range \
                       (127.0.0.0/8, ::1/128)"],
                ),
                (
                    subsets(json!({"addresses": address, "ports": [{"port": 0, "protocol": "X"}]})),
                    &[
                        "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                        "subsets[0].ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \
                         \"UDP\"",
                    ],
                ),
            ],
        );
    }

    #[test]
    fn slices() {
        let kind = KindRef::builtin("discovery.k8s.io", "EndpointSlice", true);
        let base = json!({
            "metadata": {"name": "a", "namespace": "n"}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
        });
        creates(
            kind,
            &base,
            &[
                (json!({}), &[]),
                (json!({"addressType": null}), &["addressType: Required value"]),
                (
                    json!({"endpoints": [{"addresses": []}]}),
                    &["endpoints[0].addresses: Required value: must contain at least 1 address"],
                ),
                (
                    json!({"endpoints": [{"addresses": ["2001:db8::1"]}]}),
                    &["endpoints[0].addresses[0]: Invalid value: \"2001:db8::1\": must be an IPv4 address"],
                ),
            ],
        );
        let detail = "addressType: Invalid value: \"FQDN\": field is immutable";
        let patch = json!({"addressType": "FQDN", "endpoints": []});
        updates(kind, &base, &[(patch, &[detail])]);
    }
}
