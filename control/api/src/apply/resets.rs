//! Which fields a request cannot change, whatever it says: nobody comes to own them by it.

use super::set::FieldSet;

/// What a request cannot change.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Resets {
    /// It can change everything.
    #[default]
    None,
    /// These fields and what is below them.
    These(FieldSet),
}

impl Resets {
    fn these(paths: &[&[&str]]) -> Self {
        Self::These(paths.iter().fold(FieldSet::new(), |set, path| set.union(&FieldSet::of(path))))
    }

    /// The set without what the request cannot change.
    pub(super) fn filter(&self, set: FieldSet) -> FieldSet {
        match self {
            _ if set.is_empty() => set,
            Self::None => set,
            Self::These(fields) => set.difference_below(fields),
        }
    }
}

/// Kinds of groups whose status belongs to the status subresource; the status request of those with `true` cannot
/// change metadata either.
const WITH_STATUS: [(&str, &str, bool); 30] = [
    ("", "Namespace", false),
    ("", "Node", false),
    ("", "PersistentVolume", false),
    ("", "PersistentVolumeClaim", false),
    ("", "Pod", false),
    ("", "ReplicationController", false),
    ("", "ResourceQuota", false),
    ("", "Service", false),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy", true),
    ("apiextensions.k8s.io", "CustomResourceDefinition", false),
    ("apiregistration.k8s.io", "APIService", true),
    ("apps", "DaemonSet", false),
    ("apps", "Deployment", false),
    ("apps", "ReplicaSet", false),
    ("apps", "StatefulSet", false),
    ("autoscaling", "HorizontalPodAutoscaler", false),
    ("batch", "CronJob", false),
    ("batch", "Job", false),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema", true),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration", true),
    ("internal.apiserver.k8s.io", "StorageVersion", true),
    ("networking.k8s.io", "Ingress", false),
    ("networking.k8s.io", "ServiceCIDR", true),
    ("policy", "PodDisruptionBudget", false),
    ("resource.k8s.io", "DeviceTaintRule", true),
    ("resource.k8s.io", "ResourceClaim", true),
    ("resource.k8s.io", "ResourcePoolStatusRequest", true),
    ("scheduling.k8s.io", "PodGroup", true),
    ("storage.k8s.io", "VolumeAttachment", true),
    ("storagemigration.k8s.io", "StorageVersionMigration", true),
];

/// What a request about a part of a kind cannot change. `status` says whether a custom kind has a status part.
#[must_use]
pub fn resets_of(group: &str, kind: &str, custom: bool, status: bool, subresource: &str) -> Resets {
    if custom {
        return match subresource {
            "" if status => Resets::these(&[&["status"]]),
            "status" => Resets::these(&[&["metadata"], &["spec"]]),
            _ => Resets::None,
        };
    }
    match (group, kind, subresource) {
        ("", "Pod", "status") => {
            Resets::these(&[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]])
        }
        ("apps", "Deployment", "status") => Resets::these(&[&["spec"], &["metadata", "labels"]]),
        ("", "Namespace", "finalize") => Resets::these(&[&["status"]]),
        ("certificates.k8s.io", "CertificateSigningRequest", part) => match part {
            "" => Resets::these(&[&["spec"], &["status"]]),
            "status" => Resets::these(&[&["spec"], &["status", "conditions"]]),
            "approval" => Resets::these(&[&["spec"], &["status", "certificate"]]),
            _ => Resets::None,
        },
        ("certificates.k8s.io", "PodCertificateRequest", "status") => Resets::these(&[&["spec"]]),
        _ => match (WITH_STATUS.iter().find(|known| (known.0, known.1) == (group, kind)), subresource) {
            (Some(_), "") => Resets::these(&[&["status"]]),
            (Some((.., true)), "status") => Resets::these(&[&["metadata"], &["spec"]]),
            (Some((.., false)), "status") => Resets::these(&[&["spec"]]),
            _ => Resets::None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_keeps_what_it_may_change() {
        let set = r#"{"f:metadata":{"f:labels":{"f:a":{}},"f:ownerReferences":{}},"f:spec":{"f:containers":{"k:{\"name\":\"x\"}":{"f:image":{},"f:resources":{"f:limits":{}}}}},"f:status":{"f:phase":{}}}"#;
        let set = FieldSet::parse(set).unwrap();
        for (group, kind, part, left) in [
            (
                "",
                "Pod",
                "",
                r#"{"f:metadata":{"f:labels":{"f:a":{}},"f:ownerReferences":{}},"f:spec":{"f:containers":{"k:{\"name\":\"x\"}":{"f:image":{},"f:resources":{"f:limits":{}}}}}}"#,
            ),
            ("", "Pod", "status", r#"{"f:metadata":{"f:labels":{"f:a":{}}},"f:status":{"f:phase":{}}}"#),
            ("apps", "Deployment", "status", r#"{"f:metadata":{"f:ownerReferences":{}},"f:status":{"f:phase":{}}}"#),
            ("resource.k8s.io", "ResourceClaim", "status", r#"{"f:status":{"f:phase":{}}}"#),
        ] {
            assert_eq!(
                &*resets_of(group, kind, false, true, part).filter(set.clone()).to_json(),
                left,
                "{kind}/{part}"
            );
        }
        assert_eq!(resets_of("", "ConfigMap", false, false, "").filter(set.clone()), set);
        assert!(!resets_of("a.b", "Thing", true, true, "status").filter(set).is_empty());
    }
}
