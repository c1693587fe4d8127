//! Calls from this API server to webhooks: admission, conversion, token review, authorization.
//!
//! Owns pools of connections, their bounds and what a call's failure is called. Knows nothing of what is sent.

mod client;
mod target;

pub(crate) use client::{CallError, Exchange, WebhookClient, refusal};
pub(crate) use target::{Credentials, WebhookTarget};
