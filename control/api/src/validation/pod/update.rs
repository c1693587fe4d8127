//! What may change in a pod that exists: images, deadlines, tolerations, gates; its status; its subresources.

use super::super::check::{IMMUTABLE, given};
use super::{MAX_SECONDS, metadata_and_spec, tolerations, trimmed_image};
use crate::names;
use crate::strategy::semantic_equal;
use crate::{FieldErrors, Path, Value};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                         `spec.tolerations` (only additions to existing tolerations),\
                         `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const LISTS: [&str; 2] = ["containers", "initContainers"];

pub(in super::super) fn update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    metadata_and_spec(new, errors);
    let path = Path::new("spec");
    for list in LISTS {
        let (after, before) = (new.list_at(&["spec", list]), old.list_at(&["spec", list]));
        let place = path.child(list);
        if after.len() != before.len() {
            return errors.forbidden(&place, "pod updates may not add or remove containers");
        }
        for (at, container) in after.iter().enumerate() {
            if container.str_at(&["image"]).is_empty() {
                errors.required(&place.index(at).child("image"), "");
            }
            trimmed_image(container, &place.index(at), errors);
        }
    }
    if !deadline(new, old, &path.child("activeDeadlineSeconds"), errors) {
        return;
    }
    only_added_tolerations(new, old, &path.child("tolerations"), errors);
    only_removed_gates(new, old, &path.child("schedulingGates"), errors);
    if !semantic_equal(new.get("spec"), old.get("spec")) {
        rest_stays(new, old, &path, errors);
    }
}

fn deadline(new: &Value, old: &Value, path: &Path<'_>, errors: &mut FieldErrors) -> bool {
    let seconds = |pod: &Value| pod.int_at(&["spec", "activeDeadlineSeconds"]);
    match (seconds(new), seconds(old)) {
        (Some(after), _) if !(0..=MAX_SECONDS).contains(&after) => {
            errors.invalid(path, after, names::range_message(0, MAX_SECONDS));
            return false;
        }
        (Some(after), Some(before)) if before < after => {
            errors.invalid(path, after, "must be less than or equal to previous value");
            return false;
        }
        (None, Some(_)) => {
            errors.invalid(path, Value::Null, "must not update from a positive integer to nil value");
        }
        _ => {}
    }
    true
}

fn only_added_tolerations(new: &Value, old: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = |pod: &Value| -> Vec<Value> {
        let mut list = pod.list_at(&["spec", "tolerations"]).to_vec();
        for toleration in &mut list {
            toleration.remove_at(&["tolerationSeconds"]);
        }
        list
    };
    let after = list(new);
    let kept = |one: &Value| after.iter().any(|other| semantic_equal(Some(other), Some(one)));
    if !list(old).iter().all(kept) {
        errors.forbidden(path, "existing toleration can not be modified except its tolerationSeconds");
        return;
    }
    if let Some(spec) = new.get("spec") {
        let mut again = FieldErrors::new();
        tolerations(spec, path, &mut again);
        errors.extend(again);
    }
}

fn only_removed_gates(new: &Value, old: &Value, list: &Path<'_>, errors: &mut FieldErrors) {
    let before: Vec<&str> =
        old.list_at(&["spec", "schedulingGates"]).iter().map(|gate| gate.str_at(&["name"])).collect();
    for (at, gate) in new.list_at(&["spec", "schedulingGates"]).iter().enumerate() {
        let name = gate.str_at(&["name"]);
        if !before.contains(&name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(&list.index(at).child("name"), detail);
        }
    }
}

/// Puts back what may change; the rest must be as before.
fn rest_stays(new: &Value, old: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut munged = new.get("spec").cloned().unwrap_or_default();
    for list in LISTS {
        let before = old.list_at(&["spec", list]);
        let after = munged.at_mut(&[list]).and_then(Value::as_list_mut);
        for (container, before) in after.into_iter().flatten().zip(before) {
            container.set_at(&["image"], before.str_at(&["image"]));
        }
    }
    let mut put_back = |member: &str| match old.at(&["spec", member]) {
        Some(value) => munged.set_at(&[member], value.clone()),
        None => {
            munged.remove_at(&[member]);
        }
    };
    for member in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        put_back(member);
    }
    let grace = |pod: &Value| pod.int_at(&["spec", "terminationGracePeriodSeconds"]);
    if grace(old).is_some_and(|seconds| seconds < 0) && grace(new) == Some(1) {
        put_back("terminationGracePeriodSeconds");
    }
    if !old.list_at(&["spec", "schedulingGates"]).is_empty() {
        gated_changes(&mut munged, old, path, errors);
    }
    if !semantic_equal(Some(&munged), old.get("spec")) {
        errors.forbidden(path, format!("pod updates may not change fields other than {UPDATABLE}\n"));
    }
}

/// A gated pod may narrow down where it runs.
fn gated_changes(munged: &mut Value, old: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let before = old.at(&["spec", "nodeSelector"]).cloned().unwrap_or_default();
    for (key, value) in super::super::check::entries(&before, &[]) {
        if munged.at(&["nodeSelector", key]) != Some(value) {
            errors.invalid(
                &path.child("nodeSelector"),
                munged.get("nodeSelector").cloned().unwrap_or_default(),
                "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
            );
            break;
        }
    }
    match old.at(&["spec", "nodeSelector"]) {
        Some(value) => munged.set_at(&["nodeSelector"], value.clone()),
        None => {
            munged.remove_at(&["nodeSelector"]);
        }
    }
    let before = given(old, &["spec", "affinity", "nodeAffinity"]);
    affinity_grows(munged, before, path, errors);
    match before {
        Some(before) => munged.set_at(&["affinity", "nodeAffinity"], before.clone()),
        None => {
            munged.remove_at(&["affinity", "nodeAffinity"]);
            let nothing = munged.get("affinity").and_then(Value::as_object).is_some_and(crate::Object::is_empty);
            if nothing && given(old, &["spec", "affinity"]).is_none() {
                munged.remove_at(&["affinity"]);
            }
        }
    }
}

/// Terms that there were may only get stricter.
fn affinity_grows(munged: &Value, before: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let terms = ["requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    let before = before.map_or(&[][..], |before| before.list_at(&terms));
    let after = munged.list_at(&["affinity", "nodeAffinity", terms[0], terms[1]]);
    let (place, required) = (path.child("affinity.nodeAffinity"), terms[0]);
    let place = place.child(required);
    let place = place.child("nodeSelectorTerms");
    if !before.is_empty() && before.len() != after.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return errors.invalid(&place, Value::from(after.to_vec()), detail);
    }
    for (at, (before, after)) in before.iter().zip(after).enumerate() {
        let lists = ["matchExpressions", "matchFields"].map(|list| (before.list_at(&[list]), after.list_at(&[list])));
        let open = lists.iter().all(|(before, _)| before.is_empty());
        let stays = |(before, after): &(&[Value], &[Value])| {
            after.len() >= before.len()
                && before.iter().zip(*after).all(|(before, after)| semantic_equal(Some(before), Some(after)))
        };
        let filled = lists.iter().any(|(_, after)| !after.is_empty());
        if (open && filled) || !lists.iter().all(stays) {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.invalid(&place.index(at), after.clone(), detail);
        }
    }
}

pub(in super::super) fn status_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("status");
    let list = path.child("conditions");
    for (at, condition) in new.list_at(&["status", "conditions"]).iter().enumerate() {
        let kind = condition.str_at(&["type"]);
        let known = matches!(
            kind,
            "PodScheduled"
                | "Ready"
                | "Initialized"
                | "ContainersReady"
                | "DisruptionTarget"
                | "PodReadyToStartContainers"
        );
        if !known {
            errors.invalid_each(&list.index(at).child("type"), kind, names::qualified_name(kind));
        }
    }
    if new.str_at(&["spec", "nodeName"]) != old.str_at(&["spec", "nodeName"]) {
        errors.forbidden(&path.child("nodeName"), "may not be changed directly");
    }
    let nominated = new.str_at(&["status", "nominatedNodeName"]);
    let place = path.child("nominatedNodeName");
    if !nominated.is_empty() && nominated != old.str_at(&["status", "nominatedNodeName"]) {
        errors.invalid_each(&place, nominated, names::dns_subdomain(nominated));
        if !old.str_at(&["spec", "nodeName"]).is_empty() {
            errors.forbidden(&place, "may not be set on pods that are already bound to a node");
        }
    }
    if let Some(generation) = new.int_at(&["status", "observedGeneration"]).filter(|number| *number < 0) {
        errors.invalid(&path.child("observedGeneration"), generation, "must be a non-negative integer");
    }
    let class = |pod: &Value| pod.str_at(&["status", "qosClass"]).to_owned();
    if class(new) != class(old) {
        errors.invalid(&path.child("qosClass"), class(new), IMMUTABLE);
    }
    ends_are_final(new, old, &path.child("containerStatuses"), errors);
    addresses(new, &path, errors);
}

/// Whether a container that ended with a code starts again.
fn restarts(pod: &Value, name: &str, code: i64) -> bool {
    let containers = pod.list_at(&["spec", "containers"]);
    let own = containers.iter().find(|one| one.str_at(&["name"]) == name);
    let policy = own.map_or("", |own| own.str_at(&["restartPolicy"]));
    let policy = if policy.is_empty() { pod.str_at(&["spec", "restartPolicy"]) } else { policy };
    let rules = own.is_some_and(|own| !own.list_at(&["restartPolicyRules"]).is_empty());
    rules || policy == "Always" || (policy == "OnFailure" && code != 0)
}

fn ends_are_final(new: &Value, old: &Value, list: &Path<'_>, errors: &mut FieldErrors) {
    let after = new.list_at(&["status", "containerStatuses"]);
    for (at, status) in old.list_at(&["status", "containerStatuses"]).iter().enumerate() {
        let Some(ended) = given(status, &["state", "terminated"]) else { continue };
        let name = status.str_at(&["name"]);
        let runs = |one: &Value| one.str_at(&["name"]) == name && given(one, &["state", "terminated"]).is_none();
        if after.iter().any(runs) && !restarts(old, name, ended.int_at(&["exitCode"]).unwrap_or(0)) {
            errors.forbidden(&list.index(at).child("state"), "may not be transitioned to non-terminated state");
        }
    }
}

fn addresses(pod: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for member in ["podIPs", "hostIPs"] {
        let list = path.child(member);
        let all: Vec<&str> = pod.list_at(&["status", member]).iter().map(|one| one.str_at(&["ip"])).collect();
        for (at, ip) in all.iter().enumerate() {
            super::super::check::legacy(ip, &[], names::ip, &list.index(at), errors);
        }
        if all.len() > 2 {
            let shown = pod.at(&["status", member]).cloned().unwrap_or_default();
            errors.invalid(&list, shown, "may specify no more than one IP for each IP family");
        }
    }
}

/// The `ephemeralcontainers` subresource: debuggers come, but neither change nor go.
pub(in super::super) fn ephemeral_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    metadata_and_spec(new, errors);
    let path = Path::new("spec.ephemeralContainers");
    let after = new.list_at(&["spec", "ephemeralContainers"]);
    for before in old.list_at(&["spec", "ephemeralContainers"]) {
        let name = before.str_at(&["name"]);
        let shown = crate::quote(name);
        match after.iter().find(|one| one.str_at(&["name"]) == name) {
            None => errors.forbidden(&path, format!("existing ephemeral containers {shown} may not be removed\n")),
            Some(one) if !semantic_equal(Some(one), Some(before)) => {
                errors.forbidden(&path, format!("existing ephemeral containers {shown} may not be changed\n"));
            }
            Some(_) => {}
        }
    }
}

/// The `resize` subresource: CPU and memory change, classes of service do not.
pub(in super::super) fn resize(new: &Value, old: &Value, errors: &mut FieldErrors) {
    metadata_and_spec(new, errors);
    let path = Path::new("spec");
    for list in LISTS {
        let names = |pod: &Value| -> Vec<String> {
            pod.list_at(&["spec", list]).iter().map(|one| one.str_at(&["name"]).to_owned()).collect()
        };
        if names(new) != names(old) {
            return errors.forbidden(&path.child(list), "containers may not be added, removed, renamed or re-ordered");
        }
    }
    if crate::strategy::pod_qos(new) != crate::strategy::pod_qos(old) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.invalid(&path, crate::strategy::pod_qos(new), detail);
    }
    for list in LISTS {
        let place = path.child(list);
        for (at, container) in new.list_at(&["spec", list]).iter().enumerate() {
            let before = &old.list_at(&["spec", list])[at];
            for kind in ["requests", "limits"] {
                for (name, _) in super::super::check::entries(before, &["resources", kind]) {
                    if container.at(&["resources", kind, name]).is_none() {
                        let detail = format!("resource {kind} cannot be removed");
                        errors.forbidden(&place.index(at).child("resources").child(kind), detail);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::check::tests::{merged, status_updates, updates};
    use super::super::tests::{POD, base, container, spec, with};
    use serde_json::json;

    #[test]
    fn few_fields_change() {
        let fixed = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
                     `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
                     existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                     previously negative)\n";
        let old = merged(
            &base(),
            &spec(json!({"tolerations": [{"key": "a", "operator": "Exists"}], "activeDeadlineSeconds": 9})),
        );
        updates(
            POD,
            &old,
            &[
                (json!({"metadata": {"labels": {"a": "b"}}}), &[]),
                (with(json!({"image": "j"})), &[]),
                (spec(json!({"activeDeadlineSeconds": 8})), &[]),
                (
                    spec(json!({"activeDeadlineSeconds": 10})),
                    &["spec.activeDeadlineSeconds: Invalid value: 10: must be less than or equal to previous value"],
                ),
                (spec(json!({"hostNetwork": true})), &[fixed]),
                (with(json!({"command": ["x"]})), &[fixed]),
                (
                    spec(json!({"containers": [container(), merged(&container(), &json!({"name": "d"}))]})),
                    &["spec.containers: Forbidden: pod updates may not add or remove containers"],
                ),
                (
                    spec(json!({"tolerations": []})),
                    &[
                        "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds",
                    ],
                ),
                (
                    spec(json!({"schedulingGates": [{"name": "g"}]})),
                    &[
                        "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'",
                    ],
                ),
            ],
        );
    }

    #[test]
    fn ended_containers_stay_ended() {
        let old = merged(
            &base(),
            &json!({
                "spec": {"restartPolicy": "Never"},
                "status": {"qosClass": "BestEffort", "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 1}}}]},
            }),
        );
        status_updates(
            POD,
            &old,
            &[
                (json!({"status": {"phase": "Failed"}}), &[]),
                (
                    json!({"status": {"containerStatuses": [{"name": "c", "state": {"running": {}}}]}}),
                    &["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"],
                ),
                (
                    json!({"status": {"qosClass": "Burstable"}}),
                    &["status.qosClass: Invalid value: \"Burstable\": field is immutable"],
                ),
            ],
        );
    }
}
