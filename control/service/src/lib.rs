//! The managed service: the fleet and its controllers, keys, joining, and the one port that serves every cluster.
//!
//! Decisions (`fleet::plan`, `join::decide`) are pure; `port`, `tenant` and `fleet::run` are the shells around them.
//! Knows no cloud: machines are ordered by writing Machine resources, which a cloud-controller carries out.

mod access;
mod admin;
mod bounds;
mod claim;
mod config;
mod credentials;
mod directory;
mod first;
mod fleet;
mod front_proxy;
mod join;
mod joining;
mod keys;
mod kubeconfig;
mod layout;
mod leader;
mod nodes;
mod peers;
mod places;
mod port;
mod restore;
mod secrets;
mod service;
mod signer;
mod tenant;

pub use timonel_apiserver::{
    AccessConfig, AccessFiles, Apart, AuditConfig, AuditLog, AuditWebhook, FileError, TokenWebhookConfig,
    files_of_authorization,
};

pub use config::{CloudTie, HostedCluster, LeaderTimes, ServiceConfig, StoreOpener};
pub use fleet::{AccessFact, Action, ClusterFacts, ClusterPorts, FleetView, Reasons, plan};
pub use join::{IdentityVerifier, InstanceIdentity, Refusal, decide, settings};
pub use keys::KeyError;
pub use kubeconfig::{KubeconfigError, context};
pub use places::PlaceError;
pub use secrets::{SecretError, Secrets};
pub use service::{Service, ServiceError};
pub use tenant::TenantError;
