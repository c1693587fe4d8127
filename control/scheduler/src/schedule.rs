//! One pod's turn: prepare, filter (a sample of) the nodes, score, choose; or find out why not. Pure.

use crate::{
    cluster::{Cluster, NodeId},
    filter::{Prepared, Reasons, check, done, prepare},
    pod::PodInfo,
    preempt::{Budgets, Preemption, preempt},
    reason::{Reason, sentence},
    score::score,
    volumes::VolumeStep,
};
use std::sync::Arc;

/// With fewer nodes than this all of them are tried.
const SMALL_CLUSTER: usize = 100;
/// Least share of the nodes that have to fit before the search ends, in percent.
const LEAST_PERCENT: usize = 5;

/// What came of a pod's turn.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It goes there, once these steps are done.
    Fits {
        /// Node.
        node: String,
        /// For its volumes.
        steps: Vec<VolumeStep>,
    },
    /// It goes nowhere for now.
    Unschedulable(Unschedulable),
}

/// Why a pod goes nowhere, and what is done about it.
#[derive(Debug, Default)]
pub(crate) struct Unschedulable {
    /// For people.
    pub(crate) message: String,
    /// What kept it off nodes: what may change that is looked up by it.
    pub(crate) reasons: Vec<Reason>,
    /// Pods to send away, and the node where that makes room.
    pub(crate) preemption: Option<Preemption>,
    /// Whether a node that was promised to it is of no use any more.
    pub(crate) denominate: bool,
}

/// Where the last search ended, so that the next one starts behind it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor(usize);

/// How many nodes that fit are enough.
fn enough(nodes: usize) -> usize {
    if nodes < SMALL_CLUSTER {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(LEAST_PERCENT);
    (nodes * percent / 100).max(SMALL_CLUSTER)
}

/// Finds a node for `pod`; `chance` decides between equals.
pub(crate) fn schedule(
    cluster: &mut Cluster,
    budgets: &Budgets,
    pod: &Arc<PodInfo>,
    cursor: &mut Cursor,
    chance: u64,
) -> Outcome {
    if cluster.node_count() == 0 {
        let message = "no nodes available to schedule pods".into();
        return Outcome::Unschedulable(Unschedulable { message, ..Unschedulable::default() });
    }
    let prepared = match prepare(cluster, pod) {
        Ok(prepared) => prepared,
        Err(why) => return nowhere(cluster, &why),
    };
    let outcome = search(cluster, budgets, pod, &prepared, cursor, chance);
    done(cluster, &prepared);
    outcome
}

/// No node is tried: the pod itself is not ready.
fn nowhere(cluster: &Cluster, why: &str) -> Outcome {
    let nodes = cluster.node_count();
    let none = sentence(nodes, std::iter::repeat_n(&Reason::PreemptionNotHelpful, nodes));
    let message = format!("0/{nodes} nodes are available: {why}. preemption: {none}");
    let reasons = vec![Reason::VolumeUnavailable];
    Outcome::Unschedulable(Unschedulable { message, reasons, preemption: None, denominate: true })
}

fn search(
    cluster: &mut Cluster,
    budgets: &Budgets,
    pod: &Arc<PodInfo>,
    prepared: &Prepared,
    cursor: &mut Cursor,
    chance: u64,
) -> Outcome {
    let (fitting, refused) = find(cluster, pod, prepared, cursor);
    let Some(best) = choose(cluster, pod, prepared, &fitting, chance) else {
        return failed(cluster, budgets, pod, prepared, &refused);
    };
    let node = &cluster.nodes[best];
    let steps = cluster.volumes.choose(&prepared.volumes, node).unwrap_or_default();
    Outcome::Fits { node: node.facts.name.clone(), steps }
}

/// Nodes that fit, and of the others why not.
fn find(
    cluster: &mut Cluster,
    pod: &PodInfo,
    prepared: &Prepared,
    cursor: &mut Cursor,
) -> (Vec<NodeId>, Vec<(NodeId, Reasons)>) {
    let promised = cluster.nominated_node(&pod.uid);
    if let Some(node) = promised.filter(|node| check(cluster, pod, prepared, *node).is_ok()) {
        return (vec![node], Vec::new());
    }
    let nodes = prepared.only.as_ref().map_or_else(|| cluster.all_nodes().len(), Vec::len);
    let enough = enough(nodes);
    let start = if prepared.only.is_some() { 0 } else { cursor.0 };
    let (mut fitting, mut refused) = (Vec::with_capacity(enough), Vec::new());
    let mut tried = 0;
    while tried < nodes && fitting.len() < enough {
        let place = (start + tried) % nodes;
        let id = prepared.only.as_ref().map_or_else(|| cluster.all_nodes()[place], |only| only[place]);
        match check(cluster, pod, prepared, id) {
            Ok(()) => fitting.push(id),
            Err(reasons) => refused.push((id, reasons)),
        }
        tried += 1;
    }
    if prepared.only.is_none() {
        cursor.0 = (start + tried) % nodes.max(1);
    }
    (fitting, refused)
}

fn choose(
    cluster: &mut Cluster,
    pod: &PodInfo,
    prepared: &Prepared,
    fitting: &[NodeId],
    chance: u64,
) -> Option<NodeId> {
    if fitting.len() <= 1 {
        return fitting.first().copied();
    }
    let scores = score(cluster, pod, prepared, fitting);
    let best = scores.iter().max()?;
    let equal = || fitting.iter().zip(&scores).filter(|(_, score)| *score == best).map(|(node, _)| *node);
    let pick = usize::try_from(chance % equal().count() as u64).unwrap_or(0);
    equal().nth(pick)
}

fn failed(
    cluster: &mut Cluster,
    budgets: &Budgets,
    pod: &Arc<PodInfo>,
    prepared: &Prepared,
    refused: &[(NodeId, Reasons)],
) -> Outcome {
    let nodes = cluster.node_count();
    let absent = nodes.saturating_sub(refused.len());
    let all = refused.iter().flat_map(|(_, reasons)| reasons);
    let mut message = sentence(nodes, all.clone().chain(std::iter::repeat_n(&Reason::NodeAffinity, absent)));
    let mut reasons: Vec<_> = all.cloned().collect();
    reasons.sort_unstable();
    reasons.dedup();
    if absent > 0 {
        reasons.push(Reason::NodeAffinity);
    }
    match preempt(cluster, budgets, pod, prepared, refused) {
        Ok(preemption) => {
            Outcome::Unschedulable(Unschedulable { message, reasons, preemption: Some(preemption), denominate: false })
        }
        Err((why, denominate)) => {
            message = format!("{message} preemption: {why}");
            Outcome::Unschedulable(Unschedulable { message, reasons, preemption: None, denominate })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_clusters_are_sampled() {
        let cases = [(5, 5), (99, 99), (100, 100), (250, 120), (1000, 420), (5000, 500), (10_000, 500)];
        assert_eq!(cases.map(|(nodes, _)| enough(nodes)), cases.map(|(_, expected)| expected));
    }
}
