//! The objects of a cluster's API at one moment.

use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

/// Kinds that the simulation looks at, with the path of their collection.
pub(crate) const KINDS: [(&str, &str); 18] = [
    ("Namespace", "/api/v1/namespaces"),
    ("Node", "/api/v1/nodes"),
    ("Pod", "/api/v1/pods"),
    ("Service", "/api/v1/services"),
    ("ServiceAccount", "/api/v1/serviceaccounts"),
    ("ConfigMap", "/api/v1/configmaps"),
    ("PersistentVolumeClaim", "/api/v1/persistentvolumeclaims"),
    ("PersistentVolume", "/api/v1/persistentvolumes"),
    ("Deployment", "/apis/apps/v1/deployments"),
    ("ReplicaSet", "/apis/apps/v1/replicasets"),
    ("StatefulSet", "/apis/apps/v1/statefulsets"),
    ("DaemonSet", "/apis/apps/v1/daemonsets"),
    ("ControllerRevision", "/apis/apps/v1/controllerrevisions"),
    ("Job", "/apis/batch/v1/jobs"),
    ("CronJob", "/apis/batch/v1/cronjobs"),
    ("EndpointSlice", "/apis/discovery.k8s.io/v1/endpointslices"),
    ("VolumeAttachment", "/apis/storage.k8s.io/v1/volumeattachments"),
    ("PodDisruptionBudget", "/apis/policy/v1/poddisruptionbudgets"),
];

/// Objects by kind, then by namespace and name.
#[derive(Clone, Debug, Default)]
pub struct Snapshot(BTreeMap<&'static str, BTreeMap<(String, String), Arc<Value>>>);

/// Namespace and name of an object.
pub(crate) fn key(object: &Value) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

/// An object in the words of a report.
pub(crate) fn title(kind: &str, object: &Value) -> String {
    match key(object) {
        (namespace, name) if namespace.is_empty() => format!("{kind} {name}"),
        (namespace, name) => format!("{kind} {namespace}/{name}"),
    }
}

impl Snapshot {
    /// The objects of a kind, sorted by namespace and name.
    pub fn of(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.0.get(kind).into_iter().flat_map(|all| all.values().map(|object| &**object))
    }

    /// One object.
    #[must_use]
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.0.get(kind)?.get(&(namespace.to_owned(), name.to_owned())).map(|object| &**object)
    }

    /// Puts an object in place of its last version, which is returned.
    pub fn put(&mut self, kind: &'static str, object: Arc<Value>) -> Option<Arc<Value>> {
        self.0.entry(kind).or_default().insert(key(&object), object)
    }

    /// Removes an object.
    pub fn remove(&mut self, kind: &'static str, object: &Value) -> Option<Arc<Value>> {
        self.0.get_mut(kind)?.remove(&key(object))
    }

    /// Everything, with its kind.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.0.iter().flat_map(|(kind, all)| all.values().map(|object| (*kind, &**object)))
    }
}
