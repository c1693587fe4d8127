//! Owned tasks: every task has a name, an owner that can end it, and a rule for its errors.
//!
//! A `Tasks` is a scope. Ending it cancels its token (which every task is expected to watch), waits until a
//! deadline, then aborts what is left. Dropping the last handle cancels too: nothing outlives its owner.

use std::{fmt::Display, future::Future, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What to do when a task ends with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// Log it; the rest of the scope goes on.
    Log,
    /// Log it and end the whole scope: the part cannot work without this task.
    EndScope,
}

/// A scope that owns tasks. Clones are handles to the same scope.
#[derive(Clone, Debug)]
pub struct Tasks {
    name: std::sync::Arc<str>,
    token: CancellationToken,
    tracker: TaskTracker,
    /// Trackers of the scopes above this one, nearest first: they wait for its tasks too.
    above: std::sync::Arc<[TaskTracker]>,
}

impl Tasks {
    /// A scope of its own.
    #[must_use]
    pub fn root(name: &str) -> Self {
        Self {
            name: name.into(),
            token: CancellationToken::new(),
            tracker: TaskTracker::new(),
            above: std::sync::Arc::default(),
        }
    }

    /// A scope that ends with this one, or earlier by itself.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self {
            name: format!("{}/{name}", self.name).into(),
            token: self.token.child_token(),
            tracker: TaskTracker::new(),
            above: std::iter::once(&self.tracker).chain(&*self.above).cloned().collect(),
        }
    }

    /// Cancelled when this scope ends; long tasks watch it to stop in order.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Runs `work` under `name` until it is done or the scope ends (then it is dropped at its next await).
    pub fn spawn<E: Display + Send + 'static>(
        &self,
        name: &str,
        on_error: OnError,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let (token, scope, name) = (self.token.clone(), self.name.clone(), name.to_owned());
        let task = async move {
            let Some(Err(error)) = token.run_until_cancelled(work).await else { return };
            tracing::error!(task = %name, %scope, %error, "task failed");
            if on_error == OnError::EndScope {
                token.cancel();
            }
        };
        self.track(task);
    }

    /// Runs `work` under `name` even while the scope ends; it watches [`Self::token`] itself to finish in order.
    pub fn spawn_draining(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let scope = self.name.clone();
        self.track(async move {
            work.await;
            tracing::trace!(task = name, %scope, "drained");
        });
    }

    fn track(&self, task: impl Future<Output = ()> + Send + 'static) {
        let held: Vec<_> = self.above.iter().map(TaskTracker::token).collect();
        self.tracker.spawn(async move {
            task.await;
            drop(held);
        });
    }

    /// Ends the scope and those below it: cancel, wait up to `deadline`. Returns whether every task ended in time.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        self.token.cancel();
        self.tracker.close();
        let done = tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok();
        if !done {
            tracing::warn!(scope = %self.name, left = self.tracker.len(), "tasks left after the deadline");
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failing_task_ends_its_scope_when_told_to() {
        let scope = Tasks::root("test");
        let other = scope.child("other");
        scope.spawn("fails", OnError::EndScope, async { Err::<(), _>("broken") });
        other.token().cancelled().await;
        assert!(scope.shutdown(Duration::from_secs(1)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_scope_waits_for_what_its_children_finish_in_order() {
        let scope = Tasks::root("test");
        let grandchild = scope.child("child").child("grandchild");
        let (token, (closed, mut is_closed)) = (grandchild.token(), tokio::sync::oneshot::channel());
        grandchild.spawn_draining("port", async move {
            token.cancelled().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            let _ = closed.send(());
        });
        assert!(!scope.shutdown(Duration::from_millis(10)).await, "it still drains");
        assert!(is_closed.try_recv().is_err());
        assert!(scope.shutdown(Duration::from_secs(1)).await);
        is_closed.try_recv().expect("closed");
    }

    #[tokio::test]
    async fn a_child_ends_alone() {
        let scope = Tasks::root("test");
        let child = scope.child("child");
        assert!(child.shutdown(Duration::from_secs(1)).await);
        assert!(!scope.token().is_cancelled());
    }
}
