//! Plans for load balancers, case by case.

use super::*;
use crate::action::Act;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

struct Case {
    services: Vec<Arc<Service>>,
    nodes: Vec<Arc<Node>>,
    balancers: Vec<Balancer>,
    memory: ServiceMemory,
    second: i64,
}

fn instance(n: u8) -> Instance {
    Instance {
        id: InstanceId(format!("i-{n}")),
        provider_id: format!("fake:///a/i-{n}"),
        name: format!("node-{n}"),
        addresses: Vec::new(),
        instance_type: String::new(),
        zone: String::new(),
        region: String::new(),
        state: InstanceState::Running,
        pod_ranges: Vec::new(),
        tags: Owner::new("c", "m").tags(),
        created: at(0),
    }
}

fn node(n: u8, change: &Value) -> Arc<Node> {
    let mut value = json!({
        "metadata": { "name": format!("node-{n}"), "labels": {} },
        "spec": { "providerID": format!("fake:///a/i-{n}"), "taints": [] },
        "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
    });
    if let Some((path, value_at)) = change.as_object().and_then(|o| o.iter().next()) {
        *value.pointer_mut(path).unwrap() = value_at.clone();
    }
    Arc::new(serde_json::from_value(value).unwrap())
}

fn service(spec: &Value) -> Value {
    let mut all = json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Cluster",
        "ports": [{ "name": "web", "port": 80, "nodePort": 30080, "protocol": "TCP" }],
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        all[key] = value.clone();
    }
    json!({
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "svc-1", "resourceVersion": "5", "finalizers": [FINALIZER_BALANCER],
        },
        "spec": all,
    })
}

impl Case {
    fn new(service: Value) -> Self {
        Self {
            services: vec![Arc::new(serde_json::from_value(service).unwrap())],
            nodes: vec![node(1, &json!({})), node(2, &json!({}))],
            balancers: Vec::new(),
            memory: ServiceMemory::default(),
            second: 0,
        }
    }

    fn plan(&mut self) -> Vec<Act> {
        self.second += 1;
        let instances: Vec<Instance> = (1..=8).map(instance).collect();
        let view = ServiceView {
            cluster: "c",
            class: "timonel.io/fake",
            default_class: true,
            cluster_health: None,
            services: &self.services,
            nodes: &self.nodes,
            instances: &instances,
            balancers: &self.balancers,
            observed: at(self.second),
        };
        plan_services(&view, &mut self.memory).into_iter().map(|action| action.act).collect()
    }

    /// What the load balancer is asked to be.
    fn asked(&mut self) -> BalancerSpec {
        let acts = self.plan();
        let found = acts.iter().find_map(|act| match act {
            Act::Cloud(CloudCall::EnsureBalancer { spec, .. }) => Some((**spec).clone()),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("{acts:?}"))
    }

    fn provisioned(mut self) -> Self {
        let spec = self.asked();
        let addresses = vec!["203.0.113.7".parse().unwrap()];
        self.balancers = vec![Balancer { spec, addresses, hostnames: Vec::new(), healthy: BTreeSet::new() }];
        self
    }

    fn with_status(mut self) -> Self {
        let mut value = json!(*self.services[0]);
        value["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "203.0.113.7" }] } });
        self.services[0] = Arc::new(serde_json::from_value(value).unwrap());
        self
    }
}

fn reasons(acts: &[Act]) -> Vec<&'static str> {
    acts.iter().filter_map(|act| if let Act::Event { reason, .. } = act { Some(*reason) } else { None }).collect()
}

#[test]
fn the_finalizer_comes_before_the_load_balancer() {
    let mut bare = service(&json!({}));
    bare["metadata"]["finalizers"] = json!(["other"]);
    let acts = Case::new(bare).plan();
    let body = json!({ "metadata": { "finalizers": ["other", FINALIZER_BALANCER] } });
    assert_eq!(acts, [Act::Patch { status: false, body }]);
}

#[test]
fn a_service_gets_its_load_balancer_status_and_peace() {
    let mut case = Case::new(service(&json!({})));
    let acts = case.plan();
    assert_eq!(reasons(&acts), ["EnsuringLoadBalancer"]);
    assert!(matches!(acts[1], Act::Cloud(CloudCall::EnsureBalancer { retarget: false, .. })));
    let mut case = case.provisioned();
    let acts = case.plan();
    let body = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "203.0.113.7", "ipMode": "VIP" }] } } });
    assert_eq!(acts, [Act::Patch { status: true, body }]);
    assert_eq!(case.with_status().plan(), []);
}

