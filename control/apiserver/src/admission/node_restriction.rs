//! NodeRestriction: a kubelet changes its own node and its own pods, and only as a kubelet does.

use super::{AdmissionError, AdmissionPlugin, AdmissionRequest, Lookup, Operation};
use crate::authz::{Attributes, Authorizer};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use timonel_api::Value;

const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const RESTRICTION_NAMESPACE: &str = "node-restriction.kubernetes.io";
const LEASES_NAMESPACE: &str = "kube-node-lease";
const KUBELET_SIGNERS: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];

/// See the module.
#[derive(Debug)]
pub struct NodeRestriction {
    authorizer: Arc<dyn Authorizer>,
}

type Refusal = Result<(), AdmissionError>;

impl NodeRestriction {
    /// Asks `authorizer` whether a node may ask for tokens of other audiences than its pods name.
    #[must_use]
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }

    fn token(&self, node: &str, request: &AdmissionRequest<'_>, lookup: &dyn Lookup) -> Refusal {
        let Some(pod) = bound_pod(node, request, lookup)? else { return Ok(()) };
        let audience = match request.object.list_at(&["spec", "audiences"]) {
            [] => "",
            [only] => only.as_str().unwrap_or(""),
            _ => return Err(request.forbidden("node may only request 0 or 1 audiences")),
        };
        let verb = "request-serviceaccounts-token-audience";
        let attributes =
            Attributes { version: "v1", ..Attributes::resource(verb, "", audience, request.namespace, request.name) };
        if names_audience(&pod, audience, lookup)
            || self.authorizer.authorize(request.user, &attributes, lookup).is_allowed()
        {
            return Ok(());
        }
        let user = &request.user.name;
        Err(request.forbidden(&format!("audience {audience:?} not found in pod spec volume, {user} is not authorized to request tokens for this audience")))
    }
}

impl AdmissionPlugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn mutate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Refusal {
        let user = request.user;
        let Some(node) = user.node_name() else { return Ok(()) };
        match (request.group, request.resource, request.subresource) {
            ("", "pods", "") => own_pods(node, request, lookup),
            ("", "pods", "status") => pod_status(node, request),
            ("", "pods", "eviction") => eviction(node, request, lookup),
            ("", "pods", other) => Err(request
                .forbidden(&format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))),
            ("", "nodes", _) => own_node(node, request),
            ("", "persistentvolumeclaims", "status") => claim_status(node, request),
            ("", "persistentvolumeclaims", _) => Err(request.forbidden("may only update PVC status")),
            ("", "serviceaccounts", _) => self.token(node, request, lookup),
            ("coordination.k8s.io", "leases", _) => lease(node, request),
            ("storage.k8s.io", "csinodes", _) => own_name(node, request, "CSINode"),
            ("resource.k8s.io", "resourceslices", _) => resource_slice(node, request),
            ("certificates.k8s.io", "certificatesigningrequests", _) => certificate(node, request),
            _ => Ok(()),
        }
    }

    /// Looks again at what a token is bound to, as the request is then complete.
    fn validate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Refusal {
        let user = request.user;
        match user.node_name() {
            Some(node) if request.is_any("", "serviceaccounts") => bound_pod(node, request, lookup).map(|_| ()),
            _ => Ok(()),
        }
    }
}

/// The pod that a token request is bound to, which must run on the node; `None` for other requests.
fn bound_pod(
    node: &str,
    request: &AdmissionRequest<'_>,
    lookup: &dyn Lookup,
) -> Result<Option<Arc<Value>>, AdmissionError> {
    if request.operation != Operation::Create || request.subresource != "token" {
        return Ok(None);
    }
    let bound = |field: &str| request.object.str_at(&["spec", "boundObjectRef", field]);
    if bound("apiVersion") != "v1" || bound("kind") != "Pod" || bound("name").is_empty() {
        return Err(request.forbidden("node requested token not bound to a pod"));
    }
    if bound("uid").is_empty() {
        return Err(request.forbidden("node requested token with a pod binding without a uid"));
    }
    let pod = pod(request.namespace, bound("name"), lookup)?;
    let uid = bound("uid");
    if uid != pod.str_at(&["metadata", "uid"]) {
        return Err(request.forbidden(&format!("the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated")));
    }
    if pod.str_at(&["spec", "nodeName"]) != node {
        return Err(request.forbidden("node requested token bound to a pod scheduled on a different node"));
    }
    Ok(Some(pod))
}

