//! Each invariant sees the state that it forbids.

use super::*;
use crate::snapshot::Snapshot;
use serde_json::json;
use std::{collections::BTreeSet, sync::Arc};
use timonel_cloud_core::{Attachment, InstanceId, InstanceState, Owner, Tags, VolumeId};

fn snapshot(objects: &[(&'static str, Value)]) -> Snapshot {
    let mut all = Snapshot::default();
    for (kind, object) in objects {
        all.put(kind, Arc::new(object.clone()));
    }
    all
}

fn node(cpu: &str) -> Value {
    json!({"metadata": {"name": "n", "uid": "n"}, "spec": {"providerID": "local:///a/i-1"},
        "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"}}})
}

fn pod(name: &str, on: &str, phase: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "a", "uid": name, "resourceVersion": "5"},
        "spec": {"nodeName": on, "containers": [{"resources": {"requests": {"cpu": "600m", "memory": "1Mi"}}}]},
        "status": {"phase": phase}})
}

fn service(name: &str, address: &str, port: u16) -> Value {
    json!({"metadata": {"name": name, "namespace": "a", "uid": name},
        "spec": {"clusterIPs": [address], "ports": [{"protocol": "TCP", "nodePort": port}]}})
}

fn change(kind: &'static str, old: Option<Value>, new: Option<Value>) -> Change {
    Change { kind, old: old.map(Arc::new), new: new.map(Arc::new) }
}

fn instance(state: InstanceState) -> Instance {
    Instance {
        id: InstanceId::from("i-1"),
        provider_id: "local:///a/i-1".to_owned(),
        name: "n".to_owned(),
        addresses: Vec::new(),
        instance_type: String::new(),
        zone: String::new(),
        region: String::new(),
        state,
        pod_ranges: Vec::new(),
        tags: Tags::new(),
        created: jiff::Timestamp::UNIX_EPOCH,
    }
}

