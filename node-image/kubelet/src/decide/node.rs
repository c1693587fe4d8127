//! What the node says of itself: capacity, allocatable, conditions, addresses, information; and its lease.

use super::eviction::Pressure;
use super::quantity::{of_kibibytes, of_milli, of_units};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeMap;

/// The machine as measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    pub(crate) milli_cpu: i64,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) info: NodeSystemInfo,
    pub(crate) hugepages: BTreeMap<String, u64>,
}

/// What is kept back from pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Thousandths of a core.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory_bytes: u64,
    /// Bytes of the root file system.
    pub disk_bytes: u64,
}

/// Everything that a status is made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeView {
    pub(crate) machine: Machine,
    pub(crate) reserved: Reserved,
    pub(crate) max_pods: i64,
    pub(crate) addresses: Vec<(String, String)>,
    pub(crate) port: i32,
    pub(crate) pressures: Vec<Pressure>,
    /// Why the node is not ready; empty when it is.
    pub(crate) problems: Vec<String>,
    pub(crate) images: Vec<ContainerImage>,
    pub(crate) handlers: Vec<NodeRuntimeHandler>,
    pub(crate) volumes_in_use: Vec<String>,
    /// Extended resources of device plugins: name, total, healthy.
    pub(crate) devices: Vec<(String, i64, i64)>,
}

/// Images listed in the status, the largest first.
const MOST_IMAGES: usize = 50;

/// Capacity of the machine.
pub(crate) fn capacity(view: &NodeView) -> BTreeMap<String, Quantity> {
    let mut out: BTreeMap<String, Quantity> = [
        ("cpu".to_owned(), of_milli(view.machine.milli_cpu)),
        ("memory".to_owned(), of_kibibytes(view.machine.memory_bytes)),
        ("ephemeral-storage".to_owned(), of_kibibytes(view.machine.disk_bytes)),
        ("pods".to_owned(), of_units(view.max_pods)),
    ]
    .into();
    out.extend(view.machine.hugepages.iter().map(|(name, bytes)| (name.clone(), of_kibibytes(*bytes))));
    out.extend(view.devices.iter().map(|(name, total, _)| (name.clone(), of_units(*total))));
    out
}

/// Capacity less what is reserved.
pub(crate) fn allocatable(view: &NodeView) -> BTreeMap<String, Quantity> {
    let reserved = &view.reserved;
    let mut out = capacity(view);
    out.insert("cpu".into(), of_milli((view.machine.milli_cpu - reserved.milli_cpu).max(0)));
    out.insert("memory".into(), of_kibibytes(view.machine.memory_bytes.saturating_sub(reserved.memory_bytes)));
    let disk = view.machine.disk_bytes.saturating_sub(reserved.disk_bytes);
    out.insert("ephemeral-storage".into(), Quantity(disk.to_string()));
    out.extend(view.devices.iter().map(|(name, _, healthy)| (name.clone(), of_units(*healthy))));
    out
}

/// The node's status; what others wrote (attached volumes, foreign conditions and resources) stays.
pub(crate) fn node_status(view: &NodeView, before: Option<&NodeStatus>, now: Timestamp) -> NodeStatus {
    let before = before.cloned().unwrap_or_default();
    let foreign = |list: &Option<BTreeMap<String, Quantity>>| {
        let kept = list.iter().flatten().filter(|(name, _)| name.contains('/'));
        kept.map(|(name, quantity)| (name.clone(), quantity.clone())).collect::<BTreeMap<_, _>>()
    };
    let (mut all, mut free) = (foreign(&before.capacity), foreign(&before.allocatable));
    all.extend(capacity(view));
    free.extend(allocatable(view));
    let mut images = view.images.clone();
    images.sort_by_key(|image| (std::cmp::Reverse(image.size_bytes), image.names.clone()));
    images.truncate(MOST_IMAGES);
    let addresses =
        view.addresses.iter().map(|(kind, address)| NodeAddress { type_: kind.clone(), address: address.clone() });
    let endpoint = DaemonEndpoint { port: view.port };
    NodeStatus {
        capacity: Some(all),
        allocatable: Some(free),
        conditions: Some(conditions(view, before.conditions.as_deref().unwrap_or_default(), now)),
        addresses: if view.addresses.is_empty() { before.addresses.clone() } else { Some(addresses.collect()) },
        daemon_endpoints: (view.port > 0).then_some(NodeDaemonEndpoints { kubelet_endpoint: Some(endpoint) }),
        node_info: Some(view.machine.info.clone()),
        images: Some(images),
        runtime_handlers: (!view.handlers.is_empty()).then(|| view.handlers.clone()),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(false) }),
        volumes_in_use: (!view.volumes_in_use.is_empty()).then(|| view.volumes_in_use.clone()),
        ..before
    }
}

