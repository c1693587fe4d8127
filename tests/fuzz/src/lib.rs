//! Fuzzing with a stable compiler: a seeded mutator over a corpus, for a bounded time, in an ordinary test.
//!
//! It knows nothing of coverage, so it finds what malformed input breaks at once, in every run of the tests; the same
//! targets run under cargo-fuzz where somebody has the night. Never reads a clock for anything but its bound: the same
//! seed gives the same inputs in the same order.

mod mutate;

pub use mutate::Mutator;

use std::{
    env,
    time::{Duration, Instant},
};

/// Seconds for each target, unless the environment says otherwise.
const SECONDS: f64 = 1.0;
/// Where it says so.
const SECONDS_VARIABLE: &str = "TIMONEL_FUZZ_SECONDS";
/// Inputs for each target, however fast it is: a run that is to be repeated must end at the same one.
const MOST_INPUTS: u64 = 2_000_000;
/// Inputs between two looks at the clock.
const BETWEEN_LOOKS: u64 = 16;

/// Prints the input that a target did not survive.
struct Witness<'a> {
    input: &'a [u8],
    number: u64,
}

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("input {} of this target: b\"{}\"", self.number, self.input.escape_ascii());
        }
    }
}

/// Gives `target` the corpus and mutants of it; how many inputs it was given. A target fails by panicking.
pub fn run(corpus: &[&[u8]], mut target: impl FnMut(&[u8])) -> u64 {
    let seconds = env::var(SECONDS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
    let end = Instant::now() + Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let mut mutator = Mutator::new(corpus);
    let mut number = 0;
    while number < MOST_INPUTS && (!number.is_multiple_of(BETWEEN_LOOKS) || Instant::now() < end) {
        let input = mutator.next();
        let _witness = Witness { input: &input, number };
        target(&input);
        number += 1;
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_a_target_is_found() {
        // A decoder that trusts a length.
        let broken = |bytes: &[u8]| {
            if let Some((length, rest)) = bytes.split_first() {
                let _ = &rest[..usize::from(*length).min(40)];
            }
        };
        let found = std::panic::catch_unwind(|| run(&[b"\x05hello"], broken));
        assert!(found.is_err());
        assert!(run(&[b"\x05hello"], |_| ()) > 1000);
    }
}
