//! What is true of a pod, as the API shows it: phase, conditions, one status per container.

use super::model::{
    Kind, Memory, Observed, ObservedContainer, RunState, container_named, containers_of, pod_restart_policy, restarts,
};
use super::plan::init_failed;
use super::resources::qos;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What a pod's status says of the node.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeFacts {
    pub(crate) ips: Vec<String>,
    /// `containerd`: the scheme of container ids.
    pub(crate) runtime: String,
}

/// Condition types that this agent writes; all others belong to someone else and stay as they are.
const OWN_CONDITIONS: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// The status of a pod.
pub(crate) fn status(pod: &Pod, observed: &Observed, memory: &Memory, node: &NodeFacts, now: Timestamp) -> PodStatus {
    let before = pod.status.clone().unwrap_or_default();
    let look = Look { pod, observed, memory, node, now, before: &before };
    let (mut init, mut apps, mut ephemeral) = (Vec::new(), Vec::new(), Vec::new());
    for (kind, container) in containers_of(pod) {
        let one = look.container(kind, &container);
        match kind {
            Kind::Init | Kind::Sidecar => init.push(one),
            Kind::App => apps.push(one),
            Kind::Ephemeral => ephemeral.push(one),
        }
    }
    let failed = memory
        .termination
        .as_ref()
        .and_then(|termination| termination.failed.clone())
        .or_else(|| memory.rejected.clone())
        .or_else(|| over_before(&before));
    let phase = if memory.rejected.is_some() { "Failed" } else { look.phase(&init, &apps, failed.is_some()) };
    let ips = look.pod_ips();
    let host = &node.ips;
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        reason: failed.as_ref().map(|(reason, _)| reason.clone()).filter(|reason| !reason.is_empty()),
        message: failed.map(|(_, message)| message).filter(|message| !message.is_empty()),
        host_ip: host.first().cloned(),
        host_ips: Some(host.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: before.start_time.clone().or_else(|| memory.started_at.map(Time)),
        qos_class: before.qos_class.clone().or_else(|| Some(qos(pod).name().to_owned())),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: (!apps.is_empty() && memory.rejected.is_none()).then_some(apps),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        observed_generation: pod.metadata.generation,
        ..before.clone()
    };
    if memory.rejected.is_some() {
        status.init_container_statuses = None;
    }
    status.conditions = Some(look.conditions(&status));
    status
}

fn over_before(before: &PodStatus) -> Option<(String, String)> {
    (before.phase.as_deref() == Some("Failed") && before.reason.is_some())
        .then(|| (before.reason.clone().unwrap_or_default(), before.message.clone().unwrap_or_default()))
}

struct Look<'a> {
    pod: &'a Pod,
    observed: &'a Observed,
    memory: &'a Memory,
    node: &'a NodeFacts,
    now: Timestamp,
    before: &'a PodStatus,
}

