//! Replica sets and replication controllers: so many pods of one template, no more and no fewer.

use crate::{
    common::{
        objects::{
            adopt, controlled_by, controller_of, deleting, generation, labels, namespace, orphan, own_or_owner_keys,
            release, uid,
        },
        pods::{active, available, available_at, deletion_order, node, ready, terminating},
        selector::{is_empty, map_matches, matches},
        template::pod_from,
    },
    framework::{Action, Cache, Change, Controller, Failure, Key, Kind, Note, Object, Plan, Target, Tone, View},
};
use jiff::Timestamp;
use k8s_openapi::{
    Metadata,
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::{
            Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
        },
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{Debug, Formatter},
    marker::PhantomData,
    sync::Arc,
};

/// Pods created or deleted in one look.
const BURST: usize = 500;

/// Keeps the objects of one kind at their size.
pub(crate) struct Replicas<R>(PhantomData<fn() -> R>);

impl<R> Replicas<R> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<R: Replicated> Debug for Replicas<R> {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        out.write_str(R::CONTROLLER)
    }
}

impl<R: Replicated> Controller for Replicas<R> {
    fn name(&self) -> &'static str {
        R::CONTROLLER
    }

    fn reads(&self) -> &'static [Kind] {
        R::READS
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        R::WRITES
    }

    fn keys(&self, view: &View, change: &Change, keys: &mut Vec<Key>) {
        own_or_owner_keys(change, R::OWN, keys);
        if let Some(pod @ Object::Pod(_)) = orphan(change) {
            let sets = R::all(view).in_namespace(namespace(pod.meta()));
            keys.extend(sets.filter(|set| set.selects(labels(pod.meta()))).map(|set| Key::of(set.metadata())));
        }
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let Some(set) = R::all(view).get(key) else { return Plan::none() };
        let owner = controller_of(set.metadata()).filter(|_| R::HAS_SIBLINGS);
        let siblings = owner.into_iter().flat_map(|owner| R::all(view).owned_by(&owner.uid));
        let siblings = siblings.map(|set| uid(set.metadata())).collect();
        plan(&**set, &siblings, view, view.memory.failure(self.name(), key), now)
    }
}

/// How many replicas there are, of each sort.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    replicas: i32,
    fully_labeled: i32,
    ready: i32,
    available: i32,
    /// None where the kind does not tell.
    terminating: Option<i32>,
}

/// A status in the words of both kinds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reported {
    counts: Counts,
    observed: Option<i64>,
    conditions: Vec<ReplicaSetCondition>,
}

/// What replica sets and replication controllers differ in.
pub(crate) trait Replicated: Metadata<Ty = ObjectMeta> + Send + Sync + 'static {
    const OWN: Kind;
    const CONTROLLER: &'static str;
    const READS: &'static [Kind];
    const WRITES: &'static [(&'static str, &'static str)];
    /// Whether several of one owner share its pods, as the replica sets of a deployment do.
    const HAS_SIBLINGS: bool;
    const TELLS_TERMINATING: bool;
    fn all(view: &View) -> &Cache<Self>
    where
        Self: Sized;
    fn wanted(&self) -> i32;
    fn min_ready_seconds(&self) -> i32;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn selects(&self, labels: &BTreeMap<String, String>) -> bool;
    fn reported(&self) -> Reported;
    fn with(&self, status: Reported) -> Object;
}

impl Replicated for ReplicaSet {
    const OWN: Kind = Kind::ReplicaSet;
    const CONTROLLER: &'static str = "replicaset-controller";
    const READS: &'static [Kind] = &[Kind::ReplicaSet, Kind::Pod];
    const WRITES: &'static [(&'static str, &'static str)] =
        &[("ReplicaSet", "status"), ("Pod", "created and deleted for a ReplicaSet")];
    const HAS_SIBLINGS: bool = true;
    const TELLS_TERMINATING: bool = true;

    fn all(view: &View) -> &Cache<Self> {
        &view.replica_sets
    }

    fn wanted(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.spec.as_ref().is_some_and(|spec| !is_empty(&spec.selector) && matches(&spec.selector, labels))
    }

    fn reported(&self) -> Reported {
        let status = self.status.clone().unwrap_or_default();
        Reported {
            counts: Counts {
                replicas: status.replicas,
                fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
                ready: status.ready_replicas.unwrap_or(0),
                available: status.available_replicas.unwrap_or(0),
                terminating: Some(status.terminating_replicas.unwrap_or(0)),
            },
            observed: status.observed_generation,
            conditions: status.conditions.unwrap_or_default(),
        }
    }

