//! Label selectors, as objects of the workload kinds carry them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::BTreeMap;

type Labels = BTreeMap<String, String>;

/// Whether every pair of `wanted` is in `labels`; an empty map matches nothing here, as Services and replication
/// controllers mean it.
pub(crate) fn map_matches(wanted: Option<&Labels>, labels: &Labels) -> bool {
    wanted.is_some_and(|wanted| !wanted.is_empty() && wanted.iter().all(|(key, value)| labels.get(key) == Some(value)))
}

/// Whether `selector` matches `labels`. An empty selector matches everything.
pub(crate) fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let pairs = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    pairs
        && selector.match_expressions.iter().flatten().all(|wanted| {
            let value = labels.get(&wanted.key);
            let values = wanted.values.as_deref().unwrap_or_default();
            match wanted.operator.as_str() {
                "In" => value.is_some_and(|value| values.contains(value)),
                "NotIn" => value.is_none_or(|value| !values.contains(value)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Whether a selector says nothing, and so would match everything.
pub(crate) fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(selector: Value, labels: Value, expected: bool) {
        let selector: LabelSelector = serde_json::from_value(selector).expect("a selector");
        let labels: Labels = serde_json::from_value(labels).expect("labels");
        assert_eq!(matches(&selector, &labels), expected, "{selector:?} on {labels:?}");
    }

    #[test]
    fn operators() {
        check(json!({}), json!({"a": "b"}), true);
        check(json!({"matchLabels": {"a": "b"}}), json!({"a": "b", "c": "d"}), true);
        check(json!({"matchLabels": {"a": "b"}}), json!({"a": "x"}), false);
        for (operator, values, expected_with, expected_without) in [
            ("In", json!(["1", "2"]), true, false),
            ("NotIn", json!(["1"]), false, true),
            ("Exists", json!([]), true, false),
            ("DoesNotExist", json!([]), false, true),
            ("Unknown", json!([]), false, false),
        ] {
            let selector = json!({"matchExpressions": [{"key": "k", "operator": operator, "values": values}]});
            check(selector.clone(), json!({"k": "1"}), expected_with);
            check(selector, json!({}), expected_without);
        }
    }

    #[test]
    fn an_empty_map_selects_nothing() {
        assert!(!map_matches(Some(&Labels::new()), &Labels::new()));
        assert!(!map_matches(None, &Labels::new()));
    }
}
