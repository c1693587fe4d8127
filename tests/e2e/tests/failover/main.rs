//! Three etcd members and two control machines, one of the five killed without a word after the other while clients
//! read, write and watch through both machines, as behind a load balancer. What was acknowledged is there, every answer
//! fits one order of all calls, watches tell each change once and in order, and no client waits long.
//!
//! `TIMONEL_FAILOVER_RUNS` runs from seed `TIMONEL_FAILOVER_SEED` on, with `TIMONEL_FAILOVER_KILLS` kills each; no client
//! may wait longer than `TIMONEL_FAILOVER_GAP_MS`. A line with the result goes to the end of the file that
//! `TIMONEL_FAILOVER_RESULTS` names.

#![allow(clippy::disallowed_methods, reason = "a test's own threads wait for other processes")]

mod clients;
mod record;
mod watch;

use anyhow::{Context, ensure};
use clients::{Client, Way};
use record::Run;
use serde_json::json;
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    thread::{scope, sleep},
    time::{Duration, Instant},
};
use timonel_faults::Etcd;
use timonel_harness::{ControlMachine, Door, eventually};
use timonel_runtime::Entropy;
use watch::watch;

const MEMBERS: usize = 3;
const MACHINES: usize = 2;
const READERS: u64 = 4;
const WRITERS: u64 = 4;
const CLUSTER: &str = "demo";
/// Seconds for anything to start on a machine that does other things too.
const PATIENCE: u64 = 120;
/// Without `TIMONEL_FAILOVER_GAP_MS`: a busy machine starts and schedules slowly.
const GAP_MS: u64 = 15_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Everything that can be killed.
struct Service {
    etcd: Etcd,
    machines: Vec<ControlMachine>,
    doors: Vec<Door>,
}

impl Service {
    fn start() -> Result<anyhow::Result<Self>, timonel_harness::Lacking> {
        let lacking = |error: std::io::Error| timonel_harness::Lacking(format!("etcd: {error}"));
        let etcd = Etcd::start(MEMBERS).map_err(lacking)?;
        let members: Vec<_> = etcd.ports().iter().map(|port| format!("127.0.0.1:{port}")).collect();
        // Several of these tests may run side by side: each has addresses of its own.
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let mut machines = Vec::new();
        for at in 0..MACHINES {
            // Each machine begins with another member.
            let mut members = members.clone();
            members.rotate_left(at);
            let address = Ipv4Addr::new(127, 1 + high % 100, low, 1 + at as u8);
            machines.push(ControlMachine::prepare(address, &format!("etcd://{}", members.join(",")))?);
        }
        Ok(Self::begin(etcd, machines))
    }

    fn begin(etcd: Etcd, mut machines: Vec<ControlMachine>) -> anyhow::Result<Self> {
        machines.iter_mut().try_for_each(ControlMachine::start)?;
        // The first may still be waiting for etcd's first leader.
        eventually("the fleet answers", PATIENCE, || machines[0].timonel(&["cluster", "list"]))?;
        machines[0].timonel(&["cluster", "create", CLUSTER, "--wait", "--timeout", "120"])?;
        let door = |machine: &ControlMachine| {
            eventually("a machine serves the cluster", PATIENCE, || {
                let door = machine.door(CLUSTER)?;
                ready(&door)?;
                Ok(door)
            })
        };
        let doors = machines.iter().map(door).collect::<anyhow::Result<_>>()?;
        Ok(Self { etcd, machines, doors })
    }

    /// Kills one of all, starts it again after `down`, and returns when it is whole.
    fn strike(&mut self, target: usize, down: Duration) -> anyhow::Result<String> {
        let member = target < MEMBERS;
        if member {
            self.etcd.kill(target);
            sleep(down);
            self.etcd.restart(target)?;
            let port = self.etcd.ports()[target];
            eventually("the member is well again", PATIENCE, || well(port))?;
            return Ok(format!("etcd{target}:{}ms", down.as_millis()));
        }
        let at = target - MEMBERS;
        self.machines[at].kill();
        sleep(down);
        self.machines[at].start()?;
        eventually("the machine is ready again", PATIENCE, || ready(&self.doors[at]))?;
        Ok(format!("control{at}:{}ms", down.as_millis()))
    }
}

fn ready(door: &Door) -> anyhow::Result<()> {
    let answer = door.open_within(Duration::from_secs(2))?.ask("GET", "/readyz", "", b"")?;
    ensure!(answer.status == 200, "{}", answer.text());
    Ok(())
}

/// Whether a member of etcd says that it takes part.
fn well(port: u16) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains("\"true\""), "{answer}");
    Ok(())
}

/// What came of one run.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    calls: usize,
    unknown: u64,
    kills: u64,
    read_gap: Duration,
    write_gap: Duration,
}

