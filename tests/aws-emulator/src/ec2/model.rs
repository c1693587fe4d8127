//! What EC2 keeps: plain values. Their life is told in the modules beside this one.

use crate::ids::Kind;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Tags of one thing.
pub(crate) type Tags = BTreeMap<String, String>;

/// A network.
#[derive(Clone, Debug)]
pub(crate) struct Vpc {
    pub(crate) cidr: ipnet::Ipv4Net,
    pub(crate) cidr6: Option<ipnet::Ipv6Net>,
    pub(crate) is_default: bool,
    pub(crate) dns_support: bool,
    pub(crate) dns_hostnames: bool,
    pub(crate) tags: Tags,
}

/// A part of a network in one zone.
#[derive(Clone, Debug)]
pub(crate) struct Subnet {
    pub(crate) vpc: String,
    pub(crate) zone: String,
    pub(crate) cidr: ipnet::Ipv4Net,
    pub(crate) cidr6: Option<ipnet::Ipv6Net>,
    pub(crate) default_for_zone: bool,
    pub(crate) public_on_launch: bool,
    pub(crate) ipv6_on_creation: bool,
    pub(crate) tags: Tags,
}

/// An internet gateway.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    pub(crate) vpc: Option<String>,
    pub(crate) tags: Tags,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RouteTarget {
    Local,
    Gateway(String),
    Interface(String),
}

/// A route table. Routes by destination; the main table's association has no subnet.
#[derive(Clone, Debug)]
pub(crate) struct RouteTable {
    pub(crate) vpc: String,
    pub(crate) routes: BTreeMap<String, RouteTarget>,
    /// Association to subnet; `None` is the network's main one.
    pub(crate) associations: BTreeMap<String, Option<String>>,
    pub(crate) tags: Tags,
}

/// Whom a rule of a security group lets through.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Ipv4(ipnet::Ipv4Net),
    Ipv6(ipnet::Ipv6Net),
    Group(String),
}

/// What a rule of a security group is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RuleKey {
    pub(crate) egress: bool,
    /// `-1`, `tcp`, `udp`, `icmp`, `icmpv6` or a number.
    pub(crate) protocol: String,
    pub(crate) from: Option<i32>,
    pub(crate) to: Option<i32>,
    pub(crate) peer: Peer,
}

/// A rule of a security group.
#[derive(Clone, Debug)]
pub(crate) struct GroupRule {
    pub(crate) id: String,
    pub(crate) description: Option<String>,
    pub(crate) tags: Tags,
}

/// A security group.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) vpc: String,
    pub(crate) rules: BTreeMap<RuleKey, GroupRule>,
    pub(crate) tags: Tags,
}

/// To what an interface is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InterfaceAttachment {
    pub(crate) id: String,
    /// `None` when a load balancer has it.
    pub(crate) instance: Option<String>,
    pub(crate) index: u8,
    pub(crate) delete_on_termination: bool,
    pub(crate) at: Timestamp,
}

/// A network interface.
#[derive(Clone, Debug)]
pub(crate) struct Interface {
    pub(crate) subnet: String,
    pub(crate) vpc: String,
    pub(crate) zone: String,
    pub(crate) description: String,
    pub(crate) mac: String,
    /// The first is the primary one.
    pub(crate) ipv4: Vec<Ipv4Addr>,
    pub(crate) ipv6: Vec<Ipv6Addr>,
    /// A public address that came with the launch, not an elastic one.
    pub(crate) public: Option<Ipv4Addr>,
    pub(crate) groups: Vec<String>,
    pub(crate) source_dest_check: bool,
    pub(crate) attachment: Option<InterfaceAttachment>,
    /// The load balancer's ARN when one manages it.
    pub(crate) balancer: Option<String>,
    pub(crate) tags: Tags,
}

/// An elastic address.
#[derive(Clone, Debug)]
pub(crate) struct ElasticAddress {
    pub(crate) address: Ipv4Addr,
    pub(crate) association: Option<AddressAssociation>,
    pub(crate) tags: Tags,
}

/// To which interface and private address an elastic address leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddressAssociation {
    pub(crate) id: String,
    pub(crate) interface: String,
    pub(crate) private: Ipv4Addr,
}

/// States of instances, by the codes of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum InstanceState {
    Pending,
    Running,
    ShuttingDown,
    Terminated,
    Stopping,
    Stopped,
}

