//! A node as the scheduler sees it, with what runs on it. Pure.

use crate::{
    pod::{HostPort, PodInfo, image_name},
    resources::{Resources, parse},
    selector::Labels,
    terms::ClassId,
};
use k8s_openapi::api::core::v1::{Node, Taint};
use smallvec::SmallVec;
use std::{collections::BTreeMap, sync::Arc};

const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeFacts {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// Those that keep pods away or off.
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
    pub(crate) allocatable: Resources,
    pub(crate) most_pods: usize,
    /// Images with their tags, and sizes.
    pub(crate) images: BTreeMap<String, i64>,
}

impl NodeFacts {
    pub(crate) fn new(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        let pods = allocatable.and_then(|list| list.get("pods")).and_then(|quantity| parse(&quantity.0, 1));
        let mut images = BTreeMap::new();
        for image in status.iter().flat_map(|status| status.images.iter().flatten()) {
            for name in image.names.iter().flatten() {
                images.insert(image_name(name), image.size_bytes.unwrap_or(0));
            }
        }
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec.and_then(|spec| spec.taints.clone()).unwrap_or_default(),
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
            allocatable: Resources::of(allocatable),
            most_pods: pods.and_then(|pods| usize::try_from(pods).ok()).unwrap_or(0),
            images,
        }
    }

    pub(crate) fn zone(&self) -> (String, String) {
        let label = |key: &str| self.labels.get(key).cloned().unwrap_or_default();
        (label(REGION), label(ZONE))
    }
}

/// A node with what runs on it.
#[derive(Debug, Default)]
pub(crate) struct NodeInfo {
    pub(crate) facts: NodeFacts,
    pub(crate) requested: Resources,
    /// CPU and memory, where what asks for nothing counts as a little.
    pub(crate) scored: (i64, i64),
    pub(crate) pods: Vec<Arc<PodInfo>>,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) classes: SmallVec<[(ClassId, u32); 8]>,
    /// By topology key.
    pub(crate) domains: SmallVec<[u32; 4]>,
    /// Identity and size of its images, in order of identity.
    pub(crate) images: Vec<(u32, i64)>,
    /// Volumes in use by driver, with how many pods use each.
    pub(crate) volumes: BTreeMap<String, BTreeMap<String, u32>>,
    /// Pods that wait for room here.
    pub(crate) nominated: Vec<Arc<PodInfo>>,
}

impl Labels for NodeInfo {
    fn label(&self, key: &str) -> Option<&str> {
        self.facts.labels.label(key)
    }
}

impl NodeInfo {
    /// Books what a pod takes.
    pub(crate) fn add(&mut self, pod: &Arc<PodInfo>, class: ClassId) {
        self.requested.add(&pod.requests, 1);
        self.scored = (self.scored.0 + pod.scored.0, self.scored.1 + pod.scored.1);
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.push(Arc::clone(pod));
        match self.classes.iter_mut().find(|(known, _)| *known == class) {
            Some((_, pods)) => *pods += 1,
            None => self.classes.push((class, 1)),
        }
    }

    /// Gives back what a pod took.
    pub(crate) fn remove(&mut self, pod: &PodInfo, class: ClassId) {
        let Some(at) = self.pods.iter().position(|known| known.uid == pod.uid) else { return };
        self.pods.swap_remove(at);
        self.requested.add(&pod.requests, -1);
        self.scored = (self.scored.0 - pod.scored.0, self.scored.1 - pod.scored.1);
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|known| known == port) {
                self.ports.swap_remove(at);
            }
        }
        if let Some(at) = self.classes.iter().position(|(known, _)| *known == class) {
            self.classes[at].1 -= 1;
            if self.classes[at].1 == 0 {
                self.classes.swap_remove(at);
            }
        }
    }

    /// Whether none of `wanted` is taken.
    pub(crate) fn ports_free(&self, wanted: &[HostPort]) -> bool {
        let clash =
            |a: &HostPort, b: &HostPort| a.2 == b.2 && a.1 == b.1 && (a.0 == b.0 || a.0.is_empty() || b.0.is_empty());
        !wanted.iter().any(|port| self.ports.iter().any(|taken| clash(port, taken)))
    }
}