fn one_run(service: &mut Service, seed: u64, kills: u64) -> anyhow::Result<Outcome> {
    let entropy = Entropy::seeded(seed);
    let namespace = format!("run-{seed}");
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    let made = service.doors[0].ask("POST", "/api/v1/namespaces", "application/json", object.to_string().as_bytes())?;
    ensure!(made.status == 201, "{}", made.text());
    let run = Run::new(&namespace);
    let doors = service.doors.clone();
    let (told, answers, watched) = scope(|threads| {
        let start = |number: u64, way: Way| {
            let (run, doors, entropy) = (&run, &doors, Entropy::seeded(seed * 1000 + number));
            threads.spawn(move || Client::new(run, doors, entropy, way).work())
        };
        let clients: Vec<_> = (0..READERS)
            .map(|number| start(number, Way::Read))
            .chain((READERS..READERS + WRITERS).map(|number| start(number, Way::Write)))
            .collect();
        let watches: Vec<_> = (0..MACHINES)
            .map(|at| {
                let (run, doors) = (&run, &doors);
                threads.spawn(move || watch(run, doors, at))
            })
            .collect();
        let told = strikes(service, &entropy, kills);
        run.stop();
        let answers: Vec<_> = clients.into_iter().map(|client| client.join().expect("a client")).collect();
        let ended = run.end(&doors[0]);
        let watched: Vec<_> = watches.into_iter().map(|watch| watch.join().expect("a watch")).collect();
        (told.and_then(|told| ended.map(|()| told)), answers, watched)
    });
    let told = told?;
    let gap = |way| answers.iter().filter(|(own, _)| *own == way).map(|(_, gap)| *gap).max().unwrap_or_default();
    for events in watched {
        run.check_watch(&events?).with_context(|| told.join(" "))?;
    }
    let calls = run.check_calls().with_context(|| told.join(" "))?;
    let outcome =
        Outcome { calls, unknown: run.unknown(), kills, read_gap: gap(Way::Read), write_gap: gap(Way::Write) };
    println!(
        "seed {seed}: {calls} calls, {} unknown; longest wait for a read {:?}, a write {:?}; {}",
        outcome.unknown,
        outcome.read_gap,
        outcome.write_gap,
        told.join(" ")
    );
    ensure!(calls > 100, "{calls} calls");
    Ok(outcome)
}

fn strikes(service: &mut Service, entropy: &Entropy, kills: u64) -> anyhow::Result<Vec<String>> {
    let some = |low: u64, high: u64| Duration::from_millis(low + entropy.below(high - low));
    let mut told = Vec::new();
    for _ in 0..kills {
        sleep(some(200, 1_200));
        let target = entropy.below((MEMBERS + MACHINES) as u64) as usize;
        told.push(service.strike(target, some(100, 1_500))?);
    }
    sleep(some(200, 600));
    Ok(told)
}

#[test]
fn any_one_of_them_may_be_killed() {
    let mut service = match Service::start() {
        Ok(service) => service.expect("five processes start"),
        Err(lacking) => {
            eprintln!("skipped: {}", lacking.0);
            return;
        }
    };
    let (runs, seed) = (setting("TIMONEL_FAILOVER_RUNS", 2), setting("TIMONEL_FAILOVER_SEED", 1));
    let bound = Duration::from_millis(setting("TIMONEL_FAILOVER_GAP_MS", GAP_MS));
    let started = Instant::now();
    let (mut good, mut faults) = (Vec::new(), Vec::new());
    for seed in seed..seed + runs {
        match one_run(&mut service, seed, setting("TIMONEL_FAILOVER_KILLS", 3)) {
            Ok(outcome) => good.push(outcome),
            Err(fault) => {
                println!("seed {seed}: VIOLATION {fault:#}");
                faults.push(format!("seed {seed}: {fault:#}"));
            }
        }
    }
    let slow = good.iter().filter(|run| run.read_gap.max(run.write_gap) >= bound).count();
    report(&good, faults.len(), slow, started.elapsed()).expect("results");
    assert!(faults.is_empty(), "{faults:#?}");
    assert_eq!(slow, 0, "runs in which a client waited {bound:?} or longer");
}

/// Says what came of all runs, and writes it where it is wanted.
fn report(good: &[Outcome], violations: usize, slow: usize, took: Duration) -> anyhow::Result<()> {
    let sum = |of: fn(&Outcome) -> u64| good.iter().map(of).sum::<u64>();
    let millis = |of: fn(&Outcome) -> Duration| {
        let mut all: Vec<_> = good.iter().map(|run| of(run).as_millis()).collect();
        all.sort_unstable();
        [all.get(all.len() / 2), all.last()].map(|found| found.copied().unwrap_or_default())
    };
    let ([read_median, read_max], [write_median, write_max]) =
        (millis(|run| run.read_gap), millis(|run| run.write_gap));
    let commit = std::env::var("TIMONEL_FAILOVER_COMMIT").unwrap_or_else(|_| "-".to_owned());
    let line = format!(
        "{commit}\t{}\t{}\t{}\t{}\t{violations}\t{slow}\t{read_median}\t{read_max}\t{write_median}\t{write_max}\t{}",
        good.len() + violations,
        sum(|run| run.kills),
        sum(|run| run.calls as u64),
        sum(|run| run.unknown),
        took.as_secs()
    );
    println!("{line}");
    if let Some(path) = std::env::var_os("TIMONEL_FAILOVER_RESULTS") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        writeln!(file, "{line}")?;
    }
    Ok(())
}
