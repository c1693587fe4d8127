//! How a client closes a time: every transaction holds only while the client's fence is as of the epoch in which it
//! was sent. Once the fence has been changed, whatever is still under way from before can no longer take effect, so
//! that history tells for good what became of it.

use super::{
    lease, pb,
    shared::Shared,
    wire::{header_revision, signed},
};
use crate::types::{LeaseId, Revision, StoreError};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Mutex;

/// A fence that nobody has changed for this long goes away by itself.
const FENCE_SECONDS: u64 = 3600;

/// One client's fence.
#[derive(Debug, Default)]
pub(super) struct Fence {
    /// The revision of the fence's key; 0 while there is none.
    epoch: AtomicU64,
    /// Held while the fence is changed: one change serves all who wait for it.
    changing: Mutex<Option<LeaseId>>,
}

impl Fence {
    /// What a transaction is to be sent with.
    pub(super) fn epoch(&self) -> Revision {
        self.epoch.load(Ordering::Acquire)
    }

    /// etcd says that the fence is at `found`.
    pub(super) fn adopt(&self, found: Revision) {
        self.epoch.store(found, Ordering::Release);
    }

    /// Makes sure that nothing sent in `epoch` takes effect after the revision returned.
    pub(super) async fn close(&self, shared: &Shared, epoch: Revision) -> Result<Revision, StoreError> {
        let mut lease = self.changing.lock().await;
        let current = self.epoch();
        if current > epoch {
            return Ok(current);
        }
        let closed = match self.change(shared, &mut lease).await {
            Err(StoreError::NoLease) => {
                lease.take();
                self.change(shared, &mut lease).await?
            }
            other => other?,
        };
        self.epoch.store(closed, Ordering::Release);
        Ok(closed)
    }

    async fn change(&self, shared: &Shared, lease: &mut Option<LeaseId>) -> Result<Revision, StoreError> {
        let held = match *lease {
            Some(held) => held,
            None => *lease.insert(lease::grant(&shared.members, FENCE_SECONDS).await?),
        };
        let put = pb::PutRequest { key: shared.names.fence.clone(), lease: signed(held), ..pb::PutRequest::default() };
        let send = |channel, request| async move { pb::kv_client::KvClient::new(channel).put(request).await };
        let answer = shared.members.repeat(put, send).await?;
        Ok(header_revision(answer.header.as_ref()))
    }
}
