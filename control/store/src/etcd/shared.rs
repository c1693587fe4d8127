//! What calls and the feed of one store share: members, watchers, recent history, and how far the feed is.

use super::{
    judge::Traits,
    members::Members,
    pb,
    recent::Recent,
    wire::{Names, header_revision},
};
use crate::{
    hub::Hub,
    types::{Event, Revision, StoreError},
};
use futures::{FutureExt, future::BoxFuture, future::Shared as SharedFuture};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use timonel_runtime::Entropy;
use tokio::sync::watch;

/// How long a caller waits for the feed to reach a revision.
const REACH: Duration = Duration::from_secs(8);
/// Time for events to arrive by themselves before a mark is written.
const BY_ITSELF: Duration = Duration::from_millis(30);

type Newest = SharedFuture<BoxFuture<'static, Result<Revision, StoreError>>>;

/// One store over an etcd.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) members: Members,
    pub(super) names: Names,
    pub(super) hub: Arc<Hub>,
    pub(super) recent: Mutex<Recent>,
    /// How far the feed is.
    reached: watch::Sender<Revision>,
    /// How far someone wants it to be.
    pub(super) demand: watch::Sender<Revision>,
    /// Of the member that feeds.
    pub(super) traits: Mutex<Traits>,
    pub(super) entropy: Entropy,
    /// The look-up of the newest revision that has not begun yet: whoever comes meanwhile joins it.
    next: Mutex<Option<Newest>>,
    /// Held by the look-up under way.
    looking: tokio::sync::Mutex<()>,
}

impl Shared {
    pub(super) fn new(members: Members, names: Names, newest: Revision, hub: Hub, entropy: Entropy) -> Self {
        Self {
            members,
            names,
            hub: Arc::new(hub),
            recent: Mutex::new(Recent::new(newest)),
            reached: watch::Sender::new(newest),
            demand: watch::Sender::new(newest),
            traits: Mutex::default(),
            entropy,
            next: Mutex::new(None),
            looking: tokio::sync::Mutex::new(()),
        }
    }

    /// How far the feed is.
    pub(super) fn reached(&self) -> Revision {
        *self.reached.borrow()
    }

    /// The feed delivers: everything up to `until`.
    pub(super) fn advance(&self, events: Vec<Event>, until: Revision) {
        let mut recent = self.recent.lock();
        let commits = recent.push(events, until);
        self.hub.publish(&commits);
        self.hub.advance(recent.newest);
        self.reached.send_if_modified(|reached| {
            let news = recent.newest > *reached;
            *reached = recent.newest;
            news
        });
    }

    /// The feed lost a part of history: it goes on from `newest`, and watchers start anew.
    pub(super) fn restart(&self, newest: Revision) {
        let mut recent = self.recent.lock();
        *recent = Recent::new(newest);
        self.hub.restart(newest);
        self.reached.send_replace(newest);
    }

    /// Waits until the feed has everything up to `revision`.
    pub(super) async fn reach(&self, revision: Revision) -> Result<(), StoreError> {
        if self.reached() >= revision {
            return Ok(());
        }
        self.demand.send_if_modified(|demand| {
            let news = revision > *demand;
            *demand = revision.max(*demand);
            news
        });
        let mut reached = self.reached.subscribe();
        let there = async {
            if !self.traits.lock().orders_progress
                && tokio::time::timeout(BY_ITSELF, reached.wait_for(|at| *at >= revision)).await.is_err()
            {
                self.mark().await?;
            }
            reached.wait_for(|at| *at >= revision).await.map(drop).map_err(|_| StoreError::Closed)
        };
        let late = || Err(StoreError::Unavailable(format!("the watch of etcd has not reached revision {revision}")));
        tokio::time::timeout(REACH, there).await.unwrap_or_else(|_| late())
    }

    /// Writes a mark, whose event tells how far the feed is; returns its revision.
    pub(super) async fn mark(&self) -> Result<Revision, StoreError> {
        let put = pb::PutRequest { key: self.names.mark.clone(), ..pb::PutRequest::default() };
        let send = |channel, request| async move { pb::kv_client::KvClient::new(channel).put(request).await };
        let answer = self.members.repeat(put, send).await?;
        Ok(header_revision(answer.header.as_ref()))
    }

    /// The newest revision: one look-up for all who ask at the same time, begun after each of them asked.
    pub(super) async fn newest(self: &Arc<Self>) -> Result<Revision, StoreError> {
        let joined = {
            let mut next = self.next.lock();
            let shared = Arc::clone(self);
            next.get_or_insert_with(|| async move { shared.look().await }.boxed().shared()).clone()
        };
        joined.await
    }

    async fn look(&self) -> Result<Revision, StoreError> {
        let _looking = self.looking.lock().await;
        // Whoever comes from here on must not join: this look-up might see less than they may expect.
        self.next.lock().take();
        let read = pb::RangeRequest { key: self.names.fence.clone(), count_only: true, ..pb::RangeRequest::default() };
        let send = |channel, request| async move { pb::kv_client::KvClient::new(channel).range(request).await };
        let answer = self.members.repeat(read, send).await?;
        Ok(header_revision(answer.header.as_ref()))
    }
}
