//! Kinds that make pods from a template: ReplicationController, ReplicaSet, Deployment, StatefulSet, DaemonSet;
//! PodTemplate and ControllerRevision.

use super::check::{
    self, given, immutable, int_or_percent, label_selector, maybe_name, nonnegative_at, one_of, percentage,
    selector_is_empty,
};
use super::{pod, volumes};
use crate::names;
use crate::strategy::semantic_equal;
use crate::{FieldErrors, LabelSelector, Path, Value};

const MISMATCH: &str = "`selector` does not match template `labels`";

fn spec_of(object: &Value) -> Value {
    object.get("spec").cloned().unwrap_or_else(Value::object)
}

/// A selector that must be given, not empty, and match the template.
fn selector(spec: &Value, owner: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let place = path.child("selector");
    let Some(selector) = given(spec, &["selector"]) else {
        errors.required(&place, "");
        // Daemons are not compared with nothing.
        if owner != "daemonset" {
            let shown = spec.at(&["template", "metadata", "labels"]).cloned().unwrap_or_default();
            errors.invalid(&path.child("template.metadata.labels"), shown, MISMATCH);
        }
        return;
    };
    label_selector(Some(selector), &place, errors);
    if selector_is_empty(selector) {
        errors.invalid(&place, selector.clone(), format!("empty selector is invalid for {owner}"));
    }
    if !label_selector_reads(selector) {
        match owner {
            "statefulset" => errors.invalid(&place, selector.clone(), ""),
            "deployment" => errors.invalid(&place, selector.clone(), "invalid label selector"),
            _ => {}
        }
        return;
    }
    matches_template(spec, path, errors);
}

/// Whether a selector can select at all; what it says in detail is judged elsewhere.
fn label_selector_reads(selector: &Value) -> bool {
    let mut problems = FieldErrors::new();
    label_selector(Some(selector), &Path::root(), &mut problems);
    problems.is_empty()
}

fn matches_template(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Ok(selector) = LabelSelector::from_value(spec.get("selector")) else { return };
    if given(spec, &["template"]).is_none() {
        return;
    }
    let labels = spec.at(&["template", "metadata", "labels"]);
    if !selector.is_everything() && !selector.matches(&labels) {
        let shown = labels.cloned().unwrap_or_default();
        errors.invalid(&path.child("template.metadata.labels"), shown, MISMATCH);
    }
}

/// Pods of a template that never end by themselves.
fn template(spec: &Value, owner: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let place = path.child("template");
    // Nothing to say of a template that is not there but that it is wanted.
    if owner == "ReplicationController" && given(spec, &["template"]).is_none() {
        return pod::template(None, &place, errors);
    }
    pod::template(spec.get("template"), &place, errors);
    let policy = spec.str_at(&["template", "spec", "restartPolicy"]);
    if policy != "Always" {
        errors.not_supported(&place.child("spec.restartPolicy"), policy, &["Always"]);
    }
    if given(spec, &["template", "spec", "activeDeadlineSeconds"]).is_some() {
        let detail = format!("activeDeadlineSeconds in {owner} is not Supported");
        errors.forbidden(&place.child("spec.activeDeadlineSeconds"), detail);
    }
}

fn numbers(spec: &Value, members: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    for member in members {
        nonnegative_at(spec, member, path, errors);
    }
}

pub(super) fn pod_template(object: &Value, errors: &mut FieldErrors) {
    pod::template(object.get("template"), &Path::new("template"), errors);
}

pub(super) fn replication_controller(object: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (spec_of(object), Path::new("spec"));
    numbers(&spec, &["minReadySeconds", "replicas"], &path, errors);
    if check::entries(&spec, &["selector"]).next().is_none() {
        errors.required(&path.child("selector"), "");
    } else {
        let labels = spec.at(&["template", "metadata", "labels"]);
        let there = given(&spec, &["template"]).is_some();
        if there && !LabelSelector::from_map(spec.get("selector")).matches(&labels) {
            let shown = labels.cloned().unwrap_or_default();
            errors.invalid(&path.child("template.metadata.labels"), shown, MISMATCH);
        }
    }
    template(&spec, "ReplicationController", &path, errors);
}

