//! The scheduler's state and its decisions: objects go in, decisions come out. Pure.

use crate::{
    cluster::Cluster,
    pod::PodInfo,
    preempt::{Budgets, Preemption},
    queue::{Change, Queue},
    schedule::{Cursor, Outcome, Unschedulable, schedule},
    volumes::VolumeStep,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod},
    policy::v1::PodDisruptionBudget,
    storage::v1::{CSINode, StorageClass},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// An object as it is, or `None` with its key when it is gone.
#[derive(Debug)]
pub enum Update {
    /// A pod; gone by its unique identity.
    Pod(Box<Pod>),
    /// A pod that is gone.
    PodGone(String),
    /// A node.
    Node(String, Option<Box<Node>>),
    /// A claim, by `namespace/name`.
    Claim(String, Option<Box<PersistentVolumeClaim>>),
    /// A volume.
    Volume(String, Option<Box<PersistentVolume>>),
    /// A storage class.
    Class(String, Option<Box<StorageClass>>),
    /// What a node's volume drivers can hold.
    Csi(String, Option<Box<CSINode>>),
    /// A namespace.
    Namespace(String, Option<Box<Namespace>>),
    /// A disruption budget, by `namespace/name`.
    Budget(String, Option<Box<PodDisruptionBudget>>),
}

/// What is to be done for one pod.
#[derive(Debug)]
pub enum Decision {
    /// Do the steps, then bind the pod; tell the outcome to [`Scheduler::bound`].
    Bind {
        /// Pod.
        pod: Arc<PodInfo>,
        /// Node.
        node: String,
        /// For its volumes.
        steps: Vec<VolumeStep>,
    },
    /// Tell people why the pod goes nowhere, and send the victims away.
    Report {
        /// Pod.
        pod: Arc<PodInfo>,
        /// For people.
        message: String,
        /// Whom to send away.
        preemption: Option<Preemption>,
        /// Whether the pod's nominated node is to be cleared.
        denominate: bool,
    },
}

/// The scheduler without its shell.
#[derive(Debug)]
pub struct Scheduler {
    cluster: Cluster,
    budgets: Budgets,
    queue: Queue,
    cursor: Cursor,
    profiles: BTreeSet<String>,
    /// Decisions that are being carried out, by the pod's identity.
    binding: BTreeMap<String, Vec<VolumeStep>>,
}

impl Scheduler {
    /// A scheduler for pods that ask for one of these names.
    #[must_use]
    pub fn new(profiles: impl IntoIterator<Item = String>) -> Self {
        Self {
            cluster: Cluster::default(),
            budgets: Budgets::default(),
            queue: Queue::default(),
            cursor: Cursor::default(),
            profiles: profiles.into_iter().collect(),
            binding: BTreeMap::new(),
        }
    }

    /// The cluster as it is known.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The pods that wait.
    #[must_use]
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Follows one object.
    pub fn update(&mut self, update: Update, now: Timestamp) {
        let change = match update {
            Update::Pod(pod) => return self.set_pod(&pod, now),
            Update::PodGone(uid) => return self.remove_pod(&uid, now),
            Update::Node(name, node) => return self.set_node(&name, node.as_deref(), now),
            Update::Budget(key, budget) => return self.budgets.set(&key, budget.as_deref()),
            Update::Namespace(name, namespace) => {
                let labels = namespace.map(|namespace| namespace.metadata.labels.unwrap_or_default());
                self.cluster.set_namespace(&name, labels);
                Change::Namespace
            }
            Update::Claim(key, claim) => {
                self.cluster.volumes.set_claim(&key, claim.as_deref());
                Change::Volumes
            }
            Update::Volume(name, volume) => {
                self.cluster.volumes.set_volume(&name, volume.as_deref());
                Change::Volumes
            }
            Update::Class(name, class) => {
                self.cluster.volumes.set_class(&name, class.as_deref());
                Change::Volumes
            }
            Update::Csi(name, csi) => {
                self.cluster.volumes.set_limits(&name, csi.as_deref());
                Change::Volumes
            }
        };
        self.queue.changed(change, now);
    }

    fn set_node(&mut self, name: &str, node: Option<&Node>, now: Timestamp) {
        let Some(node) = node else { return self.cluster.remove_node(name) };
        let change = self.cluster.set_node(node);
        for (happened, change) in [
            (change.added, Change::NodeAdded),
            (change.resources, Change::NodeResources),
            (change.labels, Change::NodeLabels),
            (change.taints, Change::NodeTaints),
        ] {
            if happened {
                self.queue.changed(change, now);
            }
        }
    }

