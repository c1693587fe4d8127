//! From service views to the elements of the proxy's maps. Pure; the same input gives the same text.
//!
//! A packet to a virtual address finds in `services` the verdict that names a pick chain: one of a constant set,
//! each of which draws a number below its own size and looks up `(address . protocol . port . number)` in
//! `endpoints`. All look-ups are exact, so the cost of a packet and of a change does not depend on how many
//! services there are.

use crate::view::{Endpoint, NodeView, PortView, ServiceView};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::Ipv4Addr,
};

/// A map or set of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Map {
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

/// Elements of every map: key to value (empty in sets).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Elements by map.
    pub elements: BTreeMap<Map, BTreeMap<String, String>>,
    /// Affinity timeouts in use, seconds: one dynamic map each.
    pub timeouts: Vec<u32>,
    /// `port -> backends on this node` for services with a health-check node port.
    pub health: BTreeMap<u16, usize>,
}

/// Most numbers a service's backends spread over; with more backends each node uses a stable part of them.
pub const MAX_SLOTS: usize = 1024;
/// Pick chains of exactly that many numbers exist up to here; beyond, the next power of two is filled by repeating.
const EXACT_SLOTS: usize = 64;
/// Where the numbers of the `Inside` list begin, so that both lists live in one map.
pub(crate) const INSIDE_OFFSET: usize = 4096;
/// High bits of the connection mark that say "has affinity"; the low ones are the port's number.
pub(crate) const AFFINITY_MARK: u32 = 0x7f00_0000;
/// Bits of the mark that tell timeouts apart.
pub(crate) const AFFINITY_TIMEOUT_SHIFT: u32 = 20;
/// Bits of the mark that hold the number of a service's port.
const NUMBER_BITS: u32 = AFFINITY_TIMEOUT_SHIFT;
const NUMBER_MASK: u32 = (1 << NUMBER_BITS) - 1;
/// Timeouts that can be told apart; services beyond share the last.
const MAX_TIMEOUTS: usize = 15;

/// Sizes for which a pick chain exists.
pub(crate) fn slot_sizes() -> impl Iterator<Item = usize> {
    (1..=EXACT_SLOTS).chain([128, 256, 512, MAX_SLOTS])
}

fn slots_for(backends: usize) -> usize {
    slot_sizes().find(|size| *size >= backends).unwrap_or(MAX_SLOTS)
}

/// Builds the elements for a node.
#[must_use]
pub fn program(services: &[ServiceView], node: &NodeView) -> Program {
    let mut out = Program { timeouts: timeouts(services), ..Program::default() };
    let mut numbers = BTreeSet::new();
    for service in services {
        for ip in &service.cluster_ips {
            out.add(Map::Owned, ip.to_string(), String::new());
        }
        for port in &service.ports {
            let mark = service.affinity_seconds.map(|seconds| {
                let number = number(&mut numbers, service, port);
                mark(&out.timeouts, seconds, number)
            });
            add_port(&mut out, service, port, node, mark);
        }
        if let Some(port) = service.health_check_port {
            let ready = service.ports.iter().flat_map(|p| &p.endpoints).filter(|e| e.local && e.ready);
            let pods: BTreeSet<_> = ready.map(|endpoint| *endpoint.address.ip()).collect();
            out.health.insert(port, pods.len());
        }
    }
    out
}

/// The number of a service's port, the same whatever other services come and go: clients that are remembered under it
/// must never be taken for another's. Numbers that meet move on to the next free one.
fn number(taken: &mut BTreeSet<u32>, service: &ServiceView, port: &PortView) -> u32 {
    let name = format!("{}:{}:{}", service.name, port.protocol.name(), port.port);
    // FNV-1a.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let mut number = (hash ^ hash >> NUMBER_BITS) & NUMBER_MASK;
    while !taken.insert(number) && taken.len() < NUMBER_MASK as usize {
        number = (number + 1) & NUMBER_MASK;
    }
    number
}

fn timeouts(services: &[ServiceView]) -> Vec<u32> {
    let mut seconds: Vec<_> = services.iter().filter_map(|service| service.affinity_seconds).collect();
    seconds.sort_unstable();
    seconds.dedup();
    seconds.truncate(MAX_TIMEOUTS);
    seconds
}

fn mark(timeouts: &[u32], seconds: u32, number: u32) -> u32 {
    let at = timeouts.iter().position(|known| *known == seconds).unwrap_or(timeouts.len() - 1);
    let timeout = u32::try_from(at).expect("at most 15 timeouts");
    AFFINITY_MARK | timeout << AFFINITY_TIMEOUT_SHIFT | number & NUMBER_MASK
}

