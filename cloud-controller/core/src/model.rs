//! What the controllers and a cloud tell each other: instances, routes, load balancers, volumes.

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

/// Tag on everything we create: UID of the cluster that it serves.
pub const TAG_CLUSTER: &str = "timonel.io/cluster-uid";
/// Tag on everything we create: UID of the resource that it was created for.
pub const TAG_RESOURCE: &str = "timonel.io/resource-uid";
/// Tag on machines: UID of the fleet that ordered them, so that a sweep finds only its own.
pub const TAG_FLEET: &str = "timonel.io/fleet-uid";
/// Tag on machines: the node pool.
pub const TAG_POOL: &str = "timonel.io/node-pool";
/// Tag on everything that has a name.
pub const TAG_NAME: &str = "Name";

/// Tags of a cloud object.
pub type Tags = BTreeMap<String, String>;

/// Whose a cloud object is: every object carries both UIDs as tags, from the call that creates it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// UID of the cluster.
    pub cluster: String,
    /// UID of the Machine, Service or PersistentVolumeClaim.
    pub resource: String,
}

impl Owner {
    /// Of a resource of a cluster.
    #[must_use]
    pub fn new(cluster: impl Into<String>, resource: impl Into<String>) -> Self {
        Self { cluster: cluster.into(), resource: resource.into() }
    }

    /// The owner as tags.
    #[must_use]
    pub fn tags(&self) -> Tags {
        [(TAG_CLUSTER.to_owned(), self.cluster.clone()), (TAG_RESOURCE.to_owned(), self.resource.clone())].into()
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }
    };
}

id! {
    /// The cloud's name for an instance.
    InstanceId
}
id! {
    /// The cloud's name for a volume.
    VolumeId
}

/// Where an instance is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum InstanceState {
    /// Ordered, not booted.
    Pending,
    /// Powered on.
    Running,
    /// Powered off, can be started.
    Stopped,
    /// Removed for good. Clouds go on listing it for a while, or stop at once.
    Gone,
}

/// Kind of an address, in the words of a Node's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AddressKind {
    /// Inside the virtual network.
    InternalIP,
    /// Reachable from outside.
    ExternalIP,
    /// Name of the host.
    Hostname,
    /// Name inside the virtual network.
    InternalDNS,
}

impl AddressKind {
    /// As a Node says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InternalIP => "InternalIP",
            Self::ExternalIP => "ExternalIP",
            Self::Hostname => "Hostname",
            Self::InternalDNS => "InternalDNS",
        }
    }
}

/// One address of an instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// What it is for.
    pub kind: AddressKind,
    /// The address or name.
    pub address: String,
}

/// An instance as the cloud sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The cloud's name for it.
    pub id: InstanceId,
    /// `spec.providerID` of its Node.
    pub provider_id: String,
    /// Machine name, which is the Node's name.
    pub name: String,
    /// Addresses, in the order in which a Node lists them.
    pub addresses: Vec<Address>,
    /// Instance type.
    pub instance_type: String,
    /// Zone.
    pub zone: String,
    /// Region.
    pub region: String,
    /// Life.
    pub state: InstanceState,
    /// Pod ranges that the cloud itself gave to the instance; empty where ranges come from the cluster.
    pub pod_ranges: Vec<IpNet>,
    /// Tags, the owner's among them.
    pub tags: Tags,
    /// When it was ordered.
    pub created: Timestamp,
}

impl Instance {
    /// Its first address inside the network.
    #[must_use]
    pub fn internal_ip(&self) -> Option<IpAddr> {
        self.addresses.iter().find(|a| a.kind == AddressKind::InternalIP).and_then(|a| a.address.parse().ok())
    }

    /// UID of the resource that it was ordered for.
    #[must_use]
    pub fn resource(&self) -> Option<&str> {
        self.tags.get(TAG_RESOURCE).map(String::as_str)
    }
}

