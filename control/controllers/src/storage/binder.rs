//! Binds claims to volumes: chooses, reserves, completes, and says when a bound claim has lost its volume.

use super::choice::{choose, class_of_claim, reserved_for};
use crate::{
    common::objects::{annotation, deleting, name, uid},
    framework::{Action, Change, Controller, Key, Kind, Note, Object, Plan, Target, Tone, View, reference},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus};
use serde_json::json;
use std::sync::Arc;

pub(super) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub(super) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const BETA_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// Binds claims. Its one key stands for all unbound claims, so that no two get the same volume.
#[derive(Debug)]
pub(crate) struct ClaimBinder;

impl Controller for ClaimBinder {
    fn name(&self) -> &'static str {
        "persistentvolume-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::PersistentVolumeClaim, Kind::PersistentVolume, Kind::StorageClass]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("PersistentVolumeClaim", "status"),
            ("PersistentVolumeClaim", "spec.volumeName"),
            ("PersistentVolume", "spec.claimRef"),
        ]
    }

    fn keys(&self, _view: &View, change: &Change, keys: &mut Vec<Key>) {
        if matches!(change.object(), Object::PersistentVolumeClaim(_)) && change.new.is_none() {
            return;
        }
        keys.push(Key::new("", "claims"));
    }

    fn plan(&self, view: &View, _key: &Key, _now: Timestamp) -> Plan {
        let mut plan = Plan::none();
        let mut taken: Vec<String> = Vec::new();
        for claim in view.claims.all().filter(|claim| !settled(view, claim)) {
            plan.actions.extend(attend(view, claim, &mut taken));
        }
        plan
    }
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

/// The common case: bound, and the volume says so too.
fn settled(view: &View, claim: &PersistentVolumeClaim) -> bool {
    let bound = phase(claim) == "Bound" && annotation(&claim.metadata, BIND_COMPLETED).is_some();
    bound
        && view
            .volumes
            .find("", volume_name(claim))
            .is_some_and(|volume| claimed_by(volume) == Some(uid(&claim.metadata)))
}

fn claimed_by(volume: &PersistentVolume) -> Option<&str> {
    volume.spec.as_ref()?.claim_ref.as_ref().map(|claim| claim.uid.as_deref().unwrap_or_default())
}

fn attend(view: &View, claim: &Arc<PersistentVolumeClaim>, taken: &mut Vec<String>) -> Vec<Action> {
    let wanted = volume_name(claim);
    let volume = view.volumes.find("", wanted);
    if annotation(&claim.metadata, BIND_COMPLETED).is_some() {
        return match volume {
            Some(volume) if volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none()) => {
                bind(claim, volume, false)
            }
            Some(volume) if claimed_by(volume) == Some(uid(&claim.metadata)) => bind(claim, volume, false),
            Some(_) => {
                lost(claim, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
            }
            None => lost(claim, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"),
        };
    }
    if deleting(&claim.metadata) {
        return Vec::new();
    }
    if !wanted.is_empty() {
        let free = volume.filter(|volume| reserved_for(volume, claim) || claimed_by(volume).is_none());
        return match free.filter(|_| !taken.iter().any(|name| name == wanted)) {
            Some(volume) => {
                taken.push(wanted.to_owned());
                bind(claim, volume, false)
            }
            None => pending(claim, None),
        };
    }
    let chosen = choose(view, claim).filter(|volume| !taken.iter().any(|taken| taken == name(&volume.metadata)));
    let waits = waits_for_consumer(view, claim);
    match chosen {
        Some(volume) if !waits || reserved_for(volume, claim) => {
            taken.push(name(&volume.metadata).to_owned());
            bind(claim, volume, true)
        }
        _ if waits => pending(
            claim,
            Some(("WaitForFirstConsumer", "waiting for first consumer to be created before binding".to_owned())),
        ),
        _ => provision(view, claim),
    }
}

/// Whether the class binds only once a pod has a node, and none has been chosen.
fn waits_for_consumer(view: &View, claim: &PersistentVolumeClaim) -> bool {
    let class = view.storage_classes.find("", class_of_claim(claim));
    class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
        && annotation(&claim.metadata, SELECTED_NODE).is_none()
}

/// One step towards a bound pair: first the volume's reference, then the claim's, then the claim's status.
fn bind(claim: &Arc<PersistentVolumeClaim>, volume: &Arc<PersistentVolume>, by_controller: bool) -> Vec<Action> {
    if claimed_by(volume) != Some(uid(&claim.metadata)) {
        let mut reference = reference(Kind::PersistentVolumeClaim, &claim.metadata);
        reference.resource_version = claim.metadata.resource_version.clone();
        let mut patch = json!({"spec": {"claimRef": reference}});
        if volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none()) {
            patch["metadata"] = json!({"annotations": {BOUND_BY_CONTROLLER: "yes"}});
        }
        return vec![Action::patch(Target::exact(Kind::PersistentVolume, &volume.metadata), patch)];
    }
    let volume_id = name(&volume.metadata);
    if volume_name(claim) != volume_id || annotation(&claim.metadata, BIND_COMPLETED).is_none() {
        let mut annotations = json!({BIND_COMPLETED: "yes"});
        if by_controller || volume_name(claim).is_empty() {
            annotations[BOUND_BY_CONTROLLER] = json!("yes");
        }
        let patch = json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": volume_id}});
        return vec![Action::patch(Target::exact(Kind::PersistentVolumeClaim, &claim.metadata), patch)];
    }
    let spec = volume.spec.clone().unwrap_or_default();
    let old = claim.status.clone().unwrap_or_default();
    // A claim that grew keeps the size it was told; only a first binding takes the volume's.
    let bound = old.phase.as_deref() == Some("Bound");
    let capacity = if bound { old.capacity.clone().or(spec.capacity) } else { spec.capacity };
    // Which attributes it has is the driver's to say from then on.
    let class = old.current_volume_attributes_class_name.clone().filter(|_| bound);
    let class = class.or_else(|| spec.volume_attributes_class_name.filter(|_| !bound));
    let new = PersistentVolumeClaimStatus {
        phase: Some("Bound".to_owned()),
        access_modes: spec.access_modes,
        capacity,
        current_volume_attributes_class_name: class,
        ..old.clone()
    };
    if new == old { Vec::new() } else { vec![status(claim, new)] }
}

