//! The table: which members of which types get which value, and which types have a function.

use super::{Hook, core, groups};
use crate::{Object, Value};

/// A default that can be written down.
#[derive(Clone, Copy, Debug)]
pub(super) enum Literal {
    Text(&'static str),
    Int(i64),
    Bool(bool),
    /// An object without members.
    Empty,
    /// A list of one name.
    One(&'static str),
}

impl Literal {
    pub(super) fn value(self) -> Value {
        match self {
            Self::Text(text) => text.into(),
            Self::Int(number) => number.into(),
            Self::Bool(truth) => truth.into(),
            Self::Empty => Object::new().into(),
            Self::One(text) => Value::List(vec![text.into()]),
        }
    }
}

/// What to do for one type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) values: &'static [(&'static str, Literal)],
    pub(super) hook: Option<Hook>,
}

const fn values(values: &'static [(&'static str, Literal)]) -> Rule {
    Rule { values, hook: None }
}

const fn hook(hook: Hook) -> Rule {
    Rule { values: &[], hook: Some(hook) }
}

const fn both(values: &'static [(&'static str, Literal)], hook: Hook) -> Rule {
    Rule { values, hook: Some(hook) }
}

use Literal::{Bool, Empty, Int, One, Text};

/// File mode 0644, which projected files get.
const FILE_MODE: Literal = Int(0o644);

