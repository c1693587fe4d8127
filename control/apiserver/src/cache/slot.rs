//! One resource's place in the cache: its keys, its objects behind a lock, and watches of them.

use super::{
    entry::{Change, ChangeKind, Entry},
    place::Place,
    resource::{Objects, Selection},
    watcher::{Trigger, WatchEnd, Watcher},
};
use bytes::Bytes;
use parking_lot::RwLock;
use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
};
use timonel_api::GroupResource;
use timonel_store::{Event, KeyRange, KeyValue, Revision};

/// The segment under a cluster's prefix that holds API objects.
const OBJECTS: &[u8] = b"r/";
/// How the core group is written in keys.
const CORE: &[u8] = b"core";

/// What the keys of a resource's objects start with.
fn prefix(cluster: &[u8], resource: &GroupResource) -> Bytes {
    let group = if resource.group.is_empty() { CORE } else { resource.group.as_bytes() };
    Bytes::from([cluster, OBJECTS, group, b"/", resource.resource.as_bytes(), b"/"].concat())
}

/// The resource that a key belongs to.
pub(super) fn resource_of(cluster: &[u8], key: &[u8]) -> Option<GroupResource> {
    let rest = key.strip_prefix(cluster)?.strip_prefix(OBJECTS)?;
    let mut segments = rest.splitn(3, |byte| *byte == b'/');
    let (group, resource) = (segments.next()?, segments.next()?);
    segments.next()?;
    let text = |bytes| std::str::from_utf8(bytes).ok();
    Some(GroupResource {
        group: if group == CORE { "" } else { text(group)? }.into(),
        resource: text(resource)?.into(),
    })
}

/// The range that holds all API objects of a cluster.
pub(super) fn objects_range(cluster: &[u8]) -> KeyRange {
    KeyRange::prefix([cluster, OBJECTS].concat())
}

/// A watch cannot start that far back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {asked} ({oldest})")]
pub(crate) struct TooOld {
    pub(crate) asked: Revision,
    pub(crate) oldest: Revision,
}

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WatchStart {
    /// With what is there now.
    Now,
    /// After this revision.
    After(Revision),
}

/// One resource of one cluster.
#[derive(Debug)]
pub(crate) struct Slot {
    place: Arc<Place>,
    prefix: Bytes,
    index_field: Option<usize>,
    objects: RwLock<Objects>,
}

impl Slot {
    pub(super) fn new(
        place: &Arc<Place>,
        cluster: &[u8],
        key: &GroupResource,
        index_field: Option<usize>,
        revision: Revision,
    ) -> Self {
        let (place, prefix) = (place.clone(), prefix(cluster, key));
        let objects = Objects::load(&[], revision, prefix.len(), index_field);
        Self { place, prefix, index_field, objects: RwLock::new(objects) }
    }

    /// Where its objects lie, and how far the cache is with that.
    pub(crate) fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// The key of an object; `namespace` is empty for what belongs to the cluster.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> Bytes {
        let separator: &[u8] = if namespace.is_empty() { b"" } else { b"/" };
        Bytes::from([&self.prefix[..], namespace.as_bytes(), separator, name.as_bytes()].concat())
    }

    /// The keys of all objects, or of those in one namespace.
    pub(crate) fn range(&self, namespace: &str) -> KeyRange {
        if namespace.is_empty() {
            KeyRange::prefix(self.prefix.clone())
        } else {
            KeyRange::prefix(self.key(namespace, ""))
        }
    }

    /// One object.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.objects.read().get(&self.key(namespace, name))
    }

    /// The object of a key.
    pub(crate) fn get_key(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.objects.read().get(key)
    }

    /// The objects that a selection takes, in order of key.
    pub(crate) fn list(&self, selection: &Selection) -> Vec<Arc<Entry>> {
        self.objects.read().select(selection, &self.prefix)
    }

    /// How many objects there are.
    pub(crate) fn count(&self) -> usize {
        self.objects.read().count()
    }

    /// When an object last changed.
    pub(crate) fn last_change(&self) -> Revision {
        self.objects.read().last_change()
    }

    /// An entry from the store itself (a read of the past).
    pub(crate) fn entry(&self, stored: &KeyValue) -> Result<Arc<Entry>, super::StoredError> {
        Entry::new(stored, self.prefix.len()).map(Arc::new)
    }

    /// Starts a watch; with [`WatchStart::Now`] the objects that it starts with come along.
    pub(crate) fn watch(
        self: &Arc<Self>,
        selection: &Selection,
        start: WatchStart,
    ) -> Result<(Vec<Arc<Entry>>, ChangeStream), TooOld> {
        let mut objects = self.objects.write();
        let watcher = objects.register(selection);
        let stream = |backlog| ChangeStream {
            slot: self.clone(),
            trigger: selection.trigger.clone(),
            watcher: watcher.clone(),
            backlog,
        };
        match start {
            WatchStart::Now => Ok((objects.select(selection, &self.prefix), stream(VecDeque::new()))),
            WatchStart::After(asked) => match objects.since(asked, selection, &watcher) {
                Some(backlog) => Ok((Vec::new(), stream(backlog.into()))),
                None => {
                    objects.unregister(&selection.trigger, &watcher);
                    Err(TooOld { asked, oldest: objects.oldest() })
                }
            },
        }
    }

    pub(super) fn apply(&self, event: &Event, wakers: &mut Vec<Waker>) {
        self.objects.write().apply(event, wakers);
    }

    /// Starts over from what the store holds; every watch ends.
    pub(super) fn reset(&self, items: &[KeyValue], revision: Revision) {
        let new = Objects::load(items, revision, self.prefix.len(), self.index_field);
        let mut old = std::mem::replace(&mut *self.objects.write(), new);
        old.end(WatchEnd::Reset);
    }

    /// Ends every watch; clients list again.
    pub(crate) fn end_watches(&self) {
        self.objects.write().end(WatchEnd::Reset);
    }

    /// How many watches hear of every change.
    pub(crate) fn watchers(&self) -> usize {
        self.objects.read().watchers_of_all()
    }

    /// Whether anyone watches.
    #[cfg(test)]
    pub(crate) fn is_watched(&self) -> bool {
        self.objects.read().is_watched()
    }
}

/// A running watch; dropping it ends it.
#[derive(Debug)]
pub(crate) struct ChangeStream {
    slot: Arc<Slot>,
    trigger: Trigger,
    watcher: Arc<Watcher>,
    backlog: VecDeque<(Arc<Change>, ChangeKind)>,
}

impl ChangeStream {
    /// The next change that concerns this watch.
    pub(crate) fn poll_next(&mut self, context: &Context<'_>) -> Poll<Result<(Arc<Change>, ChangeKind), WatchEnd>> {
        match self.backlog.pop_front() {
            Some(next) => Poll::Ready(Ok(next)),
            None => self.watcher.poll_next(context),
        }
    }
}

impl Drop for ChangeStream {
    fn drop(&mut self) {
        self.slot.objects.write().unregister(&self.trigger, &self.watcher);
    }
}
