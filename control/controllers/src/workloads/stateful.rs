//! Stateful sets: pods with names, order and claims of their own. One step at a time unless the set allows more.

use super::{
    deployment::scaled,
    history::{Present, REVISION_LABEL, present, revisions, template, truncate},
    stateful_pod::{claim_actions, fits, new_pod, ordinal, retention_actions},
};
use crate::{
    common::{
        objects::{
            adopt, controlled_by, deleting, generation, label, labels, name, namespace, orphan, own_or_owner_keys,
            release, uid,
        },
        pods::{available, available_at, finished, phase, ready},
        selector::{is_empty, matches},
    },
    framework::{Action, Change, Controller, Key, Kind, Note, Object, Plan, Target, Tone, View},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus},
    core::v1::{Pod, PodTemplateSpec},
};
use std::{collections::BTreeMap, sync::Arc};

/// Keeps stateful sets.
#[derive(Debug)]
pub(crate) struct StatefulSets;

impl Controller for StatefulSets {
    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::StatefulSet, Kind::Pod, Kind::ControllerRevision, Kind::PersistentVolumeClaim]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("StatefulSet", "status"),
            ("Pod", "created and deleted for a StatefulSet"),
            ("PersistentVolumeClaim", "created for a StatefulSet"),
            ("ControllerRevision", "of a StatefulSet"),
        ]
    }

    fn keys(&self, view: &View, change: &Change, keys: &mut Vec<Key>) {
        if matches!(change.object(), Object::PersistentVolumeClaim(_)) {
            return;
        }
        own_or_owner_keys(change, Kind::StatefulSet, keys);
        if let Some(pod @ Object::Pod(_)) = orphan(change) {
            let sets = view.stateful_sets.in_namespace(namespace(pod.meta()));
            let takers =
                sets.filter(|set| selects(set, labels(pod.meta())) && ordinal(set, name(pod.meta())).is_some());
            keys.extend(takers.map(|set| Key::of(&set.metadata)));
        }
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let Some(set) = view.stateful_sets.get(key) else { return Plan::none() };
        let Some(spec) = &set.spec else { return Plan::none() };
        let (pods, changes) = claim(set, view);
        if !changes.is_empty() {
            return changes.into();
        }
        let selector = spec.selector.match_labels.clone().unwrap_or_default();
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        match present(view, Kind::StatefulSet, &set.metadata, &spec.template, &selector, collisions) {
            Present::Missing(actions) => actions.into(),
            Present::Collision => {
                let mut status = set.status.clone().unwrap_or_default();
                status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
                vec![Action::update_status(StatefulSet { status: Some(status), ..(**set).clone() })].into()
            }
            Present::Known(update) => Step::new(set, spec, view, update, pods, now).plan(),
        }
    }
}

fn selects(set: &StatefulSet, labels: &BTreeMap<String, String>) -> bool {
    set.spec.as_ref().is_some_and(|spec| !is_empty(&spec.selector) && matches(&spec.selector, labels))
}

/// The pods of the set by ordinal, and what must change hands first.
fn claim<'a>(set: &StatefulSet, view: &'a View) -> (BTreeMap<i32, &'a Arc<Pod>>, Vec<Action>) {
    let meta = &set.metadata;
    let (mut pods, mut actions) = (BTreeMap::new(), Vec::new());
    for pod in view.pods.owned_by(uid(meta)) {
        match ordinal(set, name(&pod.metadata)).filter(|_| selects(set, labels(&pod.metadata))) {
            Some(at) => drop(pods.insert(at, pod)),
            None if !deleting(meta) && !deleting(&pod.metadata) => actions.push(release(Kind::Pod, &**pod, uid(meta))),
            None => {}
        }
    }
    if !deleting(meta) {
        let strays = view.pods.orphans(namespace(meta)).filter(|pod| {
            !deleting(&pod.metadata)
                && selects(set, labels(&pod.metadata))
                && ordinal(set, name(&pod.metadata)).is_some()
        });
        actions.extend(strays.map(|pod| adopt(Kind::Pod, &**pod, controlled_by(Kind::StatefulSet, meta))));
    }
    (pods, actions)
}

