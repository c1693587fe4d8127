//! Whole decisions, as tables: a cluster, a pod, and where it goes or why it does not.

use crate::{
    core::{Decision, Scheduler, Update},
    pod::PodInfo,
    volumes::VolumeStep,
};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

pub(crate) fn object<K: DeserializeOwned>(value: Value) -> Box<K> {
    Box::new(serde_json::from_value(value).unwrap())
}

/// Lays `over` over `base`.
pub(crate) fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// A node with 4 CPUs, 8 GiB and room for 10 pods, and whatever `more` says.
pub(crate) fn node(name: &str, more: Value) -> Update {
    let mut value = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10", "ephemeral-storage": "10Gi"}},
    });
    merge(&mut value, more);
    Update::Node(name.to_owned(), Some(object(value)))
}

/// A pod without requests, and whatever `more` says.
pub(crate) fn pod(name: &str, more: Value) -> Update {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "generation": 1},
        "spec": {"containers": [{"name": "c", "image": "app"}]},
    });
    merge(&mut value, more);
    Update::Pod(object(value))
}

pub(crate) fn cpu(amount: &str) -> Value {
    json!({"spec": {"containers": [{"name": "c", "image": "app", "resources": {"requests": {"cpu": amount}}}]}})
}

fn on(name: &str, node: &str, more: Value) -> Update {
    let mut over = json!({"spec": {"nodeName": node}});
    merge(&mut over, more);
    pod(name, over)
}

pub(crate) fn world(updates: impl IntoIterator<Item = Update>) -> Scheduler {
    let mut scheduler = Scheduler::new(["default-scheduler".to_owned()]);
    for update in updates {
        scheduler.update(update, at(0));
    }
    scheduler
}

/// The node that the next pod goes to, or what is said of it.
pub(crate) fn next(scheduler: &mut Scheduler, seconds: i64) -> String {
    match scheduler.decide(at(seconds), 0) {
        None => "nothing".into(),
        Some(Decision::Bind { node, .. }) => node,
        Some(Decision::Report { message, preemption: None, .. }) => message,
        Some(Decision::Report { preemption: Some(preemption), .. }) => {
            let names: Vec<_> =
                preemption.victims.iter().map(|pod: &std::sync::Arc<PodInfo>| pod.name.as_str()).collect();
            format!("instead of {} on {}", names.join(","), preemption.node)
        }
    }
}

/// Where `wanted` goes in such a world; of a refusal, the first sentence without its count of nodes.
fn place(updates: Vec<Update>, wanted: Update) -> String {
    let mut scheduler = world(updates.into_iter().chain([wanted]));
    let said = next(&mut scheduler, 1);
    match said.split_once("nodes are available: ") {
        Some((_, rest)) => rest.split(". preemption").next().unwrap_or(rest).to_owned(),
        None => said,
    }
}

#[test]
fn resources() {
    let gpu = json!({"status": {"allocatable": {"example.com/gpu": "2"}}});
    let wants_gpu = |count: &str| json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": count}}}]}});
    let ten: Vec<_> = (0..10).map(|number| on(&format!("p{number}"), "a", json!({}))).collect();
    let cases = [
        (vec![node("a", json!({}))], pod("p", cpu("4")), "a"),
        (vec![node("a", json!({}))], pod("p", cpu("4001m")), "1 Insufficient cpu"),
        (vec![node("a", json!({})), on("q", "a", cpu("3"))], pod("p", cpu("1500m")), "1 Insufficient cpu"),
        (vec![node("a", json!({})), on("q", "a", cpu("3")), node("b", json!({}))], pod("p", cpu("2")), "b"),
        (vec![node("a", gpu.clone()), node("b", json!({}))], pod("p", wants_gpu("2")), "a"),
        (vec![node("a", gpu)], pod("p", wants_gpu("3")), "1 Insufficient example.com/gpu"),
        (
            vec![node("a", json!({}))],
            pod(
                "p",
                json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "5", "memory": "9Gi"}}}]}}),
            ),
            "1 Insufficient cpu, 1 Insufficient memory",
        ),
        ([vec![node("a", json!({}))], ten].into_iter().flatten().collect(), pod("p", json!({})), "1 Too many pods"),
        (vec![node("a", json!({}))], pod("p", json!({"spec": {"overhead": {"cpu": "5"}}})), "1 Insufficient cpu"),
        (vec![], pod("p", json!({})), "no nodes available to schedule pods"),
    ];
    for (number, (updates, wanted, expected)) in cases.into_iter().enumerate() {
        assert_eq!(place(updates, wanted).trim_end_matches('.'), expected, "case {number}");
    }
}

