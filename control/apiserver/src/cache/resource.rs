//! The objects of one resource, the recent changes to them, and who watches.
//!
//! Everything here is synchronous and happens under one lock: a watcher that registers sees every change from
//! its revision on, once and in order.

use super::{
    entry::{Change, ChangeKind, Entry},
    watcher::{Predicate, Trigger, WatchEnd, Watcher},
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
    task::Waker,
};
use timonel_store::{Event, EventKind, KeyValue, Revision};

/// Changes kept for watches that start in the past.
const HISTORY_CHANGES: usize = 20_000;
/// Bytes of superseded objects kept for the same.
const HISTORY_BYTES: usize = 24 << 20;
/// Changes that keep their rendered frames; older ones have reached every queue long ago.
const HISTORY_RENDERED: usize = 64;

/// What a list or a watch asks for: a part of the resource, and a predicate on its objects.
#[derive(Clone)]
pub(crate) struct Selection {
    pub(crate) trigger: Trigger,
    pub(crate) predicate: Option<Predicate>,
}

impl std::fmt::Debug for Selection {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Selection").field("trigger", &self.trigger).finish_non_exhaustive()
    }
}

impl Selection {
    /// Every object.
    #[cfg(test)]
    pub(crate) fn all() -> Self {
        Self { trigger: Trigger::All, predicate: None }
    }

    fn takes(&self, entry: &Entry) -> bool {
        self.predicate.as_ref().is_none_or(|predicate| predicate(entry))
    }
}

type Map = BTreeMap<Bytes, Arc<Entry>>;

/// A resource's objects as of one revision, with what led there.
#[derive(Debug)]
pub(super) struct Objects {
    prefix: usize,
    index_field: Option<usize>,
    objects: Map,
    by_index: BTreeMap<String, Map>,
    history: VecDeque<Arc<Change>>,
    history_bytes: usize,
    /// Watches from this revision on can be served from `history`.
    oldest: Revision,
    loaded_at: Revision,
    watchers: BTreeMap<Trigger, Vec<Arc<Watcher>>>,
}

impl Objects {
    /// What the store held at `revision`. `prefix` is the length of the resource's key prefix.
    pub(super) fn load(items: &[KeyValue], revision: Revision, prefix: usize, index_field: Option<usize>) -> Self {
        let mut new = Self {
            prefix,
            index_field,
            objects: BTreeMap::new(),
            by_index: BTreeMap::new(),
            history: VecDeque::new(),
            history_bytes: 0,
            oldest: revision,
            loaded_at: revision,
            watchers: BTreeMap::new(),
        };
        for item in items {
            new.insert(item);
        }
        new
    }

    fn insert(&mut self, stored: &KeyValue) -> Option<(Option<Arc<Entry>>, Arc<Entry>)> {
        let entry = match Entry::new(stored, self.prefix) {
            Ok(entry) => Arc::new(entry),
            Err(error) => {
                tracing::error!(key = %String::from_utf8_lossy(&stored.key), %error, "skipped a damaged object");
                return None;
            }
        };
        let previous = self.objects.insert(entry.key().clone(), entry.clone());
        if let Some(at) = self.index_field {
            if let Some(previous) = &previous {
                self.unindex(previous, at);
            }
            self.by_index.entry(entry.field(at).to_owned()).or_default().insert(entry.key().clone(), entry.clone());
        }
        Some((previous, entry))
    }

    fn unindex(&mut self, entry: &Entry, at: usize) {
        if let Some(part) = self.by_index.get_mut(entry.field(at)) {
            part.remove(entry.key());
            if part.is_empty() {
                self.by_index.remove(entry.field(at));
            }
        }
    }

    /// Takes one change of the store in and queues it for whom it concerns; they are woken by the caller.
    pub(super) fn apply(&mut self, event: &Event, wakers: &mut Vec<Waker>) {
        if event.current.mod_revision <= self.loaded_at {
            return;
        }
        let change = match event.kind {
            EventKind::Put => {
                let Some((previous, current)) = self.insert(&event.current) else { return };
                Change::new(previous, current, false)
            }
            EventKind::Delete => {
                let Some(previous) = self.objects.remove(&event.current.key) else { return };
                if let Some(at) = self.index_field {
                    self.unindex(&previous, at);
                }
                let last = Arc::new(previous.at_revision(event.current.mod_revision));
                Change::new(Some(previous), last, true)
            }
        };
        let change = Arc::new(change);
        self.dispatch(&change, wakers);
        self.remember(change);
    }

    fn dispatch(&mut self, change: &Arc<Change>, wakers: &mut Vec<Waker>) {
        if self.watchers.is_empty() {
            return;
        }
        let current = &change.current;
        self.offer(&Trigger::All, change, wakers);
        if !current.namespace().is_empty() {
            self.offer(&Trigger::Namespace(current.namespace().to_owned()), change, wakers);
        }
        self.offer(&Trigger::Path(current.path().to_owned()), change, wakers);
        if let Some(at) = self.index_field {
            let now = current.field(at).to_owned();
            if let Some(before) = change.previous.as_ref().map(|entry| entry.field(at)).filter(|b| *b != now) {
                self.offer(&Trigger::Indexed(before.to_owned()), change, wakers);
            }
            self.offer(&Trigger::Indexed(now), change, wakers);
        }
    }