/// One look at a set.
struct Step<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    view: &'a View,
    current: Arc<ControllerRevision>,
    update: &'a Arc<ControllerRevision>,
    pods: BTreeMap<i32, &'a Arc<Pod>>,
    now: Timestamp,
}

fn revision_of(pod: &Pod) -> &str {
    label(&pod.metadata, REVISION_LABEL).unwrap_or_default()
}

fn running_and_ready(pod: &Pod) -> bool {
    phase(pod) == "Running" && ready(pod)
}

impl<'a> Step<'a> {
    fn new(
        set: &'a StatefulSet,
        spec: &'a StatefulSetSpec,
        view: &'a View,
        update: &'a Arc<ControllerRevision>,
        pods: BTreeMap<i32, &'a Arc<Pod>>,
        now: Timestamp,
    ) -> Self {
        let stated = set.status.as_ref().and_then(|status| status.current_revision.clone()).unwrap_or_default();
        let known = revisions(view, &set.metadata).into_iter().find(|revision| name(&revision.metadata) == stated);
        Self { set, spec, view, current: Arc::clone(known.unwrap_or(update)), update, pods, now }
    }

    fn start(&self) -> i32 {
        self.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0)
    }

    fn end(&self) -> i32 {
        self.start().saturating_add(self.spec.replicas.unwrap_or(1))
    }

    fn in_order(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn min_ready(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        running_and_ready(pod) && available(pod, self.min_ready(), self.now)
    }

    fn rolls(&self) -> bool {
        self.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
    }

    fn partition(&self) -> Option<i32> {
        self.spec.update_strategy.as_ref()?.rolling_update.as_ref()?.partition
    }

    fn plan(&self) -> Plan {
        let mut plan = Plan::none();
        if !deleting(&self.set.metadata) {
            self.step(&mut plan);
        }
        let waiting =
            self.pods.values().filter_map(|pod| available_at(pod, self.min_ready())).filter(|at| *at > self.now);
        if let Some(at) = waiting.min() {
            plan.look_again(at);
        }
        let status = self.status();
        let changes = self.set.status.as_ref() != Some(&status);
        // While pods come and go their own changes bring the next look.
        let busy = plan.actions.iter().any(|action| !matches!(action.write, crate::framework::Write::Patch { .. }));
        let behind =
            status.observed_generation != self.set.status.as_ref().and_then(|status| status.observed_generation);
        if changes && (!busy || behind) {
            plan.push(Action::update_status(StatefulSet { status: Some(status), ..self.set.clone() }));
        } else if plan.actions.is_empty() {
            let limit = self.spec.revision_history_limit.unwrap_or(10);
            plan.actions =
                truncate(self.view, &self.set.metadata, limit, |revision| self.in_use(name(&revision.metadata)));
        }
        plan
    }

    fn in_use(&self, revision: &str) -> bool {
        revision == name(&self.current.metadata)
            || revision == name(&self.update.metadata)
            || self.pods.values().any(|pod| revision_of(pod) == revision)
    }

    /// Creates, replaces, removes and updates pods; stops at the first that the order makes it wait for.
    fn step(&self, plan: &mut Plan) {
        plan.actions.extend(retention_actions(self.set, self.spec, self.view, &self.pods, self.start()..self.end()));
        for at in self.start()..self.end() {
            if !self.fill(at, plan) && self.in_order() {
                return;
            }
        }
        if !self.shrink(plan) || !self.rolls() || plan.actions.iter().any(is_deletion) {
            return;
        }
        self.update_pods(plan);
    }

    /// Sees to the pod at one ordinal; says whether the next one may follow.
    fn fill(&self, at: i32, plan: &mut Plan) -> bool {
        let Some(pod) = self.pods.get(&at) else {
            self.create(at, plan);
            return false;
        };
        if deleting(&pod.metadata) {
            return false;
        }
        if finished(pod) {
            let message = format!(
                "StatefulSet {}/{} is recreating {} Pod {}",
                namespace(&self.set.metadata),
                name(&self.set.metadata),
                phase(pod).to_lowercase(),
                name(&pod.metadata)
            );
            let reason = if phase(pod) == "Failed" { "RecreatingFailedPod" } else { "RecreatingTerminatedPod" };
            plan.push(Action::tell(self.note(Tone::Warning, reason, message)));
            plan.push(self.delete(pod));
            return false;
        }
        if let Some(fitted) = fits(self.set, self.spec, pod, at) {
            plan.push(Action::update(fitted));
        }
        plan.actions.extend(claim_actions(self.set, self.spec, self.view, at));
        self.is_available(pod)
    }

    fn create(&self, at: i32, plan: &mut Plan) {
        let (revision, template) = self.version_for(at);
        plan.actions.extend(claim_actions(self.set, self.spec, self.view, at));
        let pod = new_pod(self.set, self.spec, &template, name(&revision.metadata), at);
        let (pod_name, set_name) = (name(&pod.metadata).to_owned(), name(&self.set.metadata));
        let done = format!("create Pod {pod_name} in StatefulSet {set_name} successful");
        let failed = format!("create Pod {pod_name} in StatefulSet {set_name} failed error: {{}}");
        plan.push(
            Action::create(pod).on_success(self.note(Tone::Normal, "SuccessfulCreate", done)).on_failure(self.note(
                Tone::Warning,
                "FailedCreate",
                failed,
            )),
        );
    }

    /// Which revision a new pod at this ordinal gets: the old one below the partition, or while a rollout has not
    /// come down to it.
    fn version_for(&self, at: i32) -> (&ControllerRevision, PodTemplateSpec) {
        let reached = self.set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0);
        let old = self.rolls()
            && at
                < self.start().saturating_add(
                    self.partition().unwrap_or(0).max(if self.partition().is_none() && !self.same_revision() {
                        reached
                    } else {
                        0
                    }),
                );
        match template(&self.current).filter(|_| old && !self.same_revision()) {
            Some(template) => (&self.current, template),
            None => (self.update, self.spec.template.clone()),
        }
    }

    fn same_revision(&self) -> bool {
        name(&self.current.metadata) == name(&self.update.metadata)
    }

    /// Removes pods beyond the wanted range, highest first; says whether updates may follow.
    fn shrink(&self, plan: &mut Plan) -> bool {
        let condemned: Vec<_> =
            self.pods.iter().rev().filter(|(at, _)| !(self.start()..self.end()).contains(at)).collect();
        let first_sick = self.pods.values().find(|pod| !self.is_available(pod)).map(|pod| uid(&pod.metadata));
        for (_, pod) in &condemned {
            if deleting(&pod.metadata) {
                if self.in_order() {
                    return false;
                }
                continue;
            }
            if self.in_order() && !self.is_available(pod) && first_sick != Some(uid(&pod.metadata)) {
                return false;
            }
            plan.push(self.delete(pod));
            if self.in_order() {
                return false;
            }
        }
        condemned.is_empty() || !self.in_order()
    }

    /// Replaces pods of other revisions, highest ordinal first, as many at a time as may be unavailable.
    fn update_pods(&self, plan: &mut Plan) {
        let rolling = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let limit = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let allowed = limit.map_or(1, |limit| scaled(Some(limit), self.spec.replicas.unwrap_or(1), true).max(1));
        let least = self.start().saturating_add(self.partition().unwrap_or(0));
        let mut unavailable = 0;
        for at in (least..self.end()).rev() {
            let Some(pod) = self.pods.get(&at) else {
                unavailable += 1;
                continue;
            };
            if unavailable >= allowed {
                return;
            }
            if deleting(&pod.metadata) {
                unavailable += 1;
            } else if revision_of(pod) != name(&self.update.metadata) {
                plan.push(self.delete(pod));
                unavailable += 1;
            } else if !self.is_available(pod) {
                unavailable += 1;
            }
        }
    }

    fn delete(&self, pod: &Pod) -> Action {
        let (pod_name, set_name) = (name(&pod.metadata), name(&self.set.metadata));
        let done = format!("delete Pod {pod_name} in StatefulSet {set_name} successful");
        let failed = format!("delete Pod {pod_name} in StatefulSet {set_name} failed error: {{}}");
        Action::delete(Target::of(Kind::Pod, &pod.metadata))
            .on_success(self.note(Tone::Normal, "SuccessfulDelete", done))
            .on_failure(self.note(Tone::Warning, "FailedDelete", failed))
    }

    fn status(&self) -> StatefulSetStatus {
        let old = self.set.status.clone().unwrap_or_default();
        let count = |keep: &dyn Fn(&Pod) -> bool| {
            i32::try_from(self.pods.values().filter(|pod| keep(pod)).count()).unwrap_or(i32::MAX)
        };
        let of = |revision: &ControllerRevision| {
            let wanted = name(&revision.metadata).to_owned();
            count(&|pod| !finished(pod) && !deleting(&pod.metadata) && revision_of(pod) == wanted)
        };
        let mut status = StatefulSetStatus {
            observed_generation: Some(generation(&self.set.metadata)),
            replicas: count(&|pod| !finished(pod)),
            ready_replicas: Some(count(&running_and_ready)),
            available_replicas: Some(count(&|pod| self.is_available(pod))),
            current_replicas: Some(of(&self.current)),
            updated_replicas: Some(of(self.update)),
            current_revision: self.current.metadata.name.clone(),
            update_revision: self.update.metadata.name.clone(),
            collision_count: Some(old.collision_count.unwrap_or(0)),
            conditions: old.conditions,
        };
        let done = self.rolls()
            && status.updated_replicas == Some(status.replicas)
            && status.ready_replicas == Some(status.replicas)
            && status.replicas == self.spec.replicas.unwrap_or(1);
        if done {
            status.current_replicas = status.updated_replicas;
            status.current_revision.clone_from(&status.update_revision);
        }
        status
    }

    fn note(&self, tone: Tone, reason: &'static str, message: String) -> Note {
        Note::about(Kind::StatefulSet, &self.set.metadata, tone, reason, message)
    }
}

