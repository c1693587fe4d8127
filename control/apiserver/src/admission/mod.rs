//! Rules that change or refuse a write before it is stored.
//!
//! Plugins are pure: they see an [`AdmissionRequest`] and the cluster's objects through [`Lookup`]. They never
//! write; what must change with the object they return as [`PairedWrite`].

mod certificates;
mod error;
mod limit_ranger;
mod lookup;
mod namespace;
mod node_restriction;
mod pod_security;
mod pod_security_checks;
mod policy;
mod quota;
mod quota_usage;
mod request;
mod resources;
mod scheduling;
mod service_account;
mod stages;
mod storage;
#[cfg(test)]
pub(crate) mod testing;
mod webhook;

pub use certificates::CertificateAdmission;
pub use error::{AdmissionError, Cause, Details};
pub use limit_ranger::LimitRanger;
pub use lookup::Lookup;
pub use namespace::NamespaceLifecycle;
pub use node_restriction::NodeRestriction;
pub use pod_security::PodSecurity;
pub use quota::ResourceQuota;
pub use quota_usage::quota_status;
pub use request::{AdmissionChain, AdmissionPlugin, AdmissionRequest, Operation, PairedWrite};
pub use scheduling::{
    DefaultTolerationSeconds, PodTopologyLabels, Priority, RuntimeClass, SYSTEM_PRIORITY_CLASSES, TaintNodesByCondition,
};
pub use service_account::ServiceAccountAdmission;
pub use storage::{
    DefaultIngressClass, DefaultStorageClass, PersistentVolumeClaimResize, StorageObjectInUseProtection,
};

pub(crate) use policy::{Condition, Matched, PolicyIndex, check_expressions, holds, write_type_checks};
pub(crate) use stages::{judge_by_others, mutate_by_others};
pub(crate) use webhook::WebhookIndex;

use crate::authz::{Authorizer, EscalationCheck, Rbac};
use std::sync::Arc;

/// The plugins that upstream has on by default, in its order. `authorizer` is the cluster's whole authorizer,
/// `rbac` the part of it that knows rules.
#[must_use]
pub fn standard_chain(rbac: Arc<Rbac>, authorizer: Arc<dyn Authorizer>) -> AdmissionChain {
    AdmissionChain::new(
        vec![
            Box::new(NamespaceLifecycle),
            Box::new(LimitRanger),
            Box::new(ServiceAccountAdmission),
            Box::new(NodeRestriction::new(authorizer.clone())),
            Box::new(TaintNodesByCondition),
            Box::new(PodSecurity),
            Box::new(Priority),
            Box::new(DefaultTolerationSeconds),
            Box::new(DefaultStorageClass),
            Box::new(StorageObjectInUseProtection),
            Box::new(PersistentVolumeClaimResize),
            Box::new(RuntimeClass),
            Box::new(CertificateAdmission::new(authorizer.clone())),
            Box::new(DefaultIngressClass),
            Box::new(PodTopologyLabels),
            Box::new(EscalationCheck::new(rbac, authorizer)),
        ],
        vec![Box::new(ResourceQuota)],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_upstreams_and_quota_is_last() {
        let rbac = Arc::new(Rbac::default());
        let chain = standard_chain(rbac.clone(), rbac);
        let expected = [
            "NamespaceLifecycle",
            "LimitRanger",
            "ServiceAccount",
            "NodeRestriction",
            "TaintNodesByCondition",
            "PodSecurity",
            "Priority",
            "DefaultTolerationSeconds",
            "DefaultStorageClass",
            "StorageObjectInUseProtection",
            "PersistentVolumeClaimResize",
            "RuntimeClass",
            "Certificates",
            "DefaultIngressClass",
            "PodTopologyLabels",
            "RBACEscalation",
            "ResourceQuota",
        ];
        assert_eq!(chain.names().collect::<Vec<_>>(), expected);
    }
}
