//! Whom to send away so that a more important pod finds room: as few, as unimportant and as late as possible,
//! and none that a disruption budget protects if that can be helped. Pure: it takes pods off the cluster only
//! to try, and puts them back.

use crate::{
    cluster::{Cluster, NodeId},
    filter::{Prepared, Reasons, check, done, prepare},
    pod::PodInfo,
    reason::{Reason, sentence},
    selector::Selector,
};
use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Nodes on which it is tried: a tenth, but at least so many.
const LEAST_CANDIDATES: usize = 100;

/// Pods to send away from a node.
#[derive(Debug)]
pub struct Preemption {
    /// Node.
    pub node: String,
    /// Pods, the most important first.
    pub victims: Vec<Arc<PodInfo>>,
}

#[derive(Debug)]
struct Budget {
    namespace: String,
    selector: Selector,
    allowed: i32,
    disrupted: BTreeSet<String>,
}

/// Disruption budgets, by `namespace/name`.
#[derive(Debug, Default)]
pub struct Budgets(BTreeMap<String, Budget>);

impl Budgets {
    /// Follows a budget.
    pub fn set(&mut self, key: &str, budget: Option<&PodDisruptionBudget>) {
        let Some(budget) = budget else {
            self.0.remove(key);
            return;
        };
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|status| status.disrupted_pods.as_ref());
        let parsed = Budget {
            namespace: budget.metadata.namespace.clone().unwrap_or_default(),
            selector: Selector::new(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref())),
            allowed: status.and_then(|status| status.disruptions_allowed).unwrap_or(0),
            disrupted: disrupted.into_iter().flat_map(|pods| pods.keys().cloned()).collect(),
        };
        self.0.insert(key.to_owned(), parsed);
    }

    /// Splits pods into those whose going breaks a budget and the others, in their order.
    fn split(&self, pods: &[Arc<PodInfo>]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
        let mut left: Vec<i32> = self.0.values().map(|budget| budget.allowed).collect();
        pods.iter().cloned().partition(|pod| {
            let mut breaks = false;
            for (budget, left) in self.0.values().zip(&mut left) {
                let concerns = budget.namespace == *pod.namespace
                    && !pod.labels.is_empty()
                    && !budget.selector.is_empty()
                    && budget.selector.matches(&*pod.labels)
                    && !budget.disrupted.contains(&pod.name);
                if concerns {
                    *left -= 1;
                    breaks |= *left < 0;
                }
            }
            breaks
        })
    }
}

/// The more important first: by priority, then by who has run longer.
fn importance(pod: &Arc<PodInfo>) -> (Reverse<i32>, Timestamp, String) {
    (Reverse(pod.priority), pod.started.unwrap_or(Timestamp::MAX), pod.uid.clone())
}

struct Candidate {
    node: NodeId,
    victims: Vec<Arc<PodInfo>>,
    broken_budgets: usize,
}

impl Candidate {
    /// The smaller the better.
    fn cost(&self) -> (usize, i32, i64, usize, Reverse<Timestamp>) {
        let highest = self.victims.iter().map(|pod| pod.priority).max().unwrap_or(i32::MIN);
        let sum = self.victims.iter().map(|pod| i64::from(pod.priority) + i64::from(i32::MAX) + 1).sum();
        let top = self.victims.iter().filter(|pod| pod.priority == highest);
        let earliest = top.filter_map(|pod| pod.started).min().unwrap_or(Timestamp::MAX);
        (self.broken_budgets, highest, sum, self.victims.len(), Reverse(earliest))
    }
}

