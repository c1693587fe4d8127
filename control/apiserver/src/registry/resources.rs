//! The views an API server serves, by group, version and plural.

use super::view::View;
use crate::cache::Cache;
use std::{collections::HashMap, sync::Arc};
use timonel_api::{Gvk, Scheme};

/// All views of one scheme. Made again when custom resources come or go.
#[derive(Debug)]
pub(crate) struct Resources {
    scheme: Arc<Scheme>,
    by_plural: HashMap<Gvk, Arc<View>>,
}

impl Resources {
    pub(crate) fn new(scheme: &Arc<Scheme>, cache: &Cache) -> Self {
        let views = scheme.resources().iter().zip(0..).map(|(resource, id)| {
            let view = View::new(scheme, resource, cache.slot(&resource.storage), id);
            (Gvk::new(&resource.group, &resource.version, &resource.plural), Arc::new(view))
        });
        Self { scheme: scheme.clone(), by_plural: views.collect() }
    }

    pub(crate) fn scheme(&self) -> &Arc<Scheme> {
        &self.scheme
    }

    /// One view.
    pub(crate) fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<View>> {
        self.by_plural.get(&Gvk::new(group, version, plural))
    }
}
