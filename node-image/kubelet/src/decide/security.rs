//! Security contexts: what the pod and container ask, in the runtime's terms.

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext};
use thiserror::Error;
use timonel_cri::cri::{
    Capability, Image, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, SeLinuxOption, SecurityProfile, UserNamespace, security_profile::ProfileType,
};

/// Why a container may not run as its definition asks.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum SecurityError {
    #[error("container's runAsUser breaks non-root policy (pod: {pod:?}, container: {container})")]
    Root { pod: String, container: String },
    #[error("container has runAsNonRoot and image will run as root (pod: {pod:?}, container: {container})")]
    ImageRoot { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root \
         (pod: {pod:?}, container: {container})"
    )]
    ImageUser { user: String, pod: String, container: String },
}

/// Paths hidden and made read-only in containers whose `procMount` is not `Unmasked`.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn pod_context(pod: &Pod) -> PodSecurityContext {
    pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default()
}

fn value(number: Option<i64>) -> Option<Int64Value> {
    number.map(|value| Int64Value { value })
}

/// Where seccomp profiles of type `Localhost` lie, as the runtime finds them.
pub(crate) fn seccomp(profile: Option<&SeccompProfile>, folder: &str) -> SecurityProfile {
    let (kind, reference) = match profile.map(|profile| profile.type_.as_str()) {
        Some("RuntimeDefault") => (ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => {
            let file = profile.and_then(|profile| profile.localhost_profile.as_deref()).unwrap_or_default();
            (ProfileType::Localhost, format!("{folder}/{file}"))
        }
        _ => (ProfileType::Unconfined, String::new()),
    };
    SecurityProfile { profile_type: kind.into(), localhost_ref: reference }
}

fn selinux(options: Option<&SELinuxOptions>) -> Option<SeLinuxOption> {
    let options = options?.clone();
    Some(SeLinuxOption {
        user: options.user.unwrap_or_default(),
        role: options.role.unwrap_or_default(),
        r#type: options.type_.unwrap_or_default(),
        level: options.level.unwrap_or_default(),
    })
}

/// Namespaces that the pod shares with the node or among its containers.
pub(crate) fn namespaces(pod: &Pod, target: Option<&str>) -> NamespaceOption {
    let spec = pod.spec.clone().unwrap_or_default();
    let mode = |on_node: Option<bool>, else_mode| if on_node == Some(true) { NamespaceMode::Node } else { else_mode };
    let shared = if spec.share_process_namespace == Some(true) { NamespaceMode::Pod } else { NamespaceMode::Container };
    let pid = match target {
        Some(_) => NamespaceMode::Target,
        None => mode(spec.host_pid, shared),
    };
    let own_users = spec.host_users == Some(false);
    NamespaceOption {
        network: mode(spec.host_network, NamespaceMode::Pod).into(),
        ipc: mode(spec.host_ipc, NamespaceMode::Pod).into(),
        pid: pid.into(),
        target_id: target.unwrap_or_default().to_owned(),
        userns_options: own_users
            .then(|| UserNamespace { mode: NamespaceMode::Pod.into(), ..UserNamespace::default() }),
    }
}

/// Groups that every container of the pod gets beside its own.
fn groups(context: &PodSecurityContext) -> Vec<i64> {
    context.fs_group.into_iter().chain(context.supplemental_groups.iter().flatten().copied()).collect()
}

fn groups_policy(context: &PodSecurityContext) -> i32 {
    i32::from(context.supplemental_groups_policy.as_deref() == Some("Strict"))
}

/// The sandbox's part.
pub(crate) fn sandbox(pod: &Pod, seccomp_folder: &str) -> LinuxSandboxSecurityContext {
    let context = pod_context(pod);
    let privileged = super::model::containers_of(pod)
        .iter()
        .any(|(_, container)| container.security_context.as_ref().and_then(|own| own.privileged).unwrap_or(false));
    let default = SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None };
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, None)),
        selinux_options: selinux(context.se_linux_options.as_ref()),
        run_as_user: value(context.run_as_user),
        run_as_group: value(context.run_as_group).filter(|_| context.run_as_user.is_some()),
        supplemental_groups: groups(&context),
        supplemental_groups_policy: groups_policy(&context),
        privileged,
        // The sandbox runs the pause program only: it never needs more than the runtime's default profile.
        seccomp: Some(seccomp(Some(context.seccomp_profile.as_ref().unwrap_or(&default)), seccomp_folder)),
        ..LinuxSandboxSecurityContext::default()
    }
}

