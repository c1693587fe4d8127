//! A store over etcd: revisions, transactions, watches and leases are etcd's own.
//!
//! One watch follows everything under the store's prefix and feeds all watchers, as the embedded engine's log does;
//! calls go to the members one after the other until one answers. A transaction whose answer is lost is never sent
//! again blindly: the client closes the time in which it could take effect, and reads in history whether it did.
//!
//! Its keys lie under `PREFIX/`, the little it needs for itself under `PREFIX.fence/`, and upstream's
//! `compact_rev_key` beside them: other programs may use the same etcd.

mod compactor;
mod config;
mod feed;
mod fence;
mod judge;
mod lease;
mod members;
#[cfg(test)]
mod real_tests;
mod recent;
mod shared;
#[cfg(test)]
pub(crate) mod testing;
mod wire;

#[allow(missing_debug_implementations, unused_qualifications, unreachable_pub, clippy::all, reason = "generated")]
mod pb {
    tonic::include_proto!("etcdserverpb");
}

pub use config::{EtcdConfig, EtcdConfigError, EtcdMember, EtcdTls, EtcdUser};

use crate::{
    evaluate::check_bounds,
    hub::Hub,
    leases::check_ttl,
    read::MAX_RANGE_ITEMS,
    types::{
        KeyRange, LeaseId, RangeRequest, RangeResult, Revision, Store, StoreError, Txn, TxnResult, WatchBatch,
        WatchStream,
    },
};
use async_trait::async_trait;
use fence::Fence;
use futures::{StreamExt, stream};
use members::{CallError, MAX_MESSAGE_BYTES, Members};
use parking_lot::Mutex;
use pb::kv_client::KvClient;
use recent::{Fate, retell};
use shared::Shared;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use timonel_runtime::{OnError, Tasks};
use tokio::time::Instant;
use tonic::{Request, Response, Status, transport::Channel};
use wire::{Answered, Names, check_once, header_revision, is_read_only, revision, signed};

/// How many bytes one page of a range should have.
const PAGE_BYTES: usize = 8 << 20;
/// Fewest and first number of keys of a page.
const MIN_PAGE: usize = 64;
const FIRST_PAGE: usize = 500;

/// A store over etcd. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct EtcdStore {
    shared: Arc<Shared>,
    fence: Arc<Fence>,
    /// Size of a value, as read lately.
    value_bytes: Arc<AtomicUsize>,
}

impl EtcdStore {
    /// Connects; the store works for as long as `tasks` runs.
    ///
    /// # Errors
    /// [`EtcdConfigError`] for certificates and names, and those of a first read.
    pub async fn open(config: EtcdConfig, tasks: &Tasks) -> Result<Self, EtcdError> {
        let members = Members::new(&config)?;
        let mut identity = [0; 8];
        config.entropy.fill(&mut identity);
        let client: String = identity.iter().map(|byte| format!("{byte:02x}")).collect();
        let names = Names::new(&config.prefix, &client);
        let shared = Shared::new(members, names, 0, Hub::new(0, config.watch_limits), config.entropy.clone());
        let shared = Arc::new(shared);
        let newest = shared.newest().await?;
        shared.restart(newest);
        let token = tasks.token();
        let (fed, closed) = (Arc::clone(&shared), Arc::clone(&shared));
        tasks.spawn_draining("etcd-feed", async move {
            token.run_until_cancelled(feed::run(fed)).await;
            closed.hub.close(&StoreError::Closed);
        });
        let beating = Arc::clone(&shared);
        tasks.spawn("etcd-heartbeat", OnError::Log, async move {
            feed::heartbeat(beating).await;
            Ok::<(), StoreError>(())
        });
        if !config.compaction.is_zero() {
            let compacted = Arc::clone(&shared);
            tasks.spawn("etcd-compactor", OnError::Log, async move {
                compactor::run(compacted, config.compaction).await;
                Ok::<(), StoreError>(())
            });
        }
        Ok(Self { shared, fence: Arc::default(), value_bytes: Arc::new(AtomicUsize::new(PAGE_BYTES / FIRST_PAGE)) })
    }

    async fn read_txn(&self, txn: &Txn) -> Result<TxnResult, StoreError> {
        let answer = self.shared.members.repeat(self.shared.names.txn(txn, 0), send_txn).await?;
        match self.shared.names.txn_result(txn, 0, answer)? {
            Answered::Done(result) => Ok(result),
            Answered::Fenced(_) => Err(StoreError::Unavailable("a read was fenced".into())),
        }
    }

