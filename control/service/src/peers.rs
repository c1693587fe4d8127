//! The other control machines of one store: where each is (a Lease of its own in the fleet, renewed while it runs), and
//! the way through them to nodes whose tunnel is theirs.
//!
//! A machine is known to another by a certificate of the fleet's authority, which only control machines hold. Never
//! decides who may reach a node: whoever asks here has asked its own API server first.

use crate::{directory::Directory, tenant::Tenant};
use async_trait::async_trait;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};
use timonel_fleet::PEER_ALPN;
use timonel_pki::subject_of;
use timonel_runtime::{Clock, Tasks};
use timonel_tunnel::{Incoming, StreamHandler, Target, TunnelClient, TunnelServer, TunnelStream};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

/// Where the Leases are, and what they carry.
const NAMESPACE: &str = "kube-system";
const LABEL: &str = "timonel.io/control-machine";
/// What the user name of a control machine begins with; its name follows.
const PEER_USER: &str = "timonel:control-machine:";
/// Field manager of the Leases.
const MANAGER: &str = "timonel-control";
/// Between two renewals.
const RENEW: Duration = Duration::from_secs(5);
/// A machine whose Lease stayed as it was for so long is not asked any more.
const STALE: Duration = Duration::from_secs(20);
/// After so long its Lease is removed.
const GONE: Duration = Duration::from_secs(600);
/// Time to connect to a machine, TLS included.
const CONNECT: Duration = Duration::from_secs(3);
/// Nodes of which is remembered through whom they were reached.
const MAX_HINTS: usize = 4_096;
/// Time to take the own Lease away at the end.
const DRAIN: Duration = Duration::from_secs(2);

/// The other control machines; none until this one [meets](Self::meet) them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peers(Arc<OnceLock<Circle>>);

/// What this machine knows of the others.
struct Circle {
    fleet: Arc<Tenant>,
    name: String,
    known: Mutex<Known>,
    sessions: tokio::sync::Mutex<HashMap<String, Arc<TunnelClient>>>,
    /// (cluster, node) to the machine that had it last.
    hints: Mutex<HashMap<(String, String), String>>,
    tasks: Tasks,
}

impl std::fmt::Debug for Circle {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Circle({} of {})", self.name, self.known.lock().0.len())
    }
}

/// Machines by name.
#[derive(Debug, Default)]
struct Known(BTreeMap<String, Seen>);

#[derive(Clone, Debug)]
struct Seen {
    endpoint: String,
    version: String,
    /// When it was first seen as it is, by this machine's own clock: clocks need not agree.
    since: Instant,
}

impl Known {
    /// Takes the Leases there are; the names of those to remove.
    fn take(&mut self, leases: Vec<Lease>, own: &str, now: Instant) -> Vec<String> {
        let mut before = std::mem::take(&mut self.0);
        for lease in leases {
            let Some(name) = lease.metadata.name.filter(|name| name != &lease_name(own)) else { continue };
            let version = lease.metadata.resource_version.unwrap_or_default();
            let endpoint = lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
            let same = before.remove(&name).filter(|seen| seen.version == version);
            self.0.insert(name, same.unwrap_or(Seen { endpoint, version, since: now }));
        }
        let gone = self.0.iter().filter(|(_, seen)| now.duration_since(seen.since) >= GONE);
        gone.map(|(name, _)| name.clone()).collect()
    }

    /// Those that show life, the one named first.
    fn alive(&self, first: Option<&str>, now: Instant) -> Vec<(String, String)> {
        let alive = self.0.iter().filter(|(_, seen)| now.duration_since(seen.since) < STALE);
        let mut alive: Vec<_> = alive.map(|(name, seen)| (name.clone(), seen.endpoint.clone())).collect();
        alive.sort_by_key(|(name, _)| Some(name.as_str()) != first);
        alive
    }
}

fn lease_name(machine: &str) -> String {
    format!("timonel-control-{machine}")
}

