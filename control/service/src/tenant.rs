//! One hosted cluster (the fleet is one too): its keys, its API, its tunnel, its controllers, as long as this process
//! serves it.

use crate::{
    bounds::Bounds,
    first,
    front_proxy::FrontProxy,
    keys::{self, KeyError},
    nodes::Nodes,
    peers::Peers,
    places::Places,
    secrets::Secrets,
    signer::Signer,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use kube::Client;
use parking_lot::Mutex;
use rustls::{
    CipherSuite, ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::WebPkiClientVerifier,
};
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};
use timonel_api::Scheme;
use timonel_apiserver::{
    ApiServer, Caller, Config, Connection, HealthCheck, InProcess, Peer, StartError, authn::AuthnConfig,
    streams::NodeConnector, unchecked_tls,
};
use timonel_controllers::{ControllersConfig, NodeRanges};
use timonel_fleet::{NodeSettings, PEER_ALPN, TUNNEL_ALPN};
use timonel_pki::{ClusterPki, ClusterPkiSpec, KeyRing, PkiError};
use timonel_runtime::{Clock, Entropy, OnError, Tasks, export_metrics};
use timonel_scheduler::SchedulerConfig;
use timonel_tunnel::{Incoming, StreamHandler, Target, TunnelServer};
use tokio_rustls::TlsAcceptor;

