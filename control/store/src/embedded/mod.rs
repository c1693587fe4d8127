//! The engine on disk: one file, one writer thread, group commit. See `writer` for how a write goes.
//!
//! Guarantees: what was acknowledged survives a crash at any instruction and the loss of power; a reader sees
//! only what would survive. Both lanes give this; the batched one only waits for company (see [`Lane`]).

mod disk;
#[cfg(test)]
mod faults;
mod queue;
mod record;
mod state;
mod writer;

use self::{
    disk::{Disk, Opener},
    queue::Queue,
    state::{Listed, Shared, State, Values},
    writer::{Job, Steady, Writer},
};
use crate::{
    evaluate::{check_bounds, evaluate},
    hub::{History, Hub, WatchLimits, check_start},
    leases::check_ttl,
    read::{check_revision, page},
    types::{
        KeyRange, Lane, LeaseId, Op, RangeRequest, RangeResult, Revision, Store, StoreError, Txn, TxnResult,
        WatchStream,
    },
};
use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use redb::Database;
use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::oneshot;

/// The file in a store's directory.
const FILE: &str = "store.redb";
/// The file while it is being made.
const NEW_FILE: &str = "store.redb.new";
/// Values read from disk without giving other tasks a turn.
const READ_TURN: usize = 128;

/// How an embedded store behaves.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// Pages that redb keeps in memory, in bytes.
    pub cache_bytes: usize,
    /// The newest part of the log that is kept in memory, in bytes.
    pub tail_bytes: usize,
    /// More than this is not stored, in bytes: then only deletions succeed.
    pub quota_bytes: u64,
    /// Free space on the disk below which only deletions succeed, in bytes.
    pub reserve_bytes: u64,
    /// How long a transaction of [`Lane::Batched`] waits for a prompt one to share a flush with.
    pub batch_wait: Duration,
    /// How long history is kept before it is compacted; `None` leaves that to [`Store::compact`].
    pub history: Option<Duration>,
    /// What each watcher may have waiting.
    pub watch: WatchLimits,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            cache_bytes: 8 << 20,
            tail_bytes: 4 << 20,
            quota_bytes: 64 << 30,
            reserve_bytes: 64 << 20,
            batch_wait: Duration::from_millis(25),
            history: Some(Duration::from_secs(300)),
            watch: WatchLimits::default(),
        }
    }
}

/// A store in a directory of its own.
#[derive(Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    queue: Arc<Queue<Job>>,
    clock: Arc<Steady>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl EmbeddedStore {
    /// Opens the store in `directory`, which is made if there is none. Blocks while it reads the index.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when another process has it open or the disk fails, [`StoreError::Corrupt`]
    /// when it is damaged, [`StoreError::Invalid`] when another version wrote it; each names the file.
    pub fn open(directory: impl AsRef<Path>, config: EmbeddedConfig) -> Result<Self, StoreError> {
        let directory = directory.as_ref();
        let file = directory.join(FILE);
        let name = file.display().to_string();
        let (path, cache) = (file.clone(), config.cache_bytes);
        let made = Mutex::new(make_file(directory, &file, cache)?);
        let opener: Opener = Box::new(move || match made.lock().take() {
            Some(made) => Ok(made),
            None => Database::builder().set_cache_size(cache).open(&path),
        });
        Self::start(&name, opener, config, Some(directory.to_owned()))
    }

    fn start(
        name: &str,
        opener: Opener,
        config: EmbeddedConfig,
        directory: Option<PathBuf>,
    ) -> Result<Self, StoreError> {
        let clock = Arc::new(Steady::start());
        let disk = Disk::new(name, opener);
        disk.open()?;
        let state = State::load(&disk, config.tail_bytes, clock.now())?;
        let hub = Arc::new(Hub::new(state.durable, config.watch));
        let shared = Arc::new(Shared { state: RwLock::new(state), hub, disk });
        let queue = Arc::new(Queue::new(config.batch_wait));
        let writer = Writer {
            shared: Arc::clone(&shared),
            queue: Arc::clone(&queue),
            clock: Arc::clone(&clock),
            config,
            directory,
            samples: VecDeque::new(),
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(|error| StoreError::Unavailable(format!("{name}: no thread for its writer: {error}")))?;
        Ok(Self { shared, queue, clock, thread: Mutex::new(Some(thread)) })
    }

    /// Writes what waits, ends every watch and closes the file; later calls answer [`StoreError::Closed`].
    /// Dropping the store does the same.
    pub fn close(&self) {
        self.queue.close();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!(store = self.shared.disk.name(), "the store's writer panicked");
        }
    }

    /// Bytes of all records that are stored, history included.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.shared.state.read().stored_bytes
    }

    async fn ask<T>(
        &self,
        lane: Lane,
        bytes: usize,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.queue.push(lane, bytes, job(reply)).await?;
        answer.await.map_err(|_| StoreError::Unavailable("the store's writer ended".into()))?
    }

    /// The answer to a transaction that only reads: it need not wait for the writer.
    fn read_only(&self, txn: &Txn) -> Result<TxnResult, StoreError> {
        let state = self.shared.state.read();
        state.check_broken()?;
        let values = Values::new(&state.tail, &self.shared.disk);
        Ok(evaluate(&state.index, &state.leases, &values, state.durable, txn)?.result)
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.close();
    }
}

