//! What one pod needs next. A look: spec, what the runtime has, what is remembered, the time; out come actions and
//! the time of the next look that no event will bring. Decides only; the worker acts and looks again.

use super::model::{Kind, Memory, Observed, ObservedContainer, RunState, Termination, containers_of, restarts};
use super::resources::limits_of;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make the pod's directories, cgroup and volumes, then a sandbox.
    CreateSandbox {
        attempt: u32,
    },
    StopSandbox {
        id: String,
    },
    /// Pull if needed, create and start.
    Start {
        name: String,
        attempt: u32,
    },
    /// Ask the process to end, with a limit.
    Kill {
        id: String,
        name: String,
        grace_seconds: i64,
        reason: KillReason,
    },
    /// Remove what never ran.
    Remove {
        id: String,
    },
    /// Give a running container other limits.
    Resize {
        id: String,
        name: String,
    },
    /// From here on the pod is ending.
    Terminate(Termination),
    /// Volumes, cgroup and, of a deleted pod, containers and directories go away.
    TearDown,
}

/// Why a container is ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KillReason {
    /// The pod ends.
    PodEnds,
    /// A probe failed for good: `liveness` or `startup`.
    Probe(&'static str),
    /// The definition changed.
    Changed,
    /// Its sandbox is gone.
    SandboxGone,
}

/// What to do, and when to look again if nothing happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) wake_at: Option<Timestamp>,
    /// Whether the pod is at its end: phase `Succeeded` or `Failed`, for good.
    pub(crate) finished: bool,
}

impl Plan {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
    }
}

/// Default of `terminationGracePeriodSeconds`.
pub(crate) const DEFAULT_GRACE_SECONDS: i64 = 30;
/// Least time that a container gets to end once asked.
const LEAST_GRACE_SECONDS: i64 = 2;

/// Decides what a pod needs.
pub(crate) fn plan(pod: &Pod, observed: &Observed, memory: &Memory, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if let Some(termination) = &memory.termination {
        end(pod, observed, memory, termination, now, &mut plan);
        return plan;
    }
    if memory.rejected.is_some() || memory.over || already_over(pod) {
        plan.finished = true;
        end(pod, observed, memory, &finished(pod, now), now, &mut plan);
        return plan;
    }
    if let Some(termination) = deadline(pod, memory, now, &mut plan) {
        plan.actions.push(Action::Terminate(termination));
        return plan;
    }
    let containers = containers_of(pod);
    let Some(sandbox) = observed.ready_sandbox() else {
        no_sandbox(pod, &containers, observed, memory, now, &mut plan);
        return plan;
    };
    for stale in observed.alive().filter(|container| container.sandbox_id != sandbox.id) {
        kill(stale, LEAST_GRACE_SECONDS, KillReason::SandboxGone, memory, &mut plan);
    }
    let look = Look { pod, observed, memory, now, sandbox: &sandbox.id };
    look.run(&containers, &mut plan);
    if plan.finished {
        plan.actions.clear();
        end(pod, observed, memory, &finished(pod, now), now, &mut plan);
    }
    plan
}

/// Whether the API already has the pod's last phase; such a pod never runs again, also after a restart of the agent.
pub(crate) fn already_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Of a pod whose work is done: sidecars that are left get the pod's whole grace period.
fn finished(pod: &Pod, now: Timestamp) -> Termination {
    Termination { since: now, grace_seconds: grace(pod).max(1), deleted: false, failed: None }
}

fn deadline(pod: &Pod, memory: &Memory, now: Timestamp, plan: &mut Plan) -> Option<Termination> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let at = memory.started_at?.saturating_add(SignedDuration::from_secs(seconds)).ok()?;
    if now < at {
        plan.wake(at);
        return None;
    }
    let failed =
        ("DeadlineExceeded".to_owned(), "Pod was active on the node longer than the specified deadline".into());
    Some(Termination { since: now, grace_seconds: grace(pod), deleted: false, failed: Some(failed) })
}

/// The pod's own grace period.
pub(crate) fn grace(pod: &Pod) -> i64 {
    pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE_SECONDS)
}

