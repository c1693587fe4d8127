//! Admission webhooks as their owners see them: a real HTTPS server on loopback is asked.

use super::support::{Answer, MAPS, World, config_map, world};
use base64::Engine;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use std::{convert::Infallible, sync::Arc, time::Duration};
use timonel_apiserver::Body;
use timonel_pki::{Authority, ServerSpec, Validity};
use timonel_runtime::{Clock, OnError};
use tokio_rustls::TlsAcceptor;

const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// What a webhook was sent: its path and the request.
type Asked = Arc<Mutex<Vec<(String, Json)>>>;

struct Hooks {
    port: u16,
    ca: String,
    asked: Asked,
}

fn patch(operations: &Json) -> String {
    base64::engine::general_purpose::STANDARD.encode(operations.to_string())
}

/// Answers by path.
async fn respond(path: &str, request: &Json) -> Json {
    if path == "/convert" {
        return converted(request);
    }
    let patched = |operations: &Json| json!({"allowed": true, "patchType": "JSONPatch", "patch": patch(operations)});
    let stages = request["object"]["data"]["stages"].as_str().unwrap_or("").to_owned();
    let mut response = match path {
        "/deny" => json!({"allowed": false, "status": {"code": 403, "message": "not today", "reason": "Forbidden"}}),
        "/silent" => json!({"allowed": false}),
        "/warn" => json!({"allowed": true, "warnings": ["careful"], "auditAnnotations": {"k": "v"}}),
        "/wrong" => json!({"allowed": true, "patch": "W10=", "patchType": "JSONPatch"}),
        "/slow" => {
            tokio::time::sleep(Duration::from_secs(5)).await;
            json!({"allowed": true})
        }
        path if path.starts_with("/add-") => {
            let name = path.trim_start_matches("/add-");
            patched(&json!([{"op": "add", "path": "/data/stages", "value": format!("{stages}{name}")}]))
        }
        "/sidecar" => patched(&json!([{"op": "add", "path": "/spec/containers/-",
            "value": {"name": "side", "image": "registry.example/side:1"}}])),
        _ => json!({"allowed": true}),
    };
    response["uid"] = request["uid"].clone();
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response})
}

/// Version 1 has `spec.hostPort`, version 2 the two apart.
fn converted(request: &Json) -> Json {
    let wanted = request["desiredAPIVersion"].as_str().unwrap();
    let convert = |object: &Json| {
        let mut object = object.clone();
        let spec = object["spec"].clone();
        object["spec"] = match spec["hostPort"].as_str().and_then(|text| text.split_once(':')) {
            Some((host, port)) => json!({"host": host, "port": port}),
            None => {
                json!({"hostPort": format!("{}:{}", spec["host"].as_str().unwrap(), spec["port"].as_str().unwrap())})
            }
        };
        object["apiVersion"] = wanted.into();
        object
    };
    let objects: Vec<Json> = request["objects"].as_array().unwrap().iter().map(convert).collect();
    let response = json!({"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": objects});
    json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response})
}

async fn hooks(world: &World) -> Hooks {
    let now = Clock::system().now();
    let validity = Validity::starting(now, jiff::SignedDuration::from_hours(1));
    let authority = Authority::create("hooks", validity).unwrap();
    let spec = ServerSpec { dns_names: vec!["localhost".to_owned()], ..ServerSpec::default() };
    let (chain, key) = authority.issue_server(&spec, validity).unwrap().rustls().unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Asked::default();
    let (seen, tasks) = (asked.clone(), world.tasks.clone());
    world.tasks.spawn::<std::io::Error>("hooks", OnError::Log, async move {
        loop {
            let (stream, _) = listener.accept().await?;
            let (acceptor, seen) = (acceptor.clone(), seen.clone());
            tasks.spawn::<std::io::Error>("hook", OnError::Log, async move {
                let io = TokioIo::new(acceptor.accept(stream).await?);
                let answer = service_fn(move |request: Request<Incoming>| {
                    let seen = seen.clone();
                    async move {
                        let path = request.uri().path().to_owned();
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let review: Json = serde_json::from_slice(&body).unwrap();
                        seen.lock().push((path.clone(), review["request"].clone()));
                        let (code, body) = match &*path {
                            "/broken" => (500, "boom".to_owned()),
                            _ => (200, respond(&path, &review["request"]).await.to_string()),
                        };
                        let response = Response::builder().status(code).body(Full::new(bytes::Bytes::from(body)));
                        Ok::<_, Infallible>(response.unwrap())
                    }
                });
                drop(auto::Builder::new(TokioExecutor::new()).serve_connection(io, answer).await);
                Ok(())
            });
        }
    });
    let ca = base64::engine::general_purpose::STANDARD.encode(authority.cert_pem());
    Hooks { port, ca, asked }
}

