//! What happened, in order: a digest of everything and the last lines of it.

use jiff::Timestamp;
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    fmt,
    hash::{DefaultHasher, Hasher},
    sync::Arc,
};
use timonel_runtime::Clock;

/// Lines kept for the report of a failure.
const KEPT: usize = 4_000;
/// Violations kept: the first are the ones that matter.
const MOST_VIOLATIONS: usize = 16;

#[derive(Default)]
struct State {
    digest: DefaultHasher,
    lines: u64,
    last: VecDeque<(Timestamp, String)>,
    violations: Vec<String>,
}

/// The record of a run. Clones share it.
#[derive(Clone)]
pub(crate) struct Trace {
    clock: Clock,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Trace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Trace")
    }
}

impl Trace {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, state: Arc::default() }
    }

    /// Adds a line.
    pub(crate) fn note(&self, line: String) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.digest.write_i128(now.as_nanosecond());
        state.digest.write(line.as_bytes());
        state.lines += 1;
        if state.last.len() == KEPT {
            state.last.pop_front();
        }
        state.last.push_back((now, line));
    }

    /// Records that an invariant does not hold.
    pub(crate) fn violated(&self, what: String) {
        self.note(format!("VIOLATION {what}"));
        let mut state = self.state.lock();
        if state.violations.len() < MOST_VIOLATIONS && !state.violations.contains(&what) {
            state.violations.push(what);
        }
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.state.lock().violations.clone()
    }

    /// A number that two runs share only if they were the same, and how many lines there were.
    pub(crate) fn digest(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.digest.finish(), state.lines)
    }

    /// The last lines, oldest first.
    pub(crate) fn last(&self) -> Vec<String> {
        self.state.lock().last.iter().map(|(at, line)| format!("{at:.3} {line}")).collect()
    }
}
