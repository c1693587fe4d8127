//! From the view of a service to its elements of the proxy's maps. Pure; the same input gives the same text.
//!
//! A packet to a virtual address finds in `services` the verdict that names a pick chain: one of a constant set,
//! each of which draws a number below its own size and looks up `(address . protocol . port . number)` in
//! `endpoints`. All look-ups are exact, so the cost of a packet and of a change does not depend on how many
//! services there are.

use crate::view::{Endpoint, NodeView, PortView, Protocol, ServiceView};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::Ipv4Addr,
};

/// A map or set of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Map {
    /// `address . protocol . port` to the pick chain for everybody.
    Services,
    /// The same for clients inside the cluster, where it differs (external addresses with policy `Local`).
    Inside,
    /// `address . protocol . port . number` to `address . port`.
    Endpoints,
    /// `address . protocol . port` to the connection mark of a port of a service with session affinity.
    Affinity,
    /// Virtual addresses whose outside clients lose their source address.
    Masquerade,
    /// ClusterIPs: what goes to one and to none of its ports is refused.
    Owned,
    /// Virtual addresses without a backend: refused.
    Refused,
    /// External addresses with policy `Local` and no backend here: dropped, so that the load balancer moves on.
    Dropped,
    /// Virtual addresses with a list of allowed sources.
    Guarded,
    /// `source range . address . protocol . port` that may pass.
    Allowed,
    /// `address . address` of local backends: a pod that reaches itself through a service.
    Hairpin,
}

/// What an element is found by.
pub(crate) type Key = (Map, String);

/// What one service has in the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    /// Its elements: key to value (empty in sets).
    pub(crate) elements: BTreeMap<Key, String>,
    /// Its health-check node port and how many of its backends on this node are ready.
    pub(crate) health: Option<(u16, usize)>,
}

/// Connection marks of a service's ports, by protocol and port; those without session affinity have none.
pub(crate) type PortMarks = BTreeMap<(Protocol, u16), u32>;

/// Most numbers a service's backends spread over; with more backends each node uses a stable part of them.
pub(crate) const MAX_SLOTS: usize = 1024;
/// Pick chains of exactly that many numbers exist up to here; beyond, the next power of two is filled by repeating.
const EXACT_SLOTS: usize = 64;
/// Where the numbers of the `Inside` list begin, so that both lists live in one map.
pub(crate) const INSIDE_OFFSET: usize = 4096;
/// Sizes for which a pick chain exists.
pub(crate) fn slot_sizes() -> impl Iterator<Item = usize> {
    (1..=EXACT_SLOTS).chain([128, 256, 512, MAX_SLOTS])
}

fn slots_for(backends: usize) -> usize {
    slot_sizes().find(|size| *size >= backends).unwrap_or(MAX_SLOTS)
}

/// The elements of a service on a node.
pub(crate) fn part(service: &ServiceView, node: &NodeView, marks: &PortMarks) -> Part {
    let mut out = Part::default();
    for ip in &service.cluster_ips {
        out.add(Map::Owned, ip.to_string(), String::new());
    }
    for port in &service.ports {
        add_port(&mut out, service, port, node, marks.get(&(port.protocol, port.port)).copied());
    }
    out.health = service.health_check_port.map(|port| {
        let ready = service.ports.iter().flat_map(|p| &p.endpoints).filter(|e| e.local && e.ready);
        let pods: BTreeSet<_> = ready.map(|endpoint| *endpoint.address.ip()).collect();
        (port, pods.len())
    });
    out
}

fn add_port(out: &mut Part, service: &ServiceView, port: &PortView, node: &NodeView, mark: Option<u32>) {
    let (all, local) = (port.anywhere(), port.here());
    for endpoint in all.iter().filter(|endpoint| endpoint.local).chain(&local) {
        let ip = endpoint.address.ip();
        out.add(Map::Hairpin, format!("{ip} . {ip}"), String::new());
    }
    let inside = if service.internal_local { &local } else { &all };
    for ip in &service.cluster_ips {
        add_address(out, &vip(*ip, port, port.port), inside, mark);
    }
    let node_ports = node.addresses.iter().filter_map(|ip| Some((*ip, port.node_port?)));
    let external = service.external_ips.iter().map(|ip| (*ip, port.port)).chain(node_ports);
    for (ip, number) in external {
        let vip = vip(ip, port, number);
        if service.external_local {
            add_local_only(out, &vip, &all, &local, mark);
        } else {
            out.add(Map::Masquerade, vip.clone(), String::new());
            add_address(out, &vip, &all, mark);
        }
    }
    for ip in service.external_ips.iter().filter(|_| !service.source_ranges.is_empty()) {
        let vip = vip(*ip, port, port.port);
        for range in &service.source_ranges {
            out.add(Map::Allowed, format!("{} . {vip}", range.trim()), String::new());
        }
        out.add(Map::Guarded, vip, String::new());
    }
}

