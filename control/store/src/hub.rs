//! Who watches what: hands committed changes to watchers, each through a bounded queue of its own, and joins
//! the past of a watch (read from an engine's history) to its present without a gap or a repetition.
//!
//! Never waits for a watcher: one that does not keep up is let go.

use crate::{
    evaluate::Change,
    types::{Event, KeyRange, Revision, StoreError, WatchBatch, WatchStream},
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};
use tokio::sync::Notify;

/// What one watcher may have waiting.
#[derive(Clone, Copy, Debug)]
pub struct WatchLimits {
    /// Events.
    pub events: usize,
    /// Bytes of keys and values (one batch beyond is accepted, so that any transaction fits).
    pub bytes: usize,
}

impl Default for WatchLimits {
    fn default() -> Self {
        Self { events: 16 << 10, bytes: 64 << 20 }
    }
}

/// One committed revision.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub(crate) revision: Revision,
    pub(crate) changes: Vec<Change>,
}

/// A part of the past: whole revisions.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) events: Vec<Event>,
    /// Everything up to here is in this chunk or an earlier one.
    pub(crate) until: Revision,
}

/// The past, as an engine keeps it.
pub(crate) trait History: Send + Sync + 'static {
    /// Changes of `range` in `from..=until`, or in a first part of it.
    fn read(&self, range: &KeyRange, from: Revision, until: Revision) -> Result<Chunk, StoreError>;
}

#[derive(Debug, Default)]
struct Waiting {
    batches: VecDeque<WatchBatch>,
    events: usize,
    bytes: usize,
    end: Option<StoreError>,
}

#[derive(Debug)]
struct Queue {
    range: KeyRange,
    waiting: Mutex<Waiting>,
    news: Notify,
}

impl Queue {
    /// Whether it was accepted; if not, the watcher is to be let go.
    fn push(&self, batch: WatchBatch, limits: WatchLimits) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.events += batch.events.len();
        let fits = waiting.events <= limits.events && waiting.bytes <= limits.bytes;
        if fits {
            waiting.bytes += batch.events.iter().map(weight).sum::<usize>();
            waiting.batches.push_back(batch);
        } else {
            waiting.end = Some(StoreError::Lagged);
        }
        self.news.notify_one();
        fits
    }

    fn progress(&self, revision: Revision) {
        let mut waiting = self.waiting.lock();
        match waiting.batches.back_mut() {
            Some(last) => last.revision = revision,
            None => waiting.batches.push_back(WatchBatch { events: Vec::new(), revision }),
        }
        self.news.notify_one();
    }

    fn end(&self, error: StoreError) {
        self.waiting.lock().end.get_or_insert(error);
        self.news.notify_one();
    }

    async fn next(&self) -> Result<WatchBatch, StoreError> {
        loop {
            if let Some(found) = self.take() {
                return found;
            }
            self.news.notified().await;
        }
    }

    fn take(&self) -> Option<Result<WatchBatch, StoreError>> {
        let mut waiting = self.waiting.lock();
        let Some(batch) = waiting.batches.pop_front() else { return waiting.end.clone().map(Err) };
        waiting.events -= batch.events.len();
        waiting.bytes -= batch.events.iter().map(weight).sum::<usize>();
        Some(Ok(batch))
    }
}

fn weight(event: &Event) -> usize {
    let previous = event.previous.as_ref().map_or(0, |previous| previous.value.len());
    event.current.key.len() + event.current.value.len() + previous
}

/// Watchers by what they watch.
#[derive(Debug, Default)]
struct Watchers {
    revision: Revision,
    next: u64,
    queues: BTreeMap<u64, Arc<Queue>>,
    /// Watches of all keys that start with the map's key; found by cutting a changed key at each of `lengths`.
    prefixes: BTreeMap<Bytes, Vec<u64>>,
    /// How many prefixes have this length.
    lengths: BTreeMap<usize, usize>,
    /// All other watches.
    ranges: Vec<u64>,
    closed: bool,
}

/// All watchers of a store.
#[derive(Debug)]
pub(crate) struct Hub {
    watchers: Mutex<Watchers>,
    limits: WatchLimits,
}

impl Hub {
    pub(crate) fn new(revision: Revision, limits: WatchLimits) -> Self {
        Self { watchers: Mutex::new(Watchers { revision, ..Watchers::default() }), limits }
    }

    /// Tells watchers of committed revisions, which follow on the last ones told.
    pub(crate) fn publish(&self, commits: &[Arc<Commit>]) {
        let Some(last) = commits.last() else { return };
        let mut watchers = self.watchers.lock();
        let mut batches: BTreeMap<u64, Vec<Event>> = BTreeMap::new();
        for change in commits.iter().flat_map(|commit| &commit.changes) {
            watchers.interested(&change.event.current.key, |id| {
                batches.entry(id).or_default().push(change.event.clone());
            });
        }
        watchers.revision = last.revision;
        for (id, events) in batches {
            let batch = WatchBatch { events, revision: last.revision };
            if !watchers.queues[&id].push(batch, self.limits) {
                watchers.remove(id);
            }
        }
    }

