//! What waits for the writer: two lanes, each bounded by bytes, taken in groups.

use crate::types::{Lane, StoreError};
use parking_lot::{Condvar, Mutex};
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that may wait in one lane; every job counts as at least one unit.
const LANE_BYTES: usize = 64 << 20;
const UNIT_BYTES: usize = 1 << 10;
/// Most jobs and bytes of one group.
const GROUP_JOBS: usize = 1024;
const GROUP_BYTES: usize = 16 << 20;
/// Most jobs of the batched lane that ride with prompt ones.
const RIDERS: usize = 256;

#[derive(Debug)]
struct Waiting<J> {
    job: J,
    bytes: usize,
    since: Instant,
    _room: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Lanes<J> {
    prompt: VecDeque<Waiting<J>>,
    batched: VecDeque<Waiting<J>>,
    closed: bool,
}

/// The writer's queue.
#[derive(Debug)]
pub(super) struct Queue<J> {
    lanes: Mutex<Lanes<J>>,
    news: Condvar,
    prompt_room: Arc<Semaphore>,
    batched_room: Arc<Semaphore>,
    /// How long a batched job waits for a prompt one to ride with.
    patience: Duration,
}

/// What the writer finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken<J> {
    Jobs(Vec<J>),
    /// Nothing until the deadline.
    Nothing,
    /// Closed, and nothing left.
    Closed,
}

impl<J> Queue<J> {
    pub(super) fn new(patience: Duration) -> Self {
        let lanes = Lanes { prompt: VecDeque::new(), batched: VecDeque::new(), closed: false };
        let room = || Arc::new(Semaphore::new(LANE_BYTES / UNIT_BYTES));
        Self { lanes: Mutex::new(lanes), news: Condvar::new(), prompt_room: room(), batched_room: room(), patience }
    }

    /// Waits for room, then queues.
    pub(super) async fn push(&self, lane: Lane, bytes: usize, job: J) -> Result<(), StoreError> {
        let room = match lane {
            Lane::Prompt => &self.prompt_room,
            Lane::Batched => &self.batched_room,
        };
        let units = u32::try_from(1 + bytes / UNIT_BYTES).unwrap_or(u32::MAX);
        let permit = Arc::clone(room).acquire_many_owned(units).await.map_err(|_| StoreError::Closed)?;
        let mut lanes = self.lanes.lock();
        if lanes.closed {
            return Err(StoreError::Closed);
        }
        let waiting = Waiting { job, bytes, since: Instant::now(), _room: permit };
        match lane {
            Lane::Prompt => lanes.prompt.push_back(waiting),
            Lane::Batched => lanes.batched.push_back(waiting),
        }
        self.news.notify_one();
        Ok(())
    }

    /// Takes nothing more in; what waits is still to be done.
    pub(super) fn close(&self) {
        self.lanes.lock().closed = true;
        self.prompt_room.close();
        self.batched_room.close();
        self.news.notify_one();
    }

    /// The next group: prompt jobs first; batched ones with them, or alone when they have waited long enough.
    pub(super) fn take(&self, deadline: Option<Instant>) -> Taken<J> {
        let mut lanes = self.lanes.lock();
        loop {
            let due = lanes.batched.front().map(|first| first.since + self.patience);
            let ready = !lanes.prompt.is_empty()
                || (lanes.closed && due.is_some())
                || due.is_some_and(|due| due <= Instant::now());
            if ready {
                return Taken::Jobs(lanes.group());
            }
            if lanes.closed {
                return Taken::Closed;
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Taken::Nothing;
            }
            match due.into_iter().chain(deadline).min() {
                Some(until) => drop(self.news.wait_until(&mut lanes, until)),
                None => self.news.wait(&mut lanes),
            }
        }
    }
}

impl<J> Lanes<J> {
    fn group(&mut self) -> Vec<J> {
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        let riders = if self.prompt.is_empty() { GROUP_JOBS } else { RIDERS };
        for (lane, most) in [(&mut self.prompt, GROUP_JOBS), (&mut self.batched, riders)] {
            let most = most.min(GROUP_JOBS - jobs.len());
            for _ in 0..most {
                if bytes >= GROUP_BYTES {
                    break;
                }
                let Some(next) = lane.pop_front() else { break };
                bytes += next.bytes;
                jobs.push(next.job);
            }
        }
        jobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    const NEVER: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn batched_jobs_ride_with_prompt_ones_or_wait_their_time() {
        let queue = Queue::new(NEVER);
        queue.push(Lane::Batched, 1, "heartbeat").await.unwrap();
        assert_eq!(queue.take(Some(Instant::now())), Taken::Nothing);
        queue.push(Lane::Prompt, 1, "pod").await.unwrap();
        assert_eq!(queue.take(None), Taken::Jobs(vec!["pod", "heartbeat"]));

        let queue = Queue::new(Duration::from_millis(1));
        queue.push(Lane::Batched, 1, "heartbeat").await.unwrap();
        assert_eq!(queue.take(None), Taken::Jobs(vec!["heartbeat"]));
    }

    #[tokio::test]
    async fn groups_and_lanes_are_bounded() {
        let queue = Queue::new(NEVER);
        for job in 0..GROUP_JOBS + 1 {
            queue.push(Lane::Prompt, 1, job).await.unwrap();
        }
        let Taken::Jobs(first) = queue.take(None) else { panic!("there are jobs") };
        assert_eq!(first.len(), GROUP_JOBS);

        let queue = Queue::new(NEVER);
        let half = LANE_BYTES / 2;
        queue.push(Lane::Prompt, half, 1).await.unwrap();
        assert!(queue.push(Lane::Prompt, half, 2).now_or_never().is_none(), "no room");
        assert!(queue.push(Lane::Batched, half, 3).now_or_never().is_some(), "a lane of its own");
        assert_eq!(queue.take(None), Taken::Jobs(vec![1]));
        assert!(queue.push(Lane::Prompt, half, 2).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_closed_queue_is_drained() {
        let queue = Queue::new(NEVER);
        queue.push(Lane::Batched, 1, 1).await.unwrap();
        queue.close();
        assert!(matches!(queue.push(Lane::Prompt, 1, 2).await, Err(StoreError::Closed)));
        assert_eq!(queue.take(None), Taken::Jobs(vec![1]));
        assert_eq!(queue.take(None), Taken::Closed);
    }
}
