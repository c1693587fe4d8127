//! Carries decisions out: the requests to the API server, and nothing that decides.

use crate::{
    pod::PodInfo,
    preempt::Preemption,
    volumes::{SELECTED_NODE, VolumeStep},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Value, json};

/// Longest note of an event, in bytes: the API refuses more.
const MAX_NOTE_BYTES: usize = 1024;
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// Which request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActionError {
    #[error("bind the pod")]
    Bind(#[source] kube::Error),
    #[error("give volume {volume} to claim {claim}")]
    Volume { volume: String, claim: String, source: kube::Error },
    #[error("volume {0} was taken by another claim")]
    VolumeTaken(String),
    #[error("ask for a volume for claim {claim}")]
    Provision { claim: String, source: kube::Error },
    #[error("report on the pod")]
    Status(#[source] kube::Error),
    #[error("send pod {victim} away")]
    Victim { victim: String, source: kube::Error },
    #[error("record an event")]
    Event(#[source] kube::Error),
}

/// Who speaks, in events.
#[derive(Clone)]
pub(crate) struct Actor {
    pub(crate) client: Client,
    pub(crate) instance: String,
}

/// What an event says.
struct Said<'a> {
    kind: &'a str,
    reason: &'a str,
    action: &'a str,
    note: String,
}

impl Actor {
    fn pods(&self, pod: &PodInfo) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace)
    }

    /// Binds the pod and says so.
    pub(crate) async fn bind(&self, pod: &PodInfo, node: &str, now: Timestamp) -> Result<(), ActionError> {
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(pod.name.clone()),
                namespace: Some(pod.namespace.to_string()),
                uid: Some(pod.uid.clone()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Node".into()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let posted: Result<Value, _> =
            self.pods(pod).create_subresource("binding", &pod.name, &PostParams::default(), &binding).await;
        posted.map_err(ActionError::Bind)?;
        let note = format!("Successfully assigned {} to {node}", pod.key());
        self.say(pod, None, Said { kind: "Normal", reason: "Scheduled", action: "Binding", note }, now).await
    }

    /// Prepares the pod's volumes.
    pub(crate) async fn volumes(&self, steps: &[VolumeStep]) -> Result<(), ActionError> {
        for step in steps {
            match step {
                VolumeStep::Bind { volume, claim } => self.give(volume, claim).await?,
                VolumeStep::Provision { claim, node } => self.provision(claim, node).await?,
            }
        }
        Ok(())
    }

    /// Writes under the resource version that was read, so that nobody's change is lost.
    async fn give(&self, name: &str, claim: &str) -> Result<(), ActionError> {
        let failed = |source| ActionError::Volume { volume: name.to_owned(), claim: claim.to_owned(), source };
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let mut volume = volumes.get(name).await.map_err(failed)?;
        let (claims, claim_name) = self.claims(claim);
        let found = claims.get(claim_name).await.map_err(failed)?;
        let spec = volume.spec.get_or_insert_default();
        if let Some(taken) = &spec.claim_ref {
            let ours = taken.name.as_deref() == Some(claim_name) && taken.namespace == found.metadata.namespace;
            return if ours { Ok(()) } else { Err(ActionError::VolumeTaken(name.to_owned())) };
        }
        spec.claim_ref = Some(ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("PersistentVolumeClaim".into()),
            name: Some(claim_name.to_owned()),
            namespace: found.metadata.namespace,
            uid: found.metadata.uid,
            resource_version: found.metadata.resource_version,
            ..ObjectReference::default()
        });
        volume.metadata.annotations.get_or_insert_default().insert(BOUND_BY_CONTROLLER.into(), "yes".into());
        volumes.replace(name, &PostParams::default(), &volume).await.map_err(failed)?;
        Ok(())
    }

    async fn provision(&self, claim: &str, node: &str) -> Result<(), ActionError> {
        let failed = |source| ActionError::Provision { claim: claim.to_owned(), source };
        let (claims, name) = self.claims(claim);
        let mut found = claims.get(name).await.map_err(failed)?;
        found.metadata.annotations.get_or_insert_default().insert(SELECTED_NODE.into(), node.to_owned());
        claims.replace(name, &PostParams::default(), &found).await.map_err(failed)?;
        Ok(())
    }

    fn claims<'a>(&self, key: &'a str) -> (Api<PersistentVolumeClaim>, &'a str) {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        (Api::namespaced(self.client.clone(), namespace), name)
    }

    /// Writes why the pod goes nowhere, and the node that is promised to it, if that changed.
    pub(crate) async fn report(
        &self,
        pod: &PodInfo,
        message: &str,
        nominated: Option<&str>,
        now: Timestamp,
    ) -> Result<(), ActionError> {
        let known = pod.reported.as_ref();
        let told = known.is_some_and(|(known, _)| known == message);
        if told && nominated.is_none() {
            return Ok(());
        }
        let since = known.map_or_else(|| now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), |(_, since)| since.clone());
        let mut status = json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastTransitionTime": since, "observedGeneration": pod.generation,
        }]});
        if let Some(nominated) = nominated {
            status["nominatedNodeName"] = json!(if nominated.is_empty() { None } else { Some(nominated) });
        }
        self.patch_status(pod, &status).await.map_err(ActionError::Status)?;
        if told {
            return Ok(());
        }
        let said = Said { kind: "Warning", reason: "FailedScheduling", action: "Scheduling", note: message.to_owned() };
        self.say(pod, None, said, now).await
    }

    async fn patch_status(&self, pod: &PodInfo, status: &Value) -> Result<(), kube::Error> {
        let patch = json!({"metadata": {"uid": pod.uid}, "status": status});
        let patched = self.pods(pod).patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        gone_is_fine(patched.map(drop))
    }

    /// Sends pods away so that `pod` finds room.
    pub(crate) async fn preempt(
        &self,
        pod: &PodInfo,
        preemption: &Preemption,
        now: Timestamp,
    ) -> Result<(), ActionError> {
        for victim in &preemption.victims {
            let failed = |source| ActionError::Victim { victim: victim.key(), source };
            let message = format!("{}: preempting to accommodate a higher priority pod", pod.scheduler);
            let condition = json!({"conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": message,
                "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                "observedGeneration": victim.generation,
            }]});
            self.patch_status(victim, &condition).await.map_err(failed)?;
            let exactly = Preconditions { uid: Some(victim.uid.clone()), resource_version: None };
            let params = DeleteParams { preconditions: Some(exactly), ..DeleteParams::default() };
            gone_is_fine(self.pods(victim).delete(&victim.name, &params).await.map(drop)).map_err(failed)?;
            let note = format!("Preempted by pod {} on node {}", pod.uid, preemption.node);
            let said = Said { kind: "Normal", reason: "Preempted", action: "Preempting", note };
            self.say(victim, Some(pod), said, now).await?;
        }
        Ok(())
    }

    async fn say(
        &self,
        pod: &PodInfo,
        related: Option<&PodInfo>,
        said: Said<'_>,
        now: Timestamp,
    ) -> Result<(), ActionError> {
        let Said { kind, reason, action, note } = said;
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", pod.name, now.as_nanosecond())),
                namespace: Some(pod.namespace.to_string()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(pod.scheduler.clone()),
            reporting_instance: Some(self.instance.clone()),
            action: Some(action.to_owned()),
            reason: Some(reason.to_owned()),
            regarding: Some(reference(pod)),
            related: related.map(reference),
            note: Some(cut(note)),
            type_: Some(kind.to_owned()),
            ..Event::default()
        };
        let events: Api<Event> = Api::namespaced(self.client.clone(), &pod.namespace);
        match events.create(&PostParams::default(), &event).await {
            // One of this name says the same about the same pod at the same instant.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            other => other.map(drop).map_err(ActionError::Event),
        }
    }
}

fn cut(mut note: String) -> String {
    if note.len() > MAX_NOTE_BYTES {
        let end = (0..=MAX_NOTE_BYTES - 3).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
        note.truncate(end);
        note.push_str("...");
    }
    note
}

fn reference(pod: &PodInfo) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(pod.namespace.to_string()),
        name: Some(pod.name.clone()),
        uid: Some(pod.uid.clone()),
        ..ObjectReference::default()
    }
}

/// A pod that is gone needs nothing more done to it.
fn gone_is_fine(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_cut_at_a_character() {
        assert_eq!(cut("short".into()), "short");
        let cut = cut("ä".repeat(1000));
        assert!(cut.len() <= MAX_NOTE_BYTES && cut.ends_with("ä..."));
    }
}
