//! What an object counts for in a quota, and which quotas count it. Pure.

use super::{
    Lookup,
    resources::{ResourceList, add, pod_resources, resource_list},
};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;
use timonel_api::{Format, Quantity, Value};

const CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// The evaluator of a resource: how its objects count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counted<'a> {
    pub(super) group: &'a str,
    pub(super) resource: &'a str,
}

impl Counted<'_> {
    fn is(&self, resource: &str) -> bool {
        self.group.is_empty() && self.resource == resource
    }

    /// `count/pods`, `count/deployments.apps`.
    fn count_name(&self) -> String {
        if self.group.is_empty() {
            format!("count/{}", self.resource)
        } else {
            format!("count/{}.{}", self.resource, self.group)
        }
    }

    /// Whether a quota's resource of that name counts objects of this kind.
    pub(super) fn counts_for(&self, name: &str) -> bool {
        if name == self.count_name() {
            return true;
        }
        if self.is("pods") {
            return matches!(
                name,
                "pods"
                    | "cpu"
                    | "memory"
                    | "ephemeral-storage"
                    | "requests.cpu"
                    | "requests.memory"
                    | "requests.ephemeral-storage"
                    | "limits.cpu"
                    | "limits.memory"
                    | "limits.ephemeral-storage"
            ) || name.starts_with("hugepages-")
                || name.starts_with("requests.hugepages-")
                || name.strip_prefix("requests.").is_some_and(is_extended);
        }
        if self.is("persistentvolumeclaims") {
            let plain = |name: &str| matches!(name, "persistentvolumeclaims" | "requests.storage");
            return plain(name) || name.split_once(CLASS_SUFFIX).is_some_and(|(_, rest)| plain(rest));
        }
        if self.is("services") {
            return matches!(name, "services" | "services.loadbalancers" | "services.nodeports");
        }
        let legacy =
            ["configmaps", "secrets", "replicationcontrollers", "resourcequotas"].iter().any(|known| self.is(known));
        legacy && name == self.resource
    }

    /// What one object counts for.
    pub(super) fn usage(&self, object: &Value, now: Timestamp) -> ResourceList {
        let mut usage = ResourceList::from([(self.count_name(), whole(1))]);
        if self.is("pods") {
            if is_running(object, now) {
                let (requests, limits) = (pod_resources(object, "requests"), pod_resources(object, "limits"));
                let overhead = resource_list(object.at(&["spec", "overhead"]));
                usage.extend(compute_usage(&with(requests, &overhead), &raised(limits, &overhead)));
            }
        } else if self.is("persistentvolumeclaims") {
            usage.extend(claim_usage(object));
        } else if self.is("services") {
            usage.extend(service_usage(object));
        } else if self.counts_for(self.resource) {
            usage.insert(self.resource.to_owned(), whole(1));
        }
        usage
    }
}

fn whole(count: usize) -> Quantity {
    Quantity::new(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi)
}

fn with(mut list: ResourceList, more: &ResourceList) -> ResourceList {
    add(&mut list, more);
    list
}

/// Overhead counts towards a limit only where there is one.
fn raised(mut limits: ResourceList, overhead: &ResourceList) -> ResourceList {
    for (name, quantity) in overhead {
        if let Some(limit) = limits.get_mut(name).filter(|limit| !limit.is_zero()) {
            *limit = limit.add(quantity);
        }
    }
    limits
}

/// Resources that a device plugin offers: named by a domain that is not Kubernetes' own.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

fn is_running(pod: &Value, now: Timestamp) -> bool {
    if matches!(pod.str_at(&["status", "phase"]), "Failed" | "Succeeded") {
        return false;
    }
    let deleted = pod.str_at(&["metadata", "deletionTimestamp"]).parse::<Timestamp>();
    let grace = pod.int_at(&["metadata", "deletionGracePeriodSeconds"]);
    match (deleted, grace) {
        (Ok(at), Some(seconds)) => at.saturating_add(SignedDuration::from_secs(seconds)).is_ok_and(|end| now <= end),
        _ => true,
    }
}