#[test]
fn taints_selectors_and_ports() {
    let tainted = |effect: &str| json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}});
    let tolerant = json!({"spec": {"tolerations": [{"key": "k", "operator": "Exists"}]}});
    let cordoned = json!({"spec": {"unschedulable": true}});
    let daemon = json!({"spec": {"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}]}});
    let labelled = json!({"metadata": {"labels": {"disk": "ssd"}}});
    let selects = |value: &str| json!({"spec": {"nodeSelector": {"disk": value}}});
    let named = |name: &str| {
        json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]}}}}})
    };
    let port = |number: u16, address: &str, protocol: &str| {
        json!({"spec": {"containers": [{"name": "c", "ports": [
        {"containerPort": number, "hostPort": number, "hostIP": address, "protocol": protocol}]}]}})
    };
    let plain = || node("a", json!({}));
    let cases = [
        (vec![node("a", tainted("NoSchedule"))], json!({}), "1 node(s) had untolerated taint(s)"),
        (vec![node("a", tainted("NoExecute"))], json!({}), "1 node(s) had untolerated taint(s)"),
        (vec![node("a", tainted("NoSchedule"))], tolerant, "a"),
        (vec![node("a", tainted("PreferNoSchedule"))], json!({}), "a"),
        (vec![node("a", tainted("PreferNoSchedule")), node("b", json!({}))], json!({}), "b"),
        (vec![node("a", cordoned.clone())], json!({}), "1 node(s) were unschedulable"),
        (vec![node("a", cordoned)], daemon, "a"),
        (vec![plain(), node("b", labelled.clone())], selects("ssd"), "b"),
        (vec![plain(), node("b", labelled)], selects("hdd"), "2 node(s) didn't match Pod's node affinity/selector"),
        (vec![plain(), node("b", json!({}))], named("b"), "b"),
        (vec![plain(), node("b", json!({}))], named("c"), "2 node(s) didn't match Pod's node affinity/selector"),
        (
            vec![plain(), on("q", "a", port(80, "", "TCP"))],
            port(80, "", "TCP"),
            "1 node(s) didn't have free ports for the requested pod ports",
        ),
        (
            vec![plain(), on("q", "a", port(80, "10.0.0.1", "TCP"))],
            port(80, "0.0.0.0", "TCP"),
            "1 node(s) didn't have free ports for the requested pod ports",
        ),
        (vec![plain(), on("q", "a", port(80, "10.0.0.1", "TCP"))], port(80, "10.0.0.2", "TCP"), "a"),
        (vec![plain(), on("q", "a", port(80, "", "TCP"))], port(80, "", "UDP"), "a"),
    ];
    for (number, (updates, wanted, expected)) in cases.into_iter().enumerate() {
        assert_eq!(place(updates, pod("p", wanted)).trim_end_matches('.'), expected, "case {number}");
    }
}

fn zoned(name: &str, zone: &str) -> Update {
    node(name, json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}}))
}

fn labels(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}})
}

fn near(kind: &str, app: &str, key: &str, more: Value) -> Value {
    let mut term = json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}});
    merge(&mut term, more);
    json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}})
}

