//! Plans for nodes, case by case.

use super::*;
use crate::{
    model::{MachineOrder, Owner},
    testing::FakeCloud,
};
use serde_json::json;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn instance(n: u8, state: InstanceState) -> Instance {
    let address = |kind, address: String| crate::model::Address { kind, address };
    Instance {
        id: InstanceId(format!("i-{n}")),
        provider_id: format!("fake:///a/i-{n}"),
        name: format!("node-{n}"),
        addresses: vec![
            address(crate::model::AddressKind::InternalIP, format!("10.0.0.{n}")),
            address(crate::model::AddressKind::Hostname, format!("node-{n}")),
        ],
        instance_type: "t.small".to_owned(),
        zone: "a".to_owned(),
        region: "r".to_owned(),
        state,
        pod_ranges: Vec::new(),
        tags: Owner::new("c", format!("m-{n}")).tags(),
        created: at(0),
    }
}

/// A node as its kubelet registers it.
fn fresh(n: u8) -> Value {
    json!({
        "metadata": { "name": format!("node-{n}"), "uid": format!("u-{n}"), "resourceVersion": "7" },
        "spec": { "taints": [
            { "key": TAINT_UNINITIALIZED, "value": "true", "effect": "NoSchedule" },
            { "key": "mine", "effect": "NoSchedule" },
        ] },
        "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
    })
}

/// The same after the plan has run to its end.
fn settled(n: u8, ready: &str) -> Value {
    let mut node = fresh(n);
    let kubelet = node["status"]["conditions"].clone();
    for _ in 0..5 {
        let objects = [Arc::new(serde_json::from_value(node.clone()).unwrap())];
        let instances = [instance(n, InstanceState::Running)];
        for action in plan(&objects, &instances, 0, &mut NodeMemory::default()) {
            let Act::Patch { body, .. } = action.act else { panic!("{action:?}") };
            merge(&mut node, &body);
        }
    }
    node["status"]["conditions"] = kubelet;
    node["status"]["conditions"][0]["status"] = ready.into();
    node
}

fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key).or_insert_with(|| json!({})), value);
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

fn plan(nodes: &[Arc<Node>], instances: &[Instance], observed: i64, memory: &mut NodeMemory) -> Vec<Action> {
    plan_nodes(&NodeView { provider: "fake", nodes, instances, observed: at(observed) }, memory)
}

fn nodes(values: impl IntoIterator<Item = Value>) -> Vec<Arc<Node>> {
    values.into_iter().map(|value| Arc::new(serde_json::from_value(value).unwrap())).collect()
}

