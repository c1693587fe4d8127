//! Writes pod statuses to the API: the newest per pod, several pods at once, again after a failure; and deletes a
//! pod for good once nothing of it is left. Workers hand statuses over and never wait.

use crate::decide::names::PodId;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use timonel_runtime::{OnError, Tasks};
use tokio::sync::Notify;

/// Writes at once.
const AT_ONCE: usize = 8;
/// Pause after a round with a failure.
const RETRY: Duration = Duration::from_secs(1);
const CALL_LIMIT: Duration = Duration::from_secs(15);

#[derive(Default)]
struct Entry {
    id: Option<PodId>,
    status: PodStatus,
    version: u64,
    sent: u64,
    delete: bool,
}

/// Whether a status has a pod's last phase.
pub(crate) fn is_over(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// Statuses to write, by UID.
#[derive(Default)]
pub(crate) struct Statuses {
    entries: Mutex<BTreeMap<String, Entry>>,
    dirty: Notify,
}

impl Statuses {
    /// Starts the writer.
    pub(crate) fn run(self: &Arc<Self>, client: Client, tasks: &Tasks) {
        let this = self.clone();
        tasks.spawn("statuses", OnError::Log, async move {
            loop {
                let failed = this.round(&client).await;
                if failed {
                    tokio::time::sleep(RETRY).await;
                } else {
                    this.dirty.notified().await;
                }
            }
            #[allow(unreachable_code, reason = "gives the block its error type")]
            Ok::<(), kube::Error>(())
        });
    }

    /// Takes a status over when it differs from the last one.
    pub(crate) fn set(&self, id: &PodId, status: &PodStatus) {
        let mut entries = self.entries.lock();
        let entry = entries.entry(id.uid.clone()).or_default();
        entry.id = Some(id.clone());
        if entry.version == 0 || entry.status != *status {
            entry.status = status.clone();
            entry.version += 1;
            self.dirty.notify_one();
        }
    }

    /// The status last handed over.
    pub(crate) fn get(&self, uid: &str) -> Option<PodStatus> {
        let entries = self.entries.lock();
        entries.get(uid).filter(|entry| entry.version > 0).map(|entry| entry.status.clone())
    }

    /// Nothing of the pod is left: its object goes away after the last status is written.
    pub(crate) fn delete(&self, id: &PodId) {
        let mut entries = self.entries.lock();
        let entry = entries.entry(id.uid.clone()).or_default();
        entry.id = Some(id.clone());
        entry.delete = true;
        self.dirty.notify_one();
    }

    /// The API no longer has the pod.
    pub(crate) fn forget(&self, uid: &str) {
        self.entries.lock().remove(uid);
    }

    /// Writes again what the API shows differently, as after a restore of the API's data. A last phase that somebody
    /// else wrote stays: such a pod ends.
    pub(crate) fn compare(&self, uid: &str, shown: Option<&PodStatus>) {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(uid) else { return };
        let phase = |status: &PodStatus| (status.phase.clone(), status.pod_ip.clone());
        if entry.sent == entry.version
            && entry.version > 0
            && shown.is_none_or(|shown| !is_over(shown) && phase(shown) != phase(&entry.status))
        {
            entry.sent = 0;
            self.dirty.notify_one();
        }
    }

    async fn round(&self, client: &Client) -> bool {
        let work: Vec<(PodId, PodStatus, u64, bool)> = {
            let entries = self.entries.lock();
            let dirty = entries.values().filter(|entry| entry.version > entry.sent || entry.delete);
            dirty.filter_map(|one| Some((one.id.clone()?, one.status.clone(), one.version, one.delete))).collect()
        };
        let results = futures::stream::iter(work).map(|(id, status, version, delete)| async move {
            let written = self.write(client, &id, &status, version).await;
            match written {
                Ok(()) if delete => self.remove(client, &id).await,
                other => other,
            }
            .inspect_err(|error| tracing::warn!(pod = %id, %error, "status not written"))
            .is_err()
        });
        results.buffer_unordered(AT_ONCE).fold(false, |any, failed| async move { any || failed }).await
    }

    async fn write(&self, client: &Client, id: &PodId, status: &PodStatus, version: u64) -> Result<(), kube::Error> {
        if self.entries.lock().get(&id.uid).is_none_or(|entry| entry.sent >= version) {
            return Ok(());
        }
        let api: Api<Pod> = Api::namespaced(client.clone(), &id.namespace);
        let mut body = serde_json::to_value(status).map_err(kube::Error::SerdeError)?;
        if let Some(map) = body.as_object_mut() {
            // A strategic patch keeps what it does not name: what a status no longer has must be named.
            for field in ["reason", "message"] {
                map.entry(field).or_insert(serde_json::Value::Null);
                let conditions = map.get_mut("conditions").and_then(serde_json::Value::as_array_mut);
                for condition in conditions.into_iter().flatten().filter_map(serde_json::Value::as_object_mut) {
                    condition.entry(field).or_insert(serde_json::Value::Null);
                }
            }
        }
        let patch = serde_json::json!({"metadata": {"uid": id.uid}, "status": body});
        let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
        let call = api.patch_status(&id.name, &params, &patch);
        match tokio::time::timeout(CALL_LIMIT, call).await {
            Err(_) => return Err(kube::Error::Service("no answer in time".into())),
            Ok(Ok(_)) => {}
            // Gone, or another pod of that name: nothing to say about this one any more.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {}
            Ok(Err(error)) => return Err(error),
        }
        if let Some(entry) = self.entries.lock().get_mut(&id.uid) {
            entry.sent = entry.sent.max(version);
        }
        Ok(())
    }

    async fn remove(&self, client: &Client, id: &PodId) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(client.clone(), &id.namespace);
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(id.uid.clone()), ..Preconditions::default() }),
            ..DeleteParams::default()
        };
        match api.delete(&id.name, &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(error),
        }
        self.forget(&id.uid);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_phase_of_somebody_else_is_not_written_over() {
        let id = PodId { namespace: "d".into(), name: "p".into(), uid: "u".into() };
        let status = |phase: &str| PodStatus { phase: Some(phase.into()), ..PodStatus::default() };
        for (shown, again) in [("Pending", true), ("Running", false), ("Failed", false), ("Succeeded", false)] {
            let statuses = Statuses::default();
            statuses.set(&id, &status("Running"));
            statuses.entries.lock().get_mut("u").expect("entry").sent = 1;
            statuses.compare("u", Some(&status(shown)));
            assert_eq!(statuses.entries.lock()["u"].sent == 0, again, "{shown}");
        }
    }
}
