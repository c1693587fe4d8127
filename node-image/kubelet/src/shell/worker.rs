//! One pod's worker: looks, lets the decisions decide, acts, and looks again; sleeps until something happens.

use super::exec::{Start, run_hook};
use super::images::{RETRY, failure};
use super::kubelet::{Entry, Shared};
use super::probes::{self, Results};
use super::volumes::Mounted;
use crate::decide::admission::admit;
use crate::decide::backoff::Backoff;
use crate::decide::containers::cgroup_values;
use crate::decide::model::{Kind, Memory, Observed, RunState, StartFailure, Termination, container_named};
use crate::decide::names::PodId;
use crate::decide::plan::{Action, KillReason, already_over, grace, plan};
use crate::decide::sandbox::{self, SandboxContext};
use crate::decide::status::status;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use timonel_cri::cri::PodSandboxConfig;
use timonel_runtime::{OnError, Tasks};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Pause after an act that the runtime or the disk refused.
const REFUSED_PAUSE: SignedDuration = SignedDuration::from_secs(1);
/// Limits of the delay between tries to make volumes or a sandbox.
const POD_RETRY_FIRST: SignedDuration = SignedDuration::from_millis(500);
const POD_RETRY_LONGEST: SignedDuration = SignedDuration::from_secs(20);

/// What others tell a worker.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    pub(crate) wake: Arc<Notify>,
    changed: AtomicBool,
    gone: AtomicBool,
    interrupt: CancellationToken,
    evict: Mutex<Option<(String, String)>>,
}

impl Signals {
    /// The pod or an object that it uses changed.
    pub(crate) fn changed(&self) {
        self.changed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Stops a start that takes its time: the pod is ending.
    pub(crate) fn interrupt(&self) {
        self.interrupt.cancel();
    }

    /// The API no longer has the pod.
    pub(crate) fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
        self.interrupt.cancel();
        self.wake.notify_one();
    }

    pub(crate) fn gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Ends the pod as failed, with this reason and message.
    pub(crate) fn evict(&self, reason: &str, message: String) {
        *self.evict.lock() = Some((reason.to_owned(), message));
        self.interrupt.cancel();
        self.wake.notify_one();
    }
}

/// Ends of containers under way: by id, what stops the attempt.
type Killing = Arc<Mutex<BTreeMap<String, CancellationToken>>>;

/// What to do after a look.
enum Next {
    Again,
    Wait(Option<Timestamp>),
    Done,
}

/// A pod's worker.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    id: PodId,
    pod: watch::Receiver<Arc<Pod>>,
    signals: Arc<Signals>,
    seen: Arc<Mutex<Arc<Observed>>>,
    tasks: Tasks,
    memory: Memory,
    results: Results,
    probing: BTreeMap<String, Tasks>,
    killing: Killing,
    /// Containers whose `preStop` hook ran or runs: it runs once.
    hooked: Arc<Mutex<std::collections::BTreeSet<String>>>,
    mounted: Option<Mounted>,
    admitted: bool,
}

impl Worker {
    pub(crate) fn new(shared: &Arc<Shared>, pod: watch::Receiver<Arc<Pod>>, entry: &Entry) -> Self {
        let id = PodId::of(&pod.borrow());
        Self {
            shared: shared.clone(),
            tasks: shared.tasks.child(&id.name),
            id,
            pod,
            signals: entry.signals.clone(),
            seen: entry.observed.clone(),
            memory: Memory::default(),
            results: Results::default(),
            probing: BTreeMap::new(),
            killing: Killing::default(),
            hooked: Arc::default(),
            mounted: None,
            admitted: false,
        }
    }

    pub(crate) fn start(self) {
        let shared = self.shared.clone();
        shared.tasks.spawn("pod", OnError::Log, async move {
            let (shared, uid, tasks) = (self.shared.clone(), self.id.uid.clone(), self.tasks.clone());
            Box::pin(self.run()).await;
            tasks.token().cancel();
            shared.finished(&uid);
            Ok::<(), std::convert::Infallible>(())
        });
    }

    async fn run(mut self) {
        loop {
            match Box::pin(self.look()).await {
                Next::Again => {}
                Next::Done => return,
                Next::Wait(until) => {
                    let wake = self.signals.wake.clone();
                    let sleep = until.map(|until| self.until(until));
                    tokio::select! {
                        () = wake.notified() => {}
                        () = async { tokio::time::sleep(sleep.unwrap_or_default()).await }, if sleep.is_some() => {}
                    }
                }
            }
        }
    }

