//! Sums of compute resources over a pod. Pure.

use std::collections::BTreeMap;
use timonel_api::{Quantity, Value};

/// Quantities by resource name.
pub(crate) type ResourceList = BTreeMap<String, Quantity>;

/// Reads a map of quantities; what does not parse (validation refuses it) is left out.
pub(crate) fn resource_list(value: Option<&Value>) -> ResourceList {
    let members = value.and_then(Value::as_object).into_iter().flat_map(|object| object.iter());
    members.filter_map(|(name, value)| Some((name.to_string(), Quantity::from_value(value).ok()?))).collect()
}

pub(crate) fn add(to: &mut ResourceList, more: &ResourceList) {
    for (name, quantity) in more {
        let sum = to.get(name).map_or_else(|| quantity.clone(), |have| have.add(quantity));
        to.insert(name.clone(), sum);
    }
}

fn raise(to: &mut ResourceList, other: &ResourceList) {
    for (name, quantity) in other {
        if to.get(name).is_none_or(|have| quantity > have) {
            to.insert(name.clone(), quantity.clone());
        }
    }
}

/// What a pod asks for (`requests`) or may use (`limits`): the containers together, or the greediest moment of
/// initialization if that is more; resources stated for the whole pod win. Without overhead.
pub(crate) fn pod_resources(pod: &Value, which: &str) -> ResourceList {
    let of = |container: &Value| resource_list(container.at(&["resources", which]));
    let mut total = ResourceList::new();
    for container in pod.list_at(&["spec", "containers"]) {
        add(&mut total, &of(container));
    }
    let (mut sidecars, mut initial) = (ResourceList::new(), ResourceList::new());
    for container in pod.list_at(&["spec", "initContainers"]) {
        let own = of(container);
        if container.str_at(&["restartPolicy"]) == "Always" {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut initial, &sidecars);
        } else {
            let mut moment = own;
            add(&mut moment, &sidecars);
            raise(&mut initial, &moment);
        }
    }
    raise(&mut total, &initial);
    for (name, quantity) in resource_list(pod.at(&["spec", "resources", which])) {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            total.insert(name, quantity);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_is_as_large_as_its_greediest_moment() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let sidecar = |cpu: &str| json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        for (spec, cpu) in [
            (json!({"containers": [container("1"), container("500m")]}), 1500),
            (json!({"containers": [container("1")], "initContainers": [container("3"), container("2")]}), 3000),
            (json!({"containers": [container("1")], "initContainers": [sidecar("1"), container("2")]}), 3000),
            (json!({"containers": [container("1")], "initContainers": [container("2"), sidecar("2")]}), 3000),
            (json!({"containers": [container("1")], "resources": {"requests": {"cpu": "4"}}}), 4000),
        ] {
            let pod = Value::from(json!({"spec": spec}));
            assert_eq!(pod_resources(&pod, "requests")["cpu"].milli_value(), cpu, "{spec}");
        }
    }
}
