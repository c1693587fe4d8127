//! Executes the fleet's plan: watches the fleet, plans, does, looks again. Makes no choice.

use super::{
    endpoints::Endpoints,
    plan::{Action, plan, server_name},
    view::{AccessFact, ClusterFacts, ClusterPorts, FleetView},
};
use crate::{
    access, claim,
    config::{CloudTie, HostedCluster},
    kubeconfig::AdminKubeconfig,
    leader::Leadership,
    port::Port,
    restore::RestoreError,
    tenant::{Part, Shared, Tenant, TenantSpec},
};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::reflector::Store,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fmt::Debug,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use timonel_api::Scheme;
use timonel_apiserver::AccessConfig;
use timonel_fleet::{Cluster, FINALIZER, Machine, NodePool, Operation};
use timonel_runtime::{Tasks, chain, reflect};
use tokio::{sync::Notify, time::Instant};

/// Without any news, look again after so long.
const PERIOD: Duration = Duration::from_secs(10);
/// After something failed, look again after so long.
const RETRY: Duration = Duration::from_millis(500);
/// Time for a cloud's work on a cluster to end when another machine takes over.
const CLOUD_DRAIN: Duration = Duration::from_secs(3);
/// How long a created machine may stay unseen before its creation is taken for lost.
const UNSEEN: Duration = Duration::from_secs(10);

/// Version of the API that every cluster serves.
const SERVED_VERSION: &str = "v1.36.2";

/// The fleet's executor.
pub(crate) struct Fleet {
    pub(crate) shared: Shared,
    pub(crate) leadership: Leadership,
    pub(crate) client: Client,
    pub(crate) port: Port,
    pub(crate) scheme: Arc<Scheme>,
    pub(crate) cloud: Option<Arc<dyn CloudTie>>,
    pub(crate) kubeconfig: AdminKubeconfig,
    pub(crate) endpoint: String,
    pub(crate) node_endpoint: String,
    /// Ports of clusters, the host that goes into their endpoints, and the addresses that they listen on.
    pub(crate) ports: RangeInclusive<u16>,
    pub(crate) host: String,
    pub(crate) listen: Vec<IpAddr>,
    /// The address by which nodes that are not ours reach clusters.
    pub(crate) advertise: Option<IpAddr>,
    /// Where audit logs are written.
    pub(crate) data: PathBuf,
    pub(crate) tasks: Tasks,
}

/// What the fleet's watches show.
pub(crate) struct Stores {
    changed: Arc<Notify>,
    clusters: Store<Cluster>,
    pools: Store<NodePool>,
    machines: Store<Machine>,
    operations: Store<Operation>,
    secrets: Store<Secret>,
}

/// What a cluster's access is to be; or why that cannot be told.
type Wanted = Result<AccessConfig, String>;

/// What the executor remembers between looks. Losing it costs a look, never a wrong step.
struct Memory {
    endpoints: Endpoints,
    failures: BTreeMap<String, String>,
    released: BTreeMap<String, bool>,
    created: BTreeMap<String, Instant>,
    /// What the last look found that clusters' access is to be, what was tried last, and what came of it.
    wanted: BTreeMap<String, Wanted>,
    access: BTreeMap<String, (Wanted, Option<String>)>,
    /// What runs of the cloud for each cluster.
    clouds: BTreeMap<String, Tasks>,
    /// Whether this machine led at the last look.
    led: bool,
}

/// Why one action did not succeed.
#[derive(Debug, thiserror::Error)]
enum ActError {
    #[error("fleet API: {}", said(.0))]
    Api(kube::Error),
    #[error("{0}")]
    Other(String),
}

/// What an action changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// The fleet's objects: its watches tell.
    Told,
    /// Something that no watch tells: look again at once.
    Silently,
}

impl From<kube::Error> for ActError {
    fn from(error: kube::Error) -> Self {
        Self::Api(error)
    }
}

/// What the API said, in its own words, or what kept it from saying anything.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => chain(error),
    }
}

