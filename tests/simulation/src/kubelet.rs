//! A kubelet without containers: speaks the API as the real one does, as the node's own user, and walks pods through
//! their lives.
//!
//! What runs on the machine outlives a restart of the kubelet and dies with the machine.

use crate::{chance::Chance, client::Link, trace::Trace};
use futures::{StreamExt, stream::BoxStream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::watcher::{self, Event, watcher},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};
use timonel_runtime::{Clock, OnError, Tasks};

/// How often pods are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often the lease is renewed and the node's status compared.
const BEAT: Duration = Duration::from_secs(10);
/// Time for one call.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a failed watch.
const WATCH_AGAIN: Duration = Duration::from_secs(1);
/// Age at which the status is reported though nothing changed.
const HEARTBEAT: SignedDuration = SignedDuration::from_secs(60);
/// Processors and memory of a node.
pub(crate) const NODE_CPU: &str = "4";
pub(crate) const NODE_MEMORY: &str = "8Gi";

/// One pod as the machine runs it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Local {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) stateful: bool,
    pub(crate) running: bool,
    /// Volumes in use, by the cloud's name.
    pub(crate) volumes: BTreeSet<String>,
    start_at: Option<Timestamp>,
    end_at: Option<Timestamp>,
    stop_at: Option<Timestamp>,
    ended: Option<&'static str>,
}

/// What is on a machine's disk and in its memory, which a restart of the kubelet leaves alone.
pub(crate) type OnMachine = Arc<Mutex<BTreeMap<String, Local>>>;

/// What a kubelet is told.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) node: String,
    pub(crate) index: u64,
    pub(crate) link: Link,
    pub(crate) clock: Clock,
    pub(crate) chance: Chance,
    pub(crate) trace: Trace,
    pub(crate) machine: OnMachine,
}

struct Kubelet {
    settings: Settings,
    client: Client,
    pods: BTreeMap<String, Arc<Pod>>,
    listed: BTreeSet<String>,
    synced: bool,
    /// Attached and in-use volumes, as the node's status last said.
    attached: BTreeSet<String>,
    in_use: BTreeSet<String>,
}

/// Runs a kubelet until `tasks` ends.
pub(crate) fn start(settings: Settings, tasks: &Tasks) {
    let client = settings.link.clone().client();
    let kubelet = Kubelet {
        settings,
        client,
        pods: BTreeMap::new(),
        listed: BTreeSet::new(),
        synced: false,
        attached: BTreeSet::new(),
        in_use: BTreeSet::new(),
    };
    tasks.spawn("kubelet", OnError::Log, kubelet.control());
}

async fn patiently<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Option<Result<T, kube::Error>> {
    tokio::time::timeout(PATIENCE, call).await.ok()
}

fn is_code(result: &Option<Result<impl Sized, kube::Error>>, code: u16) -> bool {
    matches!(result, Some(Err(kube::Error::Api(status))) if status.code == code)
}

