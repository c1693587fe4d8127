//! LimitRanger: defaults and bounds of compute resources per namespace.

use super::{
    AdmissionError, AdmissionPlugin, AdmissionRequest, Lookup, Operation,
    resources::{ResourceList, pod_resources, resource_list},
};
use timonel_api::{Quantity, Value};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// Values beyond this are compared whole, as in thousandths they would overflow.
const MAX_MILLI_VALUE: i64 = i64::MAX / 1000;

/// See the module.
#[derive(Debug, Default)]
pub struct LimitRanger;

impl AdmissionPlugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn mutate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        if request.operation == Operation::Create && request.is("", "pods") && !request.is_deleting() {
            for range in lookup.list("", "limitranges", Some(request.namespace)) {
                set_defaults(request.object, &range);
            }
        }
        Ok(())
    }

    fn validate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        let is_pod = request.is_any("", "pods")
            && matches!(
                (request.operation, request.subresource),
                (Operation::Create, "") | (Operation::Update, "resize")
            );
        let is_claim = request.is("", "persistentvolumeclaims")
            && matches!(request.operation, Operation::Create | Operation::Update);
        if !(is_pod || is_claim) || request.is_deleting() {
            return Ok(());
        }
        for range in lookup.list("", "limitranges", Some(request.namespace)) {
            let found: Vec<String> = range
                .list_at(&["spec", "limits"])
                .iter()
                .flat_map(|limit| check(request.object, limit, is_pod))
                .collect();
            match &found[..] {
                [] => {}
                [only] => return Err(request.forbidden(only)),
                several => return Err(request.forbidden(&format!("[{}]", several.join(", ")))),
            }
        }
        Ok(())
    }
}

/// A member of `resources`, the word for it in the note, and the defaults for it.
type Defaults = (&'static str, &'static str, Vec<(String, Value)>);

