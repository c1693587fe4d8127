//! The end of a definition: its objects are deleted, and when the last is gone, so is the definition. Also
//! names that another definition set free.

use super::{Served, definitions_resource};
use crate::{
    ApiServer, Body, Caller,
    cache::{Entry, Selection, Slot, Trigger, WatchStart},
};
use ::http::{Method, Request, header::CONTENT_TYPE};
use futures::{
    StreamExt, TryStreamExt,
    future::{poll_fn, ready},
    stream,
};
use http_body_util::BodyExt;
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};
use timonel_api::{
    GroupResource, Key, Status, Value,
    definition::{self, CLEANUP_FINALIZER, InstanceRemoval},
};
use timonel_runtime::OnError;

/// Attempts to write a definition's status before the next change is waited for.
const MAX_RACES: usize = 8;
/// How long to wait for objects that others hold before looking again.
const PATIENCE: Duration = Duration::from_secs(30);
/// The least time between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// Objects deleted at a time: they share the store's commits.
const AT_A_TIME: usize = 64;
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 1 << 20;

fn everything() -> Selection {
    Selection { trigger: Trigger::All, predicate: None }
}

/// Starts what the definitions in the cache ask for; each definition has at most one task.
pub(super) fn look(server: &Arc<ApiServer>, served: &BTreeMap<Key, Arc<Served>>) {
    for (name, one) in served {
        let crd = one.brief();
        let ends = !crd.str_at(&["metadata", "deletionTimestamp"]).is_empty()
            && crd.list_at(&["metadata", "finalizers"]).iter().any(|name| name.as_str() == Some(CLEANUP_FINALIZER));
        let waits = !ends && names_came_free(crd, served);
        if !ends && !waits {
            continue;
        }
        let name = name.clone();
        if !server.settling.lock().insert(name.clone()) {
            continue;
        }
        let weak = Arc::downgrade(server);
        let token = server.tasks.token();
        server.tasks.spawn("custom-resource-definition", OnError::Log, async move {
            let work = async { if ends { end(&weak, &name).await } else { touch(&weak, &name).await } };
            let result = token.run_until_cancelled(work).await;
            if let Some(server) = weak.upgrade() {
                server.settling.lock().remove(&name);
            }
            result.unwrap_or(Ok(()))
        });
    }
}

/// Whether a definition that lacks names would get more of them.
fn names_came_free(crd: &Value, served: &BTreeMap<Key, Arc<Served>>) -> bool {
    let lacks = definition::condition(crd, "NamesAccepted").is_some_and(|one| one.str_at(&["status"]) == "False");
    if !lacks {
        return false;
    }
    let mut settled = crd.clone();
    definition::settle(&mut settled, served.values().map(|other| other.brief()), jiff::Timestamp::UNIX_EPOCH);
    settled.at(&["status", "acceptedNames"]) != crd.at(&["status", "acceptedNames"])
}

/// Writes a definition's status as it is: the write settles its names.
async fn touch(server: &Weak<ApiServer>, name: &str) -> Result<(), Status> {
    change(server, name, |_, _| {}).await
}

/// Deletes the objects of a definition, waits until they are gone, and lets the definition go.
async fn end(server: &Weak<ApiServer>, name: &str) -> Result<(), Status> {
    note(server, name, InstanceRemoval::InProgress).await?;
    while let Some(objects) = Objects::of(server, name) {
        let (found, mut changes) = objects.slot.watch(&everything(), WatchStart::Now).map_err(Status::internal)?;
        if found.is_empty() {
            break;
        }
        let paths: Vec<String> = found.iter().map(|entry| objects.path(entry)).collect();
        let deletions = stream::iter(paths).map(|path| delete(server.clone(), path));
        deletions.buffer_unordered(AT_A_TIME).try_for_each(|_| ready(Ok(()))).await?;
        if objects.slot.list(&everything()).is_empty() {
            break;
        }
        // Those with finalizers of their own go when others let them.
        let changed = poll_fn(|context| changes.poll_next(context));
        let _ = tokio::time::timeout(PATIENCE, changed).await;
        tokio::time::sleep(PAUSE).await;
    }
    note(server, name, InstanceRemoval::Completed).await?;
    for _ in 0..MAX_RACES {
        let Some(mut crd) = definition_of(server, name) else { return Ok(()) };
        definition::release(&mut crd);
        let left = crd.at(&["metadata", "finalizers"]).cloned().unwrap_or_default();
        let mut patch = Value::object();
        patch.set_at(&["metadata", "finalizers"], left);
        patch.set_at(&["metadata", "resourceVersion"], crd.str_at(&["metadata", "resourceVersion"]));
        if send(server, Method::PATCH, &path_of(name), &patch).await? != 409 {
            break;
        }
    }
    Ok(())
}

