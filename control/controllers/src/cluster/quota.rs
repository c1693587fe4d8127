//! What a namespace uses of its quotas: recounted from the objects themselves.

use crate::{
    common::{
        objects::{after, namespace},
        pods::finished,
        requests::{best_effort, of_pod},
    },
    framework::{Action, Change, Controller, Key, Kind, Object, Plan, View},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus,
        ScopedResourceSelectorRequirement, Service,
    },
    apimachinery::pkg::api::resource::Quantity as Text,
};
use std::collections::BTreeMap;
use timonel_api::Quantity;

/// Seconds between recounts of kinds whose changes no cache reports.
const RECOUNT: i64 = 5;

/// Keeps quotas' status.
#[derive(Debug)]
pub(crate) struct Quotas;

impl Controller for Quotas {
    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::ResourceQuota, Kind::Pod, Kind::Service, Kind::PersistentVolumeClaim]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("ResourceQuota", "status")]
    }

    fn keys(&self, view: &View, change: &Change, keys: &mut Vec<Key>) {
        match change.object() {
            Object::ResourceQuota(quota) => keys.push(Key::of(&quota.metadata)),
            object => {
                let quotas = view.quotas.in_namespace(namespace(object.meta()));
                keys.extend(quotas.map(|quota| Key::of(&quota.metadata)));
            }
        }
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::none();
        let Some(quota) = view.quotas.get(key) else { return plan };
        let Some(spec) = &quota.spec else { return plan };
        let hard = spec.hard.clone().unwrap_or_default();
        let mut used = BTreeMap::new();
        for resource in hard.keys() {
            let Some((amount, live)) = usage(view, &key.namespace, spec, resource) else { continue };
            if !live {
                plan.look_again(after(now, RECOUNT));
            }
            used.insert(resource.clone(), Text(amount.to_string()));
        }
        let status = ResourceQuotaStatus { hard: Some(hard), used: Some(used) };
        if !same(quota.status.as_ref(), &status) {
            plan.push(Action::update_status(ResourceQuota { status: Some(status), ..(**quota).clone() }));
        }
        plan
    }
}

fn same(old: Option<&ResourceQuotaStatus>, new: &ResourceQuotaStatus) -> bool {
    let numbers = |list: &Option<BTreeMap<String, Text>>| -> BTreeMap<String, Option<Quantity>> {
        list.iter().flatten().map(|(key, text)| (key.clone(), text.0.parse().ok())).collect()
    };
    old.is_some_and(|old| numbers(&old.hard) == numbers(&new.hard) && numbers(&old.used) == numbers(&new.used))
}

/// How much of a resource is used, and whether changes of it are heard of; none when it is not known here.
fn usage(view: &View, namespace: &str, spec: &ResourceQuotaSpec, resource: &str) -> Option<(Quantity, bool)> {
    let count = |number: usize| Quantity::from(i64::try_from(number).unwrap_or(i64::MAX));
    let pods = || view.pods.in_namespace(namespace).filter(|pod| !finished(pod) && in_scope(spec, pod));
    let services =
        |keep: &dyn Fn(&Service) -> usize| view.services.in_namespace(namespace).map(|service| keep(service)).sum();
    let live = match resource {
        "pods" => count(pods().count()),
        "services" => count(view.services.in_namespace(namespace).count()),
        "services.loadbalancers" => count(services(&|service| usize::from(kind(service) == "LoadBalancer"))),
        "services.nodeports" => count(services(&node_ports)),
        "persistentvolumeclaims" | "requests.storage" => storage(view, namespace, spec, None, resource),
        _ => match resource.split_once(".storageclass.storage.k8s.io/") {
            Some((class, resource)) => storage(view, namespace, spec, Some(class), resource),
            None => {
                return counted(view, namespace, resource).map(|number| (count(number), false)).or_else(|| {
                    let compute = pods().filter_map(|pod| of_pod(pod, resource));
                    is_compute(resource).then(|| (compute.fold(Quantity::from(0), |sum, one| sum.add(&one)), true))
                });
            }
        },
    };
    Some((live, true))
}

fn is_compute(resource: &str) -> bool {
    matches!(resource, "cpu" | "memory" | "ephemeral-storage")
        || resource.starts_with("requests.")
        || resource.starts_with("limits.")
        || resource.starts_with("hugepages-")
}

/// Objects of a kind that only the graph knows.
fn counted(view: &View, namespace: &str, resource: &str) -> Option<usize> {
    let known = matches!(resource, "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas");
    let name = resource.strip_prefix("count/").or(known.then_some(resource))?;
    Some(view.graph.count(name, namespace))
}

fn kind(service: &Service) -> &str {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()).unwrap_or_default()
}

fn node_ports(service: &Service) -> usize {
    let Some(spec) = &service.spec else { return 0 };
    let ports = spec.ports.as_deref().unwrap_or_default();
    match kind(service) {
        "NodePort" => ports.len(),
        "LoadBalancer" if spec.allocate_load_balancer_node_ports == Some(false) => {
            ports.iter().filter(|port| port.node_port.unwrap_or(0) != 0).count()
        }
        "LoadBalancer" => ports.len(),
        _ => 0,
    }
}