#[test]
fn who_may_take_traffic() {
    let unready = json!({ "/status/conditions/0/status": "Unknown" });
    let taint = json!({ "/spec/taints": [{ "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule" }] });
    let label = json!({ "/metadata/labels": { "node.kubernetes.io/exclude-from-external-load-balancers": "" } });
    let new = json!({ "/spec/providerID": "" });
    let cases = [
        (vec![json!({}), json!({})], vec![1, 2]),
        (vec![json!({}), unready.clone()], vec![1]),
        (vec![unready.clone(), unready], vec![1, 2]),
        (vec![json!({}), taint.clone()], vec![1]),
        (vec![label, json!({})], vec![2]),
        (vec![new, json!({})], vec![2]),
        (vec![taint.clone(), taint], vec![]),
    ];
    for (changes, expected) in cases {
        let mut case = Case::new(service(&json!({})));
        case.nodes = changes.iter().zip(1..).map(|(change, n)| node(n, change)).collect();
        let ids: BTreeSet<InstanceId> = expected.iter().map(|n: &i32| InstanceId(format!("i-{n}"))).collect();
        assert_eq!(case.asked().targets, ids, "{changes:?}");
        let warned = reasons(&case.plan()).contains(&"UnAvailableLoadBalancer");
        assert_eq!(warned, expected.is_empty());
    }
}

#[test]
fn a_change_of_nodes_only_retargets() {
    let mut case = Case::new(service(&json!({}))).provisioned().with_status();
    case.nodes.push(node(3, &json!({})));
    let acts = case.plan();
    assert!(matches!(&acts[..], [Act::Cloud(CloudCall::EnsureBalancer { retarget: true, .. })]), "{acts:?}");
}

#[test]
fn health_checks_and_what_follows_when_all_fail() {
    let local = json!({ "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000 });
    let spec = Case::new(service(&local)).asked();
    assert_eq!(spec.health, HealthCheck::Http { port: 31_000, path: "/healthz".to_owned() });
    assert!(!spec.fail_open, "a node without endpoints drops it");
    let spec = Case::new(service(&json!({}))).asked();
    assert_eq!((spec.health, spec.fail_open), (HealthCheck::Tcp { port: 30_080 }, true));
}

#[test]
fn ports_ranges_and_addresses() {
    let udp = json!({ "port": 53, "nodePort": 30053, "protocol": "UDP" });
    let tcp = json!({ "port": 443, "nodePort": 30443 });
    let spec = Case::new(service(&json!({
        "ports": [udp, tcp], "loadBalancerIP": "203.0.113.9", "loadBalancerSourceRanges": ["10.0.0.7/8", " 192.0.2.0/24"],
    })))
    .asked();
    assert_eq!(spec.ports.len(), 2);
    assert_eq!(spec.health, HealthCheck::Tcp { port: 30_443 });
    assert_eq!(spec.address, Some("203.0.113.9".parse().unwrap()));
    let ranges: Vec<String> = spec.source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.0.0.0/8", "192.0.2.0/24"]);
    let everybody = Case::new(service(&json!({ "loadBalancerSourceRanges": ["0.0.0.0/0", "10.0.0.0/8"] }))).asked();
    assert!(everybody.source_ranges.is_empty());
}

#[test]
fn what_cannot_be_granted_is_said_once() {
    for (spec, word) in [
        (json!({ "ports": [{ "port": 80 }] }), "allocateLoadBalancerNodePorts"),
        (json!({ "ports": [{ "port": 80, "nodePort": 30080, "protocol": "SCTP" }] }), "SCTP"),
        (json!({ "loadBalancerSourceRanges": ["x"] }), "source range"),
        (json!({ "loadBalancerIP": "x" }), "loadBalancerIP"),
    ] {
        let mut case = Case::new(service(&spec));
        let acts = case.plan();
        let [Act::Event { warning: true, reason: "SyncLoadBalancerFailed", message }] = &acts[..] else {
            panic!("{acts:?}")
        };
        assert!(message.contains(word), "{message}");
        assert_eq!(case.plan(), [], "said once");
    }
}

#[test]
fn only_our_class() {
    for (class, ours) in [(json!(null), true), (json!("timonel.io/fake"), true), (json!("example.com/other"), false)] {
        let mut case = Case::new(service(&json!({ "loadBalancerClass": class })));
        assert_eq!(reasons(&case.plan()).contains(&"EnsuringLoadBalancer"), ours, "{class}");
    }
}

#[test]
fn removal_goes_backwards() {
    let mut deleted = service(&json!({}));
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let mut changed = service(&json!({ "type": "ClusterIP" }));
    changed["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "203.0.113.7" }] } });
    for (service_then, clears_status) in [(deleted, false), (changed, true)] {
        let mut case = Case::new(service(&json!({}))).provisioned();
        case.services = vec![Arc::new(serde_json::from_value(service_then).unwrap())];
        let acts = case.plan();
        assert_eq!(reasons(&acts), ["DeletingLoadBalancer"]);
        assert_eq!(acts[1], Act::Cloud(CloudCall::DeleteBalancer(Owner::new("c", "svc-1"))));
        case.balancers.clear();
        let acts = case.plan();
        let [Act::Patch { status, .. }] = &acts[..] else { panic!("{acts:?}") };
        assert_eq!(*status, clears_status, "the status goes before the finalizer");
    }
}

#[test]
fn an_orphan_goes_after_two_listings() {
    let mut case = Case::new(service(&json!({}))).provisioned();
    case.services.clear();
    assert_eq!(case.plan(), []);
    assert_eq!(case.plan(), [Act::Cloud(CloudCall::DeleteBalancer(Owner::new("c", "svc-1")))]);
}
