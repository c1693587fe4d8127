//! Which rules each built-in kind has.

use super::{batch, check, endpoints, namespaces, nodes, pod, quotas, secrets, services, volumes, workloads};
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
        ("", "Pod") => pod::create(object, errors),
        ("", "PodTemplate") => workloads::pod_template(object, errors),
        ("", "ReplicationController") => workloads::replication_controller(object, errors),
        ("apps", "ReplicaSet") => workloads::replica_set(object, errors),
        ("apps", "Deployment") => workloads::deployment(object, errors),
        ("apps", "StatefulSet") => workloads::stateful_set(object, errors),
        ("apps", "DaemonSet") => workloads::daemon_set(object, errors),
        ("apps", "ControllerRevision") => workloads::revision_create(object, errors),
        ("batch", "Job") => batch::job(object, errors),
        ("batch", "CronJob") => batch::cron_job(object, errors),
        ("", "PersistentVolume") => volumes::volume(object, errors),
        ("", "PersistentVolumeClaim") => volumes::claim(object, errors),
        ("storage.k8s.io", "StorageClass") => volumes::class(object, errors),
        ("storage.k8s.io", "VolumeAttachment") => volumes::attachment(object, errors),
        ("storage.k8s.io", "CSINode") => volumes::csi_node(object, errors),
        ("storage.k8s.io", "CSIDriver") => volumes::csi_driver(object, errors),
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
        ("", "Pod") => pod::update(new, old, errors),
        ("", "PodTemplate") => workloads::pod_template(new, errors),
        ("", "ReplicationController") => workloads::replication_controller(new, errors),
        ("apps", "ReplicaSet") => {
            workloads::replica_set(new, errors);
            workloads::selector_stays(new, old, errors);
        }
        ("apps", "Deployment") => {
            workloads::deployment(new, errors);
            workloads::selector_stays(new, old, errors);
        }
        ("apps", "StatefulSet") => workloads::stateful_set_update(new, old, errors),
        ("apps", "DaemonSet") => {
            workloads::daemon_set(new, errors);
            workloads::selector_stays(new, old, errors);
        }
        ("apps", "ControllerRevision") => {
            workloads::revision(new, errors);
            check::immutable(new, old, &["data"], errors);
        }
        ("batch", "Job") => batch::job_update(new, old, errors),
        ("batch", "CronJob") => batch::cron_job_update(new, old, errors),
        ("", "PersistentVolume") => volumes::volume_update(new, old, errors),
        ("", "PersistentVolumeClaim") => volumes::claim_update(new, old, errors),
        ("storage.k8s.io", "StorageClass") => volumes::class_update(new, old, errors),
        ("storage.k8s.io", "VolumeAttachment") => volumes::attachment_update(new, old, errors),
        ("storage.k8s.io", "CSINode") => volumes::csi_node(new, errors),
        ("storage.k8s.io", "CSIDriver") => volumes::csi_driver(new, errors),
        _ => {}
    }
}

pub(super) fn status_update(kind: &KindRef<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
    match (kind.group, kind.kind) {
        ("", "Pod") => pod::status_update(new, old, errors),
        ("", "Namespace") => namespaces::namespace_status(new, errors),
        ("apps", "DaemonSet") => workloads::daemon_status(new, errors),
        ("apps", _) | ("", "ReplicationController") => workloads::replica_status(new, errors),
        ("batch", "Job") => batch::job_status(new, errors),
        ("", "Node") => nodes::update(new, old, errors),
        ("", "ResourceQuota") => quotas::quota_status(new, errors),
        ("", "Service") => services::balancer_status(new, old, true, errors),
        ("networking.k8s.io", "Ingress") => services::balancer_status(new, old, false, errors),
        _ => {}
    }
}
