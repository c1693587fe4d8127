//! Pod ranges of nodes, cut from the cluster's.

use crate::{
    common::objects::deleting,
    framework::{Action, Change, Controller, Key, Kind, Note, Object, Plan, Target, Tone, View},
    run::NodeRanges,
};
use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeSet;

/// Ranges tried at most when a free one is sought.
const MAX_TRIED: usize = 1 << 16;

/// Gives nodes their ranges. Its one key stands for the cluster, so that no two nodes get the same.
#[derive(Debug)]
pub(crate) struct NodeAddressRanges {
    pub(crate) ranges: NodeRanges,
}

impl Controller for NodeAddressRanges {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Node]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("Node", "spec.podCIDRs")]
    }

    fn keys(&self, _view: &View, change: &Change, keys: &mut Vec<Key>) {
        let lacks = |object: &Object| matches!(object, Object::Node(node) if node.spec.as_ref().is_none_or(|spec| spec.pod_cidr.is_none()));
        if change.new.as_ref().is_none_or(lacks) {
            keys.push(Key::new("", "nodes"));
        }
    }

    fn plan(&self, view: &View, _key: &Key, _now: Timestamp) -> Plan {
        let mut plan = Plan::none();
        let given =
            |node: &k8s_openapi::api::core::v1::Node| node.spec.as_ref().and_then(|spec| spec.pod_cidrs.clone());
        let mut used: BTreeSet<IpNet> =
            view.nodes.all().filter_map(|node| given(node)).flatten().filter_map(|range| range.parse().ok()).collect();
        let waiting = view.nodes.all().filter(|node| {
            !deleting(&node.metadata)
                && node.spec.as_ref().is_none_or(|spec| spec.pod_cidr.as_deref().unwrap_or_default().is_empty())
        });
        for node in waiting {
            let Some(ranges) = self.free(&used) else {
                let message = format!(
                    "Node {} status is now: CIDRNotAvailable",
                    node.metadata.name.as_deref().unwrap_or_default()
                );
                plan.push(Action::tell(Note::about(
                    Kind::Node,
                    &node.metadata,
                    Tone::Normal,
                    "CIDRNotAvailable",
                    message,
                )));
                continue;
            };
            used.extend(ranges.iter().copied());
            let texts: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            let patch = json!({"spec": {"podCIDR": texts.first(), "podCIDRs": texts}});
            plan.push(Action::patch(Target::exact(Kind::Node, &node.metadata), patch));
        }
        plan
    }
}

impl NodeAddressRanges {
    /// A free range of each family; none when any family has run out.
    fn free(&self, used: &BTreeSet<IpNet>) -> Option<Vec<IpNet>> {
        let part = |cluster: &IpNet| {
            let mask = if matches!(cluster, IpNet::V4(_)) { self.ranges.mask_v4 } else { self.ranges.mask_v6 };
            cluster.subnets(mask).ok()?.take(MAX_TRIED).find(|range| !used.contains(range))
        };
        self.ranges.cluster.iter().map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, outline};

    fn check(cluster: &[&str], given: &[(&str, &str)], expected: &[&str]) {
        let mut view = View::default();
        for (name, range) in given {
            let spec = if range.is_empty() { json!({}) } else { json!({"podCIDR": range, "podCIDRs": [range]}) };
            view.nodes.insert(object(json!({"metadata": {"name": name, "uid": name}, "spec": spec})));
        }
        let cluster = cluster.iter().map(|range| range.parse().expect("a range")).collect();
        let controller = NodeAddressRanges { ranges: NodeRanges { cluster, mask_v4: 24, mask_v6: 64 } };
        let made = outline(&controller.plan(&view, &Key::new("", "nodes"), at(0)));
        let told: Vec<_> = made
            .iter()
            .map(|made| match made.notes.first() {
                Some(note) => note.clone(),
                None => format!("{} {}", made.line, made.body["spec"]["podCIDRs"]),
            })
            .collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn each_node_gets_a_range_of_its_own() {
        let two = ["patch Node b [\"10.0.1.0/24\"]", "patch Node c [\"10.0.2.0/24\"]"];
        check(&["10.0.0.0/16"], &[("a", "10.0.0.0/24"), ("b", ""), ("c", "")], &two);
        let both = ["patch Node a [\"10.0.0.0/24\",\"fd00::/64\"]"];
        check(&["10.0.0.0/16", "fd00::/48"], &[("a", "")], &both);
        let none = ["CIDRNotAvailable Node b status is now: CIDRNotAvailable"];
        check(&["10.0.0.0/24"], &[("a", "10.0.0.0/24"), ("b", "")], &none);
    }
}
