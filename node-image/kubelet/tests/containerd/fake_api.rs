//! A small API server in memory: any resource can be made, read, listed, watched, patched and deleted. It stands in
//! for the peer, so that the agent's own client code runs as it is.

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::broadcast;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Resource, namespace, name.
type Key = (String, String, String);

#[derive(Debug)]
struct State {
    objects: BTreeMap<Key, Value>,
    version: u64,
    changes: broadcast::Sender<(Key, &'static str, Value)>,
}

/// The server. Clones are handles to the same data.
#[derive(Clone, Debug)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

struct Target {
    resource: String,
    namespace: String,
    name: Option<String>,
    subresource: Option<String>,
}

fn target(path: &str) -> Target {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let skip = if parts[0] == "api" { 2 } else { 3 };
    let mut rest = parts[skip..].iter().map(|part| (*part).to_owned());
    let mut first = rest.next().unwrap_or_default();
    let mut namespace = String::new();
    if first == "namespaces" && parts.len() > skip + 2 {
        namespace = rest.next().unwrap_or_default();
        first = rest.next().unwrap_or_default();
    }
    Target { resource: first, namespace, name: rest.next(), subresource: rest.next() }
}

/// Merges as a merge patch does; lists of conditions by their type, as a strategic patch does.
fn merge(into: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *into = patch;
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    let map = into.as_object_mut().expect("an object, made above");
    for (key, value) in patch {
        if value.is_null() {
            map.remove(&key);
        } else if value.is_object() {
            merge(map.entry(key).or_insert(Value::Null), value);
        } else {
            map.insert(key, value);
        }
    }
}

impl FakeApi {
    pub(crate) fn new() -> Self {
        let (changes, _) = broadcast::channel(1024);
        Self(Arc::new(Mutex::new(State { objects: BTreeMap::new(), version: 1, changes })))
    }

