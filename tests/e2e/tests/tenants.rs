//! Two clusters in one process: one is flooded with everything at once, the other is measured. Ratios are generous:
//! what is asked is that nobody is starved and nothing grows without a bound; the benchmarks have the figures.

#![allow(clippy::disallowed_methods, reason = "a test joins the threads that it starts, and these may wait")]

use anyhow::{Context, ensure};
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use timonel_harness::{Door, Plane};

/// Requests of one measurement.
const SAMPLES: usize = 60;
/// Longest flood.
const FLOOD: Duration = Duration::from_secs(40);
/// Threads that write, and objects that one of them writes at most.
const WRITERS: usize = 12;
const WRITES: usize = 2_000;
/// Threads that list everything again and again, and lists of one.
const LISTERS: usize = 6;
const LISTS: usize = 400;
/// Watches that are opened and never read, and connections that are opened and never used.
const WATCHES: usize = 100;
const IDLE: usize = 1_500;
/// Bytes of one object.
const OBJECT_BYTES: usize = 8 << 10;
/// The other cluster's median may grow to so many times what it was, or to this, whichever is more.
const RATIO: u32 = 60;
const FLOOR: Duration = Duration::from_millis(1_500);
/// Memory that the flood may cost, KiB.
const MEMORY: u64 = 1_500 << 10;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[test]
fn a_flood_of_one_cluster_is_not_felt_in_the_other() {
    let plane = match Plane::prepare() {
        Ok(plane) => plane,
        Err(lacking) => {
            eprintln!("skipped: {}", lacking.0);
            return;
        }
    };
    plane.up("a").expect("up");
    plane.timonel(&["cluster", "create", "b", "--wait"]).expect("second cluster");
    let (a, b) = (plane.door("a").expect("a"), plane.door("b").expect("b"));
    let calm = measure(&b, "calm").expect("calm");
    let memory = plane.memory().expect("memory");
    let flood = Flood::start(&a);
    flood.wait_until_it_runs().expect("the flood runs");
    let stormy = measure(&b, "stormy").expect("stormy");
    let grown = plane.memory().expect("memory").saturating_sub(memory);
    let done = flood.stop();
    eprintln!("b's write: {calm:?} calm, {stormy:?} while {done}; {} MiB more", grown >> 10);
    assert!(stormy <= (calm * RATIO).max(FLOOR), "{stormy:?} instead of {calm:?}");
    assert!(grown < MEMORY, "{} MiB", grown >> 10);
    // What was flooded lives, and what it holds is nowhere else.
    let kept = a.ask("GET", &format!("{MAPS}?limit=1&labelSelector=flood"), "", b"").expect("a answers");
    assert_eq!((kept.status, kept.json()["items"].as_array().map(Vec::len)), (200, Some(1)));
    let other = b.ask("GET", &format!("{MAPS}?labelSelector=flood"), "", b"").expect("b answers");
    assert_eq!((other.status, other.json()["items"].as_array().map(Vec::len)), (200, Some(0)));
    measure(&a, "after").expect("a is as good as new");
}

/// Median time of a write and a read of what was written; each must succeed.
fn measure(door: &Door, name: &str) -> anyhow::Result<Duration> {
    let mut line = door.open()?;
    let mut times = Vec::with_capacity(SAMPLES);
    for n in 0..SAMPLES {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("{name}-{n}")}, "data": {"n": n.to_string()}});
        let started = Instant::now();
        let made = line.ask("POST", MAPS, "application/json", object.to_string().as_bytes())?;
        ensure!(made.status == 201, "{}: {}", made.status, made.text());
        let read = line.ask("GET", &format!("{MAPS}/{name}-{n}"), "", b"")?;
        ensure!(
            read.status == 200 && read.json()["data"]["n"].as_str() == Some(n.to_string().as_str()),
            "{}",
            read.text()
        );
        times.push(started.elapsed());
    }
    times.sort();
    Ok(times[SAMPLES / 2])
}