    /// Sends a transaction until its fate is known.
    async fn write_txn(&self, txn: &Txn, until: Instant) -> Result<TxnResult, StoreError> {
        loop {
            // Read before it is sent: it can only take effect later.
            let since = self.shared.reached();
            let epoch = self.fence.epoch();
            let request = self.shared.names.txn(txn, epoch);
            match self.shared.members.once(request, until, send_txn).await {
                Ok(answer) => match self.shared.names.txn_result(txn, epoch, answer)? {
                    Answered::Done(result) => {
                        if result.changed() {
                            self.shared.recent.lock().acknowledge(result.revision);
                        }
                        return Ok(result);
                    }
                    Answered::Fenced(found) => self.fence.adopt(found),
                },
                Err(CallError::Failed(error)) => return Err(error),
                Err(CallError::Unknown(why)) => {
                    tracing::debug!(why, "an answer of etcd was lost");
                    if let Some(result) = self.fate(txn, since, epoch).await? {
                        return Ok(result);
                    }
                }
            }
            if Instant::now() >= until {
                return Err(StoreError::Unavailable("etcd took no transaction in time".into()));
            }
        }
    }

    /// What became of a transaction sent in `epoch`; `None` when it had no effect and never will.
    async fn fate(&self, txn: &Txn, since: Revision, epoch: Revision) -> Result<Option<TxnResult>, StoreError> {
        let closed = self.fence.close(&self.shared, epoch).await?;
        self.shared.reach(closed).await?;
        let mut recent = self.shared.recent.lock();
        match recent.fate(txn, since, closed) {
            Fate::NotApplied => Ok(None),
            Fate::Applied(commit, held) if recent.acknowledge(commit.revision) => retell(txn, &commit, held).map(Some),
            _ => {
                Err(StoreError::Unavailable("the answer was lost, and history does not tell what became of it".into()))
            }
        }
    }

    /// Fills in what etcd does not tell with its refusals.
    async fn complete(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Compacted { .. } => StoreError::Compacted { oldest: compactor::oldest(&self.shared).await },
            StoreError::Future { .. } => match self.shared.newest().await {
                Ok(newest) => StoreError::Future { newest },
                Err(error) => error,
            },
            other => other,
        }
    }

    /// Changes of `range` from `from` up to before `end`, read from etcd itself.
    async fn distant_past(&self, range: KeyRange, from: Revision, end: Revision) -> Result<WatchStream, StoreError> {
        if !self.shared.traits.lock().keeps_deletions {
            // Then the first revision left may lack its deletions: the one before it must be there too.
            let before = Some(from.saturating_sub(1).max(1));
            self.range(RangeRequest { range: KeyRange::key("."), revision: before, limit: 1 }).await?;
        }
        // The mark's event comes after all of that: when it is there, the past is complete.
        self.shared.mark().await?;
        let opening = tokio::time::timeout(self.shared.members.attempt(), feed::start(&self.shared, from)).await;
        let (requests, answers) = match opening {
            Ok(Ok(opened)) => opened,
            Ok(Err(status)) => return Err(StoreError::Unavailable(status.message().to_owned())),
            Err(_) => return Err(StoreError::Unavailable("no answer from etcd".into())),
        };
        let names = self.shared.names.clone();
        let past = Past { names, range, end, _requests: requests, answers, done: false };
        let mut past =
            stream::unfold(past, |mut past| async move { past.next().await.map(|next| (next, past)) }).boxed();
        // Whether the start is gone is told at once.
        match past.next().await {
            Some(Err(error)) => Err(error),
            Some(first) => Ok(stream::iter([first]).chain(past).boxed()),
            None => Ok(past),
        }
    }
}

/// A watch of the past only.
struct Past {
    names: Names,
    range: KeyRange,
    end: Revision,
    _requests: tokio::sync::mpsc::Sender<pb::WatchRequest>,
    answers: tonic::Streaming<pb::WatchResponse>,
    done: bool,
}

