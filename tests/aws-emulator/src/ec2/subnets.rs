//! Subnets and their addresses.

use super::model::{Pool, Subnet};
use super::vpcs::dependency;
use super::{show, tags};
use crate::call::{Call, Outcome};
use crate::error::{AwsError, refuse};
use crate::filters::one;
use crate::ids::Kind;
use crate::region::Region;
use crate::xml::{Node, done, group, items, show as shown, text};
use std::net::{Ipv4Addr, Ipv6Addr};

pub(super) fn create(call: &mut Call<'_>) -> Outcome {
    let tags = tags::of(call, Kind::Subnet)?;
    let vpc_id = call.must("VpcId")?.to_owned();
    let vpc = call.region.vpcs.get(&vpc_id).ok_or_else(|| Kind::Vpc.missing(&vpc_id))?;
    let cidr: ipnet::Ipv4Net = call.form.text_or("CidrBlock", "").parse().unwrap_or_default();
    if !vpc.cidr.contains(&cidr) || !(16..=28).contains(&cidr.prefix_len()) || cidr != cidr.trunc() {
        return Err(refuse("InvalidSubnet.Range", format!("The CIDR '{cidr}' is invalid.")));
    }
    let overlaps = |other: &ipnet::Ipv4Net| other.contains(&cidr) || cidr.contains(other);
    if call.region.subnets.iter().any(|(_, it)| it.vpc == vpc_id && overlaps(&it.cidr)) {
        return Err(refuse("InvalidSubnet.Conflict", format!("The CIDR '{cidr}' conflicts with another subnet")));
    }
    if call.region.subnets.iter().filter(|(_, it)| it.vpc == vpc_id).count() >= call.config.quotas.subnets_per_vpc {
        return Err(refuse("SubnetLimitExceeded", "The maximum number of subnets has been reached."));
    }
    let cidr6 = call.form.text("Ipv6CidrBlock").and_then(|text| text.parse::<ipnet::Ipv6Net>().ok());
    if let Some(wanted) = cidr6
        && !(vpc.cidr6.is_some_and(|all| all.contains(&wanted)) && wanted.prefix_len() == 64)
    {
        return Err(refuse("InvalidSubnet.Range", format!("The CIDR '{wanted}' is invalid.")));
    }
    let zone = zone(call)?;
    let subnet = Subnet {
        vpc: vpc_id,
        zone,
        cidr,
        cidr6,
        default_for_zone: false,
        public_on_launch: false,
        ipv6_on_creation: false,
        tags,
    };
    let id = call.region.id(Kind::Subnet);
    call.region.pools.insert(id.clone(), Pool::new(cidr));
    let answer = nodes(call.region, &id, &subnet);
    call.region.subnets.insert(&id, subnet, call.now);
    Ok(vec![group("subnet", answer)])
}

fn zone(call: &Call<'_>) -> Result<String, AwsError> {
    let zones = call.region.zones();
    let wanted = match (call.form.text("AvailabilityZone"), call.form.text("AvailabilityZoneId")) {
        (Some(name), _) => zones.iter().find(|zone| *zone == name),
        (None, Some(id)) => zones.iter().find(|zone| call.region.zone_id(zone) == id),
        (None, None) => zones.first(),
    };
    wanted.cloned().ok_or_else(|| {
        let given = call.form.text("AvailabilityZone").or(call.form.text("AvailabilityZoneId")).unwrap_or_default();
        let message = format!("Value ({given}) for parameter availabilityZone is invalid. Subnets can currently only be created in the following availability zones: {}.", zones.join(", "));
        refuse("InvalidParameterValue", message)
    })
}

fn nodes(region: &Region, id: &str, it: &Subnet) -> Vec<Node> {
    let free = region.pools.get(id).map_or(0, Pool::free);
    let v6 = it.cidr6.map(|cidr| {
        let state = group("ipv6CidrBlockState", vec![text("state", "associated")]);
        vec![text("associationId", format!("subnet-cidr-assoc-{}", &id[7..])), shown("ipv6CidrBlock", cidr), state]
    });
    vec![
        text("subnetId", id),
        text("subnetArn", region.ec2_arn(Kind::Subnet, id)),
        text("state", "available"),
        text("vpcId", &it.vpc),
        text("ownerId", &region.account),
        shown("cidrBlock", it.cidr),
        items("ipv6CidrBlockAssociationSet", v6),
        shown("availableIpAddressCount", free),
        text("availabilityZone", &it.zone),
        text("availabilityZoneId", region.zone_id(&it.zone)),
        shown("defaultForAz", it.default_for_zone),
        shown("mapPublicIpOnLaunch", it.public_on_launch),
        shown("assignIpv6AddressOnCreation", it.ipv6_on_creation),
        show::tags(&it.tags),
    ]
}

