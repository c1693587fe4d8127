//! The state of one region: everything that exists there, and the timers that move it. Its methods are spread over the
//! modules of the services; here is what they share.

use crate::config::Config;
use crate::ec2::{
    ElasticAddress, Gateway, Group, Image, Instance, Interface, Pool, RouteTable, Snapshot, Subnet, Tags, Template,
    Volume, Vpc,
};
use crate::elb::{Balancer, Listener, ListenerRule, TargetGroup};
use crate::error::AwsError;
use crate::events::Events;
use crate::ids::{Ids, Kind};
use crate::shelf::Shelf;
use crate::xml::Node;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, VecDeque};

/// The most tokens of idempotency that are remembered.
const MAX_TOKENS: usize = 50_000;

/// What moves by itself. The thing itself remembers when it moves, so that a stale timer does nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    Instance(String),
    ForgetInstance(String),
    SpotEnds(String),
    Scheduled(String, String),
    Volume(String),
    Attachment(String, String),
    Modification(String),
    Snapshot(String),
    Balancer(String),
    Interface(String),
    Target(String, String),
    Probe(String, String),
}

/// An answer that a token gives again.
#[derive(Clone, Debug)]
struct Remembered {
    parameters: String,
    answer: Vec<Node>,
}

/// A region.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) name: String,
    pub(crate) account: String,
    pub(crate) ids: Ids,
    pub(crate) vpcs: Shelf<Vpc>,
    pub(crate) subnets: Shelf<Subnet>,
    pub(crate) gateways: Shelf<Gateway>,
    pub(crate) tables: Shelf<RouteTable>,
    pub(crate) groups: Shelf<Group>,
    pub(crate) interfaces: Shelf<Interface>,
    pub(crate) addresses: Shelf<ElasticAddress>,
    pub(crate) instances: Shelf<Instance>,
    pub(crate) volumes: Shelf<Volume>,
    pub(crate) snapshots: Shelf<Snapshot>,
    pub(crate) images: Shelf<Image>,
    pub(crate) templates: Shelf<Template>,
    pub(crate) balancers: Shelf<Balancer>,
    pub(crate) target_groups: Shelf<TargetGroup>,
    pub(crate) listeners: Shelf<Listener>,
    pub(crate) listener_rules: Shelf<ListenerRule>,
    /// Addresses by subnet.
    pub(crate) pools: BTreeMap<String, Pool>,
    /// How many more instances fit, by type, zone and whether spot; what is not here is without bound.
    pub(crate) capacity: BTreeMap<(String, String, bool), u32>,
    /// Zones that take no new instances.
    pub(crate) closed_zones: Vec<String>,
    /// How scripted targets answer: by address and port, else by address.
    pub(crate) scripted_health: BTreeMap<String, crate::health::Finding>,
    /// Probes that a prober outside should make.
    pub(crate) probes: VecDeque<crate::health::Probe>,
    pub(crate) events: Events,
    pub(crate) public_addresses: u32,
    /// CPUs that instances hold: on demand, spot.
    pub(crate) vcpus: [u64; 2],
    timers: BTreeMap<(Timestamp, u64), Timer>,
    timer_count: u64,
    tokens: BTreeMap<(String, String), Remembered>,
    token_order: VecDeque<(String, String)>,
}

