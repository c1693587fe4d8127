//! What the embedded engine holds in memory: the index, leases and the newest part of the log. The writer
//! applies changes before they are durable; readers look only up to `durable`.

use super::{
    disk::{Disk, Reader},
    record::{Head, Stored},
};
use crate::{
    evaluate::{Change, Load},
    hub::{Chunk, Commit, History, Hub, check_start},
    index::{Index, Position, Version},
    leases::Leases,
    memory::FIRST_REVISION,
    read::past_event,
    types::{Event, EventKind, KeyRange, KeyValue, Revision, StoreError},
};
use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::RwLock;
use std::{cell::OnceCell, collections::VecDeque, sync::Arc};

/// Most records of one chunk of history, unless a single revision has more.
const HISTORY_CHUNK_RECORDS: usize = 1000;

/// State behind its lock, the disk, the watchers. Locks are taken in this order.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: RwLock<State>,
    pub(super) hub: Arc<Hub>,
    pub(super) disk: Disk,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) index: Index<Stored>,
    pub(super) leases: Leases,
    pub(super) tail: Tail,
    /// The newest revision, durable or not.
    pub(super) newest: Revision,
    /// The newest revision that readers may see.
    pub(super) durable: Revision,
    /// The first revision that readers may ask for.
    pub(super) oldest: Revision,
    /// Versions that nobody can see are gone up to here.
    pub(super) scrubbed: Revision,
    /// Bytes of all records in the log.
    pub(super) stored_bytes: u64,
    /// Set while the disk cannot be used at all.
    pub(super) broken: Option<StoreError>,
}

/// The newest revisions, one after the other without a gap, as far as `limit` bytes go.
#[derive(Debug)]
pub(super) struct Tail {
    commits: VecDeque<Arc<Commit>>,
    bytes: usize,
    limit: usize,
}

impl Tail {
    pub(super) fn new(limit: usize) -> Self {
        Self { commits: VecDeque::new(), bytes: 0, limit }
    }

    pub(super) fn push(&mut self, commit: Arc<Commit>) {
        self.bytes += weight(&commit);
        self.commits.push_back(commit);
    }

    /// Drops what is durable and beyond the limit.
    pub(super) fn trim(&mut self, durable: Revision) {
        while self.bytes > self.limit {
            let Some(first) = self.commits.pop_front_if(|first| first.revision <= durable) else { return };
            self.bytes -= weight(&first);
        }
    }

    fn get(&self, revision: Revision) -> Option<&Arc<Commit>> {
        let first = self.commits.front()?.revision;
        self.commits.get(usize::try_from(revision.checked_sub(first)?).ok()?)
    }

    /// The value of a change, if it is here.
    fn value(&self, (revision, place): Position) -> Option<Bytes> {
        let change = self.get(revision)?.changes.get(place as usize)?;
        Some(change.event.current.value.clone())
    }
}

fn weight(commit: &Commit) -> usize {
    let bytes = |change: &Change| {
        let previous = change.event.previous.as_ref().map_or(0, |previous| previous.value.len());
        size_of::<Change>() + change.event.current.key.len() + change.event.current.value.len() + previous
    };
    commit.changes.iter().map(bytes).sum()
}

impl State {
    /// Reads everything that is needed from an open disk.
    pub(super) fn load(disk: &Disk, tail_bytes: usize, now: Timestamp) -> Result<Self, StoreError> {
        let mut state = Self {
            index: Index::default(),
            leases: Leases::default(),
            tail: Tail::new(tail_bytes),
            newest: FIRST_REVISION,
            durable: FIRST_REVISION,
            oldest: FIRST_REVISION,
            scrubbed: FIRST_REVISION,
            stored_bytes: 0,
            broken: None,
        };
        let mut order = Order::default();
        let found = disk.load(|head| {
            order.follow(head.position);
            state.stored_bytes += head.weight();
            state.newest = head.position.0;
            state.index.push(&head.key, head.index_version());
            Ok(())
        })?;
        state.oldest = found.oldest.max(FIRST_REVISION);
        state.scrubbed = found.scrubbed.max(FIRST_REVISION);
        state.durable = state.newest;
        if let Some(missing) = order.missing_after(state.oldest, state.newest) {
            return Err(disk.corrupt(&format!("records are missing before {}/{}", missing.0, missing.1)));
        }
        for (lease, ttl) in found.leases {
            state.leases.insert(lease, ttl, now);
        }
        state.leases.skip_to(found.next_lease);
        for (key, version) in state.index.range(&KeyRange::all(), state.newest) {
            if version.lease != 0 {
                state.leases.attach(version.lease, key.clone());
            }
        }
        Ok(state)
    }

    /// Takes over a transaction's changes, which become visible once durable.
    pub(super) fn apply(&mut self, changes: Vec<Change>) -> Arc<Commit> {
        self.newest += 1;
        for (place, change) in (0..).zip(&changes) {
            let head = Head::of(change, place);
            self.stored_bytes += head.weight();
            self.index.push(&change.event.current.key, head.index_version());
            self.leases.follow(&change.event);
        }
        let commit = Arc::new(Commit { revision: self.newest, changes });
        self.tail.push(Arc::clone(&commit));
        commit
    }

    pub(super) fn check_broken(&self) -> Result<(), StoreError> {
        self.broken.clone().map_or(Ok(()), Err)
    }
}

/// Notices gaps in the order of records: above the compacted revision there must be none.
#[derive(Debug, Default)]
struct Order {
    last: Position,
    last_gap: Option<Position>,
}