    fn with(&self, Reported { counts, observed, conditions }: Reported) -> Object {
        let status = ReplicaSetStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: Some(counts.fully_labeled),
            ready_replicas: Some(counts.ready),
            available_replicas: Some(counts.available),
            terminating_replicas: counts.terminating,
            observed_generation: observed,
            conditions: (!conditions.is_empty()).then_some(conditions),
        };
        Self { status: Some(status), ..self.clone() }.into()
    }
}

impl Replicated for ReplicationController {
    const OWN: Kind = Kind::ReplicationController;
    const CONTROLLER: &'static str = "replication-controller";
    const READS: &'static [Kind] = &[Kind::ReplicationController, Kind::Pod];
    const WRITES: &'static [(&'static str, &'static str)] =
        &[("ReplicationController", "status"), ("Pod", "created and deleted for a ReplicationController")];
    const HAS_SIBLINGS: bool = false;
    const TELLS_TERMINATING: bool = false;

    fn all(view: &View) -> &Cache<Self> {
        &view.replication_controllers
    }

    fn wanted(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        map_matches(self.spec.as_ref().and_then(|spec| spec.selector.as_ref()), labels)
    }

    fn reported(&self) -> Reported {
        let status = self.status.clone().unwrap_or_default();
        Reported {
            counts: Counts {
                replicas: status.replicas,
                fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
                ready: status.ready_replicas.unwrap_or(0),
                available: status.available_replicas.unwrap_or(0),
                terminating: None,
            },
            observed: status.observed_generation,
            conditions: status.conditions.unwrap_or_default().into_iter().map(from_controller).collect(),
        }
    }

    fn with(&self, Reported { counts, observed, conditions }: Reported) -> Object {
        let conditions: Vec<_> = conditions.into_iter().map(to_controller).collect();
        let status = ReplicationControllerStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: Some(counts.fully_labeled),
            ready_replicas: Some(counts.ready),
            available_replicas: Some(counts.available),
            observed_generation: observed,
            conditions: (!conditions.is_empty()).then_some(conditions),
        };
        Self { status: Some(status), ..self.clone() }.into()
    }
}

fn from_controller(condition: ReplicationControllerCondition) -> ReplicaSetCondition {
    let ReplicationControllerCondition { last_transition_time, message, reason, status, type_ } = condition;
    ReplicaSetCondition { last_transition_time, message, reason, status, type_ }
}

fn to_controller(condition: ReplicaSetCondition) -> ReplicationControllerCondition {
    let ReplicaSetCondition { last_transition_time, message, reason, status, type_ } = condition;
    ReplicationControllerCondition { last_transition_time, message, reason, status, type_ }
}

/// The object with a new status, if the status changes.
fn report<R: Replicated>(set: &R, counts: Counts, failure: Option<&Failure>, now: Timestamp) -> Option<Object> {
    let old = set.reported();
    let mut conditions = old.conditions.clone();
    let failed = |condition: &ReplicaSetCondition| condition.type_ == "ReplicaFailure";
    match failure {
        None => conditions.retain(|condition| !failed(condition)),
        Some(failure) if !conditions.iter().any(failed) => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some(failure.reason.to_owned()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(Time(now)),
        }),
        Some(_) => {}
    }
    let new = Reported { counts, observed: Some(generation(set.metadata())), conditions };
    (new != old).then(|| set.with(new))
}

