//! What follows from a look at the fleet. Pure: a view and the time in, actions out; the next look sees the effect.

use super::{
    operations,
    ports::{self, Choice},
    view::{AccessFact, ClusterFacts, FleetView},
};
use ipnet::Ipv4Net;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use std::{collections::BTreeSet, net::Ipv4Addr};
use timonel_fleet::{
    Cluster, ClusterNetwork, ClusterPhase, ClusterStatus, FINALIZER, LABEL_CLUSTER, LABEL_POOL, Machine, MachinePhase,
    MachineSpec, NodePool, NodePoolStatus, Operation,
};

/// Default range of ClusterIPs; it never leaves a cluster, so every cluster may have the same.
const SERVICE_CIDR: &str = "10.96.0.0/16";
/// Pod ranges are chosen from `10.{FIRST..=LAST}.0.0/16`, one a cluster: 256 nodes with the usual 24 bits each.
const POD_RANGES: std::ops::RangeInclusive<u8> = 128..=250;
/// When those are taken, small ranges for 16 nodes come from the space that providers share (RFC 6598): a service has
/// a thousand clusters, most of them small. Who wants more says so in the spec.
const SMALL_POD_RANGES: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
const SMALL_POD_RANGES_BITS: u8 = 10;
const SMALL_POD_RANGE_BITS: u8 = 20;
/// Machines ordered or removed for one pool in one look.
const MACHINES_PER_LOOK: usize = 50;
/// Most machines of a pool.
const MAX_POOL: i32 = 5_000;

/// One thing to do. Every write names the version of the object that it was decided on.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Put or take our finalizer.
    Finalizer {
        /// On which object.
        cluster: Box<Cluster>,
        /// Put, or take.
        present: bool,
    },
    /// Write a cluster's status.
    ClusterStatus(Box<Cluster>),
    /// Listen on the cluster's own port.
    Listen(Box<Cluster>),
    /// Make keys and serve the API.
    Open(Box<Cluster>),
    /// Start or stop controllers and scheduler as the spec says.
    Parts(Box<Cluster>),
    /// Put the spec's audit, authentication and authorization in force.
    Access(Box<Cluster>),
    /// Stop serving and delete the cluster's data, for good.
    Discard(Box<Cluster>),
    /// Have the cloud release everything that carries the cluster's tag.
    Release(Box<Cluster>),
    /// Delete a pool of a cluster that goes.
    DeletePool(Box<NodePool>),
    /// Order a machine.
    CreateMachine(Box<Machine>),
    /// Give a machine back.
    DeleteMachine(Box<Machine>),
    /// Write a pool's status.
    PoolStatus(Box<NodePool>),
    /// Record a long action.
    CreateOperation(Box<Operation>),
    /// Write how far a long action is.
    OperationStatus(Box<Operation>),
}

/// Reasons of the `Ready` condition.
#[derive(Clone, Copy, Debug)]
pub struct Reasons;

impl Reasons {
    /// The API answers.
    pub const SERVING: &str = "Serving";
    /// Keys and API are being made.
    pub const PROVISIONING: &str = "Provisioning";
    /// The spec cannot be had.
    pub const INVALID: &str = "InvalidSpec";
    /// The API could not be started.
    pub const FAILED: &str = "Failed";
    /// Clients reach the cluster on its own port.
    pub const LISTENING: &str = "Listening";
    /// Another program has the cluster's own port.
    pub const PORT_IN_USE: &str = "PortInUse";
    /// No port is left for the cluster.
    pub const NO_PORT: &str = "NoFreePort";
    /// The access of the spec is in force.
    pub const IN_FORCE: &str = "InForce";
    /// The access of the spec cannot be used.
    pub const REFUSED: &str = "InvalidConfiguration";
    /// It is going.
    pub const DELETING: &str = "Deleting";
    /// Some machines are not ready.
    pub const SCALING: &str = "Scaling";
    /// All machines are ready.
    pub const COMPLETE: &str = "Complete";
    /// The pool's cluster does not exist.
    pub const NO_CLUSTER: &str = "ClusterNotFound";
}