    fn until(&self, at: Timestamp) -> Duration {
        Duration::try_from(at.duration_since(self.shared.config.clock.now())).unwrap_or_default()
    }

    async fn look(&mut self) -> Next {
        let pod = self.pod.borrow_and_update().clone();
        let now = self.shared.config.clock.now();
        self.note_ending(&pod, now);
        self.memory.over |= already_over(&pod);
        let observed = match self.shared.runtime.observe(&self.id.uid).await {
            Ok(observed) => Arc::new(observed),
            Err(error) => {
                tracing::debug!(pod = %self.id, %error, "look");
                return Next::Wait(Some(now + REFUSED_PAUSE));
            }
        };
        *self.seen.lock() = observed.clone();
        observed.containers.iter().for_each(|one| self.shared.own(&one.id, &self.id.uid));
        observed.sandboxes.iter().for_each(|one| self.shared.own(&one.id, &self.id.uid));
        self.admit(&pod, &observed, now);
        self.follow_probes(&pod, &observed);
        self.memory.killing = self.killing.lock().keys().cloned().collect();
        self.memory.probes = self.results.lock().clone();
        let next = plan(&pod, &observed, &self.memory, now);
        self.publish(&pod, &observed, now);
        if self.memory.torn_down && self.memory.termination.as_ref().is_some_and(|ending| ending.deleted) {
            if !self.signals.gone() {
                self.shared.statuses.delete(&self.id);
            }
            return Next::Done;
        }
        let refreshed = self.refresh(&pod, &observed, now).await;
        let mut acted = false;
        for action in &next.actions {
            match Box::pin(self.act(&pod, &observed, action)).await {
                Ok(()) => acted |= !matches!(action, Action::Kill { .. }),
                Err(pause) => return Next::Wait(Some(now + pause)),
            }
        }
        if acted {
            return Next::Again;
        }
        Next::Wait(next.wake_at.into_iter().chain(refreshed).min())
    }

    /// Takes in that the pod is being deleted, evicted, or gone from the API.
    fn note_ending(&mut self, pod: &Pod, now: Timestamp) {
        if let Some((reason, message)) = self.signals.evict.lock().take()
            && self.memory.termination.is_none()
        {
            let failed = Some((reason, message));
            self.memory.termination = Some(Termination { since: now, grace_seconds: 1, deleted: false, failed });
        }
        let gone = self.signals.gone();
        if pod.metadata.deletion_timestamp.is_none() && !gone {
            return;
        }
        let seconds = pod.metadata.deletion_grace_period_seconds.unwrap_or_else(|| grace(pod));
        match &mut self.memory.termination {
            Some(known) if known.deleted && known.grace_seconds <= seconds => {}
            known => {
                // A shorter time overrides what is under way.
                self.killing.lock().values().for_each(CancellationToken::cancel);
                self.killing.lock().clear();
                let failed = known.as_ref().and_then(|known| known.failed.clone());
                let since = known.as_ref().map_or(now, |known| known.since);
                *known = Some(Termination { since, grace_seconds: seconds, deleted: true, failed });
                self.memory.torn_down = false;
            }
        }
    }

    /// The node's word on a pod that it has not begun.
    fn admit(&mut self, pod: &Pod, observed: &Observed, now: Timestamp) {
        if self.memory.started_at.is_none() {
            let known = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
            self.memory.started_at = Some(known.map_or(now, |time| time.0));
        }
        let begun = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
        if self.admitted || begun || !observed.sandboxes.is_empty() || self.memory.termination.is_some() {
            return;
        }
        self.admitted = true;
        let Some(node) = self.shared.node.borrow().clone() else { return };
        let others = self.shared.live_pods();
        let others = others.iter().filter(|other| {
            let began = other.status.as_ref().is_some_and(|status| status.start_time.is_some());
            other.metadata.uid != pod.metadata.uid && began
        });
        if let Err((reason, message)) = admit(pod, &node, others) {
            self.shared.events.pod(pod, true, static_reason(&reason), message.clone());
            self.memory.rejected = Some((reason, message));
        }
    }

