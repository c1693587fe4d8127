//! The watch cache: every object of a cluster in memory, fed by one watch of each
//! store.
//!
//! Owns the objects' cached text, recent history and the watchers. Reads are served from here; writes go to the
//! store and come back through the feed. Never writes to the store, never interprets an object beyond the
//! columns stored beside it.

mod entry;
mod feed;
mod place;
mod resource;
mod slot;
mod stored;
mod watcher;

pub(crate) use entry::{Change, ChangeKind, Entry};
pub(crate) use feed::{Cache, CacheError};
pub(crate) use place::Place;
pub(crate) use resource::Selection;
pub(crate) use slot::{ChangeStream, Slot, WatchStart};
pub(crate) use stored::{Columns, CustomColumns, StoredError, encode};
pub(crate) use watcher::{Predicate, Trigger};

#[cfg(test)]
mod tests;
