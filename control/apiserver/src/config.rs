//! What one cluster's API server is made of.

use crate::{
    authn::{AUTHENTICATED_GROUP, AuthnConfig, User, user_of_certificate},
    streams::NodeConnector,
};
use bytes::Bytes;
use ipnet::IpNet;
use rustls::{client::ResolvesClientCert, pki_types::CertificateDer};
use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::{Arc, OnceLock},
};
use timonel_api::{GroupResource, Scheme};
use timonel_pki::KeyRing;
use timonel_runtime::{Clock, Entropy};
use timonel_store::Store;

/// Everything an API server is given.
#[derive(Debug)]
pub struct Config {
    /// The kinds it serves.
    pub scheme: Arc<Scheme>,
    /// Where its objects are.
    pub store: Arc<dyn Store>,
    /// Where objects of some resources are instead.
    pub apart: Vec<Apart>,
    /// What the health endpoints check beside the server itself.
    pub health: Vec<Arc<dyn HealthCheck>>,
    /// What all its keys in the store start with.
    pub prefix: Bytes,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub entropy: Entropy,
    /// How it authenticates.
    pub authentication: AuthnConfig,
    /// Keys of service-account tokens.
    pub keys: KeyRing,
    /// Ranges of cluster addresses of Services, the primary family first; none for a cluster without Services.
    pub service_ranges: Vec<IpNet>,
    /// Ports of nodes for Services.
    pub node_ports: RangeInclusive<u16>,
    /// Where pods reach this API server behind the Service `kubernetes`; none when there is no such Service.
    pub advertise: Option<SocketAddr>,
    /// What `serverAddressByClientCIDRs` of the discovery documents names, as `HOST:PORT`.
    pub public_address: String,
    /// Seconds after which events are forgotten.
    pub event_ttl_seconds: u64,
    /// The way to nodes; without one logs, exec and proxies answer that there is none.
    pub nodes: Option<Arc<dyn NodeConnector>>,
    /// Of the addresses that mean this process' machine or its link (loopback, link-local), those that webhooks,
    /// token issuers and extension API servers may be dialled at. Whoever configures these chooses the address.
    pub local_destinations: Vec<IpNet>,
    /// What extension API servers are shown, so that they believe who the user of a request is.
    pub front_proxy: Option<Arc<dyn ResolvesClientCert>>,
}

/// Resources whose objects lie in a store of their own, under the same keys. Services and their addresses cannot: they
/// change in one transaction with what they are given.
#[derive(Clone, Debug)]
pub struct Apart {
    /// Which.
    pub resources: BTreeSet<GroupResource>,
    /// Where.
    pub store: Arc<dyn Store>,
}

/// Something that the server depends on.
pub trait HealthCheck: fmt::Debug + Send + Sync + 'static {
    /// Its name at the health endpoints; `None` while there is nothing to check.
    fn name(&self) -> Option<String>;

    /// Whether it is well.
    fn is_well(&self) -> bool;
}

impl fmt::Debug for dyn NodeConnector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("NodeConnector")
    }
}

impl Config {
    /// Upstream's range of node ports.
    pub const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;
    /// Upstream's life of an event.
    pub const EVENT_TTL_SECONDS: u64 = 3_600;
}

/// Who is at the other end of a call, before authentication.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A part of this process that acts under a name.
    Internal(Arc<User>),
    /// A connection from outside.
    Peer(Peer),
}

/// What a connection knows about its other end. Clones share what was worked out once.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    certificate: Option<CertificateDer<'static>>,
    address: Option<IpAddr>,
    user: Arc<OnceLock<Option<Arc<User>>>>,
}

impl Peer {
    /// Of a connection. `certificate` is the client's own, which TLS has verified against the cluster's authority.
    #[must_use]
    pub fn new(certificate: Option<CertificateDer<'static>>, address: Option<IpAddr>) -> Self {
        Self { certificate, address, user: Arc::default() }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// The user that its certificate names, worked out once per connection.
    pub(crate) fn user(&self) -> Option<Arc<User>> {
        let named = || self.certificate.as_deref().and_then(user_of_certificate);
        let named = || named().map(|user| Arc::new(user.with_group(AUTHENTICATED_GROUP)));
        self.user.get_or_init(named).clone()
    }
}

impl Caller {
    /// The address of a connection from outside.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Internal(_) => None,
            Self::Peer(peer) => peer.address(),
        }
    }

    /// A part of this process, by upstream's user name without `system:`.
    #[must_use]
    pub fn internal(component: &str) -> Self {
        Self::Internal(Arc::new(User::system(component)))
    }
}
