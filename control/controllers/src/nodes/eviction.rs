//! Pods leave nodes whose taints they do not tolerate, or no longer.

use crate::{
    common::{
        disruption,
        objects::{after, deleting},
        pods::node,
        scheduling::{tolerates, untolerated},
    },
    framework::{Action, Change, Controller, Key, Kind, Note, Object, Plan, Target, Tone, View},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

/// Evicts by taints.
#[derive(Debug)]
pub(crate) struct TaintEviction;

impl Controller for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Node, Kind::Pod]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("Pod", "deleted for a taint")]
    }

    fn keys(&self, view: &View, change: &Change, keys: &mut Vec<Key>) {
        match change.object() {
            Object::Pod(pod) => {
                let tainted = view.nodes.find("", node(pod)).is_some_and(|node| !evicting(node).is_empty());
                if tainted && change.new.is_some() {
                    keys.push(Key::of(&pod.metadata));
                }
            }
            Object::Node(changed) => {
                let taints = |side: Option<&Object>| match side {
                    Some(Object::Node(node)) => evicting(node),
                    _ => Vec::new(),
                };
                if taints(change.old.as_ref()) != taints(change.new.as_ref()) {
                    let pods = view.pods.indexed(changed.metadata.name.as_deref().unwrap_or_default());
                    keys.extend(pods.map(|pod| Key::of(&pod.metadata)));
                }
            }
            _ => {}
        }
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let Some(pod) = view.pods.get(key).filter(|pod| !deleting(&pod.metadata)) else { return Plan::none() };
        let Some(node) = view.nodes.find("", node(pod)) else { return Plan::none() };
        let mut plan = Plan::none();
        match leaves_at(pod, &evicting(node), now) {
            None => {}
            Some(at) if at > now => plan.look_again(at),
            Some(_) => {
                let message = "Taint manager: deleting due to NoExecute taint";
                plan.actions.extend(disruption::mark(pod, None, "DeletionByTaintManager", message, now));
                let note = format!("Marking for deletion Pod {key}");
                let note = Note::about(Kind::Pod, &pod.metadata, Tone::Normal, "TaintManagerEviction", note);
                plan.push(Action::delete(Target::of(Kind::Pod, &pod.metadata)).on_success(note));
            }
        }
        plan
    }
}

fn evicting(node: &k8s_openapi::api::core::v1::Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

/// When the pod has to leave; none if it may stay.
fn leaves_at(pod: &Pod, taints: &[Taint], now: Timestamp) -> Option<Timestamp> {
    if taints.is_empty() {
        return None;
    }
    let tolerations: &[Toleration] = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    if untolerated(taints, tolerations, &["NoExecute"]).is_some() {
        return Some(now);
    }
    let leave = |taint: &Taint| {
        let used = tolerations.iter().filter(|toleration| tolerates(toleration, taint));
        let seconds = used.filter_map(|toleration| toleration.toleration_seconds).min()?;
        // The node controller stamps every such taint; until it has, time does not count.
        Some(after(taint.time_added.as_ref().map_or(now, |time| time.0), seconds.max(0)))
    };
    taints.iter().filter_map(leave).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, lines, object};
    use serde_json::{Value, json};

    fn check(tolerations: Value, now: i64, expected: &[&str], again: Option<i64>) {
        let mut view = View::default();
        view.nodes.insert(object(json!({"metadata": {"name": "n"},
            "spec": {"taints": [{"key": "k", "effect": "NoExecute", "timeAdded": "1970-01-01T00:01:40Z"}]}})));
        view.pods.insert(object(json!({"metadata": {"name": "p", "namespace": "default", "uid": "p"},
            "spec": {"nodeName": "n", "containers": [], "tolerations": tolerations}})));
        let plan = TaintEviction.plan(&view, &Key::new("default", "p"), at(now));
        assert_eq!(lines(&plan), expected);
        assert_eq!(plan.again, again.map(at));
    }

    #[test]
    fn who_leaves_when() {
        let leave = ["patch-status Pod default/p", "delete Pod default/p"];
        check(json!([]), 100, &leave, None);
        check(json!([{"key": "k", "operator": "Exists"}]), 1000, &[], None);
        let patient = json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 60}]);
        check(patient.clone(), 130, &[], Some(160));
        check(patient, 160, &leave, None);
        check(json!([{"operator": "Exists", "effect": "NoSchedule"}]), 100, &leave, None);
    }
}
