//! Who runs and who waits, over all priority levels. Pure: the time is an argument, in nanoseconds, and what waits is
//! whatever the caller wants back.

use super::{
    queue::{Queues, Waiting},
    share::{Demand, LevelSpec, Needed, Seats, lend, nominal},
};

/// The shortest time between two times at which seats are lent anew, in nanoseconds.
const LENDING_PERIOD: u64 = 1_000_000_000;

/// A request that runs; it is given back when it has ended.
#[derive(Debug)]
#[must_use]
pub(super) struct Running {
    pub(super) level: usize,
    queue: Option<usize>,
    pub(super) seats: u32,
    started: u64,
}

/// Why a request may not even wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its level does not queue.
    ConcurrencyLimit,
    /// Its queue is full.
    QueueFull,
}

/// What becomes of a request.
#[derive(Debug)]
pub(super) enum Arrival {
    Runs(Running),
    Waits(u64),
    Refused(Refused),
}

/// Counts of a level since it is there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) dispatched: u64,
    pub(super) rejected: u64,
    pub(super) timed_out: u64,
    pub(super) cancelled: u64,
}

/// One priority level.
#[derive(Debug)]
pub(super) struct Level<T> {
    pub(super) spec: LevelSpec,
    pub(super) seats: Seats,
    pub(super) queues: Option<Queues<T>>,
    pub(super) seats_in_use: u32,
    pub(super) executing: u32,
    pub(super) counts: Counts,
    pub(super) demand: Demand,
    pub(super) needed: Needed,
    /// Whether its object is gone; it ends with its last request.
    pub(super) leaving: bool,
}

impl<T> Level<T> {
    fn new(spec: LevelSpec) -> Self {
        let queues = spec.queuing.map(Queues::new);
        Self {
            spec,
            seats: Seats::default(),
            queues,
            seats_in_use: 0,
            executing: 0,
            counts: Counts::default(),
            demand: Demand::default(),
            needed: Needed::default(),
            leaving: false,
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.queues.as_ref().map_or(0, |queues| queues.length)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.executing == 0 && self.waiting() == 0
    }

    fn fits(&self, seats: u32) -> bool {
        self.spec.exempt || self.seats_in_use == 0 || self.seats_in_use + seats <= self.seats.current
    }

    fn note_demand(&mut self, now: u64) {
        let waiting = self.queues.as_ref().map_or(0, Queues::seats_waiting);
        self.demand.set(self.seats_in_use + waiting, now);
    }

    fn run(&mut self, level: usize, queue: Option<usize>, seats: u32, now: u64) -> Running {
        self.seats_in_use += seats;
        self.executing += 1;
        self.counts.dispatched += 1;
        Running { level, queue, seats, started: now }
    }
}

/// All levels of one server.
#[derive(Debug)]
pub(super) struct Core<T> {
    pub(super) levels: Vec<Level<T>>,
    total: u32,
    next_ticket: u64,
    lent_at: u64,
    /// The fraction of what it needs that a level gets, since seats were last lent.
    pub(super) fraction: f64,
}

/// Requests that may run from here on.
pub(super) type Started<T> = Vec<(T, Running)>;

impl<T> Core<T> {
    pub(super) fn new(total: u32) -> Self {
        Self { levels: Vec::new(), total, next_ticket: 0, lent_at: 0, fraction: 0.0 }
    }

    /// The place of a level; it stays the same for as long as the level is there.
    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.levels.iter().position(|level| level.spec.name == name && !level.leaving)
    }

    /// From here on there are these levels. Those that are gone end with their last request.
    pub(super) fn configure(&mut self, specs: Vec<LevelSpec>, now: u64) -> Started<T> {
        for level in &mut self.levels {
            level.leaving = !specs.iter().any(|spec| spec.name == level.spec.name);
        }
        for spec in specs {
            let known = self.levels.iter().position(|level| level.spec.name == spec.name);
            let free = || self.levels.iter().position(|level| level.leaving && level.is_idle());
            match known.or_else(free) {
                Some(at) => reshape(&mut self.levels[at], spec),
                None => self.levels.push(Level::new(spec)),
            }
        }
        let specs: Vec<LevelSpec> = self.levels.iter().map(|level| level.spec.clone()).collect();
        for (level, mut seats) in self.levels.iter_mut().zip(nominal(&specs, self.total)) {
            seats.current = level.seats.current.clamp(seats.lower, seats.upper);
            if level.seats.nominal != seats.nominal {
                seats.current = seats.nominal;
            }
            level.seats = seats;
        }
        self.start_all(now)
    }

