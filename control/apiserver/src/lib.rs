//! One cluster's API server.

pub mod admission;
pub mod authn;
pub mod authz;
mod body;
mod cache;
mod http;
pub mod streams;

pub use body::{Body, BodyError};
