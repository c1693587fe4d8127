//! Aggregation as users and extension API servers see it: a real server over TLS on loopback, which believes who asks
//! only from whoever shows the front proxy's certificate.

use super::support::{Answer, World, config, serve, world};
use base64::Engine;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{Request, Response, body::Frame, body::Incoming, header, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use rustls::{RootCertStore, SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey};
use serde_json::{Value as Json, json};
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use timonel_apiserver::{
    Body,
    streams::{NodeConnector, NodeIo, NodeTarget},
};
use timonel_pki::{Authority, ClientSpec, ServerSpec, Validity};
use timonel_runtime::{Clock, OnError};
use timonel_store::MemoryStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

const API_SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const THINGS: &str = "/apis/things.example/v1/namespaces/default/things";

#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// An extension API server.
struct Extension {
    port: u16,
    ca: String,
    /// Whether it answers 500.
    broken: Arc<AtomicBool>,
    /// What it was asked: path and who asked.
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

fn validity() -> Validity {
    Validity::starting(Clock::system().now(), jiff::SignedDuration::from_hours(1))
}

fn full(text: String) -> BoxBody<bytes::Bytes, Infallible> {
    http_body_util::Full::from(text).boxed()
}

fn discovery() -> Json {
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": [{
        "metadata": {"name": "things.example"},
        "versions": [{"version": "v1", "freshness": "Current", "resources": [{"resource": "things", "scope": "Namespaced",
            "singularResource": "thing", "verbs": ["get", "list"],
            "responseKind": {"group": "things.example", "version": "v1", "kind": "Thing"}}]}]}]})
}

/// A watch: two events with time between them, so that whoever gathers the whole answer first is found out.
fn watch() -> BoxBody<bytes::Bytes, Infallible> {
    let events = futures::stream::unfold(0, |turn| async move {
        if turn > 0 {
            std::future::pending::<()>().await;
        }
        let event = bytes::Bytes::from_static(b"{\"type\":\"ADDED\"}\n");
        Some((Ok(Frame::data(event)), turn + 1))
    });
    BodyExt::boxed(StreamBody::new(events))
}