fn plan<R: Replicated>(
    set: &R,
    siblings: &BTreeSet<&str>,
    view: &View,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Plan {
    let meta = set.metadata();
    let mut plan = Plan::none();
    let mut claimed: Vec<&Arc<Pod>> = Vec::new();
    for pod in view.pods.owned_by(uid(meta)) {
        if set.selects(labels(&pod.metadata)) {
            claimed.push(pod);
        } else if !deleting(meta) && active(pod) {
            plan.push(release(Kind::Pod, &**pod, uid(meta)));
        }
    }
    if !deleting(meta) {
        let strays = view.pods.orphans(namespace(meta)).filter(|pod| active(pod) && set.selects(labels(&pod.metadata)));
        plan.actions.extend(strays.map(|pod| adopt(Kind::Pod, &**pod, controlled_by(R::OWN, meta))));
    }
    if !plan.actions.is_empty() {
        return plan;
    }
    let terminating = claimed.iter().filter(|pod| terminating(pod)).count();
    claimed.retain(|pod| active(pod));
    let wanted = usize::try_from(set.wanted()).unwrap_or(0);
    if !deleting(meta) {
        resize(set, &claimed, wanted, siblings, view, &mut plan);
    }
    let counts = count(set, &claimed, terminating, now);
    // While pods come and go their own changes bring the next look; a status now would be stale at once.
    let failure = failure.filter(|_| claimed.len() != wanted);
    if (plan.actions.is_empty() || failure.is_some())
        && let Some(object) = report(set, counts, failure, now)
    {
        plan.push(Action::update_status(object));
    }
    let pending = claimed.iter().filter_map(|pod| available_at(pod, set.min_ready_seconds())).filter(|at| *at > now);
    if let Some(at) = pending.min() {
        plan.look_again(at);
    }
    plan
}

fn resize<R: Replicated>(
    set: &R,
    claimed: &[&Arc<Pod>],
    wanted: usize,
    siblings: &BTreeSet<&str>,
    view: &View,
    plan: &mut Plan,
) {
    let meta = set.metadata();
    let note = |tone, reason, message: &str| Note::about(R::OWN, meta, tone, reason, message);
    if claimed.len() < wanted {
        let Some(template) = set.template() else { return };
        let action = Action::create(pod_from(template, R::OWN, meta))
            .on_success(note(Tone::Normal, "SuccessfulCreate", "Created pod: {}"))
            .on_failure(note(Tone::Warning, "FailedCreate", "Error creating: {}"));
        plan.actions.extend(std::iter::repeat_n(action, (wanted - claimed.len()).min(BURST)));
        return;
    }
    let crowd = crowding(claimed, siblings, view);
    let mut order = claimed.to_vec();
    order.sort_by(|a, b| deletion_order(a, b, |pod| crowd.get(node(pod)).copied().unwrap_or(0)));
    for pod in order.into_iter().take((claimed.len() - wanted).min(BURST)) {
        let deleted = format!("Deleted pod: {}", pod.metadata.name.as_deref().unwrap_or_default());
        plan.push(
            Action::delete(Target::of(Kind::Pod, &pod.metadata))
                .on_success(note(Tone::Normal, "SuccessfulDelete", &deleted))
                .on_failure(note(Tone::Warning, "FailedDelete", "Error deleting: {}")),
        );
    }
}

/// How many active pods of this set and of its siblings each node has.
fn crowding<'a>(claimed: &[&'a Arc<Pod>], siblings: &BTreeSet<&str>, view: &'a View) -> BTreeMap<&'a str, usize> {
    let mut crowd = BTreeMap::new();
    if siblings.is_empty() {
        for pod in claimed {
            *crowd.entry(node(pod)).or_default() += 1;
        }
        return crowd;
    }
    for pod in siblings.iter().flat_map(|sibling| view.pods.owned_by(sibling)).filter(|pod| active(pod)) {
        *crowd.entry(node(pod)).or_default() += 1;
    }
    crowd
}