    /// Starts probes of containers that run and ends those of others.
    fn follow_probes(&mut self, pod: &Arc<Pod>, observed: &Observed) {
        let ips = self.pod_ips(pod, observed);
        let running: Vec<_> = observed.containers.iter().filter(|one| one.state == RunState::Running).collect();
        self.probing.retain(|id, tasks| {
            let keep = running.iter().any(|one| one.id == *id);
            if !keep {
                tasks.token().cancel();
            }
            keep
        });
        self.results.lock().retain(|id, _| running.iter().any(|one| one.id == *id));
        if self.memory.termination.is_some() {
            return;
        }
        for one in running {
            if self.probing.contains_key(&one.id) {
                continue;
            }
            let Some((kind, container)) = container_named(pod, &one.name) else { continue };
            let probed = container.startup_probe.is_some()
                || container.liveness_probe.is_some()
                || container.readiness_probe.is_some();
            let tasks = self.tasks.child(&one.name);
            self.probing.insert(one.id.clone(), tasks.clone());
            if !probed || kind == Kind::Init {
                continue;
            }
            let ip = ips.first().cloned().unwrap_or_default();
            let since = one.started_at.unwrap_or(one.created_at);
            let wake = &self.signals.wake;
            probes::start(&self.shared, pod, (kind, container), &one.id, &ip, since, &self.results, wake, &tasks);
        }
    }

    fn publish(&self, pod: &Pod, observed: &Observed, now: Timestamp) {
        let mut shown = pod.clone();
        if let Some(newest) = self.shared.statuses.get(&self.id.uid) {
            // Conditions of others come from the API; one's own are newest here.
            shown.status = Some(merge_foreign(newest, pod));
        }
        let status = status(&shown, observed, &self.memory, &self.shared.node_facts(), now);
        let before = shown.status.as_ref().map(crash_loops).unwrap_or_default();
        for name in crash_loops(&status).difference(&before) {
            let kind = container_named(pod, name).map_or(Kind::App, |(kind, _)| kind);
            let message = format!("Back-off restarting failed container {name} in pod {}", self.id);
            self.shared.events.container(pod, (kind, name), true, "BackOff", message);
        }
        self.shared.statuses.set(&self.id, &status);
    }

    fn pod_ips(&self, pod: &Pod, observed: &Observed) -> Vec<String> {
        let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
        if host_network {
            return self.shared.config.node_ips.clone();
        }
        observed.ready_sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    }

    /// Brings the volumes of a running pod up to date; gives the time of the next need.
    async fn refresh(&mut self, pod: &Arc<Pod>, observed: &Observed, now: Timestamp) -> Option<Timestamp> {
        let due = self.mounted.as_ref().and_then(|mounted| mounted.refresh_at);
        if observed.ready_sandbox().is_none() || self.memory.termination.is_some() {
            return None;
        }
        let changed = self.signals.changed.swap(false, Ordering::AcqRel);
        if changed {
            // What was missing may be there now.
            self.memory.failures.retain(|_, one| one.reason != "CreateContainerConfigError");
            self.signals.wake.notify_one();
        }
        if self.mounted.is_some() && !changed && due.is_none_or(|due| now < due) {
            return due;
        }
        let facts = self.shared.facts(self.pod_ips(pod, observed));
        match self.shared.volumes.set_up(pod, &facts).await {
            Ok(mounted) => {
                let due = mounted.refresh_at;
                self.mounted = Some(mounted);
                due
            }
            Err((volume, error)) => {
                tracing::debug!(pod = %self.id, volume, %error, "refresh of volumes");
                Some(now + RETRY)
            }
        }
    }

    /// Does one thing. The error is the pause before the next look.
    async fn act(&mut self, pod: &Arc<Pod>, observed: &Observed, action: &Action) -> Result<(), SignedDuration> {
        let refused = |error: super::runtime::RuntimeError| {
            tracing::warn!(%error, ?action, "refused by the runtime");
            REFUSED_PAUSE
        };
        match action {
            Action::CreateSandbox { attempt } => Box::pin(self.create_sandbox(pod, *attempt)).await,
            Action::StopSandbox { id } => self.shared.runtime.stop_sandbox(id).await.map_err(refused)?,
            Action::Start { name, attempt } => self.start_container(pod, observed, name, *attempt).await,
            Action::Kill { id, name, grace_seconds, reason } => {
                self.kill(pod, observed, id, name, *grace_seconds, reason);
            }
            Action::Remove { id } => self.shared.runtime.remove(id).await.map_err(refused)?,
            Action::Resize { id, name } => {
                let Some((_, container)) = container_named(pod, name) else { return Ok(()) };
                self.shared.runtime.update(id, cgroup_values(&container)).await.map_err(refused)?;
                let _ = self.shared.cgroups.create(pod);
            }
            Action::Terminate(termination) => {
                if let Some((reason, message)) = &termination.failed {
                    self.shared.events.pod(pod, false, static_reason(reason), message.clone());
                }
                self.memory.termination = Some(termination.clone());
            }
            Action::TearDown => self.tear_down(pod, observed).await?,
        }
        Ok(())
    }