/// Whom to send away for `pod`; or why that is of no use, and whether an earlier promise is void.
pub(crate) fn preempt(
    cluster: &mut Cluster,
    budgets: &Budgets,
    pod: &Arc<PodInfo>,
    prepared: &Prepared,
    refused: &[(NodeId, Reasons)],
) -> Result<Preemption, (String, bool)> {
    if !pod.preempts {
        return Err(("not eligible due to preemptionPolicy=Never.".into(), false));
    }
    if waits_for_leavers(cluster, pod, refused) {
        return Err(("not eligible due to a terminating pod on the nominated node.".into(), false));
    }
    let nodes = cluster.node_count();
    let possible: Vec<_> =
        refused.iter().filter(|(_, reasons)| reasons.iter().all(Reason::preemptible)).map(|(node, _)| *node).collect();
    let most = LEAST_CANDIDATES.max(possible.len() / 10);
    let mut found: Vec<Candidate> = Vec::new();
    let mut why: Vec<Reasons> = Vec::new();
    for node in &possible {
        match try_node(cluster, budgets, pod, prepared, *node) {
            Ok(candidate) => found.push(candidate),
            Err(reasons) => why.push(reasons),
        }
        if found.len() == most {
            break;
        }
    }
    let best =
        found.into_iter().min_by_key(|candidate| (candidate.cost(), cluster.nodes[candidate.node].facts.name.clone()));
    match best {
        Some(best) => Ok(Preemption { node: cluster.nodes[best.node].facts.name.clone(), victims: best.victims }),
        None => {
            let hopeless = std::iter::repeat_n(&Reason::PreemptionNotHelpful, nodes.saturating_sub(why.len()));
            Err((sentence(nodes, why.iter().flatten().chain(hopeless)), true))
        }
    }
}

/// Whether pods that were sent away for this one are still leaving the node promised to it.
fn waits_for_leavers(cluster: &Cluster, pod: &PodInfo, refused: &[(NodeId, Reasons)]) -> bool {
    let Some(id) = cluster.nominated_node(&pod.uid) else { return false };
    let hopeless = refused.iter().any(|(node, reasons)| *node == id && !reasons.iter().all(Reason::preemptible));
    let mut pods = cluster.nodes[id].pods.iter();
    !hopeless && pods.any(|other| other.terminating && other.preempted && other.priority < pod.priority)
}

fn try_node(
    cluster: &mut Cluster,
    budgets: &Budgets,
    pod: &Arc<PodInfo>,
    prepared: &Prepared,
    node: NodeId,
) -> Result<Candidate, Reasons> {
    let mut lesser: Vec<_> =
        cluster.nodes[node].pods.iter().filter(|other| other.priority < pod.priority).cloned().collect();
    if lesser.is_empty() {
        return Err(Reasons::from_elem(Reason::NoVictims, 1));
    }
    lesser.sort_by_cached_key(importance);
    for other in &lesser {
        cluster.take(&other.uid);
    }
    let mut found = fits(cluster, pod, prepared, node).map(|()| (Vec::new(), 0));
    if let Ok((victims, broken)) = &mut found {
        let (protected, others) = budgets.split(&lesser);
        let protected_count = protected.len();
        for (at, other) in protected.into_iter().chain(others).enumerate() {
            cluster.put(&other.uid);
            if fits(cluster, pod, prepared, node).is_err() {
                cluster.take(&other.uid);
                *broken += usize::from(at < protected_count);
                victims.push(other);
            }
        }
    }
    // Everything back as it was: those who stay are on the node already.
    let away: Vec<_> = match &found {
        Ok((victims, _)) => victims.clone(),
        Err(_) => lesser,
    };
    for other in &away {
        cluster.put(&other.uid);
    }
    let (mut victims, broken_budgets) = found?;
    if victims.is_empty() {
        return Err(Reasons::from_elem(Reason::NoVictims, 1));
    }
    victims.sort_by_cached_key(importance);
    Ok(Candidate { node, victims, broken_budgets })
}

/// Whether the pod fits as things are at this moment; what depends on other pods is looked up anew.
fn fits(cluster: &mut Cluster, pod: &PodInfo, prepared: &Prepared, node: NodeId) -> Result<(), Reasons> {
    if !pod.has_terms() && pod.spread_hard.is_empty() && !prepared.minds_others() {
        return check(cluster, pod, prepared, node);
    }
    let Ok(fresh) = prepare(cluster, pod) else {
        return Err(Reasons::from_elem(Reason::PreemptionNotHelpful, 1));
    };
    let found = check(cluster, pod, &fresh, node);
    done(cluster, &fresh);
    found
}
