//! ResourceQuota: a write that would use more than a namespace may have is refused; what it uses is charged in
//! the same transaction that stores the object.

use super::{
    AdmissionError, AdmissionPlugin, AdmissionRequest, Lookup, Operation, PairedWrite,
    quota_usage::{Counted, in_scope, is_terminating, to_value},
    resources::{ResourceList, add, resource_list},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use timonel_api::Value;

/// See the module.
#[derive(Debug, Default)]
pub struct ResourceQuota;

impl AdmissionPlugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn validate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        if request.namespace.is_empty() || !is_counted(request) {
            return Ok(());
        }
        let counted = Counted { group: request.group, resource: request.resource };
        let quotas = lookup.list("", "resourcequotas", Some(request.namespace));
        let mut charged = Vec::new();
        for quota in quotas {
            let hard = resource_list(quota.at(&["status", "hard"]));
            let restricted: Vec<&str> =
                hard.keys().map(String::as_str).filter(|name| counted.counts_for(name)).collect();
            if restricted.is_empty() || !in_scope(&quota, counted, request.object) {
                continue;
            }
            check_constraints(request, &quota, &restricted)?;
            check_status(request, &quota, &restricted)?;
            if let Some(used) = charge(request, &quota, counted, &hard)? {
                charged.push((quota, used));
            }
        }
        if !request.dry_run {
            request.paired.extend(charged.into_iter().map(|(quota, used)| paired(&quota, &used)));
        }
        Ok(())
    }
}

/// Whether this kind of write can change what is used.
fn is_counted(request: &AdmissionRequest<'_>) -> bool {
    let (core, operation) = (request.group.is_empty(), request.operation);
    match (core, request.resource, request.subresource, operation) {
        (true, "pods", "", Operation::Update) => {
            request.old.is_some_and(|old| is_terminating(old) != is_terminating(request.object))
        }
        (true, "pods", "resize", Operation::Update)
        | (true, "services" | "persistentvolumeclaims", "", Operation::Update)
        | (_, _, "", Operation::Create) => true,
        _ => false,
    }
}

fn name_of(quota: &Value) -> &str {
    quota.str_at(&["metadata", "name"])
}

