//! Deployments: one replica set per version of the template, rolled forward and back within the limits on surge and
//! unavailability. Never touches pods.

use super::{
    deployment_scale::{Scale, proportional, recreate, roll},
    deployment_status::{finish_status, status_with_counts},
};
use crate::{
    common::{
        names::hash_of,
        objects::{
            adopt, annotation, controlled_by, created, deleting, labels, namespace, orphan, own_or_owner_keys,
            owner_key, release, uid,
        },
        selector::{is_empty, matches},
    },
    framework::{Action, Change, Controller, Key, Kind, Note, Object, Plan, Target, Tone, View},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc};

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const HASH: &str = "pod-template-hash";
/// Bytes of revision history kept on a replica set.
const MAX_HISTORY: usize = 2000;
/// Annotations that stay with the deployment.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// Rolls deployments.
#[derive(Debug)]
pub(crate) struct Deployments;

impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Deployment, Kind::ReplicaSet, Kind::Pod]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("Deployment", "status"),
            ("Deployment", "metadata.annotations[deployment.kubernetes.io/revision]"),
            ("ReplicaSet", "created and deleted for a Deployment"),
            ("ReplicaSet", "spec.replicas"),
        ]
    }

    fn keys(&self, view: &View, change: &Change, keys: &mut Vec<Key>) {
        match change.object() {
            // A pod matters only when it is gone: a recreated deployment waits for the last old pod.
            Object::Pod(pod) => {
                if change.new.is_none()
                    && let Some(set) =
                        owner_key(&pod.metadata, Kind::ReplicaSet).and_then(|key| view.replica_sets.get(&key))
                {
                    keys.extend(owner_key(&set.metadata, Kind::Deployment));
                }
            }
            _ => own_or_owner_keys(change, Kind::Deployment, keys),
        }
        if let Some(set @ Object::ReplicaSet(_)) = orphan(change) {
            let deployments = view.deployments.in_namespace(namespace(set.meta()));
            let takers = deployments.filter(|deployment| selects(deployment, &set.meta().labels));
            keys.extend(takers.map(|deployment| Key::of(&deployment.metadata)));
        }
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let Some(deployment) = view.deployments.get(key) else { return Plan::none() };
        Rollout::new(deployment, view).map_or_else(Plan::from, |rollout| {
            rollout.plan(view.memory.failure(self.name(), key).map(|failure| failure.message.as_str()), now)
        })
    }
}

fn selects(deployment: &Deployment, labels: &Option<BTreeMap<String, String>>) -> bool {
    let none = BTreeMap::new();
    deployment
        .spec
        .as_ref()
        .is_some_and(|spec| !is_empty(&spec.selector) && matches(&spec.selector, labels.as_ref().unwrap_or(&none)))
}

/// A percentage or a number of `total`.
pub(crate) fn scaled(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent = text.trim_end_matches('%').parse::<i64>().unwrap_or(0);
            let product = percent.saturating_mul(i64::from(total));
            let value = if round_up { product.saturating_add(99) / 100 } else { product / 100 };
            i32::try_from(value).unwrap_or(i32::MAX)
        }
    }
}

/// The size that a replica set should have.
pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// The revision that a replica set carries; 0 without one.
pub(super) fn revision(meta: &ObjectMeta) -> i64 {
    annotation(meta, REVISION).and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

/// A deployment with its replica sets sorted out.
pub(super) struct Rollout<'a> {
    pub(super) deployment: &'a Deployment,
    /// The replica set of the present template.
    pub(super) new: Option<&'a Arc<ReplicaSet>>,
    /// The others, oldest first.
    pub(super) old: Vec<&'a Arc<ReplicaSet>>,
    view: &'a View,
}

