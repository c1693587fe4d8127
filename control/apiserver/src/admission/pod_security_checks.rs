//! The Pod Security Standards: what the baseline and restricted levels forbid, by version. Pure.

use std::collections::BTreeSet;
use timonel_api::Value;

/// A level of the standards, the laxest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// The minor version of Kubernetes whose standards hold; `None` for the latest.
pub(super) type Minor = Option<u32>;

/// One thing that is forbidden: the reason, and what offends in detail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) reason: String,
    pub(super) detail: String,
}

struct Pod<'a> {
    metadata: &'a Value,
    spec: &'a Value,
    containers: Vec<&'a Value>,
    minor: u32,
}

type Check = fn(&Pod<'_>) -> Option<Violation>;

/// In the order in which messages list them.
const BASELINE: [(&str, Check); 12] = [
    ("appArmorProfile", app_armor),
    ("capabilities_baseline", capabilities_baseline),
    ("hostNamespaces", host_namespaces),
    ("hostPathVolumes", host_path_volumes),
    ("hostPorts", host_ports),
    ("hostProbesAndHostLifecycle", host_probes),
    ("privileged", privileged),
    ("procMount", proc_mount),
    ("seLinuxOptions", se_linux),
    ("seccompProfile_baseline", seccomp_baseline),
    ("sysctls", sysctls),
    ("windowsHostProcess", windows_host_process),
];

/// The same for the restricted level: since which minor, what it replaces of the baseline.
const RESTRICTED: [(u32, &str, Check); 7] = [
    (8, "", allow_privilege_escalation),
    (22, "capabilities_baseline", capabilities_restricted),
    (35, "procMount", proc_mount_always),
    (0, "hostPathVolumes", restricted_volumes),
    (0, "", run_as_non_root),
    (23, "", run_as_user),
    (19, "seccompProfile_baseline", seccomp_restricted),
];

/// What the level forbids of a pod, given its metadata and spec.
pub(super) fn violations(level: Level, minor: Minor, metadata: &Value, spec: &Value) -> Vec<Violation> {
    if level == Level::Privileged {
        return Vec::new();
    }
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let containers = lists.iter().flat_map(|list| spec.list_at(&[list])).collect();
    let pod = Pod { metadata, spec, containers, minor: minor.unwrap_or(u32::MAX) };
    let restricted: Vec<_> =
        RESTRICTED.iter().filter(|(since, ..)| level == Level::Restricted && *since <= pod.minor).collect();
    let replaced: Vec<&str> = restricted.iter().map(|(_, replaces, _)| *replaces).collect();
    let baseline = BASELINE.iter().filter(|(name, _)| !replaced.contains(name)).map(|(_, check)| check);
    baseline.chain(restricted.iter().map(|(_, _, check)| check)).filter_map(|check| check(&pod)).collect()
}

/// The violations as a message lists them.
pub(super) fn describe(violations: &[Violation]) -> String {
    let one = |violation: &Violation| {
        if violation.detail.is_empty() {
            violation.reason.clone()
        } else {
            format!("{} ({})", violation.reason, violation.detail)
        }
    };
    violations.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl<'a> Pod<'a> {
    /// Names of the containers that offend.
    fn bad(&self, mut offends: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
        self.containers.iter().filter(|each| offends(each)).map(|each| each.str_at(&["name"])).collect()
    }

    fn is_windows(&self) -> bool {
        self.minor >= 25 && self.spec.str_at(&["os", "name"]) == "windows"
    }

    /// Since 1.35 a pod in a user namespace of its own is trusted with more.
    fn has_own_users(&self) -> bool {
        self.minor >= 35 && self.spec.bool_at(&["hostUsers"]) == Some(false)
    }

    fn annotations(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let annotations = self.metadata.get("annotations").and_then(Value::as_object);
        let members = annotations.into_iter().flat_map(|object| object.iter());
        members.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or("")))
    }
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

fn quoted<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    items.into_iter().map(|item| format!("\"{item}\"")).collect::<Vec<_>>().join(", ")
}

fn containers(bad: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", bad.len()), quoted(bad.iter().copied()))
}

/// `pod and containers "a", "b"`: who sets something.
fn setters(pod: bool, bad: &[&str]) -> Option<String> {
    let mut parts = Vec::new();
    if pod {
        parts.push("pod".to_owned());
    }
    if !bad.is_empty() {
        parts.push(containers(bad));
    }
    (!parts.is_empty()).then(|| parts.join(" and "))
}

