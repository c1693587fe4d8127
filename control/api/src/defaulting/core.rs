//! Defaults of the core group that depend on other members.

use std::collections::BTreeMap;

use crate::{Key, Object, Quantity, Value};

/// How long a session sticks to an endpoint.
const SESSION_SECONDS: i64 = 10_800;

/// Whether a member is absent, or the empty text that stands for absent.
pub(super) fn missing(object: &Object, name: &str) -> bool {
    match object.get(name) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    }
}

pub(super) fn set_if_missing(object: &mut Object, name: &'static str, value: impl Into<Value>) {
    if missing(object, name) {
        object.insert(Key::const_new(name), value);
    }
}

/// The same for a member that may hold an empty text: only one that is not given counts as missing.
pub(super) fn set_if_null(object: &mut Object, name: &'static str, value: impl Into<Value>) {
    if object.get(name).is_none_or(Value::is_null) {
        object.insert(Key::const_new(name), value);
    }
}

pub(super) fn text<'o>(object: &'o Object, name: &str) -> &'o str {
    object.get(name).and_then(Value::as_str).unwrap_or("")
}

fn filled(value: Option<&Value>) -> Option<&Object> {
    value.and_then(Value::as_object).filter(|object| !object.is_empty())
}

/// Quantities finer than a thousandth are rounded up.
pub(super) fn round_amounts(amounts: &mut Object) {
    for (_, amount) in amounts.iter_mut() {
        let fine = amount.as_str().is_some_and(|text| text.ends_with(['n', 'u']) || text.contains('e'));
        if fine
            && let Some(quantity) = amount.as_str().and_then(|text| text.parse::<Quantity>().ok())
            && !quantity.is_whole(-3)
        {
            *amount = Value::from(&Quantity::from_milli(quantity.milli_value()));
        }
    }
}

/// Always for `latest`, which is also what an image without tag and digest means.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let tag = name.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
    match tag {
        Some("latest") => "Always",
        None if !digest && !name.is_empty() => "Always",
        _ => "IfNotPresent",
    }
}

pub(super) fn container(object: &mut Object) {
    let policy = pull_policy(text(object, "image"));
    set_if_missing(object, "imagePullPolicy", policy);
}

pub(super) fn image_volume(object: &mut Object) {
    let policy = pull_policy(text(object, "reference"));
    set_if_missing(object, "pullPolicy", policy);
}

pub(super) fn volume(object: &mut Object) {
    if object.iter().all(|(name, value)| name == "name" || value.is_null()) {
        object.insert("emptyDir", Object::new());
    }
}

/// The name of the service account is there under its old name too; where they disagree, the new one counts.
pub(super) fn pod_spec(object: &mut Object) {
    let (name, old) = (text(object, "serviceAccountName"), text(object, "serviceAccount"));
    if name == old {
        return;
    }
    if name.is_empty() {
        let old = old.to_owned();
        object.insert("serviceAccountName", old);
    } else {
        let name = name.to_owned();
        object.insert("serviceAccount", name);
    }
}

pub(super) fn replication_controller(object: &mut Object) {
    let labels = object.get("spec").and_then(|spec| spec.at(&["template", "metadata", "labels"])).cloned();
    let Some(labels) = labels.filter(|labels| filled(Some(labels)).is_some()) else { return };
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut)
        && filled(spec.get("selector")).is_none()
    {
        spec.insert("selector", labels.clone());
    }
    default_labels(object, labels);
}

/// Labels of the template, for an object that has none of its own.
pub(super) fn default_labels(object: &mut Object, labels: Value) {
    let metadata = object.entry("metadata").make_object();
    if filled(metadata.get("labels")).is_none() {
        metadata.insert("labels", labels);
    }
}

pub(super) fn service(object: &mut Object) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    set_if_missing(spec, "sessionAffinity", "None");
    if text(spec, "sessionAffinity") == "None" {
        spec.remove("sessionAffinityConfig");
    } else {
        let seconds = spec.entry("sessionAffinityConfig").entry_at(&["clientIP", "timeoutSeconds"]);
        if seconds.is_null() {
            *seconds = SESSION_SECONDS.into();
        }
    }
    set_if_missing(spec, "type", "ClusterIP");
    for port in spec.get_mut("ports").and_then(Value::as_list_mut).into_iter().flatten() {
        service_port(port);
    }
    let kind = Key::new(text(spec, "type"));
    let external_ips = !spec.get("externalIPs").and_then(Value::as_list).unwrap_or_default().is_empty();
    let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external_ips);
    if external {
        set_if_missing(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        set_if_null(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set_if_missing(spec, "allocateLoadBalancerNodePorts", true);
        let ingress = object.get_mut("status").and_then(|status| status.at_mut(&["loadBalancer", "ingress"]));
        for address in ingress.and_then(Value::as_list_mut).into_iter().flatten() {
            if let Some(address) = address.as_object_mut().filter(|address| !missing(address, "ip")) {
                set_if_missing(address, "ipMode", "VIP");
            }
        }
    }
}

fn service_port(port: &mut Value) {
    let Some(port) = port.as_object_mut() else { return };
    set_if_missing(port, "protocol", "TCP");
    if missing(port, "targetPort") || port.get("targetPort") == Some(&Value::Int(0)) {
        let number = port.get("port").cloned().unwrap_or(Value::Int(0));
        port.insert("targetPort", number);
    }
}

pub(super) fn pod(object: &mut Object) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_list_mut).into_iter().flatten() {
            requests_from_limits(container);
        }
    }
    pod_requests(spec);
    set_if_missing(spec, "enableServiceLinks", true);
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        for list in ["containers", "initContainers"] {
            for container in spec.get_mut(list).and_then(Value::as_list_mut).into_iter().flatten() {
                host_ports(container);
            }
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = filled(container.at(&["resources", "limits"])).cloned() else { return };
    let requests = container.entry_at(&["resources", "requests"]).make_object();
    for (name, amount) in limits {
        if !requests.contains(&name) {
            requests.insert(name, amount);
        }
    }
}

