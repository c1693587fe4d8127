//! Elastic addresses.

use super::model::{AddressAssociation, ElasticAddress};
use super::{show, tags};
use crate::call::{Call, Outcome};
use crate::error::refuse;
use crate::filters::{Filters, maybe, one};
use crate::ids::Kind;
use crate::region::Region;
use crate::xml::{Node, done, items, show as shown, text};
use std::net::Ipv4Addr;

pub(super) fn allocate(call: &mut Call<'_>) -> Outcome {
    let tags = tags::of(call, Kind::Address)?;
    if call.region.addresses.len() >= call.config.quotas.addresses {
        return Err(refuse("AddressLimitExceeded", "The maximum number of addresses has been reached."));
    }
    let (id, address) = (call.region.id(Kind::Address), call.region.public_address());
    call.region.addresses.insert(&id, ElasticAddress { address, association: None, tags }, call.now);
    Ok(vec![
        shown("publicIp", address),
        text("domain", "vpc"),
        text("allocationId", id),
        text("publicIpv4Pool", "amazon"),
        text("networkBorderGroup", &call.region.name),
    ])
}

pub(super) fn release(call: &mut Call<'_>) -> Outcome {
    let id = call.must("AllocationId")?.to_owned();
    let it = call.region.addresses.get(&id).ok_or_else(|| Kind::Address.missing(&id))?;
    if it.association.is_some() {
        return Err(refuse("InvalidIPAddress.InUse", format!("Address {} is in use.", it.address)));
    }
    call.region.addresses.remove(&id, call.now);
    Ok(done())
}

pub(super) fn associate(call: &mut Call<'_>) -> Outcome {
    let id = call.must("AllocationId")?.to_owned();
    let region = &mut *call.region;
    let address = region.addresses.get(&id).ok_or_else(|| Kind::Address.missing(&id))?.clone();
    let interface = match (call.form.text("InstanceId"), call.form.text("NetworkInterfaceId")) {
        (Some(instance), None) => {
            let it = region.instances.get(instance).ok_or_else(|| Kind::Instance.missing(instance))?;
            if it.state.is_over() {
                let message = format!("The instance '{instance}' is not in a valid state for this operation.");
                return Err(refuse("IncorrectInstanceState", message));
            }
            it.interfaces.get(&0).cloned().ok_or_else(|| Kind::Instance.missing(instance))?
        }
        (None, Some(interface)) => interface.to_owned(),
        _ => return Err(refuse("InvalidParameterCombination", "Give either an instance or a network interface")),
    };
    let facts = region.interfaces.get(&interface).ok_or_else(|| Kind::Interface.missing(&interface))?;
    if !region.gateways.iter().any(|(_, it)| it.vpc.as_ref() == Some(&facts.vpc)) {
        let message = format!("Network {} is not attached to any internet gateway", facts.vpc);
        return Err(refuse("Gateway.NotAttached", message));
    }
    let wanted: Option<Ipv4Addr> = call.form.text("PrivateIpAddress").and_then(|text| text.parse().ok());
    let private = facts.ipv4.iter().copied().find(|ip| wanted.is_none_or(|wanted| wanted == *ip));
    let private =
        private.ok_or_else(|| refuse("InvalidParameterValue", "The private address is not the interface's"))?;
    let again = call.form.flag("AllowReassociation").unwrap_or(true);
    if let Some(has) = &address.association {
        if has.interface == interface && has.private == private {
            return Ok(vec![text("associationId", &has.id)]);
        }
        if !again {
            let message = format!("resource {id} is already associated with associate-id {}", has.id);
            return Err(refuse("Resource.AlreadyAssociated", message));
        }
    }
    let held = region.elastic_of(&interface, private).map(|(held, _)| held.to_owned());
    if let Some(held) = held.filter(|held| *held != id) {
        region.addresses.edit(&held, call.now).into_iter().for_each(|it| it.association = None);
    }
    let association = AddressAssociation { id: region.id(Kind::Association), interface, private };
    let answer = vec![text("associationId", &association.id)];
    region.addresses.edit(&id, call.now).into_iter().for_each(|it| it.association = Some(association.clone()));
    Ok(answer)
}

