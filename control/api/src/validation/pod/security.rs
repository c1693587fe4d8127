//! Security contexts of pods and containers.

use std::collections::BTreeSet;

use super::super::check::{given, known_if_given, maybe_one_of};
use super::Around;
use super::volumes::local_path;
use crate::names;
use crate::{FieldErrors, Path, Value};

const MAX_ID: i64 = 2_147_483_647;
const MAX_SYSCTL: usize = 253;
const SYSCTL: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

fn id(value: &Value, member: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(number) = value.int_at(&[member]).filter(|number| !(0..=MAX_ID).contains(number)) {
        errors.invalid(&path.child(member), number, names::range_message(0, MAX_ID));
    }
}

fn profile(context: &Value, member: &str, words: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(profile) = given(context, &[member]) else { return };
    let path = path.child(member);
    let kind = profile.str_at(&["type"]);
    if kind.is_empty() {
        errors.required(&path.child("type"), format!("type is required when {member} is set"));
    } else if !PROFILES.contains(&kind) {
        errors.not_supported(&path.child("type"), kind, &PROFILES);
    }
    let own = path.child("localhostProfile");
    match (kind, given(profile, &["localhostProfile"])) {
        ("Localhost", None) => {
            errors.required(&own, format!("must be set when {words} type is Localhost"));
        }
        ("Localhost", Some(file)) if member == "seccompProfile" => {
            local_path(file.as_str().unwrap_or(""), &own, errors);
        }
        ("Localhost", Some(_)) | (_, None) => {}
        (_, Some(_)) => {
            errors.invalid(&own, profile.clone(), format!("can only be set when {words} type is Localhost"));
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let part = |part: &str| {
        let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        edge(part.bytes().next())
            && edge(part.bytes().next_back())
            && part.bytes().all(|byte| edge(Some(byte)) || matches!(byte, b'-' | b'_'))
    };
    name.len() <= MAX_SYSCTL && name.split(['.', '/']).all(part)
}

fn sysctls(context: &Value, spec: &Value, list: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (at, sysctl) in context.list_at(&["sysctls"]).iter().enumerate() {
        let path = list.index(at);
        let path = path.child("name");
        let name = sysctl.str_at(&["name"]);
        if name.is_empty() {
            errors.required(&path, "");
        } else if !is_sysctl(name) {
            let detail = format!("must have at most {MAX_SYSCTL} characters and match regex {SYSCTL}");
            errors.invalid(&path, name, detail);
        } else if !seen.insert(name) {
            errors.duplicate(&path, name);
        }
        let dotted = name.replace('/', ".");
        for (member, owner) in
            [("hostNetwork", &["net."][..]), ("hostIPC", &["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."])]
        {
            if spec.bool_at(&[member]) == Some(true) && owner.iter().any(|prefix| dotted.starts_with(prefix)) {
                errors.invalid(&path, name, format!("may not be specified when '{member}' is true"));
            }
        }
    }
}

pub(super) fn pod(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if spec.bool_at(&["shareProcessNamespace"]) == Some(true) && spec.bool_at(&["hostPID"]) == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.child("shareProcessNamespace"), true, detail);
    }
    let Some(context) = given(spec, &["securityContext"]) else { return };
    for member in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(context, member, path, errors);
    }
    let list = path.child("supplementalGroups");
    for (at, group) in context.list_at(&["supplementalGroups"]).iter().enumerate() {
        if let Some(number) = group.as_int().filter(|number| !(0..=MAX_ID).contains(number)) {
            errors.invalid(&list.index(at), number, names::range_message(0, MAX_ID));
        }
    }
    sysctls(context, spec, &path.child("sysctls"), errors);
    known_if_given(context, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], path, errors);
    profile(context, "seccompProfile", "seccomp", path, errors);
    profile(context, "appArmorProfile", "AppArmor", path, errors);
    maybe_one_of(context, "supplementalGroupsPolicy", &["Merge", "Strict"], path, errors);
    maybe_one_of(context, "seLinuxChangePolicy", &["MountOption", "Recursive"], path, errors);
}

