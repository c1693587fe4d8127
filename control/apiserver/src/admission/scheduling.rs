//! What admission adds to pods and nodes for the scheduler's sake: Priority, DefaultTolerationSeconds,
//! TaintNodesByCondition, RuntimeClass, PodTopologyLabels.

use super::{AdmissionError, AdmissionPlugin, AdmissionRequest, Lookup, Operation};
use serde_json::json;
use std::{cmp::Ordering, sync::Arc};
use timonel_api::{Quantity, Value};

const SCHEDULING: &str = "scheduling.k8s.io";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// How long a pod stays on a node that is not ready or unreachable, unless it says otherwise.
const TOLERATION_SECONDS: i64 = 300;

/// Priority: resolves a pod's priority class.
#[derive(Debug, Default)]
pub struct Priority;

impl AdmissionPlugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn mutate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        if !request.is("", "pods") {
            return Ok(());
        }
        match (request.operation, request.old) {
            (Operation::Create, _) => set_priority(request, lookup),
            (Operation::Update, Some(old)) => {
                for field in ["priority", "preemptionPolicy"] {
                    let path = ["spec", field];
                    if let (Some(kept), None) = (old.at(&path), request.object.at(&path)) {
                        request.object.set_at(&path, kept.clone());
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn validate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if !request.is(SCHEDULING, "priorityclasses")
            || !writes
            || request.object.bool_at(&["globalDefault"]) != Some(true)
        {
            return Ok(());
        }
        let Some(other) = default_class(lookup) else { return Ok(()) };
        let name = other.str_at(&["metadata", "name"]);
        if request.operation == Operation::Update && name == request.name {
            return Ok(());
        }
        let why = format!("PriorityClass {name} is already marked as default. Only one default can exist");
        Err(request.forbidden(&why))
    }
}

fn default_class(lookup: &dyn Lookup) -> Option<Arc<Value>> {
    lookup
        .list(SCHEDULING, "priorityclasses", None)
        .into_iter()
        .filter(|class| class.bool_at(&["globalDefault"]) == Some(true))
        .min_by_key(|class| class.int_at(&["value"]))
}

fn set_priority(request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
    let named = request.object.str_at(&["spec", "priorityClassName"]).to_owned();
    let class = if named.is_empty() {
        default_class(lookup)
    } else {
        let found = lookup.get(SCHEDULING, "priorityclasses", "", &named);
        Some(found.ok_or_else(|| request.forbidden(&format!("no PriorityClass with name {named} was found")))?)
    };
    let (value, policy) = match &class {
        Some(class) => (class.int_at(&["value"]).unwrap_or(0), class.str_at(&["preemptionPolicy"])),
        None => (0, "PreemptLowerPriority"),
    };
    if let Some(class) = &class {
        request.object.set_at(&["spec", "priorityClassName"], class.str_at(&["metadata", "name"]));
    }
    if let Some(stated) = request.object.int_at(&["spec", "priority"])
        && stated != value
    {
        return Err(request.forbidden(&format!("the integer value of priority ({stated}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name")));
    }
    request.object.set_at(&["spec", "priority"], value);
    if !policy.is_empty() {
        let stated = request.object.str_at(&["spec", "preemptionPolicy"]);
        if !stated.is_empty() && stated != policy {
            return Err(request.forbidden(&format!("the string value of PreemptionPolicy ({stated}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name")));
        }
        request.object.set_at(&["spec", "preemptionPolicy"], policy);
    }
    Ok(())
}

/// The priority classes that every cluster has: name, value, description.
pub const SYSTEM_PRIORITY_CLASSES: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

/// DefaultTolerationSeconds: pods stay five minutes on a node that fails.
#[derive(Debug, Default)]
pub struct DefaultTolerationSeconds;

impl AdmissionPlugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn mutate(&self, request: &mut AdmissionRequest<'_>, _: &dyn Lookup) -> Result<(), AdmissionError> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if !request.is("", "pods") || !writes {
            return Ok(());
        }
        for key in [NOT_READY, UNREACHABLE] {
            let tolerated = request.object.list_at(&["spec", "tolerations"]).iter().any(|toleration| {
                let (own, effect) = (toleration.str_at(&["key"]), toleration.str_at(&["effect"]));
                (own == key || own.is_empty()) && (effect == "NoExecute" || effect.is_empty())
            });
            if !tolerated {
                let toleration = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS});
                request.object.entry_at(&["spec", "tolerations"]).make_list().push(toleration.into());
            }
        }
        Ok(())
    }
}

