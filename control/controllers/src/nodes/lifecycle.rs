//! The life cycle of a node: when nothing is heard of it, it is no longer ready, its pods neither, and its taints say so.
//! What counts is when this process heard of it, so that neither a node's clock nor our own absence condemns it.

use super::taints::{condition, readiness, wanted};
use crate::{
    common::{
        objects::{created, deleting, name},
        pods,
    },
    framework::{Action, Change, Controller, Key, Kind, Note, Object, Plan, Target, Tone, View},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Node, NodeCondition, Pod, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::json;

/// The conditions that a kubelet keeps.
const KEPT_BY_KUBELET: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Watches over nodes.
#[derive(Debug)]
pub(crate) struct NodeLifecycle {
    pub(crate) grace: SignedDuration,
}

impl Controller for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Node, Kind::Lease, Kind::Pod]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("Node", "spec.taints"),
            ("Node", "status.conditions[Unknown]"),
            ("Pod", "status.conditions[Ready] of a node that is not ready"),
        ]
    }

    fn keys(&self, view: &View, change: &Change, keys: &mut Vec<Key>) {
        match change.object() {
            Object::Node(node) => {
                keys.push(Key::of(&node.metadata));
                let state = |side: Option<&Object>| match side {
                    Some(Object::Node(node)) => readiness(node).to_owned(),
                    _ => String::new(),
                };
                if state(change.old.as_ref()) != state(change.new.as_ref()) {
                    // Whether a zone is in trouble decides about its other unready nodes.
                    let unready = view.nodes.all().filter(|node| readiness(node) != "True");
                    keys.extend(unready.map(|node| Key::of(&node.metadata)));
                }
            }
            Object::Pod(pod) if change.old.is_none() => keys.extend(bound(pod)),
            _ => {}
        }
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let Some(node) = view.nodes.get(key).filter(|node| !deleting(&node.metadata)) else { return Plan::none() };
        let mut plan = Plan::none();
        let heard = view.memory.heard(&key.name).max(created(&node.metadata));
        let silent_at = heard.saturating_add(self.grace).unwrap_or(Timestamp::MAX);
        if silent_at < now {
            if let Some(silent) = silenced(node, now) {
                plan.push(silent);
                return plan;
            }
        } else {
            plan.look_again(silent_at.saturating_add(SignedDuration::from_millis(1)).unwrap_or(Timestamp::MAX));
        }
        let (taints, turn) = wanted(view, node, now);
        if let Some(at) = turn {
            plan.look_again(at);
        }
        let known = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        if sorted(&taints) != sorted(&known) {
            plan.push(Action::patch(Target::exact(Kind::Node, &node.metadata), json!({"spec": {"taints": taints}})));
        }
        if readiness(node) != "True" {
            plan.actions.extend(view.pods.indexed(&key.name).filter_map(|pod| unready(pod, now)));
        }
        plan
    }
}

fn bound(pod: &Pod) -> Option<Key> {
    let node = pods::node(pod);
    (!node.is_empty()).then(|| Key::new("", node))
}

/// Order does not matter among taints, nor the fraction of a second.
fn sorted(taints: &[Taint]) -> Vec<(String, String, Option<String>, Option<i64>)> {
    let row = |taint: &Taint| {
        let second = taint.time_added.as_ref().map(|time| time.0.as_second());
        (taint.key.clone(), taint.effect.clone(), taint.value.clone(), second)
    };
    let mut rows: Vec<_> = taints.iter().map(row).collect();
    rows.sort();
    rows
}

/// Sets the kubelet's conditions to unknown, unless they are.
fn silenced(node: &Node, now: Timestamp) -> Option<Action> {
    let unknown = |kind: &&str| condition(node, kind).is_some_and(|condition| condition.status == "Unknown");
    if KEPT_BY_KUBELET.iter().all(unknown) {
        return None;
    }
    let mut new = node.clone();
    let conditions = new.status.get_or_insert_default().conditions.get_or_insert_default();
    for kind in KEPT_BY_KUBELET {
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(known) if known.status == "Unknown" => {}
            Some(known) => {
                known.status = "Unknown".to_owned();
                known.reason = Some("NodeStatusUnknown".to_owned());
                known.message = Some("Kubelet stopped posting node status.".to_owned());
                known.last_transition_time = Some(Time(now));
            }
            None => conditions.push(NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(Time(now)),
            }),
        }
    }
    let mut action = Action::update_status(new);
    if readiness(node) == "True" {
        let message = format!("Node {} status is now: NodeNotReady", name(&node.metadata));
        action = action.on_success(Note::about(Kind::Node, &node.metadata, Tone::Normal, "NodeNotReady", message));
    }
    Some(action)
}

