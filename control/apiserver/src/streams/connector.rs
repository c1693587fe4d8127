//! How the API server reaches a node; who owns the way there (tunnel, address) implements it.

use async_trait::async_trait;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection to something on or behind a node.
pub trait NodeIo: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> NodeIo for T {}

/// What to reach through a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeTarget {
    /// The node's kubelet API; TLS is the connector's business, the bytes are plain HTTP/1.1.
    Kubelet,
    /// `host:port` as the node reaches it: a pod, a service's endpoint.
    Tcp {
        /// IP address or name.
        host: String,
        /// TCP port.
        port: u16,
    },
}

/// Opens connections to and through nodes.
#[async_trait]
pub trait NodeConnector: Send + Sync {
    /// A new connection.
    ///
    /// # Errors
    /// When the node is unknown or not connected (`NotConnected`), does not answer in time (`TimedOut`), or
    /// refuses.
    async fn connect(&self, node: &str, target: NodeTarget) -> io::Result<Box<dyn NodeIo>>;
}
