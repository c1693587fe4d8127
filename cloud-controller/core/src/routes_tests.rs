//! Plans for routes, case by case.

use super::*;
use crate::{
    action::Act,
    model::{InstanceId, Owner},
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn instance(n: u8, state: InstanceState) -> Instance {
    Instance {
        id: InstanceId(format!("i-{n}")),
        provider_id: format!("fake:///a/i-{n}"),
        name: format!("node-{n}"),
        addresses: Vec::new(),
        instance_type: String::new(),
        zone: String::new(),
        region: String::new(),
        state,
        pod_ranges: Vec::new(),
        tags: Owner::new("c", "m").tags(),
        created: at(0),
    }
}

fn node(n: u8, ranges: &[&str], unavailable: Option<&str>) -> Arc<Node> {
    let mut conditions = vec![json!({ "type": "Ready", "status": "True" })];
    conditions.extend(unavailable.map(|status| json!({ "type": "NetworkUnavailable", "status": status })));
    let value = json!({
        "metadata": { "name": format!("node-{n}"), "resourceVersion": "3", "uid": format!("u-{n}") },
        "spec": { "podCIDR": ranges.first(), "podCIDRs": ranges },
        "status": { "conditions": conditions },
    });
    Arc::new(serde_json::from_value(value).unwrap())
}

fn route(n: u8, destination: &str) -> Route {
    Route { instance: InstanceId(format!("i-{n}")), destination: destination.parse().unwrap() }
}

fn plan(nodes: &[Arc<Node>], instances: &[Instance], routes: &[Route]) -> Vec<Act> {
    let view = RouteView { nodes, instances, routes, now: at(9) };
    plan_routes(&view).into_iter().map(|action| action.act).collect()
}

fn ensure(route: Route) -> Act {
    Act::Cloud(CloudCall::EnsureRoute(route))
}

#[test]
fn a_range_gets_its_route_and_then_its_condition() {
    let running = [instance(1, InstanceState::Running)];
    let acts = plan(&[node(1, &["10.1.0.0/24"], None)], &running, &[]);
    assert_eq!(acts[0], ensure(route(1, "10.1.0.0/24")));
    let Act::Patch { status: true, body } = &acts[1] else { panic!("{acts:?}") };
    assert_eq!(body["status"]["conditions"][0]["type"], "Ready", "what others say stays");
    assert_eq!(body["status"]["conditions"][1]["status"], "True", "no network yet");
    let acts = plan(&[node(1, &["10.1.0.0/24"], Some("True"))], &running, &[route(1, "10.1.0.0/24")]);
    let [Act::Patch { status: true, body }] = &acts[..] else { panic!("{acts:?}") };
    assert_eq!(body["status"]["conditions"][1]["reason"], "RouteCreated");
    let done = [node(1, &["10.1.0.0/24"], Some("False"))];
    assert_eq!(plan(&done, &running, &[route(1, "10.1.0.0/24")]), []);
}

#[test]
fn routes_follow_their_range() {
    let (running, gone) = (instance(1, InstanceState::Running), instance(1, InstanceState::Gone));
    let ready = || [node(1, &["10.1.0.0/24"], Some("False"))];
    let old = || [route(2, "10.1.0.0/24")];
    assert_eq!(
        plan(&ready(), std::slice::from_ref(&running), &old())[0],
        ensure(route(1, "10.1.0.0/24")),
        "taken over"
    );
    assert_eq!(
        plan(&ready(), &[gone], &[route(1, "10.1.0.0/24")]),
        [],
        "a node that is going keeps its route till then"
    );
    let left = Act::Cloud(CloudCall::DeleteRoute(route(1, "10.9.0.0/24")));
    assert_eq!(plan(&ready(), &[running], &[route(1, "10.1.0.0/24"), route(1, "10.9.0.0/24")]), [left]);
}

#[test]
fn both_families_are_routed() {
    let acts =
        plan(&[node(1, &["10.1.0.0/24", "fd00:1::/64"], Some("True"))], &[instance(1, InstanceState::Running)], &[]);
    assert_eq!(acts, [ensure(route(1, "10.1.0.0/24")), ensure(route(1, "fd00:1::/64"))]);
}

#[test]
fn ranges_are_given_once_and_lowest_first() {
    let nodes = [node(1, &[], None), node(2, &["10.1.0.0/24"], None), node(3, &[], None), node(4, &[], None)];
    let given: Vec<String> = plan_pod_ranges(&nodes, "10.1.0.0/22".parse().unwrap(), 24)
        .into_iter()
        .map(|action| match action.act {
            Act::Patch { body, .. } => format!("{} {}", action.subject.name, body["spec"]["podCIDR"].as_str().unwrap()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(given, ["node-1 10.1.1.0/24", "node-3 10.1.2.0/24", "node-4 10.1.3.0/24"]);
    assert!(plan_pod_ranges(&nodes, "10.1.0.0/24".parse().unwrap(), 24).is_empty(), "none is left");
}
