//! Which nodes suit a daemon set, and the pod that is meant for one node. Pure.

use crate::common::{
    scheduling::{affinity_accepts, untolerated},
    template::pod_from,
};
use crate::framework::Kind;
use k8s_openapi::api::{
    apps::v1::{DaemonSet, DaemonSetSpec},
    core::v1::{Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration},
};

/// Whether a daemon set has business on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// A pod should run there.
    Runs,
    /// A pod that is there may stay, but none is created.
    Stays,
    /// No pod may be there.
    Refused,
}

/// Taints that every daemon pod tolerates: a node in trouble needs its daemons most.
const TOLERATED: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let network = spec.host_network == Some(true);
    for (key, effect) in TOLERATED.iter().chain(network.then_some(&NETWORK_UNAVAILABLE)) {
        let exists = Toleration {
            key: Some((*key).to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some((*effect).to_owned()),
            ..Toleration::default()
        };
        if !all.contains(&exists) {
            all.push(exists);
        }
    }
    all
}

/// Whether the set's pod suits the node.
pub(super) fn fit(spec: &DaemonSetSpec, node: &Node) -> Fit {
    let Some(pod) = &spec.template.spec else { return Fit::Refused };
    let bound_elsewhere =
        pod.node_name.as_deref().is_some_and(|name| !name.is_empty() && Some(name) != node.metadata.name.as_deref());
    if bound_elsewhere || !affinity_accepts(pod, node) {
        return Fit::Refused;
    }
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let tolerations = tolerations(pod);
    if untolerated(taints, &tolerations, &["NoExecute"]).is_some() {
        return Fit::Refused;
    }
    if untolerated(taints, &tolerations, &["NoSchedule"]).is_some() { Fit::Stays } else { Fit::Runs }
}

/// The node that a daemon pod runs on or is meant for; empty when it says neither.
pub(super) fn target_node(pod: &Pod) -> &str {
    let Some(spec) = &pod.spec else { return "" };
    if let Some(name) = spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        return name;
    }
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let fields = required
        .into_iter()
        .flat_map(|required| &required.node_selector_terms)
        .flat_map(|term| term.match_fields.iter().flatten());
    let mut names = fields.filter(|field| field.key == "metadata.name").flat_map(|field| field.values.iter().flatten());
    names.next().map_or("", String::as_str)
}

/// The pod for one node: the scheduler binds it, but to no other.
pub(super) fn pod_for_node(set: &DaemonSet, spec: &DaemonSetSpec, hash: &str, node: &str) -> Pod {
    let mut pod = pod_from(&spec.template, Kind::DaemonSet, &set.metadata);
    pod.metadata.labels.get_or_insert_default().insert(super::history::REVISION_LABEL.to_owned(), hash.to_owned());
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.tolerations = Some(tolerations(pod_spec));
    let only = NodeSelectorTerm {
        match_fields: Some(vec![NodeSelectorRequirement {
            key: "metadata.name".to_owned(),
            operator: "In".to_owned(),
            values: Some(vec![node.to_owned()]),
        }]),
        match_expressions: None,
    };
    let affinity: &mut NodeAffinity = pod_spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![only] });
    pod
}