impl Past {
    async fn next(&mut self) -> Option<Result<WatchBatch, StoreError>> {
        let mut events = Vec::new();
        while !self.done {
            let answer = match self.answers.message().await {
                Ok(Some(answer)) => answer,
                Ok(None) => return self.fail(StoreError::Unavailable("etcd ended a watch".into())),
                Err(status) => return self.fail(StoreError::Unavailable(status.message().to_owned())),
            };
            if answer.compact_revision > 0 {
                return self.fail(StoreError::Compacted { oldest: revision(answer.compact_revision) });
            }
            if answer.canceled {
                return self.fail(StoreError::Unavailable(answer.cancel_reason));
            }
            let last = answer.events.last().and_then(|event| event.kv.as_ref());
            let last = last.map_or(0, |last| revision(last.mod_revision));
            let own = answer.events.into_iter().filter_map(|event| self.names.event(event));
            events.extend(
                own.filter(|event| self.range.contains(&event.current.key) && event.current.mod_revision < self.end),
            );
            self.done = last >= self.end;
            if last > 0 && !answer.fragment {
                return Some(Ok(WatchBatch { events, revision: last.min(self.end - 1) }));
            }
        }
        None
    }

    fn fail(&mut self, error: StoreError) -> Option<Result<WatchBatch, StoreError>> {
        self.done = true;
        Some(Err(error))
    }
}

/// Why a store over etcd could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// What it was told is not usable.
    #[error(transparent)]
    Config(#[from] EtcdConfigError),
    /// Its first read failed.
    #[error("reading etcd")]
    Read(#[from] StoreError),
}

async fn send_txn(channel: Channel, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
    KvClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES).txn(request).await
}

async fn send_range(
    channel: Channel,
    request: Request<pb::RangeRequest>,
) -> Result<Response<pb::RangeResponse>, Status> {
    KvClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES).range(request).await
}

#[async_trait]
impl Store for EtcdStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeResult, StoreError> {
        let value_bytes = self.value_bytes.load(Ordering::Relaxed).max(1);
        let page = (PAGE_BYTES / value_bytes).clamp(MIN_PAGE, MAX_RANGE_ITEMS);
        let limit = if request.limit == 0 { page } else { request.limit.min(page) };
        let (key, range_end) = self.shared.names.outer_range(&request.range);
        let message = pb::RangeRequest {
            key,
            range_end,
            limit: signed(limit as u64),
            revision: signed(request.revision.unwrap_or(0)),
            ..pb::RangeRequest::default()
        };
        let answer = match self.shared.members.repeat(message, send_range).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.complete(error).await),
        };
        let items: Vec<_> = answer.kvs.into_iter().filter_map(|found| self.shared.names.key_value(found)).collect();
        if items.len() >= MIN_PAGE {
            let bytes: usize = items.iter().map(|item| item.value.len() + item.key.len()).sum();
            self.value_bytes.store(bytes / items.len(), Ordering::Relaxed);
        }
        let newest = header_revision(answer.header.as_ref());
        Ok(RangeResult { items, more: answer.more, count: revision(answer.count), revision: newest })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        check_bounds(&txn)?;
        check_once(&txn)?;
        if is_read_only(&txn) {
            return self.read_txn(&txn).await;
        }
        self.write_txn(&txn, self.shared.members.deadline()).await
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, StoreError> {
        let from = if from == 0 { self.shared.newest().await? + 1 } else { from };
        let (present, oldest) = {
            let recent = self.shared.recent.lock();
            let start = from.max(recent.oldest);
            let past = Arc::new(Mutex::new(recent.past(&range, start)));
            (self.shared.hub.watch(range.clone(), start, past), recent.oldest)
        };
        if from >= oldest {
            return Ok(present);
        }
        Ok(self.distant_past(range, from, oldest).await?.chain(present).boxed())
    }

    async fn request_progress(&self, range: KeyRange) -> Result<(), StoreError> {
        let newest = self.shared.newest().await?;
        self.shared.reach(newest).await?;
        self.shared.hub.request_progress(&range);
        Ok(())
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.shared.newest().await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        match compactor::compact(&self.shared, revision).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.complete(error).await),
        }
    }

    async fn grant_lease(&self, ttl_seconds: u64) -> Result<LeaseId, StoreError> {
        check_ttl(ttl_seconds)?;
        lease::grant(&self.shared.members, ttl_seconds).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<u64, StoreError> {
        lease::keep_alive(&self.shared.members, lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        lease::revoke(&self.shared.members, lease).await
    }
}
