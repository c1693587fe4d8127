//! The managed service: the fleet and its controllers, keys, joining, and the one port that serves every cluster.
//!
//! Decisions (`fleet::plan`, `join::decide`) are pure; `port` and `fleet::run` are the shells around them. Knows no
//! cloud: machines are ordered by writing Machine resources, which a cloud-controller carries out.

mod fleet;
mod join;
mod secrets;

pub use fleet::{Action, ClusterFacts, FleetView, Reasons, plan};
pub use join::{
    IdentityVerifier, InstanceIdentity, JOIN_PATH, JoinAnswer, JoinRequest, NodeSettings, Refusal, decide, settings,
};
pub use secrets::{SecretError, Secrets};
