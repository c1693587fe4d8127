//! Follows the API through watches without faults, one change at a time, and checks each.

use crate::{
    client::Front,
    invariants::{Change, safety},
    snapshot::{KINDS, Snapshot, key, title},
    trace::Trace,
    world::Sight,
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::ready, stream, stream::BoxStream, stream::SelectAll};
use http::Request;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    collections::{BTreeSet, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};
use timonel_apiserver::{Body, Caller};

/// Pause before a watch that ended is begun again.
const AGAIN: Duration = Duration::from_millis(100);
/// Changes taken in before they are put in order.
const AT_ONCE: usize = 4_096;

/// A line of a watch, or nothing when it ended.
type Line = (usize, Option<Value>);

/// The observer. It owns the snapshot that all checks look at.
pub(crate) struct Observer {
    pub(crate) front: Front,
    pub(crate) sight: Sight,
    pub(crate) snapshot: Arc<Mutex<Snapshot>>,
    pub(crate) trace: Trace,
}

impl Observer {
    /// Observes until it is dropped.
    pub(crate) async fn control(self) -> Result<(), Infallible> {
        let mut lines: SelectAll<BoxStream<'static, Line>> = SelectAll::new();
        // The newest version seen of every kind.
        let mut seen = vec![0_u64; KINDS.len()];
        for (kind, seen) in seen.iter_mut().enumerate() {
            *seen = self.list(kind).await.0;
            lines.push(self.watch(kind, *seen).await);
        }
        while let Some(first) = lines.next().await {
            let mut batch = vec![first];
            while batch.len() < AT_ONCE {
                let Some(Some(line)) = lines.next().now_or_never() else { break };
                batch.push(line);
            }
            let mut ended = Vec::new();
            let mut changes = Vec::new();
            for (kind, line) in batch {
                match line {
                    // The server forgot what was in between: what it has is compared with what was seen.
                    Some(line) if line["object"]["code"] == 410 => seen[kind] = 0,
                    Some(line) if line["type"] == "ERROR" => {
                        self.trace.violated(format!("the observer's watch of {} failed: {line}", KINDS[kind].0));
                    }
                    Some(line) => changes.push((version(&line["object"]), kind, line)),
                    None => ended.push(kind),
                }
            }
            changes.sort_by_key(|(version, kind, _)| (*version, *kind));
            for (version, kind, mut line) in changes {
                if version < seen[kind] {
                    self.trace.violated(format!("a watch of {} went back to {version}", KINDS[kind].0));
                }
                seen[kind] = seen[kind].max(version);
                let removed = line["type"] == "DELETED";
                let change = self.take(KINDS[kind].0, removed, line["object"].take());
                self.check(&[change]);
            }
            if ended.is_empty() {
                continue;
            }
            tokio::time::sleep(AGAIN).await;
            let mut changes = Vec::new();
            let lost: Vec<usize> = ended.iter().copied().filter(|kind| seen[*kind] == 0).collect();
            for kind in lost {
                let (version, found) = self.list(kind).await;
                (seen[kind], changes) = (version, [changes, found].concat());
            }
            // Only all of them together are a state that there was.
            self.check(&changes);
            for kind in ended {
                lines.push(self.watch(kind, seen[kind]).await);
            }
        }
        Ok(())
    }

    /// Takes in what there is and what there is no more; returns the version of the list (0 if there was none) and
    /// what differs from what was known.
    async fn list(&self, kind: usize) -> (u64, Vec<Change>) {
        let (name, path) = KINDS[kind];
        let Ok(request) = Request::get(path).body(Body::empty()) else { return (0, Vec::new()) };
        let response = self.front.server().call(request, Caller::internal("observer")).await;
        let Ok(body) = response.into_body().collect().await else { return (0, Vec::new()) };
        let mut list: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        let items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        let there: BTreeSet<_> = items.iter().map(key).collect();
        let known: Vec<Value> = self.snapshot.lock().of(name).cloned().collect();
        let gone = known.into_iter().filter(|object| !there.contains(&key(object)));
        let mut changes: Vec<Change> = gone.map(|object| self.take(name, true, object)).collect();
        changes.extend(items.into_iter().map(|object| self.take(name, false, object)));
        (version(&list), changes)
    }