fn compute_usage(requests: &ResourceList, limits: &ResourceList) -> ResourceList {
    let mut usage = ResourceList::from([("pods".to_owned(), whole(1))]);
    for (name, quantity) in requests {
        let native = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        if native {
            usage.insert(name.clone(), quantity.clone());
        }
        if native || is_extended(name) {
            usage.insert(format!("requests.{name}"), quantity.clone());
        }
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(quantity) = limits.get(name) {
            usage.insert(format!("limits.{name}"), quantity.clone());
        }
    }
    usage
}

fn claim_usage(claim: &Value) -> ResourceList {
    let mut usage = ResourceList::from([("persistentvolumeclaims".to_owned(), whole(1))]);
    if let Some(storage) = resource_list(claim.at(&["spec", "resources", "requests"])).remove("storage") {
        usage.insert("requests.storage".to_owned(), storage);
    }
    let class = match claim.str_at(&["metadata", "annotations", CLASS_ANNOTATION]) {
        "" => claim.str_at(&["spec", "storageClassName"]),
        annotated => annotated,
    };
    if !class.is_empty() {
        let of_class: ResourceList =
            usage.iter().map(|(name, quantity)| (format!("{class}{CLASS_SUFFIX}{name}"), quantity.clone())).collect();
        usage.extend(of_class);
    }
    usage
}

fn service_usage(service: &Value) -> ResourceList {
    let ports = service.list_at(&["spec", "ports"]);
    let stated = ports.iter().filter(|port| port.int_at(&["nodePort"]).unwrap_or(0) != 0).count();
    let (balancers, node_ports) = match service.str_at(&["spec", "type"]) {
        "NodePort" => (0, ports.len()),
        "LoadBalancer" if service.bool_at(&["spec", "allocateLoadBalancerNodePorts"]) == Some(false) => (1, stated),
        "LoadBalancer" => (1, ports.len()),
        _ => (0, 0),
    };
    ResourceList::from([
        ("services".to_owned(), whole(1)),
        ("services.loadbalancers".to_owned(), whole(balancers)),
        ("services.nodeports".to_owned(), whole(node_ports)),
    ])
}

/// Whether a quota with these scopes counts the object; only pods and claims have scopes.
pub(super) fn in_scope(quota: &Value, counted: Counted<'_>, object: &Value) -> bool {
    let plain =
        quota.list_at(&["spec", "scopes"]).iter().filter_map(Value::as_str).map(|name| (name, "Exists", &[][..]));
    let selected = quota.list_at(&["spec", "scopeSelector", "matchExpressions"]).iter().map(|expression| {
        (expression.str_at(&["scopeName"]), expression.str_at(&["operator"]), expression.list_at(&["values"]))
    });
    plain.chain(selected).all(|(name, operator, values)| {
        if name == "VolumeAttributesClass" {
            return counted.is("persistentvolumeclaims") && matches_class(object, operator, values);
        }
        counted.is("pods") && matches_scope(object, name, operator, values)
    })
}

/// Whether a claim's classes of volume attributes, wished for or in use, fit.
fn matches_class(claim: &Value, operator: &str, values: &[Value]) -> bool {
    let places: [&[&str]; 3] = [
        &["spec", "volumeAttributesClassName"],
        &["status", "currentVolumeAttributesClassName"],
        &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"],
    ];
    let classes: Vec<&str> = places.iter().map(|path| claim.str_at(path)).filter(|class| !class.is_empty()).collect();
    let listed = |class: &&str| values.iter().any(|value| value.as_str() == Some(class));
    match operator {
        "Exists" => !classes.is_empty(),
        "DoesNotExist" => classes.is_empty(),
        "In" => classes.iter().any(listed),
        "NotIn" => classes.is_empty() || !classes.iter().all(listed),
        _ => false,
    }
}

fn matches_scope(pod: &Value, scope: &str, operator: &str, values: &[Value]) -> bool {
    match scope {
        "Terminating" => is_terminating(pod),
        "NotTerminating" => !is_terminating(pod),
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        "PriorityClass" => {
            let class = pod.str_at(&["spec", "priorityClassName"]);
            let listed = values.iter().any(|value| value.as_str() == Some(class));
            match operator {
                "Exists" => !class.is_empty(),
                "DoesNotExist" => class.is_empty(),
                "In" => !class.is_empty() && listed,
                "NotIn" => class.is_empty() || !listed,
                _ => false,
            }
        }
        _ => false,
    }
}

