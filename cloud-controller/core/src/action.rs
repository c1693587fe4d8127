//! What a plan asks for, in a form that one executor carries out for every plan.
//!
//! Actions about one subject are done in order and stop at the first failure; the next look decides again.

use crate::{
    error::CloudError,
    model::{BalancerSpec, InstanceId, MachineOrder, Owner, Route, VolumeId, VolumeOrder},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

/// Kinds that the controllers write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `v1/nodes`.
    Node,
    /// `v1/services`.
    Service,
    /// `v1/persistentvolumes`.
    PersistentVolume,
    /// `v1/persistentvolumeclaims`.
    PersistentVolumeClaim,
    /// `storage.k8s.io/v1/volumeattachments`.
    VolumeAttachment,
    /// `timonel.io/v1/machines`.
    Machine,
}

impl Kind {
    /// API version, kind and plural.
    #[must_use]
    pub fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Node => ("v1", "Node", "nodes"),
            Self::Service => ("v1", "Service", "services"),
            Self::PersistentVolume => ("v1", "PersistentVolume", "persistentvolumes"),
            Self::PersistentVolumeClaim => ("v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
            Self::VolumeAttachment => ("storage.k8s.io/v1", "VolumeAttachment", "volumeattachments"),
            Self::Machine => ("timonel.io/v1", "Machine", "machines"),
        }
    }
}

/// The object that an action is about: what it writes, what its events speak of, what its retries count against.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// Kind.
    pub kind: Kind,
    /// Namespace; `None` for cluster-wide kinds.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// UID; empty when the object is gone or not made yet.
    pub uid: String,
    /// The version that the decision was made on: every write is refused if the object has moved on.
    pub version: String,
}

impl Subject {
    /// The object with this metadata.
    #[must_use]
    pub fn of(kind: Kind, meta: &ObjectMeta) -> Self {
        Self {
            kind,
            namespace: meta.namespace.clone(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            version: meta.resource_version.clone().unwrap_or_default(),
        }
    }

    /// An object that does not exist (any more, or yet).
    #[must_use]
    pub fn absent(kind: Kind, name: &str) -> Self {
        Self { kind, namespace: None, name: name.to_owned(), uid: String::new(), version: String::new() }
    }

    /// An action about it.
    #[must_use]
    pub fn act(&self, act: Act) -> Action {
        Action { subject: self.clone(), act }
    }

    /// A cloud call for it.
    #[must_use]
    pub fn call(&self, call: CloudCall) -> Action {
        self.act(Act::Cloud(call))
    }

    /// A merge patch of the object itself.
    #[must_use]
    pub fn patch(&self, body: Value) -> Action {
        self.act(Act::Patch { status: false, body })
    }

    /// A merge patch of its status.
    #[must_use]
    pub fn patch_status(&self, status: &Value) -> Action {
        self.act(Act::Patch { status: true, body: serde_json::json!({ "status": status }) })
    }

    /// An event about it.
    #[must_use]
    pub fn event(&self, warning: bool, reason: &'static str, message: impl Into<String>) -> Action {
        self.act(Act::Event { warning, reason, message: message.into() })
    }
}

/// One action.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// What it is about.
    pub subject: Subject,
    /// What to do.
    pub act: Act,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Merge-patches the subject, fenced by its version.
    Patch {
        /// Whether the status subresource is patched.
        status: bool,
        /// The patch.
        body: Value,
    },
    /// Creates an object for the subject. If it exists already, somebody was faster: what follows is left to them.
    Create {
        /// Kind of the object, cluster-wide.
        kind: Kind,
        /// The object.
        object: Value,
    },
    /// Deletes the subject, fenced by its UID and version.
    Delete,
    /// Records an event about the subject.
    Event {
        /// `Warning` rather than `Normal`.
        warning: bool,
        /// Reason, in upstream's words where it has them.
        reason: &'static str,
        /// Message.
        message: String,
    },
    /// Tells the operator that something must be looked at; nothing is done by itself.
    Alarm {
        /// Reason.
        reason: &'static str,
        /// Message.
        message: String,
    },
    /// Asks the cloud about instances by ID; the answer goes into the ledger of the plan that asked.
    Confirm(Vec<InstanceId>),
    /// Calls the cloud.
    Cloud(CloudCall),
}