    /// A request of a flow that takes so many seats.
    pub(super) fn arrive(
        &mut self,
        at: usize,
        flow: u64,
        seats: u32,
        now: u64,
        payload: impl FnOnce() -> T,
    ) -> Arrival {
        if !self.levels[at].fits(seats) {
            self.lend_when_due(now);
        }
        let level = &mut self.levels[at];
        let seats = seats.max(1);
        if level.spec.exempt {
            return Arrival::Runs(level.run(at, None, seats, now));
        }
        let fits = level.fits(seats);
        let Some(queues) = &mut level.queues else {
            if fits {
                let running = level.run(at, None, seats, now);
                level.note_demand(now);
                return Arrival::Runs(running);
            }
            level.counts.rejected += 1;
            return Arrival::Refused(Refused::ConcurrencyLimit);
        };
        queues.advance(level.seats.current, now);
        let Some(queue) = queues.choose(flow) else {
            level.counts.rejected += 1;
            return Arrival::Refused(Refused::QueueFull);
        };
        if queues.length == 0 && fits {
            queues.start(queue, seats);
            let running = level.run(at, Some(queue), seats, now);
            level.note_demand(now);
            return Arrival::Runs(running);
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        queues.enqueue(queue, Waiting { ticket, flow, seats, arrived: now, payload: payload() });
        level.note_demand(now);
        Arrival::Waits(ticket)
    }

    /// A request has ended; `more` is further work that it caused, in seat-nanoseconds.
    pub(super) fn finish(&mut self, running: &Running, more: f64, now: u64) -> Started<T> {
        let level = &mut self.levels[running.level];
        level.seats_in_use = level.seats_in_use.saturating_sub(running.seats);
        level.executing = level.executing.saturating_sub(1);
        if level.spec.exempt {
            return Vec::new();
        }
        if let (Some(queues), Some(queue)) = (&mut level.queues, running.queue) {
            queues.advance(level.seats.current, now);
            queues.finish(queue, running.seats, now.saturating_sub(running.started), more);
        }
        level.note_demand(now);
        if level.waiting() == 0 {
            return Vec::new();
        }
        self.lend_when_due(now);
        self.start_all(now)
    }

    /// A request does not wait any longer; whether it still waited.
    pub(super) fn withdraw(&mut self, at: usize, ticket: u64, timed_out: bool, now: u64) -> bool {
        let level = &mut self.levels[at];
        let found = level.queues.as_mut().and_then(|queues| queues.withdraw(ticket)).is_some();
        if found {
            let count = if timed_out { &mut level.counts.timed_out } else { &mut level.counts.cancelled };
            *count += 1;
            level.note_demand(now);
        }
        found
    }

    fn lend_when_due(&mut self, now: u64) {
        if now.saturating_sub(self.lent_at) < LENDING_PERIOD {
            return;
        }
        self.lent_at = now;
        let mut limited = Vec::new();
        for level in &mut self.levels {
            level.needed = level.demand.take(now);
            if !level.spec.exempt && !level.leaving {
                limited.push((&mut level.seats, level.needed));
            }
        }
        self.fraction = lend(&mut limited);
    }

    /// Starts whoever may start.
    fn start_all(&mut self, now: u64) -> Started<T> {
        let mut started = Vec::new();
        for (at, level) in self.levels.iter_mut().enumerate() {
            if level.waiting() == 0 {
                continue;
            }
            while let Some(next) = level.queues.as_ref().and_then(Queues::next) {
                let seats = level.queues.as_ref().and_then(|queues| queues.all[next].waiting.front());
                let fits = seats.map(|first| first.seats).is_some_and(|seats| level.fits(seats));
                let first = level.queues.as_mut().filter(|_| fits).and_then(|queues| queues.dispatch(next));
                let Some(first) = first else { break };
                let running = level.run(at, Some(next), first.seats, now);
                started.push((first.payload, running));
            }
            level.note_demand(now);
        }
        started
    }
}

/// A level gets another shape: what waits is dealt anew.
fn reshape<T>(level: &mut Level<T>, spec: LevelSpec) {
    level.leaving = false;
    if level.queues.as_ref().map(|queues| queues.shape) != spec.queuing {
        let waiting = level.queues.as_mut().map(Queues::drain).unwrap_or_default();
        // Who waits in a level that queues no more waits on in one queue.
        let shape = spec.queuing.or(level.queues.as_ref().map(|queues| queues.shape).filter(|_| !waiting.is_empty()));
        let mut queues = shape.map(Queues::new);
        for one in waiting {
            if let Some(queues) = &mut queues {
                let at = queues.choose(one.flow).unwrap_or(0);
                queues.enqueue(at, one);
            }
        }
        level.queues = queues;
    }
    level.spec = spec;
}

#[cfg(test)]
mod tests {
    use super::{super::share::Queuing, *};
    use std::collections::BTreeMap;