fn found(reason: &str, detail: String) -> Option<Violation> {
    Some(Violation { reason: reason.to_owned(), detail })
}

fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let mut values = BTreeSet::new();
    let mut bad_profile = |of: &Value| {
        let kind = of.str_at(&["securityContext", "appArmorProfile", "type"]);
        let bad = of.at(&["securityContext", "appArmorProfile"]).is_some_and(|profile| !profile.is_null())
            && !matches!(kind, "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(kind.to_owned());
        }
        bad
    };
    let on_pod = bad_profile(pod.spec);
    let bad = pod.bad(&mut bad_profile);
    let annotations: Vec<String> = pod
        .annotations()
        .filter(|(key, value)| {
            let good = value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/");
            key.starts_with(PREFIX) && !good
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    let mut who: Vec<String> = setters(on_pod, &bad).into_iter().collect();
    if !annotations.is_empty() {
        who.push(plural("annotation", "annotations", annotations.len()).to_owned());
    }
    if who.is_empty() {
        return None;
    }
    let all: Vec<&str> = values.iter().map(String::as_str).chain(annotations.iter().map(String::as_str)).collect();
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", all.len());
    found(reason, format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(all)))
}

fn added(container: &Value) -> impl Iterator<Item = &str> {
    container.list_at(&["securityContext", "capabilities", "add"]).iter().filter_map(Value::as_str)
}

fn capabilities_baseline(pod: &Pod<'_>) -> Option<Violation> {
    const ALLOWED: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let mut more = BTreeSet::new();
    let bad = pod.bad(|container| {
        let before = more.len();
        let forbidden: Vec<&str> = added(container).filter(|name| !ALLOWED.contains(name)).collect();
        more.extend(forbidden.iter().copied());
        !forbidden.is_empty() || more.len() > before
    });
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must not include {} in securityContext.capabilities.add", containers(&bad), quoted(more));
    found("non-default capabilities", detail)
}

fn capabilities_restricted(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    let drops_all = |container: &Value| {
        let dropped = container.list_at(&["securityContext", "capabilities", "drop"]);
        dropped.iter().any(|name| name.as_str() == Some("ALL"))
    };
    let missing = pod.bad(|container| !drops_all(container));
    let mut more = BTreeSet::new();
    let adding = pod.bad(|container| {
        let forbidden: Vec<&str> = added(container).filter(|name| *name != "NET_BIND_SERVICE").collect();
        more.extend(forbidden.iter().copied());
        !forbidden.is_empty()
    });
    let mut details = Vec::new();
    if !missing.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&missing)));
    }
    if !adding.is_empty() {
        let (who, what) = (containers(&adding), quoted(more));
        details.push(format!("{who} must not include {what} in securityContext.capabilities.add"));
    }
    if details.is_empty() { None } else { found("unrestricted capabilities", details.join("; ")) }
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let fields = ["hostNetwork", "hostPID", "hostIPC"];
    let set: Vec<String> = fields
        .iter()
        .filter(|field| pod.spec.bool_at(&[field]) == Some(true))
        .map(|field| format!("{field}=true"))
        .collect();
    if set.is_empty() { None } else { found("host namespaces", set.join(", ")) }
}

fn host_path_volumes(pod: &Pod<'_>) -> Option<Violation> {
    let volumes = pod.spec.list_at(&["volumes"]).iter().filter(|volume| volume.get("hostPath").is_some());
    let bad: Vec<&str> = volumes.map(|volume| volume.str_at(&["name"])).collect();
    if bad.is_empty() {
        return None;
    }
    found("hostPath volumes", format!("{} {}", plural("volume", "volumes", bad.len()), quoted(bad)))
}

fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let bad = pod.bad(|container| {
        let own = container.list_at(&["ports"]).iter().filter_map(|port| port.int_at(&["hostPort"]));
        let own: Vec<String> = own.filter(|port| *port != 0).map(|port| port.to_string()).collect();
        let any = !own.is_empty();
        ports.extend(own);
        any
    });
    if bad.is_empty() {
        return None;
    }
    let list: Vec<String> = ports.into_iter().collect();
    let (uses, word) = (plural("uses", "use", bad.len()), plural("hostPort", "hostPorts", list.len()));
    found("hostPort", format!("{} {uses} {word} {}", containers(&bad), list.join(", ")))
}

