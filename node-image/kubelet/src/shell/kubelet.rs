//! The agent as a whole: its parts, the watch of its pods, and one worker per pod.

use super::cgroups::Cgroups;
use super::csi::Drivers;
use super::events::Events;
use super::objects::{Objects, Services};
use super::runtime::Runtime;
use super::statuses::Statuses;
use super::volumes::Volumes;
use super::worker::{Signals, Worker};
use super::{gc, machine, node, relist};
use crate::api::KubeletApi;
use crate::config::KubeletConfig;
use crate::decide::env::Facts;
use crate::decide::files::parse_resolver;
use crate::decide::model::Observed;
use crate::decide::names::{POD_UID, PodId};
use crate::decide::quantity::{milli, units};
use crate::decide::status::NodeFacts;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;
use timonel_cri::cri::DnsConfig;
use timonel_runtime::{OnError, Tasks};
use tokio::sync::{Notify, watch};

/// Why the agent cannot start.
#[derive(Debug, Error)]
pub enum KubeletError {
    /// The runtime's endpoint is not a Unix socket.
    #[error("runtime endpoint")]
    Endpoint(#[from] timonel_cri::ConnectError),
    /// A directory or cgroup that everything needs could not be made.
    #[error("prepare {what}")]
    Prepare {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// One pod that the agent has to do with.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) pod: watch::Sender<Arc<Pod>>,
    pub(crate) signals: Arc<Signals>,
    pub(crate) observed: Arc<Mutex<Arc<Observed>>>,
    /// The worker has nothing left to do.
    done: bool,
}

/// What all parts of the agent share.
pub(crate) struct Shared {
    pub(crate) config: KubeletConfig,
    pub(crate) tasks: Tasks,
    pub(crate) runtime: Runtime,
    pub(crate) objects: Arc<Objects>,
    pub(crate) services: Arc<Services>,
    pub(crate) events: Events,
    pub(crate) statuses: Arc<Statuses>,
    pub(crate) volumes: Volumes,
    pub(crate) drivers: Arc<Drivers>,
    pub(crate) cgroups: Cgroups,
    pub(crate) pods: Arc<Mutex<BTreeMap<String, Entry>>>,
    pub(crate) node: watch::Sender<Option<Arc<Node>>>,
    pub(crate) may_lower_oom: bool,
    pub(crate) host_resolver: DnsConfig,
    /// Name of the runtime: the scheme of container ids.
    pub(crate) runtime_name: Mutex<String>,
    /// Something that the node's status tells has changed.
    pub(crate) node_changed: Notify,
    /// Containers and sandboxes by id, with their pods' UIDs.
    owners: Mutex<BTreeMap<String, String>>,
    /// The first list of pods is complete.
    listed: AtomicBool,
}

impl Shared {
    /// Remembers whose container or sandbox an id is.
    pub(crate) fn own(&self, id: &str, uid: &str) {
        self.owners.lock().insert(id.to_owned(), uid.to_owned());
    }

    pub(crate) fn disown(&self, uid: &str) {
        self.owners.lock().retain(|_, owner| owner != uid);
    }

    pub(crate) fn owner(&self, id: &str) -> Option<String> {
        self.owners.lock().get(id).cloned()
    }

    pub(crate) fn wake(&self, uid: &str) {
        if let Some(entry) = self.pods.lock().get(uid) {
            entry.signals.wake.notify_one();
        }
    }

    pub(crate) fn seccomp_folder(&self) -> String {
        self.config.root_dir.join("seccomp").to_string_lossy().into_owned()
    }

    pub(crate) fn node_memory(&self) -> i64 {
        self.allocatable().get("memory").copied().unwrap_or(0)
    }

    fn allocatable(&self) -> BTreeMap<String, i64> {
        let node = self.node.borrow();
        let list = node.as_ref().and_then(|node| node.status.as_ref()?.allocatable.clone()).unwrap_or_default();
        let read = |(name, quantity)| {
            let value = if name == "cpu" { milli(&quantity) } else { units(&quantity) };
            value.map(|value| (name, value))
        };
        list.into_iter().filter_map(read).collect()
    }

    pub(crate) fn facts(&self, pod_ips: Vec<String>) -> Facts {
        Facts {
            node_name: self.config.node_name.clone(),
            host_ips: self.config.node_ips.clone(),
            pod_ips,
            allocatable: self.allocatable(),
        }
    }

    pub(crate) fn node_facts(&self) -> NodeFacts {
        NodeFacts { ips: self.config.node_ips.clone(), runtime: self.runtime_name.lock().clone() }
    }

    /// Pods of this node as the API has them, with the newest status of their workers.
    pub(crate) fn live_pods(&self) -> Vec<Pod> {
        let pods: Vec<Arc<Pod>> = self.pods.lock().values().map(|entry| entry.pod.borrow().clone()).collect();
        let fresh = |pod: Arc<Pod>| {
            let mut pod = Pod::clone(&pod);
            let newest = self.statuses.get(pod.metadata.uid.as_deref().unwrap_or_default());
            pod.status = newest.or(pod.status);
            pod
        };
        pods.into_iter().map(fresh).collect()
    }

    pub(crate) fn listed(&self) -> bool {
        self.listed.load(Ordering::Acquire)
    }

    /// The worker of a pod has nothing left to do.
    pub(crate) fn finished(&self, uid: &str) {
        self.disown(uid);
        let mut pods = self.pods.lock();
        if let Some(entry) = pods.get_mut(uid) {
            entry.done = true;
            if entry.signals.gone() {
                pods.remove(uid);
                self.statuses.forget(uid);
            }
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The node agent.
#[derive(Clone, Debug)]
pub struct Kubelet {
    shared: Arc<Shared>,
}

impl Kubelet {
    /// An agent that does nothing yet. Its tasks belong to a child scope of `tasks`.
    ///
    /// # Errors
    /// When the runtime's endpoint has a wrong form or a directory cannot be made.
    pub fn new(config: KubeletConfig, tasks: &Tasks) -> Result<Self, KubeletError> {
        let tasks = tasks.child("kubelet");
        let prepare = |what| move |source| KubeletError::Prepare { what, source };
        for folder in ["pods", "plugins", "plugins_registry", "seccomp"] {
            std::fs::create_dir_all(config.root_dir.join(folder)).map_err(prepare("the root directory"))?;
        }
        std::fs::create_dir_all(&config.pod_logs_dir).map_err(prepare("the log directory"))?;
        let cgroups = Cgroups::new(&config.cgroup_mount, &config.cgroup_root);
        cgroups.prepare().map_err(prepare("the cgroups"))?;
        let runtime = Runtime::new(&timonel_cri::connect_lazy(&config.runtime_endpoint)?);
        let pods: Arc<Mutex<BTreeMap<String, Entry>>> = Arc::default();
        let objects = Arc::new(Objects::new(&config.client, &tasks, refresher(&pods)));
        let drivers = Arc::new(Drivers::new(&config.root_dir, &config.volumes_dir, &config.node_name));
        let volumes = Volumes::new(
            config.client.clone(),
            &config.root_dir,
            objects.clone(),
            drivers.clone(),
            &config.node_name,
            config.clock.clone(),
            config.entropy.clone(),
        );
        let events =
            Events::new(config.client.clone(), &config.node_name, config.clock.clone(), config.entropy.clone(), &tasks);
        let host_resolver = parse_resolver(&std::fs::read_to_string(&config.resolver_path).unwrap_or_default());
        let shared = Shared {
            runtime,
            objects,
            services: Arc::default(),
            events,
            statuses: Arc::default(),
            volumes,
            drivers,
            cgroups,
            pods,
            node: watch::Sender::new(None),
            may_lower_oom: machine::may_lower_oom_score(),
            host_resolver,
            runtime_name: Mutex::new("containerd".into()),
            node_changed: Notify::new(),
            owners: Mutex::default(),
            listed: AtomicBool::new(false),
            tasks,
            config,
        };
        if !shared.may_lower_oom {
            tracing::info!("this process may not lower OOM scores: containers get none below zero");
        }
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Starts every part. They run until the scope given at [`Self::new`] ends; pods go on running after that.
    pub fn run(&self) {
        let shared = &self.shared;
        shared.statuses.run(shared.config.client.clone(), &shared.tasks);
        shared.services.run(shared.config.client.clone(), &shared.tasks);
        shared.drivers.run(&shared.tasks);
        node::run(shared);
        relist::run(shared);
        gc::run(shared);
        let this = self.clone();
        shared.tasks.spawn("pods", OnError::Log, async move { this.follow_pods().await });
    }

    /// The kubelet API, to be served on any connection.
    #[must_use]
    pub fn api(&self) -> KubeletApi {
        KubeletApi::new(self.shared.clone())
    }

    /// The node's pod ranges, as the control plane assigned them; empty until then.
    #[must_use]
    pub fn pod_cidrs(&self) -> Vec<String> {
        let node = self.shared.node.borrow();
        node.as_ref().and_then(|node| node.spec.as_ref()?.pod_cidrs.clone()).unwrap_or_default()
    }

    /// The Node object as last seen; changes as the API's does.
    #[must_use]
    pub fn node(&self) -> watch::Receiver<Option<Arc<Node>>> {
        self.shared.node.subscribe()
    }

    /// Looks at the node's readiness at once, as after the network configuration was written.
    pub fn check_node(&self) {
        self.shared.node_changed.notify_one();
    }

    async fn follow_pods(&self) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::all(self.shared.config.client.clone());
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.shared.config.node_name));
        let mut stream = watcher(api, config).default_backoff().boxed();
        let mut listed: BTreeSet<String> = BTreeSet::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(pod)) => {
                    listed.extend(pod.metadata.uid.clone());
                    self.apply(pod);
                }
                Ok(watcher::Event::InitDone) => {
                    let known: Vec<String> = self.shared.pods.lock().keys().cloned().collect();
                    known.iter().filter(|uid| !listed.contains(*uid)).for_each(|uid| self.gone(uid));
                    self.shared.listed.store(true, Ordering::Release);
                    self.adopt().await;
                }
                Ok(watcher::Event::Apply(pod)) => self.apply(pod),
                Ok(watcher::Event::Delete(pod)) => self.gone(pod.metadata.uid.as_deref().unwrap_or_default()),
                Err(error) => tracing::warn!(%error, "watch of pods"),
            }
        }
        Ok(())
    }

