//! Networks, their internet gateways, and the default network that every region has.

use super::model::{Gateway, Group, GroupRule, Peer, Pool, RouteTable, RouteTarget, RuleKey, Subnet, Tags, Vpc};
use super::{show, tags};
use crate::call::{Call, Outcome};
use crate::error::{AwsError, refuse};
use crate::filters::{maybe, one};
use crate::ids::Kind;
use crate::region::Region;
use crate::xml::{done, group, items, show as shown, text, value};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Lengths of prefixes that networks may have.
const PREFIXES: std::ops::RangeInclusive<u8> = 16..=28;

pub(super) fn create(call: &mut Call<'_>) -> Outcome {
    let tags = tags::of(call, Kind::Vpc)?;
    let cidr: ipnet::Ipv4Net =
        call.must("CidrBlock")?.parse().map_err(|_| bad_range(call.form.text_or("CidrBlock", "")))?;
    if !PREFIXES.contains(&cidr.prefix_len()) {
        return Err(refuse("InvalidVpc.Range", format!("The CIDR '{cidr}' is invalid.")));
    }
    if call.region.vpcs.len() >= call.config.quotas.vpcs {
        return Err(refuse("VpcLimitExceeded", "The maximum number of VPCs has been reached."));
    }
    let ipv6 = call.form.flag("AmazonProvidedIpv6CidrBlock").unwrap_or(false);
    let id = call.region.add_vpc(cidr.trunc(), ipv6, false, tags, call.now);
    let vpc = facts(call.region, &id);
    Ok(vec![group("vpc", vpc)])
}

fn bad_range(text: &str) -> AwsError {
    refuse(
        "InvalidParameterValue",
        format!("Value ({text}) for parameter cidrBlock is invalid. This is not a valid CIDR block."),
    )
}

fn facts(region: &Region, id: &str) -> Vec<crate::xml::Node> {
    region.vpcs.get(id).map(|vpc| nodes(region, id, vpc)).unwrap_or_default()
}

fn nodes(region: &Region, id: &str, it: &Vpc) -> Vec<crate::xml::Node> {
    let v4 = vec![
        text("associationId", format!("vpc-cidr-assoc-{}", &id[4..])),
        shown("cidrBlock", it.cidr),
        group("cidrBlockState", vec![text("state", "associated")]),
    ];
    let v6 = it.cidr6.map(|cidr| {
        vec![
            text("associationId", format!("vpc-cidr-assoc-6{}", &id[5..])),
            shown("ipv6CidrBlock", cidr),
            group("ipv6CidrBlockState", vec![text("state", "associated")]),
            text("networkBorderGroup", &region.name),
            text("ipv6Pool", "Amazon"),
        ]
    });
    vec![
        text("vpcId", id),
        text("ownerId", &region.account),
        text("state", "available"),
        shown("cidrBlock", it.cidr),
        items("cidrBlockAssociationSet", [v4]),
        items("ipv6CidrBlockAssociationSet", v6),
        text("dhcpOptionsId", "dopt-00000000000000001"),
        text("instanceTenancy", "default"),
        shown("isDefault", it.is_default),
        show::tags(&it.tags),
    ]
}

pub(super) fn delete(call: &mut Call<'_>) -> Outcome {
    let id = call.must("VpcId")?.to_owned();
    let region = &mut *call.region;
    region.vpcs.get(&id).ok_or_else(|| Kind::Vpc.missing(&id))?;
    let main = |table: &RouteTable| table.associations.values().any(Option::is_none);
    let used = region.subnets.iter().any(|(_, it)| it.vpc == id)
        || region.gateways.iter().any(|(_, it)| it.vpc.as_ref() == Some(&id))
        || region.groups.iter().any(|(_, it)| it.vpc == id && it.name != "default")
        || region.tables.iter().any(|(_, it)| it.vpc == id && !main(it))
        || region.interfaces.iter().any(|(_, it)| it.vpc == id);
    if used {
        return Err(dependency("vpc", &id));
    }
    let groups: Vec<String> =
        region.groups.iter().filter(|(_, it)| it.vpc == id).map(|(id, _)| id.to_owned()).collect();
    let tables: Vec<String> =
        region.tables.iter().filter(|(_, it)| it.vpc == id).map(|(id, _)| id.to_owned()).collect();
    groups.iter().for_each(|it| drop(region.groups.remove(it, call.now)));
    tables.iter().for_each(|it| drop(region.tables.remove(it, call.now)));
    region.vpcs.remove(&id, call.now);
    Ok(done())
}

/// Something else needs it.
pub(super) fn dependency(what: &str, id: &str) -> AwsError {
    refuse("DependencyViolation", format!("The {what} '{id}' has dependencies and cannot be deleted."))
}

