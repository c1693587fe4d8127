//! The connection that nodes dial out: many streams with flow control over one connection.
//!
//! Runs over any byte stream (TLS in production, a pipe in tests). The server opens streams to a node's kubelet
//! and to addresses behind the node; the node opens streams to the API. Never authenticates (whoever accepted
//! the connection knows the node's name), never reads the bytes that it carries.

mod header;
mod server;
mod session;

pub use header::{HeaderError, Target};
pub use server::TunnelServer;
pub use session::{Incoming, StreamHandler, TunnelClient, TunnelError, TunnelStream};
