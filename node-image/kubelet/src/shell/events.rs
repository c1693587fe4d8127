//! Events about pods and the node: repeated ones are counted, a queue bounds them, and none of them ever holds a
//! worker up.

use crate::decide::model::Kind;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use std::collections::BTreeMap;
use timonel_runtime::{Clock, Entropy, OnError, Tasks};
use tokio::sync::mpsc;

/// Events waiting to be written; more are dropped.
const QUEUE: usize = 256;
/// Distinct events remembered for counting.
const REMEMBERED: usize = 512;

/// Something worth telling.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    about: ObjectReference,
    kind: &'static str,
    reason: &'static str,
    message: String,
}

/// Where notes go in.
#[derive(Clone, Debug)]
pub(crate) struct Events(mpsc::Sender<Note>);

impl Events {
    /// Starts the writer.
    pub(crate) fn new(client: Client, node: &str, clock: Clock, entropy: Entropy, tasks: &Tasks) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let writer = Writer { client, node: node.to_owned(), clock, entropy, known: BTreeMap::new() };
        tasks.spawn("events", OnError::Log, writer.run(receiver));
        Self(sender)
    }

    pub(crate) fn pod(&self, pod: &Pod, warning: bool, reason: &'static str, message: impl Into<String>) {
        self.note(reference(pod, None), warning, reason, message.into());
    }

    pub(crate) fn container(
        &self,
        pod: &Pod,
        (kind, name): (Kind, &str),
        warning: bool,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let path = crate::decide::containers::field_path(kind, name);
        self.note(reference(pod, Some(path)), warning, reason, message.into());
    }

    fn note(&self, about: ObjectReference, warning: bool, reason: &'static str, message: String) {
        let kind = if warning { "Warning" } else { "Normal" };
        if self.0.try_send(Note { about, kind, reason, message }).is_err() {
            tracing::debug!(reason, "event dropped: the queue is full");
        }
    }
}

fn reference(pod: &Pod, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

struct Writer {
    client: Client,
    node: String,
    clock: Clock,
    entropy: Entropy,
    /// By subject, reason and message: the event's name and count.
    known: BTreeMap<String, (String, i32)>,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Note>) -> Result<(), kube::Error> {
        while let Some(note) = queue.recv().await {
            if let Err(error) = self.write(note).await {
                tracing::debug!(%error, "event not written");
            }
        }
        Ok(())
    }

    async fn write(&mut self, note: Note) -> Result<(), kube::Error> {
        let namespace = note.about.namespace.clone().unwrap_or_else(|| "default".into());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let key = format!("{:?}/{:?}/{}/{}", note.about.uid, note.about.field_path, note.reason, note.message);
        let now = Time(self.clock.now());
        if let Some((name, count)) = self.known.get_mut(&key) {
            *count += 1;
            let patch = serde_json::json!({"count": *count, "lastTimestamp": now});
            match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let subject = note.about.name.clone().unwrap_or_default();
        let name = format!("{subject}.{}", self.entropy.suffix(16));
        let event = Event {
            metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(namespace), ..ObjectMeta::default() },
            involved_object: note.about,
            type_: Some(note.kind.into()),
            reason: Some(note.reason.into()),
            message: Some(note.message),
            count: Some(1),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            source: Some(EventSource { component: Some("kubelet".into()), host: Some(self.node.clone()) }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.node.clone()),
            ..Event::default()
        };
        api.create(&PostParams::default(), &event).await?;
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(key, (name, 1));
        Ok(())
    }
}
