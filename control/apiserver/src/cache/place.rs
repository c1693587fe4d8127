//! One of the stores that a cluster's objects lie in, and how far the cache is with it. Revisions of two places have
//! nothing to do with each other.

use super::feed::CacheError;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use timonel_store::{KeyRange, Revision, Store};
use tokio::sync::Notify;

/// How long a read waits for the cache to reach a revision.
const CATCH_UP: Duration = Duration::from_secs(3);

/// One place.
#[derive(Debug)]
pub(crate) struct Place {
    store: Arc<dyn Store>,
    /// All objects of the cluster.
    objects: KeyRange,
    delivered: AtomicU64,
    /// Wakes waiters in the order in which they came, unlike a watch channel: a simulation depends on it.
    progress: Notify,
}

impl Place {
    pub(super) fn new(store: Arc<dyn Store>, objects: KeyRange) -> Self {
        Self { store, objects, delivered: AtomicU64::new(0), progress: Notify::new() }
    }

    /// The store itself.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub(super) fn objects(&self) -> &KeyRange {
        &self.objects
    }

    pub(super) fn advance(&self, revision: Revision) {
        if revision > self.delivered.load(Ordering::Acquire) {
            self.delivered.store(revision, Ordering::Release);
            self.progress.notify_waiters();
        }
    }

    /// Everything up to this revision is in the cache.
    pub(crate) fn delivered(&self) -> Revision {
        self.delivered.load(Ordering::Acquire)
    }

    /// Waits until everything up to `revision` is in the cache.
    ///
    /// # Errors
    /// [`CacheError::Behind`] when that takes too long.
    pub(crate) async fn wait_until(&self, revision: Revision) -> Result<(), CacheError> {
        if self.delivered() >= revision {
            return Ok(());
        }
        let reached = async {
            loop {
                let progress = self.progress.notified();
                if self.delivered() >= revision {
                    return;
                }
                progress.await;
            }
        };
        match tokio::time::timeout(CATCH_UP, reached).await {
            Ok(()) => Ok(()),
            Err(_) => Err(CacheError::Behind { asked: revision, current: self.delivered() }),
        }
    }

    /// Waits until the cache has all that the store has acknowledged to anyone; returns that revision.
    ///
    /// # Errors
    /// Those of the store, and [`CacheError::Behind`].
    pub(crate) async fn wait_newest(&self) -> Result<Revision, CacheError> {
        let newest = self.store.revision().await?;
        if self.delivered() < newest {
            // Others may have written outside this cluster's range; then only a progress report tells.
            self.store.request_progress(self.objects.clone()).await?;
            self.wait_until(newest).await?;
        }
        Ok(self.delivered())
    }
}