impl InstanceState {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::Running => 16,
            Self::ShuttingDown => 32,
            Self::Terminated => 48,
            Self::Stopping => 64,
            Self::Stopped => 80,
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }

    /// Whether it has a host, and so takes capacity.
    pub(crate) fn has_host(self) -> bool {
        matches!(self, Self::Pending | Self::Running | Self::Stopping | Self::ShuttingDown)
    }

    /// Whether it is over, or about to be.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::ShuttingDown | Self::Terminated)
    }
}

/// What the provider plans to do to an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScheduledEvent {
    pub(crate) id: String,
    pub(crate) code: String,
    pub(crate) description: String,
    pub(crate) not_before: Timestamp,
}

/// Options of the metadata service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MetadataOptions {
    pub(crate) tokens_required: bool,
    pub(crate) hop_limit: u8,
    pub(crate) enabled: bool,
    pub(crate) ipv6: bool,
    pub(crate) tags: bool,
}

/// A disk of an instance, by its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) volume: String,
    pub(crate) delete_on_termination: bool,
}

/// A spot instance's part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) request: String,
    /// When it will be taken away, once that is said.
    pub(crate) ends: Option<Timestamp>,
    /// When a rebalance was recommended.
    pub(crate) rebalance: Option<Timestamp>,
}

/// An instance.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) reservation: String,
    pub(crate) launch_index: u32,
    pub(crate) image: String,
    pub(crate) kind: String,
    pub(crate) zone: String,
    pub(crate) subnet: String,
    pub(crate) vpc: String,
    pub(crate) state: InstanceState,
    /// When the state changes by itself; a timer that is about another moment is stale.
    pub(crate) moves: Option<Timestamp>,
    pub(crate) launched: Timestamp,
    /// When it last began to run.
    pub(crate) began: Timestamp,
    pub(crate) private_address: Ipv4Addr,
    /// Interfaces by device index.
    pub(crate) interfaces: BTreeMap<u8, String>,
    pub(crate) disks: BTreeMap<String, Disk>,
    pub(crate) root_device: String,
    pub(crate) key_name: Option<String>,
    pub(crate) user_data: Option<String>,
    pub(crate) profile: Option<String>,
    pub(crate) metadata: MetadataOptions,
    pub(crate) source_dest_check: bool,
    pub(crate) termination_protection: bool,
    pub(crate) stop_protection: bool,
    pub(crate) terminate_on_shutdown: bool,
    pub(crate) ebs_optimized: bool,
    pub(crate) resource_name_host: bool,
    pub(crate) spot: Option<Spot>,
    pub(crate) client_token: Option<String>,
    pub(crate) reason: Option<(String, String)>,
    pub(crate) events: Vec<ScheduledEvent>,
    /// Whether its checks fail: instance, system.
    pub(crate) impaired: (bool, bool),
    pub(crate) tags: Tags,
}

/// States of volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VolumeState {
    Creating,
    Available,
    InUse,
}

impl VolumeState {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Available => "available",
            Self::InUse => "in-use",
        }
    }
}

/// States of attachments of volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttachState {
    Attaching,
    Attached,
    Detaching,
    /// Asked to go, but the host does not let go: what scripts ask for.
    Busy,
}

impl AttachState {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Attaching => "attaching",
            Self::Attached => "attached",
            Self::Detaching => "detaching",
            Self::Busy => "busy",
        }
    }
}

/// A volume's attachment to an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeAttachment {
    pub(crate) device: String,
    pub(crate) state: AttachState,
    pub(crate) at: Timestamp,
    pub(crate) moves: Option<Timestamp>,
}

/// The size and speed of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeShape {
    pub(crate) kind: String,
    pub(crate) size: u32,
    pub(crate) iops: Option<u32>,
    pub(crate) throughput: Option<u32>,
    pub(crate) multi_attach: bool,
}

/// A change of a volume's shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Modification {
    pub(crate) from: VolumeShape,
    pub(crate) to: VolumeShape,
    /// `modifying`, `optimizing` or `completed`.
    pub(crate) state: &'static str,
    pub(crate) started: Timestamp,
    pub(crate) ended: Option<Timestamp>,
}

/// A volume.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub(crate) zone: String,
    pub(crate) shape: VolumeShape,
    pub(crate) state: VolumeState,
    pub(crate) created: Timestamp,
    pub(crate) snapshot: Option<String>,
    pub(crate) encrypted: bool,
    pub(crate) key: Option<String>,
    pub(crate) attachments: BTreeMap<String, VolumeAttachment>,
    pub(crate) modification: Option<Modification>,
    pub(crate) tags: Tags,
}