/// The cluster's DNS domain.
const DOMAIN: &str = "cluster.local";
/// Which address of the service range is the cluster's DNS, as upstream's installers choose it.
const DNS_ADDRESS: usize = 10;
/// Prefix length of a node's pod range.
const NODE_PREFIX: u8 = 24;
/// Age at which the server's certificate is made anew; it lives a year.
pub(crate) const CERTIFICATE_AGE: jiff::SignedDuration = jiff::SignedDuration::from_hours(24 * 90);
/// Time for a cluster's tasks to end.
const DRAIN: Duration = Duration::from_secs(5);
/// Time for a TLS handshake inside the tunnel.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why a cluster cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    /// Its keys.
    #[error("keys")]
    Keys(#[from] KeyError),
    /// A certificate.
    #[error("certificate")]
    Certificate(#[from] PkiError),
    /// TLS.
    #[error("TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Its API.
    #[error("API server")]
    Api(#[from] StartError),
    /// An address range.
    #[error("range {0:?} is not an IPv4 CIDR")]
    Range(String),
    /// A first object.
    #[error("writing {what}")]
    Bootstrap {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

/// What all clusters of a process share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) places: Places,
    /// What the health endpoints check beside the cluster itself.
    pub(crate) health: Vec<Arc<dyn HealthCheck>>,
    pub(crate) secrets: Secrets,
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    /// Addresses and names under which the port is reached, for certificates.
    pub(crate) hosts: Vec<String>,
    /// Where nodes without a tunnel may be dialled.
    pub(crate) direct_nodes: Arc<[IpNet]>,
    /// The other control machines.
    pub(crate) peers: Peers,
    /// Where on this machine and its link what clusters configure may be dialled.
    pub(crate) local_destinations: Vec<IpNet>,
}

/// Which cluster.
#[derive(Clone, Debug)]
pub(crate) struct TenantSpec {
    pub(crate) uid: String,
    pub(crate) name: String,
    pub(crate) server_name: String,
    pub(crate) scheme: Arc<Scheme>,
    /// Pod and service ranges; none for the fleet, which runs no pods.
    pub(crate) ranges: Option<(String, String)>,
    /// Where nodes that are not ours, and their pods, reach the API.
    pub(crate) advertise: Option<SocketAddr>,
}

/// A part of a control plane beside the API, which may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// All controllers.
    Controllers,
    /// Those of certificate requests alone, where all others run elsewhere: the keys are here.
    Certificates,
    /// The scheduler.
    Scheduler,
}

/// A cluster being served.
pub(crate) struct Tenant {
    pub(crate) uid: String,
    pub(crate) server_name: String,
    pub(crate) api: Arc<ApiServer>,
    pub(crate) pki: Arc<ClusterPki>,
    pub(crate) tunnel: Arc<TunnelServer>,
    pub(crate) tasks: Tasks,
    pub(crate) settings: NodeSettings,
    pub(crate) bounds: Bounds,
    /// The scope of each part of the control plane that runs.
    parts: Mutex<BTreeMap<Part, Tasks>>,
    pods: Option<Ipv4Net>,
    name: String,
    certificate: ClusterPkiSpec,
    pub(crate) clock: Clock,
    entropy: Entropy,
    tls: Mutex<(jiff::Timestamp, Arc<ServerConfig>)>,
    kubelet_tls: Mutex<Option<(jiff::Timestamp, Arc<ClientConfig>)>>,
    controllers_metrics: timonel_controllers::Metrics,
    scheduler_metrics: timonel_scheduler::Metrics,
}

impl std::fmt::Debug for Tenant {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Tenant({})", self.server_name)
    }
}

impl Tenant {
    /// Starts to serve a cluster; makes what it needs on the first time.
    pub(crate) async fn open(shared: &Shared, spec: TenantSpec, parent: &Tasks) -> Result<Arc<Self>, TenantError> {
        let tasks = parent.child(&spec.name);
        let now = shared.clock.now();
        let pki = Arc::new(keys::load_or_create(&shared.secrets, &spec.uid, now).await?);
        let ranges = match &spec.ranges {
            Some((pods, services)) => Some((range(pods)?, range(services)?)),
            None => None,
        };
        let certificate = certificate_names(shared, &spec, ranges.map(|(_, services)| services));
        let tls = Mutex::new((now, tls(&pki, &certificate, now)?));
        let inside = Arc::new(Inside::default());
        let tunnel = Arc::new(TunnelServer::new(&tasks, inside.clone()));
        let keys = keys::copy(&pki.keys)?;
        let nodes = Nodes::new(&spec.uid, tunnel.clone(), inside.clone(), shared);
        let mut config = api_config(shared, &spec, keys, ranges.map(|(_, services)| services), nodes);
        config.front_proxy = Some(Arc::new(FrontProxy::new(pki.clone(), shared.clock.clone())));
        let api = ApiServer::new(config, &tasks).await?;
        let metrics = api.metrics();
        export_metrics(&metrics.source(), &[("cluster", &spec.name)]);
        let controllers_metrics = timonel_controllers::Metrics::register(metrics);
        let scheduler_metrics = timonel_scheduler::Metrics::register(metrics);
        let settings = ranges.map(|(pods, services)| settings(pods, services)).unwrap_or_default();
        let tenant = Arc::new(Self {
            uid: spec.uid,
            server_name: spec.server_name,
            api,
            pki,
            tunnel,
            tasks,
            settings,
            bounds: Bounds::default(),
            parts: Mutex::default(),
            pods: ranges.map(|(pods, _)| pods),
            name: spec.name,
            certificate,
            clock: shared.clock.clone(),
            entropy: shared.entropy.clone(),
            tls,
            kubelet_tls: Mutex::default(),
            controllers_metrics,
            scheduler_metrics,
        });
        // Set once, right here; a second time is impossible.
        let _ = inside.0.set(Arc::downgrade(&tenant));
        if ranges.is_some() {
            first::objects(&tenant.client("masters"), &tenant.settings.dns_address, &tenant.pki).await?;
            first::keep(&tenant.api, &tenant.client("masters"), &tenant.pki, &tenant.tasks);
        }
        Ok(tenant)
    }

    /// A client of this cluster's API inside this process, as a component of the control plane.
    pub(crate) fn client(&self, component: &str) -> Client {
        Client::new(InProcess::new(self.api.clone(), Caller::internal(component)), "default")
    }

    /// What the port speaks for this cluster; renewed when its certificate gets old.
    pub(crate) fn tls(&self) -> Arc<ServerConfig> {
        let now = self.clock.now();
        let mut current = self.tls.lock();
        if now.duration_since(current.0) > CERTIFICATE_AGE {
            match tls(&self.pki, &self.certificate, now) {
                Ok(fresh) => *current = (now, fresh),
                Err(error) => tracing::error!(cluster = %self.server_name, %error, "certificate not renewed"),
            }
        }
        current.1.clone()
    }

    /// What is spoken to kubelets that are dialled, with the API server's certificate for them.
    pub(crate) fn kubelet_tls(&self) -> Result<Arc<ClientConfig>, TenantError> {
        let now = self.clock.now();
        let mut current = self.kubelet_tls.lock();
        if let Some((made, config)) = &*current
            && now.duration_since(*made) <= CERTIFICATE_AGE
        {
            return Ok(config.clone());
        }
        let identity = self.pki.kubelet_client(now)?.rustls()?;
        let config = unchecked_tls(Some(identity)).map_err(|error| TenantError::Tls(error.into()))?;
        let config = Arc::new(config);
        *current = Some((now, config.clone()));
        Ok(config)
    }

    /// Stops serving.
    pub(crate) async fn close(&self) {
        self.tasks.shutdown(DRAIN).await;
    }

    /// Whether a part runs here.
    pub(crate) fn runs(&self, part: Part) -> bool {
        self.parts.lock().contains_key(&part)
    }

    /// Starts or stops a part. One that was stopped has ended when this returns.
    pub(crate) async fn run(&self, part: Part, wanted: bool) {
        if self.runs(part) == wanted {
            return;
        }
        if !wanted {
            let scope = self.parts.lock().remove(&part);
            if let Some(scope) = scope {
                scope.shutdown(DRAIN).await;
            }
            return;
        }
        let Some(pods) = self.pods else { return };
        let scope = match part {
            Part::Controllers => self.start_controllers(pods, false),
            Part::Certificates => self.start_controllers(pods, true),
            Part::Scheduler => self.start_scheduler(),
        };
        self.parts.lock().insert(part, scope);
    }

    fn start_controllers(&self, pods: Ipv4Net, only_signing: bool) -> Tasks {
        let ca = self.pki.cluster_ca.cert_pem();
        let mut config = ControllersConfig::new(self.clock.clone(), self.entropy.clone(), &self.name, ca);
        config.signers = Some(Arc::new(Signer { pki: self.pki.clone(), clock: self.clock.clone() }));
        config.only_signing = only_signing;
        config.node_ranges = Some(NodeRanges { cluster: vec![IpNet::V4(pods)], mask_v4: NODE_PREFIX, mask_v6: 64 });
        config.metrics = self.controllers_metrics.clone();
        let (scope, client) = (self.tasks.child("controllers"), self.client("kube-controller-manager"));
        self.api.check_policies();
        let inner = scope.clone();
        scope.spawn("controllers", OnError::Log, async move { timonel_controllers::run(client, config, &inner).await });
        scope
    }

    fn start_scheduler(&self) -> Tasks {
        let mut config = SchedulerConfig::new(self.clock.clone(), self.entropy.clone());
        config.metrics = self.scheduler_metrics.clone();
        let (scope, client) = (self.tasks.child("scheduler"), self.client("kube-scheduler"));
        let inner = scope.clone();
        scope.spawn("scheduler", OnError::Log, async move { timonel_scheduler::run(client, config, &inner).await });
        scope
    }
}

fn range(text: &str) -> Result<Ipv4Net, TenantError> {
    text.parse().map_err(|_| TenantError::Range(text.to_owned()))
}

/// The `nth` address of a range.
fn nth(range: Ipv4Net, nth: usize) -> Ipv4Addr {
    let first = u32::from(range.network());
    Ipv4Addr::from(first.saturating_add(u32::try_from(nth).unwrap_or(u32::MAX)))
}

fn settings(pods: Ipv4Net, services: Ipv4Net) -> NodeSettings {
    NodeSettings {
        pod_cidr: pods.to_string(),
        service_cidr: services.to_string(),
        dns_address: nth(services, DNS_ADDRESS).to_string(),
        domain: DOMAIN.to_owned(),
        ..NodeSettings::default()
    }
}

fn certificate_names(shared: &Shared, spec: &TenantSpec, services: Option<Ipv4Net>) -> ClusterPkiSpec {
    let (addresses, names): (Vec<_>, Vec<_>) = shared.hosts.iter().partition(|host| host.parse::<IpAddr>().is_ok());
    let mut ip_addresses: Vec<IpAddr> = addresses.iter().filter_map(|host| host.parse().ok()).collect();
    ip_addresses.extend(services.map(|range| IpAddr::V4(nth(range, 1))));
    let mut dns_names: Vec<String> = names.into_iter().cloned().collect();
    dns_names.push(spec.server_name.clone());
    ClusterPkiSpec { dns_names, ip_addresses, dns_domain: DOMAIN.to_owned() }
}

/// AES with 128 bits first, which Go's servers choose too: encrypting a long list takes a quarter less than with 256.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}

fn tls(pki: &ClusterPki, names: &ClusterPkiSpec, now: jiff::Timestamp) -> Result<Arc<ServerConfig>, TenantError> {
    let leaf = pki.api_server(names, now)?;
    let (mut chain, key) = leaf.rustls()?;
    // Machines that join know only the hash of the authority: it must come along.
    chain.push(pki.cluster_ca.cert_der().clone());
    let other = |error: Box<dyn std::error::Error + Send + Sync>| TenantError::Tls(error);
    let mut roots = RootCertStore::empty();
    roots.add(pki.cluster_ca.cert_der().clone()).map_err(|error| other(error.into()))?;
    let clients = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build();
    let clients = clients.map_err(|error| other(error.into()))?;
    let mut config = ServerConfig::builder_with_provider(provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|error| other(error.into()))?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(|error| other(error.into()))?;
    config.ignore_client_order = true;
    config.alpn_protocols =
        ["h2", "http/1.1", TUNNEL_ALPN, PEER_ALPN].iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// Where on this machine's addresses a cluster may make its API server connect. Only the operator configures the
/// fleet, the one that has no pods.
fn local_destinations(shared: &Shared, spec: &TenantSpec) -> Vec<IpNet> {
    match spec.ranges {
        Some(_) => shared.local_destinations.clone(),
        None => vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())],
    }
}