fn respond(request: &Request<Incoming>, who: &str) -> Response<BoxBody<bytes::Bytes, Infallible>> {
    let json = |body: Json| Response::builder().header("content-type", "application/json").body(full(body.to_string()));
    let path = request.uri().path();
    let response = match path {
        "/apis" => Response::builder()
            .header("content-type", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
            .header("etag", "\"1\"")
            .body(full(discovery().to_string())),
        "/apis/things.example/v1" => json(json!({"kind": "APIResourceList", "groupVersion": "things.example/v1"})),
        "/openapi/v3" => json(json!({"paths": {"apis/things.example/v1":
            {"serverRelativeURL": "/openapi/v3/apis/things.example/v1?hash=X"}}})),
        "/openapi/v3/apis/things.example/v1" => json(json!({"openapi": "3.0.0", "info": {"title": "things"}})),
        "/openapi/v2" => json(json!({"paths": {"/apis/things.example/v1/things": {"get": {}}}, "definitions": {}})),
        path if path.ends_with("/moved") => {
            Response::builder().status(302).header("location", "/x").body(full(String::new()))
        }
        THINGS if request.uri().query() == Some("watch=true") => Response::builder().body(watch()),
        _ => json(json!({"kind": "ThingList", "who": who, "path": path, "query": request.uri().query()})),
    };
    response.unwrap()
}

impl Extension {
    async fn start(world: &World, front_proxy: &Authority) -> Self {
        let authority = Authority::create("things", validity()).unwrap();
        let spec = ServerSpec { dns_names: vec!["things.default.svc".to_owned()], ..ServerSpec::default() };
        let (chain, key) = authority.issue_server(&spec, validity()).unwrap().rustls().unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(front_proxy.cert_der().clone()).unwrap();
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(chain, key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let ca = base64::engine::general_purpose::STANDARD.encode(authority.cert_pem());
        let own = Self { port, ca, broken: Arc::default(), asked: Arc::default() };
        let (acceptor, tasks) = (TlsAcceptor::from(Arc::new(tls)), world.tasks.clone());
        let (broken, asked) = (own.broken.clone(), own.asked.clone());
        world.tasks.spawn::<std::io::Error>("extension", OnError::Log, async move {
            loop {
                let (stream, _) = listener.accept().await?;
                let (acceptor, broken, asked, inner) = (acceptor.clone(), broken.clone(), asked.clone(), tasks.clone());
                tasks.spawn::<std::io::Error>("extension connection", OnError::Log, async move {
                    let io = TokioIo::new(acceptor.accept(stream).await?);
                    let answer = service_fn(move |mut request: Request<Incoming>| {
                        let text = |name: &str| {
                            let values = request.headers().get_all(name).iter();
                            values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(",")
                        };
                        let who = format!("{} [{}]", text("x-remote-user"), text("x-remote-group"));
                        asked.lock().push((request.uri().path().to_owned(), who.clone()));
                        assert_eq!(text("authorization"), "", "credentials are not passed on");
                        let mut response = respond(&request, &who);
                        if broken.load(Ordering::Relaxed) {
                            *response.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
                        } else if request.headers().contains_key(header::UPGRADE) {
                            *response.status_mut() = hyper::StatusCode::SWITCHING_PROTOCOLS;
                            response.headers_mut().insert(header::UPGRADE, "echo".parse().unwrap());
                            response.headers_mut().insert(header::CONNECTION, "Upgrade".parse().unwrap());
                            let on = hyper::upgrade::on(&mut request);
                            inner.spawn::<std::io::Error>("echo", OnError::Log, async move {
                                let mut io = TokioIo::new(on.await.map_err(std::io::Error::other)?);
                                let mut bytes = [0; 4];
                                io.read_exact(&mut bytes).await?;
                                io.write_all(&bytes).await?;
                                io.flush().await
                            });
                        }
                        async move { Ok::<_, Infallible>(response) }
                    });
                    drop(auto::Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(io, answer).await);
                    Ok(())
                });
            }
        });
        own
    }

    fn service(&self, extra: &Json) -> Json {
        let mut object = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": "v1.things.example"},
            "spec": {"group": "things.example", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 10,
                "caBundle": self.ca, "service": {"namespace": "default", "name": "things"}}});
        for (key, value) in extra.as_object().into_iter().flatten() {
            object["spec"][key] = value.clone();
        }
        object
    }
}

/// The Service in front of the extension, and its endpoint.
async fn lead(world: &World, port: u16) {
    let service = json!({"metadata": {"name": "things"}, "spec": {"ports": [{"port": 443}]}});
    world.post("/api/v1/namespaces/default/services", service).await.expect(201);
    let slice = json!({"metadata": {"name": "things-1", "labels": {"kubernetes.io/service-name": "things"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["192.0.2.7"], "nodeName": "n1", "conditions": {"ready": true}}]});
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    world.post(path, slice).await.expect(201);
}

/// A way to a node whose pods all live on loopback.
struct Node;

#[async_trait::async_trait]
impl NodeConnector for Node {
    async fn connect(&self, node: &str, target: NodeTarget) -> std::io::Result<Box<dyn NodeIo>> {
        let NodeTarget::Tcp { host, port } = target else { return Err(std::io::ErrorKind::NotConnected.into()) };
        assert_eq!((node, &*host), ("n1", "192.0.2.7"));
        Ok(Box::new(tokio::net::TcpStream::connect(("127.0.0.1", port)).await?))
    }
}

