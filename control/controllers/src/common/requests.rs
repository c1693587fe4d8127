//! What a pod asks for: the sum of its containers, or more where an init container needs more.

use k8s_openapi::{
    api::core::v1::{Container, Pod},
    apimachinery::pkg::api::resource::Quantity as Text,
};
use std::collections::BTreeMap;
use timonel_api::Quantity;

fn amount(list: Option<&BTreeMap<String, Text>>, resource: &str) -> Quantity {
    list.and_then(|list| list.get(resource)).and_then(|text| text.0.parse().ok()).unwrap_or_else(|| Quantity::from(0))
}

/// A pod's amount of `cpu`, `requests.memory`, `limits.cpu` and so on; none when it is about neither.
pub(crate) fn of_pod(pod: &Pod, resource: &str) -> Option<Quantity> {
    let (limits, resource) = match resource.split_once('.') {
        Some(("limits", resource)) => (true, resource),
        Some(("requests", resource)) => (false, resource),
        _ => (false, resource),
    };
    let of = |container: &Container| {
        let resources = container.resources.as_ref();
        let list = resources
            .and_then(|resources| if limits { resources.limits.as_ref() } else { resources.requests.as_ref() });
        amount(list, resource)
    };
    let spec = pod.spec.as_ref()?;
    let mut running = spec.containers.iter().fold(Quantity::from(0), |sum, container| sum.add(&of(container)));
    let (mut sidecars, mut peak) = (Quantity::from(0), Quantity::from(0));
    for container in spec.init_containers.iter().flatten() {
        let need = of(container).add(&sidecars);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = need.clone();
        }
        if need > peak {
            peak = need;
        }
    }
    running = running.add(&sidecars);
    let most = if peak > running { peak } else { running };
    Some(most.add(&amount(spec.overhead.as_ref(), resource)))
}

/// Whether no container states any request or limit of CPU or memory.
pub(crate) fn best_effort(pod: &Pod) -> bool {
    ["requests.cpu", "requests.memory", "limits.cpu", "limits.memory"]
        .iter()
        .all(|resource| of_pod(pod, resource).is_none_or(|amount| amount == Quantity::from(0)))
}