/// Runs until the fleet's tasks end.
pub(crate) async fn run(fleet: Fleet, stores: Stores) {
    if !stores.ready().await {
        return; // the scope ended first
    }
    let mut memory = Memory {
        endpoints: Endpoints::new(fleet.listen.clone()),
        failures: BTreeMap::new(),
        released: BTreeMap::new(),
        created: BTreeMap::new(),
        wanted: BTreeMap::new(),
        access: BTreeMap::new(),
        clouds: BTreeMap::new(),
        led: false,
    };
    let mut leadership = fleet.leadership.clone();
    loop {
        let view = fleet.view(&stores, &mut memory);
        let leads = leadership.seen();
        fleet.follow_leadership(&view, &mut memory, leads).await;
        let actions = plan(&view, fleet.shared.clock.now());
        let (mut failed, mut again) = (false, false);
        if leads && let Err(error) = fleet.clear_away(&stores).await {
            failed = true;
            tracing::warn!(error = chain(&error), "a restore that did not end is cleared away later");
        }
        for action in actions {
            if !leads && !matches!(action, Action::Listen(_) | Action::Open(_) | Action::Access(_)) {
                continue; // the leader does it
            }
            if matches!(action, Action::CreateMachine(_)) && !memory.created.is_empty() {
                continue; // the cache does not show yet what was ordered
            }
            match Box::pin(fleet.act(action, &mut memory)).await {
                Ok(done) => again |= done == Done::Silently,
                Err(error) => {
                    failed = true;
                    tracing::warn!(%error, "fleet action failed; looking again");
                }
            }
        }
        let wait = match (again, failed || !memory.created.is_empty()) {
            (true, _) => Duration::ZERO,
            (false, true) => RETRY,
            (false, false) => PERIOD,
        };
        // News or the period: either way the next look decides.
        let news = async {
            tokio::select! {
                () = stores.changed.notified() => {}
                () = leadership.changed() => {}
            }
        };
        let _ = tokio::time::timeout(wait, news).await;
    }
}

impl Stores {
    /// Starts the watches in `tasks`.
    pub(crate) fn start(client: &Client, tasks: &Tasks) -> Self {
        let changed = Arc::new(Notify::new());
        Self {
            clusters: reflect(client, tasks, &changed),
            pools: reflect(client, tasks, &changed),
            machines: reflect(client, tasks, &changed),
            operations: reflect(client, tasks, &changed),
            secrets: reflect(client, tasks, &changed),
            changed,
        }
    }

    /// The machines, for whoever else wants to know them.
    pub(crate) fn machines(&self) -> Store<Machine> {
        self.machines.clone()
    }

    async fn ready(&self) -> bool {
        self.clusters.wait_until_ready().await.is_ok()
            && self.pools.wait_until_ready().await.is_ok()
            && self.machines.wait_until_ready().await.is_ok()
            && self.operations.wait_until_ready().await.is_ok()
            && self.secrets.wait_until_ready().await.is_ok()
    }
}

fn sorted<K: Resource<DynamicType = ()> + Clone + 'static>(store: &Store<K>) -> Vec<Arc<K>> {
    let mut all = store.state();
    all.sort_by(|a, b| (&a.meta().namespace, &a.meta().name).cmp(&(&b.meta().namespace, &b.meta().name)));
    all
}

impl Memory {
    fn access_fact(&self, uid: &str) -> AccessFact {
        match (self.wanted.get(uid), self.access.get(uid)) {
            (Some(wanted), Some((tried, refused))) if wanted == tried => {
                refused.clone().map_or(AccessFact::InForce, AccessFact::Refused)
            }
            (None, _) => AccessFact::InForce,
            _ => AccessFact::Changed,
        }
    }
}

impl Fleet {
    fn view(&self, stores: &Stores, memory: &mut Memory) -> FleetView {
        let mut clusters = sorted(&stores.clusters);
        clusters.retain(|cluster| !claim::is_restoring(cluster));
        let machines = sorted(&stores.machines);
        memory.created.retain(|uid, since| {
            let seen = machines.iter().any(|machine| machine.metadata.uid.as_deref() == Some(uid));
            !seen && since.elapsed() < UNSEEN
        });
        memory.wanted = clusters.iter().map(|cluster| self.wanted_access(cluster, stores)).collect();
        let facts = clusters.iter().filter_map(|cluster| {
            let uid = cluster.metadata.uid.clone()?;
            let tenant = self.port.directory.by_uid(&uid);
            let ca_hash = tenant.as_ref().and_then(|tenant| tenant.pki.cluster_ca.hash().ok()).unwrap_or_default();
            let facts = ClusterFacts {
                serving: tenant.is_some(),
                ca_hash,
                failure: memory.failures.get(&uid).cloned(),
                released: memory.released.get(&uid).copied().unwrap_or(false),
                listening: memory.endpoints.listening(&uid),
                refused_port: memory.endpoints.refused(&uid),
                controllers: self.has(&tenant, Part::Controllers, !cluster.spec.control_plane.without_controllers),
                scheduler: self.has(&tenant, Part::Scheduler, !cluster.spec.control_plane.without_scheduler),
                access: memory.access_fact(&uid),
            };
            Some((uid, facts))
        });
        FleetView {
            facts: facts.collect(),
            pools: sorted(&stores.pools),
            operations: sorted(&stores.operations),
            endpoint: self.endpoint.clone(),
            ports: ClusterPorts {
                range: self.ports.clone(),
                busy: memory.endpoints.busy().clone(),
                host: self.host.clone(),
            },
            node_endpoint: self.node_endpoint.clone(),
            version: SERVED_VERSION.to_owned(),
            clusters,
            machines,
        }
    }

