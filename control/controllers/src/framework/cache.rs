//! The cache of one kind: ordered, indexed by controlling owner and by one further value, fed by a watch and by
//! own writes.
//!
//! Own writes are applied as soon as the server answered, so that the next decision sees them; what the watch
//! still delivers from before them is recognised by its older resource version (an integer that grows, as the
//! API guarantees since 1.35) and ignored. It never asks the server anything.

use super::kinds::Key;
use k8s_openapi::{Metadata, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// One object's change.
#[derive(Clone, Debug)]
pub struct Update<K> {
    /// Before.
    pub old: Option<Arc<K>>,
    /// After.
    pub new: Option<Arc<K>>,
}

/// See the module.
#[derive(Debug)]
pub struct Cache<K> {
    objects: BTreeMap<Key, Arc<K>>,
    by_owner: BTreeMap<String, BTreeSet<Key>>,
    by_index: BTreeMap<String, BTreeSet<Key>>,
    index: fn(&K) -> Option<String>,
    /// Objects of the list in progress.
    loading: Option<BTreeMap<Key, Arc<K>>>,
    /// Own writes since the list in progress began: they may be younger than the list.
    fresh: BTreeSet<Key>,
    /// Own deletions that the watch has not confirmed: key, uid, resource version at deletion.
    gone: BTreeMap<Key, (String, u64)>,
    /// The newest resource version that the watch has delivered.
    seen: u64,
    synced: bool,
}

/// The resource version as a number; 0 when it is absent or opaque.
fn version(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn owner(meta: &ObjectMeta) -> &str {
    let references = meta.owner_references.as_deref().unwrap_or_default();
    references.iter().find(|reference| reference.controller == Some(true)).map_or("", |reference| &reference.uid)
}

impl<K: Metadata<Ty = ObjectMeta>> Cache<K> {
    /// An empty cache with a further index.
    #[must_use]
    pub fn new(index: fn(&K) -> Option<String>) -> Self {
        Self {
            objects: BTreeMap::new(),
            by_owner: BTreeMap::new(),
            by_index: BTreeMap::new(),
            index,
            loading: None,
            fresh: BTreeSet::new(),
            gone: BTreeMap::new(),
            seen: 0,
            synced: false,
        }
    }

    /// The object at `key`.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.objects.get(key)
    }

    /// The object `name` in `namespace`.
    #[must_use]
    pub fn find(&self, namespace: &str, name: &str) -> Option<&Arc<K>> {
        self.objects.get(&Key::new(namespace, name))
    }

    /// Every object, by namespace and name.
    pub fn all(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values()
    }

    /// The objects of a namespace, by name.
    pub fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<K>> {
        self.objects
            .range(Key::new(namespace, "")..)
            .take_while(move |(key, _)| key.namespace == namespace)
            .map(|(_, object)| object)
    }

    /// The objects whose controlling owner has this uid.
    pub fn owned_by<'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        self.by_owner.get(uid).into_iter().flatten().filter_map(|key| self.objects.get(key))
    }

    /// The objects of a namespace that have no controlling owner.
    pub fn orphans<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<K>> {
        let keys = self.by_owner.get("").map(|keys| keys.range(Key::new(namespace, "")..));
        keys.into_iter()
            .flatten()
            .take_while(move |key| key.namespace == namespace)
            .filter_map(|key| self.objects.get(key))
    }

    /// The objects whose further index has this value.
    pub fn indexed<'a>(&'a self, value: &str) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        self.by_index.get(value).into_iter().flatten().filter_map(|key| self.objects.get(key))
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Whether a first list is complete.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// Puts an object in, for tests and simulations of a view.
    pub fn insert(&mut self, object: K) {
        self.put(Arc::new(object));
        self.synced = true;
    }

    pub(super) fn restart(&mut self) {
        self.loading = Some(BTreeMap::new());
        self.fresh.clear();
    }

    pub(super) fn list(&mut self, object: Arc<K>) {
        self.loading.get_or_insert_default().insert(Key::of(object.metadata()), object);
    }

    pub(super) fn complete(&mut self) -> Vec<Update<K>> {
        let listed = self.loading.take().unwrap_or_default();
        let newest = listed.values().map(|object| version(object.metadata())).max().unwrap_or(0);
        self.seen = self.seen.max(newest);
        let younger =
            |(key, object): &(&Key, &Arc<K>)| self.fresh.contains(*key) && version(object.metadata()) > newest;
        let absent = self.objects.iter().filter(|known| !listed.contains_key(known.0) && !younger(known));
        let absent: Vec<Key> = absent.map(|(key, _)| key.clone()).collect();
        let mut updates: Vec<Update<K>> =
            absent.iter().filter_map(|key| self.drop(key)).map(|old| Update { old: Some(old), new: None }).collect();
        updates.extend(listed.into_values().filter_map(|object| self.apply(object)));
        self.fresh.clear();
        self.synced = true;
        updates
    }

    pub(super) fn apply(&mut self, object: Arc<K>) -> Option<Update<K>> {
        let key = Key::of(object.metadata());
        self.seen = self.seen.max(version(object.metadata()));
        let uid = object.metadata().uid.as_deref().unwrap_or_default();
        if let Some((gone, at)) = self.gone.get(&key) {
            if gone == uid && version(object.metadata()) <= *at {
                return None;
            }
            self.gone.remove(&key);
        }
        let known = self.objects.get(&key);
        if known
            .is_some_and(|known| same_object(known, &object) && version(known.metadata()) >= version(object.metadata()))
        {
            // Equal versions carry equal content; a server with opaque versions gives 0 on both sides.
            if version(object.metadata()) != 0 {
                return None;
            }
        }
        let old = self.put(Arc::clone(&object));
        Some(Update { old, new: Some(object) })
    }

    pub(super) fn delete(&mut self, object: &Arc<K>) -> Option<Update<K>> {
        let key = Key::of(object.metadata());
        self.seen = self.seen.max(version(object.metadata()));
        self.gone.remove(&key);
        let known = self.objects.get(&key)?;
        if !same_object(known, object) {
            return None;
        }
        let old = self.drop(&key)?;
        Some(Update { old: Some(old), new: None })
    }

    pub(super) fn wrote(&mut self, object: Arc<K>) -> Option<Update<K>> {
        let meta = object.metadata();
        let key = Key::of(meta);
        // Absent although the watch is past this write: it was removed since, and the answer came late.
        let known = self.objects.get(&key).map_or(self.seen, |known| version(known.metadata()));
        if version(meta) <= known || !self.synced {
            return None;
        }
        if self.loading.is_some() {
            self.fresh.insert(key);
        }
        let old = self.put(Arc::clone(&object));
        Some(Update { old, new: Some(object) })
    }

    pub(super) fn removed(&mut self, key: &Key, uid: &str) -> Option<Update<K>> {
        let known = self.objects.get(key)?;
        if known.metadata().uid.as_deref() != Some(uid) {
            return None;
        }
        self.gone.insert(key.clone(), (uid.to_owned(), version(known.metadata())));
        let old = self.drop(key)?;
        Some(Update { old: Some(old), new: None })
    }

    fn put(&mut self, object: Arc<K>) -> Option<Arc<K>> {
        let key = Key::of(object.metadata());
        let old = self.drop(&key);
        self.by_owner.entry(owner(object.metadata()).to_owned()).or_default().insert(key.clone());
        if let Some(value) = (self.index)(&object) {
            self.by_index.entry(value).or_default().insert(key.clone());
        }
        self.objects.insert(key, object);
        old
    }

    fn drop(&mut self, key: &Key) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        forget(&mut self.by_owner, owner(old.metadata()), key);
        if let Some(value) = (self.index)(&old) {
            forget(&mut self.by_index, &value, key);
        }
        Some(old)
    }
}

