//! How many seats each priority level has: by its shares, and by what others lend it. Pure.

use timonel_api::Value;

/// Requests of average weight that one cluster's API works on at a time: upstream's bounds of reads and writes added.
pub(super) const SERVER_SEATS: u32 = 600;
/// How much of what a level needed before still counts after a period, as upstream has it for ten times as long ones.
const SMOOTHING: f64 = 0.997_7;
/// Steps in which the fair fraction is found; each halves what is left.
const STEPS: usize = 64;

/// What a level may have, from its object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LevelSpec {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) exempt: bool,
    pub(super) shares: u32,
    pub(super) lendable_percent: u32,
    pub(super) borrowing_percent: Option<u32>,
    /// Queues, the hand dealt to a flow, and the length of each; nothing for levels that refuse instead.
    pub(super) queuing: Option<Queuing>,
}

/// How a level queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queuing {
    pub(super) queues: usize,
    pub(super) hand: usize,
    pub(super) length: usize,
}

/// Most queues of a level that are made, whatever its object says.
const MAX_QUEUES: i64 = 4_096;

impl LevelSpec {
    /// From a `PriorityLevelConfiguration`.
    pub(super) fn read(object: &Value) -> Self {
        let exempt = object.str_at(&["spec", "type"]) == "Exempt";
        let part = if exempt { "exempt" } else { "limited" };
        let number = |field: &str| object.int_at(&["spec", part, field]).and_then(|n| u32::try_from(n).ok());
        let queuing = |field: &str, most: i64| {
            let path = ["spec", "limited", "limitResponse", "queuing", field];
            usize::try_from(object.int_at(&path).unwrap_or(1).clamp(1, most)).unwrap_or(1)
        };
        let queues = object.str_at(&["spec", "limited", "limitResponse", "type"]) == "Queue";
        Self {
            name: object.str_at(&["metadata", "name"]).to_owned(),
            uid: object.str_at(&["metadata", "uid"]).to_owned(),
            exempt,
            shares: number("nominalConcurrencyShares").unwrap_or(if exempt { 0 } else { 30 }),
            lendable_percent: number("lendablePercent").unwrap_or(0).min(100),
            borrowing_percent: number("borrowingLimitPercent"),
            queuing: queues.then(|| Queuing {
                queues: queuing("queues", MAX_QUEUES),
                hand: queuing("handSize", 10),
                length: queuing("queueLengthLimit", 10_000),
            }),
        }
    }
}

/// Seats of a level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seats {
    /// By its shares.
    pub(super) nominal: u32,
    /// What it keeps when others borrow all they may.
    pub(super) lower: u32,
    /// What it has when it borrows all it may.
    pub(super) upper: u32,
    /// What it has.
    pub(super) current: u32,
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few hundred seats, never negative")]
fn seats(number: f64) -> u32 {
    number.max(0.0) as u32
}

/// Seats of each level by the shares of all.
pub(super) fn nominal(specs: &[LevelSpec], total: u32) -> Vec<Seats> {
    let sum: u64 = specs.iter().map(|spec| u64::from(spec.shares)).sum();
    specs
        .iter()
        .map(|spec| {
            let share = f64::from(total) * f64::from(spec.shares);
            #[expect(clippy::cast_precision_loss, reason = "shares are small")]
            let nominal = if sum == 0 { 0 } else { seats((share / sum as f64).ceil()) };
            let part = |percent: u32| seats((f64::from(nominal) * f64::from(percent) / 100.0).round());
            let lower = nominal.saturating_sub(part(spec.lendable_percent));
            let upper =
                spec.borrowing_percent.map_or(total, |percent| nominal.saturating_add(part(percent)).min(total));
            Seats { nominal, lower, upper: upper.max(nominal), current: nominal }
        })
        .collect()
}

/// What a level needed: how many seats were in use or waited for, over time.
#[derive(Clone, Debug, Default)]
pub(super) struct Demand {
    now: u32,
    since: u64,
    from: u64,
    area: f64,
    squares: f64,
    pub(super) highest: u32,
    pub(super) smoothed: f64,
}

/// A period's demand.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Needed {
    pub(super) highest: u32,
    pub(super) average: f64,
    pub(super) deviation: f64,
    pub(super) smoothed: f64,
}

impl Demand {
    /// From `now` on (in nanoseconds) so many seats are in use or waited for.
    pub(super) fn set(&mut self, seats: u32, now: u64) {
        self.add_up(now);
        self.now = seats;
        self.highest = self.highest.max(seats);
    }

    fn add_up(&mut self, now: u64) {
        #[expect(clippy::cast_precision_loss, reason = "an average needs no nanoseconds")]
        let passed = now.saturating_sub(self.since) as f64;
        let seats = f64::from(self.now);
        self.area += seats * passed;
        self.squares += seats * seats * passed;
        self.since = now.max(self.since);
    }