    /// Clears away what restores have left that nobody comes back for.
    async fn clear_away(&self, stores: &Stores) -> Result<(), RestoreError> {
        let places = &self.shared.places;
        let mut restoring = sorted(&stores.clusters);
        restoring.retain(|cluster| claim::is_restoring(cluster));
        for cluster in &restoring {
            if claim::is_abandoned(&places.first().raw, cluster).await? {
                claim::clear_away(&self.client, places, &self.shared.secrets, cluster).await?;
            }
        }
        Ok(())
    }

    async fn act(&self, action: Action, memory: &mut Memory) -> Result<Done, ActError> {
        match action {
            Action::Finalizer { cluster, present } => self.finalizer(&cluster, present).await?,
            Action::ClusterStatus(cluster) => self.status(*cluster).await?,
            Action::PoolStatus(pool) => self.status(*pool).await?,
            Action::OperationStatus(operation) => self.status(*operation).await?,
            Action::CreateOperation(operation) => drop(self.create(*operation).await?),
            Action::CreateMachine(machine) => {
                let uid = self.create(*machine).await?;
                memory.created.insert(uid, Instant::now());
            }
            Action::DeleteMachine(machine) => self.delete(*machine).await?,
            Action::DeletePool(pool) => self.delete(*pool).await?,
            Action::Listen(cluster) => return self.listen(&cluster, memory).await,
            Action::Open(cluster) => return self.open(&cluster, memory).await,
            Action::Parts(cluster) => return self.parts(&cluster, memory).await,
            Action::Access(cluster) => return self.configure(&cluster, memory).await,
            Action::Release(cluster) => return self.release(&cluster, memory).await,
            Action::Discard(cluster) => return self.discard(&cluster, memory).await,
        }
        Ok(Done::Told)
    }

    fn api<K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>>(&self, object: &K) -> Api<K> {
        Api::namespaced(self.client.clone(), object.meta().namespace.as_deref().unwrap_or_default())
    }

