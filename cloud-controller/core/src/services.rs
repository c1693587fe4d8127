//! Services of type LoadBalancer: finalizer, load balancer, status, events, removal.
//!
//! Writes of a Service: the load-balancer finalizer and `status.loadBalancer`. A load balancer exists only behind the
//! finalizer, so a deleted Service cannot leave one; what a crash leaves is found by its owner tags.

use crate::{
    action::{Action, CloudCall, Kind, Subject},
    model::{Balancer, BalancerPort, BalancerSpec, HealthCheck, Instance, InstanceId, InstanceState, Owner, Protocol},
    nodes::instance_of,
    objects::{has_finalizer, is_ready, label, provider_id, taints, with_finalizer, without_finalizer},
};
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Service, ServiceSpec};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Finalizer of a Service with a load balancer.
pub const FINALIZER_BALANCER: &str = "service.kubernetes.io/load-balancer-cleanup";

const LABEL_EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const TAINT_TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";
const ANNOTATION_SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// Listings that must show a load balancer without its Service before it is removed.
const ORPHAN_LOOKS: u32 = 2;

/// What the plan looks at.
#[derive(Clone, Debug)]
pub struct ServiceView<'a> {
    /// UID of the cluster.
    pub cluster: &'a str,
    /// `spec.loadBalancerClass` that is ours.
    pub class: &'a str,
    /// Whether Services without a class are ours too.
    pub default_class: bool,
    /// How nodes are checked for Services with `externalTrafficPolicy: Cluster`; `None` checks the first TCP port.
    pub cluster_health: Option<HealthCheck>,
    /// Every Service.
    pub services: &'a [Arc<Service>],
    /// Every Node.
    pub nodes: &'a [Arc<Node>],
    /// Every instance of the cluster.
    pub instances: &'a [Instance],
    /// Every load balancer of the cluster.
    pub balancers: &'a [Balancer],
    /// When the load balancers were listed.
    pub observed: Timestamp,
}

/// What the plan remembers between looks.
#[derive(Clone, Debug, Default)]
pub struct ServiceMemory {
    orphans: BTreeMap<Owner, (u32, Timestamp)>,
    /// Specifications that can never be granted, by UID and version, so that they are reported once.
    refused: BTreeMap<String, String>,
}

/// Decides what to do about every Service.
pub fn plan_services(view: &ServiceView<'_>, memory: &mut ServiceMemory) -> Vec<Action> {
    let balancers: BTreeMap<&str, &Balancer> =
        view.balancers.iter().map(|b| (b.spec.owner.resource.as_str(), b)).collect();
    let targets = eligible(view);
    let mut actions = Vec::new();
    let mut uids = BTreeSet::new();
    for service in view.services {
        let uid = service.metadata.uid.as_deref().unwrap_or_default();
        uids.insert(uid);
        let balancer = balancers.get(uid).copied();
        if wants_balancer(view, service) {
            actions.extend(keep(view, memory, service, balancer, &targets));
        } else if balancer.is_some() || has_finalizer(&service.metadata, FINALIZER_BALANCER) {
            actions.extend(remove(view, service, balancer));
        }
    }
    memory.refused.retain(|uid, _| uids.contains(uid.as_str()));
    actions.extend(sweep(view, memory, &uids));
    actions
}

fn wants_balancer(view: &ServiceView<'_>, service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    let class = spec.load_balancer_class.as_deref().filter(|class| !class.is_empty());
    spec.type_.as_deref() == Some("LoadBalancer")
        && service.metadata.deletion_timestamp.is_none()
        && class.map_or(view.default_class, |class| class == view.class)
}

/// Instances of the nodes that may take traffic. Unready nodes are left out unless that leaves nobody: then the
/// health checks decide, for the API may simply have lost sight of them.
fn eligible(view: &ServiceView<'_>) -> BTreeSet<InstanceId> {
    let mut ready = BTreeSet::new();
    let mut all = BTreeSet::new();
    for node in view.nodes {
        let excluded = label(&node.metadata, LABEL_EXCLUDE).is_some()
            || node.metadata.deletion_timestamp.is_some()
            || provider_id(node).is_none()
            || taints(node).iter().any(|t| t.key == TAINT_TO_BE_DELETED);
        let instance = instance_of(node, view.instances).filter(|i| i.state == InstanceState::Running);
        if let (false, Some(instance)) = (excluded, instance) {
            all.insert(instance.id.clone());
            if is_ready(node) {
                ready.insert(instance.id.clone());
            }
        }
    }
    if ready.is_empty() { all } else { ready }
}