fn same_object<K: Metadata<Ty = ObjectMeta>>(a: &Arc<K>, b: &Arc<K>) -> bool {
    a.metadata().uid == b.metadata().uid
}

fn forget(index: &mut BTreeMap<String, BTreeSet<Key>>, value: &str, key: &Key) {
    if let Some(keys) = index.get_mut(value) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;

    fn pod(name: &str, uid: &str, version: u64) -> Arc<Pod> {
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("default".to_owned()),
            uid: Some(uid.to_owned()),
            resource_version: Some(version.to_string()),
            ..ObjectMeta::default()
        };
        Arc::new(Pod { metadata, ..Pod::default() })
    }

    fn cache(objects: &[(&str, &str, u64)]) -> Cache<Pod> {
        let mut cache = Cache::new(|_| None);
        cache.restart();
        for (name, uid, version) in objects {
            cache.list(pod(name, uid, *version));
        }
        assert_eq!(cache.complete().len(), objects.len());
        cache
    }

    #[test]
    fn what_the_watch_says_from_before_an_own_write_is_ignored() {
        let mut cache = cache(&[("a", "1", 5)]);
        assert!(cache.wrote(pod("a", "1", 9)).is_some());
        assert!(cache.apply(pod("a", "1", 7)).is_none(), "older than the own write");
        assert!(cache.apply(pod("a", "1", 9)).is_none(), "the own write's echo");
        assert!(cache.apply(pod("a", "1", 10)).is_some());
    }

    #[test]
    fn an_answer_that_comes_after_the_removal_does_not_bring_the_object_back() {
        let mut cache = cache(&[("a", "1", 5)]);
        assert!(cache.delete(&pod("a", "1", 8)).is_some());
        assert!(cache.wrote(pod("a", "1", 7)).is_none(), "the write before the removal");
        assert!(cache.wrote(pod("a", "2", 9)).is_some(), "a new object of the same name");
    }

    #[test]
    fn a_list_younger_than_an_own_write_is_right_about_it() {
        let mut cache = cache(&[("a", "1", 5)]);
        cache.restart();
        assert!(cache.wrote(pod("b", "2", 6)).is_some());
        cache.list(pod("a", "1", 7));
        let gone: Vec<_> = cache.complete().into_iter().filter(|update| update.new.is_none()).collect();
        assert_eq!(gone.len(), 1, "removed before the list was made");
    }

    #[test]
    fn an_own_deletion_stays_until_the_name_is_used_again() {
        let mut cache = cache(&[("a", "1", 5)]);
        assert!(cache.removed(&Key::new("default", "a"), "1").is_some());
        assert!(cache.apply(pod("a", "1", 5)).is_none(), "not resurrected");
        assert!(cache.apply(pod("a", "2", 8)).is_some(), "a successor of the same name");
        assert!(cache.removed(&Key::new("default", "a"), "1").is_none(), "another object");
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn a_new_list_removes_what_it_lacks_but_keeps_writes_made_meanwhile() {
        let mut cache = cache(&[("a", "1", 5), ("b", "2", 6)]);
        cache.restart();
        assert!(cache.wrote(pod("c", "3", 20)).is_some());
        cache.list(pod("b", "2", 6));
        let gone: Vec<_> = cache.complete().into_iter().filter(|update| update.new.is_none()).collect();
        assert_eq!(gone.len(), 1);
        let names: Vec<_> = cache.all().filter_map(|pod| pod.metadata.name.clone()).collect();
        assert_eq!(names, ["b", "c"]);
    }
}
