//! Endpoint slices of services with a selector.

use super::slice_set::{Frame, MANAGED_BY, SERVICE, Wanted, managed, reconcile};
use crate::{
    common::{
        objects::{controlled_by, deleting, label, labels, name, namespace, uid},
        pods::{finished, node, ready},
        selector::map_matches,
    },
    framework::{Change, Controller, Key, Kind, Object, Plan, View},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{Node, ObjectReference, Pod, Service, ServicePort, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use std::{collections::BTreeMap, sync::Arc};

const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Keeps endpoint slices.
#[derive(Debug)]
pub(crate) struct EndpointSlices;

impl Controller for EndpointSlices {
    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Service, Kind::Pod, Kind::EndpointSlice, Kind::Node]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("EndpointSlice", "managed by endpointslice-controller.k8s.io")]
    }

    fn keys(&self, view: &View, change: &Change, keys: &mut Vec<Key>) {
        match change.object() {
            Object::Service(service) => keys.push(Key::of(&service.metadata)),
            Object::Pod(_) => services_of_pod(view, change, keys),
            Object::EndpointSlice(slice) => {
                if label(&slice.metadata, MANAGED_BY) == Some(MANAGER)
                    && let Some(service) = label(&slice.metadata, SERVICE)
                {
                    keys.push(Key::new(namespace(&slice.metadata), service));
                }
            }
            Object::Node(_) => services_of_node(view, change, keys),
            _ => {}
        }
    }

    fn plan(&self, view: &View, key: &Key, _now: Timestamp) -> Plan {
        let Some(service) = view.services.get(key).filter(|service| !deleting(&service.metadata)) else {
            return Plan::none();
        };
        let Some(spec) = service.spec.as_ref().filter(|spec| selects(spec)) else { return Plan::none() };
        let present = managed(view.endpoint_slices.indexed(&key.to_string()), MANAGER);
        reconcile(&frame(service, spec), &present, wanted(view, service, spec)).into()
    }
}

/// Whether pods stand behind the service.
pub(super) fn selects(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() != Some("ExternalName") && spec.selector.as_ref().is_some_and(|selector| !selector.is_empty())
}

/// The services that a pod's change may concern: those that selected it before or select it after.
pub(super) fn services_of_pod(view: &View, change: &Change, keys: &mut Vec<Key>) {
    if let (Some(Object::Pod(old)), Some(Object::Pod(new))) = (&change.old, &change.new)
        && shown(old) == shown(new)
    {
        return;
    }
    for service in view.services.in_namespace(namespace(change.object().meta())) {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        if change.sides().any(|side| map_matches(selector, labels(side.meta()))) {
            keys.push(Key::of(&service.metadata));
        }
    }
}

/// What of a pod shows in endpoints.
fn shown(pod: &Pod) -> impl PartialEq + use<'_> {
    let status = pod.status.as_ref();
    let spec = pod.spec.as_ref();
    (
        (ready(pod), finished(pod), deleting(&pod.metadata), pod.metadata.labels.as_ref()),
        (status.and_then(|status| status.pod_ips.as_ref()), status.and_then(|status| status.pod_ip.as_ref())),
        (node(pod), spec.and_then(|spec| spec.hostname.as_ref()), uid(&pod.metadata)),
    )
}

/// A node that came, went or moved to another zone.
fn services_of_node(view: &View, change: &Change, keys: &mut Vec<Key>) {
    let zone = |object: Option<&Object>| object.map(|object| label(object.meta(), ZONE).map(str::to_owned));
    if zone(change.old.as_ref()) == zone(change.new.as_ref()) {
        return;
    }
    for pod in view.pods.indexed(name(change.object().meta())) {
        for service in view.services.in_namespace(namespace(&pod.metadata)) {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            if map_matches(selector, labels(&pod.metadata)) {
                keys.push(Key::of(&service.metadata));
            }
        }
    }
}

fn frame(service: &Service, spec: &ServiceSpec) -> Frame {
    let mut slice_labels: BTreeMap<String, String> = labels(&service.metadata).clone();
    slice_labels.remove(HEADLESS);
    slice_labels.insert(SERVICE.to_owned(), name(&service.metadata).to_owned());
    slice_labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if spec.cluster_ip.as_deref() == Some("None") {
        slice_labels.insert(HEADLESS.to_owned(), String::new());
    }
    Frame {
        namespace: namespace(&service.metadata).to_owned(),
        service: name(&service.metadata).to_owned(),
        labels: slice_labels,
        annotations: BTreeMap::new(),
        owner: controlled_by(Kind::Service, &service.metadata),
    }
}

/// The pods that may stand behind a service: those it selects that have an address and have not ended.
pub(super) fn pods_behind<'a>(view: &'a View, service: &'a Service) -> impl Iterator<Item = &'a Arc<Pod>> {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let pods = view.pods.in_namespace(namespace(&service.metadata));
    pods.filter(move |pod| map_matches(selector, labels(&pod.metadata)) && !finished(pod) && !addresses(pod).is_empty())
}

