//! The one watch of a store over an etcd: it follows everything under the store's prefix, survives the loss of a
//! member, and hands each change once and in order to the recent history and the watchers.

use super::{
    judge::{Traits, Verdict, judge},
    members::MAX_MESSAGE_BYTES,
    pb,
    shared::Shared,
    wire::{etcd_end, header_revision, revision, signed},
};
use crate::types::{Event, Revision};
use futures::stream;
use pb::watch_request::RequestUnion;
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};
use tonic::{Request, Status, Streaming, metadata::MetadataValue};

/// How often a member is asked how far it is while someone waits for it.
const ASK: Duration = Duration::from_millis(40);
/// A member that has not got as far as another one within this time is left.
const STALLED: Duration = Duration::from_millis(700);
/// How often the newest revision is looked up, so that a member that is cut off is noticed without a reader.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);
/// Pause after a watch that ended at once.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Requests on their way to the member.
const REQUESTS: usize = 8;

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("history up to revision {0} is gone")]
    Compacted(Revision),
    #[error("the member is behind or does not answer")]
    Stalled,
    #[error("the member ended the watch: {0}")]
    Cancelled(String),
    #[error("{0}")]
    Failed(String),
}

/// Follows etcd for as long as its task runs.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut pause = PAUSE;
    loop {
        let (at, before) = (shared.members.current().0, shared.reached());
        let ended = session(&shared).await;
        tracing::debug!(why = %ended, reached = shared.reached(), "the watch of etcd starts again");
        if let Ended::Compacted(oldest) = ended {
            tracing::warn!(oldest, "the watch of etcd fell behind its compaction: watchers start anew");
            if let Ok(newest) = shared.newest().await {
                shared.restart(newest);
            }
        } else {
            shared.members.turn_from(at);
        }
        pause = if shared.reached() > before { PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        tokio::time::sleep(pause / 2 + jitter(&shared, pause / 2)).await;
    }
}

fn jitter(shared: &Shared, most: Duration) -> Duration {
    Duration::from_millis(shared.entropy.below(most.as_millis() as u64 + 1))
}

/// Looks up the newest revision every so often, and makes the feed get there.
pub(super) async fn heartbeat(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        if let Ok(newest) = shared.newest().await {
            // Not reached in time is the feed's to deal with.
            let _ = shared.reach(newest).await;
        }
    }
}

/// An open watch at one member.
struct Session {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
    /// Events of an answer that comes in parts.
    parts: Vec<Event>,
    last_part: Revision,
}

async fn session(shared: &Shared) -> Ended {
    match open(shared).await {
        Ok(mut session) => match follow(shared, &mut session).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        },
        Err(ended) => ended,
    }
}

async fn open(shared: &Shared) -> Result<Session, Ended> {
    let opening = async {
        let (_, member) = shared.members.current();
        let status = shared.members.request(&member.calls, pb::StatusRequest {}).await?;
        let mut maintenance = pb::maintenance_client::MaintenanceClient::new(member.calls.clone());
        let version = maintenance.status(status).await?.into_inner().version;
        *shared.traits.lock() = Traits::of(&version);
        start(shared, shared.reached() + 1).await
    };
    match tokio::time::timeout(shared.members.attempt(), opening).await {
        Ok(Ok((requests, answers))) => Ok(Session { requests, answers, parts: Vec::new(), last_part: 0 }),
        Ok(Err(status)) => Err(failed(shared, &status)),
        Err(_) => Err(Ended::Stalled),
    }
}

fn failed(shared: &Shared, status: &Status) -> Ended {
    if let Verdict::Authenticate(_) = judge(status) {
        shared.members.forget_token();
    }
    Ended::Failed(status.message().to_owned())
}

type Opened = (mpsc::Sender<pb::WatchRequest>, Streaming<pb::WatchResponse>);

/// Opens a watch of everything under the prefix from `from` on.
pub(super) async fn start(shared: &Shared, from: Revision) -> Result<Opened, Status> {
    let (_, member) = shared.members.current();
    let (requests, waiting) = mpsc::channel(REQUESTS);
    let watched = &shared.names.watched;
    let create = pb::WatchCreateRequest {
        key: watched.start.clone(),
        range_end: etcd_end(watched.end.clone()),
        start_revision: signed(from),
        prev_kv: true,
        fragment: true,
        ..pb::WatchCreateRequest::default()
    };
    let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    requests.try_send(create).map_err(|_| Status::internal("a new queue has room"))?;
    let outgoing = stream::unfold(waiting, |mut waiting| async move {
        let next = waiting.recv().await?;
        Some((next, waiting))
    });
    let mut request: Request<_> = shared.members.request(&member.calls, outgoing).await?;
    // A member without a leader ends the watch instead of leaving it silent.
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    let mut client =
        pb::watch_client::WatchClient::new(member.watches.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    Ok((requests, client.watch(request).await?.into_inner()))
}

async fn follow(shared: &Shared, session: &mut Session) -> Result<std::convert::Infallible, Ended> {
    let mut demand = shared.demand.subscribe();
    // Since when the member is behind what someone waits for.
    let mut behind: Option<Instant> = None;
    loop {
        let wanted = *demand.borrow_and_update() > shared.reached();
        if !wanted {
            behind = None;
        }
        let since = wanted.then(|| *behind.get_or_insert_with(Instant::now));
        tokio::select! {
            answer = session.answers.message() => {
                let answer = answer.map_err(|status| failed(shared, &status))?;
                let answer = answer.ok_or_else(|| Ended::Cancelled("end of stream".into()))?;
                let before = shared.reached();
                session.take(shared, answer)?;
                if shared.reached() > before {
                    behind = None;
                }
            }
            _ = demand.changed() => {}
            () = tokio::time::sleep(ASK), if wanted => {
                if since.is_some_and(|since| since.elapsed() > STALLED) {
                    return Err(Ended::Stalled);
                }
                let ask = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                // A full queue means that the member takes nothing: the stall says so soon.
                let _ = session.requests.try_send(pb::WatchRequest { request_union: Some(ask) });
            }
        }
    }
}

impl Session {
    fn take(&mut self, shared: &Shared, answer: pb::WatchResponse) -> Result<(), Ended> {
        if answer.compact_revision > 0 {
            return Err(Ended::Compacted(revision(answer.compact_revision)));
        }
        if answer.canceled {
            return Err(Ended::Cancelled(answer.cancel_reason));
        }
        if answer.created {
            return Ok(());
        }
        if answer.events.is_empty() && self.parts.is_empty() {
            // Older versions tell progress ahead of events still to be sent.
            if shared.traits.lock().orders_progress {
                shared.advance(Vec::new(), header_revision(answer.header.as_ref()));
            }
            return Ok(());
        }
        let last = answer.events.last().and_then(|event| event.kv.as_ref());
        self.last_part = last.map_or(self.last_part, |last| revision(last.mod_revision));
        self.parts.extend(answer.events.into_iter().filter_map(|event| shared.names.event(event)));
        if !answer.fragment {
            shared.advance(std::mem::take(&mut self.parts), std::mem::take(&mut self.last_part));
        }
        Ok(())
    }
}
