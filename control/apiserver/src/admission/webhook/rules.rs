//! Which writes a rule means: operations, groups, versions, resources, scope, selectors. Pure.

use super::subject::Subject;
use crate::admission::Lookup;
use compact_str::CompactString;
use timonel_api::{LabelSelector, Resource, Value};

/// One rule of a webhook or policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourceRule {
    operations: Vec<CompactString>,
    groups: Vec<CompactString>,
    versions: Vec<CompactString>,
    resources: Vec<CompactString>,
    /// Names the rule is restricted to; none restrict nothing.
    names: Vec<CompactString>,
    scope: Scope,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Scope {
    #[default]
    All,
    Cluster,
    Namespaced,
}

impl ResourceRule {
    pub(crate) fn parse(rule: &Value) -> Self {
        let texts = |field: &str| {
            let list = rule.list_at(&[field]).iter().filter_map(Value::as_str);
            list.map(CompactString::from).collect()
        };
        Self {
            operations: texts("operations"),
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            resources: texts("resources"),
            names: texts("resourceNames"),
            scope: match rule.str_at(&["scope"]) {
                "Cluster" => Scope::Cluster,
                "Namespaced" => Scope::Namespaced,
                _ => Scope::All,
            },
        }
    }

    /// Whether the rule means a write of this operation on `resource` in its version.
    pub(crate) fn means(&self, subject: &Subject<'_>, resource: &Resource) -> bool {
        let any = |list: &[CompactString], wanted: &str| list.iter().any(|held| held == "*" || held == wanted);
        self.in_scope(subject)
            && any(&self.operations, subject.operation.as_str())
            && any(&self.groups, &resource.group)
            && any(&self.versions, &resource.version)
            && self.resources.iter().any(|held| names_resource(held, &resource.plural, subject.subresource))
            && (self.names.is_empty() || self.names.iter().any(|name| name == &*subject.name))
    }

    fn in_scope(&self, subject: &Subject<'_>) -> bool {
        let cluster = subject.namespace.is_empty() || subject.is_namespace_object();
        match self.scope {
            Scope::All => true,
            Scope::Cluster => cluster,
            Scope::Namespaced => !cluster,
        }
    }
}

/// `pods`, `pods/log`, `pods/*`, `*/scale`, `*`, `*/*`.
fn names_resource(rule: &str, resource: &str, subresource: &str) -> bool {
    let (wanted, sub) = rule.split_once('/').unwrap_or((rule, ""));
    (wanted == "*" || wanted == resource) && (sub == "*" || sub == subresource)
}

/// A selector of a configuration: one that is absent means everything.
pub(crate) fn selector_of(selector: Option<&Value>) -> LabelSelector {
    match selector.filter(|selector| !selector.is_null()) {
        None => LabelSelector::new(Vec::new()),
        some => LabelSelector::from_value(some).unwrap_or_else(|_| LabelSelector::nothing()),
    }
}

/// Whether the namespace of a write is selected; what has none always is.
pub(crate) fn namespace_selected(selector: &LabelSelector, subject: &Subject<'_>, lookup: &dyn Lookup) -> bool {
    if selector.is_everything() {
        return true;
    }
    if subject.is_namespace_object() {
        let own = subject.object.filter(|object| !object.is_null() && subject.subresource.is_empty());
        if let Some(own) = own {
            return selector.matches(&own.at(&["metadata", "labels"]));
        }
    } else if subject.namespace.is_empty() {
        return true;
    }
    let namespace = lookup.get("", "namespaces", "", subject.namespace);
    namespace.is_some_and(|namespace| selector.matches(&namespace.at(&["metadata", "labels"])))
}

/// Whether the object, as it is or as it was, is selected.
pub(crate) fn object_selected(selector: &LabelSelector, subject: &Subject<'_>) -> bool {
    if selector.is_everything() {
        return true;
    }
    let selected = |object: Option<&Value>| {
        object.filter(|object| !object.is_null()).is_some_and(|object| {
            object.get("metadata").is_some() && selector.matches(&object.at(&["metadata", "labels"]))
        })
    };
    selected(subject.object) || selected(subject.old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_named_with_wildcards() {
        for (rule, resource, subresource, expected) in [
            ("pods", "pods", "", true),
            ("pods", "pods", "log", false),
            ("pods/*", "pods", "log", true),
            ("pods/*", "pods", "", true),
            ("*", "pods", "", true),
            ("*", "pods", "status", false),
            ("*/*", "pods", "status", true),
            ("*/scale", "deployments", "scale", true),
            ("*/scale", "deployments", "", false),
            ("pods/attach", "pods", "exec", false),
        ] {
            assert_eq!(names_resource(rule, resource, subresource), expected, "{rule} {resource}/{subresource}");
        }
    }
}
