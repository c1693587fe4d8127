//! The proxy's table as nftables text: whole, or what changes. Pure.

use crate::{
    marks::{AFFINITY_MARK, AFFINITY_TIMEOUT_SHIFT},
    part::{INSIDE_OFFSET, Key, Map, slot_sizes},
    table::{Changes, Table},
};
use ipnet::Ipv4Net;
use std::fmt::Write as _;

/// The table that the proxy owns. Nothing else touches it, and the proxy touches nothing else.
pub(crate) const TABLE: &str = "ip timonel";

/// Elements in one nftables command; longer lists are split so that no line grows without bound.
const ELEMENTS_PER_COMMAND: usize = 2_000;
/// Bit by which a packet to an external address asks for masquerading (upstream's, so that other parts know it).
const MASQUERADE_MARK: u32 = 0x4000;
/// Clients remembered for session affinity, over all services.
const AFFINITY_CLIENTS: u32 = 262_144;

impl Map {
    const ALL: [Self; 11] = [
        Self::Services,
        Self::Inside,
        Self::Endpoints,
        Self::Affinity,
        Self::Masquerade,
        Self::Owned,
        Self::Refused,
        Self::Dropped,
        Self::Guarded,
        Self::Allowed,
        Self::Hairpin,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Inside => "inside",
            Self::Endpoints => "endpoints",
            Self::Affinity => "affinity",
            Self::Masquerade => "outside",
            Self::Owned => "owned",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
            Self::Guarded => "guarded",
            Self::Allowed => "allowed",
            Self::Hairpin => "hairpin",
        }
    }

    const fn declaration(self) -> &'static str {
        match self {
            Self::Services => "map services { typeof ip daddr . meta l4proto . th dport : verdict; }",
            Self::Inside => "map inside { typeof ip daddr . meta l4proto . th dport : verdict; }",
            Self::Endpoints => {
                "map endpoints { typeof ip daddr . meta l4proto . th dport . numgen random mod 65536 \
                 : ip daddr . th dport; }"
            }
            Self::Affinity => "map affinity { typeof ip daddr . meta l4proto . th dport : ct mark; }",
            Self::Masquerade => "set outside { typeof ip daddr . meta l4proto . th dport; }",
            Self::Owned => "set owned { typeof ip daddr; }",
            Self::Refused => "set refused { typeof ip daddr . meta l4proto . th dport; }",
            Self::Dropped => "set dropped { typeof ip daddr . meta l4proto . th dport; }",
            Self::Guarded => "set guarded { typeof ip daddr . meta l4proto . th dport; }",
            Self::Allowed => "set allowed { typeof ip saddr . ip daddr . meta l4proto . th dport; flags interval; }",
            Self::Hairpin => "set hairpin { typeof ip saddr . ip daddr; }",
        }
    }
}

/// The whole table, replacing what is there in one transaction.
///
/// `pods` are the ranges of pods of the cluster: clients from there count as inside. Packets from pods to
/// anywhere but `direct` leave with the node's address; an empty `direct` never masquerades them.
#[must_use]
pub fn render_full(table: &Table, pods: &[Ipv4Net], direct: &[Ipv4Net]) -> String {
    let mut out = format!("table {TABLE} {{}}\ndelete table {TABLE}\ntable {TABLE} {{\n");
    for map in Map::ALL {
        line(&mut out, map.declaration());
    }
    line(
        &mut out,
        &format!(
            "map clients {{ typeof ip saddr . ct mark : ip daddr . th dport; flags timeout,dynamic; \
             size {AFFINITY_CLIENTS}; }}"
        ),
    );
    for size in slot_sizes() {
        line(&mut out, &pick_chain("pick", size, ""));
        line(&mut out, &pick_chain("inside", size, &format!(" offset {INSIDE_OFFSET}")));
    }
    chains(&mut out, pods, direct);
    line(&mut out, "chain remember { type filter hook postrouting priority 0; policy accept;");
    remember_rules(&mut out, &table.timeouts(), "");
    line(&mut out, "}\n}");
    elements(&mut out, "add", table.elements());
    out
}

