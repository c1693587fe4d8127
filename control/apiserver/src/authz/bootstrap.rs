//! The roles and bindings that every cluster starts with, and how they are brought up to date.

use super::{Rule, rbac::GROUP, rules::uncovered};
use crate::admission::Lookup;
use compact_str::CompactString;
use std::collections::BTreeMap;
use timonel_api::Value;

/// What the file's lines mean stands in its header.
const TABLE: &str = include_str!("bootstrap.tsv");
const BOOTSTRAP_LABEL: &str = "kubernetes.io/bootstrapping";
const BOOTSTRAP_VALUE: &str = "rbac-defaults";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const LABEL_PREFIX: &str = "rbac.authorization.k8s.io/";

/// One object to write so that the defaults hold.
#[derive(Clone, Debug, PartialEq)]
pub struct BootstrapWrite {
    /// `clusterroles`, `roles`, `clusterrolebindings` or `rolebindings`.
    pub resource: &'static str,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// What to do.
    pub action: BootstrapAction,
}

/// What to do with an object.
#[derive(Clone, Debug, PartialEq)]
pub enum BootstrapAction {
    /// It does not exist: create it.
    Create(Value),
    /// It lacks something: update it; `metadata.resourceVersion` is the precondition.
    Update(Value),
    /// A binding refers to another role, which cannot be changed: delete it, then create it.
    Replace(Value),
}

/// The default objects: resource and object, roles before bindings.
#[must_use]
pub(super) fn defaults() -> Vec<(&'static str, Value)> {
    let mut objects: Vec<(&'static str, Value)> = Vec::new();
    for line in TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let columns: Vec<&str> = line.split('\t').map(|text| if text == "-" { "" } else { text }).collect();
        match columns[..] {
            ["role", kind, namespace, name, aggregates, labels] => {
                objects.push((resource_of(kind), role(kind, namespace, name, aggregates, labels)));
            }
            ["rule", verbs, groups, resources, names, urls] => {
                let rule = Rule {
                    verbs: list(verbs),
                    groups: list(groups),
                    resources: list(resources),
                    names: list(names),
                    urls: list(urls),
                };
                if let Some((_, role)) = objects.last_mut() {
                    role.entry_at(&["rules"]).make_list().push(rule.to_value());
                }
            }
            ["binding", kind, namespace, name, role_kind, role, subjects] => {
                objects.push((resource_of(kind), binding(kind, namespace, name, [role_kind, role], subjects)));
            }
            _ => unreachable!("the table is a constant, and a test reads all of it: {line}"),
        }
    }
    objects
}

fn list(text: &str) -> Vec<CompactString> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts.map(|part| if part == "core" { CompactString::default() } else { part.into() }).collect()
}

fn resource_of(kind: &str) -> &'static str {
    match kind {
        "ClusterRole" => "clusterroles",
        "Role" => "roles",
        "ClusterRoleBinding" => "clusterrolebindings",
        _ => "rolebindings",
    }
}

fn object(kind: &str, namespace: &str, name: &str) -> Value {
    let mut object = Value::object();
    object.set_at(&["apiVersion"], "rbac.authorization.k8s.io/v1");
    object.set_at(&["kind"], kind);
    object.set_at(&["metadata", "name"], name);
    if !namespace.is_empty() {
        object.set_at(&["metadata", "namespace"], namespace);
    }
    object.set_at(&["metadata", "labels", BOOTSTRAP_LABEL], BOOTSTRAP_VALUE);
    object.set_at(&["metadata", "annotations", AUTOUPDATE], "true");
    object
}

fn role(kind: &str, namespace: &str, name: &str, aggregates: &str, labels: &str) -> Value {
    let mut role = object(kind, namespace, name);
    for label in list(labels) {
        role.set_at(&["metadata", "labels", &format!("{LABEL_PREFIX}{label}")], "true");
    }
    for label in list(aggregates) {
        let mut selector = Value::object();
        selector.set_at(&["matchLabels", &format!("{LABEL_PREFIX}{label}")], "true");
        role.entry_at(&["aggregationRule", "clusterRoleSelectors"]).make_list().push(selector);
    }
    role
}