/// A snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) volume: String,
    pub(crate) size: u32,
    pub(crate) description: String,
    pub(crate) started: Timestamp,
    pub(crate) ready: Timestamp,
    pub(crate) completed: bool,
    pub(crate) encrypted: bool,
    pub(crate) key: Option<String>,
    pub(crate) tags: Tags,
}

/// An image.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) owner: String,
    pub(crate) owner_alias: Option<String>,
    pub(crate) architecture: String,
    pub(crate) root_device: String,
    pub(crate) root_snapshot: String,
    pub(crate) root_size: u32,
    pub(crate) created: Timestamp,
    pub(crate) public: bool,
    pub(crate) tags: Tags,
}

/// A version of a launch template.
#[derive(Clone, Debug)]
pub(crate) struct TemplateVersion {
    pub(crate) description: Option<String>,
    pub(crate) created: Timestamp,
    pub(crate) data: crate::form::Tree,
}

/// A launch template.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    pub(crate) name: String,
    pub(crate) created: Timestamp,
    pub(crate) default_version: u64,
    pub(crate) latest: u64,
    pub(crate) versions: BTreeMap<u64, TemplateVersion>,
    pub(crate) tags: Tags,
}

/// Addresses of a subnet that are taken.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    cidr: ipnet::Ipv4Net,
    taken: BTreeSet<u32>,
    next: u32,
    next6: u64,
}

/// Addresses at the beginning of a subnet that the network keeps for itself; the last one too.
const RESERVED: u32 = 4;

impl Pool {
    pub(crate) fn new(cidr: ipnet::Ipv4Net) -> Self {
        Self { cidr, taken: BTreeSet::new(), next: u32::from(cidr.network()) + RESERVED, next6: 4 }
    }

    fn range(&self) -> std::ops::Range<u32> {
        u32::from(self.cidr.network()) + RESERVED..u32::from(self.cidr.broadcast())
    }

    /// How many are free.
    pub(crate) fn free(&self) -> usize {
        self.range().len().saturating_sub(self.taken.len())
    }

    /// Takes a free one.
    pub(crate) fn take(&mut self) -> Option<Ipv4Addr> {
        if self.free() == 0 {
            return None;
        }
        let range = self.range();
        loop {
            if !range.contains(&self.next) {
                self.next = range.start;
            }
            let address = self.next;
            self.next += 1;
            if self.taken.insert(address) {
                return Some(Ipv4Addr::from(address));
            }
        }
    }

    /// Takes this one; whether it was free and is one of the subnet's.
    pub(crate) fn take_this(&mut self, address: Ipv4Addr) -> bool {
        self.range().contains(&u32::from(address)) && self.taken.insert(u32::from(address))
    }

    /// The next IPv6 address of `net`.
    pub(crate) fn take6(&mut self, net: ipnet::Ipv6Net) -> Ipv6Addr {
        self.next6 += 1;
        Ipv6Addr::from(u128::from(net.network()) + u128::from(crate::ids::mix(self.next6)))
    }

    pub(crate) fn give_back(&mut self, address: Ipv4Addr) {
        self.taken.remove(&u32::from(address));
    }
}

/// What can carry tags, and how it is reached.
pub(crate) const TAGGED: [Kind; 13] = [
    Kind::Address,
    Kind::Gateway,
    Kind::Group,
    Kind::GroupRule,
    Kind::Image,
    Kind::Instance,
    Kind::Interface,
    Kind::LaunchTemplate,
    Kind::RouteTable,
    Kind::Snapshot,
    Kind::Subnet,
    Kind::Volume,
    Kind::Vpc,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_gives_every_address_once() {
        let mut pool = Pool::new("10.0.0.0/28".parse().unwrap());
        assert!(pool.take_this("10.0.0.5".parse().unwrap()));
        assert!(!pool.take_this("10.0.0.5".parse().unwrap()));
        assert!(!pool.take_this("10.0.0.1".parse().unwrap()), "reserved");
        let all: BTreeSet<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(all.len(), 10);
        assert_eq!(pool.free(), 0);
        pool.give_back("10.0.0.7".parse().unwrap());
        assert_eq!(pool.take(), Some("10.0.0.7".parse().unwrap()));
    }

    #[test]
    fn an_ipv6_address_stays_in_its_subnet() {
        let net: ipnet::Ipv6Net = "2600:1f14:1:2::/64".parse().unwrap();
        let mut pool = Pool::new("10.0.0.0/28".parse().unwrap());
        assert!(net.contains(&pool.take6(net)));
        assert_ne!(pool.take6(net), pool.take6(net));
    }
}
