//! Queues of one priority level: flows are dealt a hand of queues, and the queue that is furthest behind in virtual
//! time goes next. Pure; times are nanoseconds.

use super::share::Queuing;
use std::collections::VecDeque;

/// How long a request is taken to run until it is known, in nanoseconds (upstream's).
const EXPECTED: f64 = 3_000_000.0;

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    pub(super) ticket: u64,
    pub(super) flow: u64,
    pub(super) seats: u32,
    pub(super) arrived: u64,
    pub(super) payload: T,
}

/// One queue.
#[derive(Debug)]
pub(super) struct Queue<T> {
    pub(super) waiting: VecDeque<Waiting<T>>,
    pub(super) executing: u32,
    pub(super) seats_in_use: u32,
    seats_waiting: u32,
    /// The virtual time at which its next request starts, in seat-nanoseconds.
    pub(super) next: f64,
}

impl<T> Queue<T> {
    fn is_active(&self) -> bool {
        self.executing > 0 || !self.waiting.is_empty()
    }
}

/// The queues of a level.
#[derive(Debug)]
pub(super) struct Queues<T> {
    pub(super) shape: Queuing,
    pub(super) all: Vec<Queue<T>>,
    /// The virtual time.
    time: f64,
    at: u64,
    /// The queue that went last: of equals the next one goes.
    last: usize,
    pub(super) length: usize,
    /// Sums over all queues, so that nothing has to look at each: those with work, and seats.
    active: u32,
    seats_in_use: u32,
    seats_waiting: u32,
}

impl<T> Queues<T> {
    pub(super) fn new(shape: Queuing) -> Self {
        let queue = || Queue { waiting: VecDeque::new(), executing: 0, seats_in_use: 0, seats_waiting: 0, next: 0.0 };
        let all = (0..shape.queues).map(|_| queue()).collect();
        Self { shape, all, time: 0.0, at: 0, last: 0, length: 0, active: 0, seats_in_use: 0, seats_waiting: 0 }
    }

    /// Brings the virtual time up to `now`: it passes at the rate at which each active queue is served.
    pub(super) fn advance(&mut self, limit: u32, now: u64) {
        #[expect(clippy::cast_precision_loss, reason = "a difference of times")]
        let passed = now.saturating_sub(self.at) as f64;
        self.at = self.at.max(now);
        if passed <= 0.0 {
            return;
        }
        if self.active > 0 {
            let demand = (self.seats_in_use + self.seats_waiting).min(limit);
            self.time += passed * f64::from(demand) / f64::from(self.active);
        }
    }

    /// Seats of those that wait.
    pub(super) fn seats_waiting(&self) -> u32 {
        self.seats_waiting
    }

    /// Changes a queue, and the sums with it.
    fn change<R>(&mut self, at: usize, change: impl FnOnce(&mut Queue<T>) -> R) -> R {
        let queue = &mut self.all[at];
        let before = (u32::from(queue.is_active()), queue.seats_in_use, queue.seats_waiting);
        let done = change(queue);
        self.active = self.active - before.0 + u32::from(queue.is_active());
        self.seats_in_use = self.seats_in_use - before.1 + queue.seats_in_use;
        self.seats_waiting = self.seats_waiting - before.2 + queue.seats_waiting;
        done
    }

    /// The queue for a flow: of its hand the one with the least work; `None` when even that is full.
    pub(super) fn choose(&self, flow: u64) -> Option<usize> {
        let work = |queue: &Queue<T>| queue.seats_in_use + queue.seats_waiting;
        let dealt = deal(flow, self.shape.queues, self.shape.hand);
        let best = dealt.into_iter().min_by_key(|at| work(&self.all[*at]))?;
        (self.all[best].waiting.len() < self.shape.length).then_some(best)
    }

    /// A queue that gets work after it had none does not go back in time.
    fn wake(&mut self, at: usize) {
        let (time, queue) = (self.time, &mut self.all[at]);
        if !queue.is_active() {
            queue.next = queue.next.max(time);
        }
    }

    pub(super) fn enqueue(&mut self, at: usize, one: Waiting<T>) {
        self.wake(at);
        self.change(at, |queue| {
            queue.seats_waiting += one.seats;
            queue.waiting.push_back(one);
        });
        self.length += 1;
    }

    /// A request of a queue starts without having waited.
    pub(super) fn start(&mut self, at: usize, seats: u32) {
        self.wake(at);
        self.run(at, seats);
    }

