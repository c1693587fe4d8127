//! Which of the nodes that fit is best: upstream's scores with upstream's weights. Pure.

use crate::{
    cluster::{Cluster, NodeId},
    filter::{Prepared, spreading},
    node::NodeInfo,
    pod::PodInfo,
    selector::tolerates,
    terms::{NO_DOMAIN, Owner, TermId},
};

const FULL: i64 = 100;
const WEIGHT_TAINTS: i64 = 3;
const WEIGHT_NODE_AFFINITY: i64 = 2;
const WEIGHT_SPREAD: i64 = 2;
const WEIGHT_POD_AFFINITY: i64 = 2;
/// A required affinity term of a pod that runs already counts as a preferred one of this weight.
const HARD_AFFINITY_WEIGHT: i64 = 1;
/// Image sizes below and above which nothing changes, in bytes.
const SMALL_IMAGES: i64 = 23 << 20;
const LARGE_IMAGE: i64 = 1000 << 20;

/// A score for each of `nodes`.
pub(crate) fn score(cluster: &mut Cluster, pod: &PodInfo, prepared: &Prepared, nodes: &[NodeId]) -> Vec<i64> {
    let images: Vec<_> = pod.images.iter().filter_map(|image| cluster.image_id(image)).collect();
    let best_effort = pod.requests.is_zero();
    let mut scores: Vec<i64> = nodes
        .iter()
        .map(|id| {
            let node = &cluster.nodes[*id];
            let balance = if best_effort { 0 } else { balanced(node, pod) };
            let local = if images.is_empty() { 0 } else { image_locality(cluster, node, &images, pod) };
            least_allocated(node, pod) + balance + local
        })
        .collect();
    add_taints(cluster, pod, nodes, &mut scores);
    add_node_affinity(cluster, pod, nodes, &mut scores);
    add_spread(cluster, pod, prepared, nodes, &mut scores);
    add_pod_affinity(cluster, pod, prepared, nodes, &mut scores);
    scores
}

/// How empty the node would be.
fn least_allocated(node: &NodeInfo, pod: &PodInfo) -> i64 {
    let free = |used: i64, has: i64| if used > has { 0 } else { (has - used) * FULL / has };
    let parts = [
        (node.scored.0 + pod.scored.0, node.facts.allocatable.cpu),
        (node.scored.1 + pod.scored.1, node.facts.allocatable.memory),
    ];
    let known = parts.into_iter().filter(|(_, has)| *has > 0);
    let (sum, count) = known.fold((0, 0), |(sum, count), (used, has)| (sum + free(used, has), count + 1));
    if count == 0 { 0 } else { sum / count }
}

/// How much nearer CPU and memory use come to one another.
fn balanced(node: &NodeInfo, pod: &PodInfo) -> i64 {
    let (used, has) = (&node.requested, &node.facts.allocatable);
    let even = |cpu: i64, memory: i64| {
        let share = |used: i64, has: i64| (has > 0).then(|| (used as f64 / has as f64).min(1.0));
        let apart = match (share(cpu, has.cpu), share(memory, has.memory)) {
            (Some(cpu), Some(memory)) => ((cpu - memory) / 2.0).abs(),
            _ => 0.0,
        };
        ((1.0 - apart) * FULL as f64) as i64
    };
    let with = even(used.cpu + pod.requests.cpu, used.memory + pod.requests.memory);
    let without = even(used.cpu, used.memory);
    FULL / 2 + (FULL / 2 + with - without) / 2
}

/// How much of the pod's images is on the node, less if few nodes have them.
fn image_locality(cluster: &Cluster, node: &NodeInfo, images: &[u32], pod: &PodInfo) -> i64 {
    let nodes = cluster.node_count().max(1) as f64;
    let here = images.iter().filter_map(|image| {
        let at = node.images.binary_search_by_key(image, |(known, _)| *known).ok()?;
        Some((node.images[at].1 as f64 * f64::from(cluster.image_nodes[*image as usize]) / nodes) as i64)
    });
    let most = LARGE_IMAGE * pod.images.len() as i64;
    FULL * (here.sum::<i64>().clamp(SMALL_IMAGES, most) - SMALL_IMAGES) / (most - SMALL_IMAGES)
}

/// Scales to 0..=100, the largest being the best (or, `reversed`, the worst), and adds.
fn add_scaled(raw: &[i64], reversed: bool, weight: i64, scores: &mut [i64]) {
    let most = raw.iter().copied().max().unwrap_or(0);
    for (score, raw) in scores.iter_mut().zip(raw) {
        let scaled = if most == 0 { 0 } else { FULL * raw / most };
        *score += weight * if reversed { FULL - scaled } else { scaled };
    }
}

