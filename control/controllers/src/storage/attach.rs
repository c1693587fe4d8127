//! Attachments: which CSI volumes must be attached to which node, as `VolumeAttachment` objects for the driver's
//! attacher, and as the list in the node's status that its kubelet waits for.

use super::protection::claims_of;
use crate::{
    common::{
        objects::{deleting, name, namespace},
        pods::{finished, node},
    },
    framework::{Action, Change, Controller, Key, Kind, Object, Plan, Target, View},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{AttachedVolume, CSIPersistentVolumeSource, Node, PersistentVolume, Pod},
        storage::v1::{VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, sync::Arc};

/// Attaches and detaches. Its keys are nodes.
#[derive(Debug)]
pub(crate) struct Attachments;

impl Controller for Attachments {
    fn name(&self) -> &'static str {
        "attachdetach-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[
            Kind::Pod,
            Kind::Node,
            Kind::PersistentVolumeClaim,
            Kind::PersistentVolume,
            Kind::VolumeAttachment,
            Kind::CSIDriver,
        ]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("VolumeAttachment", "created and deleted"), ("Node", "status.volumesAttached")]
    }

    fn keys(&self, view: &View, change: &Change, keys: &mut Vec<Key>) {
        match change.object() {
            Object::Pod(pod) if !node(pod).is_empty() && claims_of(pod).next().is_some() => {
                keys.push(Key::new("", node(pod)));
            }
            Object::Node(node) => keys.push(Key::of(&node.metadata)),
            Object::VolumeAttachment(attachment) => keys.push(Key::new("", &attachment.spec.node_name)),
            Object::PersistentVolumeClaim(claim) => {
                let users = view.pods.in_namespace(namespace(&claim.metadata));
                let users = users.filter(|pod| claims_of(pod).any(|used| used == name(&claim.metadata)));
                keys.extend(users.filter(|pod| !node(pod).is_empty()).map(|pod| Key::new("", node(pod))));
            }
            _ => {}
        }
    }

    fn plan(&self, view: &View, key: &Key, _now: Timestamp) -> Plan {
        let mut plan = Plan::none();
        let Some(found) = view.nodes.get(key) else {
            let left = view.attachments.indexed(&key.name);
            let left = left.filter(|attachment| ours(attachment) && !deleting(&attachment.metadata));
            plan.actions.extend(
                left.map(|attachment| Action::delete(Target::of(Kind::VolumeAttachment, &attachment.metadata))),
            );
            return plan;
        };
        let wanted = wanted(view, &key.name);
        for (attachment_name, (volume, source)) in &wanted {
            if view.attachments.find("", attachment_name).is_none() {
                plan.push(Action::create(attachment(attachment_name, &key.name, volume, source)));
            }
        }
        for attachment in view.attachments.indexed(&key.name).filter(|attachment| ours(attachment)) {
            let needed = wanted.contains_key(name(&attachment.metadata));
            // First the kubelet is told, by a write that its own report of a use refuses; only then it is detached.
            let told = !reported(view, found, attachment);
            if !needed && told && !deleting(&attachment.metadata) && !in_use(view, found, attachment) {
                plan.push(Action::delete(Target::of(Kind::VolumeAttachment, &attachment.metadata)));
            }
        }
        plan.actions.extend(report(view, found, &wanted));
        plan
    }
}

/// The name that ties an attachment to its volume, driver and node.
fn attachment_name(source: &CSIPersistentVolumeSource, node: &str) -> String {
    let digest = Sha256::digest(format!("{}{}{node}", source.volume_handle, source.driver));
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("csi-{hex}")
}

/// Whether the name is one of [`attachment_name`]: others belong to whoever made them.
fn ours(attachment: &VolumeAttachment) -> bool {
    let digest = name(&attachment.metadata).strip_prefix("csi-").unwrap_or_default();
    digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn csi(volume: &PersistentVolume) -> Option<&CSIPersistentVolumeSource> {
    volume.spec.as_ref()?.csi.as_ref()
}

/// The volumes that the pods of a node need attached, by the attachment's name.
fn wanted<'a>(
    view: &'a View,
    node: &str,
) -> BTreeMap<String, (&'a Arc<PersistentVolume>, &'a CSIPersistentVolumeSource)> {
    let mut wanted = BTreeMap::new();
    for pod in view.pods.indexed(node).filter(|pod| !finished(pod)) {
        for volume in volumes(view, pod) {
            let Some(source) = csi(volume) else { continue };
            let driver = view.csi_drivers.find("", &source.driver);
            if driver.is_none_or(|driver| driver.spec.attach_required != Some(false)) {
                wanted.insert(attachment_name(source, node), (volume, source));
            }
        }
    }
    wanted
}

fn volumes<'a>(view: &'a View, pod: &'a Pod) -> impl Iterator<Item = &'a Arc<PersistentVolume>> {
    claims_of(pod).filter_map(move |claim| {
        let claim = view.claims.find(namespace(&pod.metadata), &claim)?;
        view.volumes.find("", claim.spec.as_ref()?.volume_name.as_deref()?)
    })
}

fn attachment(
    name: &str,
    node: &str,
    volume: &PersistentVolume,
    source: &CSIPersistentVolumeSource,
) -> VolumeAttachment {
    VolumeAttachment {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: VolumeAttachmentSpec {
            attacher: source.driver.clone(),
            node_name: node.to_owned(),
            source: VolumeAttachmentSource {
                persistent_volume_name: volume.metadata.name.clone(),
                inline_volume_spec: None,
            },
        },
        status: None,
    }
}

