//! What fairness tells of itself, under upstream's names.

use super::core::Core;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use std::sync::atomic::AtomicU64;
use timonel_runtime::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabels {
    priority_level: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FlowLabels {
    priority_level: String,
    flow_schema: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectedLabels {
    priority_level: String,
    flow_schema: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WaitLabels {
    priority_level: String,
    flow_schema: String,
    execute: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;
type Amounts = Family<LevelLabels, Gauge<f64, AtomicU64>>;

/// Upper bounds of the waiting and execution times, in seconds (upstream's, thinned out).
const SECONDS: [f64; 12] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 30.0];

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

/// What one schema's requests are counted by.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) dispatched: Counter,
    pub(super) waited: Histogram,
    pub(super) waited_in_vain: Histogram,
    pub(super) executed: Histogram,
    rejected: [(&'static str, Counter); 4],
}

impl Default for Told {
    fn default() -> Self {
        let rejected = REASONS.map(|reason| (reason, Counter::default()));
        let (waited, waited_in_vain, executed) = (seconds(), seconds(), seconds());
        Self { dispatched: Counter::default(), waited, waited_in_vain, executed, rejected }
    }
}

/// Why requests are refused.
const REASONS: [&str; 4] = ["queue-full", "concurrency-limit", "time-out", "cancelled"];

impl Told {
    pub(super) fn reject(&self, reason: &str) {
        if let Some((_, counter)) = self.rejected.iter().find(|(known, _)| *known == reason) {
            counter.inc();
        }
    }
}

/// The families of all schemas and levels.
#[derive(Debug)]
pub(super) struct Telling {
    dispatched: Family<FlowLabels, Counter>,
    rejected: Family<RejectedLabels, Counter>,
    waits: Histograms<WaitLabels>,
    executions: Histograms<FlowLabels>,
    /// Gauges of levels, in the order of [`AMOUNTS`].
    amounts: Vec<Amounts>,
    fraction: Gauge<f64, AtomicU64>,
}

/// Gauges that are set when metrics are read: names and what they tell.
const AMOUNTS: [(&str, &str); 12] = [
    ("apiserver_flowcontrol_current_inqueue_requests", "Requests that wait"),
    ("apiserver_flowcontrol_current_executing_requests", "Requests that run"),
    ("apiserver_flowcontrol_current_executing_seats", "Seats in use"),
    ("apiserver_flowcontrol_nominal_limit_seats", "Seats by the level's shares"),
    ("apiserver_flowcontrol_lower_limit_seats", "Seats that are never lent"),
    ("apiserver_flowcontrol_upper_limit_seats", "Seats with all that may be borrowed"),
    ("apiserver_flowcontrol_current_limit_seats", "Seats that the level has"),
    ("apiserver_flowcontrol_demand_seats_high_watermark", "Most seats needed in the last period"),
    ("apiserver_flowcontrol_demand_seats_average", "Seats needed on average in the last period"),
    ("apiserver_flowcontrol_demand_seats_stdev", "How much the seats needed varied in the last period"),
    ("apiserver_flowcontrol_demand_seats_smoothed", "Seats needed, smoothed over periods"),
    ("apiserver_flowcontrol_target_seats", "Seats that the level would get if there were enough"),
];

impl Telling {
    pub(super) fn register(registry: &Registry) -> Self {
        let new = Self {
            dispatched: Family::default(),
            rejected: Family::default(),
            waits: Family::new_with_constructor(seconds),
            executions: Family::new_with_constructor(seconds),
            amounts: AMOUNTS.iter().map(|_| Family::default()).collect(),
            fraction: Gauge::default(),
        };
        registry.register("apiserver_flowcontrol_dispatched_requests", "Requests that ran", new.dispatched.clone());
        registry.register(
            "apiserver_flowcontrol_rejected_requests",
            "Requests that were refused",
            new.rejected.clone(),
        );
        registry.register(
            "apiserver_flowcontrol_request_wait_duration_seconds",
            "Seconds that requests waited for their turn",
            new.waits.clone(),
        );
        registry.register(
            "apiserver_flowcontrol_request_execution_seconds",
            "Seconds that requests held their seats",
            new.executions.clone(),
        );
        for ((name, help), amounts) in AMOUNTS.iter().zip(&new.amounts) {
            registry.register(name, help, amounts.clone());
        }
        registry.register(
            "apiserver_flowcontrol_seat_fair_frac",
            "Fraction of what it needs that a level gets",
            new.fraction.clone(),
        );
        new
    }

    /// What the requests of a schema are counted by.
    pub(super) fn of(&self, level: &str, schema: &str) -> Told {
        let flow = FlowLabels { priority_level: level.to_owned(), flow_schema: schema.to_owned() };
        let wait = |execute| {
            let (priority_level, flow_schema) = (level.to_owned(), schema.to_owned());
            self.waits.get_or_create(&WaitLabels { priority_level, flow_schema, execute }).clone()
        };
        let rejected = REASONS.map(|reason| {
            let (priority_level, flow_schema) = (level.to_owned(), schema.to_owned());
            (reason, self.rejected.get_or_create(&RejectedLabels { priority_level, flow_schema, reason }).clone())
        });
        Told {
            dispatched: self.dispatched.get_or_create(&flow).clone(),
            waited: wait("true"),
            waited_in_vain: wait("false"),
            executed: self.executions.get_or_create(&flow).clone(),
            rejected,
        }
    }

    /// Sets the gauges to how things are.
    pub(super) fn look<T>(&self, core: &Core<T>) {
        for level in core.levels.iter().filter(|level| !level.leaving) {
            let labels = LevelLabels { priority_level: level.spec.name.clone() };
            let (seats, needed) = (level.seats, level.needed);
            let waiting = u32::try_from(level.waiting()).unwrap_or(u32::MAX);
            let amounts = [
                waiting,
                level.executing,
                level.seats_in_use,
                seats.nominal,
                seats.lower,
                seats.upper,
                seats.current,
                needed.highest,
            ];
            let rest = [needed.average, needed.deviation, needed.smoothed, needed.smoothed.max(f64::from(seats.lower))];
            for (family, amount) in self.amounts.iter().zip(amounts.map(f64::from).into_iter().chain(rest)) {
                family.get_or_create(&labels).set(amount);
            }
        }
        self.fraction.set(core.fraction);
    }
}
