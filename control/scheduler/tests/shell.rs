//! The whole scheduler against a fake API server: lists, watches that stay silent, and writes that are noted.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use jiff::Timestamp;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};
use timonel_runtime::{Clock, Entropy, OnError, Tasks};
use timonel_scheduler::{SchedulerConfig, run};
use tokio::sync::Notify;

/// A fake API server.
#[derive(Clone, Default)]
struct Fake(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Objects by the path of their list.
    lists: Mutex<BTreeMap<&'static str, Vec<Value>>>,
    /// Method, path and body of every write.
    writes: Mutex<Vec<(Method, String, Value)>>,
    /// So many bindings fail first.
    failures: Mutex<u32>,
    news: Notify,
}

fn whole(status: StatusCode, value: &Value) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let frame = http_body::Frame::data(Bytes::from(value.to_string()));
    let body = StreamBody::new(futures::stream::iter([Ok(frame)]));
    Response::builder().status(status).body(BodyExt::boxed_unsync(body)).unwrap()
}

impl Fake {
    fn with(self, path: &'static str, items: Vec<Value>) -> Self {
        self.0.lists.lock().unwrap().insert(path, items);
        self
    }

    fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request| {
            let fake = fake.clone();
            async move { Ok::<_, Infallible>(fake.answer(request).await) }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        if parts.method == Method::GET && parts.uri.query().is_some_and(|query| query.contains("watch=true")) {
            let silence = futures::stream::pending::<Result<http_body::Frame<Bytes>, Infallible>>();
            return Response::new(BodyExt::boxed_unsync(StreamBody::new(silence)));
        }
        if parts.method == Method::GET {
            let items = self.0.lists.lock().unwrap().get(path.as_str()).cloned().unwrap_or_default();
            return whole(
                StatusCode::OK,
                &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}),
            );
        }
        let bytes = body.collect().await.unwrap().to_bytes();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        if path.ends_with("/binding") && std::mem::take(&mut *self.0.failures.lock().unwrap()) > 0 {
            return whole(
                StatusCode::INTERNAL_SERVER_ERROR,
                &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500}),
            );
        }
        let answer = if path.ends_with("/binding") {
            json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})
        } else {
            json!({"metadata": {}, "spec": {"containers": []}})
        };
        self.0.writes.lock().unwrap().push((parts.method, path, value));
        self.0.news.notify_one();
        whole(StatusCode::CREATED, &answer)
    }

    /// Waits for `count` writes to paths that end so.
    async fn writes(&self, end: &str, count: usize) -> Vec<Value> {
        let wait = async {
            loop {
                let found: Vec<_> = {
                    let writes = self.0.writes.lock().unwrap();
                    writes.iter().filter(|(_, path, _)| path.ends_with(end)).map(|(.., body)| body.clone()).collect()
                };
                if found.len() >= count {
                    return found;
                }
                self.0.news.notified().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(600), wait).await.expect("the writes come")
    }

    async fn run(&self, check: impl AsyncFnOnce(&Self)) {
        let tasks = Tasks::root("test");
        let config = SchedulerConfig::new(Clock::simulated(Timestamp::UNIX_EPOCH), Entropy::seeded(1));
        let (client, scope) = (self.client(), tasks.clone());
        tasks.spawn("scheduler", OnError::EndScope, async move { run(client, config, &scope).await });
        check(self).await;
        assert!(tasks.shutdown(Duration::from_secs(5)).await, "it stops when told to");
    }
}

fn node(name: &str, cpu: &str) -> Value {
    json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "100"}}})
}

fn pod(name: &str, cpu: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "generation": 1},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

#[tokio::test(start_paused = true)]
async fn pods_are_bound_and_told_so() {
    let pods = (0..50).map(|number| pod(&format!("p{number}"), "100m")).collect();
    let fake = Fake::default().with("/api/v1/nodes", vec![node("a", "4"), node("b", "4")]).with("/api/v1/pods", pods);
    fake.run(async |fake| {
        let bindings = fake.writes("/binding", 50).await;
        let to = |node: &str| bindings.iter().filter(|binding| binding["target"]["name"] == node).count();
        assert_eq!((to("a"), to("b")), (25, 25), "they are spread");
        assert_eq!(bindings[0]["metadata"]["uid"], bindings[0]["metadata"]["name"]);
        let events = fake.writes("/events", 50).await;
        assert_eq!((&events[0]["reason"], &events[0]["action"]), (&json!("Scheduled"), &json!("Binding")));
        let note = events[0]["note"].as_str().unwrap();
        assert!(note.starts_with("Successfully assigned ns/p"), "{note}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_fits_nowhere_is_told_why() {
    let fake = Fake::default().with("/api/v1/nodes", vec![node("a", "1")]).with("/api/v1/pods", vec![pod("p", "2")]);
    fake.run(async |fake| {
        let status = &fake.writes("/pods/p/status", 1).await[0];
        let condition = &status["status"]["conditions"][0];
        assert_eq!((&condition["type"], &condition["status"]), (&json!("PodScheduled"), &json!("False")));
        assert_eq!(condition["reason"], "Unschedulable");
        let expected = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
        assert_eq!(condition["message"], expected);
        let event = &fake.writes("/events", 1).await[0];
        assert_eq!((&event["reason"], &event["note"]), (&json!("FailedScheduling"), &json!(expected)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn victims_are_marked_and_sent_away() {
    let mut victim = pod("low", "4");
    victim["spec"]["nodeName"] = json!("a");
    let mut important = pod("high", "4");
    important["spec"]["priority"] = json!(9);
    let fake =
        Fake::default().with("/api/v1/nodes", vec![node("a", "4")]).with("/api/v1/pods", vec![victim, important]);
    fake.run(async |fake| {
        let marked = &fake.writes("/pods/low/status", 1).await[0];
        assert_eq!(marked["status"]["conditions"][0]["reason"], "PreemptionByScheduler");
        let deleted = &fake.writes("/pods/low", 1).await[0];
        assert_eq!(deleted["preconditions"]["uid"], "low");
        let promised = &fake.writes("/pods/high/status", 1).await[0];
        assert_eq!(promised["status"]["nominatedNodeName"], "a");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_binding_is_tried_again() {
    let fake = Fake::default().with("/api/v1/nodes", vec![node("a", "4")]).with("/api/v1/pods", vec![pod("p", "4")]);
    *fake.0.failures.lock().unwrap() = 1;
    fake.run(async |fake| {
        let started = tokio::time::Instant::now();
        assert_eq!(fake.writes("/binding", 1).await[0]["target"]["name"], "a");
        assert!(started.elapsed() >= Duration::from_secs(1), "after a wait");
    })
    .await;
}
