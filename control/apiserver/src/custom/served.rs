//! Which definitions are served.

use super::{Custom, cleanup, conversion::Converter};
use crate::{
    ApiServer,
    cache::{Entry, Selection, Trigger},
    registry::View,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak, atomic::Ordering},
};
use timonel_api::{
    GroupResource, Key, Value,
    definition::{self, Definition},
};
use timonel_store::Revision;

/// One definition, with its views when it is served.
#[derive(Debug)]
pub(crate) struct Served {
    revision: Revision,
    /// The definition without its schemas.
    brief: Value,
    definition: Option<Arc<Definition>>,
    views: Vec<Arc<View>>,
}

impl Served {
    /// The group.
    pub(crate) fn group(&self) -> &str {
        self.brief.str_at(&["spec", "group"])
    }

    /// The definition without its schemas.
    pub(crate) fn brief(&self) -> &Value {
        &self.brief
    }

    /// The versions that are served.
    pub(crate) fn views(&self) -> impl Iterator<Item = &Arc<View>> {
        self.views.iter()
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
    if same {
        return;
    }
    server.resources.store(Arc::new(known.with(served.clone())));
    for (name, old) in known.served() {
        let Some(definition) = &old.definition else { continue };
        let storage = &definition.stored().resource.storage;
        match served.get(name).map(|new| &new.definition) {
            None => server.cache.forget(storage),
            // Clients list again, and see the objects by the new definition.
            Some(new) if !new.as_ref().is_some_and(|new| Arc::ptr_eq(definition, new)) => {
                server.cache.slot(storage).end_watches();
            }
            Some(_) => {}
        }
    }
    cleanup::look(server, &served);
}

/// What there is to know of one definition: the known as long as nothing changed that matters.
fn serve(server: &Arc<ApiServer>, known: Option<&Arc<Served>>, entry: &Entry) -> Option<Arc<Served>> {
    if let Some(known) = known.filter(|known| known.revision == entry.revision) {
        return Some(known.clone());
    }
    let crd = entry.decode().ok()?;
    let mut served =
        Served { revision: entry.revision, brief: definition::brief(&crd), definition: None, views: Vec::new() };
    if !definition::is_established(&crd) {
        return Some(Arc::new(served));
    }
    let identity = definition::identity(&crd);
    if let Some((known, old)) = known.and_then(|known| Some((known, known.definition.as_ref()?)))
        && old.identity == identity
    {
        served.definition = Some(old.clone());
        served.views = known.views.clone();
        return Some(Arc::new(served));
    }
    let base = server.resources.load().base().clone();
    let compiled = match Definition::compile(&base, &crd) {
        Ok(compiled) => Arc::new(compiled),
        Err(error) => {
            tracing::warn!(definition = entry.name(), %error, "a definition cannot be served");
            return Some(Arc::new(served));
        }
    };
    let slot = server.cache.slot(&compiled.stored().resource.storage);
    let converter = Converter::of(&compiled.conversion, server);
    let views = compiled.versions.iter().enumerate().filter(|(_, version)| version.served).map(|(at, _)| {
        let id = server.next_view.fetch_add(1, Ordering::Relaxed);
        Arc::new(View::custom(Custom::new(&compiled, at, converter.clone()), slot.clone(), id))
    });
    served.views = views.collect();
    served.definition = Some(compiled);
    Some(Arc::new(served))
}