fn api_config(shared: &Shared, spec: &TenantSpec, keys: KeyRing, services: Option<Ipv4Net>, nodes: Nodes) -> Config {
    let issuer = format!("https://kubernetes.default.svc.{DOMAIN}");
    Config {
        scheme: spec.scheme.clone(),
        store: shared.places.first().opened(),
        prefix: format!("/clusters/{}/", spec.uid).into(),
        clock: shared.clock.clone(),
        entropy: shared.entropy.clone(),
        authentication: AuthnConfig {
            issuers: vec![issuer.clone()],
            audiences: vec![issuer],
            static_tokens: Vec::new(),
            anonymous: true,
            extend_expiration: true,
        },
        keys,
        service_ranges: services.into_iter().map(IpNet::V4).collect(),
        node_ports: Config::NODE_PORTS,
        advertise: services.map(|range| spec.advertise.unwrap_or(SocketAddr::from((nth(range, 1), 443)))),
        public_address: spec.server_name.clone(),
        event_ttl_seconds: Config::EVENT_TTL_SECONDS,
        nodes: services.map(|_| Arc::new(nodes) as Arc<dyn NodeConnector>),
        local_destinations: local_destinations(shared, spec),
        front_proxy: None,
        apart: shared.places.apart().to_vec(),
        health: shared.health.clone(),
    }
}

