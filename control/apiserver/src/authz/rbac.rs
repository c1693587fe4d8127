//! The RBAC authorizer: roles and bindings compiled to an index by subject.
//!
//! The index is built again when a role or binding has changed; a decision then costs the bindings of the user
//! and its groups, not those of the cluster.

use super::{Attributes, Authorizer, Decision, Rule};
use crate::{
    admission::Lookup,
    authn::{MASTERS_GROUP, SERVICE_ACCOUNT_PREFIX, User},
};
use arc_swap::ArcSwapOption;
use std::{
    collections::{BTreeSet, HashMap},
    ops::ControlFlow,
    sync::Arc,
};
use timonel_api::Value;

/// The API group of roles and bindings.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";
const RESOURCES: [&str; 4] = ["clusterroles", "roles", "clusterrolebindings", "rolebindings"];

/// Lets the group of masters do anything, whatever the roles say.
#[derive(Debug, Default)]
pub struct Privileged;

impl Authorizer for Privileged {
    fn authorize(&self, user: &User, _: &Attributes<'_>, _: &dyn Lookup) -> Decision {
        if user.in_group(MASTERS_GROUP) { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
    }
}

/// Lets everyone see the health endpoints.
#[derive(Debug, Default)]
pub struct OpenPaths;

impl Authorizer for OpenPaths {
    fn authorize(&self, _: &User, attributes: &Attributes<'_>, _: &dyn Lookup) -> Decision {
        if !attributes.is_resource() && matches!(attributes.path, "/healthz" | "/livez" | "/readyz") {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion(String::new())
        }
    }
}

/// Role-based access control over the cluster's own roles and bindings.
#[derive(Debug, Default)]
pub struct Rbac {
    index: ArcSwapOption<Index>,
}

#[derive(Debug, Default)]
struct Index {
    generations: [u64; RESOURCES.len()],
    bindings: Vec<Binding>,
    cluster: Subjects,
    namespaces: HashMap<String, Subjects>,
}

/// Bindings by subject, in order of their names.
#[derive(Debug, Default)]
struct Subjects {
    users: HashMap<String, Vec<usize>>,
    groups: HashMap<String, Vec<usize>>,
}

#[derive(Debug)]
struct Binding {
    source: String,
    rules: Result<Arc<Vec<Rule>>, String>,
}

fn generations(lookup: &dyn Lookup) -> [u64; RESOURCES.len()] {
    RESOURCES.map(|resource| lookup.generation(GROUP, resource))
}

impl Index {
    fn build(lookup: &dyn Lookup) -> Self {
        // Read before the objects: a change in between only makes the index old, and it is built again.
        let generations = generations(lookup);
        let mut roles: HashMap<(String, String), Arc<Vec<Rule>>> = HashMap::new();
        for resource in ["clusterroles", "roles"] {
            for role in lookup.list(GROUP, resource, None) {
                let key = (role.str_at(&["metadata", "namespace"]), role.str_at(&["metadata", "name"]));
                roles.insert((key.0.to_owned(), key.1.to_owned()), Arc::new(Rule::all_of(&role)));
            }
        }
        let mut index = Self { generations, ..Self::default() };
        for resource in ["clusterrolebindings", "rolebindings"] {
            for binding in lookup.list(GROUP, resource, None) {
                index.add(&binding, &roles);
            }
        }
        index
    }

