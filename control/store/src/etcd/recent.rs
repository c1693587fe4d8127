//! The newest changes, as the feed delivered them: the near past of new watches, and the evidence of what became of
//! a transaction whose answer was lost. Pure.

use crate::{
    evaluate::Change,
    hub::{Chunk, Commit, History},
    types::{Compare, Event, EventKind, KeyRange, KeyValue, Op, OpResult, Revision, StoreError, Txn, TxnResult},
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

/// Most changes kept.
const MAX_EVENTS: usize = 32 << 10;
/// Most bytes of values kept.
const MAX_BYTES: usize = 64 << 20;
/// Most acknowledged revisions remembered.
const MAX_ACKNOWLEDGED: usize = 8 << 10;

/// The newest changes without a gap: all from `oldest` to `newest`.
#[derive(Debug)]
pub(super) struct Recent {
    pub(super) oldest: Revision,
    pub(super) newest: Revision,
    commits: VecDeque<Arc<Commit>>,
    events: usize,
    bytes: usize,
    /// Revisions that this client's own transactions have been told of.
    acknowledged: BTreeSet<Revision>,
}

/// What became of a transaction.
#[derive(Debug)]
pub(super) enum Fate {
    /// It took effect here; whether its comparisons held.
    Applied(Arc<Commit>, bool),
    /// It did not.
    NotApplied,
    /// History does not tell.
    Unknown,
}

impl Recent {
    /// Nothing is known up to and including `newest`.
    pub(super) fn new(newest: Revision) -> Self {
        Self {
            oldest: newest + 1,
            newest,
            commits: VecDeque::new(),
            events: 0,
            bytes: 0,
            acknowledged: BTreeSet::new(),
        }
    }

    /// Adds what follows: events in order, everything up to `until`. Returns them by revision.
    pub(super) fn push(&mut self, events: Vec<Event>, until: Revision) -> Vec<Arc<Commit>> {
        let mut commits: Vec<Commit> = Vec::new();
        for event in events {
            let revision = event.current.mod_revision;
            if revision <= self.newest {
                continue;
            }
            self.events += 1;
            self.bytes += weight(&event);
            let change = Change { event, replaces: None };
            match commits.last_mut() {
                Some(last) if last.revision == revision => last.changes.push(change),
                _ => commits.push(Commit { revision, changes: vec![change] }),
            }
        }
        let commits: Vec<_> = commits.into_iter().map(Arc::new).collect();
        self.commits.extend(commits.iter().cloned());
        self.newest = self.newest.max(until);
        self.trim();
        commits
    }

    fn trim(&mut self) {
        while self.events > MAX_EVENTS || self.bytes > MAX_BYTES {
            self.drop_first();
        }
    }

    /// History up to `revision` was compacted.
    pub(super) fn forget(&mut self, revision: Revision) {
        while self.commits.front().is_some_and(|commit| commit.revision <= revision) {
            self.drop_first();
        }
        self.oldest = self.oldest.max(revision + 1);
    }

    fn drop_first(&mut self) {
        let Some(gone) = self.commits.pop_front() else { return };
        self.oldest = self.oldest.max(gone.revision + 1);
        self.events -= gone.changes.len();
        self.bytes -= gone.changes.iter().map(|change| weight(&change.event)).sum::<usize>();
    }

    /// Remembers that a transaction of this client has been told of `revision`; false if another one was before.
    pub(super) fn acknowledge(&mut self, revision: Revision) -> bool {
        let first = self.acknowledged.insert(revision);
        while self.acknowledged.len() > MAX_ACKNOWLEDGED {
            self.acknowledged.pop_first();
        }
        first
    }

    /// The changes of `range` from `from` to the newest, and that revision.
    pub(super) fn past(&self, range: &KeyRange, from: Revision) -> Past {
        let start = self.commits.partition_point(|commit| commit.revision < from);
        let changes = self.commits.range(start..).flat_map(|commit| &commit.changes);
        let events = changes.filter(|change| range.contains(&change.event.current.key));
        Past(events.map(|change| change.event.clone()).collect())
    }

    /// What became of `txn`, sent when the store was at `since`, and impossible to apply after `closed`.
    pub(super) fn fate(&self, txn: &Txn, since: Revision, closed: Revision) -> Fate {
        if self.oldest > since + 1 || self.newest < closed {
            return Fate::Unknown;
        }
        let mut found = None;
        let start = self.commits.partition_point(|commit| commit.revision <= since);
        for commit in self.commits.range(start..).take_while(|commit| commit.revision <= closed) {
            if self.acknowledged.contains(&commit.revision) {
                continue;
            }
            for (branch, held) in [(&txn.then, true), (&txn.otherwise, false)] {
                if !fits(branch, commit) || (held && !held_before(&txn.compare, commit)) {
                    continue;
                }
                if found.is_some() {
                    return Fate::Unknown;
                }
                found = Some((commit, held));
            }
        }
        found.map_or(Fate::NotApplied, |(commit, held)| Fate::Applied(Arc::clone(commit), held))
    }
}

fn weight(event: &Event) -> usize {
    event.current.value.len() + event.previous.as_ref().map_or(0, |previous| previous.value.len())
}

/// Whether a branch, applied, would have made exactly this commit.
fn fits(branch: &[Op], commit: &Commit) -> bool {
    let change_of =
        |key: &Bytes| commit.changes.iter().map(|change| &change.event).find(|event| event.current.key == key);
    let every_put = branch.iter().all(|op| match op {
        Op::Put { key, .. } => change_of(key).is_some(),
        _ => true,
    });
    let explains = |op: &Op, event: &Event| match op {
        Op::Put { key, value, lease } => {
            let current = &event.current;
            event.kind == EventKind::Put && current.key == key && current.value == value && current.lease == *lease
        }
        Op::Delete(key) => event.kind == EventKind::Delete && event.current.key == key,
        Op::DeleteRange(range) => event.kind == EventKind::Delete && range.contains(&event.current.key),
        Op::Get(_) => false,
    };
    let explained = |change: &Change| branch.iter().any(|op| explains(op, &change.event));
    every_put && commit.changes.iter().all(explained)
}

/// Whether the comparisons with keys that the commit changed held right before it.
fn held_before(compare: &[Compare], commit: &Commit) -> bool {
    compare.iter().all(|compare| match compare {
        Compare::ModRevision(key, revision) => {
            before(commit, key).is_none_or(|previous| previous.map_or(0, |found| found.mod_revision) == *revision)
        }
        Compare::Value(key, value) => {
            before(commit, key).is_none_or(|previous| previous.is_some_and(|found| found.value == *value))
        }
    })
}

/// The key before the commit, if the commit changed it.
fn before<'a>(commit: &'a Commit, key: &Bytes) -> Option<Option<&'a KeyValue>> {
    let mut events = commit.changes.iter().map(|change| &change.event);
    events.find(|event| event.current.key == key).map(|event| event.previous.as_ref())
}

