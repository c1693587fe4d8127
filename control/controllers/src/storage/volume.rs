//! The volumes' side of binding: their phase, and what is undone when their claim is gone.

use super::binder::BOUND_BY_CONTROLLER;
use crate::{
    common::objects::{annotation, name, uid},
    framework::{Action, Change, Controller, Key, Kind, Note, Object, Plan, Target, Tone, View},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::{Value, json};

/// Keeps volumes' phases.
#[derive(Debug)]
pub(crate) struct VolumeBinder;

impl Controller for VolumeBinder {
    fn name(&self) -> &'static str {
        "persistentvolume-phase-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::PersistentVolume, Kind::PersistentVolumeClaim]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("PersistentVolume", "status"), ("PersistentVolume", "spec.claimRef released")]
    }

    fn keys(&self, view: &View, change: &Change, keys: &mut Vec<Key>) {
        match change.object() {
            Object::PersistentVolume(volume) => keys.push(Key::of(&volume.metadata)),
            object => {
                let volumes = view.volumes.indexed(&Key::of(object.meta()).to_string());
                keys.extend(volumes.map(|volume| Key::of(&volume.metadata)));
            }
        }
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let Some(volume) = view.volumes.get(key) else { return Plan::none() };
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.clone());
        let Some(reference) = reference else { return phase(volume, "Available", now) };
        let wanted = reference.uid.unwrap_or_default();
        if wanted.is_empty() {
            return phase(volume, "Available", now);
        }
        let place =
            Key::new(reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref().unwrap_or_default());
        let claim = view.claims.get(&place).filter(|claim| uid(&claim.metadata) == wanted);
        let Some(claim) = claim else { return released(volume, now) };
        let chosen = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
        if chosen == name(&volume.metadata) {
            return phase(volume, "Bound", now);
        }
        if chosen.is_empty() {
            // The claim's side comes next.
            return Plan::none();
        }
        // The claim took another volume; this one is free again, or waits for whom it was reserved.
        let reset = if annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some() {
            json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: null}}, "spec": {"claimRef": null}})
        } else {
            json!({"spec": {"claimRef": {"uid": null, "resourceVersion": null}}})
        };
        vec![release(volume, reset)].into()
    }
}

fn release(volume: &PersistentVolume, patch: Value) -> Action {
    Action::patch(Target::exact(Kind::PersistentVolume, &volume.metadata), patch)
}

/// Annotation that names who made the volume, and so who deletes it.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// The claim is gone. Whoever made the volume deletes it, if the policy says so; where nobody can, that is told.
fn released(volume: &PersistentVolume, now: Timestamp) -> Plan {
    let spec = volume.spec.as_ref();
    let policy = spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    let has_maker = annotation(&volume.metadata, PROVISIONED_BY).is_some();
    let driven = has_maker || spec.is_some_and(|spec| spec.csi.is_some());
    if !matches!(policy, Some("Delete" | "Recycle")) || driven {
        return phase(volume, "Released", now);
    }
    let old = volume.status.clone().unwrap_or_default();
    if old.phase.as_deref() == Some("Failed") {
        return Plan::none();
    }
    let (word, reason) = match policy {
        Some("Recycle") => ("recyclable", "VolumeFailedRecycle"),
        _ => ("deletable", "VolumeFailedDelete"),
    };
    let message = format!("no {word} volume plugin matched");
    let status = PersistentVolumeStatus {
        phase: Some("Failed".to_owned()),
        message: Some(message.clone()),
        last_phase_transition_time: Some(Time(now)),
        ..old
    };
    let told = Note::about(Kind::PersistentVolume, &volume.metadata, Tone::Warning, reason, message);
    let changed = PersistentVolume { status: Some(status), ..volume.clone() };
    vec![Action::update_status(changed).on_success(told)].into()
}

fn phase(volume: &PersistentVolume, phase: &str, now: Timestamp) -> Plan {
    let old = volume.status.clone().unwrap_or_default();
    if old.phase.as_deref() == Some(phase) || old.phase.as_deref() == Some("Failed") {
        return Plan::none();
    }
    let status =
        PersistentVolumeStatus { phase: Some(phase.to_owned()), last_phase_transition_time: Some(Time(now)), ..old };
    vec![Action::update_status(PersistentVolume { status: Some(status), ..volume.clone() })].into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, outline};

    fn check(claim_ref: Value, claim: Option<(&str, &str)>, by_controller: bool, expected: &str) {
        let mut view = View::default();
        let annotations = if by_controller { json!({BOUND_BY_CONTROLLER: "yes"}) } else { json!({}) };
        view.volumes.insert(object(
            json!({"metadata": {"name": "v", "annotations": annotations}, "spec": {"claimRef": claim_ref}}),
        ));
        if let Some((uid, volume)) = claim {
            view.claims.insert(object(
                json!({"metadata": {"name": "c", "namespace": "d", "uid": uid}, "spec": {"volumeName": volume}}),
            ));
        }
        let made = outline(&VolumeBinder.plan(&view, &Key::new("", "v"), at(0)));
        let told = made.first().map(|made| match made.body["status"]["phase"].as_str() {
            Some(phase) => phase.to_owned(),
            None => made.body["spec"].to_string(),
        });
        assert_eq!(told.unwrap_or_default(), expected);
    }

    #[test]
    fn phases() {
        let reference = json!({"namespace": "d", "name": "c", "uid": "1"});
        check(Value::Null, None, false, "Available");
        check(json!({"namespace": "d", "name": "c"}), None, false, "Available");
        check(reference.clone(), Some(("1", "v")), false, "Bound");
        check(reference.clone(), None, false, "Released");
        check(reference.clone(), Some(("2", "v")), false, "Released");
        check(reference.clone(), Some(("1", "")), false, "");
        check(reference.clone(), Some(("1", "other")), true, "{\"claimRef\":null}");
        check(reference, Some(("1", "other")), false, "{\"claimRef\":{\"resourceVersion\":null,\"uid\":null}}");
    }

    #[test]
    fn a_volume_that_nobody_can_delete_says_so() {
        let reference = json!({"namespace": "d", "name": "c", "uid": "1"});
        for (annotations, source, policy, expected) in [
            (json!({}), json!({"hostPath": {"path": "/x"}}), "Delete", "Failed"),
            (json!({}), json!({"nfs": {"path": "/x", "server": "s"}}), "Recycle", "Failed"),
            (json!({}), json!({"hostPath": {"path": "/x"}}), "Retain", "Released"),
            (json!({PROVISIONED_BY: "x"}), json!({"hostPath": {"path": "/x"}}), "Delete", "Released"),
            (json!({}), json!({"csi": {"driver": "d", "volumeHandle": "h"}}), "Delete", "Released"),
        ] {
            let mut spec = source;
            spec["claimRef"] = reference.clone();
            spec["persistentVolumeReclaimPolicy"] = json!(policy);
            let mut view = View::default();
            view.volumes.insert(object(json!({"metadata": {"name": "v", "annotations": annotations}, "spec": spec})));
            let made = outline(&VolumeBinder.plan(&view, &Key::new("", "v"), at(0)));
            assert_eq!(made[0].body["status"]["phase"], expected, "{policy}");
        }
    }
}