    fn add(&mut self, binding: &Value, roles: &HashMap<(String, String), Arc<Vec<Rule>>>) {
        let namespace = binding.str_at(&["metadata", "namespace"]);
        let name = binding.str_at(&["metadata", "name"]);
        let (role_kind, role) = (binding.str_at(&["roleRef", "kind"]), binding.str_at(&["roleRef", "name"]));
        let role_key = match role_kind {
            "Role" => (namespace.to_owned(), role.to_owned()),
            _ => (String::new(), role.to_owned()),
        };
        let rules = roles.get(&role_key).cloned().ok_or_else(|| missing_role(role_kind, role));
        let source = if namespace.is_empty() {
            format!("ClusterRoleBinding {name:?} of {role_kind} {role:?}")
        } else {
            format!("RoleBinding \"{name}/{namespace}\" of {role_kind} {role:?}")
        };
        let at = self.bindings.len();
        self.bindings.push(Binding { source, rules });
        let scope = if namespace.is_empty() {
            &mut self.cluster
        } else {
            self.namespaces.entry(namespace.to_owned()).or_default()
        };
        for subject in binding.list_at(&["subjects"]) {
            let name = subject.str_at(&["name"]);
            let list = match subject.str_at(&["kind"]) {
                "User" => scope.users.entry(name.to_owned()).or_default(),
                "Group" => scope.groups.entry(name.to_owned()).or_default(),
                "ServiceAccount" => {
                    let own = subject.str_at(&["namespace"]);
                    let account_namespace = if own.is_empty() { namespace } else { own };
                    if account_namespace.is_empty() {
                        continue;
                    }
                    scope.users.entry(format!("{SERVICE_ACCOUNT_PREFIX}{account_namespace}:{name}")).or_default()
                }
                _ => continue,
            };
            if list.last() != Some(&at) {
                list.push(at);
            }
        }
    }

    /// Visits the bindings that apply to the user, cluster-wide ones first.
    fn visit<B>(&self, user: &User, namespace: &str, mut visit: impl FnMut(&Binding) -> ControlFlow<B>) -> Option<B> {
        let scopes = [Some(&self.cluster), self.namespaces.get(namespace)];
        for scope in scopes.into_iter().flatten() {
            let groups = user.groups.iter().filter_map(|group| scope.groups.get(group));
            let found: BTreeSet<usize> =
                scope.users.get(&user.name).into_iter().chain(groups).flatten().copied().collect();
            for at in found {
                if let ControlFlow::Break(value) = visit(&self.bindings[at]) {
                    return Some(value);
                }
            }
        }
        None
    }
}

fn missing_role(kind: &str, name: &str) -> String {
    match kind {
        "Role" => format!("role.{GROUP} {name:?} not found"),
        "ClusterRole" => format!("clusterrole.{GROUP} {name:?} not found"),
        other => format!("unsupported role reference kind: {other:?}"),
    }
}

impl Rbac {
    fn index(&self, lookup: &dyn Lookup) -> Arc<Index> {
        let generations = generations(lookup);
        if let Some(index) = self.index.load_full()
            && index.generations == generations
        {
            return index;
        }
        let built = Arc::new(Index::build(lookup));
        self.index.store(Some(built.clone()));
        built
    }

    /// The rules that a user has in a namespace (with the cluster-wide ones), and what could not be resolved.
    #[must_use]
    pub fn rules_for(&self, user: &User, namespace: &str, lookup: &dyn Lookup) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        self.index(lookup).visit(user, namespace, |binding| {
            match &binding.rules {
                Ok(found) => rules.extend(found.iter().cloned()),
                Err(error) => errors.push(error.clone()),
            }
            ControlFlow::<()>::Continue(())
        });
        (rules, errors)
    }
}

