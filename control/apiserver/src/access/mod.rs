//! How a cluster's users are told apart, judged and watched: upstream's configuration files, put in force together, and
//! the first two steps of every request.
//!
//! A configuration that cannot be used changes nothing. What did not change goes on as it is: its caches, its
//! connections, its backends.

mod file;
mod kubeconfig;
mod permission;
mod remembered;
mod requester;
mod settings;

pub use file::{AccessFiles, FileError};
pub(crate) use file::{aggregate, decode_lenient, decode_strict, find};
pub(crate) use kubeconfig::target as kubeconfig_target;
pub(crate) use remembered::{Remembered, TOKEN_TTL};
pub(crate) use settings::Access;
pub use settings::AccessConfig;
