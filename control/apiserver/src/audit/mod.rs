//! Audit: what was asked of the API, by whom, and what became of it, as upstream's `audit.k8s.io/v1` events.
//!
//! The policy judges a request, a [`Trail`] collects what its event says, backends carry events away. A request never
//! waits for a backend: what a full buffer does not take is dropped and counted. Without a policy nothing is collected.

mod backend;
mod event;
mod log;
mod policy;
mod queue;
mod trail;
mod webhook;

pub(crate) use backend::{AUDIT_WEBHOOK, Audit, AuditMetrics};
pub use backend::{AuditConfig, AuditLog, AuditWebhook};
pub(crate) use event::{AUDIT_ID, audit_id};
pub use policy::Policy;
pub(crate) use trail::{Asked, Told, Trail};
