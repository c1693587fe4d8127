//! Counting of probe results: a verdict changes only after enough equal results in a row.

use k8s_openapi::api::core::v1::Probe;

/// Which question a probe answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    /// As events name it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// Results of one probe of one run of a container.
#[derive(Clone, Debug)]
pub(crate) struct Counter {
    successes_needed: i32,
    failures_needed: i32,
    last: Option<bool>,
    run: i32,
    verdict: Option<bool>,
}

impl Counter {
    pub(crate) fn new(probe: &Probe) -> Self {
        Self {
            successes_needed: probe.success_threshold.unwrap_or(1).max(1),
            failures_needed: probe.failure_threshold.unwrap_or(3).max(1),
            last: None,
            run: 0,
            verdict: None,
        }
    }

    /// Notes a result; gives the verdict when this result changed it.
    pub(crate) fn record(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let needed = if success { self.successes_needed } else { self.failures_needed };
        if self.run < needed || self.verdict == Some(success) {
            return None;
        }
        self.verdict = Some(success);
        Some(success)
    }
}

/// Seconds: first delay, period, timeout.
pub(crate) fn timing(probe: &Probe) -> (u64, u64, u64) {
    let at_least = |value: Option<i32>, default: i32, least: i32| {
        u64::try_from(value.filter(|value| *value > 0).unwrap_or(default).max(least)).unwrap_or(1)
    };
    (
        at_least(probe.initial_delay_seconds, 0, 0),
        at_least(probe.period_seconds, 10, 1),
        at_least(probe.timeout_seconds, 1, 1),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_follow_thresholds() {
        for (success, failure, results, expected) in [
            (1, 3, "+", "+"),
            (1, 3, "---", "..-"),
            (1, 3, "--+---", "..+..-"),
            (2, 1, "+-++", ".-.+"),
            (1, 1, "++--", "+.-."),
        ] {
            let probe =
                Probe { success_threshold: Some(success), failure_threshold: Some(failure), ..Probe::default() };
            let mut counter = Counter::new(&probe);
            let got: String = results
                .chars()
                .map(|result| match counter.record(result == '+') {
                    None => '.',
                    Some(true) => '+',
                    Some(false) => '-',
                })
                .collect();
            assert_eq!(got, expected, "{results}");
        }
    }

    #[test]
    fn timing_has_defaults() {
        assert_eq!(timing(&Probe::default()), (0, 10, 1));
        let probe = Probe { initial_delay_seconds: Some(5), period_seconds: Some(2), ..Probe::default() };
        assert_eq!(timing(&probe), (5, 2, 1));
    }
}
