//! Disruption budgets: how many pods may be taken away at this moment.

use crate::{
    common::{
        objects::{after, controller_of, deleting, generation, labels, name, namespace, uid},
        pods::{finished, ready},
        selector::matches,
    },
    framework::{Action, Change, Controller, Key, Kind, Object, Plan, View},
    workloads::scaled,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::Pod,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::{
        apis::meta::v1::{Condition, OwnerReference, Time},
        util::intstr::IntOrString,
    },
};
use std::{collections::BTreeMap, sync::Arc};

/// Seconds after which an announced eviction that never came is forgotten.
const FORGET_DISRUPTION: i64 = 120;

/// Keeps budgets' status.
#[derive(Debug)]
pub(crate) struct Budgets;

impl Controller for Budgets {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[
            Kind::PodDisruptionBudget,
            Kind::Pod,
            Kind::ReplicaSet,
            Kind::ReplicationController,
            Kind::Deployment,
            Kind::StatefulSet,
        ]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("PodDisruptionBudget", "status")]
    }

    fn keys(&self, view: &View, change: &Change, keys: &mut Vec<Key>) {
        let place = namespace(change.object().meta());
        match change.object() {
            Object::PodDisruptionBudget(budget) => keys.push(Key::of(&budget.metadata)),
            Object::Pod(_) => {
                let budgets = view.budgets.in_namespace(place);
                let touched = budgets.filter(|budget| change.sides().any(|side| selects(budget, labels(side.meta()))));
                keys.extend(touched.map(|budget| Key::of(&budget.metadata)));
            }
            _ => keys.extend(view.budgets.in_namespace(place).map(|budget| Key::of(&budget.metadata))),
        }
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::none();
        let Some(budget) = view.budgets.get(key) else { return plan };
        let Some(spec) = &budget.spec else { return plan };
        let pods: Vec<_> = view
            .pods
            .in_namespace(&key.namespace)
            .filter(|pod| !finished(pod) && selects(budget, labels(&pod.metadata)))
            .collect();
        let old = budget.status.clone().unwrap_or_default();
        let disrupted = still_announced(&old, &pods, now, &mut plan);
        let healthy = pods
            .iter()
            .filter(|pod| ready(pod) && !deleting(&pod.metadata) && !disrupted.contains_key(name(&pod.metadata)));
        let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
        let (expected, desired) = expectation(view, spec, &pods);
        let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
        let mut status = PodDisruptionBudgetStatus {
            observed_generation: Some(generation(&budget.metadata)),
            current_healthy: Some(healthy),
            desired_healthy: Some(desired),
            expected_pods: Some(expected),
            disruptions_allowed: Some(allowed),
            disrupted_pods: Some(disrupted).filter(|pods| !pods.is_empty()),
            conditions: old.conditions.clone(),
        };
        set_condition(&mut status, now);
        if status != old {
            plan.push(Action::update_status(PodDisruptionBudget { status: Some(status), ..(**budget).clone() }));
        }
        plan
    }
}

fn selects(budget: &PodDisruptionBudget, labels: &BTreeMap<String, String>) -> bool {
    budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(|selector| matches(selector, labels))
}

/// Evictions that were let through and whose pods are still here.
fn still_announced(
    old: &PodDisruptionBudgetStatus,
    pods: &[&Arc<Pod>],
    now: Timestamp,
    plan: &mut Plan,
) -> BTreeMap<String, Time> {
    let mut announced = BTreeMap::new();
    for (pod_name, at) in old.disrupted_pods.iter().flatten() {
        let here = pods.iter().any(|pod| name(&pod.metadata) == pod_name && !deleting(&pod.metadata));
        let due = after(at.0, FORGET_DISRUPTION);
        if here && due > now {
            plan.look_again(due);
            announced.insert(pod_name.clone(), at.clone());
        }
    }
    announced
}

/// How many pods there should be, and how many of them must be healthy.
fn expectation(view: &View, spec: &PodDisruptionBudgetSpec, pods: &[&Arc<Pod>]) -> (i32, i32) {
    let present = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    if let Some(most) = &spec.max_unavailable {
        let expected = scale(view, pods);
        return (expected, (expected - scaled(Some(most), expected, true)).max(0));
    }
    match &spec.min_available {
        Some(IntOrString::Int(least)) => (present, *least),
        Some(percent) => {
            let expected = scale(view, pods);
            (expected, scaled(Some(percent), expected, true))
        }
        None => (present, 1),
    }
}