    /// Everything up to `revision` has been told, though nothing of it was watched here.
    pub(crate) fn advance(&self, revision: Revision) {
        let mut watchers = self.watchers.lock();
        watchers.revision = watchers.revision.max(revision);
    }

    pub(crate) fn request_progress(&self, range: &KeyRange) {
        let watchers = self.watchers.lock();
        for queue in watchers.queues.values().filter(|queue| range.covers(&queue.range)) {
            queue.progress(watchers.revision);
        }
    }

    /// Lets every watcher go and goes on from `revision`: for an engine that had to read its disk anew.
    pub(crate) fn restart(&self, revision: Revision) {
        let mut watchers = self.watchers.lock();
        for queue in watchers.queues.values() {
            queue.end(StoreError::Lagged);
        }
        *watchers = Watchers { revision, next: watchers.next, ..Watchers::default() };
    }

    /// Ends every watch.
    pub(crate) fn close(&self, error: &StoreError) {
        let mut watchers = self.watchers.lock();
        watchers.closed = true;
        for queue in watchers.queues.values() {
            queue.end(error.clone());
        }
    }

    /// Watches `range` from `from` on; the first batch tells up to where the past has been delivered.
    pub(crate) fn watch(self: &Arc<Self>, range: KeyRange, from: Revision, history: Arc<dyn History>) -> WatchStream {
        let (id, queue, revision) = self.watchers.lock().add(range);
        let from = if from == 0 { revision + 1 } else { from };
        let watch =
            Watch { hub: Arc::clone(self), id, queue, from, past: Some((history, from, revision)), done: false };
        Box::pin(futures::stream::unfold(watch, |mut watch| async move {
            let next = watch.next().await?;
            watch.done = next.is_err();
            Some((next, watch))
        }))
    }
}

impl Watchers {
    fn add(&mut self, range: KeyRange) -> (u64, Arc<Queue>, Revision) {
        self.next += 1;
        let id = self.next;
        if KeyRange::prefix(range.start.clone()) == range {
            let length = range.start.len();
            let ids = self.prefixes.entry(range.start.clone()).or_default();
            ids.push(id);
            if ids.len() == 1 {
                *self.lengths.entry(length).or_default() += 1;
            }
        } else {
            self.ranges.push(id);
        }
        let end = self.closed.then_some(StoreError::Closed);
        let waiting = Mutex::new(Waiting { end, ..Waiting::default() });
        let queue = Arc::new(Queue { range, waiting, news: Notify::new() });
        self.queues.insert(id, Arc::clone(&queue));
        (id, queue, self.revision)
    }

    fn remove(&mut self, id: u64) {
        let Some(queue) = self.queues.remove(&id) else { return };
        self.ranges.retain(|other| *other != id);
        let start = &queue.range.start;
        let Some(ids) = self.prefixes.get_mut(start) else { return };
        let before = ids.len();
        ids.retain(|other| *other != id);
        if before == 0 || !ids.is_empty() {
            return;
        }
        self.prefixes.remove(start);
        let left = self.lengths.get_mut(&start.len()).map_or(0, |count| {
            *count -= 1;
            *count
        });
        if left == 0 {
            self.lengths.remove(&start.len());
        }
    }

    fn interested(&self, key: &[u8], mut tell: impl FnMut(u64)) {
        for length in self.lengths.range(..=key.len()).map(|(length, _)| *length) {
            for id in self.prefixes.get(&key[..length]).into_iter().flatten() {
                tell(*id);
            }
        }
        for id in self.ranges.iter().filter(|id| self.queues[id].range.contains(key)) {
            tell(*id);
        }
    }
}

