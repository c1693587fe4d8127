//! Claims that live and die with one pod.

use crate::{
    common::objects::{controlled_by, controller_of, deleting, name, namespace, own_or_owner_keys, uid},
    framework::{Action, Change, Controller, Key, Kind, Note, Plan, Tone, View},
};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::PersistentVolumeClaim, apimachinery::pkg::apis::meta::v1::ObjectMeta};

/// Creates claims for pods' ephemeral volumes.
#[derive(Debug)]
pub(crate) struct EphemeralClaims;

impl Controller for EphemeralClaims {
    fn name(&self) -> &'static str {
        "ephemeral-volume-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Pod, Kind::PersistentVolumeClaim]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("PersistentVolumeClaim", "created for an ephemeral volume")]
    }

    fn keys(&self, _view: &View, change: &Change, keys: &mut Vec<Key>) {
        own_or_owner_keys(change, Kind::Pod, keys);
    }

    fn plan(&self, view: &View, key: &Key, _now: Timestamp) -> Plan {
        let Some(pod) = view.pods.get(key).filter(|pod| !deleting(&pod.metadata)) else { return Plan::none() };
        let mut plan = Plan::none();
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let Some(template) = volume.ephemeral.as_ref().and_then(|source| source.volume_claim_template.as_ref())
            else {
                continue;
            };
            let claim_name = format!("{}-{}", name(&pod.metadata), volume.name);
            if let Some(claim) = view.claims.find(namespace(&pod.metadata), &claim_name) {
                if controller_of(&claim.metadata).is_none_or(|owner| owner.uid != uid(&pod.metadata)) {
                    let message =
                        format!("PVC {}/{claim_name} was not created for pod {key} (pod is not owner)", key.namespace);
                    plan.push(Action::tell(Note::about(
                        Kind::Pod,
                        &pod.metadata,
                        Tone::Warning,
                        "EphemeralVolumeConflict",
                        message,
                    )));
                }
                continue;
            }
            let given = template.metadata.clone().unwrap_or_default();
            plan.push(Action::create(PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(claim_name),
                    namespace: pod.metadata.namespace.clone(),
                    labels: given.labels,
                    annotations: given.annotations,
                    owner_references: Some(vec![controlled_by(Kind::Pod, &pod.metadata)]),
                    ..ObjectMeta::default()
                },
                spec: Some(template.spec.clone()),
                status: None,
            }));
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, lines, object};
    use serde_json::json;

    #[test]
    fn a_claim_of_its_own_and_never_a_strangers() {
        let mut view = View::default();
        view.pods
            .insert(object(json!({"metadata": {"name": "p", "namespace": "d", "uid": "p"}, "spec": {"containers": [],
            "volumes": [{"name": "tmp", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]}})));
        let plan = |view: &View| lines(&EphemeralClaims.plan(view, &Key::new("d", "p"), at(0)));
        assert_eq!(plan(&view), ["create PersistentVolumeClaim d/p-tmp"]);
        view.claims.insert(object(json!({"metadata": {"name": "p-tmp", "namespace": "d"}})));
        assert_eq!(plan(&view), ["tell"]);
    }
}
