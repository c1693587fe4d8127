//! The one executor: carries out what any plan asked for, and decides nothing.
//!
//! Actions about one subject are done in order and stop at the first failure; subjects go side by side. A write that
//! is refused because the object moved on is no failure: the next look sees the newer object.

use crate::{events::event, retries::Retries};
use futures::{StreamExt, stream};
use http::{Method, Request};
use jiff::Timestamp;
use kube::Client;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};
use timonel_cloud_core::{
    Act, Action, Cloud, CloudCall, CloudError, InstanceId, InstanceState, Kind, Outcome, Subject,
};
use timonel_runtime::Clock;

/// Subjects worked on at once.
const AT_ONCE: usize = 16;

/// What one execution brought to light.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Whether the cloud was changed, or may have been.
    pub(crate) changed_cloud: bool,
    /// Answers about instances by ID.
    pub(crate) confirmed: BTreeMap<InstanceId, InstanceState>,
    /// Orders by UID of their Machine: why the cloud refused, or `None` when it took them.
    pub(crate) orders: BTreeMap<String, Option<CloudError>>,
}

/// How one action ended.
enum End {
    Done,
    /// The rest of the subject waits for the next look.
    Overtaken,
    Failed,
}

/// The executor of one loop.
pub(crate) struct Executor {
    client: Client,
    cloud: Arc<dyn Cloud>,
    cluster: String,
    clock: Clock,
    source: &'static str,
    retries: Mutex<Retries>,
    events: AtomicU32,
}

impl Executor {
    pub(crate) fn new(
        client: Client,
        cloud: Arc<dyn Cloud>,
        cluster: &str,
        clock: Clock,
        source: &'static str,
    ) -> Self {
        Self {
            client,
            cloud,
            cluster: cluster.to_owned(),
            clock,
            source,
            retries: Mutex::default(),
            events: AtomicU32::new(0),
        }
    }

    /// When the next failed subject may be tried again.
    pub(crate) fn next_retry(&self) -> Option<Timestamp> {
        self.retries.lock().next(self.clock.now())
    }

    /// Carries out a plan.
    pub(crate) async fn execute(&self, actions: Vec<Action>) -> Report {
        let mut subjects: BTreeMap<String, Vec<Action>> = BTreeMap::new();
        for action in actions {
            subjects.entry(key(&action.subject)).or_default().push(action);
        }
        let report = Mutex::new(Report::default());
        stream::iter(subjects)
            .for_each_concurrent(AT_ONCE, |(key, actions)| {
                let report = &report;
                async move { self.subject(&key, actions, report).await }
            })
            .await;
        report.into_inner()
    }

    async fn subject(&self, key: &str, actions: Vec<Action>, report: &Mutex<Report>) {
        if !self.retries.lock().may(key, self.clock.now()) {
            return;
        }
        for action in actions {
            match self.act(&action, report).await {
                End::Done => {}
                End::Overtaken => return,
                End::Failed => return self.retries.lock().failed(key, self.clock.now()),
            }
        }
        self.retries.lock().succeeded(key);
    }

    async fn act(&self, action: &Action, report: &Mutex<Report>) -> End {
        let subject = &action.subject;
        match &action.act {
            Act::Patch { status, body } => {
                let mut body = body.clone();
                body["metadata"]["resourceVersion"] = subject.version.clone().into();
                body["metadata"]["uid"] = subject.uid.clone().into();
                let path = path(subject.kind, subject.namespace.as_deref(), &subject.name, *status);
                self.write(subject, Method::PATCH, "application/merge-patch+json", path, &body).await
            }
            Act::Create { kind, object } => {
                let path = collection(*kind, None);
                self.write(subject, Method::POST, "application/json", path, object).await
            }
            Act::Delete => {
                let fence = json!({ "uid": subject.uid, "resourceVersion": subject.version });
                let body = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": fence });
                let path = path(subject.kind, subject.namespace.as_deref(), &subject.name, false);
                self.write(subject, Method::DELETE, "application/json", path, &body).await
            }
            Act::Event { warning, reason, message } => {
                self.tell(subject, &(*warning, reason, message.clone())).await;
                End::Done
            }
            Act::Alarm { reason, message } => {
                tracing::error!(subject = %subject.name, reason, message, "alarm");
                self.tell(subject, &(true, reason, message.clone())).await;
                End::Done
            }
            Act::Confirm(ids) => match self.cloud.confirm(ids).await {
                Ok(answers) => {
                    report.lock().confirmed.extend(answers);
                    End::Done
                }
                Err(error) => {
                    tracing::warn!(%error, "instances could not be confirmed");
                    End::Failed
                }
            },
            Act::Cloud(call) => self.call(subject, call, report).await,
        }
    }

