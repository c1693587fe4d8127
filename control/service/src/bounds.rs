//! How many connections one cluster may have, so that it exhausts neither the process nor its own newcomers: when
//! there are too many, the one that has been idle longest goes.

use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
};
use timonel_apiserver::Activity;
use tokio_util::sync::CancellationToken;

/// Connections of one cluster whose peer showed no certificate: anybody can open these.
const MAX_UNKNOWN: usize = 2_048;
/// Connections of one cluster whose peer showed a certificate of it: its nodes and its administrators.
const MAX_KNOWN: usize = 12_000;
/// Handshakes of one cluster at once.
const MAX_HANDSHAKES: usize = 512;

/// The connections of one cluster.
#[derive(Debug)]
pub(crate) struct Bounds {
    handshakes: Pool,
    unknown: Pool,
    known: Pool,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { handshakes: Pool::of(MAX_HANDSHAKES), unknown: Pool::of(MAX_UNKNOWN), known: Pool::of(MAX_KNOWN) }
    }
}

/// Connections that are worth the same.
#[derive(Debug)]
pub(crate) struct Pool {
    bound: usize,
    tick: Arc<AtomicU64>,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    last: u64,
    connections: BTreeMap<u64, (Arc<Activity>, CancellationToken)>,
}

/// A place among the connections; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    id: u64,
    open: Arc<Mutex<Open>>,
    /// Where the connection says whether requests are under way.
    pub(crate) activity: Arc<Activity>,
    /// Cancelled when the place is needed for somebody else.
    pub(crate) evicted: CancellationToken,
}

impl Bounds {
    /// A place for a connection; `None` when there are too many and none of them is idle.
    pub(crate) fn admit(&self, known: bool) -> Option<Slot> {
        let pool = if known { &self.known } else { &self.unknown };
        pool.admit()
    }

    /// A place for a handshake; the one that has taken longest makes room.
    pub(crate) fn handshake(&self) -> Option<Slot> {
        self.handshakes.admit()
    }
}

impl Pool {
    /// A pool of `bound` places.
    pub(crate) fn of(bound: usize) -> Self {
        Self { bound, tick: Arc::default(), open: Arc::default() }
    }

    /// A place; `None` when all are taken by those that work.
    pub(crate) fn admit(&self) -> Option<Slot> {
        let activity = Arc::new(Activity::new(&self.tick));
        let mut open = self.open.lock();
        if open.connections.len() >= self.bound {
            let idle = open.connections.iter().filter_map(|(id, (activity, _))| Some((activity.idle_since()?, *id)));
            let (_, longest) = idle.min()?;
            let (_, stop) = open.connections.remove(&longest)?;
            stop.cancel();
        }
        open.last += 1;
        let (id, evicted) = (open.last, CancellationToken::new());
        open.connections.insert(id, (activity.clone(), evicted.clone()));
        Some(Slot { id, open: self.open.clone(), activity, evicted })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.lock().connections.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_idle_goes_and_who_works_stays() {
        let pool = Pool::of(2);
        let admit = || pool.admit();
        let (first, second) = (admit().unwrap(), admit().unwrap());
        let third = admit().unwrap();
        assert!(first.evicted.is_cancelled() && !second.evicted.is_cancelled());
        drop(first);
        assert_eq!(pool.open.lock().connections.len(), 2, "an evicted place is not freed twice");
        drop(third);
        assert_eq!(pool.open.lock().connections.len(), 1);
        let _fourth = admit().unwrap();
        assert!(!second.evicted.is_cancelled(), "a free place costs nobody his");
    }

    #[test]
    fn those_with_certificates_are_not_pushed_out_by_those_without() {
        let bounds = Bounds::default();
        let node = bounds.admit(true).unwrap();
        let crowd: Vec<_> = (0..MAX_UNKNOWN * 2).map(|_| bounds.admit(false).unwrap()).collect();
        assert!(!node.evicted.is_cancelled());
        assert_eq!(crowd.iter().filter(|slot| !slot.evicted.is_cancelled()).count(), MAX_UNKNOWN);
    }
}
