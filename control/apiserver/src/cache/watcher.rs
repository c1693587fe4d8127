//! One watcher's bounded queue between the feed (which never waits) and its connection (which may).

use super::entry::{Change, ChangeKind, Entry};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    fmt,
    sync::Arc,
    task::{Context, Poll, Waker},
};

/// Changes that may wait for one watcher; one that is further behind is let go and lists again.
const QUEUE_BOUND: usize = 2_000;

/// Which objects a watcher or a list wants; `None` in [`super::Selection`] wants all.
pub(crate) type Predicate = Arc<dyn Fn(&Entry) -> bool + Send + Sync>;

/// What narrows a watcher down, so that a change reaches only those it may concern.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trigger {
    /// Every object of the resource.
    All,
    /// Those of one namespace.
    Namespace(String),
    /// Exactly one, by `NAMESPACE/NAME` or `NAME`.
    Path(String),
    /// Those whose indexed field (`spec.nodeName` of pods) has a value.
    Indexed(String),
}

#[derive(Default)]
struct Queue {
    changes: VecDeque<(Arc<Change>, ChangeKind)>,
    waker: Option<Waker>,
    end: Option<WatchEnd>,
}

/// Why a watch ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WatchEnd {
    /// The watcher did not keep up.
    TooSlow,
    /// The cache starts over, or the server stops.
    Reset,
}

/// The feed's end of a watcher.
pub(super) struct Watcher {
    queue: Mutex<Queue>,
    predicate: Option<Predicate>,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Watcher").field("queued", &self.queue.lock().changes.len()).finish()
    }
}

impl Watcher {
    pub(super) fn new(predicate: Option<Predicate>) -> Self {
        Self { queue: Mutex::default(), predicate }
    }

    /// What `change` means to this watcher.
    pub(super) fn kind_of(&self, change: &Change) -> Option<ChangeKind> {
        match &self.predicate {
            Some(predicate) => change.kind_for(|entry| predicate(entry)),
            None => change.kind_for(|_| true),
        }
    }

    /// Queues a change if it concerns this watcher. Returns whether the watcher is still there; whom to wake for it
    /// goes to `wakers`.
    pub(super) fn offer(&self, change: &Arc<Change>, wakers: &mut Vec<Waker>) -> bool {
        let Some(kind) = self.kind_of(change) else { return !self.has_ended() };
        let mut queue = self.queue.lock();
        if queue.end.is_some() {
            return false;
        }
        if queue.changes.len() >= QUEUE_BOUND {
            queue.end = Some(WatchEnd::TooSlow);
            queue.changes = VecDeque::new();
        } else {
            queue.changes.push_back((change.clone(), kind));
        }
        wakers.extend(queue.waker.take());
        true
    }

    /// Ends the watch.
    pub(super) fn end(&self, why: WatchEnd) {
        let waker = {
            let mut queue = self.queue.lock();
            queue.end.get_or_insert(why);
            queue.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn has_ended(&self) -> bool {
        self.queue.lock().end.is_some()
    }

    /// The next change; an end comes after what was queued before it.
    pub(super) fn poll_next(&self, context: &Context<'_>) -> Poll<Result<(Arc<Change>, ChangeKind), WatchEnd>> {
        let mut queue = self.queue.lock();
        if let Some(next) = queue.changes.pop_front() {
            if queue.changes.is_empty() && queue.changes.capacity() > 64 {
                queue.changes = VecDeque::new();
            }
            return Poll::Ready(Ok(next));
        }
        if let Some(end) = queue.end {
            return Poll::Ready(Err(end));
        }
        match &queue.waker {
            Some(waker) if waker.will_wake(context.waker()) => {}
            _ => queue.waker = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}