fn set_defaults(pod: &mut Value, range: &Value) {
    let mut defaults: [Defaults; 2] = [("requests", "request", Vec::new()), ("limits", "limit", Vec::new())];
    for limit in range.list_at(&["spec", "limits"]).iter().filter(|limit| limit.str_at(&["type"]) == "Container") {
        for (at, source) in ["defaultRequest", "default"].into_iter().enumerate() {
            let members = limit.get(source).and_then(Value::as_object).into_iter().flat_map(|object| object.iter());
            defaults[at].2.extend(members.map(|(name, value)| (name.to_string(), value.clone())));
        }
    }
    let mut notes = Vec::new();
    for (list, kind) in [("containers", "container"), ("initContainers", "init container")] {
        for container in pod.at_mut(&["spec", list]).and_then(Value::as_list_mut).into_iter().flatten() {
            for (member, word, values) in &defaults {
                let mut set = Vec::new();
                for (resource, value) in values {
                    if container.at(&["resources", member, resource]).is_none() {
                        container.set_at(&["resources", member, resource], value.clone());
                        set.push(resource.as_str());
                    }
                }
                if !set.is_empty() {
                    set.sort_unstable();
                    notes.push(format!("{} {word} for {kind} {}", set.join(", "), container.str_at(&["name"])));
                }
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        pod.set_at(&["metadata", "annotations", ANNOTATION], note);
    }
}

fn check(object: &Value, limit: &Value, is_pod: bool) -> Vec<String> {
    let kind = limit.str_at(&["type"]);
    let bounds = ["min", "max", "maxLimitRequestRatio"].map(|field| resource_list(limit.get(field)));
    let container =
        |container: &Value| ["requests", "limits"].map(|which| resource_list(container.at(&["resources", which])));
    match (kind, is_pod) {
        ("Container", true) => {
            let all = object.list_at(&["spec", "containers"]).iter().chain(object.list_at(&["spec", "initContainers"]));
            all.flat_map(|each| check_one(kind, &bounds, &container(each))).collect()
        }
        ("Pod", true) => check_one(kind, &bounds, &["requests", "limits"].map(|which| pod_resources(object, which))),
        ("PersistentVolumeClaim", false) => {
            let requests = resource_list(object.at(&["spec", "resources", "requests"]));
            let min = bounds[0]
                .iter()
                .filter_map(|(name, bound)| minimum(kind, name, bound, &requests, &ResourceList::new()));
            let max = bounds[1].iter().filter_map(|(name, bound)| maximum_request(kind, name, bound, &requests));
            min.chain(max).collect()
        }
        _ => Vec::new(),
    }
}

fn check_one(kind: &str, bounds: &[ResourceList; 3], [requests, limits]: &[ResourceList; 2]) -> Vec<String> {
    let min = bounds[0].iter().filter_map(|(name, bound)| minimum(kind, name, bound, requests, limits));
    let max = bounds[1].iter().filter_map(|(name, bound)| maximum(kind, name, bound, requests, limits));
    let ratio = bounds[2].iter().filter_map(|(name, bound)| ratio(kind, name, bound, requests, limits));
    min.chain(max).chain(ratio).collect()
}

fn minimum(kind: &str, name: &str, bound: &Quantity, requests: &ResourceList, limits: &ResourceList) -> Option<String> {
    let text = format!("minimum {name} usage per {kind} is {bound}");
    match (requests.get(name), limits.get(name)) {
        (None, _) => Some(format!("{text}.  No request is specified")),
        (Some(request), _) if request < bound => Some(format!("{text}, but request is {request}")),
        (_, Some(limit)) if limit < bound => Some(format!("{text}, but limit is {limit}")),
        _ => None,
    }
}

fn maximum(kind: &str, name: &str, bound: &Quantity, requests: &ResourceList, limits: &ResourceList) -> Option<String> {
    let text = format!("maximum {name} usage per {kind} is {bound}");
    match (requests.get(name), limits.get(name)) {
        (_, None) => Some(format!("{text}.  No limit is specified")),
        (_, Some(limit)) if limit > bound => Some(format!("{text}, but limit is {limit}")),
        (Some(request), _) if request > bound => Some(format!("{text}, but request is {request}")),
        _ => None,
    }
}

fn maximum_request(kind: &str, name: &str, bound: &Quantity, requests: &ResourceList) -> Option<String> {
    let text = format!("maximum {name} usage per {kind} is {bound}");
    match requests.get(name) {
        None => Some(format!("{text}.  No request is specified")),
        Some(request) if request > bound => Some(format!("{text}, but request is {request}")),
        _ => None,
    }
}

fn ratio(kind: &str, name: &str, bound: &Quantity, requests: &ResourceList, limits: &ResourceList) -> Option<String> {
    let text = format!("{name} max limit to request ratio per {kind} is {bound}");
    let Some(request) = requests.get(name).filter(|request| !request.is_zero()) else {
        return Some(format!("{text}, but no request is specified or request is 0"));
    };
    let Some(limit) = limits.get(name).filter(|limit| !limit.is_zero()) else {
        return Some(format!("{text}, but no limit is specified or limit is 0"));
    };
    let precise = [request, limit].iter().all(|quantity| quantity.value() <= MAX_MILLI_VALUE);
    let observed = if precise {
        limit.milli_value() as f64 / request.milli_value() as f64
    } else {
        limit.value() as f64 / request.value() as f64
    };
    (observed > bound.as_f64()).then(|| format!("{text}, but provided ratio is {observed:.6}"))
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value, reason = "tables of literals read better without references")]
mod tests {
    use super::*;
    use crate::admission::testing::{Objects, Write};
    use serde_json::{Value as Json, json};

    fn run(limits: Json, resource: &str, object: Json) -> Result<Json, String> {
        let range = json!({"metadata": {"name": "r", "namespace": "ns"}, "spec": {"limits": limits}});
        let objects = Objects::default().with("", "limitranges", range);
        let done = Write::create("", resource, object).run(&LimitRanger, &objects);
        done.map(|outcome| outcome.object).map_err(|error| error.message)
    }

    fn pod(resources: Json) -> Json {
        json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[test]
    fn defaults_are_set_and_noted() {
        let limits =
            json!([{"type": "Container", "defaultRequest": {"cpu": "100m", "memory": "1Mi"}, "default": {"cpu": "1"}}]);
        let made = run(limits, "pods", pod(json!({"requests": {"cpu": "50m"}}))).unwrap();
        assert_eq!(
            made["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "50m", "memory": "1Mi"}, "limits": {"cpu": "1"}})
        );
        assert_eq!(
            made["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: memory request for container c; cpu limit for container c"
        );
    }

    #[test]
    fn bounds_are_enforced() {
        let both = |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
        for (limits, resources, refusal) in [
            (json!([{"type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "1"}}]), both("1"), ""),
            (
                json!([{"type": "Container", "min": {"cpu": "100m"}}]),
                both("50m"),
                "minimum cpu usage per Container is 100m, but request is 50m",
            ),
            (
                json!([{"type": "Container", "min": {"cpu": "100m"}}]),
                json!({}),
                "minimum cpu usage per Container is 100m.  No request is specified",
            ),
            (
                json!([{"type": "Container", "max": {"cpu": "1"}}]),
                both("2"),
                "maximum cpu usage per Container is 1, but limit is 2",
            ),
            (
                json!([{"type": "Pod", "max": {"cpu": "1"}}]),
                both("1100m"),
                "maximum cpu usage per Pod is 1, but limit is 1100m",
            ),
            (
                json!([{"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}]),
                json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 10.000000",
            ),
            (
                json!([{"type": "Container", "max": {"cpu": "1", "memory": "1Gi"}}]),
                json!({}),
                "[maximum cpu usage per Container is 1.  No limit is specified, maximum memory usage per Container is 1Gi.  No limit is specified]",
            ),
        ] {
            let refused = run(limits, "pods", pod(resources)).err().unwrap_or_default();
            let expected =
                if refusal.is_empty() { String::new() } else { format!("pods \"p\" is forbidden: {refusal}") };
            assert_eq!(refused, expected);
        }
        let claim = json!({"metadata": {"name": "c", "namespace": "ns"}, "spec": {"resources": {"requests": {"storage": "5Gi"}}}});
        let refused =
            run(json!([{"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}]), "persistentvolumeclaims", claim);
        assert!(
            refused
                .unwrap_err()
                .ends_with("maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 5Gi")
        );
    }
}
