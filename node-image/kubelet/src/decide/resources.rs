//! From requests and limits to cgroup values, quality of service and pod totals.

use super::model::{Kind, containers_of};
use super::quantity::{milli, units};
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// CFS period that quotas refer to, in microseconds.
pub(crate) const CPU_PERIOD: i64 = 100_000;
const LEAST_SHARES: i64 = 2;
const MOST_SHARES: i64 = 262_144;
const LEAST_QUOTA: i64 = 1_000;

/// Quality of service of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

type List = BTreeMap<String, Quantity>;

fn read(list: Option<&List>, name: &str) -> Option<i64> {
    let quantity = list?.get(name)?;
    if name == "cpu" { milli(quantity) } else { units(quantity) }
}

/// A container's request; its limit when it has no request.
pub(crate) fn request(container: &Container, name: &str) -> Option<i64> {
    let resources = container.resources.as_ref()?;
    read(resources.requests.as_ref(), name).or_else(|| read(resources.limits.as_ref(), name))
}

/// A container's limit.
pub(crate) fn limit(container: &Container, name: &str) -> Option<i64> {
    read(container.resources.as_ref()?.limits.as_ref(), name)
}

/// CPU shares for a request in thousandths.
pub(crate) fn shares(milli_cpu: i64) -> i64 {
    if milli_cpu == 0 { LEAST_SHARES } else { (milli_cpu * 1024 / 1000).clamp(LEAST_SHARES, MOST_SHARES) }
}

/// CFS quota for a limit in thousandths; 0 means none.
pub(crate) fn quota(milli_cpu: i64) -> i64 {
    if milli_cpu == 0 { 0 } else { (milli_cpu * CPU_PERIOD / 1000).max(LEAST_QUOTA) }
}

/// CPU weight of cgroup v2 for shares of v1, as runc converts it.
pub(crate) fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(LEAST_SHARES, MOST_SHARES) - 2) * 9999 / 262_142
}

/// CPU shares, CPU quota and memory limit of a container.
pub(crate) fn limits_of(container: &Container) -> (i64, i64, i64) {
    (
        shares(request(container, "cpu").unwrap_or(0)),
        quota(limit(container, "cpu").unwrap_or(0)),
        limit(container, "memory").unwrap_or(0),
    )
}