    fn apply(&self, pod: Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let ending = pod.metadata.deletion_timestamp.is_some();
        let mut pods = self.shared.pods.lock();
        if let Some(entry) = pods.get(&uid) {
            self.shared.statuses.compare(&uid, pod.status.as_ref());
            let known = entry.pod.send_replace(Arc::new(pod));
            if ending {
                entry.signals.interrupt();
            }
            // Most versions are echoes of the agent's own status.
            if same_content(&known, &entry.pod.borrow()) {
                entry.signals.wake.notify_one();
            } else {
                entry.signals.changed();
            }
            return;
        }
        let (sender, receiver) = watch::channel(Arc::new(pod));
        let entry = Entry { pod: sender, signals: Arc::default(), observed: Arc::default(), done: false };
        let worker = Worker::new(&self.shared, receiver, &entry);
        pods.insert(uid, entry);
        drop(pods);
        worker.start();
    }

    fn gone(&self, uid: &str) {
        let mut pods = self.shared.pods.lock();
        let Some(entry) = pods.get(uid) else { return };
        entry.signals.set_gone();
        if entry.done {
            pods.remove(uid);
            self.shared.statuses.forget(uid);
        }
    }

    /// Ends what the runtime has of pods that the API no longer knows.
    pub(crate) async fn adopt(&self) {
        let sandboxes = match self.shared.runtime.sandboxes(None).await {
            Ok(sandboxes) => sandboxes,
            Err(error) => {
                tracing::warn!(%error, "list of sandboxes");
                return;
            }
        };
        for sandbox in sandboxes {
            let Some(id) = PodId::from_labels(&sandbox.labels) else { continue };
            self.shared.own(&sandbox.id, &id.uid);
            if !self.shared.pods.lock().contains_key(&id.uid) && self.ours(&sandbox) {
                tracing::info!(pod = %id, "a pod that the API does not have ends");
                self.apply(orphan(&id, self.shared.config.clock.now()));
                self.gone(&id.uid);
            }
        }
    }

