//! Aggregation: groups and versions that other servers answer, and the `APIService` objects that say who answers what.
//!
//! [`Aggregation`] knows the servers and is kept in line with the objects by the cache; [`forward`] passes a request
//! on, as the user who made it; [`keeper`] finds out whether a server is there and what it serves. What is local is
//! registered by [`registration`], so that clients see every group in one list. Never authenticates or authorizes.

mod availability;
mod convert;
mod forward;
mod keeper;
mod merge;
mod registered;
mod registration;
mod remote;
mod routes;

pub(crate) use forward::{Passed, forward};
pub(crate) use merge::{Placed, aggregated_items, join_openapi, plain_groups};
pub(crate) use registration::{built_in, local_priorities, settle};
pub(crate) use routes::{Aggregation, Routes, start};
