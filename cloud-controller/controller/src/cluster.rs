//! One cluster and its cloud: watch, observe, plan, execute.
//!
//! A look takes no input: a change or a period only says "look again". All halves share one observation of the cloud,
//! made anew once a period, after the cloud was changed, or when a node appears that it does not know.

use crate::{
    config::CloudControllerConfig,
    execute::{Executor, Report},
    watch::Watched,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Service},
    storage::v1::{StorageClass, VolumeAttachment},
};
use kube::{Api, Client};
use serde_json::json;
use std::{convert::Infallible, sync::Arc, time::Duration};
use timonel_cloud_core::{
    Action, Balancer, Cloud, CloudResult, Instance, NodeMemory, NodeView, Route, RouteView, ServiceMemory, ServiceView,
    StorageConfig, Volume, VolumeView, csi_driver, default_storage_class, instance_of, plan_nodes, plan_pod_ranges,
    plan_routes, plan_services, plan_volumes,
};
use timonel_runtime::{Clock, OnError, Tasks};
use tokio::sync::Notify;

/// Changes that come together are looked at together.
const SETTLE: Duration = Duration::from_millis(20);
/// Least time between two observations that only an unknown node asks for.
const UNKNOWN_NODE: SignedDuration = SignedDuration::from_secs(1);
/// Pause after an observation that failed.
const OBSERVE_AGAIN: Duration = Duration::from_secs(2);

/// What the cloud showed.
#[derive(Debug)]
struct Observation {
    at: Timestamp,
    instances: Vec<Instance>,
    routes: Vec<Route>,
    balancers: Vec<Balancer>,
    volumes: Vec<Volume>,
}

/// What is watched.
struct Watches {
    nodes: Watched<Node>,
    services: Watched<Service>,
    claims: Watched<PersistentVolumeClaim>,
    persistent: Watched<PersistentVolume>,
    classes: Watched<StorageClass>,
    attachments: Watched<VolumeAttachment>,
}

struct Controller {
    config: CloudControllerConfig,
    storage: StorageConfig,
    cloud: Arc<dyn Cloud>,
    clock: Clock,
    watches: Watches,
    executor: Executor,
    changed: Arc<Notify>,
    observation: Option<Observation>,
    nodes: NodeMemory,
    services: ServiceMemory,
}

/// Ties a cluster to its cloud for as long as `tasks` live. Returns at once.
///
/// `client` needs to read and write nodes, services, claims, volumes and attachments, and to create events.
pub fn run(client: Client, cloud: Arc<dyn Cloud>, config: CloudControllerConfig, clock: Clock, tasks: &Tasks) {
    let changed = Arc::new(Notify::new());
    let watches = Watches {
        nodes: Watched::begin(Api::all(client.clone()), tasks, &changed),
        services: Watched::begin(Api::all(client.clone()), tasks, &changed),
        claims: Watched::begin(Api::all(client.clone()), tasks, &changed),
        persistent: Watched::begin(Api::all(client.clone()), tasks, &changed),
        classes: Watched::begin(Api::all(client.clone()), tasks, &changed),
        attachments: Watched::begin(Api::all(client.clone()), tasks, &changed),
    };
    let executor = Executor::new(client, Arc::clone(&cloud), &config.cluster, clock.clone(), "cloud-controller");
    let storage = StorageConfig { driver: config.driver.clone(), zonal: cloud.volumes_are_zonal() };
    let controller = Controller {
        config,
        storage,
        cloud,
        clock,
        watches,
        executor,
        changed,
        observation: None,
        nodes: NodeMemory::default(),
        services: ServiceMemory::default(),
    };
    tasks.spawn("cloud-controller", OnError::Log, controller.control());
}