fn no_sandbox(
    pod: &Pod,
    containers: &[(Kind, Container)],
    observed: &Observed,
    memory: &Memory,
    now: Timestamp,
    plan: &mut Plan,
) {
    let over = containers.iter().filter(|(kind, _)| *kind == Kind::App).all(|(kind, container)| {
        let last = observed.latest(&container.name);
        last.is_some_and(|last| last.state == RunState::Exited && !restarts(pod, *kind, container, last.exit_code))
    });
    if over || init_failed(pod, containers, observed, None) {
        plan.finished = true;
        end(pod, observed, memory, &finished(pod, now), now, plan);
        return;
    }
    let mut busy = false;
    for container in observed.alive() {
        busy = true;
        kill(container, LEAST_GRACE_SECONDS, KillReason::SandboxGone, memory, plan);
    }
    if busy {
        return;
    }
    if let Some(failure) = memory.pod_failure.as_ref().filter(|failure| now < failure.retry_at) {
        plan.wake(failure.retry_at);
        return;
    }
    plan.actions.extend(observed.sandboxes.iter().take(1).map(|old| Action::StopSandbox { id: old.id.clone() }));
    let attempt = observed.sandboxes.first().map_or(0, |old| old.attempt + 1);
    plan.actions.push(Action::CreateSandbox { attempt });
}

/// Whether an init container ended the pod; within one sandbox when given.
pub(crate) fn init_failed(
    pod: &Pod,
    containers: &[(Kind, Container)],
    observed: &Observed,
    sandbox: Option<&str>,
) -> bool {
    containers.iter().filter(|(kind, _)| *kind == Kind::Init).any(|(kind, container)| {
        let last = match sandbox {
            Some(id) => observed.latest_in(id, &container.name),
            None => observed.latest(&container.name),
        };
        last.is_some_and(|last| {
            last.state == RunState::Exited && last.exit_code != 0 && !restarts(pod, *kind, container, last.exit_code)
        })
    })
}

/// One look at a pod whose sandbox is ready.
struct Look<'a> {
    pod: &'a Pod,
    observed: &'a Observed,
    memory: &'a Memory,
    now: Timestamp,
    sandbox: &'a str,
}

impl Look<'_> {
    fn run(&self, containers: &[(Kind, Container)], plan: &mut Plan) {
        for (_, container) in containers.iter().filter(|(kind, _)| *kind == Kind::Ephemeral) {
            if self.observed.latest(&container.name).is_none() {
                self.start(container, None, plan);
            }
        }
        if init_failed(self.pod, containers, self.observed, Some(self.sandbox)) {
            plan.finished = true;
            return;
        }
        let apps_began = containers.iter().any(|(kind, container)| {
            *kind == Kind::App && self.observed.latest_in(self.sandbox, &container.name).is_some()
        });
        let apps_over = apps_began && self.apps_over(containers);
        if !self.initialize(containers, apps_began, apps_over, plan) {
            return;
        }
        for (kind, container) in containers.iter().filter(|(kind, _)| *kind == Kind::App) {
            self.keep(*kind, container, plan);
        }
        plan.finished = apps_over;
    }

    fn apps_over(&self, containers: &[(Kind, Container)]) -> bool {
        containers.iter().filter(|(kind, _)| *kind == Kind::App).all(|(kind, container)| {
            let last = self.observed.latest_in(self.sandbox, &container.name);
            // A container that succeeded before the sandbox was replaced stays done.
            let last = last.or_else(|| self.observed.latest(&container.name));
            last.is_some_and(|last| {
                last.state == RunState::Exited && !restarts(self.pod, *kind, container, last.exit_code)
            })
        })
    }

    /// Brings the init containers forward. True once the pod's own containers may run.
    fn initialize(&self, containers: &[(Kind, Container)], began: bool, over: bool, plan: &mut Plan) -> bool {
        for (kind, container) in containers.iter().filter(|(kind, _)| matches!(kind, Kind::Init | Kind::Sidecar)) {
            let last = self.observed.latest_in(self.sandbox, &container.name);
            if *kind == Kind::Sidecar {
                if !over {
                    self.keep(*kind, container, plan);
                }
                let up = last.is_some_and(|last| last.state == RunState::Running && self.started(container, last));
                if !up && !began {
                    return false;
                }
                continue;
            }
            if began {
                continue;
            }
            match last {
                Some(last) if last.state == RunState::Exited && last.exit_code == 0 => {}
                _ => {
                    self.keep(*kind, container, plan);
                    return false;
                }
            }
        }
        true
    }

    fn started(&self, container: &Container, run: &ObservedContainer) -> bool {
        container.startup_probe.is_none() || self.memory.probes.get(&run.id).is_some_and(|results| results.started)
    }

    /// Starts, restarts, ends or resizes one container as its state asks.
    fn keep(&self, kind: Kind, container: &Container, plan: &mut Plan) {
        let Some(last) = self.observed.latest_in(self.sandbox, &container.name) else {
            let before = self.observed.latest(&container.name);
            let done = before.is_some_and(|run| {
                kind == Kind::App
                    && run.state == RunState::Exited
                    && !restarts(self.pod, kind, container, run.exit_code)
            });
            if !done {
                self.start(container, before, plan);
            }
            return;
        };
        match last.state {
            RunState::Running => self.check_running(container, last, plan),
            RunState::Exited if restarts(self.pod, kind, container, last.exit_code) => {
                self.start(container, Some(last), plan);
            }
            RunState::Exited => {}
            RunState::Created => {
                plan.actions.push(Action::Remove { id: last.id.clone() });
                self.start_at(container, last.attempt, plan);
            }
            RunState::Unknown => kill(last, LEAST_GRACE_SECONDS, KillReason::SandboxGone, self.memory, plan),
        }
    }

    fn check_running(&self, container: &Container, run: &ObservedContainer, plan: &mut Plan) {
        if run.hash != super::names::container_hash(container) {
            kill(run, grace(self.pod), KillReason::Changed, self.memory, plan);
            return;
        }
        if let Some(probe) = self.memory.probes.get(&run.id).and_then(|results| results.failed) {
            let definition = if probe == "startup" { &container.startup_probe } else { &container.liveness_probe };
            let own = definition.as_ref().and_then(|probe| probe.termination_grace_period_seconds);
            kill(run, own.unwrap_or_else(|| grace(self.pod)), KillReason::Probe(probe), self.memory, plan);
            return;
        }
        let wanted = limits_of(container);
        if run.limits.is_some_and(|found| found != wanted) && !self.memory.killing.contains(&run.id) {
            plan.actions.push(Action::Resize { id: run.id.clone(), name: run.name.clone() });
        }
    }

    /// Starts a container unless it is waiting after a crash or a failure.
    fn start(&self, container: &Container, last: Option<&ObservedContainer>, plan: &mut Plan) {
        let attempt = last.map_or(0, |last| last.attempt + 1);
        let crash = self.memory.crashes.get(&container.name);
        if let (Some(crash), Some(finished)) = (crash, last.and_then(|last| last.finished_at)) {
            let until = crash.until(finished);
            if self.now < until {
                plan.wake(until);
                return;
            }
        }
        self.start_at(container, attempt, plan);
    }

    fn start_at(&self, container: &Container, attempt: u32, plan: &mut Plan) {
        if let Some(failure) = self.memory.failures.get(&container.name).filter(|failure| self.now < failure.retry_at) {
            plan.wake(failure.retry_at);
            return;
        }
        plan.actions.push(Action::Start { name: container.name.clone(), attempt });
    }
}

