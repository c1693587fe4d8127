//! Fields of a Service that lose their meaning when its type changes: dropped when nobody asked to change them,
//! so that changing only the type works.

use super::semantic::semantic_equal;
use crate::Value;

fn kind(service: &Value) -> &str {
    match service.str_at(&["spec", "type"]) {
        "" => "ClusterIP",
        kind => kind,
    }
}

fn needs_cluster_ip(service: &Value) -> bool {
    matches!(kind(service), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn needs_node_port(service: &Value) -> bool {
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => service.bool_at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(false),
        _ => false,
    }
}

fn needs_health_check_port(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && service.str_at(&["spec", "externalTrafficPolicy"]) == "Local"
}

fn is_external(service: &Value) -> bool {
    matches!(kind(service), "NodePort" | "LoadBalancer")
        || (kind(service) == "ClusterIP" && !service.list_at(&["spec", "externalIPs"]).is_empty())
}

fn drop_same(new: &mut Value, old: &Value, fields: &[&str]) {
    if fields.iter().all(|field| semantic_equal(new.at(&["spec", field]), old.at(&["spec", field]))) {
        for field in fields {
            new.remove_at(&["spec", field]);
        }
    }
}

fn node_ports(service: &Value) -> Vec<i64> {
    let ports = service.list_at(&["spec", "ports"]);
    let mut ports: Vec<i64> = ports.iter().filter_map(|port| port.int_at(&["nodePort"])).filter(|p| *p != 0).collect();
    ports.sort_unstable();
    ports
}

pub(super) fn prepare_update(new: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && !needs_cluster_ip(new) {
        drop_same(new, old, &["clusterIP", "clusterIPs"]);
        drop_same(new, old, &["ipFamilies"]);
        drop_same(new, old, &["ipFamilyPolicy"]);
    }
    let new_ports = node_ports(new);
    if needs_node_port(old) && !needs_node_port(new) && new_ports == node_ports(old) {
        for port in new.at_mut(&["spec", "ports"]).and_then(Value::as_list_mut).into_iter().flatten() {
            port.remove_at(&["nodePort"]);
        }
    }
    if needs_health_check_port(old) && !needs_health_check_port(new) {
        drop_same(new, old, &["healthCheckNodePort"]);
    }
    if kind(old) == "LoadBalancer" && kind(new) != "LoadBalancer" {
        drop_same(new, old, &["allocateLoadBalancerNodePorts"]);
        drop_same(new, old, &["loadBalancerClass"]);
    }
    if is_external(old) && !is_external(new) {
        drop_same(new, old, &["externalTrafficPolicy"]);
    }
    if kind(new) != "LoadBalancer" {
        new.set_at(&["status", "loadBalancer"], Value::object());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn updated(new: serde_json::Value, old: serde_json::Value) -> serde_json::Value {
        let mut new = Value::from(new);
        prepare_update(&mut new, &Value::from(old));
        serde_json::Value::from(&new)["spec"].take()
    }

    #[test]
    fn a_change_of_type_drops_what_it_no_longer_needs() {
        let old = json!({"spec": {
            "type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 30000, "allocateLoadBalancerNodePorts": true,
            "ports": [{"port": 80, "nodePort": 30001}],
        }});
        let mut new = old.clone();
        new["spec"]["type"] = json!("ClusterIP");
        assert_eq!(
            updated(new.clone(), old.clone()),
            json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
                   "ports": [{"port": 80}]})
        );
        new["spec"]["ports"][0]["nodePort"] = json!(30002);
        assert_eq!(updated(new.clone(), old.clone())["ports"], json!([{"port": 80, "nodePort": 30002}]));
        new["spec"]["type"] = json!("ExternalName");
        let changed = updated(new, old);
        assert_eq!((changed.get("clusterIP"), changed.get("ipFamilies")), (None, None));
    }
}