/// Makes an empty store, if there is none, under another name first, so that an empty file under the real one is always
/// damage. It stays open: to close it and open it again takes five flushes of a start that has fifteen.
fn make_file(directory: &Path, file: &Path, cache: usize) -> Result<Option<Database>, StoreError> {
    let failed =
        |error: &dyn std::fmt::Display| StoreError::Unavailable(format!("{}: cannot be made: {error}", file.display()));
    std::fs::create_dir_all(directory).map_err(|error| failed(&error))?;
    match file.metadata() {
        Ok(found) if found.len() == 0 => {
            return Err(StoreError::Corrupt(format!(
                "{}: the file is empty; nothing was changed: restore a backup, or move the file away to start empty",
                file.display()
            )));
        }
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&error)),
    }
    let new = directory.join(NEW_FILE);
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(&error)),
        _ => {}
    }
    let made = Database::builder().set_cache_size(cache).create(&new).map_err(|error| failed(&error))?;
    std::fs::rename(&new, file).map_err(|error| failed(&error))?;
    std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| failed(&error))?;
    Ok(Some(made))
}

fn weight(txn: &Txn) -> usize {
    let bytes = |op: &Op| match op {
        Op::Put { key, value, .. } => key.len() + value.len(),
        Op::Delete(key) | Op::Get(key) => key.len(),
        Op::DeleteRange(range) => range.start.len() + range.end.len(),
    };
    txn.then.iter().map(bytes).sum::<usize>().max(txn.otherwise.iter().map(bytes).sum())
}

fn only_reads(txn: &Txn) -> bool {
    txn.then.iter().chain(&txn.otherwise).all(|op| matches!(op, Op::Get(_)))
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeResult, StoreError> {
        let (mut listed, beyond, revision, reader) = {
            let state = self.shared.state.read();
            state.check_broken()?;
            let at = check_revision(request.revision, state.oldest, state.durable)?;
            let (listed, beyond) = state.list(&request.range, at, page(request.limit));
            let missing = listed.iter().any(|listed| listed.missing.is_some());
            // Under the lock: what compaction deletes after this is still in the view.
            let reader = if missing { Some(self.shared.disk.read()?) } else { None };
            (listed, beyond, state.durable, reader)
        };
        for turn in listed.chunks_mut(READ_TURN) {
            for Listed { item, missing } in turn {
                if let (Some((position, stored)), Some(reader)) = (missing.take(), &reader) {
                    item.value = reader.value(position, stored)?;
                }
            }
            if reader.is_some() {
                tokio::task::yield_now().await;
            }
        }
        let items: Vec<_> = listed.into_iter().map(|listed| listed.item).collect();
        Ok(RangeResult { count: items.len() as u64 + beyond, more: beyond > 0, items, revision })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        check_bounds(&txn)?;
        if only_reads(&txn) {
            return self.read_only(&txn);
        }
        self.ask(txn.lane, weight(&txn), |reply| Job::Txn(txn, reply)).await
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, StoreError> {
        let state = self.shared.state.read();
        state.check_broken()?;
        check_start(from, state.oldest)?;
        Ok(self.shared.hub.watch(range, from, Arc::clone(&self.shared) as Arc<dyn History>))
    }

    async fn request_progress(&self, range: KeyRange) -> Result<(), StoreError> {
        self.shared.hub.request_progress(&range);
        Ok(())
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        let state = self.shared.state.read();
        state.check_broken()?;
        Ok(state.durable)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.ask(Lane::Prompt, 0, |reply| Job::Compact(revision, reply)).await
    }

    async fn grant_lease(&self, ttl_seconds: u64) -> Result<LeaseId, StoreError> {
        check_ttl(ttl_seconds)?;
        self.ask(Lane::Prompt, 0, |reply| Job::Grant(ttl_seconds, reply)).await
    }

    /// Nothing is written: after a restart every lease starts its time again.
    async fn keep_alive(&self, lease: LeaseId) -> Result<u64, StoreError> {
        let mut state = self.shared.state.write();
        state.check_broken()?;
        state.leases.keep_alive(lease, self.clock.now())
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(Lane::Prompt, 0, |reply| Job::Revoke(lease, reply)).await
    }
}
