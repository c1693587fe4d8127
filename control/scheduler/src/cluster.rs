//! The cluster as the scheduler sees it: nodes with their pods, and everything that is counted beside them.
//! Changes come one by one and cost what changed, not what there is. Pure.

use crate::{
    node::{NodeFacts, NodeInfo},
    pod::{PodInfo, Shape},
    selector::tolerates,
    terms::{ClassId, NO_DOMAIN, Owner, TermId, TermSpec, Terms},
    volumes::{Volumes, attach},
};
use k8s_openapi::api::core::v1::{Node, Taint};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

/// Most pod shapes whose verdict on each node is remembered.
const MAX_SHAPES: usize = 256;
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// A place in the list of nodes.
pub(crate) type NodeId = usize;

/// A place among the remembered shapes.
pub(crate) type ShapeId = usize;

/// Whether a node suits a pod's shape, whatever runs there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Unknown,
    Fits,
    Unschedulable,
    Taint,
    Affinity,
}

/// A shape with what was found out about it, node by node.
#[derive(Debug)]
pub(crate) struct Judged {
    key: Arc<str>,
    shape: Arc<Shape>,
    verdicts: Vec<Verdict>,
    used: u64,
}

/// A pod that has a place, or waits for its node to appear.
#[derive(Debug)]
struct Placed {
    pod: Arc<PodInfo>,
    node: Option<NodeId>,
    class: ClassId,
    owned: Vec<(TermId, Owner, i64)>,
    attached: Vec<(String, String)>,
}

/// Nodes, pods, volumes.
#[derive(Debug, Default)]
pub struct Cluster {
    pub(crate) nodes: Vec<NodeInfo>,
    names: HashMap<String, NodeId>,
    free: Vec<NodeId>,
    /// Nodes in the order in which they are tried: zone by zone in turn.
    order: Vec<NodeId>,
    order_stale: bool,
    placed: HashMap<String, Placed>,
    /// Pods by the name of a node that is not known.
    homeless: BTreeMap<String, Vec<String>>,
    pub(crate) terms: Terms,
    pub(crate) volumes: Volumes,
    shapes: Vec<Judged>,
    shape_ids: HashMap<Arc<str>, ShapeId>,
    shape_clock: u64,
    image_ids: HashMap<String, u32>,
    /// Nodes that have the image, by identity.
    pub(crate) image_nodes: Vec<u32>,
    nominated: BTreeMap<String, NodeId>,
}

