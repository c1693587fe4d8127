//! A whole cluster on one thread: its parts, and the ways to start, stop and look at them.

use crate::{
    chance::Chance,
    client::{Front, Link, Network},
    cloud::StormyCloud,
    invariants::{CloudLook, Running},
    kubelet::{self, OnMachine},
    observer::Observer,
    snapshot::Snapshot,
    trace::Trace,
    workload::User,
};
use futures::FutureExt;
use jiff::Timestamp;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};
use timonel_apiserver::{
    ApiServer, Caller, Config,
    authn::{AuthnConfig, NODES_GROUP, User as ApiUser},
};
use timonel_cloud_controller::CloudControllerConfig;
use timonel_cloud_core::{
    Cloud, InstanceId, InstanceState, Instances, LoadBalancers, MachineOrder, Machines, Owner, Routes, Volumes,
    testing::FakeCloud,
};
use timonel_controllers::{ControllersConfig, NodeRanges};
use timonel_pki::{KeyRing, SigningKey};
use timonel_runtime::{Clock, OnError, Tasks};
use timonel_scheduler::SchedulerConfig;
use timonel_store::{MemoryStore, RangeRequest, Store};

/// When every run begins.
const ORIGIN: Timestamp = Timestamp::constant(1_790_000_000, 0);
/// The cluster's name in the cloud.
const CLUSTER: &str = "simulated";
/// Provider of the fake cloud; `local` makes the cloud controller look often.
const PROVIDER: &str = "local";
/// Seconds that events live: short, so that leases of the store end during a run.
const EVENT_SECONDS: u64 = 120;
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A machine of the cluster.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) instance: InstanceId,
    pub(crate) index: u64,
    pub(crate) on_machine: OnMachine,
    /// The scope of its kubelet while that runs.
    kubelet: Option<Tasks>,
}

/// The machines by the names of their nodes. Clones share them.
type Machines_ = Arc<Mutex<BTreeMap<String, Machine>>>;

/// A look at the truth behind the API: the cloud and the machines.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    fake: Arc<FakeCloud>,
    machines: Machines_,
}

impl Sight {
    /// What the cloud has.
    pub(crate) fn cloud(&self) -> CloudLook {
        let fake = &*self.fake;
        // The fake answers at once, and no fault is scripted but right before a call of the controller's.
        CloudLook {
            instances: fake.observe(CLUSTER).now_or_never().and_then(Result::ok).unwrap_or_default(),
            routes: fake.routes(CLUSTER).now_or_never().and_then(Result::ok).unwrap_or_default(),
            balancers: fake.balancers(CLUSTER).now_or_never().and_then(Result::ok).unwrap_or_default(),
            volumes: fake.volumes(CLUSTER).now_or_never().and_then(Result::ok).unwrap_or_default(),
        }
    }

    /// Pods that run on living machines.
    pub(crate) fn running(&self) -> Vec<Running> {
        let machines = self.machines.lock();
        let mut all = Vec::new();
        for machine in machines.values() {
            for (uid, local) in machine.on_machine.lock().iter().filter(|(_, local)| local.running) {
                all.push(Running {
                    instance: machine.instance.0.clone(),
                    uid: uid.clone(),
                    title: format!("{}/{}", local.namespace, local.name),
                    stateful: local.stateful,
                    volumes: local.volumes.clone(),
                });
            }
        }
        all
    }

    /// Names of the machines' nodes.
    pub(crate) fn nodes(&self) -> BTreeSet<String> {
        self.machines.lock().keys().cloned().collect()
    }
}

/// A part of the control plane that can be restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Controllers,
    Scheduler,
    CloudController,
}

impl Part {
    pub(crate) const ALL: [Self; 3] = [Self::Controllers, Self::Scheduler, Self::CloudController];

    fn user(self) -> &'static str {
        match self {
            Self::Controllers => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::CloudController => "cloud-controller-manager",
        }
    }
}

/// The cluster.
pub(crate) struct World {
    seed: u64,
    pub(crate) clock: Clock,
    pub(crate) trace: Trace,
    pub(crate) network: Network,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) sight: Sight,
    pub(crate) snapshot: Arc<Mutex<Snapshot>>,
    front: Front,
    cloud: Arc<StormyCloud>,
    tasks: Tasks,
    server: Tasks,
    parts: BTreeMap<Part, Tasks>,
    born: u64,
    starts: u64,
}

