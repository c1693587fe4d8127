//! Resources whose objects lie in a store of their own: each has revisions of its own, and everything works as for the
//! others.

use crate::support::{MAPS, World, account_all, config, config_map, serve};
use serde_json::{Value as Json, json};
use std::sync::Arc;
use timonel_apiserver::Apart;
use timonel_runtime::Clock;
use timonel_store::{KeyRange, MemoryStore, Op, RangeRequest, Store, Txn};

const EVENTS: &str = "/api/v1/namespaces/default/events";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

/// Config maps and events lie apart; the first store has one config map from before.
async fn world() -> (World, Arc<MemoryStore>) {
    let clock = Clock::simulated("2026-11-01T10:00:00Z".parse().unwrap());
    let (first, apart) = (Arc::new(MemoryStore::new(clock.clone())), Arc::new(MemoryStore::new(clock.clone())));
    let names = ["configmaps", "events"];
    let resources = names.iter().map(|name| timonel_api::GroupResource { group: "".into(), resource: (*name).into() });
    // The two stores count differently, so that a mixed-up revision shows.
    for _ in 0..5_000 {
        let then = vec![Op::Put { key: "/elsewhere".into(), value: "x".into(), lease: None }];
        apart.txn(Txn { then, ..Txn::default() }).await.unwrap();
    }
    let mut config = config(first.clone(), clock);
    config.apart = vec![Apart { resources: resources.collect(), store: apart.clone() }];
    let world = serve(config, first).await;
    account_all(&world).await;
    (world, apart)
}

async fn keys(store: &MemoryStore, resource: &str) -> u64 {
    let range = KeyRange::prefix(format!("/clusters/one/r/core/{resource}"));
    store.range(RangeRequest { range, revision: None, limit: 0 }).await.unwrap().count
}

fn version(object: &Json) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_lies_apart_is_served_like_the_rest() {
    let (world, apart) = world().await;
    let made = world.post(MAPS, config_map("a", json!({"n": "1"}))).await.expect(201);
    assert!(version(&made) > 5_000, "a revision of its own store");
    assert_eq!((keys(&world.store, "configmaps/").await, keys(&apart, "configmaps/default/").await), (0, 1));
    assert_eq!((keys(&world.store, "namespaces/").await > 0, keys(&apart, "namespaces/").await), (true, 0));
    let path = format!("{MAPS}/a");
    let mut changed = made.clone();
    changed["data"]["n"] = json!("2");
    let changed = world.put(&path, changed).await.expect(200);
    assert_eq!(world.put(&path, made.clone()).await.code, 409, "the old version is refused");
    assert_eq!(world.get(&path).await.expect(200)["data"]["n"], "2");
    let list = world.get(MAPS).await.expect(200);
    assert_eq!((version(&list), list["items"].as_array().unwrap().len()), (version(&changed), 1));
    // The past is read from its own store, page by page.
    for name in ["b", "c", "d"] {
        world.post(MAPS, config_map(name, json!({}))).await.expect(201);
    }
    let page = world.get(&format!("{MAPS}?limit=3")).await.expect(200);
    world.delete(&format!("{MAPS}/d"), Json::Null).await.expect(200);
    let token = page["metadata"]["continue"].as_str().unwrap();
    let rest = world.get(&format!("{MAPS}?limit=3&continue={token}")).await.expect(200);
    assert_eq!(rest["items"][0]["metadata"]["name"], "d");
    let watched = world.get(&format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={}", version(&changed))).await;
    let kinds: Vec<_> =
        watched.text.lines().map(|line| serde_json::from_str::<Json>(line).unwrap()["type"].clone()).collect();
    assert_eq!(kinds, ["ADDED", "ADDED", "ADDED", "DELETED"]);
    // What stays in the first store has the first store's revisions.
    let namespaces = world.get("/api/v1/namespaces").await.expect(200);
    assert!(version(&namespaces) < 5_000);
    assert!(world.get("/readyz?verbose").await.text.contains("[+]etcd-override-0 ok"));
}

#[tokio::test(start_paused = true)]
async fn events_end_with_their_lease_and_quota_counts_what_lies_apart() {
    let (world, apart) = world().await;
    let about = json!({"kind": "ConfigMap", "namespace": "default", "name": "a"});
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": about});
    world.post(EVENTS, event).await.expect(201);
    let range = KeyRange::prefix("/clusters/one/r/core/events/");
    let leased = apart.range(RangeRequest { range, revision: None, limit: 0 }).await.unwrap().items;
    assert!(leased.len() == 1 && leased[0].lease.is_some());
    let hard = json!({"count/configmaps": "2"});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}});
    let mut quota = world.post(QUOTAS, quota).await.expect(201);
    quota["status"] = json!({"hard": hard, "used": {"count/configmaps": "0"}});
    world.put(&format!("{QUOTAS}/q/status"), quota).await.expect(200);
    for (name, code) in [("a", 201), ("b", 201), ("c", 403)] {
        let made = world.post(MAPS, config_map(name, json!({}))).await;
        assert_eq!(made.code, code, "{}", made.text);
    }
    let used = world.get(&format!("{QUOTAS}/q")).await.expect(200);
    assert_eq!(used["status"]["used"]["count/configmaps"], "2");
}
