//! What others said about tokens and permissions, for a short while. The questions themselves are not kept, only what
//! they hash to.

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// How long a token that was good is not looked at again, as upstream's API server does by default.
pub(crate) const TOKEN_TTL: SignedDuration = SignedDuration::from_secs(10);
/// Findings in each half.
const HALF: usize = 4096;

type Key = [u8; 32];

/// Findings by question, in two halves: when the younger is full the older is dropped.
#[derive(Debug)]
pub(crate) struct Remembered<T>(Mutex<Halves<T>>);

#[derive(Debug)]
struct Halves<T> {
    younger: HashMap<Key, (Timestamp, T)>,
    older: HashMap<Key, (Timestamp, T)>,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self(Mutex::new(Halves { younger: HashMap::new(), older: HashMap::new() }))
    }
}

impl<T: Clone> Remembered<T> {
    /// What a question, with what narrows it, is remembered by.
    pub(crate) fn key(question: &str, more: &[String]) -> Key {
        let mut hash = Sha256::new();
        // Lengths keep apart what would read the same when joined.
        for part in std::iter::once(question).chain(more.iter().map(String::as_str)) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    /// What was found out, while that holds.
    pub(crate) fn get(&self, key: &Key, now: Timestamp) -> Option<T> {
        let halves = self.0.lock();
        let (until, found) = halves.younger.get(key).or_else(|| halves.older.get(key))?;
        (now < *until).then(|| found.clone())
    }

    /// Remembers something for a while.
    pub(crate) fn insert(&self, key: Key, found: T, now: Timestamp, lasts: SignedDuration) {
        let until = now.saturating_add(lasts).unwrap_or(Timestamp::MAX);
        if until <= now {
            return;
        }
        let mut halves = self.0.lock();
        if halves.younger.len() >= HALF {
            halves.older = std::mem::take(&mut halves.younger);
        }
        halves.younger.insert(key, (until, found));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_hold_for_a_while_and_are_bounded() {
        let cache = Remembered::default();
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let key = |text: &str, audiences: &[&str]| {
            Remembered::<i32>::key(text, &audiences.iter().map(|audience| (*audience).to_owned()).collect::<Vec<_>>())
        };
        assert_ne!(key("ab", &["c"]), key("a", &["bc"]));
        cache.insert(key("a", &[]), 1, now, SignedDuration::from_secs(10));
        cache.insert(key("b", &[]), 2, now, SignedDuration::ZERO);
        assert_eq!(cache.get(&key("a", &[]), now + SignedDuration::from_secs(9)), Some(1));
        assert_eq!(cache.get(&key("a", &[]), now + SignedDuration::from_secs(10)), None);
        assert_eq!(cache.get(&key("b", &[]), now), None);
        for number in 0..3 * HALF {
            cache.insert(key(&number.to_string(), &[]), 0, now, SignedDuration::from_secs(10));
        }
        let halves = cache.0.lock();
        assert!(halves.younger.len() <= HALF && halves.older.len() <= HALF);
    }
}
