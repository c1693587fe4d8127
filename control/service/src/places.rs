//! The stores of a service: one for everything, and others for the resources that are kept apart. What lies in a store
//! under a key that belongs to another one is from before it was kept apart, and counts nowhere.

use crate::layout;
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use std::{collections::BTreeMap, sync::Arc};
use timonel_api::GroupResource;
use timonel_apiserver::Apart;
use timonel_encryption::{EncryptedStore, Encryption, Rewritten};
use timonel_store::{GatedStore, Keep, KeyRange, Moving, Source, Store, StoreError};

/// Resources that change in one transaction with what lies in the first store.
const TOGETHER: [(&str, &str); 2] = [("", "services"), ("networking.k8s.io", "ipaddresses")];

/// Why resources cannot be kept apart.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// They are written together with others.
    #[error("{group}/{resource} cannot be kept in a store of its own: it changes together with other objects")]
    Together {
        /// Its group.
        group: String,
        /// Its name.
        resource: String,
    },
    /// It was named twice.
    #[error("{group}/{resource} is kept in two stores")]
    Twice {
        /// Its group.
        group: String,
        /// Its name.
        resource: String,
    },
}

/// One store.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// As it lies there.
    pub(crate) raw: GatedStore,
    pub(crate) sealed: Option<EncryptedStore<GatedStore>>,
}

/// Which store a key belongs to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Route(Arc<BTreeMap<(String, String), usize>>);

/// All stores; clones are handles to the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    all: Vec<Place>,
    pub(crate) route: Route,
    apart: Vec<Apart>,
}

impl Route {
    /// Of the resources of the second store and on.
    ///
    /// # Errors
    /// When one of them cannot be kept apart.
    pub(crate) fn new(apart: &[Apart]) -> Result<Self, PlaceError> {
        let mut places = BTreeMap::new();
        for (apart, at) in apart.iter().zip(1..) {
            for GroupResource { group, resource } in &apart.resources {
                let (group, resource) = (group.to_string(), resource.to_string());
                if TOGETHER.contains(&(group.as_str(), resource.as_str())) {
                    return Err(PlaceError::Together { group, resource });
                }
                if places.insert((group.clone(), resource.clone()), at).is_some() {
                    return Err(PlaceError::Twice { group, resource });
                }
            }
        }
        Ok(Self(Arc::new(places)))
    }

    /// The number of a key's store.
    pub(crate) fn of(&self, key: &[u8]) -> usize {
        if self.0.is_empty() {
            return 0;
        }
        let found = layout::resource_of(key).map(|(group, resource)| (group.to_owned(), resource.to_owned()));
        found.and_then(|found| self.0.get(&found).copied()).unwrap_or(0)
    }

    fn keep(&self, at: usize) -> Keep {
        let route = self.clone();
        Arc::new(move |key| route.of(key) == at)
    }
}

impl Place {
    fn new(store: Arc<dyn Store>, encryption: Option<&Arc<Encryption>>) -> Self {
        let raw = GatedStore::new(store);
        let sealed = encryption.map(|how| EncryptedStore::new(raw.clone(), how.clone(), layout::resource_of));
        Self { raw, sealed }
    }

    /// As API servers see it.
    pub(crate) fn opened(&self) -> Arc<dyn Store> {
        match &self.sealed {
            Some(sealed) => Arc::new(sealed.clone()),
            None => Arc::new(self.raw.clone()),
        }
    }
}

impl Places {
    /// A gate before every store, and encryption where it is configured.
    ///
    /// # Errors
    /// When resources cannot be kept apart.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        apart: Vec<Apart>,
        encryption: Option<&Arc<Encryption>>,
    ) -> Result<Self, PlaceError> {
        let route = Route::new(&apart)?;
        let first = Place::new(store, encryption);
        let (mut all, mut opened) = (vec![first], Vec::new());
        for Apart { resources, store } in apart {
            let place = Place::new(store, encryption);
            opened.push(Apart { resources, store: place.opened() });
            all.push(place);
        }
        Ok(Self { all, route, apart: opened })
    }

    /// The first store.
    pub(crate) fn first(&self) -> &Place {
        &self.all[0]
    }

    /// What is kept apart, as API servers see it.
    pub(crate) fn apart(&self) -> &[Apart] {
        &self.apart
    }

    /// Every store.
    pub(crate) fn all(&self) -> &[Place] {
        &self.all
    }

    /// All stores as of now, each with what counts of it.
    ///
    /// # Errors
    /// The first store's that failed.
    pub(crate) async fn sources(&self) -> Result<Vec<Source>, StoreError> {
        let mut sources = Vec::new();
        for (at, place) in self.all.iter().enumerate() {
            let revision = place.raw.revision().await?;
            sources.push(Source { store: Arc::new(place.raw.clone()), revision, keep: self.route.keep(at) });
        }
        Ok(sources)
    }

    /// All stores, to be moved.
    pub(crate) fn moving(&self) -> Vec<Moving> {
        let one = |(at, place): (usize, &Place)| Moving { store: place.raw.clone(), keep: self.route.keep(at) };
        self.all.iter().enumerate().map(one).collect()
    }

    /// Deletes every key that starts with `prefix`, in every store.
    ///
    /// # Errors
    /// Those of the stores; what was deleted until then stays deleted.
    pub(crate) fn delete_prefix<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        let deleted = async move {
            for place in &self.all {
                timonel_store::delete_prefix(&place.raw, Bytes::copy_from_slice(prefix.as_bytes())).await?;
            }
            Ok(())
        };
        deleted.boxed()
    }

    /// Seals anew what lies otherwise than the configuration says; `None` when there is none.
    ///
    /// # Errors
    /// Those of the stores, and of objects that cannot be opened.
    pub(crate) async fn rewrite(&self) -> Result<Option<Rewritten>, StoreError> {
        let mut all = Rewritten::default();
        for place in &self.all {
            let Some(sealed) = &place.sealed else { return Ok(None) };
            let done = sealed.rewrite(KeyRange::all()).await?;
            all.objects += done.objects;
            all.rewritten += done.rewritten;
        }
        Ok(Some(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use timonel_runtime::Clock;
    use timonel_store::MemoryStore;

    fn apart(resources: &[(&str, &str)]) -> Apart {
        let name =
            |(group, resource): &(&str, &str)| GroupResource { group: (*group).into(), resource: (*resource).into() };
        let store = Arc::new(MemoryStore::new(Clock::system()));
        Apart { resources: resources.iter().map(name).collect(), store }
    }

    #[test]
    fn keys_have_one_place_each() {
        let route = Route::new(&[apart(&[("", "events")]), apart(&[("coordination.k8s.io", "leases")])]).unwrap();
        let cases = [
            ("/clusters/u/r/core/events/default/a", 1),
            ("/clusters/u/r/coordination.k8s.io/leases/n/a", 2),
            ("/clusters/u/r/core/pods/n/a", 0),
            ("/clusters/u/ranges/x", 0),
            ("/secrets/keys/u", 0),
        ];
        for (key, place) in cases {
            assert_eq!(route.of(key.as_bytes()), place, "{key}");
        }
    }

    #[test]
    fn what_changes_together_stays_together() {
        let refused = |all: &[Apart]| Route::new(all).unwrap_err().to_string();
        assert!(refused(&[apart(&[("", "services")])]).starts_with("/services cannot"));
        let twice = refused(&[apart(&[("", "events")]), apart(&[("", "events")])]);
        assert_eq!(twice, "/events is kept in two stores");
    }
}