/// A pod's addresses.
pub(super) fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    let listed: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    if listed.is_empty() {
        status.pod_ip.iter().map(String::as_str).filter(|ip| !ip.is_empty()).collect()
    } else {
        listed
    }
}

fn family(address: &str) -> &'static str {
    if address.contains(':') { "IPv6" } else { "IPv4" }
}

fn families(spec: &ServiceSpec) -> Vec<&'static str> {
    let stated: Vec<&'static str> =
        spec.ip_families.iter().flatten().map(|family| if family == "IPv6" { "IPv6" } else { "IPv4" }).collect();
    if !stated.is_empty() {
        return stated;
    }
    vec![family(spec.cluster_ip.as_deref().unwrap_or_default())]
}

fn wanted(view: &View, service: &Service, spec: &ServiceSpec) -> Wanted {
    let mut wanted = Wanted::default();
    let families = families(spec);
    let mut rows = Vec::new();
    for pod in pods_behind(view, service) {
        let ports = ports(spec, pod);
        for family_name in &families {
            let Some(address) = addresses(pod).into_iter().find(|address| family(address) == *family_name) else {
                continue;
            };
            rows.push((*family_name, ports.clone(), endpoint(view, service, spec, pod, address)));
        }
    }
    hint(spec, &mut rows);
    for (family, ports, endpoint) in rows {
        wanted.add(family, &ports, endpoint);
    }
    for family in families {
        if !wanted.has(family) {
            wanted.group(family, &[]);
        }
    }
    wanted
}

