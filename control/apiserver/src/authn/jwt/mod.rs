//! Tokens of other issuers: upstream's `AuthenticationConfiguration`.
//!
//! What a configuration says, how a token is judged and whom its claims stand for is decided over values; the one
//! thing that reaches out is the [`Issuer`] that fetches its keys.

mod claims;
mod config;
mod issuer;
mod keys;
mod mapping;
mod token;

pub(crate) use config::{Anonymous, Configuration};
pub(crate) use issuer::Issuer;
pub(crate) use token::{Token, issuer_of};
