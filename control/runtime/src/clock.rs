//! The one place that reads a wall clock.

use jiff::{SignedDuration, Timestamp};
use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

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

    /// The machine's clock, and the handle by which a test makes it jump.
    #[must_use]
    pub fn shifted() -> (Self, ClockShift) {
        let (clock, shift) = (Self::system(), ClockShift::default());
        let by = shift.0.clone();
        let shifted = move || {
            let by = SignedDuration::from_millis(by.load(Ordering::Relaxed));
            let now = clock.now();
            now.saturating_add(by).unwrap_or(now)
        };
        (Self(Arc::new(shifted)), shift)
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

/// By how much a clock is off.
#[derive(Clone, Debug, Default)]
pub struct ClockShift(Arc<AtomicI64>);

impl ClockShift {
    /// The clock is off by so much from here on, forward or (negative) back.
    pub fn set(&self, by: SignedDuration) {
        self.0.store(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Clock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_clock_jumps_both_ways() {
        let (clock, shift) = Clock::shifted();
        let before = clock.now();
        shift.set(SignedDuration::from_hours(24));
        assert!(clock.now().duration_since(before) >= SignedDuration::from_hours(24));
        shift.set(SignedDuration::from_hours(-1));
        assert!(clock.now() < before);
    }
}
