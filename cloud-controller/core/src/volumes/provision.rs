//! Claims to volumes, and volumes back to nothing: provisioning, growth, reclaim.

use super::{Index, VolumeView, handle};
use crate::{
    action::{Act, Action, CloudCall, Kind, Subject},
    model::{Owner, Volume, VolumeId, VolumeOrder},
    objects::{annotation, has_finalizer, label, without_finalizer},
    quantity::{format_bytes, parse_bytes},
};
use k8s_openapi::{
    api::{
        core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Keeps a PersistentVolume until its volume is gone.
const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const ZONE: &str = "topology.kubernetes.io/zone";
const FS_TYPE: &str = "csi.storage.k8s.io/fstype";

fn storage(map: Option<&BTreeMap<String, Quantity>>) -> u64 {
    map.and_then(|map| map.get("storage")).and_then(|quantity| parse_bytes(&quantity.0)).unwrap_or(0)
}

fn requested(spec: &PersistentVolumeClaimSpec) -> u64 {
    storage(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
}

/// Claims: those without a volume get one, those that ask for more than they have grow.
pub(super) fn plan_claims(view: &VolumeView<'_>, index: &Index<'_>) -> Vec<Action> {
    let mut actions = Vec::new();
    for claim in view.claims {
        let Some(spec) = &claim.spec else { continue };
        let class = spec.storage_class_name.as_deref().and_then(|name| index.classes.get(name).copied());
        match spec.volume_name.as_deref().filter(|name| !name.is_empty()) {
            Some(volume) => {
                let persistent = index.persistent.get(volume).copied();
                actions.extend(persistent.and_then(|persistent| grow(view, index, claim, spec, class, persistent)));
            }
            None => {
                let ours = class.filter(|class| class.provisioner == view.config.driver);
                if let (Some(class), None) = (ours, &claim.metadata.deletion_timestamp) {
                    actions.extend(provision(view, index, claim, spec, class));
                }
            }
        }
    }
    actions
}

fn provision(
    view: &VolumeView<'_>,
    index: &Index<'_>,
    claim: &PersistentVolumeClaim,
    spec: &PersistentVolumeClaimSpec,
    class: &StorageClass,
) -> Vec<Action> {
    let subject = Subject::of(Kind::PersistentVolumeClaim, &claim.metadata);
    let selected = annotation(&claim.metadata, SELECTED_NODE);
    if selected.is_none() && class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer") {
        return Vec::new();
    }
    let zone = match selected.map(|name| index.nodes.get(name).copied()) {
        // The node went away: the scheduler must choose again.
        Some(None) => {
            return vec![subject.patch(json!({ "metadata": { "annotations": { SELECTED_NODE: null } } }))];
        }
        Some(Some(node)) => label(&node.metadata, ZONE).unwrap_or_default().to_owned(),
        None => String::new(),
    };
    let name = format!("pvc-{}", subject.uid);
    if index.persistent.contains_key(name.as_str()) || spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Vec::new();
    }
    match index.by_claim.get(subject.uid.as_str()) {
        None => {
            let order = VolumeOrder {
                owner: Owner::new(view.cluster, subject.uid.clone()),
                name,
                bytes: requested(spec).max(1),
                zone,
                parameters: class.parameters.clone().unwrap_or_default(),
            };
            let message = format!(
                "External provisioner is provisioning volume for claim \"{}/{}\"",
                subject.namespace.as_deref().unwrap_or_default(),
                subject.name
            );
            vec![subject.event(false, "Provisioning", message), subject.call(CloudCall::CreateVolume(Box::new(order)))]
        }
        Some(volume) => {
            let object = persistent_volume(view, claim, spec, class, volume);
            let message = format!("Successfully provisioned volume {name}");
            vec![
                subject.act(Act::Create { kind: Kind::PersistentVolume, object }),
                subject.event(false, "ProvisioningSucceeded", message),
            ]
        }
    }
}

fn persistent_volume(
    view: &VolumeView<'_>,
    claim: &PersistentVolumeClaim,
    spec: &PersistentVolumeClaimSpec,
    class: &StorageClass,
    volume: &Volume,
) -> Value {
    let meta = &claim.metadata;
    let mode = spec.volume_mode.as_deref().unwrap_or("Filesystem");
    let policy = class.reclaim_policy.as_deref().unwrap_or("Delete");
    let parameter = |key: &str| class.parameters.as_ref().and_then(|p| p.get(key)).cloned();
    let mut csi = Map::new();
    csi.insert("driver".into(), view.config.driver.clone().into());
    csi.insert("volumeHandle".into(), volume.id.0.clone().into());
    if mode == "Filesystem" {
        csi.insert("fsType".into(), parameter(FS_TYPE).unwrap_or_else(|| "ext4".to_owned()).into());
    }
    let mut body = json!({
        "capacity": { "storage": format_bytes(volume.bytes) },
        "accessModes": spec.access_modes, "volumeMode": mode,
        "persistentVolumeReclaimPolicy": policy, "storageClassName": class.metadata.name,
        "claimRef": {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta.namespace, "name": meta.name,
            "uid": meta.uid, "resourceVersion": meta.resource_version,
        },
        "csi": csi,
    });
    if let Some(options) = &class.mount_options {
        body["mountOptions"] = json!(options);
    }
    if view.config.zonal && !volume.zone.is_empty() {
        let expression = json!({ "key": ZONE, "operator": "In", "values": [volume.zone] });
        body["nodeAffinity"] = json!({ "required": { "nodeSelectorTerms": [{ "matchExpressions": [expression] }] } });
    }
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {
            "name": format!("pvc-{}", meta.uid.as_deref().unwrap_or_default()),
            "annotations": { PROVISIONED_BY: view.config.driver },
            "finalizers": [FINALIZER],
        },
        "spec": body,
    })
}

