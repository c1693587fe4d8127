//! The audit log as its readers find it: lines in a file, lists at a webhook.

use super::{
    remote::remote,
    support::{MAPS, PODS, World, config_map, pod, world},
};
use serde_json::{Value as Json, json};
use std::{path::Path, sync::atomic::AtomicUsize, sync::atomic::Ordering, time::Duration};
use timonel_apiserver::{AccessConfig, AuditConfig, AuditLog, AuditWebhook, Caller, Peer};

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, resources: [{group: "", resources: [events]}]}
- {level: Metadata, resources: [{group: "", resources: [secrets]}]}
- {level: RequestResponse, omitManagedFields: true, resources: [{group: "", resources: [configmaps, pods]}]}
- {level: Metadata}
"#;

fn config(policy: &str, log: Option<&Path>) -> AccessConfig {
    let log = log.map(|path| AuditLog { path: path.to_owned(), ..AuditLog::default() });
    AccessConfig { audit: Some(AuditConfig { policy: policy.into(), log, webhook: None }), ..AccessConfig::default() }
}

/// Stops the audit and reads what it wrote.
async fn lines(world: &World, path: &Path) -> Vec<Json> {
    world.server.configure(AccessConfig::default()).await.unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn requests_are_told_at_the_level_of_the_policy() {
    let world = world().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    world.server.configure(config(POLICY, Some(&path))).await.unwrap();
    let named = [("audit-id", "mine"), ("content-type", "application/json"), ("accept-encoding", "gzip")];
    let map = config_map("m", json!({"k": "v"})).to_string();
    let created = world.send("POST", MAPS, &named, map).await;
    assert_eq!((created.code, created.headers["audit-id"].to_str().unwrap()), (201, "mine"));
    let patched = world.patch(&format!("{MAPS}/m"), "merge", json!({"data": {"k": "w"}})).await;
    assert_eq!(patched.headers["audit-id"].len(), 36);
    world.send("GET", MAPS, &[("accept", "application/vnd.kubernetes.protobuf")], "").await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}});
    world.post("/api/v1/namespaces/default/secrets", secret).await.expect(201);
    world.get(&format!("{MAPS}/none")).await.expect(404);
    world.get("/api/v1/namespaces/default/events").await.expect(200);
    world.get("/version").await.expect(200);
    world.delete(&format!("{MAPS}/m"), json!({"kind": "DeleteOptions", "apiVersion": "v1"})).await.expect(200);
    let told = lines(&world, &path).await;
    let short: Vec<String> = told
        .iter()
        .map(|event| {
            let text = |at: &str| event.pointer(at).and_then(Json::as_str).unwrap_or("-").to_owned();
            let code = event["responseStatus"]["code"].as_u64().unwrap();
            format!("{} {} {} {} {code}", text("/level"), text("/stage"), text("/verb"), text("/objectRef/name"))
        })
        .collect();
    assert_eq!(
        short,
        [
            "RequestResponse ResponseComplete create m 201",
            "RequestResponse ResponseComplete patch m 200",
            "RequestResponse ResponseComplete list - 200",
            "Metadata ResponseComplete create s 201",
            "RequestResponse ResponseComplete get none 404",
            "Metadata ResponseComplete get - 200",
            "RequestResponse ResponseComplete delete m 200",
        ]
    );
    let [create, patch, list, secret, missing, version, delete] = &told[..] else { panic!("seven events") };
    assert_eq!((&create["auditID"], &create["kind"]), (&json!("mine"), &json!("Event")));
    assert_eq!(create["requestObject"]["data"], json!({"k": "v"}));
    assert_eq!(create["responseObject"]["metadata"]["name"], "m");
    assert_eq!(create["responseObject"]["metadata"].get("managedFields"), None);
    assert_eq!(create["annotations"]["authorization.k8s.io/decision"], "allow");
    assert_eq!(create["user"]["username"], "system:admin");
    assert_eq!(create["objectRef"]["apiVersion"], "v1");
    assert_eq!(patch["requestObject"], json!({"data": {"k": "w"}}));
    assert_eq!(list["responseObject"]["items"][0]["data"], json!({"k": "w"}));
    assert_eq!((secret.get("requestObject"), secret.get("responseObject")), (None, None));
    assert_eq!(missing["responseStatus"]["reason"], "NotFound");
    assert_eq!(missing["responseObject"]["kind"], "Status");
    assert_eq!((&version["requestURI"], version.get("objectRef")), (&json!("/version"), None));
    assert_eq!(
        (&delete["requestObject"]["kind"], &delete["responseStatus"]["status"]),
        (&json!("DeleteOptions"), &json!("Success"))
    );
    // Without a policy nothing is told, and parts of this process are given no name for their requests.
    assert!(world.get(MAPS).await.headers.get("audit-id").is_none());
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), told.len());
    let metrics = world.get("/metrics").await.text;
    for expected in ["apiserver_audit_event_total 7", "apiserver_audit_level_total{level=\"None\"} 1"] {
        assert!(metrics.contains(expected), "{expected}");
    }
}

