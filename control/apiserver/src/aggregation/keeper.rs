//! Looks after one server: whether it is there, which its `APIService` says from then on, and what it serves.

use super::{
    availability::{self, Availability, obstacle},
    convert,
    registered::{GROUP, PLURAL},
    remote::{Remote, RemoteError, Said},
};
use crate::{
    ApiServer,
    admission::Lookup,
    cache::{Selection, Trigger},
    http::JSON,
    registry,
};
use http::{HeaderMap, HeaderValue, header};
use serde_json::Value as Json;
use std::{
    convert::Infallible,
    sync::{Arc, Weak},
    time::Duration,
};
use timonel_api::{GroupResource, Value};
use timonel_runtime::OnError;

/// Between two looks when nothing is heard, as upstream looks.
const PERIOD: Duration = Duration::from_secs(30);
/// The shortest and the longest pause after a failure.
const RETRY: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];
/// After a change, for those that follow it.
const SETTLE: Duration = Duration::from_millis(50);
/// Attempts in one look at a server; one that succeeds is enough.
const ATTEMPTS: usize = 5;
/// What a server is asked for its discovery.
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                         application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// Looks after a server for as long as it is registered.
pub(super) fn keep(server: &Arc<ApiServer>, remote: &Arc<Remote>) {
    let (weak, api, changed) = (Arc::downgrade(remote), Arc::downgrade(server), remote.changed.clone());
    server.tasks.spawn("keeper of an APIService", OnError::Log, async move {
        let mut keeper = Keeper { failures: 0, seen: Vec::new() };
        while let Some(pause) = keeper.turn(&api, &weak).await {
            if tokio::time::timeout(pause, changed.notified()).await.is_ok() {
                tokio::time::sleep(SETTLE).await;
            } else {
                keeper.seen.clear();
            }
        }
        Ok::<_, Infallible>(())
    });
}

struct Keeper {
    failures: u32,
    /// The revisions of what led to the server when it was last asked; empty when it is to be asked anyway.
    seen: Vec<u64>,
}

impl Keeper {
    /// One look; the time to the next, or nothing when the server is not registered any more.
    async fn turn(&mut self, api: &Weak<ApiServer>, remote: &Weak<Remote>) -> Option<Duration> {
        let (server, remote) = (api.upgrade()?, remote.upgrade()?);
        let registered = server.aggregation.routes();
        let own = registered.get(&remote.registered.group, &remote.registered.version);
        own.filter(|own| Arc::ptr_eq(own, &remote))?;
        let leading = Leading::of(&server, &remote);
        if leading.revisions == self.seen {
            return Some(PERIOD);
        }
        let found = match obstacle(&remote.server, leading.service.as_deref(), leading.slices.iter().map(|s| &**s)) {
            Some(found) => found,
            None => ask(&remote).await,
        };
        let worked = found.available;
        if let Err(error) = tell(&server, &remote, &found).await {
            tracing::warn!(?remote, %error, "the condition of an APIService was not written");
            return Some(RETRY[0]);
        }
        let learned = learn(&server, &remote, worked).await;
        self.seen = leading.revisions;
        let asked = worked || found.reason == "FailedDiscoveryCheck";
        if asked && !(worked && learned) {
            self.failures = self.failures.saturating_add(1);
            self.seen.clear();
            let factor = 1_u32.checked_shl(self.failures.min(16) - 1).unwrap_or(u32::MAX);
            return Some((RETRY[0] * factor).min(RETRY[1]));
        }
        self.failures = 0;
        Some(PERIOD)
    }
}

/// What leads to a server.
struct Leading {
    service: Option<Arc<Value>>,
    slices: Vec<Arc<Value>>,
    revisions: Vec<u64>,
}

impl Leading {
    fn of(server: &ApiServer, remote: &Remote) -> Self {
        let spec = &remote.server;
        let slot = |group: &str, resource: &str| {
            server.cache.slot(&GroupResource { group: group.into(), resource: resource.into() })
        };
        let service = slot("", "services").get(&spec.namespace, &spec.service);
        let selection = Selection { trigger: Trigger::Namespace(spec.namespace.clone()), predicate: None };
        let slices = slot("discovery.k8s.io", "endpointslices").list(&selection);
        let of_service =
            |slice: &Value| slice.str_at(&["metadata", "labels", "kubernetes.io/service-name"]) == spec.service;
        let own = slices.into_iter().filter(|slice| of_service(&slice.decoded()));
        let own: Vec<_> = own.collect();
        let mut revisions = vec![service.as_ref().map_or(0, |service| service.revision)];
        revisions.extend(own.iter().map(|slice| slice.revision));
        Self {
            service: service.map(|service| service.decoded()),
            slices: own.iter().map(|slice| slice.decoded()).collect(),
            revisions,
        }
    }
}

