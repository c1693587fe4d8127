//! Create, update, patch.

use super::support::{MAPS, PODS, config_map, pod, world};
use serde_json::{Value as Json, json};

#[tokio::test(start_paused = true)]
async fn a_pod_is_created_with_defaults_and_read_back() {
    let world = world().await;
    let created = world.post(PODS, pod("a")).await.expect(201);
    assert_eq!(created["kind"], "Pod");
    assert_eq!(created["metadata"]["namespace"], "default");
    assert_eq!(created["metadata"]["creationTimestamp"], "2026-11-01T10:00:00Z");
    assert_eq!(created["spec"]["restartPolicy"], "Always");
    assert_eq!(created["spec"]["serviceAccountName"], "default");
    assert_eq!(created["status"]["phase"], "Pending");
    assert_eq!(world.get(&format!("{PODS}/a")).await.expect(200), created);
    let yaml = world.send("GET", &format!("{PODS}/a"), &[("accept", "application/yaml")], "").await;
    assert!(yaml.text.contains("kind: Pod"), "{}", yaml.text);
    let proto = world.send("GET", &format!("{PODS}/a"), &[("accept", "application/vnd.kubernetes.protobuf")], "").await;
    assert!(proto.text.starts_with("k8s\0"));
}

#[tokio::test(start_paused = true)]
async fn requests_are_refused_with_upstreams_words() {
    let world = world().await;
    world.post(MAPS, config_map("a", json!({}))).await.expect(201);
    let other_namespace = json!({"metadata": {"name": "b", "namespace": "other"}});
    let table: Vec<(&str, String, Json, u16, &str)> = vec![
        ("POST", MAPS.into(), config_map("a", json!({})), 409, "configmaps \"a\" already exists"),
        (
            "POST",
            "/api/v1/namespaces/none/configmaps".into(),
            config_map("a", json!({})),
            404,
            "namespaces \"none\" not found",
        ),
        (
            "POST",
            MAPS.into(),
            other_namespace,
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        ("POST", MAPS.into(), json!({"kind": "Pod", "apiVersion": "v1"}), 400, "cannot be handled as a ConfigMap"),
        ("POST", MAPS.into(), json!({"metadata": {"name": "A_b"}}), 422, "ConfigMap \"A_b\" is invalid: metadata.name"),
        ("POST", MAPS.into(), json!({}), 422, "name or generateName is required"),
        ("POST", MAPS.into(), json!({"metadata": {"name": 5}}), 400, "cannot be handled as a ConfigMap"),
        ("POST", format!("{MAPS}?dryRun=Some"), config_map("b", json!({})), 422, "Unsupported value: [\"Some\"]"),
        (
            "POST",
            format!("{MAPS}?fieldValidation=Strict"),
            json!({"metadata": {"name": "b"}, "dat": {}}),
            400,
            "unknown field \"dat\"",
        ),
        ("PUT", format!("{MAPS}/b"), config_map("b", json!({})), 404, "configmaps \"b\" not found"),
        (
            "PUT",
            format!("{MAPS}/a"),
            config_map("b", json!({})),
            400,
            "the name of the object (b) does not match the name on the URL (a)",
        ),
        (
            "POST",
            format!("{MAPS}/a"),
            json!({}),
            405,
            "the server does not allow this method on the requested resource",
        ),
        ("GET", "/api/v1/nonsense".into(), Json::Null, 404, "the server could not find the requested resource"),
        ("GET", format!("{MAPS}/zzz"), Json::Null, 404, "configmaps \"zzz\" not found"),
        (
            "GET",
            "/apis/apps/v1/namespaces/default/deployments/d/scale".into(),
            Json::Null,
            404,
            "deployments.apps \"d\" not found",
        ),
    ];
    for (method, path, body, code, message) in table {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = world.send(method, &path, &[("content-type", "application/json")], body).await;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.text);
        assert!(answer.message().contains(message), "{method} {path}: {}", answer.message());
        assert_eq!(answer.json()["kind"], "Status");
    }
}

