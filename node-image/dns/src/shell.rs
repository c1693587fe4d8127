//! Listens, watches and forwards. Decides nothing about names.

use crate::{
    Forwarder, Outcome, Zone,
    answer::{answer, udp_limit},
};
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::Client;
use std::{
    net::SocketAddr,
    sync::{
        Arc, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use timonel_runtime::{OnError, Tasks, reflect};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Notify, Semaphore},
};

/// Changes that arrive together make one new zone: shortest time between two.
const SHORTEST_PERIOD: Duration = Duration::from_millis(50);
/// Largest query.
const QUERY_BYTES: usize = 4_096;
/// Queries that wait for an upstream resolver, at once.
const MAX_WAITING: usize = 1_000;
/// TCP clients at once.
const MAX_CLIENTS: usize = 128;
/// A TCP client that says nothing for so long is let go.
const IDLE: Duration = Duration::from_secs(10);

/// How the DNS of a node is set up.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Where to listen, UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain, such as `cluster.local`.
    pub domain: String,
    /// Upstream resolvers for everything else.
    pub upstream: Vec<SocketAddr>,
}

/// Why DNS cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// An address cannot be listened on.
    #[error("listening on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The zone as it is, replaced whole.
type Shared = Arc<RwLock<Arc<Zone>>>;

/// What every query needs.
#[derive(Clone, Debug)]
struct Server {
    zone: Shared,
    turn: Arc<AtomicUsize>,
    forwarder: Forwarder,
    waiting: Arc<Semaphore>,
}

/// Serves until `tasks` ends. Listens at once; until the first listing is complete every query fails, so that
/// no client learns that a name does not exist which merely has not been read.
///
/// # Errors
/// When an address cannot be had.
pub async fn run(client: Client, config: DnsConfig, tasks: &Tasks) -> Result<(), DnsError> {
    let server = Server {
        zone: Shared::default(),
        turn: Arc::default(),
        forwarder: Forwarder::new(config.upstream.clone()),
        waiting: Arc::new(Semaphore::new(MAX_WAITING)),
    };
    for address in &config.listen {
        listen(*address, &server, tasks).await?;
    }
    let changed = Arc::new(Notify::new());
    let services = reflect::<Service>(&client, tasks, &changed);
    let slices = reflect::<EndpointSlice>(&client, tasks, &changed);
    if services.wait_until_ready().await.is_err() || slices.wait_until_ready().await.is_err() {
        return Ok(()); // the scope ended first
    }
    loop {
        let (all, parts) = (services.state(), slices.state());
        let zone = Zone::build(&config.domain, all.iter().map(AsRef::as_ref), parts.iter().map(AsRef::as_ref));
        *server.zone.write().expect("no holder panics") = Arc::new(zone);
        tokio::time::sleep(SHORTEST_PERIOD).await;
        changed.notified().await;
    }
}

async fn listen(address: SocketAddr, server: &Server, tasks: &Tasks) -> Result<(), DnsError> {
    let failed = |source| DnsError::Listen { address, source };
    let udp = Arc::new(UdpSocket::bind(address).await.map_err(failed)?);
    let tcp = TcpListener::bind(address).await.map_err(failed)?;
    let (scope, on_udp) = (tasks.clone(), server.clone());
    tasks.spawn("udp", OnError::EndScope, async move {
        let mut buffer = vec![0; QUERY_BYTES];
        loop {
            let (length, client) = match udp.recv_from(&mut buffer).await {
                Ok(received) => received,
                // An ICMP error of an earlier answer; the socket is fine.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err::<(), _>(error),
            };
            let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
            let limit = udp_limit(&query);
            match on_udp.decide(&query) {
                Outcome::Answer(message) => send_udp(&udp, client, &message, limit).await,
                waits => on_udp.clone().later(waits, query, &udp, client, limit, &scope),
            }
        }
    });
    let (scope, on_tcp, slots) = (tasks.clone(), server.clone(), Arc::new(Semaphore::new(MAX_CLIENTS)));
    tasks.spawn("tcp", OnError::EndScope, async move {
        loop {
            let slot = slots.clone().acquire_owned().await.expect("never closed");
            let (stream, _) = tcp.accept().await?;
            let server = on_tcp.clone();
            scope.spawn("client", OnError::Log, async move {
                let _slot = slot;
                // A client that hangs up or stays silent ends its own connection only.
                let _ = server.client(stream).await;
                Ok::<_, std::convert::Infallible>(())
            });
        }
        #[allow(unreachable_code, reason = "names the error type of the loop")]
        Ok::<_, std::io::Error>(())
    });
    Ok(())
}

