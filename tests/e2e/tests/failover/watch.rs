//! A watch that outlives machines: it goes on at another one from where it was, and where history is gone it lists and
//! watches anew, as every client does.

use crate::record::{Run, is_end, read, version};
use anyhow::{Context, bail, ensure};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    thread::sleep,
    time::{Duration, Instant},
};
use timonel_faults::State;
use timonel_harness::Door;

/// Time for a connection, for an answer, and for everything.
const CONNECT: Duration = Duration::from_millis(400);
const ANSWER: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// One change that was told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    pub(crate) version: u64,
    pub(crate) key: u64,
    pub(crate) state: State,
}

/// What a watch told.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    pub(crate) events: Vec<Told>,
    /// Between these versions it began anew.
    pub(crate) skipped: Vec<(u64, u64)>,
    /// What is there, as far as it was told.
    pub(crate) states: BTreeMap<u64, u64>,
    at: u64,
}

/// How a connection of a watch ended.
enum End {
    /// It told the last change.
    Whole,
    /// History is gone.
    Expired,
}

/// Watches through the machine at `at`, or another, until the run ends.
pub(crate) fn watch(run: &Run, doors: &[Door], mut at: usize) -> anyhow::Result<Watched> {
    let mut watched = Watched::default();
    let limit = Instant::now() + PATIENCE;
    let mut expired = true;
    while Instant::now() < limit {
        let ended = if expired { list(run, &doors[at], &mut watched) } else { follow(run, &doors[at], &mut watched) };
        match ended {
            Ok(Some(End::Whole)) => return Ok(watched),
            Ok(Some(End::Expired)) => expired = true,
            Ok(None) => expired = false,
            // The other machine goes on.
            Err(_) => at = (at + 1) % doors.len(),
        }
        sleep(PAUSE);
    }
    bail!("a watch has not seen the end")
}

/// Lists: what is there now stands for everything since the last change that was told.
fn list(run: &Run, door: &Door, watched: &mut Watched) -> anyhow::Result<Option<End>> {
    let mut line = door.open_within(CONNECT)?;
    line.patience(ANSWER)?;
    let reply = line.ask("GET", &run.path, "", b"")?;
    ensure!(reply.status == 200, "{}", reply.status);
    let list = reply.json();
    let newest = version(&list).context("no version")?;
    let found: BTreeMap<u64, (u64, u64)> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(read)
        .map(|(key, value, version)| (key, (value, version)))
        .collect();
    let mut news: Vec<Told> = found
        .iter()
        .filter(|(_, (_, version))| *version > watched.at)
        .map(|(key, (value, version))| Told { version: *version, key: *key, state: Some(*value) })
        .collect();
    news.sort_by_key(|told| told.version);
    watched.events.extend(news);
    watched.skipped.push((watched.at, newest));
    watched.states = found.into_iter().map(|(key, (value, _))| (key, value)).collect();
    watched.at = newest;
    Ok(list["items"].as_array().is_some_and(|items| items.iter().any(is_end)).then_some(End::Whole))
}

impl Watched {
    /// Takes an event as it comes: whether it may is judged at the end.
    fn tell(&mut self, event: &Value) -> anyhow::Result<Option<End>> {
        let object = &event["object"];
        let kind = event["type"].as_str().unwrap_or_default();
        if kind == "ERROR" {
            return Ok(Some(End::Expired));
        }
        let at = version(object).context("no version")?;
        self.at = self.at.max(at);
        if is_end(object) {
            return Ok(Some(End::Whole));
        }
        let Some((key, value, version)) = read(object).filter(|_| kind != "BOOKMARK") else { return Ok(None) };
        let state = (kind != "DELETED").then_some(value);
        match state {
            Some(value) => self.states.insert(key, value),
            None => self.states.remove(&key),
        };
        self.events.push(Told { version, key, state });
        Ok(None)
    }
}

fn follow(run: &Run, door: &Door, watched: &mut Watched) -> anyhow::Result<Option<End>> {
    let mut line = door.open_within(CONNECT)?;
    line.patience(ANSWER)?;
    let path = format!("{}?watch=1&allowWatchBookmarks=true&resourceVersion={}", run.path, watched.at);
    line.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())?;
    let status = line.head()?;
    if status == 410 {
        return Ok(Some(End::Expired));
    }
    ensure!(status == 200, "{status}");
    let mut text = Vec::new();
    loop {
        let chunk = line.chunk()?;
        ensure!(!chunk.is_empty(), "the watch ended");
        text.extend(chunk);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let event: Value = serde_json::from_slice(&text[..end])?;
            text.drain(..=end);
            if let Some(end) = watched.tell(&event)? {
                return Ok(Some(end));
            }
        }
    }
}