/// Group, type, rule; in every version of the group.
pub(super) const RULES: &[(&str, &str, Rule)] = &[
    ("core", "ReplicationController", hook(core::replication_controller)),
    ("core", "ReplicationControllerSpec", values(&[("replicas", Int(1))])),
    ("core", "Volume", hook(core::volume)),
    ("core", "ImageVolumeSource", hook(core::image_volume)),
    ("core", "Container", both(CONTAINER, core::container)),
    ("core", "EphemeralContainer", both(CONTAINER, core::container)),
    ("core", "ContainerPort", values(&[("protocol", Text("TCP"))])),
    ("core", "NodeSpec", hook(core::node_spec)),
    ("core", "Service", hook(core::service)),
    ("core", "Pod", hook(core::pod)),
    (
        "core",
        "PodSpec",
        both(
            &[
                ("dnsPolicy", Text("ClusterFirst")),
                ("restartPolicy", Text("Always")),
                ("securityContext", Empty),
                ("terminationGracePeriodSeconds", Int(30)),
                ("schedulerName", Text("default-scheduler")),
            ],
            core::pod_spec,
        ),
    ),
    (
        "core",
        "Probe",
        values(&[
            ("timeoutSeconds", Int(1)),
            ("periodSeconds", Int(10)),
            ("successThreshold", Int(1)),
            ("failureThreshold", Int(3)),
        ]),
    ),
    ("core", "SecretVolumeSource", values(&[("defaultMode", FILE_MODE)])),
    ("core", "ConfigMapVolumeSource", values(&[("defaultMode", FILE_MODE)])),
    ("core", "DownwardAPIVolumeSource", values(&[("defaultMode", FILE_MODE)])),
    ("core", "ProjectedVolumeSource", values(&[("defaultMode", FILE_MODE)])),
    ("core", "ServiceAccountTokenProjection", values(&[("expirationSeconds", Int(3600))])),
    ("core", "HostPathVolumeSource", values(&[("type", Text(""))])),
    ("core", "ObjectFieldSelector", values(&[("apiVersion", Text("v1"))])),
    ("core", "HTTPGetAction", values(&[("path", Text("/")), ("scheme", Text("HTTP"))])),
    ("core", "Secret", values(&[("type", Text("Opaque"))])),
    ("core", "PersistentVolumeStatus", values(&[("phase", Text("Pending"))])),
    (
        "core",
        "PersistentVolumeSpec",
        values(&[("persistentVolumeReclaimPolicy", Text("Retain")), ("volumeMode", Text("Filesystem"))]),
    ),
    ("core", "PersistentVolumeClaimStatus", values(&[("phase", Text("Pending"))])),
    ("core", "PersistentVolumeClaimSpec", values(&[("volumeMode", Text("Filesystem"))])),
    ("core", "EndpointPort", values(&[("protocol", Text("TCP"))])),
    ("core", "Namespace", hook(core::namespace)),
    ("core", "NamespaceStatus", values(&[("phase", Text("Active"))])),
    ("core", "NodeStatus", hook(core::node_status)),
    ("core", "LimitRangeItem", hook(core::limit_range_item)),
    ("core", "PodLogOptions", values(&[("stream", Text("All"))])),
    (
        "apps",
        "DeploymentSpec",
        values(&[("replicas", Int(1)), ("revisionHistoryLimit", Int(10)), ("progressDeadlineSeconds", Int(600))]),
    ),
    ("apps", "DeploymentStrategy", both(ROLLING, groups::deployment_strategy)),
    ("apps", "DaemonSet", hook(groups::daemon_set)),
    ("apps", "DaemonSetSpec", values(&[("revisionHistoryLimit", Int(10))])),
    ("apps", "DaemonSetUpdateStrategy", both(ROLLING, groups::daemon_set_strategy)),
    ("apps", "ReplicaSetSpec", values(&[("replicas", Int(1))])),
    (
        "apps",
        "StatefulSetSpec",
        both(
            &[
                ("podManagementPolicy", Text("OrderedReady")),
                ("persistentVolumeClaimRetentionPolicy", Empty),
                ("replicas", Int(1)),
                ("revisionHistoryLimit", Int(10)),
            ],
            groups::stateful_set_spec,
        ),
    ),
    (
        "apps",
        "StatefulSetPersistentVolumeClaimRetentionPolicy",
        values(&[("whenDeleted", Text("Retain")), ("whenScaled", Text("Retain"))]),
    ),
    ("autoscaling", "HorizontalPodAutoscaler", hook(groups::autoscaler)),
    ("batch", "Job", hook(groups::job)),
    (
        "batch",
        "CronJobSpec",
        values(&[
            ("concurrencyPolicy", Text("Allow")),
            ("suspend", Bool(false)),
            ("successfulJobsHistoryLimit", Int(3)),
            ("failedJobsHistoryLimit", Int(1)),
        ]),
    ),
    ("batch", "PodFailurePolicyOnPodConditionsPattern", values(&[("status", Text("True"))])),
    ("discovery", "EndpointPort", values(&[("name", Text("")), ("protocol", Text("TCP"))])),
    ("networking", "NetworkPolicyPort", values(&[("protocol", Text("TCP"))])),
    ("networking", "NetworkPolicySpec", hook(groups::network_policy_spec)),
    ("networking", "IngressClassParametersReference", values(&[("scope", Text("Cluster"))])),
    ("rbac", "RoleRef", values(&[("apiGroup", Text(RBAC))])),
    ("rbac", "Subject", hook(groups::subject)),
    ("scheduling", "PriorityClass", values(&[("preemptionPolicy", Text("PreemptLowerPriority"))])),
    ("storage", "StorageClass", values(&[("reclaimPolicy", Text("Delete")), ("volumeBindingMode", Text("Immediate"))])),
    (
        "storage",
        "CSIDriverSpec",
        values(&[
            ("attachRequired", Bool(true)),
            ("podInfoOnMount", Bool(false)),
            ("storageCapacity", Bool(false)),
            ("fsGroupPolicy", Text("ReadWriteOnceWithFSType")),
            ("volumeLifecycleModes", One("Persistent")),
            ("requiresRepublish", Bool(false)),
            ("seLinuxMount", Bool(false)),
        ]),
    ),
    ("admissionregistration", "ValidatingWebhook", values(WEBHOOK)),
    ("admissionregistration", "MutatingWebhook", both(WEBHOOK, groups::mutating_webhook)),
    ("admissionregistration", "RuleWithOperations", values(&[("scope", Text("*"))])),
    ("admissionregistration", "NamedRuleWithOperations", values(&[("scope", Text("*"))])),
    ("admissionregistration", "ServiceReference", values(&[("port", Int(443))])),
    ("admissionregistration", "ValidatingAdmissionPolicySpec", values(&[("failurePolicy", Text("Fail"))])),
    ("admissionregistration", "MutatingAdmissionPolicySpec", values(&[("failurePolicy", Text("Fail"))])),
    (
        "admissionregistration",
        "MatchResources",
        values(&[("matchPolicy", Text("Equivalent")), ("namespaceSelector", Empty), ("objectSelector", Empty)]),
    ),
    ("apiextensions", "CustomResourceDefinition", hook(groups::definition)),
    ("apiextensions", "ServiceReference", values(&[("port", Int(443))])),
    ("apiregistration", "ServiceReference", values(&[("port", Int(443))])),
    ("flowcontrol", "FlowSchemaSpec", values(&[("matchingPrecedence", Int(1000))])),
    (
        "flowcontrol",
        "ExemptPriorityLevelConfiguration",
        values(&[("nominalConcurrencyShares", Int(0)), ("lendablePercent", Int(0))]),
    ),
    (
        "flowcontrol",
        "LimitedPriorityLevelConfiguration",
        values(&[("nominalConcurrencyShares", Int(30)), ("lendablePercent", Int(0))]),
    ),
    (
        "flowcontrol",
        "QueuingConfiguration",
        values(&[("queues", Int(64)), ("handSize", Int(8)), ("queueLengthLimit", Int(50))]),
    ),
    ("resource", "ExactDeviceRequest", hook(groups::device_request)),
    ("resource", "DeviceSubRequest", hook(groups::device_request)),
    ("resource", "DeviceRequest", hook(groups::old_device_request)),
    ("resource", "ResourcePoolStatusRequestSpec", values(&[("limit", Int(100))])),
    ("authentication", "TokenRequestSpec", values(&[("expirationSeconds", Int(3600))])),
];

/// The group every role lives in.
pub(super) const RBAC: &str = "rbac.authorization.k8s.io";

const CONTAINER: &[(&str, Literal)] =
    &[("terminationMessagePath", Text("/dev/termination-log")), ("terminationMessagePolicy", Text("File"))];

const ROLLING: &[(&str, Literal)] = &[("type", Text("RollingUpdate"))];

const WEBHOOK: &[(&str, Literal)] = &[
    ("failurePolicy", Text("Fail")),
    ("matchPolicy", Text("Equivalent")),
    ("namespaceSelector", Empty),
    ("objectSelector", Empty),
    ("timeoutSeconds", Int(10)),
];
