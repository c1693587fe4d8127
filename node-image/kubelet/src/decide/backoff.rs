//! Exponential delay between tries, with a reset after a long quiet time.

use jiff::{SignedDuration, Timestamp};

/// First delay after a crash or a failed pull.
pub(crate) const FIRST_DELAY: SignedDuration = SignedDuration::from_secs(10);
/// Longest delay between two tries.
pub(crate) const LONGEST_DELAY: SignedDuration = SignedDuration::from_mins(5);
/// A try this long after the one before starts again from the first delay.
pub(crate) const RESET_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// Delay of one thing that is tried again and again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    delay: SignedDuration,
    updated: Option<Timestamp>,
}

impl Backoff {
    /// When the next try may be made after a failure at `failed`.
    pub(crate) fn until(&self, failed: Timestamp) -> Timestamp {
        if self.expired(failed) { failed } else { failed.saturating_add(self.delay).unwrap_or(Timestamp::MAX) }
    }

    /// Notes a try after a failure at `failed`: the next one waits longer. Gives the delay from then on.
    pub(crate) fn next(&mut self, failed: Timestamp, now: Timestamp) -> SignedDuration {
        self.next_within(failed, now, FIRST_DELAY, LONGEST_DELAY)
    }

    /// [`Self::next`] with limits of its own.
    pub(crate) fn next_within(
        &mut self,
        failed: Timestamp,
        now: Timestamp,
        first: SignedDuration,
        longest: SignedDuration,
    ) -> SignedDuration {
        self.delay = if self.expired(failed) { first } else { (self.delay * 2).min(longest) };
        self.updated = Some(now);
        self.delay
    }

    /// The delay in force.
    pub(crate) fn delay(&self) -> SignedDuration {
        self.delay
    }

    fn expired(&self, failed: Timestamp) -> bool {
        self.updated.is_none_or(|updated| failed.duration_since(updated) > RESET_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_longest_and_resets_after_quiet() {
        let mut backoff = Backoff::default();
        let mut now = Timestamp::UNIX_EPOCH;
        assert_eq!(backoff.until(now), now, "the first restart is at once");
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            assert_eq!(backoff.next(now, now).as_secs(), expected);
            assert_eq!(backoff.until(now).duration_since(now).as_secs(), expected);
            now += SignedDuration::from_secs(expected);
        }
        now += SignedDuration::from_secs(601);
        assert_eq!(backoff.until(now), now);
        assert_eq!(backoff.next(now, now), FIRST_DELAY);
    }
}
