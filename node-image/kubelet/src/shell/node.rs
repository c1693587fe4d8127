//! The Node object, its lease and its CSINode: registers the node, says every ten seconds that it lives, and tells
//! changes at once.

use super::csi::DriverInfo;
use super::kubelet::Shared;
use super::machine;
use crate::decide::eviction::pressures;
use crate::decide::node::{NodeView, base_labels, differs, handler, missing_labels, node_status};
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{ContainerImage, Node, NodeSpec, NodeStatus, Taint};
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use std::sync::Arc;
use std::time::Duration;
use timonel_runtime::OnError;

const HEARTBEAT: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// An unchanged status is written again after this long.
const STATUS_AGE: SignedDuration = SignedDuration::from_mins(5);
/// Pause after a failed write.
const RETRY: Duration = Duration::from_secs(1);
/// While the node is not ready it is looked at more often: the network's configuration brings no event.
const UNREADY_PERIOD: Duration = Duration::from_millis(500);

pub(crate) fn run(shared: &Arc<Shared>) {
    let this = shared.clone();
    shared.tasks.spawn("node", OnError::Log, async move { follow_node(&this).await });
    let this = shared.clone();
    shared.tasks.spawn("node status", OnError::Log, async move {
        register(&this).await;
        let mut told: Option<(NodeStatus, Timestamp)> = None;
        loop {
            let ready = tell(&this, &mut told).await;
            let pause = match ready {
                Ok(true) => HEARTBEAT,
                Ok(false) => UNREADY_PERIOD,
                Err(error) => {
                    tracing::warn!(%error, "node status");
                    RETRY
                }
            };
            let _ = tokio::time::timeout(pause, this.node_changed.notified()).await;
        }
        #[allow(unreachable_code, reason = "gives the block its error type")]
        Ok::<(), kube::Error>(())
    });
    let this = shared.clone();
    shared.tasks.spawn("lease", OnError::Log, async move {
        loop {
            let pause = match renew(&this).await {
                Ok(()) => HEARTBEAT,
                Err(error) => {
                    tracing::warn!(%error, "node lease");
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
        #[allow(unreachable_code, reason = "gives the block its error type")]
        Ok::<(), kube::Error>(())
    });
    let this = shared.clone();
    shared.tasks.spawn("csinode", OnError::Log, async move {
        loop {
            match tell_drivers(&this).await {
                Ok(()) => this.drivers.changed().await,
                Err(error) => {
                    tracing::debug!(%error, "CSINode");
                    tokio::time::sleep(HEARTBEAT).await;
                }
            }
        }
        #[allow(unreachable_code, reason = "gives the block its error type")]
        Ok::<(), kube::Error>(())
    });
}

async fn follow_node(shared: &Arc<Shared>) -> Result<(), kube::Error> {
    let config = watcher::Config::default().fields(&format!("metadata.name={}", shared.config.node_name));
    let mut stream = watcher(Api::<Node>::all(shared.config.client.clone()), config).default_backoff().boxed();
    let mut cidr = None;
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node)) => {
                let assigned = node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone());
                shared.node.send_replace(Some(Arc::new(node)));
                if let Some(range) = assigned.filter(|range| cidr.as_ref() != Some(range)) {
                    if let Err(error) = shared.runtime.pod_cidr(&range).await {
                        tracing::debug!(%error, "pod range");
                    }
                    cidr = Some(range);
                }
            }
            Ok(watcher::Event::Delete(_)) => {
                // Someone removed the node while its machine lives: it comes back.
                shared.node.send_replace(None);
                register(shared).await;
                shared.node_changed.notify_one();
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "watch of the node"),
        }
    }
    Ok(())
}