/// Asks a server for something that it must serve.
async fn ask(remote: &Remote) -> Availability {
    let path = format!("/apis/{}/{}", remote.registered.group, remote.registered.version);
    let attempt = || async {
        let (code, ..) = remote.fetch(&path, HeaderMap::new()).await.map_err(|error| failing(remote, &path, &error))?;
        if (200..400).contains(&code) {
            return Ok(());
        }
        let url = remote.url(&path);
        Err(format!("failing or missing response from {url}: bad status from {url}: {code}"))
    };
    if attempt().await.is_ok() {
        return Availability::passed();
    }
    // What failed may have been a connection to somebody who is gone.
    remote.forget_connections();
    let attempts = (1..ATTEMPTS).map(|_| Box::pin(attempt()));
    match futures::future::select_ok(attempts).await {
        Ok(_) => Availability::passed(),
        Err(message) => Availability::failed(message),
    }
}

fn failing(remote: &Remote, path: &str, error: &RemoteError) -> String {
    if error.is_nobody() {
        return error.cause();
    }
    let url = remote.url(path);
    format!("failing or missing response from {url}: Get {url:?}: {}", error.cause())
}

/// Writes the condition, when it is another than before.
async fn tell(server: &Arc<ApiServer>, remote: &Remote, found: &Availability) -> Result<(), timonel_api::Status> {
    remote.set_available(found.available);
    let name = &remote.registered.name;
    let Some(object) = server.lookup.get(GROUP, PLURAL, "", name) else { return Ok(()) };
    let mut object = Value::clone(&object);
    if !availability::write(&mut object, found, server.clock.now()) {
        return Ok(());
    }
    server.metrics.api_service(name, found.available, found.reason);
    let path = format!("/apis/{GROUP}/v1/{PLURAL}/{name}/status");
    // A conflict is somebody else's write, of which this hears.
    registry::send_to_self(server, ["PUT", &path, JSON], &object, &[404, 409]).await.map(drop)
}

/// Learns what a server serves; whether it said so.
async fn learn(server: &ApiServer, remote: &Remote, available: bool) -> bool {
    let before = remote.said();
    let mut said = before.clone();
    let learned = if available { learn_discovery(remote, &mut said).await } else { Ok(()) };
    said.fresh = available && learned.is_ok();
    if said.fresh {
        learn_openapi(remote, &mut said).await;
    }
    if let Err(why) = &learned {
        tracing::debug!(?remote, %why, "a server does not say what it serves");
    }
    let same = said.fresh == before.fresh
        && said.discovery == before.discovery
        && said.openapi_v3 == before.openapi_v3
        && said.openapi_v2_tag == before.openapi_v2_tag
        && said.openapi_v2.is_some() == before.openapi_v2.is_some();
    *remote.said.lock() = said;
    if !same {
        server.aggregation.heard();
    }
    learned.is_ok()
}

fn asking(accept: &'static str, tag: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
    if let Some(tag) = HeaderValue::from_str(tag).ok().filter(|tag| !tag.is_empty()) {
        headers.insert(header::IF_NONE_MATCH, tag);
    }
    headers
}

fn text<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

async fn learn_discovery(remote: &Remote, said: &mut Said) -> Result<(), String> {
    let (group, version) = (&*remote.registered.group, &*remote.registered.version);
    let failed = |error: RemoteError| error.cause();
    let (code, headers, body) = remote.fetch("/apis", asking(DISCOVERY, &said.discovery_tag)).await.map_err(failed)?;
    if code == 304 && said.discovery.is_some() {
        return Ok(());
    }
    if code == 200 && text(&headers, &header::CONTENT_TYPE).contains("as=APIGroupDiscoveryList") {
        let list: Json = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        said.discovery = convert::version_of(&list, group, version);
        said.discovery_tag = text(&headers, &header::ETAG).to_owned();
        return Ok(());
    }
    let path = format!("/apis/{group}/{version}");
    let (code, _, body) = remote.fetch(&path, asking(JSON, "")).await.map_err(failed)?;
    if code != 200 {
        return Err(format!("failed to download legacy discovery for {path}: {code}"));
    }
    let list: Json = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    said.discovery = Some(convert::from_resource_list(&list, group, version));
    Ok(())
}

/// OpenAPI is a help for clients: a server without it is served nevertheless.
async fn learn_openapi(remote: &Remote, said: &mut Said) {
    let (group, version) = (&remote.registered.group, &remote.registered.version);
    if let Ok((200, _, body)) = remote.fetch("/openapi/v3", asking(JSON, "")).await {
        let index: Json = serde_json::from_slice(&body).unwrap_or_default();
        let url = &index["paths"][format!("apis/{group}/{version}")]["serverRelativeURL"];
        said.openapi_v3 = url.as_str().map(str::to_owned);
    }
    if let Ok((200, headers, body)) = remote.fetch("/openapi/v2", asking(JSON, &said.openapi_v2_tag)).await
        && let Ok(document) = serde_json::from_slice(&body)
    {
        said.openapi_v2_tag = text(&headers, &header::ETAG).to_owned();
        said.openapi_v2 = Some(Arc::new(super::merge::own_openapi(document, group)));
    }
}
