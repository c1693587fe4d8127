//! Rules that change or refuse a write before it is stored.
//!
//! Plugins are pure: they see an [`AdmissionRequest`] and the cluster's objects through [`Lookup`]. They never
//! write; what must change with the object they return as [`PairedWrite`].

mod error;
mod lookup;
mod request;
#[cfg(test)]
pub(crate) mod testing;

pub use error::{AdmissionError, Cause};
pub use lookup::Lookup;
pub use request::{AdmissionChain, AdmissionPlugin, AdmissionRequest, Operation, PairedWrite};
