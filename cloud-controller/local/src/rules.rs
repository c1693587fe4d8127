//! The edge's packet rules as text: three chains, one concatenated map, whatever the number of load balancers.

use crate::config::LocalConfig;
use ipnet::{IpNet, Ipv4Net};
use std::{collections::BTreeSet, fmt::Write, net::Ipv4Addr};
use timonel_cloud_core::{BalancerPort, Protocol};

/// Slots among which a port's connections are drawn: a multiple of every small number of targets, so that they share
/// evenly. At most so many targets of a load balancer are used.
pub(crate) const SLOTS: usize = 60;

/// A load balancer with the targets that get its traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forwarding {
    pub(crate) address: Ipv4Addr,
    pub(crate) ports: Vec<BalancerPort>,
    pub(crate) sources: BTreeSet<IpNet>,
    pub(crate) targets: BTreeSet<Ipv4Addr>,
}

/// Chains and empty sets; keeps what is in the sets if they are there.
pub(crate) fn edge_skeleton(machines: Ipv4Net) -> String {
    format!(
        "table ip tm {{
    map targets {{ type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service; }}
    set limited {{ type ipv4_addr . inet_proto . inet_service; }}
    set allowed {{ type ipv4_addr . inet_proto . inet_service . ipv4_addr; flags interval; }}
    chain arrive {{ type filter hook prerouting priority -150; policy accept; }}
    chain choose {{ type nat hook prerouting priority -100; policy accept; }}
    chain leave {{ type nat hook postrouting priority 100; policy accept; }}
}}
flush chain ip tm arrive
flush chain ip tm choose
flush chain ip tm leave
table ip tm {{
    chain arrive {{
        iifname \"inner0\" ct state new ct mark set 1
        ip daddr . meta l4proto . th dport @limited ip daddr . meta l4proto . th dport . ip saddr != @allowed drop
    }}
    chain choose {{
        meta l4proto {{ tcp, udp }} meta mark set numgen random mod {SLOTS}
        meta l4proto {{ tcp, udp }} dnat ip to ip daddr . meta l4proto . th dport . meta mark map @targets
    }}
    chain leave {{
        ct mark 1 ct status dnat masquerade
        oifname \"host0\" ip saddr != {machines} masquerade
    }}
}}
",
        machines = machines.trunc()
    )
}

/// Replaces what is in the sets, in one transaction.
pub(crate) fn edge_elements(all: &[Forwarding]) -> String {
    let (mut targets, mut limited, mut allowed) = (Vec::new(), Vec::new(), Vec::new());
    for forwarding in all {
        let used: Vec<&Ipv4Addr> = forwarding.targets.iter().take(SLOTS).collect();
        let sources: Vec<&IpNet> = forwarding.sources.iter().filter(|net| matches!(net, IpNet::V4(_))).collect();
        for port in &forwarding.ports {
            let key = format!("{} . {} . {}", forwarding.address, port.protocol.as_str(), port.port);
            if !used.is_empty() {
                let slot = |n: usize| format!("{key} . {n} : {} . {}", used[n % used.len()], port.node_port);
                targets.extend((0..SLOTS).map(slot));
            }
            if !forwarding.sources.is_empty() {
                limited.push(key.clone());
                allowed.extend(sources.iter().map(|net| format!("{key} . {net}")));
            }
        }
    }
    let mut text = String::from("flush map ip tm targets\nflush set ip tm limited\nflush set ip tm allowed\n");
    for (set, elements) in [("targets", targets), ("limited", limited), ("allowed", allowed)] {
        if !elements.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "add element ip tm {set} {{ {} }}", elements.join(", "));
        }
    }
    text
}

/// The host's table: out for machines, in for nobody who was not asked.
pub(crate) fn host_table(config: &LocalConfig, device: &str) -> String {
    let (table, inside) = (config.host_table(), config.host_interface());
    let (public, machines) = (config.public_range.trunc(), config.machine_range.trunc());
    format!(
        "table ip {table} {{ }}
delete table ip {table}
table ip {table} {{
    chain forward {{
        type filter hook forward priority 0; policy accept;
        oifname \"{inside}\" iifname \"{device}\" ct state new drop
    }}
    chain leave {{
        type nat hook postrouting priority 100; policy accept;
        oifname \"{device}\" ip saddr {{ {public}, {machines} }} masquerade
    }}
}}
"
    )
}

/// Arguments of `conntrack` that forget connections to a target which is out.
pub(crate) fn forget(address: Ipv4Addr, port: &BalancerPort, target: Ipv4Addr) -> Vec<String> {
    let protocol = port.protocol.as_str();
    let words = ["-D", "-p", protocol, "--orig-dst", &address.to_string(), "--reply-src", &target.to_string()];
    words.into_iter().map(str::to_owned).collect()
}

/// Whether connections to a target that merely fails its check are forgotten: datagrams have no end of their own.
pub(crate) fn forget_when_failing(protocol: Protocol) -> bool {
    protocol == Protocol::Udp
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarding(targets: &[[u8; 4]], sources: &[&str]) -> Forwarding {
        Forwarding {
            address: Ipv4Addr::new(172, 30, 0, 20),
            ports: vec![BalancerPort { protocol: Protocol::Tcp, port: 80, node_port: 30_080 }],
            sources: sources.iter().map(|net| net.parse().unwrap()).collect(),
            targets: targets.iter().map(|octets| Ipv4Addr::from(*octets)).collect(),
        }
    }

    #[test]
    fn targets_share_evenly() {
        let text = edge_elements(&[forwarding(&[[10, 0, 0, 8], [10, 0, 0, 9], [10, 0, 0, 10]], &[])]);
        for target in ["10.0.0.8", "10.0.0.9", "10.0.0.10"] {
            assert_eq!(text.matches(&format!(": {target} . 30080")).count(), SLOTS / 3);
        }
        assert!(!text.contains("add element ip tm limited"));
    }

    #[test]
    fn nothing_to_say_empties_the_sets() {
        assert_eq!(edge_elements(&[]).lines().count(), 3);
        assert!(!edge_elements(&[forwarding(&[], &[])]).contains("add element"));
    }

    #[test]
    fn a_limit_that_nobody_meets_still_limits() {
        let text = edge_elements(&[forwarding(&[[10, 0, 0, 8]], &["fd00::/8"])]);
        assert!(text.contains("add element ip tm limited { 172.30.0.20 . tcp . 80 }"), "{text}");
        assert!(!text.contains("add element ip tm allowed"));
    }
}
