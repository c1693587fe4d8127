//! An API server in memory: create, read, list, watch, update, patch, delete with finalizers, generated names and
//! discovery, for any resource, without validation. It keeps the promises that controllers rely on: versions grow,
//! stale writes are refused, watches lose nothing.

use crate::framework::{Kind, Resource};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::{Client, client::Body};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{collections::BTreeMap, convert::Infallible, sync::Arc};
use timonel_runtime::Clock;
use tokio::sync::Notify;

type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;
type Place = (String, String, String);

#[derive(Default)]
struct State {
    objects: BTreeMap<Place, Value>,
    /// Every change: version, collection, event type, object.
    log: Vec<(u64, String, &'static str, Value)>,
    version: u64,
    names: u64,
    /// Collections whose next creations are refused, with the message.
    refusals: BTreeMap<String, String>,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct FakeApi {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    clock: Clock,
}

struct Target {
    collection: String,
    namespace: String,
    name: String,
    subresource: String,
    watch: bool,
    version: u64,
    fields: Vec<(String, bool, String)>,
}

/// Resources besides the typed kinds.
const OTHERS: &[(&str, &str, &str)] = &[("v1", "Event", "events"), ("networking.k8s.io/v1", "Ingress", "ingresses")];

impl FakeApi {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { state: Arc::default(), changed: Arc::default(), clock }
    }

    /// A client whose requests end here.
    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.call(request).await) }
        });
        Client::new(service, "default")
    }

    /// Creates an object directly.
    pub(crate) fn put(&self, kind: Kind, mut value: Value) -> Value {
        let resource = kind.resource();
        value["apiVersion"] = json!(&*resource.api_version);
        value["kind"] = json!(&*resource.kind);
        let namespace = value["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        self.create(&collection(&resource), &namespace, value).expect("the test's object can be created")
    }

    /// Merges a patch directly.
    pub(crate) fn patch(&self, kind: Kind, namespace: &str, name: &str, patch: &Value) {
        let place = (collection(&kind.resource()), namespace.to_owned(), name.to_owned());
        let mut object = self.state.lock().objects.get(&place).cloned().expect("the object exists");
        merge(&mut object, patch);
        self.store(place, object);
    }

    /// Requests the deletion of an object directly.
    pub(crate) fn delete(&self, kind: Kind, namespace: &str, name: &str) {
        let place = (collection(&kind.resource()), namespace.to_owned(), name.to_owned());
        self.remove(place, &json!({})).expect("the object exists");
    }

    /// The objects of a kind.
    pub(crate) fn list(&self, kind: Kind) -> Vec<Value> {
        let collection = collection(&kind.resource());
        let state = self.state.lock();
        state.objects.iter().filter(|(place, _)| place.0 == collection).map(|(_, object)| object.clone()).collect()
    }

    /// One object of a kind.
    pub(crate) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        let place = (collection(&kind.resource()), namespace.to_owned(), name.to_owned());
        self.state.lock().objects.get(&place).cloned()
    }

    /// The messages of the recorded events, in order.
    pub(crate) fn events(&self) -> Vec<String> {
        let state = self.state.lock();
        let events =
            state.log.iter().filter(|(_, collection, how, _)| collection == "/api/v1/events" && *how == "ADDED");
        events.map(|(.., event)| format!("{} {}", text(&event["reason"]), text(&event["message"]))).collect()
    }

    /// Refuses creations of a kind from here on, or (with none) accepts them again.
    pub(crate) fn refuse(&self, kind: Kind, message: Option<&str>) {
        let collection = collection(&kind.resource());
        let mut state = self.state.lock();
        match message {
            Some(message) => state.refusals.insert(collection, message.to_owned()),
            None => state.refusals.remove(&collection),
        };
    }

    async fn call(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        if parts.uri.path() == "/api" || parts.uri.path() == "/apis" {
            return reply(StatusCode::OK, &discovery(parts.uri.path()));
        }
        let Some(target) = parse(&parts.uri) else { return refusal(404, "NotFound", "no such path") };
        let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
        let place = (target.collection.clone(), target.namespace.clone(), target.name.clone());
        let result = match parts.method {
            Method::GET if target.watch => return self.watch(target),
            Method::GET if target.name.is_empty() => Ok(self.collection(&target)),
            Method::GET => {
                self.state.lock().objects.get(&place).cloned().ok_or((404, "NotFound", "not found".to_owned()))
            }
            Method::POST => self.create(&target.collection, &target.namespace, sent),
            Method::PUT => self.replace(place, sent, &target.subresource),
            Method::PATCH => self.merge(place, &sent),
            Method::DELETE if target.name.is_empty() => {
                for object in self.collection(&target)["items"].as_array().into_iter().flatten() {
                    let name = text(&object["metadata"]["name"]).to_owned();
                    let _ = self.remove((target.collection.clone(), target.namespace.clone(), name), &sent);
                }
                Ok(json!({"kind": "Status", "status": "Success"}))
            }
            Method::DELETE => self.remove(place, &sent),
            _ => Err((405, "MethodNotAllowed", "no".to_owned())),
        };
        match result {
            Ok(value) => reply(StatusCode::OK, &value),
            Err((code, reason, message)) => refusal(code, reason, &message),
        }
    }

    fn collection(&self, target: &Target) -> Value {
        let state = self.state.lock();
        let items: Vec<&Value> = state
            .objects
            .iter()
            .filter(|(place, object)| {
                place.0 == target.collection && within(target, &place.1) && selected(target, object)
            })
            .map(|(_, object)| object)
            .collect();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": state.version.to_string()}, "items": items})
    }

    fn create(
        &self,
        collection: &str,
        namespace: &str,
        mut object: Value,
    ) -> Result<Value, (u16, &'static str, String)> {
        let mut state = self.state.lock();
        if let Some(message) = state.refusals.get(collection) {
            return Err((403, "Forbidden", message.clone()));
        }
        let home = ("/api/v1/namespaces".to_owned(), String::new(), namespace.to_owned());
        if state.objects.get(&home).is_some_and(|home| home["metadata"]["deletionTimestamp"].is_string()) {
            return Err((403, "Forbidden", format!("namespace {namespace} is being terminated")));
        }
        let meta = &mut object["metadata"];
        if meta["name"].as_str().unwrap_or_default().is_empty() {
            state.names += 1;
            meta["name"] = json!(format!("{}{:05}", text(&meta["generateName"]), state.names));
        }
        let place = (collection.to_owned(), namespace.to_owned(), text(&meta["name"]).to_owned());
        if state.objects.contains_key(&place) {
            return Err((409, "AlreadyExists", format!("{} already exists", place.2)));
        }
        if !namespace.is_empty() {
            meta["namespace"] = json!(namespace);
        }
        if meta["uid"].is_null() {
            meta["uid"] = json!(format!("uid-{}", state.version + 1));
        }
        meta["generation"] = json!(1);
        if meta["creationTimestamp"].is_null() {
            meta["creationTimestamp"] = json!(second(&self.clock));
        }
        drop(state);
        Ok(self.store(place, object))
    }

    fn replace(&self, place: Place, mut sent: Value, subresource: &str) -> Result<Value, (u16, &'static str, String)> {
        let known = self.state.lock().objects.get(&place).cloned().ok_or((404, "NotFound", "not found".to_owned()))?;
        if sent["metadata"]["resourceVersion"] != known["metadata"]["resourceVersion"] {
            return Err((409, "Conflict", "the object has been modified".to_owned()));
        }
        match subresource {
            "status" => {
                let status = sent["status"].take();
                sent = known.clone();
                sent["status"] = status;
            }
            "finalize" => {}
            _ => sent["status"] = known["status"].clone(),
        }
        if sent["spec"] != known["spec"] {
            sent["metadata"]["generation"] = json!(known["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        Ok(self.store(place, sent))
    }

    fn merge(&self, place: Place, patch: &Value) -> Result<Value, (u16, &'static str, String)> {
        let known = self.state.lock().objects.get(&place).cloned().ok_or((404, "NotFound", "not found".to_owned()))?;
        for field in ["uid", "resourceVersion"] {
            let wanted = &patch["metadata"][field];
            if !wanted.is_null() && *wanted != known["metadata"][field] {
                return Err((409, "Conflict", format!("{field} differs")));
            }
        }
        let mut object = known.clone();
        merge(&mut object, patch);
        if object["spec"] != known["spec"] {
            object["metadata"]["generation"] = json!(known["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        Ok(self.store(place, object))
    }

    fn remove(&self, place: Place, options: &Value) -> Result<Value, (u16, &'static str, String)> {
        let mut object =
            self.state.lock().objects.get(&place).cloned().ok_or((404, "NotFound", "not found".to_owned()))?;
        for (field, wanted) in options["preconditions"].as_object().into_iter().flatten() {
            if *wanted != object["metadata"][field] {
                return Err((409, "Conflict", format!("{field} differs")));
            }
        }
        let finalizer = match options["propagationPolicy"].as_str() {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        if let Some(finalizer) = finalizer {
            match object["metadata"]["finalizers"].as_array_mut() {
                Some(list) if list.iter().any(|have| have == finalizer) => {}
                Some(list) => list.push(json!(finalizer)),
                None => object["metadata"]["finalizers"] = json!([finalizer]),
            }
        }
        if object["metadata"]["deletionTimestamp"].is_null() {
            object["metadata"]["deletionTimestamp"] = json!(second(&self.clock));
        }
        Ok(self.store(place, object))
    }

    /// Stores an object, or removes it when it is being deleted and nothing holds it; tells the watches.
    fn store(&self, place: Place, mut object: Value) -> Value {
        let mut state = self.state.lock();
        state.version += 1;
        let version = state.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let held = object["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty())
            || object["spec"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty());
        let how = if object["metadata"]["deletionTimestamp"].is_string() && !held {
            state.objects.remove(&place);
            "DELETED"
        } else if state.objects.insert(place.clone(), object.clone()).is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        state.log.push((version, place.0, how, object.clone()));
        drop(state);
        self.changed.notify_waiters();
        object
    }

    fn watch(&self, target: Target) -> Answer {
        let (api, seen) = (self.clone(), target.version);
        let target = Arc::new(target);
        let lines = futures::stream::unfold((api, target, seen), |(api, target, mut seen)| async move {
            let changed = Arc::clone(&api.changed);
            loop {
                let woken = changed.notified();
                let mut text = String::new();
                {
                    let state = api.state.lock();
                    let start = state.log.partition_point(|entry| entry.0 <= seen);
                    for (version, collection, how, object) in &state.log[start..] {
                        seen = *version;
                        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
                        if *collection == target.collection && within(&target, namespace) && selected(&target, object) {
                            text.push_str(&json!({"type": how, "object": object}).to_string());
                            text.push('\n');
                        }
                    }
                }
                if !text.is_empty() {
                    let frame = Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from(text)));
                    return Some((frame, (api, target, seen)));
                }
                woken.await;
            }
        });
        Response::new(StreamBody::new(lines).boxed_unsync())
    }
}

fn second(clock: &Clock) -> String {
    clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn collection(resource: &Resource) -> String {
    resource.path("", "")
}

fn within(target: &Target, namespace: &str) -> bool {
    target.namespace.is_empty() || target.namespace == namespace
}

fn selected(target: &Target, object: &Value) -> bool {
    target.fields.iter().all(|(path, equal, wanted)| {
        let found = path.split('.').fold(object, |value, step| &value[step]);
        (text(found) == wanted) == *equal
    })
}

fn parse(uri: &http::Uri) -> Option<Target> {
    let mut steps: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
    let head: Vec<&str> = steps.drain(..if steps.first() == Some(&"api") { 2 } else { 3 }.min(steps.len())).collect();
    let namespace =
        if steps.first() == Some(&"namespaces") && steps.len() > 2 && !matches!(steps[2], "finalize" | "status") {
            let namespace = steps[1].to_owned();
            steps.drain(..2);
            namespace
        } else {
            String::new()
        };
    let step = |at: usize| steps.get(at).copied().unwrap_or_default().to_owned();
    let query: BTreeMap<String, String> = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| {
            (key.to_owned(), value.replace("%3D", "=").replace("%21", "!").replace("%2C", ",").replace("%2F", "/"))
        })
        .collect();
    let fields = query.get("fieldSelector").map(String::as_str).unwrap_or_default();
    let fields = fields.split(',').filter(|field| !field.is_empty()).filter_map(|field| {
        let (path, value) = field.split_once('=')?;
        Some((path.trim_end_matches('!').to_owned(), !path.ends_with('!'), value.to_owned()))
    });
    Some(Target {
        collection: format!("/{}/{}", head.join("/"), steps.first()?),
        namespace,
        name: step(1),
        subresource: step(2),
        watch: query.contains_key("watch"),
        version: query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0),
        fields: fields.collect(),
    })
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            target.as_object_mut().expect("just made an object").remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

fn discovery(path: &str) -> Value {
    let mut groups: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let typed = Kind::ALL.iter().map(|kind| kind.resource());
    let others = OTHERS.iter().map(|(version, kind, plural)| Resource {
        api_version: (*version).into(),
        kind: (*kind).into(),
        plural: (*plural).into(),
        namespaced: true,
    });
    for resource in typed.chain(others) {
        let scope = if resource.namespaced { "Namespaced" } else { "Cluster" };
        groups.entry(resource.group().to_owned()).or_default().push(json!({"resource": &*resource.plural,
            "responseKind": {"kind": &*resource.kind}, "scope": scope, "verbs": ["list", "watch", "delete"]}));
    }
    let wanted = groups.into_iter().filter(|(group, _)| group.is_empty() == (path == "/api"));
    let items: Vec<Value> = wanted
        .map(|(group, resources)| {
            json!({"metadata": {"name": group}, "versions": [{"version": "v1", "resources": resources}]})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn reply(status: StatusCode, value: &Value) -> Answer {
    let body = Full::new(Bytes::from(value.to_string())).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response
}

fn refusal(code: u16, reason: &str, message: &str) -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message});
    reply(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &status)
}
