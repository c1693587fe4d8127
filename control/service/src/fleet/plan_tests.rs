//! The fleet's plan, case by case.

use super::*;
use crate::fleet::ClusterFacts;
use std::sync::Arc;
use timonel_fleet::{ClusterSpec, NodePoolSpec};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn cluster(name: &str) -> Cluster {
    let mut cluster = Cluster::new("default", name, ClusterSpec::default());
    cluster.metadata.uid = Some(format!("uid-{name}"));
    cluster.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    cluster
}

fn ready_cluster(name: &str) -> Cluster {
    let mut cluster = cluster(name);
    cluster.status = Some(ClusterStatus {
        phase: ClusterPhase::Ready,
        network: ClusterNetwork { pod_cidr: "10.128.0.0/16".into(), service_cidr: SERVICE_CIDR.into() },
        port: 20_001,
        ..ClusterStatus::default()
    });
    cluster
}

fn pool(replicas: i32) -> NodePool {
    let spec = NodePoolSpec { cluster: "demo".into(), replicas, ..NodePoolSpec::default() };
    let mut pool = NodePool::new("default", "workers", spec);
    pool.metadata.uid = Some("uid-pool".into());
    pool
}

fn machine(name: &str, phase: MachinePhase) -> Machine {
    let mut machine = order(&pool(1), &ready_cluster("demo"), "https://10.0.0.1:6443", 0);
    machine.metadata.name = Some(name.into());
    machine.status = Some(timonel_fleet::MachineStatus { phase, ..Default::default() });
    machine
}

fn view(clusters: Vec<Cluster>, pools: Vec<NodePool>, machines: Vec<Machine>) -> FleetView {
    FleetView {
        clusters: clusters.into_iter().map(Arc::new).collect(),
        pools: pools.into_iter().map(Arc::new).collect(),
        machines: machines.into_iter().map(Arc::new).collect(),
        endpoint: "https://192.0.2.1:6443".into(),
        node_endpoint: "https://10.0.0.1:6443".into(),
        version: "v1.36.2".into(),
        ports: crate::fleet::ClusterPorts { host: "192.0.2.1".into(), ..Default::default() },
        ..FleetView::default()
    }
}

fn serving(view: &mut FleetView, name: &str) {
    let port = view.clusters[0].status.as_ref().map_or(0, |status| status.port);
    let facts = ClusterFacts {
        serving: true,
        ca_hash: "sha256:x".into(),
        listening: u16::try_from(port).ok(),
        controllers: true,
        scheduler: true,
        ..ClusterFacts::default()
    };
    view.facts.insert(format!("uid-{name}"), facts);
}

/// What kinds of action a plan holds, operations left out.
fn kinds(view: &FleetView) -> Vec<&'static str> {
    let name = |action: &Action| match action {
        Action::Finalizer { present: true, .. } => "put finalizer",
        Action::Finalizer { .. } => "take finalizer",
        Action::ClusterStatus(_) => "cluster status",
        Action::Open(_) => "open",
        Action::Listen(_) => "listen",
        Action::Parts(_) => "parts",
        Action::Access(_) => "access",
        Action::Discard(_) => "discard",
        Action::Release(_) => "release",
        Action::DeletePool(_) => "delete pool",
        Action::CreateMachine(_) => "create machine",
        Action::DeleteMachine(_) => "delete machine",
        Action::PoolStatus(_) => "pool status",
        Action::CreateOperation(_) | Action::OperationStatus(_) => "operation",
    };
    plan(view, NOW).iter().map(name).filter(|kind| *kind != "operation").collect()
}

#[test]
fn a_new_cluster_goes_step_by_step() {
    let mut bare = cluster("demo");
    bare.metadata.finalizers = None;
    assert_eq!(kinds(&view(vec![bare], vec![], vec![])), ["put finalizer"]);

    let first = view(vec![cluster("demo")], vec![], vec![]);
    let Some(Action::ClusterStatus(written)) = plan(&first, NOW).into_iter().next() else { panic!("no status") };
    let status = written.status.clone().unwrap();
    assert_eq!((status.phase, status.network.pod_cidr.as_str()), (ClusterPhase::Provisioning, "10.128.0.0/16"));

    let port = u16::try_from(status.port).unwrap();
    let mut second = view(vec![*written], vec![], vec![]);
    assert_eq!(kinds(&second), ["listen"]);
    let facts = ClusterFacts { listening: Some(port), ..ClusterFacts::default() };
    second.facts.insert("uid-demo".into(), facts);
    assert_eq!(kinds(&second), ["open"]);

    let mut third = second;
    serving(&mut third, "demo");
    let Some(Action::ClusterStatus(written)) = plan(&third, NOW).into_iter().next() else { panic!("no status") };
    let status = written.status.clone().unwrap();
    assert_eq!(status.phase, ClusterPhase::Ready);
    assert_eq!(status.server_name, "demo.default.clusters.timonel.internal");
    assert_eq!(status.endpoint, format!("https://192.0.2.1:{port}"));

    third.clusters = vec![Arc::new(*written)];
    assert_eq!(kinds(&third), Vec::<&str>::new());
}

