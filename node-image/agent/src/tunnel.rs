//! The node's end of the tunnel: dials out, again and again; serves the kubelet API to the control plane inside it;
//! carries pods' connections to `kubernetes.default` the other way.

use crate::{state::Joined, tls};
use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};
use timonel_fleet::TUNNEL_ALPN;
use timonel_kubelet::KubeletApi;
use timonel_runtime::{OnError, Tasks};
use timonel_tunnel::{Incoming, StreamHandler, Target, TunnelClient};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};

/// Between two attempts to dial.
const RETRY: Duration = Duration::from_millis(500);
/// Connections of pods to the API at once.
const MAX_API_CONNECTIONS: usize = 4_096;
/// Longest wait for a connection behind the node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Port on the node's own address where pods' connections to the API arrive.
pub(crate) const API_PORT: u16 = 16443;

/// The tunnel's current connection, if there is one.
pub(crate) type Current = watch::Receiver<Option<Arc<TunnelClient>>>;

/// Keeps the tunnel up until `tasks` ends.
pub(crate) fn keep(joined: &Joined, api: &KubeletApi, tasks: &Tasks) -> Current {
    let (send, receive) = watch::channel(None);
    let (joined, handler, scope) = (joined.clone(), Arc::new(Handler(api.clone())), tasks.clone());
    tasks.spawn("tunnel", OnError::EndScope, async move {
        loop {
            match dial(&joined).await {
                Ok(stream) => {
                    let connection = scope.child("connection");
                    let client = Arc::new(TunnelClient::start(stream, &connection, handler.clone()));
                    tracing::info!(server = %joined.server, "tunnel is up");
                    send.send_replace(Some(Arc::clone(&client)));
                    client.ended().await;
                    send.send_replace(None);
                    connection.token().cancel();
                    tracing::warn!("tunnel is down");
                }
                Err(error) => tracing::debug!(%error, "tunnel cannot be dialled"),
            }
            tokio::time::sleep(RETRY).await;
        }
        #[allow(unreachable_code, reason = "names the error type of the loop")]
        Ok::<_, io::Error>(())
    });
    receive
}

async fn dial(joined: &Joined) -> Result<tokio_rustls::client::TlsStream<TcpStream>, tls::TlsError> {
    let config = tls::mutual(&joined.answer.authority, &joined.answer.certificate, &joined.key, &[TUNNEL_ALPN])?;
    let slow = |_| tls::TlsError::Connect { server: joined.server.clone(), source: io::ErrorKind::TimedOut.into() };
    let connect = tls::connect(config, &joined.server, &joined.server_name);
    tokio::time::timeout(CONNECT_TIMEOUT, connect).await.map_err(slow)?
}

/// Listens on the node's address for pods' connections to the API and sends them through the tunnel.
pub(crate) async fn serve_api(address: Ipv4Addr, current: Current, tasks: &Tasks) -> io::Result<SocketAddrV4> {
    let address = SocketAddrV4::new(address, API_PORT);
    let listener = TcpListener::bind(address).await?;
    let (scope, slots) = (tasks.clone(), Arc::new(Semaphore::new(MAX_API_CONNECTIONS)));
    tasks.spawn("api forwarder", OnError::EndScope, async move {
        loop {
            let slot = slots.clone().acquire_owned().await.expect("never closed");
            let (mut stream, _) = listener.accept().await?;
            let mut current = current.clone();
            scope.spawn("api connection", OnError::Log, async move {
                let _slot = slot;
                let client = tokio::time::timeout(CONNECT_TIMEOUT, current.wait_for(Option::is_some)).await;
                let Ok(Ok(client)) = client.map(|found| found.map(|client| client.clone())) else { return Ok(()) };
                let client = client.expect("waited for it");
                let mut inside = client.open(&Target::Api).await.map_err(io::Error::other)?;
                // Either side may hang up; that is how connections end.
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut inside).await;
                Ok::<_, io::Error>(())
            });
        }
        #[allow(unreachable_code, reason = "names the error type of the loop")]
        Ok::<_, io::Error>(())
    });
    Ok(address)
}

struct Handler(KubeletApi);

#[async_trait::async_trait]
impl StreamHandler for Handler {
    async fn handle(&self, _peer: &str, target: Target, stream: Incoming) -> io::Result<()> {
        match target {
            Target::Kubelet => self.0.serve(stream.accept().await?).await.map_err(io::Error::other),
            Target::Tcp { host, port } => {
                let connect = TcpStream::connect((host.as_str(), port));
                match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
                    Ok(Ok(behind)) => {
                        let mut behind = behind;
                        let mut inside = stream.accept().await?;
                        tokio::io::copy_bidirectional(&mut behind, &mut inside).await.map(drop)
                    }
                    Ok(Err(error)) => stream.refuse(&error.to_string()).await,
                    Err(_) => stream.refuse("connection timed out").await,
                }
            }
            Target::Api | Target::Node { .. } | Target::KeepAlive => stream.refuse("nodes do not serve this").await,
        }
    }
}