pub(super) fn delete(call: &mut Call<'_>) -> Outcome {
    let id = call.must("SubnetId")?.to_owned();
    let region = &mut *call.region;
    region.subnets.get(&id).ok_or_else(|| Kind::Subnet.missing(&id))?;
    if region.interfaces.iter().any(|(_, it)| it.subnet == id) {
        return Err(dependency("subnet", &id));
    }
    let linked = |table: &super::model::RouteTable| table.associations.values().any(|it| it.as_ref() == Some(&id));
    let tables: Vec<String> =
        region.tables.iter().filter(|(_, it)| linked(it)).map(|(table, _)| table.to_owned()).collect();
    for table in tables {
        if let Some(table) = region.tables.edit(&table, call.now) {
            table.associations.retain(|_, subnet| subnet.as_ref() != Some(&id));
        }
    }
    region.subnets.remove(&id, call.now);
    region.pools.remove(&id);
    Ok(done())
}

pub(super) fn modify_attribute(call: &mut Call<'_>) -> Outcome {
    let id = call.must("SubnetId")?.to_owned();
    let public = call.form.flag("MapPublicIpOnLaunch.Value");
    let ipv6 = call.form.flag("AssignIpv6AddressOnCreation.Value");
    if public.is_some() && ipv6.is_some() {
        return Err(refuse("InvalidParameterCombination", "Only one attribute can be modified at a time"));
    }
    let subnet = call.region.subnets.edit(&id, call.now).ok_or_else(|| Kind::Subnet.missing(&id))?;
    subnet.public_on_launch = public.unwrap_or(subnet.public_on_launch);
    subnet.ipv6_on_creation = ipv6.unwrap_or(subnet.ipv6_on_creation);
    Ok(done())
}

pub(super) fn describe(call: &mut Call<'_>) -> Outcome {
    let region = &*call.region;
    let missing = |id: &str| Kind::Subnet.missing(id);
    let (found, token) = call.describe(&region.subnets, "SubnetId", missing, |filters, id, it| {
        filters.hold(&it.tags, |name| match name {
            "subnet-id" => one(id),
            "vpc-id" => one(&it.vpc),
            "availability-zone" | "availabilityZone" => one(&it.zone),
            "availability-zone-id" => one(region.zone_id(&it.zone)),
            "cidr-block" | "cidr" => one(it.cidr),
            "default-for-az" => one(it.default_for_zone),
            "state" => one("available"),
            "map-public-ip-on-launch" => one(it.public_on_launch),
            _ => Vec::new(),
        })
    })?;
    let mut answer = vec![items("subnetSet", found.into_iter().map(|(id, it)| nodes(region, id, it)))];
    answer.extend(call.token(token));
    Ok(answer)
}

impl Region {
    /// Takes addresses in a subnet: `count` of IPv4, the first of which may be asked for, and `count6` of IPv6.
    pub(crate) fn take_addresses(
        &mut self,
        subnet: &str,
        wanted: Option<Ipv4Addr>,
        count: u32,
        count6: u32,
    ) -> Result<(Vec<Ipv4Addr>, Vec<Ipv6Addr>), AwsError> {
        let facts = self.subnets.get(subnet).ok_or_else(|| Kind::Subnet.missing(subnet))?;
        let pool = self.pools.get_mut(subnet).ok_or_else(|| Kind::Subnet.missing(subnet))?;
        if pool.free() < usize::try_from(count).unwrap_or(usize::MAX) {
            let message = format!("insufficient free addresses in subnet '{subnet}'");
            return Err(refuse("InsufficientFreeAddressesInSubnet", message));
        }
        let net6 = match (count6, facts.cidr6) {
            (0, _) => None,
            (_, Some(net)) => Some(net),
            (_, None) => {
                let message = format!("The subnet '{subnet}' does not have an IPv6 CIDR block");
                return Err(refuse("InvalidParameterValue", message));
            }
        };
        let mut ipv4 = Vec::new();
        if let Some(address) = wanted {
            if !facts.cidr.contains(&address) {
                return Err(refuse("InvalidParameterValue", "Address does not fall within the subnet's address range"));
            }
            if !pool.take_this(address) {
                return Err(refuse("InvalidIPAddress.InUse", format!("Address {address} is in use.")));
            }
            ipv4.push(address);
        }
        while ipv4.len() < usize::try_from(count).unwrap_or(0) {
            ipv4.extend(pool.take());
        }
        let ipv6 = net6.map(|net| (0..count6).map(|_| pool.take6(net)).collect()).unwrap_or_default();
        Ok((ipv4, ipv6))
    }
}
