//! The cluster's objects as authentication, authorization and admission see them: from the watch cache,
//! decoded once per revision.

use crate::{
    admission::Lookup,
    cache::{Cache, Selection, Slot, Trigger},
};
use std::sync::Arc;
use timonel_api::{GroupResource, Value};

/// [`Lookup`] over the watch cache.
#[derive(Debug)]
pub(crate) struct CacheLookup(pub(crate) Arc<Cache>);

impl CacheLookup {
    fn slot(&self, group: &str, resource: &str) -> Arc<Slot> {
        self.0.slot(&GroupResource { group: group.into(), resource: resource.into() })
    }
}

impl Lookup for CacheLookup {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.slot(group, resource).get(namespace, name).map(|entry| entry.decoded())
    }

    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let trigger = match namespace {
            Some(namespace) if !namespace.is_empty() => Trigger::Namespace(namespace.to_owned()),
            _ => Trigger::All,
        };
        let selection = Selection { trigger, predicate: None };
        self.slot(group, resource).list(&selection).iter().map(|entry| entry.decoded()).collect()
    }

    fn pods_of_node(&self, node: &str, namespace: &str) -> Vec<Arc<Value>> {
        let selection = Selection { trigger: Trigger::Indexed(node.to_owned()), predicate: None };
        let pods = self.slot("", "pods").list(&selection);
        let within = pods.iter().filter(|entry| namespace.is_empty() || entry.namespace() == namespace);
        within.map(|entry| entry.decoded()).collect()
    }

    fn generation(&self, group: &str, resource: &str) -> u64 {
        self.slot(group, resource).last_change()
    }
}