    fn sandbox_config(&self, pod: &Pod, attempt: u32) -> PodSandboxConfig {
        let config = &self.shared.config;
        let context = SandboxContext {
            cluster_dns: config.cluster_dns.clone(),
            cluster_domain: config.cluster_domain.clone(),
            host_resolver: self.shared.host_resolver.clone(),
            pod_logs_dir: config.pod_logs_dir.to_string_lossy().into_owned(),
            cgroup_parent: self.shared.cgroups.path(pod),
            seccomp_folder: self.shared.seccomp_folder(),
        };
        sandbox::config(pod, attempt, &context)
    }

    async fn create_sandbox(&mut self, pod: &Arc<Pod>, attempt: u32) {
        let interrupt = self.signals.interrupt.clone();
        let made = interrupt.run_until_cancelled(Box::pin(self.prepare(pod))).await;
        let made = match made {
            None => return,
            Some(Ok(handler)) => {
                let config = self.sandbox_config(pod, attempt);
                let made = self.shared.runtime.run_sandbox(config, handler).await;
                made.map_err(|error| {
                    let message = format!("Failed to create pod sandbox: {error}");
                    self.shared.events.pod(pod, true, "FailedCreatePodSandBox", message.clone());
                    message
                })
            }
            Some(Err(error)) => Err(error),
        };
        match made {
            Ok(id) => {
                self.shared.own(&id, &self.id.uid);
                self.memory.pod_failure = None;
                self.memory.pod_backoff = Backoff::default();
            }
            Err(message) => {
                let now = self.shared.config.clock.now();
                let pause = self.memory.pod_backoff.next_within(now, now, POD_RETRY_FIRST, POD_RETRY_LONGEST);
                self.memory.pod_failure = Some(failure("ContainerCreating", message, now + pause));
            }
        }
    }

