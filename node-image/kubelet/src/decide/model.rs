//! What the shell observed of a pod, and what it remembers between two looks: the inputs of `plan` and `status`.

use super::backoff::Backoff;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};
use std::collections::{BTreeMap, BTreeSet};

/// What a container is for; decides when it starts and whether it restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Runs to completion before the next one.
    Init,
    /// An init container with `restartPolicy: Always`: starts in order, then runs beside the pod's containers.
    Sidecar,
    /// One of `spec.containers`.
    App,
    /// Added to a running pod for a look inside; never restarts.
    Ephemeral,
}

/// State of a container as the runtime tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunState {
    Created,
    Running,
    Exited,
    Unknown,
}

/// One run of a container.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ObservedContainer {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) attempt: u32,
    pub(crate) sandbox_id: String,
    pub(crate) state: RunState,
    pub(crate) created_at: Timestamp,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) image: String,
    pub(crate) image_ref: String,
    /// Of the parts of the definition whose change means a new container.
    pub(crate) hash: String,
    pub(crate) log_path: String,
    /// What the process left at its termination message path, or the end of its log.
    pub(crate) termination_message: Option<String>,
    /// CPU shares, CPU quota, memory limit in bytes, when the runtime tells them.
    pub(crate) limits: Option<(i64, i64, i64)>,
}

/// One sandbox of a pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ObservedSandbox {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) ready: bool,
    pub(crate) created_at: Timestamp,
    pub(crate) ips: Vec<String>,
}

/// Everything the runtime has of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Observed {
    /// Newest first.
    pub(crate) sandboxes: Vec<ObservedSandbox>,
    /// Newest attempt first.
    pub(crate) containers: Vec<ObservedContainer>,
}

impl Observed {
    /// Puts sandboxes and containers in the order that the other functions rely on.
    pub(crate) fn sorted(mut self) -> Self {
        self.sandboxes.sort_by(|a, b| (b.attempt, b.created_at, &b.id).cmp(&(a.attempt, a.created_at, &a.id)));
        self.containers.sort_by(|a, b| (b.attempt, b.created_at, &b.id).cmp(&(a.attempt, a.created_at, &a.id)));
        self
    }

    /// The newest sandbox, if it is ready.
    pub(crate) fn ready_sandbox(&self) -> Option<&ObservedSandbox> {
        self.sandboxes.first().filter(|sandbox| sandbox.ready)
    }

    /// The newest run of a container.
    pub(crate) fn latest(&self, name: &str) -> Option<&ObservedContainer> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The newest run of a container within one sandbox.
    pub(crate) fn latest_in(&self, sandbox: &str, name: &str) -> Option<&ObservedContainer> {
        self.containers.iter().find(|container| container.name == name && container.sandbox_id == sandbox)
    }

    /// The run before the newest one.
    pub(crate) fn previous(&self, name: &str) -> Option<&ObservedContainer> {
        self.containers.iter().filter(|container| container.name == name).nth(1)
    }

    /// Containers whose process may be alive.
    pub(crate) fn alive(&self) -> impl Iterator<Item = &ObservedContainer> {
        self.containers.iter().filter(|container| matches!(container.state, RunState::Running | RunState::Unknown))
    }
}

/// Results of the probes of one run of a container; absent while no probe has a result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProbeResults {
    pub(crate) started: bool,
    pub(crate) ready: bool,
    /// The probe that ended the container's right to run: `liveness` or `startup`.
    pub(crate) failed: Option<&'static str>,
}

/// Why a container does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StartFailure {
    /// As clients know it: `ErrImagePull`, `CreateContainerConfigError` and so on.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) retry_at: Timestamp,
}

impl StartFailure {
    /// What clients see of it at `now`: while a pull waits for its next try it is backing off.
    pub(crate) fn shown(&self, image: &str, now: Timestamp) -> (&'static str, String) {
        if self.reason == "ErrImagePull" && now < self.retry_at && !self.message.is_empty() {
            return ("ImagePullBackOff", format!("Back-off pulling image {image:?}: ErrImagePull: {}", self.message));
        }
        (self.reason, self.message.clone())
    }
}

