//! Nodes and their instances: initialisation, addresses, labels, the shutdown taint, removal.
//!
//! Writes of a Node: `spec.providerID`, the two cloud taints, the instance labels, `status.addresses`. Never removes
//! a Node on one look's word, nor several at once without the cloud saying so of each.

use crate::{
    absence::{AbsenceLedger, Verdict, is_mass_disappearance},
    action::{Act, Action, Kind, Subject},
    model::{Instance, InstanceId, InstanceState},
    objects::{is_ready, label, provider_id, taints},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Taint of a node that no cloud-controller has initialised.
pub const TAINT_UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";
/// Taint of a node whose instance is powered off.
pub const TAINT_SHUTDOWN: &str = "node.cloudprovider.kubernetes.io/shutdown";

/// Nodes initialised in one look at most; the rest follows at the next.
const WRITES_PER_LOOK: usize = 500;

/// What the plan looks at.
#[derive(Clone, Copy, Debug)]
pub struct NodeView<'a> {
    /// Name of the cloud's provider, the scheme of provider IDs.
    pub provider: &'a str,
    /// Every node.
    pub nodes: &'a [Arc<Node>],
    /// Every instance of the cluster.
    pub instances: &'a [Instance],
    /// When the instances were listed.
    pub observed: Timestamp,
}

/// What the plan remembers between looks.
#[derive(Clone, Debug, Default)]
pub struct NodeMemory {
    /// Instances that listings lacked. The executor enters the cloud's answers here.
    pub absences: AbsenceLedger,
    alarmed: bool,
}

/// The instance of a node: by provider ID where it has one, else by name.
#[must_use]
pub fn instance_of<'a>(node: &Node, instances: &'a [Instance]) -> Option<&'a Instance> {
    let live_first = |found: &mut dyn Iterator<Item = &'a Instance>| {
        let mut last = None;
        for instance in found {
            if instance.state != InstanceState::Gone {
                return Some(instance);
            }
            last = Some(instance);
        }
        last
    };
    match (provider_id(node), node.metadata.name.as_deref()) {
        (Some(id), _) => instances.iter().find(|instance| instance.provider_id == id),
        (None, Some(name)) => live_first(&mut instances.iter().filter(|instance| instance.name == name)),
        (None, None) => None,
    }
}

/// Decides what to do about every node.
pub fn plan_nodes(view: &NodeView<'_>, memory: &mut NodeMemory) -> Vec<Action> {
    let scheme = format!("{}://", view.provider);
    let ours = view.nodes.iter().filter(|node| provider_id(node).is_none_or(|id| id.starts_with(&scheme)));
    let (mut actions, mut lost, mut total) = (Vec::new(), Vec::new(), 0);
    for node in ours {
        total += usize::from(provider_id(node).is_some());
        match instance_of(node, view.instances) {
            Some(instance) if instance.state == InstanceState::Gone => lost.push((node, true)),
            Some(instance) if actions.len() < WRITES_PER_LOOK => actions.extend(update(node, instance)),
            Some(_) => {}
            None if provider_id(node).is_some() => lost.push((node, false)),
            None => {}
        }
    }
    actions.extend(plan_lost(view, memory, &lost, total));
    actions
}

fn plan_lost(view: &NodeView<'_>, memory: &mut NodeMemory, lost: &[(&Arc<Node>, bool)], total: usize) -> Vec<Action> {
    let id = |node: &Node| provider_id(node).and_then(|id| id.rsplit('/').next()).map(InstanceId::from);
    let missing: BTreeSet<InstanceId> = lost.iter().filter_map(|(node, _)| id(node)).collect();
    memory.absences.retain(&missing);
    let unexplained = lost.iter().filter(|(_, listed_gone)| !listed_gone).count();
    let mass = is_mass_disappearance(unexplained, total);
    let mut actions = Vec::new();
    if mass && !memory.alarmed {
        let subject = lost.iter().find(|(_, gone)| !gone).map(|(node, _)| Subject::of(Kind::Node, &node.metadata));
        let message = format!(
            "{unexplained} of {total} instances are missing from the cloud's listing; no node is removed until this is explained"
        );
        actions.extend(subject.map(|s| s.act(Act::Alarm { reason: "MassDisappearance", message })));
    }
    memory.alarmed = mass;
    let mut ask = Vec::new();
    for (node, listed_gone) in lost {
        let Some(id) = id(node) else { continue };
        let verdict = memory.absences.missed(&id, view.observed, *listed_gone);
        if !listed_gone && (mass || is_ready(node)) {
            continue;
        }
        match verdict {
            Verdict::Wait => {}
            Verdict::Ask => ask.push((node, id)),
            Verdict::Gone => actions.extend(remove(node)),
        }
    }
    if let Some((node, _)) = ask.first() {
        let subject = Subject::of(Kind::Node, &node.metadata);
        actions.push(subject.act(Act::Confirm(ask.into_iter().map(|(_, id)| id).collect())));
    }
    actions
}