impl<'a> Rollout<'a> {
    /// Sorts out the replica sets, or says what must change hands first.
    fn new(deployment: &'a Deployment, view: &'a View) -> Result<Self, Vec<Action>> {
        let meta = &deployment.metadata;
        let (mut sets, mut actions) = (Vec::new(), Vec::new());
        for set in view.replica_sets.owned_by(uid(meta)) {
            if selects(deployment, &set.metadata.labels) {
                sets.push(set);
            } else if !deleting(meta) {
                actions.push(release(Kind::ReplicaSet, &**set, uid(meta)));
            }
        }
        if !deleting(meta) {
            let strays = view.replica_sets.orphans(namespace(meta));
            let strays = strays.filter(|set| !deleting(&set.metadata) && selects(deployment, &set.metadata.labels));
            actions.extend(strays.map(|set| adopt(Kind::ReplicaSet, &**set, controlled_by(Kind::Deployment, meta))));
        }
        if !actions.is_empty() {
            return Err(actions);
        }
        sets.sort_by_key(|set| (created(&set.metadata), set.metadata.name.clone()));
        let wanted = deployment.spec.as_ref().map(|spec| bare(&spec.template));
        let new = sets.iter().copied().find(|set| {
            let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
            template.map(bare) == wanted
        });
        let old =
            sets.into_iter().filter(|set| new.is_none_or(|new| uid(&new.metadata) != uid(&set.metadata))).collect();
        Ok(Self { deployment, new, old, view })
    }

    pub(super) fn wanted(&self) -> i32 {
        self.deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    pub(super) fn recreates(&self) -> bool {
        let strategy = self.deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
        strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
    }

    fn paused(&self) -> bool {
        self.deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false)
    }