impl Cluster {
    /// How many nodes there are.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn node_id(&self, name: &str) -> Option<NodeId> {
        self.names.get(name).copied()
    }

    /// Where a pod is.
    #[must_use]
    pub fn node_of(&self, uid: &str) -> Option<&str> {
        let node = self.placed.get(uid)?.node?;
        Some(&self.nodes[node].facts.name)
    }

    pub(crate) fn placed(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.placed.get(uid).map(|placed| &placed.pod)
    }

    /// Nodes in the order in which they are tried.
    pub(crate) fn order(&mut self) -> &[NodeId] {
        if std::mem::take(&mut self.order_stale) {
            let mut zones: BTreeMap<_, VecDeque<NodeId>> = BTreeMap::new();
            let mut named: Vec<_> = self.names.iter().collect();
            named.sort_unstable();
            for (_, id) in named {
                zones.entry(self.nodes[*id].facts.zone()).or_default().push_back(*id);
            }
            self.order.clear();
            while !zones.is_empty() {
                self.order.extend(zones.values_mut().filter_map(VecDeque::pop_front));
                zones.retain(|_, nodes| !nodes.is_empty());
            }
        }
        &self.order
    }

    pub(crate) fn all_nodes(&self) -> &[NodeId] {
        debug_assert!(!self.order_stale, "the order is made before it is used");
        &self.order
    }

    /// Adds or changes a node; what of it changed for scheduling.
    pub fn set_node(&mut self, node: &Node) -> NodeChange {
        let facts = NodeFacts::new(node);
        let Some(id) = self.node_id(&facts.name) else {
            self.add_node(facts);
            return NodeChange { added: true, ..NodeChange::default() };
        };
        let old = &self.nodes[id].facts;
        let change = NodeChange {
            added: false,
            resources: old.allocatable != facts.allocatable || old.most_pods != facts.most_pods,
            labels: old.labels != facts.labels,
            taints: old.taints != facts.taints || old.unschedulable != facts.unschedulable,
        };
        if change.labels {
            // Domains change, and with them every count that this node's pods are part of.
            let pods = self.lift(id);
            self.leave_domains(id);
            self.order_stale |= old_zone(&self.nodes[id]) != facts.zone();
            self.set_facts(id, facts);
            self.join_domains(id);
            self.settle(id, pods);
        } else {
            self.set_facts(id, facts);
        }
        if change.labels || change.taints {
            self.forget_verdicts(id);
        }
        change
    }

    fn add_node(&mut self, facts: NodeFacts) {
        let id = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(NodeInfo::default());
            self.nodes.len() - 1
        });
        self.names.insert(facts.name.clone(), id);
        self.order_stale = true;
        let name = facts.name.clone();
        self.nodes[id] = NodeInfo::default();
        self.set_facts(id, facts);
        self.join_domains(id);
        self.forget_verdicts(id);
        self.settle(id, self.homeless.get(&name).cloned().unwrap_or_default());
        self.homeless.remove(&name);
    }

    /// Takes a node away; its pods wait for it to come back.
    pub fn remove_node(&mut self, name: &str) {
        let Some(id) = self.names.remove(name) else { return };
        let pods = self.lift(id);
        if !pods.is_empty() {
            self.homeless.insert(name.to_owned(), pods);
        }
        self.leave_domains(id);
        self.set_facts(id, NodeFacts::default());
        self.nominated.retain(|_, node| *node != id);
        self.nodes[id] = NodeInfo::default();
        self.free.push(id);
        self.order_stale = true;
    }

    fn set_facts(&mut self, id: NodeId, facts: NodeFacts) {
        let node = &mut self.nodes[id];
        if node.facts.images != facts.images {
            for (image, _) in node.images.drain(..) {
                self.image_nodes[image as usize] -= 1;
            }
            for (name, size) in &facts.images {
                let image = *self.image_ids.entry(name.clone()).or_insert_with(|| {
                    self.image_nodes.push(0);
                    u32::try_from(self.image_nodes.len() - 1).expect("there are fewer images than that")
                });
                self.image_nodes[image as usize] += 1;
                node.images.push((image, *size));
            }
            node.images.sort_unstable();
        }
        node.facts = facts;
    }

    pub(crate) fn image_id(&self, name: &str) -> Option<u32> {
        self.image_ids.get(name).copied()
    }

    fn join_domains(&mut self, id: NodeId) {
        let node = &mut self.nodes[id];
        let labels = &node.facts.labels;
        let join = |key: &mut crate::terms::Key| key.join(labels.get(&*key.name).map(String::as_str));
        node.domains = self.terms.keys.iter_mut().map(join).collect();
    }

    fn leave_domains(&mut self, id: NodeId) {
        let node = &mut self.nodes[id];
        for (key, domain) in self.terms.keys.iter_mut().zip(&node.domains) {
            key.leave(*domain, node.facts.labels.get(&*key.name).map(String::as_str));
        }
        node.domains.clear();
    }

    /// Takes all pods off a node; their identities.
    fn lift(&mut self, id: NodeId) -> Vec<String> {
        let mut pods: Vec<_> = self.nodes[id].pods.iter().map(|pod| pod.uid.clone()).collect();
        pods.sort_unstable();
        for uid in &pods {
            self.take(uid);
            if let Some(placed) = self.placed.get_mut(uid) {
                placed.node = None;
            }
        }
        pods
    }

    fn settle(&mut self, id: NodeId, pods: Vec<String>) {
        for uid in pods {
            if let Some(placed) = self.placed.get_mut(&uid) {
                placed.node = Some(id);
                self.put(&uid);
            }
        }
    }

    /// Puts a pod on the node that it names.
    pub fn add_pod(&mut self, pod: &Arc<PodInfo>, node: &str) {
        self.remove_pod(&pod.uid);
        self.denominate(&pod.uid);
        let class = self.terms.class(&pod.namespace, &pod.labels, pod.terminating);
        let node_id = self.node_id(node);
        let placed = Placed { pod: Arc::clone(pod), node: node_id, class, owned: Vec::new(), attached: Vec::new() };
        self.placed.insert(pod.uid.clone(), placed);
        self.volumes.use_claims(pod, 1);
        match node_id {
            Some(_) => self.put(&pod.uid),
            None => self.homeless.entry(node.to_owned()).or_default().push(pod.uid.clone()),
        }
    }

    /// Takes a pod away; whether it was there.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        if !self.placed.contains_key(uid) {
            return false;
        }
        self.take(uid);
        if let Some(placed) = self.placed.remove(uid) {
            self.terms.release(placed.class);
            self.volumes.use_claims(&placed.pod, -1);
            if placed.node.is_none() {
                self.homeless.values_mut().for_each(|waiting| waiting.retain(|other| other != uid));
                self.homeless.retain(|_, waiting| !waiting.is_empty());
            }
        }
        true
    }

    /// Books a placed pod on its node.
    pub(crate) fn put(&mut self, uid: &str) {
        let Some((pod, Some(id), class)) = self.placed.get(uid).map(|one| (Arc::clone(&one.pod), one.node, one.class))
        else {
            return;
        };
        let attached = self.volumes.attachments(&pod);
        let mut owned = Vec::new();
        for (spec, owner, weight) in owned_terms(&pod) {
            owned.push((self.term_id(spec), owner, weight));
        }
        let node = &mut self.nodes[id];
        node.add(&pod, class);
        attach(node, &attached, 1);
        self.terms.follow(class, &node.domains, 1);
        for (term, owner, weight) in &owned {
            self.terms.own(*term, *owner, *weight, &node.domains, 1);
        }
        if let Some(placed) = self.placed.get_mut(uid) {
            placed.owned = owned;
            placed.attached = attached;
        }
    }

    /// Frees what a placed pod takes on its node; [`Self::put`] books it again.
    pub(crate) fn take(&mut self, uid: &str) {
        let Some(placed) = self.placed.get_mut(uid) else { return };
        let (Some(id), class) = (placed.node, placed.class) else { return };
        let (pod, owned) = (Arc::clone(&placed.pod), std::mem::take(&mut placed.owned));
        let attached = std::mem::take(&mut placed.attached);
        let node = &mut self.nodes[id];
        node.remove(&pod, class);
        attach(node, &attached, -1);
        self.terms.follow(class, &node.domains, -1);
        for (term, owner, weight) in owned {
            self.terms.own(term, owner, weight, &node.domains, -1);
        }
    }

    /// The term, known from here on.
    fn term_id(&mut self, spec: &TermSpec) -> TermId {
        let key = match self.terms.key_id(&spec.topology_key) {
            Some(key) => key,
            None => {
                let key = self.terms.add_key(&spec.topology_key);
                for id in self.names.values() {
                    let node = &mut self.nodes[*id];
                    let domain =
                        self.terms.keys[key].join(node.facts.labels.get(&*spec.topology_key).map(String::as_str));
                    node.domains.push(domain);
                }
                key
            }
        };
        self.terms.term(spec, key)
    }

    /// The term with its counts.
    pub(crate) fn counted_term(&mut self, spec: &TermSpec) -> TermId {
        let term = self.term_id(spec);
        if self.terms.needs_counts(term) {
            let key = self.terms.get(term).key;
            let nodes = &self.nodes;
            let pods = self.names.values().flat_map(|id| {
                let node = &nodes[*id];
                let domain = node.domains.get(key).copied().unwrap_or(NO_DOMAIN);
                node.classes.iter().map(move |(class, pods)| (domain, *class, *pods))
            });
            self.terms.count(term, pods);
        }
        term
    }

    /// Whether a node suits a shape, remembered.
    pub(crate) fn verdict(&mut self, shape: ShapeId, id: NodeId) -> Verdict {
        let judged = &mut self.shapes[shape];
        if judged.verdicts[id] == Verdict::Unknown {
            judged.verdicts[id] = judge(&judged.shape, &self.nodes[id]);
        }
        judged.verdicts[id]
    }

    /// The shape of this pod, good until [`MAX_SHAPES`] others have been asked for.
    pub(crate) fn shape(&mut self, pod: &PodInfo) -> ShapeId {
        self.shape_clock += 1;
        let unknown = || vec![Verdict::Unknown; self.nodes.len()];
        let id = match self.shape_ids.get(&pod.shape_key) {
            Some(known) => *known,
            None => {
                let judged = Judged {
                    key: Arc::clone(&pod.shape_key),
                    shape: Arc::clone(&pod.shape),
                    verdicts: unknown(),
                    used: 0,
                };
                let id = if self.shapes.len() < MAX_SHAPES {
                    self.shapes.push(judged);
                    self.shapes.len() - 1
                } else {
                    let oldest = self.shapes.iter().enumerate().min_by_key(|(_, judged)| judged.used);
                    let oldest = oldest.map_or(0, |(id, _)| id);
                    let old = std::mem::replace(&mut self.shapes[oldest], judged);
                    self.shape_ids.remove(&old.key);
                    oldest
                };
                self.shape_ids.insert(Arc::clone(&pod.shape_key), id);
                id
            }
        };
        let judged = &mut self.shapes[id];
        judged.used = self.shape_clock;
        judged.verdicts.resize(self.nodes.len(), Verdict::Unknown);
        id
    }

    fn forget_verdicts(&mut self, id: NodeId) {
        for judged in &mut self.shapes {
            if let Some(verdict) = judged.verdicts.get_mut(id) {
                *verdict = Verdict::Unknown;
            }
        }
    }

    /// Notes that a pod waits for room on a node.
    pub(crate) fn nominate(&mut self, pod: &Arc<PodInfo>, node: &str) {
        self.denominate(&pod.uid);
        if let Some(id) = self.node_id(node) {
            self.nodes[id].nominated.push(Arc::clone(pod));
            self.nominated.insert(pod.uid.clone(), id);
        }
    }

    /// The node where a pod waits for room.
    pub(crate) fn nominated_node(&self, uid: &str) -> Option<NodeId> {
        self.nominated.get(uid).copied()
    }

    pub(crate) fn denominate(&mut self, uid: &str) {
        if let Some(id) = self.nominated.remove(uid) {
            self.nodes[id].nominated.retain(|pod| pod.uid != uid);
        }
    }

    /// Follows a namespace's labels.
    pub fn set_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) {
        self.terms.set_namespace(name, labels);
    }
}