impl Order {
    fn follow(&mut self, next: Position) {
        let (revision, place) = self.last;
        let follows = next == (revision, place + 1) || next == (revision + 1, 0);
        // The first revision is that of the empty store, so the first record belongs to the next one.
        let starts = self.last == (0, 0) && next == (FIRST_REVISION + 1, 0);
        if !follows && !starts {
            self.last_gap = Some(next);
        }
        self.last = next;
    }

    /// The record before which one is missing, if it must not be.
    fn missing_after(&self, oldest: Revision, newest: Revision) -> Option<Position> {
        let gap =
            self.last_gap.filter(|(revision, place)| *revision > oldest + 1 || (*revision > oldest && *place > 0));
        gap.or((newest < oldest).then_some((oldest, 0)))
    }
}

/// Reads values: from the tail, else from the disk as of the first time that is needed.
pub(super) struct Values<'a> {
    pub(super) tail: &'a Tail,
    pub(super) disk: &'a Disk,
    reader: OnceCell<Reader<'a>>,
}

impl<'a> Values<'a> {
    pub(super) fn new(tail: &'a Tail, disk: &'a Disk) -> Self {
        Self { tail, disk, reader: OnceCell::new() }
    }

    fn reader(&self) -> Result<&Reader<'a>, StoreError> {
        if let Some(reader) = self.reader.get() {
            return Ok(reader);
        }
        let reader = self.disk.read()?;
        Ok(self.reader.get_or_init(|| reader))
    }
}

impl Load<Stored> for Values<'_> {
    fn load(&self, version: &Version<Stored>) -> Result<Bytes, StoreError> {
        match self.tail.value(version.position()) {
            Some(value) => Ok(value),
            None => self.reader()?.value(version.position(), version.value),
        }
    }
}

/// One key of a page, whose value may still have to be read.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) item: KeyValue,
    /// Where its value lies, unless the item has it.
    pub(super) missing: Option<(Position, Stored)>,
}

impl State {
    /// Keys of one page with the values that are in memory, and how many keys lie beyond.
    pub(super) fn list(&self, range: &KeyRange, at: Revision, page: usize) -> (Vec<Listed>, u64) {
        let mut keys = self.index.range(range, at);
        let listed = keys.by_ref().take(page).map(|(key, version)| {
            let value = self.tail.value(version.position());
            let missing = value.is_none().then_some((version.position(), version.value));
            Listed { item: version.key_value(key.clone(), value.unwrap_or_default()), missing }
        });
        let listed = listed.collect();
        (listed, keys.count() as u64)
    }
}

impl History for Shared {
    fn read(&self, range: &KeyRange, from: Revision, until: Revision) -> Result<Chunk, StoreError> {
        let state = self.state.read();
        state.check_broken()?;
        check_start(from, state.oldest)?;
        let oldest = state.oldest;
        if state.tail.get(from).is_some() {
            return Ok(from_tail(&state.tail, range, from, until, oldest));
        }
        // The view is taken under the lock: what compaction deletes after this is still in it.
        let reader = self.disk.read()?;
        drop(state);
        let (heads, reached) = reader.heads(from, until, HISTORY_CHUNK_RECORDS)?;
        let wanted = heads.into_iter().filter(|head| range.contains(&head.key));
        let events = wanted.map(|head| from_disk(&reader, head, oldest)).collect::<Result<_, _>>()?;
        Ok(Chunk { events, until: reached })
    }
}

fn from_tail(tail: &Tail, range: &KeyRange, from: Revision, until: Revision, oldest: Revision) -> Chunk {
    let mut chunk = Chunk { events: Vec::new(), until };
    for commit in (from..=until).map_while(|revision| tail.get(revision)) {
        let wanted = commit.changes.iter().filter(|change| range.contains(&change.event.current.key));
        chunk.events.extend(wanted.map(|change| past_event(change.event.clone(), oldest)));
        if chunk.events.len() >= HISTORY_CHUNK_RECORDS {
            chunk.until = commit.revision;
            break;
        }
    }
    chunk
}

fn from_disk(reader: &Reader<'_>, head: Head, oldest: Revision) -> Result<Event, StoreError> {
    let value = reader.value(head.position, head.stored())?;
    let replaced = head.replaces.filter(|_| head.position.0 > oldest);
    let previous = match replaced {
        None => None,
        Some(at) => match reader.head(at)? {
            Some(before) => {
                let value = reader.value(before.position, before.stored())?;
                before.event(value, None).into_current()
            }
            None => None,
        },
    };
    Ok(head.event(value, previous))
}

impl Event {
    fn into_current(self) -> Option<KeyValue> {
        (self.kind == EventKind::Put).then_some(self.current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_noticed_only_where_there_must_be_none() {
        let missing = |positions: &[Position], oldest| {
            let mut order = Order::default();
            positions.iter().for_each(|position| order.follow(*position));
            order.missing_after(oldest, positions.last().map_or(1, |last| last.0))
        };
        assert_eq!(missing(&[], 1), None);
        assert_eq!(missing(&[(2, 0), (2, 1), (3, 0)], 1), None);
        assert_eq!(missing(&[(3, 0)], 1), Some((3, 0)));
        assert_eq!(missing(&[(2, 0), (4, 0)], 1), Some((4, 0)));
        assert_eq!(missing(&[(2, 0), (2, 2)], 1), Some((2, 2)));
        assert_eq!(missing(&[(2, 1), (5, 0), (6, 0)], 4), None, "compacted away");
        assert_eq!(missing(&[(2, 1), (5, 1), (6, 0)], 4), Some((5, 1)));
        assert_eq!(missing(&[(2, 0)], 3), Some((3, 0)));
    }
}