fn host_ports(container: &mut Value) {
    for port in container.at_mut(&["ports"]).and_then(Value::as_list_mut).into_iter().flatten() {
        let number = port.get("containerPort").cloned();
        if let (Some(port), Some(number)) = (port.as_object_mut(), number)
            && matches!(port.get("hostPort"), None | Some(Value::Int(0)))
        {
            port.insert("hostPort", number);
        }
    }
}

/// Requests of the pod as a whole, when it has limits: what its containers ask for, else the limits.
fn pod_requests(spec: &mut Object) {
    let Some(limits) = spec.get("resources").and_then(|resources| filled(resources.get("limits"))).cloned() else {
        return;
    };
    let totals = container_requests(spec);
    let requests = spec.entry("resources").entry_at(&["requests"]).make_object();
    for (name, total) in &totals {
        if matches!(name.as_str(), "cpu" | "memory") && !requests.contains(name) {
            requests.insert(name.clone(), Value::from(total));
        }
    }
    for (name, limit) in limits {
        let supported = matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-");
        if supported && !requests.contains(&name) {
            requests.insert(name, limit);
        }
    }
    if requests.is_empty() {
        spec.entry("resources").make_object().remove("requests");
    }
}

/// The most that is ever asked for at one time: containers and sidecars together, or one initialising
/// container beside the sidecars started before it.
fn container_requests(spec: &Object) -> BTreeMap<Key, Quantity> {
    let list = |name: &str| spec.get(name).and_then(Value::as_list).unwrap_or_default();
    let mut running: BTreeMap<Key, Quantity> = BTreeMap::new();
    for container in list("containers") {
        add(&mut running, container);
    }
    let mut sidecars: BTreeMap<Key, Quantity> = BTreeMap::new();
    let mut peaks = Vec::new();
    for container in list("initContainers") {
        if container.str_at(&["restartPolicy"]) == "Always" {
            add(&mut running, container);
            add(&mut sidecars, container);
        } else {
            let mut peak = sidecars.clone();
            add(&mut peak, container);
            peaks.push(peak);
        }
    }
    for (name, amount) in peaks.into_iter().flatten() {
        let most = running.entry(name).or_insert_with(|| amount.clone());
        if *most < amount {
            *most = amount;
        }
    }
    running
}

fn add(totals: &mut BTreeMap<Key, Quantity>, container: &Value) {
    let requests = container.at(&["resources", "requests"]).and_then(Value::as_object);
    for (name, amount) in requests.into_iter().flat_map(Object::iter) {
        let Ok(amount) = Quantity::from_value(amount) else { continue };
        let sum = totals.get(name).map_or_else(|| amount.clone(), |total| total.add(&amount));
        totals.insert(name.clone(), sum);
    }
}

pub(super) fn namespace(object: &mut Object) {
    let name = object.get("metadata").map(|metadata| Key::new(metadata.str_at(&["name"]))).unwrap_or_default();
    if !name.is_empty() {
        object.entry("metadata").set_at(&["labels", "kubernetes.io/metadata.name"], Value::String(name));
    }
}

/// A node's pod range is the first of its ranges; where they disagree, the single one counts.
pub(super) fn node_spec(object: &mut Object) {
    let single = text(object, "podCIDR").to_owned();
    let first = object.get("podCIDRs").and_then(Value::as_list).and_then(|all| all.first()).and_then(Value::as_str);
    let first = first.unwrap_or_default().to_owned();
    if !single.is_empty() && single != first {
        object.insert("podCIDRs", vec![Value::from(single)]);
    } else if single.is_empty() && !first.is_empty() {
        object.insert("podCIDR", first);
    }
}

pub(super) fn node_status(object: &mut Object) {
    if let Some(capacity) = object.get("capacity").cloned()
        && object.get("allocatable").is_none_or(Value::is_null)
    {
        object.insert("allocatable", capacity);
    }
}

pub(super) fn limit_range_item(object: &mut Object) {
    if text(object, "type") != "Container" {
        return;
    }
    copy_missing(object, "max", "default");
    copy_missing(object, "default", "defaultRequest");
    copy_missing(object, "min", "defaultRequest");
}

fn copy_missing(object: &mut Object, from: &str, to: &'static str) {
    let Some(source) = filled(object.get(from)).cloned() else { return };
    let target = object.entry(to).make_object();
    for (name, amount) in source {
        if !target.contains(&name) {
            target.insert(name, amount);
        }
    }
}