impl Look<'_> {
    fn ending(&self) -> bool {
        self.memory.termination.is_some()
            || matches!(self.before.phase.as_deref(), Some("Succeeded" | "Failed"))
            || self.memory.rejected.is_some()
    }

    fn pod_ips(&self) -> Vec<String> {
        let host_network = self.pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
        match self.observed.sandboxes.first() {
            Some(sandbox) if host_network && sandbox.ready => self.node.ips.clone(),
            Some(sandbox) if sandbox.ready => sandbox.ips.clone(),
            _ => self.before.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
        }
    }

    fn container(&self, kind: Kind, container: &Container) -> ContainerStatus {
        let Some(run) = self.observed.latest(&container.name) else { return self.absent(container) };
        let previous = self.observed.previous(&container.name);
        let mut one = ContainerStatus {
            name: container.name.clone(),
            image: shown_image(container, run),
            image_id: run.image_ref.clone(),
            container_id: Some(format!("{}://{}", self.node.runtime, run.id)),
            restart_count: i32::try_from(run.attempt).unwrap_or(i32::MAX),
            ..ContainerStatus::default()
        };
        match run.state {
            RunState::Running => {
                one.state = Some(ContainerState {
                    running: Some(ContainerStateRunning { started_at: run.started_at.map(Time) }),
                    ..ContainerState::default()
                });
                one.last_state = previous.map(|previous| self.terminated(previous));
                self.running(kind, container, run, &mut one);
            }
            RunState::Exited => self.exited(kind, container, run, previous, &mut one),
            RunState::Created | RunState::Unknown => {
                one.state = Some(self.waiting(kind, container));
                one.last_state = previous.map(|previous| self.terminated(previous));
                one.started = Some(false);
            }
        }
        one.resources.clone_from(&container.resources);
        one.allocated_resources = container.resources.as_ref().and_then(|resources| resources.requests.clone());
        one
    }

    fn running(&self, kind: Kind, container: &Container, run: &ObservedContainer, one: &mut ContainerStatus) {
        let results = self.memory.probes.get(&run.id);
        let started = container.startup_probe.is_none() || results.is_some_and(|results| results.started);
        let probed = container.readiness_probe.is_none() || results.is_some_and(|results| results.ready);
        one.started = Some(started);
        one.ready = kind != Kind::Ephemeral && kind != Kind::Init && started && probed;
    }

    fn exited(
        &self,
        kind: Kind,
        container: &Container,
        run: &ObservedContainer,
        previous: Option<&ObservedContainer>,
        one: &mut ContainerStatus,
    ) {
        one.started = Some(false);
        let again = restarts(self.pod, kind, container, run.exit_code) && !self.ending();
        let backing_off = self.backing_off(container, run);
        if again && let Some(waiting) = self.failure(container).or(backing_off) {
            one.state = Some(waiting);
            one.last_state = Some(self.terminated(run));
            return;
        }
        one.state = Some(self.terminated(run));
        one.last_state = previous.map(|previous| self.terminated(previous));
        one.ready = kind == Kind::Init && run.exit_code == 0;
    }

    fn backing_off(&self, container: &Container, run: &ObservedContainer) -> Option<ContainerState> {
        let crash = self.memory.crashes.get(&container.name)?;
        if self.now >= crash.until(run.finished_at?) {
            return None;
        }
        let id = super::names::PodId::of(self.pod);
        let delay = go_duration(crash.delay().as_secs());
        let message = format!("back-off {delay} restarting failed container={} pod={id}", container.name);
        Some(waiting("CrashLoopBackOff", Some(message)))
    }

    fn failure(&self, container: &Container) -> Option<ContainerState> {
        let failure = self.memory.failures.get(&container.name)?;
        let (reason, message) = failure.shown(container.image.as_deref().unwrap_or_default(), self.now);
        Some(waiting(reason, Some(message)))
    }

    fn waiting(&self, kind: Kind, container: &Container) -> ContainerState {
        if let Some(failure) = self.failure(container) {
            return failure;
        }
        let has_init = self.pod.spec.as_ref().is_some_and(|spec| spec.init_containers.iter().flatten().count() > 0);
        if has_init && kind != Kind::Ephemeral {
            return waiting("PodInitializing", None);
        }
        waiting("ContainerCreating", None)
    }

    /// A container of which the runtime has nothing: not yet made, or lost.
    fn absent(&self, container: &Container) -> ContainerStatus {
        let lists = [
            &self.before.container_statuses,
            &self.before.init_container_statuses,
            &self.before.ephemeral_container_statuses,
        ];
        let known = lists.into_iter().flatten().flatten().find(|one| one.name == container.name);
        if let Some(known) = known.filter(|known| known.container_id.is_some()) {
            let state = known.state.clone().unwrap_or_default();
            if state.terminated.is_some() {
                return known.clone();
            }
            if self.ending() {
                return lost(known);
            }
        }
        let kind = container_named(self.pod, &container.name).map_or(Kind::App, |(kind, _)| kind);
        ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            started: Some(false),
            state: Some(self.waiting(kind, container)),
            restart_count: known.map_or(0, |known| known.restart_count),
            last_state: known.and_then(|known| known.last_state.clone()),
            ..ContainerStatus::default()
        }
    }

    fn terminated(&self, run: &ObservedContainer) -> ContainerState {
        let reason = match (run.reason.as_str(), run.exit_code) {
            ("", 0) => "Completed".to_owned(),
            ("", _) => "Error".to_owned(),
            (reason, _) => reason.to_owned(),
        };
        let message = run.termination_message.clone().filter(|text| !text.is_empty());
        let message = message.or_else(|| Some(run.message.clone()).filter(|text| !text.is_empty()));
        ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: Some(format!("{}://{}", self.node.runtime, run.id)),
                exit_code: run.exit_code,
                reason: Some(reason),
                message,
                started_at: run.started_at.map(Time),
                finished_at: run.finished_at.map(Time),
                signal: None,
            }),
            ..ContainerState::default()
        }
    }

    fn phase(&self, init: &[ContainerStatus], apps: &[ContainerStatus], failed: bool) -> &'static str {
        let over = match self.before.phase.as_deref() {
            Some("Failed") => Some("Failed"),
            Some("Succeeded") => Some("Succeeded"),
            _ => None,
        };
        if let Some(over) = over {
            return over;
        }
        let alive = self.observed.alive().next().is_some();
        if failed {
            return if alive { self.live_phase(apps) } else { "Failed" };
        }
        let containers = containers_of(self.pod);
        if init_failed(self.pod, &containers, self.observed, None) {
            return if alive { "Pending" } else { "Failed" };
        }
        let exits = |one: &ContainerStatus| {
            let state = one.state.as_ref()?;
            state.terminated.as_ref().map(|terminated| terminated.exit_code)
        };
        let all_over = !apps.is_empty() && apps.iter().all(|one| exits(one).is_some());
        let ending = self.memory.termination.is_some();
        if all_over {
            let never_again = apps.iter().all(|one| {
                let container = container_named(self.pod, &one.name);
                container
                    .is_some_and(|(kind, container)| !restarts(self.pod, kind, &container, exits(one).unwrap_or(0)))
            });
            if never_again || ending {
                let good = apps.iter().all(|one| exits(one) == Some(0));
                return match (good, alive) {
                    (_, true) => "Running",
                    (true, false) => "Succeeded",
                    (false, false) => "Failed",
                };
            }
            return "Running";
        }
        let initialized = self.initialized(init);
        if ending && !alive && apps.iter().all(|one| exits(one).is_none()) {
            return "Failed";
        }
        if !initialized { "Pending" } else { self.live_phase(apps) }
    }

    fn live_phase(&self, apps: &[ContainerStatus]) -> &'static str {
        let waiting_first = apps.iter().any(|one| {
            let waiting = one.state.as_ref().is_some_and(|state| state.waiting.is_some());
            let ran = one.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
            waiting && !ran
        });
        let never = pod_restart_policy(self.pod) == "Never" && apps.is_empty();
        if waiting_first || never { "Pending" } else { "Running" }
    }

    fn initialized(&self, init: &[ContainerStatus]) -> bool {
        let began = self
            .pod
            .spec
            .iter()
            .flat_map(|spec| &spec.containers)
            .any(|container| self.observed.latest(&container.name).is_some());
        began
            || init.iter().all(|one| {
                let sidecar = container_named(self.pod, &one.name).is_some_and(|(kind, _)| kind == Kind::Sidecar);
                let done = one.state.as_ref().and_then(|state| state.terminated.as_ref());
                if sidecar { one.started == Some(true) } else { done.is_some_and(|done| done.exit_code == 0) }
            })
    }

    fn conditions(&self, status: &PodStatus) -> Vec<PodCondition> {
        let apps = status.container_statuses.as_deref().unwrap_or_default();
        let init = status.init_container_statuses.as_deref().unwrap_or_default();
        let phase = status.phase.as_deref().unwrap_or_default();
        let sandbox_up = self.observed.ready_sandbox().is_some() && status.pod_ip.is_some();
        let initialized = self.initialized_condition(init, phase);
        let containers_ready = self.containers_ready(apps, init, phase);
        let ready = self.ready(&containers_ready);
        let own = [
            ("PodReadyToStartContainers", (sandbox_up, None, None)),
            ("Initialized", initialized),
            ("Ready", ready),
            ("ContainersReady", containers_ready),
            ("PodScheduled", (true, None, None)),
        ];
        let old = self.before.conditions.as_deref().unwrap_or_default();
        let foreign = old.iter().filter(|condition| !OWN_CONDITIONS.contains(&condition.type_.as_str())).cloned();
        let own = own.into_iter().map(|(name, verdict)| self.condition(name, verdict, old));
        own.chain(foreign).collect()
    }

    fn condition(&self, name: &str, (yes, reason, message): Verdict, old: &[PodCondition]) -> PodCondition {
        let status = if yes { "True" } else { "False" };
        let before = old.iter().find(|condition| condition.type_ == name);
        let same = before.filter(|condition| condition.status == status);
        let since = same.and_then(|condition| condition.last_transition_time.clone());
        PodCondition {
            type_: name.to_owned(),
            status: status.to_owned(),
            reason,
            message,
            last_transition_time: Some(since.unwrap_or(Time(self.now))),
            observed_generation: self.pod.metadata.generation,
            last_probe_time: None,
        }
    }

    fn initialized_condition(&self, init: &[ContainerStatus], phase: &str) -> Verdict {
        if phase == "Succeeded" {
            return (true, Some("PodCompleted".into()), None);
        }
        let (mut unready, mut unknown) = (Vec::new(), false);
        let began = self.initialized(init);
        for one in init {
            let sidecar = container_named(self.pod, &one.name).is_some_and(|(kind, _)| kind == Kind::Sidecar);
            // A plain one that runs has begun, too, but is not done.
            let done = one.ready || (sidecar && one.started == Some(true));
            if !done && !began {
                unready.push(one.name.as_str());
            }
            unknown |= one.name.is_empty();
        }
        if unready.is_empty() && !unknown && self.memory.rejected.is_none() {
            return (true, None, None);
        }
        let message = format!("containers with incomplete status: [{}]", unready.join(" "));
        (false, Some("ContainersNotInitialized".into()), Some(message))
    }

    fn containers_ready(&self, apps: &[ContainerStatus], init: &[ContainerStatus], phase: &str) -> Verdict {
        match phase {
            "Succeeded" => return (false, Some("PodCompleted".into()), None),
            "Failed" => return (false, Some("PodFailed".into()), None),
            _ => {}
        }
        let sidecar = |one: &&ContainerStatus| {
            container_named(self.pod, &one.name).is_some_and(|(kind, _)| kind == Kind::Sidecar)
        };
        let unready: Vec<&str> =
            init.iter().filter(sidecar).chain(apps).filter(|one| !one.ready).map(|one| one.name.as_str()).collect();
        if unready.is_empty() {
            return (true, None, None);
        }
        let message = format!("containers with unready status: [{}]", unready.join(" "));
        (false, Some("ContainersNotReady".into()), Some(message))
    }

    fn ready(&self, containers: &Verdict) -> Verdict {
        if !containers.0 {
            return containers.clone();
        }
        let gates = self.pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
        let mut problems = Vec::new();
        for gate in gates {
            let found = self.before.conditions.iter().flatten().find(|one| one.type_ == gate.condition_type);
            match found {
                None => problems.push(format!(
                    "corresponding condition of pod readiness gate {:?} does not exist.",
                    gate.condition_type
                )),
                Some(one) if one.status != "True" => problems.push(format!(
                    "the status of pod readiness gate {:?} is not \"True\", but {}",
                    gate.condition_type, one.status
                )),
                Some(_) => {}
            }
        }
        if problems.is_empty() {
            return (true, None, None);
        }
        (false, Some("ReadinessGatesNotReady".into()), Some(problems.join(", ")))
    }
}

type Verdict = (bool, Option<String>, Option<String>);

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting { reason: Some(reason.to_owned()), message: message.filter(|m| !m.is_empty()) };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

/// The image as the pod names it; the runtime may answer with a digest.
fn shown_image(container: &Container, run: &ObservedContainer) -> String {
    let named = !run.image.is_empty() && !run.image.starts_with("sha256:");
    if named { run.image.clone() } else { container.image.clone().unwrap_or_default() }
}

fn lost(known: &ContainerStatus) -> ContainerStatus {
    let state = ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some("The container could not be located when the pod was terminated".into()),
            container_id: known.container_id.clone(),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    };
    ContainerStatus { state: Some(state), ready: false, started: Some(false), ..known.clone() }
}

/// Seconds as Go prints a duration: `10s`, `1m20s`, `5m0s`.
fn go_duration(seconds: i64) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
