//! What must hold once faults have ended and everybody had time.

use super::{CloudLook, controller, finished, is_true, list, number, text};
use crate::snapshot::{KINDS, Snapshot, title};
use serde_json::Value;
use std::collections::BTreeSet;
use timonel_cloud_core::InstanceState;

/// What is not as it should be in the end, `nodes` being the machines that live.
#[must_use]
pub fn settled(now: &Snapshot, cloud: &CloudLook, nodes: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (kind, object) in now.all() {
        if object["metadata"]["deletionTimestamp"].is_string()
            && !(kind == "PersistentVolumeClaim" && held(now, object))
        {
            wrong.push(format!("{} is still being removed: {}", title(kind, object), object["metadata"]["finalizers"]));
        }
    }
    wrong.extend(orphans(now));
    wrong.extend(now.of("Pod").filter_map(|pod| unwell(now, pod)));
    wrong.extend(now.of("Deployment").filter_map(deployment));
    wrong.extend(now.of("ReplicaSet").filter_map(replica_set));
    wrong.extend(now.of("StatefulSet").filter_map(stateful_set));
    wrong.extend(now.of("DaemonSet").filter_map(|set| daemon_set(set, nodes.len())));
    wrong.extend(now.of("Job").filter_map(job));
    wrong.extend(self::nodes(now, cloud, nodes));
    wrong.extend(now.of("Service").filter_map(|service| endpoints(now, service)));
    wrong.extend(balancers(now, cloud));
    wrong.extend(volumes(now, cloud));
    wrong.extend(namespaces(now));
    wrong
}

/// Whether a pod uses the claim: then its removal waits, however long the pod lives.
fn held(now: &Snapshot, claim: &Value) -> bool {
    let mut pods = now.of("Pod").filter(|pod| pod["metadata"]["namespace"] == claim["metadata"]["namespace"]);
    pods.any(|pod| {
        !finished(pod)
            && list(&pod["spec"]["volumes"])
                .any(|v| v["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"])
    })
}

/// Objects whose owners are all gone.
fn orphans(now: &Snapshot) -> Vec<String> {
    let uids: BTreeSet<&str> = now.all().map(|(_, object)| text(&object["metadata"]["uid"])).collect();
    let seen = |owner: &Value| KINDS.iter().any(|(kind, _)| owner["kind"] == *kind);
    let orphan = |object: &&Value| {
        let mut owners = list(&object["metadata"]["ownerReferences"]).filter(|owner| seen(owner)).peekable();
        owners.peek().is_some() && owners.all(|owner| !uids.contains(text(&owner["uid"])))
    };
    now.all()
        .filter(|(_, object)| orphan(object))
        .map(|(kind, o)| format!("{} has no owner left", title(kind, o)))
        .collect()
}

fn unwell(now: &Snapshot, pod: &Value) -> Option<String> {
    let name = text(&pod["spec"]["nodeName"]);
    if !name.is_empty() && now.get("Node", "", name).is_none() {
        return Some(format!("{} is on node {name}, which is gone", title("Pod", pod)));
    }
    let well = finished(pod) || pod["status"]["phase"] == "Running" && is_true(pod, "Ready");
    (!well).then(|| {
        format!("{} is {} on {name:?}: {}", title("Pod", pod), pod["status"]["phase"], pod["status"]["conditions"])
    })
}

fn observed(object: &Value) -> bool {
    object["status"]["observedGeneration"] == object["metadata"]["generation"]
}

fn shows(kind: &str, object: &Value, wanted: i64, fields: &[&str]) -> Option<String> {
    let right = observed(object) && fields.iter().all(|field| number(&object["status"][*field]) == wanted);
    (!right).then(|| format!("{} wants {wanted}: {}", title(kind, object), object["status"]))
}

fn deployment(object: &Value) -> Option<String> {
    let fields = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"];
    shows("Deployment", object, number(&object["spec"]["replicas"]), &fields)
}

fn replica_set(object: &Value) -> Option<String> {
    shows("ReplicaSet", object, number(&object["spec"]["replicas"]), &["replicas", "readyReplicas"])
}

