//! Long connections between clients and kubelets: exec, attach, port-forward, proxy.
//!
//! Moves bytes and translates protocols. Never authorizes, never looks up objects.

mod connector;

pub use connector::{NodeConnector, NodeIo, NodeTarget};
