//! Clients that read and write through whichever machine answers, and record every call.

use crate::record::{KEYS, Run, name, read};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    thread::sleep,
    time::{Duration, Instant},
};
use timonel_faults::Kind;
use timonel_harness::{Door, Line, Reply};
use timonel_runtime::Entropy;

/// Time for a connection, as a load balancer would give it before it takes another machine.
const CONNECT: Duration = Duration::from_millis(400);
/// Time for an answer.
const ANSWER: Duration = Duration::from_secs(6);
/// A machine that gave no connection is left alone for so long.
const SHUN: Duration = Duration::from_secs(1);
/// Longest pause between two calls, in microseconds.
const PAUSE_US: u64 = 12_000;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Read,
    Write,
}

/// Why there was no answer.
enum Silence {
    /// Nothing was sent.
    Unsent,
    /// It was, and nobody knows what became of it.
    Lost,
}

pub(crate) struct Client<'a> {
    run: &'a Run,
    doors: &'a [Door],
    entropy: Entropy,
    way: Way,
    lines: Vec<Option<Line>>,
    shunned: Vec<Option<Instant>>,
    /// Value and resource version of keys, as seen last.
    known: BTreeMap<u64, Option<(u64, u64)>>,
    answered: Instant,
    longest: Duration,
}

impl<'a> Client<'a> {
    pub(crate) fn new(run: &'a Run, doors: &'a [Door], entropy: Entropy, way: Way) -> Self {
        let (lines, shunned) = (doors.iter().map(|_| None).collect(), doors.iter().map(|_| None).collect());
        let (known, answered, longest) = (BTreeMap::new(), Instant::now(), Duration::ZERO);
        Self { run, doors, entropy, way, lines, shunned, known, answered, longest }
    }

    /// Calls until the run stops, and once more; the longest time between two answers.
    pub(crate) fn work(mut self) -> (Way, Duration) {
        self.answered = Instant::now();
        loop {
            let last = !self.run.goes_on();
            let answered = match self.way {
                Way::Read => self.look(),
                Way::Write => self.change(),
            };
            if answered {
                self.longest = self.longest.max(self.answered.elapsed());
                self.answered = Instant::now();
                if last {
                    return (self.way, self.longest);
                }
            }
            assert!(self.answered.elapsed() < Duration::from_secs(60), "no answer in a minute");
            sleep(Duration::from_micros(self.entropy.below(PAUSE_US)));
        }
    }

    /// Reads a key or all of them; whether it was answered.
    fn look(&mut self) -> bool {
        let start = self.run.now();
        if self.entropy.below(8) == 0 {
            return match self.ask("GET", &self.run.path, "", &Value::Null) {
                Ok(reply) if reply.status == 200 => {
                    self.run.listed(&reply.json(), start);
                    true
                }
                _ => false,
            };
        }
        let key = self.entropy.below(KEYS);
        self.get(key)
    }

    fn get(&mut self, key: u64) -> bool {
        let start = self.run.now();
        let path = format!("{}/{}", self.run.path, name(key));
        let found = match self.ask("GET", &path, "", &Value::Null) {
            Ok(reply) if reply.status == 200 => read(&reply.json()).map(|(_, value, version)| (value, version)),
            Ok(reply) if reply.status == 404 => None,
            _ => return false,
        };
        self.run.record(key, start, true, Kind::Read(found.map(|(value, _)| value)));
        self.known.insert(key, found);
        true
    }

    /// Changes a key; whether that was answered.
    fn change(&mut self) -> bool {
        let key = self.entropy.below(KEYS);
        let Some(known) = self.known.remove(&key) else {
            // Writers read what they change, but only writes count for them.
            self.get(key);
            return false;
        };
        let new = self.run.value();
        let path = format!("{}/{}", self.run.path, name(key));
        match (known, self.entropy.below(8)) {
            (None, _) => {
                let collection = self.run.path.clone();
                self.swap(key, known, Some(new), "POST", &collection, &object(key, new, None))
            }
            (Some((_, version)), 0) => {
                let body = json!({"preconditions": {"resourceVersion": version.to_string()}});
                self.swap(key, known, None, "DELETE", &path, &body)
            }
            (Some(_), 1) => self.put(key, new, &path),
            (Some((_, version)), _) => self.swap(key, known, Some(new), "PUT", &path, &object(key, new, Some(version))),
        }
    }