fn stateful_set(object: &Value) -> Option<String> {
    let wrong = shows("StatefulSet", object, number(&object["spec"]["replicas"]), &["replicas", "readyReplicas"]);
    let (current, update) = (&object["status"]["currentRevision"], &object["status"]["updateRevision"]);
    wrong.or_else(|| (current != update).then(|| format!("{} is not rolled out", title("StatefulSet", object))))
}

fn daemon_set(object: &Value, nodes: usize) -> Option<String> {
    let nodes = i64::try_from(nodes).unwrap_or(i64::MAX);
    let fields = ["desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled"];
    shows("DaemonSet", object, nodes, &fields)
}

fn job(object: &Value) -> Option<String> {
    let over = is_true(object, "Complete") || is_true(object, "Failed");
    let quiet = number(&object["status"]["active"]) == 0;
    (!over || !quiet).then(|| format!("{} is not over: {}", title("Job", object), object["status"]))
}

fn nodes(now: &Snapshot, cloud: &CloudLook, wanted: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    let have: BTreeSet<String> = now.of("Node").map(|node| text(&node["metadata"]["name"]).to_owned()).collect();
    if have != *wanted {
        wrong.push(format!("nodes are {have:?} and should be {wanted:?}"));
    }
    let mut ranges = BTreeSet::new();
    for node in now.of("Node") {
        let taints: Vec<&str> = list(&node["spec"]["taints"]).map(|taint| text(&taint["key"])).collect();
        if !is_true(node, "Ready") || !taints.is_empty() {
            wrong.push(format!(
                "{} is not well: taints {taints:?}, {}",
                title("Node", node),
                node["status"]["conditions"]
            ));
        }
        let range = text(&node["spec"]["podCIDR"]);
        if range.is_empty() || !ranges.insert(range.to_owned()) {
            wrong.push(format!("{} has no range of its own: {range:?}", title("Node", node)));
        }
        let id = text(&node["spec"]["providerID"]);
        let lives = |i: &&timonel_cloud_core::Instance| i.provider_id == id && i.state != InstanceState::Gone;
        let Some(instance) = cloud.instances.iter().find(lives) else {
            wrong.push(format!("{} has no instance {id:?}", title("Node", node)));
            continue;
        };
        if !cloud.routes.iter().any(|route| route.instance == instance.id && route.destination.to_string() == range) {
            wrong.push(format!("{} has no route of {range}", title("Node", node)));
        }
    }
    let extra = cloud.routes.iter().filter(|route| !ranges.contains(&route.destination.to_string()));
    wrong.extend(extra.map(|route| format!("a route of {} is left", route.destination)));
    wrong
}

/// Ready pods of a Service and ready addresses of its slices are the same.
fn endpoints(now: &Snapshot, service: &Value) -> Option<String> {
    let selector = service["spec"]["selector"].as_object().filter(|selector| !selector.is_empty())?;
    let meta = &service["metadata"];
    let selected = now.of("Pod").filter(|pod| {
        pod["metadata"]["namespace"] == meta["namespace"]
            && selector.iter().all(|(key, value)| pod["metadata"]["labels"][key] == *value)
            && !finished(pod)
            && is_true(pod, "Ready")
    });
    let pods: BTreeSet<&str> = selected.map(|pod| text(&pod["status"]["podIP"])).collect();
    let slices = now.of("EndpointSlice").filter(|slice| {
        slice["metadata"]["namespace"] == meta["namespace"]
            && slice["metadata"]["labels"]["kubernetes.io/service-name"] == meta["name"]
    });
    let endpoints = slices.flat_map(|slice| list(&slice["endpoints"]));
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
    let addresses: BTreeSet<&str> = ready.flat_map(|endpoint| list(&endpoint["addresses"])).map(text).collect();
    (pods != addresses).then(|| format!("{} leads to {addresses:?} and not to {pods:?}", title("Service", service)))
}

