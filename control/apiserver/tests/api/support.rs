//! One server per test, and requests to it.

use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value as Json, json};
use std::{sync::Arc, time::Duration};
use timonel_apiserver::{ApiServer, Body, Caller, Config, authn::AuthnConfig};
use timonel_pki::{KeyRing, SigningKey};
use timonel_runtime::{Clock, Entropy, Tasks};
use timonel_store::MemoryStore;

pub(crate) struct World {
    pub(crate) server: Arc<ApiServer>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) tasks: Tasks,
    pub(crate) caller: Caller,
}

/// An answer that was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Json {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or("").to_owned()
    }

    #[track_caller]
    pub(crate) fn expect(self, code: u16) -> Json {
        assert_eq!(self.code, code, "{}", self.text);
        self.json()
    }
}

pub(crate) async fn world() -> World {
    let clock = Clock::simulated("2026-11-01T10:00:00Z".parse().unwrap());
    let world = world_over(Arc::new(MemoryStore::new(clock.clone())), clock).await;
    account_all(&world).await;
    world
}

/// The accounts of the first namespaces.
pub(crate) async fn account_all(world: &World) {
    for namespace in ["default", "kube-system"] {
        world.account(namespace).await;
    }
}

/// A server of what a store holds already, as after a restart.
pub(crate) async fn world_over(store: Arc<MemoryStore>, clock: Clock) -> World {
    serve(config(store.clone(), clock), store).await
}

/// A server as it is configured.
pub(crate) async fn serve(config: Config, store: Arc<MemoryStore>) -> World {
    let tasks = Tasks::root("test");
    let server = ApiServer::new(config, &tasks).await.unwrap();
    World { server, store, tasks, caller: Caller::internal("admin") }
}

pub(crate) fn config(store: Arc<MemoryStore>, clock: Clock) -> Config {
    let issuer = "https://kubernetes.default.svc.cluster.local".to_owned();
    Config {
        scheme: timonel_api::Scheme::kubernetes(),
        store,
        prefix: "/clusters/one/".into(),
        clock,
        entropy: Entropy::seeded(7),
        authentication: AuthnConfig {
            issuers: vec![issuer.clone()],
            audiences: vec![issuer],
            anonymous: true,
            ..AuthnConfig::default()
        },
        keys: KeyRing::new(SigningKey::generate().unwrap(), Vec::new()),
        service_ranges: vec!["10.96.0.0/24".parse().unwrap()],
        node_ports: 30_000..=30_009,
        advertise: Some("192.0.2.1:6443".parse().unwrap()),
        public_address: "api.example:443".to_owned(),
        event_ttl_seconds: Config::EVENT_TTL_SECONDS,
        nodes: None,
        local_destinations: ["127.0.0.0/8".parse().unwrap()].into(),
        front_proxy: None,
        apart: Vec::new(),
        health: Vec::new(),
    }
}

impl World {
    /// What the service-account controller does for a namespace.
    pub(crate) async fn account(&self, namespace: &str) {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        self.post(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), account).await.expect(201);
    }

    pub(crate) async fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.server.call(request.body(body).unwrap(), self.caller.clone()).await
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let response = self.raw(method, path, headers, body.into()).await;
        let (parts, body) = response.into_parts();
        let bytes = tokio::time::timeout(Duration::from_secs(3600), body.collect()).await.unwrap().unwrap().to_bytes();
        Answer {
            code: parts.status.as_u16(),
            headers: parts.headers,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, object: Json) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], object.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, object: Json) -> Answer {
        self.send("PUT", path, &[("content-type", "application/json")], object.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, kind: &str, patch: Json) -> Answer {
        let kind = match kind {
            "json" => "application/json-patch+json",
            "merge" => "application/merge-patch+json",
            "strategic" => "application/strategic-merge-patch+json",
            other => other,
        };
        self.send("PATCH", path, &[("content-type", kind)], patch.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str, options: Json) -> Answer {
        let body = if options.is_null() { String::new() } else { options.to_string() };
        self.send("DELETE", path, &[("content-type", "application/json")], body).await
    }
}

pub(crate) fn pod(name: &str) -> Json {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "registry.example/c:1"}]}})
}

pub(crate) fn config_map(name: &str, data: Json) -> Json {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";