impl Kubelet {
    async fn control(mut self) -> Result<(), Infallible> {
        while !self.register().await {
            tokio::time::sleep(LOOK).await;
        }
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.settings.node));
        let mut events: BoxStream<'static, _> = watcher(Api::<Pod>::all(self.client.clone()), config)
            .then(|event| async move {
                if event.is_err() {
                    tokio::time::sleep(WATCH_AGAIN).await;
                }
                event
            })
            .boxed();
        let (mut beat, mut look) = (tokio::time::interval(BEAT), tokio::time::interval(LOOK));
        for interval in [&mut beat, &mut look] {
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        }
        loop {
            tokio::select! {
                biased;
                _ = beat.tick() => self.beat().await,
                Some(event) = events.next() => { if let Ok(event) = event { self.take(event) } }
                _ = look.tick() => self.look().await,
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.settings.clock.now()
    }

    fn status(&self) -> Value {
        let now = self.now();
        let amounts = json!({"cpu": NODE_CPU, "memory": NODE_MEMORY, "pods": "40", "ephemeral-storage": "20Gi"});
        let condition = |kind: &str, status: &str| {
            json!({"type": kind, "status": status, "reason": "Kubelet", "message": "", "lastHeartbeatTime": now.to_string(),
                "lastTransitionTime": now.to_string()})
        };
        let in_use: Vec<&String> = self.in_use.iter().collect();
        json!({"capacity": amounts, "allocatable": amounts, "volumesInUse": in_use,
            "conditions": [condition("Ready", "True"), condition("MemoryPressure", "False"),
                condition("DiskPressure", "False"), condition("PIDPressure", "False")],
            "nodeInfo": {"machineID": self.settings.node, "systemUUID": self.settings.node, "bootID": "1",
                "kernelVersion": "6.12", "osImage": "Timonel", "containerRuntimeVersion": "fake://1",
                "kubeletVersion": "v1.36.0", "kubeProxyVersion": "v1.36.0", "operatingSystem": "linux",
                "architecture": "amd64"}})
    }

    async fn register(&mut self) -> bool {
        let api: Api<Node> = Api::all(self.client.clone());
        let name = &self.settings.node;
        let taint =
            json!({"key": "node.cloudprovider.kubernetes.io/uninitialized", "value": "true", "effect": "NoSchedule"});
        let labels =
            json!({"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
            "spec": {"taints": [taint]}, "status": self.status()});
        let Ok(node) = serde_json::from_value::<Node>(node) else { return false };
        let made = patiently(api.create(&PostParams::default(), &node)).await;
        if let Some(Err(kube::Error::Api(status))) = &made
            && status.code != 409
        {
            self.settings.trace.note(format!("{name} cannot register: {}", status.message));
        }
        matches!(made, Some(Ok(_))) || is_code(&made, 409) && self.report().await
    }

    async fn report(&mut self) -> bool {
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = json!({"status": self.status()});
        let patch = Patch::Strategic(&patch);
        matches!(patiently(api.patch_status(&self.settings.node, &PatchParams::default(), &patch)).await, Some(Ok(_)))
    }

    async fn beat(&mut self) {
        self.renew().await;
        let _ = self.node().await;
    }

    async fn renew(&self) {
        let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        let name = &self.settings.node;
        let now = self.now();
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": format!("{now:.6}")}});
        let text = lease.to_string().into_bytes();
        let send = |method: &str, path: String, content: &str| {
            let request = http::Request::builder().method(method).uri(path);
            let request = request.header(http::header::CONTENT_TYPE, content).body(text.clone());
            let client = self.client.clone();
            async move {
                let request = request.map_err(|_| kube::Error::LinesCodecMaxLineLengthExceeded)?;
                client.request_text(request).await
            }
        };
        let patched = patiently(send("PATCH", format!("{path}/{name}"), "application/merge-patch+json")).await;
        if is_code(&patched, 404) {
            let _ = patiently(send("POST", path.to_owned(), "application/json")).await;
        }
    }

    /// Reads the node; says that it lives where the API thinks otherwise or what it uses has changed. Returns whether
    /// the API had what is in use.
    async fn node(&mut self) -> bool {
        let api: Api<Node> = Api::all(self.client.clone());
        let found = patiently(api.get(&self.settings.node)).await;
        if is_code(&found, 404) {
            self.register().await;
            return false;
        }
        let Some(Ok(node)) = found else { return false };
        let status = node.status.unwrap_or_default();
        let attached = status.volumes_attached.unwrap_or_default();
        self.attached = attached.into_iter().map(|volume| volume.name).collect();
        let shown: BTreeSet<String> = status.volumes_in_use.unwrap_or_default().into_iter().collect();
        let now = self.now();
        let fresh = status.conditions.unwrap_or_default().iter().any(|condition| {
            let young = |at: Timestamp| now.duration_since(at) < HEARTBEAT;
            condition.type_ == "Ready"
                && condition.status == "True"
                && condition.last_heartbeat_time.as_ref().is_some_and(|time| young(time.0))
        });
        let known = shown == self.in_use;
        if !fresh || !known {
            self.report().await;
        }
        known
    }

    fn take(&mut self, event: Event<Pod>) {
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.insert(uid(&pod));
                self.pods.insert(uid(&pod), Arc::new(pod));
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                self.pods.retain(|uid, _| listed.contains(uid));
                self.synced = true;
            }
            Event::Apply(pod) => {
                self.pods.insert(uid(&pod), Arc::new(pod));
            }
            Event::Delete(pod) => {
                self.pods.remove(&uid(&pod));
            }
        }
    }

    async fn look(&mut self) {
        if !self.synced {
            return;
        }
        // What the API does not know any more is stopped at once.
        let known: BTreeSet<String> = self.pods.keys().cloned().collect();
        self.settings.machine.lock().retain(|uid, _| known.contains(uid));
        let pods: Vec<(String, Arc<Pod>)> = self.pods.iter().map(|(uid, pod)| (uid.clone(), pod.clone())).collect();
        for (uid, pod) in pods {
            self.step(&uid, &pod).await;
        }
        let in_use = self.volumes_in_use();
        if in_use != self.in_use {
            self.in_use = in_use;
            let _ = self.node().await;
        }
    }

    fn volumes_in_use(&self) -> BTreeSet<String> {
        self.settings.machine.lock().values().flat_map(|local| local.volumes.iter().cloned()).collect()
    }

    fn local(&self, uid: &str) -> Local {
        self.settings.machine.lock().get(uid).cloned().unwrap_or_default()
    }

    fn keep(&self, uid: &str, local: Local) {
        self.settings.machine.lock().insert(uid.to_owned(), local);
    }

    fn in_millis(&self, from: u64, to: u64) -> Timestamp {
        let wait = SignedDuration::try_from(self.settings.chance.millis(from, to)).unwrap_or_default();
        self.now().saturating_add(wait).unwrap_or(Timestamp::MAX)
    }

    async fn step(&mut self, uid: &str, pod: &Pod) {
        let (mut local, now) = (self.local(uid), self.now());
        let owner = pod.metadata.owner_references.iter().flatten().next();
        local.namespace = pod.metadata.namespace.clone().unwrap_or_default();
        local.name = pod.metadata.name.clone().unwrap_or_default();
        local.stateful = owner.is_some_and(|owner| owner.kind == "StatefulSet");
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
        let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
        match phase {
            "Succeeded" => local.ended = Some("Succeeded"),
            "Failed" => local.ended = Some("Failed"),
            // The machine was rebooted under it.
            "Running" if local.start_at.is_none() && policy == "Never" => local.ended = Some("Failed"),
            _ => {}
        }
        if pod.metadata.deletion_timestamp.is_some() {
            let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(30).clamp(0, 5);
            let most = u64::try_from(grace).unwrap_or(0) * 1_000;
            let stop_at = *local.stop_at.get_or_insert_with(|| self.in_millis(0, most));
            if now < stop_at {
                self.keep(uid, local);
                return;
            }
            local.ended.get_or_insert(if policy == "Always" { "Succeeded" } else { "Failed" });
        } else if local.ended.is_none() && !local.running {
            self.begin(&mut local, pod, policy).await;
        } else if local.end_at.is_some_and(|end| now >= end) {
            local.ended.get_or_insert(if self.settings.chance.once_in(8) { "Failed" } else { "Succeeded" });
        }
        if local.ended.is_some() {
            (local.running, local.volumes) = (false, BTreeSet::new());
        }
        let ended = local.ended;
        self.keep(uid, local.clone());
        let told = self.tell(uid, pod, phase, &local).await;
        if told && ended.is_some() && pod.metadata.deletion_timestamp.is_some() {
            self.finish(uid, pod).await;
        }
    }

    /// Starts a pod when its time has come and its volumes are there.
    async fn begin(&mut self, local: &mut Local, pod: &Pod, policy: &str) {
        let start_at = *local.start_at.get_or_insert_with(|| self.in_millis(300, 3_000));
        let Some(volumes) = self.volumes_of(pod).await else { return };
        local.volumes = volumes;
        if self.now() < start_at {
            return;
        }
        if !local.volumes.is_empty() {
            self.in_use.extend(local.volumes.iter().cloned());
            // Only a look that shows the use as known says whether the volume stays attached.
            if !self.node().await || !local.volumes.is_subset(&self.attached) {
                return;
            }
        }
        local.running = true;
        if policy != "Always" {
            local.end_at = Some(self.in_millis(2_000, 20_000));
        }
    }

    /// The unique names of a pod's volumes; nothing while one is not bound.
    async fn volumes_of(&self, pod: &Pod) -> Option<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        for claim in volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref()) {
            let path = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{}", claim.claim_name);
            let found = self.get(&path).await?;
            let volume =
                self.get(&format!("/api/v1/persistentvolumes/{}", found["spec"]["volumeName"].as_str()?)).await?;
            let csi = &volume["spec"]["csi"];
            names.insert(format!("kubernetes.io/csi/{}^{}", csi["driver"].as_str()?, csi["volumeHandle"].as_str()?));
        }
        Some(names)
    }

    async fn get(&self, path: &str) -> Option<Value> {
        let request = http::Request::get(path).body(Vec::new()).ok()?;
        match patiently(self.client.request_text(request)).await? {
            Ok(text) => serde_json::from_str(&text).ok(),
            Err(kube::Error::Api(status)) if status.code == 403 => {
                self.settings.trace.note(format!("{} may not read {path}", self.settings.node));
                None
            }
            Err(_) => None,
        }
    }

    /// Reports a pod's state if the API does not show it; says whether it is shown.
    async fn tell(&self, uid: &str, pod: &Pod, phase: &str, local: &Local) -> bool {
        let wanted = match (local.ended, local.running) {
            (Some(end), _) => end,
            (None, true) => "Running",
            (None, false) => phase,
        };
        let shown_ready = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let shown_ready = shown_ready.filter(|condition| condition.type_ == "Ready").any(|c| c.status == "True");
        if wanted == phase && shown_ready == local.running {
            return true;
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &local.namespace);
        let patch = json!({"metadata": {"uid": uid}, "status": self.pod_status(pod, wanted, local)});
        let patch = Patch::Strategic(&patch);
        let result = patiently(api.patch_status(&local.name, &PatchParams::default(), &patch)).await;
        if let Some(Err(kube::Error::Api(status))) = &result
            && status.code == 422
        {
            self.settings.trace.violated(format!("a kubelet's report of a pod is refused: {}", status.message));
        }
        matches!(result, Some(Ok(_))) || is_code(&result, 404)
    }

    fn pod_status(&self, pod: &Pod, phase: &str, local: &Local) -> Value {
        let now = self.now().to_string();
        let ready = if local.running { "True" } else { "False" };
        let conditions: Vec<Value> = ["Initialized", "ContainersReady", "Ready", "PodReadyToStartContainers"]
            .iter()
            .map(|kind| {
                let status = if *kind == "Initialized" { "True" } else { ready };
                json!({"type": kind, "status": status, "lastTransitionTime": now})
            })
            .collect();
        let state = match phase {
            "Running" if local.running => json!({"running": {"startedAt": now}}),
            "Succeeded" => json!({"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": now}}),
            "Failed" => json!({"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": now}}),
            _ => json!({"waiting": {"reason": "ContainerCreating"}}),
        };
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let statuses: Vec<Value> = containers
            .map(|container| {
                json!({"name": container.name, "image": container.image, "imageID": "", "ready": local.running,
                    "restartCount": 0, "state": state})
            })
            .collect();
        let ip = self.address(pod.metadata.uid.as_deref().unwrap_or_default());
        json!({"phase": phase, "conditions": conditions, "containerStatuses": statuses, "startTime": now,
            "hostIP": format!("10.200.0.{}", self.settings.index), "podIP": ip, "podIPs": [{"ip": ip}]})
    }

    /// An address that no other pod has: the node's range, and a part of the pod's identity.
    fn address(&self, uid: &str) -> String {
        let part = uid.get(..4).and_then(|hex| u16::from_str_radix(hex, 16).ok()).unwrap_or_default();
        let [high, low] = part.to_be_bytes();
        format!("10.{}.{high}.{low}", 100 + self.settings.index)
    }

    async fn finish(&self, uid: &str, pod: &Pod) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let preconditions = Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
        let params = DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
        let _ = patiently(api.delete(pod.metadata.name.as_deref().unwrap_or_default(), &params)).await;
    }
}
