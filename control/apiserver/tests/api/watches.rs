//! Watches: what they start with, what they are told, how they end.

use super::support::{MAPS, World, config_map, world, world_over};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value as Json, json};
use std::time::Duration;
use timonel_apiserver::Body;
use timonel_runtime::Clock;

struct Events {
    body: Body,
    rest: Vec<u8>,
}

impl Events {
    async fn of(world: &World, query: &str) -> Self {
        let response = world.raw("GET", &format!("{MAPS}?watch=true{query}"), &[], Body::empty()).await;
        assert_eq!(response.status(), 200);
        Self { body: response.into_body(), rest: Vec::new() }
    }

    async fn next(&mut self) -> Option<Json> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(7200), self.body.frame()).await.expect("an event");
            self.rest.extend_from_slice(&frame?.unwrap().into_data().unwrap_or_else(|_| Bytes::new()));
        }
    }

    /// Type and name of the next event.
    async fn told(&mut self) -> String {
        let event = self.next().await.expect("the watch goes on");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or("");
        format!("{} {name}", event["type"].as_str().unwrap())
    }
}

/// A length and that many bytes, once: clients read events off the stream by these lengths.
#[tokio::test(start_paused = true)]
async fn events_in_protobuf_are_framed_once() {
    let world = world().await;
    world.post(MAPS, config_map("a", json!({}))).await.expect(201);
    let accept = [("accept", "application/vnd.kubernetes.protobuf")];
    let response = world.raw("GET", &format!("{MAPS}?watch=true"), &accept, Body::empty()).await;
    assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    let mut body = response.into_body();
    let data = body.frame().await.expect("an event").unwrap().into_data().unwrap_or_else(|_| Bytes::new());
    assert_eq!(u32::from_be_bytes(data[..4].try_into().unwrap()) as usize, data.len() - 4);
    assert!(data[4..].starts_with(b"\x0a\x05ADDED\x12"), "{data:?}");
}

#[tokio::test(start_paused = true)]
async fn changes_are_told_once_and_in_order() {
    let world = world().await;
    world.post(MAPS, config_map("a", json!({}))).await.expect(201);
    let version = world.get(MAPS).await.expect(200)["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut fresh = Events::of(&world, "").await;
    let mut later = Events::of(&world, &format!("&resourceVersion={version}")).await;
    assert_eq!(fresh.told().await, "ADDED a");
    world.post(MAPS, config_map("b", json!({}))).await.expect(201);
    world.patch(&format!("{MAPS}/a"), "merge", json!({"data": {"k": "v"}})).await.expect(200);
    world.delete(&format!("{MAPS}/a"), Json::Null).await.expect(200);
    for events in [&mut fresh, &mut later] {
        assert_eq!(events.told().await, "ADDED b");
        assert_eq!(events.told().await, "MODIFIED a");
        let deleted = events.next().await.unwrap();
        assert_eq!((&deleted["type"], &deleted["object"]["data"]["k"]), (&json!("DELETED"), &json!("v")));
        assert_eq!(deleted["object"]["kind"], "ConfigMap");
    }
    let mut replayed = Events::of(&world, &format!("&resourceVersion={version}")).await;
    assert_eq!(replayed.told().await, "ADDED b");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_leaves_the_selector_is_deleted_for_it() {
    let world = world().await;
    let mut events = Events::of(&world, "&labelSelector=x%3Dy").await;
    let path = format!("{MAPS}/a");
    world.post(MAPS, config_map("a", json!({}))).await.expect(201);
    for (label, expected) in [("y", "ADDED a"), ("z", "DELETED a"), ("y", "ADDED a")] {
        world.patch(&path, "merge", json!({"metadata": {"labels": {"x": label}}})).await.expect(200);
        assert_eq!(events.told().await, expected);
    }
    let mut one = Events::of(&world, "&fieldSelector=metadata.name%3Db").await;
    world.patch(&path, "merge", json!({"data": {"k": "v"}})).await.expect(200);
    world.post(MAPS, config_map("b", json!({}))).await.expect(201);
    assert_eq!(one.told().await, "ADDED b");
    assert_eq!(events.told().await, "MODIFIED a");
}

#[tokio::test(start_paused = true)]
async fn initial_events_end_with_a_bookmark() {
    let world = world().await;
    world.post(MAPS, config_map("a", json!({}))).await.expect(201);
    let query = "&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut events = Events::of(&world, query).await;
    assert_eq!(events.told().await, "ADDED a");
    let bookmark = events.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    // A quiet watch tells from time to time how far it is.
    let later = events.next().await.unwrap();
    assert_eq!((&later["type"], later["object"]["metadata"].get("annotations")), (&json!("BOOKMARK"), None));
}

#[tokio::test(start_paused = true)]
async fn watches_end_in_time_and_with_the_server() {
    let world = world().await;
    let mut short = Events::of(&world, "&timeoutSeconds=5").await;
    assert_eq!(short.next().await, None);
    let mut open = Events::of(&world, "").await;
    assert!(world.tasks.shutdown(Duration::from_secs(5)).await);
    assert_eq!(open.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_before_a_restart_is_told_so() {
    let world = world().await;
    world.post(MAPS, config_map("a", json!({}))).await.expect(201);
    let clock = Clock::simulated("2026-11-01T11:00:00Z".parse().unwrap());
    let restarted = world_over(world.store.clone(), clock).await;
    let mut events = Events::of(&restarted, "&resourceVersion=1").await;
    let first = events.next().await.unwrap();
    assert_eq!((&first["type"], &first["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(events.next().await, None);
    let mut again = Events::of(&restarted, "").await;
    assert_eq!(again.told().await, "ADDED a");
    assert_eq!(world.get(&format!("{MAPS}?watch=true&resourceVersion=x")).await.code, 400);
}

#[tokio::test(start_paused = true)]
async fn a_slow_watcher_is_let_go() {
    let world = world().await;
    world.post(MAPS, config_map("a", json!({}))).await.expect(201);
    let mut events = Events::of(&world, "").await;
    for n in 0..2_100 {
        world.patch(&format!("{MAPS}/a"), "merge", json!({"data": {"k": n.to_string()}})).await.expect(200);
    }
    let mut told = 0;
    while events.next().await.is_some() {
        told += 1;
    }
    assert!(told < 2_000, "{told}");
}