impl World {
    /// A cluster of `size` machines, calm, with everything started.
    pub(crate) async fn new(seed: u64, size: u64) -> Self {
        let clock = Clock::simulated(ORIGIN);
        let trace = Trace::new(clock.clone());
        let tasks = Tasks::root("simulation");
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let server = tasks.child("api");
        let api = api(&store, &clock, seed, 0, &server).await;
        let chance = Chance::new(seed, "cloud");
        let fake = FakeCloud::new(PROVIDER, ORIGIN);
        let fake = Arc::new(if chance.once_in(2) { fake.zonal() } else { fake });
        let network = Network::default();
        let cloud = StormyCloud { fake: fake.clone(), network: network.clone(), chance, trace: trace.clone() };
        let mut world = Self {
            seed,
            front: Front::new(api),
            sight: Sight { fake, machines: Arc::default() },
            cloud: Arc::new(cloud),
            parts: BTreeMap::new(),
            snapshot: Arc::default(),
            born: 0,
            starts: 0,
            clock,
            trace,
            network,
            store,
            tasks,
            server,
        };
        world.observe();
        for part in Part::ALL {
            world.start(part);
        }
        for _ in 0..size {
            world.add_machine().await;
        }
        world
    }

    fn observe(&self) {
        let observer = Observer {
            front: self.front.clone(),
            sight: self.sight.clone(),
            snapshot: self.snapshot.clone(),
            trace: self.trace.clone(),
        };
        self.tasks.spawn("observer", OnError::EndScope, observer.control());
    }

    fn link(&self, name: &str, caller: Caller) -> Link {
        Link {
            name: name.to_owned(),
            front: self.front.clone(),
            caller,
            network: self.network.clone(),
            chance: Chance::new(self.seed, &format!("link {name} {}", self.starts)),
            trace: self.trace.clone(),
            faulty: true,
            fenced: false,
        }
    }

    /// A client of the cluster's administrator, without faults.
    pub(crate) fn user(&self) -> User {
        let link = Link { faulty: false, ..self.link("user", Caller::internal("admin")) };
        User { client: link.client(), chance: Chance::new(self.seed, "user"), trace: self.trace.clone() }
    }

    /// Starts a part of the control plane; one that runs already is stopped first, unless `overlap`.
    pub(crate) fn start(&mut self, part: Part) {
        self.stop(part);
        self.begin(part);
    }

    /// Starts a part and returns the scope of the one that ran before, which is to be stopped later.
    pub(crate) fn overlap(&mut self, part: Part) -> Option<Tasks> {
        let old = self.parts.remove(&part);
        self.begin(part);
        old
    }

    fn begin(&mut self, part: Part) {
        self.starts += 1;
        let scope = self.tasks.child(part.user());
        let link = Link { fenced: true, ..self.link(part.user(), Caller::internal(part.user())) };
        let (client, entropy) = (link.client(), Chance::new(self.seed, &format!("{part:?} {}", self.starts)).entropy());
        let (clock, inner) = (self.clock.clone(), scope.clone());
        match part {
            Part::Controllers => {
                let mut config = ControllersConfig::new(clock, entropy, CLUSTER, "PEM");
                config.node_ranges = "10.64.0.0/16".parse().ok().map(|range| NodeRanges {
                    cluster: vec![range],
                    mask_v4: 24,
                    mask_v6: 64,
                });
                scope.spawn(
                    "run",
                    OnError::EndScope,
                    async move { timonel_controllers::run(client, config, &inner).await },
                );
            }
            Part::Scheduler => {
                let config = SchedulerConfig::new(clock, entropy);
                scope.spawn(
                    "run",
                    OnError::EndScope,
                    async move { timonel_scheduler::run(client, config, &inner).await },
                );
            }
            Part::CloudController => {
                let config = CloudControllerConfig::new(CLUSTER, PROVIDER);
                let cloud: Arc<dyn Cloud> = self.cloud.clone();
                timonel_cloud_controller::run(client, cloud, config, clock, &scope);
            }
        }
        self.parts.insert(part, scope);
    }

    /// Stops a part as a crash does.
    pub(crate) fn stop(&mut self, part: Part) {
        if let Some(scope) = self.parts.remove(&part) {
            scope.token().cancel();
        }
    }

    /// Restarts the API server over the same store.
    pub(crate) async fn restart_server(&mut self) {
        self.starts += 1;
        let scope = self.tasks.child("api");
        let api = api(&self.store, &self.clock, self.seed, self.starts, &scope).await;
        self.front.replace(api);
        std::mem::replace(&mut self.server, scope).token().cancel();
    }

    /// Orders a machine and starts its kubelet.
    pub(crate) async fn add_machine(&mut self) {
        self.born += 1;
        let (index, node) = (self.born, format!("node-{}", self.born));
        let zone = if index.is_multiple_of(2) { "fake-a" } else { "fake-b" };
        let Ok(instance) = self.sight.fake.create(&order(&node, zone)).await else { return };
        let machine = Machine { instance: instance.id, index, on_machine: OnMachine::default(), kubelet: None };
        self.sight.machines.lock().insert(node.clone(), machine);
        self.start_kubelet(&node);
    }