/// The sizes of all controllers that stand behind the pods.
fn scale(view: &View, pods: &[&Arc<Pod>]) -> i32 {
    let mut sizes: BTreeMap<String, i32> = BTreeMap::new();
    for pod in pods {
        if let Some((owner, size)) =
            controller_of(&pod.metadata).and_then(|owner| size_of(view, namespace(&pod.metadata), owner))
        {
            sizes.insert(owner, size);
        }
    }
    sizes.values().sum()
}

/// The size that an owner states, or its owner does.
fn size_of(view: &View, place: &str, owner: &OwnerReference) -> Option<(String, i32)> {
    let found = match owner.kind.as_str() {
        "ReplicaSet" => {
            let set = view.replica_sets.find(place, &owner.name)?;
            let above = controller_of(&set.metadata).filter(|above| above.kind == "Deployment");
            if let Some(above) = above.and_then(|above| view.deployments.find(place, &above.name)) {
                let size = above.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
                return Some((uid(&above.metadata).to_owned(), size));
            }
            (uid(&set.metadata), set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1))
        }
        "ReplicationController" => {
            let set = view.replication_controllers.find(place, &owner.name)?;
            (uid(&set.metadata), set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1))
        }
        "StatefulSet" => {
            let set = view.stateful_sets.find(place, &owner.name)?;
            (uid(&set.metadata), set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1))
        }
        _ => return None,
    };
    (found.0 == owner.uid).then(|| (found.0.to_owned(), found.1))
}

fn set_condition(status: &mut PodDisruptionBudgetStatus, now: Timestamp) {
    let (value, reason) =
        if status.disruptions_allowed > Some(0) { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions.iter().find(|condition| condition.type_ == "DisruptionAllowed");
    let since = known.filter(|known| known.status == value).map(|known| known.last_transition_time.clone());
    let new = Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: String::new(),
        last_transition_time: since.unwrap_or(Time(now)),
        observed_generation: status.observed_generation,
    };
    conditions.retain(|condition| condition.type_ != "DisruptionAllowed");
    conditions.push(new);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, outline};
    use serde_json::{Value, json};

    fn check(spec: Value, ready: &[bool], disrupted: Value, expected: [i32; 4]) {
        let mut view = View::default();
        let mut budget = json!({"metadata": {"name": "b", "namespace": "d", "generation": 1}, "spec": {"selector": {"matchLabels": {"a": "b"}}},
            "status": {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0, "disruptedPods": disrupted}});
        for (key, value) in spec.as_object().into_iter().flatten() {
            budget["spec"][key] = value.clone();
        }
        view.budgets.insert(object(budget));
        view.replica_sets.insert(object(json!({"metadata": {"name": "rs", "namespace": "d", "uid": "rs"},
            "spec": {"replicas": 4, "selector": {}}})));
        for (n, ready) in ready.iter().enumerate() {
            let status = if *ready { "True" } else { "False" };
            view.pods.insert(object(json!({"metadata": {"name": format!("p{n}"), "namespace": "d", "labels": {"a": "b"},
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs", "controller": true}]},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]}})));
        }
        let made = outline(&Budgets.plan(&view, &Key::new("d", "b"), at(100)));
        let status = &made[0].body["status"];
        let got = ["expectedPods", "desiredHealthy", "currentHealthy", "disruptionsAllowed"]
            .map(|field| status[field].as_i64().unwrap_or(-1));
        assert_eq!(got, expected.map(i64::from));
    }

    #[test]
    fn how_many_may_go() {
        let three = [true, true, true];
        check(json!({"minAvailable": 2}), &three, json!({}), [3, 2, 3, 1]);
        check(json!({"minAvailable": 2}), &[true, true, false], json!({}), [3, 2, 2, 0]);
        check(json!({"minAvailable": "50%"}), &three, json!({}), [4, 2, 3, 1]);
        check(json!({"maxUnavailable": 1}), &three, json!({}), [4, 3, 3, 0]);
        check(json!({"maxUnavailable": "50%"}), &three, json!({}), [4, 2, 3, 1]);
        check(json!({"minAvailable": 1}), &three, json!({"p0": "1970-01-01T00:01:30Z"}), [3, 1, 2, 1]);
        check(json!({"minAvailable": 1}), &[], json!({}), [0, 1, 0, 0]);
    }
}