    /// Ends a period.
    pub(super) fn take(&mut self, now: u64) -> Needed {
        self.add_up(now);
        #[expect(clippy::cast_precision_loss, reason = "an average needs no nanoseconds")]
        let passed = now.saturating_sub(self.from) as f64;
        let average = if passed > 0.0 { self.area / passed } else { f64::from(self.now) };
        let square = if passed > 0.0 { self.squares / passed } else { average * average };
        let deviation = (square - average * average).max(0.0).sqrt();
        let envelope = average + deviation;
        self.smoothed = envelope.max(SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * envelope);
        let needed = Needed { highest: self.highest, average, deviation, smoothed: self.smoothed };
        (self.from, self.area, self.squares, self.highest) = (now, 0.0, 0.0, self.now);
        needed
    }
}

/// Shares out all seats anew: each level gets a fair fraction of what it needs, within its bounds. Gives back the
/// fraction.
pub(super) fn lend(levels: &mut [(&mut Seats, Needed)]) -> f64 {
    let total: u32 = levels.iter().map(|(seats, _)| seats.nominal).sum();
    let lowest = |seats: &Seats, needed: &Needed| seats.lower.max(seats.nominal.min(needed.highest));
    let sum: u32 = levels.iter().map(|(seats, needed)| lowest(seats, needed)).sum();
    if sum >= total {
        // Everybody needs what is his.
        levels.iter_mut().for_each(|(seats, needed)| seats.current = lowest(seats, needed));
        return 0.0;
    }
    let wanted = |seats: &Seats, needed: &Needed, fraction: f64| {
        let lowest = f64::from(lowest(seats, needed));
        (fraction * needed.smoothed.max(lowest).max(1.0)).clamp(lowest, f64::from(seats.upper).max(lowest))
    };
    let used = |levels: &[(&mut Seats, Needed)], fraction: f64| -> f64 {
        levels.iter().map(|(seats, needed)| wanted(seats, needed, fraction)).sum()
    };
    let (mut low, mut high) = (0.0, f64::from(total.max(1)));
    for _ in 0..STEPS {
        let middle = (low + high) / 2.0;
        if used(levels, middle) <= f64::from(total) { low = middle } else { high = middle }
    }
    for (seats, needed) in levels.iter_mut() {
        seats.current = self::seats(wanted(seats, needed, low).floor()).max(lowest(seats, needed));
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(shares: u32, lendable_percent: u32, borrowing_percent: Option<u32>) -> LevelSpec {
        LevelSpec {
            name: String::new(),
            uid: String::new(),
            exempt: false,
            shares,
            lendable_percent,
            borrowing_percent,
            queuing: None,
        }
    }

    #[test]
    fn seats_follow_shares() {
        let all = nominal(&[spec(30, 33, None), spec(100, 90, Some(50)), spec(115, 0, Some(0))], 600);
        let shown: Vec<_> = all.iter().map(|seats| (seats.nominal, seats.lower, seats.upper)).collect();
        assert_eq!(shown, [(74, 50, 600), (245, 24, 368), (282, 282, 282)]);
        assert_eq!(nominal(&[spec(0, 0, None)], 600)[0].nominal, 0);
    }

    #[test]
    fn who_needs_more_borrows_and_nobody_gives_what_he_must_keep() {
        let second = 1_000_000_000;
        let mut all = nominal(&[spec(50, 80, None), spec(50, 0, None)], 100);
        let mut demands = [Demand::default(), Demand::default()];
        demands[1].set(300, 0);
        let lent = |all: &mut [Seats], demands: &mut [Demand], now: u64| {
            let needed: Vec<Needed> = demands.iter_mut().map(|demand| demand.take(now)).collect();
            let mut levels: Vec<_> = all.iter_mut().zip(needed).collect();
            lend(&mut levels);
            (all[0].current, all[1].current)
        };
        assert_eq!(lent(&mut all, &mut demands, second), (10, 90), "an idle level keeps a fifth");
        demands[0].set(40, second);
        assert_eq!(lent(&mut all, &mut demands, 2 * second), (40, 60), "it has back what it needs");
        demands[0].set(500, 2 * second);
        assert_eq!(lent(&mut all, &mut demands, 3 * second), (50, 50), "and no more than is its own");
    }

    #[test]
    fn demand_is_measured_over_time() {
        let mut demand = Demand::default();
        demand.set(10, 0);
        demand.set(0, 500);
        let needed = demand.take(1_000);
        assert_eq!((needed.highest, needed.average, needed.deviation), (10, 5.0, 5.0));
        let idle = demand.take(2_000);
        assert_eq!((idle.highest, idle.average), (0, 0.0));
        assert!(idle.smoothed > 9.9, "what was needed is forgotten slowly");
    }
}
