//! The revisioned key-value store under every cluster: the guarantees of etcd v3, as one trait.
//!
//! Owns durability, revisions, watch history and leases. Knows nothing of Kubernetes: keys and values are
//! bytes.

mod archive;
mod embedded;
mod etcd;
mod evaluate;
mod gate;
mod hub;
mod index;
mod leases;
mod memory;
mod migrate;
#[cfg(test)]
mod model;
mod prefix;
mod read;
#[cfg(test)]
mod suite;
mod transfer;
mod types;

pub use archive::{ArchiveError, ArchivePart, ArchiveReader, ArchiveWriter};
pub use embedded::{EmbeddedConfig, EmbeddedStore};
pub use etcd::{EtcdConfig, EtcdConfigError, EtcdError, EtcdMember, EtcdStore, EtcdTls, EtcdUser};
pub use evaluate::{MAX_KEY_BYTES, MAX_TXN_BYTES, MAX_TXN_CHANGES, MAX_TXN_OPS, MAX_VALUE_BYTES};
pub use gate::GatedStore;
pub use hub::WatchLimits;
pub use leases::MAX_LEASE_SECONDS;
pub use memory::MemoryStore;
pub use migrate::{Moving, RouteOf, Targets, Transferred, migrate};
pub use prefix::{PrefixStore, delete_prefix, prefixed};
pub use read::MAX_RANGE_ITEMS;
pub use transfer::{Importer, Keep, Source, TransferError, export};
pub use types::{
    Compare, Event, EventKind, KeyRange, KeyValue, Lane, LeaseId, Op, OpResult, RangeRequest, RangeResult, Revision,
    Store, StoreError, Txn, TxnResult, WatchBatch, WatchStream,
};