impl Peers {
    /// Takes part from here on, for as long as `tasks` runs, under a name that nobody else has. A machine that is
    /// reached nowhere reaches others all the same.
    pub(crate) fn meet(&self, name: &str, endpoint: Option<String>, fleet: &Arc<Tenant>, tasks: &Tasks) {
        let circle = Circle {
            fleet: fleet.clone(),
            name: name.to_owned(),
            known: Mutex::default(),
            sessions: tokio::sync::Mutex::default(),
            hints: Mutex::default(),
            tasks: tasks.child("peers"),
        };
        if self.0.set(circle).is_err() {
            return;
        }
        if endpoint.is_none() {
            tracing::warn!("other control machines cannot reach nodes through this one: no address to tell them");
        }
        let (peers, stop) = (self.clone(), tasks.token());
        tasks.spawn_draining("peers", async move {
            let Some(circle) = peers.0.get() else { return };
            stop.run_until_cancelled(circle.keep(endpoint.as_deref())).await;
            if endpoint.is_some() {
                // What is left of it goes stale by itself.
                let _ =
                    timeout(DRAIN, circle.leases().delete(&lease_name(&circle.name), &DeleteParams::default())).await;
            }
        });
    }

    /// A stream to or through a node by way of the machine that has its tunnel; none when no machine says it has it.
    ///
    /// # Errors
    /// What the node answered.
    pub(crate) async fn open(&self, cluster: &str, node: &str, target: &Target) -> io::Result<Option<TunnelStream>> {
        let Some(circle) = self.0.get() else { return Ok(None) };
        let key = (cluster.to_owned(), node.to_owned());
        let hint = circle.hints.lock().get(&key).cloned();
        let asked = Target::Node { cluster: key.0.clone(), node: key.1.clone(), target: Box::new(target.clone()) };
        let alive = circle.known.lock().alive(hint.as_deref(), Instant::now());
        for (name, endpoint) in alive {
            match circle.ask(&name, &endpoint, &asked).await {
                Ok(stream) => {
                    let mut hints = circle.hints.lock();
                    if hints.len() >= MAX_HINTS {
                        hints.clear();
                    }
                    hints.insert(key, name);
                    return Ok(Some(stream));
                }
                Err(Unreached::Elsewhere) => {}
                Err(Unreached::Machine(error)) => {
                    tracing::debug!(machine = %name, %error, "control machine not reached")
                }
                Err(Unreached::Node(error)) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Why a machine gave no stream.
enum Unreached {
    /// It does not have the node.
    Elsewhere,
    /// It could not be asked.
    Machine(Box<dyn Error + Send + Sync>),
    /// It has the node, which did not want to.
    Node(io::Error),
}

impl Circle {
    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.fleet.client("masters"), NAMESPACE)
    }

    /// Shows life and looks for that of others, for ever.
    async fn keep(&self, endpoint: Option<&str>) {
        let mut ticks = tokio::time::interval(RENEW);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = timeout(STALE, self.look(endpoint)).await.unwrap_or(Ok(())) {
                tracing::debug!(%error, "control machines");
            }
        }
    }

    async fn look(&self, endpoint: Option<&str>) -> Result<(), kube::Error> {
        let leases = self.leases();
        if let Some(endpoint) = endpoint {
            let lease = own_lease(&self.name, endpoint, &self.fleet.clock);
            let how = PatchParams::apply(MANAGER).force();
            leases.patch(&lease_name(&self.name), &how, &Patch::Apply(&lease)).await?;
        }
        let found = leases.list(&ListParams::default().labels(LABEL)).await?;
        let gone = self.known.lock().take(found.items, &self.name, Instant::now());
        for name in gone {
            leases.delete(&name, &DeleteParams::default()).await?;
        }
        Ok(())
    }

    async fn ask(&self, name: &str, endpoint: &str, target: &Target) -> Result<TunnelStream, Unreached> {
        let session = self.session(name, endpoint).await.map_err(Unreached::Machine)?;
        match session.open(target).await {
            Ok(stream) => Ok(stream),
            Err(timonel_tunnel::TunnelError::Refused(why)) if why == ELSEWHERE => Err(Unreached::Elsewhere),
            Err(error @ timonel_tunnel::TunnelError::Refused(_)) => Err(Unreached::Node(io::Error::other(error))),
            Err(error) => {
                self.sessions.lock().await.remove(name);
                Err(Unreached::Machine(error.into()))
            }
        }
    }

    async fn session(&self, name: &str, endpoint: &str) -> Result<Arc<TunnelClient>, Box<dyn Error + Send + Sync>> {
        let mut sessions = self.sessions.lock().await;
        if let Some(session) = sessions.get(name).filter(|session| !session.is_ended()) {
            return Ok(session.clone());
        }
        let io = timeout(CONNECT, self.dial(endpoint)).await??;
        let session = Arc::new(TunnelClient::start(io, &self.tasks, Arc::new(Silent)));
        sessions.retain(|_, session| !session.is_ended());
        sessions.insert(name.to_owned(), session.clone());
        Ok(session)
    }

    async fn dial(&self, endpoint: &str) -> Result<impl AsyncRead + AsyncWrite + use<>, Box<dyn Error + Send + Sync>> {
        let pki = &self.fleet.pki;
        let mut roots = RootCertStore::empty();
        roots.add(pki.cluster_ca.cert_der().clone())?;
        let user = format!("{PEER_USER}{}", self.name);
        let (chain, key) = pki.client(&user, &[], self.fleet.clock.now())?.rustls()?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![PEER_ALPN.as_bytes().to_vec()];
        let stream = TcpStream::connect(endpoint).await?;
        stream.set_nodelay(true)?;
        Ok(TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from(self.fleet.server_name.clone())?, stream)
            .await?)
    }
}

