//! Owner references, finalizers, annotations and keys of any object.

use crate::framework::{Action, Change, Key, Kind, Object, Target};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    Metadata,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use serde_json::json;
use std::collections::BTreeMap;

/// The uid, or nothing.
pub(crate) fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// The name, or nothing.
pub(crate) fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// The namespace, or nothing.
pub(crate) fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or_default()
}

/// Whether deletion was requested.
pub(crate) fn deleting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

/// When it was created.
pub(crate) fn created(meta: &ObjectMeta) -> Timestamp {
    meta.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

/// The generation of the spec.
pub(crate) fn generation(meta: &ObjectMeta) -> i64 {
    meta.generation.unwrap_or(0)
}

/// A label's value.
pub(crate) fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

/// An annotation's value.
pub(crate) fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Labels, or none.
pub(crate) fn labels(meta: &ObjectMeta) -> &BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    meta.labels.as_ref().unwrap_or(&NONE)
}

/// Whether a finalizer is set.
pub(crate) fn has_finalizer(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|have| have == finalizer)
}

/// Sets or removes a finalizer, at exactly this version.
pub(crate) fn set_finalizer(kind: Kind, meta: &ObjectMeta, finalizer: &str, present: bool) -> Action {
    let mut finalizers: Vec<&str> = meta.finalizers.iter().flatten().map(String::as_str).collect();
    finalizers.retain(|have| *have != finalizer);
    if present {
        finalizers.push(finalizer);
    }
    Action::patch(Target::exact(kind, meta), json!({"metadata": {"finalizers": finalizers}}))
}

/// The controlling owner.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|reference| reference.controller == Some(true))
}

/// A controlling owner reference to the object that `meta` describes.
pub(crate) fn controlled_by(kind: Kind, meta: &ObjectMeta) -> OwnerReference {
    let resource = kind.resource();
    OwnerReference {
        api_version: resource.api_version.to_string(),
        kind: resource.kind.to_string(),
        name: name(meta).to_owned(),
        uid: uid(meta).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The key of the controlling owner, if it is of `kind`.
pub(crate) fn owner_key(meta: &ObjectMeta, kind: Kind) -> Option<Key> {
    let owner = controller_of(meta).filter(|owner| *owner.kind == *kind.resource().kind)?;
    Some(Key::new(namespace(meta), &owner.name))
}

/// Adds the keys that a change makes worth a look: of the object itself, or of its controlling owner before and after.
pub(crate) fn own_or_owner_keys(change: &Change, kind: Kind, keys: &mut Vec<Key>) {
    if change.object().kind() == kind {
        keys.push(Key::of(change.object().meta()));
        return;
    }
    for key in change.sides().filter_map(|side| owner_key(side.meta(), kind)) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
}

/// The object's latest state when nobody controls it.
pub(crate) fn orphan(change: &Change) -> Option<&Object> {
    change.new.as_ref().filter(|object| controller_of(object.meta()).is_none())
}

/// Takes an orphan over: adds the controlling owner reference, at exactly this version.
pub(crate) fn adopt<K: Metadata<Ty = ObjectMeta>>(kind: Kind, object: &K, owner: OwnerReference) -> Action {
    let mut owners = object.metadata().owner_references.clone().unwrap_or_default();
    owners.push(owner);
    Action::patch(Target::exact(kind, object.metadata()), json!({"metadata": {"ownerReferences": owners}}))
}

/// Lets an object go: removes the owner reference to `owner_uid`, at exactly this version.
pub(crate) fn release<K: Metadata<Ty = ObjectMeta>>(kind: Kind, object: &K, owner_uid: &str) -> Action {
    let owners: Vec<_> =
        object.metadata().owner_references.iter().flatten().filter(|owner| owner.uid != owner_uid).collect();
    Action::patch(Target::exact(kind, object.metadata()), json!({"metadata": {"ownerReferences": owners}}))
}

/// `at` plus seconds, never out of range.
pub(crate) fn after(at: Timestamp, seconds: i64) -> Timestamp {
    at.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}