fn count<R: Replicated>(set: &R, claimed: &[&Arc<Pod>], terminating: usize, now: Timestamp) -> Counts {
    let template_labels = set.template().and_then(|template| template.metadata.as_ref()).map(labels);
    let full = |pod: &Pod| {
        template_labels
            .is_none_or(|wanted| wanted.iter().all(|(key, value)| labels(&pod.metadata).get(key) == Some(value)))
    };
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let how_many = |keep: &dyn Fn(&Pod) -> bool| number(claimed.iter().filter(|pod| keep(pod)).count());
    Counts {
        replicas: number(claimed.len()),
        fully_labeled: how_many(&full),
        ready: how_many(&ready),
        available: how_many(&|pod| available(pod, set.min_ready_seconds(), now)),
        terminating: R::TELLS_TERMINATING.then(|| number(terminating)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Outline, at, object, outline};
    use serde_json::{Value, json};

    fn sets() -> Replicas<ReplicaSet> {
        Replicas::new()
    }

    fn set(replicas: i32) -> Value {
        json!({"metadata": {"name": "web", "namespace": "default", "uid": "rs", "generation": 2, "resourceVersion": "7"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}},
            "status": {"replicas": 0}})
    }

    fn pod(name: &str, owner: Option<&str>, ready: bool) -> Value {
        let owners: Vec<Value> = owner
            .map(|uid| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": uid, "controller": true}))
            .into_iter()
            .collect();
        json!({"metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": "3",
                "labels": {"app": "web"}, "ownerReferences": owners},
            "spec": {"containers": [], "nodeName": "n1"},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"},
                "lastTransitionTime": "1970-01-01T00:00:00Z"}]}})
    }

    fn check(set: Value, pods: &[Value], expected: &[&str]) -> Vec<Outline> {
        let mut view = View::default();
        view.replica_sets.insert(object(set));
        for pod in pods {
            view.pods.insert(object(pod.clone()));
        }
        let plan = sets().plan(&view, &Key::new("default", "web"), at(100));
        let outlines = outline(&plan);
        let lines: Vec<_> = outlines.iter().map(|outline| outline.line.clone()).collect();
        assert_eq!(lines, expected);
        outlines
    }

    #[test]
    fn too_few_too_many_and_enough() {
        check(set(2), &[], &["create Pod default/web-", "create Pod default/web-"]);
        let pods = [pod("a", Some("rs"), true), pod("b", Some("rs"), false)];
        check(set(1), &pods, &["delete Pod default/b"]);
        let written = check(set(2), &pods, &["status ReplicaSet default/web"]);
        let status = &written[0].body["status"];
        assert_eq!(status["replicas"], 2);
        assert_eq!(status["readyReplicas"], 1);
        assert_eq!(status["availableReplicas"], 1);
        assert_eq!(status["observedGeneration"], 2);
    }

    #[test]
    fn a_finished_pod_does_not_count_and_a_terminating_one_is_only_counted() {
        let mut failed = pod("a", Some("rs"), false);
        failed["status"]["phase"] = json!("Failed");
        let mut leaving = pod("b", Some("rs"), true);
        leaving["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:00Z");
        check(set(1), &[failed.clone(), leaving.clone()], &["create Pod default/web-"]);
        let written = check(set(0), &[failed, leaving], &["status ReplicaSet default/web"]);
        assert_eq!(written[0].body["status"]["terminatingReplicas"], 1);
    }

    #[test]
    fn strays_are_adopted_and_those_that_no_longer_match_are_let_go() {
        check(set(1), &[pod("a", None, true)], &["patch Pod default/a"]);
        let mut other = pod("b", Some("rs"), true);
        other["metadata"]["labels"] = json!({"app": "other"});
        let outlines = check(set(1), &[other], &["patch Pod default/b"]);
        assert_eq!(outlines[0].body["metadata"]["ownerReferences"], json!([]));
        let mut stranger = pod("c", Some("someone-else"), true);
        stranger["metadata"]["namespace"] = json!("default");
        check(set(0), &[stranger], &["status ReplicaSet default/web"]);
    }

    #[test]
    fn a_set_that_is_being_deleted_only_reports() {
        let mut leaving = set(3);
        leaving["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:00Z");
        check(leaving, &[], &["status ReplicaSet default/web"]);
    }

    #[test]
    fn a_refusal_becomes_a_condition_until_it_is_over() {
        let mut view = View::default();
        view.replica_sets.insert(object(set(2)));
        let (key, name) = (Key::new("default", "web"), sets().name());
        let failure = Failure { reason: "FailedCreate", message: "exceeded quota".to_owned() };
        view.memory.attempted(name, &key, Some(failure));
        let outlines = outline(&sets().plan(&view, &key, at(100)));
        let status = outlines.last().expect("a status");
        assert_eq!(status.body["status"]["conditions"][0]["reason"], "FailedCreate");
        assert_eq!(outlines.len(), 3, "it keeps trying");
        let mut settled = set(0);
        settled["status"]["conditions"] =
            json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}]);
        view.replica_sets.insert(object(settled));
        let outlines = outline(&sets().plan(&view, &key, at(100)));
        assert_eq!(outlines[0].body["status"].get("conditions"), None);
    }

    #[test]
    fn minimum_ready_time_brings_a_later_look() {
        let mut view = View::default();
        let mut patient = set(1);
        patient["spec"]["minReadySeconds"] = json!(120);
        view.replica_sets.insert(object(patient));
        view.pods.insert(object(pod("a", Some("rs"), true)));
        let plan = sets().plan(&view, &Key::new("default", "web"), at(100));
        assert_eq!(outline(&plan)[0].body["status"]["availableReplicas"], 0);
        assert_eq!(plan.again, Some(at(120)));
    }

    #[test]
    fn those_go_first_that_hurt_least() {
        let mut unbound = pod("unbound", Some("rs"), true);
        unbound["spec"] = json!({"containers": []});
        let mut cheap = pod("cheap", Some("rs"), true);
        cheap["metadata"]["annotations"] = json!({"controller.kubernetes.io/pod-deletion-cost": "-5"});
        let pods = [pod("plain", Some("rs"), true), cheap, unbound, pod("sick", Some("rs"), false)];
        check(set(1), &pods, &["delete Pod default/unbound", "delete Pod default/sick", "delete Pod default/cheap"]);
    }
}