    async fn finalizer(&self, cluster: &Cluster, present: bool) -> Result<(), ActError> {
        let mut finalizers = cluster.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        if present {
            finalizers.push(FINALIZER.to_owned());
        }
        let version = &cluster.metadata.resource_version;
        let patch = serde_json::json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}});
        let name = cluster.metadata.name.as_deref().unwrap_or_default();
        self.api(cluster).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Replaces the status, fenced by the resource version that the object was read at.
    async fn status<K>(&self, object: K) -> Result<(), ActError>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let name = object.meta().name.clone().unwrap_or_default();
        self.api(&object).replace_status(&name, &PostParams::default(), &object).await?;
        Ok(())
    }

    async fn create<K>(&self, object: K) -> Result<String, ActError>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        match self.api(&object).create(&PostParams::default(), &object).await {
            Ok(created) => Ok(created.meta().uid.clone().unwrap_or_default()),
            // The name is deterministic: what is there already is what was wanted.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(String::new()),
            Err(error) => Err(error.into()),
        }
    }

    async fn delete<K>(&self, object: K) -> Result<(), ActError>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        let preconditions = Preconditions { uid: object.meta().uid.clone(), resource_version: None };
        let how = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        match self.api(&object).delete(object.meta().name.as_deref().unwrap_or_default(), &how).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the cluster's own port. That it is not to be had is no failure: the plan sees it and goes on without.
    async fn listen(&self, cluster: &Cluster, memory: &mut Memory) -> Result<Done, ActError> {
        let (uid, name, project) = names(cluster);
        memory.endpoints.listen(&uid, own_port(cluster)).await;
        let Some(tenant) = self.port.directory.by_uid(&uid) else { return Ok(Done::Silently) };
        memory.endpoints.serve(&tenant, &self.port);
        let listening = memory.endpoints.listening(&uid);
        self.write_kubeconfig(&tenant, &project, &name, listening)?;
        Ok(if listening.is_some() { Done::Silently } else { Done::Told })
    }

    fn write_kubeconfig(&self, tenant: &Tenant, project: &str, name: &str, port: Option<u16>) -> Result<(), ActError> {
        let own = port.map(|port| format!("https://{}:{port}", self.host));
        self.kubeconfig.put(tenant, project, name, own.as_deref()).map_err(|error| ActError::Other(chain(&error)))
    }

    /// Whether a part is as it is wanted: parts of a machine that does not lead run elsewhere.
    fn has(&self, tenant: &Option<Arc<Tenant>>, part: Part, wanted: bool) -> bool {
        if self.leadership.leads() { tenant.as_ref().is_some_and(|tenant| tenant.runs(part)) } else { wanted }
    }

    /// Runs here what must run once, as long as this machine leads.
    async fn parts(&self, cluster: &Cluster, memory: &mut Memory) -> Result<Done, ActError> {
        let (uid, name, project) = names(cluster);
        let Some(tenant) = self.port.directory.by_uid(&uid) else { return Ok(Done::Told) };
        let (wanted, leads) = (&cluster.spec.control_plane, memory.led);
        // Never both, for both write the same: what is to end ends first.
        let without = wanted.without_controllers;
        let parts = [(Part::Controllers, leads && !without), (Part::Certificates, leads && without)];
        for (part, wanted) in if without { parts } else { [parts[1], parts[0]] } {
            tenant.run(part, wanted).await;
        }
        tenant.run(Part::Scheduler, leads && !wanted.without_scheduler).await;
        let Some(cloud) = &self.cloud else { return Ok(Done::Silently) };
        if !leads {
            if let Some(scope) = memory.clouds.remove(&uid) {
                scope.shutdown(CLOUD_DRAIN).await;
            }
        } else if !memory.clouds.contains_key(&uid) {
            let tasks = tenant.tasks.child("cloud");
            memory.clouds.insert(uid.clone(), tasks.clone());
            let pod_cidr = cluster.status.clone().unwrap_or_default().network.pod_cidr;
            let client = tenant.client("cloud-controller-manager");
            cloud.attach(HostedCluster { uid, name, project, pod_cidr, client, tasks }).await;
        }
        Ok(Done::Silently)
    }

    /// Starts or stops what must run once when leadership changes. A machine that does not lead lets go of clusters
    /// that are gone or go: the leader deletes their data.
    async fn follow_leadership(&self, view: &FleetView, memory: &mut Memory, leads: bool) {
        let changed = std::mem::replace(&mut memory.led, leads) != leads;
        for tenant in self.port.directory.all() {
            let cluster = view.clusters.iter().find(|cluster| cluster.metadata.uid.as_deref() == Some(&*tenant.uid));
            match cluster {
                Some(cluster) if changed => drop(self.parts(cluster, memory).await),
                _ => {}
            }
            if leads || cluster.is_some_and(|cluster| cluster.metadata.deletion_timestamp.is_none()) {
                continue;
            }
            tenant.close().await;
            memory.endpoints.forget(&tenant.uid);
            memory.clouds.remove(&tenant.uid);
            memory.access.remove(&tenant.uid);
            self.port.directory.remove(&tenant.uid);
            tracing::info!(cluster = %tenant.server_name, "another machine deletes it: no longer served");
        }
    }

    /// What a cluster's access is to be, by its UID.
    fn wanted_access(&self, cluster: &Cluster, stores: &Stores) -> (String, Wanted) {
        let (uid, _, project) = names(cluster);
        let name = cluster.spec.access.as_ref().map_or("", |access| access.files_secret.as_str());
        let secret = stores.secrets.find(|secret| {
            let meta = &secret.metadata;
            meta.name.as_deref() == Some(name) && meta.namespace.as_deref() == Some(&*project)
        });
        (uid, access::wanted(cluster, secret.as_deref(), &self.data))
    }

    /// Puts the access of the spec in force. That it cannot be used is no failure: the status says so.
    async fn configure(&self, cluster: &Cluster, memory: &mut Memory) -> Result<Done, ActError> {
        let (uid, name, _) = names(cluster);
        let Some(tenant) = self.port.directory.by_uid(&uid) else { return Ok(Done::Told) };
        let wanted = memory.wanted.get(&uid).cloned().unwrap_or_else(|| Ok(AccessConfig::default()));
        let refused = match wanted.clone() {
            Ok(config) => tenant.api.configure(config).await.err().map(|error| error.to_string()),
            Err(why) => Some(why),
        };
        match &refused {
            Some(why) => tracing::warn!(cluster = %name, %why, "access not changed"),
            None => tracing::info!(cluster = %name, "access changed"),
        }
        memory.access.insert(uid, (wanted, refused));
        Ok(Done::Silently)
    }

    async fn open(&self, cluster: &Cluster, memory: &mut Memory) -> Result<Done, ActError> {
        let (uid, name, project) = names(cluster);
        // Nobody is let in under other rules than those that were asked for.
        let wanted = memory.wanted.get(&uid).cloned().unwrap_or_else(|| Ok(AccessConfig::default()));
        let checked = wanted.clone().and_then(|config| {
            config.check(&[]).map_err(|error| format!("spec.access: {error}"))?;
            Ok(config)
        });
        let access = match checked {
            Ok(access) => access,
            Err(why) => {
                memory.failures.insert(uid, why.clone());
                return Err(ActError::Other(why));
            }
        };
        let network = cluster.status.clone().unwrap_or_default().network;
        let port = own_port(cluster);
        let spec = TenantSpec {
            uid: uid.clone(),
            name: name.clone(),
            server_name: server_name(cluster),
            scheme: self.scheme.clone(),
            ranges: Some((network.pod_cidr, network.service_cidr)),
            advertise: self.advertise.filter(|_| port != 0).map(|address| SocketAddr::new(address, port)),
        };
        let tenant = match Tenant::open(&self.shared, spec, &self.tasks).await {
            Ok(tenant) => tenant,
            Err(error) => {
                memory.failures.insert(uid, chain(&error));
                return Err(ActError::Other(chain(&error)));
            }
        };
        if let Err(error) = tenant.api.configure(access).await {
            tenant.close().await;
            memory.failures.insert(uid, error.to_string());
            return Err(ActError::Other(error.to_string()));
        }
        memory.access.insert(uid.clone(), (wanted, None));
        memory.failures.remove(&uid);
        self.port.directory.insert(&tenant);
        self.parts(cluster, memory).await?;
        memory.endpoints.serve(&tenant, &self.port);
        self.write_kubeconfig(&tenant, &project, &name, memory.endpoints.listening(&uid))?;
        tracing::info!(cluster = %name, "serving");
        Ok(Done::Silently)
    }

    async fn release(&self, cluster: &Cluster, memory: &mut Memory) -> Result<Done, ActError> {
        let (uid, ..) = names(cluster);
        let released = match &self.cloud {
            Some(cloud) => cloud.release(&uid).await.map_err(ActError::Other)?,
            None => true,
        };
        memory.released.insert(uid, released);
        if released {
            Ok(Done::Silently)
        } else {
            Err(ActError::Other("the cloud still holds something of the cluster".into()))
        }
    }

    async fn discard(&self, cluster: &Cluster, memory: &mut Memory) -> Result<Done, ActError> {
        let (uid, name, project) = names(cluster);
        let failed = |error: &(dyn std::error::Error + 'static)| ActError::Other(chain(error));
        // Out of the directory last: until then the next look knows that there is work left.
        let Some(tenant) = self.port.directory.by_uid(&uid) else { return Ok(Done::Told) };
        tenant.close().await;
        memory.endpoints.forget(&uid);
        memory.clouds.remove(&uid);
        memory.access.remove(&uid);
        self.shared.places.delete_prefix(&crate::layout::cluster(&uid)).await.map_err(|error| failed(&error))?;
        crate::keys::forget(&self.shared.secrets, &uid).await.map_err(|error| failed(&error))?;
        self.kubeconfig.remove(&project, &name).map_err(|error| failed(&error))?;
        self.port.directory.remove(&uid);
        Ok(Done::Silently)
    }
}

/// The port that the status says; 0 when there is none.
fn own_port(cluster: &Cluster) -> u16 {
    cluster.status.as_ref().and_then(|status| u16::try_from(status.port).ok()).unwrap_or(0)
}

fn names(cluster: &Cluster) -> (String, String, String) {
    let meta = &cluster.metadata;
    (
        meta.uid.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
        meta.namespace.clone().unwrap_or_default(),
    )
}