fn status(claim: &PersistentVolumeClaim, status: PersistentVolumeClaimStatus) -> Action {
    Action::update_status(PersistentVolumeClaim { status: Some(status), ..claim.clone() })
}

fn with_phase(claim: &PersistentVolumeClaim, phase: &str) -> Action {
    let old = claim.status.clone().unwrap_or_default();
    status(claim, PersistentVolumeClaimStatus { phase: Some(phase.to_owned()), ..old })
}

fn lost(claim: &PersistentVolumeClaim, reason: &'static str, message: &str) -> Vec<Action> {
    if phase(claim) == "Lost" {
        return Vec::new();
    }
    let note = Note::about(Kind::PersistentVolumeClaim, &claim.metadata, Tone::Warning, reason, message);
    vec![with_phase(claim, "Lost").on_success(note)]
}

fn pending(claim: &PersistentVolumeClaim, why: Option<(&'static str, String)>) -> Vec<Action> {
    let note = why.map(|(reason, message)| {
        Note::about(Kind::PersistentVolumeClaim, &claim.metadata, Tone::Normal, reason, message)
    });
    if phase(claim) == "Pending" {
        return note.map(Action::tell).into_iter().collect();
    }
    let action = with_phase(claim, "Pending");
    vec![match note {
        Some(note) => action.on_success(note),
        None => action,
    }]
}

/// Hands the claim to its class's provisioner, which is not part of this process.
fn provision(view: &View, claim: &PersistentVolumeClaim) -> Vec<Action> {
    let class = class_of_claim(claim);
    if class.is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        return pending(claim, Some(("FailedBinding", message.to_owned())));
    }
    let Some(found) = view.storage_classes.find("", class) else {
        let message = format!("storageclass.storage.k8s.io \"{class}\" not found");
        return pending(claim, Some(("ProvisioningFailed", message)));
    };
    let provisioner = found.provisioner.as_str();
    if provisioner == NO_PROVISIONER {
        return pending(
            claim,
            Some((
                "FailedBinding",
                "no persistent volumes available for this claim and no storage class is set".to_owned(),
            )),
        );
    }
    if annotation(&claim.metadata, PROVISIONER) != Some(provisioner) {
        let patch = json!({"metadata": {"annotations": {PROVISIONER: provisioner, BETA_PROVISIONER: provisioner}}});
        return vec![Action::patch(Target::exact(Kind::PersistentVolumeClaim, &claim.metadata), patch)];
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system \
         administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
    );
    pending(claim, Some(("ExternalProvisioning", message)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, outline};
    use serde_json::Value;

    fn claim(extra: Value) -> Value {
        let mut claim = json!({"metadata": {"name": "data", "namespace": "default", "uid": "c", "resourceVersion": "1"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}}});
        for (key, value) in extra.as_object().into_iter().flatten() {
            claim["spec"][key] = value.clone();
        }
        claim
    }

    fn volume(name: &str, size: &str, claim: Value) -> Value {
        json!({"metadata": {"name": name, "uid": name, "resourceVersion": "1"},
            "spec": {"accessModes": ["ReadWriteOnce", "ReadWriteMany"], "capacity": {"storage": size}, "claimRef": claim},
            "status": {"phase": "Available"}})
    }

    fn check(claims: &[Value], volumes: &[Value], expected: &[&str]) -> Vec<crate::testing::Outline> {
        let mut view = View::default();
        for claim in claims {
            view.claims.insert(object(claim.clone()));
        }
        for volume in volumes {
            view.volumes.insert(object(volume.clone()));
        }
        view.storage_classes.insert(object(json!({"metadata": {"name": "fast"}, "provisioner": "csi.example.org"})));
        view.storage_classes.insert(object(json!({"metadata": {"name": "late"}, "provisioner": "csi.example.org",
            "volumeBindingMode": "WaitForFirstConsumer"})));
        let made = outline(&ClaimBinder.plan(&view, &Key::new("", "claims"), at(0)));
        let lines: Vec<_> = made.iter().map(|made| made.line.as_str()).collect();
        assert_eq!(lines, expected);
        made
    }

    #[test]
    fn the_smallest_that_suits_and_step_by_step() {
        let volumes = [
            volume("big", "10Gi", Value::Null),
            volume("small", "500Mi", Value::Null),
            volume("fit", "2Gi", Value::Null),
        ];
        check(&[claim(json!({}))], &volumes, &["patch PersistentVolume fit"]);
        let reserved = volume("fit", "2Gi", json!({"namespace": "default", "name": "data", "uid": "c"}));
        let made =
            check(&[claim(json!({}))], std::slice::from_ref(&reserved), &["patch PersistentVolumeClaim default/data"]);
        assert_eq!(made[0].body["spec"]["volumeName"], "fit");
        let mut bound = claim(json!({"volumeName": "fit"}));
        bound["metadata"]["annotations"] = json!({BIND_COMPLETED: "yes"});
        let mut classed = reserved.clone();
        classed["spec"]["volumeAttributesClassName"] = json!("gold");
        let made = check(std::slice::from_ref(&bound), &[classed], &["status PersistentVolumeClaim default/data"]);
        let told = &made[0].body["status"];
        assert_eq!(
            (&told["capacity"]["storage"], &told["currentVolumeAttributesClassName"]),
            (&json!("2Gi"), &json!("gold"))
        );
        // A bound claim keeps what its driver said.
        let mut settled = bound.clone();
        settled["status"] = json!({"phase": "Bound", "currentVolumeAttributesClassName": "silver"});
        check(&[settled], &[reserved], &[]);
        let made = check(&[bound], &[], &["status PersistentVolumeClaim default/data"]);
        assert_eq!(made[0].body["status"]["phase"], "Lost");
    }

    #[test]
    fn two_claims_never_get_one_volume() {
        let mut other = claim(json!({}));
        other["metadata"]["name"] = json!("other");
        other["metadata"]["uid"] = json!("o");
        let lines = ["patch PersistentVolume fit", "status PersistentVolumeClaim default/other"];
        check(&[claim(json!({})), other], &[volume("fit", "2Gi", Value::Null)], &lines);
    }

    #[test]
    fn classes() {
        check(&[claim(json!({"storageClassName": "fast"}))], &[], &["patch PersistentVolumeClaim default/data"]);
        let made =
            check(&[claim(json!({"storageClassName": "late"}))], &[], &["status PersistentVolumeClaim default/data"]);
        assert!(made[0].notes[0].starts_with("WaitForFirstConsumer"));
        let made =
            check(&[claim(json!({"storageClassName": "none"}))], &[], &["status PersistentVolumeClaim default/data"]);
        assert!(made[0].notes[0].starts_with("ProvisioningFailed"));
    }
}