pub(super) fn modify_attribute(call: &mut Call<'_>) -> Outcome {
    let id = call.must("VpcId")?.to_owned();
    let (support, names) = (call.form.flag("EnableDnsSupport.Value"), call.form.flag("EnableDnsHostnames.Value"));
    let vpc = call.region.vpcs.edit(&id, call.now).ok_or_else(|| Kind::Vpc.missing(&id))?;
    vpc.dns_support = support.unwrap_or(vpc.dns_support);
    vpc.dns_hostnames = names.unwrap_or(vpc.dns_hostnames);
    Ok(done())
}

pub(super) fn describe_attribute(call: &mut Call<'_>) -> Outcome {
    let id = call.must("VpcId")?;
    let vpc = call.region.vpcs.seen(id, call.at).ok_or_else(|| Kind::Vpc.missing(id))?;
    let attribute = match call.must("Attribute")? {
        "enableDnsSupport" => value("enableDnsSupport", vpc.dns_support),
        _ => value("enableDnsHostnames", vpc.dns_hostnames),
    };
    Ok(vec![text("vpcId", id), attribute])
}

pub(super) fn describe(call: &mut Call<'_>) -> Outcome {
    let region = &*call.region;
    let (found, token) = call.describe(
        &region.vpcs,
        "VpcId",
        |id| Kind::Vpc.missing(id),
        |filters, id, it| {
            filters.hold(&it.tags, |name| match name {
                "vpc-id" => one(id),
                "cidr" | "cidr-block-association.cidr-block" => one(it.cidr),
                "is-default" | "isDefault" => one(it.is_default),
                "state" => one("available"),
                "owner-id" => one(&region.account),
                _ => Vec::new(),
            })
        },
    )?;
    let mut answer = vec![items("vpcSet", found.into_iter().map(|(id, it)| nodes(region, id, it)))];
    answer.extend(call.token(token));
    Ok(answer)
}

pub(super) fn create_gateway(call: &mut Call<'_>) -> Outcome {
    let tags = tags::of(call, Kind::Gateway)?;
    if call.region.gateways.len() >= call.config.quotas.gateways {
        return Err(refuse(
            "InternetGatewayLimitExceeded",
            "The maximum number of internet gateways has been reached.",
        ));
    }
    let id = call.region.id(Kind::Gateway);
    let gateway = Gateway { vpc: None, tags };
    let answer = gateway_nodes(&call.region.account, &id, &gateway);
    call.region.gateways.insert(&id, gateway, call.now);
    Ok(vec![group("internetGateway", answer)])
}

fn gateway_nodes(account: &str, id: &str, it: &Gateway) -> Vec<crate::xml::Node> {
    let attached = it.vpc.iter().map(|vpc| vec![text("vpcId", vpc), text("state", "available")]);
    vec![
        text("internetGatewayId", id),
        text("ownerId", account),
        items("attachmentSet", attached),
        show::tags(&it.tags),
    ]
}

pub(super) fn attach_gateway(call: &mut Call<'_>) -> Outcome {
    let (id, vpc) = (call.must("InternetGatewayId")?.to_owned(), call.must("VpcId")?.to_owned());
    let region = &mut *call.region;
    region.vpcs.get(&vpc).ok_or_else(|| Kind::Vpc.missing(&vpc))?;
    let gateway = region.gateways.get(&id).ok_or_else(|| Kind::Gateway.missing(&id))?;
    if gateway.vpc.is_some() || region.gateways.iter().any(|(_, it)| it.vpc.as_ref() == Some(&vpc)) {
        return Err(refuse(
            "Resource.AlreadyAssociated",
            format!("resource {id} is already attached to network {vpc}"),
        ));
    }
    region.gateways.edit(&id, call.now).into_iter().for_each(|it| it.vpc = Some(vpc.clone()));
    Ok(done())
}

pub(super) fn detach_gateway(call: &mut Call<'_>) -> Outcome {
    let (id, vpc) = (call.must("InternetGatewayId")?.to_owned(), call.must("VpcId")?.to_owned());
    let region = &mut *call.region;
    let gateway = region.gateways.get(&id).ok_or_else(|| Kind::Gateway.missing(&id))?;
    if gateway.vpc.as_ref() != Some(&vpc) {
        return Err(refuse("Gateway.NotAttached", format!("resource {id} is not attached to network {vpc}")));
    }
    let has_public = |eni: &super::model::Interface| eni.vpc == vpc && eni.public.is_some();
    let elastic = region.addresses.iter().filter_map(|(_, it)| it.association.as_ref());
    let mapped = elastic.filter_map(|it| region.interfaces.get(&it.interface)).any(|eni| eni.vpc == vpc);
    if mapped || region.interfaces.iter().any(|(_, eni)| has_public(eni)) {
        let message = format!(
            "Network {vpc} has some mapped public address(es). Please unmap those public address(es) before detaching the gateway."
        );
        return Err(refuse("DependencyViolation", message));
    }
    region.gateways.edit(&id, call.now).into_iter().for_each(|it| it.vpc = None);
    Ok(done())
}