fn pod(namespace: &str, name: &str, lookup: &dyn Lookup) -> Result<Arc<Value>, AdmissionError> {
    lookup.get("", "pods", namespace, name).ok_or_else(|| AdmissionError::not_found("", "pods", name))
}

fn own_pods(node: &str, request: &AdmissionRequest<'_>, lookup: &dyn Lookup) -> Refusal {
    match (request.operation, request.old) {
        (Operation::Create, _) => mirror_pod(node, request, lookup),
        (Operation::Delete, Some(old)) if old.str_at(&["spec", "nodeName"]) == node => Ok(()),
        (Operation::Delete, _) => {
            Err(request.forbidden(&format!("node {node:?} can only delete pods with spec.nodeName set to itself")))
        }
        (operation, _) => Err(request.forbidden(&format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            operation.as_str()
        ))),
    }
}

fn mirror_pod(node: &str, request: &AdmissionRequest<'_>, lookup: &dyn Lookup) -> Refusal {
    let pod = &*request.object;
    let refuse = |why: String| Err(request.forbidden(&why));
    if pod.at(&["metadata", "annotations", MIRROR_ANNOTATION]).is_none() {
        return refuse(format!(
            "pod does not have {MIRROR_ANNOTATION:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if pod.str_at(&["spec", "nodeName"]) != node {
        return refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owner = match pod.list_at(&["metadata", "ownerReferences"]) {
        [owner] => owner,
        [] => return refuse(format!("node {node:?} can only create pods with an owner reference set to itself")),
        _ => return refuse(format!("node {node:?} can only create pods with a single owner reference set to itself")),
    };
    let of = |field: &str| owner.str_at(&[field]);
    if (of("apiVersion"), of("kind"), of("name")) != ("v1", "Node", node) {
        return refuse(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if owner.bool_at(&["controller"]) != Some(true) {
        return refuse(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
    }
    if owner.bool_at(&["blockOwnerDeletion"]) == Some(true) {
        return refuse(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let Some(known) = lookup.get("", "nodes", "", node) else {
        return Err(AdmissionError::not_found("", "nodes", node));
    };
    let uid = known.str_at(&["metadata", "uid"]);
    if of("uid") != uid {
        return refuse(format!("node {node} UID mismatch: expected {} got {uid}", of("uid")));
    }
    match referenced_kind(pod) {
        Some(kind) => refuse(format!("node {node:?} can not create pods that reference {kind}")),
        None => Ok(()),
    }
}

/// The kind of object that a pod refers to: through a mirror pod a node must not gain access to any.
fn referenced_kind(pod: &Value) -> Option<&'static str> {
    const VOLUMES: [(&str, &str); 5] = [
        ("secret", "secrets"),
        ("configMap", "configmaps"),
        ("persistentVolumeClaim", "persistentvolumeclaims"),
        ("ephemeral", "persistentvolumeclaims"),
        ("csi", "csidrivers"),
    ];
    const SOURCES: [(&str, &str); 4] = [
        ("secret", "secrets"),
        ("configMap", "configmaps"),
        ("serviceAccountToken", "serviceaccounts"),
        ("clusterTrustBundle", "clustertrustbundles"),
    ];
    const ENV: [(&str, &str); 2] = [("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")];
    const ENV_FROM: [(&str, &str); 2] = [("secretRef", "secrets"), ("configMapRef", "configmaps")];
    let named = |of: &Value, kinds: &[(&str, &'static str)]| {
        kinds.iter().find(|(member, _)| of.get(member).is_some()).map(|(_, kind)| *kind)
    };
    if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        return Some("serviceaccounts");
    }
    if !pod.list_at(&["spec", "imagePullSecrets"]).is_empty() {
        return Some("secrets");
    }
    if !pod.list_at(&["spec", "resourceClaims"]).is_empty() {
        return Some("resourceclaims");
    }
    let volumes = pod.list_at(&["spec", "volumes"]).iter().find_map(|volume| {
        let projected = volume.list_at(&["projected", "sources"]).iter().find_map(|source| named(source, &SOURCES));
        named(volume, &VOLUMES).or(projected)
    });
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    volumes.or_else(|| {
        lists.iter().flat_map(|list| pod.list_at(&["spec", list])).find_map(|container| {
            let env = container.list_at(&["env"]).iter().filter_map(|env| env.get("valueFrom"));
            let from = container.list_at(&["envFrom"]).iter();
            env.into_iter()
                .find_map(|from| named(from, &ENV))
                .or_else(|| from.into_iter().find_map(|from| named(from, &ENV_FROM)))
        })
    })
}

fn pod_status(node: &str, request: &AdmissionRequest<'_>) -> Refusal {
    let (Operation::Update, Some(old)) = (request.operation, request.old) else {
        return Err(request.forbidden(&format!("unexpected operation {:?}", request.operation.as_str())));
    };
    if old.str_at(&["spec", "nodeName"]) != node {
        let why = format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself");
        return Err(request.forbidden(&why));
    }
    let same = |path: &[&str]| {
        let absent = |value: Option<&Value>| value.filter(|value| !is_empty(value)).cloned();
        absent(old.at(path)) == absent(request.object.at(path))
    };
    for (path, what) in [
        (&["metadata", "labels"][..], "cannot update labels through pod status"),
        (&["status", "resourceClaimStatuses"], "cannot update resource claim statues"),
        (&["status", "extendedResourceClaimStatus"], "cannot update extended resource claim status"),
    ] {
        if !same(path) {
            return Err(request.forbidden(&format!("node {node:?} {what}")));
        }
    }
    Ok(())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::List(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    }
}

fn eviction(node: &str, request: &AdmissionRequest<'_>, lookup: &dyn Lookup) -> Refusal {
    if request.operation != Operation::Create {
        return Err(request.forbidden(&format!("unexpected operation {}", request.operation.as_str())));
    }
    let name = request.display_name();
    if name.is_empty() {
        return Err(request.forbidden("could not determine pod from request data"));
    }
    if pod(request.namespace, name, lookup)?.str_at(&["spec", "nodeName"]) == node {
        return Ok(());
    }
    Err(request.forbidden(&format!("node {node} can only evict pods with spec.nodeName set to itself")))
}

fn own_node(node: &str, request: &AdmissionRequest<'_>) -> Refusal {
    let name = request.display_name();
    if name != node {
        return Err(request.forbidden(&format!("node {node:?} is not allowed to modify node {name:?}")));
    }
    if !matches!(request.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    let null = Value::Null;
    let old = request.old.unwrap_or(&null);
    let changed = |path: &[&str]| {
        let present = |value: Option<&Value>| value.filter(|value| !is_empty(value)).cloned();
        present(old.at(path)) != present(request.object.at(path))
    };
    if request.operation == Operation::Update {
        if changed(&["spec", "taints"]) {
            return Err(request.forbidden(&format!("node {node:?} is not allowed to modify taints")));
        }
        if changed(&["metadata", "ownerReferences"]) {
            return Err(request.forbidden(&format!("node {node:?} is not allowed to modify ownerReferences")));
        }
    }
    let forbidden = forbidden_labels(old, request.object);
    if forbidden.is_empty() {
        return Ok(());
    }
    let list = forbidden.into_iter().collect::<Vec<_>>().join(", ");
    Err(request.forbidden(&match request.operation {
        Operation::Create => format!("node {node:?} is not allowed to set the following labels: {list}"),
        _ => format!("is not allowed to modify labels: {list}"),
    }))
}

fn labels(object: &Value) -> BTreeMap<&str, &Value> {
    let labels = object.at(&["metadata", "labels"]).and_then(Value::as_object);
    labels.into_iter().flat_map(|labels| labels.iter()).map(|(key, value)| (key.as_str(), value)).collect()
}

/// Changed labels that are not a kubelet's to change.
fn forbidden_labels(old: &Value, new: &Value) -> BTreeSet<String> {
    const KUBELETS: [&str; 11] = [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
    ];
    let (old, new) = (labels(old), labels(new));
    let keys = old.keys().chain(new.keys());
    let under = |namespace: &str, domain: &str| {
        namespace == domain || namespace.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
    };
    keys.filter(|key| old.get(**key) != new.get(**key))
        .filter(|key| {
            let namespace = key.split_once('/').map_or("", |(namespace, _)| namespace);
            let kubernetes = under(namespace, "kubernetes.io") || under(namespace, "k8s.io");
            let kubelets = KUBELETS.contains(key)
                || under(namespace, "kubelet.kubernetes.io")
                || under(namespace, "node.kubernetes.io");
            under(namespace, RESTRICTION_NAMESPACE) || kubernetes && !kubelets
        })
        .map(|key| (*key).to_owned())
        .collect()
}

fn claim_status(node: &str, request: &AdmissionRequest<'_>) -> Refusal {
    let (Operation::Update, Some(old)) = (request.operation, request.old) else {
        return Err(request.forbidden(&format!("unexpected operation {:?}", request.operation.as_str())));
    };
    let strip = |claim: &Value| {
        let mut claim = claim.clone();
        for field in ["resourceVersion", "managedFields"] {
            claim.remove_at(&["metadata", field]);
        }
        for field in ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"] {
            claim.remove_at(&["status", field]);
        }
        claim
    };
    if strip(old) == strip(request.object) {
        return Ok(());
    }
    let why = format!("node {node:?} is not allowed to update fields other than status.quantity and status.conditions");
    Err(request.forbidden(&why))
}

fn lease(node: &str, request: &AdmissionRequest<'_>) -> Refusal {
    if request.namespace != LEASES_NAMESPACE {
        return Err(request.forbidden(&format!("can only access leases in the {LEASES_NAMESPACE:?} system namespace")));
    }
    own_name(node, request, "node lease")
}

fn own_name(node: &str, request: &AdmissionRequest<'_>, what: &str) -> Refusal {
    if request.display_name() == node {
        return Ok(());
    }
    Err(request.forbidden(&format!("can only access {what} with the same name as the requesting node")))
}

fn resource_slice(node: &str, request: &AdmissionRequest<'_>) -> Refusal {
    let of = |slice: &Value| slice.str_at(&["spec", "nodeName"]) == node;
    let own = match request.operation {
        Operation::Create => of(request.object),
        Operation::Delete => request.old.is_some_and(of),
        // The node of a slice cannot change, and the stored one was looked at by authorization.
        _ => true,
    };
    let action = if request.operation == Operation::Delete { "delete" } else { "create" };
    if own {
        return Ok(());
    }
    Err(request.forbidden(&format!("can only {action} ResourceSlice with the same NodeName as the requesting node")))
}

/// A node asks for certificates of its own name only.
fn certificate(node: &str, request: &AdmissionRequest<'_>) -> Refusal {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let signer = request.object.str_at(&["spec", "signerName"]);
    if request.operation != Operation::Create || !KUBELET_SIGNERS.contains(&signer) {
        return Ok(());
    }
    let parsed = STANDARD
        .decode(request.object.str_at(&["spec", "request"]))
        .map_err(|error| error.to_string())
        .and_then(|pem| timonel_pki::CertificateRequest::parse(&pem).map_err(|error| error.to_string()))
        .map_err(|why| request.forbidden(&format!("unable to parse csr: {why}")))?;
    let (wanted, own) = (parsed.subject.common_name, format!("system:node:{node}"));
    if wanted == own {
        return Ok(());
    }
    Err(request.forbidden(&format!("can only create a node CSR with CN={own}, {wanted}")))
}

/// Whether a pod's volumes ask for a token of this audience, themselves or through their CSI driver.
fn names_audience(pod: &Value, audience: &str, lookup: &dyn Lookup) -> bool {
    let namespace = pod.str_at(&["metadata", "namespace"]);
    pod.list_at(&["spec", "volumes"]).iter().any(|volume| {
        let projected = volume.list_at(&["projected", "sources"]).iter().any(|source| {
            source.get("serviceAccountToken").is_some_and(|token| token.str_at(&["audience"]) == audience)
        });
        let claim = match volume.str_at(&["persistentVolumeClaim", "claimName"]) {
            "" if volume.get("ephemeral").is_some() => {
                format!("{}-{}", pod.str_at(&["metadata", "name"]), volume.str_at(&["name"]))
            }
            name => name.to_owned(),
        };
        let driver = match volume.str_at(&["csi", "driver"]) {
            "" => lookup
                .get("", "persistentvolumeclaims", namespace, &claim)
                .and_then(|claim| lookup.get("", "persistentvolumes", "", claim.str_at(&["spec", "volumeName"])))
                .map(|volume| volume.str_at(&["spec", "csi", "driver"]).to_owned())
                .unwrap_or_default(),
            inline => inline.to_owned(),
        };
        let of_driver = lookup.get("storage.k8s.io", "csidrivers", "", &driver).is_some_and(|driver| {
            driver.list_at(&["spec", "tokenRequests"]).iter().any(|token| token.str_at(&["audience"]) == audience)
        });
        projected || of_driver
    })
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value, reason = "tables of literals read better without references")]
mod tests {
    use super::*;
    use crate::{
        admission::testing::{Objects, Write},
        authn::{NODES_GROUP, User},
        authz::Rbac,
    };
    use serde_json::{Value as Json, json};

    fn world() -> Objects {
        let pod = |name: &str, node: &str| {
            json!({"metadata": {"name": name, "namespace": "ns", "uid": "u"}, "spec": {"nodeName": node,
                "volumes": [{"projected": {"sources": [{"serviceAccountToken": {"audience": "vault"}}, {"serviceAccountToken": {}}]}}]}})
        };
        Objects::default().with("", "pods", pod("mine", "n1")).with("", "pods", pod("other", "n2")).with(
            "",
            "nodes",
            json!({"metadata": {"name": "n1", "uid": "node-uid"}}),
        )
    }

    fn check(write: Write<'_>, refusal: &str) {
        let plugin = NodeRestriction::new(Arc::new(Rbac::default()));
        let done = write.by(User::new("system:node:n1", &[NODES_GROUP])).run(&plugin, &world());
        let refused = done.err().map(|error| error.message).unwrap_or_default();
        let fits = if refusal.is_empty() { refused.is_empty() } else { refused.ends_with(refusal) };
        assert!(fits, "{refused:?} should end with {refusal:?}");
    }

    fn node(labels: Json, taints: Json) -> Json {
        json!({"metadata": {"name": "n1", "labels": labels}, "spec": {"taints": taints}})
    }

    #[test]
    fn a_node_changes_itself_only() {
        let plain = || node(json!({}), json!([]));
        check(
            Write::create(
                "",
                "nodes",
                node(json!({"kubernetes.io/hostname": "n1", "own": "x"}), json!([{"key": "t"}])),
            ),
            "",
        );
        check(
            Write::create("", "nodes", json!({"metadata": {"name": "n2"}})),
            "node \"n1\" is not allowed to modify node \"n2\"",
        );
        check(
            Write::create("", "nodes", node(json!({"node-role.kubernetes.io/x": ""}), json!([]))),
            "node \"n1\" is not allowed to set the following labels: node-role.kubernetes.io/x",
        );
        check(
            Write::update("", "nodes", plain(), node(json!({"node-restriction.kubernetes.io/x": ""}), json!([]))),
            "is not allowed to modify labels: node-restriction.kubernetes.io/x",
        );
        check(Write::update("", "nodes", plain(), node(json!({"a.node.kubernetes.io/x": ""}), json!([]))), "");
        check(
            Write::update("", "nodes", plain(), node(json!({}), json!([{"key": "t"}]))),
            "node \"n1\" is not allowed to modify taints",
        );
    }

    #[test]
    fn a_node_touches_its_own_pods_only() {
        let pod = |node: &str| json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"nodeName": node}});
        check(Write::create("", "pods", pod("n1")), "node \"n1\" can only create mirror pods");
        check(Write::delete("", "pods", pod("n1")), "");
        check(
            Write::delete("", "pods", pod("n2")),
            "node \"n1\" can only delete pods with spec.nodeName set to itself",
        );
        check(Write::update("", "pods", pod("n1"), pod("n1")).on("status"), "");
        check(Write::update("", "pods", pod("n2"), pod("n2")).on("status"), "with spec.nodeName set to itself");
        check(Write::update("", "pods", pod("n1"), pod("n1")), "can only create and delete mirror pods");
        check(Write::create("", "pods", json!({"metadata": {"name": "mine", "namespace": "ns"}})).on("eviction"), "");
        check(
            Write::create("", "pods", json!({"metadata": {"name": "other", "namespace": "ns"}})).on("eviction"),
            "can only evict pods with spec.nodeName set to itself",
        );
    }

    #[test]
    fn mirror_pods_refer_to_nothing() {
        let mirror = |uid: &str, volume: Json| {
            json!({"metadata": {"name": "m", "namespace": "ns", "annotations": {MIRROR_ANNOTATION: "x"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid, "controller": true}]},
                "spec": {"nodeName": "n1", "volumes": [volume]}})
        };
        check(Write::create("", "pods", mirror("node-uid", json!({"hostPath": {}}))), "");
        check(Write::create("", "pods", mirror("x", json!({}))), "node n1 UID mismatch: expected x got node-uid");
        check(
            Write::create("", "pods", mirror("node-uid", json!({"secret": {}}))),
            "node \"n1\" can not create pods that reference secrets",
        );
    }

    #[test]
    fn tokens_are_for_own_pods_and_their_audiences() {
        let token = |pod: &str, uid: &str, audiences: Json| {
            let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid});
            let object = json!({"metadata": {"name": "sa", "namespace": "ns"}, "spec": {"boundObjectRef": bound, "audiences": audiences}});
            Write::create("", "serviceaccounts", object).on("token")
        };
        check(token("mine", "u", json!([])), "");
        check(token("mine", "u", json!(["vault"])), "");
        check(
            token("mine", "u", json!(["bank"])),
            "audience \"bank\" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience",
        );
        check(token("mine", "", json!([])), "without a uid");
        check(token("mine", "v", json!([])), "deleted and then recreated");
        check(token("other", "u", json!([])), "scheduled on a different node");
    }

    #[test]
    fn leases_bear_the_nodes_name() {
        let lease = |namespace: &str, name: &str| json!({"metadata": {"name": name, "namespace": namespace}});
        check(Write::create("coordination.k8s.io", "leases", lease(LEASES_NAMESPACE, "n1")), "");
        check(
            Write::create("coordination.k8s.io", "leases", lease(LEASES_NAMESPACE, "n2")),
            "with the same name as the requesting node",
        );
        check(
            Write::create("coordination.k8s.io", "leases", lease("ns", "n1")),
            "can only access leases in the \"kube-node-lease\" system namespace",
        );
        check(
            Write::create("storage.k8s.io", "csinodes", lease("", "n2")),
            "can only access CSINode with the same name as the requesting node",
        );
    }
}
