//! The Node authorizer: a kubelet sees its own node, its pods, and what those pods refer to.
//!
//! Access to an object is decided by looking for a pod of the node that refers to it; there is no graph to keep
//! up to date.

use super::{Attributes, Authorizer, Decision, Rule};
use crate::{admission::Lookup, authn::User};
use timonel_api::Value;

/// Namespace of node leases.
const LEASES_NAMESPACE: &str = "kube-node-lease";
/// The annotation of pods that mirror a node's own static pods.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// Decides for members of the nodes' group.
#[derive(Debug)]
pub struct NodeAuthorizer {
    /// For resources that are the same for all nodes.
    rules: Vec<Rule>,
}

impl Default for NodeAuthorizer {
    fn default() -> Self {
        Self { rules: super::bootstrap::rules_of_role("system:node") }
    }
}

/// What a refusal says.
type Answer = Result<(), String>;

impl Authorizer for NodeAuthorizer {
    fn authorize(&self, user: &User, attributes: &Attributes<'_>, lookup: &dyn Lookup) -> Decision {
        let Some(node) = user.node_name() else { return Decision::NoOpinion(String::new()) };
        match (Request { node, attributes, lookup }).decide(&self.rules) {
            Ok(()) => Decision::Allow(String::new()),
            Err(reason) => Decision::NoOpinion(reason),
        }
    }
}

struct Request<'a> {
    node: &'a str,
    attributes: &'a Attributes<'a>,
    lookup: &'a dyn Lookup,
}

fn allow_if(condition: bool, otherwise: impl Into<String>) -> Answer {
    if condition { Ok(()) } else { Err(otherwise.into()) }
}