/// Makes the Node, or completes the labels of the one that exists; tries until the API answers.
async fn register(shared: &Shared) {
    loop {
        match try_register(shared).await {
            Ok(node) => {
                shared.node.send_replace(Some(Arc::new(node)));
                return;
            }
            Err(error) => tracing::warn!(%error, "node registration"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn try_register(shared: &Shared) -> Result<Node, kube::Error> {
    let config = &shared.config;
    let api: Api<Node> = Api::all(config.client.clone());
    let mut labels = base_labels(&config.node_name, machine::architecture());
    labels.extend(config.labels.clone());
    if let Some(node) = api.get_opt(&config.node_name).await? {
        let mut patch = serde_json::Map::new();
        if let Some(missing) = missing_labels(&node, &labels) {
            patch.insert("metadata".into(), serde_json::json!({"labels": missing}));
        }
        let has_provider = node.spec.as_ref().is_some_and(|spec| spec.provider_id.is_some());
        if let Some(provider) = config.provider_id.as_ref().filter(|_| !has_provider) {
            patch.insert("spec".into(), serde_json::json!({"providerID": provider}));
        }
        if patch.is_empty() {
            return Ok(node);
        }
        return api
            .patch(&config.node_name, &PatchParams::default(), &Patch::Merge(serde_json::Value::Object(patch)))
            .await;
    }
    let mut taints = config.taints.clone();
    if config.external_cloud {
        taints.push(Taint {
            key: "node.cloudprovider.kubernetes.io/uninitialized".into(),
            value: Some("true".into()),
            effect: "NoSchedule".into(),
            time_added: None,
        });
    }
    let given = config.node_ips.first().map(|ip| ("alpha.kubernetes.io/provided-node-ip".to_owned(), ip.clone()));
    let node = Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels),
            annotations: Some(
                given
                    .into_iter()
                    .filter(|_| config.external_cloud)
                    .chain([("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())])
                    .collect(),
            ),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            provider_id: config.provider_id.clone(),
            taints: (!taints.is_empty()).then_some(taints),
            ..NodeSpec::default()
        }),
        status: Some(node_status(&view(shared).await, None, config.clock.now())),
    };
    match api.create(&PostParams::default(), &node).await {
        Err(kube::Error::Api(status)) if status.code == 409 => api.get(&config.node_name).await,
        other => other,
    }
}

/// Writes the status when it changed or is old. Gives whether the node is ready.
async fn tell(shared: &Shared, told: &mut Option<(NodeStatus, Timestamp)>) -> Result<bool, kube::Error> {
    let now = shared.config.clock.now();
    let view = view(shared).await;
    let ready = view.problems.is_empty();
    let before = shared.node.borrow().clone();
    let status = node_status(&view, before.as_ref().and_then(|node| node.status.as_ref()), now);
    let shown = before.as_ref().and_then(|node| node.status.clone());
    let fresh = told.as_ref().is_some_and(|(last, at)| !differs(last, &status) && now.duration_since(*at) < STATUS_AGE);
    let kept = shown.is_some_and(|shown| !differs(&shown, &status));
    if fresh && kept {
        return Ok(ready);
    }
    let api: Api<Node> = Api::all(shared.config.client.clone());
    let _one = shared.volumes.reporting().await;
    let mut body = serde_json::to_value(&status).map_err(kube::Error::SerdeError)?;
    if let Some(map) = body.as_object_mut() {
        // Attached volumes are the control plane's to write.
        map.remove("volumesAttached");
        let in_use = shared.volumes.in_use();
        map.insert("volumesInUse".into(), if in_use.is_empty() { serde_json::Value::Null } else { in_use.into() });
    }
    let patch = serde_json::json!({"status": body});
    match api.patch_status(&shared.config.node_name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(node) => {
            shared.node.send_replace(Some(Arc::new(node)));
            *told = Some((status, now));
            Ok(ready)
        }
        Err(kube::Error::Api(status)) if status.code == 404 => {
            shared.node.send_replace(Some(Arc::new(try_register(shared).await?)));
            *told = None;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

async fn view(shared: &Shared) -> NodeView {
    let config = &shared.config;
    let mut problems = Vec::new();
    let version = match shared.runtime.version().await {
        Ok(version) => {
            shared.runtime_name.lock().clone_from(&version.runtime_name);
            format!("{}://{}", version.runtime_name, version.runtime_version)
        }
        Err(error) => {
            problems.push(format!("container runtime is down: {error}"));
            let before = shared.node.borrow().clone();
            let info = before.and_then(|node| node.status.as_ref()?.node_info.clone());
            info.map(|info| info.container_runtime_version).unwrap_or_default()
        }
    };
    let mut handlers = Vec::new();
    if problems.is_empty() {
        match shared.runtime.status().await {
            Ok(status) => {
                let conditions = status.status.map(|status| status.conditions).unwrap_or_default();
                let bad = conditions.iter().filter(|one| !one.status);
                problems.extend(bad.map(|one| {
                    format!(
                        "container runtime network not ready: {}={} reason:{} message:{}",
                        one.r#type, one.status, one.reason, one.message
                    )
                }));
                let listed = status.runtime_handlers.iter();
                handlers = listed
                    .map(|one| {
                        let features = one.features.map(|has| (has.recursive_read_only_mounts, has.user_namespaces));
                        handler(&one.name, features)
                    })
                    .collect();
            }
            Err(error) => problems.push(format!("container runtime is down: {error}")),
        }
    }
    let known = shared.node.borrow().clone();
    let cloud_wrote =
        known.as_ref().is_some_and(|node| node.spec.as_ref().is_some_and(|spec| spec.provider_id.is_some()))
            && known.as_ref().is_some_and(|node| node.status.as_ref().is_some_and(|status| status.addresses.is_some()));
    let mut addresses = Vec::new();
    if !(config.external_cloud && cloud_wrote) {
        addresses.extend(config.node_ips.iter().map(|ip| ("InternalIP".to_owned(), ip.clone())));
        addresses.push(("Hostname".to_owned(), config.node_name.clone()));
    }
    NodeView {
        machine: machine::measure(&config.root_dir, &version),
        reserved: config.reserved,
        max_pods: i64::from(config.max_pods),
        addresses,
        port: i32::from(config.port),
        pressures: pressures(&machine::free(&config.root_dir), &config.eviction),
        images: images(shared).await,
        problems,
        handlers,
        volumes_in_use: shared.volumes.in_use(),
        devices: Vec::new(),
    }
}

async fn images(shared: &Shared) -> Vec<ContainerImage> {
    let images = shared.runtime.list_images().await.unwrap_or_default();
    let shown = images.into_iter().map(|image| ContainerImage {
        names: Some(image.repo_digests.into_iter().chain(image.repo_tags).collect()),
        size_bytes: i64::try_from(image.size).ok(),
    });
    shown.collect()
}

/// Says that the node lives.
async fn renew(shared: &Shared) -> Result<(), kube::Error> {
    let name = &shared.config.node_name;
    let api: Api<Lease> = Api::namespaced(shared.config.client.clone(), LEASE_NAMESPACE);
    let now = MicroTime(shared.config.clock.now());
    let patch = serde_json::json!({"spec": {
        "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now,
    }});
    match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(error),
    }
    let node = shared.node.borrow().clone();
    let owner = node.and_then(|node| {
        Some(OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.clone(),
            uid: node.uid()?,
            ..OwnerReference::default()
        })
    });
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(LEASE_NAMESPACE.into()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    api.create(&PostParams::default(), &lease).await.map(|_| ())
}

/// Tells the control plane which drivers the node has.
async fn tell_drivers(shared: &Shared) -> Result<(), kube::Error> {
    let name = &shared.config.node_name;
    let api: Api<CSINode> = Api::all(shared.config.client.clone());
    let drivers: Vec<CSINodeDriver> = shared.drivers.infos().into_iter().map(driver).collect();
    if let Some(mut found) = api.get_opt(name).await? {
        if found.spec.drivers != drivers {
            found.spec.drivers = drivers;
            api.replace(name, &PostParams::default(), &found).await?;
        }
        return Ok(());
    }
    let node = shared.node.borrow().clone();
    let Some(uid) = node.as_ref().and_then(|node| node.uid()) else {
        return Err(kube::Error::Service("the node is not registered yet".into()));
    };
    let made = CSINode {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.clone(),
                uid,
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: CSINodeSpec { drivers },
    };
    api.create(&PostParams::default(), &made).await.map(|_| ())
}

fn driver(info: DriverInfo) -> CSINodeDriver {
    CSINodeDriver {
        name: info.name,
        node_id: info.node_id,
        topology_keys: Some(info.topology.into_keys().collect()),
        allocatable: (info.most_volumes > 0)
            .then(|| VolumeNodeResources { count: i32::try_from(info.most_volumes).ok() }),
    }
}