async fn condition(world: &World, reason: &str) -> Json {
    for _ in 0..400 {
        let object = world.get(&format!("{API_SERVICES}/v1.things.example")).await.json();
        let found = &object["status"]["conditions"][0];
        if found["reason"] == reason {
            return found.clone();
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{reason}: {}", world.get(&format!("{API_SERVICES}/v1.things.example")).await.text);
}

async fn extended() -> (World, Extension) {
    let clock = Clock::system();
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let authority = Authority::create("front-proxy", validity()).unwrap();
    let spec = ClientSpec { common_name: "front-proxy-client".to_owned(), organizations: Vec::new() };
    let (chain, key) = authority.issue_client(&spec, validity()).unwrap().rustls().unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut config = config(store.clone(), clock);
    config.front_proxy = Some(Arc::new(Shown(Arc::new(CertifiedKey::from_der(chain, key, &provider).unwrap()))));
    config.nodes = Some(Arc::new(Node));
    let world = serve(config, store).await;
    let extension = Extension::start(&world, &authority).await;
    (world, extension)
}

async fn aggregated(world: &World) -> Json {
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    world.send("GET", "/apis", &[("accept", accept)], "").await.json()
}

fn group<'j>(list: &'j Json, name: &str) -> Option<&'j Json> {
    list["items"].as_array()?.iter().find(|item| item["metadata"]["name"] == name)
}

