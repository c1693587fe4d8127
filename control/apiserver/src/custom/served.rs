//! Which definitions are served.

use super::{Custom, cleanup};
use crate::{
    ApiServer,
    cache::{Entry, Selection, Trigger},
    registry::View,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak, atomic::Ordering},
};
use timonel_api::{GroupResource, Key, definition};
use timonel_store::Revision;

/// One definition with its views.
#[derive(Debug)]
pub(crate) struct Served {
    revision: Revision,
    definition: Arc<definition::Definition>,
    views: Vec<Arc<View>>,
}

impl Served {
    /// The group.
    pub(crate) fn group(&self) -> &str {
        &self.definition.stored().resource.group
    }

    /// The versions that are served.
    pub(crate) fn views(&self) -> impl Iterator<Item = &Arc<View>> {
        self.views.iter()
    }

    /// The compiled definition.
    pub(crate) fn definition(&self) -> &Arc<definition::Definition> {
        &self.definition
    }

    fn storage(&self) -> &GroupResource {
        &self.definition.stored().resource.storage
    }
}

/// Where definitions are.
pub(crate) fn definitions_resource() -> GroupResource {
    GroupResource { group: "apiextensions.k8s.io".into(), resource: "customresourcedefinitions".into() }
}

/// Serves what is established already, and follows what changes from then on.
pub(crate) fn start(server: &Arc<ApiServer>) {
    let weak: Weak<ApiServer> = Arc::downgrade(server);
    server.cache.listen(definitions_resource(), move || {
        if let Some(server) = weak.upgrade() {
            refresh(&server);
        }
    });
    refresh(server);
}

/// Brings what is served in line with the definitions in the cache.
pub(crate) fn refresh(server: &Arc<ApiServer>) {
    let slot = server.cache.slot(&definitions_resource());
    let entries = slot.list(&Selection { trigger: Trigger::All, predicate: None });
    let known = server.resources.load_full();
    let mut served = BTreeMap::new();
    for entry in &entries {
        if let Some(one) = serve(server, known.served().get(entry.name()), entry) {
            served.insert(Key::from(entry.name()), one);
        }
    }
    let same = served.len() == known.served().len()
        && served.iter().all(|(name, one)| known.served().get(name).is_some_and(|other| Arc::ptr_eq(one, other)));
    if !same {
        server.resources.store(Arc::new(known.with(served.clone())));
        for (name, old) in known.served() {
            match served.get(name) {
                None => server.cache.forget(old.storage()),
                // Clients list again, and see the objects by the new definition.
                Some(new) if !Arc::ptr_eq(old.definition(), new.definition()) => {
                    server.cache.slot(old.storage()).end_watches();
                }
                Some(_) => {}
            }
        }
    }
    cleanup::look(server, &entries);
}

/// The served form of one definition: the known one as long as nothing changed that matters.
fn serve(server: &ApiServer, known: Option<&Arc<Served>>, entry: &Entry) -> Option<Arc<Served>> {
    if let Some(known) = known.filter(|known| known.revision == entry.revision) {
        return Some(known.clone());
    }
    let crd = entry.decoded();
    if !definition::is_established(&crd) {
        return None;
    }
    let base = server.resources.load().base().clone();
    let compiled = match definition::Definition::compile(&base, &crd) {
        Ok(compiled) => Arc::new(compiled),
        Err(error) => {
            tracing::warn!(definition = entry.name(), %error, "a definition cannot be served");
            return None;
        }
    };
    let slot = server.cache.slot(&compiled.stored().resource.storage);
    let views = compiled.versions.iter().enumerate().filter(|(_, version)| version.served).map(|(at, _)| {
        let id = server.next_view.fetch_add(1, Ordering::Relaxed);
        Arc::new(View::custom(Custom::new(&compiled, at), slot.clone(), id))
    });
    Some(Arc::new(Served { revision: entry.revision, views: views.collect(), definition: compiled }))
}