    fn offer(&mut self, trigger: &Trigger, change: &Arc<Change>, wakers: &mut Vec<Waker>) {
        if let Some(group) = self.watchers.get_mut(trigger) {
            group.retain(|watcher| watcher.offer(change, wakers));
            if group.is_empty() {
                self.watchers.remove(trigger);
            }
        }
    }

    fn remember(&mut self, change: Arc<Change>) {
        self.history_bytes += change.held();
        self.history.push_back(change);
        if let Some(cooled) = self.history.len().checked_sub(HISTORY_RENDERED).and_then(|at| self.history.get(at)) {
            cooled.forget_frames();
        }
        while self.history.len() > HISTORY_CHANGES || self.history_bytes > HISTORY_BYTES {
            let Some(oldest) = self.history.pop_front() else { break };
            self.history_bytes = self.history_bytes.saturating_sub(oldest.held());
            self.oldest = oldest.revision;
        }
    }

    /// One object.
    pub(super) fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.objects.get(key).cloned()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.objects.len()
    }

    /// The objects a selection takes, in order of key.
    pub(super) fn select(&self, selection: &Selection, base: &[u8]) -> Vec<Arc<Entry>> {
        let taken = |entry: &&Arc<Entry>| selection.takes(entry);
        match &selection.trigger {
            Trigger::All => self.objects.values().filter(taken).cloned().collect(),
            Trigger::Namespace(namespace) => {
                let start = Bytes::from([base, namespace.as_bytes(), b"/"].concat());
                self.objects
                    .range::<[u8], _>((Bound::Included(&start[..]), Bound::Unbounded))
                    .take_while(|(key, _)| key.starts_with(&start))
                    .map(|(_, entry)| entry)
                    .filter(taken)
                    .cloned()
                    .collect()
            }
            Trigger::Path(path) => {
                self.objects.get(&[base, path.as_bytes()].concat()[..]).filter(taken).cloned().into_iter().collect()
            }
            Trigger::Indexed(value) => {
                self.by_index.get(value).into_iter().flat_map(BTreeMap::values).filter(taken).cloned().collect()
            }
        }
    }

    /// Registers a watcher that has everything up to now.
    pub(super) fn register(&mut self, selection: &Selection) -> Arc<Watcher> {
        let watcher = Arc::new(Watcher::new(selection.predicate.clone()));
        self.watchers.entry(selection.trigger.clone()).or_default().push(watcher.clone());
        watcher
    }

    /// Takes a watcher out.
    pub(super) fn unregister(&mut self, trigger: &Trigger, watcher: &Arc<Watcher>) {
        if let Some(group) = self.watchers.get_mut(trigger) {
            group.retain(|other| !Arc::ptr_eq(other, watcher));
            if group.is_empty() {
                self.watchers.remove(trigger);
            }
        }
    }

    /// The changes after `revision` that concern a watcher; `None` when they are forgotten.
    pub(super) fn since(
        &self,
        revision: Revision,
        selection: &Selection,
        watcher: &Watcher,
    ) -> Option<Vec<(Arc<Change>, ChangeKind)>> {
        if revision < self.oldest {
            return None;
        }
        let start = self.history.partition_point(|change| change.revision <= revision);
        let within = |change: &Change| match &selection.trigger {
            Trigger::All => true,
            Trigger::Namespace(namespace) => change.current.namespace() == namespace,
            Trigger::Path(path) => change.current.path() == path,
            Trigger::Indexed(value) => self.index_field.is_some_and(|at| {
                change.current.field(at) == value || change.previous.as_ref().is_some_and(|p| p.field(at) == value)
            }),
        };
        let changes = self.history.range(start..).filter(|change| within(change));
        Some(changes.filter_map(|change| Some((change.clone(), watcher.kind_of(change)?))).collect())
    }

    /// The first revision that a watch may start from.
    pub(super) fn oldest(&self) -> Revision {
        self.oldest
    }

    /// When the objects were last changed (or loaded).
    pub(super) fn last_change(&self) -> Revision {
        self.history.back().map_or(self.loaded_at, |change| change.revision)
    }

    /// Ends every watch.
    pub(super) fn end(&mut self, why: WatchEnd) {
        for watcher in std::mem::take(&mut self.watchers).into_values().flatten() {
            watcher.end(why);
        }
    }

    /// Watches that hear of every change.
    pub(super) fn watchers_of_all(&self) -> usize {
        self.watchers.get(&Trigger::All).map_or(0, Vec::len)
    }

    /// Whether anyone watches.
    #[cfg(test)]
    pub(super) fn is_watched(&self) -> bool {
        !self.watchers.is_empty()
    }
}
