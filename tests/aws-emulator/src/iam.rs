//! Who calls and what they may do: users, roles, sessions, policies. Decides; never acts on resources.

mod condition;
mod pattern;
mod policy;
mod principals;

pub(crate) use pattern::matches;
pub use policy::PolicyError;
pub(crate) use policy::{Context, Policy, Verdict};
pub(crate) use principals::{Caller, Iam, NewSession, SessionKeys, TrustedBy};
