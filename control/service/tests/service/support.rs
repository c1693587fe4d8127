//! A service of a test's own, and clients of its clusters.

use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{fmt::Debug, future::Future, net::SocketAddr, ops::RangeInclusive, path::Path, sync::Arc, time::Duration};
use timonel_encryption::Encryption;
use timonel_fleet::{Cluster, ClusterPhase, ClusterSpec, ClusterStatus};
use timonel_runtime::{Clock, Entropy, Tasks};
use timonel_service::{Service, ServiceConfig};
use timonel_store::MemoryStore;
use tokio::time::Instant;

/// Longest wait for anything, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);
/// Ports of one process.
const SLICE: u16 = 50;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// A running service over a store that outlives it.
pub(crate) struct World {
    pub(crate) data: tempfile::TempDir,
    pub(crate) service: Service,
    pub(crate) store: Arc<MemoryStore>,
    clock: Clock,
    encryption: Option<Arc<Encryption>>,
    tasks: Tasks,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with_clock(Clock::system()).await
    }

    pub(crate) async fn with_clock(clock: Clock) -> Self {
        Self::with(clock, None).await
    }

    pub(crate) async fn with_encryption(encryption: Arc<Encryption>) -> Self {
        Self::with(Clock::system(), Some(encryption)).await
    }

    async fn with(clock: Clock, encryption: Option<Arc<Encryption>>) -> Self {
        // A second test of this process finds it installed.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let data = tempfile::tempdir().expect("a folder");
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let (service, tasks) = serve(&store, data.path(), &clock, encryption.clone()).await;
        Self { data, service, store, clock, encryption, tasks }
    }

    /// Ends the service and starts it again on the same data; `between` runs while it is away.
    pub(crate) async fn restart(mut self, between: impl Future<Output = ()>) -> Self {
        assert!(self.service.stop().await, "the service did not stop in time");
        self.tasks.shutdown(Duration::from_secs(5)).await;
        between.await;
        (self.service, self.tasks) = serve(&self.store, self.data.path(), &self.clock, self.encryption.clone()).await;
        self
    }

    pub(crate) fn clusters(&self) -> Api<Cluster> {
        Api::namespaced(self.service.fleet_client("masters"), "default")
    }

    /// Creates a cluster and waits until it is ready.
    pub(crate) async fn create(&self, name: &str, spec: ClusterSpec) -> ClusterStatus {
        let cluster = Cluster::new("default", name, spec);
        self.clusters().create(&PostParams::default(), &cluster).await.expect("created");
        self.ready(name).await
    }

    pub(crate) async fn ready(&self, name: &str) -> ClusterStatus {
        let clusters = self.clusters();
        eventually("the cluster to be ready", || async {
            let status = clusters.get(name).await.ok()?.status?;
            (status.phase == ClusterPhase::Ready && status.conditions.len() >= 2).then_some(status)
        })
        .await
    }

    /// Changes a Cluster; any change makes the service look again at once.
    pub(crate) async fn patch(&self, name: &str, patch: serde_json::Value) {
        let patched = self.clusters().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.expect("patched");
    }

    pub(crate) fn kubeconfig(&self) -> Kubeconfig {
        Kubeconfig::read_from(self.data.path().join("kubeconfig")).expect("a kubeconfig")
    }

    /// How the administrator's kubeconfig reaches a cluster.
    pub(crate) async fn config(&self, cluster: &str) -> Config {
        let options = KubeConfigOptions { context: Some(format!("timonel-{cluster}")), ..KubeConfigOptions::default() };
        Config::from_custom_kubeconfig(self.kubeconfig(), &options).await.expect("a context")
    }

    pub(crate) async fn client(&self, cluster: &str) -> Client {
        Client::try_from(self.config(cluster).await).expect("a client")
    }

    /// The administrator's client of the fleet, over its port.
    pub(crate) async fn fleet(&self) -> Client {
        let options = KubeConfigOptions { context: Some("timonel".into()), ..KubeConfigOptions::default() };
        let config = Config::from_custom_kubeconfig(self.kubeconfig(), &options).await.expect("the fleet's context");
        Client::try_from(config).expect("a client")
    }

    /// The port that all clusters share.
    pub(crate) fn shared(&self) -> SocketAddr {
        self.service.addresses()[0]
    }
}

/// Ports for the clusters of this process's tests: a slice of the default range, so that no test that runs beside
/// takes a port while a service of this one is away.
fn ports() -> RangeInclusive<u16> {
    let all = ServiceConfig::CLUSTER_PORTS;
    let slices = u32::from(all.end() - all.start()) / u32::from(SLICE);
    let slice = u16::try_from(std::process::id() % slices).expect("a remainder of a number below 65536");
    let first = all.start() + slice * SLICE;
    first..=first + SLICE - 1
}

async fn serve(
    store: &Arc<MemoryStore>,
    data: &Path,
    clock: &Clock,
    encryption: Option<Arc<Encryption>>,
) -> (Service, Tasks) {
    let tasks = Tasks::root("test");
    let config = ServiceConfig {
        store: store.clone(),
        apart: Vec::new(),
        election: None,
        encryption,
        opener: None,
        fleet_access: timonel_service::AccessConfig::default(),
        data: data.to_owned(),
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        cluster_ports: ports(),
        direct_nodes: Vec::new(),
        local_destinations: vec!["127.0.0.0/8".parse().unwrap()],
        node_endpoint: String::new(),
        peer_endpoint: String::new(),
        public_endpoint: String::new(),
        clock: clock.clone(),
        entropy: Entropy::system(),
        verifier: None,
        cloud: None,
    };
    (Service::start(config, &tasks).await.expect("the service starts"), tasks)
}

/// Looks until there is something.
pub(crate) async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    T: Debug,
    F: Future<Output = Option<T>>,
{
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not in time");
        tokio::time::sleep(LOOK).await;
    }
}
