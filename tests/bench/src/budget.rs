//! The budgets that a figure is held against, and what upstream took where it was measured before.

/// What is allowed of one figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Budget {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// No more than upstream's figure divided by `by`; `known` is upstream's where it does not run beside us.
    Fraction { known: f64, by: f64 },
}

impl Budget {
    /// The bound in the figure's own unit.
    pub(crate) fn bound(self, upstream: Option<f64>) -> f64 {
        match self {
            Self::AtMost(bound) | Self::AtLeast(bound) => bound,
            Self::Fraction { known, by } => upstream.unwrap_or(known) / by,
        }
    }

    /// Whether a figure keeps to it.
    pub(crate) fn holds(self, ours: f64, upstream: Option<f64>) -> bool {
        match self {
            Self::AtLeast(bound) => ours >= bound,
            _ => ours <= self.bound(upstream),
        }
    }
}

const fn fraction(known: f64, by: f64) -> Budget {
    Budget::Fraction { known, by }
}

/// Budgets by workload and unit. Upstream's figures: 1.36.2 with etcd 3.5.30 on an idle machine of two cores.
const BUDGETS: [(&str, &str, Budget); 28] = [
    ("start/nothing-to-ready", "ms", Budget::AtMost(100.0)),
    ("start/further-cluster", "ms", Budget::AtMost(50.0)),
    ("idle/service", "MB", Budget::AtMost(60.0)),
    ("idle/cluster", "MB", Budget::AtMost(4.0)),
    ("idle/cluster", "% of a core", Budget::AtMost(0.05)),
    ("api/create", "us CPU", fraction(2_000.0, 10.0)),
    ("api/create", "ms p99", Budget::AtMost(20.0)),
    ("api/patch", "us CPU", fraction(3_700.0, 15.0)),
    ("api/get", "us CPU", fraction(600.0, 10.0)),
    ("api/list-json", "ms CPU", fraction(700.0, 30.0)),
    ("api/list-json", "ms first byte", Budget::AtMost(10.0)),
    ("api/list-protobuf", "ms CPU", fraction(455.0, 20.0)),
    ("api/watch", "us CPU", fraction(54.0, 10.0)),
    ("api/watch", "ms p99", Budget::AtMost(50.0)),
    ("api/memory", "MB", fraction(1_400.0, 10.0)),
    ("schedule/1000-nodes", "us CPU", fraction(8_200.0, 15.0)),
    ("schedule/5000-nodes", "us CPU", fraction(11_900.0, 20.0)),
    ("schedule/5000-nodes", "MB", fraction(1_350.0, 8.0)),
    ("schedule/core", "/s", Budget::AtLeast(10_000.0)),
    ("crash/serving-again", "ms", Budget::AtMost(2_000.0)),
    ("dns/queries", "/s per core", Budget::AtLeast(80_000.0)),
    ("proxy/change", "ms", Budget::AtMost(50.0)),
    ("node/pod-start", "ms beyond the runtime", Budget::AtMost(50.0)),
    ("node/agent-30-pods", "MB", Budget::AtMost(40.0)),
    ("node/agent-30-pods", "% of a core", Budget::AtMost(1.0)),
    ("watch/idle-100k", "MB", Budget::AtMost(300.0)),
    ("isolation/flooded", "ms p99", Budget::AtMost(50.0)),
    ("idle/200-clusters", "MB", Budget::AtMost(860.0)),
];

/// The budget of a figure, if it has one.
pub(crate) fn of(workload: &str, unit: &str) -> Option<Budget> {
    BUDGETS.iter().find(|(name, of, _)| (*name, *of) == (workload, unit)).map(|(_, _, budget)| *budget)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::WORKLOADS;

    #[test]
    fn a_fraction_is_of_what_was_measured_beside_us() {
        let budget = of("api/create", "us CPU").unwrap();
        assert!(budget.holds(200.0, None) && !budget.holds(201.0, None));
        assert!(budget.holds(300.0, Some(3_000.0)) && !budget.holds(301.0, Some(3_000.0)));
        assert!(of("schedule/core", "/s").unwrap().holds(12_000.0, None));
        assert_eq!(of("api/create", "furlongs"), None);
    }

    #[test]
    fn every_budget_has_a_workload() {
        for (name, _, _) in BUDGETS {
            let group = name.split('/').next().unwrap();
            assert!(WORKLOADS.iter().any(|workload| workload.name.starts_with(group)), "{name}");
        }
    }
}