fn kill(run: &ObservedContainer, grace_seconds: i64, reason: KillReason, memory: &Memory, plan: &mut Plan) {
    if !memory.killing.contains(&run.id) {
        plan.actions.push(Action::Kill { id: run.id.clone(), name: run.name.clone(), grace_seconds, reason });
    }
}

/// Ends a pod: containers, then sidecars from the last to the first, then the sandbox, then everything else.
fn end(pod: &Pod, observed: &Observed, memory: &Memory, why: &Termination, now: Timestamp, plan: &mut Plan) {
    let containers = containers_of(pod);
    let sidecars: Vec<&str> =
        containers.iter().filter(|(kind, _)| *kind == Kind::Sidecar).map(|(_, one)| one.name.as_str()).collect();
    let spent = now.duration_since(why.since).as_secs().max(0);
    let left = if why.grace_seconds == 0 { 0 } else { (why.grace_seconds - spent).max(LEAST_GRACE_SECONDS) };
    let (side, main): (Vec<_>, Vec<_>) = observed.alive().partition(|run| sidecars.contains(&run.name.as_str()));
    if !main.is_empty() && why.grace_seconds > 0 {
        main.iter().for_each(|run| kill(run, left, KillReason::PodEnds, memory, plan));
        return;
    }
    if !main.is_empty() {
        observed.alive().for_each(|run| kill(run, 0, KillReason::PodEnds, memory, plan));
        return;
    }
    if let Some(last) = side.iter().max_by_key(|run| sidecars.iter().position(|name| *name == run.name)) {
        kill(last, left, KillReason::PodEnds, memory, plan);
        return;
    }
    let ready = observed.sandboxes.iter().filter(|sandbox| sandbox.ready);
    plan.actions.extend(ready.map(|sandbox| Action::StopSandbox { id: sandbox.id.clone() }));
    if plan.actions.is_empty() && !memory.torn_down {
        plan.actions.push(Action::TearDown);
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
