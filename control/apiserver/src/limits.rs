//! What one cluster's requests may take at once, whoever sends them, so that clusters which share a process do not
//! slow or exhaust one another: bytes of bodies, and turns at working.

use std::sync::Arc;
use timonel_api::Status;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Requests of one cluster that are worked on at the same time; the others wait in order. As many as one group of
/// commits takes; more would only stand between the requests of other clusters.
const TURNS: usize = 64;
/// Requests of one cluster that wait for a turn; beyond them even its administrators are told to come again.
const MAX_WAITING: usize = 2_000;
/// Bytes of bodies that one cluster holds, from their first byte to the answer.
const BODY_BYTES: usize = 64 << 20;
/// Bodies are counted in pieces of so many bytes.
const BODY_UNIT: usize = 4 << 10;

/// Answers of one cluster that are being streamed: watches, logs, long lists.
const MAX_STREAMED: usize = 20_000;

/// The limits of one cluster.
#[derive(Debug)]
pub(crate) struct Limits {
    streamed: Arc<Semaphore>,
    waiting: Semaphore,
    turns: Semaphore,
    bodies: Semaphore,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streamed: Arc::new(Semaphore::new(MAX_STREAMED)),
            waiting: Semaphore::new(MAX_WAITING),
            turns: Semaphore::new(TURNS),
            bodies: Semaphore::new(BODY_BYTES / BODY_UNIT),
        }
    }
}

/// A place that is held for one request.
pub(crate) type Place<'a> = SemaphorePermit<'a>;

impl Limits {
    /// Room for a body that will be read whole, of at most `bound` bytes, which says that it has `said` bytes;
    /// waits for those before it.
    pub(crate) async fn room(&self, said: Option<u64>, bound: usize) -> Option<Place<'_>> {
        let said = said.and_then(|size| usize::try_from(size).ok());
        let units = said.unwrap_or(bound).min(bound).div_ceil(BODY_UNIT);
        self.bodies.acquire_many(u32::try_from(units).ok()?).await.ok()
    }

    /// A place for an answer that is streamed, held until it has ended; `None` when there are too many.
    pub(crate) fn stream(&self) -> Option<OwnedSemaphorePermit> {
        self.streamed.clone().try_acquire_owned().ok()
    }

    /// A turn; waits for those before it.
    ///
    /// # Errors
    /// When too many wait already.
    pub(crate) async fn turn(&self) -> Result<Option<Place<'_>>, Status> {
        let busy = |_| Status::too_many_requests("too many requests, please try again later", 1);
        let _waiting = self.waiting.try_acquire().map_err(busy)?;
        // Never closed, so there always is a permit in the end.
        Ok(self.turns.acquire().await.ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    /// Time in which what must wait is seen to wait.
    const NOW: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn bodies_wait_for_room_by_what_they_say_they_are() {
        let limits = Limits::default();
        let bound = 3 << 20;
        let mut held = Vec::new();
        for _ in 0..BODY_BYTES / bound {
            held.push(timeout(NOW, limits.room(None, bound)).await.expect("room"));
        }
        assert!(timeout(NOW, limits.room(None, bound)).await.is_err(), "a body of unknown size counts whole");
        assert!(timeout(NOW, limits.room(Some(5), bound)).await.is_ok(), "a small one still fits");
        held.pop();
        assert!(timeout(NOW, limits.room(None, bound)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_in_order_and_the_queue_ends() {
        let limits = Limits::default();
        let mut turns = Vec::new();
        for _ in 0..TURNS {
            turns.push(limits.turn().await.unwrap());
        }
        assert!(timeout(NOW, limits.turn()).await.is_err());
        let queue: Vec<_> = (0..MAX_WAITING).map(|_| limits.waiting.try_acquire().unwrap()).collect();
        assert_eq!(limits.turn().await.unwrap_err().code, 429);
        drop(queue);
        turns.pop();
        assert!(timeout(NOW, limits.turn()).await.is_ok());
    }
}