impl Hooks {
    fn hook(&self, name: &str, path: &str, extra: &Json) -> Json {
        let mut hook = json!({
            "name": name,
            "clientConfig": {"url": format!("https://localhost:{}/{path}", self.port), "caBundle": self.ca},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}
        });
        for (key, value) in extra.as_object().into_iter().flatten() {
            hook[key] = value.clone();
        }
        hook
    }

    fn paths(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock()).into_iter().map(|(path, _)| path).collect()
    }
}

fn configuration(kind: &str, name: &str, hooks: &[Json]) -> Json {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "webhooks": hooks})
}

async fn validating(world: &World, hook: Json) {
    drop(world.delete(&format!("{VALIDATING}/v"), Json::Null).await);
    world.post(VALIDATING, configuration("ValidatingWebhookConfiguration", "v", &[hook])).await.expect(201);
}

async fn create(world: &World, name: &str) -> Answer {
    world.post(MAPS, config_map(name, json!({"a": "b"}))).await
}

#[tokio::test]
async fn validating_webhooks_refuse_warn_and_fail_as_they_are_told() {
    let world = world().await;
    let hooks = hooks(&world).await;
    for (path, extra, code, message) in [
        ("deny", json!({}), 403, "admission webhook \"v.example.com\" denied the request: not today"),
        ("silent", json!({}), 400, "admission webhook \"v.example.com\" denied the request without explanation"),
        ("allow", json!({}), 201, ""),
        ("deny", json!({"objectSelector": {"matchLabels": {"x": "y"}}}), 201, ""),
        ("deny", json!({"namespaceSelector": {"matchLabels": {"x": "y"}}}), 201, ""),
        ("deny", json!({"matchConditions": [{"name": "c", "expression": "object.metadata.name != 'a'"}]}), 201, ""),
        (
            "allow",
            json!({"matchConditions": [{"name": "c", "expression": "object.metadata.nothing == 'a'"}]}),
            403,
            "configmaps \"a\" is forbidden: expression 'object.metadata.nothing == 'a'' resulted in error: no such key: nothing",
        ),
        (
            "broken",
            json!({}),
            500,
            "Internal error occurred: failed calling webhook \"v.example.com\": failed to call webhook: an error on the server (\"boom\") has prevented the request from succeeding",
        ),
        ("broken", json!({"failurePolicy": "Ignore"}), 201, ""),
        (
            "wrong",
            json!({}),
            500,
            "Internal error occurred: failed calling webhook \"v.example.com\": received invalid webhook response: validating webhook may not return response.patch",
        ),
    ] {
        validating(&world, hooks.hook("v.example.com", path, &extra)).await;
        let answer = create(&world, "a").await;
        assert_eq!(
            (answer.code, if code == 201 { String::new() } else { answer.message() }),
            (code, message.to_owned()),
            "{path} {extra}"
        );
        drop(world.delete(&format!("{VALIDATING}/v"), Json::Null).await);
        drop(world.delete(&format!("{MAPS}/a"), Json::Null).await);
    }
    validating(&world, hooks.hook("v.example.com", "warn", &json!({}))).await;
    let answer = create(&world, "w").await;
    let warning = answer.headers.get("warning").map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(warning.as_deref(), Some("299 - \"careful\""));
}

#[tokio::test]
async fn slow_and_unreachable_webhooks_harm_only_what_they_are_asked() {
    let world = world().await;
    let hooks = hooks(&world).await;
    validating(&world, hooks.hook("v.example.com", "slow", &json!({"timeoutSeconds": 1}))).await;
    let message = create(&world, "a").await.message();
    let url = format!("https://localhost:{}/slow?timeout=1s", hooks.port);
    assert_eq!(
        message,
        format!(
            "Internal error occurred: failed calling webhook \"v.example.com\": failed to call webhook: Post {url:?}: context deadline exceeded"
        )
    );
    world.post("/api/v1/namespaces/default/secrets", json!({"metadata": {"name": "s"}})).await.expect(201);
    let gone = json!({"clientConfig": {"service": {"namespace": "default", "name": "gone"}}});
    validating(&world, hooks.hook("v.example.com", "x", &gone)).await;
    let message = create(&world, "a").await.message();
    assert!(
        message.ends_with("Post \"https://gone.default.svc:443/?timeout=10s\": service \"gone\" not found"),
        "{message}"
    );
    let foreign = json!({"clientConfig": {"url": format!("https://localhost:{}/", hooks.port), "caBundle": ""}});
    validating(&world, hooks.hook("v.example.com", "x", &foreign)).await;
    assert!(create(&world, "a").await.message().contains("certificate"), "an unknown authority vouches for nobody");
}