/// Quality of service by requests and limits of CPU and memory.
pub(crate) fn qos(pod: &Pod) -> Qos {
    let containers = containers_of(pod);
    let (mut any, mut guaranteed) = (false, true);
    let mut look = |resources: Option<&k8s_openapi::api::core::v1::ResourceRequirements>| {
        for name in ["cpu", "memory"] {
            let requested = resources.and_then(|resources| read(resources.requests.as_ref(), name)).filter(|n| *n > 0);
            let limited = resources.and_then(|resources| read(resources.limits.as_ref(), name)).filter(|n| *n > 0);
            any |= requested.is_some() || limited.is_some();
            guaranteed &= limited.is_some() && requested.is_none_or(|requested| Some(requested) == limited);
        }
    };
    if let Some(pod_level) = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()) {
        look(Some(pod_level));
    } else {
        for (_, container) in containers.iter().filter(|(kind, _)| *kind != Kind::Ephemeral) {
            look(container.resources.as_ref());
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// What a pod asks of a resource: the larger of its containers together and of any init container with the
/// sidecars before it, or what the pod itself states, plus overhead.
pub(crate) fn pod_request(pod: &Pod, name: &str) -> i64 {
    let spec = pod.spec.as_ref();
    let overhead = read(spec.and_then(|spec| spec.overhead.as_ref()), name).unwrap_or(0);
    let stated = spec.and_then(|spec| spec.resources.as_ref());
    if let Some(own) = stated.and_then(|own| read(own.requests.as_ref(), name).or(read(own.limits.as_ref(), name))) {
        return own + overhead;
    }
    aggregate(pod, |container| request(container, name).unwrap_or(0)) + overhead
}

/// The pod's limit of a resource, or nothing when some container has none.
pub(crate) fn pod_limit(pod: &Pod, name: &str) -> Option<i64> {
    let spec = pod.spec.as_ref()?;
    if let Some(own) = spec.resources.as_ref().and_then(|own| read(own.limits.as_ref(), name)) {
        return Some(own);
    }
    let counted = containers_of(pod);
    let mut counted = counted.iter().filter(|(kind, _)| *kind != Kind::Ephemeral);
    let all = counted.all(|(_, container)| limit(container, name).is_some_and(|limit| limit > 0));
    let overhead = read(spec.overhead.as_ref(), name).unwrap_or(0);
    all.then(|| aggregate(pod, |container| limit(container, name).unwrap_or(0)) + overhead)
}

fn aggregate(pod: &Pod, amount: impl Fn(&Container) -> i64) -> i64 {
    let (mut apps, mut sidecars, mut peak) = (0, 0, 0);
    for (kind, container) in containers_of(pod) {
        match kind {
            Kind::App => apps += amount(&container),
            Kind::Sidecar => {
                sidecars += amount(&container);
                peak = peak.max(sidecars);
            }
            Kind::Init => peak = peak.max(sidecars + amount(&container)),
            Kind::Ephemeral => {}
        }
    }
    (apps + sidecars).max(peak)
}

/// Names of every resource that the pod's containers request.
pub(crate) fn requested_names(pod: &Pod) -> Vec<String> {
    let mut names: Vec<String> = containers_of(pod)
        .iter()
        .filter_map(|(_, container)| container.resources.as_ref())
        .flat_map(|resources| resources.requests.iter().chain(&resources.limits).flat_map(BTreeMap::keys).cloned())
        .collect();
    names.extend(["cpu".to_owned(), "memory".to_owned()]);
    names.sort();
    names.dedup();
    names
}

/// Preference of the kernel when memory runs out: guaranteed pods last, then by the share of memory asked for.
pub(crate) fn oom_score_adj(pod: &Pod, container: &Container, node_memory: i64) -> i64 {
    let critical = pod.spec.as_ref().and_then(|spec| spec.priority).is_some_and(|priority| priority >= 2_000_000_000);
    match qos(pod) {
        _ if critical => -997,
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let asked = request(container, "memory").unwrap_or(0);
            let share = if node_memory > 0 { 1000 - 1000 * asked / node_memory } else { 999 };
            share.clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(containers: &Value, init: &Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": containers, "initContainers": init}})).expect("pod")
    }

    fn with(requests: &Value, limits: &Value) -> Value {
        json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
    }

    #[test]
    fn quality_of_service() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        for (containers, expected) in [
            (json!([{"name": "a"}]), "BestEffort"),
            (json!([with(&full, &full)]), "Guaranteed"),
            (json!([with(&json!({}), &full)]), "Guaranteed"),
            (json!([with(&full, &json!({}))]), "Burstable"),
            (json!([with(&full, &full), {"name": "b"}]), "Burstable"),
            (json!([with(&json!({"cpu": "500m"}), &full)]), "Burstable"),
            (json!([with(&json!({"cpu": "0"}), &json!({}))]), "BestEffort"),
        ] {
            assert_eq!(qos(&pod(&containers, &json!([]))).name(), expected, "{containers}");
        }
    }

    #[test]
    fn cgroup_values() {
        for (request, expected) in [(0, 2), (1, 2), (100, 102), (1000, 1024), (1_000_000, 262_144)] {
            assert_eq!(shares(request), expected);
        }
        for (limit, expected) in [(0, 0), (5, 1000), (100, 10_000), (2000, 200_000)] {
            assert_eq!(quota(limit), expected);
        }
        for (from, expected) in [(2, 1), (1024, 39), (262_144, 10_000)] {
            assert_eq!(weight(from), expected);
        }
    }

    #[test]
    fn a_pod_asks_for_its_peak() {
        let cpu = |amount: &str, more: Value| {
            let mut one = with(&json!({"cpu": amount}), &json!({"cpu": amount}));
            one.as_object_mut().expect("map").extend(more.as_object().expect("map").clone());
            one
        };
        let side = json!({"restartPolicy": "Always"});
        for (apps, init, expected) in [
            (json!([cpu("100m", json!({})), cpu("200m", json!({}))]), json!([]), 300),
            (json!([cpu("100m", json!({}))]), json!([cpu("1", json!({}))]), 1000),
            (json!([cpu("100m", json!({}))]), json!([cpu("50m", side.clone())]), 150),
            (json!([cpu("100m", json!({}))]), json!([cpu("50m", side), cpu("300m", json!({}))]), 350),
        ] {
            let pod = pod(&apps, &init);
            assert_eq!(pod_request(&pod, "cpu"), expected);
            assert_eq!(pod_limit(&pod, "cpu"), Some(expected));
            assert_eq!(pod_limit(&pod, "memory"), None);
        }
    }
}