/// Every container must state what a quota limits, or nothing could be counted.
fn check_constraints(request: &AdmissionRequest<'_>, quota: &Value, restricted: &[&str]) -> Result<(), AdmissionError> {
    const STATED: [(&str, &str, &str); 6] = [
        ("cpu", "requests", "cpu"),
        ("limits.cpu", "limits", "cpu"),
        ("limits.memory", "limits", "memory"),
        ("memory", "requests", "memory"),
        ("requests.cpu", "requests", "cpu"),
        ("requests.memory", "requests", "memory"),
    ];
    let pod = &*request.object;
    let for_whole_pod =
        ["requests", "limits"].iter().any(|which| !resource_list(pod.at(&["spec", "resources", which])).is_empty());
    if !request.is_any("", "pods") || for_whole_pod {
        return Ok(());
    }
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in ["containers", "initContainers"].iter().flat_map(|list| pod.list_at(&["spec", list])) {
        for (name, which, resource) in STATED {
            if restricted.contains(&name) && container.at(&["resources", which, resource]).is_none() {
                missing.entry(name).or_default().insert(container.str_at(&["name"]));
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let parts: Vec<String> = missing
        .into_iter()
        .map(|(name, containers)| format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(",")))
        .collect();
    Err(request.forbidden(&format!("failed quota: {}: must specify {}", name_of(quota), parts.join("; "))))
}

/// Before the controller has summed a quota up nothing may be charged to it.
fn check_status(request: &AdmissionRequest<'_>, quota: &Value, restricted: &[&str]) -> Result<(), AdmissionError> {
    if restricted.iter().all(|name| quota.at(&["status", "used", name]).is_some()) {
        return Ok(());
    }
    let why = format!("status unknown for quota: {}, resources: {}", name_of(quota), restricted.join(","));
    Err(request.forbidden(&why).transient())
}

/// What is used after the write, if that differs; refuses what is beyond the quota.
fn charge(
    request: &AdmissionRequest<'_>,
    quota: &Arc<Value>,
    counted: Counted<'_>,
    hard: &ResourceList,
) -> Result<Option<ResourceList>, AdmissionError> {
    let mut delta = counted.usage(request.object, request.now);
    if let (Operation::Update, Some(old)) = (request.operation, request.old)
        && in_scope(quota, counted, old)
    {
        let before = counted.usage(old, request.now);
        for (name, quantity) in &mut delta {
            if let Some(had) = before.get(name) {
                *quantity = quantity.sub(had);
            }
        }
    }
    delta.retain(|name, quantity| hard.contains_key(name) && quantity.signum() > 0);
    if delta.is_empty() {
        return Ok(None);
    }
    let used = resource_list(quota.at(&["status", "used"]));
    let mut after = used.clone();
    add(&mut after, &delta);
    let exceeded: BTreeSet<&String> = delta.keys().filter(|name| after.get(*name) > hard.get(*name)).collect();
    if !exceeded.is_empty() {
        let pretty = |list: &ResourceList| {
            let parts = list.iter().filter(|(name, _)| exceeded.contains(name));
            parts.map(|(name, quantity)| format!("{name}={quantity}")).collect::<Vec<_>>().join(",")
        };
        let (name, requested, used, limited) = (name_of(quota), pretty(&delta), pretty(&used), pretty(hard));
        let why = format!("exceeded quota: {name}, requested: {requested}, used: {used}, limited: {limited}");
        return Err(request.forbidden(&why));
    }
    Ok(Some(after))
}

fn paired(quota: &Value, used: &ResourceList) -> PairedWrite {
    let mut object = quota.clone();
    object.set_at(&["status", "used"], to_value(used));
    PairedWrite {
        group: "",
        resource: "resourcequotas",
        namespace: quota.str_at(&["metadata", "namespace"]).to_owned(),
        name: name_of(quota).to_owned(),
        object,
    }
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value, reason = "tables of literals read better without references")]
mod tests {
    use super::*;
    use crate::admission::testing::{Objects, Outcome, Write};
    use serde_json::{Value as Json, json};

    fn world(hard: Json, used: Json) -> Objects {
        let quota = json!({"metadata": {"name": "q", "namespace": "ns", "resourceVersion": "9"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}});
        Objects::default().with("", "resourcequotas", quota)
    }

    fn pod(cpu: &str) -> Json {
        json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    fn used(outcome: &Outcome) -> Option<Json> {
        outcome.paired.first().map(|write| Json::from(write.object.at(&["status", "used"]).unwrap()))
    }

    #[test]
    fn what_fits_is_charged() {
        let objects = world(
            json!({"pods": "3", "requests.cpu": "2", "secrets": "1"}),
            json!({"pods": "1", "requests.cpu": "500m", "secrets": "0"}),
        );
        let outcome = Write::create("", "pods", pod("1500m")).run(&ResourceQuota, &objects).unwrap();
        assert_eq!(used(&outcome), Some(json!({"pods": "2", "requests.cpu": "2", "secrets": "0"})));
        assert_eq!(outcome.paired[0].object.str_at(&["metadata", "resourceVersion"]), "9");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (hard, used, write, refusal) in [
            (
                json!({"pods": "3", "requests.cpu": "2"}),
                json!({"pods": "1", "requests.cpu": "500m"}),
                Write::create("", "pods", pod("1600m")),
                "pods \"p\" is forbidden: exceeded quota: q, requested: requests.cpu=1600m, used: requests.cpu=500m, limited: requests.cpu=2",
            ),
            (
                json!({"pods": "1"}),
                json!({"pods": "1"}),
                Write::create("", "pods", pod("1")),
                "pods \"p\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1",
            ),
            (
                json!({"limits.memory": "1Gi", "cpu": "1"}),
                json!({"limits.memory": "0", "cpu": "0"}),
                Write::create("", "pods", pod("1")),
                "pods \"p\" is forbidden: failed quota: q: must specify limits.memory for: c",
            ),
            (
                json!({"pods": "1"}),
                json!({}),
                Write::create("", "pods", pod("1")),
                "pods \"p\" is forbidden: status unknown for quota: q, resources: pods",
            ),
            (
                json!({"count/deployments.apps": "1"}),
                json!({"count/deployments.apps": "1"}),
                Write::create("apps", "deployments", json!({"metadata": {"name": "d", "namespace": "ns"}})),
                "deployments.apps \"d\" is forbidden: exceeded quota: q, requested: count/deployments.apps=1, used: count/deployments.apps=1, limited: count/deployments.apps=1",
            ),
        ] {
            let refused = write.run(&ResourceQuota, &world(hard, used)).unwrap_err();
            assert_eq!(refused.message, refusal);
        }
    }

    #[test]
    fn updates_charge_the_difference() {
        let objects = world(
            json!({"services": "1", "services.nodeports": "2"}),
            json!({"services": "1", "services.nodeports": "0"}),
        );
        let service = |kind: &str, ports: usize| json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": {"type": kind, "ports": vec![json!({}); ports]}});
        let run = |old, new| Write::update("", "services", old, new).run(&ResourceQuota, &objects);
        let outcome = run(service("ClusterIP", 2), service("NodePort", 2)).unwrap();
        assert_eq!(used(&outcome), Some(json!({"services": "1", "services.nodeports": "2"})));
        assert!(run(service("ClusterIP", 3), service("NodePort", 3)).is_err());
        assert_eq!(used(&run(service("NodePort", 1), service("ClusterIP", 1)).unwrap()), None);
    }

    #[test]
    fn others_are_left_alone() {
        let objects = world(json!({"pods": "0"}), json!({"pods": "0"}));
        for write in [
            Write::create("", "configmaps", json!({"metadata": {"name": "c", "namespace": "ns"}})),
            Write::create("", "pods", json!({"metadata": {"name": "p", "namespace": "other"}})),
            Write::delete("", "pods", pod("1")),
            Write::update("", "pods", pod("1"), pod("2")),
            Write::update("", "pods", pod("1"), pod("1")).on("status"),
        ] {
            assert!(write.run(&ResourceQuota, &objects).unwrap().paired.is_empty());
        }
    }
}
