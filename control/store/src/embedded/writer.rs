//! The one thread that changes an embedded store: takes jobs in groups, evaluates each on the newest state in
//! order, writes the group with one flush, then makes it visible and answers. Between groups it ends leases,
//! moves the compaction on and forgets old history.
//!
//! A thread of its own, not a task: it waits for the disk, and must not hold up an async worker.

use super::{
    EmbeddedConfig,
    disk::{Batch, Scrub},
    queue::{Queue, Taken},
    record::record_weight,
    state::{Shared, State, Values},
};
use crate::{
    evaluate::evaluate,
    read::check_compaction,
    types::{EventKind, LeaseId, Op, Revision, StoreError, Txn, TxnResult},
};
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Records looked at by one step of a compaction.
const SCRUB_RECORDS: usize = 500;
/// Most keys of an ended lease deleted in one revision.
const LEASE_DELETE_KEYS: usize = 512;
/// How often revisions are noted, as a part of the time that history is kept.
const SAMPLES: u32 = 10;
/// How long the writer waits before it tries a broken disk again.
const RETRY: Duration = Duration::from_secs(1);

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What callers ask of the writer.
#[derive(Debug)]
pub(super) enum Job {
    Txn(Txn, Reply<TxnResult>),
    Compact(Revision, Reply<()>),
    Grant(u64, Reply<LeaseId>),
    Revoke(LeaseId, Reply<()>),
}

impl Job {
    fn refuse(self, error: StoreError) {
        // A caller that has gone away needs no answer.
        match self {
            Self::Txn(_, reply) => drop(reply.send(Err(error))),
            Self::Compact(_, reply) | Self::Revoke(_, reply) => drop(reply.send(Err(error))),
            Self::Grant(_, reply) => drop(reply.send(Err(error))),
        }
    }
}

/// An answer that waits until its group is durable.
enum Answer {
    Txn(Reply<TxnResult>, Result<TxnResult, StoreError>),
    Done(Reply<()>, Result<(), StoreError>),
    Lease(Reply<LeaseId>, Result<LeaseId, StoreError>),
}

impl Answer {
    /// Sends it; `failed` is why the group did not become durable.
    fn send(self, failed: Option<&StoreError>) {
        let failed = failed.cloned();
        // A caller that has gone away needs no answer.
        match self {
            Self::Txn(reply, result) => drop(reply.send(failed.map_or(result, Err))),
            Self::Done(reply, result) => drop(reply.send(failed.map_or(result, Err))),
            Self::Lease(reply, result) => drop(reply.send(failed.map_or(result, Err))),
        }
    }
}

/// A clock that never jumps: leases must not end because somebody set the time.
#[derive(Debug)]
pub(super) struct Steady(Instant);

impl Steady {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.0.elapsed()).unwrap_or(SignedDuration::MAX);
        Timestamp::UNIX_EPOCH.saturating_add(elapsed).unwrap_or(Timestamp::MAX)
    }

    fn instant(&self, at: Timestamp) -> Instant {
        let since = Duration::try_from(at.duration_since(Timestamp::UNIX_EPOCH)).unwrap_or_default();
        self.0 + since
    }
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Arc<Queue<Job>>,
    pub(super) config: EmbeddedConfig,
    pub(super) clock: Arc<Steady>,
    /// Where free space is looked up; tests have none.
    pub(super) directory: Option<PathBuf>,
    pub(super) samples: VecDeque<(Instant, Revision)>,
}

