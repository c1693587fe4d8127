//! When an object that should be in the cloud is not: what was seen, how often, and by which independent ways.
//!
//! One listing without an instance proves nothing (eventual consistency, a filter, a wrong account). The ledger
//! remembers until two independent looks agree.

use crate::model::{InstanceId, InstanceState};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Listings that must miss an instance before it is asked for by ID.
const LOOKS: u32 = 2;
/// Least time between the first listing that missed it and the decision.
const AGE: SignedDuration = SignedDuration::from_secs(1);

/// What is known about one absence.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Absence {
    since: Timestamp,
    last: Timestamp,
    looks: u32,
    confirmed: bool,
}

/// Absences by instance.
#[derive(Clone, Debug, Default)]
pub struct AbsenceLedger {
    absent: BTreeMap<InstanceId, Absence>,
}

/// What to do about an absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Look again.
    Wait,
    /// Ask by ID.
    Ask,
    /// Two independent looks agree: it is gone.
    Gone,
}

impl AbsenceLedger {
    /// Records that the listing of time `observed` lacks the instance, or (`listed_gone`) lists it as gone, and says
    /// what follows. The same listing counts once.
    pub(crate) fn missed(&mut self, id: &InstanceId, observed: Timestamp, listed_gone: bool) -> Verdict {
        let absence = self.absent.entry(id.clone()).or_insert(Absence {
            since: observed,
            last: observed,
            looks: 0,
            confirmed: false,
        });
        if absence.looks == 0 || observed > absence.last {
            absence.looks = absence.looks.saturating_add(1);
            absence.last = observed;
        }
        let enough = listed_gone || absence.looks >= LOOKS && observed.duration_since(absence.since) >= AGE;
        match (absence.confirmed, enough) {
            (true, true) => Verdict::Gone,
            (false, true) => Verdict::Ask,
            (_, false) => Verdict::Wait,
        }
    }

    /// Forgets every absence of an instance not in `missing`: it is there again.
    pub(crate) fn retain(&mut self, missing: &BTreeSet<InstanceId>) {
        self.absent.retain(|id, _| missing.contains(id));
    }

    /// Takes the answer to a question by ID. Anything but `Gone` clears the instance.
    pub fn confirm(&mut self, answers: &BTreeMap<InstanceId, InstanceState>) {
        for (id, state) in answers {
            if *state != InstanceState::Gone {
                self.absent.remove(id);
            } else if let Some(absence) = self.absent.get_mut(id) {
                absence.confirmed = true;
            }
        }
    }
}

/// Whether `missing` unexplained absences among `total` are too many to be believed: then a person must look, and
/// nothing is removed. One at a time is always believed (after confirmation).
#[must_use]
pub fn is_mass_disappearance(missing: usize, total: usize) -> bool {
    missing >= 2 && missing.saturating_mul(3) > total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000 + second).unwrap()
    }

    #[test]
    fn one_way_of_looking_is_never_enough() {
        let id = InstanceId::from("i-1");
        let mut ledger = AbsenceLedger::default();
        assert_eq!(ledger.missed(&id, at(0), false), Verdict::Wait);
        assert_eq!(ledger.missed(&id, at(0), false), Verdict::Wait, "the same listing counts once");
        for second in 1..50 {
            assert_eq!(ledger.missed(&id, at(second), false), Verdict::Ask);
        }
        ledger.confirm(&[(id.clone(), InstanceState::Gone)].into());
        assert_eq!(ledger.missed(&id, at(50), false), Verdict::Gone);
    }

    #[test]
    fn an_answer_that_it_lives_starts_over() {
        let id = InstanceId::from("i-1");
        let mut ledger = AbsenceLedger::default();
        ledger.missed(&id, at(0), false);
        ledger.missed(&id, at(9), false);
        ledger.confirm(&[(id.clone(), InstanceState::Stopped)].into());
        assert_eq!(ledger.missed(&id, at(10), false), Verdict::Wait);
    }

    #[test]
    fn a_tombstone_still_wants_a_second_look() {
        let id = InstanceId::from("i-1");
        let mut ledger = AbsenceLedger::default();
        assert_eq!(ledger.missed(&id, at(0), true), Verdict::Ask);
        ledger.confirm(&[(id.clone(), InstanceState::Gone)].into());
        assert_eq!(ledger.missed(&id, at(0), true), Verdict::Gone);
    }

    #[test]
    fn mass_disappearance() {
        for (missing, total, mass) in
            [(0, 0, false), (1, 1, false), (1, 2, false), (2, 2, true), (2, 6, false), (2, 5, true), (300, 900, false)]
        {
            assert_eq!(is_mass_disappearance(missing, total), mass, "{missing} of {total}");
        }
    }
}
