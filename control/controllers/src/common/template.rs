//! Pods from templates.

use crate::framework::Kind;
use k8s_openapi::{
    api::core::v1::{Pod, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// A pod made from `template`, in the owner's namespace and controlled by it, with a name that starts with the
/// owner's and that the server completes.
pub(crate) fn pod_from(template: &PodTemplateSpec, kind: Kind, owner: &ObjectMeta) -> Pod {
    let given = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(prefix(owner.name.as_deref().unwrap_or_default())),
            namespace: owner.namespace.clone(),
            labels: given.labels,
            annotations: given.annotations,
            finalizers: given.finalizers,
            owner_references: Some(vec![super::objects::controlled_by(kind, owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The longest name the API accepts for a pod.
const LONGEST_NAME: usize = 253;

fn prefix(owner: &str) -> String {
    let dashed = format!("{owner}-");
    if dashed.len() < LONGEST_NAME { dashed } else { owner.to_owned() }
}