pub(super) fn delete_gateway(call: &mut Call<'_>) -> Outcome {
    let id = call.must("InternetGatewayId")?.to_owned();
    let gateway = call.region.gateways.get(&id).ok_or_else(|| Kind::Gateway.missing(&id))?;
    if gateway.vpc.is_some() {
        return Err(dependency("internetGateway", &id));
    }
    call.region.gateways.remove(&id, call.now);
    Ok(done())
}

pub(super) fn describe_gateways(call: &mut Call<'_>) -> Outcome {
    let region = &*call.region;
    let missing = |id: &str| Kind::Gateway.missing(id);
    let (found, token) = call.describe(&region.gateways, "InternetGatewayId", missing, |filters, id, it| {
        filters.hold(&it.tags, |name| match name {
            "internet-gateway-id" => one(id),
            "attachment.vpc-id" => maybe(it.vpc.as_ref()),
            "attachment.state" => maybe(it.vpc.as_ref().map(|_| "available")),
            "owner-id" => one(&region.account),
            _ => Vec::new(),
        })
    })?;
    let all = found.into_iter().map(|(id, it)| gateway_nodes(&region.account, id, it));
    let mut answer = vec![items("internetGatewaySet", all)];
    answer.extend(call.token(token));
    Ok(answer)
}

impl Region {
    /// Adds a network with its main table and default group.
    pub(crate) fn add_vpc(
        &mut self,
        cidr: ipnet::Ipv4Net,
        ipv6: bool,
        is_default: bool,
        tags: Tags,
        now: Timestamp,
    ) -> String {
        let id = self.id(Kind::Vpc);
        let cidr6 = ipv6.then(|| {
            let number = u128::from(self.ids.number() & 0x00ff_ffff);
            let base = 0x2a05_d014_0000_0000_u128 << 64;
            ipnet::Ipv6Net::new((base | number << 72).into(), 56).ok().map(|net| net.trunc())
        });
        let (cidr6, hostnames) = (cidr6.flatten(), is_default);
        let vpc = Vpc { cidr, cidr6, is_default, dns_support: true, dns_hostnames: hostnames, tags };
        self.vpcs.insert(&id, vpc, now);
        let (table, association) = (self.id(Kind::RouteTable), self.id(Kind::TableAssociation));
        let local = [Some(cidr.to_string()), cidr6.map(|net| net.to_string())];
        let main = RouteTable {
            vpc: id.clone(),
            routes: local.into_iter().flatten().map(|net| (net, RouteTarget::Local)).collect(),
            associations: BTreeMap::from([(association, None)]),
            tags: Tags::new(),
        };
        self.tables.insert(&table, main, now);
        self.add_default_group(&id, now);
        id
    }

    fn add_default_group(&mut self, vpc: &str, now: Timestamp) {
        let id = self.id(Kind::Group);
        let own = RuleKey { egress: false, protocol: "-1".into(), from: None, to: None, peer: Peer::Group(id.clone()) };
        let mut rules = BTreeMap::from([(own, self.new_rule())]);
        rules.insert(all_out(), self.new_rule());
        let group = Group {
            name: "default".to_owned(),
            description: "default VPC security group".to_owned(),
            vpc: vpc.to_owned(),
            rules,
            tags: Tags::new(),
        };
        self.groups.insert(&id, group, now);
    }

    pub(crate) fn new_rule(&mut self) -> GroupRule {
        GroupRule { id: self.id(Kind::GroupRule), description: None, tags: Tags::new() }
    }

    /// What every region has: a network with a subnet in each zone, open to the internet.
    pub(crate) fn put_default_network(&mut self, now: Timestamp) {
        let Ok(cidr) = "172.31.0.0/16".parse::<ipnet::Ipv4Net>() else { return };
        let vpc = self.add_vpc(cidr, false, true, Tags::new(), now);
        let parts: Vec<ipnet::Ipv4Net> = cidr.subnets(20).map(Iterator::collect).unwrap_or_default();
        for (zone, cidr) in self.zones().into_iter().zip(parts) {
            let id = self.id(Kind::Subnet);
            let subnet = Subnet {
                vpc: vpc.clone(),
                zone,
                cidr,
                cidr6: None,
                default_for_zone: true,
                public_on_launch: true,
                ipv6_on_creation: false,
                tags: Tags::new(),
            };
            self.subnets.insert(&id, subnet, now);
            self.pools.insert(id, Pool::new(cidr));
        }
        let gateway = self.id(Kind::Gateway);
        self.gateways.insert(&gateway, Gateway { vpc: Some(vpc.clone()), tags: Tags::new() }, now);
        let table = self.tables.iter().find(|(_, it)| it.vpc == vpc).map(|(id, _)| id.to_owned());
        if let Some(table) = table.and_then(|id| self.tables.edit(&id, now)) {
            table.routes.insert("0.0.0.0/0".to_owned(), RouteTarget::Gateway(gateway));
        }
    }
}

/// The rule that lets everything out.
pub(super) fn all_out() -> RuleKey {
    let everywhere = ipnet::Ipv4Net::default();
    RuleKey { egress: true, protocol: "-1".into(), from: None, to: None, peer: Peer::Ipv4(everywhere) }
}
