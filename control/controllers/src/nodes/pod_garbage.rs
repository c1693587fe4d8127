//! Pods that nobody will ever finish: those of nodes that are gone, those deleted before they were bound, those of
//! nodes out of service, and ended ones beyond a number.

use super::taints::readiness;
use crate::{
    common::{
        disruption,
        objects::{created, deleting},
        pods::{finished, node},
    },
    framework::{Action, Answer, Change, Controller, Key, Kind, Object, Plan, Question, Target, View, Write},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use std::{collections::BTreeMap, sync::Arc};

/// A node may come back under its name for this long.
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);
/// Older answers about a node do not count.
const STALE: SignedDuration = SignedDuration::from_secs(120);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Removes such pods. Its one key stands for the cluster.
#[derive(Debug)]
pub(crate) struct PodGarbage {
    pub(crate) threshold: usize,
}

impl Controller for PodGarbage {
    fn name(&self) -> &'static str {
        "pod-garbage-collector-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Pod, Kind::Node]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("Pod", "deleted as garbage")]
    }

    fn keys(&self, view: &View, change: &Change, keys: &mut Vec<Key>) {
        let worth = match &change.new {
            Some(Object::Pod(pod)) => {
                finished(pod)
                    || deleting(&pod.metadata)
                    || (!node(pod).is_empty() && view.nodes.find("", node(pod)).is_none())
            }
            Some(Object::Node(node)) => out_of_service(view, node.metadata.name.as_deref().unwrap_or_default()),
            _ => matches!(change.object(), Object::Node(_)),
        };
        if worth {
            keys.push(Key::new("", "pods"));
        }
    }

    fn plan(&self, view: &View, _key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::none();
        let mut homeless: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
        let mut ended = Vec::new();
        for pod in view.pods.all() {
            let home = node(pod);
            if home.is_empty() && deleting(&pod.metadata) {
                remove(&mut plan, pod, Some("PodGC: unscheduled pod is terminating"), now);
            } else if !home.is_empty() && view.nodes.find("", home).is_none() {
                homeless.entry(home).or_default().push(pod);
            } else if deleting(&pod.metadata) && out_of_service(view, home) {
                remove(&mut plan, pod, Some("PodGC: node is out-of-service"), now);
            } else if finished(pod) && !deleting(&pod.metadata) {
                ended.push(pod);
            }
        }
        for (home, pods) in homeless {
            clear_node(view, home, &pods, now, &mut plan);
        }
        if ended.len() > self.threshold {
            ended.sort_by_key(|pod| created(&pod.metadata));
            let excess = ended.len() - self.threshold;
            ended.into_iter().take(excess).for_each(|pod| remove(&mut plan, pod, None, now));
        }
        plan
    }
}

fn out_of_service(view: &View, name: &str) -> bool {
    view.nodes.find("", name).is_some_and(|node| {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        readiness(node) != "True" && taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
    })
}

/// Removes the pods of a node that the server says is gone, some time after it said so.
fn clear_node(view: &View, home: &str, pods: &[&Arc<Pod>], now: Timestamp, plan: &mut Plan) {
    let question = Question::Uid { resource: Kind::Node.resource(), key: Key::new("", home) };
    let since = now.saturating_sub(STALE).unwrap_or(Timestamp::MIN);
    match (view.memory.answer(&question, since), view.memory.answered_at(&question)) {
        (Some(Answer::Uid(None)), Some(asked)) => {
            let due = asked.saturating_add(QUARANTINE).unwrap_or(Timestamp::MAX);
            if due > now {
                plan.look_again(due);
            } else {
                pods.iter().for_each(|pod| remove(plan, pod, Some("PodGC: node no longer exists"), now));
            }
        }
        // The node exists: the watch is behind and brings the next look.
        (Some(_), _) => plan.look_again(now.saturating_add(QUARANTINE).unwrap_or(Timestamp::MAX)),
        (None, _) => plan.push(Action::ask(question)),
    }
}

fn remove(plan: &mut Plan, pod: &Pod, why: Option<&str>, now: Timestamp) {
    if let Some(message) = why {
        plan.actions.extend(disruption::mark(pod, Some("Failed"), "DeletionByPodGC", message, now));
    }
    let target = Target::of(Kind::Pod, &pod.metadata);
    plan.push(Write::Delete { target, propagation: None, grace_seconds: Some(0) });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, lines, object};
    use serde_json::{Value, json};

    fn view(pods: &[Value]) -> View {
        let mut view = View::default();
        view.nodes.insert(object(json!({"metadata": {"name": "n"}})));
        for pod in pods {
            view.pods.insert(object(pod.clone()));
        }
        view
    }

    fn pod(name: &str, node: &str, phase: &str, deleting: bool) -> Value {
        let deleted = if deleting { json!("1970-01-01T00:00:00Z") } else { Value::Null };
        json!({"metadata": {"name": name, "namespace": "default", "uid": name, "deletionTimestamp": deleted},
            "spec": {"nodeName": node, "containers": []}, "status": {"phase": phase}})
    }

    fn plan(view: &View, now: i64) -> Vec<String> {
        lines(&PodGarbage { threshold: 1 }.plan(view, &Key::new("", "pods"), at(now)))
    }

    #[test]
    fn deleted_before_bound_and_too_many_ended() {
        let removed = ["patch-status Pod default/p", "delete Pod default/p"];
        assert_eq!(plan(&view(&[pod("p", "", "Pending", true)]), 0), removed);
        assert_eq!(plan(&view(&[pod("p", "", "Pending", false)]), 0), Vec::<String>::new());
        let ended = [pod("a", "n", "Failed", false), pod("b", "n", "Succeeded", false)];
        assert_eq!(plan(&view(&ended), 0), ["delete Pod default/a"]);
    }

    #[test]
    fn pods_of_a_lost_node_wait_for_it_to_come_back() {
        let mut view = view(&[pod("p", "lost", "Running", false)]);
        assert!(plan(&view, 100)[0].starts_with("ask"));
        let question = Question::Uid { resource: Kind::Node.resource(), key: Key::new("", "lost") };
        view.memory.learn(question.clone(), at(100), Answer::Uid(None));
        assert_eq!(plan(&view, 120), Vec::<String>::new());
        assert_eq!(plan(&view, 140), ["patch-status Pod default/p", "delete Pod default/p"]);
        view.memory.learn(question, at(140), Answer::Uid(Some("back".to_owned())));
        assert_eq!(plan(&view, 150), Vec::<String>::new());
    }

    #[test]
    fn a_node_out_of_service_gives_its_leaving_pods_up() {
        let mut view = view(&[pod("p", "dead", "Running", true), pod("q", "dead", "Running", false)]);
        view.nodes.insert(object(json!({"metadata": {"name": "dead"},
            "spec": {"taints": [{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]}})));
        assert_eq!(plan(&view, 0), ["patch-status Pod default/p", "delete Pod default/p"]);
    }
}