    fn take(&self, kind: &'static str, removed: bool, mut object: Value) -> Change {
        // Lists leave these out of their items.
        if let Some(object) = object.as_object_mut() {
            object.remove("apiVersion");
            object.remove("kind");
        }
        let mut snapshot = self.snapshot.lock();
        let object = Arc::new(object);
        let old = if removed { snapshot.remove(kind, &object) } else { snapshot.put(kind, object.clone()) };
        let verb = if removed { "gone" } else { "is" };
        self.trace.note(format!("{} {verb} {}{}", title(kind, &object), version(&object), brief(kind, &object)));
        Change { kind, old, new: (!removed).then_some(object) }
    }

    fn check(&self, changes: &[Change]) {
        let (snapshot, cloud) = (self.snapshot.lock(), self.sight.cloud());
        for what in changes.iter().flat_map(|change| safety(&snapshot, change, &cloud)) {
            self.trace.violated(what);
        }
    }

    async fn watch(&self, kind: usize, from: u64) -> BoxStream<'static, Line> {
        let path = format!("{}?watch=true&resourceVersion={from}", KINDS[kind].1);
        let request = Request::get(path).body(Body::empty());
        let end = stream::once(ready((kind, None)));
        let Ok(request) = request else { return end.boxed() };
        let response = self.front.server().call(request, Caller::internal("observer")).await;
        let start = (response.into_body(), Vec::new(), VecDeque::new());
        let lines = stream::unfold(start, |(mut body, mut rest, mut ready)| async move {
            loop {
                if let Some(line) = ready.pop_front() {
                    return Some((line, (body, rest, ready)));
                }
                let frame = body.frame().await?.ok()?;
                let Ok(data) = frame.into_data() else { continue };
                split(&data, &mut rest, &mut ready);
            }
        });
        lines.map(move |line| (kind, Some(line))).chain(end).boxed()
    }
}

/// Adds whole lines of `data` to `ready` and keeps what follows.
fn split(data: &Bytes, rest: &mut Vec<u8>, ready: &mut VecDeque<Value>) {
    rest.extend_from_slice(data);
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line: Vec<u8> = rest.drain(..=end).collect();
        if let Ok(value) = serde_json::from_slice(&line) {
            ready.push_back(value);
        }
    }
}

/// An object's version as a number.
pub(crate) fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// What a reader of the trace wants to know of an object.
fn brief(kind: &str, object: &Value) -> String {
    let (spec, status) = (&object["spec"], &object["status"]);
    let going = if object["metadata"]["deletionTimestamp"].is_string() { " going" } else { "" };
    let detail = match kind {
        "Pod" => format!(" {} on {}", status["phase"], spec["nodeName"]),
        "ReplicaSet" | "StatefulSet" | "Deployment" => {
            format!(" {}/{}", status["readyReplicas"].as_i64().unwrap_or(0), spec["replicas"])
        }
        "Node" => format!(" taints {}", spec["taints"]),
        "PersistentVolumeClaim" | "PersistentVolume" | "Job" | "VolumeAttachment" | "Namespace" => format!(" {status}"),
        _ => String::new(),
    };
    format!("{going}{detail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_any_pieces() {
        let (mut rest, mut ready) = (Vec::new(), VecDeque::new());
        for piece in ["{\"a\":", "1}\n{\"a\":2}", "\n", "{\"a\""] {
            split(&Bytes::from(piece), &mut rest, &mut ready);
        }
        assert_eq!(ready.iter().map(|line| line["a"].as_i64()).collect::<Vec<_>>(), [Some(1), Some(2)]);
        assert_eq!(rest, b"{\"a\"");
    }
}