#[test]
fn affinity_between_pods() {
    const ZONE: &str = "topology.kubernetes.io/zone";
    const HOST: &str = "kubernetes.io/hostname";
    let with = |mut base: Value, more: Value| {
        merge(&mut base, more);
        base
    };
    let two = || vec![zoned("a", "1"), zoned("b", "2"), on("q", "b", labels("db"))];
    let other = |more: Value| with(json!({"metadata": {"namespace": "other"}}), more);
    let space = |name: &str, team: &str| {
        Update::Namespace(name.into(), Some(object(json!({"metadata": {"name": name, "labels": {"team": team}}}))))
    };
    let cases = [
        (two(), near("podAffinity", "db", ZONE, json!({})), "b"),
        (two(), near("podAntiAffinity", "db", ZONE, json!({})), "a"),
        (two(), near("podAffinity", "web", ZONE, json!({})), "2 node(s) didn't match pod affinity rules"),
        (two(), with(labels("web"), near("podAffinity", "web", HOST, json!({}))), "a|b"),
        (
            vec![node("a", json!({}))],
            with(labels("web"), near("podAffinity", "web", ZONE, json!({}))),
            "1 node(s) didn't match pod affinity rules",
        ),
        (
            vec![zoned("a", "1"), on("q", "a", labels("db"))],
            near("podAntiAffinity", "db", HOST, json!({})),
            "1 node(s) didn't match pod anti-affinity rules",
        ),
        (
            vec![zoned("a", "1"), on("q", "a", near("podAntiAffinity", "web", HOST, json!({})))],
            labels("web"),
            "1 node(s) didn't satisfy existing pods anti-affinity rules",
        ),
        (
            vec![
                zoned("a", "1"),
                zoned("b", "1"),
                zoned("c", "2"),
                on("q", "a", near("podAntiAffinity", "web", ZONE, json!({}))),
            ],
            labels("web"),
            "c",
        ),
        (
            vec![zoned("a", "1"), zoned("b", "2"), on("q", "b", other(labels("db")))],
            near("podAffinity", "db", ZONE, json!({})),
            "2 node(s) didn't match pod affinity rules",
        ),
        (
            vec![zoned("a", "1"), zoned("b", "2"), on("q", "b", other(labels("db")))],
            near("podAffinity", "db", ZONE, json!({"namespaces": ["other"]})),
            "b",
        ),
        (
            vec![space("other", "x"), zoned("a", "1"), zoned("b", "2"), on("q", "b", other(labels("db")))],
            near("podAffinity", "db", ZONE, json!({"namespaceSelector": {"matchLabels": {"team": "x"}}})),
            "b",
        ),
        (
            vec![space("other", "y"), zoned("a", "1"), on("q", "a", other(labels("db")))],
            near("podAffinity", "db", ZONE, json!({"namespaceSelector": {"matchLabels": {"team": "x"}}})),
            "1 node(s) didn't match pod affinity rules",
        ),
    ];
    for (number, (updates, wanted, expected)) in cases.into_iter().enumerate() {
        let found = place(updates, pod("p", wanted));
        assert!(expected.split('|').any(|one| one == found.trim_end_matches('.')), "case {number}: {found}");
    }
}

