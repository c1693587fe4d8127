//! One trace over what an object goes through, seen from where others take it up.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use std::sync::Arc;
use timonel_apiserver::{ApiServer, Body, Caller, Config, authn::AuthnConfig};
use timonel_pki::{KeyRing, SigningKey};
use timonel_runtime::{Clock, Entropy, Tasks, Telemetry, TelemetryConfig, follow_trace, propagate_trace};
use timonel_store::MemoryStore;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

async fn server(tasks: &Tasks) -> Arc<ApiServer> {
    let clock = Clock::system();
    let config = Config {
        scheme: timonel_api::Scheme::kubernetes(),
        store: Arc::new(MemoryStore::new(clock.clone())),
        prefix: "/trace/".into(),
        clock,
        entropy: Entropy::seeded(1),
        authentication: AuthnConfig::default(),
        keys: KeyRing::new(SigningKey::generate().unwrap(), Vec::new()),
        service_ranges: Vec::new(),
        node_ports: Config::NODE_PORTS,
        advertise: None,
        public_address: String::new(),
        event_ttl_seconds: Config::EVENT_TTL_SECONDS,
        nodes: None,
        local_destinations: Vec::new(),
        front_proxy: None,
        apart: Vec::new(),
        health: Vec::new(),
    };
    ApiServer::new(config, tasks).await.unwrap()
}

/// The trace that whoever acts on the object next belongs to.
fn trace_of(uid: &str) -> Option<String> {
    let span = tracing::info_span!(target: "timonel::test", "next");
    let mut headers = HeaderMap::new();
    follow_trace(&span, uid).then(|| span.in_scope(|| propagate_trace(&mut headers)))?;
    Some(headers["traceparent"].to_str().unwrap().split('-').nth(1).unwrap().to_owned())
}

async fn post(server: &ApiServer, caller: Caller, path: &str, body: serde_json::Value, parent: bool) -> String {
    let mut request = Request::post(path).header("content-type", "application/json");
    if parent {
        request = request.header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"));
    }
    let response = server.call(request.body(Body::from(body.to_string())).unwrap(), caller).await;
    assert_eq!(response.status(), 201);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let object: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    object["metadata"]["uid"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_from_a_request_belongs_to_its_trace() {
    let tasks = Tasks::root("test");
    // Nobody listens there: traces are on, and go nowhere.
    let _telemetry = Telemetry::start(&TelemetryConfig {
        service: "test",
        filter: "off".to_owned(),
        otlp_endpoint: Some("http://127.0.0.1:9".to_owned()),
        ..TelemetryConfig::default()
    })
    .unwrap();
    let server = server(&tasks).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = |name: &str| serde_json::json!({"metadata": {"name": name}});
    let admin = || Caller::internal("masters");
    let first = post(&server, admin(), maps, map("a"), true).await;
    assert_eq!(trace_of(&first).as_deref(), Some(TRACE));
    // A controller that acts on the first, in its own span.
    let controller = tracing::info_span!(target: "timonel::test", "reconcile");
    assert!(follow_trace(&controller, &first));
    let second = tracing::Instrument::instrument(post(&server, admin(), maps, map("b"), false), controller).await;
    assert_eq!(trace_of(&second).as_deref(), Some(TRACE));
    let other = post(&server, admin(), maps, map("c"), false).await;
    assert!(trace_of(&other).is_some_and(|trace| trace != TRACE), "a trace of its own");
    // A heartbeat is nobody's consequence.
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = post(&server, admin(), leases, map("l"), true).await;
    assert_eq!(trace_of(&lease), None);
}
