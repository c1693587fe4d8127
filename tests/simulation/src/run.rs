//! One run: a storm, and then the calm in which everything has to come right.

use crate::{chance::Chance, chaos::Chaos, invariants, invariants::settled, world::World};
use std::time::Duration;

/// Virtual time between two looks.
const STEP: Duration = Duration::from_secs(1);
/// Virtual seconds before the storm.
const CALM_BEFORE: u64 = 8;
/// Virtual seconds of storm.
const STORM: (u64, u64) = (40, 110);
/// Virtual seconds in which everything has to come right: more than evictions, detachments and backoffs take.
const CALM_AFTER: u64 = 900;
/// Virtual seconds for which it then has to stay right.
const STAYS: u64 = 30;
/// Machines.
const SIZE: (u64, u64) = (3, 5);

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Stands for everything that happened, in order.
    pub digest: u64,
    /// How many things happened.
    pub events: u64,
    /// What did not hold; empty when all was well.
    pub violations: Vec<String>,
    /// The last things that happened.
    pub last: Vec<String>,
    /// Virtual time from the end of the storm until everything was right.
    pub settled_in: Duration,
}

/// Runs the simulation of `seed`.
///
/// # Panics
/// When the system refuses a runtime.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime of one thread can be made").block_on(Box::pin(simulate(seed)))
}

async fn simulate(seed: u64) -> Outcome {
    let chance = Chance::new(seed, "run");
    let mut world = World::new(seed, chance.between(SIZE.0, SIZE.1)).await;
    let (user, mut chaos) = (world.user(), Chaos::new(seed));
    let storm = chance.between(STORM.0, STORM.1);
    let mut settled_in = Duration::ZERO;
    for second in 0..CALM_BEFORE + storm {
        tokio::time::sleep(STEP).await;
        world.network.storm(second >= CALM_BEFORE);
        chaos.mend(&mut world, false).await;
        if second >= CALM_BEFORE && chance.once_in(9) {
            chaos.strike(&mut world).await;
        }
        if second >= CALM_BEFORE / 2 && chance.once_in(2) {
            let now = world.snapshot.lock().clone();
            user.act(&now).await;
        }
        if !is_well(&world) {
            break;
        }
    }
    world.network.storm(false);
    chaos.mend(&mut world, true).await;
    if is_well(&world) {
        let now = world.snapshot.lock().clone();
        user.uncordon(&now).await;
        settled_in = settle(&world).await;
    }
    if !world.end().await {
        world.trace.violated("tasks outlive their scope".to_owned());
    }
    let (digest, events) = world.trace.digest();
    let (violations, last) = (world.trace.violations(), world.trace.last());
    Outcome { seed, digest, events, violations, last, settled_in }
}

/// Checks the machines; says whether nothing was violated so far.
fn is_well(world: &World) -> bool {
    for what in invariants::machines(&world.sight.running(), &world.sight.cloud()) {
        world.trace.violated(what);
    }
    world.trace.violations().is_empty()
}

/// Waits until everything is right and stays so; returns how long the first took.
async fn settle(world: &World) -> Duration {
    let start = tokio::time::Instant::now();
    let mut left = vec![String::new()];
    while !left.is_empty() && start.elapsed() < Duration::from_secs(CALM_AFTER) && is_well(world) {
        tokio::time::sleep(STEP).await;
        left = what_is_left(world);
    }
    let took = start.elapsed();
    left.into_iter().for_each(|what| world.trace.violated(format!("not settled: {what}")));
    if is_well(world) {
        tokio::time::sleep(Duration::from_secs(STAYS)).await;
        what_is_left(world).into_iter().for_each(|what| world.trace.violated(format!("not stable: {what}")));
    }
    took
}

fn what_is_left(world: &World) -> Vec<String> {
    settled(&world.snapshot.lock(), &world.sight.cloud(), &world.sight.nodes())
}
