//! The revisioned key-value store under every cluster: the guarantees of etcd v3, as one trait.
//!
//! Owns durability, revisions, watch history and leases. Knows nothing of Kubernetes: keys and values are
//! bytes.

mod types;

pub use types::{
    Compare, Event, EventKind, KeyRange, KeyValue, LeaseId, Op, OpResult, RangeRequest, RangeResult, Revision, Store,
    StoreError, Txn, TxnResult, WatchBatch, WatchStream,
};
