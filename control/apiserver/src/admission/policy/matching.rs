//! `matchResources`: which writes a policy or a binding means, and in which version.

use crate::{
    admission::{
        Lookup,
        webhook::{ResourceRule, Subject, namespace_selected, object_selected, selector_of},
    },
    registry::View,
};
use std::sync::Arc;
use timonel_api::{LabelSelector, Value};

/// Selectors and rules.
#[derive(Debug)]
pub(crate) struct MatchResources {
    namespaces: LabelSelector,
    objects: LabelSelector,
    pub(crate) rules: Vec<ResourceRule>,
    excluded: Vec<ResourceRule>,
    exact: bool,
}

impl MatchResources {
    pub(crate) fn parse(resources: &Value) -> Self {
        let rules = |field: &str| resources.list_at(&[field]).iter().map(ResourceRule::parse).collect();
        Self {
            namespaces: selector_of(resources.get("namespaceSelector")),
            objects: selector_of(resources.get("objectSelector")),
            rules: rules("resourceRules"),
            excluded: rules("excludeResourceRules"),
            exact: resources.str_at(&["matchPolicy"]) == "Exact",
        }
    }

    /// The version in which a write is meant; `None` when it is not.
    pub(crate) fn view(&self, subject: &Subject<'_>, lookup: &dyn Lookup) -> Option<Arc<View>> {
        if !namespace_selected(&self.namespaces, subject, lookup) || !object_selected(&self.objects, subject) {
            return None;
        }
        if self.meant(&self.excluded, subject).is_some() {
            return None;
        }
        // A binding without rules means whatever its policy means.
        if self.rules.is_empty() {
            return Some(subject.call.view.clone());
        }
        self.meant(&self.rules, subject)
    }

    fn meant(&self, rules: &[ResourceRule], subject: &Subject<'_>) -> Option<Arc<View>> {
        let means = |view: &View| rules.iter().any(|rule| rule.means(subject, &view.resource));
        if rules.is_empty() {
            return None;
        }
        if means(&subject.call.view) {
            return Some(subject.call.view.clone());
        }
        if self.exact { None } else { subject.equivalents().skip(1).find(|view| means(view)) }
    }
}
