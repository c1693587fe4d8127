//! The views an API server serves, by group, version and plural.

use super::view::View;
use crate::{
    cache::Cache,
    custom::{Custom, Served},
    discovery::Documents,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
};
use timonel_api::{Gvk, Key, Scheme};

type Views = HashMap<Gvk, Arc<View>>;

/// All views of one cluster. Made again when custom resources come or go; the built-in half is shared.
#[derive(Debug)]
pub(crate) struct Resources {
    base: Arc<Scheme>,
    builtin: Arc<Views>,
    custom: Views,
    /// What is served in all, for listings.
    listing: Arc<Scheme>,
    served: BTreeMap<Key, Arc<Served>>,
    documents: OnceLock<Arc<Documents>>,
}

impl Resources {
    pub(crate) fn new(scheme: &Arc<Scheme>, cache: &Cache) -> Self {
        let views = scheme.resources().iter().zip(0..).map(|(resource, id)| {
            let view = View::new(scheme, resource, cache.slot(&resource.storage), id);
            (Gvk::new(&resource.group, &resource.version, &resource.plural), Arc::new(view))
        });
        Self {
            base: scheme.clone(),
            builtin: Arc::new(views.collect()),
            custom: Views::new(),
            listing: scheme.clone(),
            served: BTreeMap::new(),
            documents: OnceLock::new(),
        }
    }

    /// What a scheme serves, for listings only.
    #[cfg(test)]
    pub(crate) fn listed(scheme: &Arc<Scheme>) -> Self {
        Self {
            base: scheme.clone(),
            builtin: Arc::default(),
            custom: Views::new(),
            listing: scheme.clone(),
            served: BTreeMap::new(),
            documents: OnceLock::new(),
        }
    }

    /// The same with other definitions; views of those that stay are kept.
    pub(crate) fn with(&self, served: BTreeMap<Key, Arc<Served>>) -> Self {
        let mut ordered: Vec<&Arc<Served>> = served.values().collect();
        ordered.sort_by(|a, b| a.group().cmp(b.group()));
        let custom = || ordered.iter().flat_map(|served| served.views());
        let mut listed: Vec<_> = custom().map(|view| view.resource.clone()).collect();
        listed.sort_by(|a, b| {
            let order = |version: &str| timonel_api::definition::version_order(version);
            a.group.cmp(&b.group).then_with(|| order(&b.version).cmp(&order(&a.version)))
        });
        let views = custom().map(|view| {
            let resource = &view.resource;
            (Gvk::new(&resource.group, &resource.version, &resource.plural), view.clone())
        });
        Self {
            base: self.base.clone(),
            builtin: self.builtin.clone(),
            custom: views.collect(),
            listing: if listed.is_empty() { self.base.clone() } else { self.base.listing(listed) },
            served,
            documents: OnceLock::new(),
        }
    }

    /// Everything that is served, for listings.
    pub(crate) fn scheme(&self) -> &Arc<Scheme> {
        &self.listing
    }

    /// What every cluster of the service serves.
    pub(crate) fn base(&self) -> &Arc<Scheme> {
        &self.base
    }

    /// The definitions that are served.
    pub(crate) fn served(&self) -> &BTreeMap<Key, Arc<Served>> {
        &self.served
    }

    /// The custom resource of a group, version and plural.
    pub(crate) fn custom(&self, group: &str, version: &str) -> impl Iterator<Item = &Custom> {
        let views = self.served.values().flat_map(|served| served.views());
        let views = views.filter(move |view| view.resource.group == group && view.resource.version == version);
        views.filter_map(|view| view.custom.as_ref())
    }

    /// What discovery says.
    pub(crate) fn documents(&self) -> &Arc<Documents> {
        let shared = Arc::ptr_eq(&self.listing, &self.base);
        self.documents.get_or_init(|| if shared { Documents::of(&self.base) } else { Documents::own(&self.listing) })
    }

    /// One view.
    pub(crate) fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<View>> {
        let key = Gvk::new(group, version, plural);
        self.builtin.get(&key).or_else(|| self.custom.get(&key))
    }
}
