//! The pods and claims of a stateful set: names, identity, storage. Pure.

use crate::{
    common::objects::{controlled_by, deleting, label, name, namespace, uid},
    framework::{Action, Kind, Note, Target, Tone, View},
};
use k8s_openapi::{
    api::{
        apps::v1::{StatefulSet, StatefulSetSpec},
        core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use serde_json::json;
use std::{collections::BTreeMap, ops::Range, sync::Arc};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The ordinal in a pod's name, if the name is one of the set's.
pub(super) fn ordinal(set: &StatefulSet, pod: &str) -> Option<i32> {
    let (parent, number) = pod.rsplit_once('-')?;
    if parent != name(&set.metadata) || (number.len() > 1 && number.starts_with('0')) {
        return None;
    }
    number.parse().ok().filter(|number| *number >= 0)
}

fn claim_name(template: &PersistentVolumeClaim, set: &StatefulSet, at: i32) -> String {
    format!("{}-{}-{at}", name(&template.metadata), name(&set.metadata))
}

fn volumes(set: &StatefulSet, spec: &StatefulSetSpec, at: i32) -> Vec<Volume> {
    let templates = spec.volume_claim_templates.iter().flatten();
    let volume = |template: &PersistentVolumeClaim| Volume {
        name: name(&template.metadata).to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(template, set, at),
            read_only: None,
        }),
        ..Volume::default()
    };
    templates.map(volume).collect()
}

fn identify(pod: &mut Pod, set: &StatefulSet, at: i32) {
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), format!("{}-{at}", name(&set.metadata)));
    labels.insert(POD_INDEX.to_owned(), at.to_string());
}

/// The pod of a set at an ordinal.
pub(super) fn new_pod(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    template: &PodTemplateSpec,
    revision: &str,
    at: i32,
) -> Pod {
    let mut pod = crate::common::template::pod_from(template, Kind::StatefulSet, &set.metadata);
    let pod_name = format!("{}-{at}", name(&set.metadata));
    pod.metadata.generate_name = Some(format!("{}-", name(&set.metadata)));
    pod.metadata.name = Some(pod_name.clone());
    identify(&mut pod, set, at);
    pod.metadata.labels.get_or_insert_default().insert(super::history::REVISION_LABEL.to_owned(), revision.to_owned());
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname = Some(pod_name);
    pod_spec.subdomain = spec.service_name.clone().filter(|service| !service.is_empty());
    let own = volumes(set, spec, at);
    let mut all: Vec<Volume> = pod_spec.volumes.take().unwrap_or_default();
    all.retain(|volume| own.iter().all(|own| own.name != volume.name));
    all.extend(own);
    pod_spec.volumes = Some(all).filter(|volumes| !volumes.is_empty());
    pod
}

/// The pod with its identity restored, if it lacks some of it.
pub(super) fn fits(set: &StatefulSet, _spec: &StatefulSetSpec, pod: &Pod, at: i32) -> Option<Pod> {
    let fits = label(&pod.metadata, POD_NAME) == pod.metadata.name.as_deref()
        && label(&pod.metadata, POD_INDEX) == Some(at.to_string().as_str());
    (!fits).then(|| {
        let mut fitted = pod.clone();
        identify(&mut fitted, set, at);
        fitted
    })
}

/// Creates the claims that the pod at an ordinal lacks.
pub(super) fn claim_actions(set: &StatefulSet, spec: &StatefulSetSpec, view: &View, at: i32) -> Vec<Action> {
    let mut actions = Vec::new();
    for template in spec.volume_claim_templates.iter().flatten() {
        let claim_name = claim_name(template, set, at);
        if view.claims.find(namespace(&set.metadata), &claim_name).is_some() {
            continue;
        }
        let mut labels: BTreeMap<String, String> = template.metadata.labels.clone().unwrap_or_default();
        labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
        let claim = PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(claim_name.clone()),
                namespace: set.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: template.metadata.annotations.clone(),
                owner_references: owners(set, spec, None).filter(|owners| !owners.is_empty()),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        };
        let set_name = name(&set.metadata);
        let text = format!("create Claim {claim_name} Pod {set_name}-{at} in StatefulSet {set_name}");
        let note = |tone, reason, message| Note::about(Kind::StatefulSet, &set.metadata, tone, reason, message);
        actions.push(
            Action::create(claim)
                .on_success(note(Tone::Normal, "SuccessfulCreate", format!("{text} success")))
                .on_failure(note(Tone::Warning, "FailedCreate", format!("{text} failed error: {{}}"))),
        );
    }
    actions
}

fn deletes(policy: Option<&String>) -> bool {
    policy.is_some_and(|policy| policy == "Delete")
}

/// The owners that the retention policy gives a claim: the set, and the pod while it is being scaled away. None when
/// the set states no policy.
fn owners(set: &StatefulSet, spec: &StatefulSetSpec, leaving: Option<&Pod>) -> Option<Vec<OwnerReference>> {
    let policy = spec.persistent_volume_claim_retention_policy.as_ref()?;
    let mut owners = Vec::new();
    if let Some(pod) = leaving.filter(|_| deletes(policy.when_scaled.as_ref())) {
        owners.push(OwnerReference {
            controller: None,
            block_owner_deletion: None,
            ..controlled_by(Kind::Pod, &pod.metadata)
        });
    } else if deletes(policy.when_deleted.as_ref()) {
        let owner = controlled_by(Kind::StatefulSet, &set.metadata);
        owners.push(OwnerReference { controller: Some(true), block_owner_deletion: Some(true), ..owner });
    }
    Some(owners)
}

/// Brings the owners of existing claims in line with the retention policy.
pub(super) fn retention_actions(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    view: &View,
    pods: &BTreeMap<i32, &Arc<Pod>>,
    wanted: Range<i32>,
) -> Vec<Action> {
    let mut actions = Vec::new();
    for (at, pod) in pods {
        let leaving = (!wanted.contains(at)).then_some(&***pod);
        let Some(ours) = owners(set, spec, leaving) else { return actions };
        for template in spec.volume_claim_templates.iter().flatten() {
            let Some(claim) = view.claims.find(namespace(&set.metadata), &claim_name(template, set, *at)) else {
                continue;
            };
            let known = claim.metadata.owner_references.clone().unwrap_or_default();
            let foreign = |owner: &&OwnerReference| owner.uid != uid(&set.metadata) && owner.uid != uid(&pod.metadata);
            let mut all: Vec<OwnerReference> = known.iter().filter(foreign).cloned().collect();
            all.extend(ours.iter().cloned());
            if all != known && !deleting(&claim.metadata) {
                let target = Target::exact(Kind::PersistentVolumeClaim, &claim.metadata);
                actions.push(Action::patch(target, json!({"metadata": {"ownerReferences": all}})));
            }
        }
    }
    actions
}
