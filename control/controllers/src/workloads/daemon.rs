//! Daemon sets: one pod on every node that suits.

use super::{
    daemon_node::{Fit, fit, pod_for_node, target_node},
    deployment::scaled,
    history::{HASH_LABEL, Present, REVISION_LABEL, present, truncate},
};
use crate::{
    common::{
        objects::{
            adopt, controlled_by, created, deleting, generation, label, labels, name, namespace, orphan,
            own_or_owner_keys, release, uid,
        },
        pods::{available, available_at, finished, phase, ready},
        selector::{is_empty, matches},
    },
    framework::{Action, Change, Controller, Key, Kind, Note, Object, Plan, Target, Tone, View},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus},
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use std::{collections::BTreeMap, sync::Arc};

/// Pods created in one look.
const BURST: usize = 250;

/// Keeps daemon sets.
#[derive(Debug)]
pub(crate) struct DaemonSets;

impl Controller for DaemonSets {
    fn name(&self) -> &'static str {
        "daemonset-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::DaemonSet, Kind::Pod, Kind::Node, Kind::ControllerRevision]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("DaemonSet", "status"),
            ("Pod", "created and deleted for a DaemonSet"),
            ("ControllerRevision", "of a DaemonSet"),
        ]
    }

    fn keys(&self, view: &View, change: &Change, keys: &mut Vec<Key>) {
        if let Object::Node(_) = change.object() {
            let shape = |side: Option<&Object>| match side {
                Some(Object::Node(node)) => {
                    let spec = node.spec.clone().unwrap_or_default();
                    Some((node.metadata.labels.clone(), spec.taints, spec.unschedulable))
                }
                _ => None,
            };
            if shape(change.old.as_ref()) != shape(change.new.as_ref()) {
                keys.extend(view.daemon_sets.all().map(|set| Key::of(&set.metadata)));
            }
            return;
        }
        own_or_owner_keys(change, Kind::DaemonSet, keys);
        if let Some(pod @ Object::Pod(_)) = orphan(change) {
            let sets = view.daemon_sets.in_namespace(namespace(pod.meta()));
            keys.extend(sets.filter(|set| selects(set, labels(pod.meta()))).map(|set| Key::of(&set.metadata)));
        }
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let Some(set) = view.daemon_sets.get(key) else { return Plan::none() };
        let Some(spec) = set.spec.as_ref().filter(|spec| !is_empty(&spec.selector)) else { return Plan::none() };
        let (pods, changes) = claim(set, view);
        if !changes.is_empty() {
            return changes.into();
        }
        let template_labels = spec.template.metadata.as_ref().map(|meta| labels(meta).clone()).unwrap_or_default();
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        match present(view, Kind::DaemonSet, &set.metadata, &spec.template, &template_labels, collisions) {
            Present::Missing(actions) if !deleting(&set.metadata) => actions.into(),
            Present::Missing(_) => Plan::none(),
            Present::Collision => {
                let mut status = set.status.clone().unwrap_or_default();
                status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
                vec![Action::update_status(DaemonSet { status: Some(status), ..(**set).clone() })].into()
            }
            Present::Known(revision) => Look { set, spec, view, revision, pods, now }.plan(),
        }
    }
}

fn selects(set: &DaemonSet, labels: &BTreeMap<String, String>) -> bool {
    set.spec.as_ref().is_some_and(|spec| !is_empty(&spec.selector) && matches(&spec.selector, labels))
}

/// The pods of the set by node, and what must change hands first.
fn claim<'a>(set: &DaemonSet, view: &'a View) -> (BTreeMap<String, Vec<&'a Arc<Pod>>>, Vec<Action>) {
    let meta = &set.metadata;
    let (mut pods, mut actions): (BTreeMap<String, Vec<_>>, _) = (BTreeMap::new(), Vec::new());
    for pod in view.pods.owned_by(uid(meta)) {
        if selects(set, labels(&pod.metadata)) {
            pods.entry(target_node(pod).to_owned()).or_default().push(pod);
        } else if !deleting(meta) && !deleting(&pod.metadata) {
            actions.push(release(Kind::Pod, &**pod, uid(meta)));
        }
    }
    if !deleting(meta) {
        let strays = view.pods.orphans(namespace(meta));
        let strays = strays.filter(|pod| !deleting(&pod.metadata) && selects(set, labels(&pod.metadata)));
        actions.extend(strays.map(|pod| adopt(Kind::Pod, &**pod, controlled_by(Kind::DaemonSet, meta))));
    }
    (pods, actions)
}

/// One look at a set.
struct Look<'a> {
    set: &'a DaemonSet,
    spec: &'a DaemonSetSpec,
    view: &'a View,
    revision: &'a Arc<ControllerRevision>,
    pods: BTreeMap<String, Vec<&'a Arc<Pod>>>,
    now: Timestamp,
}