/// Whether a pod has an end of its own.
pub(super) fn is_terminating(pod: &Value) -> bool {
    pod.int_at(&["spec", "activeDeadlineSeconds"]).is_some_and(|seconds| seconds >= 0)
}

fn is_best_effort(pod: &Value) -> bool {
    let asks = |of: &Value| {
        ["requests", "limits"].iter().any(|which| {
            let list = resource_list(of.at(&["resources", which]));
            ["cpu", "memory"].iter().any(|name| list.get(*name).is_some_and(|quantity| quantity.signum() > 0))
        })
    };
    let containers = ["containers", "initContainers"].iter().flat_map(|list| pod.list_at(&["spec", list]));
    !pod.get("spec").is_some_and(asks) && !containers.into_iter().any(asks)
}

fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| {
        !term.list_at(&["namespaces"]).is_empty() || term.get("namespaceSelector").is_some_and(|all| !all.is_null())
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let list = |when: &str| pod.list_at(&["spec", "affinity", kind, when]);
        list("requiredDuringSchedulingIgnoredDuringExecution").iter().any(crosses)
            || list("preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .filter_map(|weighted| weighted.get("podAffinityTerm"))
                .any(crosses)
    })
}

/// The resource whose objects a quota's resource of that name counts.
fn counted_by(name: &str) -> Counted<'_> {
    let core = |resource| Counted { group: "", resource };
    if let Some(counted) = name.strip_prefix("count/") {
        let (resource, group) = counted.split_once('.').unwrap_or((counted, ""));
        return Counted { group, resource };
    }
    let known =
        ["services", "persistentvolumeclaims", "configmaps", "secrets", "replicationcontrollers", "resourcequotas"];
    let found = known.into_iter().map(core).find(|counted| counted.counts_for(name));
    found.unwrap_or(core("pods"))
}

/// The status that a quota should have: `hard` as in its spec, `used` summed over the namespace's objects. What
/// the quota controller writes.
#[must_use]
pub fn quota_status(quota: &Value, lookup: &dyn Lookup, now: Timestamp) -> Value {
    let namespace = quota.str_at(&["metadata", "namespace"]);
    let hard = quota.at(&["spec", "hard"]).and_then(Value::as_object);
    let names: BTreeSet<&str> = hard.into_iter().flat_map(|hard| hard.iter()).map(|(name, _)| name.as_str()).collect();
    let mut used: ResourceList = names.iter().map(|name| ((*name).to_owned(), whole(0))).collect();
    let mut kinds: Vec<Counted<'_>> = Vec::new();
    for counted in names.iter().map(|name| counted_by(name)) {
        if !kinds.contains(&counted) {
            kinds.push(counted);
        }
    }
    for counted in kinds {
        for object in lookup.list(counted.group, counted.resource, Some(namespace)) {
            if in_scope(quota, counted, &object) {
                let mut usage = counted.usage(&object, now);
                usage.retain(|name, _| names.contains(name.as_str()) && counted_by(name) == counted);
                add(&mut used, &usage);
            }
        }
    }
    let mut status = Value::object();
    status.set_at(&["hard"], quota.at(&["spec", "hard"]).cloned().unwrap_or_else(Value::object));
    status.set_at(&["used"], to_value(&used));
    status
}

