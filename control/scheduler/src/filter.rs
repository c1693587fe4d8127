//! Whether a pod can go on a node. What can be found out once for all nodes is *prepared* first; the check of
//! one node then is a handful of comparisons. Pure.

use crate::{
    cluster::{Cluster, NodeId, ShapeId, Verdict},
    node::NodeInfo,
    pod::{PodInfo, Spread},
    reason::Reason,
    terms::{ClassId, NO_DOMAIN, Owner, TermId},
    volumes::PodVolumes,
};
use smallvec::{SmallVec, smallvec};

/// Why one node is refused; nearly always one reason.
pub(crate) type Reasons = SmallVec<[Reason; 2]>;

/// A class that no node counts: pods that are only supposed to be there.
const NO_CLASS: ClassId = usize::MAX;

/// Matching pods by domain.
#[derive(Debug)]
pub(crate) enum Counts {
    Shared(TermId),
    /// Only of nodes that the pod could go to.
    Own(Vec<u32>),
}

/// One spread constraint with its counts.
#[derive(Debug)]
pub(crate) struct Spreading {
    pub(crate) key: usize,
    pub(crate) counts: Counts,
    pub(crate) max_skew: i64,
    /// What the most skewed domain may hold before this pod: `max_skew` plus the least count.
    most: i64,
}

impl Spreading {
    pub(crate) fn count(&self, cluster: &Cluster, domain: u32) -> i64 {
        match &self.counts {
            Counts::Shared(term) => cluster.terms.get(*term).count(domain),
            Counts::Own(counts) => counts.get(domain as usize).map_or(0, |count| i64::from(*count)),
        }
    }
}

/// What holds for a pod on every node.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) class: ClassId,
    pub(crate) shape: ShapeId,
    pub(crate) volumes: PodVolumes,
    anti: Vec<TermId>,
    affinity: Vec<TermId>,
    /// The pod is the first of its kind, so that it need not be near one.
    first: bool,
    others_anti: Vec<TermId>,
    hard: Vec<Spreading>,
    /// The only nodes that it names, if it does.
    pub(crate) only: Option<Vec<NodeId>>,
}

impl Prepared {
    /// Whether pods that run already keep this one away from some nodes.
    pub(crate) fn minds_others(&self) -> bool {
        !self.others_anti.is_empty()
    }
}

/// Looks up what the checks of `pod` need; or says why it can go nowhere. [`done`] ends its use.
pub(crate) fn prepare(cluster: &mut Cluster, pod: &PodInfo) -> Result<Prepared, String> {
    let volumes = cluster.volumes.of_pod(pod)?;
    cluster.order();
    let shape = cluster.shape(pod);
    let class = cluster.terms.class(&pod.namespace, &pod.labels, pod.terminating);
    let anti: Vec<_> = pod.anti_affinity.iter().map(|spec| cluster.counted_term(spec)).collect();
    let affinity: Vec<_> = pod.affinity.iter().map(|spec| cluster.counted_term(spec)).collect();
    let matched = cluster.terms.matched(class).iter();
    let others_anti = matched.copied().filter(|term| cluster.terms.get(*term).has_owner(Owner::Anti)).collect();
    let first = pod.affinity_self && affinity.iter().all(|term| cluster.terms.get(*term).total == 0);
    let hard = spreading(cluster, pod, shape, &pod.spread_hard, true);
    let named = pod.shape.required.names();
    let only = named.map(|names| names.iter().filter_map(|name| cluster.node_id(name)).collect());
    Ok(Prepared { class, shape, volumes, anti, affinity, first, others_anti, hard, only })
}

/// Ends the use of what was prepared.
pub(crate) fn done(cluster: &mut Cluster, prepared: &Prepared) {
    cluster.terms.release(prepared.class);
    cluster.terms.trim(&[]);
}

