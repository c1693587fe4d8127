//! Restores that did not end: what a server left that was killed in the middle is cleared away by the next one, and what
//! another machine is at work on is not.

use crate::support::{World, eventually};
use bytes::Bytes;
use kube::{Api, api::PostParams};
use std::sync::Arc;
use timonel_fleet::{Cluster, ClusterSpec};
use timonel_store::{KeyRange, MemoryStore, Op, RangeRequest, Store, Txn};

async fn put(store: &MemoryStore, key: String, lease: Option<u64>) {
    let put = Op::Put { key: key.into(), value: Bytes::from_static(b"{}"), lease };
    store.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
}

async fn keys(store: &MemoryStore, prefix: String) -> u64 {
    store.range(RangeRequest { range: KeyRange::prefix(prefix), revision: None, limit: 0 }).await.unwrap().count
}

/// A Cluster as a restore leaves it that is killed in the middle; its UID.
async fn half_restored(world: &World, store: &Arc<MemoryStore>, name: &str, claim: &str) -> String {
    let mut cluster = Cluster::new("default", name, ClusterSpec { version: "1.36".into(), ..ClusterSpec::default() });
    cluster.metadata.annotations.get_or_insert_default().insert("timonel.io/restoring".into(), claim.into());
    let created = world.clusters().create(&PostParams::default(), &cluster).await.unwrap();
    let uid = created.metadata.uid.unwrap();
    for number in 0..700 {
        put(store, format!("/clusters/{uid}/r/core/configmaps/default/c{number}"), None).await;
    }
    uid
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_done_restore_is_cleared_away_unless_it_goes_on() {
    let world = World::start().await;
    let store = world.store.clone();
    std::fs::write(world.data.path().join("restore-abcdef"), b"half an archive").unwrap();
    // As long as somebody holds its claim nobody else touches it.
    let leases = [store.grant_lease(600).await.unwrap(), store.grant_lease(600).await.unwrap()];
    put(&store, "/restores/alive".into(), Some(leases[0])).await;
    put(&store, "/restores/dead".into(), Some(leases[1])).await;
    let alive = half_restored(&world, &store, "alive", "alive").await;
    let dead = half_restored(&world, &store, "dead", "dead").await;
    let world = world.restart(async { store.revoke_lease(leases[1]).await.unwrap() }).await;
    assert!(!world.data.path().join("restore-abcdef").exists());
    let clusters: Api<Cluster> = world.clusters();
    eventually("the dead one to go", || async { clusters.get_opt("dead").await.ok()?.is_none().then_some(()) }).await;
    assert_eq!(keys(&store, format!("/clusters/{dead}/")).await, 0);
    // The name is free again.
    world.create("dead", ClusterSpec { version: "1.36".into(), ..ClusterSpec::default() }).await;
    assert!(clusters.get("alive").await.is_ok());
    assert_eq!(keys(&store, format!("/clusters/{alive}/")).await, 700);
    // Its holder dies.
    store.revoke_lease(leases[0]).await.unwrap();
    eventually("the other to go", || async { clusters.get_opt("alive").await.ok()?.is_none().then_some(()) }).await;
    assert_eq!(keys(&store, format!("/clusters/{alive}/")).await, 0);
}
