//! The garbage collector: deletes what lost all its owners, waits for dependents where deletion is in the foreground,
//! and cuts them loose where they shall stay. An owner counts as gone only when the server says so at that moment.

use crate::framework::{
    Action, Answer, Change, Controller, Key, Kind, Member, Note, Plan, Propagation, Question, Resource, Target, Tone,
    View, Write,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::OwnerReference};
use serde_json::json;
use std::collections::BTreeSet;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// How old an answer about an absent owner may be.
const FRESH: SignedDuration = SignedDuration::from_secs(5);
/// Objects that are followed to find a circle of owners.
const MAX_CIRCLE: usize = 10_000;
/// How long to wait while not every resource is listed.
const PATIENCE: SignedDuration = SignedDuration::from_secs(1);

/// See the module. Its keys are uids.
#[derive(Debug)]
pub(crate) struct GarbageCollector;

impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        "garbage-collector-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("*", "deleted after its owners"), ("*", "metadata.finalizers[foregroundDeletion, orphan]")]
    }

    fn keys(&self, _view: &View, _change: &Change, _keys: &mut Vec<Key>) {}

    fn follows_graph(&self) -> bool {
        true
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let Some(member) = view.graph.get(&key.name) else { return Plan::none() };
        let waits_for_dependents = member.deleting && has(member, FOREGROUND);
        let lets_dependents_go = member.deleting && has(member, ORPHAN);
        if member.owners.is_empty() && !waits_for_dependents && !lets_dependents_go {
            return Plan::none();
        }
        if !view.graph.complete() {
            let mut plan = Plan::none();
            plan.look_again(now.saturating_add(PATIENCE).unwrap_or(Timestamp::MAX));
            return plan;
        }
        if lets_dependents_go {
            return orphan_dependents(view, &key.name, member);
        }
        if waits_for_dependents {
            return delete_dependents(view, &key.name, member, now);
        }
        if member.deleting { Plan::none() } else { attend(view, &key.name, member, now) }
    }
}

fn has(member: &Member, finalizer: &str) -> bool {
    member.finalizers.iter().any(|have| have == finalizer)
}

fn target(uid: &str, member: &Member) -> Target {
    Target {
        resource: member.resource.clone(),
        key: member.key.clone(),
        uid: uid.to_owned(),
        resource_version: member.resource_version.clone(),
    }
}

fn without_finalizer(uid: &str, member: &Member, finalizer: &str) -> Action {
    let rest: Vec<&String> = member.finalizers.iter().filter(|have| *have != finalizer).collect();
    Action::patch(target(uid, member), json!({"metadata": {"finalizers": rest}}))
}

fn with_owners(uid: &str, member: &Member, owners: &[&OwnerReference]) -> Action {
    Action::patch(target(uid, member), json!({"metadata": {"ownerReferences": owners}}))
}

/// Removes the owner from every dependent, then the finalizer.
fn orphan_dependents(view: &View, uid: &str, member: &Member) -> Plan {
    let mut plan = Plan::none();
    for (dependent, found) in view.graph.dependents(uid) {
        let rest: Vec<_> = found.owners.iter().filter(|owner| owner.uid != uid).collect();
        plan.push(with_owners(dependent, found, &rest));
    }
    if plan.actions.is_empty() {
        plan.push(without_finalizer(uid, member, ORPHAN));
    }
    plan
}

/// Deletes the dependents that block the owner; when there is none, removes the finalizer.
fn delete_dependents(view: &View, uid: &str, member: &Member, now: Timestamp) -> Plan {
    let blocking: Vec<_> = view.graph.dependents(uid).filter(|(_, dependent)| blocks(dependent, uid)).collect();
    if blocking.is_empty() {
        return vec![without_finalizer(uid, member, FOREGROUND)].into();
    }
    if waits_for_itself(view, uid) {
        return vec![unblocked(uid, member)].into();
    }
    let mut plan = Plan::none();
    for (dependent, found) in blocking.into_iter().filter(|(_, dependent)| !dependent.deleting) {
        if found.owners.iter().all(|owner| owner.uid == uid || going(view, owner)) {
            plan.push(delete(dependent, found, Propagation::Foreground));
        } else {
            // One with another, living owner only loses this one.
            plan.actions.extend(attend(view, dependent, found, now).actions);
        }
    }
    plan
}

