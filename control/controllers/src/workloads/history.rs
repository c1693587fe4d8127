//! The history of a workload's template as controller revisions, in the form that `kubectl rollout` reads. Pure.

use crate::{
    common::{
        names::hash_of,
        objects::{controlled_by, name, namespace, uid},
    },
    framework::{Action, Kind, Target, View},
};
use k8s_openapi::{
    api::{apps::v1::ControllerRevision, core::v1::PodTemplateSpec},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, runtime::RawExtension},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

pub(super) const HASH_LABEL: &str = "controller.kubernetes.io/hash";
/// The label by which pods name their revision.
pub(super) const REVISION_LABEL: &str = "controller-revision-hash";

/// What the history says about the present template.
pub(super) enum Present<'a> {
    /// This revision holds it.
    Known(&'a Arc<ControllerRevision>),
    /// First these actions.
    Missing(Vec<Action>),
    /// Another template has the name that this one would get.
    Collision,
}

/// The revisions of an owner, oldest first.
pub(super) fn revisions<'a>(view: &'a View, owner: &ObjectMeta) -> Vec<&'a Arc<ControllerRevision>> {
    let mut found: Vec<_> = view.controller_revisions.owned_by(uid(owner)).collect();
    found.sort_by_key(|revision| (revision.revision, name(&revision.metadata)));
    found
}

/// A template as the patch that restores it.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The template that a revision holds.
pub(super) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0["spec"]["template"].clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// Finds the revision of `template`, or says how to make it the newest.
pub(super) fn present<'a>(
    view: &'a View,
    kind: Kind,
    owner: &ObjectMeta,
    template: &PodTemplateSpec,
    labels: &BTreeMap<String, String>,
    collisions: Option<i32>,
) -> Present<'a> {
    let known = revisions(view, owner);
    let wanted = data(template);
    let newest = known.last().map_or(0, |revision| revision.revision);
    let equal = known.iter().rev().find(|revision| revision.data.as_ref().is_some_and(|data| data.0 == wanted));
    if let Some(equal) = equal {
        if equal.revision == newest {
            return Present::Known(equal);
        }
        let target = Target::exact(Kind::ControllerRevision, &equal.metadata);
        return Present::Missing(vec![Action::patch(target, json!({"revision": newest + 1}))]);
    }
    let hash = hash_of(template, collisions);
    let revision_name = format!("{}-{hash}", name(owner));
    if view.controller_revisions.find(namespace(owner), &revision_name).is_some() {
        return Present::Collision;
    }
    let mut labels = labels.clone();
    if kind == Kind::DaemonSet {
        labels.insert(REVISION_LABEL.to_owned(), hash.clone());
    }
    labels.insert(HASH_LABEL.to_owned(), hash);
    let revision = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(revision_name),
            namespace: owner.namespace.clone(),
            labels: Some(labels),
            annotations: owner.annotations.clone().map(|mut annotations| {
                annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
                annotations
            }),
            owner_references: Some(vec![controlled_by(kind, owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(wanted)),
        revision: newest + 1,
    };
    Present::Missing(vec![Action::create(revision)])
}

/// Deletes the oldest revisions beyond `limit` that nothing uses.
pub(super) fn truncate(
    view: &View,
    owner: &ObjectMeta,
    limit: i32,
    in_use: impl Fn(&ControllerRevision) -> bool,
) -> Vec<Action> {
    let idle: Vec<_> = revisions(view, owner).into_iter().filter(|revision| !in_use(revision)).collect();
    let excess = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    let old = idle.into_iter().take(excess);
    old.map(|revision| Action::delete(Target::of(Kind::ControllerRevision, &revision.metadata))).collect()
}