#[test]
fn clusters_have_pod_ranges_of_their_own_beyond_the_first_hundred() {
    let mut taken = BTreeSet::new();
    let wanted = ClusterNetwork::default();
    for number in 0..300 {
        let before: Vec<Ipv4Net> = taken.iter().copied().collect();
        let chosen: Ipv4Net = choose(&wanted, &mut taken).unwrap().pod_cidr.parse().unwrap();
        assert!(!before.iter().any(|other| other.contains(&chosen) || chosen.contains(other)), "{number}: {chosen}");
        assert_eq!(chosen.prefix_len(), if number < 123 { 16 } else { 20 }, "{number}");
    }
}

#[test]
fn access_is_put_in_force_and_told() {
    let mut cluster = ready_cluster("demo");
    cluster.spec.access = Some(timonel_fleet::ClusterAccess::default());
    let mut view = view(vec![cluster.clone()], vec![], vec![]);
    serving(&mut view, "demo");
    let set = |view: &mut FleetView, access| view.facts.get_mut("uid-demo").unwrap().access = access;
    set(&mut view, AccessFact::Changed);
    assert_eq!(kinds(&view)[0], "access");
    for (fact, status, reason) in [
        (AccessFact::InForce, "True", Reasons::IN_FORCE),
        (AccessFact::Refused("because".into()), "False", Reasons::REFUSED),
    ] {
        set(&mut view, fact);
        let Some(Action::ClusterStatus(written)) = plan(&view, NOW).into_iter().next() else { panic!("no status") };
        let conditions = written.status.unwrap().conditions;
        let found = conditions.iter().find(|condition| condition.type_ == "AccessConfigured").unwrap();
        assert_eq!((found.status.as_str(), found.reason.as_str()), (status, reason));
        // Taken out of the spec, nothing is told of it.
        let mut without = cluster.clone();
        without.spec.access = None;
        without.status.as_mut().unwrap().conditions = conditions.clone();
        view.clusters = vec![Arc::new(without)];
        let Some(Action::ClusterStatus(written)) = plan(&view, NOW).into_iter().next() else { panic!("no status") };
        assert!(written.status.unwrap().conditions.iter().all(|condition| condition.type_ != "AccessConfigured"));
        view.clusters = vec![Arc::new(cluster.clone())];
    }
}

#[test]
fn clusters_never_share_a_pod_range() {
    let mut own = cluster("b");
    own.spec.network.pod_cidr = "10.129.0.0/16".into();
    let actions = plan(&view(vec![ready_cluster("a"), own, cluster("c")], vec![], vec![]), NOW);
    let ranges: BTreeSet<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::ClusterStatus(cluster) => Some(cluster.status.as_ref()?.network.pod_cidr.clone()),
            _ => None,
        })
        .filter(|range| !range.is_empty())
        .collect();
    assert_eq!(ranges, ["10.129.0.0/16".to_owned(), "10.130.0.0/16".to_owned()].into());
}

#[test]
fn a_bad_range_is_named() {
    for (pods, services, complaint) in [
        ("nonsense", "", "podCidr"),
        ("10.0.0.0/28", "", "/22"),
        ("10.96.0.0/12", "10.96.0.0/16", "overlap"),
        ("", "10.0.0.0/30", "serviceCidr"),
    ] {
        let mut cluster = cluster("demo");
        cluster.spec.network = ClusterNetwork { pod_cidr: pods.into(), service_cidr: services.into() };
        let Some(Action::ClusterStatus(written)) = plan(&view(vec![cluster], vec![], vec![]), NOW).into_iter().next()
        else {
            panic!("no status")
        };
        let status = written.status.unwrap();
        assert_eq!(status.phase, ClusterPhase::Failed);
        assert!(status.conditions[0].message.contains(complaint), "{:?}", status.conditions);
    }
}

#[test]
fn a_restart_opens_a_ready_cluster_without_taking_it_back() {
    let mut again = view(vec![ready_cluster("demo")], vec![], vec![]);
    assert_eq!(kinds(&again), ["listen"]);
    let facts = ClusterFacts { listening: Some(20_001), ..ClusterFacts::default() };
    again.facts.insert("uid-demo".into(), facts);
    assert_eq!(kinds(&again), ["open"]);
}

