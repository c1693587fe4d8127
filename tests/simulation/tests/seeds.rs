//! The simulation of many seeds. `TIMONEL_SEED` runs one, `TIMONEL_SEEDS` says how many; logs only with `TIMONEL_LOG`.

use std::fmt::Write as _;
use timonel_simulation::{Outcome, run};

/// Seeds of an ordinary run.
const SEEDS: u64 = 200;
/// Tests that share them, so that every processor has some.
const PARTS: u64 = 4;
/// Lines of the trace that a failure prints.
const LINES: usize = 200;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn report(outcome: &Outcome) -> String {
    let mut text = format!("seed {} after {} events:\n", outcome.seed, outcome.events);
    for violation in &outcome.violations {
        let _ = writeln!(text, "  {violation}");
    }
    let lines = number("TIMONEL_LINES").and_then(|lines| lines.try_into().ok()).unwrap_or(LINES);
    for line in &outcome.last[outcome.last.len().saturating_sub(lines)..] {
        let _ = writeln!(text, "    {line}");
    }
    let _ = write!(text, "again: TIMONEL_SEED={} cargo test -p timonel-simulation --test seeds", outcome.seed);
    text
}

fn log() {
    if std::env::var_os("TIMONEL_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_env("TIMONEL_LOG");
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    }
}

/// Runs one part of the seeds; the first part alone runs a single one that is asked for.
fn storms(part: u64) {
    log();
    let seeds: Vec<u64> = match number("TIMONEL_SEED") {
        Some(seed) => (part == 0).then_some(seed).into_iter().collect(),
        None => {
            let first = number("TIMONEL_FIRST").unwrap_or(0);
            (first..first + number("TIMONEL_SEEDS").unwrap_or(SEEDS)).filter(|seed| seed % PARTS == part).collect()
        }
    };
    let mut failed = Vec::new();
    for seed in seeds {
        let outcome = run(seed);
        println!("seed {seed}: {} events, settled in {:?}", outcome.events, outcome.settled_in);
        if !outcome.violations.is_empty() {
            println!("{}", report(&outcome));
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}

#[test]
fn clusters_survive_storms_0() {
    storms(0);
}

#[test]
fn clusters_survive_storms_1() {
    storms(1);
}

#[test]
fn clusters_survive_storms_2() {
    storms(2);
}

#[test]
fn clusters_survive_storms_3() {
    storms(3);
}

#[test]
fn a_seed_gives_its_run_again() {
    for seed in [1, 2] {
        let (first, second) = (run(seed), run(seed));
        let differs = first.last.iter().zip(&second.last).position(|(a, b)| a != b);
        let around = differs.map(|at| {
            let from = at.saturating_sub(5);
            let lines = |last: &[String]| last[from..(at + 3).min(last.len())].join("\n");
            format!("{}\n--- or ---\n{}", lines(&first.last), lines(&second.last))
        });
        assert_eq!((first.digest, first.events), (second.digest, second.events), "{}", around.unwrap_or_default());
    }
    assert_ne!(run(1).digest, run(2).digest);
}
