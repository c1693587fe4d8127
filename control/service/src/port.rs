//! The one TLS port of all clusters: tells them apart by server name, and what a connection is by its application
//! protocol: a node's tunnel, or HTTP, where one path is joining and everything else is the cluster's API.
//!
//! Never decides who may do what: joining is `join`'s, the rest is the API server's.

use crate::{
    join::{self, IdentityVerifier},
    tenant::Tenant,
};
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use std::{collections::BTreeMap, convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};
use timonel_apiserver::{Body, Caller, Peer};
use timonel_fleet::{JOIN_PATH, JoinAnswer, JoinRequest, Machine, NodePool, TUNNEL_ALPN};
use timonel_pki::{CertificateRequest, Usage, Validity, subject_of};
use timonel_runtime::{Clock, OnError, Tasks};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::{LazyConfigAcceptor, rustls::server::Acceptor};

/// Connections at once, over all clusters.
const MAX_CONNECTIONS: usize = 20_000;
/// Handshakes at once: each costs CPU before anybody is known.
const MAX_HANDSHAKES: usize = 256;
/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time for a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest request to join.
const JOIN_BYTES: usize = 64 * 1024;
/// Life of a node's certificate.
const NODE_LIFE: jiff::SignedDuration = jiff::SignedDuration::from_hours(24 * 7);
/// When a node is to join again, seconds: two thirds of that.
const RENEW_AFTER: u32 = 7 * 24 * 3600 / 3 * 2;
/// Prefix of a node's user name.
const NODE_USER: &str = "system:node:";

/// The clusters that the port serves, by server name. Connections under any other name reach the fleet.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    tenants: Arc<ArcSwap<BTreeMap<String, Arc<Tenant>>>>,
    fleet: Arc<Tenant>,
}

impl Directory {
    pub(crate) fn new(fleet: Arc<Tenant>) -> Self {
        Self { tenants: Arc::default(), fleet }
    }

    pub(crate) fn insert(&self, tenant: &Arc<Tenant>) {
        self.tenants.rcu(|known| {
            let mut known = BTreeMap::clone(known);
            known.insert(tenant.server_name.clone(), tenant.clone());
            known
        });
    }

    pub(crate) fn remove(&self, uid: &str) -> Option<Arc<Tenant>> {
        let found = self.by_uid(uid)?;
        self.tenants.rcu(|known| {
            let mut known = BTreeMap::clone(known);
            known.remove(&found.server_name);
            known
        });
        Some(found)
    }

    pub(crate) fn by_uid(&self, uid: &str) -> Option<Arc<Tenant>> {
        self.tenants.load().values().find(|tenant| tenant.uid == uid).cloned()
    }

    pub(crate) fn fleet(&self) -> &Arc<Tenant> {
        &self.fleet
    }

    fn find(&self, server_name: Option<&str>) -> Arc<Tenant> {
        server_name.and_then(|name| self.tenants.load().get(name).cloned()).unwrap_or_else(|| self.fleet.clone())
    }
}

/// What every connection needs.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) directory: Directory,
    pub(crate) fleet: FleetClient,
    pub(crate) verifier: Option<Arc<dyn IdentityVerifier>>,
    pub(crate) clock: Clock,
}

/// A client of the fleet's API.
#[derive(Clone)]
pub(crate) struct FleetClient(pub(crate) Client);

impl std::fmt::Debug for FleetClient {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("FleetClient")
    }
}

