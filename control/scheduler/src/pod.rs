//! A pod as the scheduler sees it: parsed once, shared, never changed. Pure.

use crate::{
    resources::{Resources, of_pod},
    selector::{NodeMatcher, NodeTerm, Selector},
    terms::{Namespaces, TermSpec},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Affinity, Pod, PodAffinityTerm, PodSpec, Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use std::{collections::BTreeMap, sync::Arc};

/// Labels that differ between pods which otherwise look the same.
const OWN_LABELS: [&str; 4] = [
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-completion-index",
    "controller-revision-hash",
];
const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// A port on the node that a pod wants for itself: address (empty for all), protocol, number.
pub(crate) type HostPort = (String, String, i32);

/// One spread constraint.
#[derive(Clone, Debug)]
pub(crate) struct Spread {
    pub(crate) term: TermSpec,
    pub(crate) max_skew: i64,
    pub(crate) min_domains: usize,
    pub(crate) honor_affinity: bool,
    pub(crate) honor_taints: bool,
    pub(crate) matches_itself: bool,
}

/// Which nodes a pod likes or needs, apart from their load; pods of one controller share it.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) required: NodeMatcher,
    pub(crate) preferred: Vec<(NodeTerm, i64)>,
    pub(crate) tolerations: Vec<Toleration>,
}

/// A parsed pod.
#[derive(Debug)]
pub struct PodInfo {
    /// Unique identity.
    pub uid: String,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: String,
    /// The scheduler that it wants.
    pub scheduler: String,
    /// The node it is on, if any.
    pub node: Option<String>,
    /// The node it waits for while others leave.
    pub nominated: Option<String>,
    /// Priority; larger is more important.
    pub priority: i32,
    /// Whether it may push others away.
    pub preempts: bool,
    /// What it asks for.
    pub requests: Resources,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Names of its scheduling gates.
    pub gates: Vec<String>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// When its kubelet started it.
    pub started: Option<Timestamp>,
    /// Changes with every change that can matter to scheduling.
    pub generation: i64,
    pub(crate) scored: (i64, i64),
    pub(crate) labels: Arc<BTreeMap<String, String>>,
    pub(crate) shape_key: Arc<str>,
    pub(crate) shape: Arc<Shape>,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) affinity: Vec<TermSpec>,
    /// Whether the pod itself satisfies its own required affinity.
    pub(crate) affinity_self: bool,
    pub(crate) anti_affinity: Vec<TermSpec>,
    pub(crate) preferred_affinity: Vec<(TermSpec, i64)>,
    pub(crate) preferred_anti: Vec<(TermSpec, i64)>,
    /// Each required affinity term alone, as other pods are scored by.
    pub(crate) affinity_single: Vec<TermSpec>,
    pub(crate) spread_hard: Vec<Spread>,
    pub(crate) spread_soft: Vec<Spread>,
    /// Whether the soft constraints are the scheduler's own, not the pod's.
    pub(crate) spread_default: bool,
    pub(crate) images: Vec<String>,
    /// Names of its claims; of a generic ephemeral volume, the name that its claim will have.
    pub(crate) claims: Vec<String>,
    pub(crate) preempted: bool,
    /// What its status says of why it goes nowhere, and since when.
    pub(crate) reported: Option<(String, String)>,
}

impl PodInfo {
    /// Parses a pod.
    #[must_use]
    pub fn new(pod: &Pod) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let namespace: Arc<str> = pod.metadata.namespace.as_deref().unwrap_or("").into();
        let labels = Arc::new(pod.metadata.labels.clone().unwrap_or_default());
        let (requests, scored) = of_pod(spec);
        let affinity = Terms::new(spec.affinity.as_ref(), &namespace, &labels);
        let spread = |when: &str| spreads(spec, when, &namespace, &labels);
        let defaults = if spec.topology_spread_constraints.as_ref().is_none_or(Vec::is_empty) {
            default_spread(pod, &namespace, &labels)
        } else {
            Vec::new()
        };
        let spread_default = !defaults.is_empty();
        let status = pod.status.as_ref();
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            scheduler: spec.scheduler_name.clone().unwrap_or_else(|| "default-scheduler".into()),
            node: spec.node_name.clone().filter(|node| !node.is_empty()),
            nominated: status.and_then(|status| status.nominated_node_name.clone()).filter(|node| !node.is_empty()),
            priority: spec.priority.unwrap_or(0),
            preempts: spec.preemption_policy.as_deref() != Some("Never"),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            gates: spec.scheduling_gates.iter().flatten().map(|gate| gate.name.clone()).collect(),
            created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            started: status.and_then(|status| status.start_time.as_ref()).map(|time| time.0),
            generation: pod.metadata.generation.unwrap_or(0),
            shape_key: shape_key(spec),
            shape: Arc::new(shape(spec)),
            ports: host_ports(spec),
            affinity: affinity.required,
            affinity_self: affinity.matches_itself,
            affinity_single: affinity.single,
            anti_affinity: affinity.anti,
            preferred_affinity: affinity.preferred,
            preferred_anti: affinity.preferred_anti,
            spread_hard: spread("DoNotSchedule"),
            spread_soft: if spread_default { defaults } else { spread("ScheduleAnyway") },
            spread_default,
            images: images(spec),
            claims: claims(spec, pod.metadata.name.as_deref().unwrap_or("")),
            preempted: preempted(pod),
            reported: reported(pod),
            namespace,
            requests,
            scored,
            labels,
        }
    }

    /// `namespace/name`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether nodes are told apart for it by what runs on them.
    pub(crate) fn has_terms(&self) -> bool {
        !(self.affinity.is_empty()
            && self.anti_affinity.is_empty()
            && self.preferred_affinity.is_empty()
            && self.preferred_anti.is_empty())
    }
}

