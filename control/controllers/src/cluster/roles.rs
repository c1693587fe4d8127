//! Cluster roles that are the sum of others.

use crate::{
    common::{objects::labels, selector::matches},
    framework::{Action, Change, Controller, Key, Kind, Plan, View},
};
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

/// Aggregates roles.
#[derive(Debug)]
pub(crate) struct RoleAggregation;

impl Controller for RoleAggregation {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::ClusterRole]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("ClusterRole", "rules of aggregated roles")]
    }

    fn keys(&self, view: &View, _change: &Change, keys: &mut Vec<Key>) {
        let aggregated = view.cluster_roles.all().filter(|role| role.aggregation_rule.is_some());
        keys.extend(aggregated.map(|role| Key::of(&role.metadata)));
    }

    fn plan(&self, view: &View, key: &Key, _now: Timestamp) -> Plan {
        let Some(role) = view.cluster_roles.get(key) else { return Plan::none() };
        let Some(aggregation) = &role.aggregation_rule else { return Plan::none() };
        let mut rules: Vec<PolicyRule> = Vec::new();
        for selector in aggregation.cluster_role_selectors.iter().flatten() {
            let parts = view
                .cluster_roles
                .all()
                .filter(|part| part.metadata.name != role.metadata.name && matches(selector, labels(&part.metadata)));
            for rule in parts.flat_map(|part| part.rules.iter().flatten()) {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
        if role.rules.as_deref().unwrap_or_default() == rules {
            return Plan::none();
        }
        vec![Action::update(ClusterRole { rules: Some(rules), ..(**role).clone() })].into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, outline};
    use serde_json::json;

    #[test]
    fn the_sum_of_what_the_selectors_find() {
        let mut view = View::default();
        view.cluster_roles.insert(object(json!({"metadata": {"name": "view"},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]}})));
        for name in ["a", "b"] {
            view.cluster_roles.insert(object(json!({"metadata": {"name": name, "labels": {"to": "view"}},
                "rules": [{"apiGroups": [""], "resources": [name], "verbs": ["get"]}, {"apiGroups": [""], "resources": ["x"], "verbs": ["get"]}]})));
        }
        let plan = |view: &View| outline(&RoleAggregation.plan(view, &Key::new("", "view"), at(0)));
        let made = plan(&view);
        assert_eq!(made[0].body["rules"].as_array().map(Vec::len), Some(3));
        view.cluster_roles.insert(object(made[0].body.clone()));
        assert_eq!(plan(&view).len(), 0);
    }
}
