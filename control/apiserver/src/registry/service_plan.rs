//! What addresses and ports a Service has and needs: upstream's rules over one Service. Pure.

use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use timonel_api::Value;

/// Addresses looked at when searching in order.
pub(super) const MAX_SCAN: usize = 1 << 20;

/// An address family as Services name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// Addresses and node ports that a Service holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ports: BTreeSet<u16>,
}

impl Wanted {
    pub(super) fn of(service: &Value) -> Self {
        let mut wanted = Self::default();
        if needs_address(service) {
            wanted.addresses = addresses(service);
        }
        let listed = service.list_at(&["spec", "ports"]).iter().filter_map(|port| port.int_at(&["nodePort"]));
        let health = service.int_at(&["spec", "healthCheckNodePort"]);
        wanted.ports = listed.chain(health).filter_map(|port| u16::try_from(port).ok()).filter(|p| *p != 0).collect();
        wanted
    }
}

fn kind(service: &Value) -> &str {
    match service.str_at(&["spec", "type"]) {
        "" => "ClusterIP",
        kind => kind,
    }
}

fn is_headless(service: &Value) -> bool {
    let first = service.list_at(&["spec", "clusterIPs"]).first().and_then(Value::as_str).unwrap_or("");
    first == "None" || service.str_at(&["spec", "clusterIP"]) == "None"
}

/// Whether the Service has cluster addresses.
pub(super) fn needs_address(service: &Value) -> bool {
    kind(service) != "ExternalName" && !is_headless(service)
}

fn needs_node_ports(service: &Value) -> bool {
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => service.bool_at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(false),
        _ => false,
    }
}

fn needs_health_port(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && service.str_at(&["spec", "externalTrafficPolicy"]) == "Local"
}

/// The addresses that a Service names.
pub(super) fn addresses(service: &Value) -> Vec<IpAddr> {
    let listed = service.list_at(&["spec", "clusterIPs"]).iter().filter_map(Value::as_str);
    let listed: Vec<IpAddr> = listed.filter_map(|text| text.parse().ok()).collect();
    if listed.is_empty() { service.str_at(&["spec", "clusterIP"]).parse().into_iter().collect() } else { listed }
}

/// The families that a Service names.
pub(super) fn families(service: &Value) -> Vec<Family> {
    let names = service.list_at(&["spec", "ipFamilies"]).iter().filter_map(Value::as_str);
    names.map(|name| if name == "IPv6" { Family::V6 } else { Family::V4 }).collect()
}

fn set_families(service: &mut Value, families: &[Family]) {
    let names: Vec<Value> = families.iter().map(|family| Value::from(family.as_str())).collect();
    service.set_at(&["spec", "ipFamilies"], names);
}

/// Whether what a client says of families is what the API knows; validation names what is not.
fn families_read(service: &Value) -> bool {
    let policy = service.at(&["spec", "ipFamilyPolicy"]).and_then(Value::as_str);
    let listed = service.list_at(&["spec", "ipFamilies"]);
    policy.is_none_or(|policy| matches!(policy, "SingleStack" | "PreferDualStack" | "RequireDualStack"))
        && listed.iter().all(|family| matches!(family.as_str(), Some("IPv4" | "IPv6")))
        && !matches!(listed, [a, b] if a == b)
}

/// Sets policy and families where the client did not, and keeps `clusterIP` and `clusterIPs` alike.
pub(super) fn fill_families(service: &mut Value, cluster: &[Family]) {
    if kind(service) == "ExternalName" {
        return;
    }
    same_address(service);
    if !families_read(service) {
        return;
    }
    let policy = service.str_at(&["spec", "ipFamilyPolicy"]).to_owned();
    let selectorless = service.at(&["spec", "selector"]).and_then(Value::as_object).is_none_or(|s| s.is_empty());
    let mut found = families(service);
    let Some(default) = cluster.first().copied() else { return };
    if found.is_empty() {
        let named: Vec<Family> = addresses(service).into_iter().map(Family::of).collect();
        found = if named.is_empty() { vec![default] } else { named };
    }
    let both = |found: &mut Vec<Family>| {
        if found.len() == 1 {
            found.push(if found[0] == Family::V4 { Family::V6 } else { Family::V4 });
        }
    };
    if is_headless(service) && selectorless {
        // Nobody knows where its endpoints are: whatever family they have is fine.
        let policy = if policy.is_empty() { "RequireDualStack" } else { &policy };
        if policy != "SingleStack" {
            both(&mut found);
        }
        service.set_at(&["spec", "ipFamilyPolicy"], policy);
    } else {
        let guess = if found.len() > 1 { "RequireDualStack" } else { "SingleStack" };
        let policy = if policy.is_empty() { guess } else { &policy };
        if policy != "SingleStack" && cluster.len() > 1 {
            both(&mut found);
        } else if policy == "SingleStack" {
            found.truncate(1);
        }
        service.set_at(&["spec", "ipFamilyPolicy"], policy);
    }
    set_families(service, &found);
}