#[test]
fn spreading() {
    const ZONE: &str = "topology.kubernetes.io/zone";
    let spread = |when: &str, more: Value| {
        let mut one = json!({"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"app": "web"}}});
        merge(&mut one, more);
        let mut pod = labels("web");
        merge(&mut pod, json!({"spec": {"topologySpreadConstraints": [one]}}));
        pod
    };
    let hard = |more: Value| spread("DoNotSchedule", more);
    let base = || vec![zoned("a", "1"), zoned("b", "2"), on("q", "a", labels("web"))];
    let leaving = json!({"metadata": {"labels": {"app": "web"}, "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let tainted = node(
        "c",
        json!({"metadata": {"labels": {ZONE: "3"}}, "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
    );
    let only_a = json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "a"}}});
    let with = |mut base: Value, more: Value| {
        merge(&mut base, more);
        base
    };
    let full_b = on("full", "b", cpu("4"));
    let cases = [
        (base(), hard(json!({})), "b"),
        (base(), spread("ScheduleAnyway", json!({})), "b"),
        (
            [base(), vec![full_b]].into_iter().flatten().collect(),
            with(hard(json!({})), cpu("1")),
            "1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints",
        ),
        (vec![zoned("a", "1"), node("b", json!({}))], hard(json!({})), "a"),
        (
            vec![node("b", json!({}))],
            hard(json!({})),
            "1 node(s) didn't match pod topology spread constraints (missing required label)",
        ),
        (
            vec![zoned("a", "1"), on("q", "a", labels("web"))],
            hard(json!({"minDomains": 2})),
            "1 node(s) didn't match pod topology spread constraints",
        ),
        (vec![zoned("a", "1"), on("q", "a", leaving)], hard(json!({"minDomains": 2})), "a"),
        (base(), with(hard(json!({})), only_a.clone()), "a"),
        (
            base(),
            with(hard(json!({"nodeAffinityPolicy": "Ignore"})), only_a),
            "1 node(s) didn't match Pod's node affinity/selector, 1 node(s) didn't match pod topology spread constraints",
        ),
        (vec![zoned("a", "1"), on("q", "a", labels("web")), tainted], hard(json!({"nodeTaintsPolicy": "Honor"})), "a"),
        (base(), hard(json!({"matchLabelKeys": ["app"]})), "b"),
    ];
    for (number, (updates, wanted, expected)) in cases.into_iter().enumerate() {
        assert_eq!(place(updates, pod("p", wanted)).trim_end_matches('.'), expected, "case {number}");
    }
}

#[test]
fn better_nodes_win() {
    let likes = |value: &str| {
        json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
        [{"weight": 10, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": [value]}]}}]}}}})
    };
    let ssd = || node("b", json!({"metadata": {"labels": {"disk": "ssd"}}}));
    let wishes = |kind: &str| {
        json!({"spec": {"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution":
        [{"weight": 100, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}}]}}}})
    };
    let image = |size: i64| json!({"status": {"images": [{"names": ["app:latest"], "sizeBytes": size}]}});
    let replica = json!({"metadata": {"labels": {"app": "web"}, "ownerReferences": [
        {"kind": "ReplicaSet", "name": "r", "uid": "r", "apiVersion": "apps/v1", "controller": true}]}});
    let plain = |name: &str| node(name, json!({}));
    let cases = [
        (vec![plain("a"), plain("b"), on("q", "a", cpu("2"))], cpu("1"), "b"),
        (vec![plain("a"), ssd()], likes("ssd"), "b"),
        (vec![plain("a"), plain("b"), on("q", "b", labels("db"))], wishes("podAffinity"), "b"),
        (vec![plain("a"), plain("b"), on("q", "a", labels("db"))], wishes("podAntiAffinity"), "b"),
        (vec![plain("a"), plain("b"), on("q", "b", wishes("podAffinity"))], labels("db"), "b"),
        (vec![plain("a"), plain("b"), on("q", "a", wishes("podAntiAffinity"))], labels("db"), "b"),
        (vec![plain("a"), node("b", image(900 << 20))], json!({}), "b"),
        (vec![plain("a"), plain("b"), on("q", "a", replica.clone())], replica, "b"),
    ];
    for (number, (updates, wanted, expected)) in cases.into_iter().enumerate() {
        assert_eq!(place(updates, pod("p", wanted)), expected, "case {number}");
    }
}

fn claim(name: &str, class: &str, volume: Option<&str>, modes: &[&str]) -> Update {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name},
        "spec": {"storageClassName": class, "accessModes": modes, "resources": {"requests": {"storage": "1Gi"}}},
    });
    if let Some(volume) = volume {
        let bound = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": volume}});
        merge(&mut value, bound);
    }
    Update::Claim(format!("ns/{name}"), Some(object(value)))
}

fn volume(name: &str, class: &str, host: &str) -> Update {
    let value = json!({
        "metadata": {"name": name},
        "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce", "ReadWriteOncePod"], "capacity": {"storage": "2Gi"},
            "csi": {"driver": "disk.example.com", "volumeHandle": name},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]}}},
    });
    Update::Volume(name.into(), Some(object(value)))
}

fn class(name: &str, provisioner: &str, mode: &str) -> Update {
    let value = json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
    Update::Class(name.into(), Some(object(value)))
}

fn claims(names: &[&str]) -> Value {
    let volumes: Vec<_> =
        names.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})).collect();
    json!({"spec": {"volumes": volumes}})
}