#[tokio::test]
async fn local_groups_are_registered_and_follow_definitions() {
    let world = world().await;
    let list = world.get(API_SERVICES).await.json();
    let apps = list["items"].as_array().unwrap().iter().find(|item| item["metadata"]["name"] == "v1.apps").unwrap();
    assert_eq!(apps["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "onstart");
    let condition = &apps["status"]["conditions"][0];
    assert_eq!((&condition["reason"], &condition["status"]), (&json!("Local"), &json!("True")));
    let definition = json!({"metadata": {"name": "crons.stable.example"}, "spec": {"group": "stable.example",
        "scope": "Namespaced", "names": {"plural": "crons", "kind": "Cron"}, "versions": [{"name": "v1", "served": true,
            "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    world.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await.expect(201);
    let path = format!("{API_SERVICES}/v1.stable.example");
    let until = |code: u16| {
        let (world, path) = (&world, &path);
        async move {
            for _ in 0..400 {
                let answer = world.get(path).await;
                if answer.code == code {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            panic!("{path} is not {code}");
        }
    };
    let made = until(200).await.json();
    assert_eq!(made["spec"]["groupPriorityMinimum"], 1000);
    world.delete(&path, Json::Null).await;
    let again = until(200).await.json();
    assert_ne!(again["metadata"]["uid"], made["metadata"]["uid"], "it is put back");
    world.delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/crons.stable.example", Json::Null).await;
    until(404).await;
}

#[tokio::test]
async fn requests_reach_the_server_that_is_registered_as_who_made_them() {
    let (world, extension) = extended().await;
    let created = world.post(API_SERVICES, extension.service(&json!({}))).await.expect(201);
    assert_eq!(created["spec"]["service"]["port"], 443);
    assert_eq!(condition(&world, "ServiceNotFound").await["message"], "service/things in \"default\" is not present");
    let refused: Answer = world.get(THINGS).await;
    assert_eq!((refused.code, refused.text.as_str()), (503, "service unavailable\n"));
    assert_eq!(group(&aggregated(&world).await, "things.example").unwrap()["versions"][0]["freshness"], "Stale");
    lead(&world, extension.port).await;
    assert_eq!(condition(&world, "Passed").await["message"], "all checks passed");
    let answer =
        world.send("GET", &format!("{THINGS}?limit=5"), &[("authorization", "Bearer x")], "").await.expect(200);
    assert_eq!(answer["who"], "system:admin [system:masters,system:authenticated]");
    assert_eq!(answer["query"], "limit=5");
    assert_eq!(world.get(&format!("{THINGS}/moved")).await.code, 502);
    let watch = world.raw("GET", &format!("{THINGS}?watch=true"), &[], Body::empty()).await;
    let mut body = watch.into_body();
    let first = tokio::time::timeout(Duration::from_secs(10), body.frame()).await.expect("events come as they are");
    assert!(first.unwrap().unwrap().into_data().unwrap().starts_with(b"{\"type\""));
}

#[tokio::test]
async fn discovery_and_openapi_say_what_others_serve() {
    let (world, extension) = extended().await;
    lead(&world, extension.port).await;
    world.post(API_SERVICES, extension.service(&json!({}))).await.expect(201);
    condition(&world, "Passed").await;
    let mut found = Json::Null;
    for _ in 0..400 {
        found = group(&aggregated(&world).await, "things.example").cloned().unwrap_or_default();
        if found["versions"][0]["freshness"] == "Current" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(found["versions"][0]["resources"][0]["responseKind"]["kind"], "Thing");
    let plain = world.get("/apis").await.json();
    let names: Vec<&str> = plain["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
    assert_eq!(names.first(), Some(&"apiregistration.k8s.io"));
    assert_eq!(names.last(), Some(&"things.example"), "the lowest priority stands last");
    let one = world.get("/apis/things.example").await.expect(200);
    assert_eq!(one["preferredVersion"]["groupVersion"], "things.example/v1");
    let index = world.get("/openapi/v3").await.json();
    let url = index["paths"]["apis/things.example/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    assert_eq!(world.get(&url).await.json()["info"]["title"], "things");
    let two = world.get("/openapi/v2").await.json();
    assert!(two["paths"].get("/apis/things.example/v1/things").is_some() && two["paths"].get("/api/v1/pods").is_some());
    world.delete(&format!("{API_SERVICES}/v1.things.example"), Json::Null).await;
    assert_eq!(world.get("/apis/things.example").await.code, 404);
    assert_eq!(world.get(THINGS).await.code, 404, "nobody answers any more");
}

#[tokio::test]
async fn a_server_that_fails_is_said_to_and_comes_back() {
    let (world, extension) = extended().await;
    extension.broken.store(true, Ordering::Relaxed);
    lead(&world, extension.port).await;
    world.post(API_SERVICES, extension.service(&json!({}))).await.expect(201);
    let failed = condition(&world, "FailedDiscoveryCheck").await;
    assert_eq!(
        failed["message"],
        "failing or missing response from https://things.default.svc:443/apis/things.example/v1: bad status from \
         https://things.default.svc:443/apis/things.example/v1: 500"
    );
    assert!(extension.asked.lock().iter().all(|(_, who)| who == "system:kube-aggregator [system:masters]"));
    extension.broken.store(false, Ordering::Relaxed);
    condition(&world, "Passed").await;
    let metrics = world.get("/metrics").await.text;
    assert!(metrics.contains("aggregator_unavailable_apiservice{name=\"v1.things.example\"} 0"));
    let other = json!({"caBundle": null, "insecureSkipTLSVerify": true});
    world.patch(&format!("{API_SERVICES}/v1.things.example"), "merge", json!({"spec": other})).await.expect(200);
    condition(&world, "Passed").await;
    world.get(THINGS).await.expect(200);
}

#[tokio::test]
async fn upgrades_pass_through() {
    let (world, extension) = extended().await;
    lead(&world, extension.port).await;
    world.post(API_SERVICES, extension.service(&json!({}))).await.expect(201);
    condition(&world, "Passed").await;
    let (near, far) = tokio::io::duplex(4 << 10);
    let connection = timonel_apiserver::Connection::of(world.caller.clone(), false);
    let (server, stop) = (world.server.clone(), world.tasks.token());
    world.tasks.spawn("connection", OnError::Log, async move { server.serve_connection(far, connection, stop).await });
    let (mut sender, client) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
    world.tasks.spawn("client", OnError::Log, client.with_upgrades());
    let request = Request::builder()
        .uri(format!("{THINGS}/x/connect"))
        .header("host", "x")
        .header("connection", "Upgrade")
        .header("upgrade", "echo")
        .body(http_body_util::Empty::<bytes::Bytes>::new());
    let response = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), 101);
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    io.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    io.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"ping");
    let asked = extension.asked.lock();
    let (_, who) = asked.iter().find(|(path, _)| path.ends_with("/connect")).unwrap();
    assert_eq!(who, "system:admin [system:masters,system:authenticated]");
}