fn host_probes(pod: &Pod<'_>) -> Option<Violation> {
    if pod.minor < 34 {
        return None;
    }
    let places: [&[&str]; 5] = [
        &["livenessProbe"],
        &["readinessProbe"],
        &["startupProbe"],
        &["lifecycle", "postStart"],
        &["lifecycle", "preStop"],
    ];
    let (mut names, mut hosts) = (BTreeSet::new(), BTreeSet::new());
    for container in &pod.containers {
        for handler in places.iter().filter_map(|place| container.at(place)) {
            for host in ["httpGet", "tcpSocket"].map(|kind| handler.str_at(&[kind, "host"])) {
                if !host.is_empty() {
                    names.insert(container.str_at(&["name"]));
                    hosts.insert(host);
                }
            }
        }
    }
    if names.is_empty() {
        return None;
    }
    let bad: Vec<&str> = names.into_iter().collect();
    let uses = plural("uses", "use", bad.len());
    let word = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
    found("probe or lifecycle host", format!("{} {uses} {word} {}", containers(&bad), quoted(hosts)))
}

fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let bad = pod.bad(|container| container.bool_at(&["securityContext", "privileged"]) == Some(true));
    if bad.is_empty() {
        return None;
    }
    found("privileged", format!("{} must not set securityContext.privileged=true", containers(&bad)))
}

fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    if pod.has_own_users() { None } else { proc_mount_always(pod) }
}

fn proc_mount_always(pod: &Pod<'_>) -> Option<Violation> {
    let kind = |container: &'_ Value| container.str_at(&["securityContext", "procMount"]).to_owned();
    let mut kinds = BTreeSet::new();
    let bad = pod.bad(|container| {
        let kind = kind(container);
        let bad = !kind.is_empty() && kind != "Default";
        if bad {
            kinds.insert(kind);
        }
        bad
    });
    if bad.is_empty() {
        return None;
    }
    let kinds = quoted(kinds.iter().map(String::as_str));
    found("procMount", format!("{} must not set securityContext.procMount to {kinds}", containers(&bad)))
}

fn se_linux(pod: &Pod<'_>) -> Option<Violation> {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let minor = pod.minor;
    let mut bad_options = |of: &Value| {
        let Some(options) = of.at(&["securityContext", "seLinuxOptions"]) else { return false };
        let kind = options.str_at(&["type"]);
        let known = matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || minor >= 31 && kind == "container_engine_t";
        if !known {
            types.insert(kind.to_owned());
        }
        let (sets_user, sets_role) = (!options.str_at(&["user"]).is_empty(), !options.str_at(&["role"]).is_empty());
        user |= sets_user;
        role |= sets_role;
        !known || sets_user || sets_role
    };
    let on_pod = bad_options(pod.spec);
    let bad = pod.bad(&mut bad_options);
    let who = setters(on_pod, &bad)?;
    let mut what = Vec::new();
    if !types.is_empty() {
        let word = plural("type", "types", types.len());
        what.push(format!("{word} {}", quoted(types.iter().map(String::as_str))));
    }
    if user {
        what.push("user may not be set".to_owned());
    }
    if role {
        what.push("role may not be set".to_owned());
    }
    found("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")))
}

fn seccomp_kind(of: &Value) -> Option<&str> {
    of.at(&["securityContext", "seccompProfile"]).filter(|profile| !profile.is_null()).map(|p| p.str_at(&["type"]))
}

fn is_good_seccomp(kind: &str) -> bool {
    matches!(kind, "Localhost" | "RuntimeDefault")
}

fn seccomp_baseline(pod: &Pod<'_>) -> Option<Violation> {
    if pod.minor < 19 {
        return seccomp_annotations(pod);
    }
    let mut kinds = BTreeSet::new();
    let mut bad_profile = |of: &Value| {
        let bad = seccomp_kind(of).filter(|kind| !is_good_seccomp(kind));
        kinds.extend(bad.map(str::to_owned));
        bad.is_some()
    };
    let on_pod = bad_profile(pod.spec);
    let bad = pod.bad(&mut bad_profile);
    let who = setters(on_pod, &bad)?;
    let kinds = quoted(kinds.iter().map(String::as_str));
    found("seccompProfile", format!("{who} must not set securityContext.seccompProfile.type to {kinds}"))
}

fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let known = |key: &str| {
        let own = key.strip_prefix(CONTAINER);
        key == POD || own.is_some_and(|own| pod.containers.iter().any(|each| each.str_at(&["name"]) == own))
    };
    let bad: BTreeSet<String> = pod
        .annotations()
        .filter(|(key, value)| {
            let good = matches!(*value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
            known(key) && !good
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let word = plural("annotation", "annotations", bad.len());
    found("seccompProfile", format!("forbidden {word} {}", bad.into_iter().collect::<Vec<_>>().join(", ")))
}

fn seccomp_restricted(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    let explicit = seccomp_baseline(pod);
    if explicit.is_some() {
        return explicit;
    }
    let pod_sets = seccomp_kind(pod.spec).is_some_and(is_good_seccomp);
    let bad = pod.bad(|container| !pod_sets && seccomp_kind(container).is_none());
    if bad.is_empty() {
        return None;
    }
    found(
        "seccompProfile",
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            containers(&bad)
        ),
    )
}

fn sysctls(pod: &Pod<'_>) -> Option<Violation> {
    const ALLOWED: [(u32, &str); 12] = [
        (0, "kernel.shm_rmid_forced"),
        (0, "net.ipv4.ip_local_port_range"),
        (0, "net.ipv4.tcp_syncookies"),
        (0, "net.ipv4.ping_group_range"),
        (0, "net.ipv4.ip_unprivileged_port_start"),
        (27, "net.ipv4.ip_local_reserved_ports"),
        (29, "net.ipv4.tcp_keepalive_time"),
        (29, "net.ipv4.tcp_fin_timeout"),
        (29, "net.ipv4.tcp_keepalive_intvl"),
        (29, "net.ipv4.tcp_keepalive_probes"),
        (32, "net.ipv4.tcp_rmem"),
        (32, "net.ipv4.tcp_wmem"),
    ];
    let allowed = |name: &str| ALLOWED.iter().any(|(since, known)| *since <= pod.minor && *known == name);
    let all = pod.spec.list_at(&["securityContext", "sysctls"]).iter().map(|sysctl| sysctl.str_at(&["name"]));
    let bad: Vec<&str> = all.filter(|name| !allowed(name)).collect();
    if bad.is_empty() { None } else { found("forbidden sysctls", bad.join(", ")) }
}

fn windows_host_process(pod: &Pod<'_>) -> Option<Violation> {
    let sets = |of: &Value| of.bool_at(&["securityContext", "windowsOptions", "hostProcess"]) == Some(true);
    let who = setters(sets(pod.spec), &pod.bad(sets))?;
    found("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn allow_privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    let bad = pod.bad(|each| each.bool_at(&["securityContext", "allowPrivilegeEscalation"]) != Some(false));
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&bad));
    found("allowPrivilegeEscalation != false", detail)
}

fn restricted_volumes(pod: &Pod<'_>) -> Option<Violation> {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    const KNOWN: [&str; 21] = [
        "hostPath",
        "gcePersistentDisk",
        "awsElasticBlockStore",
        "gitRepo",
        "nfs",
        "iscsi",
        "glusterfs",
        "rbd",
        "flexVolume",
        "cinder",
        "cephfs",
        "flocker",
        "fc",
        "azureFile",
        "vsphereVolume",
        "quobyte",
        "azureDisk",
        "photonPersistentDisk",
        "portworxVolume",
        "scaleIO",
        "storageos",
    ];
    let (mut names, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in pod.spec.list_at(&["volumes"]) {
        if ALLOWED.iter().any(|kind| volume.get(kind).is_some()) {
            continue;
        }
        names.push(volume.str_at(&["name"]));
        kinds.insert(KNOWN.iter().copied().find(|kind| volume.get(kind).is_some()).unwrap_or("unknown"));
    }
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", names.len()),
        quoted(names.iter().copied()),
        plural("uses", "use", names.len()),
        plural("restricted volume type", "restricted volume types", kinds.len()),
        quoted(kinds),
    );
    found("restricted volume types", detail)
}

fn run_as_non_root(pod: &Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    if pod.has_own_users() {
        return None;
    }
    let set = |of: &Value| of.bool_at(&["securityContext", "runAsNonRoot"]);
    let explicit = pod.bad(|container| set(container) == Some(false));
    if let Some(who) = setters(set(pod.spec) == Some(false), &explicit) {
        return found(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let implicit = pod.bad(|container| set(container).is_none() && set(pod.spec) != Some(true));
    if implicit.is_empty() {
        return None;
    }
    found(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&implicit)))
}