#[test]
fn volumes() {
    const ONE: &[&str] = &["ReadWriteOnce"];
    let two = || vec![node("a", json!({})), node("b", json!({}))];
    let late = || class("late", "kubernetes.io/no-provisioner", "WaitForFirstConsumer");
    let limits = Update::Csi(
        "a".into(),
        Some(object(json!({"metadata": {"name": "a"}, "spec": {"drivers": [
        {"name": "disk.example.com", "nodeID": "a", "allocatable": {"count": 1}}]}}))),
    );
    let with = |more: Vec<Update>| two().into_iter().chain(more).collect::<Vec<_>>();
    let cases = [
        (with(vec![]), "persistentvolumeclaim \"c\" not found"),
        (with(vec![claim("c", "now", None, ONE)]), "pod has unbound immediate PersistentVolumeClaims"),
        (
            with(vec![claim("c", "late", Some("v"), ONE)]),
            "2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
        ),
        (with(vec![volume("v", "late", "b"), claim("c", "late", Some("v"), ONE)]), "b"),
        (
            with(vec![volume("v", "late", "x"), claim("c", "late", Some("v"), ONE)]),
            "2 node(s) didn't match PersistentVolume's node affinity",
        ),
        (
            with(vec![late(), claim("c", "late", None, ONE)]),
            "2 node(s) didn't find available persistent volumes to bind",
        ),
        (with(vec![late(), volume("v", "late", "b"), claim("c", "late", None, ONE)]), "b"),
        (
            with(vec![late(), volume("v", "late", "b"), claim("c", "late", None, &["ReadWriteMany"])]),
            "2 node(s) didn't find available persistent volumes to bind",
        ),
        (
            with(vec![
                volume("v", "late", "b"),
                claim("c", "late", Some("v"), &["ReadWriteOncePod"]),
                on("q", "b", claims(&["c"])),
            ]),
            "2 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
        ),
        (
            vec![
                node("a", json!({})),
                limits,
                volume("v", "late", "a"),
                volume("w", "late", "a"),
                claim("c", "late", Some("v"), ONE),
                claim("d", "late", Some("w"), ONE),
                on("q", "a", claims(&["d"])),
            ],
            "1 node(s) exceed max volume count",
        ),
    ];
    for (number, (updates, expected)) in cases.into_iter().enumerate() {
        assert_eq!(place(updates, pod("p", claims(&["c"]))).trim_end_matches('.'), expected, "case {number}");
    }
}

#[test]
fn volumes_are_chosen_with_the_node() {
    let late = [
        class("late", "kubernetes.io/no-provisioner", "WaitForFirstConsumer"),
        class("made", "disk.example.com", "WaitForFirstConsumer"),
    ];
    let more = [
        node("a", json!({})),
        volume("v", "late", "a"),
        claim("c", "late", None, &["ReadWriteOnce"]),
        claim("d", "made", None, &["ReadWriteOnce"]),
        pod("p", claims(&["c", "d"])),
        claim("e", "late", None, &["ReadWriteOnce"]),
    ];
    let mut scheduler = world(late.into_iter().chain(more));
    let Some(Decision::Bind { pod: bound, steps, .. }) = scheduler.decide(at(1), 0) else { panic!("it fits") };
    let expected = [
        VolumeStep::Bind { volume: "v".into(), claim: "ns/c".into() },
        VolumeStep::Provision { claim: "ns/d".into(), node: "a".into() },
    ];
    assert_eq!(steps, expected);
    assert!(!scheduler.volumes_bound(&bound));
    scheduler.update(pod("q", claims(&["e"])), at(2));
    assert!(next(&mut scheduler, 2).contains("didn't find available persistent volumes"), "it is promised");
    scheduler.bound("p", false, at(3));
    assert_eq!(next(&mut scheduler, 4), "a", "the failed one is first in line again or the other has the volume");
}

fn important(priority: i32, more: Value) -> Value {
    let mut value = json!({"spec": {"priority": priority}});
    merge(&mut value, more);
    value
}