    fn swap(
        &mut self,
        key: u64,
        known: Option<(u64, u64)>,
        new: Option<u64>,
        method: &str,
        path: &str,
        body: &Value,
    ) -> bool {
        let (start, expect) = (self.run.now(), known.map(|(value, _)| value));
        let kind = |held| Kind::Swap { expect, new, held };
        let reply = self.ask(method, path, "application/json", body);
        match reply {
            Ok(reply) if matches!(reply.status, 200 | 201) => {
                self.run.record(key, start, true, kind(Some(true)));
                self.acknowledged(key, &reply.json(), new);
                true
            }
            // Another was faster: by a change, or by a deletion.
            Ok(reply) if matches!(reply.status, 404 | 409) => {
                self.run.record(key, start, true, kind(Some(false)));
                true
            }
            // It was not let in.
            Ok(reply) if reply.status == 429 => false,
            Ok(_) | Err(Silence::Lost) => {
                self.run.record(key, start, false, kind(None));
                false
            }
            Err(Silence::Unsent) => false,
        }
    }

    /// Sets without a condition.
    fn put(&mut self, key: u64, new: u64, path: &str) -> bool {
        let start = self.run.now();
        let reply = self.ask("PATCH", path, "application/merge-patch+json", &object(key, new, None));
        match reply {
            Ok(reply) if reply.status == 200 => {
                self.run.record(key, start, true, Kind::Put(new));
                self.acknowledged(key, &reply.json(), Some(new));
                true
            }
            Ok(reply) if reply.status == 404 => {
                self.run.record(key, start, true, Kind::Read(None));
                true
            }
            Ok(reply) if reply.status == 429 => false,
            Ok(_) | Err(Silence::Lost) => {
                self.run.record(key, start, false, Kind::Put(new));
                false
            }
            Err(Silence::Unsent) => false,
        }
    }

    fn acknowledged(&mut self, key: u64, object: &Value, new: Option<u64>) {
        match (new, read(object)) {
            (Some(new), Some((_, value, version))) => {
                assert_eq!(value, new, "the answer shows what was written");
                self.run.acknowledge(version, key, value);
                self.known.insert(key, Some((value, version)));
            }
            _ => drop(self.known.insert(key, None)),
        }
    }

    /// Asks one machine, and where it gives no connection the other.
    fn ask(&mut self, method: &str, path: &str, kind: &str, body: &Value) -> Result<Reply, Silence> {
        let first = self.entropy.below(self.doors.len() as u64) as usize;
        let order: Vec<usize> = (0..self.doors.len()).map(|step| (first + step) % self.doors.len()).collect();
        let fresh = |at: &usize| self.shunned[*at].is_none_or(|since| since.elapsed() > SHUN);
        let (good, bad): (Vec<usize>, Vec<usize>) = order.into_iter().partition(fresh);
        for at in good.into_iter().chain(bad) {
            let mut line = match self.lines[at].take() {
                Some(line) => line,
                None => match self.doors[at].open_within(CONNECT).and_then(|line| Ok((line.patience(ANSWER)?, line))) {
                    Ok(((), line)) => {
                        self.shunned[at] = None;
                        line
                    }
                    Err(_) => {
                        self.shunned[at] = Some(Instant::now());
                        continue;
                    }
                },
            };
            let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
            // Whatever is not answered may have been done: it is not sent again.
            let reply = line.ask(method, path, kind, &body).map_err(|_| Silence::Lost)?;
            self.lines[at] = Some(line);
            return Ok(reply);
        }
        Err(Silence::Unsent)
    }
}

fn object(key: u64, value: u64, version: Option<u64>) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name(key)}, "data": {"value": value.to_string()}});
    if let Some(version) = version {
        object["metadata"]["resourceVersion"] = json!(version.to_string());
    }
    object
}
