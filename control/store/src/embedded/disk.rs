//! The log on disk: the only module that speaks to redb. Heads and values lie in two tables, both in the order
//! of history, so that a commit only appends and a start reads only the small heads.
//!
//! Never repairs, drops or overwrites what it cannot read: it says where the damage is.

use super::record::{DiskKey, Head, Stored, disk_key, position};
use crate::{
    hub::Commit,
    index::Position,
    types::{LeaseId, Revision, StoreError},
};
use bytes::Bytes;
use parking_lot::RwLock;
use redb::{
    Database, DatabaseError, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, StorageError, TableDefinition,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

const HEADS: TableDefinition<'_, &DiskKey, &[u8]> = TableDefinition::new("heads");
const VALUES: TableDefinition<'_, &DiskKey, &[u8]> = TableDefinition::new("values");
const LEASES: TableDefinition<'_, u64, u64> = TableDefinition::new("leases");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// Layout of the tables; a file of another one is refused.
const LAYOUT: u64 = 1;
const META_LAYOUT: &str = "layout";
const META_OLDEST: &str = "oldest-revision";
const META_SCRUBBED: &str = "scrubbed-revision";
const META_NEXT_LEASE: &str = "next-lease";

/// Opens the database: a file, or what a test has in its place.
pub(super) type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// An open log.
pub(super) struct Disk {
    name: Arc<str>,
    opener: Opener,
    database: RwLock<Option<Database>>,
}

/// What a start finds besides the heads.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) oldest: Revision,
    pub(super) scrubbed: Revision,
    pub(super) next_lease: LeaseId,
    /// Identity and time to live.
    pub(super) leases: Vec<(LeaseId, u64)>,
}

/// What one commit writes, all or nothing.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) commits: Vec<Arc<Commit>>,
    /// Leases made, with their time to live, and leases ended, in order.
    pub(super) leases: Vec<(LeaseId, Option<u64>)>,
    pub(super) next_lease: Option<LeaseId>,
    pub(super) oldest: Option<Revision>,
    pub(super) scrub: Option<Scrub>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.commits.is_empty() && self.leases.is_empty() && self.oldest.is_none() && self.scrub.is_none()
    }
}

/// Records that no reader can see any more.
#[derive(Debug)]
pub(super) struct Scrub {
    pub(super) records: Vec<Position>,
    /// Up to here all of them are gone.
    pub(super) until: Revision,
}

