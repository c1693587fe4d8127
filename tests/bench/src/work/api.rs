//! Requests of an API server alone (ours: the fleet's, which has neither scheduler nor controllers beside it, as
//! upstream's has none here): create, patch, get, list, watch, and what is held afterwards.

use super::{Bench, CONNECTIONS, IN_FLIGHT, NAMESPACE, add_run, lines, measured, prepare_namespace};
use crate::{
    client::{Ask, Client, PROTOBUF},
    drive::{Run, all, drive, quantile},
    objects,
    peer::Peer,
    record::Figures,
};
use anyhow::Context;
use futures::future::try_join;
use std::{cell::RefCell, time::Duration};

/// Pods of one creation run; two runs make the list.
const CREATED: usize = 5_000;
const PATCHED: usize = 3_000;
const GOTTEN: usize = 10_000;
/// Lists, and how many at a time.
const LISTED: usize = 20;
const LISTS_IN_FLIGHT: usize = 4;
/// Lists one after the other.
const LISTED_ALONE: usize = 5;
/// Watchers, what they see created, and how the creations are sent.
const WATCHERS: usize = 500;
const WATCHED: usize = 500;
const WATCH_CONNECTIONS: usize = 16;
const WATCHED_IN_FLIGHT: usize = 8;
/// The namespace that is watched.
const WATCH_NAMESPACE: &str = "watched";
/// Longest wait for the last event.
const DELIVERY: Duration = Duration::from_secs(60);

pub(super) async fn run(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let pair = bench.pair().await?;
    let mut clients = Vec::new();
    for peer in &pair.peers {
        let client = peer.connect(CONNECTIONS).await?;
        prepare_namespace(&client, NAMESPACE).await?;
        prepare_namespace(&client, WATCH_NAMESPACE).await?;
        clients.push((peer, client));
    }
    for prefix in ["a", "b"] {
        for (peer, client) in &clients {
            let result = measured(peer, create(bench, client, prefix, CREATED)).await?;
            add_run(figures, peer.side, "api/create", &result);
        }
    }
    for (peer, client) in &clients {
        add_run(figures, peer.side, "api/patch", &measured(peer, patch(bench, client)).await?);
    }
    for (peer, client) in &clients {
        add_run(figures, peer.side, "api/get", &measured(peer, get(client)).await?);
    }
    for (name, accept) in [("api/list-json", "application/json"), ("api/list-protobuf", PROTOBUF)] {
        for (peer, client) in &clients {
            list(peer, client, name, accept, figures).await?;
        }
    }
    for (peer, client) in &clients {
        watch(bench, peer, client, figures).await?;
        figures.add(peer.side, "api/memory", "MB", peer.usage().resident);
    }
    Ok(())
}