#[test]
fn a_new_node_is_initialised_addresses_first() {
    let (mut memory, instances) = (NodeMemory::default(), [instance(1, InstanceState::Running)]);
    let actions = plan(&nodes([fresh(1)]), &instances, 0, &mut memory);
    let [Action { act: Act::Patch { status: true, body }, .. }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(body["status"]["addresses"][0], json!({ "type": "InternalIP", "address": "10.0.0.1" }));
    let mut node = fresh(1);
    merge(&mut node, body);
    let actions = plan(&nodes([node.clone()]), &instances, 0, &mut memory);
    let [Action { act: Act::Patch { status: false, body }, subject }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(subject.version, "7", "fenced by what was read");
    assert_eq!(body["spec"]["providerID"], "fake:///a/i-1");
    assert_eq!(body["spec"]["taints"], json!([{ "key": "mine", "effect": "NoSchedule" }]));
    for (label, value) in [
        ("node.kubernetes.io/instance-type", "t.small"),
        ("topology.kubernetes.io/zone", "a"),
        ("topology.kubernetes.io/region", "r"),
    ] {
        assert_eq!(body["metadata"]["labels"][label], value);
    }
    merge(&mut node, body);
    assert_eq!(plan(&nodes([node]), &instances, 0, &mut memory), [], "nothing is left to do");
}

#[test]
fn what_is_left_alone() {
    let mut foreign = fresh(1);
    foreign["spec"]["providerID"] = "other:///x/i-1".into();
    let running = [instance(1, InstanceState::Running)];
    let cases = [
        ("another cloud's node", foreign, &running[..]),
        ("a node whose instance is not seen yet", fresh(2), &running[..]),
        ("a settled node", settled(1, "True"), &running[..]),
    ];
    for (what, node, instances) in cases {
        assert_eq!(plan(&nodes([node]), instances, 0, &mut NodeMemory::default()), [], "{what}");
    }
}

#[test]
fn power_is_shown_as_a_taint() {
    let tainted = |node: &Value| {
        let taints: Node = serde_json::from_value(node.clone()).unwrap();
        crate::objects::taints(&taints).iter().any(|t| t.key == TAINT_SHUTDOWN)
    };
    for (ready, state, taint) in [
        ("Unknown", InstanceState::Stopped, true),
        ("True", InstanceState::Stopped, false),
        ("Unknown", InstanceState::Running, false),
    ] {
        let mut node = settled(1, ready);
        for action in plan(&nodes([node.clone()]), &[instance(1, state)], 0, &mut NodeMemory::default()) {
            let Act::Patch { body, .. } = action.act else { panic!("{action:?}") };
            merge(&mut node, &body);
        }
        assert_eq!(tainted(&node), taint, "{ready} {state:?}");
        let back = plan(&nodes([node]), &[instance(1, InstanceState::Running)], 0, &mut NodeMemory::default());
        assert_eq!(back.len(), usize::from(taint), "it goes when the power returns");
    }
}

#[test]
fn a_node_goes_after_two_listings_and_an_answer_by_id() {
    let gone = nodes([settled(1, "Unknown")]);
    let mut memory = NodeMemory::default();
    assert_eq!(plan(&gone, &[], 0, &mut memory), []);
    let asked = plan(&gone, &[], 10, &mut memory);
    let [Action { act: Act::Confirm(ids), .. }] = &asked[..] else { panic!("{asked:?}") };
    let mut alive = memory.clone();
    alive.absences.confirm(&[(ids[0].clone(), InstanceState::Running)].into());
    assert_eq!(plan(&gone, &[], 20, &mut alive), [], "the answer by ID says that it lives");
    memory.absences.confirm(&[(ids[0].clone(), InstanceState::Gone)].into());
    let removed = plan(&gone, &[], 20, &mut memory);
    assert!(
        matches!(
            &removed[..],
            [Action { act: Act::Event { reason: "DeletingNode", .. }, .. }, Action { act: Act::Delete, .. }]
        ),
        "{removed:?}"
    );
}

#[test]
fn a_ready_node_or_a_stale_listing_removes_nobody() {
    let mut memory = NodeMemory::default();
    let ready = nodes([settled(1, "True")]);
    for second in 0..20 {
        assert_eq!(plan(&ready, &[], second, &mut memory), [], "it says that it is ready");
    }
    let mut memory = NodeMemory::default();
    let unready = nodes([settled(1, "Unknown")]);
    for _ in 0..20 {
        assert_eq!(plan(&unready, &[], 5, &mut memory), [], "the same listing, however often");
    }
}

#[test]
fn a_mass_disappearance_is_an_alarm() {
    let all: Vec<Value> = (1..=5).map(|n| settled(n, "Unknown")).collect();
    let mut memory = NodeMemory::default();
    let mut alarms = 0;
    for second in 0..50 {
        for action in plan(&nodes(all.clone()), &[], second * 10, &mut memory) {
            assert!(matches!(action.act, Act::Alarm { reason: "MassDisappearance", .. }), "{action:?}");
            alarms += 1;
        }
    }
    assert_eq!(alarms, 1, "said once");
    let back: Vec<Instance> = (1..=5).map(|n| instance(n, InstanceState::Running)).collect();
    assert_eq!(plan(&nodes(all), &back, 600, &mut memory), [], "and forgotten when they are back");
}

#[test]
fn a_fleet_that_the_cloud_lists_as_gone_goes_each_after_a_second_look() {
    let all: Vec<Value> = (1..=3).map(|n| settled(n, "True")).collect();
    let gone: Vec<Instance> = (1..=3).map(|n| instance(n, InstanceState::Gone)).collect();
    let mut memory = NodeMemory::default();
    let asked = plan(&nodes(all.clone()), &gone, 0, &mut memory);
    let [Action { act: Act::Confirm(ids), .. }] = &asked[..] else { panic!("{asked:?}") };
    memory.absences.confirm(&ids.iter().map(|id| (id.clone(), InstanceState::Gone)).collect());
    let removed = plan(&nodes(all), &gone, 0, &mut memory);
    assert_eq!(removed.iter().filter(|a| a.act == Act::Delete).count(), 3);
}

#[tokio::test]
async fn whatever_the_listings_say_a_living_instance_keeps_its_node() {
    use crate::{
        cloud::{Instances, Machines},
        testing::Fault,
    };
    // Every listing may be empty; the instance never dies.
    for seed in 0..64_u32 {
        let cloud = FakeCloud::new("fake", at(0));
        let order = MachineOrder {
            token: "t".to_owned(),
            owner: Owner::new("c", "m"),
            pool: String::new(),
            name: "node-1".to_owned(),
            instance_type: String::new(),
            zone: "a".to_owned(),
            image: String::new(),
            user_data: String::new(),
            tags: [].into(),
        };
        let made = cloud.create(&order).await.unwrap();
        let mut node = settled(1, "Unknown");
        node["spec"]["providerID"] = made.provider_id.clone().into();
        let mut memory = NodeMemory::default();
        for look in 0..32 {
            if seed.rotate_left(look) & 3 != 0 {
                cloud.script("observe", Fault::Empty);
            }
            let instances = cloud.observe("c").await.unwrap();
            for action in plan(&nodes([node.clone()]), &instances, i64::from(look) * 5, &mut memory) {
                match action.act {
                    Act::Confirm(ids) => memory.absences.confirm(&cloud.confirm(&ids).await.unwrap()),
                    Act::Delete => panic!("seed {seed}, look {look}"),
                    _ => {}
                }
            }
        }
    }
}