/// Whether a deletion in the foreground waits, over others of its kind, for itself.
fn waits_for_itself(view: &View, uid: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut next = vec![uid.to_owned()];
    while let Some(owner) = next.pop().filter(|_| seen.len() < MAX_CIRCLE) {
        let waiting = view.graph.dependents(&owner).filter(|(_, found)| found.deleting && has(found, FOREGROUND));
        for (dependent, _) in waiting.filter(|(_, found)| blocks(found, &owner)) {
            if dependent == uid {
                return true;
            }
            if seen.insert(dependent.clone()) {
                next.push(dependent.clone());
            }
        }
    }
    false
}

/// Has no owner wait for this dependent any more.
fn unblocked(uid: &str, member: &Member) -> Action {
    let mut owners = member.owners.clone();
    for owner in &mut owners {
        owner.block_owner_deletion = Some(false);
    }
    with_owners(uid, member, &owners.iter().collect::<Vec<_>>())
}

fn blocks(dependent: &Member, owner: &str) -> bool {
    dependent.owners.iter().any(|reference| reference.uid == owner && reference.block_owner_deletion == Some(true))
}

/// Whether an owner is on its way out in the foreground.
fn going(view: &View, owner: &OwnerReference) -> bool {
    view.graph.get(&owner.uid).is_none_or(|member| member.deleting && has(member, FOREGROUND))
}

fn delete(uid: &str, member: &Member, propagation: Propagation) -> Action {
    Write::Delete { target: target(uid, member), propagation: Some(propagation), grace_seconds: None }.into()
}

enum Standing<'a> {
    Solid,
    Gone(&'a OwnerReference),
    /// Deleted in the foreground and waiting for this dependent.
    Waiting(&'a OwnerReference),
    Unknown(Question),
    /// Refers to something that cannot be looked up; the dependent stays.
    Unresolvable,
    /// A cluster-wide object cannot have an owner in a namespace.
    WrongNamespace(&'a OwnerReference),
}

fn standing<'a>(view: &View, member: &Member, owner: &'a OwnerReference, now: Timestamp) -> Standing<'a> {
    if let Some(found) = view.graph.get(&owner.uid) {
        let place_fits = found.key.namespace.is_empty() || found.key.namespace == member.key.namespace;
        if place_fits && *found.resource.kind == *owner.kind {
            let waiting = found.deleting && has(found, FOREGROUND) && owner.block_owner_deletion == Some(true);
            return if waiting { Standing::Waiting(owner) } else { Standing::Solid };
        }
    }
    let Some(resource) = view.graph.resource(&owner.api_version, &owner.kind) else { return Standing::Unresolvable };
    if resource.namespaced && member.key.namespace.is_empty() {
        return Standing::WrongNamespace(owner);
    }
    let question = Question::Uid { resource: resource.clone(), key: place(resource, member, owner) };
    let since = now.saturating_sub(FRESH).unwrap_or(Timestamp::MIN);
    match view.memory.answer(&question, since) {
        Some(Answer::Uid(found)) if found.as_deref() == Some(&owner.uid) => Standing::Solid,
        Some(Answer::Uid(_)) => Standing::Gone(owner),
        _ => Standing::Unknown(question),
    }
}

fn place(resource: &Resource, member: &Member, owner: &OwnerReference) -> Key {
    let namespace = if resource.namespaced { member.key.namespace.as_str() } else { "" };
    Key::new(namespace, &owner.name)
}