fn binding(kind: &str, namespace: &str, name: &str, [role_kind, role]: [&str; 2], subjects: &str) -> Value {
    let mut binding = object(kind, namespace, name);
    binding.set_at(&["roleRef", "apiGroup"], GROUP);
    binding.set_at(&["roleRef", "kind"], role_kind);
    binding.set_at(&["roleRef", "name"], role);
    for subject in list(subjects) {
        let mut parts = subject.split('|');
        let (kind, namespace, name) =
            (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let mut value = Value::object();
        value.set_at(&["kind"], kind);
        value.set_at(&["name"], name);
        if kind == "ServiceAccount" {
            value.set_at(&["namespace"], namespace);
        } else {
            value.set_at(&["apiGroup"], GROUP);
        }
        binding.entry_at(&["subjects"]).make_list().push(value);
    }
    binding
}

/// The rules of a default cluster role.
pub(crate) fn rules_of_role(name: &str) -> Vec<Rule> {
    defaults()
        .iter()
        .find(|(resource, role)| *resource == "clusterroles" && role.str_at(&["metadata", "name"]) == name)
        .map(|(_, role)| Rule::all_of(role))
        .unwrap_or_default()
}

/// What to write so that every default object exists and grants at least what it should. Objects whose
/// autoupdate annotation is `"false"` are left alone; nothing is ever taken away from an object.
#[must_use]
pub fn plan(existing: &dyn Lookup) -> Vec<BootstrapWrite> {
    let mut defaults = defaults();
    fill_aggregated(&mut defaults);
    defaults
        .into_iter()
        .filter_map(|(resource, wanted)| {
            let namespace = wanted.str_at(&["metadata", "namespace"]).to_owned();
            let name = wanted.str_at(&["metadata", "name"]).to_owned();
            let action = match existing.get(GROUP, resource, &namespace, &name) {
                None => BootstrapAction::Create(wanted),
                Some(found) => reconcile(&found, wanted)?,
            };
            Some(BootstrapWrite { resource, namespace, name, action })
        })
        .collect()
}

/// Gives roles that aggregate others the rules of those, so that they are of use before the controller runs.
fn fill_aggregated(defaults: &mut [(&'static str, Value)]) {
    // Roles aggregate roles that aggregate: view, then edit, then admin need a pass each.
    const PASSES: usize = 3;
    for _ in 0..PASSES {
        let roles: Vec<Value> = defaults.iter().filter(|(r, _)| *r == "clusterroles").map(|(_, v)| v.clone()).collect();
        for (_, role) in defaults.iter_mut() {
            if let Some(rules) = aggregate(role, roles.iter()) {
                role.set_at(&["rules"], rules);
            }
        }
    }
}

/// The rules that an aggregating cluster role should have, from all cluster roles in order of name; `None` when
/// it does not aggregate. (Also what the aggregation controller computes.)
pub fn aggregate<'a>(role: &Value, all: impl Iterator<Item = &'a Value>) -> Option<Vec<Value>> {
    let selectors = role.list_at(&["aggregationRule", "clusterRoleSelectors"]);
    if selectors.is_empty() {
        return None;
    }
    let own_name = role.str_at(&["metadata", "name"]);
    let matches = |other: &Value| {
        selectors.iter().any(|selector| {
            let labels = selector.get("matchLabels").and_then(Value::as_object);
            labels.is_some_and(|labels| {
                labels.iter().all(|(key, value)| other.at(&["metadata", "labels", key]) == Some(value))
            })
        })
    };
    let sources: BTreeMap<&str, &Value> = all
        .map(|other| (other.str_at(&["metadata", "name"]), other))
        .filter(|(name, other)| *name != own_name && matches(other))
        .collect();
    let mut rules: Vec<Value> = Vec::new();
    for rule in sources.values().flat_map(|source| source.list_at(&["rules"])) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    Some(rules)
}

fn reconcile(found: &Value, wanted: Value) -> Option<BootstrapAction> {
    if found.str_at(&["metadata", "annotations", AUTOUPDATE]) == "false" {
        return None;
    }
    if wanted.get("roleRef").is_some() && found.get("roleRef") != wanted.get("roleRef") {
        return Some(BootstrapAction::Replace(wanted));
    }
    let mut updated = found.clone();
    for map in ["labels", "annotations"] {
        for (key, value) in wanted.at(&["metadata", map]).and_then(Value::as_object).into_iter().flat_map(|o| o.iter())
        {
            let slot = updated.entry_at(&["metadata", map, key]);
            if slot.is_null() {
                *slot = value.clone();
            }
        }
    }
    let missing = uncovered(&Rule::all_of(found), &Rule::all_of(&wanted));
    if !missing.is_empty() {
        updated.entry_at(&["rules"]).make_list().extend(missing.iter().map(Rule::to_value));
    }
    for path in [&["subjects"][..], &["aggregationRule", "clusterRoleSelectors"]] {
        let missing: Vec<Value> =
            wanted.list_at(path).iter().filter(|value| !found.list_at(path).contains(value)).cloned().collect();
        if !missing.is_empty() {
            updated.entry_at(path).make_list().extend(missing);
        }
    }
    (updated != *found).then_some(BootstrapAction::Update(updated))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::testing::Objects,
        authn::User,
        authz::{Attributes, Authorizer, Rbac},
    };
    use serde_json::json;

    fn install(objects: &mut Objects) -> usize {
        let writes = plan(objects);
        for write in &writes {
            let (BootstrapAction::Create(object) | BootstrapAction::Update(object) | BootstrapAction::Replace(object)) =
                &write.action;
            objects.add(GROUP, write.resource, object.into());
        }
        writes.len()
    }

    #[test]
    fn the_defaults_are_complete_and_stable() {
        let mut objects = Objects::default();
        assert_eq!(install(&mut objects), 135);
        assert_eq!(install(&mut objects), 0, "a second look has nothing to do");
        for role in objects.list(GROUP, "clusterrolebindings", None) {
            let name = role.str_at(&["roleRef", "name"]);
            assert!(objects.get(GROUP, "clusterroles", "", name).is_some(), "{name}");
        }
    }

    #[test]
    fn the_defaults_let_people_do_their_work() {
        let mut objects = Objects::default();
        install(&mut objects);
        for (name, role) in [("eve", "edit"), ("vic", "view"), ("ada", "admin")] {
            objects.add(GROUP, "rolebindings", json!({"metadata": {"name": name, "namespace": "a"}, "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": [{"kind": "User", "name": name}]}));
        }
        let rbac = Rbac::default();
        let anonymous = User::anonymous();
        let user = |name: &str| User::new(name, &["system:authenticated"]);
        for (user, attributes, allowed) in [
            (user("eve"), Attributes::resource("create", "apps", "deployments", "a", ""), true),
            (user("eve"), Attributes::resource("create", GROUP, "roles", "a", ""), false),
            (user("ada"), Attributes::resource("create", GROUP, "roles", "a", ""), true),
            (user("vic"), Attributes::resource("list", "", "pods", "a", ""), true),
            (user("vic"), Attributes::resource("get", "", "secrets", "a", "s"), false),
            (user("vic"), Attributes::resource("list", "", "pods", "b", ""), false),
            (
                user("x"),
                Attributes::resource("create", "authorization.k8s.io", "selfsubjectaccessreviews", "", ""),
                true,
            ),
            (user("x"), Attributes::path("get", "/apis/apps"), true),
            (anonymous.clone(), Attributes::path("get", "/version"), true),
            (anonymous, Attributes::path("get", "/apis"), false),
            (user("system:kube-scheduler"), Attributes::resource("create", "", "pods", "a", ""), false),
            (
                user("system:kube-scheduler"),
                Attributes { subresource: "binding", ..Attributes::resource("create", "", "pods", "a", "") },
                true,
            ),
            (
                User::service_account("kube-system", "job-controller", ""),
                Attributes::resource("create", "", "pods", "a", ""),
                true,
            ),
        ] {
            let decision = rbac.authorize(&user, &attributes, &objects);
            assert_eq!(decision.is_allowed(), allowed, "{user:?} {attributes:?}");
        }
    }

    #[test]
    fn changed_defaults_are_repaired_unless_protected() {
        let mut objects = Objects::default();
        install(&mut objects);
        let stored = |name: &str, autoupdate: &str| {
            json!({"metadata": {"name": name, "resourceVersion": "7", "annotations": {AUTOUPDATE: autoupdate}, "labels": {BOOTSTRAP_LABEL: BOOTSTRAP_VALUE}},
                "rules": [{"verbs": ["dance"], "apiGroups": [""], "resources": ["pods"]}]})
        };
        objects.add(GROUP, "clusterroles", stored("system:volume-scheduler", "true"));
        objects.add(GROUP, "clusterroles", stored("system:discovery", "false"));
        let mut elsewhere =
            json!({"metadata": {"name": "system:basic-user"}, "roleRef": {"kind": "ClusterRole", "name": "x"}});
        elsewhere["subjects"] = json!([]);
        objects.add(GROUP, "clusterrolebindings", elsewhere);
        let writes = plan(&objects);
        assert_eq!(writes.len(), 2, "{writes:?}");
        let BootstrapAction::Update(role) = &writes[0].action else { panic!("{writes:?}") };
        assert_eq!(role.str_at(&["metadata", "resourceVersion"]), "7");
        let rules = Rule::all_of(role);
        assert!(rules[0].verbs[0] == "dance" && rules.len() > 1);
        assert!(matches!(writes[1].action, BootstrapAction::Replace(_)));
    }
}