#[test]
fn a_port_in_use_is_said_and_costs_the_cluster_nothing_else() {
    let mut taken = view(vec![ready_cluster("demo")], vec![], vec![]);
    let refused = Some((20_001, "Address already in use".to_owned()));
    let facts = ClusterFacts { refused_port: refused, ..ClusterFacts::default() };
    taken.facts.insert("uid-demo".into(), facts.clone());
    assert_eq!(kinds(&taken), ["open"]);
    let facts = ClusterFacts { serving: true, controllers: true, scheduler: true, ..facts };
    taken.facts.insert("uid-demo".into(), facts);
    assert_eq!(kinds(&taken), ["listen", "cluster status"]);
    let written = plan(&taken, NOW).into_iter().find_map(|action| match action {
        Action::ClusterStatus(cluster) => cluster.status,
        _ => None,
    });
    let status = written.unwrap();
    assert_eq!((status.phase, status.port), (ClusterPhase::Ready, 20_001));
    assert_eq!(status.endpoint, "https://192.0.2.1:6443");
    let [ready, listening] = &status.conditions[..] else { panic!("{:?}", status.conditions) };
    assert_eq!((ready.status.as_str(), listening.status.as_str()), ("True", "False"));
    assert_eq!(listening.reason, Reasons::PORT_IN_USE);
    assert!(listening.message.contains("20001: Address already in use"), "{}", listening.message);
}

#[test]
fn parts_follow_the_spec() {
    for (without, runs, expected) in
        [(false, true, false), (true, true, true), (false, false, true), (true, false, false)]
    {
        let mut cluster = ready_cluster("demo");
        cluster.spec.control_plane.without_scheduler = without;
        let mut view = view(vec![cluster], vec![], vec![]);
        serving(&mut view, "demo");
        view.facts.get_mut("uid-demo").unwrap().scheduler = runs;
        assert_eq!(kinds(&view).contains(&"parts"), expected, "{without} {runs}");
    }
}

#[test]
fn a_pool_orders_what_is_missing_and_gives_back_the_newest_unready() {
    let mut grown = view(vec![ready_cluster("demo")], vec![pool(2)], vec![machine("a", MachinePhase::Running)]);
    serving(&mut grown, "demo");
    let orders = plan(&grown, NOW);
    let made: Vec<_> = orders.iter().filter(|action| matches!(action, Action::CreateMachine(_))).collect();
    assert_eq!(made.len(), 1);

    let machines = vec![machine("a", MachinePhase::Running), machine("b", MachinePhase::Booting)];
    let shrunk = view(vec![ready_cluster("demo")], vec![pool(1)], machines);
    let deleted: Vec<_> = plan(&shrunk, NOW)
        .into_iter()
        .filter_map(|action| match action {
            Action::DeleteMachine(machine) => machine.metadata.name,
            _ => None,
        })
        .collect();
    assert_eq!(deleted, ["b"]);
}

#[test]
fn no_machine_is_ordered_for_a_cluster_that_is_not_ready() {
    assert!(!kinds(&view(vec![cluster("demo")], vec![pool(2)], vec![])).contains(&"create machine"));
    let orphan = view(vec![], vec![pool(2)], vec![]);
    assert_eq!(kinds(&orphan), ["pool status"]);
}

#[test]
fn a_cluster_goes_after_everything_of_it() {
    let mut going = ready_cluster("demo");
    going.metadata.deletion_timestamp = Some(Time(NOW));
    let status = going.status.get_or_insert_default();
    status.phase = ClusterPhase::Deleting;
    let run = |pools: Vec<NodePool>, machines: Vec<Machine>, facts: ClusterFacts| {
        let mut view = view(vec![going.clone()], pools, machines);
        view.facts.insert("uid-demo".into(), facts);
        // The status is written first; what follows is decided on the written one.
        if let Some(Action::ClusterStatus(written)) = plan(&view, NOW).into_iter().next() {
            view.clusters = vec![Arc::new(*written)];
        }
        kinds(&view)
    };
    let serving = ClusterFacts { serving: true, ..ClusterFacts::default() };
    let released = ClusterFacts { released: true, ..serving.clone() };
    let closed = ClusterFacts { released: true, ..ClusterFacts::default() };
    assert!(run(vec![pool(1)], vec![], serving.clone()).contains(&"delete pool"));
    let mut last = machine("a", MachinePhase::Deleting);
    last.metadata.deletion_timestamp = Some(Time(NOW));
    assert_eq!(run(vec![], vec![last], serving.clone()), Vec::<&str>::new());
    assert_eq!(run(vec![], vec![], serving), ["release"]);
    assert_eq!(run(vec![], vec![], released), ["discard"]);
    assert_eq!(run(vec![], vec![], closed), ["take finalizer"]);
}