fn conditions(view: &NodeView, before: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    let pressure = |one: Pressure, name: &str, bad: (&str, &str), good: (&str, &str)| {
        let on = view.pressures.contains(&one);
        let (reason, message) = if on { bad } else { good };
        (name.to_owned(), on, reason.to_owned(), message.to_owned())
    };
    let ready = if view.problems.is_empty() {
        ("Ready".to_owned(), true, "KubeletReady".to_owned(), "kubelet is posting ready status".to_owned())
    } else {
        ("Ready".to_owned(), false, "KubeletNotReady".to_owned(), view.problems.join(", "))
    };
    let own = [
        pressure(
            Pressure::Memory,
            "MemoryPressure",
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            Pressure::Disk,
            "DiskPressure",
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            Pressure::Pids,
            "PIDPressure",
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        ready,
    ];
    let foreign = before.iter().filter(|one| own.iter().all(|(name, ..)| *name != one.type_)).cloned();
    let own_made = own.iter().map(|(name, on, reason, message)| {
        let status = if *on { "True" } else { "False" };
        let old = before.iter().find(|one| one.type_ == *name && one.status == status);
        NodeCondition {
            type_: name.clone(),
            status: status.to_owned(),
            reason: Some(reason.clone()),
            message: Some(message.clone()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: old.and_then(|old| old.last_transition_time.clone()).or(Some(Time(now))),
        }
    });
    let own_made: Vec<NodeCondition> = own_made.collect();
    foreign.chain(own_made).collect()
}

/// Whether the status changed in more than its heartbeat times.
pub(crate) fn differs(before: &NodeStatus, after: &NodeStatus) -> bool {
    let bare = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    bare(before) != bare(after)
}

/// Labels every node carries.
pub(crate) fn base_labels(name: &str, architecture: &str) -> BTreeMap<String, String> {
    [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// Brings labels of an existing node up to date; nothing to do gives `None`.
pub(crate) fn missing_labels(node: &Node, wanted: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    let have = node.metadata.labels.clone().unwrap_or_default();
    let missing: BTreeMap<String, String> = wanted
        .iter()
        .filter(|(key, value)| have.get(*key) != Some(value))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    (!missing.is_empty()).then_some(missing)
}

/// What a runtime handler offers.
pub(crate) fn handler(name: &str, features: Option<(bool, bool)>) -> NodeRuntimeHandler {
    NodeRuntimeHandler {
        name: Some(name.to_owned()),
        features: features.map(|(recursive_read_only, user_namespaces)| NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(recursive_read_only),
            user_namespaces: Some(user_namespaces),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn view() -> NodeView {
        NodeView {
            machine: Machine { milli_cpu: 2000, memory_bytes: 4 << 30, disk_bytes: 100 << 30, ..Machine::default() },
            reserved: Reserved { milli_cpu: 100, memory_bytes: 1 << 30, disk_bytes: 0 },
            max_pods: 110,
            addresses: vec![("InternalIP".into(), "10.0.0.1".into())],
            port: 10250,
            ..NodeView::default()
        }
    }

    fn found<'a>(status: &'a NodeStatus, kind: &str) -> &'a NodeCondition {
        status.conditions.iter().flatten().find(|one| one.type_ == kind).expect("condition")
    }

    #[test]
    fn allocatable_is_capacity_less_reserved() {
        let status = node_status(&view(), None, Timestamp::UNIX_EPOCH);
        let (capacity, free) = (status.capacity.expect("set"), status.allocatable.expect("set"));
        assert_eq!((capacity["cpu"].0.as_str(), free["cpu"].0.as_str()), ("2", "1900m"));
        assert_eq!((capacity["memory"].0.as_str(), free["memory"].0.as_str()), ("4194304Ki", "3145728Ki"));
        assert_eq!(free["pods"].0, "110");
    }

    #[test]
    fn transitions_keep_their_time_and_strangers_stay() {
        let before: NodeStatus = serde_json::from_value(json!({
            "capacity": {"example.com/gpu": "2", "cpu": "9"},
            "volumesAttached": [{"name": "v", "devicePath": ""}],
            "conditions": [{"type": "NetworkUnavailable", "status": "False"}],
        }))
        .expect("status");
        let (t0, t1) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(60).expect("time"));
        let first = node_status(&view(), Some(&before), t0);
        let second = node_status(&view(), Some(&first), t1);
        assert_eq!(found(&second, "Ready").last_transition_time, Some(Time(t0)));
        assert_eq!(found(&second, "Ready").last_heartbeat_time, Some(Time(t1)));
        assert_eq!(found(&second, "NetworkUnavailable").status, "False");
        assert!(second.volumes_attached.is_some());
        assert_eq!(second.capacity.as_ref().expect("set")["example.com/gpu"].0, "2");
        assert!(!differs(&first, &second));
        let broken = NodeView { problems: vec!["container runtime is down".into()], ..view() };
        let third = node_status(&broken, Some(&second), t1);
        assert!(differs(&second, &third));
        let ready = found(&third, "Ready");
        assert_eq!((ready.status.as_str(), ready.last_transition_time.clone()), ("False", Some(Time(t1))));
        assert_eq!(ready.message.as_deref(), Some("container runtime is down"));
    }

    #[test]
    fn pressure_is_a_condition() {
        let short = NodeView { pressures: vec![Pressure::Disk], ..view() };
        let status = node_status(&short, None, Timestamp::UNIX_EPOCH);
        assert_eq!(found(&status, "DiskPressure").status, "True");
        assert_eq!(found(&status, "MemoryPressure").status, "False");
    }

    #[test]
    fn labels_are_completed_only() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"labels": {"a": "1", "kubernetes.io/os": "linux"}}}))
                .expect("node");
        let missing = missing_labels(&node, &base_labels("n", "amd64")).expect("some");
        assert!(!missing.contains_key("kubernetes.io/os") && missing.contains_key("kubernetes.io/hostname"));
        let mut full = node;
        full.metadata.labels.get_or_insert_default().extend(missing);
        assert!(missing_labels(&full, &base_labels("n", "amd64")).is_none());
    }
}
