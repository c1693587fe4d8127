//! What a user may do.
//!
//! Pure: decides over [`Attributes`], a user and the cluster's objects. Never authenticates, never writes.

mod attributes;

pub use attributes::{Attributes, Authorizer, Decision, Union, forbidden_message};