/// Everything to do now.
#[must_use]
pub fn plan(view: &FleetView, now: Timestamp) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut taken: BTreeSet<Ipv4Net> = view.clusters.iter().filter_map(|cluster| pod_range(cluster)).collect();
    for cluster in &view.clusters {
        if cluster.metadata.deletion_timestamp.is_some() {
            actions.extend(plan_deletion(view, cluster, now));
        } else {
            actions.extend(plan_cluster(view, cluster, &mut taken, now));
        }
    }
    for pool in &view.pools {
        plan_pool(view, pool, now, &mut actions);
    }
    actions.extend(operations::plan(view, now));
    actions
}

fn pod_range(cluster: &Cluster) -> Option<Ipv4Net> {
    let chosen = cluster.status.as_ref().map(|status| &status.network.pod_cidr).filter(|cidr| !cidr.is_empty());
    chosen.unwrap_or(&cluster.spec.network.pod_cidr).parse().ok()
}

fn has_finalizer(cluster: &Cluster) -> bool {
    cluster.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

fn plan_cluster(view: &FleetView, cluster: &Cluster, taken: &mut BTreeSet<Ipv4Net>, now: Timestamp) -> Vec<Action> {
    if !has_finalizer(cluster) {
        return vec![Action::Finalizer { cluster: Box::new(cluster.clone()), present: true }];
    }
    let old = cluster.status.clone().unwrap_or_default();
    let facts = view.facts.get(cluster.metadata.uid.as_deref().unwrap_or_default()).cloned().unwrap_or_default();
    let mut status = ClusterStatus { observed_generation: cluster.metadata.generation, ..old.clone() };
    let network = if old.network.pod_cidr.is_empty() { choose(&cluster.spec.network, taken) } else { Ok(old.network) };
    let chosen = network.and_then(|network| Ok((network, ports::choose(view, cluster, &facts)?)));
    let port = match chosen {
        Ok((network, port)) => {
            status.network = network;
            status.port = port.number();
            port
        }
        Err(message) => {
            status.phase = ClusterPhase::Failed;
            set_ready(&mut status.conditions, false, Reasons::INVALID, &message, now);
            return changed(cluster, status).into_iter().collect();
        }
    };
    if facts.serving {
        plan_serving(view, cluster, &facts, status, &port, now)
    } else {
        vec![plan_opening(cluster, &facts, status, &port, now)]
    }
}

/// Ranges and port first, then the port is taken, then the API is opened.
fn plan_opening(
    cluster: &Cluster,
    facts: &ClusterFacts,
    mut status: ClusterStatus,
    port: &Choice,
    now: Timestamp,
) -> Action {
    status.phase = if facts.failure.is_some() { ClusterPhase::Failed } else { ClusterPhase::Provisioning };
    let (reason, message) = match &facts.failure {
        Some(failure) => (Reasons::FAILED, failure.as_str()),
        None => (Reasons::PROVISIONING, "keys and API are being made"),
    };
    set_ready(&mut status.conditions, false, reason, message, now);
    // A process that starts again opens what was ready without taking the word back.
    let write = (!was_ready(cluster)).then(|| changed(cluster, status.clone())).flatten();
    write.unwrap_or_else(|| {
        let mut cluster = cluster.clone();
        let known = cluster.status.get_or_insert_default();
        (known.network, known.port) = (status.network, status.port);
        let untried = *port == Choice::Wanted(status.port) && facts.listening.map(i32::from) != Some(status.port);
        if untried { Action::Listen(Box::new(cluster)) } else { Action::Open(Box::new(cluster)) }
    })
}

fn plan_serving(
    view: &FleetView,
    cluster: &Cluster,
    facts: &ClusterFacts,
    mut status: ClusterStatus,
    port: &Choice,
    now: Timestamp,
) -> Vec<Action> {
    let listening = facts.listening.map(i32::from) == Some(status.port);
    status.phase = ClusterPhase::Ready;
    status.endpoint =
        if listening { format!("https://{}:{}", view.ports.host, status.port) } else { view.endpoint.clone() };
    status.server_name = server_name(cluster);
    status.ca_hash.clone_from(&facts.ca_hash);
    status.version.clone_from(&view.version);
    set_ready(&mut status.conditions, true, Reasons::SERVING, "the API answers", now);
    let (reason, message) = match port {
        _ if listening => (Reasons::LISTENING, format!("every client reaches the API on port {}", status.port)),
        Choice::Refused(port, why) => (
            Reasons::PORT_IN_USE,
            format!("port {port}: {why}; only clients that send {:?} reach the API", status.server_name),
        ),
        Choice::Wanted(port) => (Reasons::PORT_IN_USE, format!("port {port} is being taken")),
        Choice::NoneLeft => (Reasons::NO_PORT, "every port for clusters is taken; set spec.controlPlane.port".into()),
    };
    set_condition(&mut status.conditions, "EndpointListening", listening, reason, &message, now);
    set_access(&mut status.conditions, cluster, facts, now);
    let mut known = cluster.clone();
    let known_status = known.status.get_or_insert_default();
    known_status.port = status.port;
    let mut actions = Vec::new();
    if facts.access == AccessFact::Changed {
        actions.push(Action::Access(Box::new(known.clone())));
    }
    if !listening && *port != Choice::NoneLeft {
        actions.push(Action::Listen(Box::new(known.clone())));
    }
    let wanted = &cluster.spec.control_plane;
    if facts.controllers == wanted.without_controllers || facts.scheduler == wanted.without_scheduler {
        actions.push(Action::Parts(Box::new(known)));
    }
    actions.extend(changed(cluster, status));
    actions
}

/// Says whether the access of the spec is in force; nothing where none was asked for.
fn set_access(conditions: &mut Vec<Condition>, cluster: &Cluster, facts: &ClusterFacts, now: Timestamp) {
    const NAME: &str = "AccessConfigured";
    if cluster.spec.access.is_none() {
        conditions.retain(|condition| condition.type_ != NAME);
        return;
    }
    let (holds, reason, message) = match &facts.access {
        AccessFact::InForce => {
            (true, Reasons::IN_FORCE, "audit, authentication and authorization are as the spec says")
        }
        AccessFact::Changed => return,
        AccessFact::Refused(why) => (false, Reasons::REFUSED, why.as_str()),
    };
    set_condition(conditions, NAME, holds, reason, message, now);
}

/// Whether the API answered once under what the status says.
pub(super) fn was_ready(cluster: &Cluster) -> bool {
    cluster.status.as_ref().is_some_and(|status| status.phase == ClusterPhase::Ready)
}

fn changed(cluster: &Cluster, status: ClusterStatus) -> Option<Action> {
    if cluster.status.as_ref() == Some(&status) {
        return None;
    }
    Some(Action::ClusterStatus(Box::new(Cluster { status: Some(status), ..cluster.clone() })))
}

/// Name by which the shared port knows a cluster.
pub(crate) fn server_name(cluster: &Cluster) -> String {
    let meta = &cluster.metadata;
    let (name, project) = (meta.name.as_deref().unwrap_or_default(), meta.namespace.as_deref().unwrap_or_default());
    format!("{name}.{project}.clusters.timonel.internal")
}

/// Checks the ranges asked for and chooses those that were not.
fn choose(wanted: &ClusterNetwork, taken: &mut BTreeSet<Ipv4Net>) -> Result<ClusterNetwork, String> {
    let service: Ipv4Net = if wanted.service_cidr.is_empty() { SERVICE_CIDR } else { &wanted.service_cidr }
        .parse()
        .map_err(|_| format!("spec.network.serviceCidr: {:?} is not an IPv4 CIDR", wanted.service_cidr))?;
    if !(12..=24).contains(&service.prefix_len()) {
        return Err(format!("spec.network.serviceCidr: {service} is not between a /12 and a /24"));
    }
    let pods = if wanted.pod_cidr.is_empty() {
        free_range(taken).ok_or("no free pod range is left; set spec.network.podCidr")?
    } else {
        wanted
            .pod_cidr
            .parse()
            .map_err(|_| format!("spec.network.podCidr: {:?} is not an IPv4 CIDR", wanted.pod_cidr))?
    };
    if !(8..=22).contains(&pods.prefix_len()) {
        return Err(format!("spec.network.podCidr: {pods} is not between a /8 and a /22"));
    }
    if pods.contains(&service) || service.contains(&pods) {
        return Err(format!("spec.network: {pods} and {service} overlap"));
    }
    taken.insert(pods);
    Ok(ClusterNetwork { pod_cidr: pods.to_string(), service_cidr: service.to_string() })
}

fn free_range(taken: &BTreeSet<Ipv4Net>) -> Option<Ipv4Net> {
    let whole = POD_RANGES.map(|second| Ipv4Net::new_assert(Ipv4Addr::new(10, second, 0, 0), 16));
    let shared = Ipv4Net::new_assert(SMALL_POD_RANGES, SMALL_POD_RANGES_BITS);
    let small = shared.subnets(SMALL_POD_RANGE_BITS).into_iter().flatten();
    whole.chain(small).find(|range| !taken.iter().any(|other| other.contains(range) || range.contains(other)))
}

/// Pools first, then their machines, then what the cloud still holds, then the data, and only then the object.
fn plan_deletion(view: &FleetView, cluster: &Cluster, now: Timestamp) -> Vec<Action> {
    if !has_finalizer(cluster) {
        return Vec::new();
    }
    let uid = cluster.metadata.uid.clone().unwrap_or_default();
    let facts = view.facts.get(&uid).cloned().unwrap_or_default();
    let pools: Vec<_> = view.pools_of(cluster).collect();
    let machines = view.machines.iter().filter(|machine| machine.spec.cluster_uid == uid).count();
    let message = match (pools.len(), machines, facts.released) {
        (0, 0, true) => "data is being deleted".to_owned(),
        (0, 0, false) => "load balancers, volumes and routes are being released".to_owned(),
        (pools, machines, _) => format!("{pools} node pools and {machines} machines are left"),
    };
    let mut status = cluster.status.clone().unwrap_or_default();
    status.phase = ClusterPhase::Deleting;
    set_ready(&mut status.conditions, false, Reasons::DELETING, &message, now);
    let mut actions: Vec<_> = changed(cluster, status).into_iter().collect();
    let cluster = Box::new(cluster.clone());
    let doomed = pools.iter().filter(|pool| pool.metadata.deletion_timestamp.is_none());
    actions.extend(doomed.map(|pool| Action::DeletePool(Box::new(NodePool::clone(pool)))));
    if pools.is_empty() && machines == 0 && actions.is_empty() {
        actions.push(match (facts.released, facts.serving) {
            (false, _) => Action::Release(cluster),
            (true, true) => Action::Discard(cluster),
            (true, false) => Action::Finalizer { cluster, present: false },
        });
    }
    actions
}

fn plan_pool(view: &FleetView, pool: &NodePool, now: Timestamp, actions: &mut Vec<Action>) {
    let machines: Vec<_> = view.machines_of(pool).collect();
    let cluster = view.cluster_of(pool);
    let deleting = pool.metadata.deletion_timestamp.is_some();
    let wanted = if deleting { 0 } else { usize::try_from(pool.spec.replicas.clamp(0, MAX_POOL)).expect("clamped") };
    let living: Vec<_> = machines.iter().filter(|machine| machine.metadata.deletion_timestamp.is_none()).collect();
    if living.len() > wanted {
        let mut spare = living.clone();
        spare.sort_by_key(|machine| (phase(machine) == MachinePhase::Running, std::cmp::Reverse(created(machine))));
        let extra = spare.into_iter().take((living.len() - wanted).min(MACHINES_PER_LOOK));
        actions.extend(extra.map(|machine| Action::DeleteMachine(Box::new(Machine::clone(machine)))));
    } else if let Some(cluster) = cluster.filter(|cluster| ready(cluster)) {
        let missing = (wanted - living.len()).min(MACHINES_PER_LOOK);
        let orders = (0..missing)
            .map(|nth| Action::CreateMachine(Box::new(order(pool, cluster, &view.node_endpoint, living.len() + nth))));
        actions.extend(orders);
    }
    let up = machines.iter().filter(|machine| phase(machine) == MachinePhase::Running).count();
    let mut status = pool.status.clone().unwrap_or_default();
    status.observed_generation = pool.metadata.generation;
    status.replicas = i32::try_from(machines.len()).unwrap_or(i32::MAX);
    status.ready_replicas = i32::try_from(up).unwrap_or(i32::MAX);
    let (done, reason, message) = match cluster {
        None => (false, Reasons::NO_CLUSTER, format!("cluster {:?} does not exist in this project", pool.spec.cluster)),
        Some(_) if up == wanted && machines.len() == wanted => {
            (true, Reasons::COMPLETE, format!("{up} of {wanted} ready"))
        }
        Some(_) => (false, Reasons::SCALING, format!("{up} of {wanted} ready")),
    };
    set_ready(&mut status.conditions, done, reason, &message, now);
    if pool.status.as_ref() != Some(&status) {
        let status = Some::<NodePoolStatus>(status);
        actions.push(Action::PoolStatus(Box::new(NodePool { status, ..pool.clone() })));
    }
}

fn ready(cluster: &Cluster) -> bool {
    cluster.metadata.deletion_timestamp.is_none()
        && cluster.status.as_ref().is_some_and(|status| status.phase == ClusterPhase::Ready)
}

fn phase(machine: &Machine) -> MachinePhase {
    machine.status.as_ref().map_or(MachinePhase::Pending, |status| status.phase)
}

fn created(machine: &Machine) -> Option<Timestamp> {
    machine.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// The `nth` machine of a pool. It goes with the pool, and carries nothing secret.
fn order(pool: &NodePool, cluster: &Cluster, server: &str, nth: usize) -> Machine {
    let status = cluster.status.clone().unwrap_or_default();
    let cluster_name = cluster.metadata.name.clone().unwrap_or_default();
    let pool_name = pool.metadata.name.clone().unwrap_or_default();
    let zones = &pool.spec.zones;
    let user_data = serde_json::json!({
        "server": server,
        "serverName": status.server_name,
        "authorityHash": status.ca_hash,
    });
    let spec = MachineSpec {
        cluster: cluster_name.clone(),
        cluster_uid: cluster.metadata.uid.clone().unwrap_or_default(),
        pool: pool_name.clone(),
        instance_type: pool.spec.instance_type.clone(),
        zone: if zones.is_empty() { String::new() } else { zones[nth % zones.len()].clone() },
        image: pool.spec.image.clone(),
        user_data: user_data.to_string(),
    };
    let mut machine = Machine::new(pool.metadata.namespace.as_deref().unwrap_or_default(), "", spec);
    machine.metadata.name = None;
    machine.metadata.generate_name = Some(format!("{pool_name}-"));
    machine.metadata.labels =
        Some([(LABEL_CLUSTER.to_owned(), cluster_name), (LABEL_POOL.to_owned(), pool_name)].into());
    machine.metadata.owner_references = Some(vec![OwnerReference {
        api_version: pool.api_version.clone(),
        kind: "NodePool".to_owned(),
        name: pool.metadata.name.clone().unwrap_or_default(),
        uid: pool.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }]);
    machine
}

/// Sets the `Ready` condition.
pub(crate) fn set_ready(conditions: &mut Vec<Condition>, ready: bool, reason: &str, message: &str, now: Timestamp) {
    set_condition(conditions, "Ready", ready, reason, message, now);
}

/// Sets a condition; its time changes only with its status.
fn set_condition(
    conditions: &mut Vec<Condition>,
    name: &str,
    holds: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let status = if holds { "True" } else { "False" };
    let old = conditions.iter().position(|condition| condition.type_ == name);
    let since = old.map(|at| &conditions[at]).filter(|old| old.status == status);
    let since = since.map_or(Time(now), |old| old.last_transition_time.clone());
    let condition = Condition {
        type_: name.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since,
        observed_generation: None,
    };
    match old {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