    /// Folders, cgroup and volumes; gives the runtime handler.
    async fn prepare(&mut self, pod: &Arc<Pod>) -> Result<String, String> {
        let folder = self.shared.volumes.pod_folder(&self.id.uid);
        let logs = self.shared.config.pod_logs_dir.join(self.id.log_folder());
        for path in [&folder, &logs] {
            std::fs::create_dir_all(path).map_err(|error| format!("make {}: {error}", path.display()))?;
        }
        self.shared.cgroups.create(pod).map_err(|error| {
            let message = format!(
                "failed to ensure that the pod: {} cgroups exist and are correctly applied: {error}",
                self.id.uid
            );
            self.shared.events.pod(pod, true, "FailedCreatePodContainer", message.clone());
            message
        })?;
        let facts = self.shared.facts(Vec::new());
        let mounted = self.shared.volumes.set_up(pod, &facts).await.map_err(|(volume, error)| {
            let message = format!("MountVolume.SetUp failed for volume {volume:?} : {error}");
            self.shared.events.pod(pod, true, "FailedMount", message.clone());
            message
        })?;
        self.mounted = Some(mounted);
        let class = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.clone()).filter(|name| !name.is_empty());
        let Some(class) = class else { return Ok(String::new()) };
        let api: kube::Api<RuntimeClass> = kube::Api::all(self.shared.config.client.clone());
        let found = api.get(&class).await.map_err(|error| format!("RuntimeClass {class:?}: {error}"))?;
        Ok(found.handler)
    }

    async fn start_container(&mut self, pod: &Arc<Pod>, observed: &Observed, name: &str, attempt: u32) {
        let (Some((kind, container)), Some(sandbox)) = (container_named(pod, name), observed.ready_sandbox()) else {
            return;
        };
        let facts = self.shared.facts(self.pod_ips(pod, observed));
        if self.mounted.is_none() {
            match self.shared.volumes.set_up(pod, &facts).await {
                Ok(mounted) => self.mounted = Some(mounted),
                Err((volume, error)) => {
                    let message = format!("MountVolume.SetUp failed for volume {volume:?} : {error}");
                    self.fail(
                        pod,
                        &container,
                        failure("ContainerCreating", message, self.shared.config.clock.now() + RETRY),
                    );
                    return;
                }
            }
        }
        if attempt > 0 {
            let finished = observed.latest(name).and_then(|last| last.finished_at);
            let now = self.shared.config.clock.now();
            self.memory.crashes.entry(name.to_owned()).or_default().next(finished.unwrap_or(now), now);
        }
        let sandbox_config = self.sandbox_config(pod, sandbox.attempt);
        let start = Start {
            shared: &self.shared,
            pod,
            kind,
            container: &container,
            attempt,
            sandbox_id: &sandbox.id,
            sandbox_config: &sandbox_config,
            volumes: self.mounted.as_ref().unwrap_or(&EMPTY),
            facts: &facts,
            target: target_of(pod, kind, name, observed),
        };
        let interrupt = self.signals.interrupt.clone();
        match interrupt.run_until_cancelled(Box::pin(start.run())).await {
            None => {}
            Some(Ok(_)) => {
                self.memory.failures.remove(name);
                self.memory.pulls.remove(container.image.as_deref().unwrap_or_default());
            }
            Some(Err(failure)) => self.fail(pod, &container, failure),
        }
    }

    /// Notes a failed start; a pull waits by its image's back-off.
    fn fail(&mut self, pod: &Pod, container: &Container, mut failure: StartFailure) {
        if failure.reason == "ErrImagePull" {
            let now = self.shared.config.clock.now();
            let image = container.image.clone().unwrap_or_default();
            let delay = self.memory.pulls.entry(image.clone()).or_default().next(now, now);
            failure.retry_at = now + delay;
            let kind = container_named(pod, &container.name).map_or(Kind::App, |(kind, _)| kind);
            let about = (kind, container.name.as_str());
            self.shared.events.container(pod, about, false, "BackOff", format!("Back-off pulling image {image:?}"));
        }
        self.memory.failures.insert(container.name.clone(), failure);
    }

    /// Ends a container in a task of its own: others of the pod go on.
    fn kill(&self, pod: &Arc<Pod>, observed: &Observed, id: &str, name: &str, seconds: i64, reason: &KillReason) {
        let found = container_named(pod, name);
        let container =
            found.clone().map_or_else(|| Container { name: name.to_owned(), ..Container::default() }, |(_, one)| one);
        let kind = found.map_or(Kind::App, |(kind, _)| kind);
        let message = match reason {
            KillReason::PodEnds | KillReason::SandboxGone => format!("Stopping container {name}"),
            KillReason::Probe(probe) => format!("Container {name} failed {probe} probe, will be restarted"),
            KillReason::Changed => format!("Container {name} definition changed, will be restarted"),
        };
        self.shared.events.container(pod, (kind, name), false, "Killing", message);
        let token = CancellationToken::new();
        self.killing.lock().insert(id.to_owned(), token.clone());
        let first = self.hooked.lock().insert(id.to_owned());
        let job = KillJob {
            shared: self.shared.clone(),
            pod: pod.clone(),
            kind,
            container,
            id: id.to_owned(),
            pod_ip: self.pod_ips(pod, observed).first().cloned().unwrap_or_default(),
            seconds,
            hook: first && seconds > 0 && *reason != KillReason::SandboxGone,
        };
        let (killing, wake, id) = (self.killing.clone(), self.signals.wake.clone(), id.to_owned());
        self.tasks.spawn("kill", OnError::Log, async move {
            if token.run_until_cancelled(Box::pin(job.run())).await.is_some() {
                killing.lock().remove(&id);
            }
            wake.notify_one();
            Ok::<(), std::convert::Infallible>(())
        });
    }

    async fn tear_down(&mut self, pod: &Pod, observed: &Observed) -> Result<(), SignedDuration> {
        let deleted = self.memory.termination.as_ref().is_some_and(|ending| ending.deleted);
        let refused = |error: &dyn std::fmt::Display| {
            tracing::warn!(pod = %PodId::of(pod), %error, "a part of the pod stays for the next try");
            REFUSED_PAUSE
        };
        if deleted {
            for container in &observed.containers {
                self.shared.runtime.remove(&container.id).await.map_err(|error| refused(&error))?;
            }
            for sandbox in &observed.sandboxes {
                self.shared.runtime.remove_sandbox(&sandbox.id).await.map_err(|error| refused(&error))?;
            }
        }
        self.shared.volumes.tear_down(&self.id.uid, deleted).await.map_err(|error| refused(&error))?;
        self.shared.cgroups.remove(&self.shared.cgroups.path(pod)).await;
        self.mounted = None;
        self.shared.objects.release(&self.id.uid);
        if deleted {
            let logs = self.shared.config.pod_logs_dir.join(self.id.log_folder());
            let _ = std::fs::remove_dir_all(logs);
        }
        self.memory.torn_down = true;
        Ok(())
    }
}