#[tokio::test(start_paused = true)]
async fn media_types_are_negotiated() {
    let world = world().await;
    for (headers, body, code) in [
        (&[("content-type", "text/plain")][..], "x", 415),
        (&[("content-type", "application/yaml")], "metadata: {name: yaml}\ndata: {a: b}", 201),
        (&[("content-type", "application/json"), ("accept", "text/html")], "{\"metadata\":{\"name\":\"z\"}}", 406),
        (&[("content-type", "application/json")], "{", 400),
    ] {
        let answer = world.send("POST", MAPS, headers, body).await;
        assert_eq!(answer.code, code, "{headers:?}: {}", answer.text);
    }
    let large = format!("{{\"metadata\":{{\"name\":\"l\"}},\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(4 << 20));
    assert_eq!(world.send("POST", MAPS, &[("content-type", "application/json")], large).await.code, 413);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_belong_is_told_in_warnings() {
    let world = world().await;
    let answer = world.post(MAPS, json!({"metadata": {"name": "a"}, "dat": {}, "data": {"k": "v"}})).await;
    assert_eq!(answer.headers["warning"], r#"299 - "unknown field \"dat\"""#);
    assert!(answer.expect(201).get("dat").is_none());
}

#[tokio::test(start_paused = true)]
async fn names_are_generated_and_dry_runs_store_nothing() {
    let world = world().await;
    let body = json!({"metadata": {"generateName": "x-"}});
    let a = world.post(MAPS, body.clone()).await.expect(201)["metadata"]["name"].as_str().unwrap().to_owned();
    let b = world.post(MAPS, body).await.expect(201)["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(a.starts_with("x-") && a.len() == 7 && a != b);
    world.post(&format!("{MAPS}?dryRun=All"), config_map("dry", json!({}))).await.expect(201);
    assert_eq!(world.get(&format!("{MAPS}/dry")).await.code, 404);
}

#[tokio::test(start_paused = true)]
async fn updates_are_fenced_by_version() {
    let world = world().await;
    let first = world.post(MAPS, config_map("a", json!({"k": "1"}))).await.expect(201);
    let path = format!("{MAPS}/a");
    let mut second = first.clone();
    second["data"]["k"] = json!("2");
    let second = world.put(&path, second).await.expect(200);
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(second["metadata"]["uid"], first["metadata"]["uid"]);
    let mut stale = first;
    stale["data"]["k"] = json!("3");
    let refused = world.put(&path, stale).await;
    assert_eq!(refused.code, 409);
    assert!(refused.message().contains("the object has been modified"));
    // Without a version the update is unconditional; without a change nothing is written.
    let third = world.put(&path, config_map("a", json!({"k": "3"}))).await.expect(200);
    let same = world.put(&path, third.clone()).await.expect(200);
    assert_eq!(same, third);
    let mut other = third;
    other["metadata"]["uid"] = json!("other");
    assert_eq!(world.put(&path, other).await.code, 409);
}

#[tokio::test(start_paused = true)]
async fn leases_are_created_by_an_update() {
    let world = world().await;
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "x"}});
    let created = world.put(path, lease.clone()).await.expect(201);
    assert_eq!(world.put(path, lease).await.code, 422, "leases are updated by version");
    world.put(path, created).await.expect(200);
}

#[tokio::test(start_paused = true)]
async fn three_kinds_of_patches() {
    let world = world().await;
    world.post(PODS, pod("a")).await.expect(201);
    let path = format!("{PODS}/a");
    let merged =
        world.patch(&path, "merge", json!({"metadata": {"labels": {"app": null, "x": "y"}}})).await.expect(200);
    assert_eq!(merged["metadata"]["labels"], json!({"x": "y"}));
    let patch = json!({"spec": {"containers": [{"name": "c", "image": "registry.example/c:2"}]}});
    let strategic = world.patch(&path, "strategic", patch).await.expect(200);
    assert_eq!(strategic["spec"]["containers"][0]["image"], "registry.example/c:2");
    assert_eq!(strategic["spec"]["containers"][0]["terminationMessagePolicy"], "File");
    let patch = json!([{"op": "test", "path": "/metadata/labels/x", "value": "y"},
        {"op": "add", "path": "/metadata/annotations", "value": {"n": "1"}}]);
    let json = world.patch(&path, "json", patch).await.expect(200);
    assert_eq!(json["metadata"]["annotations"]["n"], "1");
    for (kind, patch, code) in [
        ("json", json!([{"op": "test", "path": "/metadata/labels/x", "value": "z"}]), 422),
        ("merge", json!({"metadata": {"resourceVersion": "1"}}), 409),
        ("merge", json!({"metadata": {"name": "b"}}), 400),
        ("application/apply-patch+yaml", json!({}), 422),
        ("merge", json!({"spec": {"nodeName": "n"}}), 422),
    ] {
        let answer = world.patch(&path, kind, patch).await;
        assert_eq!(answer.code, code, "{kind}: {}", answer.text);
    }
}

#[tokio::test(start_paused = true)]
async fn status_and_spec_are_apart() {
    let world = world().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "d"}, "status": {"replicas": 9},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let created = world.post(path, deployment).await.expect(201);
    assert_eq!((created["status"].get("replicas"), &created["metadata"]["generation"]), (None, &json!(1)));
    let status = world
        .patch(&format!("{path}/d/status"), "merge", json!({"status": {"replicas": 2}, "spec": {"replicas": 7}}))
        .await
        .expect(200);
    assert_eq!((&status["status"]["replicas"], &status["spec"]["replicas"]), (&json!(2), &json!(1)));
    let patch = json!({"spec": {"replicas": 7}, "status": {"replicas": 0}});
    let scaled = world.patch(&format!("{path}/d"), "merge", patch).await.expect(200);
    assert_eq!((&scaled["status"]["replicas"], &scaled["metadata"]["generation"]), (&json!(2), &json!(2)));
}

#[tokio::test(start_paused = true)]
async fn concurrent_patches_all_count() {
    let world = world().await;
    world.post(MAPS, config_map("a", json!({}))).await.expect(201);
    let path = format!("{MAPS}/a");
    let patches = (0..20).map(|n| {
        let (world, path) = (&world, &path);
        async move { world.patch(path, "merge", json!({"data": {format!("k{n}"): "v"}})).await.expect(200) }
    });
    futures::future::join_all(patches).await;
    assert_eq!(world.get(&path).await.expect(200)["data"].as_object().unwrap().len(), 20);
}
