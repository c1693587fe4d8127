//! Metrics as Prometheus text, under upstream's names.

use super::stats::{Usage, usage};
use crate::decide::model::RunState;
use crate::shell::kubelet::Shared;
use std::fmt::Write as _;

/// Content type of the text format.
pub(crate) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// The agent's own.
pub(crate) fn own(shared: &Shared) -> String {
    let pods = shared.pods.lock();
    let (mut running, mut exited, mut sandboxes) = (0, 0, 0);
    for entry in pods.values() {
        let observed = entry.observed.lock().clone();
        running += observed.containers.iter().filter(|one| one.state == RunState::Running).count();
        exited += observed.containers.iter().filter(|one| one.state == RunState::Exited).count();
        sandboxes += observed.sandboxes.iter().filter(|one| one.ready).count();
    }
    let mut out = String::new();
    family(&mut out, "kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox");
    let _ = writeln!(out, "kubelet_running_pods {sandboxes}");
    family(&mut out, "kubelet_running_containers", "gauge", "Number of containers by state");
    let _ = writeln!(out, "kubelet_running_containers{{container_state=\"running\"}} {running}");
    let _ = writeln!(out, "kubelet_running_containers{{container_state=\"exited\"}} {exited}");
    family(&mut out, "kubelet_desired_pods", "gauge", "Number of pods that the API binds to this node");
    let _ = writeln!(out, "kubelet_desired_pods {}", pods.len());
    family(&mut out, "kubelet_node_name", "gauge", "The node's name; the count is always 1");
    let _ = writeln!(out, "kubelet_node_name{{node=\"{}\"}} 1", shared.config.node_name);
    out
}

async fn usages(shared: &Shared) -> Vec<Usage> {
    let stats = shared.runtime.stats().await.unwrap_or_default();
    stats.iter().map(usage).filter(|one| one.pod.is_some()).collect()
}

fn labels(one: &Usage) -> String {
    let (namespace, pod) = one.pod.as_ref().map_or(("", ""), |pod| (&pod.namespace, &pod.name));
    format!("{{container=\"{}\",namespace=\"{namespace}\",pod=\"{pod}\"}}", one.name)
}

#[allow(clippy::cast_precision_loss, reason = "seconds of CPU are shown with nanosecond steps for years")]
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// What the metrics server reads.
pub(crate) async fn resource(shared: &Shared) -> String {
    let list = usages(shared).await;
    let mut out = String::new();
    family(
        &mut out,
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
    );
    for one in &list {
        let _ = writeln!(out, "container_cpu_usage_seconds_total{} {}", labels(one), seconds(one.cpu_nanoseconds));
    }
    family(&mut out, "container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes");
    for one in &list {
        let _ = writeln!(out, "container_memory_working_set_bytes{} {}", labels(one), one.memory_bytes);
    }
    family(
        &mut out,
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
    );
    let _ = writeln!(out, "node_cpu_usage_seconds_total {}", seconds(shared.cgroups.cpu_nanoseconds("/").unwrap_or(0)));
    family(&mut out, "node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes");
    let free = crate::shell::machine::free(&shared.config.root_dir);
    let total = crate::shell::machine::measure(&shared.config.root_dir, "").memory_bytes;
    let _ = writeln!(out, "node_memory_working_set_bytes {}", total.saturating_sub(free.memory_bytes));
    out
}

/// The families of cAdvisor that dashboards use.
pub(crate) async fn cadvisor(shared: &Shared) -> String {
    let list = usages(shared).await;
    let mut out = String::new();
    family(&mut out, "container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.");
    for one in &list {
        let _ = writeln!(out, "container_cpu_usage_seconds_total{} {}", labels(one), seconds(one.cpu_nanoseconds));
    }
    family(&mut out, "container_memory_working_set_bytes", "gauge", "Current working set in bytes.");
    for one in &list {
        let _ = writeln!(out, "container_memory_working_set_bytes{} {}", labels(one), one.memory_bytes);
    }
    family(&mut out, "container_fs_usage_bytes", "gauge", "Number of bytes that are consumed by the container.");
    for one in &list {
        let _ = writeln!(out, "container_fs_usage_bytes{} {}", labels(one), one.disk_bytes);
    }
    out
}

/// Verdicts of probes.
pub(crate) fn probes(shared: &Shared) -> String {
    let mut out = String::new();
    family(&mut out, "kubelet_pods_ready", "gauge", "Whether each pod is ready");
    for pod in shared.live_pods() {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.filter(|one| one.type_ == "Ready" && one.status == "True").count();
        let id = crate::decide::names::PodId::of(&pod);
        let _ = writeln!(out, "kubelet_pods_ready{{namespace=\"{}\",pod=\"{}\"}} {ready}", id.namespace, id.name);
    }
    out
}