pub(super) fn replica_set(object: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (spec_of(object), Path::new("spec"));
    numbers(&spec, &["replicas", "minReadySeconds"], &path, errors);
    selector(&spec, "deployment", &path, errors);
    template(&spec, "ReplicaSet", &path, errors);
}

pub(super) fn deployment(object: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (spec_of(object), Path::new("spec"));
    numbers(&spec, &["replicas"], &path, errors);
    selector(&spec, "deployment", &path, errors);
    template(&spec, "ReplicaSet", &path, errors);
    deployment_strategy(&spec, &path.child("strategy"), errors);
    numbers(&spec, &["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"], &path, errors);
    if let Some(seconds) = spec.int_at(&["progressDeadlineSeconds"])
        && seconds <= spec.int_at(&["minReadySeconds"]).unwrap_or(0)
    {
        errors.invalid(&path.child("progressDeadlineSeconds"), seconds, "must be greater than minReadySeconds");
    }
}

fn is_zero(value: Option<&Value>) -> bool {
    match value {
        Some(text @ Value::String(_)) => percentage(text).unwrap_or(0) == 0,
        other => other.and_then(Value::as_int).unwrap_or(0) == 0,
    }
}

fn at_most_all(rolling: &Value, member: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(value) = rolling.get(member).filter(|value| percentage(value).is_some_and(|percent| percent > 100)) {
        errors.invalid(&path.child(member), value.clone(), "must not be greater than 100%");
    }
}

fn deployment_strategy(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let rolling = given(spec, &["strategy", "rollingUpdate"]);
    let place = path.child("rollingUpdate");
    match (spec.str_at(&["strategy", "type"]), rolling) {
        ("Recreate", Some(_)) => {
            errors.forbidden(&place, "may not be specified when strategy `type` is 'Recreate'");
        }
        ("Recreate", None) => {}
        ("RollingUpdate", None) => errors.required(&place, "this should be defaulted and never be nil"),
        ("RollingUpdate", Some(rolling)) => {
            for member in ["maxUnavailable", "maxSurge"] {
                int_or_percent(rolling.get(member).unwrap_or(&Value::Null), &place.child(member), errors);
            }
            if is_zero(rolling.get("maxUnavailable")) && is_zero(rolling.get("maxSurge")) {
                let shown = rolling.get("maxUnavailable").cloned().unwrap_or_default();
                errors.invalid(&place.child("maxUnavailable"), shown, "may not be 0 when `maxSurge` is 0");
            }
            at_most_all(rolling, "maxUnavailable", &place, errors);
        }
        _ => {
            let shown = spec.get("strategy").cloned().unwrap_or_default();
            errors.not_supported(path, shown, &["Recreate", "RollingUpdate"]);
        }
    }
}

pub(super) fn daemon_set(object: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (spec_of(object), Path::new("spec"));
    label_selector(spec.get("selector"), &path.child("selector"), errors);
    let labels = spec.at(&["template", "metadata", "labels"]);
    if LabelSelector::from_value(spec.get("selector")).is_ok_and(|selector| !selector.matches(&labels)) {
        errors.invalid(&path.child("template.metadata.labels"), labels.cloned().unwrap_or_default(), MISMATCH);
    }
    if let Some(selector) = given(&spec, &["selector"]).filter(|selector| selector_is_empty(selector)) {
        errors.invalid(&path.child("selector"), selector.clone(), "empty selector is invalid for daemonset");
    }
    template(&spec, "DaemonSet", &path, errors);
    numbers(&spec, &["minReadySeconds", "revisionHistoryLimit"], &path, errors);
    daemon_strategy(&spec, &path.child("updateStrategy"), errors);
}