fn add_taints(cluster: &Cluster, pod: &PodInfo, nodes: &[NodeId], scores: &mut [i64]) {
    let unwelcome = |id: &NodeId| {
        let taints = cluster.nodes[*id].facts.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        taints.filter(|taint| !tolerates(&pod.shape.tolerations, taint)).count() as i64
    };
    let raw: Vec<_> = nodes.iter().map(unwelcome).collect();
    if raw.iter().any(|count| *count > 0) {
        add_scaled(&raw, true, WEIGHT_TAINTS, scores);
    }
}

fn add_node_affinity(cluster: &Cluster, pod: &PodInfo, nodes: &[NodeId], scores: &mut [i64]) {
    if pod.shape.preferred.is_empty() {
        return;
    }
    let liked = |id: &NodeId| {
        let facts = &cluster.nodes[*id].facts;
        let held = pod.shape.preferred.iter().filter(|(term, _)| term.matches(&facts.name, &facts.labels));
        held.map(|(_, weight)| weight).sum()
    };
    let raw: Vec<i64> = nodes.iter().map(liked).collect();
    add_scaled(&raw, false, WEIGHT_NODE_AFFINITY, scores);
}

fn add_spread(cluster: &mut Cluster, pod: &PodInfo, prepared: &Prepared, nodes: &[NodeId], scores: &mut [i64]) {
    if pod.spread_soft.is_empty() {
        return;
    }
    let needs_all = !pod.spread_default;
    let list = spreading(cluster, pod, prepared.shape, &pod.spread_soft, needs_all);
    let ignored = |id: &NodeId| needs_all && list.iter().any(|one| cluster.nodes[*id].domains[one.key] == NO_DOMAIN);
    let weights: Vec<f64> = list
        .iter()
        .map(|one| {
            let mut seen = vec![false; cluster.terms.keys[one.key].nodes.len()];
            for id in nodes.iter().filter(|id| !ignored(id)) {
                if let Some(seen) = seen.get_mut(cluster.nodes[*id].domains[one.key] as usize) {
                    *seen = true;
                }
            }
            (seen.iter().filter(|seen| **seen).count() as f64 + 2.0).ln()
        })
        .collect();
    let crowded = |id: &NodeId| {
        let node = &cluster.nodes[*id];
        let parts = list.iter().zip(&weights).map(|(one, weight)| match node.domains[one.key] {
            NO_DOMAIN => 0.0,
            domain => one.count(cluster, domain) as f64 * weight + (one.max_skew - 1) as f64,
        });
        (!ignored(id)).then(|| parts.sum::<f64>().round() as i64)
    };
    let raw: Vec<Option<i64>> = nodes.iter().map(crowded).collect();
    let least = raw.iter().flatten().min().copied().unwrap_or(0);
    let most = raw.iter().flatten().max().copied().unwrap_or(0);
    for (score, raw) in scores.iter_mut().zip(raw) {
        let Some(raw) = raw else { continue };
        let scaled = if most == 0 { FULL } else { FULL * (most + least - raw) / most };
        *score += WEIGHT_SPREAD * scaled;
    }
}

fn add_pod_affinity(cluster: &mut Cluster, pod: &PodInfo, prepared: &Prepared, nodes: &[NodeId], scores: &mut [i64]) {
    let mut own: Vec<(TermId, i64)> = Vec::new();
    for (spec, weight) in &pod.preferred_affinity {
        own.push((cluster.counted_term(spec), *weight));
    }
    for (spec, weight) in &pod.preferred_anti {
        own.push((cluster.counted_term(spec), -*weight));
    }
    let terms = &cluster.terms;
    let wishes = [(Owner::Affinity, HARD_AFFINITY_WEIGHT), (Owner::Preferred, 1), (Owner::PreferredAnti, -1)];
    let matched =
        terms.matched(prepared.class).iter().flat_map(|term| wishes.map(|(owner, sign)| (*term, owner, sign)));
    let others: Vec<_> = matched.filter(|(term, owner, _)| terms.get(*term).has_owner(*owner)).collect();
    if own.is_empty() && others.is_empty() {
        return;
    }
    let liked = |id: &NodeId| {
        let domains = &cluster.nodes[*id].domains;
        let here = |term: TermId| Some(domains[terms.get(term).key]).filter(|domain| *domain != NO_DOMAIN);
        let mine = own.iter().filter_map(|(term, weight)| Some(weight * terms.get(*term).count(here(*term)?)));
        let theirs =
            others.iter().filter_map(|(term, owner, sign)| Some(sign * terms.get(*term).owned(*owner, here(*term)?)));
        mine.sum::<i64>() + theirs.sum::<i64>()
    };
    let raw: Vec<i64> = nodes.iter().map(liked).collect();
    let least = raw.iter().min().copied().unwrap_or(0);
    let range = raw.iter().max().copied().unwrap_or(0) - least;
    for (score, raw) in scores.iter_mut().zip(raw) {
        let scaled = if range == 0 { 0 } else { FULL * (raw - least) / range };
        *score += WEIGHT_POD_AFFINITY * scaled;
    }
}