/// `clusterIP` is the first of `clusterIPs`, whichever of the two the client set.
fn same_address(service: &mut Value) {
    let first = service.list_at(&["spec", "clusterIPs"]).first().and_then(Value::as_str).unwrap_or("").to_owned();
    let one = service.str_at(&["spec", "clusterIP"]).to_owned();
    match (one.is_empty(), first.is_empty()) {
        (false, true) => service.set_at(&["spec", "clusterIPs"], vec![Value::from(one)]),
        (true, false) => service.set_at(&["spec", "clusterIP"], first),
        _ => {}
    }
}

/// Writes the addresses that a Service got.
pub(super) fn set_addresses(service: &mut Value, addresses: &[IpAddr]) {
    let Some(first) = addresses.first() else { return };
    service.set_at(&["spec", "clusterIP"], first.to_string());
    let all: Vec<Value> = addresses.iter().map(|address| Value::from(address.to_string())).collect();
    service.set_at(&["spec", "clusterIPs"], all);
}

/// A node port that is to be given: those of one number are given the same port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Open {
    /// Ports of the list, by position: one port number under several protocols.
    Listed(Vec<usize>),
    Health,
}

/// The node ports that a Service needs and does not name.
pub(super) fn open_ports(service: &Value) -> Vec<Open> {
    let mut open = Vec::new();
    if needs_node_ports(service) {
        let mut by_number: BTreeMap<i64, Vec<(usize, String)>> = BTreeMap::new();
        for (at, port) in service.list_at(&["spec", "ports"]).iter().enumerate() {
            if port.int_at(&["nodePort"]).unwrap_or(0) == 0 {
                let protocol = port.str_at(&["protocol"]).to_owned();
                by_number.entry(port.int_at(&["port"]).unwrap_or(0)).or_default().push((at, protocol));
            }
        }
        for ports in by_number.into_values() {
            let protocols: BTreeSet<&str> = ports.iter().map(|(_, protocol)| protocol.as_str()).collect();
            if protocols.len() == ports.len() {
                open.push(Open::Listed(ports.iter().map(|(at, _)| *at).collect()));
            } else {
                open.extend(ports.iter().map(|(at, _)| Open::Listed(vec![*at])));
            }
        }
    }
    if needs_health_port(service) && service.int_at(&["spec", "healthCheckNodePort"]).unwrap_or(0) == 0 {
        open.push(Open::Health);
    }
    open
}

/// Writes the node ports that a Service got.
pub(super) fn set_ports(service: &mut Value, open: &[Open], given: &[u16]) {
    for (open, port) in open.iter().zip(given) {
        match open {
            Open::Health => service.set_at(&["spec", "healthCheckNodePort"], i64::from(*port)),
            Open::Listed(places) => {
                let Some(ports) = service.at_mut(&["spec", "ports"]).and_then(Value::as_list_mut) else { continue };
                for at in places {
                    if let Some(item) = ports.get_mut(*at) {
                        item.set_at(&["nodePort"], i64::from(*port));
                    }
                }
            }
        }
    }
}

/// Values that the server gave before and a client that writes only its own fields leaves out.
pub(super) fn carry_over(new: &mut Value, old: &Value) {
    if needs_address(old) && needs_address(new) {
        if new.str_at(&["spec", "clusterIP"]).is_empty() && new.list_at(&["spec", "clusterIPs"]).is_empty() {
            for field in ["clusterIP", "clusterIPs"] {
                if let Some(value) = old.at(&["spec", field]) {
                    new.set_at(&["spec", field], value.clone());
                }
            }
        }
        same_address(new);
        drop_second_address(new);
    }
    if kind(new) != "ExternalName" && kind(old) != "ExternalName" {
        for field in ["ipFamilyPolicy", "ipFamilies"] {
            if let (None, Some(value)) = (new.at(&["spec", field]), old.at(&["spec", field])) {
                new.set_at(&["spec", field], value.clone());
            }
        }
    }
    if needs_node_ports(old) && needs_node_ports(new) {
        carry_node_ports(new, old);
    }
    if needs_health_port(old)
        && needs_health_port(new)
        && new.int_at(&["spec", "healthCheckNodePort"]).unwrap_or(0) == 0
        && let Some(port) = old.int_at(&["spec", "healthCheckNodePort"])
    {
        new.set_at(&["spec", "healthCheckNodePort"], port);
    }
}

/// A change to one family gives the second address back.
fn drop_second_address(service: &mut Value) {
    if service.str_at(&["spec", "ipFamilyPolicy"]) != "SingleStack" {
        return;
    }
    for field in ["clusterIPs", "ipFamilies"] {
        if let Some(list) = service.at_mut(&["spec", field]).and_then(Value::as_list_mut) {
            list.truncate(1);
        }
    }
}