    const MILLI: u64 = 1_000_000;

    fn level(name: &str, shares: u32, queuing: Option<Queuing>) -> LevelSpec {
        LevelSpec {
            name: name.to_owned(),
            uid: String::new(),
            exempt: name == "exempt",
            shares,
            lendable_percent: 0,
            borrowing_percent: Some(0),
            queuing,
        }
    }

    const QUEUES: Option<Queuing> = Some(Queuing { queues: 64, hand: 6, length: 50 });

    fn core(levels: Vec<LevelSpec>, total: u32) -> Core<u64> {
        let mut core = Core::new(total);
        assert!(core.configure(levels, 0).is_empty());
        core
    }

    /// A server in virtual time: each request takes its time, flows keep so many requests under way.
    struct World {
        core: Core<u64>,
        now: u64,
        /// Requests that end, by time.
        ends: BTreeMap<(u64, u64), (Running, usize)>,
        arrived: BTreeMap<u64, (usize, u64)>,
        waits: Vec<Vec<u64>>,
        next: u64,
    }

    impl World {
        fn new(core: Core<u64>, flows: usize) -> Self {
            let (ends, arrived) = (BTreeMap::new(), BTreeMap::new());
            Self { core, now: 0, ends, arrived, waits: vec![Vec::new(); flows], next: 0 }
        }

        fn send(&mut self, flow: usize, seats: u32, took: u64) -> bool {
            self.next += 1;
            let id = self.next;
            self.arrived.insert(id, (flow, took));
            let hash = (flow as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let now = self.now;
            match self.core.arrive(0, hash, seats, now, || id) {
                Arrival::Runs(running) => self.run(id, now, running),
                Arrival::Waits(_) => {}
                Arrival::Refused(_) => return false,
            }
            self.check();
            true
        }

        fn run(&mut self, id: u64, arrived: u64, running: Running) {
            let (flow, took) = self.arrived[&id];
            self.waits[flow].push(self.now - arrived);
            self.ends.insert((self.now + took, id), (running, flow));
        }

        /// Goes to the next end; the flow whose request it was.
        fn step(&mut self) -> Option<usize> {
            let ((at, _), (running, flow)) = self.ends.pop_first()?;
            self.now = at;
            for (id, running) in self.core.finish(&running, 0.0, at) {
                let (flow, took) = self.arrived[&id];
                self.waits[flow].push(1);
                self.ends.insert((at + took, id), (running, flow));
            }
            self.check();
            Some(flow)
        }

        /// Seats are conserved, and never more than there are but for one wide request alone.
        fn check(&self) {
            let level = &self.core.levels[0];
            let running: u32 = self.ends.values().map(|(running, _)| running.seats).sum();
            assert_eq!(level.executing as usize, self.ends.len());
            // The one that is being stepped out of is finished already.
            assert_eq!(level.seats_in_use, running);
            assert!(running <= level.seats.current || self.ends.len() == 1, "{running} of {}", level.seats.current);
        }
    }

    #[test]
    fn an_elephant_does_not_delay_a_mouse() {
        let mut world = World::new(core(vec![level("a", 10, QUEUES)], 10), 2);
        // The elephant always has 200 requests under way, the mouse one after another.
        for _ in 0..200 {
            assert!(world.send(0, 1, 10 * MILLI));
        }
        let (mut sent, mut longest) = (0, 0);
        let mut mouse_since = None;
        for _ in 0..20_000 {
            let before = world.waits[1].len();
            match world.step().unwrap() {
                0 => drop(world.send(0, 1, 10 * MILLI)),
                _ => mouse_since = None,
            }
            if mouse_since.is_none() && sent < 200 {
                world.send(1, 1, 10 * MILLI);
                sent += 1;
                mouse_since = Some(world.now);
            }
            if world.waits[1].len() > before {
                longest = longest.max(world.now - mouse_since.unwrap_or(world.now));
            }
        }
        assert_eq!(world.waits[1].len(), 200, "none of the mouse's requests is lost");
        assert!(longest <= 11 * MILLI, "the mouse waits for one end at most: {longest}");
    }

    #[test]
    fn nobody_starves_and_wide_requests_get_their_turn() {
        let mut world = World::new(core(vec![level("a", 10, QUEUES)], 10), 9);
        for flow in 0..8 {
            for _ in 0..20 {
                assert!(world.send(flow, 1 + u32::try_from(flow).unwrap() % 3, 5 * MILLI));
            }
        }
        assert!(world.send(8, 40, 5 * MILLI), "wider than all there is");
        while world.step().is_some() {}
        let done: Vec<usize> = world.waits.iter().map(Vec::len).collect();
        assert_eq!(done, [20, 20, 20, 20, 20, 20, 20, 20, 1]);
        assert!(world.core.levels[0].is_idle() && world.core.levels[0].seats_in_use == 0);
    }

