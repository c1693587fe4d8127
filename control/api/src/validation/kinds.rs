//! Which rules each built-in kind has.

use super::{
    access, admission, autoscalers, batch, check, devices, endpoints, extensions, fairness, metadata, namespaces,
    networking, nodes, pod, policies, quotas, secrets, services, volumes, workloads,
};
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
        ("networking.k8s.io", "Ingress") => networking::ingress(object, errors),
        ("networking.k8s.io", "IngressClass") => networking::ingress_class(object, errors),
        ("networking.k8s.io", "NetworkPolicy") => networking::network_policy(object, errors),
        ("networking.k8s.io", "ServiceCIDR") => networking::service_range(object, errors),
        ("networking.k8s.io", "IPAddress") => networking::address(object, errors),
        _ => rest_create(kind, object, errors),
    }
}

fn rest_create(kind: &KindRef<'_>, object: &Value, errors: &mut FieldErrors) {
    match (kind.group, kind.kind) {
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => access::role(object, kind.namespaced, errors),
        ("rbac.authorization.k8s.io", _) => access::binding(object, kind.namespaced, errors),
        ("certificates.k8s.io", "CertificateSigningRequest") => access::signing_request(object, errors),
        ("policy", "PodDisruptionBudget") => policies::budget(object, errors),
        ("autoscaling", "HorizontalPodAutoscaler") => autoscalers::autoscaler(object, errors),
        ("scheduling.k8s.io", "PriorityClass") => policies::priority_class(object, errors),
        ("node.k8s.io", "RuntimeClass") => policies::runtime_class(object, errors),
        ("coordination.k8s.io", "Lease") => policies::lease(object, errors),
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration") => {
            admission::webhooks(object, None, errors);
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => {
            admission::validating_policy(object, errors);
        }
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => {
            admission::mutating_policy(object, errors);
        }
        ("admissionregistration.k8s.io", _) => {
            admission::policy_binding(object, kind.kind == "MutatingAdmissionPolicyBinding", errors);
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crate::definition::validate(object, None, errors),
        ("apiregistration.k8s.io", "APIService") => extensions::api_service(object, errors),
        ("resource.k8s.io", "ResourceClaim") => devices::claim(object, errors),
        ("resource.k8s.io", "ResourceClaimTemplate") => devices::claim_template(object, errors),
        ("resource.k8s.io", "DeviceClass") => devices::class(object, errors),
        ("resource.k8s.io", "ResourceSlice") => devices::slice(object, errors),
        ("storage.k8s.io", "CSIStorageCapacity") => volumes::capacity(object, errors),
        ("storage.k8s.io", "VolumeAttributesClass") => volumes::attributes_class(object, errors),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => fairness::flow_schema(object, errors),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => fairness::priority_level(object, errors),
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
            workloads::selector_stays(new, old, errors);
            workloads::daemon_set(new, errors);
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
        ("storage.k8s.io", "CSINode") => volumes::csi_node_update(new, old, errors),
        ("storage.k8s.io", "CSIDriver") => volumes::csi_driver_update(new, old, errors),
        ("networking.k8s.io", "IngressClass") => networking::ingress_class_update(new, old, errors),
        ("networking.k8s.io", "ServiceCIDR") => networking::service_range_update(new, old, errors),
        ("networking.k8s.io", "IPAddress") => networking::address_update(new, old, errors),
        ("networking.k8s.io", "Ingress") => networking::ingress(new, errors),
        ("networking.k8s.io", "NetworkPolicy") => networking::network_policy(new, errors),
        _ => rest_update(kind, new, old, errors),
    }
}

fn rest_update(kind: &KindRef<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
    match (kind.group, kind.kind) {
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            access::binding_update(new, old, kind.namespaced, errors);
        }
        ("certificates.k8s.io", "CertificateSigningRequest") => access::signing_request_update(new, old, errors),
        ("scheduling.k8s.io", "PriorityClass") => policies::priority_class_update(new, old, errors),
        ("node.k8s.io", "RuntimeClass") => policies::runtime_class_update(new, old, errors),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crate::definition::validate(new, Some(old), errors),
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration") => {
            admission::webhooks(new, Some(old), errors);
        }
        ("autoscaling", "HorizontalPodAutoscaler") => autoscalers::autoscaler_update(new, old, errors),
        ("resource.k8s.io", "ResourceClaim" | "ResourceClaimTemplate") => {
            // What a claim asks for was judged when it was made.
            if kind.kind == "ResourceClaimTemplate" {
                devices::claim_template(new, errors);
            }
            devices::spec_stays(new, old, errors);
        }
        ("resource.k8s.io", "ResourceSlice") => devices::slice_update(new, old, errors),
        ("storage.k8s.io", "CSIStorageCapacity") => {
            volumes::capacity(new, errors);
            check::immutable(new, old, &["nodeTopology"], errors);
            check::immutable(new, old, &["storageClassName"], errors);
        }
        ("storage.k8s.io", "VolumeAttributesClass") => volumes::attributes_class_update(new, old, errors),
        ("apiregistration.k8s.io", "APIService") => {
            metadata::kept_name(kind, new, errors);
            extensions::api_service(new, errors);
        }
        _ => rest_create(kind, new, errors),
    }
}

pub(super) fn status_update(kind: &KindRef<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
    match (kind.group, kind.kind) {
        ("", "Pod") => pod::status_update(new, old, errors),
        ("", "Namespace") => namespaces::namespace_status(new, errors),
        ("apps", "DaemonSet") => workloads::daemon_status(new, errors),
        ("apps", _) | ("", "ReplicationController") => workloads::replica_status(new, errors),
        ("batch", "Job") => batch::job_status(new, errors),
        ("policy", "PodDisruptionBudget") => policies::budget_status(new, errors),
        ("certificates.k8s.io", "CertificateSigningRequest") => access::signing_request_update(new, old, errors),
        ("", "Node") => nodes::update(new, old, errors),
        ("", "ResourceQuota") => quotas::quota_status(new, errors),
        ("", "Service") => services::balancer_status(new, old, true, errors),
        ("networking.k8s.io", "Ingress") => services::balancer_status(new, old, false, errors),
        _ => {}
    }
}