impl<'a> Look<'a> {
    fn plan(&self) -> Plan {
        let mut plan = Plan::none();
        if !deleting(&self.set.metadata) {
            self.manage(&mut plan);
            if plan.actions.is_empty() {
                self.roll(&mut plan);
            }
        }
        let min_ready = self.spec.min_ready_seconds.unwrap_or(0);
        let waiting =
            self.pods.values().flatten().filter_map(|pod| available_at(pod, min_ready)).filter(|at| *at > self.now);
        if let Some(at) = waiting.min() {
            plan.look_again(at);
        }
        let status = self.status();
        let old = self.set.status.clone().unwrap_or_default();
        let behind = old.observed_generation != status.observed_generation;
        if old != status && (plan.actions.is_empty() || behind) {
            plan.push(Action::update_status(DaemonSet { status: Some(status), ..self.set.clone() }));
        } else if plan.actions.is_empty() {
            let limit = self.spec.revision_history_limit.unwrap_or(10);
            plan.actions = truncate(self.view, &self.set.metadata, limit, |revision| {
                let hash = label(&revision.metadata, HASH_LABEL);
                revision.metadata.uid == self.revision.metadata.uid
                    || self.pods.values().flatten().any(|pod| label(&pod.metadata, REVISION_LABEL) == hash)
            });
        }
        plan
    }

    fn hash(&self) -> &str {
        label(&self.revision.metadata, HASH_LABEL).unwrap_or_default()
    }

    fn updated(&self, pod: &Pod) -> bool {
        label(&pod.metadata, REVISION_LABEL) == Some(self.hash())
    }

    fn is_available(&self, pod: &Pod) -> bool {
        available(pod, self.spec.min_ready_seconds.unwrap_or(0), self.now)
    }

    fn on_node(&self, node: &Node) -> &[&'a Arc<Pod>] {
        self.pods.get(name(&node.metadata)).map_or(&[], Vec::as_slice)
    }