impl Controller {
    async fn control(mut self) -> Result<(), Infallible> {
        self.watches.nodes.ready().await;
        self.watches.services.ready().await;
        self.watches.claims.ready().await;
        self.watches.persistent.ready().await;
        self.watches.classes.ready().await;
        self.watches.attachments.ready().await;
        let mut storage_objects = self.config.storage_class.is_empty() || !self.config.halves.volumes;
        loop {
            if !storage_objects {
                storage_objects = self.ensure_storage_objects().await;
            }
            let pause = self.look().await;
            tokio::select! {
                biased;
                () = self.changed.notified() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn ensure_storage_objects(&self) -> bool {
        let class = default_storage_class(&self.config.storage_class, &self.config.driver);
        for (path, object) in [
            ("/apis/storage.k8s.io/v1/csidrivers", json!(csi_driver(&self.config.driver))),
            ("/apis/storage.k8s.io/v1/storageclasses", json!(class)),
        ] {
            if let Err(error) = self.executor.ensure_object(path, &object).await {
                tracing::warn!(path, %error, "a storage object could not be made");
                return false;
            }
        }
        true
    }

    /// Looks once and acts; returns how long nothing needs to be looked at unless something changes.
    async fn look(&mut self) -> Duration {
        let nodes = self.watches.nodes.all();
        if self.needs_observation(&nodes) {
            match self.observe().await {
                Ok(observation) => self.observation = Some(observation),
                Err(error) => {
                    tracing::warn!(%error, "the cloud could not be observed");
                    // What was seen before may be wrong: nothing is decided on it.
                    self.observation = None;
                    return OBSERVE_AGAIN;
                }
            }
        }
        let actions = self.plan(&nodes);
        let Report { changed_cloud, confirmed, .. } = self.executor.execute(actions).await;
        if !confirmed.is_empty() {
            self.nodes.absences.confirm(&confirmed);
            self.changed.notify_one();
        }
        if changed_cloud {
            self.observation = None;
            self.changed.notify_one();
        }
        self.pause()
    }

    fn pause(&self) -> Duration {
        let now = self.clock.now();
        let retry = self.executor.next_retry().and_then(|at| Duration::try_from(at.duration_since(now)).ok());
        retry.map_or(self.config.period, |retry| retry.min(self.config.period))
    }

    fn needs_observation(&self, nodes: &[Arc<Node>]) -> bool {
        let Some(observation) = &self.observation else { return true };
        let age = self.clock.now().duration_since(observation.at);
        let unknown = || nodes.iter().any(|node| instance_of(node, &observation.instances).is_none());
        age >= SignedDuration::try_from(self.config.period).unwrap_or(SignedDuration::MAX)
            || age >= UNKNOWN_NODE && unknown()
    }

    async fn observe(&self) -> CloudResult<Observation> {
        let (cluster, halves) = (&self.config.cluster, self.config.halves);
        let at = self.clock.now();
        Ok(Observation {
            at,
            instances: self.cloud.observe(cluster).await?,
            routes: if halves.routes { self.cloud.routes(cluster).await? } else { Vec::new() },
            balancers: if halves.services { self.cloud.balancers(cluster).await? } else { Vec::new() },
            volumes: if halves.volumes { self.cloud.volumes(cluster).await? } else { Vec::new() },
        })
    }

    fn plan(&mut self, nodes: &[Arc<Node>]) -> Vec<Action> {
        let Some(seen) = &self.observation else { return Vec::new() };
        let (halves, now, mut actions) = (self.config.halves, self.clock.now(), Vec::new());
        if halves.nodes {
            let provider = self.cloud.provider();
            let view = NodeView { provider, nodes, instances: &seen.instances, observed: seen.at };
            actions.extend(plan_nodes(&view, &mut self.nodes));
        }
        if let Some(range) = self.config.pod_ranges {
            actions.extend(plan_pod_ranges(nodes, range, self.config.node_prefix));
        }
        if halves.routes {
            let view = RouteView { nodes, instances: &seen.instances, routes: &seen.routes, now };
            actions.extend(plan_routes(&view));
        }
        if halves.services {
            let view = ServiceView {
                cluster: &self.config.cluster,
                class: &self.config.load_balancer_class,
                default_class: self.config.default_class,
                cluster_health: self.config.cluster_health.clone(),
                services: &self.watches.services.all(),
                nodes,
                instances: &seen.instances,
                balancers: &seen.balancers,
                observed: seen.at,
            };
            actions.extend(plan_services(&view, &mut self.services));
        }
        if halves.volumes {
            let view = VolumeView {
                cluster: &self.config.cluster,
                config: &self.storage,
                claims: &self.watches.claims.all(),
                persistent: &self.watches.persistent.all(),
                classes: &self.watches.classes.all(),
                attachments: &self.watches.attachments.all(),
                nodes,
                instances: &seen.instances,
                volumes: &seen.volumes,
                now,
            };
            actions.extend(plan_volumes(&view));
        }
        actions
    }
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
