//! Custom resources: served as soon as their definition is written, by the engine of the built-in kinds.

use super::support::{World, world};
use serde_json::{Value as Json, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

fn definition() -> Json {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {"group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "shortNames": ["ct"],
                "categories": ["all"]},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
                "additionalPrinterColumns": [
                    {"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"},
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas", "priority": 1}],
                "selectableFields": [{"jsonPath": ".spec.image"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["cronSpec"], "properties": {
                        "cronSpec": {"type": "string", "pattern": "^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$"},
                        "image": {"type": "string"},
                        "replicas": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1},
                        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"],
                            "items": {"type": "object", "required": ["port"],
                                "properties": {"port": {"type": "integer"}, "name": {"type": "string"}}}}}},
                    "status": {"type": "object", "properties": {"replicas": {"type": "integer"},
                        "selector": {"type": "string"}}}}}}}]}})
}

fn tab(name: &str, spec: Json) -> Json {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name}, "spec": spec})
}

async fn with_definition() -> World {
    let world = world().await;
    world.post(DEFINITIONS, definition()).await.expect(201);
    world
}

fn condition<'a>(crd: &'a Json, kind: &str) -> &'a Json {
    crd["status"]["conditions"].as_array().unwrap().iter().find(|one| one["type"] == kind).unwrap_or(&Json::Null)
}

#[tokio::test(start_paused = true)]
async fn a_definition_is_served_when_its_write_answers() {
    let world = world().await;
    assert_eq!(world.get(TABS).await.code, 404);
    let crd = world.post(DEFINITIONS, definition()).await.expect(201);
    assert_eq!(condition(&crd, "Established")["status"], "True");
    assert_eq!(condition(&crd, "NamesAccepted")["reason"], "NoConflicts");
    assert_eq!(crd["status"]["acceptedNames"]["listKind"], "CronTabList");
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    let list = world.get(TABS).await.expect(200);
    assert_eq!((&list["kind"], &list["items"]), (&json!("CronTabList"), &json!([])));
    let created = world.post(TABS, tab("a", json!({"cronSpec": "* * * * */5", "image": "i", "junk": 1}))).await;
    assert!(created.headers["warning"].to_str().unwrap().contains("unknown field"), "{:?}", created.headers);
    let created = created.expect(201);
    assert_eq!(created["spec"], json!({"cronSpec": "* * * * */5", "image": "i", "replicas": 1}));
    assert_eq!(
        (&created["metadata"]["generation"], &created["apiVersion"]),
        (&json!(1), &json!("stable.example.com/v1"))
    );
    assert_eq!(world.get(&format!("{TABS}/a")).await.expect(200), created);
    let listed = world.get("/apis/stable.example.com/v1/crontabs").await.expect(200);
    assert_eq!(listed["items"][0], created);
}

#[tokio::test(start_paused = true)]
async fn what_the_schema_forbids_is_refused_in_upstreams_words() {
    let world = with_definition().await;
    for (spec, message) in [
        (json!({}), "CronTab.stable.example.com \"a\" is invalid: spec.cronSpec: Required value"),
        (
            json!({"cronSpec": "x"}),
            "spec.cronSpec: Invalid value: \"x\": spec.cronSpec in body should match \
             '^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$'",
        ),
        (
            json!({"cronSpec": "* * * * *", "replicas": 11}),
            "spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10",
        ),
        (
            json!({"cronSpec": "* * * * *", "replicas": "2"}),
            "spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\"",
        ),
        (
            json!({"cronSpec": "* * * * *", "ports": [{"port": 1}, {"port": 1}]}),
            "spec.ports[1]: Duplicate value: {\"port\":1}",
        ),
    ] {
        let answer = world.post(TABS, tab("a", spec.clone())).await;
        assert_eq!(answer.code, 422, "{}", answer.text);
        assert!(answer.message().contains(message), "{spec}: {}", answer.message());
    }
    let strict = world
        .post(
            &format!("{TABS}?fieldValidation=Strict"),
            tab("a", json!({"cronSpec": "* * * * *", "x": 1, "ports": [{"y": 2}]})),
        )
        .await;
    assert_eq!(strict.code, 400);
    assert!(
        strict.message().contains("strict decoding error: unknown field \"spec.ports[0].y\", unknown field \"spec.x\""),
        "{}",
        strict.message()
    );
}

