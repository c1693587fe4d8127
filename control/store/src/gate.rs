//! A gate before a store: writes can be held while reads go on.

use crate::types::{
    KeyRange, LeaseId, RangeRequest, RangeResult, Revision, Store, StoreError, Txn, TxnResult, WatchStream,
};
use async_trait::async_trait;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::RwLock;

/// A store whose writes can be held while reads go on.
#[derive(Clone, Debug)]
pub struct GatedStore {
    pub(crate) inner: Arc<dyn Store>,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    held: AtomicBool,
    /// Every write holds it for reading.
    writes: RwLock<()>,
}

impl GatedStore {
    /// An open gate before `inner`.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, gate: Arc::default() }
    }

    /// Refuses writes from here on; those under way have ended when it returns.
    pub async fn hold(&self) {
        self.gate.held.store(true, Ordering::SeqCst);
        drop(self.gate.writes.write().await);
    }

    /// Takes writes again.
    pub fn open(&self) {
        self.gate.held.store(false, Ordering::SeqCst);
    }

    async fn enter(&self) -> Result<tokio::sync::RwLockReadGuard<'_, ()>, StoreError> {
        let entered = self.gate.writes.read().await;
        if self.gate.held.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("the store is being moved and takes no writes".into()));
        }
        Ok(entered)
    }
}

#[async_trait]
impl Store for GatedStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeResult, StoreError> {
        self.inner.range(request).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        let _entered = self.enter().await?;
        self.inner.txn(txn).await
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, StoreError> {
        self.inner.watch(range, from).await
    }

    async fn request_progress(&self, range: KeyRange) -> Result<(), StoreError> {
        self.inner.request_progress(range).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }

    async fn grant_lease(&self, ttl_seconds: u64) -> Result<LeaseId, StoreError> {
        let _entered = self.enter().await?;
        self.inner.grant_lease(ttl_seconds).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<u64, StoreError> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        let _entered = self.enter().await?;
        self.inner.revoke_lease(lease).await
    }
}