fn shape(spec: &PodSpec) -> Shape {
    let node_affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = node_affinity.and_then(|one| one.required_during_scheduling_ignored_during_execution.as_ref());
    let preferred = node_affinity.and_then(|one| one.preferred_during_scheduling_ignored_during_execution.as_ref());
    Shape {
        required: NodeMatcher::new(spec.node_selector.as_ref(), required),
        preferred: preferred
            .into_iter()
            .flatten()
            .map(|term| (NodeTerm::new(&term.preference), i64::from(term.weight)))
            .collect(),
        tolerations: spec.tolerations.clone().unwrap_or_default(),
    }
}

/// Equal for pods whose shapes are equal.
fn shape_key(spec: &PodSpec) -> Arc<str> {
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let plain = affinity.is_none() && spec.node_selector.is_none() && spec.tolerations.is_none();
    if plain {
        return "".into();
    }
    let parts = (&spec.node_selector, affinity, &spec.tolerations);
    // Such structs always serialize; were one not to, its pods would share a shape of their own kind only.
    serde_json::to_string(&parts).unwrap_or_else(|_| format!("{parts:?}")).into()
}

struct Terms {
    required: Vec<TermSpec>,
    single: Vec<TermSpec>,
    matches_itself: bool,
    anti: Vec<TermSpec>,
    preferred: Vec<(TermSpec, i64)>,
    preferred_anti: Vec<(TermSpec, i64)>,
}

impl Terms {
    fn new(affinity: Option<&Affinity>, namespace: &Arc<str>, labels: &BTreeMap<String, String>) -> Self {
        let pods = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
        let anti = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        let one = |term: &PodAffinityTerm| pod_term(term, namespace);
        let weighted = |terms: Option<&Vec<WeightedPodAffinityTerm>>| -> Vec<(TermSpec, i64)> {
            let all = terms.into_iter().flatten();
            all.map(|term| (one(&term.pod_affinity_term), i64::from(term.weight))).collect()
        };
        let required = pods.and_then(|one| one.required_during_scheduling_ignored_during_execution.as_ref());
        let single: Vec<TermSpec> = required.into_iter().flatten().map(one).collect();
        let required_anti = anti.and_then(|one| one.required_during_scheduling_ignored_during_execution.as_ref());
        let together: Vec<_> = single.iter().flat_map(|term| term.matchers.clone()).collect();
        Self {
            // A pod counts only if it matches all terms; it counts in each term's topology.
            required: single.iter().map(|term| TermSpec { matchers: together.clone(), ..term.clone() }).collect(),
            matches_itself: single.iter().all(|term| term.matches_own(namespace, labels)),
            single,
            anti: required_anti.into_iter().flatten().map(one).collect(),
            preferred: weighted(pods.and_then(|one| one.preferred_during_scheduling_ignored_during_execution.as_ref())),
            preferred_anti: weighted(
                anti.and_then(|one| one.preferred_during_scheduling_ignored_during_execution.as_ref()),
            ),
        }
    }
}

