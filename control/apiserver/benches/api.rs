//! The cost of the four commonest requests inside the server: no socket, no TLS, a store in memory.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::Request;
use http_body_util::BodyExt;
use serde_json::json;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use timonel_apiserver::{ApiServer, Body, Caller, Config, authn::AuthnConfig};
use timonel_pki::{KeyRing, SigningKey};
use timonel_runtime::{Clock, Entropy, Tasks};
use timonel_store::MemoryStore;
use tokio::runtime::Runtime;

/// Pods in a list, as in the budgets.
const PODS: u64 = 10_000;
/// Watchers that hear of one event.
const WATCHERS: usize = 500;

struct World {
    server: Arc<ApiServer>,
    next: AtomicU64,
    _tasks: Tasks,
}

fn pod(name: u64) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("p{name}"),
            "labels": {"app": "bench", "tier": "web", "pod-template-hash": "5d4f8c7b9"}},
        "spec": {"terminationGracePeriodSeconds": 0,
            "containers": [{"name": "web", "image": "registry.example/web:1.27.3",
                "command": ["/bin/server", "--listen=:8080"],
                "ports": [{"containerPort": 8080, "name": "http"}],
                "env": [{"name": "MODE", "value": "production"},
                        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 5},
                "volumeMounts": [{"name": "cache", "mountPath": "/cache"}]}],
            "volumes": [{"name": "cache", "emptyDir": {}}]}
    })
    .to_string()
}

impl World {
    async fn new() -> Self {
        let (clock, tasks) = (Clock::system(), Tasks::root("bench"));
        let config = Config {
            scheme: timonel_api::Scheme::kubernetes(),
            store: Arc::new(MemoryStore::new(clock.clone())),
            prefix: "/bench/".into(),
            clock,
            entropy: Entropy::seeded(1),
            authentication: AuthnConfig::default(),
            keys: KeyRing::new(SigningKey::generate().expect("a key"), Vec::new()),
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
        let server = ApiServer::new(config, &tasks).await.expect("a server");
        let world = Self { server, next: AtomicU64::new(0), _tasks: tasks };
        let account = json!({"metadata": {"name": "default"}}).to_string();
        world.send("POST", "/api/v1/namespaces/default/serviceaccounts", account).await;
        world
    }

    async fn send(&self, method: &str, path: &str, body: String) -> usize {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.body(Body::from(body)).expect("a request");
        let response = self.server.call(request, Caller::internal("admin")).await;
        assert!(response.status().is_success(), "{method} {path}: {}", response.status());
        response.into_body().collect().await.expect("a body").to_bytes().len()
    }

    async fn create(&self) {
        let body = pod(self.next.fetch_add(1, Ordering::Relaxed));
        self.send("POST", "/api/v1/namespaces/default/pods", body).await;
    }
}

fn requests(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let world = runtime.block_on(World::new());
    criterion.bench_function("create", |bench| bench.iter(|| runtime.block_on(world.create())));
    runtime.block_on(async {
        while world.next.load(Ordering::Relaxed) < PODS {
            world.create().await;
        }
    });
    criterion.bench_function("get", |bench| {
        bench.iter(|| runtime.block_on(world.send("GET", "/api/v1/namespaces/default/pods/p7", String::new())));
    });
    let mut turn = 0;
    criterion.bench_function("patch", |bench| {
        bench.iter(|| {
            turn += 1;
            let patch = json!({"metadata": {"annotations": {"turn": turn.to_string()}}}).to_string();
            let request = Request::builder().method("PATCH").uri("/api/v1/namespaces/default/pods/p7");
            let request = request.header("content-type", "application/merge-patch+json").body(Body::from(patch));
            runtime.block_on(world.server.call(request.expect("a request"), Caller::internal("admin")))
        });
    });
    let pods = world.next.load(Ordering::Relaxed);
    criterion.bench_function(&format!("list {pods} pods"), |bench| {
        bench.iter(|| runtime.block_on(world.send("GET", "/api/v1/pods", String::new())));
    });
}

fn watches(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let world = runtime.block_on(World::new());
    let watch = || async {
        let request = Request::builder().uri("/api/v1/pods?watch=true").body(Body::empty()).expect("a request");
        world.server.call(request, Caller::internal("admin")).await.into_body()
    };
    let mut bodies = runtime.block_on(futures::future::join_all((0..WATCHERS).map(|_| watch())));
    criterion.bench_function(&format!("one create to {WATCHERS} watchers"), |bench| {
        bench.iter_batched(
            || (),
            |()| {
                runtime.block_on(async {
                    world.create().await;
                    for body in &mut bodies {
                        body.frame().await.expect("an event").expect("no error");
                    }
                });
            },
            BatchSize::PerIteration,
        );
    });
}

criterion_group!(benches, requests, watches);
criterion_main!(benches);
