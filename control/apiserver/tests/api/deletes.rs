//! Deletion: preconditions, grace, finalizers, collections, namespaces.

use super::support::{MAPS, PODS, config_map, pod, world};
use serde_json::{Value as Json, json};

#[tokio::test(start_paused = true)]
async fn a_deletion_answers_with_a_status() {
    let world = world().await;
    let created = world.post(MAPS, config_map("a", json!({}))).await.expect(201);
    let path = format!("{MAPS}/a");
    for options in [json!({"preconditions": {"uid": "other"}}), json!({"preconditions": {"resourceVersion": "1"}})] {
        assert_eq!(world.delete(&path, options).await.code, 409);
    }
    assert_eq!(world.delete(&path, json!({"propagationPolicy": "Never"})).await.code, 422);
    world.delete(&format!("{path}?dryRun=All"), Json::Null).await.expect(200);
    let status = world.delete(&path, json!({"preconditions": {"uid": created["metadata"]["uid"]}})).await.expect(200);
    assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(status["details"]["uid"], created["metadata"]["uid"]);
    assert_eq!(world.delete(&path, Json::Null).await.code, 404);
}

#[tokio::test(start_paused = true)]
async fn a_running_pod_gets_its_grace() {
    let world = world().await;
    let mut on_node = pod("a");
    on_node["spec"]["nodeName"] = json!("n");
    world.post(PODS, on_node).await.expect(201);
    let path = format!("{PODS}/a");
    let marked = world.delete(&path, Json::Null).await.expect(200);
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-11-01T10:00:30Z");
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = world.delete(&format!("{path}?gracePeriodSeconds=5"), Json::Null).await.expect(200);
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    world.delete(&path, json!({"gracePeriodSeconds": 0})).await.expect(200);
    assert_eq!(world.get(&path).await.code, 404);
    world.post(PODS, pod("free")).await.expect(201);
    world.delete(&format!("{PODS}/free"), Json::Null).await.expect(200);
    assert_eq!(world.get(&format!("{PODS}/free")).await.code, 404, "a pod without a node goes at once");
}

#[tokio::test(start_paused = true)]
async fn finalizers_hold_an_object() {
    let world = world().await;
    let mut held = config_map("a", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/x"]);
    world.post(MAPS, held).await.expect(201);
    let path = format!("{MAPS}/a");
    let marked = world.delete(&path, Json::Null).await.expect(200);
    assert_eq!(
        (&marked["kind"], &marked["metadata"]["deletionTimestamp"]),
        (&json!("ConfigMap"), &json!("2026-11-01T10:00:00Z"))
    );
    let added =
        world.patch(&path, "merge", json!({"metadata": {"finalizers": ["example.com/x", "example.com/y"]}})).await;
    assert_eq!(added.code, 422, "nothing holds an object that is being deleted longer: {}", added.text);
    world.patch(&path, "merge", json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert_eq!(world.get(&path).await.code, 404);
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        world.post(MAPS, config_map("b", json!({}))).await.expect(201);
        let marked = world.delete(&format!("{MAPS}/b"), json!({"propagationPolicy": policy})).await.expect(200);
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
        world
            .patch(&format!("{MAPS}/b"), "json", json!([{"op": "remove", "path": "/metadata/finalizers"}]))
            .await
            .expect(200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_collection_goes_by_selector() {
    let world = world().await;
    for n in 0..4 {
        let mut map = config_map(&format!("m{n}"), json!({}));
        map["metadata"]["labels"] = json!({"go": if n < 3 { "yes" } else { "no" }});
        world.post(MAPS, map).await.expect(201);
    }
    let gone = world.delete(&format!("{MAPS}?labelSelector=go%3Dyes"), Json::Null).await.expect(200);
    assert_eq!(gone["items"].as_array().unwrap().len(), 3);
    assert_eq!(world.get(MAPS).await.expect(200)["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_goes_in_two_steps() {
    let world = world().await;
    let created = world.post("/api/v1/namespaces", json!({"metadata": {"name": "x"}})).await.expect(201);
    assert_eq!(
        (&created["spec"]["finalizers"], &created["status"]["phase"]),
        (&json!(["kubernetes"]), &json!("Active"))
    );
    assert_eq!(created["metadata"]["labels"]["kubernetes.io/metadata.name"], "x");
    world.account("x").await;
    let marked = world.delete("/api/v1/namespaces/x", Json::Null).await.expect(200);
    assert_eq!(marked["status"]["phase"], "Terminating");
    let refused = world.post("/api/v1/namespaces/x/configmaps", config_map("a", json!({}))).await;
    assert_eq!(
        (refused.code, &refused.json()["details"]["causes"][0]["reason"]),
        (403, &json!("NamespaceTerminating"))
    );
    let mut finalized = world.get("/api/v1/namespaces/x").await.expect(200);
    finalized["spec"]["finalizers"] = json!([]);
    world.put("/api/v1/namespaces/x/finalize", finalized).await.expect(200);
    assert_eq!(world.get("/api/v1/namespaces/x").await.code, 404);
    assert_eq!(world.delete("/api/v1/namespaces/default", Json::Null).await.code, 403);
}
