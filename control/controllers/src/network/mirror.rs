//! Copies `Endpoints` that people keep by hand into endpoint slices, for services without a selector.

use super::slice_set::{Frame, MANAGED_BY, SERVICE, Wanted, managed, reconcile};
use crate::{
    common::objects::{annotation, controlled_by, deleting, label, labels, namespace},
    framework::{Action, Change, Controller, Key, Kind, Object, Plan, Target, View},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{EndpointAddress, Endpoints},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort},
};
use std::{collections::BTreeMap, sync::Arc};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Addresses copied of one subset at most.
const MAX_ADDRESSES: usize = 1000;

/// Mirrors endpoints.
#[derive(Debug)]
pub(crate) struct Mirror;

impl Controller for Mirror {
    fn name(&self) -> &'static str {
        "endpointslice-mirroring-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Service, Kind::Endpoints, Kind::EndpointSlice]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("EndpointSlice", "managed by endpointslicemirroring-controller.k8s.io")]
    }

    fn keys(&self, _view: &View, change: &Change, keys: &mut Vec<Key>) {
        match change.object() {
            Object::EndpointSlice(slice) => {
                if label(&slice.metadata, MANAGED_BY) == Some(MANAGER)
                    && let Some(service) = label(&slice.metadata, SERVICE)
                {
                    keys.push(Key::new(namespace(&slice.metadata), service));
                }
            }
            object => keys.push(Key::of(object.meta())),
        }
    }

    fn plan(&self, view: &View, key: &Key, _now: Timestamp) -> Plan {
        let present = managed(view.endpoint_slices.indexed(&key.to_string()), MANAGER);
        let Some(endpoints) = view.endpoints.get(key).filter(|endpoints| mirrored(view, endpoints)) else {
            let gone = present.iter().map(|slice| Action::delete(Target::of(Kind::EndpointSlice, &slice.metadata)));
            return gone.collect::<Vec<_>>().into();
        };
        let mut slice_labels = labels(&endpoints.metadata).clone();
        slice_labels.insert(SERVICE.to_owned(), key.name.clone());
        slice_labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
        let mut annotations: BTreeMap<String, String> = endpoints.metadata.annotations.clone().unwrap_or_default();
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        annotations.remove("endpoints.kubernetes.io/last-change-trigger-time");
        let frame = Frame {
            namespace: key.namespace.clone(),
            service: key.name.clone(),
            labels: slice_labels,
            annotations,
            owner: controlled_by(Kind::Endpoints, &endpoints.metadata),
        };
        reconcile(&frame, &present, wanted(endpoints)).into()
    }
}

fn mirrored(view: &View, endpoints: &Arc<Endpoints>) -> bool {
    let meta = &endpoints.metadata;
    let service = view.services.get(&Key::of(meta)).filter(|service| !deleting(&service.metadata));
    let by_hand = service.and_then(|service| service.spec.as_ref()).is_some_and(|spec| {
        spec.selector.as_ref().is_none_or(BTreeMap::is_empty) && spec.type_.as_deref() != Some("ExternalName")
    });
    by_hand && !deleting(meta) && label(meta, SKIP) != Some("true") && annotation(meta, LEADER).is_none()
}

fn wanted(endpoints: &Endpoints) -> Wanted {
    let mut wanted = Wanted::default();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(port.port),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let waiting = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(waiting).take(MAX_ADDRESSES) {
            let family = if address.ip.contains(':') { "IPv6" } else { "IPv4" };
            wanted.add(family, &ports, endpoint(address, ready));
        }
    }
    wanted
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|host| !host.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, outline};
    use serde_json::{Value, json};

    fn check(service: Value, endpoint_labels: Value, expected: usize) {
        let mut view = View::default();
        view.services.insert(object(service));
        view.endpoints.insert(object(json!({"metadata": {"name": "db", "namespace": "default", "labels": endpoint_labels},
            "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": [{"port": 5432}]}]})));
        let made = outline(&Mirror.plan(&view, &Key::new("default", "db"), at(0)));
        assert_eq!(made.len(), expected);
        if let Some(made) = made.first() {
            assert_eq!(made.body["endpoints"][1]["conditions"], json!({"ready": false}));
            assert_eq!(made.body["metadata"]["labels"][SERVICE], "db");
        }
    }

    #[test]
    fn only_for_services_without_a_selector() {
        let meta = json!({"name": "db", "namespace": "default"});
        check(json!({"metadata": meta, "spec": {"ports": []}}), json!({}), 1);
        check(json!({"metadata": meta, "spec": {"selector": {"a": "b"}}}), json!({}), 0);
        check(json!({"metadata": meta, "spec": {}}), json!({SKIP: "true"}), 0);
    }
}
