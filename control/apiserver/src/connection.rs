//! HTTP/1.1 (with upgrades) and HTTP/2 over a connection that somebody else accepted and secured.

use crate::{ApiServer, Body, config::Caller};
use ::http::Request;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

/// Time for a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests and watches in one HTTP/2 connection.
const MAX_STREAMS: u32 = 1_000;
/// Bytes of a request's head.
const MAX_HEADER_BYTES: u32 = 256 << 10;
/// Time for what is under way when the server stops.
const DRAIN: Duration = Duration::from_secs(10);

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
#[error("serving a connection")]
pub struct ConnectionError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl ApiServer {
    /// Serves one connection until it ends; when `stop` is cancelled, until what is under way is done.
    ///
    /// # Errors
    /// When the peer breaks the protocol or the connection.
    pub async fn serve_connection<I>(
        self: Arc<Self>,
        io: I,
        caller: Caller,
        stop: CancellationToken,
    ) -> Result<(), ConnectionError>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let (server, caller) = (self.clone(), caller.clone());
            // The way of a request is a large future: it lives on the heap, once.
            Box::pin(async move { Ok::<_, Infallible>(server.call(request.map(Body::new), caller).await) })
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).keep_alive(true);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADER_BYTES)
            .keep_alive_interval(Duration::from_secs(30))
            .max_send_buf_size(1 << 20);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
        tokio::pin!(connection);
        tokio::select! {
            done = connection.as_mut() => return done.map_err(ConnectionError),
            () = stop.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        // Watches do not end by themselves; the cache ends them when the server stops.
        tokio::time::timeout(DRAIN, connection).await.unwrap_or(Ok(())).map_err(ConnectionError)
    }
}