/// Says which zone or node should use an endpoint, where the service asks for closeness and every endpoint has a place.
fn hint(spec: &ServiceSpec, rows: &mut [(&'static str, Vec<EndpointPort>, Endpoint)]) {
    let same_node = spec.traffic_distribution.as_deref() == Some("PreferSameNode");
    let same_zone = matches!(spec.traffic_distribution.as_deref(), Some("PreferClose" | "PreferSameZone"));
    let placed = |endpoint: &Endpoint| if same_node { endpoint.node_name.is_some() } else { endpoint.zone.is_some() };
    if !(same_node || same_zone) || !rows.iter().all(|(.., endpoint)| placed(endpoint)) {
        return;
    }
    for (.., endpoint) in rows {
        if endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(true) {
            continue;
        }
        endpoint.hints = Some(EndpointHints {
            for_nodes: endpoint.node_name.clone().filter(|_| same_node).map(|name| vec![ForNode { name }]),
            for_zones: endpoint.zone.clone().map(|name| vec![ForZone { name }]),
        });
    }
}

fn endpoint(view: &View, service: &Service, spec: &ServiceSpec, pod: &Pod, address: &str) -> Endpoint {
    let (serving, terminating) = (ready(pod), deleting(&pod.metadata));
    let published = spec.publish_not_ready_addresses == Some(true);
    let pod_spec = pod.spec.clone().unwrap_or_default();
    let host = pod_spec.hostname.filter(|_| pod_spec.subdomain.as_deref() == service.metadata.name.as_deref());
    let node_name = pod_spec.node_name.filter(|name| !name.is_empty());
    let place: Option<&Arc<Node>> = node_name.as_deref().and_then(|name| view.nodes.find("", name));
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(published || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: host.filter(|host| !host.is_empty()),
        zone: place.and_then(|node| label(&node.metadata, ZONE)).map(str::to_owned),
        node_name,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

/// The number behind a service port on a pod: itself, or the container port of that name.
pub(super) fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(wanted)) => {
            let spec = pod.spec.as_ref()?;
            let restartable =
                spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let mut ports =
                spec.containers.iter().chain(restartable).flat_map(|container| container.ports.iter().flatten());
            let named = |name: &Option<String>, speaks: &Option<String>| {
                name.as_deref() == Some(wanted) && speaks.as_deref().unwrap_or("TCP") == protocol
            };
            ports.find(|port| named(&port.name, &port.protocol)).map(|port| port.container_port)
        }
    }
}

fn ports(spec: &ServiceSpec, pod: &Pod) -> Vec<EndpointPort> {
    let resolved = spec.ports.iter().flatten().filter_map(|port| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(target_port(port, pod)?),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Outline, at, object, outline};
    use serde_json::{Value, json};

    fn service(extra: Value) -> Value {
        let mut service = json!({"metadata": {"name": "web", "namespace": "default", "uid": "svc", "labels": {"team": "a"}},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
                "ports": [{"name": "http", "port": 80, "targetPort": "web"}]}});
        for (key, value) in extra.as_object().into_iter().flatten() {
            service["spec"][key] = value.clone();
        }
        service
    }

    fn pod(name: &str, ip: &str, ready: bool) -> Value {
        json!({"metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]}})
    }

    fn plan(service: Value, pods: &[Value], slices: &[Value]) -> Vec<Outline> {
        let mut view = View::default();
        view.services.insert(object(service));
        view.nodes.insert(object(json!({"metadata": {"name": "n1", "labels": {ZONE: "a"}}})));
        for pod in pods {
            view.pods.insert(object(pod.clone()));
        }
        for slice in slices {
            view.endpoint_slices.insert(object(slice.clone()));
        }
        outline(&EndpointSlices.plan(&view, &Key::new("default", "web"), at(0)))
    }

    fn stored(mut slice: Value, name: &str) -> Value {
        slice["metadata"]["name"] = json!(name);
        slice["metadata"]["uid"] = json!(name);
        slice
    }

    #[test]
    fn endpoints_carry_readiness_place_and_port() {
        let made = plan(service(json!({})), &[pod("a", "10.1.0.1", true), pod("b", "10.1.0.2", false)], &[]);
        assert_eq!(made.len(), 1);
        let slice = &made[0].body;
        assert_eq!(made[0].line, "create EndpointSlice default/web-");
        assert_eq!(slice["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
        assert_eq!(slice["metadata"]["labels"][MANAGED_BY], MANAGER);
        assert_eq!(slice["metadata"]["labels"]["team"], "a");
        assert_eq!(slice["endpoints"][0]["conditions"], json!({"ready": true, "serving": true, "terminating": false}));
        assert_eq!(slice["endpoints"][0]["zone"], "a");
        assert_eq!(slice["endpoints"][1]["conditions"]["ready"], false);
        let again = plan(
            service(json!({})),
            &[pod("a", "10.1.0.1", true), pod("b", "10.1.0.2", false)],
            &[stored(slice.clone(), "s")],
        );
        assert_eq!(again.len(), 0, "nothing to do twice");
    }

    #[test]
    fn which_pods_and_conditions() {
        let mut leaving = pod("a", "10.1.0.1", true);
        leaving["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:00Z");
        let made = plan(service(json!({})), std::slice::from_ref(&leaving), &[]);
        assert_eq!(
            made[0].body["endpoints"][0]["conditions"],
            json!({"ready": false, "serving": true, "terminating": true})
        );
        let mut ended = pod("a", "10.1.0.1", true);
        ended["status"]["phase"] = json!("Succeeded");
        let made = plan(service(json!({})), &[ended], &[]);
        assert_eq!(made[0].body["endpoints"], json!([]), "a placeholder");
        let made = plan(service(json!({"publishNotReadyAddresses": true})), &[pod("a", "10.1.0.1", false)], &[]);
        assert_eq!(made[0].body["endpoints"][0]["conditions"]["ready"], true);
        assert_eq!(plan(service(json!({"type": "ExternalName"})), &[leaving], &[]).len(), 0);
    }

    #[test]
    fn closeness_and_headlessness() {
        let made = plan(service(json!({"trafficDistribution": "PreferClose"})), &[pod("a", "10.1.0.1", true)], &[]);
        assert_eq!(made[0].body["endpoints"][0]["hints"]["forZones"][0]["name"], "a");
        let made = plan(service(json!({"clusterIP": "None"})), &[pod("a", "10.1.0.1", true)], &[]);
        assert_eq!(made[0].body["metadata"]["labels"][HEADLESS], "");
    }

    #[test]
    fn a_hundred_per_slice_and_changes_stay_small() {
        let pods: Vec<Value> =
            (0..150).map(|n| pod(&format!("p{n:03}"), &format!("10.1.{}.{}", n / 100, n % 100), true)).collect();
        let made = plan(service(json!({})), &pods, &[]);
        let sizes: Vec<_> = made.iter().map(|made| made.body["endpoints"].as_array().map_or(0, Vec::len)).collect();
        assert_eq!(sizes, [100, 50]);
        let stored: Vec<Value> =
            made.iter().enumerate().map(|(n, made)| stored(made.body.clone(), &format!("s{n}"))).collect();
        let changed = plan(service(json!({})), &pods[1..], &stored);
        assert_eq!(changed.len(), 1, "only the slice that lost an endpoint");
        assert_eq!(changed[0].line, "update EndpointSlice default/s0");
    }

    #[test]
    fn two_families_make_two_slices() {
        let mut both = pod("a", "10.1.0.1", true);
        both["status"]["podIPs"] = json!([{"ip": "10.1.0.1"}, {"ip": "fd00::1"}]);
        let made = plan(service(json!({"ipFamilies": ["IPv4", "IPv6"]})), &[both], &[]);
        let families: Vec<_> = made.iter().map(|made| made.body["addressType"].clone()).collect();
        assert_eq!(families, ["IPv4", "IPv6"]);
    }
}