/// The consumer's end of one watch; dropping it ends the watch.
struct Watch {
    hub: Arc<Hub>,
    id: u64,
    queue: Arc<Queue>,
    from: Revision,
    /// What is still to be read of the past: from, and up to.
    past: Option<(Arc<dyn History>, Revision, Revision)>,
    done: bool,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<WatchBatch, StoreError>> {
        if self.done {
            return None;
        }
        while let Some((history, from, until)) = self.past.take() {
            if from > until {
                return Some(Ok(WatchBatch { events: Vec::new(), revision: until }));
            }
            match history.read(&self.queue.range, from, until) {
                Err(error) => return Some(Err(error)),
                Ok(chunk) => {
                    if chunk.until < until {
                        self.past = Some((history, chunk.until + 1, until));
                    }
                    if chunk.until == until || !chunk.events.is_empty() {
                        return Some(Ok(WatchBatch { events: chunk.events, revision: chunk.until }));
                    }
                }
            }
            tokio::task::yield_now().await;
        }
        let next = self.queue.next().await;
        Some(next.map(|mut batch| {
            batch.events.retain(|event| event.current.mod_revision >= self.from);
            batch
        }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.hub.watchers.lock().remove(self.id);
    }
}

/// Whether a watch may start at `from`: whether all of its past is still there.
pub(crate) fn check_start(from: Revision, oldest: Revision) -> Result<(), StoreError> {
    if from != 0 && from < oldest { Err(StoreError::Compacted { oldest }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{evaluate::deleted, types::EventKind};
    use futures::{FutureExt, StreamExt};

    struct NoPast;

    impl History for NoPast {
        fn read(&self, _: &KeyRange, _: Revision, until: Revision) -> Result<Chunk, StoreError> {
            Ok(Chunk { events: Vec::new(), until })
        }
    }

    fn commit(revision: Revision, keys: &[&str]) -> Arc<Commit> {
        let change = |key: &&str| {
            let current = deleted(Bytes::copy_from_slice(key.as_bytes()), revision);
            Change { event: Event { kind: EventKind::Delete, current, previous: None }, replaces: None }
        };
        Arc::new(Commit { revision, changes: keys.iter().map(change).collect() })
    }

    fn keys(batch: &WatchBatch) -> Vec<String> {
        batch.events.iter().map(|event| String::from_utf8_lossy(&event.current.key).into_owned()).collect()
    }

    #[tokio::test]
    async fn each_watcher_gets_its_keys_in_whole_groups() {
        let hub = Arc::new(Hub::new(1, WatchLimits::default()));
        let exact = KeyRange::key("/a/x");
        let odd = KeyRange { start: Bytes::from("/a/y"), end: Bytes::from("/b/2") };
        let ranges = [KeyRange::prefix("/a/"), KeyRange::all(), exact, odd, KeyRange::prefix("/c")];
        let mut streams: Vec<_> = ranges.into_iter().map(|range| hub.watch(range, 0, Arc::new(NoPast))).collect();
        for stream in &mut streams {
            assert_eq!(stream.next().await.unwrap().unwrap().revision, 1);
        }
        hub.publish(&[commit(2, &["/a/x", "/b/1"]), commit(3, &["/a/z"])]);
        let expected = [vec!["/a/x", "/a/z"], vec!["/a/x", "/b/1", "/a/z"], vec!["/a/x"], vec!["/b/1", "/a/z"]];
        for (stream, expected) in streams.iter_mut().zip(expected) {
            let batch = stream.next().await.unwrap().unwrap();
            assert_eq!((keys(&batch), batch.revision), (expected.iter().map(|key| (*key).to_owned()).collect(), 3));
        }
        assert!(streams[4].next().now_or_never().is_none(), "no change of /c");
        hub.request_progress(&KeyRange::prefix("/c"));
        let batch = streams[4].next().await.unwrap().unwrap();
        assert_eq!((batch.events.len(), batch.revision), (0, 3));
        drop(streams);
        let watchers = hub.watchers.lock();
        assert!(watchers.queues.is_empty() && watchers.prefixes.is_empty() && watchers.lengths.is_empty());
        assert!(watchers.ranges.is_empty());
    }

    #[tokio::test]
    async fn a_slow_watcher_is_let_go_after_what_it_has() {
        let hub = Arc::new(Hub::new(1, WatchLimits { events: 2, bytes: 1 << 20 }));
        let mut stream = hub.watch(KeyRange::all(), 0, Arc::new(NoPast));
        stream.next().await.unwrap().unwrap();
        for revision in 2..6 {
            hub.publish(&[commit(revision, &["/a"])]);
        }
        assert_eq!(stream.next().await.unwrap().unwrap().revision, 2);
        assert_eq!(stream.next().await.unwrap().unwrap().revision, 3);
        assert!(matches!(stream.next().await, Some(Err(StoreError::Lagged))));
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_watch_of_the_future_stays_silent_until_then() {
        let hub = Arc::new(Hub::new(1, WatchLimits::default()));
        let mut stream = hub.watch(KeyRange::all(), 3, Arc::new(NoPast));
        hub.publish(&[commit(2, &["/a"]), commit(3, &["/b"])]);
        let mut seen = Vec::new();
        while seen.is_empty() {
            seen = keys(&stream.next().await.unwrap().unwrap());
        }
        assert_eq!(seen, ["/b"]);
    }

    #[tokio::test]
    async fn closing_ends_every_watch() {
        let hub = Arc::new(Hub::new(1, WatchLimits::default()));
        let mut before = hub.watch(KeyRange::all(), 0, Arc::new(NoPast));
        hub.close(&StoreError::Closed);
        let mut after = hub.watch(KeyRange::all(), 0, Arc::new(NoPast));
        for stream in [&mut before, &mut after] {
            assert!(stream.next().await.unwrap().is_ok(), "where it stands");
            assert!(matches!(stream.next().await, Some(Err(StoreError::Closed))));
        }
    }
}