    /// Starts a node's kubelet, in place of the one that runs.
    pub(crate) fn start_kubelet(&mut self, node: &str) {
        self.starts += 1;
        let scope = self.tasks.child(node);
        let caller = Caller::Internal(Arc::new(ApiUser::new(
            format!("system:node:{node}"),
            &[NODES_GROUP, timonel_apiserver::authn::AUTHENTICATED_GROUP],
        )));
        let link = self.link(node, caller);
        let mut machines = self.sight.machines.lock();
        let Some(machine) = machines.get_mut(node) else { return };
        let settings = kubelet::Settings {
            node: node.to_owned(),
            index: machine.index,
            link,
            clock: self.clock.clone(),
            chance: Chance::new(self.seed, &format!("kubelet {node} {}", self.starts)),
            trace: self.trace.clone(),
            machine: machine.on_machine.clone(),
        };
        if let Some(old) = machine.kubelet.replace(scope.clone()) {
            old.token().cancel();
        }
        kubelet::start(settings, &scope);
    }

    /// Stops a node's kubelet; with `power`, everything that runs on the machine too.
    pub(crate) fn stop_kubelet(&self, node: &str, power: bool) {
        let mut machines = self.sight.machines.lock();
        let Some(machine) = machines.get_mut(node) else { return };
        if let Some(scope) = machine.kubelet.take() {
            scope.token().cancel();
        }
        if power {
            machine.on_machine.lock().clear();
        }
    }

    /// Takes a machine away for good, as an accident of the cloud does.
    pub(crate) fn lose_machine(&self, node: &str, trace_left: bool) {
        self.stop_kubelet(node, true);
        let Some(machine) = self.sight.machines.lock().remove(node) else { return };
        // A cloud unplugs a lost machine's volumes and forgets its routes.
        let _ = self.sight.fake.delete(&machine.instance).now_or_never();
        self.sight.fake.disturb(&machine.instance, trace_left.then_some(InstanceState::Gone));
    }

    /// Forgets the store's history up to `back` revisions ago.
    pub(crate) async fn compact(&self, back: u64) {
        let Ok(newest) = self.store.revision().await else { return };
        let _ = self.store.compact(newest.saturating_sub(back)).await;
        let all = RangeRequest { range: timonel_store::KeyRange::all(), revision: None, limit: 1 };
        self.trace.note(format!("compacted at {newest}, readable: {}", self.store.range(all).await.is_ok()));
    }

    /// Ends everything.
    pub(crate) async fn end(&self) -> bool {
        for machine in self.sight.machines.lock().values() {
            machine.kubelet.iter().for_each(|scope| scope.token().cancel());
        }
        self.parts.values().for_each(|scope| scope.token().cancel());
        self.tasks.shutdown(std::time::Duration::from_secs(30)).await
    }
}

fn order(node: &str, zone: &str) -> MachineOrder {
    MachineOrder {
        token: node.to_owned(),
        owner: Owner::new(CLUSTER, node),
        pool: "pool".to_owned(),
        name: node.to_owned(),
        instance_type: "t.small".to_owned(),
        zone: zone.to_owned(),
        image: String::new(),
        user_data: String::new(),
        tags: [].into(),
    }
}

/// The same key for every run: it is slow to make and nothing depends on it.
fn key() -> SigningKey {
    static KEY: OnceLock<String> = OnceLock::new();
    let pem = KEY.get_or_init(|| {
        let key = SigningKey::generate().expect("a key can be made");
        key.to_pem()
    });
    SigningKey::from_pem(pem).expect("it was made here")
}

async fn api(store: &Arc<MemoryStore>, clock: &Clock, seed: u64, start: u64, tasks: &Tasks) -> Arc<ApiServer> {
    let config = Config {
        scheme: timonel_api::Scheme::kubernetes(),
        store: store.clone(),
        prefix: "/clusters/simulated/".into(),
        clock: clock.clone(),
        entropy: Chance::new(seed, &format!("api {start}")).entropy(),
        authentication: AuthnConfig {
            issuers: vec![ISSUER.to_owned()],
            audiences: vec![ISSUER.to_owned()],
            ..AuthnConfig::default()
        },
        keys: KeyRing::new(key(), Vec::new()),
        service_ranges: "10.96.0.0/24".parse().into_iter().collect(),
        node_ports: Config::NODE_PORTS,
        advertise: "192.0.2.1:443".parse().ok(),
        public_address: "api.example:443".to_owned(),
        event_ttl_seconds: EVENT_SECONDS,
        nodes: None,
        local_destinations: Vec::new(),
        front_proxy: None,
        apart: Vec::new(),
        health: Vec::new(),
    };
    ApiServer::new(config, tasks).await.expect("a store in memory does not fail")
}