/// The name by which a kubelet knows the volume of an attachment.
fn unique_name(view: &View, attachment: &VolumeAttachment) -> Option<String> {
    let volume = view.volumes.find("", attachment.spec.source.persistent_volume_name.as_deref()?)?;
    let source = csi(volume)?;
    Some(format!("kubernetes.io/csi/{}^{}", source.driver, source.volume_handle))
}

/// Whether the kubelet says that it has the volume mounted.
fn in_use(view: &View, node: &Node, attachment: &VolumeAttachment) -> bool {
    let used = node.status.as_ref().and_then(|status| status.volumes_in_use.as_deref()).unwrap_or_default();
    unique_name(view, attachment).is_some_and(|name| used.contains(&name))
}

/// Whether the kubelet is told that the volume is attached.
fn reported(view: &View, node: &Node, attachment: &VolumeAttachment) -> bool {
    let told = node.status.as_ref().and_then(|status| status.volumes_attached.as_deref()).unwrap_or_default();
    unique_name(view, attachment).is_some_and(|name| told.iter().any(|volume| volume.name == name))
}

/// Tells the kubelet which volumes are attached and stay so.
fn report<T>(view: &View, node: &Node, needed: &BTreeMap<String, T>) -> Option<Action> {
    let attached = view.attachments.indexed(name(&node.metadata)).filter(|attachment| {
        let stays =
            needed.contains_key(name(&attachment.metadata)) || !ours(attachment) || in_use(view, node, attachment);
        stays && !deleting(&attachment.metadata) && attachment.status.as_ref().is_some_and(|status| status.attached)
    });
    let mut wanted: Vec<AttachedVolume> = attached
        .filter_map(|attachment| unique_name(view, attachment))
        .map(|name| AttachedVolume { name, device_path: String::new() })
        .collect();
    wanted.sort_by(|a, b| a.name.cmp(&b.name));
    let known = node.status.as_ref().and_then(|status| status.volumes_attached.clone()).unwrap_or_default();
    if known == wanted {
        return None;
    }
    let patch = serde_json::json!({"status": {"volumesAttached": wanted}});
    Some(Action::patch_status(Target::exact(Kind::Node, &node.metadata), patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, outline};
    use serde_json::json;

    fn view(pod: bool) -> View {
        let mut view = View::default();
        view.nodes.insert(object(json!({"metadata": {"name": "n"}})));
        if pod {
            view.pods.insert(object(
                json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"nodeName": "n", "containers": [],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}}),
            ));
        }
        view.claims.insert(object(json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {"volumeName": "pv"}})));
        view.volumes.insert(object(
            json!({"metadata": {"name": "pv"}, "spec": {"csi": {"driver": "csi.x", "volumeHandle": "h"}}}),
        ));
        view
    }

    fn lines(view: &View) -> Vec<String> {
        crate::testing::lines(&Attachments.plan(view, &Key::new("", "n"), at(0)))
    }

    #[test]
    fn attached_for_a_pod_reported_and_detached_after_it() {
        let mut with = view(true);
        let made = outline(&Attachments.plan(&with, &Key::new("", "n"), at(0)));
        assert_eq!(made.len(), 1);
        let mut stored = made[0].body.clone();
        stored["status"] = json!({"attached": true});
        with.attachments.insert(object(stored.clone()));
        assert_eq!(lines(&with), ["patch-status Node n"]);
        let mut without = view(false);
        without.attachments.insert(object(stored));
        without.nodes.insert(object(
            json!({"metadata": {"name": "n"}, "status": {"volumesInUse": ["kubernetes.io/csi/csi.x^h"],
            "volumesAttached": [{"name": "kubernetes.io/csi/csi.x^h", "devicePath": ""}]}}),
        ));
        assert_eq!(lines(&without), Vec::<String>::new(), "still mounted");
        without.nodes.insert(object(json!({"metadata": {"name": "n"},
            "status": {"volumesAttached": [{"name": "kubernetes.io/csi/csi.x^h", "devicePath": ""}]}})));
        assert_eq!(lines(&without), ["patch-status Node n"], "the kubelet is told before anything is detached");
        without.nodes.insert(object(json!({"metadata": {"name": "n"}})));
        assert_eq!(lines(&without).len(), 1);
        assert!(lines(&without)[0].starts_with("delete VolumeAttachment csi-"));
    }

    #[test]
    fn attachments_of_others_stay() {
        let mut view = view(false);
        for node in ["n", "gone"] {
            view.attachments.insert(object(json!({"metadata": {"name": format!("theirs-{node}")},
                "spec": {"attacher": "csi.x", "nodeName": node, "source": {"persistentVolumeName": "pv"}}})));
        }
        assert_eq!(lines(&view), Vec::<String>::new());
        assert_eq!(Attachments.plan(&view, &Key::new("", "gone"), at(0)).actions.len(), 0);
    }

    #[test]
    fn drivers_that_need_no_attachment_get_none() {
        let mut view = view(true);
        view.csi_drivers.insert(object(json!({"metadata": {"name": "csi.x"}, "spec": {"attachRequired": false}})));
        assert_eq!(lines(&view), Vec::<String>::new());
    }
}
