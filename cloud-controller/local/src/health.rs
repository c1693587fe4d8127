//! Which targets may have traffic: what checks found, and what follows. Pure.

use crate::config::HealthSettings;
use std::{collections::BTreeMap, net::Ipv4Addr};
use timonel_cloud_core::HealthCheck;

/// What one check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It can take traffic.
    Passed,
    /// It answers, and says that it cannot.
    Refused,
    /// The machine answers, but nobody is there to say whether it can.
    Away,
    /// It does not answer.
    Silent,
}

/// What is known of one target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) healthy: bool,
    /// It does not answer at all: its connections lead nowhere.
    pub(crate) silent: bool,
    /// Nobody was there to say whether it can, when it was last asked.
    pub(crate) away: bool,
    failures: u32,
    silences: u32,
}

impl Health {
    /// After one more finding. One pass is enough to be in; `threshold` failures in a row to be out, `silence` without
    /// an answer to be dead.
    pub(crate) fn after(self, finding: Finding, settings: HealthSettings) -> Self {
        if finding == Finding::Passed {
            return Self { healthy: true, ..Self::default() };
        }
        let failures = self.failures.saturating_add(1);
        let silences = if finding == Finding::Silent { self.silences.saturating_add(1) } else { 0 };
        let out = failures >= settings.threshold;
        let (silent, away) = (silences >= settings.silence, finding == Finding::Away);
        Self { healthy: self.healthy && !out, silent, away, failures, silences }
    }
}

/// What is checked: load balancers that check a target alike share the check.
pub(crate) type Probe = (Ipv4Addr, HealthCheck);

/// Everything known of all targets.
#[derive(Clone, Debug, Default)]
pub(crate) struct HealthBook(BTreeMap<Probe, Health>);

impl HealthBook {
    /// Takes findings, forgets what is not checked any more, and says whether anything changed that matters.
    pub(crate) fn take(&mut self, findings: Vec<(Probe, Finding)>, settings: HealthSettings) -> bool {
        let mut next = BTreeMap::new();
        for (probe, finding) in findings {
            let health = self.0.get(&probe).copied().unwrap_or_default().after(finding, settings);
            next.insert(probe, health);
        }
        let verdicts =
            |book: &BTreeMap<Probe, Health>| book.values().map(|h| (h.healthy, h.silent, h.away)).collect::<Vec<_>>();
        let changed = !next.keys().eq(self.0.keys()) || verdicts(&next) != verdicts(&self.0);
        self.0 = next;
        changed
    }

    /// `None` when the target was not yet checked in this way.
    pub(crate) fn of(&self, probe: &Probe) -> Option<Health> {
        self.0.get(probe).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pass_is_in_two_failures_are_out_and_long_silence_is_death() {
        use Finding::{Away as A, Passed as P, Refused as R, Silent as S};
        for (findings, healthy, silent) in [
            (vec![], false, false),
            (vec![P], true, false),
            (vec![P, S], true, false),
            (vec![P, S, S], false, false),
            (vec![P, S, S, S, S, S], false, false),
            (vec![P, S, S, S, S, S, S], false, true),
            (vec![S, S, S, S, S, R, S], false, false),
            (vec![S, S, S, S, S, S, P], true, false),
            (vec![P, R, R], false, false),
            (vec![P, A, A], false, false),
            (vec![S, S, S, S, S, A, S], false, false),
            (vec![P, S, P, S], true, false),
            (vec![S, S, P], true, false),
            (vec![R], false, false),
        ] {
            let health = findings.iter().fold(Health::default(), |h, f| h.after(*f, HealthSettings::default()));
            assert_eq!((health.healthy, health.silent), (healthy, silent), "{findings:?}");
        }
    }

    #[test]
    fn only_changes_that_matter_are_reported() {
        let probe = (Ipv4Addr::LOCALHOST, HealthCheck::Tcp { port: 1 });
        let mut book = HealthBook::default();
        let mut take = |finding| book.take(vec![(probe.clone(), finding)], HealthSettings::default());
        let findings = [&[Finding::Passed, Finding::Passed][..], &[Finding::Silent; 7]].concat();
        let reports: Vec<bool> = findings.into_iter().map(&mut take).collect();
        assert_eq!(reports, [true, false, false, true, false, false, false, true, false]);
    }
}
