//! Which taints a node's conditions call for. Pure.

use crate::{
    common::objects::{after, label, uid},
    framework::View,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, NodeCondition, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
};

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that keep new pods away while they are true.
const PRESSURES: &[(&str, &str)] = &[
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// A zone of so many unready nodes, of which this part is unready, is in trouble as a whole.
const TROUBLED_NODES: usize = 2;
const TROUBLED_PERCENT: usize = 55;
/// Zones up to this size are not emptied at all while in trouble.
const SMALL_ZONE: usize = 50;
/// Seconds between two nodes of a zone whose pods are told to leave: normally, and in a large zone in trouble.
const NORMAL_PACE: i64 = 10;
const CAREFUL_PACE: i64 = 100;

/// A condition by its type.
pub(super) fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// `True`, `False`, `Unknown`; `Unknown` when nothing was ever said.
pub(super) fn readiness(node: &Node) -> &str {
    condition(node, "Ready").map_or("Unknown", |condition| condition.status.as_str())
}

fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

fn find<'a>(node: &'a Node, key: &str, effect: &str) -> Option<&'a Taint> {
    taints(node).iter().find(|taint| taint.key == key && taint.effect == effect)
}

/// The taints that a node should have, and when to look again if some must wait their turn.
pub(super) fn wanted(view: &View, node: &Node, now: Timestamp) -> (Vec<Taint>, Option<Timestamp>) {
    let ours = |taint: &Taint| {
        let key = taint.key.as_str();
        let condition = PRESSURES.iter().any(|(_, pressure)| *pressure == key) || key == UNSCHEDULABLE;
        let health = key == NOT_READY || key == UNREACHABLE;
        (taint.effect == "NoSchedule" && (condition || health)) || (taint.effect == "NoExecute" && health)
    };
    // Others' taints stay as they are; those that evict get the time from which seconds of toleration count.
    let mut wanted: Vec<Taint> = taints(node).iter().filter(|taint| !ours(taint)).cloned().collect();
    for taint in wanted.iter_mut().filter(|taint| taint.effect == "NoExecute") {
        taint.time_added.get_or_insert(Time(now));
    }
    let mut add = |key: &str, effect: &str| {
        let fresh = Taint { key: key.to_owned(), effect: effect.to_owned(), value: None, time_added: Some(Time(now)) };
        wanted.push(find(node, key, effect).cloned().unwrap_or(fresh));
    };
    let health = match readiness(node) {
        "True" => None,
        "False" => Some(NOT_READY),
        _ => Some(UNREACHABLE),
    };
    if let Some(key) = health {
        add(key, "NoSchedule");
    }
    for (kind, key) in PRESSURES {
        if condition(node, kind).is_some_and(|condition| condition.status == "True") {
            add(key, "NoSchedule");
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        add(UNSCHEDULABLE, "NoSchedule");
    }
    let mut again = None;
    if let Some(key) = health {
        match turn(view, node, now) {
            Turn::Now => add(key, "NoExecute"),
            Turn::At(at) => again = Some(at),
            Turn::Never => {}
        }
    }
    (wanted, again)
}

enum Turn {
    Now,
    At(Timestamp),
    Never,
}

/// Whether this node's pods may be told to leave: the worse a zone is, the slower; if everything is down, not at all,
/// for then the fault is more likely ours.
fn turn(view: &View, node: &Node, now: Timestamp) -> Turn {
    let ready = |node: &Node| readiness(node) == "True";
    if !view.nodes.all().any(|node| ready(node)) {
        return Turn::Never;
    }
    let evicts =
        |node: &Node| find(node, NOT_READY, "NoExecute").or_else(|| find(node, UNREACHABLE, "NoExecute")).cloned();
    if evicts(node).is_some() {
        return Turn::Now;
    }
    let zone: Vec<_> = view.nodes.all().filter(|other| place(other) == place(node)).collect();
    let unready = zone.iter().filter(|node| !ready(node)).count();
    let troubled = unready < zone.len() && unready > TROUBLED_NODES && unready * 100 >= zone.len() * TROUBLED_PERCENT;
    if troubled && zone.len() <= SMALL_ZONE {
        return Turn::Never;
    }
    let pace = if troubled { CAREFUL_PACE } else { NORMAL_PACE };
    let others = zone.iter().filter(|other| uid(&other.metadata) != uid(&node.metadata));
    let last = others.filter_map(|other| evicts(other)?.time_added).map(|time| time.0).max();
    match last.map(|last| after(last, pace)) {
        Some(due) if due > now => Turn::At(due),
        _ => Turn::Now,
    }
}

fn place(node: &Node) -> (Option<&str>, Option<&str>) {
    (label(&node.metadata, "topology.kubernetes.io/region"), label(&node.metadata, "topology.kubernetes.io/zone"))
}
