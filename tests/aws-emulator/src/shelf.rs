//! Things by identifier, with what they were a while ago: where stale reads and late visibility come from.

use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// How long earlier versions are kept: no read may look further back.
pub(crate) const MEMORY: SignedDuration = SignedDuration::from_secs(60);
/// The most earlier versions of one thing.
const MAX_VERSIONS: usize = 8;

/// The moment a read sees; `None` is the present.
pub(crate) type At = Option<Timestamp>;
/// The moment at which there was nothing at all.
pub(crate) const NOTHING: At = Some(Timestamp::MIN);

#[derive(Clone, Debug)]
struct Entry<T> {
    present: Option<T>,
    /// What it was until the moment beside it, oldest first.
    past: VecDeque<(Timestamp, Option<T>)>,
}

impl<T> Entry<T> {
    fn seen(&self, at: At) -> Option<&T> {
        if at == NOTHING {
            return None;
        }
        let Some(at) = at else { return self.present.as_ref() };
        let version = self.past.iter().find(|(until, _)| at < *until).map(|(_, version)| version);
        version.unwrap_or(&self.present).as_ref()
    }
}

/// Things of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Shelf<T> {
    entries: BTreeMap<String, Entry<T>>,
    gone: VecDeque<(Timestamp, String)>,
    present: usize,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), gone: VecDeque::new(), present: 0 }
    }
}

impl<T: Clone> Shelf<T> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.present
    }

    pub(crate) fn insert(&mut self, id: &str, thing: T, now: Timestamp) {
        self.forget(now);
        let entry = self
            .entries
            .entry(id.to_owned())
            .or_insert_with(|| Entry { present: None, past: VecDeque::with_capacity(1) });
        entry.past.push_back((now, entry.present.take()));
        entry.present = Some(thing);
        self.present += 1;
    }

    pub(crate) fn get(&self, id: &str) -> Option<&T> {
        self.entries.get(id)?.present.as_ref()
    }

    /// The thing, to be changed; what it was stays readable for a while.
    pub(crate) fn edit(&mut self, id: &str, now: Timestamp) -> Option<&mut T> {
        let entry = self.entries.get_mut(id)?;
        let before = entry.present.clone()?;
        trim(&mut entry.past, now);
        entry.past.push_back((now, Some(before)));
        entry.present.as_mut()
    }

    pub(crate) fn remove(&mut self, id: &str, now: Timestamp) -> Option<T> {
        self.forget(now);
        let entry = self.entries.get_mut(id)?;
        let thing = entry.present.take()?;
        trim(&mut entry.past, now);
        entry.past.push_back((now, Some(thing.clone())));
        self.gone.push_back((now, id.to_owned()));
        self.present -= 1;
        Some(thing)
    }

    /// The thing as a read at `at` sees it.
    pub(crate) fn seen(&self, id: &str, at: At) -> Option<&T> {
        self.entries.get(id)?.seen(at)
    }

    /// The same, with its key as the shelf has it.
    pub(crate) fn seen_entry(&self, id: &str, at: At) -> Option<(&str, &T)> {
        let (key, entry) = self.entries.get_key_value(id)?;
        Some((key, entry.seen(at)?))
    }

    /// All that a read at `at` sees.
    pub(crate) fn all(&self, at: At) -> impl Iterator<Item = (&str, &T)> {
        self.entries.iter().filter_map(move |(id, entry)| Some((id.as_str(), entry.seen(at)?)))
    }

    /// The same, behind `after` in the order of identifiers.
    pub(crate) fn after(&self, after: &str, at: At) -> impl Iterator<Item = (&str, &T)> {
        let range = self.entries.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        range.filter_map(move |(id, entry)| Some((id.as_str(), entry.seen(at)?)))
    }

    /// All there are.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.all(None)
    }

    /// Drops what has been gone for longer than any read looks back.
    fn forget(&mut self, now: Timestamp) {
        while self.gone.front().is_some_and(|(when, _)| now.duration_since(*when) > MEMORY) {
            let Some((_, id)) = self.gone.pop_front() else { return };
            if self.entries.get(&id).is_some_and(|entry| entry.present.is_none()) {
                self.entries.remove(&id);
            }
        }
    }
}

fn trim<T>(past: &mut VecDeque<(Timestamp, Option<T>)>, now: Timestamp) {
    while past.len() >= MAX_VERSIONS || past.front().is_some_and(|(until, _)| now.duration_since(*until) > MEMORY) {
        past.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_read_sees_what_was() {
        let mut shelf = Shelf::default();
        shelf.insert("a", 1, at(10));
        *shelf.edit("a", at(20)).unwrap() = 2;
        shelf.remove("a", at(30));
        for (second, want) in [(9, None), (10, Some(1)), (19, Some(1)), (20, Some(2)), (29, Some(2)), (30, None)] {
            assert_eq!(shelf.seen("a", Some(at(second))).copied(), want, "at {second}");
        }
        assert_eq!((shelf.len(), shelf.get("a")), (0, None));
        assert_eq!(shelf.all(Some(at(25))).count(), 1);
    }

    #[test]
    fn what_is_long_gone_is_forgotten() {
        let mut shelf = Shelf::default();
        shelf.insert("a", 1, at(0));
        shelf.remove("a", at(1));
        shelf.insert("b", 2, at(100));
        assert_eq!(shelf.entries.len(), 1);
        for second in 0..100 {
            shelf.edit("b", at(200 + second)).unwrap();
        }
        assert!(shelf.entries["b"].past.len() <= MAX_VERSIONS);
        assert_eq!(shelf.after("a", None).count(), 1);
        assert_eq!(shelf.after("b", None).count(), 0);
    }
}