/// Containers that wait after crashes.
fn crash_loops(status: &k8s_openapi::api::core::v1::PodStatus) -> std::collections::BTreeSet<String> {
    let lists = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let waits = lists.filter(|one| {
        let waiting = one.state.as_ref().and_then(|state| state.waiting.as_ref());
        waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff"))
    });
    waits.map(|one| one.name.clone()).collect()
}

static EMPTY: Mounted = Mounted { places: BTreeMap::new(), refresh_at: None };

/// The container whose processes an ephemeral one wants to see.
fn target_of(pod: &Pod, kind: Kind, name: &str, observed: &Observed) -> Option<String> {
    if kind != Kind::Ephemeral {
        return None;
    }
    let list = pod.spec.as_ref()?.ephemeral_containers.as_ref()?;
    let target = list.iter().find(|one| one.name == name)?.target_container_name.as_deref()?;
    observed.latest(target).map(|run| run.id.clone())
}

/// The newest status of one's own, with the conditions of others as the API has them.
fn merge_foreign(
    mut newest: k8s_openapi::api::core::v1::PodStatus,
    pod: &Pod,
) -> k8s_openapi::api::core::v1::PodStatus {
    let shown = pod.status.clone().unwrap_or_default();
    let own = newest.conditions.take().unwrap_or_default();
    let mut all: Vec<_> = shown.conditions.unwrap_or_default();
    all.retain(|condition| own.iter().all(|one| one.type_ != condition.type_) || !is_own(&condition.type_));
    all.extend(own.into_iter().filter(|condition| is_own(&condition.type_)));
    newest.conditions = Some(all);
    newest.nominated_node_name = shown.nominated_node_name;
    // A last phase that somebody else wrote is the pod's.
    if already_over(pod) {
        newest.phase = shown.phase;
        newest.reason = shown.reason.or(newest.reason);
        newest.message = shown.message.or(newest.message);
    }
    newest.resource_claim_statuses = shown.resource_claim_statuses;
    newest
}

fn is_own(condition: &str) -> bool {
    matches!(condition, "PodReadyToStartContainers" | "Initialized" | "Ready" | "ContainersReady" | "PodScheduled")
}

/// Reasons of events are fixed words.
fn static_reason(reason: &str) -> &'static str {
    match reason {
        "NodeAffinity" => "NodeAffinity",
        "NodePorts" => "NodePorts",
        "TaintToleration" => "TaintToleration",
        "OutOfcpu" => "OutOfcpu",
        "OutOfmemory" => "OutOfmemory",
        "OutOfpods" => "OutOfpods",
        "DeadlineExceeded" => "DeadlineExceeded",
        "Evicted" => "Evicted",
        "SysctlForbidden" => "SysctlForbidden",
        _ => "AdmissionFailed",
    }
}

/// Ends one container: hook, then signal, then force.
struct KillJob {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    kind: Kind,
    container: Container,
    id: String,
    pod_ip: String,
    seconds: i64,
    hook: bool,
}

/// Least time between the signal and force, even when the hook used all of it.
const LEAST_SECONDS: i64 = 2;

impl KillJob {
    async fn run(self) {
        let mut left = self.seconds;
        let hook = self.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        if let Some(hook) = hook.filter(|_| self.hook) {
            let started = tokio::time::Instant::now();
            let limit = Duration::from_secs(u64::try_from(left).unwrap_or(0));
            let work = run_hook(&self.shared.runtime, hook, &self.container, &self.id, &self.pod_ip, limit);
            let outcome = tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err("timed out".into()));
            if let Err(error) = outcome {
                let about = (self.kind, self.container.name.as_str());
                self.shared.events.container(
                    &self.pod,
                    about,
                    true,
                    "FailedPreStopHook",
                    format!("PreStopHook failed: {error}"),
                );
            }
            let spent = i64::try_from(started.elapsed().as_secs()).unwrap_or(i64::MAX);
            left = left.saturating_sub(spent).max(LEAST_SECONDS);
        }
        if let Err(error) = self.shared.runtime.stop(&self.id, left).await
            && !error.not_found()
        {
            tracing::warn!(container = %self.id, %error, "stop");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}
