//! Priority and fairness as clients see it: objects that are kept, headers that say what decided, tables.

use super::support::{World, world};
use serde_json::{Value as Json, json};
use std::time::Duration;
use timonel_apiserver::{Caller, authn::User};

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";

/// Looks until there is something; what keeps objects works in the background.
async fn eventually(world: &World, path: &str, found: impl Fn(u16, &Json) -> bool) -> Json {
    for _ in 0..400 {
        let answer = world.get(path).await;
        let json = answer.json();
        if found(answer.code, &json) {
            return json;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{path}: {}", world.get(path).await.text);
}

fn condition(object: &Json) -> (&str, &str) {
    let condition = &object["status"]["conditions"][0];
    (condition["status"].as_str().unwrap_or(""), condition["reason"].as_str().unwrap_or(""))
}

#[tokio::test]
async fn every_cluster_has_upstreams_objects_and_keeps_the_mandatory_ones() {
    let world = world().await;
    let schemas = world.get(SCHEMAS).await.json();
    let schemas = schemas["items"].as_array().unwrap();
    assert_eq!((schemas.len(), world.get(LEVELS).await.json()["items"].as_array().unwrap().len()), (11, 8));
    assert!(schemas.iter().all(|schema| condition(schema) == ("False", "Found")));
    assert!(schemas.iter().all(|schema| schema["metadata"]["generation"] == 1), "nothing was written twice");
    world.delete(&format!("{SCHEMAS}/catch-all"), Json::Null).await.expect(200);
    eventually(&world, &format!("{SCHEMAS}/catch-all"), |code, _| code == 200).await;
    let changed = json!({"spec": {"limited": {"nominalConcurrencyShares": 7}}});
    world.patch(&format!("{LEVELS}/catch-all"), "merge", changed.clone()).await.expect(200);
    let shares = |json: &Json| json["spec"]["limited"]["nominalConcurrencyShares"].as_i64();
    eventually(&world, &format!("{LEVELS}/catch-all"), |_, json| shares(json) == Some(5)).await;
    let mine = json!({"metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": "false"}},
        "spec": changed["spec"].clone()});
    world.patch(&format!("{LEVELS}/global-default"), "merge", mine).await.expect(200);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(shares(&world.get(&format!("{LEVELS}/global-default")).await.json()), Some(7), "it was taken over");
}

#[tokio::test]
async fn answers_say_which_schema_and_level_decided() {
    let mut world = world().await;
    let uid = |object: Json| object["metadata"]["uid"].as_str().unwrap().to_owned();
    let header = "x-kubernetes-pf-flowschema-uid";
    for (user, schema, level) in [
        (User::system("admin"), "exempt", "exempt"),
        (User::service_account("kube-system", "a", "u"), "kube-system-service-accounts", "workload-high"),
        (User::service_account("default", "a", "u"), "service-accounts", "workload-low"),
        (User::new("alice", &["system:authenticated"]), "global-default", "global-default"),
        (User::new("system:node:n", &["system:nodes", "system:authenticated"]), "system-nodes", "system"),
    ] {
        let schema_uid = uid(world.get(&format!("{SCHEMAS}/{schema}")).await.json());
        let level_uid = uid(world.get(&format!("{LEVELS}/{level}")).await.json());
        let admin = std::mem::replace(&mut world.caller, Caller::Internal(user.clone().into()));
        let answer = world.get("/api/v1/namespaces/default/pods").await;
        world.caller = admin;
        assert_eq!(answer.headers[header], schema_uid, "{}", user.name);
        assert_eq!(answer.headers["x-kubernetes-pf-prioritylevel-uid"], level_uid, "{}", user.name);
    }
}

#[tokio::test]
async fn a_schema_of_ones_own_decides_and_dangles_without_its_level() {
    let mut world = world().await;
    let schema = json!({"metadata": {"name": "own"}, "spec": {"matchingPrecedence": 50,
        "priorityLevelConfiguration": {"name": "own"}, "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": "alice"}}], "resourceRules": [{"verbs": ["list"],
            "apiGroups": [""], "resources": ["pods"], "namespaces": ["*"]}]}]}});
    let schema_uid = world.post(SCHEMAS, schema).await.expect(201)["metadata"]["uid"].clone();
    eventually(&world, &format!("{SCHEMAS}/own"), |_, json| condition(json) == ("True", "NotFound")).await;
    let level = json!({"metadata": {"name": "own"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}}});
    world.post(LEVELS, level).await.expect(201);
    eventually(&world, &format!("{SCHEMAS}/own"), |_, json| condition(json) == ("False", "Found")).await;
    let binding = json!({"metadata": {"name": "alice"}, "subjects": [{"kind": "User", "name": "alice"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}});
    world.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.expect(201);
    let admin = world.caller.clone();
    world.caller = Caller::Internal(User::new("alice", &["system:authenticated"]).into());
    let answer = world.get("/api/v1/namespaces/default/pods").await;
    assert_eq!(answer.headers["x-kubernetes-pf-flowschema-uid"], schema_uid.as_str().unwrap());
    world.caller = admin;
    let table = world.get("/debug/api_priority_and_fairness/dump_priority_levels").await.text;
    let own: Vec<&str> =
        table.lines().find(|line| line.starts_with("own,")).unwrap().split(", ").map(str::trim).collect();
    assert_eq!(own[6], "1", "one request ran: {table}");
    let metrics = world.get("/metrics").await.text;
    for expected in [
        "apiserver_flowcontrol_dispatched_requests_total{priority_level=\"own\",flow_schema=\"own\"} 1",
        "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"workload-low\"}",
        "apiserver_flowcontrol_current_executing_requests{priority_level=\"exempt\"}",
    ] {
        assert!(metrics.contains(expected), "{expected}");
    }
}

#[tokio::test]
async fn warnings_come_with_valid_objects() {
    let world = world().await;
    let job = json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": {"restartPolicy": "Never",
        "nodeSelector": {"beta.kubernetes.io/os": "linux"}, "containers": [{"name": "c", "image": "i"}]}}}});
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let warning =
        |answer: super::support::Answer| answer.headers.get("warning").map(|w| w.to_str().unwrap().to_owned());
    let told = warning(world.post(jobs, job).await).unwrap();
    assert!(told.contains("spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14"), "{told}");
    let told = warning(world.delete(&format!("{jobs}/j"), json!({})).await).unwrap();
    assert!(told.contains("child pods are preserved by default"), "{told}");
    let options = json!({"propagationPolicy": "Background"});
    assert_eq!(warning(world.delete(&format!("{jobs}/j"), options).await), None);
}