pub(super) fn container(container: &Value, around: &Around<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(context) = given(container, &["securityContext"]) else { return };
    for member in ["runAsUser", "runAsGroup"] {
        id(context, member, path, errors);
    }
    known_if_given(context, "procMount", &["Default", "Unmasked"], path, errors);
    if around.host_users && context.str_at(&["procMount"]) == "Unmasked" {
        errors.invalid(&path.child("procMount"), "Unmasked", "`hostUsers` must be false to use `Unmasked`");
    }
    profile(context, "seccompProfile", "seccomp", path, errors);
    if context.bool_at(&["allowPrivilegeEscalation"]) == Some(false) {
        if context.bool_at(&["privileged"]) == Some(true) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, context.clone(), detail);
        }
        let added = context.list_at(&["capabilities", "add"]);
        if added.iter().any(|capability| capability.as_str() == Some("CAP_SYS_ADMIN")) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, context.clone(), detail);
        }
    }
    profile(context, "appArmorProfile", "AppArmor", path, errors);
}

/// A pod with users of its own shares no namespace of the host.
pub(super) fn host_users(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if spec.bool_at(&["hostUsers"]) != Some(false) {
        return;
    }
    for (member, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.bool_at(&[member]) == Some(true) {
            errors.forbidden(&path.child(shown), "when `hostUsers` is false");
        }
    }
}

/// What a pod of another operating system cannot have.
pub(super) fn operating_system(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(os) = given(spec, &["os"]) else { return };
    let name = os.str_at(&["name"]);
    let place = path.child("os.name");
    if name.is_empty() {
        return errors.required(&place, "");
    }
    if !matches!(name, "linux" | "windows") {
        // Upstream names the member around it.
        return errors.not_supported(&path.child("os"), name, &["linux", "windows"]);
    }
    if name != "windows" {
        return;
    }
    const FOREIGN: &str = "cannot be set for a windows pod";
    for member in ["hostPID", "hostIPC", "shareProcessNamespace"] {
        if spec.bool_at(&[member]) == Some(true) {
            errors.forbidden(&path.child("securityContext").child(member), FOREIGN);
        }
    }
    for member in ["seLinuxOptions", "seccompProfile", "fsGroup", "sysctls", "runAsUser", "runAsGroup"] {
        if given(spec, &["securityContext", member]).is_some() {
            errors.forbidden(&path.child("securityContext").child(member), FOREIGN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::check::tests::creates;
    use super::super::tests::{POD, base, spec, with};
    use serde_json::json;

    #[test]
    fn security_is_judged() {
        let pod = |context: serde_json::Value| spec(json!({"securityContext": context}));
        creates(
            POD,
            &base(),
            &[
                (pod(json!({"runAsUser": 1000, "sysctls": [{"name": "kernel.shm_rmid_forced"}]})), &[]),
                (
                    pod(json!({"runAsUser": -1})),
                    &["spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"],
                ),
                (
                    pod(json!({"seccompProfile": {"type": "Localhost"}})),
                    &[
                        "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type \
                   is Localhost",
                    ],
                ),
                (
                    pod(json!({"sysctls": [{"name": "a..b"}]})),
                    &[
                        "spec.securityContext.sysctls[0].name: Invalid value: \"a..b\": must have at most 253 characters and \
                 match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
                    ],
                ),
                (
                    with(json!({"securityContext": {"procMount": "Unmasked"}})),
                    &[
                        "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false \
                   to use `Unmasked`",
                    ],
                ),
                (
                    spec(json!({"hostUsers": false, "hostPID": true})),
                    &["spec.HostPID: Forbidden: when `hostUsers` is false"],
                ),
                (
                    spec(json!({"os": {"name": "plan9"}})),
                    &["spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""],
                ),
            ],
        );
    }
}
