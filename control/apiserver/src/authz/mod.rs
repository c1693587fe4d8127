//! What a user may do.
//!
//! Decides over [`Attributes`], a user, the cluster's objects and what authorizers outside said. Only a webhook's own
//! question leaves the process. Never authenticates, never writes.

mod attributes;
mod bootstrap;
mod config;
mod escalation;
mod node;
mod questions;
mod rbac;
mod review;
mod rules;
mod webhook;

pub use attributes::{Attributes, Authorizer, Decision, Union, forbidden, forbidden_message};
pub use bootstrap::{BootstrapAction, BootstrapWrite, aggregate, plan as plan_bootstrap};
pub use config::files_of_authorization;
pub(crate) use config::{Authorizers, check_authorization};
pub use escalation::EscalationCheck;
pub use node::NodeAuthorizer;
pub(crate) use node::pod_names;
pub(crate) use questions::{Answers, Asking};
pub use rbac::{OpenPaths, Privileged, Rbac};
pub use review::{review_access, review_rules};
pub use rules::{Rule, compacted, uncovered};
