//! Bindings, evictions, scale, tokens, reviews.

use super::support::{PODS, pod, world};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn a_pod_is_bound_once() {
    let world = world().await;
    world.post(PODS, pod("a")).await.expect(201);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "n1"}});
    let path = format!("{PODS}/a/binding");
    let status = world.post(&path, binding.clone()).await.expect(201);
    assert_eq!(status["status"], "Success");
    let bound = world.get(&format!("{PODS}/a")).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let again = world.post(&path, binding).await;
    assert_eq!(again.code, 409);
    assert!(again.message().contains("already assigned to node"), "{}", again.message());
    let nameless = json!({"metadata": {"name": "a"}, "target": {"kind": "Node"}});
    assert_eq!(world.post(&path, nameless).await.code, 422);
}

#[tokio::test(start_paused = true)]
async fn an_eviction_respects_its_budget() {
    let world = world().await;
    let mut running = pod("a");
    running["spec"]["nodeName"] = json!("n1");
    world.post(PODS, running).await.expect(201);
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    world.patch(&format!("{PODS}/a/status"), "merge", ready).await.expect(200);
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget =
        json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}});
    world.post(budgets, budget).await.expect(201);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}});
    let path = format!("{PODS}/a/eviction");
    let fresh = world.post(&path, eviction.clone()).await;
    assert_eq!((fresh.code, fresh.headers["retry-after"].to_str().unwrap()), (429, "10"));
    let status = |allowed: i64| {
        json!({"status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 1,
            "desiredHealthy": 1, "expectedPods": 1}})
    };
    world.patch(&format!("{budgets}/b/status"), "merge", status(0)).await.expect(200);
    let refused = world.post(&path, eviction.clone()).await;
    assert_eq!(refused.code, 429);
    assert!(refused.text.contains("needs 1 healthy pods and has 1 currently"), "{}", refused.text);
    world.patch(&format!("{budgets}/b/status"), "merge", status(1)).await.expect(200);
    world.post(&path, eviction).await.expect(201);
    let budget = world.get(&format!("{budgets}/b")).await.expect(200);
    assert_eq!(budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0), 0);
    assert!(budget["status"]["disruptedPods"]["a"].is_string());
    let evicted = world.get(&format!("{PODS}/a")).await.expect(200);
    assert!(evicted["metadata"]["deletionTimestamp"].is_string());
    let conditions = evicted["status"]["conditions"].as_array().unwrap();
    let reason = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&reason["status"], &reason["reason"]), (&json!("True"), &json!("EvictionByEvictionAPI")));
}

#[tokio::test(start_paused = true)]
async fn resources_change_by_resize_alone() {
    let world = world().await;
    let mut sized = pod("a");
    sized["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "10m"}});
    let made = world.post(PODS, sized).await.expect(201);
    let name = made["spec"]["containers"][0]["name"].clone();
    let wish = json!({"spec": {"containers": [{"name": name, "resources": {"requests": {"cpu": "20m"}}}]}});
    assert_eq!(world.patch(&format!("{PODS}/a"), "strategic", wish.clone()).await.code, 422);
    let path = format!("{PODS}/a/resize");
    let resized = world.patch(&path, "strategic", wish).await.expect(200);
    assert_eq!(resized["spec"]["containers"][0]["resources"]["requests"]["cpu"], "20m");
    let other = json!({"spec": {"containers": [{"name": name, "image": "other"}]}});
    let kept = world.patch(&path, "strategic", other).await.expect(200);
    assert_eq!(kept["spec"]["containers"][0]["image"], made["spec"]["containers"][0]["image"]);
    let mut limited = kept;
    limited["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "20m"}, "limits": {"cpu": "10m"}});
    let refused = world.put(&path, limited).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
}

#[tokio::test(start_paused = true)]
async fn scale_is_a_view_of_replicas() {
    let world = world().await;
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    let set = json!({"metadata": {"name": "r"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    world.post(sets, set).await.expect(201);
    let path = format!("{sets}/r/scale");
    let mut scale = world.get(&path).await.expect(200);
    assert_eq!(
        (&scale["kind"], &scale["spec"]["replicas"], &scale["status"]["selector"]),
        (&json!("Scale"), &json!(2), &json!("a=b"))
    );
    scale["spec"]["replicas"] = json!(5);
    world.put(&path, scale.clone()).await.expect(200);
    assert_eq!(world.put(&path, scale).await.code, 409, "the version is old by now");
    let patched = world.patch(&path, "merge", json!({"spec": {"replicas": 0}})).await.expect(200);
    assert_eq!(patched["spec"].get("replicas"), None);
    assert_eq!(world.get(&format!("{sets}/r")).await.expect(200)["spec"]["replicas"], 0);
    assert_eq!(world.patch(&path, "merge", json!({"spec": {"replicas": -1}})).await.code, 422);
}

#[tokio::test(start_paused = true)]
async fn tokens_are_made_and_recognized() {
    let world = world().await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let made = world.post(path, json!({"spec": {"expirationSeconds": 3600}})).await.expect(201);
    let token = made["status"]["token"].as_str().unwrap();
    let review = json!({"spec": {"token": token}});
    let review = world.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await.expect(201);
    assert_eq!(review["status"]["user"]["username"], "system:serviceaccount:default:default");
    let outside = timonel_apiserver::Caller::Peer(timonel_apiserver::Peer::default());
    let request = |path: &str, token: &str| {
        let request = http::Request::builder().uri(path).header("authorization", format!("Bearer {token}"));
        world.server.call(request.body(timonel_apiserver::Body::empty()).unwrap(), outside.clone())
    };
    assert_eq!(request("/api", token).await.status(), 200);
    assert_eq!(request("/api/v1/secrets", token).await.status(), 403);
    assert_eq!(request("/api", "nonsense").await.status(), 401);
}

#[tokio::test(start_paused = true)]
async fn reviews_tell_who_may_what() {
    let world = world().await;
    let review = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}}});
    let mine = world.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review).await.expect(201);
    assert_eq!(mine["status"]["allowed"], true);
    let review = json!({"spec": {"user": "nobody", "resourceAttributes": {"verb": "list", "resource": "pods"}}});
    let theirs = world.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review).await.expect(201);
    assert_eq!(theirs["status"]["allowed"], false);
    let me = world.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({})).await.expect(201);
    assert_eq!(me["status"]["userInfo"]["username"], "system:admin");
    let rows = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"), ("content-type", "application/json")];
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let refused =
        world.raw("POST", path, &rows, r#"{"spec":{"nonResourceAttributes":{"path":"/","verb":"get"}}}"#.into());
    assert_eq!(refused.await.status(), 406);
}

#[tokio::test(start_paused = true)]
async fn versions_of_one_object_are_views_of_it() {
    let world = world().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "default", "name": "x"}, "reason": "R",
        "message": "hello", "type": "Normal"});
    world.post("/api/v1/namespaces/default/events", event).await.expect(201);
    let seen = world.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await.expect(200);
    assert_eq!((&seen["note"], &seen["regarding"]["name"], seen.get("message")), (&json!("hello"), &json!("x"), None));
    let hpa = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50,
        "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}}});
    world.post("/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers", hpa).await.expect(201);
    let v2 = world.get("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h").await.expect(200);
    assert_eq!(v2["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
}