#[test]
fn preemption() {
    let started = |second: u32| json!({"status": {"startTime": format!("2026-01-01T00:00:{second:02}Z")}});
    let low = |name: &str, node: &str, priority: i32, amount: &str, second: u32| {
        let mut more = important(priority, cpu(amount));
        merge(&mut more, started(second));
        merge(&mut more, labels(name));
        on(name, node, more)
    };
    let nodes = |names: &[&str]| names.iter().map(|name| node(name, json!({}))).collect::<Vec<_>>();
    let budget = |app: &str| {
        Update::Budget(
            "ns/b".into(),
            Some(object(json!({
        "metadata": {"name": "b", "namespace": "ns"}, "spec": {"selector": {"matchLabels": {"app": app}}},
        "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}}))),
        )
    };
    let with = |base: Vec<Update>, more: Vec<Update>| base.into_iter().chain(more).collect::<Vec<_>>();
    let cases = [
        (with(nodes(&["a"]), vec![low("q", "a", 0, "4", 1)]), important(5, cpu("1")), "instead of q on a"),
        (
            with(nodes(&["a"]), vec![low("q", "a", 5, "4", 1)]),
            important(5, cpu("1")),
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        ),
        (
            with(nodes(&["a"]), vec![low("q", "a", 0, "1", 1)]),
            important(5, cpu("5")),
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
        ),
        (
            with(nodes(&["a"]), vec![low("q", "a", 0, "2", 1), low("r", "a", 1, "2", 1)]),
            important(5, cpu("1")),
            "instead of q on a",
        ),
        (
            with(nodes(&["a"]), vec![low("q", "a", 0, "2", 1), low("r", "a", 0, "2", 2)]),
            important(5, cpu("1")),
            "instead of r on a",
        ),
        (
            with(nodes(&["a", "b"]), vec![low("q", "a", 2, "4", 1), low("r", "b", 1, "4", 1)]),
            important(5, cpu("1")),
            "instead of r on b",
        ),
        (
            with(nodes(&["a", "b"]), vec![low("q", "a", 1, "4", 1), low("r", "b", 1, "4", 1), budget("q")]),
            important(5, cpu("1")),
            "instead of r on b",
        ),
        (
            with(nodes(&["a"]), vec![low("q", "a", 1, "2", 1), low("r", "a", 1, "2", 2), budget("r")]),
            important(5, cpu("1")),
            "instead of q on a",
        ),
        (
            with(
                nodes(&["a"]),
                vec![on("q", "a", near("podAntiAffinity", "web", "kubernetes.io/hostname", json!({})))],
            ),
            important(5, labels("web")),
            "instead of q on a",
        ),
        (
            with(nodes(&["a"]), vec![low("q", "a", 0, "4", 1)]),
            important(
                5,
                json!({"spec": {"preemptionPolicy": "Never", "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}}),
            ),
            "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.",
        ),
    ];
    for (number, (updates, wanted, expected)) in cases.into_iter().enumerate() {
        let mut scheduler = world(updates.into_iter().chain([pod("p", wanted)]));
        assert_eq!(next(&mut scheduler, 1), expected, "case {number}");
    }
}

#[test]
fn room_that_was_made_is_kept_for_whom_it_was_made() {
    let mut scheduler = world([node("a", json!({})), on("q", "a", cpu("4")), pod("p", important(5, cpu("4")))]);
    assert_eq!(next(&mut scheduler, 1), "instead of q on a");
    scheduler.update(Update::PodGone("q".into()), at(2));
    scheduler.update(pod("late", cpu("1")), at(2));
    assert!(next(&mut scheduler, 2).starts_with("a"), "the important one is first");
    assert!(next(&mut scheduler, 2).contains("Insufficient cpu"));
}

#[test]
fn failed_bindings_give_back_their_room() {
    let mut scheduler = world([node("a", json!({})), pod("p", cpu("4"))]);
    assert_eq!(next(&mut scheduler, 1), "a");
    assert_eq!(scheduler.cluster().node_of("p"), Some("a"));
    scheduler.bound("p", false, at(1));
    assert_eq!(scheduler.cluster().node_of("p"), None);
    assert_eq!(next(&mut scheduler, 1), "nothing");
    assert_eq!(next(&mut scheduler, 2), "a");
    scheduler.bound("p", true, at(2));
    scheduler.update(on("p", "a", cpu("4")), at(3));
    assert_eq!(scheduler.cluster().node_of("p"), Some("a"));
    assert_eq!(scheduler.queue().lengths(), [0; 4]);
}

#[test]
fn pods_of_others_and_gated_pods_are_left_alone() {
    let mut scheduler = world([
        node("a", json!({})),
        pod("other", json!({"spec": {"schedulerName": "mine"}})),
        pod("gated", json!({"spec": {"schedulingGates": [{"name": "g"}]}})),
        pod("leaving", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
    ]);
    assert_eq!(next(&mut scheduler, 1), "nothing");
    scheduler.update(pod("gated", json!({"metadata": {"generation": 2}})), at(2));
    assert_eq!(next(&mut scheduler, 2), "a");
}

#[test]
fn a_node_that_comes_back_has_its_pods() {
    let mut scheduler = world([node("a", json!({})), on("q", "a", cpu("3"))]);
    scheduler.update(Update::Node("a".into(), None), at(1));
    assert_eq!(scheduler.cluster().node_count(), 0);
    scheduler.update(node("a", json!({"metadata": {"labels": {"new": "label"}}})), at(2));
    scheduler.update(pod("p", cpu("2")), at(2));
    assert!(next(&mut scheduler, 3).contains("Insufficient cpu"));
    scheduler.update(on("q", "a", json!({"status": {"phase": "Succeeded"}})), at(4));
    assert_eq!(next(&mut scheduler, 5), "a");
}

mod random {
    //! Random clusters: whatever is decided, every rule holds afterwards, and counts never drift.

    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    struct Wanted {
        cpu: u32,
        app: u8,
        away: bool,
        spread: bool,
        zone: Option<u8>,
        priority: i32,
        leaves: bool,
    }

    fn wanted() -> impl Strategy<Value = Wanted> {
        (
            0..20_u32,
            0..3_u8,
            any::<bool>(),
            any::<bool>(),
            proptest::option::weighted(0.2, 0..3_u8),
            0..3_i32,
            any::<bool>(),
        )
            .prop_map(|(cpu, app, away, spread, zone, priority, leaves)| Wanted {
                cpu,
                app,
                away,
                spread,
                zone,
                priority,
                leaves,
            })
    }

    fn spec(wanted: &Wanted) -> Value {
        let app = format!("app{}", wanted.app);
        let mut pod = cpu(&format!("{}m", wanted.cpu * 100));
        merge(&mut pod, labels(&app));
        merge(&mut pod, json!({"spec": {"priority": wanted.priority}}));
        if wanted.away {
            merge(&mut pod, near("podAntiAffinity", &app, "kubernetes.io/hostname", json!({})));
        }
        if wanted.spread {
            merge(
                &mut pod,
                json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
                "topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": {"app": app}}}]}}),
            );
        }
        if let Some(zone) = wanted.zone {
            merge(&mut pod, json!({"spec": {"nodeSelector": {"topology.kubernetes.io/zone": zone.to_string()}}}));
        }
        pod
    }

    /// Decides everything that can be decided; checks each decision against a plain count.
    fn check(nodes: u8, list: &[Wanted]) {
        let zone = |node: &str| node[1..].parse::<u8>().unwrap() % 3;
        let mut scheduler = world((0..nodes).map(|number| zoned(&format!("n{number}"), &(number % 3).to_string())));
        let mut placed: BTreeMap<String, (String, Wanted)> = BTreeMap::new();
        for (number, wanted) in list.iter().enumerate() {
            let name = format!("p{number}");
            scheduler.update(pod(&name, spec(wanted)), at(number as i64));
            if let Some(Decision::Bind { pod: bound, node, .. }) =
                scheduler.decide(at(number as i64 + 20), number as u64)
            {
                let wanted = &list[bound.name[1..].parse::<usize>().unwrap()];
                let here = |other: &&(String, Wanted)| other.0 == node;
                let used: u32 = placed.values().filter(here).map(|(_, other)| other.cpu).sum();
                assert!(used + wanted.cpu <= 40 && placed.values().filter(here).count() < 10, "overcommitted");
                let alike = |other: &&(String, Wanted)| other.1.app == wanted.app;
                let clash = placed.values().filter(here).filter(alike).any(|(_, other)| other.away || wanted.away);
                assert!(!clash, "anti-affinity is broken on {node}");
                assert!(wanted.zone.is_none_or(|wanted| wanted == zone(&node)), "node selector");
                if wanted.spread {
                    let open: Vec<u8> =
                        (0..nodes.min(3)).filter(|one| wanted.zone.is_none_or(|wanted| wanted == *one)).collect();
                    let count = |one: u8| placed.values().filter(alike).filter(|(node, _)| zone(node) == one).count();
                    let least = open.iter().map(|one| count(*one)).min().unwrap_or(0);
                    assert!(count(zone(&node)) < least + 1, "skew");
                }
                placed.insert(bound.name.clone(), (node.clone(), wanted.clone()));
                scheduler.bound(&bound.uid, true, at(number as i64));
                scheduler.update(on(&bound.name, &node, spec(wanted)), at(number as i64));
            }
            if wanted.leaves
                && let Some((gone, _)) = placed.pop_first()
            {
                scheduler.update(Update::PodGone(gone), at(number as i64));
            }
        }
        for name in placed.into_keys() {
            scheduler.update(Update::PodGone(name), at(1000));
        }
        for node in &scheduler.cluster().nodes {
            assert!(node.pods.is_empty() && node.classes.is_empty() && node.requested.is_zero());
        }
        assert!(scheduler.cluster().terms.is_clean(), "counts have drifted");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        #[test]
        fn every_rule_holds_after_every_decision(nodes in 1..6_u8, list in proptest::collection::vec(wanted(), 1..40)) {
            check(nodes, &list);
        }
    }
}
