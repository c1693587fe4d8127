//! Selectors, compiled: of labels, of nodes, and tolerations. Pure.

use k8s_openapi::{
    api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use std::collections::BTreeMap;

/// Labels or node labels, looked up by key.
pub(crate) trait Labels {
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
    /// What the API should have refused.
    Never,
}

/// A condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Requirement {
    key: String,
    test: Test,
}

impl Requirement {
    fn new(key: &str, operator: &str, values: Option<&Vec<String>>) -> Self {
        let mut values = values.cloned().unwrap_or_default();
        values.sort_unstable();
        let number = || values.first().and_then(|value| value.parse().ok());
        let test = match operator {
            "In" => Test::In(values),
            "NotIn" => Test::NotIn(values),
            "Exists" => Test::Exists,
            "DoesNotExist" => Test::Absent,
            "Gt" => number().map_or(Test::Never, Test::Greater),
            "Lt" => number().map_or(Test::Never, Test::Less),
            _ => Test::Never,
        };
        Self { key: key.to_owned(), test }
    }

    fn equals(key: &str, value: &str) -> Self {
        Self { key: key.to_owned(), test: Test::In(vec![value.to_owned()]) }
    }

    fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.iter().any(|known| known == value)),
            Test::NotIn(values) => !value.is_some_and(|value| values.iter().any(|known| known == value)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::Greater(than) => number().is_some_and(|number| number > *than),
            Test::Less(than) => number().is_some_and(|number| number < *than),
            Test::Never => false,
        }
    }
}

/// A selector of labels: every condition holds. `None` selects nothing, no conditions everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Selector(Option<Vec<Requirement>>);

impl Selector {
    pub(crate) fn new(selector: Option<&LabelSelector>) -> Self {
        let Some(selector) = selector else { return Self(None) };
        let equal = selector.match_labels.iter().flatten().map(|(key, value)| Requirement::equals(key, value));
        let other = selector.match_expressions.iter().flatten();
        let other = other.map(|one| Requirement::new(&one.key, &one.operator, one.values.as_ref()));
        Self::sorted(equal.chain(other).collect())
    }

    /// Every one of `labels`, with its value.
    pub(crate) fn equal<'a>(labels: impl Iterator<Item = (&'a String, &'a String)>) -> Self {
        Self::sorted(labels.map(|(key, value)| Requirement::equals(key, value)).collect())
    }

    fn sorted(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_unstable();
        Self(Some(requirements))
    }

    /// Also asks for the same values as `labels` has for `keys`.
    pub(crate) fn and_same(self, keys: &[String], labels: &BTreeMap<String, String>) -> Self {
        let Self(Some(mut requirements)) = self else { return self };
        let same = keys.iter().filter_map(|key| Some(Requirement::equals(key, labels.get(key)?)));
        requirements.extend(same);
        Self::sorted(requirements)
    }

    pub(crate) fn matches(&self, labels: &impl Labels) -> bool {
        self.0.as_ref().is_some_and(|all| all.iter().all(|one| one.holds(labels.label(&one.key))))
    }

    /// Whether it has no condition or selects nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(Vec::is_empty)
    }
}

/// One alternative of a node selector: labels and the node's name.
#[derive(Clone, Debug)]
pub(crate) struct NodeTerm {
    labels: Vec<Requirement>,
    name: Vec<Requirement>,
}

impl NodeTerm {
    pub(crate) fn new(term: &NodeSelectorTerm) -> Self {
        let compile = |list: &Option<Vec<NodeSelectorRequirement>>| -> Vec<Requirement> {
            let all = list.iter().flatten();
            all.map(|one| Requirement::new(&one.key, &one.operator, one.values.as_ref())).collect()
        };
        Self { labels: compile(&term.match_expressions), name: compile(&term.match_fields) }
    }

    pub(crate) fn matches(&self, name: &str, labels: &impl Labels) -> bool {
        let empty = self.labels.is_empty() && self.name.is_empty();
        !empty
            && self.labels.iter().all(|one| one.holds(labels.label(&one.key)))
            && self.name.iter().all(|one| one.key == "metadata.name" && one.holds(Some(name)))
    }

    /// The only node names that it can match, if it says.
    fn names(&self) -> Option<&[String]> {
        self.name.iter().find_map(|one| match &one.test {
            Test::In(names) => Some(&names[..]),
            _ => None,
        })
    }
}

/// What a pod or a volume requires of a node's labels: one of the alternatives, if there are any.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeMatcher {
    labels: Vec<Requirement>,
    terms: Option<Vec<NodeTerm>>,
}

impl NodeMatcher {
    pub(crate) fn new(labels: Option<&BTreeMap<String, String>>, selector: Option<&NodeSelector>) -> Self {
        Self {
            labels: labels.into_iter().flatten().map(|(key, value)| Requirement::equals(key, value)).collect(),
            terms: selector.map(|selector| selector.node_selector_terms.iter().map(NodeTerm::new).collect()),
        }
    }

