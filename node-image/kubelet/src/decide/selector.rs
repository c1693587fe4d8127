//! Node selectors: the terms a pod sets on the node that it accepts.

use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

/// Whether the node fulfils at least one term.
pub(crate) fn matches(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
}

fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned();
    let name = |key: &str| if key == "metadata.name" { node.metadata.name.clone() } else { None };
    labels.iter().all(|one| holds(one, label(&one.key).as_deref()))
        && fields.iter().all(|one| holds(one, name(&one.key).as_deref()))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|value| values.iter().any(|one| one == value));
    let compare = |wanted: fn(i64, i64) -> bool| {
        let bound = values.first().and_then(|bound| bound.parse().ok());
        let found = value.and_then(|value| value.parse().ok());
        matches!((found, bound), (Some(found), Some(bound)) if wanted(found, bound))
    };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|found, bound| found > bound),
        "Lt" => compare(|found, bound| found < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[allow(clippy::needless_pass_by_value, reason = "called with literals")]
    fn check(selector: Value, expected: bool) {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"disk": "ssd", "cores": "8"}}}))
                .expect("node");
        let shown = selector.to_string();
        let selector: NodeSelector = serde_json::from_value(json!({"nodeSelectorTerms": selector})).expect("selector");
        assert_eq!(matches(&selector, &node), expected, "{shown}");
    }

    #[test]
    fn terms() {
        let term =
            |key: &str, operator: &str, values: Value| json!({"key": key, "operator": operator, "values": values});
        let labels = |one: Value| json!([{"matchExpressions": [one]}]);
        check(labels(term("disk", "In", json!(["hdd", "ssd"]))), true);
        check(labels(term("disk", "NotIn", json!(["ssd"]))), false);
        check(labels(term("gpu", "NotIn", json!(["a"]))), true);
        check(labels(term("gpu", "Exists", Value::Null)), false);
        check(labels(term("gpu", "DoesNotExist", Value::Null)), true);
        check(labels(term("cores", "Gt", json!(["4"]))), true);
        check(labels(term("cores", "Lt", json!(["4"]))), false);
        check(json!([{"matchFields": [term("metadata.name", "In", json!(["n1"]))]}]), true);
        check(json!([{"matchFields": [term("metadata.name", "In", json!(["n2"]))]}]), false);
        check(json!([{}]), false);
        check(json!([{}, {"matchExpressions": [term("disk", "Exists", Value::Null)]}]), true);
    }
}