fn pods(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

async fn create(bench: &Bench, client: &Client, prefix: &str, count: usize) -> anyhow::Result<Run> {
    let path = pods(NAMESPACE);
    drive(count, IN_FLIGHT, async |number| {
        let pod = objects::pod(&format!("{prefix}{number}"), bench.clock());
        client.send(number, Ask::post(path.as_str(), pod)).await.map(drop)
    })
    .await
}

async fn patch(bench: &Bench, client: &Client) -> anyhow::Result<Run> {
    let path = pods(NAMESPACE);
    drive(PATCHED, IN_FLIGHT, async |number| {
        let patch = format!(r#"{{"metadata":{{"annotations":{{"bench/patched":"{}"}}}}}}"#, bench.clock());
        client.send(number, Ask::merge(format!("{path}/a{number}"), patch)).await.map(drop)
    })
    .await
}

async fn get(client: &Client) -> anyhow::Result<Run> {
    let path = pods(NAMESPACE);
    drive(GOTTEN, IN_FLIGHT, async |number| {
        client.send(number, Ask::get(format!("{path}/a{}", number % CREATED))).await.map(drop)
    })
    .await
}

async fn list(
    peer: &Peer,
    client: &Client,
    name: &str,
    accept: &'static str,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let (size, firsts) = (RefCell::new(0), RefCell::new(Vec::new()));
    let one = async |number| {
        let ask = Ask { accept, ..Ask::get(format!("{}?resourceVersion=0", pods(NAMESPACE))) };
        let (length, first) = client.drain(number, ask).await?;
        *size.borrow_mut() = length;
        firsts.borrow_mut().push(first);
        Ok(())
    };
    let median = || {
        let mut firsts = firsts.take();
        firsts.sort_unstable();
        quantile(&firsts, 0.5)
    };
    let (run, usage) = measured(peer, drive(LISTED, LISTS_IN_FLIGHT, &one)).await?;
    figures.add(peer.side, name, "ms CPU", usage.cpu / run.operations as f64 * 1e3);
    figures.add(peer.side, name, "/s", run.per_second());
    figures.add(peer.side, name, "ms first byte of 4", median());
    // Of several at once, most of the wait is for the client, which reads the others.
    drive(LISTED_ALONE, 1, &one).await?;
    figures.add(peer.side, name, "ms first byte", median());
    figures.add(peer.side, name, "MB body", size.into_inner() as f64 / 1e6);
    Ok(())
}

async fn watch(bench: &Bench, peer: &Peer, client: &Client, figures: &mut Figures) -> anyhow::Result<()> {
    let watching = peer.connect(WATCH_CONNECTIONS).await?;
    let path = pods(WATCH_NAMESPACE);
    let watches = (0..WATCHERS).map(|number| {
        let ask = Ask::get(format!("{path}?watch=1&resourceVersion=0&timeoutSeconds=600"));
        watching.open(number, ask)
    });
    let answers = all(watches).await?;
    let latencies = RefCell::new(Vec::with_capacity(WATCHERS * WATCHED));
    let watchers = answers.into_iter().map(|answer| async {
        let mut left = WATCHED;
        let work = lines(answer.into_body(), |line| {
            let sent = sent_at(line).unwrap_or(0);
            latencies.borrow_mut().push(Duration::from_micros(bench.clock().saturating_sub(sent)));
            left -= 1;
            left > 0
        });
        tokio::time::timeout(DELIVERY, work).await.context("events are missing")?
    });
    let creating = drive(WATCHED, WATCHED_IN_FLIGHT, async |number| {
        let pod = objects::pod(&format!("w{number}"), bench.clock());
        client.send(number, Ask::post(path.as_str(), pod)).await.map(drop)
    });
    let started = tokio::time::Instant::now();
    let (_, usage) = measured(peer, try_join(creating, all(watchers))).await?;
    let wall = started.elapsed().saturating_sub(super::SETTLE);
    let mut latencies = latencies.into_inner();
    latencies.sort_unstable();
    let events = latencies.len() as f64;
    figures.add(peer.side, "api/watch", "us CPU", usage.cpu / events * 1e6);
    figures.add(peer.side, "api/watch", "/s", events / wall.as_secs_f64());
    figures.add(peer.side, "api/watch", "ms p50", quantile(&latencies, 0.5));
    figures.add(peer.side, "api/watch", "ms p99", quantile(&latencies, 0.99));
    Ok(())
}

/// When the pod of an event was sent, as its annotation says.
fn sent_at(line: &[u8]) -> Option<u64> {
    const KEY: &[u8] = br#""bench/sent-us":""#;
    const DIGITS: usize = 16;
    let at = line.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    std::str::from_utf8(line.get(at..at + DIGITS)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_tells_when_its_pod_was_sent() {
        let pod = objects::pod("w1", 1_234_567);
        let line = [br#"{"type":"ADDED","object":"#, &pod[..], b"}\n"].concat();
        assert_eq!(sent_at(&line), Some(1_234_567));
        assert_eq!(sent_at(br#"{"type":"BOOKMARK"}"#), None);
    }
}