impl Request<'_> {
    fn decide(&self, rules: &[Rule]) -> Answer {
        let of = self.attributes;
        match (of.group, of.resource) {
            ("", "secrets" | "configmaps") => self.read_referenced(),
            ("", "persistentvolumeclaims") if of.subresource == "status" => {
                allow_if(matches!(of.verb, "update" | "patch"), "can only get/update/patch this type")?;
                self.related()
            }
            ("", "persistentvolumeclaims" | "persistentvolumes")
            | ("resource.k8s.io", "resourceclaims")
            | ("storage.k8s.io", "volumeattachments") => self.get_related(),
            ("", "serviceaccounts") => self.service_account(),
            ("coordination.k8s.io", "leases") => self.lease(),
            ("storage.k8s.io", "csinodes") => self.own_object("a CSINode", "CSINode"),
            ("resource.k8s.io", "resourceslices") => self.resource_slice(),
            ("", "nodes") => self.own_node(),
            ("", "pods") => self.pod(),
            ("certificates.k8s.io", "podcertificaterequests") => Err(String::new()),
            _ => allow_if(rules.iter().any(|rule| rule.allows(of)), ""),
        }
    }

    fn read_referenced(&self) -> Answer {
        let of = self.attributes;
        allow_if(of.is_read_only(), "can only read resources of this type")?;
        allow_if(of.subresource.is_empty(), "cannot read subresource")?;
        allow_if(!of.namespace.is_empty(), "can only read namespaced object of this type")?;
        self.related()
    }

    fn get_related(&self) -> Answer {
        let of = self.attributes;
        allow_if(of.verb == "get", "can only get individual resources of this type")?;
        allow_if(of.subresource.is_empty(), "cannot get subresource")?;
        self.related()
    }

    fn related(&self) -> Answer {
        let of = self.attributes;
        allow_if(!of.name.is_empty(), "No Object name found")?;
        let related = match of.resource {
            "persistentvolumes" => self.volume_related(of.name),
            "volumeattachments" => self
                .lookup
                .get(of.group, of.resource, "", of.name)
                .is_some_and(|attachment| attachment.str_at(&["spec", "nodeName"]) == self.node),
            "resourceslices" => self
                .lookup
                .get(of.group, of.resource, "", of.name)
                .is_some_and(|slice| slice.str_at(&["spec", "nodeName"]) == self.node),
            "pods" => self
                .lookup
                .get("", "pods", of.namespace, of.name)
                .is_some_and(|pod| pod.str_at(&["spec", "nodeName"]) == self.node),
            resource => {
                self.any_pod(of.namespace, |pod| refers(pod, resource, of.name))
                    || resource == "secrets" && self.secret_of_volume(of.namespace, of.name)
            }
        };
        allow_if(related, format!("no relationship found between node '{}' and this object", self.node))
    }

    /// Whether a pod of this node in the namespace passes the test. Mirror pods give no access.
    fn any_pod(&self, namespace: &str, test: impl Fn(&Value) -> bool) -> bool {
        self.lookup
            .pods_of_node(self.node, namespace)
            .iter()
            .any(|pod| pod.at(&["metadata", "annotations", MIRROR_ANNOTATION]).is_none() && test(pod))
    }

    fn volume_related(&self, name: &str) -> bool {
        let Some(volume) = self.lookup.get("", "persistentvolumes", "", name) else { return false };
        let claim = ["namespace", "name"].map(|field| volume.str_at(&["spec", "claimRef", field]));
        !claim[1].is_empty() && self.any_pod(claim[0], |pod| refers(pod, "persistentvolumeclaims", claim[1]))
    }

    /// Secrets that a volume names, for volumes claimed by pods of this node.
    fn secret_of_volume(&self, namespace: &str, secret: &str) -> bool {
        self.lookup.pods_of_node(self.node, "").iter().any(|pod| {
            claims(pod).any(|claim| {
                let place = pod.str_at(&["metadata", "namespace"]);
                let Some(claim) = self.lookup.get("", "persistentvolumeclaims", place, &claim) else { return false };
                let volume = self.lookup.get("", "persistentvolumes", "", claim.str_at(&["spec", "volumeName"]));
                volume.is_some_and(|volume| volume_names_secret(&volume, namespace, secret))
            })
        })
    }

    fn service_account(&self) -> Answer {
        let of = self.attributes;
        if of.verb == "get" && of.subresource.is_empty() {
            return self.read_referenced();
        }
        allow_if(of.verb == "create" && !of.name.is_empty(), "can only create tokens for individual service accounts")?;
        allow_if(of.subresource == "token", "can only create token subresource of serviceaccount")?;
        self.related()
    }

    fn lease(&self) -> Answer {
        let of = self.attributes;
        let verbs = matches!(of.verb, "get" | "create" | "update" | "patch" | "delete");
        allow_if(verbs, "can only get, create, update, patch, or delete a node lease")?;
        allow_if(
            of.namespace == LEASES_NAMESPACE,
            format!("can only access leases in the {LEASES_NAMESPACE:?} system namespace"),
        )?;
        // The name of a new lease is known to admission only, which checks it.
        let own = of.verb == "create" || of.name == self.node;
        allow_if(own, "can only access node lease with the same name as the requesting node")
    }

    fn own_object(&self, article: &str, kind: &str) -> Answer {
        let of = self.attributes;
        let verbs = matches!(of.verb, "get" | "create" | "update" | "patch" | "delete");
        allow_if(verbs, format!("can only get, create, update, patch, or delete {article}"))?;
        allow_if(of.subresource.is_empty(), format!("cannot authorize {kind} subresources"))?;
        let own = of.verb == "create" || of.name == self.node;
        allow_if(own, format!("can only access {kind} with the same name as the requesting node"))
    }

    fn resource_slice(&self) -> Answer {
        let of = self.attributes;
        allow_if(of.subresource.is_empty(), "cannot authorize ResourceSlice subresources")?;
        match of.verb {
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.related(),
            "watch" | "list" | "deletecollection" => allow_if(
                self.selects_own_node(),
                "can only list/watch/deletecollection resourceslices with nodeName field selector",
            ),
            _ => Err("only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection".to_owned()),
        }
    }

    fn own_node(&self) -> Answer {
        let of = self.attributes;
        match (of.subresource, of.verb) {
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
            ("", "get" | "list" | "watch") if of.name == self.node => Ok(()),
            ("", "get" | "list" | "watch") if of.name.is_empty() => {
                Err(format!("node '{}' cannot read all nodes, only its own Node object", self.node))
            }
            ("", "get" | "list" | "watch") => {
                Err(format!("node '{}' cannot read '{}', only its own Node object", self.node, of.name))
            }
            _ => Err(String::new()),
        }
    }

    fn pod(&self) -> Answer {
        let of = self.attributes;
        match (of.subresource, of.verb) {
            ("", "get") => self.related(),
            ("", "list" | "watch") if self.selects_own_node() => Ok(()),
            ("", "list" | "watch") if !of.name.is_empty() => self.related(),
            ("", "list" | "watch") => Err("can only list/watch pods with spec.nodeName field selector".to_owned()),
            // Which pods, admission checks.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => Err(String::new()),
        }
    }

    fn selects_own_node(&self) -> bool {
        self.attributes.field_selector.split(',').any(|term| {
            let term = term.trim();
            let Some((field, value)) = term.split_once("==").or_else(|| term.split_once('=')) else { return false };
            field == "spec.nodeName" && value == self.node
        })
    }
}