fn run_as_user(pod: &Pod<'_>) -> Option<Violation> {
    if pod.has_own_users() {
        return None;
    }
    let root = |of: &Value| of.int_at(&["securityContext", "runAsUser"]) == Some(0);
    let who = setters(root(pod.spec), &pod.bad(root))?;
    found("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value, reason = "tables of literals read better without references")]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    fn check(level: Level, minor: Minor, spec: Json, expected: &str) {
        let found = violations(level, minor, &Value::object(), &Value::from(spec.clone()));
        assert_eq!(describe(&found), expected, "{spec}");
    }

    #[test]
    fn baseline() {
        let with = |context: Json| json!({"containers": [{"name": "a", "securityContext": context}]});
        for (spec, expected) in [
            (json!({"containers": [{"name": "a"}]}), ""),
            (json!({"hostNetwork": true, "hostPID": true}), "host namespaces (hostNetwork=true, hostPID=true)"),
            (
                with(json!({"privileged": true})),
                "privileged (container \"a\" must not set securityContext.privileged=true)",
            ),
            (
                with(json!({"capabilities": {"add": ["NET_RAW", "CHOWN"]}})),
                "non-default capabilities (container \"a\" must not include \"NET_RAW\" in securityContext.capabilities.add)",
            ),
            (
                json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "hostPath": {}}]}),
                "hostPath volumes (volumes \"v\", \"w\")",
            ),
            (
                json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}]}, {"name": "b", "ports": [{"hostPort": 443}]}]}),
                "hostPort (containers \"a\", \"b\" use hostPorts 443, 80)",
            ),
            (
                with(json!({"procMount": "Unmasked"})),
                "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
            ),
            (
                with(json!({"seccompProfile": {"type": "Unconfined"}})),
                "seccompProfile (container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (
                with(json!({"appArmorProfile": {"type": "Unconfined"}})),
                "forbidden AppArmor profile (container \"a\" must not set AppArmor profile type to \"Unconfined\")",
            ),
            (
                json!({"securityContext": {"seLinuxOptions": {"user": "u", "type": "x"}}}),
                "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set)",
            ),
            (
                json!({"securityContext": {"sysctls": [{"name": "kernel.x"}, {"name": "net.ipv4.tcp_rmem"}]}}),
                "forbidden sysctls (kernel.x)",
            ),
            (
                json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
                "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
            ),
            (
                json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "1.2.3.4"}}}]}),
                "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"1.2.3.4\")",
            ),
            (
                json!({"containers": [{"name": "a", "securityContext": {"capabilities": {"add": ["NET_RAW"]}}}, {"name": "b", "securityContext": {"capabilities": {"add": ["NET_RAW"]}}}]}),
                "non-default capabilities (containers \"a\", \"b\" must not include \"NET_RAW\" in securityContext.capabilities.add)",
            ),
        ] {
            check(Level::Baseline, None, spec.clone(), expected);
            check(Level::Privileged, None, spec, "");
        }
    }

    #[test]
    fn restricted() {
        let good = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
        check(Level::Restricted, None, json!({"containers": [{"name": "a", "securityContext": good}]}), "");
        check(
            Level::Restricted,
            None,
            json!({"containers": [{"name": "a"}]}),
            "allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"a\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
        );
        check(
            Level::Restricted,
            None,
            json!({"volumes": [{"name": "n", "nfs": {}}, {"name": "c", "configMap": {}}, {"name": "h", "hostPath": {}}]}),
            "restricted volume types (volumes \"n\", \"h\" use restricted volume types \"hostPath\", \"nfs\")",
        );
        check(
            Level::Restricted,
            None,
            json!({"securityContext": {"runAsUser": 0}}),
            "runAsUser=0 (pod must not set runAsUser=0)",
        );
    }

    #[test]
    fn older_versions_ask_for_less() {
        let spec = json!({"containers": [{"name": "a", "securityContext": {"runAsNonRoot": true}}]});
        check(Level::Restricted, Some(7), spec, "");
        let probe = json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "x"}}}]});
        check(Level::Baseline, Some(33), probe, "");
        let sysctl = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}});
        check(Level::Baseline, Some(31), sysctl, "forbidden sysctls (net.ipv4.tcp_rmem)");
    }
}