fn is_deletion(action: &Action) -> bool {
    matches!(action.write, crate::framework::Write::Delete { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, outline};
    use serde_json::{Value, json};

    /// A set whose revisions are `old` and, as the present one, whatever the template gives.
    struct World {
        view: View,
        set: Value,
    }

    impl World {
        fn new(extra: Value) -> Self {
            let mut set = json!({"metadata": {"name": "db", "namespace": "default", "uid": "set", "generation": 1},
                "spec": {"replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                    "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": []}},
                    "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}});
            for (key, value) in extra.as_object().into_iter().flatten() {
                set["spec"][key] = value.clone();
            }
            let mut world = Self { view: View::default(), set };
            world.view.stateful_sets.insert(object(world.set.clone()));
            let made = outline(&world.plan(100));
            assert_eq!(made.len(), 1);
            assert!(made[0].line.starts_with("create ControllerRevision default/db-"));
            world.view.controller_revisions.insert(object(made[0].body.clone()));
            world
        }

        fn plan(&self, now: i64) -> Plan {
            StatefulSets.plan(&self.view, &Key::new("default", "db"), at(now))
        }

        fn revision(&self) -> String {
            let found = self.view.controller_revisions.all().next().expect("a revision");
            name(&found.metadata).to_owned()
        }

        fn pod(&mut self, ordinal: i32, revision: &str, ready: bool) -> &mut Self {
            let pod_name = format!("db-{ordinal}");
            let status = if ready { "True" } else { "False" };
            self.view.pods.insert(object(json!({"metadata": {"name": pod_name, "namespace": "default", "uid": pod_name,
                    "labels": {"app": "db", REVISION_LABEL: revision, "statefulset.kubernetes.io/pod-name": pod_name,
                        "apps.kubernetes.io/pod-index": ordinal.to_string()},
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "set", "controller": true}]},
                "spec": {"containers": [], "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": format!("data-{pod_name}")}}]},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]}})));
            self.view
                .claims
                .insert(object(json!({"metadata": {"name": format!("data-{pod_name}"), "namespace": "default",
                "labels": {"app": "db"}}, "spec": {}})));
            self
        }

        fn check(&self, expected: &[&str]) {
            let made = outline(&self.plan(100));
            let lines: Vec<_> =
                made.iter().map(|made| made.line.as_str()).filter(|line| !line.starts_with("status")).collect();
            assert_eq!(lines, expected);
        }
    }

    #[test]
    fn pods_come_one_after_another_each_with_its_claim() {
        let mut world = World::new(json!({}));
        world.check(&["create PersistentVolumeClaim default/data-db-0", "create Pod default/db-0"]);
        let made = outline(&world.plan(100));
        let pod = &made[1].body;
        assert_eq!(pod["spec"]["hostname"], "db-0");
        assert_eq!(pod["spec"]["subdomain"], "db");
        assert_eq!(pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"], "data-db-0");
        assert_eq!(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "0");
        assert_eq!(made[1].notes[0], "SuccessfulCreate create Pod db-0 in StatefulSet db successful");
        let revision = world.revision();
        world.pod(0, &revision, false).check(&[]);
        world.pod(0, &revision, true);
        world.check(&["create PersistentVolumeClaim default/data-db-1", "create Pod default/db-1"]);
    }

    #[test]
    fn all_at_once_where_order_does_not_matter() {
        let world = World::new(
            json!({"podManagementPolicy": "Parallel", "volumeClaimTemplates": [], "ordinals": {"start": 5}}),
        );
        world.check(&["create Pod default/db-5", "create Pod default/db-6", "create Pod default/db-7"]);
    }

    #[test]
    fn it_shrinks_from_the_top() {
        let mut world = World::new(json!({"replicas": 1}));
        let revision = world.revision();
        world.pod(0, &revision, true).pod(1, &revision, true).pod(2, &revision, true);
        world.check(&["delete Pod default/db-2"]);
        world.pod(0, &revision, false);
        world.check(&[]);
    }

    #[test]
    fn updates_go_down_to_the_partition() {
        let mut world = World::new(json!({}));
        world.pod(0, "old", true).pod(1, "old", true).pod(2, "old", true).check(&["delete Pod default/db-2"]);
        let revision = world.revision();
        world.pod(2, &revision, false).check(&[]);
        world.pod(2, &revision, true).check(&["delete Pod default/db-1"]);
        let mut held =
            World::new(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 3}}}));
        held.pod(0, "old", true).pod(1, "old", true).pod(2, "old", true).check(&[]);
        let mut manual = World::new(json!({"updateStrategy": {"type": "OnDelete"}}));
        manual.pod(0, "old", true).pod(1, "old", true).pod(2, "old", true).check(&[]);
        let mut wide =
            World::new(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}}));
        wide.pod(0, "old", true).pod(1, "old", true).pod(2, "old", true);
        wide.check(&["delete Pod default/db-2", "delete Pod default/db-1"]);
    }

    #[test]
    fn an_ended_pod_is_made_anew_and_the_status_counts() {
        let mut world = World::new(json!({"replicas": 2}));
        let revision = world.revision();
        world.pod(0, &revision, true).pod(1, &revision, true);
        let made = outline(&world.plan(100));
        let status = &made[0].body["status"];
        assert_eq!(
            (&status["replicas"], &status["readyReplicas"], &status["currentRevision"]),
            (&json!(2), &json!(2), &json!(revision))
        );
        let mut failed =
            serde_json::to_value(&**world.view.pods.find("default", "db-0").expect("it exists")).expect("JSON");
        failed["status"]["phase"] = json!("Failed");
        world.view.pods.insert(object(failed));
        world.check(&["tell", "delete Pod default/db-0"]);
    }
}