/// A call that changes a cloud.
#[derive(Clone, Debug, PartialEq)]
pub enum CloudCall {
    /// `ensure_route`.
    EnsureRoute(Route),
    /// `delete_route`.
    DeleteRoute(Route),
    /// `ensure_balancer`; `retarget` when only the targets differ.
    EnsureBalancer {
        /// What it is to be.
        spec: Box<BalancerSpec>,
        /// Whether it exists and only its targets change.
        retarget: bool,
    },
    /// `delete_balancer`.
    DeleteBalancer(Owner),
    /// `create_volume`.
    CreateVolume(Box<VolumeOrder>),
    /// `delete_volume`.
    DeleteVolume(VolumeId),
    /// `attach_volume`.
    AttachVolume(VolumeId, InstanceId),
    /// `detach_volume`.
    DetachVolume(VolumeId, InstanceId),
    /// `expand_volume` to at least so many bytes.
    ExpandVolume(VolumeId, u64),
    /// `create`.
    CreateMachine(Box<MachineOrder>),
    /// `delete`.
    DeleteMachine(InstanceId),
    /// `start`.
    StartMachine(InstanceId),
    /// `stop`.
    StopMachine(InstanceId),
}

/// What an event says: whether it warns, its reason and message.
pub type Outcome = (bool, &'static str, String);

impl CloudCall {
    /// The event after success, where people wait for one.
    #[must_use]
    pub fn succeeded(&self) -> Option<Outcome> {
        let (reason, message) = match self {
            Self::EnsureBalancer { retarget: false, .. } => ("EnsuredLoadBalancer", "Ensured load balancer"),
            Self::EnsureBalancer { retarget: true, .. } => {
                ("UpdatedLoadBalancer", "Updated load balancer with new hosts")
            }
            Self::DeleteBalancer(_) => ("DeletedLoadBalancer", "Deleted load balancer"),
            Self::AttachVolume(..) => ("SuccessfulAttachVolume", "The volume is attached"),
            Self::CreateMachine(_) => ("Ordered", "The cloud took the order"),
            _ => return None,
        };
        Some((false, reason, message.to_owned()))
    }

    /// The event after a failure.
    #[must_use]
    pub fn failed(&self, error: &CloudError) -> Outcome {
        let (reason, what) = match self {
            Self::EnsureRoute(_) | Self::DeleteRoute(_) => ("FailedToCreateRoute", "Error changing the route"),
            Self::EnsureBalancer { retarget: false, .. } => {
                ("SyncLoadBalancerFailed", "Error syncing load balancer: failed to ensure load balancer")
            }
            Self::EnsureBalancer { retarget: true, .. } => {
                ("UpdateLoadBalancerFailed", "Error updating load balancer with new hosts")
            }
            Self::DeleteBalancer(_) => {
                ("SyncLoadBalancerFailed", "Error syncing load balancer: failed to delete load balancer")
            }
            Self::CreateVolume(_) => ("ProvisioningFailed", "Failed to provision volume"),
            Self::DeleteVolume(_) => ("VolumeFailedDelete", "Failed to delete volume"),
            Self::AttachVolume(..) => ("FailedAttachVolume", "Failed to attach volume"),
            Self::DetachVolume(..) => ("FailedDetachVolume", "Failed to detach volume"),
            Self::ExpandVolume(..) => ("VolumeResizeFailed", "Failed to expand volume"),
            Self::CreateMachine(_) => ("OrderRefused", "The cloud refused the order"),
            Self::DeleteMachine(_) => ("DeleteFailed", "The instance could not be removed"),
            Self::StartMachine(_) | Self::StopMachine(_) => {
                ("PowerFailed", "The instance's power could not be changed")
            }
        };
        (true, reason, format!("{what}: {error}"))
    }
}