    fn run(&mut self, at: usize, seats: u32) {
        self.change(at, |queue| {
            queue.executing += 1;
            queue.seats_in_use += seats;
            queue.next += f64::from(seats) * EXPECTED;
        });
    }

    /// The queue whose turn it is: whose first request would end earliest in virtual time.
    pub(super) fn next(&self) -> Option<usize> {
        let count = self.all.len();
        let order = (1..=count).map(|step| (self.last + step) % count);
        let end = |at: usize| {
            let queue = &self.all[at];
            queue.waiting.front().map(|first| queue.next + f64::from(first.seats) * EXPECTED)
        };
        let ends = order.filter_map(|at| Some((at, end(at)?)));
        ends.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(at, _)| at)
    }

    /// Takes the first request of a queue to start it.
    pub(super) fn dispatch(&mut self, at: usize) -> Option<Waiting<T>> {
        let first = self.change(at, |queue| {
            let first = queue.waiting.pop_front()?;
            queue.seats_waiting -= first.seats;
            Some(first)
        })?;
        self.length -= 1;
        self.last = at;
        self.run(at, first.seats);
        Some(first)
    }

    /// A request has ended; the queue is charged with what it really took.
    pub(super) fn finish(&mut self, at: usize, seats: u32, took: u64, more: f64) {
        // The queues may have become fewer since.
        if at >= self.all.len() {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a difference of times")]
        let took = took as f64;
        self.change(at, |queue| {
            queue.executing = queue.executing.saturating_sub(1);
            queue.seats_in_use = queue.seats_in_use.saturating_sub(seats);
            queue.next += f64::from(seats) * (took - EXPECTED) + more;
        });
    }

    /// Takes a request out that does not wait any longer.
    pub(super) fn withdraw(&mut self, ticket: u64) -> Option<Waiting<T>> {
        let place = |queue: &Queue<T>| queue.waiting.iter().position(|one| one.ticket == ticket);
        let (at, place) = self.all.iter().enumerate().find_map(|(at, queue)| Some((at, place(queue)?)))?;
        self.length -= 1;
        self.change(at, |queue| {
            let one = queue.waiting.remove(place)?;
            queue.seats_waiting -= one.seats;
            Some(one)
        })
    }

    /// Everything that waits, in the order in which it came.
    pub(super) fn drain(&mut self) -> Vec<Waiting<T>> {
        let mut all = Vec::with_capacity(self.length);
        for at in 0..self.all.len() {
            all.extend(self.change(at, |queue| {
                queue.seats_waiting = 0;
                std::mem::take(&mut queue.waiting)
            }));
        }
        all.sort_by_key(|one| one.ticket);
        self.length = 0;
        all
    }
}

/// A hand of different cards from a deck, by a number that stands for the flow.
fn deal(mut flow: u64, deck: usize, hand: usize) -> Vec<usize> {
    let hand = hand.min(deck);
    let mut dealt: Vec<usize> = Vec::with_capacity(hand);
    for taken in 0..hand {
        let left = (deck - taken) as u64;
        let mut card = usize::try_from(flow % left).unwrap_or(0);
        flow /= left;
        // Counted among the cards that are left.
        let mut sorted = dealt.clone();
        sorted.sort_unstable();
        for other in sorted {
            if card >= other {
                card += 1;
            }
        }
        dealt.push(card);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn hands_are_of_different_queues_and_seldom_the_same() {
        let mut hands = BTreeSet::new();
        for flow in 0..1_000_u64 {
            let hand = deal(flow.wrapping_mul(0x9E37_79B9_7F4A_7C15), 128, 6);
            let different: BTreeSet<usize> = hand.iter().copied().collect();
            assert!(different.len() == 6 && different.iter().all(|card| *card < 128), "{hand:?}");
            hands.insert(different);
        }
        assert!(hands.len() > 990);
        assert_eq!(deal(7, 3, 5).len(), 3, "no more cards than there are");
    }

    #[test]
    fn an_idle_queue_saves_nothing_up() {
        let mut queues: Queues<()> = Queues::new(Queuing { queues: 2, hand: 1, length: 9 });
        queues.start(0, 1);
        queues.advance(1, 1_000_000_000);
        queues.finish(0, 1, 1_000_000_000, 0.0);
        queues.start(1, 1);
        assert!(queues.all[1].next >= queues.all[0].next, "the second starts where the first is");
    }
}