pub(super) fn disassociate(call: &mut Call<'_>) -> Outcome {
    let wanted = call.must("AssociationId")?.to_owned();
    let region = &mut *call.region;
    let has = |it: &ElasticAddress| it.association.as_ref().is_some_and(|at| at.id == wanted);
    let found = region.addresses.iter().find(|(_, it)| has(it)).map(|(id, _)| id.to_owned());
    let id = found.ok_or_else(|| Kind::Association.missing(&wanted))?;
    region.addresses.edit(&id, call.now).into_iter().for_each(|it| it.association = None);
    Ok(done())
}

pub(super) fn describe(call: &mut Call<'_>) -> Outcome {
    let region = &*call.region;
    let by_address = call.form.list("PublicIp");
    let shows = |it: &ElasticAddress| by_address.is_empty() || by_address.contains(&it.address.to_string().as_str());
    if let Some(missing) =
        by_address.iter().find(|ip| !region.addresses.all(call.at).any(|(_, it)| it.address.to_string() == **ip))
    {
        return Err(refuse("InvalidAddress.NotFound", format!("Address '{missing}' not found.")));
    }
    let holds = |filters: &Filters, id: &str, it: &ElasticAddress| {
        let at = it.association.as_ref();
        shows(it)
            && filters.hold(&it.tags, |name| match name {
                "allocation-id" => one(id),
                "association-id" => maybe(at.map(|at| &at.id)),
                "domain" => one("vpc"),
                "instance-id" => maybe(region.instance_at(it)),
                "network-interface-id" => maybe(at.map(|at| &at.interface)),
                "private-ip-address" => maybe(at.map(|at| at.private)),
                "public-ip" => one(it.address),
                _ => Vec::new(),
            })
    };
    let missing = |id: &str| Kind::Address.missing(id);
    let (found, _) = call.describe(&region.addresses, "AllocationId", missing, holds)?;
    Ok(vec![items("addressesSet", found.into_iter().map(|(id, it)| nodes(region, id, it)))])
}

fn nodes(region: &Region, id: &str, it: &ElasticAddress) -> Vec<Node> {
    let mut nodes = vec![
        shown("publicIp", it.address),
        text("allocationId", id),
        text("domain", "vpc"),
        text("publicIpv4Pool", "amazon"),
        text("networkBorderGroup", &region.name),
        show::tags(&it.tags),
    ];
    if let Some(at) = &it.association {
        nodes.push(text("associationId", &at.id));
        nodes.push(text("networkInterfaceId", &at.interface));
        nodes.push(text("networkInterfaceOwnerId", &region.account));
        nodes.push(shown("privateIpAddress", at.private));
        nodes.extend(region.instance_at(it).map(|instance| text("instanceId", instance)));
    }
    nodes
}

impl Region {
    /// The elastic address that leads to this private one.
    pub(crate) fn elastic_of(&self, interface: &str, private: Ipv4Addr) -> Option<(&str, &ElasticAddress)> {
        let leads = |it: &ElasticAddress| {
            it.association.as_ref().is_some_and(|at| at.interface == interface && at.private == private)
        };
        self.addresses.iter().find(|(_, it)| leads(it))
    }

    /// Leads an elastic address to an interface of a service.
    pub(crate) fn associate(
        &mut self,
        allocation: &str,
        interface: &str,
        private: Option<Ipv4Addr>,
        now: jiff::Timestamp,
    ) {
        let Some(private) = private else { return };
        let association =
            AddressAssociation { id: self.id(Kind::Association), interface: interface.to_owned(), private };
        self.addresses.edit(allocation, now).into_iter().for_each(|it| it.association = Some(association.clone()));
    }

    fn instance_at(&self, it: &ElasticAddress) -> Option<&str> {
        let interface = self.interfaces.get(&it.association.as_ref()?.interface)?;
        interface.attachment.as_ref()?.instance.as_deref()
    }

    /// A public address that nobody else has.
    pub(crate) fn public_address(&mut self) -> Ipv4Addr {
        // 198.18.0.0/15 is set aside for tests: nothing out there can be hit by mistake.
        const FIRST: u32 = u32::from_be_bytes([198, 18, 0, 10]);
        self.public_addresses += 1;
        Ipv4Addr::from(FIRST + self.public_addresses % 131_000)
    }
}