/// Names of the claims of a pod's volumes, with those of generic ephemeral volumes.
fn claims(pod: &Value) -> impl Iterator<Item = String> {
    pod.list_at(&["spec", "volumes"]).iter().filter_map(|volume| {
        let claim = volume.str_at(&["persistentVolumeClaim", "claimName"]);
        if !claim.is_empty() {
            return Some(claim.to_owned());
        }
        volume.get("ephemeral")?;
        Some(format!("{}-{}", pod.str_at(&["metadata", "name"]), volume.str_at(&["name"])))
    })
}

/// Whether a pod refers to an object of its namespace.
pub(crate) fn refers(pod: &Value, resource: &str, name: &str) -> bool {
    match resource {
        "serviceaccounts" => pod.str_at(&["spec", "serviceAccountName"]) == name,
        "persistentvolumeclaims" => claims(pod).any(|claim| claim == name),
        "resourceclaims" => {
            let named = |list: &[Value], field: &str| list.iter().any(|claim| claim.str_at(&[field]) == name);
            named(pod.list_at(&["spec", "resourceClaims"]), "resourceClaimName")
                || named(pod.list_at(&["status", "resourceClaimStatuses"]), "resourceClaimName")
                || pod.str_at(&["status", "extendedResourceClaimStatus", "resourceClaimName"]) == name
        }
        "secrets" => pod_names(pod, true, name),
        "configmaps" => pod_names(pod, false, name),
        _ => false,
    }
}

/// Whether a pod names a Secret (or ConfigMap) anywhere.
pub(crate) fn pod_names(pod: &Value, secret: bool, name: &str) -> bool {
    let (reference, key_reference, source, name_in_volume) = if secret {
        ("secretRef", "secretKeyRef", "secret", "secretName")
    } else {
        ("configMapRef", "configMapKeyRef", "configMap", "name")
    };
    let in_container = |container: &Value| {
        container.list_at(&["envFrom"]).iter().any(|from| from.str_at(&[reference, "name"]) == name)
            || container.list_at(&["env"]).iter().any(|env| env.str_at(&["valueFrom", key_reference, "name"]) == name)
    };
    let in_volume = |volume: &Value| {
        volume.str_at(&[source, name_in_volume]) == name
            || volume
                .list_at(&["projected", "sources"])
                .iter()
                .any(|projected| projected.str_at(&[source, "name"]) == name)
            || secret && volume_source_secrets(volume).any(|found| found == name)
    };
    let containers = ["containers", "initContainers", "ephemeralContainers"];
    containers.iter().any(|list| pod.list_at(&["spec", list]).iter().any(in_container))
        || pod.list_at(&["spec", "volumes"]).iter().any(in_volume)
        || secret && pod.list_at(&["spec", "imagePullSecrets"]).iter().any(|pull| pull.str_at(&["name"]) == name)
}

/// Secrets that a pod's own volume sources name, beyond the `secret` source.
fn volume_source_secrets(volume: &Value) -> impl Iterator<Item = &str> {
    let places: [&[&str]; 9] = [
        &["azureFile", "secretName"],
        &["cephfs", "secretRef", "name"],
        &["cinder", "secretRef", "name"],
        &["flexVolume", "secretRef", "name"],
        &["rbd", "secretRef", "name"],
        &["scaleIO", "secretRef", "name"],
        &["iscsi", "secretRef", "name"],
        &["storageos", "secretRef", "name"],
        &["csi", "nodePublishSecretRef", "name"],
    ];
    places.into_iter().map(|place| volume.str_at(place)).filter(|name| !name.is_empty())
}