impl Disk {
    pub(super) fn new(name: &str, opener: Opener) -> Self {
        Self { name: name.into(), opener, database: RwLock::new(None) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Opens, or closes and opens again; makes the tables when there are none.
    pub(super) fn open(&self) -> Result<(), StoreError> {
        let mut slot = self.database.write();
        *slot = None;
        let database = self.guard("open", || (self.opener)().map_err(|error| self.open_error(error)))?;
        self.guard("prepare", || self.prepare(&database))?;
        *slot = Some(database);
        Ok(())
    }

    /// Closes in order; later calls answer `Closed`.
    pub(super) fn close(&self) {
        *self.database.write() = None;
    }

    fn prepare(&self, database: &Database) -> Result<(), StoreError> {
        let write = database.begin_write().map_err(|error| self.error(error))?;
        let known = {
            let mut meta = write.open_table(META).map_err(|error| self.error(error))?;
            let known = meta.get(META_LAYOUT).map_err(|error| self.error(error))?.map(|layout| layout.value());
            if known.is_none() {
                meta.insert(META_LAYOUT, LAYOUT).map_err(|error| self.error(error))?;
            }
            known
        };
        match known {
            Some(LAYOUT) => return write.abort().map_err(|error| self.error(error)),
            Some(other) => {
                return Err(StoreError::Invalid(format!(
                    "{}: layout {other} of the store is not known to this version (it knows {LAYOUT})",
                    self.name
                )));
            }
            None => {}
        }
        for table in [HEADS, VALUES] {
            write.open_table(table).map_err(|error| self.error(error))?;
        }
        write.open_table(LEASES).map_err(|error| self.error(error))?;
        write.commit().map_err(|error| self.error(error))
    }

    /// Reads every head in order of history, and the rest of what a start needs.
    pub(super) fn load(&self, mut each: impl FnMut(Head) -> Result<(), StoreError>) -> Result<Found, StoreError> {
        let read = self.read()?;
        self.guard("read", || {
            let expected = read.heads.len().map_err(|error| self.error(error))?;
            let mut seen = 0;
            for entry in read.heads.iter().map_err(|error| self.error(error))? {
                let (key, bytes) = entry.map_err(|error| self.error(error))?;
                each(self.head(position(key.value()), bytes.value())?)?;
                seen += 1;
            }
            if seen != expected {
                return Err(self.corrupt(&format!("{seen} records where there should be {expected}")));
            }
            let meta = read.transaction.open_table(META).map_err(|error| self.error(error))?;
            let number = |name| -> Result<u64, StoreError> {
                Ok(meta.get(name).map_err(|error| self.error(error))?.map_or(0, |number| number.value()))
            };
            let mut found = Found {
                oldest: number(META_OLDEST)?,
                scrubbed: number(META_SCRUBBED)?,
                next_lease: number(META_NEXT_LEASE)?,
                leases: Vec::new(),
            };
            let leases = read.transaction.open_table(LEASES).map_err(|error| self.error(error))?;
            for entry in leases.iter().map_err(|error| self.error(error))? {
                let (lease, ttl) = entry.map_err(|error| self.error(error))?;
                found.leases.push((lease.value(), ttl.value()));
            }
            Ok(found)
        })
    }

    /// Writes and flushes; durable when it returns.
    pub(super) fn write(&self, batch: &Batch) -> Result<(), StoreError> {
        let slot = self.database.read();
        let database = slot.as_ref().ok_or(StoreError::Closed)?;
        self.guard("write", || {
            let mut write = database.begin_write().map_err(|error| self.error(error))?;
            write.set_durability(Durability::Immediate).map_err(|error| self.error(error))?;
            self.write_log(&write, batch)?;
            if !batch.leases.is_empty() {
                let mut leases = write.open_table(LEASES).map_err(|error| self.error(error))?;
                for (lease, ttl) in &batch.leases {
                    match ttl {
                        Some(ttl) => leases.insert(lease, ttl).map(drop),
                        None => leases.remove(lease).map(drop),
                    }
                    .map_err(|error| self.error(error))?;
                }
            }
            let scrubbed = batch.scrub.as_ref().map(|scrub| scrub.until);
            let numbers = [(META_OLDEST, batch.oldest), (META_SCRUBBED, scrubbed), (META_NEXT_LEASE, batch.next_lease)];
            if numbers.iter().any(|(_, number)| number.is_some()) {
                let mut meta = write.open_table(META).map_err(|error| self.error(error))?;
                for (name, number) in numbers.into_iter().filter_map(|(name, number)| Some((name, number?))) {
                    meta.insert(name, number).map_err(|error| self.error(error))?;
                }
            }
            write.commit().map_err(|error| self.error(error))
        })
    }

    fn write_log(&self, write: &redb::WriteTransaction, batch: &Batch) -> Result<(), StoreError> {
        if batch.commits.is_empty() && batch.scrub.is_none() {
            return Ok(());
        }
        let mut heads = write.open_table(HEADS).map_err(|error| self.error(error))?;
        let mut values = write.open_table(VALUES).map_err(|error| self.error(error))?;
        let mut encoded = Vec::new();
        for commit in &batch.commits {
            for (place, change) in (0..).zip(&commit.changes) {
                let key = disk_key((commit.revision, place));
                Head::of(change, place).encode(&mut encoded);
                heads.insert(&key, &encoded[..]).map_err(|error| self.error(error))?;
                let value = &change.event.current.value;
                if !value.is_empty() {
                    values.insert(&key, &value[..]).map_err(|error| self.error(error))?;
                }
            }
        }
        for record in batch.scrub.iter().flat_map(|scrub| &scrub.records) {
            let key = disk_key(*record);
            heads.remove(&key).map_err(|error| self.error(error))?;
            values.remove(&key).map_err(|error| self.error(error))?;
        }
        Ok(())
    }

    /// A view of what is durable at this moment.
    pub(super) fn read(&self) -> Result<Reader<'_>, StoreError> {
        let slot = self.database.read();
        let database = slot.as_ref().ok_or(StoreError::Closed)?;
        self.guard("read", || {
            let transaction = database.begin_read().map_err(|error| self.error(error))?;
            let heads = transaction.open_table(HEADS).map_err(|error| self.error(error))?;
            let values = transaction.open_table(VALUES).map_err(|error| self.error(error))?;
            Ok(Reader { disk: self, heads, values, transaction })
        })
    }

    /// Turns a panic of the storage library, which damaged pages can cause, into an error.
    fn guard<T>(&self, doing: &str, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(self.corrupt(&format!("{doing}: damaged pages"))))
    }

