//! What users are told about objects that are valid and yet hardly what they meant: deprecated fields and labels,
//! values that mean something else than they seem to, parts that nothing will read. Upstream's texts.
//!
//! Values in, texts out; never refuses anything.

mod addresses;
mod pods;
mod selectors;
mod volumes;

use crate::{KindRef, Value, names, strategy::semantic_equal};
use addresses::{cidr, ip};

/// Completions and parallelism above which an Indexed Job may lose track of what failed.
const MANY_COMPLETIONS: i64 = 100_000;
const MUCH_PARALLELISM: i64 = 10_000;
/// Who writes endpoint slices with addresses that need no look.
const SLICE_CONTROLLERS: [&str; 2] = ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];

/// What to tell about a valid object; `old` is the object that it replaces.
#[must_use]
pub fn warnings(kind: KindRef<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut out = Vec::new();
    if kind.custom {
        return out;
    }
    // Of workloads only what changed is looked at: their status is written often.
    let counted = |object: &Value| object.int_at(&["metadata", "generation"]);
    let same = old.is_some_and(|old| counted(old) == counted(new));
    match (kind.group, kind.kind) {
        ("", "Pod") if old.is_none() => pods::pod(new, "", &mut out),
        ("", "PodTemplate") => template(new, "template", same, &mut out),
        ("", "ReplicationController") | ("apps", "ReplicaSet" | "Deployment") => {
            if old.is_none() {
                name_in_pods(new, &mut out);
            }
            template(new, "spec.template", same, &mut out);
        }
        ("apps", "DaemonSet") => template(new, "spec.template", same, &mut out),
        ("apps", "StatefulSet") => stateful_set(new, same, &mut out),
        ("batch", "Job") => {
            if old.is_none() {
                name_in_pods(new, &mut out);
            }
            job(new, "spec", same, &mut out);
        }
        ("batch", "CronJob") => {
            if old.is_none() {
                name_in_pods(new, &mut out);
            }
            job(new, "spec.jobTemplate.spec", same, &mut out);
        }
        ("", "Service") => service(new, &mut out),
        ("", "Node") => node(new, &mut out),
        ("", "PersistentVolume") => volumes::volume(new, &mut out),
        ("", "PersistentVolumeClaim") => volumes::claim(new, &mut out),
        ("storage.k8s.io", "StorageClass") => selectors::topologies(new, &mut out),
        ("storage.k8s.io", "CSIStorageCapacity") => {
            selectors::label_selector(new.get("nodeTopology"), "nodeTopology", &mut out);
        }
        ("storage.k8s.io", "CSIDriver") => driver(new, old, &mut out),
        ("node.k8s.io", "RuntimeClass") => selectors::runtime_class(new, &mut out),
        ("networking.k8s.io", "NetworkPolicy") => network_policy(new, &mut out),
        ("networking.k8s.io", "Ingress")
            if old.is_none() && new.at(&["metadata", "annotations", "kubernetes.io/ingress.class"]).is_some() =>
        {
            out.push(
                "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"
                    .to_owned(),
            );
        }
        ("discovery.k8s.io", "EndpointSlice") => slice(new, old.is_none(), &mut out),
        ("resource.k8s.io", "ResourceSlice") => {
            let driver = new.str_at(&["spec", "driver"]);
            if driver.chars().any(char::is_uppercase) {
                out.push(format!(
                    "spec.driver: driver names should be lowercase; {driver:?} contains uppercase characters"
                ));
            }
        }
        _ => {}
    }
    out
}

/// What to tell about the deletion of an object.
#[must_use]
pub fn deletion_warning(kind: KindRef<'_>) -> Option<&'static str> {
    const JOBS: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background \
                        to remove them or set propagationPolicy=Orphan to suppress this warning";
    (!kind.custom && kind.group == "batch" && kind.kind == "Job").then_some(JOBS)
}

fn at<'v>(object: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(object, |value, field| value.get(field))
}

fn template(object: &Value, path: &str, same: bool, out: &mut Vec<String>) {
    if let Some(template) = at(object, path).filter(|_| !same) {
        pods::pod(template, path, out);
    }
}

fn name_in_pods(object: &Value, out: &mut Vec<String>) {
    let problems = names::dns_label(object.str_at(&["metadata", "name"]));
    if !problems.is_empty() {
        out.push(format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS \
             label is recommended: [{}]",
            problems.join(" ")
        ));
    }
}