/// An external address with policy `Local`: outside clients reach this node's backends only, clients inside the
/// cluster reach all, as if it were the ClusterIP.
fn add_local_only(out: &mut Part, vip: &str, all: &[Endpoint], local: &[Endpoint], mark: Option<u32>) {
    if !all.is_empty() {
        let size = fill(out, vip, all, INSIDE_OFFSET);
        out.add(Map::Inside, vip.to_owned(), format!("goto inside_{size}"));
    }
    if local.is_empty() {
        out.add(if all.is_empty() { Map::Refused } else { Map::Dropped }, vip.to_owned(), String::new());
    } else {
        add_address(out, vip, local, mark);
    }
}

fn add_address(out: &mut Part, vip: &str, endpoints: &[Endpoint], mark: Option<u32>) {
    if endpoints.is_empty() {
        out.add(Map::Refused, vip.to_owned(), String::new());
        return;
    }
    let size = fill(out, vip, endpoints, 0);
    out.add(Map::Services, vip.to_owned(), format!("goto pick_{size}"));
    if let Some(mark) = mark {
        out.add(Map::Affinity, vip.to_owned(), format!("{mark:#010x}"));
    }
}

/// Gives each number its backend; returns how many numbers there are.
fn fill(out: &mut Part, vip: &str, endpoints: &[Endpoint], offset: usize) -> usize {
    let size = slots_for(endpoints.len());
    for number in 0..size {
        let backend = endpoints[number * endpoints.len() / size].address;
        let mut key = String::with_capacity(vip.len() + 8);
        // Writing to a String cannot fail.
        let _ = write!(key, "{vip} . {}", number + offset);
        out.add(Map::Endpoints, key, format!("{} . {}", backend.ip(), backend.port()));
    }
    size
}

fn vip(ip: Ipv4Addr, port: &PortView, number: u16) -> String {
    format!("{ip} . {} . {number}", port.protocol.name())
}

impl Part {
    fn add(&mut self, map: Map, key: String, value: String) {
        self.elements.entry((map, key)).or_insert(value);
    }

    /// Its elements of one map.
    pub(crate) fn of(&self, map: Map) -> impl Iterator<Item = (&str, &str)> {
        let whole = self.elements.range((map, String::new())..);
        whole.take_while(move |((of, _), _)| *of == map).map(|((_, key), value)| (key.as_str(), value.as_str()))
    }

    /// Its backends at a virtual address, as the map has them.
    pub(crate) fn backends(&self, vip: &str) -> impl Iterator<Item = &str> {
        let begin = format!("{vip} . ");
        let numbers = self.elements.range((Map::Endpoints, begin.clone())..);
        let numbers = numbers.take_while(move |((map, key), _)| *map == Map::Endpoints && key.starts_with(&begin));
        numbers.map(|(_, backend)| backend.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddrV4;

    fn endpoint(last: u8, local: bool) -> Endpoint {
        Endpoint { address: SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, last), 8080), local, ready: true }
    }