    fn set_pod(&mut self, pod: &Pod, now: Timestamp) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return self.remove_pod(uid, now);
        }
        if self.cluster.placed(uid).is_some_and(|known| is_same(known, pod)) {
            return;
        }
        let pod = Arc::new(PodInfo::new(pod));
        match &pod.node {
            Some(node) => self.place(&pod, node, now),
            None if self.binding.contains_key(&pod.uid) => {}
            None if pod.terminating || !self.profiles.contains(&pod.scheduler) => self.remove_pod(&pod.uid, now),
            None => {
                if let Some(node) = &pod.nominated {
                    self.cluster.nominate(&pod, node);
                }
                self.queue.set(&pod, now);
            }
        }
    }

    fn place(&mut self, pod: &Arc<PodInfo>, node: &str, now: Timestamp) {
        let known = self.cluster.placed(&pod.uid).cloned();
        self.cluster.add_pod(pod, node);
        self.settle(&pod.uid);
        self.queue.remove(&pod.uid);
        match known {
            Some(known) if known.requests == pod.requests && known.labels == pod.labels => {
                if known.terminating != pod.terminating {
                    self.queue.changed(Change::PodGone, now);
                }
            }
            Some(_) => {
                self.queue.changed(Change::PodGone, now);
                self.queue.changed(Change::PodPlaced, now);
            }
            None => self.queue.changed(Change::PodPlaced, now),
        }
    }

    /// Ends the carrying out of a decision.
    fn settle(&mut self, uid: &str) {
        if let Some(steps) = self.binding.remove(uid) {
            self.cluster.volumes.promise(&steps, false);
        }
    }

    fn remove_pod(&mut self, uid: &str, now: Timestamp) {
        self.settle(uid);
        self.queue.remove(uid);
        self.cluster.denominate(uid);
        if self.cluster.remove_pod(uid) {
            self.queue.changed(Change::PodGone, now);
        }
    }

    /// Decides about the next pod, if one is ready; `chance` decides between equal nodes.
    pub fn decide(&mut self, now: Timestamp, chance: u64) -> Option<Decision> {
        let pod = self.queue.pop(now)?;
        Some(match schedule(&mut self.cluster, &self.budgets, &pod, &mut self.cursor, chance) {
            Outcome::Fits { node, steps } => {
                self.cluster.add_pod(&pod, &node);
                self.cluster.volumes.promise(&steps, true);
                self.binding.insert(pod.uid.clone(), steps.clone());
                self.queue.changed(Change::PodPlaced, now);
                Decision::Bind { pod, node, steps }
            }
            Outcome::Unschedulable(Unschedulable { message, reasons, preemption, denominate }) => {
                match &preemption {
                    Some(preemption) => self.cluster.nominate(&pod, &preemption.node),
                    None if denominate => self.cluster.denominate(&pod.uid),
                    None => {}
                }
                let denominate = denominate && pod.nominated.is_some();
                self.queue.failed(&pod.uid, reasons, now);
                Decision::Report { pod, message, preemption, denominate }
            }
        })
    }

    /// Whether the claims of a pod all have their volumes.
    #[must_use]
    pub fn volumes_bound(&self, pod: &PodInfo) -> bool {
        let keys: Vec<_> = pod.claims.iter().map(|claim| format!("{}/{claim}", pod.namespace)).collect();
        self.cluster.volumes.all_bound(&keys)
    }

    /// A decision was carried out, or not: then the pod is tried again.
    pub fn bound(&mut self, uid: &str, done: bool, now: Timestamp) {
        if !self.binding.contains_key(uid) {
            return;
        }
        if done {
            // The pod comes back with its node's name; until then its room stays booked.
            self.queue.remove(uid);
            return;
        }
        self.settle(uid);
        if self.cluster.remove_pod(uid) {
            self.queue.changed(Change::PodGone, now);
        }
        self.queue.again(uid, now);
    }

    /// To be called now and then: gives pods that have waited for long another chance.
    pub fn refresh(&mut self, now: Timestamp) {
        self.queue.refresh(now);
    }

    /// When [`Self::decide`] has something to do next.
    #[must_use]
    pub fn next_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.queue.next_at(now)
    }
}

/// Whether nothing changed that matters here: most updates of running pods are of their status.
fn is_same(known: &PodInfo, pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let started = status.and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    let generation = pod.metadata.generation.unwrap_or(0);
    generation != 0
        && known.generation == generation
        && known.node.as_deref() == spec.and_then(|spec| spec.node_name.as_deref())
        && known.terminating == pod.metadata.deletion_timestamp.is_some()
        && known.started == started
        && pod.metadata.labels.as_ref().map_or(known.labels.is_empty(), |labels| *labels == *known.labels)
}
