//! Which versions each key has: the map in memory from key to revisions that both engines read by.
//!
//! Owns no values beyond what an engine keeps in `V`; never does I/O.

use crate::types::{KeyRange, KeyValue, LeaseId, Revision};
use bytes::Bytes;
use smallvec::SmallVec;
use std::{collections::BTreeMap, ops::Bound};

/// Where a change stands in the log: its revision, and its place among that revision's changes.
pub(crate) type Position = (Revision, u32);

/// One version of a key; a deletion is a version too.
#[derive(Clone, Debug)]
pub(crate) struct Version<V> {
    pub(crate) revision: Revision,
    pub(crate) place: u32,
    pub(crate) deleted: bool,
    pub(crate) create_revision: Revision,
    pub(crate) version: u64,
    /// 0 is none.
    pub(crate) lease: LeaseId,
    pub(crate) value: V,
}

impl<V> Version<V> {
    pub(crate) fn position(&self) -> Position {
        (self.revision, self.place)
    }

    /// The key as of this version.
    pub(crate) fn key_value(&self, key: Bytes, value: Bytes) -> KeyValue {
        KeyValue {
            key,
            value,
            create_revision: self.create_revision,
            mod_revision: self.revision,
            version: self.version,
            lease: (self.lease != 0).then_some(self.lease),
        }
    }
}

/// Versions of one key, oldest first; nearly always one.
type Versions<V> = SmallVec<[Version<V>; 1]>;

/// Every key with its versions, in order of key.
#[derive(Debug)]
pub(crate) struct Index<V> {
    keys: BTreeMap<Bytes, Versions<V>>,
}

impl<V> Default for Index<V> {
    fn default() -> Self {
        Self { keys: BTreeMap::new() }
    }
}

impl<V> Index<V> {
    /// The key as of `revision`, unless it did not exist then.
    pub(crate) fn at(&self, key: &[u8], revision: Revision) -> Option<&Version<V>> {
        live_at(self.keys.get(key)?, revision)
    }

    /// Keys of a range that existed at `revision`, in order.
    pub(crate) fn range<'a>(
        &'a self,
        range: &KeyRange,
        revision: Revision,
    ) -> impl Iterator<Item = (&'a Bytes, &'a Version<V>)> + use<'a, V> {
        let upper = if range.end.is_empty() { Bound::Unbounded } else { Bound::Excluded(range.end.clone()) };
        let empty = !range.end.is_empty() && range.end <= range.start;
        let bounds = if empty {
            (Bound::Included(range.start.clone()), Bound::Excluded(range.start.clone()))
        } else {
            (Bound::Included(range.start.clone()), upper)
        };
        self.keys
            .range::<Bytes, _>(bounds)
            .filter_map(move |(key, versions)| live_at(versions, revision).map(|version| (key, version)))
    }

    /// Adds the newest version of a key.
    pub(crate) fn push(&mut self, key: &Bytes, version: Version<V>) {
        match self.keys.get_mut(key) {
            Some(versions) => versions.push(version),
            None => {
                let mut versions = Versions::new();
                versions.push(version);
                self.keys.insert(key.clone(), versions);
            }
        }
    }

    /// Takes one version out.
    pub(crate) fn remove(&mut self, key: &[u8], position: Position) -> Option<Version<V>> {
        let versions = self.keys.get_mut(key)?;
        let found = versions.iter().position(|version| version.position() == position)?;
        let removed = versions.remove(found);
        if versions.is_empty() {
            self.keys.remove(key);
        } else {
            versions.shrink_to_fit();
        }
        Some(removed)
    }
}

/// The newest version up to `revision`, unless it is a deletion.
fn live_at<V>(versions: &[Version<V>], revision: Revision) -> Option<&Version<V>> {
    versions.iter().rev().find(|version| version.revision <= revision).filter(|version| !version.deleted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(revision: Revision, deleted: bool) -> Version<()> {
        Version { revision, place: 0, deleted, create_revision: revision, version: 1, lease: 0, value: () }
    }

    fn sample() -> Index<()> {
        let mut index = Index::default();
        for (key, revision, deleted) in [("a", 2, false), ("b", 3, false), ("a", 4, true), ("a", 6, false)] {
            index.push(&Bytes::from(key), version(revision, deleted));
        }
        index
    }

    #[test]
    fn a_key_is_what_it_was_at_each_revision() {
        let index = sample();
        let seen: Vec<_> = (1..=7).map(|revision| index.at(b"a", revision).map(|version| version.revision)).collect();
        assert_eq!(seen, [None, Some(2), Some(2), None, None, Some(6), Some(6)]);
    }

    #[test]
    fn a_range_has_only_what_lived_then() {
        let index = sample();
        let keys =
            |range: &KeyRange, revision| index.range(range, revision).map(|(key, _)| key.clone()).collect::<Vec<_>>();
        assert_eq!(keys(&KeyRange::all(), 3), ["a", "b"]);
        assert_eq!(keys(&KeyRange::all(), 4), ["b"]);
        assert_eq!(keys(&KeyRange::prefix("a"), 9), ["a"]);
        let backwards = KeyRange { start: Bytes::from("b"), end: Bytes::from("a") };
        assert!(keys(&backwards, 9).is_empty());
    }

    #[test]
    fn the_last_version_takes_the_key_with_it() {
        let mut index = sample();
        assert!(index.remove(b"b", (3, 0)).is_some());
        assert!(index.remove(b"b", (3, 0)).is_none());
        assert_eq!(index.range(&KeyRange::all(), 9).count(), 1);
    }
}