impl Port {
    /// Serves a listener until `tasks` ends.
    pub(crate) fn serve(&self, listener: TcpListener, tasks: &Tasks) {
        let (port, scope) = (self.clone(), tasks.clone());
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        tasks.spawn("accept", OnError::EndScope, async move {
            loop {
                let slot = connections.clone().acquire_owned().await.expect("never closed");
                let (stream, address) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    // Out of descriptors, or gone before it was accepted: neither ends the port.
                    Err(error) => {
                        tracing::warn!(%error, "connection not accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let (port, tasks, handshakes) = (port.clone(), scope.clone(), handshakes.clone());
                scope.spawn("connection", OnError::Log, async move {
                    let _slot = slot;
                    if let Err(error) = Box::pin(port.connection(stream, address, &handshakes, &tasks)).await {
                        tracing::debug!(%address, %error, "connection ended");
                    }
                    Ok::<_, Infallible>(())
                });
            }
            #[allow(unreachable_code, reason = "names the error type of the loop")]
            Ok::<_, Infallible>(())
        });
    }

    async fn connection(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        handshakes: &Semaphore,
        tasks: &Tasks,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let handshake = async {
            let _slot = handshakes.acquire().await.map_err(io::Error::other)?;
            let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
            let tenant = self.directory.find(start.client_hello().server_name());
            let io = start.into_stream(tenant.tls()).await?;
            io::Result::Ok((tenant, io))
        };
        let slow = |_| io::Error::from(io::ErrorKind::TimedOut);
        let (tenant, io) = tokio::time::timeout(HANDSHAKE, handshake).await.map_err(slow)??;
        let session = io.get_ref().1;
        let certificate =
            session.peer_certificates().and_then(|chain| chain.first()).map(|cert| cert.clone().into_owned());
        if session.alpn_protocol() == Some(TUNNEL_ALPN.as_bytes()) {
            let node = certificate.as_deref().and_then(node_of).ok_or(io::ErrorKind::PermissionDenied)?;
            tracing::info!(cluster = %tenant.server_name, %node, "tunnel");
            tenant.tunnel.serve(&node, io).await;
            return Ok(());
        }
        let caller = Caller::Peer(Peer::new(certificate, Some(address.ip())));
        self.http(tenant, caller, io, tasks).await
    }

    async fn http<I>(&self, tenant: Arc<Tenant>, caller: Caller, io: I, tasks: &Tasks) -> io::Result<()>
    where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let stop = tasks.token();
        let ended = tenant.tasks.token();
        let port = self.clone();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let (port, tenant, caller) = (port.clone(), tenant.clone(), caller.clone());
            Box::pin(async move {
                if request.uri().path() == JOIN_PATH {
                    return Ok::<_, Infallible>(port.join(&tenant, request).await);
                }
                Ok(tenant.api.call(request.map(Body::new), caller).await)
            })
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        builder.http2().timer(TokioTimer::new()).max_concurrent_streams(1_000).max_send_buf_size(1 << 20);
        builder.http2().keep_alive_interval(Duration::from_secs(30)).max_header_list_size(256 << 10);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            done = connection.as_mut() => return done.map_err(io::Error::other),
            () = stop.cancelled() => {}
            () = ended.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        tokio::time::timeout(HANDSHAKE, connection).await.unwrap_or(Ok(())).map_err(io::Error::other)
    }

    /// Answers a machine that wants to be a node.
    async fn join(&self, tenant: &Tenant, request: Request<Incoming>) -> Response<Body> {
        let answer = match self.try_join(tenant, request).await {
            Ok(answer) => {
                serde_json::to_vec(&answer).map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
            }
            Err(refused) => Err(refused),
        };
        let (status, kind, body) = match answer {
            Ok(body) => (StatusCode::OK, "application/json", Bytes::from(body)),
            Err((status, message)) => {
                tracing::warn!(cluster = %tenant.server_name, %status, %message, "join refused");
                (status, "text/plain", Bytes::from(message))
            }
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
        response
    }

    async fn try_join(&self, tenant: &Tenant, request: Request<Incoming>) -> Result<JoinAnswer, (StatusCode, String)> {
        let bad = |message: String| (StatusCode::BAD_REQUEST, message);
        let inner = |message: String| (StatusCode::INTERNAL_SERVER_ERROR, message);
        if request.method() != Method::POST {
            return Err((StatusCode::METHOD_NOT_ALLOWED, "POST only".to_owned()));
        }
        let body = Limited::new(request.into_body(), JOIN_BYTES).collect().await.map_err(|e| bad(e.to_string()))?;
        let asked: JoinRequest = serde_json::from_slice(&body.to_bytes()).map_err(|error| bad(error.to_string()))?;
        let verifier = self.verifier.as_ref().ok_or_else(|| inner("no cloud is configured".to_owned()))?;
        let identity = verifier
            .verify(&asked.document, &asked.signature)
            .map_err(|why| (StatusCode::FORBIDDEN, join::Refusal::Identity(why).to_string()))?;
        let csr = CertificateRequest::parse(asked.request.as_bytes()).map_err(|error| bad(error.to_string()))?;
        let api: Api<Machine> = Api::all(self.fleet.0.clone());
        let machines = api.list(&ListParams::default()).await.map_err(|error| inner(error.to_string()))?;
        let machine = join::decide(&identity, &csr, &tenant.uid, &machines.items)
            .map_err(|refusal| (StatusCode::FORBIDDEN, refusal.to_string()))?;
        let project = machine.metadata.namespace.clone().unwrap_or_default();
        let pools: Api<NodePool> = Api::namespaced(self.fleet.0.clone(), &project);
        let pool = pools.get_opt(&machine.spec.pool).await.map_err(|error| inner(error.to_string()))?;
        let validity = Validity::starting(self.clock.now(), NODE_LIFE);
        let ca = &tenant.pki.cluster_ca;
        let certificate = ca.sign(&csr, &[Usage::Client], validity).map_err(|error| inner(error.to_string()))?;
        let api: Api<Machine> = Api::namespaced(self.fleet.0.clone(), &project);
        let patch = serde_json::json!({"status": {"joinedInstance": identity.instance_id}});
        let name = machine.metadata.name.as_deref().unwrap_or_default();
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(|error| inner(error.to_string()))?;
        tracing::info!(cluster = %tenant.server_name, machine = name, "joined");
        Ok(JoinAnswer {
            certificate,
            authority: ca.cert_pem().to_owned(),
            renew_after_seconds: RENEW_AFTER,
            node: join::settings(machine, pool.as_ref(), &tenant.settings),
        })
    }
}

/// The node that a client certificate names.
fn node_of(certificate: &[u8]) -> Option<String> {
    let subject = subject_of(certificate).ok()?;
    subject.common_name.strip_prefix(NODE_USER).map(str::to_owned)
}
