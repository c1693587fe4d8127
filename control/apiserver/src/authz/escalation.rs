//! Nobody grants what they do not have: checks on writes of roles and bindings.

use super::{Attributes, Authorizer, Rbac, Rule, rbac::GROUP, rules};
use crate::{
    admission::{AdmissionError, AdmissionPlugin, AdmissionRequest, Lookup, Operation},
    authn::MASTERS_GROUP,
};
use std::{collections::BTreeSet, sync::Arc};
use timonel_api::Value;

/// Refuses roles and bindings that grant more than the user has, unless the user may `escalate` or `bind`.
#[derive(Debug)]
pub struct EscalationCheck {
    rbac: Arc<Rbac>,
    authorizer: Arc<dyn Authorizer>,
}

impl EscalationCheck {
    /// `authorizer` is the cluster's whole authorizer, `rbac` the part of it that knows rules.
    #[must_use]
    pub fn new(rbac: Arc<Rbac>, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { rbac, authorizer }
    }

    fn may(&self, verb: &str, resource: &str, name: &str, request: &AdmissionRequest<'_>, lookup: &dyn Lookup) -> bool {
        let attributes =
            Attributes { version: "*", ..Attributes::resource(verb, GROUP, resource, request.namespace, name) };
        self.authorizer.authorize(request.user, &attributes, lookup).is_allowed()
    }

    fn confirm(
        &self,
        wanted: &[Rule],
        request: &AdmissionRequest<'_>,
        lookup: &dyn Lookup,
    ) -> Result<(), AdmissionError> {
        let (owned, errors) = self.rbac.rules_for(request.user, request.namespace, lookup);
        let missing = rules::uncovered(&owned, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let lines: BTreeSet<String> = rules::compacted(missing).iter().map(ToString::to_string).collect();
        let lines: Vec<String> = lines.into_iter().collect();
        let user = request.user;
        let mut why = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            rules::quoted_list(&user.groups),
            lines.join("\n")
        );
        if !errors.is_empty() {
            why.push_str(&format!("; resolution errors: [{}]", errors.join(", ")));
        }
        Err(AdmissionError::forbidden(GROUP, request.resource, request.display_name(), &why))
    }

    fn check_role(&self, request: &AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        if self.may("escalate", request.resource, request.name, request, lookup) {
            return Ok(());
        }
        self.confirm(&Rule::all_of(request.object), request, lookup)?;
        let aggregates = |role: &Value| !role.list_at(&["aggregationRule", "clusterRoleSelectors"]).is_empty();
        if aggregates(request.object) || request.old.is_some_and(aggregates) {
            let everything = [
                Rule::resources(&["*"], "*", &["*"]),
                Rule { verbs: vec!["*".into()], urls: vec!["*".into()], ..Rule::default() },
            ];
            self.confirm(&everything, request, lookup).map_err(|_| {
                let why = "must have cluster-admin privileges to use the aggregationRule";
                AdmissionError::forbidden(GROUP, request.resource, request.display_name(), why)
            })?;
        }
        Ok(())
    }

    fn check_binding(&self, request: &AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        let (kind, name) = (request.object.str_at(&["roleRef", "kind"]), request.object.str_at(&["roleRef", "name"]));
        let (resource, namespace) = match kind {
            "ClusterRole" => ("clusterroles", ""),
            "Role" => ("roles", request.namespace),
            // The kind's own validation refuses every other.
            _ => return Ok(()),
        };
        if self.may("bind", resource, name, request, lookup) {
            return Ok(());
        }
        let role = lookup
            .get(GROUP, resource, namespace, name)
            .ok_or_else(|| AdmissionError::not_found(GROUP, resource, name))?;
        self.confirm(&Rule::all_of(&role), request, lookup)
    }
}

impl AdmissionPlugin for EscalationCheck {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn validate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if !writes || request.group != GROUP || request.user.in_group(MASTERS_GROUP) || only_collects(request) {
            return Ok(());
        }
        match request.resource {
            "roles" | "clusterroles" => self.check_role(request, lookup),
            "rolebindings" | "clusterrolebindings" => self.check_binding(request, lookup),
            _ => Ok(()),
        }
    }
}

