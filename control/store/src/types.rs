//! The store's vocabulary and its trait. Never does I/O itself.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

/// A point in the store's history. Starts at 1; every committed transaction that changes a key adds one.
pub type Revision = u64;

/// A lease; its keys are deleted when it expires or is revoked.
pub type LeaseId = u64;

/// Keys from `start` (inclusive) to `end` (exclusive). An empty `end` has no upper bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// First key.
    pub start: Bytes,
    /// First key beyond.
    pub end: Bytes,
}

/// One key as of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// Key.
    pub key: Bytes,
    /// Value.
    pub value: Bytes,
    /// When the key was created (since its last deletion).
    pub create_revision: Revision,
    /// When it was last changed.
    pub mod_revision: Revision,
    /// Changes since creation; 1 for a new key.
    pub version: u64,
    /// The lease it ends with.
    pub lease: Option<LeaseId>,
}

/// What to read.
#[derive(Clone, Debug)]
pub struct RangeRequest {
    /// Which keys.
    pub range: KeyRange,
    /// As of when; `None` is the newest.
    pub revision: Option<Revision>,
    /// At most so many; 0 is the implementation's own bound on one answer ([`RangeResult::more`] tells).
    pub limit: usize,
}

/// What was read.
#[derive(Clone, Debug)]
pub struct RangeResult {
    /// In order of key.
    pub items: Vec<KeyValue>,
    /// Whether there are further keys in the range.
    pub more: bool,
    /// How many keys the range holds in all, the listed ones included.
    pub count: u64,
    /// The newest revision when this was read (not the one asked for).
    pub revision: Revision,
}

/// A condition on one key.
#[derive(Clone, Debug)]
pub enum Compare {
    /// The key's `mod_revision` is this; 0 says that it does not exist.
    ModRevision(Bytes, Revision),
    /// The key's value is this.
    Value(Bytes, Bytes),
}

/// One step of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    /// Set a key.
    Put {
        /// Key.
        key: Bytes,
        /// Value.
        value: Bytes,
        /// The lease it ends with.
        lease: Option<LeaseId>,
    },
    /// Delete a key; nothing when it is absent.
    Delete(Bytes),
    /// Delete every key of a range.
    DeleteRange(KeyRange),
    /// Read a key as this transaction sees it.
    Get(Bytes),
}

/// How soon a transaction must be committed. Both lanes give the same guarantees: one sequence of revisions,
/// and what was acknowledged is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lane {
    /// As soon as the disk allows.
    #[default]
    Prompt,
    /// With the next prompt commit, or after a short wait when there is none: heartbeats and events. They have a
    /// queue of their own, so that they neither delay prompt transactions nor cause a flush each.
    Batched,
}

/// If every comparison holds, `then`; else `otherwise`. All or nothing, one revision. A key may be changed
/// only once.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// Conditions.
    pub compare: Vec<Compare>,
    /// Steps when they hold.
    pub then: Vec<Op>,
    /// Steps when one does not.
    pub otherwise: Vec<Op>,
    /// How soon.
    pub lane: Lane,
}

/// The answer to one [`Op`], in the same place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// Set; what the key was before.
    Put(Option<KeyValue>),
    /// Deleted; what the keys were.
    Deleted(Vec<KeyValue>),
    /// Read.
    Got(Option<KeyValue>),
}

/// What a transaction did.
#[derive(Clone, Debug)]
pub struct TxnResult {
    /// Whether the comparisons held.
    pub succeeded: bool,
    /// The store's revision after it (its own, if it changed anything).
    pub revision: Revision,
    /// One answer a step.
    pub results: Vec<OpResult>,
}

impl TxnResult {
    /// Whether it changed anything, so that [`Self::revision`] is its own.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.results.iter().any(|result| match result {
            OpResult::Put(_) => true,
            OpResult::Deleted(found) => !found.is_empty(),
            OpResult::Got(_) => false,
        })
    }
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Set.
    Put,
    /// Deleted; the event's `current` has the key, an empty value and the revision of the deletion.
    Delete,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key as it is after.
    pub current: KeyValue,
    /// The key as it was before, unless compacted away.
    pub previous: Option<KeyValue>,
}

/// Changes in order, never half of a transaction's.
#[derive(Clone, Debug, Default)]
pub struct WatchBatch {
    /// Possibly none: then only the revision is news.
    pub events: Vec<Event>,
    /// Everything up to and including this revision has been delivered.
    pub revision: Revision,
}

/// Changes from a revision on; ends after its first error.
pub type WatchStream = BoxStream<'static, Result<WatchBatch, StoreError>>;