    pub(crate) fn client(&self) -> kube::Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let this = this.clone();
            async move { Ok::<_, Infallible>(this.call(request).await) }.boxed()
        });
        kube::Client::new(service, "default")
    }

    /// Writes an object as if somebody had.
    pub(crate) fn put(&self, resource: &str, mut object: Value) -> Value {
        let mut state = self.0.lock();
        state.version += 1;
        let version = state.version;
        let meta = object["metadata"].as_object_mut().expect("metadata");
        let key = (
            resource.to_owned(),
            meta.get("namespace").and_then(Value::as_str).unwrap_or_default().to_owned(),
            meta["name"].as_str().expect("name").to_owned(),
        );
        meta.entry("uid").or_insert_with(|| json!(format!("00000000-0000-4000-8000-{version:012}")));
        meta.insert("resourceVersion".into(), json!(version.to_string()));
        let kind = if state.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        state.objects.insert(key.clone(), object.clone());
        let _ = state.changes.send((key, kind, object.clone()));
        object
    }

    pub(crate) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.0.lock().objects.get(&(resource.to_owned(), namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Marks a pod as `kubectl delete` does.
    pub(crate) fn delete_pod(&self, namespace: &str, name: &str, grace_seconds: i64) {
        let mut pod = self.get("pods", namespace, name).expect("pod");
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace_seconds);
        self.put("pods", pod);
    }

    /// Waits until `check` holds of an object, or is told that it is gone.
    pub(crate) async fn wait<T>(&self, resource: &str, name: &str, check: impl Fn(Option<&Value>) -> Option<T>) -> T {
        let mut changes = self.0.lock().changes.subscribe();
        let namespace = if resource == "nodes" { "" } else { "default" };
        let work = async {
            loop {
                let found = self.get(resource, namespace, name);
                if let Some(done) = check(found.as_ref()) {
                    return done;
                }
                let _ = changes.recv().await;
            }
        };
        let limit = std::time::Duration::from_secs(60);
        match tokio::time::timeout(limit, work).await {
            Ok(done) => done,
            Err(_) => panic!(
                "{resource}/{name} after {limit:?}: {:#}",
                self.get(resource, namespace, name).unwrap_or_default()
            ),
        }
    }

    async fn call(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let at = target(head.uri.path());
        let query = head.uri.query().unwrap_or_default().to_owned();
        let bytes = body.collect().await.expect("a body in memory").to_bytes();
        let sent: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let key = (at.resource.clone(), at.namespace.clone(), at.name.clone().unwrap_or_default());
        match (&head.method, &at.name) {
            (&Method::GET, None) if query.contains("watch=true") => self.watch(&at, &query),
            (&Method::GET, None) => self.list_answer(&at, &query),
            (&Method::GET, Some(_)) => self.0.lock().objects.get(&key).map_or_else(not_found, ok),
            (&Method::POST, Some(_)) if at.subresource.as_deref() == Some("token") => ok(&json!({
                "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": sent["spec"],
                "status": {"token": "a-token", "expirationTimestamp": "2099-01-01T00:00:00Z"},
            })),
            (&Method::POST, _) => {
                let mut object = sent;
                if !at.namespace.is_empty() {
                    object["metadata"]["namespace"] = json!(at.namespace);
                }
                ok(&self.put(&at.resource, object))
            }
            (&Method::PATCH, Some(_)) => {
                let Some(mut object) = self.0.lock().objects.get(&key).cloned() else { return not_found() };
                merge(&mut object, sent);
                ok(&self.put(&at.resource, object))
            }
            (&Method::PUT, Some(_)) => ok(&self.put(&at.resource, sent)),
            (&Method::DELETE, Some(_)) => self.remove(&key),
            _ => not_found(),
        }
    }

    fn remove(&self, key: &Key) -> Response<Body> {
        let mut state = self.0.lock();
        let Some(object) = state.objects.remove(key) else { return not_found() };
        let _ = state.changes.send((key.clone(), "DELETED", object.clone()));
        ok(&object)
    }

    fn list_answer(&self, at: &Target, query: &str) -> Response<Body> {
        let state = self.0.lock();
        let wanted = state.objects.iter().filter(|(key, object)| matches(at, query, key, object));
        let items: Vec<&Value> = wanted.map(|(_, object)| object).collect();
        ok(
            &json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": state.version.to_string()}, "items": items}),
        )
    }

    fn watch(&self, at: &Target, query: &str) -> Response<Body> {
        let state = self.0.lock();
        let since: u64 =
            query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion=")?.parse().ok()).unwrap_or(0);
        let version =
            |object: &Value| object["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse::<u64>().ok());
        let missed: Vec<Value> = state
            .objects
            .iter()
            .filter(|(key, object)| matches(at, query, key, object) && version(object) > Some(since))
            .map(|(_, object)| json!({"type": "MODIFIED", "object": object}))
            .collect();
        let changes = state.changes.subscribe();
        drop(state);
        let (at, query) = (Target { name: None, subresource: None, ..target_of(at) }, query.to_owned());
        let live = futures::stream::unfold((changes, at, query), async |(mut changes, at, query)| {
            loop {
                let (key, kind, object) = changes.recv().await.ok()?;
                if matches(&at, &query, &key, &object) {
                    return Some((json!({"type": kind, "object": object}), (changes, at, query)));
                }
            }
        });
        let all: BoxStream<'static, Value> = futures::stream::iter(missed).chain(live).boxed();
        let frames = all.map(|event| Ok::<_, Infallible>(Frame::data(Bytes::from(format!("{event}\n")))));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

fn target_of(at: &Target) -> Target {
    Target { resource: at.resource.clone(), namespace: at.namespace.clone(), name: None, subresource: None }
}

fn matches(at: &Target, query: &str, key: &Key, object: &Value) -> bool {
    let selector = query.split('&').find_map(|pair| pair.strip_prefix("fieldSelector=")).unwrap_or_default();
    let selector = selector.replace("%3D", "=");
    let fits = match selector.split_once('=') {
        Some(("metadata.name", name)) => key.2 == name,
        Some(("spec.nodeName", node)) => object["spec"]["nodeName"] == json!(node),
        _ => true,
    };
    key.0 == at.resource && (at.namespace.is_empty() || key.1 == at.namespace) && fits
}

fn ok(object: &Value) -> Response<Body> {
    Response::new(http_body_util::Full::new(Bytes::from(object.to_string())).boxed_unsync())
}

fn not_found() -> Response<Body> {
    let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "not found"});
    let mut response = ok(&status);
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    response
}
