//! Runs the probes of one run of a container and keeps their results, until its scope ends.

use super::hooks::{Outcome, Target};
use super::kubelet::Shared;
use crate::decide::model::{Kind, ProbeResults};
use crate::decide::names::PodId;
use crate::decide::probe::{Counter, ProbeKind, timing};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use timonel_runtime::{OnError, Tasks};
use tokio::sync::{Notify, watch};

/// Results by container id; the pod's worker reads them.
pub(crate) type Results = Arc<Mutex<BTreeMap<String, ProbeResults>>>;

/// Everything a probe task needs.
#[derive(Clone)]
struct Prober {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    kind: Kind,
    container: Arc<Container>,
    id: String,
    pod_ip: String,
    started_at: Timestamp,
    results: Results,
    wake: Arc<Notify>,
}

/// Starts the probes of a run.
#[allow(clippy::too_many_arguments, reason = "a run's identity and where its results go")]
pub(crate) fn start(
    shared: &Arc<Shared>,
    pod: &Arc<Pod>,
    (kind, container): (Kind, Container),
    id: &str,
    pod_ip: &str,
    started_at: Timestamp,
    results: &Results,
    wake: &Arc<Notify>,
    tasks: &Tasks,
) {
    results.lock().entry(id.to_owned()).or_insert_with(|| known(pod, &container, id));
    let prober = Prober {
        shared: shared.clone(),
        pod: pod.clone(),
        kind,
        container: Arc::new(container),
        id: id.to_owned(),
        pod_ip: pod_ip.to_owned(),
        started_at,
        results: results.clone(),
        wake: wake.clone(),
    };
    let started = results.lock().get(id).is_some_and(|known| known.started);
    let (passed, gate) = watch::channel(started);
    let passed = Arc::new(passed);
    let probes = [
        (ProbeKind::Startup, &prober.container.startup_probe),
        (ProbeKind::Liveness, &prober.container.liveness_probe),
        (ProbeKind::Readiness, &prober.container.readiness_probe),
    ];
    for (which, probe) in probes {
        let Some(probe) = probe.clone() else { continue };
        if which == ProbeKind::Startup && started {
            continue;
        }
        let (prober, gate, passed) = (prober.clone(), gate.clone(), passed.clone());
        tasks.spawn("probe", OnError::Log, async move {
            prober.run(which, &probe, gate, &passed).await;
            Ok::<(), std::convert::Infallible>(())
        });
    }
}

/// Where a run's results begin: a run that the API already shows as ready stays so until a probe says otherwise, so
/// that a restart of the agent takes no pod out of service.
fn known(pod: &Pod, container: &Container, id: &str) -> ProbeResults {
    let mut lists = pod.status.iter().flat_map(|status| {
        let apps = status.container_statuses.iter().flatten();
        apps.chain(status.init_container_statuses.iter().flatten())
    });
    let shown = lists.rfind(|one| one.container_id.as_deref().is_some_and(|full| full.ends_with(id)));
    ProbeResults {
        started: container.startup_probe.is_none() || shown.is_some_and(|one| one.started == Some(true)),
        ready: shown.is_some_and(|one| one.ready),
        failed: None,
    }
}

impl Prober {
    async fn run(
        &self,
        which: ProbeKind,
        probe: &Probe,
        mut gate: watch::Receiver<bool>,
        passed: &watch::Sender<bool>,
    ) {
        let (delay, period, _) = timing(probe);
        if which != ProbeKind::Startup && gate.wait_for(|open| *open).await.is_err() {
            return;
        }
        let age = self.shared.config.clock.now().duration_since(self.started_at);
        let age = Duration::try_from(age).unwrap_or_default();
        tokio::time::sleep(Duration::from_secs(delay).saturating_sub(age)).await;
        let mut counter = Counter::new(probe);
        let mut ticks = tokio::time::interval(Duration::from_secs(period));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let outcome = self.ask(probe).await;
            if let Err(message) = &outcome {
                let text = format!("{} probe failed: {message}", which.title());
                self.shared.events.container(&self.pod, (self.kind, &self.container.name), true, "Unhealthy", text);
            }
            let Some(verdict) = counter.record(outcome.is_ok()) else { continue };
            self.note(which, verdict);
            if which == ProbeKind::Startup && verdict {
                let _ = passed.send(true);
                return;
            }
            if which != ProbeKind::Readiness && !verdict {
                return;
            }
        }
    }

    fn note(&self, which: ProbeKind, verdict: bool) {
        let mut results = self.results.lock();
        let Some(result) = results.get_mut(&self.id) else { return };
        match which {
            ProbeKind::Startup if verdict => result.started = true,
            ProbeKind::Startup => result.failed = Some("startup"),
            ProbeKind::Liveness if verdict => {}
            ProbeKind::Liveness => result.failed = Some("liveness"),
            ProbeKind::Readiness => result.ready = verdict,
        }
        drop(results);
        tracing::debug!(pod = %PodId::of(&self.pod), container = %self.container.name, probe = which.title(), verdict, "probe");
        self.wake.notify_one();
    }

    async fn ask(&self, probe: &Probe) -> Outcome {
        let limit = Duration::from_secs(timing(probe).2);
        let target = Target {
            runtime: &self.shared.runtime,
            container_id: &self.id,
            container: &self.container,
            pod_ip: &self.pod_ip,
            user_agent: "kube-probe/1.36",
        };
        if let Some(action) = &probe.exec {
            return target.exec(action, limit).await;
        }
        if let Some(action) = &probe.http_get {
            return target.http(action, limit).await;
        }
        if let Some(action) = &probe.tcp_socket {
            return target.tcp(action, limit).await;
        }
        match &probe.grpc {
            Some(action) => target.grpc(action, limit).await,
            None => Err("missing probe handler".into()),
        }
    }
}