pub(super) fn to_value(list: &ResourceList) -> Value {
    list.iter().map(|(name, quantity)| (name.as_str().into(), quantity.into())).collect::<timonel_api::Object>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Objects;
    use serde_json::{Value as Json, json};

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn objects_count() {
        for (resource, object, expected) in [
            (
                "pods",
                json!({"spec": {"overhead": {"cpu": "100m"}, "containers": [{"resources": {"requests": {"cpu": "1", "example.com/gpu": "2"}, "limits": {"memory": "1Gi"}}}]}}),
                json!({"count/pods": "1", "pods": "1", "cpu": "1100m", "requests.cpu": "1100m", "requests.example.com/gpu": "2", "limits.memory": "1Gi"}),
            ),
            ("pods", json!({"status": {"phase": "Succeeded"}}), json!({"count/pods": "1"})),
            (
                "persistentvolumeclaims",
                json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}}),
                json!({"count/persistentvolumeclaims": "1", "persistentvolumeclaims": "1", "requests.storage": "1Gi", "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1", "gold.storageclass.storage.k8s.io/requests.storage": "1Gi"}),
            ),
            (
                "services",
                json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}}),
                json!({"count/services": "1", "services": "1", "services.loadbalancers": "1", "services.nodeports": "2"}),
            ),
            ("secrets", json!({}), json!({"count/secrets": "1", "secrets": "1"})),
            ("endpoints", json!({}), json!({"count/endpoints": "1"})),
        ] {
            let usage = Counted { group: "", resource }.usage(&Value::from(object), now());
            assert_eq!(Json::from(&to_value(&usage)), expected);
        }
    }

    #[test]
    fn scopes_choose_pods() {
        let quota = |spec: Json| Value::from(json!({"spec": spec}));
        let scope = |name: &str| quota(json!({"scopes": [name]}));
        let class = |operator: &str| {
            quota(
                json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": ["high"]}]}}),
            )
        };
        let best_effort = json!({"spec": {"containers": [{}]}});
        let terminating =
            json!({"spec": {"activeDeadlineSeconds": 5, "containers": [{"resources": {"limits": {"cpu": "1"}}}]}});
        let high = json!({"spec": {"priorityClassName": "high"}});
        for (quota, pod, expected) in [
            (scope("BestEffort"), &best_effort, true),
            (scope("NotBestEffort"), &best_effort, false),
            (scope("BestEffort"), &terminating, false),
            (scope("Terminating"), &terminating, true),
            (scope("NotTerminating"), &terminating, false),
            (class("In"), &high, true),
            (class("In"), &best_effort, false),
            (class("NotIn"), &high, false),
            (class("NotIn"), &best_effort, true),
            (class("Exists"), &high, true),
            (class("DoesNotExist"), &high, false),
        ] {
            let pods = Counted { group: "", resource: "pods" };
            assert_eq!(in_scope(&quota, pods, &Value::from(pod.clone())), expected, "{quota:?} {pod}");
            assert!(!in_scope(&quota, Counted { group: "", resource: "secrets" }, &Value::object()));
        }
    }

    #[test]
    fn a_scope_chooses_claims_by_their_classes() {
        let class = |operator: &str| {
            Value::from(json!({"spec": {"scopeSelector": {"matchExpressions":
                [{"scopeName": "VolumeAttributesClass", "operator": operator, "values": ["gold"]}]}}}))
        };
        let wished = json!({"spec": {"volumeAttributesClassName": "gold"}});
        let moving = json!({"spec": {"volumeAttributesClassName": "tin"}, "status": {"currentVolumeAttributesClassName": "gold"}});
        for (operator, claim, expected) in [
            ("In", &wished, true),
            ("In", &moving, true),
            ("In", &json!({}), false),
            ("NotIn", &wished, false),
            ("NotIn", &moving, true),
            ("NotIn", &json!({}), true),
            ("Exists", &wished, true),
            ("DoesNotExist", &json!({}), true),
        ] {
            let claims = Counted { group: "", resource: "persistentvolumeclaims" };
            assert_eq!(in_scope(&class(operator), claims, &Value::from(claim.clone())), expected, "{operator} {claim}");
            assert!(!in_scope(&class(operator), Counted { group: "", resource: "pods" }, &Value::from(claim.clone())));
        }
    }

    #[test]
    fn a_status_sums_the_namespace() {
        let pod = |name: &str, namespace: &str| json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"containers": [{"resources": {"requests": {"cpu": "500m"}}}]}});
        let objects = Objects::default()
            .with("", "pods", pod("a", "ns"))
            .with("", "pods", pod("b", "ns"))
            .with("", "pods", pod("c", "other"))
            .with("apps", "deployments", json!({"metadata": {"name": "d", "namespace": "ns"}}));
        let quota = json!({"metadata": {"name": "q", "namespace": "ns"}, "spec": {"hard": {"pods": "5", "requests.cpu": "2", "count/deployments.apps": "3", "secrets": "1"}}});
        let status = quota_status(&Value::from(quota.clone()), &objects, now());
        assert_eq!(
            Json::from(&status),
            json!({"hard": quota["spec"]["hard"], "used": {"pods": "2", "requests.cpu": "1", "count/deployments.apps": "1", "secrets": "0"}})
        );
    }
}