fn storage(view: &View, namespace: &str, quota: &ResourceQuotaSpec, class: Option<&str>, resource: &str) -> Quantity {
    let claims = view.claims.in_namespace(namespace).filter(|claim| claim_in_scope(quota, claim));
    let claims = claims.filter_map(|claim| claim.spec.as_ref());
    let claims = claims.filter(|spec| class.is_none() || spec.storage_class_name.as_deref() == class);
    let amounts = claims.map(|spec| {
        if resource == "persistentvolumeclaims" {
            return Quantity::from(1);
        }
        let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let text = requests.and_then(|requests| requests.get("storage"));
        text.and_then(|text| text.0.parse().ok()).unwrap_or_else(|| Quantity::from(0))
    });
    amounts.fold(Quantity::from(0), |sum, one| sum.add(&one))
}

/// Whether a quota's scopes choose a claim: by its classes of volume attributes, wished for or in use.
fn claim_in_scope(quota: &ResourceQuotaSpec, claim: &PersistentVolumeClaim) -> bool {
    let status = claim.status.as_ref();
    let classes: Vec<&String> = [
        claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_ref()),
        status.and_then(|status| status.current_volume_attributes_class_name.as_ref()),
        status.and_then(|status| status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.as_ref()),
    ]
    .into_iter()
    .flatten()
    .filter(|class| !class.is_empty())
    .collect();
    let fits = |wanted: &ScopedResourceSelectorRequirement| {
        let listed = |class: &&String| wanted.values.iter().flatten().any(|value| value == *class);
        wanted.scope_name == "VolumeAttributesClass"
            && match wanted.operator.as_str() {
                "In" => classes.iter().any(listed),
                "NotIn" => classes.is_empty() || !classes.iter().all(listed),
                "DoesNotExist" => classes.is_empty(),
                _ => !classes.is_empty(),
            }
    };
    let plain = quota.scopes.iter().flatten().all(|scope| scope == "VolumeAttributesClass" && !classes.is_empty());
    let selected = quota.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    plain && selected.into_iter().all(fits)
}

fn in_scope(spec: &ResourceQuotaSpec, pod: &Pod) -> bool {
    let plain = spec.scopes.iter().flatten().all(|scope| scope_fits(scope, pod, None));
    let selected = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    plain && selected.into_iter().all(|wanted| scope_fits(&wanted.scope_name, pod, Some(wanted)))
}

fn scope_fits(scope: &str, pod: &Pod, wanted: Option<&ScopedResourceSelectorRequirement>) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ends = spec.active_deadline_seconds.is_some();
    match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => best_effort(pod),
        "NotBestEffort" => !best_effort(pod),
        "PriorityClass" => {
            let class = spec.priority_class_name.clone().unwrap_or_default();
            let values = wanted.and_then(|wanted| wanted.values.as_deref()).unwrap_or_default();
            match wanted.map(|wanted| wanted.operator.as_str()) {
                Some("In") => values.contains(&class),
                Some("NotIn") => !values.contains(&class),
                Some("DoesNotExist") => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn crosses_namespaces(pod: &Pod) -> bool {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let text = serde_json::to_string(&affinity).unwrap_or_default();
    text.contains("\"namespaces\":[") || text.contains("\"namespaceSelector\":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, outline};
    use serde_json::{Value, json};

    fn check(spec: Value, expected: Value) {
        let mut view = View::default();
        view.quotas.insert(object(json!({"metadata": {"name": "q", "namespace": "d"}, "spec": spec})));
        let pod = |name: &str, cpu: &str, deadline: Value, phase: &str| {
            json!({"metadata": {"name": name, "namespace": "d"}, "status": {"phase": phase}, "spec": {"activeDeadlineSeconds": deadline,
                "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": "1"}}}]}})
        };
        view.pods.insert(object(pod("a", "500m", Value::Null, "Running")));
        view.pods.insert(object(pod("b", "250m", json!(10), "Pending")));
        view.pods.insert(object(pod("c", "4", Value::Null, "Succeeded")));
        view.services.insert(object(
            json!({"metadata": {"name": "s", "namespace": "d"}, "spec": {"type": "NodePort", "ports": [{"port": 1}]}}),
        ));
        view.claims
            .insert(object(json!({"metadata": {"name": "v", "namespace": "d"}, "spec": {"storageClassName": "gold",
            "resources": {"requests": {"storage": "1Gi"}}}})));
        let made = outline(&Quotas.plan(&view, &Key::new("d", "q"), at(0)));
        assert_eq!(made[0].body["status"]["used"], expected);
    }

    #[test]
    fn what_is_used() {
        check(
            json!({"hard": {"pods": "5", "requests.cpu": "2", "limits.cpu": "3"}}),
            json!({"pods": "2", "requests.cpu": "750m", "limits.cpu": "2"}),
        );
        check(json!({"hard": {"pods": "5"}, "scopes": ["Terminating"]}), json!({"pods": "1"}));
        check(json!({"hard": {"pods": "5"}, "scopes": ["BestEffort"]}), json!({"pods": "0"}));
        check(
            json!({"hard": {"services": "1", "services.nodeports": "1", "services.loadbalancers": "1", "count/secrets": "3"}}),
            json!({"services": "1", "services.nodeports": "1", "services.loadbalancers": "0", "count/secrets": "0"}),
        );
        check(
            json!({"hard": {"requests.storage": "5Gi", "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "2"}}),
            json!({"requests.storage": "1Gi", "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1"}),
        );
        for (operator, used) in [("In", "0"), ("DoesNotExist", "1")] {
            let scope = json!({"scopeName": "VolumeAttributesClass", "operator": operator, "values": ["gold"]});
            check(
                json!({"hard": {"persistentvolumeclaims": "5"}, "scopeSelector": {"matchExpressions": [scope]}}),
                json!({"persistentvolumeclaims": used}),
            );
        }
    }
}
