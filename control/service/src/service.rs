//! Puts the service together: secrets, the fleet's own API, the port, the fleet's controllers.

use crate::{
    admin::Admin,
    config::{LeaderTimes, ServiceConfig},
    credentials::Credentials,
    directory::Directory,
    fleet::{self, Fleet, Stores},
    joining::Joining,
    kubeconfig::{AdminKubeconfig, KubeconfigError},
    leader::{Leadership, while_leading},
    peers::{PeerPort, Peers},
    places::{PlaceError, Places},
    port::Port,
    restore,
    secrets::{SecretError, Secrets},
    tenant::{Shared, Tenant, TenantError, TenantSpec},
};
use kube::Client;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use timonel_api::{Scheme, TableError, Tables};
use timonel_apiserver::{AccessConfig, FileError, HealthCheck};
use timonel_encryption::Encryption;
use timonel_runtime::{OnError, Tasks};
use tokio::net::TcpListener;

/// The fleet's UID: it exists once in a store, and always.
const FLEET_UID: &str = "fleet";
/// The fleet's TLS server name.
const FLEET_SERVER_NAME: &str = "fleet.timonel.internal";
/// File of the master key.
const MASTER_KEY: &str = "master.key";
/// What tells two starts of a control machine apart.
const IDENTITY_LETTERS: usize = 8;
/// Time for everything to stop.
const DRAIN: Duration = Duration::from_secs(15);

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The master key.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The fleet's tables.
    #[error("tables of the fleet's kinds")]
    Tables(#[from] TableError),
    /// The fleet's API.
    #[error("the fleet")]
    Fleet(#[source] TenantError),
    /// The access of the fleet.
    #[error("audit, authentication or authorization of the fleet")]
    Access(#[from] FileError),
    /// The kubeconfig.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// The stores.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The port.
    #[error("listening on {address}: another program has it, or it is not an address of this machine")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A running service.
#[derive(Debug)]
pub struct Service {
    directory: Directory,
    addresses: Vec<SocketAddr>,
    leadership: Leadership,
    tasks: Tasks,
}

impl Service {
    /// Starts the service; it answers when this returns.
    ///
    /// # Errors
    /// When the port, the data or the fleet cannot be had.
    pub async fn start(config: ServiceConfig, parent: &Tasks) -> Result<Self, ServiceError> {
        let tasks = parent.child("service");
        let listeners = bind(&config.listen).await?;
        let addresses: Vec<SocketAddr> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let first = addresses.first().map(|address| reachable(*address)).unwrap_or_default();
        let node_endpoint = if config.node_endpoint.is_empty() { first.clone() } else { config.node_endpoint.clone() };
        let public_endpoint = if config.public_endpoint.is_empty() { first } else { config.public_endpoint.clone() };
        let places = Places::new(config.store.clone(), config.apart, config.encryption.as_ref())?;
        restore::forget_spools(&config.data);
        let secrets = Secrets::open(Arc::new(places.first().raw.clone()), &config.data.join(MASTER_KEY))?;
        let shared = Shared {
            places: places.clone(),
            health: config.encryption.iter().map(|how| Arc::new(KeyManagement(how.clone())) as _).collect(),
            secrets,
            clock: config.clock.clone(),
            entropy: config.entropy.clone(),
            hosts: hosts(&addresses, [&node_endpoint, &public_endpoint]),
            direct_nodes: config.direct_nodes.clone().into(),
            local_destinations: config.local_destinations.clone(),
            peers: Peers::default(),
        };
        let fleet = Tenant::open(&shared, fleet_spec()?, &tasks).await.map_err(ServiceError::Fleet)?;
        fleet.api.configure(config.fleet_access).await?;
        let directory = Directory::new(fleet.clone());
        let kubeconfig =
            AdminKubeconfig::new(&config.data, &format!("https://{public_endpoint}"), config.clock.clone());
        kubeconfig.put_fleet(&fleet)?;
        let client = fleet.client("masters");
        let clusters = tasks.child("clusters");
        let stores = Stores::start(&client, &clusters);
        let joining = Joining {
            fleet: client.clone(),
            machines: stores.machines(),
            verifier: config.verifier,
            clock: config.clock.clone(),
        };
        let admin = Admin {
            fleet: client.clone(),
            places,
            secrets: shared.secrets.clone(),
            opener: config.opener,
            data: config.data.clone(),
            clock: shared.clock.clone(),
            entropy: shared.entropy.clone(),
        };
        let credentials = Credentials { fleet: client.clone(), clock: config.clock };
        let peers = Arc::new(PeerPort::new(directory.clone(), &tasks));
        let port = Port { directory: directory.clone(), joining, admin, credentials, peers };
        for listener in listeners {
            port.serve(listener, &tasks);
        }
        let here = peer_endpoint(&config.peer_endpoint, &addresses);
        let leadership = take_part(&shared, config.election, &node_endpoint, here, &fleet, &tasks);
        let executor = Fleet {
            shared,
            leadership: leadership.clone(),
            client,
            port,
            scheme: Scheme::kubernetes(),
            cloud: config.cloud,
            kubeconfig,
            endpoint: format!("https://{public_endpoint}"),
            node_endpoint: format!("https://{node_endpoint}"),
            ports: config.cluster_ports,
            host: host_of(&public_endpoint).to_owned(),
            listen: distinct(&addresses),
            data: config.data.clone(),
            advertise: advertised(&addresses, &[&node_endpoint, &public_endpoint]),
            tasks: clusters,
        };
        tasks.spawn("fleet", OnError::EndScope, async move {
            Box::pin(fleet::run(executor, stores)).await;
            Ok::<_, std::convert::Infallible>(())
        });
        Ok(Self { directory, addresses, leadership, tasks })
    }

    /// Runs what only one control machine may: `start` is called whenever this one leads, with a scope that ends when it
    /// does no longer.
    pub fn while_leading(&self, start: impl Fn(&Tasks) + Send + Sync + 'static) {
        let (leadership, scope) = (self.leadership.clone(), self.tasks.clone());
        self.tasks.spawn("while-leading", OnError::Log, async move {
            while_leading(leadership, &scope, start).await;
            Ok::<_, std::convert::Infallible>(())
        });
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A client of the fleet's API in this process.
    #[must_use]
    pub fn fleet_client(&self, component: &str) -> Client {
        self.directory.fleet().client(component)
    }

    /// Puts another audit, authentication and authorization of the fleet's own API in force.
    ///
    /// # Errors
    /// What is wrong with it; what was in force stays.
    pub async fn configure_fleet(&self, access: AccessConfig) -> Result<(), FileError> {
        self.directory.fleet().api.configure(access).await
    }

    /// Stops: no new connections, what is under way ends, then the rest is cut.
    pub async fn stop(&self) -> bool {
        self.tasks.shutdown(DRAIN).await
    }
}

/// Whether objects can be sealed, for the health endpoints; told while the configuration names a key-management plugin.
#[derive(Debug)]
struct KeyManagement(Arc<Encryption>);

impl HealthCheck for KeyManagement {
    fn name(&self) -> Option<String> {
        self.0.has_plugins().then(|| "kms-providers".to_owned())
    }

    fn is_well(&self) -> bool {
        self.0.check().is_ok()
    }
}

/// Meets the other control machines, where there may be any, and takes part in their election.
fn take_part(
    shared: &Shared,
    election: Option<LeaderTimes>,
    node_endpoint: &str,
    here: Option<String>,
    fleet: &Arc<Tenant>,
    tasks: &Tasks,
) -> Leadership {
    let Some(times) = election else { return Leadership::alone() };
    let name = shared.entropy.suffix(IDENTITY_LETTERS);
    shared.peers.meet(&name, here, fleet, tasks);
    let identity = format!("{node_endpoint}_{name}");
    Leadership::elect(fleet.client("masters"), identity, times, shared.clock.clone(), tasks)
}

async fn bind(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, ServiceError> {
    let mut listeners = Vec::new();
    for address in addresses {
        let failed = |source| ServiceError::Listen { address: *address, source };
        listeners.push(TcpListener::bind(address).await.map_err(failed)?);
    }
    Ok(listeners)
}

/// The fleet's own API: a tenant without controllers, nodes and Services.
fn fleet_spec() -> Result<TenantSpec, TableError> {
    Ok(TenantSpec {
        uid: FLEET_UID.to_owned(),
        name: FLEET_UID.to_owned(),
        server_name: FLEET_SERVER_NAME.to_owned(),
        scheme: fleet_scheme()?,
        ranges: None,
        advertise: None,
    })
}

/// The kinds of the fleet beside those of Kubernetes.
fn fleet_scheme() -> Result<Arc<Scheme>, TableError> {
    let tables = timonel_fleet::TABLES;
    let mut builder = Scheme::kubernetes().extend();
    let (types, fields, descriptions) = (tables.types, tables.fields, tables.descriptions);
    builder.add_tables(&Tables { types, fields, descriptions, ..Tables::default() }, tables.resources)?;
    Ok(builder.build())
}

/// An address that a client can dial: loopback where the port listens on every address.
fn reachable(address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => format!("127.0.0.1:{}", address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => format!("[::1]:{}", address.port()),
        _ => address.to_string(),
    }
}

/// Where other control machines reach this one; none where only an address of every machine is known.
fn peer_endpoint(told: &str, addresses: &[SocketAddr]) -> Option<String> {
    let named = || addresses.iter().find(|address| !address.ip().is_unspecified()).map(SocketAddr::to_string);
    if told.is_empty() { named() } else { Some(told.to_owned()) }
}

/// The addresses of listeners, each once.
fn distinct(addresses: &[SocketAddr]) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
    all.sort();
    all.dedup();
    all
}

/// The host of `host:port`.
fn host_of(endpoint: &str) -> &str {
    endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host)
}

/// The address at which nodes reach the service: of what they are told, else of what is listened on. Loopback is
/// never it: on a node that is the node itself.
fn advertised(addresses: &[SocketAddr], endpoints: &[&str]) -> Option<IpAddr> {
    let told = endpoints.iter().filter_map(|endpoint| host_of(endpoint).trim_matches(['[', ']']).parse().ok());
    let mut all = told.chain(addresses.iter().map(SocketAddr::ip));
    all.find(|address: &IpAddr| !address.is_loopback() && !address.is_unspecified())
}

/// Hosts of addresses and endpoints, for certificates.
fn hosts(addresses: &[SocketAddr], endpoints: [&String; 2]) -> Vec<String> {
    let listened = addresses.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
    let named = endpoints.into_iter().filter_map(|endpoint| endpoint.rsplit_once(':'));
    let named = named.map(|(host, _)| host.trim_matches(['[', ']']).to_owned());
    let loopback = ["127.0.0.1".to_owned(), "::1".to_owned()];
    let mut hosts: Vec<String> = listened.chain(named).chain(loopback).filter(|host| !host.is_empty()).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_name_every_way_in() {
        let listened = ["0.0.0.0:6443".parse().unwrap(), "192.0.2.7:6443".parse().unwrap()];
        let named = hosts(&listened, [&"10.0.0.1:6443".to_owned(), &"api.example.org:443".to_owned()]);
        assert_eq!(named, ["10.0.0.1", "127.0.0.1", "192.0.2.7", "::1", "api.example.org"]);
        assert_eq!(reachable("0.0.0.0:6443".parse().unwrap()), "127.0.0.1:6443");
        let loopback = ["127.0.0.1:1".parse().unwrap()];
        assert_eq!(advertised(&loopback, &["127.0.0.1:1", "api.example.org:1"]), None);
        assert_eq!(advertised(&listened, &["127.0.0.1:1", "[2001:db8::1]:1"]), "2001:db8::1".parse().ok());
        assert_eq!(advertised(&listened, &["127.0.0.1:1"]), "192.0.2.7".parse().ok());
        assert_eq!(distinct(&[loopback[0], loopback[0]]), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn the_fleets_tables_make_a_scheme() {
        let scheme = fleet_scheme().unwrap();
        for plural in ["clusters", "nodepools", "machines", "operations"] {
            assert!(scheme.resource("timonel.io", "v1", plural).is_some(), "{plural}");
        }
        assert!(scheme.resource("", "v1", "pods").is_some());
    }
}
