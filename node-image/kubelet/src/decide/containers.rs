//! The configuration of one run of a container, and image names.

use super::env::Environment;
use super::model::Kind;
use super::names::{
    CONTAINER_HASH, CONTAINER_NAME, GRACE_PERIOD, POD_NAME, POD_NAMESPACE, POD_UID, PodId, RESTART_COUNT,
    TERMINATION_HOST_PATH, TERMINATION_PATH, TERMINATION_POLICY, container_hash, log_path,
};
use super::resources::{CPU_PERIOD, limits_of, oom_score_adj};
use k8s_openapi::api::core::v1::{Container, Pod};
use timonel_cri::cri::{
    ContainerConfig, ContainerMetadata, Device, ImageSpec, KeyValue, LinuxContainerConfig, LinuxContainerResources,
    LinuxContainerSecurityContext, Mount,
};

/// What the shell prepared for a container.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prepared {
    pub(crate) image: ImageSpec,
    pub(crate) environment: Environment,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) devices: Vec<Device>,
    pub(crate) security: LinuxContainerSecurityContext,
    pub(crate) termination_host_path: String,
    pub(crate) node_memory: i64,
    /// Whether the kernel lets the agent lower OOM scores.
    pub(crate) negative_oom_allowed: bool,
}

/// Where a container leaves its last words unless it says otherwise.
pub(crate) const DEFAULT_TERMINATION_PATH: &str = "/dev/termination-log";

/// The runtime's configuration of a run.
pub(crate) fn config(pod: &Pod, container: &Container, attempt: u32, prepared: &Prepared) -> ContainerConfig {
    let id = PodId::of(pod);
    let annotations = [
        (CONTAINER_HASH, container_hash(container)),
        (RESTART_COUNT, attempt.to_string()),
        (
            TERMINATION_PATH,
            container.termination_message_path.clone().unwrap_or_else(|| DEFAULT_TERMINATION_PATH.into()),
        ),
        (TERMINATION_POLICY, container.termination_message_policy.clone().unwrap_or_else(|| "File".into())),
        (TERMINATION_HOST_PATH, prepared.termination_host_path.clone()),
        (GRACE_PERIOD, super::plan::grace(pod).to_string()),
    ];
    let labels = [
        (POD_NAME, id.name.clone()),
        (POD_NAMESPACE, id.namespace.clone()),
        (POD_UID, id.uid),
        (CONTAINER_NAME, container.name.clone()),
    ];
    let own = |pairs: &[(&str, String)]| pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    let vars = prepared.environment.vars.iter();
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt }),
        image: Some(prepared.image.clone()),
        command: prepared.environment.command.clone(),
        args: prepared.environment.args.clone(),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: vars.map(|(key, value)| KeyValue { key: key.clone(), value: value.clone().into_bytes() }).collect(),
        mounts: prepared.mounts.clone(),
        devices: prepared.devices.clone(),
        labels: own(&labels),
        annotations: own(&annotations),
        log_path: log_path(&container.name, attempt),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources(pod, container, prepared)),
            security_context: Some(prepared.security.clone()),
        }),
        ..ContainerConfig::default()
    }
}

fn resources(pod: &Pod, container: &Container, prepared: &Prepared) -> LinuxContainerResources {
    let score = oom_score_adj(pod, container, prepared.node_memory);
    let score = if prepared.negative_oom_allowed { score } else { score.max(0) };
    LinuxContainerResources { oom_score_adj: score, ..cgroup_values(container) }
}

/// CPU and memory of a container's cgroup; also what a resize changes.
pub(crate) fn cgroup_values(container: &Container) -> LinuxContainerResources {
    let (shares, quota, memory) = limits_of(container);
    LinuxContainerResources {
        cpu_period: CPU_PERIOD,
        cpu_quota: quota,
        cpu_shares: shares,
        memory_limit_in_bytes: memory,
        ..LinuxContainerResources::default()
    }
}

/// Whether to pull: the container's policy, or by the tag.
pub(crate) fn pull_policy(container: &Container) -> &str {
    let image = container.image.as_deref().unwrap_or_default();
    let default =
        if tag(image).is_none_or(|tag| tag == "latest") && !image.contains('@') { "Always" } else { "IfNotPresent" };
    container.image_pull_policy.as_deref().unwrap_or(default)
}

fn tag(image: &str) -> Option<&str> {
    let last = image.rsplit('/').next()?;
    last.split_once(':').map(|(_, tag)| tag)
}

/// The full name of an image: registry, repository and tag, as the runtime stores it.
pub(crate) fn normalized(image: &str) -> String {
    let (first, rest) = image.split_once('/').unwrap_or(("", image));
    let has_registry = first.contains('.') || first.contains(':') || first == "localhost";
    let full = if has_registry {
        format!("{first}/{rest}")
    } else if first.is_empty() {
        format!("docker.io/library/{rest}")
    } else {
        format!("docker.io/{image}")
    };
    if tag(&full).is_none() && !full.contains('@') { format!("{full}:latest") } else { full }
}

/// The registry that an image comes from.
pub(crate) fn registry(image: &str) -> String {
    normalized(image).split('/').next().unwrap_or_default().to_owned()
}

/// Kind of a container in events: `spec.containers{name}` and so on.
pub(crate) fn field_path(kind: Kind, name: &str) -> String {
    let list = match kind {
        Kind::Init | Kind::Sidecar => "initContainers",
        Kind::App => "containers",
        Kind::Ephemeral => "ephemeralContainers",
    };
    format!("spec.{list}{{{name}}}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn image_names() {
        for (image, full, policy) in [
            ("nginx", "docker.io/library/nginx:latest", "Always"),
            ("nginx:1", "docker.io/library/nginx:1", "IfNotPresent"),
            ("me/app:latest", "docker.io/me/app:latest", "Always"),
            ("reg.io/app", "reg.io/app:latest", "Always"),
            ("localhost:5000/app", "localhost:5000/app:latest", "Always"),
            ("reg.io/app@sha256:00", "reg.io/app@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(normalized(image), full);
            let container = Container { image: Some(image.into()), ..Container::default() };
            assert_eq!(pull_policy(&container), policy, "{image}");
        }
        assert_eq!(registry("reg.io/a/b"), "reg.io");
        assert_eq!(registry("b"), "docker.io");
    }

    #[test]
    fn a_run_can_be_found_again() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "c", "image": "i", "tty": true,
                "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}}]},
        }))
        .expect("pod");
        let one = pod.spec.as_ref().expect("spec").containers[0].clone();
        let got = config(&pod, &one, 3, &Prepared { node_memory: 1 << 30, ..Prepared::default() });
        assert_eq!(got.labels[POD_UID], "u");
        assert_eq!(got.labels[CONTAINER_NAME], "c");
        assert_eq!(got.annotations[RESTART_COUNT], "3");
        assert_eq!(got.annotations[CONTAINER_HASH], container_hash(&one));
        assert_eq!(got.log_path, "c/3.log");
        assert!(got.tty);
        let limits = got.linux.expect("linux").resources.expect("resources");
        assert_eq!((limits.cpu_shares, limits.cpu_quota, limits.memory_limit_in_bytes), (512, 50_000, 64 << 20));
    }

    #[test]
    fn low_oom_scores_only_where_allowed() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "c",
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}}))
        .expect("pod");
        let one = pod.spec.as_ref().expect("spec").containers[0].clone();
        for (allowed, expected) in [(true, -997), (false, 0)] {
            let prepared = Prepared { negative_oom_allowed: allowed, ..Prepared::default() };
            assert_eq!(resources(&pod, &one, &prepared).oom_score_adj, expected);
        }
    }
}