/// Streams that nodes open: pods' connections to the API, with TLS of their own.
#[derive(Debug, Default)]
pub(crate) struct Inside(OnceLock<std::sync::Weak<Tenant>>);

impl Inside {
    /// The tenant, once it is there and as long as it is.
    pub(crate) fn tenant(&self) -> Option<Arc<Tenant>> {
        self.0.get().and_then(std::sync::Weak::upgrade)
    }
}

#[async_trait::async_trait]
impl StreamHandler for Inside {
    async fn handle(&self, peer: &str, target: Target, stream: Incoming) -> io::Result<()> {
        let tenant = self.tenant();
        let (Target::Api, Some(tenant)) = (target, tenant) else {
            return stream.refuse("only the API can be reached").await;
        };
        let accept = TlsAcceptor::from(tenant.tls()).accept(stream.accept().await?);
        let io =
            tokio::time::timeout(HANDSHAKE, accept).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let session = io.get_ref().1;
        let certificate = session.peer_certificates().and_then(|chain| chain.first()).cloned();
        let http2 = session.alpn_protocol() == Some(b"h2");
        let caller = Caller::Peer(Peer::new(certificate.map(|cert| cert.into_owned()), None));
        tracing::trace!(node = peer, "a pod's connection to the API");
        let stop = tenant.tasks.token();
        tenant.api.clone().serve_connection(io, Connection::of(caller, http2), stop).await.map_err(io::Error::other)
    }
}
