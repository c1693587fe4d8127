//! What the server adds to pods: quality of service, gates, label keys of spread and affinity.

use std::collections::BTreeMap;

use super::update::{keep_all_but, keep_metadata};
use crate::{Quantity, Value};

pub(super) fn prepare_create(pod: &mut Value) {
    let qos = pod_qos(pod);
    pod.set_at(&["status", "phase"], "Pending");
    pod.set_at(&["status", "qosClass"], qos);
    if !pod.list_at(&["spec", "schedulingGates"]).is_empty() {
        let mut condition = Value::object();
        condition.set_at(&["type"], "PodScheduled");
        condition.set_at(&["status"], "False");
        condition.set_at(&["reason"], "SchedulingGated");
        condition.set_at(&["message"], "Scheduling is blocked due to non-empty scheduling gates");
        pod.set_at(&["status", "conditions"], vec![condition]);
    }
    merge_label_keys(pod);
}

/// `Guaranteed`, `Burstable` or `BestEffort`, by requests and limits of CPU and memory.
#[must_use]
pub fn pod_qos(pod: &Value) -> &'static str {
    const RESOURCES: [&str; 2] = ["cpu", "memory"];
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    let mut guaranteed = true;
    let whole = pod.at(&["spec", "resources"]).filter(|resources| !resources.is_null());
    let all = [pod.list_at(&["spec", "containers"]), pod.list_at(&["spec", "initContainers"])];
    let parts: Vec<Option<&Value>> = match whole {
        Some(resources) => vec![Some(resources)],
        None => all.into_iter().flatten().map(|container| container.get("resources")).collect(),
    };
    for part in parts {
        for (kind, sums) in [("requests", &mut requests), ("limits", &mut limits)] {
            let mut found = 0;
            for name in RESOURCES {
                let amount = part.and_then(|part| part.at(&[kind, name]));
                let Some(amount) = amount.and_then(|value| Quantity::from_value(value).ok()) else { continue };
                if amount.signum() > 0 {
                    found += 1;
                    let sum: &mut Quantity = sums.entry(name).or_default();
                    *sum = sum.add(&amount);
                }
            }
            let judged = whole.is_none() || part.is_some_and(|part| part.at(&["limits"]).is_some());
            guaranteed &= kind != "limits" || found == RESOURCES.len() || !judged;
        }
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    if guaranteed && requests == limits { "Guaranteed" } else { "Burstable" }
}

/// Turns `matchLabelKeys` and `mismatchLabelKeys` into expressions of the selector beside them.
fn merge_label_keys(pod: &mut Value) {
    let labels = pod.at(&["metadata", "labels"]).cloned().unwrap_or_default();
    if let Some(spreads) = pod.at_mut(&["spec", "topologySpreadConstraints"]).and_then(Value::as_list_mut) {
        for spread in spreads {
            merge_into(spread, &labels);
        }
    }
    for side in ["podAffinity", "podAntiAffinity"] {
        let terms = |pod: &mut Value, name: &str, inner: Option<&str>| {
            let list = pod.at_mut(&["spec", "affinity", side, name]).and_then(Value::as_list_mut);
            for term in list.into_iter().flatten() {
                let term = match inner {
                    Some(inner) => term.at_mut(&[inner]),
                    None => Some(term),
                };
                if let Some(term) = term {
                    merge_into(term, &labels);
                }
            }
        };
        terms(pod, "requiredDuringSchedulingIgnoredDuringExecution", None);
        terms(pod, "preferredDuringSchedulingIgnoredDuringExecution", Some("podAffinityTerm"));
    }
}