fn keep(
    view: &ServiceView<'_>,
    memory: &mut ServiceMemory,
    service: &Service,
    balancer: Option<&Balancer>,
    targets: &BTreeSet<InstanceId>,
) -> Vec<Action> {
    let subject = Subject::of(Kind::Service, &service.metadata);
    let spec = match desired(view, service, targets) {
        Ok(spec) => spec,
        Err(message) => {
            let told = memory.refused.insert(subject.uid.clone(), message.clone());
            return if told.as_ref() == Some(&message) {
                Vec::new()
            } else {
                vec![subject.event(true, "SyncLoadBalancerFailed", format!("Error syncing load balancer: {message}"))]
            };
        }
    };
    memory.refused.remove(&subject.uid);
    if !has_finalizer(&service.metadata, FINALIZER_BALANCER) {
        let finalizers = with_finalizer(&service.metadata, FINALIZER_BALANCER);
        return vec![subject.patch(json!({ "metadata": { "finalizers": finalizers } }))];
    }
    let Some(balancer) = balancer else { return ensure(&subject, spec, None) };
    let mut actions = ensure(&subject, spec, Some(balancer));
    let ingress = ingress(balancer);
    if !ingress.is_empty() && !shows(service, &ingress) {
        actions.push(subject.patch_status(&json!({ "loadBalancer": { "ingress": ingress } })));
    }
    actions
}

fn ensure(subject: &Subject, spec: BalancerSpec, balancer: Option<&Balancer>) -> Vec<Action> {
    if balancer.is_some_and(|b| b.spec == spec) {
        return Vec::new();
    }
    let retarget = balancer.is_some_and(|b| {
        let mut old = b.spec.clone();
        old.targets.clone_from(&spec.targets);
        old == spec
    });
    let mut actions = Vec::new();
    if !retarget {
        actions.push(subject.event(false, "EnsuringLoadBalancer", "Ensuring load balancer"));
    }
    if spec.targets.is_empty() {
        actions.push(subject.event(true, "UnAvailableLoadBalancer", "There are no available nodes for LoadBalancer"));
    }
    actions.push(subject.call(CloudCall::EnsureBalancer { spec: Box::new(spec), retarget }));
    actions
}

fn desired(view: &ServiceView<'_>, service: &Service, targets: &BTreeSet<InstanceId>) -> Result<BalancerSpec, String> {
    let spec = service.spec.as_ref().ok_or("the Service has no spec")?;
    let ports = ports(spec)?;
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    let node_check = spec.health_check_node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    let health = match (local, node_check) {
        (true, Some(port)) => HealthCheck::Http { port, path: "/healthz".to_owned() },
        _ => view.cluster_health.clone().unwrap_or_else(|| {
            let tcp = ports.iter().find(|p| p.protocol == Protocol::Tcp).unwrap_or(&ports[0]);
            HealthCheck::Tcp { port: tcp.node_port }
        }),
    };
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    Ok(BalancerSpec {
        owner: Owner::new(view.cluster, service.metadata.uid.clone().unwrap_or_default()),
        name: format!("{namespace}/{name}"),
        ports,
        targets: targets.clone(),
        source_ranges: source_ranges(service, spec)?,
        health,
        fail_open: !local,
        address: match spec.load_balancer_ip.as_deref().filter(|ip| !ip.is_empty()) {
            Some(ip) => Some(ip.parse().map_err(|_| format!("loadBalancerIP {ip:?} is no address"))?),
            None => None,
        },
    })
}

fn ports(spec: &ServiceSpec) -> Result<Vec<BalancerPort>, String> {
    let mut ports = Vec::new();
    for port in spec.ports.iter().flatten() {
        let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            other => return Err(format!("protocol {other} is not supported by this load balancer")),
        };
        let number = u16::try_from(port.port).map_err(|_| format!("port {} is out of range", port.port))?;
        let node_port = port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0);
        let node_port = node_port.ok_or_else(|| {
            format!("port {number} has no node port: this load balancer needs allocateLoadBalancerNodePorts")
        })?;
        ports.push(BalancerPort { protocol, port: number, node_port });
    }
    if ports.is_empty() { Err("the Service has no ports".to_owned()) } else { Ok(ports) }
}

