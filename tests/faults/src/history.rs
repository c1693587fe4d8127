//! Is a recorded history of one key linearizable? Follows calls and returns in time, and keeps every state that the
//! key may be in together with the calls under way that must have taken effect for it.

use std::collections::HashSet;

/// What a key holds: values are unique in a history.
pub type State = Option<u64>;

/// One call and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read this.
    Read(State),
    /// Set without a condition.
    Put(u64),
    /// Set (or deleted) if the key held `expect`; whether it did, unless nobody knows.
    Swap {
        /// What it had to hold.
        expect: State,
        /// What it was to hold then.
        new: State,
        /// Whether it did.
        held: Option<bool>,
    },
}

/// A call in time. Without an end nobody knows whether it took effect, or ever will.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// When it was sent.
    pub start: u64,
    /// When it was answered.
    pub end: Option<u64>,
    /// What it was.
    pub kind: Kind,
}

/// Most calls under way at once, those without an end included.
const MAX_PENDING: usize = 128;

fn apply(state: State, kind: Kind) -> Option<State> {
    match kind {
        Kind::Read(seen) => (seen == state).then_some(state),
        Kind::Put(new) => Some(Some(new)),
        Kind::Swap { expect, held: Some(false), .. } => (state != expect).then_some(state),
        Kind::Swap { expect, new, .. } => (state == expect).then_some(new),
    }
}

/// A state, and which of the pending calls have taken effect in it.
type Configuration = (State, u128);

/// Every configuration in which the call in `slot` has taken effect.
fn linearize(start: Configuration, slot: usize, pending: &[Option<Kind>], out: &mut HashSet<Configuration>) {
    let mut seen = HashSet::from([start]);
    let mut open = vec![start];
    while let Some((state, done)) = open.pop() {
        if done & (1 << slot) != 0 {
            out.insert((state, done & !(1 << slot)));
            continue;
        }
        for (other, kind) in pending.iter().enumerate() {
            let Some(kind) = kind else { continue };
            if done & (1 << other) != 0 {
                continue;
            }
            let Some(after) = apply(state, *kind) else { continue };
            let next = (after, done | (1 << other));
            if seen.insert(next) {
                open.push(next);
            }
        }
    }
}

/// Whether one order of all calls explains every answer.
///
/// # Errors
/// The call whose answer nothing explains.
///
/// # Panics
/// When too many calls were under way at once.
pub fn check(calls: &[Call]) -> Result<(), Call> {
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    for (at, call) in calls.iter().enumerate() {
        events.push((call.start, false, at));
        events.extend(call.end.map(|end| (end, true, at)));
    }
    // A call that starts when another ends is not after it: starts come first.
    events.sort_unstable();
    let mut pending: Vec<Option<Kind>> = vec![None; MAX_PENDING];
    let mut slots = vec![0; calls.len()];
    let mut configurations = HashSet::from([(None, 0_u128)]);
    for (_, is_end, at) in events {
        if is_end {
            let mut after = HashSet::new();
            for configuration in configurations {
                linearize(configuration, slots[at], &pending, &mut after);
            }
            if after.is_empty() {
                return Err(calls[at]);
            }
            pending[slots[at]] = None;
            configurations = after;
        } else {
            let slot = pending.iter().position(Option::is_none).expect("few calls are under way at once");
            slots[at] = slot;
            pending[slot] = Some(calls[at].kind);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories() {
        let call = |start, end, kind| Call { start, end: (end > 0).then_some(end), kind };
        let swap = |expect, new, held| Kind::Swap { expect, new, held };
        let (put, read) = (Kind::Put, Kind::Read);
        let cases = [
            ("in turn", vec![call(1, 2, put(1)), call(3, 4, read(Some(1)))], true),
            ("stale read", vec![call(1, 2, put(1)), call(3, 4, put(2)), call(5, 6, read(Some(1)))], false),
            ("lost write", vec![call(1, 2, put(1)), call(3, 4, read(None))], false),
            ("under way", vec![call(1, 9, put(1)), call(2, 3, read(None)), call(4, 5, read(Some(1)))], true),
            ("back again", vec![call(1, 9, put(1)), call(2, 3, read(Some(1))), call(4, 5, read(None))], false),
            ("never known", vec![call(1, 0, put(1)), call(2, 3, read(None)), call(4, 5, read(Some(1)))], true),
            ("never known, undone", vec![call(1, 0, put(1)), call(2, 3, read(Some(1))), call(4, 5, read(None))], false),
            (
                "both swapped",
                vec![call(1, 5, swap(None, Some(1), Some(true))), call(2, 6, swap(None, Some(2), Some(true)))],
                false,
            ),
            (
                "one swapped",
                vec![call(1, 5, swap(None, Some(1), Some(true))), call(2, 6, swap(None, Some(2), Some(false)))],
                true,
            ),
            ("refused for nothing", vec![call(1, 2, swap(None, Some(1), Some(false)))], false),
            ("swap unknown", vec![call(1, 0, swap(None, Some(1), None)), call(2, 3, read(Some(1)))], true),
            (
                "deleted",
                vec![call(1, 2, put(1)), call(3, 4, swap(Some(1), None, Some(true))), call(5, 6, read(None))],
                true,
            ),
        ];
        for (name, calls, good) in cases {
            assert_eq!(check(&calls).is_ok(), good, "{name}");
        }
    }
}
