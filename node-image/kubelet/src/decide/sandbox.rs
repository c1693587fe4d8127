//! The configuration of a pod's sandbox.

use super::files::{resolver, sandbox_hostname};
use super::model::containers_of;
use super::names::{POD_NAME, POD_NAMESPACE, POD_UID, PodId};
use super::security;
use k8s_openapi::api::core::v1::Pod;
use timonel_cri::cri::{
    DnsConfig, LinuxContainerResources, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping,
    Protocol,
};

/// What the node contributes to a sandbox.
#[derive(Clone, Debug, Default)]
pub(crate) struct SandboxContext {
    pub(crate) cluster_dns: Vec<String>,
    pub(crate) cluster_domain: String,
    pub(crate) host_resolver: DnsConfig,
    pub(crate) pod_logs_dir: String,
    pub(crate) cgroup_parent: String,
    pub(crate) seccomp_folder: String,
}

/// The runtime's configuration of a sandbox for the pod's `attempt`-th life.
pub(crate) fn config(pod: &Pod, attempt: u32, context: &SandboxContext) -> PodSandboxConfig {
    let id = PodId::of(pod);
    let mut labels: std::collections::HashMap<String, String> =
        pod.metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.insert(POD_NAME.into(), id.name.clone());
    labels.insert(POD_NAMESPACE.into(), id.namespace.clone());
    labels.insert(POD_UID.into(), id.uid.clone());
    let sysctls =
        pod.spec.iter().flat_map(|spec| spec.security_context.iter()).flat_map(|own| own.sysctls.iter().flatten());
    PodSandboxConfig {
        hostname: sandbox_hostname(pod, &context.cluster_domain),
        log_directory: format!("{}/{}", context.pod_logs_dir, id.log_folder()),
        dns_config: Some(resolver(pod, &context.cluster_dns, &context.cluster_domain, &context.host_resolver)),
        port_mappings: port_mappings(pod),
        labels,
        annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: context.cgroup_parent.clone(),
            security_context: Some(security::sandbox(pod, &context.seccomp_folder)),
            sysctls: sysctls.map(|one| (one.name.clone(), one.value.clone())).collect(),
            overhead: Some(LinuxContainerResources::default()),
            resources: Some(LinuxContainerResources::default()),
        }),
        metadata: Some(PodSandboxMetadata { name: id.name, uid: id.uid, namespace: id.namespace, attempt }),
    }
}

fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    if pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false) {
        return Vec::new();
    }
    let containers = containers_of(pod);
    let ports = containers.iter().flat_map(|(_, container)| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            };
            Some(PortMapping {
                protocol: protocol.into(),
                container_port: port.container_port,
                host_port: port.host_port.filter(|port| *port > 0)?,
                host_ip: port.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_sandbox_carries_identity_network_and_sysctls() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "x"}},
            "spec": {
                "securityContext": {"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]},
                "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080, "protocol": "UDP"}, {"containerPort": 81}]}],
            },
        }))
        .expect("pod");
        let context =
            SandboxContext { pod_logs_dir: "/logs".into(), cluster_domain: "c.l".into(), ..Default::default() };
        let got = config(&pod, 2, &context);
        assert_eq!(got.log_directory, "/logs/n_p_u");
        assert_eq!(got.labels[POD_UID], "u");
        assert_eq!(got.labels["app"], "x");
        assert_eq!(got.metadata.expect("metadata").attempt, 2);
        assert_eq!(got.port_mappings.len(), 1);
        assert_eq!(got.port_mappings[0].protocol, i32::from(Protocol::Udp));
        assert_eq!(got.linux.expect("linux").sysctls["kernel.shm_rmid_forced"], "1");
        let mut host = pod;
        host.spec.as_mut().expect("spec").host_network = Some(true);
        let got = config(&host, 0, &context);
        assert!(got.port_mappings.is_empty() && got.hostname.is_empty());
    }
}
