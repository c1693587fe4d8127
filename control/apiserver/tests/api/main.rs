//! The API as a client sees it: requests through `ApiServer::call`, over a store in memory.

#![allow(clippy::unwrap_used, clippy::needless_pass_by_value, reason = "test code outside #[test] functions")]

mod aggregation;
mod apart;
mod apply;
mod audit;
mod authorizers;
mod custom;
mod deletes;
mod fairness;
mod in_process;
mod lists;
mod machines;
mod policies;
mod remote;
mod services;
mod subresources;
mod support;
mod tokens;
mod watches;
mod webhooks;
mod writes;