#[track_caller]
fn check(objects: &[(&'static str, Value)], change: &Change, cloud: &CloudLook, wrong: &[&str]) {
    assert_eq!(safety(&snapshot(objects), change, cloud), wrong);
}

#[test]
fn nodes_are_not_overcommitted() {
    let calm = CloudLook::default();
    let both = |first: &str| [("Node", node("1")), ("Pod", pod("p", "n", first)), ("Pod", pod("q", "n", "Pending"))];
    let bound = change("Pod", None, Some(pod("q", "n", "Pending")));
    check(&both("Succeeded"), &bound, &calm, &[]);
    check(&both("Running"), &bound, &calm, &["node n is overcommitted: 1200m, 2097152 bytes, 2 pods"]);
}

#[test]
fn pods_stay_and_end_once() {
    let calm = CloudLook::default();
    let mut next = pod("p", "m", "Running");
    next["metadata"]["resourceVersion"] = json!("6");
    check(
        &[],
        &change("Pod", Some(pod("p", "n", "Running")), Some(next.clone())),
        &calm,
        &["Pod a/p moved from n to m"],
    );
    let ended = change("Pod", Some(pod("p", "m", "Failed")), Some(next.clone()));
    check(&[], &ended, &calm, &["Pod a/p went from Failed to Running"]);
    let back = change("Pod", Some(next), Some(pod("p", "m", "Running")));
    check(&[], &back, &calm, &["Pod a/p went from version 6 to 5"]);
}

#[test]
fn addresses_and_ports_are_unique() {
    for (other, wrong) in [
        (service("t", "10.96.0.2", 30_001), vec![]),
        (service("t", "10.96.0.1", 30_001), vec!["Service a/s and Service a/t share 10.96.0.1"]),
        (service("t", "10.96.0.2", 30_000), vec!["Service a/s and Service a/t share TCP/30000"]),
        (service("t", "None", 30_001), vec![]),
    ] {
        let new = service("s", "10.96.0.1", 30_000);
        check(&[("Service", other)], &change("Service", None, Some(new)), &CloudLook::default(), &wrong);
    }
}

#[test]
fn nodes_live_as_long_as_their_instances() {
    let gone = change("Node", Some(node("1")), None);
    let cloud = |state| CloudLook { instances: vec![instance(state)], ..CloudLook::default() };
    check(&[], &gone, &cloud(InstanceState::Gone), &[]);
    check(&[], &gone, &CloudLook::default(), &[]);
    check(&[], &gone, &cloud(InstanceState::Stopped), &["Node n was removed while instance i-1 lives"]);
}

#[test]
fn deployments_surge_as_far_as_allowed() {
    let set = |name: &str, replicas: i64| {
        json!({"metadata": {"name": name, "namespace": "a", "uid": name, "ownerReferences": [
            {"kind": "Deployment", "uid": "d", "controller": true}]}, "spec": {"replicas": replicas}})
    };
    let deployment = |seen: i64| {
        json!({"metadata": {"name": "d", "namespace": "a", "uid": "d", "generation": 2},
            "spec": {"replicas": 4, "strategy": {"rollingUpdate": {"maxSurge": "25%"}}},
            "status": {"observedGeneration": seen}})
    };
    for (seen, old, new, wrong) in
        [(2, 1, 4, vec![]), (2, 2, 4, vec!["Deployment a/d wants 6 pods of at most 5"]), (1, 2, 4, vec![])]
    {
        let objects =
            [("Deployment", deployment(seen)), ("ReplicaSet", set("old", old)), ("ReplicaSet", set("new", new))];
        let grows = change("ReplicaSet", None, Some(set("new", new)));
        check(&objects, &grows, &CloudLook::default(), &wrong);
    }
}

#[test]
fn volumes_are_where_they_are_used_and_ordinals_run_once() {
    let running = |instance: &str, volume: Option<&str>| Running {
        instance: instance.to_owned(),
        uid: "u".to_owned(),
        title: "a/db-0".to_owned(),
        stateful: true,
        volumes: volume.into_iter().map(|id| format!("kubernetes.io/csi/local^{id}")).collect(),
    };
    let volume = Volume {
        id: VolumeId::from("v-1"),
        owner: Owner::new("c", "u"),
        name: String::new(),
        bytes: 1,
        zone: String::new(),
        attachment: Some(Attachment { instance: InstanceId::from("i-1"), device: String::new() }),
    };
    let cloud = CloudLook { volumes: vec![volume], ..CloudLook::default() };
    assert_eq!(machines(&[running("i-1", Some("v-1"))], &cloud), Vec::<String>::new());
    assert_eq!(machines(&[running("i-2", Some("v-1"))], &cloud).len(), 1);
    assert_eq!(machines(&[running("i-1", None), running("i-2", None)], &cloud), ["a/db-0 runs on i-1 and on i-2"]);
}

#[test]
fn what_is_left_in_the_end_is_told() {
    let (calm, nobody) = (CloudLook::default(), BTreeSet::new());
    let going = json!({"metadata": {"name": "c", "namespace": "a", "deletionTimestamp": "x", "finalizers": ["f"]}});
    let owned =
        json!({"metadata": {"name": "c", "namespace": "a", "ownerReferences": [{"kind": "Pod", "uid": "gone"}]}});
    let public = json!({"metadata": {"name": "s", "namespace": "a", "uid": "s"}, "spec": {"type": "LoadBalancer"}});
    let released = json!({"metadata": {"name": "v"}, "status": {"phase": "Released"}});
    let job = json!({"metadata": {"name": "j", "namespace": "a"}, "status": {"active": 1}});
    let lagging = json!({"metadata": {"name": "d", "namespace": "a", "generation": 2}, "spec": {"replicas": 0},
        "status": {"observedGeneration": 1}});
    for (kind, object, wanted) in [
        ("ConfigMap", going, "ConfigMap a/c is still being removed: [\"f\"]"),
        ("ConfigMap", owned, "ConfigMap a/c has no owner left"),
        ("Service", public, "Service a/s has no address"),
        ("PersistentVolume", released, "PersistentVolume v is {\"phase\":\"Released\"}"),
        ("Job", job, "Job a/j is not over: {\"active\":1}"),
        ("Deployment", lagging, "Deployment a/d wants 0: {\"observedGeneration\":1}"),
        ("Pod", pod("p", "n", "Running"), "Pod a/p is on node n, which is gone"),
    ] {
        let wrong = settled(&snapshot(&[(kind, object)]), &calm, &nobody);
        assert!(wrong.iter().any(|found| found == wanted), "{wanted}: {wrong:?}");
    }
    assert_eq!(settled(&snapshot(&[]), &calm, &nobody), Vec::<String>::new());
}