#[tokio::test]
async fn mutating_webhooks_follow_one_another_and_see_what_others_did() {
    let world = world().await;
    let hooks = hooks(&world).await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    let first = configuration(
        "MutatingWebhookConfiguration",
        "a",
        &[hooks.hook("one.example.com", "add-1", &again), hooks.hook("two.example.com", "add-2", &json!({}))],
    );
    world.post(MUTATING, first).await.expect(201);
    let second =
        configuration("MutatingWebhookConfiguration", "b", &[hooks.hook("three.example.com", "add-3", &json!({}))]);
    world.post(MUTATING, second).await.expect(201);
    let made = create(&world, "m").await.expect(201);
    assert_eq!(made["data"]["stages"], "1231", "the first is asked again because later ones changed something");
    assert_eq!(hooks.paths(), ["/add-1", "/add-2", "/add-3", "/add-1"]);
    let asked = world
        .send(
            "POST",
            &format!("{MAPS}?dryRun=All"),
            &[("content-type", "application/json")],
            config_map("d", json!({"a": "b"})).to_string(),
        )
        .await;
    asked.expect(201);
    let (_, request) = hooks.asked.lock().remove(0);
    assert_eq!(
        (&request["dryRun"], &request["operation"], &request["userInfo"]["username"], &request["options"]["kind"]),
        (&json!(true), &json!("CREATE"), &json!("system:admin"), &json!("CreateOptions"))
    );
    assert_eq!(request["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!((&request["name"], &request["namespace"]), (&json!("d"), &json!("default")));
    assert_eq!(request["oldObject"], Json::Null);
    world.delete(&format!("{MUTATING}/a"), Json::Null).await.expect(200);
    world.delete(&format!("{MUTATING}/b"), Json::Null).await.expect(200);
    assert!(hooks.paths().iter().all(|path| path.starts_with("/add")), "nobody is asked about configurations");
}

#[tokio::test]
async fn what_webhooks_add_is_defaulted_and_validated() {
    let world = world().await;
    let hooks = hooks(&world).await;
    let rules =
        json!({"rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
    let hook = hooks.hook("pods.example.com", "sidecar", &rules);
    world.post(MUTATING, configuration("MutatingWebhookConfiguration", "p", &[hook])).await.expect(201);
    let pod = world.post(super::support::PODS, super::support::pod("p")).await.expect(201);
    let side = &pod["spec"]["containers"][1];
    assert_eq!((&side["name"], &side["imagePullPolicy"]), (&json!("side"), &json!("IfNotPresent")));
    assert!(
        side["volumeMounts"][0]["name"].as_str().unwrap_or("").starts_with("kube-api-access"),
        "built-in rules ran again: {side}"
    );
}

#[tokio::test]
async fn equivalent_versions_are_asked_in_the_version_they_want() {
    let world = world().await;
    let hooks = hooks(&world).await;
    let rules = |policy: &str| {
        json!({"matchPolicy": policy, "rules": [
            {"operations": ["*"], "apiGroups": ["autoscaling"], "apiVersions": ["v1"], "resources": ["*"]}]})
    };
    let scaler = |name: &str| {
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name}, "spec": {
            "maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}})
    };
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    validating(&world, hooks.hook("v.example.com", "deny", &rules("Exact"))).await;
    world.post(path, scaler("a")).await.expect(201);
    validating(&world, hooks.hook("v.example.com", "allow", &rules("Equivalent"))).await;
    world.post(path, scaler("b")).await.expect(201);
    let (_, request) = hooks.asked.lock().remove(0);
    assert_eq!((&request["kind"]["version"], &request["requestKind"]["version"]), (&json!("v1"), &json!("v2")));
    assert_eq!(request["object"]["apiVersion"], "autoscaling/v1");
    assert_eq!(request["object"]["spec"]["targetCPUUtilizationPercentage"], 50);
}

#[tokio::test]
async fn side_effects_forbid_dry_runs_and_bad_conditions_are_not_stored() {
    let world = world().await;
    let hooks = hooks(&world).await;
    // `Some` is refused by validation in v1, so a configuration that predates it is what remains: none does here.
    let hook = hooks.hook("v.example.com", "allow", &json!({"sideEffects": "Some"}));
    let answer = world.post(VALIDATING, configuration("ValidatingWebhookConfiguration", "v", &[hook])).await;
    assert_eq!(answer.code, 422, "{}", answer.text);
    let bad = json!({"matchConditions": [{"name": "c", "expression": "...)"}]});
    let hook = hooks.hook("v.example.com", "allow", &bad);
    let answer = world.post(VALIDATING, configuration("ValidatingWebhookConfiguration", "v", &[hook])).await;
    assert_eq!(answer.code, 422);
    assert!(answer.message().contains("compilation failed"), "{}", answer.text);
}

/// Type and name of the next event of a watch.
async fn told(body: &mut Body) -> String {
    let frame = tokio::time::timeout(Duration::from_secs(30), body.frame()).await.expect("an event in time");
    let event: Json = serde_json::from_slice(&frame.expect("an event").unwrap().into_data().unwrap()).unwrap();
    format!("{} {}", event["type"].as_str().unwrap(), event["object"]["metadata"]["name"].as_str().unwrap())
}

#[tokio::test]
async fn versions_of_custom_resources_convert_through_a_webhook() {
    let world = world().await;
    let hooks = hooks(&world).await;
    let version = |name: &str, storage: bool, fields: &[&str]| {
        let properties: serde_json::Map<String, Json> =
            fields.iter().map(|name| ((*name).to_owned(), json!({"type": "string"}))).collect();
        let selectable: Vec<Json> = fields.iter().map(|name| json!({"jsonPath": format!(".spec.{name}")})).collect();
        json!({"name": name, "served": true, "storage": storage, "selectableFields": selectable,
            "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"spec": {"type": "object", "properties": properties}}}}})
    };
    let client = json!({"url": format!("https://localhost:{}/convert", hooks.port), "caBundle": hooks.ca});
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "places.a.example.com"}, "spec": {"group": "a.example.com", "scope": "Namespaced",
            "names": {"plural": "places", "kind": "Place"},
            "versions": [version("v1", true, &["hostPort"]), version("v2", false, &["host", "port"])],
            "conversion": {"strategy": "Webhook",
                "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1"]}}}});
    world.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd).await.expect(201);
    let (one, two) =
        ("/apis/a.example.com/v1/namespaces/default/places", "/apis/a.example.com/v2/namespaces/default/places");
    let first = json!({"apiVersion": "a.example.com/v1", "kind": "Place", "metadata": {"name": "a"}, "spec": {"hostPort": "h:1"}});
    world.post(one, first).await.expect(201);
    assert!(hooks.paths().is_empty(), "nothing is converted that is stored as it came");
    let seen = world.get(&format!("{two}/a")).await.expect(200);
    assert_eq!((&seen["apiVersion"], &seen["spec"]), (&json!("a.example.com/v2"), &json!({"host": "h", "port": "1"})));
    let second = json!({"apiVersion": "a.example.com/v2", "kind": "Place", "metadata": {"name": "b"},
        "spec": {"host": "i", "port": "2"}});
    let created = world.post(two, second).await.expect(201);
    assert_eq!(created["spec"], json!({"host": "i", "port": "2"}));
    assert_eq!(world.get(&format!("{one}/b")).await.expect(200)["spec"], json!({"hostPort": "i:2"}));
    hooks.paths();
    let listed = world.get(two).await.expect(200);
    assert_eq!(listed["items"][1]["spec"]["host"], "i");
    assert!(hooks.paths().is_empty(), "what was converted once is kept");
    let chosen = world.get(&format!("{two}?fieldSelector=spec.host%3Di,spec.port%3D2")).await.expect(200);
    assert_eq!(chosen["items"].as_array().unwrap().len(), 1, "fields of the version that is asked for");
    assert_eq!(chosen["items"][0]["metadata"]["name"], "b");
    assert_eq!(
        world.get(&format!("{one}?fieldSelector=spec.hostPort%3Dh:1")).await.expect(200)["items"][0]["metadata"]["name"],
        "a"
    );
    let watch = format!("{two}?watch=true&fieldSelector=spec.port%3D2");
    let mut body = world.raw("GET", &watch, &[], Body::empty()).await.into_body();
    assert_eq!(told(&mut body).await, "ADDED b");
    let patch = json!({"spec": {"port": "3"}});
    let patched = world.patch(&format!("{two}/a"), "merge", patch).await.expect(200);
    assert_eq!(patched["spec"], json!({"host": "h", "port": "3"}));
    assert_eq!(world.get(&format!("{one}/a")).await.expect(200)["spec"], json!({"hostPort": "h:3"}));
    for port in ["2", "4"] {
        world.patch(&format!("{two}/a"), "merge", json!({"spec": {"port": port}})).await.expect(200);
    }
    assert_eq!((told(&mut body).await, told(&mut body).await), ("ADDED a".to_owned(), "DELETED a".to_owned()));
    world.delete(&format!("{two}/a"), Json::Null).await.expect(200);
}