/// What a transaction whose answer was lost would have been told, as far as its own commit says it: `Err` names the
/// keys that it only read.
pub(super) fn retell(txn: &Txn, commit: &Commit, held: bool) -> Result<TxnResult, StoreError> {
    let branch = if held { &txn.then } else { &txn.otherwise };
    let previous = |key: &Bytes| before(commit, key).flatten().cloned();
    let tell = |op: &Op| match op {
        Op::Put { key, .. } => Ok(OpResult::Put(previous(key))),
        Op::Delete(key) => Ok(OpResult::Deleted(previous(key).into_iter().collect())),
        Op::DeleteRange(range) => {
            let events = commit.changes.iter().map(|change| &change.event);
            let gone = events.filter(|event| range.contains(&event.current.key));
            Ok(OpResult::Deleted(gone.filter_map(|event| event.previous.clone()).collect()))
        }
        Op::Get(_) => Err(StoreError::Unavailable("the answer was lost, yet the transaction took effect".into())),
    };
    let results = branch.iter().map(tell).collect::<Result<_, _>>()?;
    Ok(TxnResult { succeeded: held, revision: commit.revision, results })
}

/// A collected part of history.
#[derive(Debug)]
pub(super) struct Past(Vec<Event>);

impl History for Mutex<Past> {
    fn read(&self, _: &KeyRange, _: Revision, until: Revision) -> Result<Chunk, StoreError> {
        // Asked for once, with the range and the start that it was collected for.
        Ok(Chunk { events: std::mem::take(&mut self.lock().0), until })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::deleted;

    fn value(key: &'static str, value: &'static str, revision: Revision) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: value.into(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease: None,
        }
    }

