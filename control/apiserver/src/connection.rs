//! HTTP/1.1 (with upgrades) and HTTP/2 over a connection that somebody else accepted and secured: the one place
//! that sets up HTTP and its bounds. What a connection is worth when there are too many is its [`Activity`].

use crate::{
    ApiServer, Body,
    body::BodyError,
    config::Caller,
    cork::{Cork, corked},
    http::{Answer, Chunk},
};
use ::http::{Request, Response};
use async_trait::async_trait;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use timonel_api::Status;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::OwnedSemaphorePermit,
};
use tokio_util::sync::CancellationToken;

/// Time for a request's head, and for the next request on a connection that is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests and watches in one HTTP/2 connection.
const MAX_STREAMS: u32 = 1_000;
/// Bytes of a request's head.
const MAX_HEADER_BYTES: u32 = 256 << 10;
/// Bytes of an HTTP/1.1 connection's buffer.
const HTTP1_BUFFER_BYTES: usize = 256 << 10;
/// Bytes that one HTTP/2 stream, and all streams of a connection together, may send before they are read.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes of answers that wait for one HTTP/2 connection.
const MAX_SEND_BYTES: usize = 1 << 20;
/// Between two questions whether an HTTP/2 peer still lives, and the time for its answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Time for what is under way when the server stops.
const DRAIN: Duration = Duration::from_secs(10);

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
#[error("serving a connection")]
pub struct ConnectionError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// What answers before the API does: the paths of whoever owns the port.
#[async_trait]
pub trait Front: Send + Sync {
    /// The answer, or the request untouched when it is the API's.
    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, Request<Body>>;
}

/// One connection to be served.
#[derive(Clone)]
pub struct Connection {
    /// Who is at the other end.
    pub caller: Caller,
    /// Whether HTTP/2 was agreed on; without it HTTP/1.1 is spoken.
    pub http2: bool,
    /// What answers before the API.
    pub front: Option<Arc<dyn Front>>,
    /// Where it is told whether requests are under way.
    pub activity: Arc<Activity>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Connection").field("caller", &self.caller).field("http2", &self.http2).finish()
    }
}

impl Connection {
    /// A connection with nothing before the API.
    #[must_use]
    pub fn of(caller: Caller, http2: bool) -> Self {
        Self { caller, http2, front: None, activity: Arc::default() }
    }
}

/// Whether requests are under way on a connection, and since when none is.
#[derive(Debug, Default)]
pub struct Activity {
    under_way: AtomicUsize,
    idle_since: AtomicU64,
    tick: Arc<AtomicU64>,
}

impl Activity {
    /// Of a connection among others that share `tick`: it orders when they fell idle.
    #[must_use]
    pub fn new(tick: &Arc<AtomicU64>) -> Self {
        let now = tick.fetch_add(1, Ordering::Relaxed);
        Self { under_way: AtomicUsize::new(0), idle_since: AtomicU64::new(now), tick: tick.clone() }
    }

    /// The tick at which its last request ended; `None` while one is under way.
    #[must_use]
    pub fn idle_since(&self) -> Option<u64> {
        (self.under_way.load(Ordering::Relaxed) == 0).then(|| self.idle_since.load(Ordering::Relaxed))
    }

    fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(self.clone())
    }
}

/// One request under way, until its answer has been produced.
struct UnderWay(Arc<Activity>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let now = self.0.tick.fetch_add(1, Ordering::Relaxed);
        self.0.idle_since.store(now, Ordering::Relaxed);
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ApiServer {
    /// Serves one connection until it ends; when `stop` is cancelled, until what is under way is done.
    ///
    /// # Errors
    /// When the peer breaks the protocol or the connection.
    pub async fn serve_connection<I>(
        self: Arc<Self>,
        io: I,
        connection: Connection,
        stop: CancellationToken,
    ) -> Result<(), ConnectionError>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let builder = builder(connection.http2);
        let (io, screw) = Cork::new(io, connection.http2);
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let (server, connection) = (self.clone(), connection.clone());
            // The way of a request is a large future: it lives on the heap, once.
            Box::pin(async move { Ok::<_, Infallible>(server.answer(request.map(Body::new), &connection).await) })
        });
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
        tokio::pin!(connection);
        tokio::select! {
            done = corked(connection.as_mut(), &screw) => return done.map_err(ConnectionError),
            () = stop.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        // Watches do not end by themselves; the cache ends them when the server stops.
        tokio::time::timeout(DRAIN, corked(connection, &screw)).await.unwrap_or(Ok(())).map_err(ConnectionError)
    }

    async fn answer(&self, request: Request<Body>, connection: &Connection) -> Response<Sent> {
        let under_way = connection.activity.begin();
        let request = match &connection.front {
            Some(front) => match front.answer(request).await {
                Ok(response) => return response.map(|body| Sent { body, _kept: None }),
                Err(request) => request,
            },
            None => request,
        };
        let response = self.call(request, connection.caller.clone()).await;
        if !response.body().is_stream() {
            return response.map(|body| Sent { body, _kept: None });
        }
        match self.limits.stream() {
            Some(place) => response.map(|body| Sent { body, _kept: Some((under_way, place)) }),
            None => Answer::status(&Status::too_many_requests("too many watches and streams", 1))
                .finish(&[])
                .map(|body| Sent { body, _kept: None }),
        }
    }
}

/// A body on its way out, and what is kept until nobody wants the rest.
struct Sent {
    body: Body,
    _kept: Option<(UnderWay, OwnedSemaphorePermit)>,
}

impl http_body::Body for Sent {
    type Data = Chunk;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, BodyError>>> {
        Pin::new(&mut self.body).poll_chunk(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn builder(http2: bool) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HTTP1_BUFFER_BYTES)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_send_buf_size(MAX_SEND_BYTES);
    // Told and not guessed: while it guesses, hyper waits for the first bytes without a bound.
    if http2 { builder.http2_only() } else { builder.http1_only() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_idle_from_the_end_of_its_last_request() {
        let tick = Arc::default();
        let (a, b) = (Arc::new(Activity::new(&tick)), Arc::new(Activity::new(&tick)));
        assert!(a.idle_since() < b.idle_since());
        let (first, second) = (a.begin(), a.begin());
        drop(first);
        assert_eq!(a.idle_since(), None);
        drop(second);
        assert!(a.idle_since() > b.idle_since());
    }
}
