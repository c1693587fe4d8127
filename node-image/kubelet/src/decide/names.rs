//! Labels, annotations, paths and hashes by which the agent finds its own again after a restart.

use k8s_openapi::api::core::v1::{Container, Pod};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
pub(crate) const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
pub(crate) const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub(crate) const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
pub(crate) const TERMINATION_HOST_PATH: &str = "timonel.io/termination-message-host-path";
pub(crate) const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
/// On the API's copy of a static pod: the hash of the file's pod.
pub(crate) const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

/// Name, namespace and UID of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodId {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl PodId {
    pub(crate) fn of(pod: &Pod) -> Self {
        Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        }
    }

    /// From the labels of a sandbox or container; nothing when it is not a pod's.
    pub(crate) fn from_labels(labels: &impl Labels) -> Option<Self> {
        Some(Self {
            namespace: labels.label(POD_NAMESPACE)?.to_owned(),
            name: labels.label(POD_NAME)?.to_owned(),
            uid: labels.label(POD_UID)?.to_owned(),
        })
    }

    /// The folder of the pod's logs below the log root.
    pub(crate) fn log_folder(&self) -> String {
        format!("{}_{}_{}", self.namespace, self.name, self.uid)
    }
}

impl std::fmt::Display for PodId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}_{}({})", self.name, self.namespace, self.uid)
    }
}

/// Something with labels, however it keeps them.
pub(crate) trait Labels {
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for std::collections::HashMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

/// Of what may not change under a running container: its name and image.
pub(crate) fn container_hash(container: &Container) -> String {
    let mut digest = Sha256::new();
    digest.update(container.name.as_bytes());
    digest.update([0]);
    digest.update(container.image.as_deref().unwrap_or_default().as_bytes());
    digest.finalize()[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Path of a run's log below the pod's log folder.
pub(crate) fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_follows_name_and_image_only() {
        let base = Container { name: "a".into(), image: Some("x:1".into()), ..Container::default() };
        let other_env = Container { working_dir: Some("/".into()), ..base.clone() };
        let other_image = Container { image: Some("x:2".into()), ..base.clone() };
        let moved = Container { name: "ax".into(), image: Some(":1".into()), ..Container::default() };
        assert_eq!(container_hash(&base), container_hash(&other_env));
        assert_ne!(container_hash(&base), container_hash(&other_image));
        assert_ne!(container_hash(&base), container_hash(&moved));
    }

    #[test]
    fn ids_come_back_from_labels() {
        let id = PodId { namespace: "ns".into(), name: "p".into(), uid: "u".into() };
        let labels: BTreeMap<String, String> =
            [(POD_NAMESPACE, "ns"), (POD_NAME, "p"), (POD_UID, "u")].map(|(k, v)| (k.into(), v.into())).into();
        assert_eq!(PodId::from_labels(&labels), Some(id.clone()));
        assert_eq!(PodId::from_labels(&BTreeMap::new()), None);
        assert_eq!(id.log_folder(), "ns_p_u");
    }
}
