//! Whether the node takes a pod that was bound to it. The scheduler decided on what it knew; the node has the last word.

use super::model::containers_of;
use super::quantity::{milli, units};
use super::resources::{pod_request, requested_names};
use super::selector::matches;
use k8s_openapi::api::core::v1::{Node, Pod};

/// A refusal: the reason and message of a failed pod.
pub(crate) type Refusal = (String, String);

/// Takes the pod or says why not. `others` are the pods that the node already runs.
pub(crate) fn admit<'a>(pod: &Pod, node: &Node, others: impl Iterator<Item = &'a Pod>) -> Result<(), Refusal> {
    let others: Vec<&Pod> = others.filter(|other| !over(other)).collect();
    placement(pod, node)?;
    sysctls(pod)?;
    toleration(pod, node)?;
    room(pod, node, &others)?;
    ports(pod, &others)
}

fn over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn refuse(reason: &str, message: impl Into<String>) -> Result<(), Refusal> {
    Err((reason.to_owned(), message.into()))
}

fn placement(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    if let Some(os) = spec.os.as_ref().filter(|os| os.name != "linux") {
        return refuse("PodOSNotSupported", format!("Failed to admit pod as its OS {:?} is not linux", os.name));
    }
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    if selected && required.is_none_or(|selector| matches(selector, node)) {
        return Ok(());
    }
    refuse(
        "NodeAffinity",
        "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
    )
}

/// Kernel settings that belong to the pod alone and cannot hurt the node.
const SAFE_SYSCTLS: [&str; 13] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
];

fn sysctls(pod: &Pod) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let asked = spec.security_context.iter().flat_map(|own| own.sysctls.iter().flatten());
    for one in asked {
        let name = one.name.replace('/', ".");
        let on_host = name.starts_with("net.") && spec.host_network == Some(true)
            || name.starts_with("kernel.shm") && spec.host_ipc == Some(true);
        if on_host || !SAFE_SYSCTLS.contains(&name.as_str()) {
            return refuse("SysctlForbidden", format!("forbidden sysctl: {:?} not allowlisted", one.name));
        }
    }
    Ok(())
}

fn toleration(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    for taint in taints.filter(|taint| taint.effect == "NoExecute") {
        let tolerated = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten()).any(|one| {
            let effect = one.effect.as_deref().unwrap_or_default();
            let key = one.key.as_deref().unwrap_or_default();
            let value = one.value.as_deref().unwrap_or_default();
            let exists = one.operator.as_deref() == Some("Exists");
            (effect.is_empty() || effect == taint.effect)
                && (key == taint.key || key.is_empty() && exists)
                && (exists || value == taint.value.as_deref().unwrap_or_default())
        });
        if !tolerated {
            let message = format!("Predicate TaintToleration failed: node(s) had untolerated taint {{{}}}", taint.key);
            return refuse("TaintToleration", message);
        }
    }
    Ok(())
}

fn room(pod: &Pod, node: &Node, others: &[&Pod]) -> Result<(), Refusal> {
    let Some(allocatable) = node.status.as_ref().and_then(|status| status.allocatable.as_ref()) else { return Ok(()) };
    let most_pods = allocatable.get("pods").and_then(units).unwrap_or(i64::MAX);
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if count + 1 > most_pods {
        return refuse("OutOfpods", shortage("pods", 1, count, most_pods));
    }
    for name in requested_names(pod) {
        let asked = pod_request(pod, &name);
        if asked == 0 {
            continue;
        }
        let quantity = allocatable.get(&name);
        let total = if name == "cpu" { quantity.and_then(milli) } else { quantity.and_then(units) }.unwrap_or(0);
        let used: i64 = others.iter().map(|other| pod_request(other, &name)).sum();
        if used + asked > total {
            return refuse(&format!("OutOf{name}"), shortage(&name, asked, used, total));
        }
    }
    Ok(())
}

fn shortage(name: &str, asked: i64, used: i64, total: i64) -> String {
    format!("Node didn't have enough resource: {name}, requested: {asked}, used: {used}, capacity: {total}")
}

fn host_ports(pod: &Pod) -> Vec<(i32, String, String)> {
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    let containers = containers_of(pod);
    let ports = containers.iter().flat_map(|(_, container)| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|port| *port > 0).or(host_network.then_some(port.container_port))?;
            let ip = port.host_ip.clone().filter(|ip| ip != "0.0.0.0" && ip != "::").unwrap_or_default();
            Some((number, port.protocol.clone().unwrap_or_else(|| "TCP".into()), ip))
        })
        .collect()
}

fn ports(pod: &Pod, others: &[&Pod]) -> Result<(), Refusal> {
    let wanted = host_ports(pod);
    let taken: Vec<_> = others.iter().flat_map(|other| host_ports(other)).collect();
    let clash = wanted.iter().any(|(number, protocol, ip)| {
        taken.iter().any(|(other, other_protocol, other_ip)| {
            number == other && protocol == other_protocol && (ip == other_ip || ip.is_empty() || other_ip.is_empty())
        })
    });
    if clash {
        return refuse(
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node() -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"zone": "a"}},
            "spec": {"taints": [{"key": "down", "effect": "NoExecute"}, {"key": "soft", "effect": "NoSchedule"}]},
            "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "2"}},
        }))
        .expect("node")
    }

    fn pod(spec: &Value) -> Pod {
        let mut full = json!({"containers": [{"name": "c"}], "tolerations": [{"operator": "Exists"}]});
        full.as_object_mut().expect("map").extend(spec.as_object().expect("map").clone());
        serde_json::from_value(json!({"spec": full})).expect("pod")
    }

    #[test]
    fn verdicts() {
        let cpu = |amount: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]});
        let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
        let gpu = json!({"containers": [{"name": "c", "resources": {"limits": {"example.com/gpu": "1"}}}]});
        let affinity = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]}]}}}});
        for (spec, other, expected) in [
            (json!({}), json!({}), None),
            (json!({"nodeSelector": {"zone": "a"}}), json!({}), None),
            (json!({"nodeSelector": {"zone": "b"}}), json!({}), Some("NodeAffinity")),
            (affinity, json!({}), Some("NodeAffinity")),
            (cpu("600m"), cpu("400m"), None),
            (cpu("601m"), cpu("400m"), Some("OutOfcpu")),
            (gpu, json!({}), Some("OutOfexample.com/gpu")),
            (port.clone(), port, Some("NodePorts")),
            (json!({"tolerations": []}), json!({}), Some("TaintToleration")),
            (json!({"os": {"name": "windows"}}), json!({}), Some("PodOSNotSupported")),
            (
                json!({"securityContext": {"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]}}),
                json!({}),
                None,
            ),
            (
                json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}),
                json!({}),
                Some("SysctlForbidden"),
            ),
        ] {
            let verdict = admit(&pod(&spec), &node(), [pod(&other)].iter());
            assert_eq!(verdict.err().map(|(reason, _)| reason).as_deref(), expected, "{spec}");
        }
    }

    #[test]
    fn pods_that_ended_take_no_room() {
        let mut ended = pod(&json!({}));
        ended.status = Some(serde_json::from_value(json!({"phase": "Succeeded"})).expect("status"));
        let running = pod(&json!({}));
        assert!(admit(&running, &node(), [ended, running.clone()].iter()).is_ok());
        let refused = admit(&running, &node(), [running.clone(), running.clone()].iter()).expect_err("full");
        assert_eq!(refused.0, "OutOfpods");
    }
}
