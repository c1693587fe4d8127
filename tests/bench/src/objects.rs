//! The objects that the workloads make: those of the budgets, to the byte of their shape.

use bytes::Bytes;
use serde_json::{Value, json};

/// A pod as a Deployment would make it, about 3.5 KB as stored. `sent` is put where a watcher finds it.
pub(crate) fn pod(name: &str, sent: u64) -> Bytes {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name,
            "labels": {"app": "bench", "tier": "web", "pod-template-hash": "5d4f8c7b9"},
            "annotations": {"bench/sent-us": format!("{sent:016}")}},
        "spec": {"terminationGracePeriodSeconds": 0,
            "containers": [{"name": "web", "image": "registry.example/web:1.27.3",
                "command": ["/bin/server", "--listen=:8080"],
                "ports": [{"containerPort": 8080, "name": "http"}],
                "env": [{"name": "MODE", "value": "production"},
                        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 5},
                "volumeMounts": [{"name": "cache", "mountPath": "/cache"}]}],
            "volumes": [{"name": "cache", "emptyDir": {}}]}
    });
    bytes(&pod)
}

/// A node in one of three zones.
pub(crate) fn node(number: usize) -> Bytes {
    let name = node_name(number);
    bytes(&json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/zone": format!("zone-{}", number % 3),
            "topology.kubernetes.io/region": "region-1"}},
        "spec": {"podCIDR": format!("10.{}.{}.0/24", number / 256 % 256, number % 256)}}))
}

pub(crate) fn node_name(number: usize) -> String {
    format!("node-{number:05}")
}

/// What a node's kubelet would say of it: ready, and large.
pub(crate) fn node_status() -> Bytes {
    let size = json!({"cpu": "32", "memory": "128Gi", "pods": "110", "ephemeral-storage": "100Gi"});
    bytes(&json!({"status": {"capacity": size, "allocatable": size,
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
            "lastHeartbeatTime": "2030-01-01T00:00:00Z", "lastTransitionTime": "2030-01-01T00:00:00Z"}]}}))
}

pub(crate) fn namespace(name: &str) -> Bytes {
    bytes(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
}

pub(crate) fn service_account() -> Bytes {
    bytes(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}))
}

pub(crate) fn config_map(name: &str) -> Bytes {
    bytes(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {"mode": "production", "text": "x".repeat(200)}}))
}

/// A service without a selector, so that nothing but its own slice gives it backends.
pub(crate) fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}})
}

/// Three backends of a service.
pub(crate) fn slice(service: &str, number: usize) -> Value {
    let endpoints: Vec<_> = (0..3)
        .map(|part| {
            json!({"addresses": [format!("10.{}.{}.{}", 100 + part, number / 256 % 256, number % 256)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": node_name(part)})
        })
        .collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-a"), "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
}

pub(crate) fn bytes(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}