/// One step per look: the volume, then what the PersistentVolume says, then what the claim says.
fn grow(
    view: &VolumeView<'_>,
    index: &Index<'_>,
    claim: &PersistentVolumeClaim,
    spec: &PersistentVolumeClaimSpec,
    class: Option<&StorageClass>,
    persistent: &PersistentVolume,
) -> Option<Action> {
    let volume = index.by_handle.get(handle(view.config, persistent)?)?;
    let have = storage(claim.status.as_ref().and_then(|status| status.capacity.as_ref()));
    let want = requested(spec);
    // A status without capacity is the binder's to fill first.
    if have == 0 || want <= have || class.is_none_or(|class| class.allow_volume_expansion != Some(true)) {
        return None;
    }
    let subject = Subject::of(Kind::PersistentVolumeClaim, &claim.metadata);
    if volume.bytes < want {
        return Some(subject.call(CloudCall::ExpandVolume(volume.id.clone(), want)));
    }
    let capacity = json!({ "capacity": { "storage": format_bytes(volume.bytes) } });
    if storage(persistent.spec.as_ref().and_then(|spec| spec.capacity.as_ref())) < want {
        let subject = Subject::of(Kind::PersistentVolume, &persistent.metadata);
        return Some(subject.patch(json!({ "spec": capacity })));
    }
    Some(subject.patch_status(&capacity))
}

/// Volumes of ours whose claim is gone: reclaimed by their policy.
pub(super) fn plan_persistent(view: &VolumeView<'_>, index: &Index<'_>) -> Vec<Action> {
    let each = |persistent| unplug(view, index, persistent).or_else(|| reclaim(view, index, persistent));
    view.persistent.iter().filter_map(|persistent| each(persistent)).collect()
}

fn is_ours(view: &VolumeView<'_>, persistent: &PersistentVolume) -> bool {
    annotation(&persistent.metadata, PROVISIONED_BY) == Some(view.config.driver.as_str())
}

fn is_named(view: &VolumeView<'_>, persistent: &PersistentVolume) -> bool {
    let name = persistent.metadata.name.as_deref();
    view.attachments.iter().any(|a| a.spec.source.persistent_volume_name.as_deref() == name)
}

/// A volume that is plugged in though no attachment names it: an old listing hid it when its attachment went.
fn unplug(view: &VolumeView<'_>, index: &Index<'_>, persistent: &PersistentVolume) -> Option<Action> {
    let volume = index.by_handle.get(handle(view.config, persistent)?)?;
    let have = volume.attachment.as_ref()?;
    let stray = is_ours(view, persistent) && !is_named(view, persistent);
    let subject = Subject::of(Kind::PersistentVolume, &persistent.metadata);
    stray.then(|| subject.call(CloudCall::DetachVolume(volume.id.clone(), have.instance.clone())))
}

fn reclaim(view: &VolumeView<'_>, index: &Index<'_>, persistent: &PersistentVolume) -> Option<Action> {
    let id = handle(view.config, persistent)?;
    let subject = Subject::of(Kind::PersistentVolume, &persistent.metadata);
    let phase = persistent.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let policy = persistent.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    let deleting = persistent.metadata.deletion_timestamp.is_some();
    let ours = is_ours(view, persistent);
    let held = has_finalizer(&persistent.metadata, FINALIZER);
    let release = || {
        let finalizers = without_finalizer(&persistent.metadata, FINALIZER);
        subject.patch(json!({ "metadata": { "finalizers": finalizers } }))
    };
    if !ours || phase == "Bound" || !deleting && !matches!(phase, "Released" | "Failed") {
        return None;
    }
    if policy != Some("Delete") {
        return (deleting && held).then(release);
    }
    let used = is_named(view, persistent);
    match (index.by_handle.get(id), deleting) {
        _ if used => None,
        (Some(_), _) => Some(subject.call(CloudCall::DeleteVolume(VolumeId::from(id)))),
        (None, false) => Some(subject.act(Act::Delete)),
        (None, true) => held.then(release),
    }
}