fn add_port(out: &mut Program, service: &ServiceView, port: &PortView, node: &NodeView, mark: Option<u32>) {
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
fn add_local_only(out: &mut Program, vip: &str, all: &[Endpoint], local: &[Endpoint], mark: Option<u32>) {
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

fn add_address(out: &mut Program, vip: &str, endpoints: &[Endpoint], mark: Option<u32>) {
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
fn fill(out: &mut Program, vip: &str, endpoints: &[Endpoint], offset: usize) -> usize {
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

impl Program {
    fn add(&mut self, map: Map, key: String, value: String) {
        self.elements.entry(map).or_default().entry(key).or_insert(value);
    }

    /// The elements of one map.
    #[must_use]
    pub fn of(&self, map: Map) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.elements.get(&map).unwrap_or(&NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Protocol;
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

    fn node() -> NodeView {
        NodeView { name: "n1".into(), addresses: vec![Ipv4Addr::new(10, 0, 0, 5)] }
    }

    fn keys(program: &Program, map: Map) -> Vec<&str> {
        program.of(map).keys().map(String::as_str).collect()
    }

    #[test]
    fn each_backend_has_its_number() {
        let program = program(&[service(vec![endpoint(1, false), endpoint(2, true)])], &node());
        assert_eq!(program.of(Map::Services)["10.96.0.1 . tcp . 80"], "goto pick_2");
        assert_eq!(program.of(Map::Endpoints)["10.96.0.1 . tcp . 80 . 0"], "10.1.0.1 . 8080");
        assert_eq!(program.of(Map::Endpoints)["10.96.0.1 . tcp . 80 . 1"], "10.1.0.2 . 8080");
        assert_eq!(keys(&program, Map::Hairpin), ["10.1.0.2 . 10.1.0.2"]);
    }

    #[test]
    fn no_backend_is_refused() {
        let program = program(&[service(vec![])], &node());
        assert_eq!(keys(&program, Map::Refused), ["10.96.0.1 . tcp . 80"]);
        assert_eq!(keys(&program, Map::Owned), ["10.96.0.1"]);
        assert!(program.of(Map::Services).is_empty());
    }

    #[test]
    fn local_policy_drops_outside_and_serves_inside() {
        let mut with = service(vec![endpoint(1, false)]);
        with.external_local = true;
        with.external_ips = vec![Ipv4Addr::new(192, 0, 2, 1)];
        with.ports[0].node_port = Some(30080);
        let program = program(&[with], &node());
        assert_eq!(keys(&program, Map::Dropped), ["10.0.0.5 . tcp . 30080", "192.0.2.1 . tcp . 80"]);
        assert_eq!(program.of(Map::Inside)["192.0.2.1 . tcp . 80"], "goto inside_1");
        assert_eq!(program.of(Map::Endpoints)["192.0.2.1 . tcp . 80 . 4096"], "10.1.0.1 . 8080");
        assert!(program.of(Map::Masquerade).is_empty());
    }

    #[test]
    fn cluster_policy_masquerades_outside_traffic() {
        let mut with = service(vec![endpoint(1, false)]);
        with.ports[0].node_port = Some(30080);
        let program = program(&[with], &node());
        assert_eq!(keys(&program, Map::Masquerade), ["10.0.0.5 . tcp . 30080"]);
        assert_eq!(program.of(Map::Services)["10.0.0.5 . tcp . 30080"], "goto pick_1");
    }

    #[test]
    fn sources_are_guarded() {
        let mut with = service(vec![endpoint(1, false)]);
        with.external_ips = vec![Ipv4Addr::new(192, 0, 2, 1)];
        with.source_ranges = vec!["198.51.100.0/24".into()];
        let program = program(&[with], &node());
        assert_eq!(keys(&program, Map::Guarded), ["192.0.2.1 . tcp . 80"]);
        assert_eq!(keys(&program, Map::Allowed), ["198.51.100.0/24 . 192.0.2.1 . tcp . 80"]);
    }

    #[test]
    fn many_backends_share_the_numbers_fairly() {
        let endpoints: Vec<_> = (0..100).map(|last| endpoint(last, false)).collect();
        let program = program(&[service(endpoints)], &node());
        assert_eq!(program.of(Map::Endpoints).len(), 128);
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        for backend in program.of(Map::Endpoints).values() {
            *count.entry(backend).or_default() += 1;
        }
        assert_eq!(count.len(), 100);
        assert!(count.values().all(|n| (1..=2).contains(n)));
    }

    #[test]
    fn affinity_marks_tell_ports_and_timeouts_apart_and_stay() {
        let mut a = service(vec![endpoint(1, false)]);
        let mut b = a.clone();
        a.affinity_seconds = Some(10);
        b.affinity_seconds = Some(20);
        b.name = "n/b".into();
        b.cluster_ips = vec![Ipv4Addr::new(10, 96, 0, 2)];
        b.ports.push(PortView { port: 81, ..b.ports[0].clone() });
        let both = program(&[a, b.clone()], &node());
        assert_eq!(both.timeouts, [10, 20]);
        let marks: BTreeSet<_> = both.of(Map::Affinity).values().collect();
        assert_eq!(marks.len(), 3, "{marks:?}");
        assert!(both.of(Map::Affinity)["10.96.0.1 . tcp . 80"].starts_with("0x7f0"));
        let alone = program(&[b], &node());
        let number = |program: &Program| program.of(Map::Affinity)["10.96.0.2 . tcp . 81"][5..].to_owned();
        assert_eq!(number(&both), number(&alone));
    }

    #[test]
    fn numbers_that_meet_move_on() {
        let with = service(vec![]);
        let mut taken = BTreeSet::new();
        let first = number(&mut taken, &with, &with.ports[0]);
        assert_eq!(number(&mut taken, &with, &with.ports[0]), (first + 1) & NUMBER_MASK);
    }

    #[test]
    fn under_policy_local_those_that_end_here_serve_on() {
        let mut with = service(vec![endpoint(1, false), Endpoint { ready: false, ..endpoint(2, true) }]);
        with.external_local = true;
        with.external_ips = vec![Ipv4Addr::new(192, 0, 2, 1)];
        with.health_check_port = Some(32000);
        let program = program(&[with], &node());
        assert_eq!(program.of(Map::Endpoints)["192.0.2.1 . tcp . 80 . 0"], "10.1.0.2 . 8080");
        assert_eq!(program.of(Map::Endpoints)["10.96.0.1 . tcp . 80 . 0"], "10.1.0.1 . 8080");
        assert_eq!(program.health, [(32000, 0)].into(), "load balancers move on meanwhile");
    }

    #[test]
    fn the_health_port_counts_local_pods() {
        let mut with = service(vec![endpoint(1, true), endpoint(2, false)]);
        with.health_check_port = Some(32000);
        assert_eq!(program(&[with], &node()).health, [(32000, 1)].into());
    }
}