/// Decides about an object with owners.
fn attend(view: &View, uid: &str, member: &Member, now: Timestamp) -> Plan {
    let (mut solid, mut gone, mut waiting) = (false, Vec::new(), Vec::new());
    let mut plan = Plan::none();
    for owner in &member.owners {
        match standing(view, member, owner, now) {
            Standing::Solid | Standing::Unresolvable => solid = true,
            Standing::Gone(owner) => gone.push(owner),
            Standing::Waiting(owner) => waiting.push(owner),
            Standing::Unknown(question) => plan.push(Action::ask(question)),
            Standing::WrongNamespace(owner) => {
                solid = true;
                plan.push(Action::tell(wrong_namespace(uid, member, owner)));
            }
        }
    }
    let asks = plan.actions.iter().any(|action| matches!(action.write, Write::Ask(_)));
    if asks || (gone.is_empty() && waiting.is_empty()) {
        return plan;
    }
    if solid {
        let kept = |owner: &&OwnerReference| !gone.contains(owner) && !waiting.contains(owner);
        let rest: Vec<&OwnerReference> = member.owners.iter().filter(kept).collect();
        plan.push(with_owners(uid, member, &rest));
        return plan;
    }
    let has_dependents = view.graph.dependents(uid).next().is_some();
    let propagation = match () {
        () if has(member, ORPHAN) => Propagation::Orphan,
        () if has(member, FOREGROUND) || (!waiting.is_empty() && has_dependents) => Propagation::Foreground,
        () => Propagation::Background,
    };
    plan.push(delete(uid, member, propagation));
    plan
}