fn own_lease(machine: &str, endpoint: &str, clock: &Clock) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(lease_name(machine)),
            labels: Some([(LABEL.to_owned(), machine.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(endpoint.to_owned()),
            lease_duration_seconds: i32::try_from(STALE.as_secs()).ok(),
            renew_time: Some(MicroTime(clock.now())),
            ..LeaseSpec::default()
        }),
    }
}

/// The name of the control machine that a client certificate of the fleet's authority names.
pub(crate) fn peer_of(certificate: &[u8]) -> Option<String> {
    subject_of(certificate).ok()?.common_name.strip_prefix(PEER_USER).map(str::to_owned)
}

/// How a machine says that it does not have a node.
const ELSEWHERE: &str = "the node is not connected here";

/// The end of other machines' connections at this one.
#[derive(Debug)]
pub(crate) struct PeerPort(TunnelServer);

impl PeerPort {
    pub(crate) fn new(directory: Directory, tasks: &Tasks) -> Self {
        Self(TunnelServer::new(&tasks.child("peers"), Arc::new(Answering(directory))))
    }

    /// Serves the connection of a machine until it ends.
    pub(crate) async fn serve<T>(&self, machine: &str, io: T)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        tracing::info!(%machine, "control machine connected");
        self.0.serve(machine, io).await;
    }
}

/// Leads other machines' streams to nodes that are connected here.
struct Answering(Directory);

#[async_trait]
impl StreamHandler for Answering {
    async fn handle(&self, _: &str, target: Target, stream: Incoming) -> io::Result<()> {
        let Target::Node { cluster, node, target } = target else {
            return stream.refuse("only nodes can be reached").await;
        };
        let tenant = self.0.by_uid(&cluster).filter(|tenant| tenant.tunnel.has(&node));
        match (tenant, *target) {
            (None, _) => stream.refuse(ELSEWHERE).await,
            (Some(tenant), target @ (Target::Kubelet | Target::Tcp { .. })) => {
                let open = async { tenant.tunnel.open(&node, &target, Duration::ZERO).await.map_err(io::Error::from) };
                stream.forward(open).await
            }
            _ => stream.refuse("nodes do not serve this").await,
        }
    }
}

/// Serves nothing: machines that this one dialled only answer.
struct Silent;

#[async_trait]
impl StreamHandler for Silent {
    async fn handle(&self, _: &str, _: Target, stream: Incoming) -> io::Result<()> {
        stream.refuse("this machine only asks").await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(machine: &str, version: &str) -> Lease {
        let mut lease = own_lease(machine, &format!("{machine}:6443"), &Clock::system());
        lease.metadata.resource_version = Some(version.to_owned());
        lease
    }

    #[test]
    fn machines_that_show_no_life_are_not_asked_and_in_the_end_forgotten() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut known = Known::default();
        let names = |known: &Known, first, seconds| {
            known.alive(first, at(seconds)).into_iter().map(|(_, endpoint)| endpoint).collect::<Vec<_>>()
        };
        assert!(known.take(vec![lease("a", "1"), lease("b", "1"), lease("me", "1")], "me", at(0)).is_empty());
        assert_eq!(names(&known, None, 1), ["a:6443", "b:6443"]);
        assert_eq!(names(&known, Some("timonel-control-b"), 1), ["b:6443", "a:6443"]);
        known.take(vec![lease("a", "1"), lease("b", "2")], "me", at(10));
        assert_eq!(names(&known, None, 25), ["b:6443"]);
        assert_eq!(known.take(vec![lease("a", "1"), lease("b", "3")], "me", at(600)), ["timonel-control-a"]);
        known.take(vec![lease("b", "4")], "me", at(605));
        assert_eq!(known.0.len(), 1);
    }
}
