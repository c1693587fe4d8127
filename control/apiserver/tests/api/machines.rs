//! Two servers of one cluster, one of which is behind: what the other has acknowledged holds at both.

use crate::support::{MAPS, World, config, config_map, world};
use futures::StreamExt;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use timonel_apiserver::{ApiServer, Caller};
use timonel_runtime::{Clock, Tasks};
use timonel_store::{
    KeyRange, LeaseId, MemoryStore, RangeRequest, RangeResult, Revision, Store, StoreError, Txn, TxnResult, WatchStream,
};

/// A store whose watches tell everything late.
#[derive(Debug)]
struct Late(Arc<MemoryStore>);

#[async_trait::async_trait]
impl Store for Late {
    async fn range(&self, request: RangeRequest) -> Result<RangeResult, StoreError> {
        self.0.range(request).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        self.0.txn(txn).await
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, StoreError> {
        let late = self.0.watch(range, from).await?.then(|batch| async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            batch
        });
        Ok(late.boxed())
    }

    async fn request_progress(&self, range: KeyRange) -> Result<(), StoreError> {
        self.0.request_progress(range).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.0.revision().await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.0.compact(revision).await
    }

    async fn grant_lease(&self, ttl_seconds: u64) -> Result<LeaseId, StoreError> {
        self.0.grant_lease(ttl_seconds).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<u64, StoreError> {
        self.0.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.revoke_lease(lease).await
    }
}

/// A server of the same cluster that is behind.
async fn behind(first: &World) -> World {
    let mut config = config(first.store.clone(), Clock::simulated("2026-11-01T10:00:00Z".parse().unwrap()));
    config.store = Arc::new(Late(first.store.clone()));
    let tasks = Tasks::root("late");
    let server = ApiServer::new(config, &tasks).await.unwrap();
    World { server, store: first.store.clone(), tasks, caller: Caller::internal("admin") }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_refused_for_a_state_that_is_past() {
    let first = world().await;
    let second = behind(&first).await;
    let path = format!("{MAPS}/a");
    // There, and the second does not know yet.
    first.post(MAPS, config_map("a", json!({"n": "1"}))).await.expect(201);
    second.patch(&path, "merge", json!({"data": {"n": "2"}})).await.expect(200);
    // Changed, and the second has the old version.
    let newest = first.patch(&path, "merge", json!({"data": {"n": "3"}})).await.expect(200);
    let mut next = newest.clone();
    next["data"]["n"] = json!("4");
    second.put(&path, next.clone()).await.expect(200);
    // A condition on what is there now.
    first.patch(&path, "merge", json!({"data": {"n": "5"}})).await.expect(200);
    let test =
        json!([{"op": "test", "path": "/data/n", "value": "5"}, {"op": "replace", "path": "/data/n", "value": "6"}]);
    second.patch(&path, "json", test).await.expect(200);
    let newest = first.put(&path, config_map("a", json!({"n": "7"}))).await.expect(200);
    let condition = json!({"preconditions": {"resourceVersion": newest["metadata"]["resourceVersion"]}});
    second.delete(&path, condition).await.expect(200);
    // Gone, and the second still has it.
    first.post(MAPS, config_map("b", json!({}))).await.expect(201);
    assert_eq!(second.get(&format!("{MAPS}/b")).await.code, 200, "reads wait for what was acknowledged");
    first.delete(&format!("{MAPS}/b"), json!(null)).await.expect(200);
    second.post(MAPS, config_map("b", json!({"n": "new"}))).await.expect(201);
    // What is refused for good is refused.
    assert_eq!(second.put(&path, next).await.code, 404);
    assert_eq!(first.post(MAPS, config_map("b", json!({}))).await.code, 409);
}