/// What makes the kernel's table follow, one transaction; empty when nothing differs.
#[must_use]
pub fn render_changes(changes: &Changes) -> String {
    let mut out = String::new();
    elements(&mut out, "delete", changes.delete.iter().map(|(key, value)| (key, value.as_str())));
    elements(&mut out, "add", changes.add.iter().map(|(key, value)| (key, value.as_str())));
    if let Some(timeouts) = &changes.timeouts {
        line(&mut out, &format!("flush chain {TABLE} remember"));
        remember_rules(&mut out, timeouts, &format!("add rule {TABLE} remember "));
    }
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn pick_chain(prefix: &str, size: usize, offset: &str) -> String {
    format!(
        "chain {prefix}_{size} {{ dnat ip to ip daddr . meta l4proto . th dport . \
         numgen random mod {size}{offset} map @endpoints; }}"
    )
}

fn chains(out: &mut String, pods: &[Ipv4Net], direct: &[Ipv4Net]) {
    const VIP: &str = "ip daddr . meta l4proto . th dport";
    let pods = set(pods);
    let stick = format!(
        "ct mark set {VIP} map @affinity\n\
         ct mark & {AFFINITY_MARK:#x} == {AFFINITY_MARK:#x} meta l4proto {{ tcp, udp, sctp }} \
         dnat ip to ip saddr . ct mark map @clients"
    );
    line(out, "chain guard { type filter hook prerouting priority -110; policy accept;");
    line(out, &format!("{VIP} @guarded ip saddr . {VIP} != @allowed drop"));
    match &pods {
        Some(pods) => line(out, &format!("ip saddr != {pods} {VIP} @dropped drop")),
        None => line(out, &format!("{VIP} @dropped drop")),
    }
    line(out, "}\nchain prerouting { type nat hook prerouting priority -100; policy accept;");
    if let Some(pods) = &pods {
        line(out, &format!("ip saddr != {pods} {VIP} @outside meta mark set meta mark | {MASQUERADE_MARK:#x}"));
        line(out, &stick);
        line(out, &format!("ip saddr {pods} {VIP} vmap @inside"));
    } else {
        line(out, &format!("{VIP} @outside meta mark set meta mark | {MASQUERADE_MARK:#x}"));
        line(out, &stick);
    }
    line(out, &format!("{VIP} vmap @services\n}}"));
    line(out, "chain output { type nat hook output priority -100; policy accept;");
    line(out, &stick);
    line(out, &format!("{VIP} vmap @inside\n{VIP} vmap @services\n}}"));
    line(out, "chain postrouting { type nat hook postrouting priority 100; policy accept;");
    line(out, &format!("meta mark & {MASQUERADE_MARK:#x} != 0 masquerade"));
    line(out, "ct status dnat ip saddr . ip daddr @hairpin masquerade");
    if let (Some(pods), Some(direct)) = (&pods, set(direct)) {
        line(out, &format!("ip saddr {pods} ip daddr != {direct} masquerade"));
    }
    line(out, "}");
    for hook in ["input", "forward", "output"] {
        line(out, &format!("chain refuse_{hook} {{ type filter hook {hook} priority -10; policy accept;"));
        line(out, &format!("meta l4proto tcp {VIP} @refused reject with tcp reset"));
        line(out, &format!("{VIP} @refused reject"));
        // What was translated has another destination by here.
        line(out, "ct state new meta l4proto tcp ip daddr @owned reject with tcp reset");
        line(out, "ct state new ip daddr @owned reject\n}");
    }
}

fn set(ranges: &[Ipv4Net]) -> Option<String> {
    if ranges.is_empty() {
        return None;
    }
    let ranges: Vec<_> = ranges.iter().map(ToString::to_string).collect();
    Some(format!("{{ {} }}", ranges.join(", ")))
}

fn remember_rules(out: &mut String, timeouts: &[u32], prefix: &str) {
    for (at, seconds) in (0_u32..).zip(timeouts) {
        let mask = AFFINITY_MARK | 0xf << AFFINITY_TIMEOUT_SHIFT;
        let value = AFFINITY_MARK | at << AFFINITY_TIMEOUT_SHIFT;
        line(
            out,
            &format!(
                "{prefix}ct state new ct mark & {mask:#x} == {value:#x} meta l4proto {{ tcp, udp, sctp }} \
                 update @clients {{ ip saddr . ct mark timeout {seconds}s : ip daddr . th dport }}"
            ),
        );
    }
}

/// Commands for elements, which come in order of their maps.
fn elements<'a>(out: &mut String, verb: &str, elements: impl Iterator<Item = (&'a Key, &'a str)>) {
    let (mut current, mut in_command) = (None, 0);
    for ((map, key), value) in elements {
        if current != Some(*map) || in_command == ELEMENTS_PER_COMMAND {
            if current.is_some() {
                line(out, " }");
            }
            (current, in_command) = (Some(*map), 0);
        }
        // Writing to a String cannot fail.
        let _ = match in_command {
            0 => write!(out, "{verb} element {TABLE} {} {{ {key}", map.name()),
            _ => write!(out, ", {key}"),
        };
        if !value.is_empty() {
            let _ = write!(out, " : {value}");
        }
        in_command += 1;
    }
    if current.is_some() {
        line(out, " }");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Endpoint, NodeView, PortView, Protocol, ServiceView};
    use std::net::{Ipv4Addr, SocketAddrV4};

    fn view(backends: u8) -> ServiceView {
        let endpoint = |n| {
            let address = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, n), 8080);
            Endpoint { address, local: n == 1, ready: true }
        };
        ServiceView {
            name: "n/s".into(),
            cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 1)],
            external_ips: vec![Ipv4Addr::new(192, 0, 2, 1)],
            internal_local: false,
            external_local: true,
            affinity_seconds: Some(30),
            source_ranges: vec!["192.0.2.0/24".into()],
            health_check_port: None,
            ports: vec![PortView {
                protocol: Protocol::Tcp,
                port: 80,
                node_port: Some(30000),
                endpoints: (1..=backends).map(endpoint).collect(),
            }],
        }
    }

    fn node() -> NodeView {
        NodeView { name: "n".into(), addresses: vec![Ipv4Addr::new(10, 0, 0, 1)] }
    }

    /// A table with the service of so many backends, and its changes from there.
    fn changing(backends: u8, then: &[Option<u8>]) -> (Table, Vec<Changes>) {
        let mut table = Table::new(node());
        let mut changes = vec![table.change([("n/s".to_owned(), Some(view(backends)))].into())];
        changes.extend(then.iter().map(|count| table.change([("n/s".to_owned(), count.map(view))].into())));
        (table, changes)
    }

    #[test]
    fn no_change_is_no_text() {
        assert_eq!(render_changes(&changing(2, &[Some(2)]).1[1]), "");
    }

    #[test]
    fn a_change_names_only_what_differs() {
        let changes = render_changes(&changing(2, &[Some(3)]).1[1]);
        assert!(changes.contains("add element ip timonel services { 10.96.0.1 . tcp . 80 : goto pick_3 }"));
        assert!(changes.contains("delete element ip timonel services { 10.96.0.1 . tcp . 80 : goto pick_2 }"));
        assert!(!changes.contains("affinity"), "{changes}");
    }

    /// The kernel is the judge of syntax and of every transition, in a namespace of its own.
    #[test]
    fn the_kernel_takes_every_form() {
        let pods = ["10.1.0.0/16".parse().unwrap()];
        let direct = ["10.0.0.0/8".parse().unwrap(), "192.0.2.0/24".parse().unwrap()];
        let mut script = render_full(&changing(2, &[]).0, &pods, &direct);
        let (three, changes) = changing(2, &[Some(3), None, Some(2), Some(3)]);
        changes[1..].iter().for_each(|one| script.push_str(&render_changes(one)));
        script.push_str(&render_full(&three, &[], &[]));
        let Some(result) = in_namespace(&script) else {
            eprintln!("skipped: needs root, unshare and nft");
            return;
        };
        assert_eq!(result, "", "script:\n{script}");
    }

    /// Feeds `nft -f -` in a fresh network namespace; what it complained of, or `None` where that cannot be had.
    fn in_namespace(script: &str) -> Option<String> {
        use std::{io::Write, process};
        let probe = process::Command::new("unshare").args(["--net", "nft", "list", "ruleset"]).output().ok()?;
        if !probe.status.success() {
            return None;
        }
        let mut child = process::Command::new("unshare")
            .args(["--net", "nft", "-f", "-"])
            .stdin(process::Stdio::piped())
            .stderr(process::Stdio::piped())
            .spawn()
            .ok()?;
        child.stdin.take()?.write_all(script.as_bytes()).ok()?;
        Some(String::from_utf8_lossy(&child.wait_with_output().ok()?.stderr).into_owned())
    }
}