/// TaintNodesByCondition: a new node takes no pods before it has reported.
#[derive(Debug, Default)]
pub struct TaintNodesByCondition;

impl AdmissionPlugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn mutate(&self, request: &mut AdmissionRequest<'_>, _: &dyn Lookup) -> Result<(), AdmissionError> {
        if !request.is("", "nodes") || request.operation != Operation::Create {
            return Ok(());
        }
        let taints = request.object.entry_at(&["spec", "taints"]).make_list();
        let there = |taint: &Value| taint.str_at(&["key"]) == NOT_READY && taint.str_at(&["effect"]) == "NoSchedule";
        if !taints.iter().any(there) {
            taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}).into());
        }
        Ok(())
    }
}

/// RuntimeClass: a pod carries its runtime class' overhead and scheduling.
#[derive(Debug, Default)]
pub struct RuntimeClass;

impl RuntimeClass {
    fn class(request: &AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<Option<Arc<Value>>, AdmissionError> {
        let name = request.object.str_at(&["spec", "runtimeClassName"]);
        if name.is_empty() {
            return Ok(None);
        }
        let found = lookup.get("node.k8s.io", "runtimeclasses", "", name);
        found.map(Some).ok_or_else(|| request.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found")))
    }
}

impl AdmissionPlugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn mutate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        if !request.is("", "pods") || request.operation != Operation::Create {
            return Ok(());
        }
        let Some(class) = Self::class(request, lookup)? else { return Ok(()) };
        if let Some(overhead) = class.at(&["overhead", "podFixed"]) {
            let stated = request.object.at(&["spec", "overhead"]);
            if stated.is_some_and(|stated| !same_resources(stated, overhead)) {
                let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
                return Err(request.forbidden(why));
            }
            request.object.set_at(&["spec", "overhead"], overhead.clone());
        }
        let selector = class.at(&["scheduling", "nodeSelector"]).and_then(Value::as_object);
        for (key, value) in selector.into_iter().flat_map(|selector| selector.iter()) {
            let own = request.object.at(&["spec", "nodeSelector", key]).and_then(Value::as_str).map(str::to_owned);
            let wanted = value.as_str().unwrap_or("");
            if let Some(own) = own.filter(|own| own != wanted) {
                return Err(request.forbidden(&format!("conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {own}")));
            }
            request.object.set_at(&["spec", "nodeSelector", key], wanted);
        }
        for toleration in class.list_at(&["scheduling", "tolerations"]) {
            let list = request.object.entry_at(&["spec", "tolerations"]).make_list();
            if !list.contains(toleration) {
                list.push(toleration.clone());
            }
        }
        Ok(())
    }

    fn validate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        if !request.is("", "pods") || request.operation != Operation::Create {
            return Ok(());
        }
        let class = Self::class(request, lookup)?;
        let wanted = class.as_ref().and_then(|class| class.at(&["overhead", "podFixed"]));
        let stated = request.object.at(&["spec", "overhead"]).filter(|stated| !stated.is_null());
        match (wanted, stated) {
            (Some(wanted), Some(stated)) if same_resources(wanted, stated) => Ok(()),
            (None, None) => Ok(()),
            (Some(_), _) => {
                Err(request.forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
            }
            (None, Some(_)) => {
                Err(request
                    .forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
            }
        }
    }
}

fn same_resources(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let same = |x: &Value, y: &Value| match (Quantity::from_value(x), Quantity::from_value(y)) {
        (Ok(x), Ok(y)) => x.partial_cmp(&y) == Some(Ordering::Equal),
        _ => false,
    };
    a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
}

/// PodTopologyLabels: a bound pod carries its node's zone and region.
#[derive(Debug, Default)]
pub struct PodTopologyLabels;

const TOPOLOGY_LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

impl AdmissionPlugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn mutate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        if request.operation != Operation::Create || !request.is_any("", "pods") {
            return Ok(());
        }
        let node = match request.subresource {
            "binding" if request.object.str_at(&["target", "kind"]) == "Node" => {
                request.object.str_at(&["target", "name"])
            }
            "" => request.object.str_at(&["spec", "nodeName"]),
            _ => "",
        };
        let Some(node) = lookup.get("", "nodes", "", node) else { return Ok(()) };
        for label in TOPOLOGY_LABELS {
            if let Some(value) = node.at(&["metadata", "labels", label]) {
                request.object.set_at(&["metadata", "labels", label], value.clone());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value, reason = "tables of literals read better without references")]
mod tests {
    use super::*;
    use crate::admission::testing::{Objects, Write};
    use serde_json::Value as Json;