/// Whether the update changes only what garbage collection changes.
fn only_collects(request: &AdmissionRequest<'_>) -> bool {
    let Some(old) = request.old else { return false };
    let strip = |value: &Value| {
        let mut value = value.clone();
        for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
            value.remove_at(&["metadata", field]);
        }
        value
    };
    strip(old) == strip(request.object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::testing::{Objects, Write},
        authn::User,
    };
    use serde_json::json;

    fn rules(verbs: &[&str], resource: &str) -> serde_json::Value {
        json!([{"verbs": verbs, "apiGroups": [""], "resources": [resource]}])
    }

    fn world() -> Objects {
        let bind = |user: &str, role: &str| json!({"metadata": {"name": user}, "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": [{"kind": "User", "name": user}]});
        Objects::default()
            .with(GROUP, "clusterroles", json!({"metadata": {"name": "reader"}, "rules": rules(&["get"], "pods")}))
            .with(GROUP, "clusterroles", json!({"metadata": {"name": "all"}, "rules": rules(&["*"], "*")}))
            .with(
                GROUP,
                "clusterroles",
                json!({"metadata": {"name": "granter"}, "rules": [
                {"verbs": ["bind", "escalate"], "apiGroups": [GROUP], "resources": ["clusterroles", "roles"]}]}),
            )
            .with(GROUP, "clusterrolebindings", bind("reader", "reader"))
            .with(GROUP, "clusterrolebindings", bind("granter", "granter"))
    }

    #[test]
    fn nobody_grants_what_they_lack() {
        let objects = world();
        let rbac = Arc::new(Rbac::default());
        let check = EscalationCheck::new(rbac.clone(), rbac);
        let role = |rules| json!({"metadata": {"name": "new", "namespace": "ns"}, "rules": rules});
        let binding = |role: &str| json!({"metadata": {"name": "new", "namespace": "ns"}, "roleRef": {"kind": "ClusterRole", "name": role}});
        for (user, resource, object, refusal) in [
            ("reader", "roles", role(rules(&["get"], "pods")), ""),
            (
                "reader",
                "roles",
                role(rules(&["get", "list", "watch"], "pods")),
                "roles.rbac.authorization.k8s.io \"new\" is forbidden: user \"reader\" (groups=[\"g\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\" \"watch\"]}",
            ),
            ("granter", "roles", role(rules(&["*"], "*")), ""),
            ("reader", "rolebindings", binding("reader"), ""),
            ("granter", "rolebindings", binding("all"), ""),
            (
                "reader",
                "rolebindings",
                binding("all"),
                "rolebindings.rbac.authorization.k8s.io \"new\" is forbidden: user \"reader\" (groups=[\"g\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"*\"], Verbs:[\"*\"]}",
            ),
            ("reader", "rolebindings", binding("none"), "clusterroles.rbac.authorization.k8s.io \"none\" not found"),
        ] {
            let write = Write::create(GROUP, resource, object.clone()).by(User::new(user, &["g"]));
            let refused = write.run(&check, &objects).err().map(|error| error.message).unwrap_or_default();
            assert_eq!(refused, refusal, "{user} {object}");
        }
        let admin = Write::create(GROUP, "roles", role(rules(&["*"], "*"))).by(User::new("x", &[MASTERS_GROUP]));
        admin.run(&check, &objects).unwrap();
    }

    #[test]
    fn the_garbage_collector_may_touch_any_role() {
        let objects = world();
        let rbac = Arc::new(Rbac::default());
        let check = EscalationCheck::new(rbac.clone(), rbac);
        let role = |finalizers: serde_json::Value| json!({"metadata": {"name": "all", "finalizers": finalizers}, "rules": rules(&["*"], "*")});
        Write::update(GROUP, "clusterroles", role(json!(["x"])), role(json!([]))).run(&check, &objects).unwrap();
    }
}
