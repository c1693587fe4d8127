//! When to try again what failed: per subject, each pause twice the last. Pure.

use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

const FIRST: SignedDuration = SignedDuration::from_millis(500);
const LONGEST: SignedDuration = SignedDuration::from_secs(60);
/// Subjects remembered; beyond, the ones due first are forgotten, which only means that they are tried earlier.
const REMEMBERED: usize = 10_000;

/// Pauses by subject.
#[derive(Clone, Debug, Default)]
pub(crate) struct Retries(BTreeMap<String, (SignedDuration, Timestamp)>);

impl Retries {
    /// Whether the subject may be tried.
    pub(crate) fn may(&self, subject: &str, now: Timestamp) -> bool {
        self.0.get(subject).is_none_or(|(_, until)| now >= *until)
    }

    /// Takes a failure; the next pause is longer.
    pub(crate) fn failed(&mut self, subject: &str, now: Timestamp) {
        let pause = self.0.get(subject).map_or(FIRST, |(last, _)| (*last * 2).min(LONGEST));
        self.0.insert(subject.to_owned(), (pause, now.saturating_add(pause).unwrap_or(Timestamp::MAX)));
        if self.0.len() > REMEMBERED {
            let first = self.0.iter().min_by_key(|(_, (_, until))| *until).map(|(subject, _)| subject.clone());
            first.map(|subject| self.0.remove(&subject));
        }
    }

    /// Takes a success.
    pub(crate) fn succeeded(&mut self, subject: &str) {
        self.0.remove(subject);
    }

    /// When the next pause ends.
    pub(crate) fn next(&self, now: Timestamp) -> Option<Timestamp> {
        self.0.values().map(|(_, until)| *until).filter(|until| *until > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_end_with_success() {
        let mut retries = Retries::default();
        let mut now = Timestamp::UNIX_EPOCH;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            assert!(retries.may("a", now));
            retries.failed("a", now);
            assert!(!retries.may("a", now) && retries.may("b", now));
            let next = retries.next(now).unwrap();
            pauses.push(next.duration_since(now).as_millis());
            now = next;
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        retries.succeeded("a");
        assert_eq!(retries.next(Timestamp::UNIX_EPOCH), None);
    }
}
