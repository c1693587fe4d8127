//! The scheduler's decisions alone: 5,000 nodes in five zones, pods of several kinds mixed.

use crate::{peer::Side, process::own_cpu, record::Figures};
use jiff::Timestamp;
use serde_json::{Value, json};
use timonel_scheduler::{Decision, Scheduler, Update};

const NODES: usize = 5_000;
const PODS: usize = 20_000;
/// What pods ask for besides resources, each kind alone and all mixed.
const KINDS: [&str; 6] = ["plain", "selector", "spread", "soft-spread", "anti-affinity", "preferred-anti-affinity"];

pub(super) fn run(figures: &mut Figures) -> anyhow::Result<()> {
    for kind in KINDS {
        figures.add(Side::Ours, &format!("schedule/core {kind}"), "/s", decisions(|_| kind)?);
    }
    figures.add(Side::Ours, "schedule/core", "/s", decisions(|number| KINDS[number % KINDS.len()])?);
    Ok(())
}

/// Decisions a second of CPU time.
fn decisions(kind: impl Fn(usize) -> &'static str) -> anyhow::Result<f64> {
    let now = Timestamp::UNIX_EPOCH;
    let mut scheduler = Scheduler::new(["default-scheduler".to_owned()]);
    for number in 0..NODES {
        scheduler.update(node(number)?, now);
    }
    for number in 0..PODS {
        scheduler.update(pod(number, kind(number))?, now);
    }
    let started = own_cpu();
    for chance in 0.. {
        match scheduler.decide(now, chance) {
            Some(Decision::Bind { pod, .. }) => scheduler.bound(&pod.uid, true, now),
            Some(Decision::Report { .. }) => {}
            None => break,
        }
    }
    Ok(PODS as f64 / (own_cpu() - started).max(f64::EPSILON))
}

fn object<K: serde::de::DeserializeOwned>(value: Value) -> anyhow::Result<Box<K>> {
    Ok(Box::new(serde_json::from_value(value)?))
}

fn node(number: usize) -> anyhow::Result<Update> {
    let name = format!("node-{number:05}");
    let value = json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", number % 5),
            "disk": if number.is_multiple_of(3) { "ssd" } else { "hdd" }}},
        "status": {
            "allocatable": {"cpu": "32", "memory": "128Gi", "pods": "110", "ephemeral-storage": "100Gi"},
            "images": [{"names": ["registry.example.com/base:1"], "sizeBytes": 300_000_000}]},
    });
    Ok(Update::Node(name, Some(object(value)?)))
}

/// Pods of one of 100 workloads.
fn pod(number: usize, kind: &str) -> anyhow::Result<Update> {
    let app = format!("app-{}", number % 100);
    let labels = json!({"matchLabels": {"app": app}});
    let spread = |when: &str| {
        json!({"topologySpreadConstraints": [{"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": when, "labelSelector": labels}]})
    };
    let anti = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": labels});
    let more = match kind {
        "selector" => json!({"nodeSelector": {"disk": "ssd"}}),
        "spread" => spread("DoNotSchedule"),
        "soft-spread" => spread("ScheduleAnyway"),
        "anti-affinity" => {
            json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [anti]}}})
        }
        "preferred-anti-affinity" => {
            json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
                [{"weight": 50, "podAffinityTerm": anti}]}}})
        }
        _ => json!({}),
    };
    let mut value = json!({
        "metadata": {"name": format!("pod-{number}"), "namespace": "bench", "uid": format!("uid-{number}"),
            "generation": 1, "labels": {"app": app}, "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app, "uid": app, "controller": true}]},
        "spec": {"containers": [{"name": "c", "image": "registry.example.com/base:1",
            "resources": {"requests": {"cpu": "100m", "memory": "200Mi"}}}]},
    });
    for (key, field) in more.as_object().into_iter().flatten() {
        value["spec"][key] = field.clone();
    }
    Ok(Update::Pod(object(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_pod_is_well_formed() {
        for kind in KINDS {
            assert!(pod(1, kind).is_ok(), "{kind}");
        }
        assert!(node(1).is_ok());
    }
}
