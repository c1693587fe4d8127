//! Which group and version another server answers: in line with the `APIService` objects whenever the cache changes.

use super::{
    keeper,
    registered::{GROUP, PLURAL, Registered},
    registration,
    remote::Remote,
};
use crate::{ApiServer, admission::Lookup, custom, dial::Reach};
use arc_swap::ArcSwap;
use rustls::client::ResolvesClientCert;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use timonel_api::{GroupResource, Key};

/// All servers of one moment.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    remotes: BTreeMap<(Key, Key), Arc<Remote>>,
    /// Every `APIService`, those of this server too; empty while there is no other server.
    all: Vec<Registered>,
}

impl Routes {
    /// The servers.
    pub(crate) fn remotes(&self) -> impl Iterator<Item = &Arc<Remote>> {
        self.remotes.values()
    }

    /// Who answers for a group and version, if it is another server.
    pub(crate) fn get(&self, group: &str, version: &str) -> Option<&Arc<Remote>> {
        if self.remotes.is_empty() {
            return None;
        }
        self.remotes.get(&(group.into(), version.into()))
    }

    /// Every `APIService`.
    pub(crate) fn all(&self) -> &[Registered] {
        &self.all
    }

    /// Whether this server answers everything itself.
    pub(crate) fn is_empty(&self) -> bool {
        self.remotes.is_empty()
    }
}

/// The other servers of one cluster.
pub(crate) struct Aggregation {
    routes: ArcSwap<Routes>,
    /// What other servers are shown: the certificate by which they believe who the user is.
    pub(super) identity: Option<Arc<dyn ResolvesClientCert>>,
    pub(super) reach: Reach,
    /// Counts what changed in what servers say about themselves.
    said: AtomicU64,
    /// Whether a task writes the objects of custom groups.
    pub(super) registering: AtomicBool,
}

impl std::fmt::Debug for Aggregation {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Aggregation").field("routes", &self.routes.load()).finish_non_exhaustive()
    }
}

impl Aggregation {
    /// With what other servers are shown.
    pub(crate) fn new(identity: Option<Arc<dyn ResolvesClientCert>>, reach: Reach) -> Self {
        Self {
            routes: ArcSwap::default(),
            identity,
            reach,
            said: AtomicU64::new(0),
            registering: AtomicBool::new(false),
        }
    }

    /// The servers of this moment.
    pub(crate) fn routes(&self) -> Arc<Routes> {
        self.routes.load_full()
    }

    /// A number that changes whenever a server says something else about itself.
    pub(crate) fn generation(&self) -> u64 {
        self.said.load(Ordering::Acquire)
    }

    pub(super) fn heard(&self) {
        self.said.fetch_add(1, Ordering::AcqRel);
    }

    /// The server that answers a path, if it is another one.
    pub(crate) fn find(&self, path: &str) -> Option<Arc<Remote>> {
        let routes = self.routes.load();
        if routes.is_empty() {
            return None;
        }
        let (group, version) = group_and_version(path)?;
        routes.get(group, version).cloned()
    }

    fn tell_changed(&self) {
        self.routes.load().remotes.values().for_each(|remote| remote.changed.notify_one());
    }
}

/// The group and version that a path is about: of the API, or of its description in OpenAPI.
fn group_and_version(path: &str) -> Option<(&str, &str)> {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let mut first = segments.next()?;
    if first == "openapi" {
        (segments.next()? == "v3").then_some(())?;
        first = segments.next()?;
    }
    (first == "apis").then_some(())?;
    Some((segments.next()?, segments.next()?))
}

fn resource(group: &str, resource: &str) -> GroupResource {
    GroupResource { group: group.into(), resource: resource.into() }
}

/// Follows the objects from here on.
pub(crate) fn start(server: &Arc<ApiServer>) {
    let weak = Arc::downgrade(server);
    server.cache.listen(resource(GROUP, PLURAL), move || {
        if let Some(server) = weak.upgrade() {
            refresh(&server);
            registration::look(&server);
        }
    });
    let weak = Arc::downgrade(server);
    server.cache.listen(custom::definitions_resource(), move || {
        if let Some(server) = weak.upgrade() {
            registration::look(&server);
        }
    });
    for leading in [resource("", "services"), resource("discovery.k8s.io", "endpointslices")] {
        let weak = Arc::downgrade(server);
        server.cache.listen(leading, move || {
            if let Some(server) = weak.upgrade() {
                server.aggregation.tell_changed();
            }
        });
    }
    refresh(server);
}

/// Brings the servers in line with the objects in the cache.
fn refresh(server: &Arc<ApiServer>) {
    let objects = server.lookup.list(GROUP, PLURAL, None);
    let mut all: Vec<Registered> = objects.iter().map(|object| Registered::read(object)).collect();
    let known = server.aggregation.routes.load_full();
    let (mut remotes, mut new) = (BTreeMap::new(), Vec::new());
    for registered in &all {
        // Nobody else registers servers.
        let Some(spec) = registered.server.as_ref().filter(|_| registered.group != GROUP) else { continue };
        let key = (registered.group.clone(), registered.version.clone());
        let same = known.remotes.get(&key).filter(|remote| remote.server == *spec);
        let remote = match same {
            Some(remote) => remote.clone(),
            None => {
                let remote = Arc::new(Remote::new(server, registered.clone(), spec.clone()));
                new.push(remote.clone());
                remote
            }
        };
        remote.set_available(registered.available);
        remotes.insert(key, remote);
    }
    if remotes.is_empty() {
        if known.is_empty() {
            return;
        }
        all.clear();
    }
    let routes = Arc::new(Routes { remotes, all });
    server.aggregation.routes.store(routes.clone());
    // Those that went are told, so that their keepers end.
    let gone = known
        .remotes
        .iter()
        .filter(|(key, remote)| !routes.remotes.get(*key).is_some_and(|new| Arc::ptr_eq(new, remote)));
    gone.for_each(|(_, remote)| remote.changed.notify_one());
    new.iter().for_each(|remote| keeper::keep(server, remote));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_groups_and_versions() {
        for (path, expected) in [
            ("/apis/a.b/v1", Some(("a.b", "v1"))),
            ("/apis/a.b/v1/", Some(("a.b", "v1"))),
            ("/apis/a.b/v1/namespaces/x/things/y", Some(("a.b", "v1"))),
            ("/openapi/v3/apis/a.b/v1", Some(("a.b", "v1"))),
            ("/apis/a.b", None),
            ("/api/v1/pods", None),
            ("/openapi/v2", None),
            ("/", None),
        ] {
            assert_eq!(group_and_version(path), expected, "{path}");
        }
    }
}