fn balancers(now: &Snapshot, cloud: &CloudLook) -> Vec<String> {
    let mut wrong = Vec::new();
    let (public, private): (Vec<_>, Vec<_>) =
        now.of("Service").partition(|service| service["spec"]["type"] == "LoadBalancer");
    let shown = |service: &Value| list(&service["status"]["loadBalancer"]["ingress"]).count();
    wrong.extend(public.iter().filter(|s| shown(s) == 0).map(|s| format!("{} has no address", title("Service", s))));
    wrong.extend(private.iter().filter(|s| shown(s) > 0).map(|s| format!("{} keeps an address", title("Service", s))));
    let wanted: BTreeSet<&str> = public.iter().map(|service| text(&service["metadata"]["uid"])).collect();
    let have: BTreeSet<&str> = cloud.balancers.iter().map(|balancer| balancer.spec.owner.resource.as_str()).collect();
    if wanted != have {
        wrong.push(format!("load balancers are of {have:?} and should be of {wanted:?}"));
    }
    wrong
}

fn volumes(now: &Snapshot, cloud: &CloudLook) -> Vec<String> {
    let mut wrong = Vec::new();
    let unbound = now.of("PersistentVolume").filter(|volume| volume["status"]["phase"] != "Bound");
    wrong.extend(unbound.map(|volume| format!("{} is {}", title("PersistentVolume", volume), volume["status"])));
    let handle = |volume: &Value| text(&volume["spec"]["csi"]["volumeHandle"]).to_owned();
    let wanted: BTreeSet<String> = now.of("PersistentVolume").map(handle).collect();
    let have: BTreeSet<String> = cloud.volumes.iter().map(|volume| volume.id.0.clone()).collect();
    // One without PersistentVolume stays: nobody can tell whether its data was to be retained.
    if !wanted.is_subset(&have) {
        wrong.push(format!("volumes are {have:?} and should be {wanted:?}"));
    }
    let attached = cloud.volumes.iter().filter(|volume| wanted.contains(&volume.id.0) && volume.attachment.is_some());
    let attached = attached.count();
    let mut shown = 0;
    for attachment in now.of("VolumeAttachment") {
        shown += usize::from(attachment["status"]["attached"] == true);
        let (volume, node) = (&attachment["spec"]["source"]["persistentVolumeName"], &attachment["spec"]["nodeName"]);
        if !used(now, volume, node) {
            wrong.push(format!("{} of {volume} serves nobody on {node}", title("VolumeAttachment", attachment)));
        }
    }
    if attached != shown {
        wrong.push(format!("{attached} volumes are attached and {shown} are shown so"));
    }
    wrong
}

fn used(now: &Snapshot, volume: &Value, node: &Value) -> bool {
    let claim = now.get("PersistentVolume", "", text(volume)).map(|volume| &volume["spec"]["claimRef"]);
    let Some(claim) = claim else { return false };
    let mut pods = now.of("Pod").filter(|pod| pod["spec"]["nodeName"] == *node && !finished(pod));
    pods.any(|pod| {
        pod["metadata"]["namespace"] == claim["namespace"]
            && list(&pod["spec"]["volumes"]).any(|v| v["persistentVolumeClaim"]["claimName"] == claim["name"])
    })
}

/// Every namespace has what it starts with, and every object a namespace.
fn namespaces(now: &Snapshot) -> Vec<String> {
    let mut wrong = Vec::new();
    for namespace in now.of("Namespace") {
        let name = text(&namespace["metadata"]["name"]);
        if now.get("ServiceAccount", name, "default").is_none()
            || now.get("ConfigMap", name, "kube-root-ca.crt").is_none()
        {
            wrong.push(format!("namespace {name} lacks its service account or its authority"));
        }
    }
    let lost = |object: &&Value| {
        let name = text(&object["metadata"]["namespace"]);
        !name.is_empty() && now.get("Namespace", "", name).is_none()
    };
    let lost = now.all().filter(|(_, object)| lost(object));
    wrong.extend(lost.map(|(kind, object)| format!("{} outlives its namespace", title(kind, object))));
    let uids: BTreeSet<&str> = now.of("StatefulSet").map(|set| text(&set["metadata"]["uid"])).collect();
    let stray = |pod: &&Value| controller(pod, "StatefulSet").is_some_and(|uid| !uids.contains(uid));
    wrong.extend(now.of("Pod").filter(stray).map(|pod| format!("{} outlives its set", title("Pod", pod))));
    wrong
}
