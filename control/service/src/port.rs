//! The TLS ports: the shared one tells clusters apart by server name; each cluster's own needs no name. What a
//! connection is follows from its application protocol: a node's tunnel, another control machine, or HTTP, where one path is joining and
//! everything else is the cluster's API.
//!
//! Never decides who may do what: joining is `join`'s, the rest is the API server's.

use crate::{
    admin::{self, Admin},
    bounds::{Pool, Slot},
    credentials::{self, Credentials},
    directory::Directory,
    joining::Joining,
    peers::{PeerPort, peer_of},
    tenant::Tenant,
};
use async_trait::async_trait;
use http::{Request, Response};
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};
use timonel_apiserver::{Body, Caller, Connection, Front, Peer};
use timonel_fleet::{JOIN_PATH, PEER_ALPN, TUNNEL_ALPN};
use timonel_pki::subject_of;
use timonel_runtime::{OnError, Tasks};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{LazyConfigAcceptor, rustls::server::Acceptor, server::TlsStream};

/// Connections of one listener that have not said yet what they want.
const MAX_PENDING: usize = 1_024;
/// Time for a connection to say hello, and then for the rest of the handshake.
const HELLO: Duration = Duration::from_secs(5);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pause when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Prefix of a node's user name.
const NODE_USER: &str = "system:node:";

/// What every connection needs.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) directory: Directory,
    pub(crate) joining: Joining,
    pub(crate) admin: Admin,
    pub(crate) credentials: Credentials,
    pub(crate) peers: Arc<PeerPort>,
}

impl Port {
    /// Serves the shared port until `tasks` ends.
    pub(crate) fn serve(&self, listener: TcpListener, tasks: &Tasks) {
        self.accept(listener, None, tasks);
    }

    /// Serves one cluster's own port until `tasks` ends.
    pub(crate) fn serve_only(&self, listener: TcpListener, tenant: &Arc<Tenant>, tasks: &Tasks) {
        self.accept(listener, Some(tenant.clone()), tasks);
    }

    fn accept(&self, listener: TcpListener, only: Option<Arc<Tenant>>, tasks: &Tasks) {
        let (port, scope) = (self.clone(), tasks.clone());
        let pending = Pool::of(MAX_PENDING);
        tasks.spawn("accept", OnError::EndScope, async move {
            loop {
                let (stream, address) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    // Out of descriptors, or gone before it was accepted: neither ends the port.
                    Err(error) => {
                        tracing::warn!(%error, "connection not accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let Some(place) = pending.admit() else { continue };
                let (port, only, tasks) = (port.clone(), only.clone(), scope.clone());
                scope.spawn("connection", OnError::Log, async move {
                    if let Err(error) = Box::pin(port.connection(stream, address, only, place, &tasks)).await {
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
        only: Option<Arc<Tenant>>,
        place: Slot,
        tasks: &Tasks,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (tenant, io) = self.handshake(stream, only, place).await?;
        let session = io.get_ref().1;
        let certificate =
            session.peer_certificates().and_then(|chain| chain.first()).map(|cert| cert.clone().into_owned());
        let alpn = session.alpn_protocol();
        if alpn == Some(TUNNEL_ALPN.as_bytes()) {
            let node = certificate.as_deref().and_then(node_of).ok_or(io::ErrorKind::PermissionDenied)?;
            tracing::info!(cluster = %tenant.server_name, %node, "tunnel");
            tenant.tunnel.serve(&node, io).await;
            return Ok(());
        }
        if alpn == Some(PEER_ALPN.as_bytes()) {
            let peer =
                certificate.as_deref().and_then(peer_of).filter(|_| Arc::ptr_eq(&tenant, self.directory.fleet()));
            self.peers.serve(&peer.ok_or(io::ErrorKind::PermissionDenied)?, io).await;
            return Ok(());
        }
        let http2 = alpn == Some(b"h2");
        let full = || io::Error::other("too many connections of this cluster are busy");
        let slot = tenant.bounds.admit(certificate.is_some()).ok_or_else(full)?;
        let caller = Caller::Peer(Peer::new(certificate, Some(address.ip())));
        let connection = Connection {
            caller: caller.clone(),
            http2,
            front: Some(Arc::new(Door { port: self.clone(), tenant: tenant.clone(), caller })),
            activity: slot.activity.clone(),
        };
        let stop = tasks.token().child_token();
        let serving = tenant.api.clone().serve_connection(io, connection, stop.clone());
        let mut serving = std::pin::pin!(serving);
        let ended = tenant.tasks.token();
        tokio::select! {
            done = serving.as_mut() => return done.map_err(io::Error::other),
            () = ended.cancelled() => {}
            () = slot.evicted.cancelled() => {}
        }
        stop.cancel();
        serving.await.map_err(io::Error::other)
    }

    /// Who is meant, and TLS with him. Costs nobody else anything: until the hello there is a bound for each
    /// listener, from then on one for each cluster.
    async fn handshake(
        &self,
        stream: TcpStream,
        only: Option<Arc<Tenant>>,
        place: Slot,
    ) -> io::Result<(Arc<Tenant>, TlsStream<TcpStream>)> {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
        let start = within(HELLO, &place, hello).await?;
        drop(place);
        let tenant = only.unwrap_or_else(|| self.directory.find(start.client_hello().server_name()));
        let place = tenant.bounds.handshake().ok_or(io::ErrorKind::ConnectionRefused)?;
        let io = within(HANDSHAKE, &place, start.into_stream(tenant.tls())).await?;
        Ok((tenant, io))
    }
}

/// What `work` gives, unless it takes too long or its place is needed for somebody else.
async fn within<T>(time: Duration, place: &Slot, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::select! {
        done = tokio::time::timeout(time, work) => done.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?,
        () = place.evicted.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// What the port answers before a cluster's API does.
struct Door {
    port: Port,
    tenant: Arc<Tenant>,
    caller: Caller,
}

#[async_trait]
impl Front for Door {
    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, Request<Body>> {
        let (path, directory) = (request.uri().path(), &self.port.directory);
        if path == JOIN_PATH {
            return Ok(self.port.joining.answer(&self.tenant, request).await);
        }
        if !Arc::ptr_eq(&self.tenant, directory.fleet()) || !path.starts_with(admin::PREFIX) {
            return Err(request);
        }
        if credentials::asked(path).is_none() {
            return Ok(Box::pin(self.port.admin.answer(&self.tenant, self.caller.clone(), request)).await);
        }
        let (head, _) = request.into_parts();
        let asked = credentials::asked(head.uri.path()).unwrap_or_default();
        Ok(self.port.credentials.answer(directory, &self.caller, &head, asked).await)
    }
}

/// The node that a client certificate names.
fn node_of(certificate: &[u8]) -> Option<String> {
    let subject = subject_of(certificate).ok()?;
    subject.common_name.strip_prefix(NODE_USER).map(str::to_owned)
}