impl Authorizer for Rbac {
    fn authorize(&self, user: &User, attributes: &Attributes<'_>, lookup: &dyn Lookup) -> Decision {
        let mut errors = Vec::new();
        let allowed = self.index(lookup).visit(user, attributes.namespace, |binding| match &binding.rules {
            Ok(rules) if rules.iter().any(|rule| rule.allows(attributes)) => {
                ControlFlow::Break(format!("RBAC: allowed by {}", binding.source))
            }
            Ok(_) => ControlFlow::Continue(()),
            Err(error) => {
                errors.push(error.clone());
                ControlFlow::Continue(())
            }
        });
        match (allowed, errors.len()) {
            (Some(reason), _) => Decision::Allow(reason),
            (None, 0) => Decision::NoOpinion(String::new()),
            (None, 1) => Decision::NoOpinion(format!("RBAC: {}", errors[0])),
            (None, _) => Decision::NoOpinion(format!("RBAC: [{}]", errors.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Objects;
    use serde_json::json;

    fn world() -> Objects {
        let mut objects = Objects::default();
        let role =
            |verbs: &[&str], resource: &str| json!([{"verbs": verbs, "apiGroups": [""], "resources": [resource]}]);
        objects.add(
            GROUP,
            "clusterroles",
            json!({"metadata": {"name": "reader"}, "rules": role(&["get", "list"], "pods")}),
        );
        objects.add(
            GROUP,
            "roles",
            json!({"metadata": {"name": "writer", "namespace": "a"}, "rules": role(&["*"], "configmaps")}),
        );
        let binding = |namespace: &str, name: &str, kind: &str, role: &str, subject: serde_json::Value| json!({"metadata": {"name": name, "namespace": namespace}, "roleRef": {"kind": kind, "name": role, "apiGroup": GROUP}, "subjects": [subject]});
        objects.add(
            GROUP,
            "clusterrolebindings",
            binding("", "all", "ClusterRole", "reader", json!({"kind": "Group", "name": "readers"})),
        );
        objects.add(
            GROUP,
            "rolebindings",
            binding("a", "w", "Role", "writer", json!({"kind": "User", "name": "alice"})),
        );
        objects.add(
            GROUP,
            "rolebindings",
            binding("a", "sa", "ClusterRole", "reader", json!({"kind": "ServiceAccount", "name": "bot"})),
        );
        objects.add(
            GROUP,
            "rolebindings",
            binding("b", "gone", "ClusterRole", "nothing", json!({"kind": "User", "name": "alice"})),
        );
        objects
    }

    #[test]
    fn bindings_decide() {
        let (objects, rbac) = (world(), Rbac::default());
        let bot = User::service_account("a", "bot", "");
        let alice = User::new("alice", &[]);
        let reader = User::new("bob", &["readers"]);
        for (user, verb, resource, namespace, expected) in [
            (&reader, "list", "pods", "", Some("")),
            (&reader, "delete", "pods", "", None),
            (&alice, "delete", "configmaps", "a", Some("")),
            (&alice, "delete", "configmaps", "", None),
            (&alice, "get", "configmaps", "b", None),
            (&bot, "get", "pods", "a", Some("")),
            (&bot, "get", "pods", "b", None),
        ] {
            let attributes = Attributes::resource(verb, "", resource, namespace, "");
            let decision = rbac.authorize(user, &attributes, &objects);
            assert_eq!(decision.is_allowed(), expected.is_some(), "{user:?} {attributes:?} {decision:?}");
        }
        let lost = rbac.authorize(&alice, &Attributes::resource("get", "", "pods", "b", ""), &objects);
        assert_eq!(lost.reason(), r#"RBAC: clusterrole.rbac.authorization.k8s.io "nothing" not found"#);
    }

    #[test]
    fn a_change_is_seen() {
        let (mut objects, rbac) = (world(), Rbac::default());
        let eve = User::new("eve", &[]);
        let attributes = Attributes::resource("get", "", "pods", "x", "");
        assert!(!rbac.authorize(&eve, &attributes, &objects).is_allowed());
        objects.add(
            GROUP,
            "clusterrolebindings",
            json!({"metadata": {"name": "eve"}, "roleRef": {"kind": "ClusterRole", "name": "reader"}, "subjects": [{"kind": "User", "name": "eve"}]}),
        );
        assert!(rbac.authorize(&eve, &attributes, &objects).is_allowed());
    }

    #[test]
    fn masters_and_health_need_no_role() {
        let objects = Objects::default();
        let all = Attributes::resource("delete", "", "nodes", "", "n");
        assert!(Privileged.authorize(&User::system("x"), &all, &objects).is_allowed());
        assert!(!Privileged.authorize(&User::anonymous(), &all, &objects).is_allowed());
        assert!(OpenPaths.authorize(&User::anonymous(), &Attributes::path("get", "/livez"), &objects).is_allowed());
        assert!(!OpenPaths.authorize(&User::anonymous(), &Attributes::path("get", "/metrics"), &objects).is_allowed());
    }
}