/// The container's part, after checking the image's user against `runAsNonRoot`.
pub(crate) fn container(
    pod: &Pod,
    container: &Container,
    image: &Image,
    target: Option<&str>,
    seccomp_folder: &str,
) -> Result<LinuxContainerSecurityContext, SecurityError> {
    let shared = pod_context(pod);
    let own = container.security_context.clone().unwrap_or_default();
    let user = own.run_as_user.or(shared.run_as_user);
    let group = own.run_as_group.or(shared.run_as_group);
    if own.run_as_non_root.or(shared.run_as_non_root) == Some(true) {
        check_user(pod, container, user, image)?;
    }
    let (run_as_user, run_as_username) = match (user, &image.uid) {
        (Some(user), _) => (value(Some(user)), String::new()),
        (None, Some(uid)) => (Some(*uid), String::new()),
        (None, None) => (None, image.username.clone()),
    };
    let known_user = run_as_user.is_some() || !run_as_username.is_empty();
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let paths =
        |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|path| (*path).to_owned()).collect() };
    let privileged = own.privileged.unwrap_or(false);
    Ok(LinuxContainerSecurityContext {
        capabilities: capabilities(&own),
        privileged,
        namespace_options: Some(namespaces(pod, target)),
        selinux_options: selinux(own.se_linux_options.as_ref().or(shared.se_linux_options.as_ref())),
        run_as_user,
        run_as_group: value(group).filter(|_| known_user),
        run_as_username,
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: groups(&shared),
        supplemental_groups_policy: groups_policy(&shared),
        no_new_privs: no_new_privileges(&own),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp(own.seccomp_profile.as_ref().or(shared.seccomp_profile.as_ref()), seccomp_folder)),
        ..LinuxContainerSecurityContext::default()
    })
}

fn no_new_privileges(own: &SecurityContext) -> bool {
    own.allow_privilege_escalation == Some(false)
}

fn capabilities(own: &SecurityContext) -> Option<Capability> {
    let own = own.capabilities.as_ref()?;
    Some(Capability {
        add_capabilities: own.add.clone().unwrap_or_default(),
        drop_capabilities: own.drop.clone().unwrap_or_default(),
        ..Capability::default()
    })
}

fn check_user(pod: &Pod, container: &Container, user: Option<i64>, image: &Image) -> Result<(), SecurityError> {
    let shown = super::names::PodId::of(pod).to_string();
    let name = container.name.clone();
    match (user, &image.uid, image.username.as_str()) {
        (Some(0), _, _) => Err(SecurityError::Root { pod: shown, container: name }),
        (Some(_), _, _) => Ok(()),
        (None, Some(uid), _) if uid.value == 0 => Err(SecurityError::ImageRoot { pod: shown, container: name }),
        (None, Some(_), _) => Ok(()),
        (None, None, "") => Err(SecurityError::ImageRoot { pod: shown, container: name }),
        (None, None, user) => Err(SecurityError::ImageUser { user: user.into(), pod: shown, container: name }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn build(pod_context: &Value, own: &Value, image: &Image) -> Result<LinuxContainerSecurityContext, SecurityError> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": pod_context, "containers": [{"name": "c", "securityContext": own}]},
        }))
        .expect("pod");
        let one = pod.spec.as_ref().expect("spec").containers[0].clone();
        container(&pod, &one, image, None, "/seccomp")
    }

    fn numbered(uid: i64) -> Image {
        Image { uid: Some(Int64Value { value: uid }), ..Image::default() }
    }

    #[test]
    fn users() {
        let named = Image { username: "web".into(), ..Image::default() };
        let non_root = json!({"runAsNonRoot": true});
        for (shared, own, image, expected) in [
            (json!({}), json!({}), numbered(0), Ok(Some(0))),
            (json!({"runAsUser": 5}), json!({}), numbered(0), Ok(Some(5))),
            (json!({"runAsUser": 5}), json!({"runAsUser": 6}), numbered(0), Ok(Some(6))),
            (json!({}), json!({}), named.clone(), Ok(None)),
            (non_root.clone(), json!({}), numbered(7), Ok(Some(7))),
            (non_root.clone(), json!({}), numbered(0), Err("image will run as root")),
            (non_root.clone(), json!({"runAsUser": 0}), numbered(7), Err("breaks non-root policy")),
            (non_root.clone(), json!({"runAsNonRoot": false}), numbered(0), Ok(Some(0))),
            (non_root, json!({}), named, Err("non-numeric user (web)")),
        ] {
            match (build(&shared, &own, &image), expected) {
                (Ok(context), Ok(user)) => assert_eq!(context.run_as_user.map(|user| user.value), user),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (got, expected) => panic!("{shared} {own}: {got:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn the_rest() {
        let own = json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "procMount": "Unmasked",
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
            "seccompProfile": {"type": "Localhost", "localhostProfile": "a.json"}});
        let got = build(&json!({"fsGroup": 9, "supplementalGroups": [1, 2]}), &own, &numbered(0)).expect("context");
        assert!(got.no_new_privs && got.readonly_rootfs && got.masked_paths.is_empty());
        assert_eq!(got.supplemental_groups, [9, 1, 2]);
        assert_eq!(got.capabilities.expect("set").drop_capabilities, ["ALL"]);
        assert_eq!(got.seccomp.expect("set").localhost_ref, "/seccomp/a.json");
        let plain = build(&json!({}), &json!({}), &numbered(0)).expect("context");
        assert!(!plain.no_new_privs);
        assert_eq!(plain.masked_paths.len(), MASKED.len());
        assert_eq!(plain.seccomp.expect("set").profile_type, i32::from(ProfileType::Unconfined));
    }
}
