//! Routes to pod ranges, the `NetworkUnavailable` condition that waits for them, and pod ranges themselves where
//! nobody else gives them out.

use crate::{
    action::{Action, CloudCall, Kind, Subject},
    model::{Instance, InstanceState, Route},
    nodes::instance_of,
    objects::condition,
};
use ipnet::{IpNet, Ipv4Net};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::Time};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Route changes in one look at most.
const CHANGES_PER_LOOK: usize = 200;

/// What the plan looks at.
#[derive(Clone, Copy, Debug)]
pub struct RouteView<'a> {
    /// Every node.
    pub nodes: &'a [Arc<Node>],
    /// Every instance of the cluster.
    pub instances: &'a [Instance],
    /// Every route of the cluster.
    pub routes: &'a [Route],
    /// The time, for conditions.
    pub now: Timestamp,
}

/// Decides which routes to make and remove, and what nodes say about their network.
#[must_use]
pub fn plan_routes(view: &RouteView<'_>) -> Vec<Action> {
    let have: BTreeSet<&Route> = view.routes.iter().collect();
    let mut claimed: BTreeMap<IpNet, &str> = BTreeMap::new();
    let (mut calls, mut conditions) = (Vec::new(), Vec::new());
    for node in view.nodes {
        let ranges = pod_ranges(node);
        let name = node.metadata.name.as_deref().unwrap_or_default();
        claimed.extend(ranges.iter().map(|range| (*range, name)));
        let Some(instance) = instance_of(node, view.instances).filter(|i| i.state != InstanceState::Gone) else {
            continue;
        };
        if ranges.is_empty() {
            continue;
        }
        let subject = Subject::of(Kind::Node, &node.metadata);
        let want = ranges.iter().map(|range| Route { instance: instance.id.clone(), destination: *range });
        let lacking: Vec<Route> = want.filter(|route| !have.contains(route)).collect();
        conditions.extend(network_condition(node, &subject, lacking.is_empty(), view.now));
        calls.extend(lacking.into_iter().map(|route| subject.call(CloudCall::EnsureRoute(route))));
    }
    for route in view.routes.iter().filter(|route| !claimed.contains_key(&route.destination)) {
        let subject = Subject::absent(Kind::Node, &route.instance.0);
        calls.push(subject.call(CloudCall::DeleteRoute(route.clone())));
    }
    calls.truncate(CHANGES_PER_LOOK);
    calls.extend(conditions);
    calls
}

fn pod_ranges(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let listed: Vec<&String> = match &spec.pod_cidrs {
        Some(ranges) if !ranges.is_empty() => ranges.iter().collect(),
        _ => spec.pod_cidr.iter().collect(),
    };
    listed.into_iter().filter_map(|range| range.parse().ok()).collect()
}

fn network_condition(node: &Node, subject: &Subject, routed: bool, now: Timestamp) -> Option<Action> {
    let (status, reason, message) = if routed {
        ("False", "RouteCreated", "RouteController created a route")
    } else {
        ("True", "NoRouteCreated", "RouteController failed to create a route")
    };
    if condition(node, "NetworkUnavailable").is_some_and(|c| c.status == status) {
        return None;
    }
    let all = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let mut conditions: Vec<_> = all.filter(|c| c.type_ != "NetworkUnavailable").map(|c| json!(c)).collect();
    conditions.push(json!({
        "type": "NetworkUnavailable", "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": Time(now), "lastTransitionTime": Time(now),
    }));
    Some(subject.patch_status(&json!({ "conditions": conditions })))
}

/// Gives every node without one a range of length `prefix` out of `cluster`, the lowest free first.
#[must_use]
pub fn plan_pod_ranges(nodes: &[Arc<Node>], cluster: Ipv4Net, prefix: u8) -> Vec<Action> {
    let taken: BTreeSet<IpNet> = nodes.iter().flat_map(|node| pod_ranges(node)).collect();
    let Ok(mut free) = cluster.subnets(prefix).map(|all| all.filter(|range| !taken.contains(&IpNet::V4(*range))))
    else {
        return Vec::new();
    };
    let lacking = nodes.iter().filter(|n| n.metadata.deletion_timestamp.is_none() && pod_ranges(n).is_empty());
    lacking
        .map_while(|node| {
            let range = free.next()?.to_string();
            let body = json!({ "spec": { "podCIDR": range, "podCIDRs": [range] } });
            Some(Subject::of(Kind::Node, &node.metadata).patch(body))
        })
        .collect()
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
