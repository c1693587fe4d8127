//! Draws from a seeded source, in the words that the simulation uses.

use std::time::Duration;
use timonel_runtime::Entropy;

/// A source of chance for one part of the simulation, so that one part's draws never shift another's.
#[derive(Clone, Debug)]
pub(crate) struct Chance(Entropy);

impl Chance {
    /// The source of `part` in the run of `seed`.
    pub(crate) fn new(seed: u64, part: &str) -> Self {
        // FNV-1a: only has to tell parts apart.
        let hash = part
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self(Entropy::seeded(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ hash))
    }

    /// True once in `n` draws, on average; never for 0.
    pub(crate) fn once_in(&self, n: u64) -> bool {
        n != 0 && self.0.below(n) == 0
    }

    /// A number in `from..=to`.
    pub(crate) fn between(&self, from: u64, to: u64) -> u64 {
        from + self.0.below(to.saturating_sub(from) + 1)
    }

    /// A time between two numbers of milliseconds.
    pub(crate) fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.between(from, to))
    }

    /// One of `items`.
    pub(crate) fn pick<'a, T>(&self, items: &'a [T]) -> Option<&'a T> {
        let last = u64::try_from(items.len()).ok()?.checked_sub(1)?;
        items.get(usize::try_from(self.between(0, last)).ok()?)
    }

    /// The source itself, for parts that take one.
    pub(crate) fn entropy(&self) -> Entropy {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_draw_apart_and_again_the_same() {
        let draws = |part| (0..8).map(|_| Chance::new(5, part).between(0, 1000)).collect::<Vec<_>>();
        assert_eq!(draws("a"), draws("a"));
        assert_ne!(draws("a"), draws("b"));
    }

    #[test]
    fn bounds_hold() {
        let chance = Chance::new(1, "bounds");
        assert!((0..100).all(|_| (3..=5).contains(&chance.between(3, 5))));
        assert!(!chance.once_in(0));
        assert!(chance.once_in(1));
        assert_eq!(chance.pick::<u8>(&[]), None);
    }
}