    fn put(key: &'static str, new: &'static str, revision: Revision, was: Option<KeyValue>) -> Event {
        Event { kind: EventKind::Put, current: value(key, new, revision), previous: was }
    }

    fn gone(key: &'static str, revision: Revision, was: KeyValue) -> Event {
        Event { kind: EventKind::Delete, current: deleted(key.into(), revision), previous: Some(was) }
    }

    fn set(key: &'static str, new: &'static str) -> Op {
        Op::Put { key: key.into(), value: new.into(), lease: None }
    }

    fn swap(key: &'static str, at: Revision, then: Vec<Op>) -> Txn {
        Txn { compare: vec![Compare::ModRevision(key.into(), at)], then, ..Txn::default() }
    }

    fn recent() -> Recent {
        let mut recent = Recent::new(10);
        let events = vec![
            put("a", "1", 11, None),
            put("a", "2", 12, Some(value("a", "1", 11))),
            put("b", "1", 13, None),
            put("c", "1", 13, None),
            gone("a", 15, value("a", "2", 12)),
        ];
        let commits = recent.push(events, 20);
        assert_eq!(commits.iter().map(|commit| commit.revision).collect::<Vec<_>>(), [11, 12, 13, 15]);
        recent
    }

    #[test]
    fn history_tells_what_became_of_a_transaction() {
        let both = vec![set("b", "1"), set("c", "1")];
        let cases = [
            ("created", swap("a", 0, vec![set("a", "1")]), Some((11, true))),
            ("created otherwise", swap("a", 0, vec![set("a", "x")]), None),
            ("changed", swap("a", 11, vec![set("a", "2")]), Some((12, true))),
            ("based on another", swap("a", 9, vec![set("a", "2")]), None),
            ("half", swap("b", 0, vec![set("b", "1")]), None),
            ("whole", swap("b", 0, both.clone()), Some((13, true))),
            ("deleted", swap("a", 12, vec![Op::Delete("a".into())]), Some((15, true))),
            ("other branch", Txn { otherwise: both, ..Txn::default() }, Some((13, false))),
        ];
        for (name, txn, expected) in cases {
            let found = match recent().fate(&txn, 10, 20) {
                Fate::Applied(commit, held) => Some((commit.revision, held)),
                Fate::NotApplied => None,
                Fate::Unknown => panic!("{name}"),
            };
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn nothing_is_claimed_without_evidence() {
        let mut recent = recent();
        let create = swap("a", 0, vec![set("a", "1")]);
        assert!(matches!(recent.fate(&create, 9, 20), Fate::Unknown), "history starts too late");
        assert!(matches!(recent.fate(&create, 10, 21), Fate::Unknown), "history ends too early");
        assert!(matches!(recent.fate(&create, 11, 20), Fate::NotApplied), "it was sent after that");
        assert!(recent.acknowledge(11));
        assert!(matches!(recent.fate(&create, 10, 20), Fate::NotApplied), "another transaction made it");
        assert!(!recent.acknowledge(11));
    }

    #[test]
    fn an_answer_is_told_again() {
        let recent = recent();
        let txn = swap("a", 11, vec![set("a", "2")]);
        let Fate::Applied(commit, held) = recent.fate(&txn, 10, 20) else { panic!() };
        let told = retell(&txn, &commit, held).unwrap();
        assert_eq!((told.succeeded, told.revision), (true, 12));
        assert_eq!(told.results, [OpResult::Put(Some(value("a", "1", 11)))]);
    }

    #[test]
    fn what_was_delivered_is_not_taken_twice() {
        let mut recent = recent();
        assert!(recent.push(vec![put("a", "1", 11, None)], 20).is_empty());
        assert_eq!(recent.past(&KeyRange::key("a"), 12).0.len(), 2);
        assert_eq!(recent.past(&KeyRange::all(), 21).0.len(), 0);
        recent.forget(12);
        assert_eq!((recent.oldest, recent.past(&KeyRange::all(), 1).0.len()), (13, 3));
    }
}
