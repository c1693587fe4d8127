//! Columns of each built-in kind, as text: `+` in front means wide output only, `#` behind means integer, `?`
//! boolean, `@` a date; `Name` carries the format `name`.

use compact_str::CompactString;

use super::{Cells, Column, cluster, network, pods, storage, workloads};

/// The columns that a text describes.
pub(super) fn parse(text: &str) -> Vec<Column> {
    text.split('|').map(column).collect()
}

fn column(text: &str) -> Column {
    let (priority, text) = match text.strip_prefix('+') {
        Some(rest) => (1, rest),
        None => (0, text),
    };
    let (name, kind) = match text.chars().last() {
        Some('#') => (&text[..text.len() - 1], "integer"),
        Some('?') => (&text[..text.len() - 1], "boolean"),
        Some('@') => (&text[..text.len() - 1], "date"),
        _ => (text, "string"),
    };
    Column {
        name: name.into(),
        kind: CompactString::const_new(kind),
        format: CompactString::const_new(if name == "Name" { "name" } else { "" }),
        description: CompactString::const_new(""),
        priority,
    }
}

const SIMPLE: (&str, Cells) = ("Name|Age", cluster::name_and_age);
const DEFAULT: (&str, Cells) = ("Name|Created At@", cluster::name_and_creation);
const BINDING: &str = "Name|Role|Age|+Users|+Groups|+ServiceAccounts";
const WEBHOOKS: (&str, Cells) = ("Name|Webhooks#|Age", cluster::webhooks);
const REPLICAS: &str = "Name|Desired#|Current#|Ready#|Age|+Containers|+Images|+Selector";

/// Columns and cells of a kind.
pub(super) fn of(group: &str, kind: &str) -> (&'static str, Cells) {
    match group {
        "" => core(kind),
        "apps" | "batch" | "autoscaling" | "policy" => work(kind),
        "storage.k8s.io" => storage(kind),
        "networking.k8s.io" | "discovery.k8s.io" => net(kind),
        "rbac.authorization.k8s.io" if kind.ends_with("Binding") => (BINDING, cluster::role_binding),
        "events.k8s.io" => core(kind),
        _ => rest(kind),
    }
}

fn core(kind: &str) -> (&'static str, Cells) {
    match kind {
        "Pod" => ("Name|Ready|Status|Restarts|Age|+IP|+Node|+Nominated Node|+Readiness Gates", pods::pod as Cells),
        "PodTemplate" => ("Name|Containers|Images|Pod Labels", workloads::pod_template),
        "ReplicationController" => (REPLICAS, workloads::replication_controller),
        "Service" => ("Name|Type|Cluster-IP|External-IP|Port(s)|Age|+Selector", network::service),
        "Endpoints" => ("Name|Endpoints|Age", network::endpoints),
        "Node" => (
            "Name|Status|Roles|Age|Version|+Internal-IP|+External-IP|+OS-Image|+Kernel-Version|+Container-Runtime",
            cluster::node,
        ),
        "Event" => ("Last Seen|Type|Reason|Object|+Subobject|+Source|Message|+First Seen|+Count|+Name", cluster::event),
        "Namespace" => ("Name|Status|Age", cluster::namespace),
        "Secret" => ("Name|Type|Data|Age", cluster::secret),
        "ServiceAccount" => SIMPLE,
        "ConfigMap" => ("Name|Data|Age", cluster::config_map),
        "ResourceQuota" => ("Name|Request|Limit|Age", cluster::resource_quota),
        "ComponentStatus" => ("Name|Status|Message|Error", cluster::component_status),
        "PersistentVolume" => (
            "Name|Capacity|Access Modes|Reclaim Policy|Status|Claim|StorageClass|VolumeAttributesClass|Reason|Age|\
             +VolumeMode",
            storage::volume,
        ),
        "PersistentVolumeClaim" => (
            "Name|Status|Volume|Capacity|Access Modes|StorageClass|VolumeAttributesClass|Age|+VolumeMode",
            storage::claim,
        ),
        _ => DEFAULT,
    }
}

fn work(kind: &str) -> (&'static str, Cells) {
    match kind {
        "Deployment" => {
            ("Name|Ready|Up-to-date|Available|Age|+Containers|+Images|+Selector", workloads::deployment as Cells)
        }
        "ReplicaSet" => (REPLICAS, workloads::replica_set),
        "StatefulSet" => ("Name|Ready|Age|+Containers|+Images", workloads::stateful_set),
        "DaemonSet" => (
            "Name|Desired#|Current#|Ready#|Up-to-date#|Available#|Node Selector|Age|+Containers|+Images|+Selector",
            workloads::daemon_set,
        ),
        "ControllerRevision" => ("Name|Controller|Revision|Age", workloads::controller_revision),
        "Job" => ("Name|Status|Completions|Duration|Age|+Containers|+Images|+Selector", workloads::job),
        "CronJob" => (
            "Name|Schedule|Timezone|Suspend?|Active#|Last Schedule|Age|+Containers|+Images|+Selector",
            workloads::cron_job,
        ),
        "HorizontalPodAutoscaler" => ("Name|Reference|Targets|MinPods|MaxPods|Replicas|Age", workloads::autoscaler),
        "Scale" => ("Name|Desired#|Available#|Age", workloads::scale),
        "PodDisruptionBudget" => {
            ("Name|Min Available|Max Unavailable|Allowed Disruptions#|Age", workloads::disruption_budget)
        }
        _ => DEFAULT,
    }
}

