//! Claims and volumes: where a pod's volumes can be, which volume a claim may take, how many a node can hold.
//! Pure.

use crate::{
    node::NodeInfo,
    pod::PodInfo,
    reason::Reason,
    resources::parse,
    selector::{NodeMatcher, Selector},
};
use k8s_openapi::{
    api::{
        core::v1::{PersistentVolume, PersistentVolumeClaim},
        storage::v1::{CSINode, StorageClass},
    },
    apimachinery::pkg::api::resource::Quantity,
};
use std::collections::{BTreeMap, BTreeSet};

const BOUND: &str = "pv.kubernetes.io/bind-completed";
/// Names the node for which a provisioner shall make a volume.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
const ZONES: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

#[derive(Clone, Debug, Default)]
struct Claim {
    volume: Option<String>,
    bound: bool,
    class: String,
    modes: Vec<String>,
    size: i64,
    volume_mode: String,
    selector: Option<Selector>,
    terminating: bool,
    selected_node: Option<String>,
}

#[derive(Clone, Debug)]
struct Volume {
    class: String,
    modes: Vec<String>,
    size: i64,
    volume_mode: String,
    labels: BTreeMap<String, String>,
    affinity: NodeMatcher,
    claim: Option<String>,
    available: bool,
    /// Driver and handle.
    csi: Option<(String, String)>,
}

#[derive(Clone, Debug)]
struct Class {
    waits: bool,
    provisioner: String,
    topologies: Vec<Vec<(String, Vec<String>)>>,
}

/// What has to be written before a pod can be bound to its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeStep {
    /// Give this volume to this claim (`namespace/name`).
    Bind {
        /// Volume.
        volume: String,
        /// Claim.
        claim: String,
    },
    /// Have a volume made for this claim, for that node.
    Provision {
        /// Claim.
        claim: String,
        /// Node.
        node: String,
    },
}

/// All claims, volumes and storage classes, and what nodes can hold.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    claims: BTreeMap<String, Claim>,
    volumes: BTreeMap<String, Volume>,
    classes: BTreeMap<String, Class>,
    /// Free volumes by class.
    free: BTreeMap<String, BTreeSet<String>>,
    /// Most volumes of each driver by node.
    limits: BTreeMap<String, BTreeMap<String, usize>>,
    /// Pods on nodes that use a claim.
    users: BTreeMap<String, u32>,
    /// Volumes given to claims by decisions that are not written yet.
    promised: BTreeMap<String, String>,
}

/// Books (1) or frees (-1) attachments on a node.
pub(crate) fn attach(node: &mut NodeInfo, attachments: &[(String, String)], times: i32) {
    for (driver, handle) in attachments {
        let volumes = node.volumes.entry(driver.clone()).or_default();
        let users = volumes.entry(handle.clone()).or_default();
        *users = users.saturating_add_signed(times);
        if *users == 0 {
            volumes.remove(handle);
        }
    }
}

/// A pod's volumes, looked up once for all nodes.
#[derive(Debug, Default)]
pub(crate) struct PodVolumes {
    bound: Vec<String>,
    missing_volume: bool,
    waiting: Vec<String>,
    single_user: bool,
    attached: Vec<(String, String)>,
}

impl PodVolumes {
    pub(crate) fn is_empty(&self) -> bool {
        self.bound.is_empty() && !self.missing_volume && self.waiting.is_empty()
    }
}

fn text(value: &Option<String>) -> String {
    value.clone().unwrap_or_default()
}

fn storage(list: Option<&BTreeMap<String, Quantity>>) -> i64 {
    list.and_then(|list| list.get("storage")).and_then(|quantity| parse(&quantity.0, 1)).unwrap_or(0)
}

