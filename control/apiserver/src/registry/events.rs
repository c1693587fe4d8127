//! Events are forgotten by themselves: each is bound to a lease of the store, and many share one.

use super::{call::Call, commit::store_status};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use timonel_api::{GroupResource, Status};
use timonel_store::{LeaseId, Store};
use tokio::sync::Mutex;

/// Events within this time share a lease, and live that much longer at most.
const SHARED: SignedDuration = SignedDuration::from_secs(60);

pub(crate) fn events_resource() -> GroupResource {
    GroupResource { group: "".into(), resource: "events".into() }
}

/// The lease that new events are bound to.
#[derive(Debug)]
pub(crate) struct Events {
    store: Arc<dyn Store>,
    ttl_seconds: u64,
    current: Mutex<Option<(LeaseId, Timestamp)>>,
}

impl Events {
    pub(crate) fn new(store: Arc<dyn Store>, ttl_seconds: u64) -> Self {
        Self { store, ttl_seconds, current: Mutex::new(None) }
    }

    /// The lease for what a request writes; none for anything but events.
    pub(crate) async fn lease_for(&self, call: &Call<'_>) -> Result<Option<LeaseId>, Status> {
        let storage = &call.view.storage.storage;
        if *storage != events_resource() || self.ttl_seconds == 0 {
            return Ok(None);
        }
        let mut current = self.current.lock().await;
        if let Some((lease, granted)) = *current
            && call.now.duration_since(granted).abs() < SHARED
        {
            return Ok(Some(lease));
        }
        let lease =
            self.store.grant_lease(self.ttl_seconds + SHARED.as_secs().unsigned_abs()).await.map_err(store_status)?;
        *current = Some((lease, call.now));
        Ok(Some(lease))
    }
}
