//! What authentication, authorization and admission may see of the cluster: decoded objects, by reference.

use crate::authz::Decision;
use std::sync::Arc;
use timonel_api::Value;

/// Decoded objects of one cluster, from its watch cache. Answers at once and never does I/O.
///
/// Resources are named by group and plural (`("apps", "deployments")`); cluster-scoped objects have the
/// namespace `""`.
pub trait Lookup: Send + Sync {
    /// One object.
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>>;

    /// Objects of one namespace, or of all, in order of namespace and name.
    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>>;

    /// Changes whenever an object of this resource does: what was compiled from the objects is good until then.
    fn generation(&self, group: &str, resource: &str) -> u64;

    /// What an authorizer outside this process, known by a number, says to a question; `None` while that is not known.
    /// Whoever decides goes on as if it had no opinion: the question is asked then, and the decision made again.
    fn said(&self, authorizer: u64, question: &str) -> Option<Decision> {
        let _ = (authorizer, question);
        None
    }

    /// Pods of a node, in one namespace or (`""`) in all. An implementation with an index by node should
    /// override this: the Node authorizer asks it for every object that a kubelet reads.
    fn pods_of_node(&self, node: &str, namespace: &str) -> Vec<Arc<Value>> {
        let mut pods = self.list("", "pods", (!namespace.is_empty()).then_some(namespace));
        pods.retain(|pod| pod.str_at(&["spec", "nodeName"]) == node);
        pods
    }
}
