//! NamespaceLifecycle: nothing is made in a namespace that does not exist or is ending.

use super::{AdmissionError, AdmissionPlugin, AdmissionRequest, Lookup, Operation};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// See the module.
#[derive(Debug, Default)]
pub struct NamespaceLifecycle;

impl AdmissionPlugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn mutate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        if request.is_any("", "namespaces") {
            if request.operation == Operation::Delete && IMMORTAL.contains(&request.name) {
                let why = "this namespace may not be deleted";
                return Err(AdmissionError::forbidden("", "namespaces", request.name, why));
            }
            return Ok(());
        }
        let is_review = request.group == "authorization.k8s.io" && request.resource == "localsubjectaccessreviews";
        let checked = matches!(request.operation, Operation::Create | Operation::Update);
        if request.namespace.is_empty() || !checked || is_review {
            return Ok(());
        }
        let Some(namespace) = lookup.get("", "namespaces", "", request.namespace) else {
            return Err(AdmissionError::not_found("", "namespaces", request.namespace));
        };
        if request.operation == Operation::Create && namespace.str_at(&["status", "phase"]) == "Terminating" {
            let name = request.namespace;
            let why = format!("unable to create new content in namespace {name} because it is being terminated");
            let cause = format!("namespace {name} is being terminated");
            return Err(request.forbidden(&why).with_cause("NamespaceTerminating", cause, "metadata.namespace"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Objects, Write};
    use serde_json::json;

    #[test]
    fn namespaces_bound_what_lives_in_them() {
        let objects = Objects::default()
            .with("", "namespaces", json!({"metadata": {"name": "live"}, "status": {"phase": "Active"}}))
            .with("", "namespaces", json!({"metadata": {"name": "ending"}, "status": {"phase": "Terminating"}}));
        let pod = |namespace: &str| json!({"metadata": {"name": "p", "namespace": namespace}});
        let namespace = |name: &str| json!({"metadata": {"name": name}});
        for (write, refusal) in [
            (Write::create("", "pods", pod("live")), ""),
            (Write::create("", "pods", pod("none")), "namespaces \"none\" not found"),
            (Write::update("", "pods", pod("ending"), pod("ending")), ""),
            (Write::delete("", "pods", pod("ending")), ""),
            (
                Write::create("", "pods", pod("ending")),
                "pods \"p\" is forbidden: unable to create new content in namespace ending because it is being terminated",
            ),
            (Write::create("", "namespaces", namespace("new")), ""),
            (Write::delete("", "namespaces", namespace("live")), ""),
            (
                Write::delete("", "namespaces", namespace("kube-system")),
                "namespaces \"kube-system\" is forbidden: this namespace may not be deleted",
            ),
        ] {
            let refused = write.run(&NamespaceLifecycle, &objects).err();
            assert_eq!(refused.map(|error| error.message).unwrap_or_default(), refusal);
        }
        let error = Write::create("", "pods", pod("ending")).run(&NamespaceLifecycle, &objects).unwrap_err();
        assert_eq!(error.details.causes[0].kind, "NamespaceTerminating");
    }
}
