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

fn ruled(rules: Json) -> Json {
    let mut crd = definition();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] = rules;
    crd
}

#[tokio::test(start_paused = true)]
async fn rules_in_cel_are_kept() {
    let world = world().await;
    let rules = json!([
        {"rule": "self.replicas < 5 || has(self.image)", "messageExpression": "self.replicas > 5 ? 'too many' : 'some'"},
        {"rule": "!has(oldSelf.image) || self.image == oldSelf.image", "message": "image stays", "reason": "FieldValueForbidden",
            "fieldPath": ".image"},
    ]);
    world.post(DEFINITIONS, ruled(rules)).await.expect(201);
    let refused = world.post(TABS, tab("a", json!({"cronSpec": "* * * * *", "replicas": 6}))).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    assert!(refused.message().ends_with("is invalid: spec: Invalid value: too many"), "{}", refused.message());
    world.post(TABS, tab("a", json!({"cronSpec": "* * * * *", "replicas": 6, "image": "x"}))).await.expect(201);
    let refused = world.patch(&format!("{TABS}/a"), "merge", json!({"spec": {"image": "y"}})).await;
    assert!(refused.message().ends_with("is invalid: spec.image: Forbidden: image stays"), "{}", refused.message());
    world.patch(&format!("{TABS}/a"), "merge", json!({"spec": {"replicas": 7}})).await.expect(200);
}

#[tokio::test(start_paused = true)]
async fn rules_are_checked_when_a_definition_is_written() {
    let world = world().await;
    for (rule, expected) in [
        (json!({"rule": "self.nothing == 1"}), "undefined field 'nothing'"),
        (json!({"rule": "self.replicas"}), "cel expression must evaluate to a bool"),
        (json!({"rule": "self = 1"}), "Syntax error"),
        (
            json!({"rule": "self.ports.all(x, self.ports.all(y, self.ports.all(z, x.port == y.port && y.port == z.port)))"}),
            "exceeds budget",
        ),
        (json!({"rule": "true", "messageExpression": "1"}), "messageExpression must evaluate to a string"),
    ] {
        let answer = world.post(DEFINITIONS, ruled(json!([rule]))).await;
        assert_eq!(answer.code, 422, "{rule}: {}", answer.text);
        assert!(answer.message().contains(expected), "{rule}: {}", answer.message());
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_wrong_already_may_stay() {
    let world = with_definition().await;
    world.post(TABS, tab("a", json!({"cronSpec": "* * * * *", "image": "long-name", "replicas": 9}))).await.expect(201);
    let mut crd = world.get(&format!("{DEFINITIONS}/crontabs.stable.example.com")).await.expect(200);
    let spec = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec["properties"]["image"]["maxLength"] = 4.into();
    spec["properties"]["replicas"]["x-kubernetes-validations"] = json!([{"rule": "self < 5"}]);
    world.put(&format!("{DEFINITIONS}/crontabs.stable.example.com"), crd).await.expect(200);
    let patched = world.patch(&format!("{TABS}/a"), "merge", json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(patched.code, 200, "{}", patched.text);
    assert!(patched.headers.contains_key("warning"), "{:?} {}", patched.headers, patched.text);
    assert!(patched.headers["warning"].to_str().unwrap().contains("failed rule: self < 5"), "{:?}", patched.headers);
    patched.expect(200);
    let refused =
        world.patch(&format!("{TABS}/a"), "merge", json!({"spec": {"image": "other-name", "replicas": 8}})).await;
    assert!(refused.message().contains("spec.image: Too long"), "{}", refused.message());
}

#[tokio::test(start_paused = true)]
async fn a_changed_definition_shows_in_old_objects() {
    let world = with_definition().await;
    world.post(TABS, tab("a", json!({"cronSpec": "* * * * *", "image": "i"}))).await.expect(201);
    let mut crd = world.get(&format!("{DEFINITIONS}/crontabs.stable.example.com")).await.expect(200);
    let properties = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    properties["color"] = json!({"type": "string", "default": "red"});
    properties.as_object_mut().unwrap().remove("image");
    crd["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.color"}]);
    world.put(&format!("{DEFINITIONS}/crontabs.stable.example.com"), crd).await.expect(200);
    let object = world.get(&format!("{TABS}/a")).await.expect(200);
    assert_eq!(object["spec"], json!({"color": "red", "cronSpec": "* * * * *", "replicas": 1}));
    assert_eq!(object["metadata"]["name"], "a");
    let listed = world.get(TABS).await.expect(200);
    assert_eq!(listed["items"][0], object);
}

#[tokio::test(start_paused = true)]
async fn versions_share_their_objects() {
    let world = world().await;
    let mut crd = definition();
    let mut second = crd["spec"]["versions"][0].clone();
    second["name"] = "v2".into();
    second["storage"] = false.into();
    // Upstream takes selectable fields that all versions share only where they share a schema too.
    second.as_object_mut().unwrap().remove("selectableFields");
    second["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["extra"] =
        json!({"type": "string", "default": "e"});
    crd["spec"]["versions"].as_array_mut().unwrap().push(second);
    world.post(DEFINITIONS, crd).await.expect(201);
    let old = TABS.to_owned();
    let new = TABS.replace("/v1/", "/v2/");
    world.post(&old, tab("a", json!({"cronSpec": "* * * * *"}))).await.expect(201);
    let seen = world.get(&format!("{new}/a")).await.expect(200);
    assert_eq!((&seen["apiVersion"], &seen["spec"]["extra"]), (&json!("stable.example.com/v2"), &json!("e")));
    let mut other = tab("b", json!({"cronSpec": "* * * * *", "extra": "x"}));
    other["apiVersion"] = "stable.example.com/v2".into();
    world.post(&new, other).await.expect(201);
    let seen = world.get(&format!("{old}/b")).await.expect(200);
    assert_eq!(seen["spec"], json!({"cronSpec": "* * * * *", "replicas": 1}), "stored in the version of storage");
    let names = world.get("/apis").await.expect(200);
    let group = names["groups"].as_array().unwrap().last().unwrap();
    assert_eq!(group["preferredVersion"]["version"], "v2");
}

#[tokio::test(start_paused = true)]
async fn clients_can_explain_and_apply() {
    let world = with_definition().await;
    let index = world.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["apis/stable.example.com/v1"]["serverRelativeURL"].as_str().unwrap();
    let document = world.get(url).await.expect(200);
    let schema = &document["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(schema["properties"]["spec"]["properties"]["replicas"]["default"], 1);
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "CronTab");
    assert!(
        document["paths"]["/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}/scale"]["get"]
            .is_object()
    );
    let second = world.get("/openapi/v2").await.expect(200);
    assert!(second["definitions"]["com.example.stable.v1.CronTabList"].is_object());
    let apply = |object: Json, manager: &str| {
        let path = format!("{TABS}/a?fieldManager={manager}");
        let body = object.to_string();
        let world = &world;
        async move { world.send("PATCH", &path, &[("content-type", "application/apply-patch+yaml")], body).await }
    };
    let ports = |port: u16| json!({"cronSpec": "* * * * *", "ports": [{"port": port, "name": "n"}]});
    apply(tab("a", ports(1)), "one").await.expect(201);
    let both = apply(tab("a", json!({"ports": [{"port": 2}]})), "two").await.expect(200);
    assert_eq!(both["spec"]["ports"].as_array().unwrap().len(), 2, "lists merge by their keys");
    assert_eq!(apply(tab("a", json!({"cronSpec": "1 * * * *"})), "two").await.code, 409);
}