async fn delete(server: Weak<ApiServer>, path: String) -> Result<u16, Status> {
    send(&server, Method::DELETE, &path, &Value::Null).await
}

async fn note(server: &Weak<ApiServer>, name: &str, step: InstanceRemoval) -> Result<(), Status> {
    change(server, name, |crd, now| definition::mark_terminating(crd, step, now)).await
}

/// The objects of a definition.
struct Objects {
    slot: Arc<Slot>,
    base: String,
    plural: String,
}

impl Objects {
    fn of(server: &Weak<ApiServer>, name: &str) -> Option<Self> {
        let server = server.upgrade()?;
        let served = server.resources.load().served().get(name)?.clone();
        let crd = served.brief();
        let (group, plural) = (crd.str_at(&["spec", "group"]), crd.str_at(&["spec", "names", "plural"]));
        let versions = crd.list_at(&["spec", "versions"]);
        let served = versions.iter().find(|version| version.bool_at(&["served"]) == Some(true))?;
        let slot = server.cache.slot(&GroupResource { group: group.into(), resource: plural.into() });
        Some(Self { slot, base: format!("/apis/{group}/{}", served.str_at(&["name"])), plural: plural.to_owned() })
    }

    fn path(&self, entry: &Entry) -> String {
        let (base, plural, name) = (&self.base, &self.plural, entry.name());
        match entry.namespace() {
            "" => format!("{base}/{plural}/{name}"),
            namespace => format!("{base}/namespaces/{namespace}/{plural}/{name}"),
        }
    }
}

fn path_of(name: &str) -> String {
    format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
}

fn definition_of(server: &Weak<ApiServer>, name: &str) -> Option<Value> {
    let entry = server.upgrade()?.cache.slot(&definitions_resource()).get("", name)?;
    let mut crd = entry.decode().ok()?;
    crd.set_at(&["apiVersion"], "apiextensions.k8s.io/v1");
    crd.set_at(&["kind"], "CustomResourceDefinition");
    Some(crd)
}

/// Changes a definition's status through the API, again when somebody else was faster.
async fn change(
    server: &Weak<ApiServer>,
    name: &str,
    edit: impl Fn(&mut Value, jiff::Timestamp),
) -> Result<(), Status> {
    for _ in 0..MAX_RACES {
        let Some(mut crd) = definition_of(server, name) else { return Ok(()) };
        let Some(now) = server.upgrade().map(|server| server.clock.now()) else { return Ok(()) };
        edit(&mut crd, now);
        if send(server, Method::PUT, &format!("{}/status", path_of(name)), &crd).await? != 409 {
            break;
        }
    }
    Ok(())
}

/// A request of the server to itself; its code.
async fn send(server: &Weak<ApiServer>, method: Method, path: &str, body: &Value) -> Result<u16, Status> {
    let Some(server) = server.upgrade() else { return Ok(503) };
    let media = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let body = if body.is_null() { Body::empty() } else { timonel_api::encode_json(body).into() };
    let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, media).body(body);
    let request = request.map_err(Status::internal)?;
    let response = server.call(request, Caller::internal("apiserver")).await;
    let code = response.status().as_u16();
    let answer = http_body_util::Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    if let (true, Ok(answer)) = (code >= 400 && code != 404 && code != 409, answer) {
        let text = String::from_utf8_lossy(&answer.to_bytes()).into_owned();
        tracing::warn!(path, code, answer = %text, "a step of a definition's life was refused");
    }
    Ok(code)
}
