//! The part of scheduling that controllers need: node affinity, taints and tolerations.

use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};
use std::collections::BTreeMap;

/// Whether `toleration` tolerates `taint`.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if some(&toleration.effect).is_some_and(|effect| effect != taint.effect) {
        return false;
    }
    if some(&toleration.key).is_some_and(|key| key != taint.key) {
        return false;
    }
    let (wanted, value) = (toleration.value.as_deref().unwrap_or_default(), taint.value.as_deref().unwrap_or_default());
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => some(&toleration.key).is_some() && wanted == value,
        "Exists" => true,
        "Lt" => matches!((value.parse::<i64>(), wanted.parse::<i64>()), (Ok(have), Ok(limit)) if have < limit),
        "Gt" => matches!((value.parse::<i64>(), wanted.parse::<i64>()), (Ok(have), Ok(limit)) if have > limit),
        _ => false,
    }
}

/// The first taint of the given effects that nothing tolerates.
pub(crate) fn untolerated<'a>(taints: &'a [Taint], tolerations: &[Toleration], effects: &[&str]) -> Option<&'a Taint> {
    let mut relevant = taints.iter().filter(|taint| effects.contains(&taint.effect.as_str()));
    relevant.find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

/// Whether the pod's node selector and required node affinity accept the node.
pub(crate) fn affinity_accepts(spec: &PodSpec, node: &Node) -> bool {
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let selector = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    selector
        && required_terms(spec.affinity.as_ref()).is_none_or(|terms| terms.iter().any(|term| term_matches(term, node)))
}

fn required_terms(affinity: Option<&Affinity>) -> Option<&[NodeSelectorTerm]> {
    let node = affinity?.node_affinity.as_ref()?;
    Some(&node.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms)
}

/// Whether a term of a node selector matches the node; an empty term matches nothing.
pub(crate) fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    let field = |key: &str| if key == "metadata.name" { node.metadata.name.as_deref() } else { None };
    expressions.iter().all(|wanted| requirement_holds(wanted, label(&wanted.key)))
        && fields.iter().all(|wanted| requirement_holds(wanted, field(&wanted.key)))
}

fn requirement_holds(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let number = |text: &str| text.parse::<i64>().ok();
    let limit = values.first().and_then(|limit| number(limit));
    match wanted.operator.as_str() {
        "In" => value.is_some_and(|value| values.iter().any(|have| have == value)),
        "NotIn" => value.is_none_or(|value| !values.iter().any(|have| have == value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => matches!((value.and_then(number), limit), (Some(have), Some(limit)) if have > limit),
        "Lt" => matches!((value.and_then(number), limit), (Some(have), Some(limit)) if have < limit),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(toleration: Value, expected: bool) {
        let taint: Taint =
            serde_json::from_value(json!({"key": "k", "value": "v", "effect": "NoSchedule"})).expect("taint");
        let toleration: Toleration = serde_json::from_value(toleration).expect("toleration");
        assert_eq!(tolerates(&toleration, &taint), expected, "{toleration:?}");
    }

    #[test]
    fn tolerations() {
        check(json!({"operator": "Exists"}), true);
        check(json!({"key": "k", "operator": "Exists"}), true);
        check(json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false);
        check(json!({"key": "k", "value": "v"}), true);
        check(json!({"key": "k", "value": "w"}), false);
        check(json!({"key": "other", "operator": "Exists"}), false);
    }

    #[test]
    fn required_affinity_by_name_and_label() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"zone": "a", "size": "5"}}}))
                .expect("node");
        for (term, expected) in [
            (json!({}), false),
            (json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}), true),
            (json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]}), false),
            (json!({"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["4"]}]}), true),
        ] {
            let term: NodeSelectorTerm = serde_json::from_value(term).expect("term");
            assert_eq!(term_matches(&term, &node), expected, "{term:?}");
        }
    }
}