struct Flood {
    stop: Arc<AtomicBool>,
    wrote: Arc<AtomicUsize>,
    listed: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    fn start(door: &Door) -> Self {
        let (stop, wrote, listed) = (Arc::default(), Arc::default(), Arc::default());
        let mut flood = Self { stop, wrote, listed, threads: Vec::new() };
        for n in 0..WRITERS {
            let wrote = flood.wrote.clone();
            flood.spawn(door, WRITES, move |line, round| {
                let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": format!("flood-{n}-{round}"), "labels": {"flood": "1"}},
                    "data": {"x": "x".repeat(OBJECT_BYTES)}});
                // An answer that says "too many" is as good: the flood goes on.
                line.ask("POST", MAPS, "application/json", object.to_string().as_bytes())?;
                wrote.fetch_add(1, Ordering::Relaxed);
                Ok(())
            });
        }
        for _ in 0..LISTERS {
            let listed = flood.listed.clone();
            flood.spawn(door, LISTS, move |line, _| {
                line.ask("GET", MAPS, "", b"")?;
                listed.fetch_add(1, Ordering::Relaxed);
                Ok(())
            });
        }
        let (door, stop) = (door.clone(), flood.stop.clone());
        flood.threads.push(std::thread::spawn(move || hold(&door, &stop)));
        flood
    }

    fn spawn(
        &mut self,
        door: &Door,
        rounds: usize,
        mut work: impl FnMut(&mut timonel_harness::Line, usize) -> anyhow::Result<()> + Send + 'static,
    ) {
        let (door, stop, end) = (door.clone(), self.stop.clone(), Instant::now() + FLOOD);
        self.threads.push(std::thread::spawn(move || {
            let mut line = None;
            for round in 0..rounds {
                if stop.load(Ordering::Relaxed) || Instant::now() > end {
                    return;
                }
                let open = match line.take() {
                    Some(open) => Ok(open),
                    None => door.open(),
                };
                // A connection that was cut is opened again: who floods is not polite.
                line = open.ok().and_then(|mut open| work(&mut open, round).ok().map(|()| open));
            }
        }));
    }

    fn wait_until_it_runs(&self) -> anyhow::Result<()> {
        timonel_harness::eventually("writes and lists", 60, || {
            let (wrote, listed) = (self.wrote.load(Ordering::Relaxed), self.listed.load(Ordering::Relaxed));
            ensure!(wrote > 100 && listed > 2, "{wrote} writes, {listed} lists");
            Ok(())
        })
    }

    fn stop(self) -> String {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a thread of the flood");
        }
        let (wrote, listed) = (self.wrote.load(Ordering::Relaxed), self.listed.load(Ordering::Relaxed));
        format!("a had {wrote} writes, {listed} lists, {WATCHES} stuck watches, {IDLE} idle connections")
    }
}

/// Opens watches that nobody reads and connections that nobody uses, and keeps them.
fn hold(door: &Door, stop: &AtomicBool) {
    let mut held = Vec::new();
    for n in 0..WATCHES + IDLE {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let Ok(mut line) = door.open() else { continue };
        if n < WATCHES {
            let request = format!("GET {MAPS}?watch=1&resourceVersion=0 HTTP/1.1\r\nhost: x\r\n\r\n");
            if line.send(request.as_bytes()).is_err() {
                continue;
            }
        }
        held.push(line);
    }
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_cluster_that_goes_takes_nothing_of_another_with_it() {
    let Ok(plane) = Plane::prepare() else {
        eprintln!("skipped: TIMONEL_BIN is not set");
        return;
    };
    plane.up("a").expect("up");
    plane.timonel(&["cluster", "create", "b", "--wait"]).expect("second cluster");
    let (a, b) = (plane.door("a").expect("a"), plane.door("b").expect("b"));
    let mut watch = b.open().expect("a watch");
    let request = "GET /api/v1/namespaces?watch=1 HTTP/1.1\r\nhost: x\r\n\r\n";
    watch.send(request.as_bytes()).expect("sent");
    plane.timonel(&["cluster", "delete", "a", "--wait"]).expect("deleted");
    assert!(a.ask("GET", "/version", "", b"").is_err(), "nobody answers on the port of what is gone");
    measure(&b, "alone").context("the other cluster").expect("b");
}
