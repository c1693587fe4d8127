//! Which rules each built-in kind has.

use super::{endpoints, namespaces, nodes, quotas, secrets, services};
use crate::strategy::KindRef;
use crate::{FieldErrors, Value};

pub(super) fn create(kind: &KindRef<'_>, object: &Value, errors: &mut FieldErrors) {
    match (kind.group, kind.kind) {
        ("", "ConfigMap") => secrets::config_map(object, errors),
        ("", "Secret") => secrets::secret(object, errors),
        ("", "Namespace") => namespaces::namespace(object, errors),
        ("", "Node") => nodes::create(object, errors),
        ("", "Event") => namespaces::event(object, true, errors),
        ("events.k8s.io", "Event") => namespaces::event(object, false, errors),
        ("", "ResourceQuota") => quotas::quota(object, errors),
        ("", "LimitRange") => quotas::limit_range(object, errors),
        ("", "Service") => services::service(object, None, errors),
        ("", "Endpoints") => endpoints::endpoints(object, errors),
        ("discovery.k8s.io", "EndpointSlice") => endpoints::slice(object, errors),
        _ => {}
    }
}

pub(super) fn update(kind: &KindRef<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
    match (kind.group, kind.kind) {
        ("", "ConfigMap") => secrets::config_map_update(new, old, errors),
        ("", "Secret") => secrets::secret_update(new, old, errors),
        ("", "Node") => nodes::update(new, old, errors),
        ("", "Event") => namespaces::event_update(new, old, true, errors),
        ("events.k8s.io", "Event") => namespaces::event_update(new, old, false, errors),
        ("", "ResourceQuota") => quotas::quota_update(new, old, errors),
        ("", "LimitRange") => quotas::limit_range(new, errors),
        ("", "Service") => services::service_update(new, old, errors),
        ("", "Endpoints") => endpoints::endpoints_update(new, old, errors),
        ("discovery.k8s.io", "EndpointSlice") => endpoints::slice_update(new, old, errors),
        _ => {}
    }
}

pub(super) fn status_update(kind: &KindRef<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
    match (kind.group, kind.kind) {
        ("", "Namespace") => namespaces::namespace_status(new, errors),
        ("", "Node") => nodes::update(new, old, errors),
        ("", "ResourceQuota") => quotas::quota_status(new, errors),
        ("", "Service") => services::balancer_status(new, old, true, errors),
        ("networking.k8s.io", "Ingress") => services::balancer_status(new, old, false, errors),
        _ => {}
    }
}
