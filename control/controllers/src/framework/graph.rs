//! The graph of ownership over every object of a cluster: who owns whom, who waits to be deleted. It is fed by the
//! caches and, for all other kinds, by watches of metadata only. It never decides; the garbage collector does.

use super::kinds::{Key, Resource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::{BTreeMap, BTreeSet};

/// What the graph knows of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its resource.
    pub resource: Resource,
    /// Where it lives.
    pub key: Key,
    /// Its version when last seen.
    pub resource_version: String,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
    /// Its finalizers.
    pub finalizers: Vec<String>,
    /// Whether its deletion was requested.
    pub deleting: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Graph {
    members: BTreeMap<String, Member>,
    dependents: BTreeMap<String, BTreeSet<String>>,
    counts: BTreeMap<(Resource, String), usize>,
    dirty: BTreeSet<String>,
    resources: Vec<Resource>,
    complete: bool,
}

impl Graph {
    /// The object with this uid.
    #[must_use]
    pub fn get(&self, uid: &str) -> Option<&Member> {
        self.members.get(uid)
    }

    /// The objects that name `uid` as an owner.
    pub fn dependents<'a>(&'a self, uid: &str) -> impl Iterator<Item = (&'a String, &'a Member)> + use<'a> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.members.get_key_value(uid))
    }

    /// How many objects of `plural` (with its group, as in `deployments.apps`) a namespace holds.
    #[must_use]
    pub fn count(&self, group_resource: &str, namespace: &str) -> usize {
        let (plural, group) = group_resource.split_once('.').unwrap_or((group_resource, ""));
        let found = self.resources.iter().filter(|resource| &*resource.plural == plural && resource.group() == group);
        found.map(|resource| self.counts.get(&(resource.clone(), namespace.to_owned())).copied().unwrap_or(0)).sum()
    }

    /// Every resource that the server offers and that can be listed, watched and deleted.
    #[must_use]
    pub fn resources(&self) -> &[Resource] {
        &self.resources
    }

    /// The resource of an owner reference.
    #[must_use]
    pub fn resource(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        self.resources.iter().find(|resource| &*resource.kind == kind && resource.group() == group)
    }

    /// Whether every resource's first list is complete: before that, an absent owner means nothing.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.complete
    }

    /// Says which resources exist. Who is owned by an object of a resource that was not known until here deserves a look:
    /// that the owner is gone could not be found out before.
    pub fn set_resources(&mut self, resources: Vec<Resource>) {
        let known: BTreeSet<&Resource> = self.resources.iter().collect();
        let new: Vec<&Resource> = resources.iter().filter(|resource| !known.contains(resource)).collect();
        let is_new = |owner: &OwnerReference| {
            let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
            new.iter().any(|resource| *resource.kind == *owner.kind && resource.group() == group)
        };
        let affected = self.members.iter().filter(|(_, member)| member.owners.iter().any(is_new));
        let affected: Vec<String> = affected.map(|(uid, _)| uid.clone()).collect();
        self.dirty.extend(affected);
        self.resources = resources;
    }

    /// Says whether all first lists are complete.
    pub fn set_complete(&mut self, complete: bool) {
        self.complete = complete;
    }

    /// Takes in an object's metadata as it is.
    pub fn apply(&mut self, resource: &Resource, meta: &ObjectMeta) {
        let Some(uid) = meta.uid.clone() else { return };
        let member = Member {
            resource: resource.clone(),
            key: Key::of(meta),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
        };
        if !self.worth_a_look(&uid, &member) {
            if let Some(known) = self.members.get_mut(&uid) {
                known.resource_version = member.resource_version;
            }
            return;
        }
        // A former owner may wait for nothing else than to be let go.
        if let Some(before) = self.unlink(&uid) {
            self.dirty.extend(before.owners.into_iter().map(|owner| owner.uid));
        }
        for owner in &member.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
            self.dirty.insert(owner.uid.clone());
        }
        *self.counts.entry((resource.clone(), member.key.namespace.clone())).or_default() += 1;
        self.members.insert(uid.clone(), member);
        self.dirty.insert(uid);
    }

    /// Takes in that an object is gone.
    pub fn remove(&mut self, uid: &str) {
        if let Some(member) = self.unlink(uid) {
            self.dirty.extend(member.owners.into_iter().map(|owner| owner.uid));
            self.dirty.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        }
    }

    /// The uids of `resource` that are known, to find those that a new list lacks.
    #[must_use]
    pub fn known(&self, resource: &Resource) -> Vec<String> {
        let of_resource = self.members.iter().filter(|(_, member)| member.resource == *resource);
        of_resource.map(|(uid, _)| uid.clone()).collect()
    }

    /// The uids that deserve a look; empties the list.
    pub fn take_dirty(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.dirty)
    }

    /// Most changes (a status, a label) touch nothing that ownership depends on.
    fn worth_a_look(&self, uid: &str, member: &Member) -> bool {
        self.members.get(uid).is_none_or(|known| {
            known.owners != member.owners || known.finalizers != member.finalizers || known.deleting != member.deleting
        })
    }

    fn unlink(&mut self, uid: &str) -> Option<Member> {
        let member = self.members.remove(uid)?;
        for owner in &member.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
        let place = (member.resource.clone(), member.key.namespace.clone());
        if let Some(count) = self.counts.get_mut(&place) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&place);
            }
        }
        Some(member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::Kind;

    fn owned(uid: &str, owners: &[&str]) -> ObjectMeta {
        let reference = |uid: &&str| OwnerReference { uid: (*uid).to_owned(), ..OwnerReference::default() };
        ObjectMeta {
            uid: Some(uid.to_owned()),
            owner_references: Some(owners.iter().map(reference).collect()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn a_resource_that_becomes_known_has_those_it_owns_looked_at() {
        let mut graph = Graph::default();
        let mut meta = owned("x", &["a"]);
        for owner in meta.owner_references.iter_mut().flatten() {
            owner.api_version = "apps/v1".to_owned();
            owner.kind = "Deployment".to_owned();
        }
        graph.apply(&Kind::ReplicaSet.resource(), &meta);
        graph.apply(&Kind::ReplicaSet.resource(), &owned("y", &["b"]));
        graph.set_resources(vec![Kind::Pod.resource()]);
        graph.take_dirty();
        for expected in [&["x"][..], &[]] {
            graph.set_resources(vec![Kind::Pod.resource(), Kind::Deployment.resource()]);
            assert_eq!(graph.take_dirty().into_iter().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn owners_before_and_after_a_change_are_looked_at() {
        for (before, after, dirty) in [
            (&[][..], &["a"][..], &["a", "x"][..]),
            (&["a"], &[], &["a", "x"]),
            (&["a", "b"], &["b", "c"], &["a", "b", "c", "x"]),
            (&["a"], &["a"], &[]),
        ] {
            let mut graph = Graph::default();
            graph.apply(&Kind::Pod.resource(), &owned("x", before));
            graph.take_dirty();
            graph.apply(&Kind::Pod.resource(), &owned("x", after));
            assert_eq!(graph.take_dirty().into_iter().collect::<Vec<_>>(), dirty, "{before:?} {after:?}");
        }
    }
}