/// Marks a pod as not ready.
fn unready(pod: &Pod, now: Timestamp) -> Option<Action> {
    if !pods::ready(pod) {
        return None;
    }
    let mut conditions = pod.status.as_ref()?.conditions.clone()?;
    for condition in conditions.iter_mut().filter(|condition| condition.type_ == "Ready") {
        condition.status = "False".to_owned();
        condition.last_transition_time = Some(Time(now));
    }
    let note = Note::about(Kind::Pod, &pod.metadata, Tone::Warning, "NodeNotReady", "Node is not ready");
    let target = Target::exact(Kind::Pod, &pod.metadata);
    Some(Action::patch_status(target, json!({"status": {"conditions": conditions}})).on_success(note))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Outline, at, object, outline};
    use serde_json::Value;

    const LIFECYCLE: NodeLifecycle = NodeLifecycle { grace: SignedDuration::from_secs(40) };

    fn node(name: &str, ready: &str, taints: Value) -> Value {
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
        let pressure = if ready == "Unknown" { "Unknown" } else { "False" };
        json!({"metadata": {"name": name, "uid": name, "resourceVersion": "1", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"taints": taints},
            "status": {"conditions": [condition("Ready", ready), condition("MemoryPressure", pressure),
                condition("DiskPressure", pressure), condition("PIDPressure", pressure)]}})
    }

    fn plan(nodes: &[Value], heard: i64, now: i64) -> (Vec<Outline>, Option<Timestamp>) {
        let mut view = View::default();
        for node in nodes {
            view.nodes.insert(object(node.clone()));
        }
        view.memory.hear("a", at(heard));
        let plan = LIFECYCLE.plan(&view, &Key::new("", "a"), at(now));
        (outline(&plan), plan.again)
    }

    fn taints(outlines: &[Outline]) -> Vec<String> {
        let taints = outlines[0].body["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().replace("node.kubernetes.io/", "");
        taints.iter().map(|taint| format!("{}:{}", text(&taint["key"]), text(&taint["effect"]))).collect()
    }

    #[test]
    fn silence_makes_everything_unknown() {
        let (outlines, again) = plan(&[node("a", "True", json!([]))], 100, 130);
        assert_eq!(outlines.len(), 0);
        assert_eq!(again.map(|at| at.as_second()), Some(140));
        let (outlines, _) = plan(&[node("a", "True", json!([]))], 100, 141);
        assert_eq!(outlines[0].line, "status Node a");
        assert_eq!(outlines[0].body["status"]["conditions"][0]["reason"], "NodeStatusUnknown");
        assert_eq!(outlines[0].notes, ["NodeNotReady Node a status is now: NodeNotReady"]);
    }

    #[test]
    fn taints_follow_conditions() {
        let ready = node("b", "True", json!([]));
        let (outlines, _) = plan(&[node("a", "Unknown", json!([])), ready.clone()], 100, 141);
        assert_eq!(taints(&outlines), ["unreachable:NoSchedule", "unreachable:NoExecute"]);
        let (outlines, _) = plan(&[node("a", "False", json!([])), ready.clone()], 100, 110);
        assert_eq!(taints(&outlines), ["not-ready:NoSchedule", "not-ready:NoExecute"]);
        let old = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}, {"key": "mine", "effect": "NoSchedule"}]);
        let (outlines, _) = plan(&[node("a", "True", old), ready.clone()], 100, 110);
        assert_eq!(taints(&outlines), ["mine:NoSchedule"]);
        let mut full = node("a", "True", json!([]));
        full["status"]["conditions"][2]["status"] = json!("True");
        full["spec"]["unschedulable"] = json!(true);
        let (outlines, _) = plan(&[full, ready], 100, 110);
        assert_eq!(taints(&outlines), ["disk-pressure:NoSchedule", "unschedulable:NoSchedule"]);
    }

    #[test]
    fn when_nothing_is_ready_nobody_is_evicted() {
        let (outlines, _) = plan(&[node("a", "Unknown", json!([])), node("b", "Unknown", json!([]))], 100, 141);
        assert_eq!(taints(&outlines), ["unreachable:NoSchedule"]);
    }

    #[test]
    fn nodes_of_a_zone_are_emptied_one_after_another() {
        let going = json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": "1970-01-01T00:02:20Z"}]);
        let nodes = [node("a", "Unknown", json!([])), node("b", "Unknown", going), node("c", "True", json!([]))];
        let (outlines, again) = plan(&nodes, 100, 145);
        assert_eq!(taints(&outlines), ["unreachable:NoSchedule"]);
        assert_eq!(again, Some(at(150)));
        let (outlines, _) = plan(&nodes, 100, 150);
        assert_eq!(taints(&outlines), ["unreachable:NoSchedule", "unreachable:NoExecute"]);
    }

    #[test]
    fn a_taint_that_evicts_gets_its_time() {
        let bare = json!([{"key": "mine", "effect": "NoExecute"}]);
        let (outlines, _) = plan(&[node("a", "True", bare)], 100, 110);
        assert_eq!(outlines[0].body["spec"]["taints"][0]["timeAdded"], "1970-01-01T00:01:50Z");
    }

    #[test]
    fn pods_of_an_unready_node_are_not_ready() {
        let mut view = View::default();
        let known = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]);
        view.nodes.insert(object(node("a", "False", known)));
        view.memory.hear("a", at(100));
        view.pods.insert(object(json!({"metadata": {"name": "p", "namespace": "default", "uid": "p"},
            "spec": {"nodeName": "a", "containers": []}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})));
        let outlines = outline(&LIFECYCLE.plan(&view, &Key::new("", "a"), at(110)));
        assert_eq!(outlines[0].line, "patch-status Pod default/p");
        assert_eq!(outlines[0].body["status"]["conditions"][0]["status"], "False");
    }
}
