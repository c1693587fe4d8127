//! What must hold at every moment, faults or not.

use super::{CloudLook, bytes, controller, finished, list, millis, number, text};
use crate::{
    observer::version,
    snapshot::{Snapshot, title},
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use timonel_cloud_core::{InstanceState, VolumeId};

/// One change of one object; `new` is missing when it was removed.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its kind.
    pub kind: &'static str,
    /// What it was.
    pub old: Option<Arc<Value>>,
    /// What it is.
    pub new: Option<Arc<Value>>,
}

/// Checks what `change` could have broken; `now` already has it.
#[must_use]
pub fn safety(now: &Snapshot, change: &Change, cloud: &CloudLook) -> Vec<String> {
    let mut wrong = Vec::new();
    if let (Some(old), Some(new)) = (&change.old, &change.new) {
        wrong.extend(version_grows(change.kind, old, new));
    }
    match (change.kind, &change.new) {
        ("Pod", Some(pod)) => {
            wrong.extend(overcommitted(now, pod));
            wrong.extend(change.old.as_ref().and_then(|old| pod_turns_back(old, pod)));
        }
        ("Service", Some(service)) => wrong.extend(taken_twice(now, service)),
        ("Node", None) => wrong.extend(change.old.as_ref().and_then(|node| node_removed(cloud, node))),
        ("ReplicaSet", Some(set)) => wrong.extend(surges(now, change.old.as_deref(), set)),
        ("PersistentVolume", Some(volume)) => wrong.extend(claimed_twice(now, volume)),
        _ => {}
    }
    wrong
}

fn version_grows(kind: &str, old: &Value, new: &Value) -> Option<String> {
    let (from, to) = (version(old), version(new));
    // A watch that begins again may repeat the version it was at.
    (from > to || from == to && old != new).then(|| format!("{} went from version {from} to {to}", title(kind, new)))
}

/// A pod never moves, and its end is final.
fn pod_turns_back(old: &Value, new: &Value) -> Option<String> {
    if old["metadata"]["uid"] != new["metadata"]["uid"] {
        return None;
    }
    let (from, to) = (text(&old["spec"]["nodeName"]), text(&new["spec"]["nodeName"]));
    if !from.is_empty() && from != to {
        return Some(format!("{} moved from {from} to {to}", title("Pod", new)));
    }
    let (from, to) = (text(&old["status"]["phase"]), text(&new["status"]["phase"]));
    (finished(old) && from != to).then(|| format!("{} went from {from} to {to}", title("Pod", new)))
}

/// Requests on a pod's node never exceed what it offers.
fn overcommitted(now: &Snapshot, pod: &Value) -> Option<String> {
    let name = text(&pod["spec"]["nodeName"]);
    let node = now.get("Node", "", name)?;
    let (mut cpu, mut memory, mut count) = (0, 0, 0);
    for pod in now.of("Pod").filter(|pod| pod["spec"]["nodeName"] == name && !finished(pod)) {
        count += 1;
        for container in list(&pod["spec"]["containers"]) {
            let requests = &container["resources"]["requests"];
            cpu += millis(&requests["cpu"]);
            memory += bytes(&requests["memory"]);
        }
    }
    let offer = &node["status"]["allocatable"];
    let pods: u64 = text(&offer["pods"]).parse().unwrap_or(0);
    let over = cpu > millis(&offer["cpu"]) || memory > bytes(&offer["memory"]) || count > pods;
    over.then(|| format!("node {name} is overcommitted: {cpu}m, {memory} bytes, {count} pods"))
}

/// Addresses and node ports belong to one Service.
fn taken_twice(now: &Snapshot, service: &Value) -> Vec<String> {
    let addresses = |service: &Value| -> BTreeSet<String> {
        let all = list(&service["spec"]["clusterIPs"]).map(|address| text(address).to_owned());
        all.filter(|address| !address.is_empty() && address != "None").collect()
    };
    let ports = |service: &Value| -> BTreeSet<String> {
        let ports = list(&service["spec"]["ports"]).filter(|port| port["nodePort"].is_number());
        ports.map(|port| format!("{}/{}", text(&port["protocol"]), port["nodePort"])).collect()
    };
    let mut wrong = Vec::new();
    for other in now.of("Service").filter(|other| other["metadata"]["uid"] != service["metadata"]["uid"]) {
        let mut shared: Vec<String> = addresses(service).intersection(&addresses(other)).cloned().collect();
        shared.extend(ports(service).intersection(&ports(other)).cloned());
        let titles = format!("{} and {}", title("Service", service), title("Service", other));
        wrong.extend(shared.into_iter().map(|what| format!("{titles} share {what}")));
    }
    wrong
}

