//! Volumes: provisioning for claims, deletion with the claim, attachment to nodes, growth.
//!
//! Writes of a PersistentVolume: its creation, `spec.capacity`, our finalizer, its deletion. Of a claim: the selected
//! node (only to give it back) and `status.capacity`. Of a VolumeAttachment: its finalizer and status. Never attaches a
//! volume that is attached elsewhere, whatever state that node is in.

mod attach;
mod provision;

use crate::{
    action::Action,
    model::{Instance, Volume},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{Node, PersistentVolume, PersistentVolumeClaim},
        storage::v1::{CSIDriver, StorageClass, VolumeAttachment},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc};

/// How a cloud's volumes appear in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageConfig {
    /// CSI driver name, which is the provisioner of its storage classes.
    pub driver: String,
    /// Whether a volume can only be used in its own zone.
    pub zonal: bool,
}

/// What the plan looks at.
#[derive(Clone, Copy, Debug)]
pub struct VolumeView<'a> {
    /// UID of the cluster.
    pub cluster: &'a str,
    /// How volumes appear.
    pub config: &'a StorageConfig,
    /// Every claim.
    pub claims: &'a [Arc<PersistentVolumeClaim>],
    /// Every persistent volume.
    pub persistent: &'a [Arc<PersistentVolume>],
    /// Every storage class.
    pub classes: &'a [Arc<StorageClass>],
    /// Every attachment.
    pub attachments: &'a [Arc<VolumeAttachment>],
    /// Every node.
    pub nodes: &'a [Arc<Node>],
    /// Every instance of the cluster.
    pub instances: &'a [Instance],
    /// Every volume of the cluster.
    pub volumes: &'a [Volume],
    /// The time, for errors shown in a status.
    pub now: Timestamp,
}

/// The view by name and handle.
#[derive(Debug)]
pub(crate) struct Index<'a> {
    pub(crate) persistent: BTreeMap<&'a str, &'a PersistentVolume>,
    pub(crate) classes: BTreeMap<&'a str, &'a StorageClass>,
    pub(crate) nodes: BTreeMap<&'a str, &'a Node>,
    pub(crate) by_handle: BTreeMap<&'a str, &'a Volume>,
    pub(crate) by_claim: BTreeMap<&'a str, &'a Volume>,
}

/// Decides what to do about every claim, volume and attachment.
#[must_use]
pub fn plan_volumes(view: &VolumeView<'_>) -> Vec<Action> {
    let index = Index {
        persistent: by_name(view.persistent, |o| &o.metadata),
        classes: by_name(view.classes, |o| &o.metadata),
        nodes: by_name(view.nodes, |o| &o.metadata),
        by_handle: view.volumes.iter().map(|v| (v.id.0.as_str(), v)).collect(),
        by_claim: view.volumes.iter().map(|v| (v.owner.resource.as_str(), v)).collect(),
    };
    let mut actions = provision::plan_claims(view, &index);
    actions.extend(provision::plan_persistent(view, &index));
    actions.extend(attach::plan_attachments(view, &index));
    actions
}

fn by_name<T>(objects: &[Arc<T>], meta: impl Fn(&T) -> &ObjectMeta) -> BTreeMap<&str, &T> {
    objects.iter().filter_map(|object| Some((meta(object).name.as_deref()?, &**object))).collect()
}

/// Handle of a persistent volume of ours.
pub(crate) fn handle<'a>(config: &StorageConfig, volume: &'a PersistentVolume) -> Option<&'a str> {
    let csi = volume.spec.as_ref()?.csi.as_ref()?;
    (csi.driver == config.driver).then_some(csi.volume_handle.as_str())
}

/// The CSIDriver object that tells a cluster that volumes of `driver` must be attached, and owned by group.
#[must_use]
pub fn csi_driver(driver: &str) -> CSIDriver {
    serde_json::from_value(json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": { "name": driver },
        "spec": {
            "attachRequired": true, "podInfoOnMount": false, "fsGroupPolicy": "File",
            "volumeLifecycleModes": ["Persistent"], "storageCapacity": false, "requiresRepublish": false,
        },
    }))
    .expect("the literal is a CSIDriver")
}

/// The default storage class of a cluster on this cloud.
#[must_use]
pub fn default_storage_class(name: &str, driver: &str) -> StorageClass {
    serde_json::from_value(json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": { "name": name, "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } },
        "provisioner": driver, "volumeBindingMode": "WaitForFirstConsumer", "reclaimPolicy": "Delete",
        "allowVolumeExpansion": true,
    }))
    .expect("the literal is a StorageClass")
}

#[cfg(test)]
#[path = "volumes_tests.rs"]
mod tests;
