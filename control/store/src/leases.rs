//! Leases: which there are, when each ends, which keys end with it. Pure: `now` is an argument.

use crate::types::{Event, LeaseId, Op, StoreError, Txn};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Longest time to live, in seconds: about 285 years, as etcd allows.
pub const MAX_LEASE_SECONDS: u64 = 9_000_000_000;

#[derive(Debug)]
struct Lease {
    ttl_seconds: u64,
    ends: Timestamp,
    keys: BTreeSet<Bytes>,
}

/// All leases of a store.
#[derive(Debug)]
pub(crate) struct Leases {
    leases: BTreeMap<LeaseId, Lease>,
    /// Soonest end first.
    ends: BTreeSet<(Timestamp, LeaseId)>,
    next: LeaseId,
}

impl Default for Leases {
    fn default() -> Self {
        Self { leases: BTreeMap::new(), ends: BTreeSet::new(), next: 1 }
    }
}

impl Leases {
    pub(crate) fn contains(&self, lease: LeaseId) -> bool {
        self.leases.contains_key(&lease)
    }

    /// The identity that the next lease will have.
    pub(crate) fn next(&self) -> LeaseId {
        self.next
    }

    /// Identities below `next` were given out before: none of them comes again.
    pub(crate) fn skip_to(&mut self, next: LeaseId) {
        self.next = self.next.max(next);
    }

    /// Makes a lease; a `lease` that was given out before is put back as it was.
    pub(crate) fn insert(&mut self, lease: LeaseId, ttl_seconds: u64, now: Timestamp) {
        let ends = end(now, ttl_seconds);
        self.skip_to(lease + 1);
        self.leases.insert(lease, Lease { ttl_seconds, ends, keys: BTreeSet::new() });
        self.ends.insert((ends, lease));
    }

    pub(crate) fn keep_alive(&mut self, lease: LeaseId, now: Timestamp) -> Result<u64, StoreError> {
        let found = self.leases.get_mut(&lease).ok_or(StoreError::NoLease)?;
        self.ends.remove(&(found.ends, lease));
        found.ends = end(now, found.ttl_seconds);
        self.ends.insert((found.ends, lease));
        Ok(found.ttl_seconds)
    }

    pub(crate) fn remove(&mut self, lease: LeaseId) -> bool {
        let Some(found) = self.leases.remove(&lease) else { return false };
        self.ends.remove(&(found.ends, lease))
    }

    /// The lease that ended first, if one has.
    pub(crate) fn ended(&self, now: Timestamp) -> Option<LeaseId> {
        self.ends.first().filter(|(ends, _)| *ends <= now).map(|(_, lease)| *lease)
    }

    /// When the next lease ends.
    pub(crate) fn next_end(&self) -> Option<Timestamp> {
        self.ends.first().map(|(ends, _)| *ends)
    }

    /// Deletes at most `limit` of a lease's keys; `None` when it has none left.
    pub(crate) fn deletion(&self, lease: LeaseId, limit: usize) -> Option<Txn> {
        let keys = &self.leases.get(&lease)?.keys;
        let then: Vec<Op> = keys.iter().take(limit).cloned().map(Op::Delete).collect();
        (!then.is_empty()).then(|| Txn { then, ..Txn::default() })
    }

    /// Follows a committed change: its key leaves one lease and may join another.
    pub(crate) fn follow(&mut self, event: &Event) {
        let before = event.previous.as_ref().and_then(|previous| previous.lease);
        if before == event.current.lease {
            return;
        }
        if let Some(found) = before.and_then(|lease| self.leases.get_mut(&lease)) {
            found.keys.remove(&event.current.key);
        }
        if let Some(lease) = event.current.lease {
            self.attach(lease, event.current.key.clone());
        }
    }

    pub(crate) fn attach(&mut self, lease: LeaseId, key: Bytes) {
        if let Some(found) = self.leases.get_mut(&lease) {
            found.keys.insert(key);
        }
    }
}

pub(crate) fn check_ttl(ttl_seconds: u64) -> Result<(), StoreError> {
    if ttl_seconds == 0 || ttl_seconds > MAX_LEASE_SECONDS {
        return Err(StoreError::Invalid(format!("lease of {ttl_seconds} s, allowed are 1 to {MAX_LEASE_SECONDS}")));
    }
    Ok(())
}

fn end(now: Timestamp, ttl_seconds: u64) -> Timestamp {
    let ttl = SignedDuration::from_secs(i64::try_from(ttl_seconds).unwrap_or(i64::MAX));
    now.checked_add(ttl).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_after_its_time_unless_kept_alive() {
        let mut leases = Leases::default();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        leases.insert(1, 10, at(0));
        assert_eq!(leases.ended(at(9)), None);
        assert_eq!(leases.keep_alive(1, at(9)).unwrap(), 10);
        assert_eq!(leases.ended(at(18)), None);
        assert_eq!(leases.ended(at(19)), Some(1));
        assert!(leases.remove(1));
        assert_eq!((leases.ended(at(99)), leases.next()), (None, 2));
    }

    #[test]
    fn bounds_of_a_lease() {
        for (ttl, fine) in [(0, false), (1, true), (MAX_LEASE_SECONDS, true), (MAX_LEASE_SECONDS + 1, false)] {
            assert_eq!(check_ttl(ttl).is_ok(), fine, "{ttl}");
        }
    }
}