fn pod_term(term: &PodAffinityTerm, namespace: &Arc<str>) -> TermSpec {
    let names: Vec<String> = term.namespaces.clone().unwrap_or_default();
    let selector = term.namespace_selector.as_ref().map(|selector| Selector::new(Some(selector)));
    let own = names.is_empty() && selector.is_none();
    let names = if own { vec![namespace.to_string()] } else { names };
    TermSpec {
        matchers: vec![(Namespaces { names, selector }, Selector::new(term.label_selector.as_ref()))],
        topology_key: term.topology_key.as_str().into(),
        skip_terminating: false,
    }
}

fn own_namespace(namespace: &Arc<str>) -> Namespaces {
    Namespaces { names: vec![namespace.to_string()], selector: None }
}

fn spreads(spec: &PodSpec, when: &str, namespace: &Arc<str>, labels: &BTreeMap<String, String>) -> Vec<Spread> {
    let wanted = spec.topology_spread_constraints.iter().flatten().filter(|one| one.when_unsatisfiable == when);
    wanted.map(|one| spread(one, namespace, labels)).collect()
}

fn spread(one: &TopologySpreadConstraint, namespace: &Arc<str>, labels: &BTreeMap<String, String>) -> Spread {
    let keys = one.match_label_keys.as_deref().unwrap_or_default();
    let selector = Selector::new(one.label_selector.as_ref()).and_same(keys, labels);
    Spread {
        matches_itself: selector.matches(labels),
        term: TermSpec {
            // An empty selector counts nothing, unlike in affinity.
            matchers: vec![(
                own_namespace(namespace),
                if selector.is_empty() { Selector::new(None) } else { selector },
            )],
            topology_key: one.topology_key.as_str().into(),
            skip_terminating: true,
        },
        max_skew: i64::from(one.max_skew),
        min_domains: usize::try_from(one.min_domains.unwrap_or(1)).unwrap_or(1),
        honor_affinity: one.node_affinity_policy.as_deref() != Some("Ignore"),
        honor_taints: one.node_taints_policy.as_deref() == Some("Honor"),
    }
}

/// Pods of a replicated workload that say nothing themselves are spread over zones and hosts.
fn default_spread(pod: &Pod, namespace: &Arc<str>, labels: &BTreeMap<String, String>) -> Vec<Spread> {
    let owners = pod.metadata.owner_references.iter().flatten();
    let replicated = owners
        .filter(|owner| owner.controller == Some(true))
        .any(|owner| matches!(owner.kind.as_str(), "ReplicaSet" | "StatefulSet" | "ReplicationController"));
    let shared: Vec<_> = labels.iter().filter(|(key, _)| !OWN_LABELS.contains(&key.as_str())).collect();
    if !replicated || shared.is_empty() {
        return Vec::new();
    }
    let selector = Selector::equal(shared.into_iter());
    let one = |key: &str, max_skew| Spread {
        term: TermSpec {
            matchers: vec![(own_namespace(namespace), selector.clone())],
            topology_key: key.into(),
            skip_terminating: true,
        },
        max_skew,
        min_domains: 1,
        // Pods alike choose among the same nodes, so there is nothing to leave out.
        honor_affinity: false,
        honor_taints: false,
        matches_itself: true,
    };
    vec![one(HOSTNAME, 3), one(ZONE, 5)]
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|one| one.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let wanted = ports.filter_map(|port| {
        let number = port.host_port.filter(|port| *port > 0)?;
        let address = port.host_ip.clone().filter(|address| address != "0.0.0.0").unwrap_or_default();
        Some((address, port.protocol.clone().unwrap_or_else(|| "TCP".into()), number))
    });
    wanted.collect()
}

fn images(spec: &PodSpec) -> Vec<String> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    containers.filter_map(|container| container.image.as_deref()).map(image_name).collect()
}

/// An image with its tag.
pub(crate) fn image_name(image: &str) -> String {
    let tagged = image.rfind(':') > image.rfind('/');
    if tagged { image.to_owned() } else { format!("{image}:latest") }
}

fn claims(spec: &PodSpec, pod: &str) -> Vec<String> {
    let volumes = spec.volumes.iter().flatten();
    let names = volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{pod}-{}", volume.name)),
        (None, None) => None,
    });
    names.collect()
}

/// Whether a scheduler sent it away.
fn preempted(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .filter(|condition| condition.type_ == "DisruptionTarget" && condition.status == "True")
        .any(|condition| condition.reason.as_deref() == Some("PreemptionByScheduler"))
}

fn reported(pod: &Pod) -> Option<(String, String)> {
    let mut conditions = pod.status.as_ref()?.conditions.iter().flatten();
    let found = conditions.find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    let since = found.last_transition_time.as_ref()?.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    Some((found.message.clone().unwrap_or_default(), since))
}
