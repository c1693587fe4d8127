//! One cluster's API server.

pub mod admission;
pub mod authn;
pub mod authz;
pub mod streams;
