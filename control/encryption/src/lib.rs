//! Encryption at rest: objects lie in the store sealed, as upstream's `EncryptionConfiguration` says; whoever reads
//! through [`EncryptedStore`] sees them in clear, in memory only.
//!
//! Owns the configuration's form and rules, AES-GCM, the protocol with key-management plugins (version 2) and the
//! re-encryption of what is stored. Never decides what an object means: it knows which resource a key belongs to, and
//! bytes.

mod config;
mod encryption;
mod gcm;
mod kms;
mod provider;
mod store;

pub use config::ConfigError;
pub use encryption::{Encryption, EncryptionError};
pub use provider::SealError;
pub use store::{EncryptedStore, Layout, Rewritten};

/// Messages and services of key-management plugins.
#[allow(missing_debug_implementations, unused_qualifications, clippy::all, reason = "generated")]
pub mod v2 {
    tonic::include_proto!("v2");
}