    fn pod(spec: Json) -> Json {
        json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec})
    }

    fn run(plugin: &dyn AdmissionPlugin, objects: &Objects, spec: Json) -> Result<Json, String> {
        let done = Write::create("", "pods", pod(spec)).run(plugin, objects);
        done.map(|outcome| outcome.object["spec"].clone()).map_err(|error| error.message)
    }

    #[test]
    fn priorities() {
        let class = |name: &str, value: i64, default: bool| json!({"metadata": {"name": name}, "value": value, "globalDefault": default, "preemptionPolicy": "Never"});
        let plain = Objects::default().with(SCHEDULING, "priorityclasses", class("high", 100, false));
        let with_default = Objects::default().with(SCHEDULING, "priorityclasses", class("usual", 7, true));
        for (objects, spec, expected) in [
            (&plain, json!({}), Ok(json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"}))),
            (
                &plain,
                json!({"priorityClassName": "high"}),
                Ok(json!({"priorityClassName": "high", "priority": 100, "preemptionPolicy": "Never"})),
            ),
            (
                &with_default,
                json!({}),
                Ok(json!({"priorityClassName": "usual", "priority": 7, "preemptionPolicy": "Never"})),
            ),
            (
                &plain,
                json!({"priorityClassName": "none"}),
                Err("pods \"p\" is forbidden: no PriorityClass with name none was found"),
            ),
            (
                &plain,
                json!({"priority": 5}),
                Err(
                    "pods \"p\" is forbidden: the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name",
                ),
            ),
        ] {
            assert_eq!(run(&Priority, objects, spec), expected.map_err(str::to_owned));
        }
        let second =
            Write::create(SCHEDULING, "priorityclasses", class("other", 1, true)).run(&Priority, &with_default);
        assert!(
            second
                .unwrap_err()
                .message
                .ends_with("PriorityClass usual is already marked as default. Only one default can exist")
        );
    }

    #[test]
    fn tolerations_are_added_once() {
        let objects = Objects::default();
        let made = run(&DefaultTolerationSeconds, &objects, json!({})).unwrap();
        assert_eq!(made["tolerations"].as_array().unwrap().len(), 2);
        assert_eq!(run(&DefaultTolerationSeconds, &objects, made.clone()).unwrap(), made);
        let all = json!({"tolerations": [{"operator": "Exists"}]});
        assert_eq!(run(&DefaultTolerationSeconds, &objects, all.clone()).unwrap(), all);
    }

    #[test]
    fn new_nodes_are_not_ready() {
        let node = json!({"metadata": {"name": "n"}});
        let made = Write::create("", "nodes", node).run(&TaintNodesByCondition, &Objects::default()).unwrap().object;
        assert_eq!(made["spec"]["taints"], json!([{"key": NOT_READY, "effect": "NoSchedule"}]));
    }

    #[test]
    fn runtime_classes() {
        let objects = Objects::default().with(
            "node.k8s.io",
            "runtimeclasses",
            json!({
            "metadata": {"name": "vm"}, "overhead": {"podFixed": {"cpu": "250m"}},
            "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm"}]}}),
        );
        for (spec, expected) in [
            (json!({}), Ok(json!({}))),
            (
                json!({"runtimeClassName": "vm"}),
                Ok(
                    json!({"runtimeClassName": "vm", "overhead": {"cpu": "250m"}, "nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm"}]}),
                ),
            ),
            (
                json!({"runtimeClassName": "none"}),
                Err("pods \"p\" is forbidden: pod rejected: RuntimeClass \"none\" not found"),
            ),
            (
                json!({"overhead": {"cpu": "1"}}),
                Err(
                    "pods \"p\" is forbidden: pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
                ),
            ),
            (
                json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}}),
                Err(
                    "pods \"p\" is forbidden: pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
                ),
            ),
            (
                json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}),
                Err(
                    "pods \"p\" is forbidden: conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no",
                ),
            ),
        ] {
            assert_eq!(run(&RuntimeClass, &objects, spec), expected.map_err(str::to_owned));
        }
    }

    #[test]
    fn bindings_carry_the_zone() {
        let objects = Objects::default().with(
            "",
            "nodes",
            json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z", "other": "x"}}}),
        );
        let binding = json!({"metadata": {"name": "p", "namespace": "ns"}, "target": {"kind": "Node", "name": "n"}});
        let made = Write::create("", "pods", binding).on("binding").run(&PodTopologyLabels, &objects).unwrap().object;
        assert_eq!(made["metadata"]["labels"], json!({"topology.kubernetes.io/zone": "z"}));
    }
}
