//! The one place that reads a wall clock.

use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;

/// Wall-clock time for a shell (a task, a request handler); decisions receive its reading as `now`.
///
/// Cheap to clone. Two sources: the machine's clock, and tokio's, which a paused test runtime advances.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        #[allow(clippy::disallowed_methods, reason = "this is the clock that everything else asks")]
        Self(Arc::new(Timestamp::now))
    }

    /// Starts at `origin` and advances with tokio's clock, hence only as a paused runtime lets it.
    ///
    /// # Panics
    /// When called outside a tokio runtime.
    #[must_use]
    pub fn simulated(origin: Timestamp) -> Self {
        let start = tokio::time::Instant::now();
        Self(Arc::new(move || {
            let elapsed = SignedDuration::try_from(start.elapsed()).unwrap_or(SignedDuration::MAX);
            origin.saturating_add(elapsed).unwrap_or(Timestamp::MAX)
        }))
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Clock")
    }
}