fn storage(kind: &str) -> (&'static str, Cells) {
    match kind {
        "StorageClass" => {
            ("Name|Provisioner|ReclaimPolicy|VolumeBindingMode|AllowVolumeExpansion|Age", storage::class as Cells)
        }
        "VolumeAttributesClass" => ("Name|DriverName|Age", storage::attributes_class),
        "VolumeAttachment" => ("Name|Attacher|PV|Node|Attached?|Age", storage::attachment),
        "CSINode" => ("Name|Drivers#|Age", storage::csi_node),
        "CSIDriver" => (
            "Name|AttachRequired?|PodInfoOnMount?|StorageCapacity?|TokenRequests|RequiresRepublish?|Modes|Age",
            storage::csi_driver,
        ),
        "CSIStorageCapacity" => ("Name|StorageClassName|Capacity", storage::csi_capacity),
        _ => DEFAULT,
    }
}

fn net(kind: &str) -> (&'static str, Cells) {
    match kind {
        "Ingress" => ("Name|Class|Hosts|Address|Ports|Age", network::ingress as Cells),
        "IngressClass" => ("Name|Controller|Parameters|Age", network::ingress_class),
        "NetworkPolicy" => ("Name|Pod-Selector|Age", network::network_policy),
        "EndpointSlice" => ("Name|AddressType|Ports|Endpoints|Age", network::endpoint_slice),
        "ServiceCIDR" => ("Name|CIDRs|Age", network::service_cidr),
        "IPAddress" => ("Name|ParentRef|Age", network::ip_address),
        _ => DEFAULT,
    }
}

fn rest(kind: &str) -> (&'static str, Cells) {
    match kind {
        "CertificateSigningRequest" => {
            ("Name|Age|SignerName|Requestor|RequestedDuration|Condition", cluster::signing_request as Cells)
        }
        "ClusterTrustBundle" => ("Name|SignerName", cluster::trust_bundle),
        "PodCertificateRequest" => (
            "Name|PodName|ServiceAccountName|NodeName|SignerName|State|+UnverifiedUserAnnotations",
            cluster::pod_certificate_request,
        ),
        "Lease" => ("Name|Holder|Age", cluster::lease),
        "LeaseCandidate" => ("Name|LeaseName|BinaryVersion|EmulationVersion|Age", cluster::lease_candidate),
        "PriorityClass" => ("Name|Value#|Global-Default?|Age|+PreemptionPolicy", cluster::priority_class),
        "RuntimeClass" => ("Name|Handler|Age", cluster::runtime_class),
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => WEBHOOKS,
        "ValidatingAdmissionPolicy" => ("Name|Validations#|ParamKind|Age", cluster::validating_policy),
        "MutatingAdmissionPolicy" => ("Name|Mutations#|ParamKind|Age", cluster::mutating_policy),
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => {
            ("Name|PolicyName|ParamRef|Age", cluster::policy_binding)
        }
        "APIService" => ("Name|Service|Available|Age", cluster::api_service),
        "FlowSchema" => {
            ("Name|PriorityLevel|MatchingPrecedence|DistinguisherMethod|Age|MissingPL", cluster::flow_schema)
        }
        "PriorityLevelConfiguration" => {
            ("Name|Type|NominalConcurrencyShares|Queues|HandSize|QueueLengthLimit|Age", cluster::priority_level)
        }
        "StorageVersion" => ("Name|CommonEncodingVersion|StorageVersions|Age", cluster::storage_version),
        "StorageVersionMigration" => ("Name|Resource|Status", cluster::storage_version_migration),
        "DeviceClass" | "ResourceClaimTemplate" | "Workload" => SIMPLE,
        "ResourceClaim" => ("Name|State|Age", cluster::resource_claim),
        "ResourceSlice" => ("Name|Node|Driver|Pool|Age", cluster::resource_slice),
        "DeviceTaintRule" => ("Name|Key|Value|Effect|TimeAdded|Age", cluster::device_taint),
        "PodGroup" => ("Name|Policy|Workload|Status|Age", cluster::pod_group),
        _ => DEFAULT,
    }
}