    pub(crate) fn is_any(&self) -> bool {
        self.labels.is_empty() && self.terms.is_none()
    }

    pub(crate) fn matches(&self, name: &str, labels: &impl Labels) -> bool {
        self.labels.iter().all(|one| one.holds(labels.label(&one.key)))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(name, labels)))
    }

    /// The only nodes that it can match, when every alternative names them.
    pub(crate) fn names(&self) -> Option<Vec<String>> {
        let mut names = Vec::new();
        for term in self.terms.as_ref()? {
            names.extend_from_slice(term.names()?);
        }
        names.sort_unstable();
        names.dedup();
        Some(names)
    }
}

/// Whether `tolerations` tolerate `taint`.
pub(crate) fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| {
        let same =
            |ours: &Option<String>, theirs: &str| ours.as_deref().is_none_or(|ours| ours.is_empty() || ours == theirs);
        if !same(&toleration.effect, &taint.effect) || !same(&toleration.key, &taint.key) {
            return false;
        }
        let value = toleration.value.as_deref().unwrap_or("");
        let theirs = taint.value.as_deref().unwrap_or("");
        let numbers = || Some((theirs.parse::<i64>().ok()?, value.parse::<i64>().ok()?));
        match toleration.operator.as_deref().unwrap_or("Equal") {
            "" | "Equal" => toleration.key.as_deref().is_some_and(|key| !key.is_empty()) && value == theirs,
            "Exists" => true,
            "Lt" => numbers().is_some_and(|(theirs, ours)| theirs < ours),
            "Gt" => numbers().is_some_and(|(theirs, ours)| theirs > ours),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn labels(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn label_selectors() {
        let pod = labels(&[("app", "web"), ("tier", "3")]);
        let one = |operator: &str, key: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        for (selector, expected) in [
            (json!({}), true),
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "db"}}), false),
            (one("In", "app", json!(["db", "web"])), true),
            (one("NotIn", "app", json!(["web"])), false),
            (one("NotIn", "absent", json!(["web"])), true),
            (one("Exists", "tier", Value::Null), true),
            (one("DoesNotExist", "tier", Value::Null), false),
            (one("Resembles", "tier", Value::Null), false),
        ] {
            let compiled = Selector::new(Some(&serde_json::from_value(selector.clone()).unwrap()));
            assert_eq!(compiled.matches(&pod), expected, "{selector}");
        }
        assert!(!Selector::new(None).matches(&pod));
    }

    #[test]
    fn node_selectors() {
        let node = labels(&[("zone", "a"), ("cpus", "8")]);
        let term = |key: &str, operator: &str, values: Value| json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]});
        let name = |value: &str| json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [value]}]}]});
        for (selector, expected) in [
            (term("zone", "In", json!(["a"])), true),
            (term("zone", "In", json!(["b"])), false),
            (term("cpus", "Gt", json!(["7"])), true),
            (term("cpus", "Lt", json!(["8"])), false),
            (term("zone", "Gt", json!(["1"])), false),
            (json!({"nodeSelectorTerms": []}), false),
            (json!({"nodeSelectorTerms": [{}]}), false),
            (name("n1"), true),
            (name("n2"), false),
        ] {
            let compiled = NodeMatcher::new(None, Some(&serde_json::from_value(selector.clone()).unwrap()));
            assert_eq!(compiled.matches("n1", &node), expected, "{selector}");
        }
        let named = NodeMatcher::new(None, Some(&serde_json::from_value(name("n1")).unwrap()));
        assert_eq!(named.names(), Some(vec!["n1".to_owned()]));
        assert!(NodeMatcher::new(Some(&labels(&[("zone", "a")])), None).matches("n1", &node));
        assert!(!NodeMatcher::new(Some(&labels(&[("zone", "b")])), None).matches("n1", &node));
    }

    #[test]
    fn tolerations() {
        let taint = Taint { effect: "NoSchedule".into(), key: "k".into(), value: Some("5".into()), time_added: None };
        for (toleration, expected) in [
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "value": "5"}), true),
            (json!({"key": "k", "value": "6"}), false),
            (json!({"key": "k", "value": "5", "effect": "NoExecute"}), false),
            (json!({"key": "k", "value": "5", "effect": "NoSchedule"}), true),
            (json!({"key": "other", "operator": "Exists"}), false),
            (json!({"value": "5"}), false),
            (json!({"key": "k", "operator": "Gt", "value": "4"}), true),
            (json!({"key": "k", "operator": "Lt", "value": "4"}), false),
        ] {
            let list = [serde_json::from_value(toleration.clone()).unwrap()];
            assert_eq!(tolerates(&list, &taint), expected, "{toleration}");
        }
    }
}