fn old_zone(node: &NodeInfo) -> (String, String) {
    node.facts.zone()
}

/// What of a node changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// It is new.
    pub added: bool,
    /// What it offers.
    pub resources: bool,
    /// Its labels.
    pub labels: bool,
    /// Its taints, or whether it takes new pods.
    pub taints: bool,
}

fn owned_terms(pod: &PodInfo) -> impl Iterator<Item = (&TermSpec, Owner, i64)> {
    let anti = pod.anti_affinity.iter().map(|spec| (spec, Owner::Anti, 1));
    let affinity = pod.affinity_single.iter().map(|spec| (spec, Owner::Affinity, 1));
    let preferred = pod.preferred_affinity.iter().map(|(spec, weight)| (spec, Owner::Preferred, *weight));
    let preferred_anti = pod.preferred_anti.iter().map(|(spec, weight)| (spec, Owner::PreferredAnti, *weight));
    anti.chain(affinity).chain(preferred).chain(preferred_anti)
}

fn judge(shape: &Shape, node: &NodeInfo) -> Verdict {
    let facts = &node.facts;
    if facts.unschedulable {
        let taint = Taint { key: UNSCHEDULABLE.into(), effect: "NoSchedule".into(), value: None, time_added: None };
        if !tolerates(&shape.tolerations, &taint) {
            return Verdict::Unschedulable;
        }
    }
    let keeps_away = |taint: &&Taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute";
    if facts.taints.iter().filter(keeps_away).any(|taint| !tolerates(&shape.tolerations, taint)) {
        return Verdict::Taint;
    }
    if !shape.required.is_any() && !shape.required.matches(&facts.name, &facts.labels) {
        return Verdict::Affinity;
    }
    Verdict::Fits
}