    /// How many pods may exist beyond the wanted number, and how many of the wanted number may be missing.
    fn limits(&self) -> (i32, i32) {
        if self.recreates() {
            return (0, 0);
        }
        let strategy = self.deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".to_owned());
        let given = |value: Option<&'a IntOrString>| value.cloned().unwrap_or_else(|| quarter.clone());
        let surge = scaled(Some(&given(rolling.and_then(|rolling| rolling.max_surge.as_ref()))), self.wanted(), true);
        let missing =
            scaled(Some(&given(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()))), self.wanted(), false);
        // Rounding down may leave no room at all; then one pod may be missing.
        (surge, if surge == 0 && missing == 0 { 1 } else { missing })
    }

    pub(super) fn surge(&self) -> i32 {
        self.limits().0
    }

    pub(super) fn unavailable(&self) -> i32 {
        let missing = self.limits().1;
        if self.wanted() == 0 { 0 } else { missing.min(self.wanted()) }
    }

    /// Every replica set, the new one last.
    pub(super) fn all(&self) -> impl Iterator<Item = &'a Arc<ReplicaSet>> + '_ {
        self.old.iter().copied().chain(self.new)
    }

    fn plan(&self, failure: Option<&str>, now: Timestamp) -> Plan {
        let mut plan = Plan::none();
        let status = status_with_counts(self, now);
        if deleting(&self.deployment.metadata) {
            finish_status(self, status, false, now, &mut plan);
            return plan;
        }
        if self.paused() || self.scaling_event() {
            plan.actions = self.scale_actions(&proportional(self));
            if self.paused() {
                plan.actions.extend(self.clean_up());
            }
            self.sync_revision(&mut plan);
            finish_status(self, status, false, now, &mut plan);
            return plan;
        }
        let Some(new) = self.new else {
            return self.plan_new_set(failure, now);
        };
        self.sync_revision(&mut plan);
        if !plan.actions.is_empty() {
            return plan;
        }
        let scales = if self.recreates() { recreate(self, self.old_pods_run()) } else { roll(self, new) };
        plan.actions = self.scale_actions(&scales);
        if plan.actions.is_empty() && super::deployment_status::complete(self) {
            plan.actions = self.clean_up();
        }
        finish_status(self, status, true, now, &mut plan);
        plan
    }

    /// Creates the replica set of a new template, or finds its name taken by another.
    fn plan_new_set(&self, failure: Option<&str>, now: Timestamp) -> Plan {
        let mut plan = Plan::none();
        if self.recreates() {
            plan.actions = self.scale_actions(&recreate(self, true));
            if !plan.actions.is_empty() || self.old_pods_run() {
                finish_status(self, status_with_counts(self, now), true, now, &mut plan);
                return plan;
            }
        }
        let mut status = status_with_counts(self, now);
        let set = self.new_set();
        let name = set.metadata.name.clone().unwrap_or_default();
        if self.view.replica_sets.find(namespace(&self.deployment.metadata), &name).is_some() {
            status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
            finish_status(self, status, false, now, &mut plan);
            return plan;
        }
        let size = size(&set);
        let mut create = Action::create(set).on_failure(self.note(
            Tone::Warning,
            "ReplicaSetCreateError",
            format!("Failed to create new replica set \"{name}\": {{}}"),
        ));
        if size > 0 {
            let message = format!("Scaled up replica set {name} from 0 to {size}");
            create = create.on_success(self.note(Tone::Normal, "ScalingReplicaSet", message));
        }
        plan.push(create);
        if let Some(message) = failure {
            let message = format!("Failed to create new replica set \"{name}\": {message}");
            super::deployment_status::set_progressing(&mut status, "False", "ReplicaSetCreateError", &message, now);
            finish_status(self, status, false, now, &mut plan);
        }
        plan
    }

    fn new_set(&self) -> ReplicaSet {
        let spec = self.deployment.spec.clone().unwrap_or_default();
        let collisions = self.deployment.status.as_ref().and_then(|status| status.collision_count);
        let hash = hash_of(&spec.template, collisions);
        let mut template = spec.template.clone();
        let template_labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        template_labels.insert(HASH.to_owned(), hash.clone());
        let mut selector: LabelSelector = spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
        let meta = &self.deployment.metadata;
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", meta.name.as_deref().unwrap_or_default())),
                namespace: meta.namespace.clone(),
                owner_references: Some(vec![controlled_by(Kind::Deployment, meta)]),
                labels: template.metadata.as_ref().map(|meta| labels(meta).clone()),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(0),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        let size = if self.recreates() { self.wanted() } else { super::deployment_scale::room_to_grow(self, 0) };
        if let Some(spec) = &mut set.spec {
            spec.replicas = Some(size);
        }
        self.annotate(&mut set.metadata, false);
        set
    }

    /// Brings a replica set's annotations up to date; says whether anything changed.
    fn annotate(&self, meta: &mut ObjectMeta, exists: bool) -> bool {
        let before = meta.annotations.clone().unwrap_or_default();
        let mut after = before.clone();
        for (key, value) in self.deployment.metadata.annotations.iter().flatten() {
            if !NOT_COPIED.contains(&key.as_str()) {
                after.insert(key.clone(), value.clone());
            }
        }
        let old = revision(meta);
        let next = self.old.iter().map(|set| revision(&set.metadata)).max().unwrap_or(0).saturating_add(1);
        if old < next {
            after.insert(REVISION.to_owned(), next.to_string());
            if old > 0 {
                let history =
                    before.get(REVISION_HISTORY).map_or_else(|| old.to_string(), |known| format!("{known},{old}"));
                let cut = history.len().saturating_sub(MAX_HISTORY);
                let history =
                    if cut == 0 { &history } else { history[cut..].split_once(',').map_or("", |(_, rest)| rest) };
                after.insert(REVISION_HISTORY.to_owned(), history.to_owned());
            }
        }
        if !exists {
            after.insert(DESIRED.to_owned(), self.wanted().to_string());
            after.insert(MAX.to_owned(), self.wanted().saturating_add(self.surge()).to_string());
        }
        let changed = after != before;
        meta.annotations = Some(after);
        changed
    }

    /// Writes revision and annotations of the new replica set, then the deployment's own revision.
    fn sync_revision(&self, plan: &mut Plan) {
        let Some(new) = self.new.filter(|_| plan.actions.is_empty()) else { return };
        let mut set = (**new).clone();
        let annotated = self.annotate(&mut set.metadata, true);
        let patience = self.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        let impatient =
            set.spec.as_ref().is_some_and(|spec| spec.min_ready_seconds.unwrap_or(0) != patience.unwrap_or(0));
        if annotated || impatient {
            if let Some(spec) = &mut set.spec {
                spec.min_ready_seconds = patience;
            }
            plan.push(Action::update(set));
            return;
        }
        let revision = annotation(&new.metadata, REVISION);
        if revision != annotation(&self.deployment.metadata, REVISION) {
            let target = Target::exact(Kind::Deployment, &self.deployment.metadata);
            plan.push(Action::patch(target, json!({"metadata": {"annotations": {REVISION: revision}}})));
        }
    }

    /// Whether the deployment's size changed since its replica sets were sized.
    fn scaling_event(&self) -> bool {
        self.all().filter(|set| size(set) > 0).any(|set| {
            let desired = annotation(&set.metadata, DESIRED).and_then(|desired| desired.parse::<i32>().ok());
            desired.is_some_and(|desired| desired != self.wanted())
        })
    }

    fn scale_actions(&self, scales: &[Scale<'a>]) -> Vec<Action> {
        scales.iter().filter_map(|scale| self.scale_action(scale)).collect()
    }

    fn scale_action(&self, scale: &Scale<'a>) -> Option<Action> {
        let (desired, max) = (self.wanted().to_string(), self.wanted().saturating_add(self.surge()).to_string());
        let meta = &scale.set.metadata;
        let known = annotation(meta, DESIRED) == Some(&desired) && annotation(meta, MAX) == Some(&max);
        let before = size(scale.set);
        if before == scale.to && (known || !scale.annotate) {
            return None;
        }
        let mut set = (**scale.set).clone();
        let annotations = set.metadata.annotations.get_or_insert_default();
        annotations.insert(DESIRED.to_owned(), desired);
        annotations.insert(MAX.to_owned(), max);
        if let Some(spec) = &mut set.spec {
            spec.replicas = Some(scale.to);
        }
        let action = Action::update(set);
        if before == scale.to {
            return Some(action);
        }
        let way = if before < scale.to { "up" } else { "down" };
        let message = format!(
            "Scaled {way} replica set {} from {before} to {}",
            meta.name.as_deref().unwrap_or_default(),
            scale.to
        );
        Some(action.on_success(self.note(Tone::Normal, "ScalingReplicaSet", message)))
    }

    /// Deletes empty old replica sets beyond the history limit, oldest revision first.
    fn clean_up(&self) -> Vec<Action> {
        let limit = self.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
        let mut sets: Vec<_> = self.old.iter().filter(|set| !deleting(&set.metadata)).collect();
        let excess = sets.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        sets.sort_by_key(|set| (revision(&set.metadata), created(&set.metadata)));
        let empty = |set: &ReplicaSet| {
            let status = set.status.clone().unwrap_or_default();
            size(set) == 0
                && status.replicas == 0
                && status.observed_generation.unwrap_or(0) >= set.metadata.generation.unwrap_or(0)
        };
        let removable = sets.into_iter().take(excess).filter(|set| empty(set));
        removable.map(|set| Action::delete(Target::of(Kind::ReplicaSet, &set.metadata))).collect()
    }

    /// Whether any pod of an old replica set still runs.
    fn old_pods_run(&self) -> bool {
        let pods = self.old.iter().flat_map(|set| self.view.pods.owned_by(uid(&set.metadata)));
        pods.into_iter().any(|pod| !crate::common::pods::finished(pod))
    }

    fn note(&self, tone: Tone, reason: &'static str, message: String) -> Note {
        Note::about(Kind::Deployment, &self.deployment.metadata, tone, reason, message)
    }
}

/// A template without the label that tells replica sets apart.
fn bare(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(HASH);
    }
    let meta = template.metadata.take().unwrap_or_default();
    let kept = |map: Option<BTreeMap<String, String>>| map.filter(|map| !map.is_empty());
    let meta = ObjectMeta { labels: kept(meta.labels), annotations: kept(meta.annotations), ..ObjectMeta::default() };
    template.metadata = Some(meta);
    template
}