    async fn write(&self, subject: &Subject, method: Method, kind: &str, path: String, body: &Value) -> End {
        let request = Request::builder().method(method).uri(&path).header("content-type", kind).body(body.to_string());
        let request = match request {
            Ok(request) => request.map(String::into_bytes),
            Err(error) => {
                tracing::error!(%path, %error, "a request could not be made");
                return End::Failed;
            }
        };
        match self.client.request_text(request).await {
            Ok(_) => End::Done,
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                tracing::debug!(subject = %subject.name, %path, reason = status.reason, "overtaken");
                End::Overtaken
            }
            Err(error) => {
                tracing::warn!(subject = %subject.name, %path, %error, "a write failed");
                End::Failed
            }
        }
    }

    async fn call(&self, subject: &Subject, call: &CloudCall, report: &Mutex<Report>) -> End {
        let result = self.send(call).await;
        {
            let mut report = report.lock();
            report.changed_cloud = true;
            if matches!(call, CloudCall::CreateMachine(_)) {
                report.orders.insert(subject.uid.clone(), result.clone().err());
            }
        }
        match result {
            Ok(()) => {
                if let Some(outcome) = call.succeeded() {
                    self.tell(subject, &outcome).await;
                }
                End::Done
            }
            Err(error) => {
                tracing::warn!(subject = %subject.name, ?call, %error, "a call to the cloud failed");
                self.tell(subject, &call.failed(&error)).await;
                End::Failed
            }
        }
    }

    async fn send(&self, call: &CloudCall) -> Result<(), CloudError> {
        let (cloud, cluster) = (&self.cloud, &self.cluster);
        match call {
            CloudCall::EnsureRoute(route) => cloud.ensure_route(cluster, route).await,
            CloudCall::DeleteRoute(route) => cloud.delete_route(cluster, route).await,
            CloudCall::EnsureBalancer { spec, .. } => cloud.ensure_balancer(spec).await.map(drop),
            CloudCall::DeleteBalancer(owner) => cloud.delete_balancer(owner).await,
            CloudCall::CreateVolume(order) => cloud.create_volume(order).await.map(drop),
            CloudCall::DeleteVolume(id) => cloud.delete_volume(id).await,
            CloudCall::AttachVolume(id, instance) => cloud.attach_volume(id, instance).await.map(drop),
            CloudCall::DetachVolume(id, instance) => cloud.detach_volume(id, instance).await,
            CloudCall::ExpandVolume(id, bytes) => cloud.expand_volume(id, *bytes).await.map(drop),
            CloudCall::CreateMachine(order) => cloud.create(order).await.map(drop),
            CloudCall::DeleteMachine(id) => cloud.delete(id).await,
            CloudCall::StartMachine(id) => cloud.start(id).await,
            CloudCall::StopMachine(id) => cloud.stop(id).await,
        }
    }

    /// Records an event; one that is lost is not worth a retry. What does not exist gets none.
    async fn tell(&self, subject: &Subject, (warning, reason, message): &Outcome) {
        if subject.uid.is_empty() {
            return;
        }
        let serial = self.events.fetch_add(1, Ordering::Relaxed);
        let (path, body) = event(subject, self.source, (*warning, reason, message), (self.clock.now(), serial));
        let request = Request::post(&path).header("content-type", "application/json").body(body.to_string());
        let Ok(request) = request else { return };
        if let Err(error) = self.client.request_text(request.map(String::into_bytes)).await {
            tracing::debug!(subject = %subject.name, reason, %error, "an event was lost");
        }
    }

    /// Makes an object if it is missing.
    pub(crate) async fn ensure_object(&self, path: &str, object: &Value) -> Result<(), kube::Error> {
        let request = Request::post(path).header("content-type", "application/json").body(object.to_string());
        let request = request.map_err(kube::Error::HttpError)?;
        match self.client.request_text(request.map(String::into_bytes)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            result => result.map(drop),
        }
    }
}

fn key(subject: &Subject) -> String {
    let (_, kind, _) = subject.kind.names();
    format!("{kind}/{}/{}", subject.namespace.as_deref().unwrap_or_default(), subject.name)
}

fn collection(kind: Kind, namespace: Option<&str>) -> String {
    let (version, _, plural) = kind.names();
    let root = if version.contains('/') { "apis" } else { "api" };
    match namespace {
        Some(namespace) => format!("/{root}/{version}/namespaces/{namespace}/{plural}"),
        None => format!("/{root}/{version}/{plural}"),
    }
}

fn path(kind: Kind, namespace: Option<&str>, name: &str, status: bool) -> String {
    format!("{}/{name}{}", collection(kind, namespace), if status { "/status" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(path(Kind::Node, None, "n", true), "/api/v1/nodes/n/status");
        assert_eq!(path(Kind::Machine, Some("p"), "m", false), "/apis/timonel.io/v1/namespaces/p/machines/m");
        assert_eq!(collection(Kind::VolumeAttachment, None), "/apis/storage.k8s.io/v1/volumeattachments");
    }
}