    fn head(&self, position: Position, bytes: &[u8]) -> Result<Head, StoreError> {
        Head::decode(position, bytes)
            .map_err(|why| self.corrupt(&format!("record {}/{}: {why}", position.0, position.1)))
    }

    pub(super) fn corrupt(&self, what: &str) -> StoreError {
        StoreError::Corrupt(format!(
            "{}: {what}; nothing was changed: restore a backup, or move the file away to start empty",
            self.name
        ))
    }

    fn open_error(&self, error: DatabaseError) -> StoreError {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                StoreError::Unavailable(format!("{}: in use by another process", self.name))
            }
            DatabaseError::UpgradeRequired(version) => {
                StoreError::Invalid(format!("{}: written by an older version (file format {version})", self.name))
            }
            DatabaseError::RepairAborted => self.corrupt("cannot be repaired"),
            DatabaseError::Storage(StorageError::Io(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
                self.corrupt(&error.to_string())
            }
            other => self.error(other),
        }
    }

    fn error(&self, error: impl Into<redb::Error>) -> StoreError {
        match error.into() {
            redb::Error::Corrupted(what) => self.corrupt(&what),
            redb::Error::Io(error) => self.io_error(&error),
            redb::Error::DatabaseClosed => StoreError::Closed,
            redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableDoesNotExist(_)
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::TableIsMultimap(_) => self.corrupt("its tables are not those of a store"),
            other => StoreError::Unavailable(format!("{}: {other}", self.name)),
        }
    }

    fn io_error(&self, error: &std::io::Error) -> StoreError {
        use std::io::ErrorKind;
        let text = format!("{}: {error}", self.name);
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => StoreError::NoSpace(text),
            ErrorKind::UnexpectedEof => self.corrupt("the file ends too early"),
            _ => StoreError::Unavailable(text),
        }
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Disk").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Reads from one moment's log.
pub(super) struct Reader<'a> {
    disk: &'a Disk,
    heads: ReadOnlyTable<&'static DiskKey, &'static [u8]>,
    values: ReadOnlyTable<&'static DiskKey, &'static [u8]>,
    transaction: ReadTransaction,
}

impl Reader<'_> {
    /// The value at `position`, checked against what the index knows of it.
    pub(super) fn value(&self, position: Position, stored: Stored) -> Result<Bytes, StoreError> {
        if stored.bytes == 0 {
            return Ok(Bytes::new());
        }
        let disk = self.disk;
        disk.guard("read", || {
            let wrong = |why: &str| disk.corrupt(&format!("value of record {}/{}: {why}", position.0, position.1));
            let found = self.values.get(&disk_key(position)).map_err(|error| disk.error(error))?;
            let found = found.ok_or_else(|| wrong("missing"))?;
            if !stored.matches(found.value()) {
                return Err(wrong("wrong checksum"));
            }
            Ok(Bytes::copy_from_slice(found.value()))
        })
    }

    /// Heads of whole revisions in `from..=until`, until there are `limit`; and up to where they reach.
    pub(super) fn heads(
        &self,
        from: Revision,
        until: Revision,
        limit: usize,
    ) -> Result<(Vec<Head>, Revision), StoreError> {
        let disk = self.disk;
        disk.guard("read", || {
            let (first, last) = (disk_key((from, 0)), disk_key((until, u32::MAX)));
            let mut heads: Vec<Head> = Vec::new();
            for entry in self.heads.range::<&DiskKey>(&first..=&last).map_err(|error| disk.error(error))? {
                let (key, bytes) = entry.map_err(|error| disk.error(error))?;
                let at = position(key.value());
                if let Some(reached) = heads.last().map(|head| head.position.0)
                    && heads.len() >= limit
                    && at.0 > reached
                {
                    return Ok((heads, reached));
                }
                heads.push(disk.head(at, bytes.value())?);
            }
            Ok((heads, until))
        })
    }

    /// The head at `position`, if it is still there.
    pub(super) fn head(&self, position: Position) -> Result<Option<Head>, StoreError> {
        let disk = self.disk;
        disk.guard("read", || {
            let found = self.heads.get(&disk_key(position)).map_err(|error| disk.error(error))?;
            found.map(|bytes| disk.head(position, bytes.value())).transpose()
        })
    }
}