    fn service(endpoints: Vec<Endpoint>) -> ServiceView {
        ServiceView {
            name: "n/s".into(),
            cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 1)],
            external_ips: vec![],
            internal_local: false,
            external_local: false,
            affinity_seconds: None,
            source_ranges: vec![],
            health_check_port: None,
            ports: vec![PortView { protocol: Protocol::Tcp, port: 80, node_port: None, endpoints }],
        }
    }

    fn made(service: &ServiceView) -> Part {
        let node = NodeView { name: "n1".into(), addresses: vec![Ipv4Addr::new(10, 0, 0, 5)] };
        part(service, &node, &PortMarks::default())
    }

    fn keys(part: &Part, map: Map) -> Vec<&str> {
        part.of(map).map(|(key, _)| key).collect()
    }

    fn value<'a>(part: &'a Part, map: Map, key: &str) -> &'a str {
        &part.elements[&(map, key.to_owned())]
    }

    #[test]
    fn each_backend_has_its_number() {
        let part = made(&service(vec![endpoint(1, false), endpoint(2, true)]));
        assert_eq!(value(&part, Map::Services, "10.96.0.1 . tcp . 80"), "goto pick_2");
        assert_eq!(value(&part, Map::Endpoints, "10.96.0.1 . tcp . 80 . 0"), "10.1.0.1 . 8080");
        assert_eq!(value(&part, Map::Endpoints, "10.96.0.1 . tcp . 80 . 1"), "10.1.0.2 . 8080");
        assert_eq!(part.backends("10.96.0.1 . tcp . 80").collect::<Vec<_>>(), ["10.1.0.1 . 8080", "10.1.0.2 . 8080"]);
        assert_eq!(part.backends("10.96.0.1 . tcp . 8").count(), 0);
        assert_eq!(keys(&part, Map::Hairpin), ["10.1.0.2 . 10.1.0.2"]);
    }

    #[test]
    fn no_backend_is_refused() {
        let part = made(&service(vec![]));
        assert_eq!(keys(&part, Map::Refused), ["10.96.0.1 . tcp . 80"]);
        assert_eq!(keys(&part, Map::Owned), ["10.96.0.1"]);
        assert_eq!(part.of(Map::Services).count(), 0);
    }

    #[test]
    fn local_policy_drops_outside_and_serves_inside() {
        let mut with = service(vec![endpoint(1, false)]);
        with.external_local = true;
        with.external_ips = vec![Ipv4Addr::new(192, 0, 2, 1)];
        with.ports[0].node_port = Some(30080);
        let part = made(&with);
        assert_eq!(keys(&part, Map::Dropped), ["10.0.0.5 . tcp . 30080", "192.0.2.1 . tcp . 80"]);
        assert_eq!(value(&part, Map::Inside, "192.0.2.1 . tcp . 80"), "goto inside_1");
        assert_eq!(value(&part, Map::Endpoints, "192.0.2.1 . tcp . 80 . 4096"), "10.1.0.1 . 8080");
        assert_eq!(part.of(Map::Masquerade).count(), 0);
    }

    #[test]
    fn cluster_policy_masquerades_outside_traffic() {
        let mut with = service(vec![endpoint(1, false)]);
        with.ports[0].node_port = Some(30080);
        let part = made(&with);
        assert_eq!(keys(&part, Map::Masquerade), ["10.0.0.5 . tcp . 30080"]);
        assert_eq!(value(&part, Map::Services, "10.0.0.5 . tcp . 30080"), "goto pick_1");
    }

    #[test]
    fn sources_are_guarded() {
        let mut with = service(vec![endpoint(1, false)]);
        with.external_ips = vec![Ipv4Addr::new(192, 0, 2, 1)];
        with.source_ranges = vec!["198.51.100.0/24".into()];
        let part = made(&with);
        assert_eq!(keys(&part, Map::Guarded), ["192.0.2.1 . tcp . 80"]);
        assert_eq!(keys(&part, Map::Allowed), ["198.51.100.0/24 . 192.0.2.1 . tcp . 80"]);
    }

    #[test]
    fn many_backends_share_the_numbers_fairly() {
        let part = made(&service((0..100).map(|last| endpoint(last, false)).collect()));
        assert_eq!(part.of(Map::Endpoints).count(), 128);
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, backend) in part.of(Map::Endpoints) {
            *count.entry(backend).or_default() += 1;
        }
        assert_eq!(count.len(), 100);
        assert!(count.values().all(|n| (1..=2).contains(n)));
    }

    #[test]
    fn under_policy_local_those_that_end_here_serve_on() {
        let mut with = service(vec![endpoint(1, false), Endpoint { ready: false, ..endpoint(2, true) }]);
        with.external_local = true;
        with.external_ips = vec![Ipv4Addr::new(192, 0, 2, 1)];
        with.health_check_port = Some(32000);
        let part = made(&with);
        assert_eq!(value(&part, Map::Endpoints, "192.0.2.1 . tcp . 80 . 0"), "10.1.0.2 . 8080");
        assert_eq!(value(&part, Map::Endpoints, "10.96.0.1 . tcp . 80 . 0"), "10.1.0.1 . 8080");
        assert_eq!(part.health, Some((32000, 0)), "load balancers move on meanwhile");
    }

    #[test]
    fn the_health_port_counts_local_pods() {
        let mut with = service(vec![endpoint(1, true), endpoint(2, false)]);
        with.health_check_port = Some(32000);
        assert_eq!(made(&with).health, Some((32000, 1)));
    }
}