fn stateful_set(object: &Value, same: bool, out: &mut Vec<String>) {
    template(object, "spec.template", same, out);
    for (index, claim) in object.list_at(&["spec", "volumeClaimTemplates"]).iter().enumerate() {
        volumes::claim_spec(claim.get("spec"), &format!("spec.volumeClaimTemplates[{index}]"), out);
    }
    if object.int_at(&["spec", "revisionHistoryLimit"]).is_some_and(|limit| limit < 0) {
        out.push(
            "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended"
                .to_owned(),
        );
    }
}

fn job(object: &Value, path: &str, same: bool, out: &mut Vec<String>) {
    let Some(spec) = at(object, path).filter(|_| !same) else { return };
    let number = |field: &str| spec.int_at(&[field]).unwrap_or(0);
    let indexed = spec.str_at(&["completionMode"]) == "Indexed";
    if indexed && number("completions") > MANY_COMPLETIONS && number("parallelism") > MUCH_PARALLELISM {
        out.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
             Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    template(object, &format!("{path}.template"), false, out);
}

fn service(object: &Value, out: &mut Vec<String>) {
    if object.at(&["metadata", "annotations", "service.kubernetes.io/topology-aware-hints"]).is_some() {
        out.push(
            "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use \
             service.kubernetes.io/topology-mode instead"
                .to_owned(),
        );
    }
    let text = |field: &str| object.str_at(&["spec", field]);
    let texts = |field: &str| object.list_at(&["spec", field]).iter().filter_map(Value::as_str).enumerate();
    let external_name = text("type") == "ExternalName";
    let headless = text("type") == "ClusterIP" && text("clusterIP") == "None";
    if !headless && !text("clusterIP").is_empty() {
        texts("clusterIPs").for_each(|(index, address)| ip(&format!("spec.clusterIPs[{index}]"), address, out));
    }
    let external = texts("externalIPs").next().is_some();
    if headless {
        for (told, field) in [
            (!text("loadBalancerIP").is_empty(), "loadBalancerIP"),
            (external, "externalIPs"),
            (text("sessionAffinity") != "None", "SessionAffinity"),
        ] {
            if told {
                out.push(format!("spec.{field} is ignored for headless services"));
            }
        }
    }
    texts("externalIPs").for_each(|(index, address)| ip(&format!("spec.externalIPs[{index}]"), address, out));
    if external && !headless && !external_name {
        out.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    if !text("loadBalancerIP").is_empty() {
        ip("spec.loadBalancerIP", text("loadBalancerIP"), out);
    }
    for (index, range) in texts("loadBalancerSourceRanges") {
        cidr(&format!("spec.loadBalancerSourceRanges[{index}]"), range, out);
    }
    if external_name && external {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !external_name && !text("externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if text("trafficDistribution") == "PreferClose" {
        out.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
}

fn node(object: &Value, out: &mut Vec<String>) {
    if object.at(&["spec", "configSource"]).is_some_and(|source| !source.is_null()) {
        out.push("spec.configSource: the feature is removed".to_owned());
    }
    if !object.str_at(&["spec", "externalID"]).is_empty() {
        out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
    }
    for (index, range) in object.list_at(&["spec", "podCIDRs"]).iter().filter_map(Value::as_str).enumerate() {
        cidr(&format!("spec.podCIDRs[{index}]"), range, out);
    }
}

fn driver(new: &Value, old: Option<&Value>, out: &mut Vec<String>) {
    const REQUESTS: [&str; 2] = ["spec", "tokenRequests"];
    let asks = !new.list_at(&REQUESTS).is_empty();
    let unset = new.at(&["spec", "serviceAccountTokenInSecrets"]).is_none_or(Value::is_null);
    let changed = old.is_none_or(|old| !semantic_equal(old.at(&REQUESTS), new.at(&REQUESTS)));
    if asks && unset && changed {
        out.push(
            "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent \
             possible logging of tokens in volume attributes"
                .to_owned(),
        );
    }
}

fn network_policy(object: &Value, out: &mut Vec<String>) {
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (at, rule) in object.list_at(&["spec", direction]).iter().enumerate() {
            for (peer_at, peer) in rule.list_at(&[peers]).iter().enumerate() {
                let path = format!("spec.{direction}[{at}].{peers}[{peer_at}].ipBlock");
                let Some(block) = peer.get("ipBlock").filter(|block| !block.is_null()) else { continue };
                cidr(&format!("{path}.cidr"), block.str_at(&["cidr"]), out);
                for (index, except) in block.list_at(&["except"]).iter().filter_map(Value::as_str).enumerate() {
                    cidr(&format!("{path}.except[{index}]"), except, out);
                }
            }
        }
    }
}

fn slice(object: &Value, is_new: bool, out: &mut Vec<String>) {
    if is_new && object.str_at(&["addressType"]) == "FQDN" {
        out.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
    }
    let by = object.str_at(&["metadata", "labels", "endpointslice.kubernetes.io/managed-by"]);
    if SLICE_CONTROLLERS.contains(&by) {
        return;
    }
    for (at, endpoint) in object.list_at(&["endpoints"]).iter().enumerate() {
        for (index, address) in endpoint.list_at(&["addresses"]).iter().filter_map(Value::as_str).enumerate() {
            ip(&format!("endpoints[{at}].addresses[{index}]"), address, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    fn told(group: &str, kind: &str, new: Json, old: Option<Json>) -> Vec<String> {
        let old = old.map(Value::from);
        warnings(KindRef::builtin(group, kind, true), &new.into(), old.as_ref())
    }

    #[test]
    fn upstreams_words() {
        let port = json!({"containerPort": 80, "protocol": "TCP"});
        let template =
            json!({"spec": {"containers": [{"name": "a", "ports": [port]}, {"name": "b", "ports": [port]}]}});
        for (group, kind, object, expected) in [
            (
                "apps",
                "Deployment",
                json!({"metadata": {"name": "d"}, "spec": {"template": template}}),
                &[
                    "spec.template.spec.containers[1].ports[0]: duplicate port definition with spec.template.spec.containers[0].ports[0]",
                ][..],
            ),
            (
                "batch",
                "Job",
                json!({"metadata": {"name": "a.b"}, "spec": {"template": {}}}),
                &[
                    "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
                ],
            ),
            (
                "storage.k8s.io",
                "CSIDriver",
                json!({"spec": {"tokenRequests": [{"audience": "a"}]}}),
                &[
                    "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes",
                ],
            ),
            (
                "",
                "Service",
                json!({"spec": {"type": "ClusterIP", "clusterIP": "None", "sessionAffinity": "ClientIP", "externalName": "x",
                    "externalIPs": ["1.2.3.04"], "trafficDistribution": "PreferClose"}}),
                &[
                    "spec.externalIPs is ignored for headless services",
                    "spec.SessionAffinity is ignored for headless services",
                    "spec.externalIPs[0]: non-standard IP address \"1.2.3.04\" is invalid: use \"1.2.3.4\"",
                    "spec.externalName is ignored when spec.type is not \"ExternalName\"",
                    "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
                ],
            ),
            (
                "networking.k8s.io",
                "NetworkPolicy",
                json!({"spec": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.1/8"}}]}]}}),
                &[
                    "spec.egress[0].to[0].ipBlock.cidr: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.0.0.1/32\"?)",
                ],
            ),
            (
                "networking.k8s.io",
                "Ingress",
                json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "x"}}}),
                &[
                    "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead",
                ],
            ),
            (
                "",
                "Node",
                json!({"spec": {"externalID": "x"}}),
                &["spec.externalID: this field is deprecated, and is unused by Kubernetes"],
            ),
            (
                "node.k8s.io",
                "RuntimeClass",
                json!({"scheduling": {"nodeSelector": {"beta.kubernetes.io/os": "linux"}}}),
                &["scheduling.nodeSelector: deprecated since v1.14; use \"kubernetes.io/os\" instead"],
            ),
            ("", "ConfigMap", json!({"data": {"a": "b"}}), &[]),
        ] {
            assert_eq!(told(group, kind, object, None), expected, "{kind}");
        }
        let job = KindRef::builtin("batch", "Job", true);
        assert!(
            deletion_warning(job)
                .unwrap()
                .starts_with("child pods are preserved by default when jobs are deleted; set")
        );
        assert_eq!(deletion_warning(KindRef::custom("batch", "Job", true, false)), None);
    }

    #[test]
    fn only_changes_of_a_template_are_told() {
        let with = |generation: i64| {
            json!({"metadata": {"name": "d", "generation": generation},
                "spec": {"template": {"spec": {"nodeSelector": {"beta.kubernetes.io/arch": "x"}}}}})
        };
        assert_eq!(told("apps", "Deployment", with(1), Some(with(1))), [""; 0]);
        assert_eq!(
            told("apps", "Deployment", with(2), Some(with(1))),
            [
                "spec.template.spec.nodeSelector[beta.kubernetes.io/arch]: deprecated since v1.14; use \"kubernetes.io/arch\" instead"
            ]
        );
        assert_eq!(told("", "Pod", with(2)["spec"]["template"].clone(), Some(with(1))), [""; 0]);
    }
}