fn carry_node_ports(new: &mut Value, old: &Value) {
    let key = |port: &Value| (port.str_at(&["protocol"]).to_owned(), port.int_at(&["port"]).unwrap_or(0));
    let before: BTreeMap<_, i64> = old
        .list_at(&["spec", "ports"])
        .iter()
        .filter_map(|port| Some((key(port), port.int_at(&["nodePort"]).filter(|n| *n != 0)?)))
        .collect();
    let Some(ports) = new.at_mut(&["spec", "ports"]).and_then(Value::as_list_mut) else { return };
    let used: BTreeSet<i64> = ports.iter().filter_map(|port| port.int_at(&["nodePort"])).collect();
    for port in ports {
        if port.int_at(&["nodePort"]).unwrap_or(0) == 0
            && let Some(number) = before.get(&key(port)).filter(|number| !used.contains(number))
        {
            port.set_at(&["nodePort"], *number);
        }
    }
}

/// Addresses of a range that may be given: all but the first and, for IPv4, the last.
pub(super) fn usable(range: &IpNet) -> u64 {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len()).min(63);
    let size = 1u64 << bits;
    if range.addr().is_ipv4() { size.saturating_sub(1).max(1) } else { size }
}

/// How many addresses at the start of a range are left to those who ask for a certain one.
pub(super) fn reserved_for_static(size: u64) -> u64 {
    if size <= 16 { 0 } else { (size / 16).clamp(16, 256) }
}

/// The address at a place of a range.
pub(super) fn nth(range: &IpNet, offset: u64) -> IpAddr {
    match range.network() {
        IpAddr::V4(base) => {
            IpAddr::V4(Ipv4Addr::from(u32::from(base).wrapping_add(u32::try_from(offset).unwrap_or(u32::MAX))))
        }
        IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base).wrapping_add(u128::from(offset)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(json: serde_json::Value) -> Value {
        json.into()
    }

    #[test]
    fn families_follow_policy_and_cluster() {
        for (spec, cluster, policy, families) in [
            (json!({"selector": {"a": "b"}}), &[Family::V4][..], "SingleStack", "IPv4"),
            (json!({"selector": {"a": "b"}, "clusterIP": "fd00::1"}), &[Family::V4, Family::V6], "SingleStack", "IPv6"),
            (
                json!({"selector": {"a": "b"}, "ipFamilyPolicy": "PreferDualStack"}),
                &[Family::V4],
                "PreferDualStack",
                "IPv4",
            ),
            (json!({"ipFamilyPolicy": "PreferDualStack"}), &[Family::V6, Family::V4], "PreferDualStack", "IPv6,IPv4"),
            (json!({"clusterIP": "None"}), &[Family::V4], "RequireDualStack", "IPv4,IPv6"),
            (json!({"clusterIP": "None", "selector": {"a": "b"}}), &[Family::V4], "SingleStack", "IPv4"),
        ] {
            let mut service = value(json!({ "spec": spec }));
            fill_families(&mut service, cluster);
            let found: Vec<_> = super::families(&service).iter().map(|family| family.as_str()).collect();
            assert_eq!(
                (service.str_at(&["spec", "ipFamilyPolicy"]), found.join(",").as_str()),
                (policy, families),
                "{service:?}"
            );
        }
    }

    #[test]
    fn what_validation_refuses_is_left_as_it_is() {
        for spec in
            [json!({"ipFamilies": ["IPv5"]}), json!({"ipFamilies": ["IPv4", "IPv4"]}), json!({"ipFamilyPolicy": ""})]
        {
            let mut service = value(json!({ "spec": spec }));
            fill_families(&mut service, &[Family::V4]);
            assert_eq!(service, value(json!({ "spec": spec })));
        }
    }

    #[test]
    fn one_number_under_two_protocols_is_one_node_port() {
        let mut service = value(json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [
            {"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}, {"port": 80, "protocol": "TCP", "nodePort": 30001},
        ]}}));
        let open = open_ports(&service);
        assert_eq!(open, [Open::Listed(vec![0, 1]), Open::Health]);
        set_ports(&mut service, &open, &[30005, 30006]);
        assert_eq!(Wanted::of(&service).ports, BTreeSet::from([30001, 30005, 30006]));
        assert!(open_ports(&service).is_empty());
    }

    #[test]
    fn what_was_given_stays() {
        let old = value(json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}, {"port": 81, "protocol": "TCP", "nodePort": 30002}]}}));
        let mut new = value(json!({"spec": {"type": "NodePort",
            "ports": [{"port": 80, "protocol": "TCP"}, {"port": 82, "protocol": "TCP", "nodePort": 30002}]}}));
        carry_over(&mut new, &old);
        assert_eq!(new.str_at(&["spec", "clusterIP"]), "10.0.0.9");
        assert_eq!(
            Wanted::of(&new),
            Wanted { addresses: vec!["10.0.0.9".parse().unwrap()], ports: [30001, 30002].into() }
        );
    }

    #[test]
    fn ranges_are_counted() {
        let range: IpNet = "10.96.0.0/24".parse().unwrap();
        assert_eq!((usable(&range), reserved_for_static(255), nth(&range, 1)), (255, 16, "10.96.0.1".parse().unwrap()));
        assert_eq!(usable(&"fd00::/108".parse().unwrap()), 1 << 20);
    }
}
