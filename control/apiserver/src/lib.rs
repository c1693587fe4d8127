//! One cluster's API server: HTTP, authentication, authorization, admission, registry, watch cache, streams.
//!
//! Owns the way of a request; knows nothing of TLS ports, of other clusters or of where the store keeps its
//! bytes. An object is stored as encoded bytes beside a few columns; reads, lists and watches join cached bytes
//! and never decode.

mod access;
pub mod admission;
mod aggregation;
mod audit;
pub mod authn;
pub mod authz;
mod body;
mod cache;
mod config;
mod connect;
mod connection;
mod cork;
mod custom;
mod dial;
mod discovery;
mod fairness;
mod http;
mod in_process;
mod limits;
mod lookup;
mod metrics;
mod registry;
mod rules;
mod server;
pub mod streams;
mod webhook;

pub use access::{AccessConfig, AccessFiles, FileError};
pub use audit::{AuditConfig, AuditLog, AuditWebhook, Policy as AuditPolicy};
pub use authn::TokenWebhookConfig;
pub use authz::files_of_authorization;
pub use body::{Body, BodyError};
pub use config::{Apart, Caller, Config, HealthCheck, Peer};
pub use connect::unchecked_tls;
pub use connection::{Activity, Connection, ConnectionError, Front};
pub use in_process::InProcess;
pub use server::{ApiServer, StartError};
