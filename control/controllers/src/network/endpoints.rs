//! The older `Endpoints` objects of services with a selector.

use super::slices::{addresses, pods_behind, selects, services_of_pod, target_port};
use crate::{
    common::{
        objects::{deleting, label, labels, namespace},
        pods::{node, ready},
    },
    framework::{Action, Change, Controller, Key, Kind, Object, Plan, Target, View},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service, ServiceSpec,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::collections::BTreeMap;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one object at most; the rest is cut off and said so.
const MAX_ADDRESSES: usize = 1000;

/// Keeps endpoints objects.
#[derive(Debug)]
pub(crate) struct EndpointsObjects;

impl Controller for EndpointsObjects {
    fn name(&self) -> &'static str {
        "endpoint-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Service, Kind::Pod, Kind::Endpoints]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("Endpoints", "of services with a selector")]
    }

    fn keys(&self, view: &View, change: &Change, keys: &mut Vec<Key>) {
        match change.object() {
            Object::Pod(_) => services_of_pod(view, change, keys),
            object => keys.push(Key::of(object.meta())),
        }
    }

    fn plan(&self, view: &View, key: &Key, _now: Timestamp) -> Plan {
        let known = view.endpoints.get(key);
        let Some(service) = view.services.get(key).filter(|service| !deleting(&service.metadata)) else {
            // Only what this controller made goes with its service.
            let ours = known.filter(|known| label(&known.metadata, MANAGED_BY) == Some(MANAGER));
            return ours
                .map(|ours| Action::delete(Target::of(Kind::Endpoints, &ours.metadata)))
                .into_iter()
                .collect::<Vec<_>>()
                .into();
        };
        let Some(spec) = service.spec.as_ref().filter(|spec| selects(spec)) else { return Plan::none() };
        let (subsets, cut) = subsets(view, service, spec);
        let mut wanted_labels = labels(&service.metadata).clone();
        wanted_labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
        if spec.cluster_ip.as_deref() == Some("None") {
            wanted_labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
        }
        let Some(known) = known else {
            let annotations = cut.then(|| BTreeMap::from([(OVER_CAPACITY.to_owned(), "truncated".to_owned())]));
            let metadata = ObjectMeta {
                name: Some(key.name.clone()),
                namespace: Some(key.namespace.clone()),
                labels: Some(wanted_labels),
                annotations,
                ..ObjectMeta::default()
            };
            return vec![Action::create(Endpoints { metadata, subsets: Some(subsets) })].into();
        };
        let mut new = (**known).clone();
        new.metadata.labels = Some(wanted_labels);
        let annotations = new.metadata.annotations.get_or_insert_default();
        if cut {
            annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
        } else {
            annotations.remove(OVER_CAPACITY);
        }
        let same = known.subsets.as_deref().unwrap_or_default() == subsets
            && new.metadata.labels == known.metadata.labels
            && *annotations == known.metadata.annotations.clone().unwrap_or_default();
        if same {
            return Plan::none();
        }
        new.subsets = Some(subsets);
        vec![Action::update(new)].into()
    }
}

fn address(service: &Service, spec: &ServiceSpec, pod: &Pod) -> Option<EndpointAddress> {
    let six = spec.ip_families.iter().flatten().next().map(String::as_str) == Some("IPv6")
        || spec.cluster_ip.as_deref().is_some_and(|ip| ip.contains(':'));
    let ip = addresses(pod).into_iter().find(|ip| ip.contains(':') == six)?;
    let pod_spec = pod.spec.clone().unwrap_or_default();
    Some(EndpointAddress {
        ip: ip.to_owned(),
        hostname: pod_spec
            .hostname
            .filter(|host| !host.is_empty() && pod_spec.subdomain.as_deref() == service.metadata.name.as_deref()),
        node_name: Some(node(pod).to_owned()).filter(|name| !name.is_empty()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(namespace(&pod.metadata).to_owned()),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    })
}

fn ports(spec: &ServiceSpec, pod: &Pod) -> Vec<EndpointPort> {
    let resolved = spec.ports.iter().flatten().filter_map(|port| {
        Some(EndpointPort {
            name: port.name.clone().filter(|name| !name.is_empty()),
            port: target_port(port, pod)?,
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

/// One subset for each set of ports, ready and unready addresses apart; and whether some were cut off.
fn subsets(view: &View, service: &Service, spec: &ServiceSpec) -> (Vec<EndpointSubset>, bool) {
    let published = spec.publish_not_ready_addresses == Some(true);
    let mut groups: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    let mut left = MAX_ADDRESSES;
    let mut cut = false;
    let mut pods: Vec<_> = pods_behind(view, service).filter(|pod| published || !deleting(&pod.metadata)).collect();
    // Ready ones first, so that what is cut off is what serves least.
    pods.sort_by_key(|pod| !ready(pod));
    for pod in pods {
        let Some(address) = address(service, spec, pod) else { continue };
        let ports = ports(spec, pod);
        if ports.is_empty() && spec.ports.as_ref().is_some_and(|ports| !ports.is_empty()) {
            continue;
        }
        if left == 0 {
            cut = true;
            break;
        }
        left -= 1;
        let subset = groups.entry(serde_json::to_string(&ports).unwrap_or_default()).or_default();
        subset.ports = Some(ports).filter(|ports| !ports.is_empty());
        let list = if published || ready(pod) { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(address);
    }
    let mut subsets: Vec<EndpointSubset> = groups.into_values().collect();
    for subset in &mut subsets {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses].into_iter().flatten() {
            list.sort_by(|a, b| a.ip.cmp(&b.ip));
        }
    }
    (subsets, cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, outline};
    use serde_json::{Value, json};

    fn pod(name: &str, ip: &str, ready: bool) -> Value {
        json!({"metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": []},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]}})
    }

    fn view(pods: &[Value]) -> View {
        let mut view = View::default();
        view.services.insert(object(json!({"metadata": {"name": "web", "namespace": "default"},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ports": [{"port": 80, "targetPort": 8080}]}})));
        for pod in pods {
            view.pods.insert(object(pod.clone()));
        }
        view
    }

    fn plan(view: &View) -> Vec<crate::testing::Outline> {
        outline(&EndpointsObjects.plan(view, &Key::new("default", "web"), at(0)))
    }

    #[test]
    fn ready_and_unready_addresses_apart() {
        let made = plan(&view(&[pod("b", "10.1.0.2", false), pod("a", "10.1.0.1", true)]));
        let subset = &made[0].body["subsets"][0];
        assert_eq!(subset["addresses"][0]["ip"], "10.1.0.1");
        assert_eq!(subset["notReadyAddresses"][0]["ip"], "10.1.0.2");
        assert_eq!(subset["ports"], json!([{"port": 8080, "protocol": "TCP"}]));
    }

    #[test]
    fn it_updates_what_changed_and_removes_only_its_own() {
        let mut view = view(&[pod("a", "10.1.0.1", true)]);
        let made = plan(&view);
        view.endpoints.insert(object(made[0].body.clone()));
        assert_eq!(plan(&view).len(), 0);
        view.pods.insert(object(pod("a", "10.1.0.9", true)));
        assert_eq!(plan(&view)[0].line, "update Endpoints default/web");
        let mut alone = View::default();
        alone.endpoints.insert(object(made[0].body.clone()));
        assert_eq!(plan(&alone)[0].line, "delete Endpoints default/web");
        alone.endpoints.insert(object(json!({"metadata": {"name": "web", "namespace": "default"}})));
        assert_eq!(plan(&alone).len(), 0, "made by hand");
    }
}
