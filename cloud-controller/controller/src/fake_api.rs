//! A Kubernetes API server of a few objects, for tests: list, watch, create, merge patch, delete with finalizers and
//! preconditions, as a tower service behind a real `kube::Client`.

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use kube::{Client, client::Body};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{collections::BTreeMap, convert::Infallible, sync::Arc};
use tokio::sync::watch;

type Answer = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

#[derive(Default)]
struct State {
    /// By path.
    objects: BTreeMap<String, Value>,
    /// Version, path, kind of change, object.
    log: Vec<(u64, String, &'static str, Value)>,
    version: u64,
}

/// The server; clones are the same one.
#[derive(Clone)]
pub(crate) struct FakeApi {
    state: Arc<Mutex<State>>,
    version: watch::Sender<u64>,
}

impl FakeApi {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), version: watch::channel(0).0 }
    }

    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        Client::new(service, "default")
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().objects.get(path).cloned()
    }

    /// Objects below a path.
    pub(crate) fn below(&self, path: &str) -> Vec<Value> {
        let prefix = format!("{path}/");
        let state = self.state.lock();
        state.objects.iter().filter(|(at, _)| at.starts_with(&prefix)).map(|(_, object)| object.clone()).collect()
    }

    /// Reasons of all events, in order of their names.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let state = self.state.lock();
        let events = state.objects.iter().filter(|(path, _)| path.contains("/events/"));
        events.map(|(_, event)| event["reason"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn create(&self, collection: &str, mut object: Value) -> u16 {
        let path = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap());
        if self.get(&path).is_some() {
            return 409;
        }
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{}", object["metadata"]["name"].as_str().unwrap()).into();
        }
        object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        self.put(&path, object, "ADDED");
        201
    }

    /// Merge patch, as a client or a person would.
    pub(crate) fn patch(&self, path: &str, patch: &Value) -> u16 {
        let Some(mut object) = self.get(path) else { return 404 };
        let fence = &patch["metadata"]["resourceVersion"];
        if !fence.is_null() && *fence != object["metadata"]["resourceVersion"] {
            return 409;
        }
        merge(&mut object, patch);
        let finalizers = object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
        if object["metadata"]["deletionTimestamp"].is_string() && !finalizers {
            self.remove(path);
        } else {
            self.put(path, object, "MODIFIED");
        }
        200
    }

    pub(crate) fn delete(&self, path: &str) -> u16 {
        let Some(object) = self.get(path) else { return 404 };
        if object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty()) {
            self.patch(path, &json!({ "metadata": { "deletionTimestamp": "2026-01-02T00:00:00Z" } }))
        } else {
            self.remove(path);
            200
        }
    }

    fn put(&self, path: &str, mut object: Value, change: &'static str) {
        let mut state = self.state.lock();
        state.version += 1;
        let version = state.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        state.objects.insert(path.to_owned(), object.clone());
        state.log.push((version, path.to_owned(), change, object));
        self.version.send_replace(version);
    }

    fn remove(&self, path: &str) {
        let mut state = self.state.lock();
        state.version += 1;
        let version = state.version;
        if let Some(object) = state.objects.remove(path) {
            state.log.push((version, path.to_owned(), "DELETED", object));
        }
        self.version.send_replace(version);
    }

    async fn answer(&self, request: Request<Body>) -> Response<Answer> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let path = canonical(parts.uri.path().trim_end_matches("/status"));
        let query = parts.uri.query().unwrap_or_default().to_owned();
        match parts.method {
            Method::GET if query.contains("watch=true") => {
                let since = query.split('&').find_map(|p| p.strip_prefix("resourceVersion="));
                self.watch(&path, since.and_then(|v| v.parse().ok()).unwrap_or(0))
            }
            Method::GET => {
                let (api_version, kind) = kinds(&path);
                let items: Vec<Value> = self.below(&path);
                let version = self.state.lock().version.to_string();
                let list = json!({
                    "apiVersion": api_version, "kind": format!("{kind}List"),
                    "metadata": { "resourceVersion": version }, "items": items,
                });
                json_answer(200, &list)
            }
            Method::POST => status(self.create(&path, body)),
            Method::PATCH => status(self.patch(&path, &body)),
            Method::DELETE => {
                let fence = &body["preconditions"]["resourceVersion"];
                let stale = self.get(&path).is_some_and(|o| o["metadata"]["resourceVersion"] != *fence);
                status(if stale { 409 } else { self.delete(&path) })
            }
            _ => status(405),
        }
    }

    fn watch(&self, path: &str, since: u64) -> Response<Answer> {
        let (prefix, state, changes) = (format!("{path}/"), Arc::clone(&self.state), self.version.subscribe());
        let (api_version, kind) = kinds(path);
        let events = stream::unfold((since, changes), move |(since, mut changes)| {
            let (state, prefix) = (Arc::clone(&state), prefix.clone());
            async move {
                loop {
                    changes.mark_unchanged();
                    let (found, last) = {
                        let state = state.lock();
                        let new =
                            state.log.iter().filter(|(version, at, ..)| *version > since && at.starts_with(&prefix));
                        let line = |(.., change, object): &(u64, String, &str, Value)| {
                            let mut object = object.clone();
                            object["apiVersion"] = api_version.into();
                            object["kind"] = kind.into();
                            format!("{}\n", json!({ "type": change, "object": object }))
                        };
                        (new.map(line).collect::<String>(), state.version)
                    };
                    if !found.is_empty() {
                        let frame = Ok::<_, Infallible>(frame(found));
                        return Some((frame, (last, changes)));
                    }
                    changes.changed().await.ok()?;
                }
            }
        });
        Response::new(StreamBody::new(events.boxed()).boxed_unsync())
    }
}

/// A path with the namespace behind the plural, so that all objects of a kind lie below one path:
/// `/api/v1/namespaces/shop/services/web` is `/api/v1/services/shop/web`.
fn canonical(path: &str) -> String {
    let Some((root, rest)) = path.split_once("/namespaces/") else { return path.to_owned() };
    let mut parts = rest.splitn(3, '/');
    let (namespace, plural) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let name = parts.next().map(|name| format!("/{name}")).unwrap_or_default();
    format!("{root}/{plural}/{namespace}{name}")
}

fn frame(text: String) -> http_body::Frame<Bytes> {
    http_body::Frame::data(Bytes::from(text))
}

fn kinds(path: &str) -> (&'static str, &'static str) {
    match path.rsplit('/').next().unwrap_or_default() {
        "nodes" => ("v1", "Node"),
        "services" => ("v1", "Service"),
        "persistentvolumes" => ("v1", "PersistentVolume"),
        "persistentvolumeclaims" => ("v1", "PersistentVolumeClaim"),
        "storageclasses" => ("storage.k8s.io/v1", "StorageClass"),
        "volumeattachments" => ("storage.k8s.io/v1", "VolumeAttachment"),
        _ => ("timonel.io/v1", "Machine"),
    }
}

fn json_answer(code: u16, body: &Value) -> Response<Answer> {
    let body = http_body_util::Full::new(Bytes::from(body.to_string())).boxed_unsync();
    Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}

fn status(code: u16) -> Response<Answer> {
    let reason = if code == 409 { "Conflict" } else { "NotFound" };
    let failure = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code,
    });
    json_answer(code, &if code < 300 { json!({}) } else { failure })
}

fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut into[key], value);
        }
    }
}