/// Why a pod ends although its containers could go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Termination {
    pub(crate) since: Timestamp,
    pub(crate) grace_seconds: i64,
    /// Whether the API object is being deleted: then nothing of the pod stays.
    pub(crate) deleted: bool,
    /// Phase `Failed` with this reason and message: eviction, deadline.
    pub(crate) failed: Option<(String, String)>,
}

/// What the shell remembers of a pod between two looks. Losing it (a restart) loses back-offs, nothing else.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) crashes: BTreeMap<String, Backoff>,
    pub(crate) pulls: BTreeMap<String, Backoff>,
    pub(crate) failures: BTreeMap<String, StartFailure>,
    /// Volumes or sandbox: nothing starts before this time.
    pub(crate) pod_failure: Option<StartFailure>,
    pub(crate) pod_backoff: Backoff,
    pub(crate) termination: Option<Termination>,
    /// Ids of containers that a task is ending.
    pub(crate) killing: BTreeSet<String>,
    /// By container id.
    pub(crate) probes: BTreeMap<String, ProbeResults>,
    /// Why the node refused the pod.
    pub(crate) rejected: Option<(String, String)>,
    /// The API has shown a last phase: nothing of the pod runs again, whatever the API shows later.
    pub(crate) over: bool,
    /// Volumes, cgroups and networks of the pod are gone.
    pub(crate) torn_down: bool,
    pub(crate) started_at: Option<Timestamp>,
}

/// A pod's containers in one list, ephemeral ones in the shape of the others.
pub(crate) fn containers_of(pod: &Pod) -> Vec<(Kind, Container)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().flatten().map(|container| {
        let kind = if container.restart_policy.as_deref() == Some("Always") { Kind::Sidecar } else { Kind::Init };
        (kind, container.clone())
    });
    let apps = spec.containers.iter().map(|container| (Kind::App, container.clone()));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|one| (Kind::Ephemeral, from_ephemeral(one)));
    init.chain(apps).chain(ephemeral).collect()
}

fn from_ephemeral(one: &EphemeralContainer) -> Container {
    let one = one.clone();
    Container {
        args: one.args,
        command: one.command,
        env: one.env,
        env_from: one.env_from,
        image: one.image,
        image_pull_policy: one.image_pull_policy,
        name: one.name,
        resources: one.resources,
        security_context: one.security_context,
        stdin: one.stdin,
        stdin_once: one.stdin_once,
        termination_message_path: one.termination_message_path,
        termination_message_policy: one.termination_message_policy,
        tty: one.tty,
        volume_devices: one.volume_devices,
        volume_mounts: one.volume_mounts,
        working_dir: one.working_dir,
        ..Container::default()
    }
}

/// The container of that name.
pub(crate) fn container_named(pod: &Pod, name: &str) -> Option<(Kind, Container)> {
    containers_of(pod).into_iter().find(|(_, container)| container.name == name)
}

/// `spec.restartPolicy`, `Always` when absent.
pub(crate) fn pod_restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

/// Whether a container that ended with `exit_code` runs again.
pub(crate) fn restarts(pod: &Pod, kind: Kind, container: &Container, exit_code: i32) -> bool {
    if kind == Kind::Ephemeral {
        return false;
    }
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.as_ref().is_some_and(|values| values.contains(&exit_code));
        let matches = if codes.operator == "NotIn" { !listed } else { listed };
        if matches {
            return rule.action == "Restart";
        }
    }
    let policy = container.restart_policy.as_deref().unwrap_or_else(|| pod_restart_policy(pod));
    match (policy, kind) {
        ("Never", _) => false,
        // An init container that succeeded is done, whatever the pod's policy.
        ("OnFailure", _) | (_, Kind::Init) => exit_code != 0,
        _ => true,
    }
}