    /// Creates where a pod lacks, removes where one is too many, failed or out of place.
    fn manage(&self, plan: &mut Plan) {
        let mut deletions = Vec::new();
        for node in self.view.nodes.all() {
            let pods = self.on_node(node);
            let wanted = fit(self.spec, node);
            for pod in pods.iter().filter(|pod| phase(pod) == "Failed" && !deleting(&pod.metadata)) {
                let message = format!(
                    "Found failed daemon pod {}/{} on node {}, will try to kill it",
                    namespace(&pod.metadata),
                    name(&pod.metadata),
                    name(&node.metadata)
                );
                deletions.push(Action::tell(self.note(Tone::Warning, "FailedDaemonPod", message)));
                deletions.push(self.delete(pod));
            }
            if pods.is_empty() && wanted == Fit::Runs && plan.actions.len() < BURST {
                plan.push(self.create(node));
            }
            let living: Vec<_> = pods.iter().filter(|pod| !finished(pod) && !deleting(&pod.metadata)).collect();
            if wanted == Fit::Refused {
                deletions.extend(living.iter().map(|pod| self.delete(pod)));
            } else if self.surge() == 0 && living.len() > 1 {
                let oldest = living.iter().min_by_key(|pod| (created(&pod.metadata), name(&pod.metadata)));
                let rest =
                    living.iter().filter(|pod| oldest.is_none_or(|oldest| uid(&oldest.metadata) != uid(&pod.metadata)));
                deletions.extend(rest.map(|pod| self.delete(pod)));
            }
        }
        // Pods bound for nodes that do not exist will never run.
        for (node, pods) in &self.pods {
            if !node.is_empty() && self.view.nodes.find("", node).is_none() {
                let pending = pods.iter().filter(|pod| pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_none()));
                deletions.extend(pending.filter(|pod| !deleting(&pod.metadata)).map(|pod| self.delete(pod)));
            }
        }
        plan.actions.extend(deletions);
    }

    fn limit(
        &self,
        of: impl Fn(&k8s_openapi::api::apps::v1::RollingUpdateDaemonSet) -> Option<IntOrString>,
    ) -> Option<i32> {
        let rolling = self.spec.update_strategy.as_ref()?.rolling_update.as_ref()?;
        let nodes = self.view.nodes.all().filter(|node| fit(self.spec, node) == Fit::Runs).count();
        of(rolling).map(|limit| scaled(Some(&limit), i32::try_from(nodes).unwrap_or(i32::MAX), true))
    }

    fn surge(&self) -> i32 {
        self.limit(|rolling| rolling.max_surge.clone()).unwrap_or(0)
    }

    /// Replaces pods of older revisions, as many at a time as may be unavailable or extra.
    fn roll(&self, plan: &mut Plan) {
        let strategy = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
        if strategy == Some("OnDelete") {
            return;
        }
        let surge = self.surge();
        let allowed = self.limit(|rolling| rolling.max_unavailable.clone()).unwrap_or(1);
        let allowed = if surge == 0 { allowed.max(1) } else { allowed };
        let nodes: Vec<_> = self.view.nodes.all().filter(|node| fit(self.spec, node) == Fit::Runs).collect();
        if surge > 0 {
            self.roll_with_surge(&nodes, surge, plan);
            return;
        }
        let living = |node: &Node| self.on_node(node).iter().copied().find(|pod| !deleting(&pod.metadata));
        let missing =
            nodes.iter().filter(|node| living(node).is_none_or(|pod| self.updated(pod) && !self.is_available(pod)));
        let mut room = allowed - i32::try_from(missing.count()).unwrap_or(i32::MAX);
        let mut old: Vec<_> = nodes.iter().filter_map(|node| living(node)).filter(|pod| !self.updated(pod)).collect();
        // Those that serve nobody go first and cost nothing.
        old.sort_by_key(|pod| self.is_available(pod));
        for pod in old {
            if self.is_available(pod) {
                if room <= 0 {
                    return;
                }
                room -= 1;
            }
            plan.push(self.delete(pod));
        }
    }

    fn roll_with_surge(&self, nodes: &[&Arc<Node>], surge: i32, plan: &mut Plan) {
        let mut room = surge;
        let mut candidates = Vec::new();
        for node in nodes {
            let living: Vec<_> =
                self.on_node(node).iter().filter(|pod| !deleting(&pod.metadata) && !finished(pod)).collect();
            let new = living.iter().find(|pod| self.updated(pod));
            let old = living.iter().filter(|pod| !self.updated(pod));
            match new {
                Some(new) if self.is_available(new) => plan.actions.extend(old.map(|pod| self.delete(pod))),
                Some(_) if living.len() > 1 => room -= 1,
                Some(_) => {}
                None if !living.is_empty() => candidates.push(node),
                None => {}
            }
        }
        for node in candidates.into_iter().take(usize::try_from(room).unwrap_or(0)) {
            plan.push(self.create(node));
        }
    }

    fn create(&self, node: &Node) -> Action {
        Action::create(pod_for_node(self.set, self.spec, self.hash(), name(&node.metadata)))
            .on_success(self.note(Tone::Normal, "SuccessfulCreate", "Created pod: {}".to_owned()))
            .on_failure(self.note(Tone::Warning, "FailedCreate", "Error creating: {}".to_owned()))
    }

    fn delete(&self, pod: &Pod) -> Action {
        let message = format!("Deleted pod: {}", name(&pod.metadata));
        Action::delete(Target::of(Kind::Pod, &pod.metadata))
            .on_success(self.note(Tone::Normal, "SuccessfulDelete", message))
            .on_failure(self.note(Tone::Warning, "FailedDelete", "Error deleting: {}".to_owned()))
    }

    fn status(&self) -> DaemonSetStatus {
        let old = self.set.status.clone().unwrap_or_default();
        let mut status = DaemonSetStatus {
            observed_generation: Some(generation(&self.set.metadata)),
            collision_count: old.collision_count,
            conditions: old.conditions,
            ..DaemonSetStatus::default()
        };
        let (mut updated, mut available) = (0, 0);
        for node in self.view.nodes.all() {
            let pods = self.on_node(node);
            if fit(self.spec, node) != Fit::Runs {
                status.number_misscheduled += i32::from(!pods.is_empty());
                continue;
            }
            status.desired_number_scheduled += 1;
            status.current_number_scheduled += i32::from(!pods.is_empty());
            let living = || pods.iter().filter(|pod| !deleting(&pod.metadata));
            status.number_ready += i32::from(living().any(|pod| ready(pod)));
            available += i32::from(living().any(|pod| self.is_available(pod)));
            updated += i32::from(living().any(|pod| self.updated(pod)));
        }
        status.updated_number_scheduled = Some(updated).filter(|count| *count > 0);
        status.number_available = Some(available).filter(|count| *count > 0);
        status.number_unavailable = Some(status.desired_number_scheduled - available).filter(|count| *count > 0);
        status
    }

    fn note(&self, tone: Tone, reason: &'static str, message: String) -> Note {
        Note::about(Kind::DaemonSet, &self.set.metadata, tone, reason, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, lines, object, outline};
    use serde_json::{Value, json};

    struct World(View);

    impl World {
        fn new(extra: Value, nodes: &[(&str, Value)]) -> Self {
            let mut set = json!({"metadata": {"name": "log", "namespace": "default", "uid": "ds", "generation": 1},
                "spec": {"selector": {"matchLabels": {"app": "log"}},
                    "template": {"metadata": {"labels": {"app": "log"}}, "spec": {"containers": []}}}});
            for (key, value) in extra.as_object().into_iter().flatten() {
                set["spec"][key] = value.clone();
            }
            let mut view = View::default();
            view.daemon_sets.insert(object(set));
            for (name, taints) in nodes {
                view.nodes.insert(object(json!({"metadata": {"name": name}, "spec": {"taints": taints}})));
            }
            let mut world = Self(view);
            let made = outline(&world.plan());
            assert!(made[0].line.starts_with("create ControllerRevision"), "{}", made[0].line);
            world.0.controller_revisions.insert(object(made[0].body.clone()));
            world
        }

        fn plan(&self) -> Plan {
            DaemonSets.plan(&self.0, &Key::new("default", "log"), at(100))
        }

        fn hash(&self) -> String {
            let revision = self.0.controller_revisions.all().next().expect("a revision");
            label(&revision.metadata, HASH_LABEL).unwrap_or_default().to_owned()
        }

        fn pod(&mut self, name: &str, node: &str, hash: &str, ready: bool) -> &mut Self {
            let status = if ready { "True" } else { "False" };
            self.0.pods.insert(object(json!({"metadata": {"name": name, "namespace": "default", "uid": name,
                    "labels": {"app": "log", REVISION_LABEL: hash},
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "log", "uid": "ds", "controller": true}]},
                "spec": {"nodeName": node, "containers": []},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]}})));
            self
        }

        fn check(&self, expected: &[&str]) {
            let lines: Vec<_> = lines(&self.plan()).into_iter().filter(|line| !line.starts_with("status")).collect();
            assert_eq!(lines, expected);
        }
    }

    fn two() -> [(&'static str, Value); 2] {
        [("a", json!([])), ("b", json!([{"key": "gpu", "effect": "NoSchedule"}]))]
    }

    #[test]
    fn one_pod_on_each_node_that_suits() {
        let mut world = World::new(json!({}), &two());
        let made = outline(&world.plan());
        assert_eq!(made[0].line, "create Pod default/log-");
        let terms = &made[0].body["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        assert_eq!(terms["nodeSelectorTerms"][0]["matchFields"][0]["values"], json!(["a"]));
        let hash = world.hash();
        world.pod("p", "a", &hash, true).check(&[]);
        let made = outline(&world.plan());
        let status = &made[0].body["status"];
        assert_eq!((&status["desiredNumberScheduled"], &status["numberAvailable"]), (&json!(1), &json!(1)));
        world.pod("q", "a", &hash, true).check(&["delete Pod default/q"]);
    }

    #[test]
    fn a_taint_that_only_keeps_away_does_not_evict() {
        let mut world = World::new(json!({}), &two());
        let hash = world.hash();
        world.pod("p", "a", &hash, true).pod("q", "b", &hash, true).check(&[]);
        let no_execute = json!([{"key": "gpu", "effect": "NoExecute"}]);
        world.0.nodes.insert(object(json!({"metadata": {"name": "b"}, "spec": {"taints": no_execute}})));
        world.check(&["delete Pod default/q"]);
    }

    #[test]
    fn updates_respect_what_may_be_unavailable() {
        let nodes = [("a", json!([])), ("b", json!([])), ("c", json!([]))];
        let mut world = World::new(json!({}), &nodes);
        world.pod("p", "a", "old", true).pod("q", "b", "old", true).pod("r", "c", "old", true);
        world.check(&["delete Pod default/p"]);
        world.pod("q", "b", "old", false).check(&["delete Pod default/q", "delete Pod default/p"]);
        let mut manual = World::new(json!({"updateStrategy": {"type": "OnDelete"}}), &nodes);
        manual.pod("p", "a", "old", true).pod("q", "b", "old", true).pod("r", "c", "old", true).check(&[]);
        let surge =
            json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}});
        let mut surging = World::new(surge, &nodes);
        surging.pod("p", "a", "old", true).pod("q", "b", "old", true).pod("r", "c", "old", true);
        surging.check(&["create Pod default/log-"]);
        let hash = surging.hash();
        surging.pod("p2", "a", &hash, true).check(&["delete Pod default/p", "create Pod default/log-"]);
    }

    #[test]
    fn a_failed_pod_is_replaced() {
        let mut world = World::new(json!({}), &[("a", json!([]))]);
        let hash = world.hash();
        world.pod("p", "a", &hash, false);
        let mut failed = serde_json::to_value(&**world.0.pods.find("default", "p").expect("it exists")).expect("JSON");
        failed["status"]["phase"] = json!("Failed");
        world.0.pods.insert(object(failed));
        world.check(&["tell", "delete Pod default/p"]);
    }
}