fn source_ranges(service: &Service, spec: &ServiceSpec) -> Result<BTreeSet<IpNet>, String> {
    let listed: Vec<&str> = match spec.load_balancer_source_ranges.as_deref() {
        Some(ranges) if !ranges.is_empty() => ranges.iter().map(String::as_str).collect(),
        _ => {
            let text = crate::objects::annotation(&service.metadata, ANNOTATION_SOURCE_RANGES).unwrap_or_default();
            text.split(',').filter(|range| !range.trim().is_empty()).collect()
        }
    };
    let parse = |range: &str| -> Result<IpNet, String> {
        let range = range.trim();
        range.parse::<IpNet>().map(|net| net.trunc()).map_err(|_| format!("source range {range:?} is no CIDR"))
    };
    let ranges: BTreeSet<IpNet> = listed.into_iter().map(parse).collect::<Result<_, _>>()?;
    // A range that holds everybody is no restriction.
    Ok(if ranges.iter().any(|range| range.prefix_len() == 0) { BTreeSet::new() } else { ranges })
}

fn ingress(balancer: &Balancer) -> Vec<Value> {
    let addresses = balancer.addresses.iter().map(|ip| json!({ "ip": ip, "ipMode": "VIP" }));
    addresses.chain(balancer.hostnames.iter().map(|name| json!({ "hostname": name }))).collect()
}

fn shows(service: &Service, ingress: &[Value]) -> bool {
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let have: Vec<Value> = status
        .iter()
        .flat_map(|lb| lb.ingress.iter().flatten())
        .map(|entry| match (&entry.ip, &entry.hostname) {
            (Some(ip), _) => json!({ "ip": ip, "ipMode": entry.ip_mode.as_deref().unwrap_or("VIP") }),
            (None, name) => json!({ "hostname": name }),
        })
        .collect();
    have == ingress
}

fn remove(view: &ServiceView<'_>, service: &Service, balancer: Option<&Balancer>) -> Vec<Action> {
    let subject = Subject::of(Kind::Service, &service.metadata);
    if balancer.is_some() {
        return vec![
            subject.event(false, "DeletingLoadBalancer", "Deleting load balancer"),
            subject.call(CloudCall::DeleteBalancer(Owner::new(view.cluster, subject.uid.clone()))),
        ];
    }
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let shown = status.is_some_and(|lb| lb.ingress.as_ref().is_some_and(|i| !i.is_empty()));
    if shown && service.metadata.deletion_timestamp.is_none() {
        return vec![subject.patch_status(&json!({ "loadBalancer": { "ingress": null } }))];
    }
    let finalizers = without_finalizer(&service.metadata, FINALIZER_BALANCER);
    vec![subject.patch(json!({ "metadata": { "finalizers": finalizers } }))]
}

/// Load balancers whose Service is gone: removed once two listings showed them.
fn sweep(view: &ServiceView<'_>, memory: &mut ServiceMemory, services: &BTreeSet<&str>) -> Vec<Action> {
    let orphans: Vec<&Balancer> =
        view.balancers.iter().filter(|b| !services.contains(b.spec.owner.resource.as_str())).collect();
    let owners: BTreeSet<&Owner> = orphans.iter().map(|b| &b.spec.owner).collect();
    memory.orphans.retain(|owner, _| owners.contains(owner));
    let mut actions = Vec::new();
    for balancer in orphans {
        let seen = memory.orphans.entry(balancer.spec.owner.clone()).or_insert((0, view.observed));
        if seen.0 == 0 || view.observed > seen.1 {
            *seen = (seen.0.saturating_add(1), view.observed);
        }
        if seen.0 >= ORPHAN_LOOKS {
            let subject = Subject::absent(Kind::Service, &balancer.spec.name);
            actions.push(subject.call(CloudCall::DeleteBalancer(balancer.spec.owner.clone())));
        }
    }
    actions
}

#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;