/// Counts for spread constraints; `all_keys` leaves nodes out that lack one of their labels.
pub(crate) fn spreading(
    cluster: &mut Cluster,
    pod: &PodInfo,
    shape: ShapeId,
    list: &[Spread],
    all_keys: bool,
) -> Vec<Spreading> {
    if list.is_empty() {
        return Vec::new();
    }
    let terms: Vec<_> = list.iter().map(|one| cluster.counted_term(&one.term)).collect();
    let keys: Vec<_> = terms.iter().map(|term| cluster.terms.get(*term).key).collect();
    let nodes = cluster.node_count();
    let picky = |one: &Spread| one.honor_taints || (one.honor_affinity && !pod.shape.required.is_any());
    let gaps = all_keys && keys.len() > 1 && keys.iter().any(|key| cluster.terms.keys[*key].labelled != nodes);
    let mut found = Vec::with_capacity(list.len());
    for (at, one) in list.iter().enumerate() {
        let key = keys[at];
        let (counts, least, domains) = if gaps || picky(one) {
            own_counts(cluster, pod, shape, one, terms[at], &keys)
        } else {
            shared_counts(cluster, terms[at])
        };
        let least = if domains < one.min_domains { 0 } else { least };
        let most = one.max_skew + least - i64::from(one.matches_itself);
        found.push(Spreading { key, counts, max_skew: one.max_skew, most });
    }
    found
}

/// Counts of all nodes, the least of them, and how many domains there are.
fn shared_counts(cluster: &Cluster, term: TermId) -> (Counts, i64, usize) {
    let found = cluster.terms.get(term);
    let nodes = &cluster.terms.keys[found.key].nodes;
    let counts = found.counts();
    let (mut least, mut domains) = (u32::MAX, 0);
    for (domain, nodes) in nodes.iter().enumerate() {
        if *nodes > 0 {
            domains += 1;
            least = least.min(counts.get(domain).copied().unwrap_or(0));
        }
    }
    let least = if domains == 0 { 0 } else { i64::from(least) };
    (Counts::Shared(term), least, domains)
}

/// The same over those nodes that the pod's own rules let it look at.
fn own_counts(
    cluster: &mut Cluster,
    pod: &PodInfo,
    shape: ShapeId,
    spread: &Spread,
    term: TermId,
    keys: &[usize],
) -> (Counts, i64, usize) {
    let key = cluster.terms.get(term).key;
    let mut counts: Vec<Option<u32>> = vec![None; cluster.terms.keys[key].nodes.len()];
    for at in 0..cluster.all_nodes().len() {
        let id = cluster.all_nodes()[at];
        let verdict = cluster.verdict(shape, id);
        let node = &cluster.nodes[id];
        let has_keys = keys.iter().all(|key| node.domains[*key] != NO_DOMAIN);
        let affinity = !spread.honor_affinity
            || verdict == Verdict::Fits
            || pod.shape.required.is_any()
            || pod.shape.required.matches(&node.facts.name, &node.facts.labels);
        let taints = !spread.honor_taints || !matches!(verdict, Verdict::Taint | Verdict::Unschedulable);
        if !(has_keys && affinity && taints) {
            continue;
        }
        let alike = node.classes.iter().filter(|(class, _)| cluster.terms.class_matches(*class, term));
        let pods: u32 = alike.map(|(_, pods)| *pods).sum();
        if let Some(count) = counts.get_mut(node.domains[key] as usize) {
            *count = Some(count.unwrap_or(0) + pods);
        }
    }
    let least = counts.iter().flatten().min().copied().unwrap_or(0);
    let domains = counts.iter().flatten().count();
    (Counts::Own(counts.into_iter().map(Option::unwrap_or_default).collect()), i64::from(least), domains)
}