fn wrong_namespace(uid: &str, member: &Member, owner: &OwnerReference) -> Note {
    Note {
        regarding: ObjectReference {
            api_version: Some(member.resource.api_version.to_string()),
            kind: Some(member.resource.kind.to_string()),
            name: Some(member.key.name.clone()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        },
        tone: Tone::Warning,
        reason: "OwnerRefInvalidNamespace",
        message: format!(
            "ownerRef [{}/{}, name: {}, uid: {}] does not exist in namespace \"\"",
            owner.api_version, owner.kind, owner.name, owner.uid
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, outline};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

    struct World(View);

    impl World {
        fn new() -> Self {
            let mut view = View::default();
            view.graph.set_resources(vec![Kind::ReplicaSet.resource(), Kind::Pod.resource(), Kind::Node.resource()]);
            view.graph.set_complete(true);
            Self(view)
        }

        fn with(mut self, kind: Kind, uid: &str, owners: &[&str], finalizers: &[&str], deleting: bool) -> Self {
            let reference = |owner: &&str| OwnerReference {
                api_version: "apps/v1".to_owned(),
                kind: "ReplicaSet".to_owned(),
                name: (*owner).to_owned(),
                uid: (*owner).to_owned(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            };
            let meta = ObjectMeta {
                name: Some(uid.to_owned()),
                namespace: kind.resource().namespaced.then(|| "default".to_owned()),
                uid: Some(uid.to_owned()),
                resource_version: Some("1".to_owned()),
                owner_references: Some(owners.iter().map(reference).collect()),
                finalizers: Some(finalizers.iter().map(|finalizer| (*finalizer).to_owned()).collect()),
                deletion_timestamp: deleting.then_some(Time(at(0))),
                ..ObjectMeta::default()
            };
            self.0.graph.apply(&kind.resource(), &meta);
            self
        }

        fn absent(mut self, owner: &str) -> Self {
            let question = Question::Uid { resource: Kind::ReplicaSet.resource(), key: Key::new("default", owner) };
            self.0.memory.learn(question, at(100), Answer::Uid(None));
            self
        }

        fn check(&self, uid: &str, expected: &[&str]) -> Vec<crate::testing::Outline> {
            let outlines = outline(&GarbageCollector.plan(&self.0, &Key::new("", uid), at(101)));
            let lines: Vec<_> =
                outlines.iter().map(|outline| outline.line.split(" Uid").next().unwrap_or_default()).collect();
            assert_eq!(lines, expected);
            outlines
        }
    }

    #[test]
    fn an_absent_owner_is_asked_for_before_anything_is_deleted() {
        let world = World::new().with(Kind::Pod, "p", &["rs"], &[], false);
        world.check("p", &["ask"]);
        world.absent("rs").check("p", &["delete Pod default/p Background"]);
    }

    #[test]
    fn a_living_owner_keeps_its_dependent_and_the_dead_one_is_forgotten() {
        let world = World::new().with(Kind::ReplicaSet, "alive", &[], &[], false);
        let world =
            world.with(Kind::Pod, "p", &["alive"], &[], false).with(Kind::Pod, "q", &["alive", "dead"], &[], false);
        world.check("p", &[]);
        let outlines = world.absent("dead").check("q", &["patch Pod default/q"]);
        assert_eq!(outlines[0].body["metadata"]["ownerReferences"][0]["uid"], "alive");
        assert_eq!(outlines[0].body["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn foreground_waits_for_what_blocks() {
        let world = World::new().with(Kind::ReplicaSet, "rs", &[], &[FOREGROUND], true);
        let outlines = world.check("rs", &["patch ReplicaSet default/rs"]);
        assert_eq!(outlines[0].body["metadata"]["finalizers"], json!([]));
        let world = world.with(Kind::Pod, "p", &["rs"], &[], false);
        world.check("rs", &["delete Pod default/p Foreground"]);
        let world = world.with(Kind::Pod, "p", &["rs"], &["keep"], true);
        world.check("rs", &[]);
    }

    #[test]
    fn a_circle_of_owners_is_cut_once_all_of_it_waits() {
        let circle = |c_deleting: bool| {
            let finalizers: &[&str] = if c_deleting { &[FOREGROUND] } else { &[] };
            World::new()
                .with(Kind::ReplicaSet, "a", &["c"], &[FOREGROUND], true)
                .with(Kind::ReplicaSet, "b", &["a"], &[FOREGROUND], true)
                .with(Kind::ReplicaSet, "c", &["b"], finalizers, c_deleting)
        };
        circle(false).check("a", &[]);
        circle(false).check("b", &["delete ReplicaSet default/c Foreground"]);
        let outlines = circle(true).check("c", &["patch ReplicaSet default/c"]);
        let owners = &outlines[0].body["metadata"]["ownerReferences"];
        assert_eq!((&owners[0]["uid"], &owners[0]["blockOwnerDeletion"]), (&json!("b"), &json!(false)));
        // One that waits for the circle from outside is none of it.
        let world = circle(true).with(Kind::ReplicaSet, "out", &[], &[FOREGROUND], true);
        world.with(Kind::ReplicaSet, "a", &["c", "out"], &[FOREGROUND], true).check("out", &[]);
    }

    #[test]
    fn a_dependent_with_a_second_owner_survives_a_foreground_deletion() {
        let world = World::new().with(Kind::ReplicaSet, "rs", &[], &[FOREGROUND], true);
        let world =
            world.with(Kind::ReplicaSet, "other", &[], &[], false).with(Kind::Pod, "p", &["rs", "other"], &[], false);
        for look in ["rs", "p"] {
            let outlines = world.check(look, &["patch Pod default/p"]);
            assert_eq!(outlines[0].body["metadata"]["ownerReferences"][0]["uid"], "other");
            assert_eq!(outlines[0].body["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(1));
        }
    }

    #[test]
    fn an_owner_is_looked_at_again_when_a_dependent_was_let_go() {
        let world = World::new().with(Kind::ReplicaSet, "rs", &[], &[ORPHAN], true);
        let mut world = world.with(Kind::Pod, "p", &["rs"], &[], false);
        world.0.graph.take_dirty();
        let mut world = world.with(Kind::Pod, "p", &[], &[], false);
        assert!(world.0.graph.take_dirty().contains("rs"));
        world.check("rs", &["patch ReplicaSet default/rs"]);
    }

    #[test]
    fn orphans_are_cut_loose_before_the_owner_goes() {
        let world = World::new().with(Kind::ReplicaSet, "rs", &[], &[ORPHAN], true);
        world.check("rs", &["patch ReplicaSet default/rs"]);
        let world = world.with(Kind::Pod, "p", &["rs"], &[], false);
        let outlines = world.check("rs", &["patch Pod default/p"]);
        assert_eq!(outlines[0].body["metadata"]["ownerReferences"], json!([]));
    }

    #[test]
    fn a_cluster_wide_object_with_an_owner_in_a_namespace_stays() {
        let world = World::new().with(Kind::Node, "n", &["rs"], &[], false);
        let outlines = world.check("n", &["tell"]);
        assert!(outlines[0].notes[0].starts_with("OwnerRefInvalidNamespace"));
    }

    #[test]
    fn nothing_is_judged_before_every_list_is_complete() {
        let mut world = World::new().with(Kind::Pod, "p", &["rs"], &[], false).absent("rs");
        world.0.graph.set_complete(false);
        world.check("p", &[]);
    }
}