impl Volumes {
    pub(crate) fn set_claim(&mut self, key: &str, claim: Option<&PersistentVolumeClaim>) {
        let Some(claim) = claim else {
            self.claims.remove(key);
            return;
        };
        let spec = claim.spec.clone().unwrap_or_default();
        let annotations = claim.metadata.annotations.as_ref();
        let parsed = Claim {
            volume: spec.volume_name.filter(|name| !name.is_empty()),
            bound: annotations.is_some_and(|all| all.contains_key(BOUND)),
            class: text(&spec.storage_class_name),
            modes: spec.access_modes.unwrap_or_default(),
            size: storage(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref())),
            volume_mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".into()),
            selector: spec.selector.as_ref().map(|selector| Selector::new(Some(selector))),
            terminating: claim.metadata.deletion_timestamp.is_some(),
            selected_node: annotations.and_then(|all| all.get(SELECTED_NODE).cloned()),
        };
        self.claims.insert(key.to_owned(), parsed);
    }

    pub(crate) fn set_volume(&mut self, name: &str, volume: Option<&PersistentVolume>) {
        if let Some(old) = self.volumes.remove(name)
            && let Some(free) = self.free.get_mut(&old.class)
        {
            free.remove(name);
        }
        let Some(volume) = volume else {
            self.promised.remove(name);
            return;
        };
        let spec = volume.spec.clone().unwrap_or_default();
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        let claim = spec.claim_ref.as_ref().map(|claim| format!("{}/{}", text(&claim.namespace), text(&claim.name)));
        let required = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
        let parsed = Volume {
            class: text(&spec.storage_class_name),
            modes: spec.access_modes.unwrap_or_default(),
            size: storage(spec.capacity.as_ref()),
            volume_mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".into()),
            labels: volume.metadata.labels.clone().unwrap_or_default(),
            affinity: NodeMatcher::new(None, required),
            available: matches!(phase, None | Some("" | "Pending" | "Available"))
                && volume.metadata.deletion_timestamp.is_none(),
            csi: spec.csi.map(|csi| (csi.driver, csi.volume_handle)),
            claim,
        };
        if parsed.claim.is_some() {
            self.promised.remove(name);
        } else if parsed.available {
            self.free.entry(parsed.class.clone()).or_default().insert(name.to_owned());
        }
        self.volumes.insert(name.to_owned(), parsed);
    }

    pub(crate) fn set_class(&mut self, name: &str, class: Option<&StorageClass>) {
        let Some(class) = class else {
            self.classes.remove(name);
            return;
        };
        let terms = class.allowed_topologies.iter().flatten();
        let topologies = terms.map(|term| {
            let all = term.match_label_expressions.iter().flatten();
            all.map(|one| (one.key.clone(), one.values.clone())).collect()
        });
        let parsed = Class {
            waits: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            provisioner: class.provisioner.clone(),
            topologies: topologies.collect(),
        };
        self.classes.insert(name.to_owned(), parsed);
    }

    pub(crate) fn set_limits(&mut self, node: &str, csi: Option<&CSINode>) {
        let Some(csi) = csi else {
            self.limits.remove(node);
            return;
        };
        let limits = csi.spec.drivers.iter().filter_map(|driver| {
            let count = driver.allocatable.as_ref()?.count?;
            Some((driver.name.clone(), usize::try_from(count).ok()?))
        });
        self.limits.insert(node.to_owned(), limits.collect());
    }

    /// A pod that uses its claims comes (1) or goes (-1).
    pub(crate) fn use_claims(&mut self, pod: &PodInfo, times: i32) {
        for claim in &pod.claims {
            let key = format!("{}/{claim}", pod.namespace);
            let users = self.users.entry(key.clone()).or_default();
            *users = users.saturating_add_signed(times);
            if *users == 0 {
                self.users.remove(&key);
            }
        }
    }

    /// Driver and handle of a claim's volume; of one still to be made, a stand-in.
    fn attachment(&self, key: &str) -> Option<(String, String)> {
        let claim = self.claims.get(key)?;
        match &claim.volume {
            Some(volume) => self.volumes.get(volume)?.csi.clone(),
            None => {
                let class = self.classes.get(&claim.class).filter(|class| class.provisioner != NO_PROVISIONER)?;
                Some((class.provisioner.clone(), key.to_owned()))
            }
        }
    }

    /// What a pod's claims take of what a node can attach.
    pub(crate) fn attachments(&self, pod: &PodInfo) -> Vec<(String, String)> {
        pod.claims.iter().filter_map(|claim| self.attachment(&format!("{}/{claim}", pod.namespace))).collect()
    }

    /// Looks a pod's volumes up, or says why it can go nowhere.
    pub(crate) fn of_pod(&self, pod: &PodInfo) -> Result<PodVolumes, String> {
        let mut found = PodVolumes::default();
        for name in &pod.claims {
            let key = format!("{}/{name}", pod.namespace);
            let claim = self.claims.get(&key).ok_or_else(|| format!("persistentvolumeclaim \"{name}\" not found"))?;
            if claim.terminating {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            let single = claim.modes.iter().any(|mode| mode == "ReadWriteOncePod");
            found.single_user |= single && self.users.contains_key(&key);
            found.attached.extend(self.attachment(&key));
            match &claim.volume {
                Some(volume) if claim.bound && self.volumes.contains_key(volume) => found.bound.push(volume.clone()),
                Some(_) if claim.bound => found.missing_volume = true,
                Some(_) => return Err("pod has unbound immediate PersistentVolumeClaims".into()),
                None if self.classes.get(&claim.class).is_some_and(|class| class.waits) => found.waiting.push(key),
                None => return Err("pod has unbound immediate PersistentVolumeClaims".into()),
            }
        }
        Ok(found)
    }

    /// Why a pod's volumes keep it off a node.
    pub(crate) fn check(&self, volumes: &PodVolumes, node: &NodeInfo) -> Option<Reason> {
        if volumes.single_user {
            return Some(Reason::SingleUserVolume);
        }
        if self.too_many(volumes, node) {
            return Some(Reason::TooManyVolumes);
        }
        if volumes.missing_volume {
            return Some(Reason::VolumeMissing);
        }
        let facts = &node.facts;
        let bound = || volumes.bound.iter().filter_map(|name| self.volumes.get(name));
        if bound().any(|volume| !volume.affinity.is_any() && !volume.affinity.matches(&facts.name, &facts.labels)) {
            return Some(Reason::VolumeAffinity);
        }
        if self.choose(volumes, node).is_none() {
            return Some(Reason::VolumeUnavailable);
        }
        let zoned = |volume: &Volume| {
            let zones = ZONES.iter().filter_map(|key| Some((*key, volume.labels.get(*key)?)));
            let mut known = zones.filter(|(key, _)| facts.labels.contains_key(*key));
            known.all(|(key, allowed)| {
                allowed.split("__").any(|one| facts.labels.get(key).is_some_and(|zone| zone == one))
            })
        };
        if !bound().all(zoned) {
            return Some(Reason::VolumeZone);
        }
        None
    }

    fn too_many(&self, volumes: &PodVolumes, node: &NodeInfo) -> bool {
        let Some(limits) = self.limits.get(&node.facts.name) else { return false };
        limits.iter().any(|(driver, limit)| {
            let used = node.volumes.get(driver);
            let more: BTreeSet<_> = volumes
                .attached
                .iter()
                .filter(|(of, handle)| of == driver && used.is_none_or(|used| !used.contains_key(handle)))
                .collect();
            !more.is_empty() && used.map_or(0, BTreeMap::len) + more.len() > *limit
        })
    }

    /// What is to be done for the claims that wait, if it can be done for this node.
    pub(crate) fn choose(&self, volumes: &PodVolumes, node: &NodeInfo) -> Option<Vec<VolumeStep>> {
        let mut steps = Vec::new();
        let mut taken = BTreeSet::new();
        for key in &volumes.waiting {
            let claim = self.claims.get(key)?;
            if claim.selected_node.as_ref().is_some_and(|selected| *selected != node.facts.name) {
                return None;
            }
            let volume = self.free_volume(key, claim, node, &taken);
            if let Some(volume) = volume.filter(|_| claim.selected_node.is_none()) {
                taken.insert(volume.clone());
                steps.push(VolumeStep::Bind { volume, claim: key.clone() });
            } else {
                let class = self.classes.get(&claim.class)?;
                if class.provisioner == NO_PROVISIONER || !allowed(class, node) {
                    return None;
                }
                steps.push(VolumeStep::Provision { claim: key.clone(), node: node.facts.name.clone() });
            }
        }
        Some(steps)
    }

    /// The smallest free volume that the claim may take.
    fn free_volume(&self, key: &str, claim: &Claim, node: &NodeInfo, taken: &BTreeSet<String>) -> Option<String> {
        let free = self.free.get(&claim.class)?.iter().filter_map(|name| Some((name, self.volumes.get(name)?)));
        let fits = free.filter(|(name, volume)| {
            let promised = self.promised.get(*name).is_some_and(|other| other != key);
            !taken.contains(*name)
                && !promised
                && volume.size >= claim.size
                && volume.volume_mode == claim.volume_mode
                && claim.modes.iter().all(|mode| volume.modes.contains(mode))
                && claim.selector.as_ref().is_none_or(|selector| selector.matches(&volume.labels))
                && (volume.affinity.is_any() || volume.affinity.matches(&node.facts.name, &node.facts.labels))
        });
        fits.min_by_key(|(_, volume)| volume.size).map(|(name, _)| name.clone())
    }

    /// Holds volumes for decisions until they are written, or lets them go.
    pub(crate) fn promise(&mut self, steps: &[VolumeStep], hold: bool) {
        for step in steps {
            let VolumeStep::Bind { volume, claim } = step else { continue };
            if hold {
                self.promised.insert(volume.clone(), claim.clone());
            } else {
                self.promised.remove(volume);
            }
        }
    }

    /// Whether every claim has its volume.
    pub(crate) fn all_bound(&self, claims: &[String]) -> bool {
        claims.iter().all(|key| self.claims.get(key).is_some_and(|claim| claim.bound && claim.volume.is_some()))
    }
}

fn allowed(class: &Class, node: &NodeInfo) -> bool {
    class.topologies.is_empty()
        || class.topologies.iter().any(|term| {
            term.iter().all(|(key, values)| node.facts.labels.get(key).is_some_and(|value| values.contains(value)))
        })
}