/// Whether `pod` can go on the node, taking into account who waits for room there.
pub(crate) fn check(cluster: &mut Cluster, pod: &PodInfo, prepared: &Prepared, id: NodeId) -> Result<(), Reasons> {
    match cluster.verdict(prepared.shape, id) {
        Verdict::Fits | Verdict::Unknown => {}
        Verdict::Unschedulable => return Err(smallvec![Reason::Unschedulable]),
        Verdict::Taint => return Err(smallvec![Reason::Taint]),
        Verdict::Affinity => return Err(smallvec![Reason::NodeAffinity]),
    }
    if !cluster.nodes[id].nominated.is_empty() {
        check_room_with_nominated(&mut cluster.nodes[id], pod)?;
    }
    let node = &cluster.nodes[id];
    check_room(node, pod)?;
    if !prepared.volumes.is_empty()
        && let Some(reason) = cluster.volumes.check(&prepared.volumes, node)
    {
        return Err(smallvec![reason]);
    }
    check_neighbours(cluster, prepared, node).map_or(Ok(()), |reason| Err(smallvec![reason]))
}

/// The pod must also fit once those who wait here, and are not less important, have come.
fn check_room_with_nominated(node: &mut NodeInfo, pod: &PodInfo) -> Result<(), Reasons> {
    let others = node.nominated.iter().filter(|other| other.priority >= pod.priority && other.uid != pod.uid);
    let others: Vec<_> = others.cloned().collect();
    for other in &others {
        node.add(other, NO_CLASS);
    }
    let found = check_room(node, pod);
    for other in &others {
        node.remove(other, NO_CLASS);
    }
    found
}

fn check_room(node: &NodeInfo, pod: &PodInfo) -> Result<(), Reasons> {
    if !pod.ports.is_empty() && !node.ports_free(&pod.ports) {
        return Err(smallvec![Reason::Ports]);
    }
    let (has, used, wants) = (&node.facts.allocatable, &node.requested, &pod.requests);
    let fits = |wants: i64, used: i64, has: i64| wants == 0 || wants <= has - used;
    if node.pods.len() < node.facts.most_pods
        && fits(wants.cpu, used.cpu, has.cpu)
        && fits(wants.memory, used.memory, has.memory)
        && fits(wants.storage, used.storage, has.storage)
        && wants.other.iter().all(|(name, amount)| fits(*amount, used.get(name), has.get(name)))
    {
        return Ok(());
    }
    let mut reasons = Reasons::new();
    if node.pods.len() >= node.facts.most_pods {
        reasons.push(Reason::TooManyPods);
    }
    let known = [
        ("cpu", wants.cpu, used.cpu, has.cpu),
        ("memory", wants.memory, used.memory, has.memory),
        ("ephemeral-storage", wants.storage, used.storage, has.storage),
    ];
    let other = wants.other.iter().map(|(name, amount)| (&**name, *amount, used.get(name), has.get(name)));
    for (name, wants, used, has) in known.into_iter().chain(other) {
        if !fits(wants, used, has) {
            reasons.push(Reason::Insufficient(name.into(), wants <= has));
        }
    }
    Err(reasons)
}

fn check_neighbours(cluster: &Cluster, prepared: &Prepared, node: &NodeInfo) -> Option<Reason> {
    for spread in &prepared.hard {
        let domain = node.domains[spread.key];
        if domain == NO_DOMAIN {
            return Some(Reason::SpreadLabel);
        }
        if spread.count(cluster, domain) > spread.most {
            return Some(Reason::Spread);
        }
    }
    let terms = &cluster.terms;
    let domain = |term: TermId| node.domains[terms.get(term).key];
    for term in &prepared.affinity {
        let here = domain(*term);
        if here == NO_DOMAIN || (!prepared.first && terms.get(*term).count(here) == 0) {
            return Some(Reason::Affinity);
        }
    }
    let away = |term: &TermId| domain(*term) != NO_DOMAIN && terms.get(*term).count(domain(*term)) > 0;
    if prepared.anti.iter().any(away) {
        return Some(Reason::AntiAffinity);
    }
    let unwanted = |term: &TermId| domain(*term) != NO_DOMAIN && terms.get(*term).owned(Owner::Anti, domain(*term)) > 0;
    prepared.others_anti.iter().any(unwanted).then_some(Reason::OthersAntiAffinity)
}