/// Secrets of a persistent volume that a kubelet needs.
fn volume_names_secret(volume: &Value, namespace: &str, name: &str) -> bool {
    ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"].iter().any(|reference| {
        volume.str_at(&["spec", "csi", reference, "name"]) == name
            && volume.str_at(&["spec", "csi", reference, "namespace"]) == namespace
    }) || ["cephfs", "cinder", "flexVolume", "rbd", "iscsi", "scaleIO"].iter().any(|source| {
        let own = volume.str_at(&["spec", source, "secretRef", "namespace"]);
        let namespace_matches =
            own == namespace || own.is_empty() && volume.str_at(&["spec", "claimRef", "namespace"]) == namespace;
        volume.str_at(&["spec", source, "secretRef", "name"]) == name && namespace_matches
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admission::testing::Objects, authn::NODES_GROUP};
    use serde_json::json;

    fn world() -> Objects {
        let pod = |name: &str, node: &str, spec: serde_json::Value| {
            let mut pod = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec});
            pod["spec"]["nodeName"] = node.into();
            pod
        };
        let mut mirror = pod("mirror", "n1", json!({"volumes": [{"name": "v", "secret": {"secretName": "mirrored"}}]}));
        mirror["metadata"]["annotations"] = json!({MIRROR_ANNOTATION: "x"});
        Objects::default()
            .with("", "pods", pod("p1", "n1", json!({
                "serviceAccountName": "sa",
                "imagePullSecrets": [{"name": "pull"}],
                "containers": [{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}}], "envFrom": [{"configMapRef": {"name": "cm"}}]}],
                "volumes": [
                    {"name": "s", "secret": {"secretName": "vol"}},
                    {"name": "p", "projected": {"sources": [{"configMap": {"name": "ca"}}]}},
                    {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
                    {"name": "e", "ephemeral": {}}]})))
            .with("", "pods", pod("p2", "n2", json!({"volumes": [{"name": "s", "secret": {"secretName": "other"}}]})))
            .with("", "pods", mirror)
            .with("", "persistentvolumeclaims", json!({"metadata": {"name": "claim", "namespace": "ns"}, "spec": {"volumeName": "pv"}}))
            .with("", "persistentvolumes", json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"namespace": "ns", "name": "claim"}, "csi": {"nodeStageSecretRef": {"namespace": "csi", "name": "stage"}}}}))
            .with("storage.k8s.io", "volumeattachments", json!({"metadata": {"name": "va"}, "spec": {"nodeName": "n1"}}))
    }

    #[test]
    fn a_node_sees_what_its_pods_refer_to_and_no_more() {
        let objects = world();
        let authorizer = NodeAuthorizer::default();
        let user = User::new("system:node:n1", &[NODES_GROUP]);
        for (request, allowed) in [
            ("get  secrets ns vol", true),
            ("list  secrets ns env", true),
            ("get  secrets ns pull", true),
            ("get  secrets ns other", false),
            ("get  secrets ns mirrored", false),
            ("get  secrets elsewhere vol", false),
            ("get  secrets csi stage", true),
            ("list  secrets ns -", false),
            ("update  secrets ns vol", false),
            ("get  configmaps ns cm", true),
            ("get  configmaps ns ca", true),
            ("get  configmaps ns vol", false),
            ("get  persistentvolumeclaims ns claim", true),
            ("get  persistentvolumeclaims ns p1-e", true),
            ("patch  persistentvolumeclaims/status ns claim", true),
            ("delete  persistentvolumeclaims ns claim", false),
            ("get  persistentvolumes - pv", true),
            ("get  persistentvolumes - pv2", false),
            ("get storage.k8s.io volumeattachments - va", true),
            ("create  serviceaccounts/token ns sa", true),
            ("create  serviceaccounts/token ns default", false),
            ("get  serviceaccounts ns sa", true),
            ("update coordination.k8s.io leases kube-node-lease n1", true),
            ("create coordination.k8s.io leases kube-node-lease -", true),
            ("update coordination.k8s.io leases kube-node-lease n2", false),
            ("update coordination.k8s.io leases ns n1", false),
            ("patch storage.k8s.io csinodes - n1", true),
            ("patch storage.k8s.io csinodes - n2", false),
            ("get  nodes - n1", true),
            ("get  nodes - n2", false),
            ("list  nodes - -", false),
            ("patch  nodes/status - n1", true),
            ("get  pods ns p1", true),
            ("get  pods ns p2", false),
            ("list  pods - -", false),
            ("create  pods ns -", true),
            ("patch  pods/status ns p1", true),
            ("list  services - -", true),
            ("delete  services ns s", false),
            ("create  events ns -", true),
        ] {
            let parts: Vec<&str> = request.split(' ').map(|part| if part == "-" { "" } else { part }).collect();
            let (resource, subresource) = parts[2].split_once('/').unwrap_or((parts[2], ""));
            let attributes =
                Attributes { subresource, ..Attributes::resource(parts[0], parts[1], resource, parts[3], parts[4]) };
            let decision = authorizer.authorize(&user, &attributes, &objects);
            assert_eq!(decision.is_allowed(), allowed, "{request}: {decision:?}");
            assert!(!authorizer.authorize(&User::new("alice", &[]), &attributes, &objects).is_allowed());
        }
        let scoped =
            Attributes { field_selector: "spec.nodeName=n1", ..Attributes::resource("watch", "", "pods", "", "") };
        assert!(authorizer.authorize(&user, &scoped, &objects).is_allowed());
        let wider = Attributes { field_selector: "spec.nodeName!=n1", ..scoped };
        assert!(!authorizer.authorize(&user, &wider, &objects).is_allowed());
    }
}
