//! Channels over Unix sockets.

use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use thiserror::Error;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Why a socket could not be used.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The endpoint is not a Unix socket.
    #[error("endpoint {0:?} is not unix:///path or an absolute path")]
    Endpoint(String),
    /// Nobody answers at the socket.
    #[error("connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the transport said.
        #[source]
        source: tonic::transport::Error,
    },
}

/// Connects to `unix:///path` or `/path`, and fails when nobody listens.
///
/// # Errors
/// When the endpoint has another form, or nobody listens.
pub async fn connect(endpoint: &str) -> Result<Channel, ConnectError> {
    let path = socket_path(endpoint)?;
    let shown = path.clone();
    base()
        .connect_with_connector(tower::service_fn(move |_: Uri| dial(path.clone())))
        .await
        .map_err(|source| ConnectError::Connect { path: shown, source })
}

/// A channel that connects at its first call, and again after the peer went away.
///
/// # Errors
/// When the endpoint is not a Unix socket.
pub fn connect_lazy(endpoint: &str) -> Result<Channel, ConnectError> {
    let path = socket_path(endpoint)?;
    Ok(base().connect_with_connector_lazy(tower::service_fn(move |_: Uri| dial(path.clone()))))
}

fn base() -> Endpoint {
    // The authority is never resolved: the connector ignores it.
    Endpoint::from_static("http://localhost")
}

async fn dial(path: PathBuf) -> std::io::Result<TokioIo<UnixStream>> {
    Ok(TokioIo::new(UnixStream::connect(path).await?))
}

fn socket_path(endpoint: &str) -> Result<PathBuf, ConnectError> {
    let path = Path::new(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
    if path.is_absolute() { Ok(path.to_owned()) } else { Err(ConnectError::Endpoint(endpoint.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for (given, expected) in [
            ("unix:///run/containerd/containerd.sock", Some("/run/containerd/containerd.sock")),
            ("/run/x.sock", Some("/run/x.sock")),
            ("tcp://127.0.0.1:1", None),
            ("x.sock", None),
            ("", None),
        ] {
            assert_eq!(socket_path(given).ok().as_deref(), expected.map(Path::new), "{given}");
        }
    }

    #[tokio::test]
    async fn nobody_listening_is_an_error_that_names_the_socket() {
        let error = connect("unix:///nonexistent/socket").await.expect_err("must fail");
        assert!(error.to_string().contains("/nonexistent/socket"));
    }
}
