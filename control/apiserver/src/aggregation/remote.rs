//! A server that answers for a group and version: its connections, and what it said about itself when it was last
//! asked.

use super::registered::{Registered, Server};
use crate::{
    ApiServer,
    body::{Body, read},
    dial::{self, Dialer, Host, Offer, Spawner, Trust},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioTimer};
use parking_lot::Mutex;
use serde_json::Value as Json;
use std::{
    error::Error,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

/// Idle connections kept to a server that does not speak HTTP/2.
const MAX_IDLE: usize = 32;
const IDLE: Duration = Duration::from_secs(90);
/// Between two questions whether an HTTP/2 server still lives, and the time for its answer (upstream's).
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Time for a server to say something about itself.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of what a server says about itself.
const MAX_DOCUMENT: usize = 16 << 20;

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum RemoteError {
    /// Its certificates cannot be used.
    #[error("{0}")]
    Trust(String),
    /// It could not be reached.
    #[error("asking {url}")]
    Send {
        url: String,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Its answer broke off, or is too large.
    #[error("reading the answer of {url}")]
    Read {
        url: String,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// It took too long.
    #[error("no answer from {url} in time")]
    TimedOut { url: String },
}

impl RemoteError {
    /// The deepest cause says why; what stands above it only says where.
    pub(super) fn cause(&self) -> String {
        let mut deepest: &dyn Error = self;
        while let Some(source) = deepest.source() {
            deepest = source;
        }
        deepest.to_string()
    }

    /// Whether there is nobody to be asked.
    pub(super) fn is_nobody(&self) -> bool {
        let mut deepest: &(dyn Error + 'static) = self;
        while let Some(source) = deepest.source() {
            deepest = source;
        }
        deepest.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
    }
}

/// What a server said about itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    /// The group and version in the aggregated form of discovery; nothing when it never said.
    pub(crate) discovery: Option<Json>,
    /// The tag of the document that it came from.
    pub(super) discovery_tag: String,
    /// Whether it could be asked when it was last tried.
    pub(crate) fresh: bool,
    /// Where version 3 of OpenAPI describes the group and version.
    pub(crate) openapi_v3: Option<String>,
    /// What version 2 of OpenAPI says of the group, and the tag of the document it came from.
    pub(crate) openapi_v2: Option<Arc<Json>>,
    pub(super) openapi_v2_tag: String,
}

type Pool = Client<Dialer, Body>;

/// A server that answers for a group and version.
pub(crate) struct Remote {
    pub(crate) registered: Registered,
    pub(super) server: Server,
    available: AtomicBool,
    /// Connections that are kept; none when the server's certificates cannot be used.
    pool: Mutex<Result<Pool, String>>,
    upgrades: Result<Dialer, String>,
    pub(super) said: Mutex<Said>,
    /// Tells that something which leads to the server has changed.
    pub(super) changed: Arc<Notify>,
    base: String,
    dialer: Result<Dialer, String>,
    spawner: Spawner,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Remote({} at {})", self.registered.name, self.base)
    }
}

impl Remote {
    pub(super) fn new(api: &ApiServer, registered: Registered, server: Server) -> Self {
        let host = Host::Service { namespace: server.namespace.clone(), name: server.service.clone() };
        let base = format!("https://{}:{}", host.server_name(), server.port);
        let trust = if server.insecure { Trust::Anything } else { Trust::Bundle(&server.ca_bundle) };
        let dialer = |offer| {
            let tls = dial::tls(trust, api.aggregation.identity.clone(), offer)?;
            let (host, server_name) = (host.clone(), host.server_name());
            Ok(Dialer {
                host,
                port: server.port,
                server_name,
                tls: Some(Arc::new(tls)),
                reach: api.aggregation.reach.clone(),
            })
        };
        let spawner = Spawner(api.tasks.child("aggregation"));
        let (upgrades, dialer) = (dialer(Offer::Http1), dialer(Offer::Any));
        let available = AtomicBool::new(registered.available);
        let pool = Mutex::new(pool(&dialer, &spawner));
        let (said, changed) = (Mutex::default(), Arc::default());
        Self { registered, server, available, pool, upgrades, said, changed, base, dialer, spawner }
    }

    /// Whether it may be asked.
    pub(crate) fn is_available(&self) -> bool {
        self.available.load(Ordering::Relaxed)
    }

    pub(super) fn set_available(&self, available: bool) {
        self.available.store(available, Ordering::Relaxed);
    }

    /// Opens new connections from here on.
    pub(super) fn forget_connections(&self) {
        *self.pool.lock() = pool(&self.dialer, &self.spawner);
    }

    /// How a connection that is to be upgraded is opened.
    pub(super) fn upgrades(&self) -> Result<Dialer, RemoteError> {
        self.upgrades.clone().map_err(RemoteError::Trust)
    }

    /// What the server said about itself when it was last asked.
    pub(crate) fn said(&self) -> Said {
        self.said.lock().clone()
    }

    /// The URL of a path and query.
    pub(super) fn url(&self, path_and_query: &str) -> String {
        format!("{}{path_and_query}", self.base)
    }

    /// Passes a request on; its URI is set here.
    pub(super) async fn send(
        &self,
        path_and_query: &str,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, RemoteError> {
        let url = self.url(path_and_query);
        let failed = |source: Box<dyn Error + Send + Sync>| RemoteError::Send { url: url.clone(), source };
        *request.uri_mut() = url.parse::<Uri>().map_err(|error| failed(error.into()))?;
        let pool = self.pool.lock().clone().map_err(RemoteError::Trust)?;
        pool.request(request).await.map_err(|error| failed(error.into()))
    }

    /// Asks for something that the server says about itself, as this server's own part.
    pub(super) async fn fetch(&self, path: &str, headers: HeaderMap) -> Result<(u16, HeaderMap, Bytes), RemoteError> {
        let mut request = Request::new(Body::empty());
        *request.headers_mut() = headers;
        for (name, value) in [("x-remote-user", "system:kube-aggregator"), ("x-remote-group", "system:masters")] {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("kube-aggregator"));
        let url = self.url(path);
        let exchange = async {
            let response = self.send(path, request).await?;
            let (parts, body) = response.into_parts();
            let failed = |source: crate::body::ReadError| RemoteError::Read { url: url.clone(), source: source.into() };
            let body = read(Body::new(body), MAX_DOCUMENT).await.map_err(failed)?;
            Ok((parts.status.as_u16(), parts.headers, body))
        };
        match tokio::time::timeout(FETCH_TIMEOUT, exchange).await {
            Ok(done) => done,
            Err(_) => Err(RemoteError::TimedOut { url }),
        }
    }
}

fn pool(dialer: &Result<Dialer, String>, spawner: &Spawner) -> Result<Pool, String> {
    let pool = Client::builder(spawner.clone())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(MAX_IDLE)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .build(dialer.clone()?);
    Ok(pool)
}