impl Writer {
    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self) {
        loop {
            match self.queue.take(self.deadline()) {
                Taken::Closed => break,
                Taken::Nothing => self.commit(Vec::new()),
                Taken::Jobs(jobs) => self.commit(jobs),
            }
        }
        self.shared.hub.close(&StoreError::Closed);
        self.shared.state.write().broken = Some(StoreError::Closed);
        self.shared.disk.close();
    }

    /// When there is something to do without a job.
    fn deadline(&self) -> Option<Instant> {
        let state = self.shared.state.read();
        if state.broken.is_some() {
            return Some(Instant::now() + RETRY);
        }
        let scrub = (state.scrubbed < state.oldest).then(Instant::now);
        let lease = state.leases.next_end().map(|end| self.clock.instant(end));
        // A store at rest has nothing to forget, hence no reason to wake up.
        let history = self.config.history.unwrap_or_default();
        let news = self.samples.back().is_none_or(|(_, revision)| *revision < state.durable);
        let sample = self
            .config
            .history
            .filter(|_| news)
            .map(|history| self.samples.back().map_or_else(Instant::now, |(at, _)| *at + history / SAMPLES));
        let forget = self.samples.front().map(|(at, _)| *at + history);
        [scrub, lease, sample, forget].into_iter().flatten().min()
    }

    fn commit(&mut self, jobs: Vec<Job>) {
        if self.shared.state.read().broken.is_some() {
            self.recover();
        }
        if let Some(error) = self.shared.state.read().broken.clone() {
            return jobs.into_iter().for_each(|job| job.refuse(error.clone()));
        }
        let mut group = Group { batch: Batch::default(), answers: Vec::with_capacity(jobs.len()) };
        let full = self.full();
        for job in jobs {
            self.evaluate(job, &mut group, full.as_ref());
        }
        self.end_leases(&mut group);
        self.forget(&mut group);
        let failed = self.scrub(&mut group).and_then(|()| self.make_durable(&group.batch)).err();
        if let Some(error) = &failed {
            tracing::error!(%error, "the store could not write");
            self.recover();
        }
        for answer in group.answers {
            answer.send(failed.as_ref());
        }
    }

    fn make_durable(&self, batch: &Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.shared.disk.write(batch)?;
        let mut state = self.shared.state.write();
        let durable = state.newest;
        state.durable = durable;
        state.tail.trim(durable);
        if let Some(scrub) = &batch.scrub {
            state.scrubbed = scrub.until;
        }
        self.shared.hub.publish(&batch.commits);
        Ok(())
    }

    /// After a failed write nobody knows what the disk holds: closes, opens and reads it again, as a start does.
    /// Watchers are let go; they find what they missed when they watch again.
    fn recover(&mut self) {
        let mut state = self.shared.state.write();
        let opened = self.shared.disk.open();
        match opened.and_then(|()| State::load(&self.shared.disk, self.config.tail_bytes, self.clock.now())) {
            Ok(fresh) => {
                self.shared.hub.restart(fresh.durable);
                *state = fresh;
            }
            Err(error) => {
                tracing::error!(%error, "the store cannot be used");
                self.shared.hub.restart(state.durable);
                state.broken = Some(error);
            }
        }
        self.samples.clear();
    }

    /// Why nothing may be added at present.
    fn full(&self) -> Option<StoreError> {
        let state = self.shared.state.read();
        if state.stored_bytes > self.config.quota_bytes {
            return Some(StoreError::NoSpace(format!(
                "{}: {} bytes stored, the quota is {}: delete keys or raise it",
                self.shared.disk.name(),
                state.stored_bytes,
                self.config.quota_bytes
            )));
        }
        let free = rustix::fs::statvfs(self.directory.as_deref()?).ok()?;
        let free = free.f_bavail.saturating_mul(free.f_frsize);
        (free < self.config.reserve_bytes).then(|| {
            StoreError::NoSpace(format!(
                "{}: {free} bytes free on its disk, {} are kept in reserve",
                self.shared.disk.name(),
                self.config.reserve_bytes
            ))
        })
    }

    fn evaluate(&self, job: Job, group: &mut Group, full: Option<&StoreError>) {
        match job {
            Job::Txn(txn, reply) => {
                let result = self.transact(&txn, full, &mut group.batch);
                group.answers.push(Answer::Txn(reply, result));
            }
            Job::Compact(revision, reply) => {
                let result = self.compact(revision, &mut group.batch);
                group.answers.push(Answer::Done(reply, result));
            }
            Job::Grant(ttl, reply) => {
                let result = full.map_or_else(|| self.grant(ttl, &mut group.batch), |error| Err(error.clone()));
                group.answers.push(Answer::Lease(reply, result));
            }
            Job::Revoke(lease, reply) => {
                let result = self.end_lease(lease, &mut group.batch);
                group.answers.push(Answer::Done(reply, result));
            }
        }
    }

    fn transact(&self, txn: &Txn, full: Option<&StoreError>, batch: &mut Batch) -> Result<TxnResult, StoreError> {
        let outcome = {
            let state = self.shared.state.read();
            let values = Values::new(&state.tail, &self.shared.disk);
            evaluate(&state.index, &state.leases, &values, state.newest, txn)?
        };
        if outcome.changes.is_empty() {
            return Ok(outcome.result);
        }
        let adds = outcome.changes.iter().any(|change| change.event.kind == EventKind::Put);
        if let Some(error) = full.filter(|_| adds) {
            return Err(error.clone());
        }
        batch.commits.push(self.shared.state.write().apply(outcome.changes));
        Ok(outcome.result)
    }

    fn compact(&self, revision: Revision, batch: &mut Batch) -> Result<(), StoreError> {
        let mut state = self.shared.state.write();
        check_compaction(revision, state.oldest, state.durable)?;
        state.oldest = revision;
        batch.oldest = Some(revision);
        Ok(())
    }

    fn grant(&self, ttl: u64, batch: &mut Batch) -> Result<LeaseId, StoreError> {
        let leases = &mut self.shared.state.write().leases;
        let lease = leases.next();
        leases.insert(lease, ttl, self.clock.now());
        batch.leases.push((lease, Some(ttl)));
        batch.next_lease = Some(leases.next());
        Ok(lease)
    }

    fn end_lease(&self, lease: LeaseId, batch: &mut Batch) -> Result<(), StoreError> {
        loop {
            let deletion = self.shared.state.read().leases.deletion(lease, LEASE_DELETE_KEYS);
            let Some(txn) = deletion else { break };
            debug_assert!(txn.then.iter().all(|op| matches!(op, Op::Delete(_))));
            self.transact(&txn, None, batch)?;
        }
        if !self.shared.state.write().leases.remove(lease) {
            return Err(StoreError::NoLease);
        }
        batch.leases.push((lease, None));
        Ok(())
    }

    fn end_leases(&self, group: &mut Group) {
        let now = self.clock.now();
        loop {
            let ended = self.shared.state.read().leases.ended(now);
            let Some(lease) = ended else { return };
            if let Err(error) = self.end_lease(lease, &mut group.batch) {
                tracing::error!(%error, lease, "a lease could not be ended; it is tried again after its time");
                let _ = self.shared.state.write().leases.keep_alive(lease, now);
                return;
            }
        }
    }

    /// Compacts to what was the newest revision `config.history` ago.
    fn forget(&mut self, group: &mut Group) {
        let Some(history) = self.config.history else { return };
        let now = Instant::now();
        let due = self.samples.back().is_none_or(|(at, _)| *at + history / SAMPLES <= now);
        let durable = self.shared.state.read().durable;
        if due && self.samples.back().is_none_or(|(_, revision)| *revision < durable) {
            self.samples.push_back((now, durable));
        }
        while let Some((_, revision)) = self.samples.pop_front_if(|(at, _)| *at + history <= now) {
            // One that was asked for may have gone further already.
            let _ = self.compact(revision, &mut group.batch);
        }
    }

    /// Moves the compaction on by one step: takes versions that nobody can see out of the index and the log.
    fn scrub(&self, group: &mut Group) -> Result<(), StoreError> {
        let (scrubbed, oldest) = {
            let state = self.shared.state.read();
            (state.scrubbed, state.oldest)
        };
        if scrubbed >= oldest {
            return Ok(());
        }
        let (heads, until) = self.shared.disk.read()?.heads(scrubbed, oldest, SCRUB_RECORDS)?;
        let mut records = Vec::new();
        let mut state = self.shared.state.write();
        for head in heads {
            let tombstone = head.kind == EventKind::Delete && head.position.0 < oldest;
            for gone in head.replaces.into_iter().chain(tombstone.then_some(head.position)) {
                if let Some(version) = state.index.remove(&head.key, gone) {
                    state.stored_bytes -= record_weight(&head.key, version.value.bytes);
                    records.push(gone);
                }
            }
        }
        // A step that looked at one revision only must still get on: the next one starts behind it.
        let until = if until == scrubbed { until + 1 } else { until };
        group.batch.scrub = Some(Scrub { records, until: until.min(oldest) });
        Ok(())
    }
}

/// One group in the making.
struct Group {
    batch: Batch,
    answers: Vec<Answer>,
}