fn daemon_strategy(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let place = path.child("rollingUpdate");
    match (spec.str_at(&["updateStrategy", "type"]), given(spec, &["updateStrategy", "rollingUpdate"])) {
        ("OnDelete", _) => {}
        ("RollingUpdate", None) => errors.required(&place, ""),
        ("RollingUpdate", Some(rolling)) => {
            for member in ["maxUnavailable", "maxSurge"] {
                int_or_percent(rolling.get(member).unwrap_or(&Value::Null), &place.child(member), errors);
                at_most_all(rolling, member, &place, errors);
            }
            match (is_zero(rolling.get("maxUnavailable")), is_zero(rolling.get("maxSurge"))) {
                (false, false) => {
                    let shown = rolling.get("maxSurge").cloned().unwrap_or_default();
                    errors.invalid(&place.child("maxSurge"), shown, "may not be set when maxUnavailable is non-zero");
                }
                (true, true) => errors.required(&place.child("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
                _ => {}
            }
        }
        _ => {
            let shown = spec.get("updateStrategy").cloned().unwrap_or_default();
            errors.not_supported(path, shown, &["RollingUpdate", "OnDelete"]);
        }
    }
}

pub(super) fn stateful_set(object: &Value, errors: &mut FieldErrors) {
    stateful_spec(object, true, errors);
}

fn stateful_spec(object: &Value, fresh: bool, errors: &mut FieldErrors) {
    let (mut spec, path) = (spec_of(object), Path::new("spec"));
    let policy = spec.str_at(&["podManagementPolicy"]);
    match policy {
        "" => errors.required(&path.child("podManagementPolicy"), ""),
        "OrderedReady" | "Parallel" => {}
        _ => errors.invalid(&path.child("podManagementPolicy"), policy, "must be 'OrderedReady' or 'Parallel'"),
    }
    stateful_strategy(&spec, &path.child("updateStrategy"), errors);
    if let Some(policy) = given(&spec, &["persistentVolumeClaimRetentionPolicy"]) {
        let place = path.child("persistentVolumeClaimRetentionPolicy");
        for member in ["whenDeleted", "whenScaled"] {
            one_of(policy, member, &["Retain", "Delete"], &place, errors);
        }
    }
    if fresh {
        let list = path.child("volumeClaimTemplates");
        for (at, claim) in spec.list_at(&["volumeClaimTemplates"]).iter().enumerate() {
            let place = list.index(at);
            volumes::claim_spec(claim.get("spec"), &place.child("spec"), errors);
        }
        maybe_name(&spec, "serviceName", names::dns_label, &path, errors);
    }
    numbers(&spec, &["replicas", "minReadySeconds"], &path, errors);
    check::nonnegative(spec.int_at(&["ordinals", "start"]), &path.child("ordinals.start"), errors);
    selector(&spec, "statefulset", &path, errors);
    add_claims(&mut spec);
    template(&spec, "StatefulSet", &path, errors);
}

/// The claims of a StatefulSet stand for volumes that its template may mount.
fn add_claims(spec: &mut Value) {
    // Two claims of one name make one volume.
    let claims: std::collections::BTreeSet<String> = spec
        .list_at(&["volumeClaimTemplates"])
        .iter()
        .map(|claim| claim.str_at(&["metadata", "name"]).to_owned())
        .collect();
    if claims.is_empty() {
        return;
    }
    let volumes = spec.entry_at(&["template", "spec", "volumes"]).make_list();
    volumes.retain(|volume| !claims.iter().any(|claim| volume.str_at(&["name"]) == claim));
    for claim in claims {
        let mut volume = Value::object();
        volume.set_at(&["name"], claim.as_str());
        volume.set_at(&["persistentVolumeClaim", "claimName"], claim.as_str());
        volumes.push(volume);
    }
}

fn stateful_strategy(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let rolling = given(spec, &["updateStrategy", "rollingUpdate"]);
    let place = path.child("rollingUpdate");
    match (spec.str_at(&["updateStrategy", "type"]), rolling) {
        ("", _) => errors.required(path, ""),
        ("OnDelete", Some(rolling)) => {
            errors.invalid(&place, rolling.clone(), "only allowed for updateStrategy 'RollingUpdate'");
        }
        ("RollingUpdate", Some(rolling)) => {
            nonnegative_at(rolling, "partition", &place, errors);
            if let Some(unavailable) = given(rolling, &["maxUnavailable"]) {
                int_or_percent(unavailable, &place.child("maxUnavailable"), errors);
                if is_zero(Some(unavailable)) {
                    errors.invalid(&place.child("maxUnavailable"), unavailable.clone(), "cannot be 0");
                }
                at_most_all(rolling, "maxUnavailable", &place, errors);
            }
        }
        ("OnDelete" | "RollingUpdate", None) => {}
        _ => {
            let shown = spec.get("updateStrategy").cloned().unwrap_or_default();
            errors.invalid(path, shown, "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
}

pub(super) fn stateful_set_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    const MUTABLE: [&str; 7] = [
        "replicas",
        "template",
        "updateStrategy",
        "minReadySeconds",
        "ordinals",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
    ];
    stateful_spec(new, false, errors);
    let fixed = |object: &Value| {
        let mut spec = spec_of(object);
        spec.make_object().retain(|name, _| !MUTABLE.contains(&name.as_str()));
        for claim in spec.at_mut(&["volumeClaimTemplates"]).and_then(Value::as_list_mut).into_iter().flatten() {
            claim.remove_at(&["status"]);
        }
        spec
    };
    if !semantic_equal(Some(&fixed(new)), Some(&fixed(old))) {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                      'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                      'minReadySeconds' are forbidden";
        errors.forbidden(&Path::new("spec"), detail);
    }
}

/// Kinds whose selector stays.
pub(super) fn selector_stays(new: &Value, old: &Value, errors: &mut FieldErrors) {
    immutable(new, old, &["spec", "selector"], errors);
}

/// Counts of pods in a status: none negative, none more than there are.
pub(super) fn replica_status(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("status");
    let status = object.get("status").cloned().unwrap_or_else(Value::object);
    numbers(
        &status,
        &[
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "fullyLabeledReplicas",
            "readyReplicas",
            "availableReplicas",
            "currentReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
            "collisionCount",
        ],
        &path,
        errors,
    );
    let count = |member: &str| status.int_at(&[member]).unwrap_or(0);
    for member in ["updatedReplicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "currentReplicas"] {
        if count(member) > count("replicas") {
            errors.invalid(&path.child(member), count(member), "cannot be greater than status.replicas");
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        let detail = "cannot be greater than readyReplicas";
        errors.invalid(&path.child("availableReplicas"), count("availableReplicas"), detail);
    }
}

pub(super) fn daemon_status(object: &Value, errors: &mut FieldErrors) {
    let status = object.get("status").cloned().unwrap_or_else(Value::object);
    let counts = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    numbers(&status, &counts, &Path::new("status"), errors);
}

pub(super) fn revision(object: &Value, errors: &mut FieldErrors) {
    nonnegative_at(object, "revision", &Path::root(), errors);
}

pub(super) fn revision_create(object: &Value, errors: &mut FieldErrors) {
    revision(object, errors);
    match object.get("data") {
        None | Some(Value::Null) => errors.required(&Path::new("data"), "data is mandatory"),
        Some(Value::Object(_)) => {}
        Some(_) => errors.required(&Path::new("data"), "data must be a valid JSON object"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::check::tests::{creates, status_updates, updates};
    use crate::strategy::KindRef;
    use serde_json::{Value as Json, json};

    pub(in super::super) fn template() -> Json {
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {
            "containers": [{"name": "c", "image": "i", "terminationMessagePolicy": "File", "imagePullPolicy": "Always"}],
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
        }})
    }

    #[expect(clippy::needless_pass_by_value, reason = "callers build the patch in place")]
    fn base(extra: Json) -> Json {
        let mut base = json!({"metadata": {"name": "d", "namespace": "n"}, "spec": {
            "replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template()}});
        for (key, value) in extra.as_object().unwrap() {
            base["spec"][key] = value.clone();
        }
        base
    }

    #[test]
    fn deployments() {
        let kind = KindRef::builtin("apps", "Deployment", true);
        let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": 1}});
        let base = base(json!({"strategy": rolling, "progressDeadlineSeconds": 600}));
        let spec = |spec: Json| json!({"spec": spec});
        creates(
            kind,
            &base,
            &[
                (json!({}), &[]),
                (
                    spec(json!({"replicas": -1})),
                    &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
                ),
                (
                    spec(json!({"selector": null})),
                    &[
                        "spec.selector: Required value",
                        "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
                    ],
                ),
                (
                    spec(json!({"selector": {"matchLabels": {"a": "x"}}})),
                    &[
                        "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template \
                   `labels`",
                    ],
                ),
                (
                    spec(json!({"strategy": {"rollingUpdate": {"maxUnavailable": "0%", "maxSurge": 0}}})),
                    &[
                        "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
                    ],
                ),
                (
                    spec(json!({"strategy": {"type": "Recreate"}})),
                    &[
                        "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
                    ],
                ),
                (
                    spec(json!({"template": {"spec": {"restartPolicy": "Never"}}})),
                    &["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
                ),
                (
                    spec(json!({"progressDeadlineSeconds": 5, "minReadySeconds": 5})),
                    &["spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds"],
                ),
            ],
        );
        updates(
            kind,
            &base,
            &[
                (spec(json!({"replicas": 3})), &[]),
                (
                    spec(
                        json!({"selector": {"matchLabels": {"c": "d"}}, "template": {"metadata": {"labels": {"c": "d"}}}}),
                    ),
                    &["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"c\":\"d\"}}: field is immutable"],
                ),
            ],
        );
        status_updates(
            kind,
            &base,
            &[(
                json!({"status": {"replicas": 1, "readyReplicas": 2}}),
                &["status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"],
            )],
        );
    }

    #[test]
    fn stateful_sets() {
        let kind = KindRef::builtin("apps", "StatefulSet", true);
        let claim = json!({"metadata": {"name": "v"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        let base = base(json!({
            "podManagementPolicy": "OrderedReady", "updateStrategy": {"type": "RollingUpdate"}, "serviceName": "s",
            "volumeClaimTemplates": [claim],
        }));
        let mut mounted = base;
        mounted["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "v", "mountPath": "/v"}]);
        creates(
            kind,
            &mounted,
            &[
                (json!({}), &[]),
                (
                    json!({"spec": {"podManagementPolicy": "Any"}}),
                    &["spec.podManagementPolicy: Invalid value: \"Any\": must be 'OrderedReady' or 'Parallel'"],
                ),
            ],
        );
        updates(
            kind,
            &mounted,
            &[
                (json!({"spec": {"replicas": 2}}), &[]),
                (
                    json!({"spec": {"serviceName": "t"}}),
                    &["spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', \
                   'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                   'minReadySeconds' are forbidden"],
                ),
            ],
        );
    }

    #[test]
    fn daemon_sets_and_revisions() {
        let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}});
        creates(
            KindRef::builtin("apps", "DaemonSet", true),
            &base(json!({"updateStrategy": rolling})),
            &[
                (json!({}), &[]),
                (
                    json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}}}),
                    &[
                        "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
                    ],
                ),
            ],
        );
        let kind = KindRef::builtin("apps", "ControllerRevision", true);
        let base = json!({"metadata": {"name": "r", "namespace": "n"}, "data": {"a": 1}, "revision": 1});
        creates(kind, &base, &[(json!({"data": null}), &["data: Required value: data is mandatory"])]);
        updates(kind, &base, &[(json!({"data": {"a": 2}}), &["data: Invalid value: {\"a\":2}: field is immutable"])]);
    }
}
