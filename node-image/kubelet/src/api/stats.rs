//! `/stats/summary`: processor time and memory of the node, its pods and their containers.

use super::{Body, Failure, answer, failure};
use crate::decide::names::{CONTAINER_NAME, Labels as _, POD_UID, PodId};
use crate::shell::kubelet::Shared;
use crate::shell::machine;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use timonel_cri::cri::ContainerStats;

/// What was measured of one container.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) pod: Option<PodId>,
    pub(crate) name: String,
    pub(crate) cpu_nanoseconds: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
}

pub(crate) fn usage(stats: &ContainerStats) -> Usage {
    let labels = stats.attributes.as_ref().map(|attributes| &attributes.labels);
    let number = |value: Option<timonel_cri::cri::UInt64Value>| value.map_or(0, |value| value.value);
    let memory = stats.memory.as_ref();
    Usage {
        pod: labels.and_then(PodId::from_labels),
        name: labels.and_then(|labels| labels.label(CONTAINER_NAME)).unwrap_or_default().to_owned(),
        cpu_nanoseconds: number(stats.cpu.as_ref().and_then(|cpu| cpu.usage_core_nano_seconds)),
        memory_bytes: number(memory.and_then(|memory| memory.working_set_bytes)),
        disk_bytes: number(stats.writable_layer.as_ref().and_then(|layer| layer.used_bytes)),
    }
}

pub(crate) async fn summary(shared: &Shared) -> Result<Response<Body>, Failure> {
    let now = shared.config.clock.now();
    let stats = shared.runtime.stats().await;
    let stats = stats.map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let mut by_pod: BTreeMap<PodId, Vec<Usage>> = BTreeMap::new();
    for one in stats.iter().filter(|one| one.attributes.as_ref().is_some_and(|a| a.labels.label(POD_UID).is_some())) {
        let one = usage(one);
        if let Some(pod) = one.pod.clone() {
            by_pod.entry(pod).or_default().push(one);
        }
    }
    let time = now.to_string();
    let pods: Vec<Value> = by_pod.iter().map(|(id, list)| pod(id, list, &time)).collect();
    let free = machine::free(&shared.config.root_dir);
    let total = machine::measure(&shared.config.root_dir, "").memory_bytes;
    let body = json!({
        "node": {
            "nodeName": shared.config.node_name,
            "startTime": time,
            "cpu": {"time": time, "usageCoreNanoSeconds": shared.cgroups.cpu_nanoseconds("/").unwrap_or(0)},
            "memory": {
                "time": time,
                "availableBytes": free.memory_bytes,
                "workingSetBytes": total.saturating_sub(free.memory_bytes),
                "usageBytes": total.saturating_sub(free.memory_bytes),
            },
            "fs": {
                "time": time,
                "availableBytes": free.disk_bytes,
                "capacityBytes": free.disk_total,
                "usedBytes": free.disk_total.saturating_sub(free.disk_bytes),
            },
        },
        "pods": pods,
    });
    Ok(answer("application/json", body.to_string()))
}

fn pod(id: &PodId, list: &[Usage], time: &str) -> Value {
    let sum = |amount: fn(&Usage) -> u64| list.iter().map(amount).sum::<u64>();
    let containers: Vec<Value> = list
        .iter()
        .map(|one| {
            json!({
                "name": one.name,
                "startTime": time,
                "cpu": {"time": time, "usageCoreNanoSeconds": one.cpu_nanoseconds},
                "memory": {"time": time, "workingSetBytes": one.memory_bytes, "usageBytes": one.memory_bytes},
                "rootfs": {"time": time, "usedBytes": one.disk_bytes},
            })
        })
        .collect();
    json!({
        "podRef": {"name": id.name, "namespace": id.namespace, "uid": id.uid},
        "startTime": time,
        "containers": containers,
        "cpu": {"time": time, "usageCoreNanoSeconds": sum(|one| one.cpu_nanoseconds)},
        "memory": {"time": time, "workingSetBytes": sum(|one| one.memory_bytes)},
    })
}
