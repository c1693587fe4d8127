//! The buffer between requests and a backend: bounded by events and by bytes, and never waited for by a request.

use bytes::Bytes;
use parking_lot::Mutex;
use std::{collections::VecDeque, time::Duration};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Events that wait for a backend.
const MAX_EVENTS: usize = 10_000;
/// Bytes of events that wait for a backend.
const MAX_BYTES: usize = 64 << 20;

/// Encoded events in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct Queue {
    held: Mutex<Held>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Held {
    events: VecDeque<Bytes>,
    bytes: usize,
}

/// How much of what waits is taken at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    pub(super) events: usize,
    pub(super) bytes: usize,
    /// How long a batch that is not full waits for more.
    pub(super) linger: Duration,
}

impl Queue {
    /// Adds an event; `false` when there is no room.
    pub(super) fn push(&self, event: Bytes) -> bool {
        let mut held = self.held.lock();
        if held.events.len() >= MAX_EVENTS || held.bytes.saturating_add(event.len()) > MAX_BYTES {
            return false;
        }
        held.bytes += event.len();
        held.events.push_back(event);
        drop(held);
        self.wake.notify_one();
        true
    }

    /// The next events; nothing when `stop` is cancelled and nothing is left.
    pub(super) async fn take(&self, batch: Batch, stop: &CancellationToken) -> Vec<Bytes> {
        while self.held.lock().events.is_empty() {
            tokio::select! {
                () = self.wake.notified() => {}
                () = stop.cancelled() => return self.pop(batch),
            }
        }
        let full = async {
            while !self.is_full(batch) {
                self.wake.notified().await;
            }
        };
        tokio::select! {
            () = full => {}
            () = tokio::time::sleep(batch.linger), if !self.is_full(batch) => {}
            () = stop.cancelled() => {}
        }
        self.pop(batch)
    }

    fn is_full(&self, batch: Batch) -> bool {
        let held = self.held.lock();
        held.events.len() >= batch.events || held.bytes >= batch.bytes
    }

    fn pop(&self, batch: Batch) -> Vec<Bytes> {
        let mut held = self.held.lock();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while taken.len() < batch.events && (taken.is_empty() || bytes < batch.bytes) {
            let Some(event) = held.events.pop_front() else { break };
            held.bytes -= event.len();
            bytes += event.len();
            taken.push(event);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: Batch = Batch { events: 3, bytes: 100, linger: Duration::from_secs(30) };

    #[tokio::test(start_paused = true)]
    async fn batches_are_full_or_have_waited() {
        let (queue, stop) = (Queue::default(), CancellationToken::new());
        let started = tokio::time::Instant::now();
        for number in 0..5_u8 {
            assert!(queue.push(vec![number].into()));
        }
        assert_eq!(queue.take(BATCH, &stop).await, [[0_u8], [1], [2]].map(|event| Bytes::copy_from_slice(&event)));
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert_eq!(queue.take(BATCH, &stop).await.len(), 2);
        assert_eq!(started.elapsed(), BATCH.linger);
        assert!(queue.push(vec![0; 200].into()) && queue.push(vec![0; 1].into()));
        assert_eq!(queue.take(BATCH, &stop).await.len(), 1);
        stop.cancel();
        assert_eq!(queue.take(BATCH, &stop).await.len(), 1);
        assert!(queue.take(BATCH, &stop).await.is_empty());
    }

    #[test]
    fn a_full_queue_takes_nothing() {
        let queue = Queue::default();
        assert!((0..MAX_EVENTS).all(|_| queue.push(Bytes::from_static(b"x"))));
        assert!(!queue.push(Bytes::from_static(b"x")));
        let queue = Queue::default();
        assert!(queue.push(vec![0; MAX_BYTES].into()) && !queue.push(Bytes::from_static(b"x")));
    }
}