    /// Whether a sandbox is this agent's: several agents on one machine keep their logs apart.
    fn ours(&self, sandbox: &timonel_cri::cri::PodSandbox) -> bool {
        sandbox.labels.contains_key(POD_UID)
    }
}

/// Whether two versions of a pod differ in nothing that its volumes or containers show.
fn same_content(one: &Pod, other: &Pod) -> bool {
    one.spec == other.spec
        && one.metadata.labels == other.metadata.labels
        && one.metadata.annotations == other.metadata.annotations
        && one.metadata.deletion_timestamp == other.metadata.deletion_timestamp
}

/// Stands in for a pod that exists only in the runtime.
fn orphan(id: &PodId, now: jiff::Timestamp) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some(id.name.clone()),
            namespace: Some(id.namespace.clone()),
            uid: Some(id.uid.clone()),
            deletion_timestamp: Some(Time(now)),
            deletion_grace_period_seconds: Some(crate::decide::plan::DEFAULT_GRACE_SECONDS),
            ..ObjectMeta::default()
        },
        ..Pod::default()
    }
}

/// Tells a pod's worker that an object it uses changed.
fn refresher(pods: &Arc<Mutex<BTreeMap<String, Entry>>>) -> Arc<dyn Fn(&str) + Send + Sync> {
    let pods = Arc::downgrade(pods);
    Arc::new(move |uid| {
        if let Some(pods) = pods.upgrade()
            && let Some(entry) = pods.lock().get(uid)
        {
            entry.signals.changed();
        }
    })
}

impl Kubelet {
    pub(crate) fn of(shared: &Arc<Shared>) -> Self {
        Self { shared: shared.clone() }
    }
}