impl Region {
    /// An empty region with its default network and the public images.
    pub(crate) fn new(name: &str, config: &Config, now: Timestamp) -> Self {
        let salt = name.bytes().fold(config.seed, |salt, byte| salt.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let mut region = Self {
            name: name.to_owned(),
            account: config.account.clone(),
            ids: Ids::new(salt),
            vpcs: Shelf::default(),
            subnets: Shelf::default(),
            gateways: Shelf::default(),
            tables: Shelf::default(),
            groups: Shelf::default(),
            interfaces: Shelf::default(),
            addresses: Shelf::default(),
            instances: Shelf::default(),
            volumes: Shelf::default(),
            snapshots: Shelf::default(),
            images: Shelf::default(),
            templates: Shelf::default(),
            balancers: Shelf::default(),
            target_groups: Shelf::default(),
            listeners: Shelf::default(),
            listener_rules: Shelf::default(),
            pools: BTreeMap::new(),
            capacity: BTreeMap::new(),
            closed_zones: Vec::new(),
            scripted_health: BTreeMap::new(),
            probes: VecDeque::new(),
            events: Events::default(),
            public_addresses: 0,
            vcpus: [0; 2],
            timers: BTreeMap::new(),
            timer_count: 0,
            tokens: BTreeMap::new(),
            token_order: VecDeque::new(),
        };
        region.put_default_network(now);
        region.put_public_images(now);
        region
    }

    /// Zones of the region.
    pub(crate) fn zones(&self) -> [String; 3] {
        ["a", "b", "c"].map(|letter| format!("{}{letter}", self.name))
    }

    /// The identifier of a zone that is the same for all accounts, as AWS builds it.
    pub(crate) fn zone_id(&self, zone: &str) -> String {
        let number = match zone.chars().last() {
            Some('a') => 2,
            Some('b') => 3,
            _ => 1,
        };
        let parts: Vec<&str> = self.name.split('-').collect();
        match parts[..] {
            [land, direction, count] => {
                let short = match direction {
                    "central" => "c",
                    "northeast" => "ne",
                    "northwest" => "nw",
                    "southeast" => "se",
                    "southwest" => "sw",
                    other => &other[..1],
                };
                format!("{land}{short}{count}-az{number}")
            }
            _ => format!("{}-az{number}", self.name),
        }
    }

    pub(crate) fn id(&mut self, kind: Kind) -> String {
        self.ids.id(kind)
    }

    /// The ARN of an EC2 resource; images and snapshots belong to no account there.
    pub(crate) fn ec2_arn(&self, kind: Kind, id: &str) -> String {
        let account = if matches!(kind, Kind::Image | Kind::Snapshot) { "" } else { &self.account };
        format!("arn:aws:ec2:{}:{account}:{}/{id}", self.name, kind.word())
    }

    /// Sets a timer; when it goes off.
    pub(crate) fn after(&mut self, now: Timestamp, milliseconds: u64, timer: Timer) -> Timestamp {
        let wait = SignedDuration::from_millis(i64::try_from(milliseconds).unwrap_or(i64::MAX));
        self.at(now.saturating_add(wait).unwrap_or(Timestamp::MAX), timer)
    }

    /// Sets a timer for a moment.
    pub(crate) fn at(&mut self, when: Timestamp, timer: Timer) -> Timestamp {
        self.timer_count += 1;
        self.timers.insert((when, self.timer_count), timer);
        when
    }

    /// Lets everything happen that is due by `now`, in order.
    pub(crate) fn advance(&mut self, config: &Config, now: Timestamp) {
        while let Some(entry) = self.timers.first_entry() {
            let (when, _) = *entry.key();
            if when > now {
                return;
            }
            let timer = entry.remove();
            self.fire(config, &timer, when);
        }
    }

    fn fire(&mut self, config: &Config, timer: &Timer, when: Timestamp) {
        match timer {
            Timer::Instance(id) => self.instance_moves(config, id, when),
            Timer::ForgetInstance(id) => drop(self.instances.remove(id, when)),
            Timer::SpotEnds(id) => self.spot_ends(config, id, when),
            Timer::Scheduled(id, event) => self.scheduled_event_comes(config, id, event, when),
            Timer::Volume(id) => self.volume_is_made(id, when),
            Timer::Attachment(volume, instance) => self.attachment_moves(volume, instance, when),
            Timer::Modification(id) => self.modification_moves(config, id, when),
            Timer::Snapshot(id) => self.snapshot_is_made(id, when),
            Timer::Balancer(arn) => self.balancer_is_made(arn, when),
            Timer::Interface(id) => self.drop_interface(id, when),
            Timer::Target(group, target) => self.target_moves(config, group, target, when),
            Timer::Probe(group, target) => self.probe_is_due(config, group, target, when),
        }
    }

    /// The answer that this token got before, if it did.
    pub(crate) fn remembered(
        &self,
        action: &str,
        token: &str,
        parameters: &str,
    ) -> Result<Option<Vec<Node>>, AwsError> {
        let Some(known) = self.tokens.get(&(action.to_owned(), token.to_owned())) else { return Ok(None) };
        if known.parameters == parameters {
            return Ok(Some(known.answer.clone()));
        }
        let message =
            "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).";
        Err(crate::error::refuse("IdempotentParameterMismatch", message))
    }

    /// Remembers what a token got.
    pub(crate) fn remember(&mut self, action: &str, token: &str, parameters: String, answer: Vec<Node>) {
        let key = (action.to_owned(), token.to_owned());
        self.token_order.push_back(key.clone());
        self.tokens.insert(key, Remembered { parameters, answer });
        if self.token_order.len() > MAX_TOKENS
            && let Some(oldest) = self.token_order.pop_front()
        {
            self.tokens.remove(&oldest);
        }
    }

    /// The tags of whatever has this identifier.
    pub(crate) fn tags_of(&self, id: &str) -> Option<&Tags> {
        if id.starts_with("arn:") {
            return self.elb_tags(id);
        }
        Some(match Kind::of(id)? {
            Kind::Address => &self.addresses.get(id)?.tags,
            Kind::Gateway => &self.gateways.get(id)?.tags,
            Kind::Group => &self.groups.get(id)?.tags,
            Kind::GroupRule => self.group_rule(id).map(|(_, _, rule)| &rule.tags)?,
            Kind::Image => &self.images.get(id)?.tags,
            Kind::Instance => &self.instances.get(id)?.tags,
            Kind::Interface => &self.interfaces.get(id)?.tags,
            Kind::LaunchTemplate => &self.templates.get(id)?.tags,
            Kind::RouteTable => &self.tables.get(id)?.tags,
            Kind::Snapshot => &self.snapshots.get(id)?.tags,
            Kind::Subnet => &self.subnets.get(id)?.tags,
            Kind::Volume => &self.volumes.get(id)?.tags,
            Kind::Vpc => &self.vpcs.get(id)?.tags,
            _ => return None,
        })
    }

    /// The same, to be changed.
    pub(crate) fn edit_tags(&mut self, id: &str, now: Timestamp) -> Option<&mut Tags> {
        Some(match Kind::of(id)? {
            Kind::Address => &mut self.addresses.edit(id, now)?.tags,
            Kind::Gateway => &mut self.gateways.edit(id, now)?.tags,
            Kind::Group => &mut self.groups.edit(id, now)?.tags,
            Kind::GroupRule => self.edit_group_rule_tags(id, now)?,
            Kind::Image => &mut self.images.edit(id, now)?.tags,
            Kind::Instance => &mut self.instances.edit(id, now)?.tags,
            Kind::Interface => &mut self.interfaces.edit(id, now)?.tags,
            Kind::LaunchTemplate => &mut self.templates.edit(id, now)?.tags,
            Kind::RouteTable => &mut self.tables.edit(id, now)?.tags,
            Kind::Snapshot => &mut self.snapshots.edit(id, now)?.tags,
            Kind::Subnet => &mut self.subnets.edit(id, now)?.tags,
            Kind::Volume => &mut self.volumes.edit(id, now)?.tags,
            Kind::Vpc => &mut self.vpcs.edit(id, now)?.tags,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_have_the_identifiers_of_aws() {
        for (name, zone, want) in [
            ("eu-central-1", "eu-central-1a", "euc1-az2"),
            ("us-east-1", "us-east-1c", "use1-az1"),
            ("x", "xb", "x-az3"),
        ] {
            let region = Region::new(name, &Config::default(), Timestamp::UNIX_EPOCH);
            assert_eq!(region.zone_id(zone), want);
        }
    }
}
