//! Decisions per second of the core alone, 5,000 nodes in five zones, pods of several kinds mixed.
//! Prints a table; nothing here is a test. `cargo bench -p timonel-scheduler`.

use jiff::Timestamp;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use timonel_scheduler::{Decision, Scheduler, Update};

const NODES: usize = 5000;
const PODS: usize = 20_000;

fn object<K: serde::de::DeserializeOwned>(value: Value) -> Box<K> {
    Box::new(serde_json::from_value(value).expect("the object is well formed"))
}

fn node(number: usize) -> Update {
    let name = format!("node-{number:05}");
    let value = json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", number % 5),
            "disk": if number.is_multiple_of(3) { "ssd" } else { "hdd" }}},
        "status": {
            "allocatable": {"cpu": "32", "memory": "128Gi", "pods": "110", "ephemeral-storage": "100Gi"},
            "images": [{"names": ["registry.example.com/base:1"], "sizeBytes": 300_000_000}]},
    });
    Update::Node(name, Some(object(value)))
}

/// Pods of one of 100 workloads; `kind` says what they ask for besides resources.
fn pod(number: usize, kind: &str) -> Update {
    let app = format!("app-{}", number % 100);
    let labels = json!({"matchLabels": {"app": app}});
    let spread = |when: &str| {
        json!({"topologySpreadConstraints": [{"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": when, "labelSelector": labels}]})
    };
    let anti = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": labels});
    let more = match kind {
        "selector" => json!({"nodeSelector": {"disk": "ssd"}}),
        "spread" => spread("DoNotSchedule"),
        "soft spread" => spread("ScheduleAnyway"),
        "anti-affinity" => {
            json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [anti]}}})
        }
        "preferred anti-affinity" => {
            json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
            [{"weight": 50, "podAffinityTerm": anti}]}}})
        }
        _ => json!({}),
    };
    let mut value = json!({
        "metadata": {"name": format!("pod-{number}"), "namespace": "bench", "uid": format!("uid-{number}"), "generation": 1,
            "labels": {"app": app}, "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app, "uid": app, "controller": true}]},
        "spec": {"containers": [{"name": "c", "image": "registry.example.com/base:1",
            "resources": {"requests": {"cpu": "100m", "memory": "200Mi"}}}]},
    });
    for (key, field) in more.as_object().into_iter().flatten() {
        value["spec"][key] = field.clone();
    }
    Update::Pod(object(value))
}

fn run(kind: &str, of: impl Fn(usize) -> &'static str) {
    let now = Timestamp::UNIX_EPOCH;
    let mut scheduler = Scheduler::new(["default-scheduler".to_owned()]);
    (0..NODES).for_each(|number| scheduler.update(node(number), now));
    let pods: Vec<_> = (0..PODS).map(|number| pod(number, of(number))).collect();
    let started = Instant::now();
    pods.into_iter().for_each(|pod| scheduler.update(pod, now));
    let parsing = started.elapsed();
    let started = Instant::now();
    let (mut bound, mut slowest) = (0, Duration::ZERO);
    for chance in 0.. {
        let before = Instant::now();
        match scheduler.decide(now, chance) {
            Some(Decision::Bind { pod, .. }) => {
                scheduler.bound(&pod.uid, true, now);
                bound += 1;
            }
            Some(Decision::Report { .. }) => {}
            None => break,
        }
        slowest = slowest.max(before.elapsed());
    }
    let each = started.elapsed() / u32::try_from(PODS).unwrap_or(u32::MAX);
    println!(
        "{kind:26} {:>8.0} pods/s {each:>10.1?} each, slowest {slowest:>9.1?}, taken in {:>8.1?} each, {bound} bound",
        1.0 / each.as_secs_f64(),
        parsing / u32::try_from(PODS).unwrap_or(u32::MAX),
    );
}

fn main() {
    const KINDS: [&str; 6] = ["plain", "selector", "spread", "soft spread", "anti-affinity", "preferred anti-affinity"];
    for kind in KINDS {
        run(kind, |_| kind);
    }
    run("mixed", |number| KINDS[number % KINDS.len()]);
}