/// An order for a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineOrder {
    /// Same token, same instance: a repeated order never makes a second one.
    pub token: String,
    /// Whose it is; `resource` is the UID of the Machine.
    pub owner: Owner,
    /// Node pool.
    pub pool: String,
    /// Machine name, also its host name.
    pub name: String,
    /// Instance type; empty takes the cloud's default.
    pub instance_type: String,
    /// Zone; empty lets the cloud choose.
    pub zone: String,
    /// Image; empty takes the cloud's default.
    pub image: String,
    /// What the machine reads at boot.
    pub user_data: String,
    /// Further tags.
    pub tags: Tags,
}

impl MachineOrder {
    /// Every tag that the instance carries.
    #[must_use]
    pub fn all_tags(&self) -> Tags {
        let mut tags = self.tags.clone();
        tags.extend(self.owner.tags());
        tags.insert(TAG_POOL.to_owned(), self.pool.clone());
        tags.insert(TAG_NAME.to_owned(), self.name.clone());
        tags
    }
}

/// A type of instance that a cloud offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceType {
    /// Name.
    pub name: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
}

/// A route for pods: `destination` is reached through `instance`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// The instance that the pods are on.
    pub instance: InstanceId,
    /// Their range.
    pub destination: IpNet,
}

/// Transport of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Lower-case name, as packet filters write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of a load balancer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BalancerPort {
    /// Transport.
    pub protocol: Protocol,
    /// Port that clients connect to.
    pub port: u16,
    /// Port of every target.
    pub node_port: u16,
}

/// How a target shows that it can take traffic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HealthCheck {
    /// A connection is accepted.
    Tcp {
        /// Port of the target.
        port: u16,
    },
    /// `GET path` answers 2xx.
    Http {
        /// Port of the target.
        port: u16,
        /// Path.
        path: String,
    },
}

/// What a load balancer is to be. `owner.resource` (the Service's UID) identifies it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalancerSpec {
    /// Whose it is; `resource` is the UID of the Service.
    pub owner: Owner,
    /// `namespace/name` of the Service, for people.
    pub name: String,
    /// Ports.
    pub ports: Vec<BalancerPort>,
    /// Instances that take the traffic.
    pub targets: BTreeSet<InstanceId>,
    /// Sources let in; empty lets everybody in.
    pub source_ranges: BTreeSet<IpNet>,
    /// How targets are checked.
    pub health: HealthCheck,
    /// Whether traffic goes to all targets when none is healthy. Wrong where targets without endpoints drop it.
    pub fail_open: bool,
    /// Address wished for.
    pub address: Option<IpAddr>,
}

/// A load balancer as the cloud sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balancer {
    /// What it was last told to be.
    pub spec: BalancerSpec,
    /// Public addresses; empty until provisioned.
    pub addresses: Vec<IpAddr>,
    /// Public names, where the cloud gives names.
    pub hostnames: Vec<String>,
    /// Targets that pass their checks.
    pub healthy: BTreeSet<InstanceId>,
}

/// What a volume is to be. `owner.resource` (the claim's UID) identifies it: a repeated order makes no second one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeOrder {
    /// Whose it is; `resource` is the UID of the PersistentVolumeClaim.
    pub owner: Owner,
    /// Name, for people and as a tag.
    pub name: String,
    /// Size in bytes, at least.
    pub bytes: u64,
    /// Zone; empty lets the cloud choose.
    pub zone: String,
    /// Parameters of the storage class.
    pub parameters: BTreeMap<String, String>,
}

/// A volume plugged into an instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// Into which.
    pub instance: InstanceId,
    /// Where the instance finds it.
    pub device: String,
}

/// A volume as the cloud sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The cloud's name for it.
    pub id: VolumeId,
    /// Whose it is.
    pub owner: Owner,
    /// Name.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Zone.
    pub zone: String,
    /// Where it is plugged in. One at most: attachment is exclusive.
    pub attachment: Option<Attachment>,
}