fn remove(node: &Node) -> Vec<Action> {
    if node.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let subject = Subject::of(Kind::Node, &node.metadata);
    let message = format!("Deleting node {} because it does not exist in the cloud provider", subject.name);
    vec![subject.event(false, "DeletingNode", message), subject.act(Act::Delete)]
}

/// At most one write: status first, then the rest at the next look, so that each is fenced by a version it read.
fn update(node: &Node, instance: &Instance) -> Option<Action> {
    let subject = Subject::of(Kind::Node, &node.metadata);
    if let Some(addresses) = changed_addresses(node, instance) {
        return Some(subject.patch_status(&json!({ "addresses": addresses })));
    }
    let labels = changed_labels(node, instance);
    let taints = changed_taints(node, instance);
    let provider = provider_id(node).is_none();
    if labels.is_empty() && taints.is_none() && !provider {
        return None;
    }
    let mut spec = Map::new();
    if provider {
        spec.insert("providerID".into(), instance.provider_id.clone().into());
    }
    if let Some(taints) = taints {
        spec.insert("taints".into(), if taints.is_empty() { Value::Null } else { json!(taints) });
    }
    let mut body = Map::new();
    if !labels.is_empty() {
        body.insert("metadata".into(), json!({ "labels": labels }));
    }
    if !spec.is_empty() {
        body.insert("spec".into(), Value::Object(spec));
    }
    Some(subject.patch(Value::Object(body)))
}

fn changed_addresses(node: &Node, instance: &Instance) -> Option<Vec<Value>> {
    let have: BTreeSet<(&str, &str)> = node
        .status
        .iter()
        .flat_map(|status| status.addresses.iter().flatten())
        .map(|a| (a.type_.as_str(), a.address.as_str()))
        .collect();
    let want: BTreeSet<(&str, &str)> =
        instance.addresses.iter().map(|a| (a.kind.as_str(), a.address.as_str())).collect();
    (have != want && !want.is_empty()).then(|| {
        let entry = |a: &crate::model::Address| json!({ "type": a.kind.as_str(), "address": a.address });
        instance.addresses.iter().map(entry).collect()
    })
}

fn changed_labels(node: &Node, instance: &Instance) -> BTreeMap<&'static str, String> {
    let want = [
        ("node.kubernetes.io/instance-type", &instance.instance_type),
        ("beta.kubernetes.io/instance-type", &instance.instance_type),
        ("topology.kubernetes.io/zone", &instance.zone),
        ("failure-domain.beta.kubernetes.io/zone", &instance.zone),
        ("topology.kubernetes.io/region", &instance.region),
        ("failure-domain.beta.kubernetes.io/region", &instance.region),
    ];
    let differs = |(key, value): &(&'static str, &String)| {
        !value.is_empty() && label(&node.metadata, key) != Some(value.as_str())
    };
    want.into_iter().filter(differs).map(|(key, value)| (key, value.clone())).collect()
}

fn changed_taints(node: &Node, instance: &Instance) -> Option<Vec<Taint>> {
    let have = taints(node);
    let off = instance.state == InstanceState::Stopped && !is_ready(node);
    let mut want: Vec<Taint> =
        have.iter().filter(|t| t.key != TAINT_UNINITIALIZED && (off || t.key != TAINT_SHUTDOWN)).cloned().collect();
    if off && !want.iter().any(|t| t.key == TAINT_SHUTDOWN) {
        let effect = "NoSchedule".to_owned();
        want.push(Taint { key: TAINT_SHUTDOWN.to_owned(), effect, value: None, time_added: None });
    }
    (want != have).then_some(want)
}

#[cfg(test)]
#[path = "nodes_tests.rs"]
mod tests;