/// A Node is removed only once its instance is gone.
fn node_removed(cloud: &CloudLook, node: &Value) -> Option<String> {
    let id = text(&node["spec"]["providerID"]);
    let lives =
        |instance: &&timonel_cloud_core::Instance| instance.provider_id == id && instance.state != InstanceState::Gone;
    let instance = cloud.instances.iter().find(lives)?;
    Some(format!("{} was removed while instance {} lives", title("Node", node), instance.id))
}

/// A number of pods, or a share of `of` rounded up.
fn surge(value: &Value, of: i64) -> i64 {
    match value {
        Value::Number(number) => number.as_i64().unwrap_or(0),
        Value::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            (of * percent + 99) / 100
        }
        _ => 0,
    }
}

/// A Deployment whose latest state the controller has seen never asks for more pods than it may have.
fn surges(now: &Snapshot, old: Option<&Value>, set: &Value) -> Option<String> {
    let uid = controller(set, "Deployment")?;
    if number(&set["spec"]["replicas"]) <= old.map_or(0, |old| number(&old["spec"]["replicas"])) {
        return None;
    }
    let deployment = now.of("Deployment").find(|found| found["metadata"]["uid"] == uid)?;
    if number(&deployment["status"]["observedGeneration"]) != number(&deployment["metadata"]["generation"]) {
        return None;
    }
    let wanted = number(&deployment["spec"]["replicas"]);
    let most = wanted + surge(&deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"], wanted);
    let sets = now.of("ReplicaSet").filter(|set| controller(set, "Deployment") == Some(uid));
    let total: i64 = sets.map(|set| number(&set["spec"]["replicas"])).sum();
    (total > most).then(|| format!("{} wants {total} pods of at most {most}", title("Deployment", deployment)))
}

/// A claim has one volume.
fn claimed_twice(now: &Snapshot, volume: &Value) -> Option<String> {
    let claim = text(&volume["spec"]["claimRef"]["uid"]);
    let same = |other: &&Value| {
        other["spec"]["claimRef"]["uid"] == claim && other["metadata"]["uid"] != volume["metadata"]["uid"]
    };
    let other = now.of("PersistentVolume").filter(|_| !claim.is_empty()).find(same)?;
    Some(format!("{} and {} have the same claim", title("PersistentVolume", volume), title("PersistentVolume", other)))
}

/// A pod that runs on a machine, whatever the API says.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) instance: String,
    pub(crate) uid: String,
    pub(crate) title: String,
    pub(crate) stateful: bool,
    /// Names of volumes, `kubernetes.io/csi/DRIVER^HANDLE`.
    pub(crate) volumes: BTreeSet<String>,
}

/// What must hold on living machines: an ordinal runs once, and a volume in use is plugged in where it is used.
pub(crate) fn machines(running: &[Running], cloud: &CloudLook) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut ordinals: BTreeMap<&str, &Running> = BTreeMap::new();
    for pod in running {
        if pod.stateful
            && let Some(other) = ordinals.insert(&pod.title, pod)
        {
            wrong.push(format!("{} runs on {} and on {}", pod.title, other.instance, pod.instance));
        }
        for name in &pod.volumes {
            let handle = VolumeId(name.split('^').next_back().unwrap_or_default().to_owned());
            let volume = cloud.volumes.iter().find(|volume| volume.id == handle);
            let holder = volume.and_then(|volume| volume.attachment.as_ref()).map(|held| held.instance.0.as_str());
            if holder != Some(pod.instance.as_str()) {
                wrong.push(format!(
                    "{} ({}) uses {handle} on {}, which is attached to {holder:?}",
                    pod.title, pod.uid, pod.instance
                ));
            }
        }
    }
    wrong
}