    #[test]
    fn flows_get_equal_shares_of_seats_whatever_their_widths() {
        let mut world = World::new(core(vec![level("a", 12, QUEUES)], 12), 2);
        for _ in 0..40 {
            world.send(0, 1, 10 * MILLI);
            world.send(1, 4, 10 * MILLI);
        }
        let mut work = [0_u32; 2];
        for _ in 0..4_000 {
            let flow = world.step().unwrap();
            work[flow] += [1, 4][flow];
            world.send(flow, [1, 4][flow], 10 * MILLI);
        }
        let ratio = f64::from(work[0]) / f64::from(work[1]);
        assert!((0.7..1.4).contains(&ratio), "{work:?}");
    }

    #[test]
    fn levels_refuse_queue_and_let_pass_as_they_are_told() {
        let short = Some(Queuing { queues: 1, hand: 1, length: 1 });
        let mut core = core(vec![level("q", 1, short), level("r", 1, None), level("exempt", 0, None)], 2);
        let [q, r, e] = ["q", "r", "exempt"].map(|name| core.place(name).unwrap());
        let runs = |arrival| match arrival {
            Arrival::Runs(running) => running,
            other => panic!("{other:?}"),
        };
        let first = runs(core.arrive(q, 1, 1, 0, || 1));
        let Arrival::Waits(ticket) = core.arrive(q, 1, 1, 0, || 2) else { panic!("it waits") };
        assert!(matches!(core.arrive(q, 1, 1, 0, || 3), Arrival::Refused(Refused::QueueFull)));
        let only = runs(core.arrive(r, 1, 1, 0, || 4));
        assert!(matches!(core.arrive(r, 1, 1, 0, || 5), Arrival::Refused(Refused::ConcurrencyLimit)));
        let many: Vec<Running> = (0..100).map(|id| runs(core.arrive(e, 1, 1, 0, || id))).collect();
        assert!(core.withdraw(q, ticket, true, 5) && !core.withdraw(q, ticket, true, 5));
        let Arrival::Waits(_) = core.arrive(q, 1, 1, 5, || 6) else { panic!("there is room again") };
        let started = core.finish(&first, 0.0, 6);
        assert_eq!(started.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [6]);
        assert!(core.finish(&only, 0.0, 6).is_empty());
        many.iter().for_each(|running| drop(core.finish(running, 0.0, 6)));
        assert_eq!((core.levels[q].counts.timed_out, core.levels[r].counts.rejected), (1, 1));
        assert!(core.levels[e].is_idle() && core.levels[r].is_idle());
    }

    #[test]
    fn levels_change_their_shape_under_way() {
        let mut core = core(vec![level("a", 1, QUEUES)], 1);
        let Arrival::Runs(running) = core.arrive(0, 1, 1, 0, || 0) else { panic!("it runs") };
        for id in 1..=5 {
            assert!(matches!(core.arrive(0, id, 1, 0, || id), Arrival::Waits(_)));
        }
        assert!(core.configure(vec![level("b", 1, QUEUES)], 1).is_empty());
        assert!(core.place("a").is_none() && core.levels[0].leaving);
        let back = level("a", 1, Some(Queuing { queues: 2, hand: 1, length: 50 }));
        assert!(core.configure(vec![back], 2).is_empty());
        let (mut served, mut next) = (Vec::new(), vec![running]);
        while let Some(running) = next.pop() {
            for (id, running) in core.finish(&running, 0.0, 3) {
                served.push(id);
                next.push(running);
            }
        }
        served.sort_unstable();
        assert_eq!(served, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_a_level_does_not_need_is_lent() {
        let lending = |name: &str, lendable_percent| LevelSpec {
            lendable_percent,
            borrowing_percent: None,
            ..level(name, 50, QUEUES)
        };
        let mut core = core(vec![lending("lender", 80), lending("borrower", 0)], 100);
        let second = 1_000_000_000;
        let arrive = |core: &mut Core<u64>, at: usize, now: u64| core.arrive(at, now, 1, now, || 0);
        let runs = |core: &Core<u64>| (core.levels[0].executing, core.levels[1].executing);
        for turn in 0..60 {
            let _ = arrive(&mut core, 1, turn);
        }
        assert_eq!(runs(&core), (0, 50));
        let _ = arrive(&mut core, 1, 2 * second);
        let current = core.levels[1].seats.current;
        assert!((80..=90).contains(&current), "{current}");
    }
}