#[tokio::test]
async fn watches_refusals_and_those_without_good_credentials_are_told() {
    let mut world = world().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    world
        .server
        .configure(config("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]", Some(&path)))
        .await
        .unwrap();
    let watch = world.raw("GET", &format!("{PODS}?watch=true"), &[], "".into()).await;
    drop(watch);
    let privileged = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "strict", "labels": {"pod-security.kubernetes.io/audit": "restricted"}}});
    world.post("/api/v1/namespaces", privileged).await.expect(201);
    world.account("strict").await;
    world.post("/api/v1/namespaces/strict/pods", pod("p")).await.expect(201);
    world.caller = Caller::Peer(Peer::new(None, Some("192.0.2.7".parse().unwrap())));
    world.get(PODS).await.expect(403);
    world.send("GET", PODS, &[("authorization", "Bearer nonsense"), ("user-agent", "curl")], "").await.expect(401);
    world.caller = Caller::internal("admin");
    world.send("GET", PODS, &[("impersonate-user", "alice"), ("impersonate-group", "dev")], "").await.expect(403);
    let told = lines(&world, &path).await;
    let of = |test: &dyn Fn(&Json) -> bool| told.iter().filter(|event| test(event)).cloned().collect::<Vec<Json>>();
    let stages =
        |events: &[Json]| events.iter().map(|event| event["stage"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let watched = of(&|event| event["verb"] == "watch");
    assert_eq!(stages(&watched), ["RequestReceived", "ResponseStarted", "ResponseComplete"]);
    let pods = of(&|event| event["objectRef"]["namespace"] == "strict" && event["objectRef"]["resource"] == "pods");
    let annotations = &pods[1]["annotations"];
    assert!(
        annotations["pod-security.kubernetes.io/audit-violations"].as_str().unwrap().contains("restricted"),
        "{annotations}"
    );
    let anonymous = of(&|event| event["user"]["username"] == "system:anonymous");
    assert_eq!(stages(&anonymous), ["RequestReceived", "ResponseComplete"]);
    assert_eq!(
        (&anonymous[1]["responseStatus"]["code"], &anonymous[1]["sourceIPs"]),
        (&json!(403), &json!(["192.0.2.7"]))
    );
    assert_eq!(anonymous[1]["annotations"]["authorization.k8s.io/decision"], "forbid");
    let failed = of(&|event| event["responseStatus"]["code"] == 401);
    assert_eq!(stages(&failed), ["ResponseStarted"]);
    assert_eq!(failed[0]["responseStatus"]["message"], "Authentication failed, attempted: bearer");
    assert_eq!((&failed[0]["user"], &failed[0]["userAgent"]), (&json!({}), &json!("curl")));
    let other = of(&|event| event["impersonatedUser"]["username"] == "alice");
    assert_eq!(other[0]["user"]["username"], "system:admin");
    assert_eq!(other[0]["impersonatedUser"]["groups"], json!(["dev", "system:authenticated"]));
}

#[tokio::test]
async fn a_webhook_gets_lists_again_when_it_fails() {
    let world = world().await;
    let calls = AtomicUsize::new(0);
    let hook = remote(&world, move |_, _| match calls.fetch_add(1, Ordering::Relaxed) {
        0 => (503, String::new()),
        _ => (200, "{}".to_owned()),
    });
    let hook = hook.await;
    let webhook = AuditWebhook {
        max_batch: 2,
        max_wait: Duration::from_millis(20),
        initial_backoff: Duration::from_millis(10),
        ..AuditWebhook::new(hook.kubeconfig("/audit"))
    };
    let mut wanted = config(POLICY, None);
    wanted.audit.as_mut().unwrap().webhook = Some(webhook);
    world.server.configure(wanted).await.unwrap();
    for name in ["a", "b", "c"] {
        world.post(MAPS, config_map(name, json!({}))).await.expect(201);
    }
    let asked = hook.wait_for(3).await;
    let (path, authorization, list) = &asked[1];
    assert_eq!((path.as_str(), authorization.as_str()), ("/audit", "Bearer hook-token"));
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("EventList"), 2));
    assert_eq!(asked[0].2, *list);
    assert_eq!(asked[2].2["items"][0]["objectRef"]["name"], "c");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_changes_nothing() {
    let world = world().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    world.server.configure(config(POLICY, Some(&path))).await.unwrap();
    let bad = config("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Loud}]", Some(&path));
    let error = world.server.configure(bad).await.unwrap_err();
    assert!(error.to_string().contains("rules[0].level: Unsupported value"), "{error}");
    world.post(MAPS, config_map("m", json!({}))).await.expect(201);
    assert_eq!(lines(&world, &path).await.len(), 1);
}