fn merge_into(term: &mut Value, labels: &Value) {
    if term.at(&["labelSelector"]).is_none_or(Value::is_null) {
        return;
    }
    for (keys, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        let keys: Vec<String> = term.list_at(&[keys]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        for key in keys {
            let Some(value) = labels.get(&key) else { continue };
            let mut expression = Value::object();
            expression.set_at(&["key"], key);
            expression.set_at(&["operator"], operator);
            expression.set_at(&["values"], vec![value.clone()]);
            term.entry_at(&["labelSelector", "matchExpressions"]).make_list().push(expression);
        }
    }
}

/// Keeps everything but the ephemeral containers.
pub fn prepare_ephemeral_containers(new: &mut Value, old: &Value) {
    let containers = new.remove_at(&["spec", "ephemeralContainers"]);
    keep_all_but(new, old, &[]);
    keep_metadata(new, old);
    match containers {
        Some(containers) => new.set_at(&["spec", "ephemeralContainers"], containers),
        None => {
            new.remove_at(&["spec", "ephemeralContainers"]);
        }
    }
    count_change(new, old);
}

/// Keeps everything but resources and resize policies of containers; other containers than before stay for the
/// validation to refuse.
pub fn prepare_resize(new: &mut Value, old: &Value) {
    const LISTS: [[&str; 2]; 2] = [["spec", "containers"], ["spec", "initContainers"]];
    let names = |pod: &Value, path: &[&str]| -> Vec<String> {
        pod.list_at(path).iter().map(|container| container.str_at(&["name"]).to_owned()).collect()
    };
    if LISTS.iter().any(|path| names(new, path) != names(old, path)) {
        return;
    }
    let wished = LISTS.map(|path| new.list_at(&path).to_vec());
    let whole = new.at(&["spec", "resources"]).cloned();
    keep_all_but(new, old, &[]);
    keep_metadata(new, old);
    if let Some(whole) = whole {
        new.set_at(&["spec", "resources"], whole);
    }
    for (path, wished) in LISTS.iter().zip(wished) {
        let Some(containers) = new.at_mut(path).and_then(Value::as_list_mut) else { continue };
        for (container, wished) in containers.iter_mut().zip(wished) {
            for name in ["resources", "resizePolicy"] {
                match wished.get(name) {
                    Some(value) => container.set_at(&[name], value.clone()),
                    None => {
                        container.remove_at(&[name]);
                    }
                }
            }
        }
    }
    count_change(new, old);
}

fn count_change(new: &mut Value, old: &Value) {
    if !super::semantic_equal(new.get("spec"), old.get("spec")) {
        let generation = old.int_at(&["metadata", "generation"]).unwrap_or(0);
        new.set_at(&["metadata", "generation"], generation + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quality_of_service_follows_resources() {
        let full = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1000m", "memory": "1024Mi"}});
        let request = json!({"requests": {"cpu": "1"}});
        for (containers, whole, qos) in [
            (vec![json!({})], json!(null), "BestEffort"),
            (vec![full.clone(), full.clone()], json!(null), "Guaranteed"),
            (vec![full.clone(), json!({})], json!(null), "Burstable"),
            (vec![request], json!(null), "Burstable"),
            (vec![json!({"requests": {"nvidia.com/gpu": "1"}})], json!(null), "BestEffort"),
            (vec![json!({})], full, "Guaranteed"),
        ] {
            let containers: Vec<_> = containers.into_iter().map(|resources| json!({"resources": resources})).collect();
            let pod = json!({"spec": {"containers": containers, "resources": whole}});
            assert_eq!(pod_qos(&pod.clone().into()), qos, "{pod}");
        }
    }

    #[test]
    fn a_new_pod_is_pending() {
        let mut pod = Value::from(json!({
            "metadata": {"labels": {"hash": "1"}},
            "spec": {
                "schedulingGates": [{"name": "g"}],
                "topologySpreadConstraints": [{"labelSelector": {}, "matchLabelKeys": ["hash", "none"]}],
            },
        }));
        prepare_create(&mut pod);
        let pod = serde_json::Value::from(&pod);
        assert_eq!((&pod["status"]["phase"], &pod["status"]["qosClass"]), (&json!("Pending"), &json!("BestEffort")));
        assert_eq!(pod["status"]["conditions"][0]["reason"], "SchedulingGated");
        assert_eq!(
            pod["spec"]["topologySpreadConstraints"][0]["labelSelector"],
            json!({"matchExpressions": [{"key": "hash", "operator": "In", "values": ["1"]}]})
        );
    }

    #[test]
    fn subresources_change_their_part_only() {
        let old = Value::from(json!({
            "metadata": {"generation": 1, "labels": {"a": "b"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]},
        }));
        let mut new = Value::from(json!({
            "metadata": {}, "spec": {"nodeName": "x", "ephemeralContainers": [{"name": "e"}]},
        }));
        prepare_ephemeral_containers(&mut new, &old);
        assert_eq!(
            serde_json::Value::from(&new),
            json!({
                "metadata": {"generation": 2, "labels": {"a": "b"}},
                "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}],
                         "ephemeralContainers": [{"name": "e"}]},
            })
        );
        let mut new = Value::from(json!({
            "spec": {"containers": [{"name": "c", "image": "j", "resources": {"limits": {"cpu": "1"}}}]},
        }));
        prepare_resize(&mut new, &old);
        assert_eq!(
            serde_json::Value::from(&new)["spec"]["containers"],
            json!([{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}}}])
        );
    }
}