#[tokio::test(start_paused = true)]
async fn status_and_scale_are_parts_of_their_own() {
    let world = with_definition().await;
    let mut object = tab("a", json!({"cronSpec": "* * * * *", "replicas": 3}));
    object["status"] = json!({"replicas": 9});
    let created = world.post(TABS, object).await.expect(201);
    assert!(created.get("status").is_none());
    let path = format!("{TABS}/a");
    let status = json!({"status": {"replicas": 2, "selector": "app=a"}, "spec": {"replicas": 7}});
    let patched = world.patch(&format!("{path}/status"), "merge", status).await.expect(200);
    assert_eq!((&patched["spec"]["replicas"], &patched["status"]["replicas"]), (&json!(3), &json!(2)));
    assert_eq!(patched["metadata"]["generation"], 1);
    let scale = world.get(&format!("{path}/scale")).await.expect(200);
    assert_eq!(scale["spec"]["replicas"], 3);
    assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=a"}));
    let patched = world.patch(&format!("{path}/scale"), "merge", json!({"spec": {"replicas": 5}})).await.expect(200);
    assert_eq!(patched["spec"]["replicas"], 5);
    let object = world.get(&path).await.expect(200);
    assert_eq!((&object["spec"]["replicas"], &object["metadata"]["generation"]), (&json!(5), &json!(2)));
    let refused = world.patch(&format!("{path}/status"), "merge", json!({"status": {"replicas": "x"}})).await;
    assert!(refused.message().contains("status.replicas: Invalid value"), "{}", refused.message());
    assert_eq!(world.patch(&path, "strategic", json!({})).await.code, 415);
}

#[tokio::test(start_paused = true)]
async fn tables_and_selectors_follow_the_definition() {
    let world = with_definition().await;
    for (name, image) in [("a", "one"), ("b", "two")] {
        world.post(TABS, tab(name, json!({"cronSpec": "* * * * *", "image": image}))).await.expect(201);
    }
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let table = world.send("GET", TABS, &[("accept", table)], "").await.expect(200);
    let names: Vec<_> = table["columnDefinitions"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["Name", "Spec", "Replicas"]);
    assert_eq!(table["rows"][0]["cells"], json!(["a", "* * * * *", 1]));
    let found = world.get(&format!("{TABS}?fieldSelector=spec.image%3Dtwo")).await.expect(200);
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    assert_eq!(found["items"][0]["metadata"]["name"], "b");
    let refused = world.get(&format!("{TABS}?fieldSelector=spec.other%3Dtwo")).await;
    assert_eq!(refused.code, 400);
    assert!(refused.message().contains("field label not supported: spec.other"), "{}", refused.message());
}

#[tokio::test(start_paused = true)]
async fn names_in_use_are_not_given_twice() {
    let world = with_definition().await;
    let mut other = definition();
    other["metadata"]["name"] = "others.stable.example.com".into();
    other["spec"]["names"] = json!({"plural": "others", "singular": "other", "kind": "CronTab", "shortNames": ["ot"]});
    let crd = world.post(DEFINITIONS, other).await.expect(201);
    assert_eq!(condition(&crd, "NamesAccepted")["reason"], "ListKindConflict");
    assert_eq!(condition(&crd, "Established")["status"], "False");
    assert_eq!(world.get("/apis/stable.example.com/v1/others").await.code, 404);
    world.delete(&format!("{DEFINITIONS}/crontabs.stable.example.com"), Json::Null).await;
    for _ in 0..100 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        if world.get("/apis/stable.example.com/v1/others").await.code == 200 {
            return;
        }
    }
    panic!("the names came free, and nobody took them");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_definition_takes_its_objects_along() {
    let world = with_definition().await;
    for name in ["a", "b"] {
        world.post(TABS, tab(name, json!({"cronSpec": "* * * * *"}))).await.expect(201);
    }
    let crd = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let answer = world.delete(&crd, Json::Null).await.expect(200);
    assert_eq!(answer["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    for _ in 0..100 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        if world.get(&crd).await.code == 404 {
            assert_eq!(world.get(TABS).await.code, 404);
            world.post(DEFINITIONS, definition()).await.expect(201);
            assert_eq!(world.get(TABS).await.expect(200)["items"], json!([]), "nothing came back");
            return;
        }
    }
    panic!("the definition did not go: {}", world.get(&crd).await.text);
}

#[tokio::test(start_paused = true)]
async fn discovery_tells_of_it() {
    let world = with_definition().await;
    let plain = world.get("/apis/stable.example.com/v1").await.expect(200);
    let names: Vec<_> =
        plain["resources"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["crontabs", "crontabs/scale", "crontabs/status"]);
    assert_eq!(plain["resources"][0]["shortNames"], json!(["ct"]));
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let aggregated = world.send("GET", "/apis", &[("accept", accept)], "").await.expect(200);
    let group = aggregated["items"].as_array().unwrap().last().unwrap();
    assert_eq!(group["metadata"]["name"], "stable.example.com");
    assert_eq!(group["versions"][0]["resources"][0]["resource"], "crontabs");
    assert_eq!(world.get("/apis/stable.example.com").await.expect(200)["preferredVersion"]["version"], "v1");
}
