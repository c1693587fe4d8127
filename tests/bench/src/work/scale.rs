//! Whether costs stay flat: a write's with the number of objects, an event's with the number of watchers, and a custom
//! resource's beside a built-in one's.

use super::{Bench, CONNECTIONS, IN_FLIGHT, NAMESPACE, lines, measured, prepare_namespace};
use crate::{
    client::{Ask, Client},
    drive::{all, drive},
    objects,
    peer::{Outcome, Peer, Side, until},
    record::Figures,
};
use anyhow::Context;
use bytes::Bytes;
use futures::future::try_join;
use serde_json::json;
use std::time::Duration;

/// Numbers of objects at which a write is measured, and the writes that are measured.
const OBJECTS: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];
const WRITES: usize = 5_000;
/// Numbers of watchers, and the creations that each of them sees.
const WATCHERS: [(usize, usize); 5] = [(1, 4_000), (10, 4_000), (100, 2_000), (1_000, 400), (10_000, 60)];
/// Creations of the same kind that nobody watches, to tell what a creation itself costs.
const UNWATCHED: usize = 4_000;
/// Watches of one connection.
const PER_CONNECTION: usize = 100;
/// Longest wait for the last event.
const DELIVERY: Duration = Duration::from_secs(120);
/// Objects of the custom kind, and how often they are listed.
const CUSTOM: usize = 100_000;
const LISTED: usize = 5;
const READ: usize = 10_000;

/// Writes with ever more objects beside them.
pub(super) async fn objects(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let peer = bench.service()?.start().await?;
    peer.ready().await?;
    let client = peer.connect(CONNECTIONS).await?;
    prepare_namespace(&client, NAMESPACE).await?;
    let mut there = 0;
    for count in OBJECTS {
        create(&client, CONFIG_MAPS, there..count).await?;
        there = count + WRITES;
        let (_, usage) = measured(&peer, create(&client, CONFIG_MAPS, count..there)).await?;
        let name = format!("scale/objects-{count}");
        figures.add(Side::Ours, &name, "us CPU", usage.cpu / WRITES as f64 * 1e6);
        figures.add(Side::Ours, &name, "MB", usage.resident);
    }
    Ok(())
}

const CONFIG_MAPS: &str = "/api/v1/namespaces/bench/configmaps";
const WIDGETS: &str = "/apis/bench.example.com/v1/namespaces/bench/widgets";

async fn create(client: &Client, path: &str, numbers: std::ops::Range<usize>) -> anyhow::Result<()> {
    let first = numbers.start;
    let custom = path == WIDGETS;
    drive(numbers.len(), IN_FLIGHT, async |number| {
        let name = format!("c{}", first + number);
        let object = if custom { widget(&name) } else { objects::config_map(&name) };
        client.send(number, Ask::post(path, object)).await.map(drop)
    })
    .await
    .map(drop)
}

/// What one event costs with ever more watchers: what the same creations cost alone is taken off.
pub(super) async fn watchers(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    for (number, (watchers, creations)) in WATCHERS.into_iter().enumerate() {
        let peer = bench.service()?.start().await?;
        peer.ready().await?;
        let client = peer.connect(CONNECTIONS).await?;
        prepare_namespace(&client, NAMESPACE).await?;
        let (_, alone) = measured(&peer, create(&client, CONFIG_MAPS, 0..UNWATCHED)).await?;
        let each = alone.cpu / UNWATCHED as f64;
        if number == 0 {
            figures.add(Side::Ours, "scale/watchers-0", "us CPU per write", each * 1e6);
        }
        let cpu = watched(&peer, &client, watchers, creations).await?;
        let events = (watchers * creations) as f64;
        let name = format!("scale/watchers-{watchers}");
        figures.add(Side::Ours, &name, "us CPU", (cpu - each * creations as f64) / events * 1e6);
    }
    Ok(())
}

async fn watched(peer: &Peer, client: &Client, watchers: usize, creations: usize) -> anyhow::Result<f64> {
    let watching = peer.connect(watchers.div_ceil(PER_CONNECTION)).await?;
    let ask = || {
        Ask::get(format!(
            "{CONFIG_MAPS}?watch=1&timeoutSeconds=600&sendInitialEvents=false\
        &resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        ))
    };
    let answers = all((0..watchers).map(|number| watching.open(number, ask()))).await?;
    let reading = answers.into_iter().map(|answer| async {
        let mut left = creations;
        let work = lines(answer.into_body(), |line| {
            left -= usize::from(line.starts_with(br#"{"type":"ADDED"#));
            left > 0
        });
        tokio::time::timeout(DELIVERY, work).await.context("events are missing")?
    });
    let writing = create(client, CONFIG_MAPS, UNWATCHED..UNWATCHED + creations);
    let (_, usage) = measured(peer, try_join(writing, all(reading))).await?;
    Ok(usage.cpu)
}

/// A custom resource with many objects, and a built-in one with as many.
pub(super) async fn custom(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let peer = bench.service()?.start().await?;
    peer.ready().await?;
    let client = peer.connect(CONNECTIONS).await?;
    prepare_namespace(&client, NAMESPACE).await?;
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    client.send(0, Ask::post(definitions, objects::bytes(&definition()))).await?;
    until("custom resource", || async { client.send(0, Ask::get(WIDGETS)).await.map(drop).map_err(Outcome::Again) })
        .await?;
    for (name, path) in [("custom/widgets", WIDGETS), ("custom/config-maps", CONFIG_MAPS)] {
        let (_, usage) = measured(&peer, create(&client, path, 0..CUSTOM)).await?;
        figures.add(Side::Ours, name, "us CPU per create", usage.cpu / CUSTOM as f64 * 1e6);
        let reads = drive(READ, IN_FLIGHT, async |number| {
            client.send(number, Ask::get(format!("{path}/c{}", number * 7 % CUSTOM))).await.map(drop)
        });
        let (_, usage) = measured(&peer, reads).await?;
        figures.add(Side::Ours, name, "us CPU per get", usage.cpu / READ as f64 * 1e6);
        let lists = drive(LISTED, 1, async |number| {
            client.drain(number, Ask::get(format!("{path}?resourceVersion=0"))).await.map(drop)
        });
        let (_, usage) = measured(&peer, lists).await?;
        figures.add(Side::Ours, name, "ms CPU per list", usage.cpu / LISTED as f64 * 1e3);
    }
    Ok(())
}

/// As large as a [`objects::config_map`], with rules of the usual kind.
fn widget(name: &str) -> Bytes {
    objects::bytes(&json!({"apiVersion": "bench.example.com/v1", "kind": "Widget", "metadata": {"name": name},
        "spec": {"mode": "production", "replicas": 3, "text": "x".repeat(200)}}))
}

fn definition() -> serde_json::Value {
    let spec = json!({"type": "object", "required": ["mode"], "properties": {
        "mode": {"type": "string", "enum": ["production", "test"]},
        "replicas": {"type": "integer", "minimum": 0, "maximum": 100, "default": 1},
        "text": {"type": "string", "maxLength": 1000}}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.bench.example.com"},
        "spec": {"group": "bench.example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}}]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_about_as_large() {
        let (custom, built_in) = (widget("c1").len(), objects::config_map("c1").len());
        assert!(custom.abs_diff(built_in) < 100, "{custom} {built_in}");
        assert!(CONFIG_MAPS.contains(NAMESPACE) && WIDGETS.contains(NAMESPACE));
    }
}
