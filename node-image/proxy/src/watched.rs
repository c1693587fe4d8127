//! Which services a change of watched objects concerns, and how they look from there on. Pure.

use crate::view::{NodeView, ServiceView, service_of, view};
use k8s_openapi::{
    api::{core::v1::Service, discovery::v1::EndpointSlice},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

/// Services and slices as they were last seen.
#[derive(Debug)]
pub struct Watched {
    node: NodeView,
    services: HashMap<String, Arc<Service>>,
    /// With the service that each belongs to.
    slices: HashMap<String, (Option<String>, Arc<EndpointSlice>)>,
    /// Names of the slices of each service.
    of_service: HashMap<String, BTreeSet<String>>,
}

impl Watched {
    /// For the node whose rules they become.
    #[must_use]
    pub fn new(node: NodeView) -> Self {
        Self { node, services: HashMap::new(), slices: HashMap::new(), of_service: HashMap::new() }
    }

    /// Takes all services and slices there are, and gives back those services that look different from here on, by
    /// `namespace/name`; `None` is one that the proxy has nothing to do with.
    pub fn take(
        &mut self,
        services: &[Arc<Service>],
        slices: &[Arc<EndpointSlice>],
    ) -> BTreeMap<String, Option<ServiceView>> {
        let mut concerned = HashSet::new();
        self.take_services(services, &mut concerned);
        self.take_slices(slices, &mut concerned);
        let look = |name: String| {
            let seen = self.look(&name);
            (name, seen)
        };
        concerned.into_iter().map(look).collect()
    }

    fn take_services(&mut self, services: &[Arc<Service>], concerned: &mut HashSet<String>) {
        let mut before = std::mem::take(&mut self.services);
        self.services.reserve(services.len());
        for service in services {
            let name = key(&service.metadata);
            let old = before.remove(&name);
            if old.is_none_or(|old| !same(&old, service, |one| &one.metadata)) {
                concerned.insert(name.clone());
            }
            self.services.insert(name, service.clone());
        }
        concerned.extend(before.into_keys());
    }

    fn take_slices(&mut self, slices: &[Arc<EndpointSlice>], concerned: &mut HashSet<String>) {
        let mut before = std::mem::take(&mut self.slices);
        self.slices.reserve(slices.len());
        for slice in slices {
            let name = key(&slice.metadata);
            let old = before.remove(&name);
            if let Some((of, _)) = old.as_ref().filter(|(_, old)| same(old, slice, |one| &one.metadata)) {
                self.slices.insert(name, (of.clone(), slice.clone()));
                continue;
            }
            self.part(&name, old.and_then(|(of, _)| of), concerned);
            let of = service_of(slice);
            if let Some(of) = &of {
                self.of_service.entry(of.clone()).or_default().insert(name.clone());
                concerned.insert(of.clone());
            }
            self.slices.insert(name, (of, slice.clone()));
        }
        for (name, (of, _)) in before {
            self.part(&name, of, concerned);
        }
    }

    /// A slice is no more its service's.
    fn part(&mut self, slice: &str, of: Option<String>, concerned: &mut HashSet<String>) {
        let Some(of) = of else { return };
        if let Some(names) = self.of_service.get_mut(&of) {
            names.remove(slice);
            if names.is_empty() {
                self.of_service.remove(&of);
            }
        }
        concerned.insert(of);
    }

    fn look(&self, name: &str) -> Option<ServiceView> {
        let service = self.services.get(name)?;
        let names = self.of_service.get(name).into_iter().flatten();
        let slices = names.filter_map(|name| Some(self.slices.get(name)?.1.as_ref()));
        view(name, service, &slices, &self.node)
    }
}

fn key(meta: &ObjectMeta) -> String {
    format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// Whether two are one state of an object. A list that is read again brings equal states in other places.
fn same<T>(old: &Arc<T>, new: &Arc<T>, meta: impl Fn(&T) -> &ObjectMeta) -> bool {
    let (before, after) = (meta(old), meta(new));
    let version = before.resource_version.is_some() && before.resource_version == after.resource_version;
    Arc::ptr_eq(old, new) || version && before.uid == after.uid
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(name: &str, version: &str) -> Arc<Service> {
        let meta = json!({"namespace": "n", "name": name, "uid": name, "resourceVersion": version});
        let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]});
        Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap())
    }

    fn slice(name: &str, version: &str, of: &str, address: &str) -> Arc<EndpointSlice> {
        let labels = json!({"kubernetes.io/service-name": of});
        let meta = json!({"namespace": "n", "name": name, "uid": name, "resourceVersion": version, "labels": labels});
        let endpoints = json!([{"addresses": [address]}]);
        let slice = json!({"metadata": meta, "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": endpoints});
        Arc::new(serde_json::from_value(slice).unwrap())
    }

    /// `name=backends` of what is concerned, `name` of what is gone.
    fn seen(concerned: BTreeMap<String, Option<ServiceView>>) -> Vec<String> {
        let backends = |view: ServiceView| {
            let all = view.ports[0].endpoints.iter().map(|endpoint| endpoint.address.ip().to_string());
            all.collect::<Vec<_>>().join("+")
        };
        let text = |(name, view): (String, Option<ServiceView>)| match view {
            Some(view) => format!("{name}={}", backends(view)),
            None => name,
        };
        concerned.into_iter().map(text).collect()
    }

    #[test]
    fn only_services_that_a_change_concerns_are_looked_at() {
        let mut watched = Watched::new(NodeView::default());
        let services = [service("a", "1"), service("b", "1")];
        let slices = [slice("a-1", "1", "a", "10.1.0.1"), slice("b-1", "1", "b", "10.1.0.2")];
        assert_eq!(seen(watched.take(&services, &slices)), ["n/a=10.1.0.1", "n/b=10.1.0.2"]);
        assert_eq!(seen(watched.take(&services, &slices)), Vec::<String>::new());
        let again = [service("a", "1"), service("b", "1")];
        assert_eq!(seen(watched.take(&again, &slices)), Vec::<String>::new(), "read again");
        let more = [slices[0].clone(), slices[1].clone(), slice("b-2", "2", "b", "10.1.0.3")];
        assert_eq!(seen(watched.take(&again, &more)), ["n/b=10.1.0.2+10.1.0.3"]);
        let moved = [slices[0].clone(), slices[1].clone(), slice("b-2", "3", "a", "10.1.0.3")];
        assert_eq!(seen(watched.take(&again, &moved)), ["n/a=10.1.0.1+10.1.0.3", "n/b=10.1.0.2"]);
        let changed = [service("a", "2"), service("b", "1")];
        assert_eq!(seen(watched.take(&changed, &moved)), ["n/a=10.1.0.1+10.1.0.3"]);
        assert_eq!(seen(watched.take(&changed[..1], &moved[..2])), ["n/a=10.1.0.1", "n/b"]);
        assert_eq!(seen(watched.take(&[], &[])), ["n/a", "n/b"]);
        assert!(watched.of_service.is_empty());
    }

    #[test]
    fn one_made_anew_under_the_same_name_is_another() {
        let mut watched = Watched::new(NodeView::default());
        watched.take(&[service("a", "1")], &[]);
        let mut anew = Service::clone(&service("a", "1"));
        anew.metadata.uid = Some("other".to_owned());
        assert_eq!(seen(watched.take(&[Arc::new(anew)], &[])), ["n/a="]);
    }
}