async fn send_udp(socket: &UdpSocket, client: SocketAddr, message: &Message, limit: usize) {
    let wire = match message.to_vec() {
        Ok(wire) if wire.len() > limit => message.truncate().to_vec(),
        wire => wire,
    };
    match wire {
        Ok(wire) => drop(socket.send_to(&wire, client).await),
        Err(error) => tracing::warn!(%error, "answer cannot be encoded"),
    }
}

impl Server {
    fn decide(&self, query: &Message) -> Outcome {
        let zone = Arc::clone(&self.zone.read().expect("no holder panics"));
        if zone.domain.is_empty() {
            return Outcome::Answer(Box::new(failure(query)));
        }
        answer(&zone, query, self.turn.fetch_add(1, Ordering::Relaxed))
    }

    /// Answers when the upstream resolver has; the listening loop goes on meanwhile.
    fn later(
        self,
        waits: Outcome,
        query: Message,
        udp: &Arc<UdpSocket>,
        client: SocketAddr,
        limit: usize,
        tasks: &Tasks,
    ) {
        let Ok(slot) = Arc::clone(&self.waiting).try_acquire_owned() else { return };
        let udp = Arc::clone(udp);
        tasks.spawn("forward", OnError::Log, async move {
            let _slot = slot;
            let message = self.finish(waits, &query).await;
            send_udp(&udp, client, &message, limit).await;
            Ok::<_, std::convert::Infallible>(())
        });
    }

    async fn client(&self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let length = tokio::time::timeout(IDLE, stream.read_u16()).await??;
            let mut buffer = vec![0; length.into()];
            tokio::time::timeout(IDLE, stream.read_exact(&mut buffer)).await??;
            let Ok(query) = Message::from_vec(&buffer) else { return Ok(()) };
            let decided = self.decide(&query);
            let message = self.finish(decided, &query).await;
            let wire = message.to_vec().map_err(std::io::Error::other)?;
            let length = u16::try_from(wire.len()).map_err(std::io::Error::other)?;
            stream.write_all(&[&length.to_be_bytes(), wire.as_slice()].concat()).await?;
        }
    }

    async fn finish(&self, outcome: Outcome, query: &Message) -> Message {
        match outcome {
            Outcome::Answer(message) => *message,
            Outcome::Forward => self.upstream(query).await.unwrap_or_else(|| failure(query)),
            Outcome::Follow(mut message, name, kind) => {
                if let Some(found) = self.lookup(query.metadata.id, name, kind).await {
                    message.add_answers(found.answers);
                }
                *message
            }
        }
    }

    async fn upstream(&self, query: &Message) -> Option<Message> {
        let answer = self.forwarder.ask(&query.to_vec().ok()?).await?;
        Message::from_vec(&answer).ok()
    }

    /// An alias may point back into the cluster, once.
    async fn lookup(&self, id: u16, name: Name, kind: RecordType) -> Option<Message> {
        let mut query = Message::query();
        query.metadata.id = id;
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(name, kind));
        match self.decide(&query) {
            Outcome::Answer(message) | Outcome::Follow(message, ..) => Some(*message),
            Outcome::Forward => self.upstream(&query).await,
        }
    }
}

fn failure(query: &Message) -> Message {
    let mut out = Message::response(query.metadata.id, query.metadata.op_code);
    out.queries.clone_from(&query.queries);
    out.metadata.recursion_desired = query.metadata.recursion_desired;
    out.metadata.response_code = ResponseCode::ServFail;
    out
}