/// Why the store did not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The revision asked for is gone; `oldest` is the first one still there.
    #[error("required revision has been compacted (oldest: {oldest})")]
    Compacted {
        /// First revision still readable.
        oldest: Revision,
    },
    /// The revision asked for lies in the future.
    #[error("required revision is a future revision (newest: {newest})")]
    Future {
        /// Newest revision.
        newest: Revision,
    },
    /// The watcher did not keep up and was let go; watch again from the last delivered revision.
    #[error("watcher fell behind")]
    Lagged,
    /// No such lease.
    #[error("requested lease not found")]
    NoLease,
    /// The request breaks a bound (value or transaction too large, key empty).
    #[error("invalid request: {0}")]
    Invalid(String),
    /// Nothing can be written (disk full, quota), but reads go on.
    #[error("no space: {0}")]
    NoSpace(String),
    /// Not now; the same call may succeed later, and may have taken effect.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The stored data is damaged; never served, never overwritten.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// The store is closing.
    #[error("closed")]
    Closed,
}

/// A revisioned key-value store with the guarantees of etcd v3: linearizable reads and transactions; a watch
/// delivers every change from its revision on, once and in order; what was acknowledged survives a crash.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug + 'static {
    /// Reads keys in order, as of one revision.
    ///
    /// # Errors
    /// [`StoreError::Compacted`], [`StoreError::Future`], and the I/O ones.
    async fn range(&self, request: RangeRequest) -> Result<RangeResult, StoreError>;

    /// Commits a transaction; returns once it is durable.
    ///
    /// # Errors
    /// The I/O ones; [`StoreError::Unavailable`] leaves open whether it took effect.
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError>;

    /// Changes of a range from `from` (inclusive) on; 0 is "from the next change".
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when `from` is gone.
    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, StoreError>;

    /// Makes every open watch within `range` say how far it is, with an empty batch if need be: after this, each
    /// delivers a batch whose revision is at least the newest at the time of the call.
    ///
    /// # Errors
    /// The I/O ones.
    async fn request_progress(&self, range: KeyRange) -> Result<(), StoreError>;

    /// The newest revision.
    ///
    /// # Errors
    /// The I/O ones.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// Forgets history before `revision`: reads and watches from earlier answer [`StoreError::Compacted`].
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when that was done already, [`StoreError::Future`].
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// Makes a lease of `ttl_seconds`.
    ///
    /// # Errors
    /// The I/O ones.
    async fn grant_lease(&self, ttl_seconds: u64) -> Result<LeaseId, StoreError>;

    /// Starts a lease's time again; returns its time to live in seconds.
    ///
    /// # Errors
    /// [`StoreError::NoLease`].
    async fn keep_alive(&self, lease: LeaseId) -> Result<u64, StoreError>;

    /// Ends a lease and deletes its keys.
    ///
    /// # Errors
    /// [`StoreError::NoLease`].
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError>;
}

#[async_trait]
impl<S: Store + ?Sized> Store for std::sync::Arc<S> {
    async fn range(&self, request: RangeRequest) -> Result<RangeResult, StoreError> {
        (**self).range(request).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        (**self).txn(txn).await
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, StoreError> {
        (**self).watch(range, from).await
    }

    async fn request_progress(&self, range: KeyRange) -> Result<(), StoreError> {
        (**self).request_progress(range).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        (**self).revision().await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        (**self).compact(revision).await
    }

    async fn grant_lease(&self, ttl_seconds: u64) -> Result<LeaseId, StoreError> {
        (**self).grant_lease(ttl_seconds).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<u64, StoreError> {
        (**self).keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        (**self).revoke_lease(lease).await
    }
}

impl KeyRange {
    /// Exactly one key.
    #[must_use]
    pub fn key(key: impl Into<Bytes>) -> Self {
        let start = key.into();
        let mut end = start.to_vec();
        end.push(0);
        Self { start, end: end.into() }
    }

    /// Every key that starts with `prefix`.
    #[must_use]
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let mut end = start.to_vec();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                break;
            }
        }
        Self { start, end: end.into() }
    }

    /// Every key.
    #[must_use]
    pub fn all() -> Self {
        Self { start: Bytes::new(), end: Bytes::new() }
    }

    /// Whether `other` lies in it as a whole.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.start >= self.start && (self.end.is_empty() || (!other.end.is_empty() && other.end <= self.end))
    }

    /// Whether `key` lies in it.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && (self.end.is_empty() || key < &self.end[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_its_keys_and_no_other() {
        let range = KeyRange::prefix(&b"/a/"[..]);
        assert!(range.contains(b"/a/") && range.contains(b"/a/z") && range.contains(b"/a/\xff"));
        assert!(!range.contains(b"/a") && !range.contains(b"/b"));
        assert!(KeyRange::prefix(&b"\xff\xff"[..]).end.is_empty());
    }
}
