//! What a user may do.
//!
//! Pure: decides over [`Attributes`], a user and the cluster's objects. Never authenticates, never writes.

mod attributes;
mod bootstrap;
mod escalation;
mod node;
mod rbac;
mod review;
mod rules;

pub use attributes::{Attributes, Authorizer, Decision, Union, forbidden, forbidden_message};
pub use bootstrap::{BootstrapAction, BootstrapWrite, aggregate, plan as plan_bootstrap};
pub use escalation::EscalationCheck;
pub use node::NodeAuthorizer;
pub(crate) use node::pod_names;
pub use rbac::{OpenPaths, Privileged, Rbac};
pub use review::{review_access, review_rules};
pub use rules::{Rule, compacted, uncovered};

use std::sync::Arc;

/// The authorizers of a cluster in upstream's order, around one RBAC index.
#[must_use]
pub fn standard(rbac: Arc<Rbac>) -> Union {
    Union::new(vec![Box::new(Privileged), Box::new(OpenPaths), Box::new(NodeAuthorizer::default()), Box::new(rbac)])
}
