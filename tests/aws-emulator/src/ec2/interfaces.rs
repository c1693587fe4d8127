//! Network interfaces and their addresses.

use super::catalogue::InstanceType;
use super::model::{InstanceState, Interface, InterfaceAttachment};
use super::{moment, show, tags};
use crate::call::{Call, Outcome};
use crate::error::{AwsError, refuse};
use crate::filters::{maybe, one};
use crate::ids::Kind;
use crate::region::Region;
use crate::xml::{Node, done, group, item_texts, items, show as shown, text};
use jiff::Timestamp;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Addresses that an interface may have when no instance says otherwise.
const MAX_ADDRESSES: usize = 50;

pub(super) fn create(call: &mut Call<'_>) -> Outcome {
    let tags = tags::of(call, Kind::Interface)?;
    let subnet_id = call.must("SubnetId")?.to_owned();
    let subnet = call.region.subnets.get(&subnet_id).ok_or_else(|| Kind::Subnet.missing(&subnet_id))?.clone();
    if call.region.interfaces.len() >= call.config.quotas.interfaces {
        return Err(refuse(
            "NetworkInterfaceLimitExceeded",
            "The maximum number of network interfaces has been reached.",
        ));
    }
    let groups = call.region.groups_for_interface(&call.form.list("SecurityGroupId"), &subnet.vpc, call.config)?;
    let wanted = call.form.text("PrivateIpAddress").and_then(|text| text.parse().ok());
    let more = call.form.small("SecondaryPrivateIpAddressCount").unwrap_or(0);
    let named6: Vec<Ipv6Addr> =
        call.form.items("Ipv6Addresses").filter_map(|it| it.text("Ipv6Address")?.parse().ok()).collect();
    if let Some(bad) = named6.iter().find(|ip| !subnet.cidr6.is_some_and(|net| net.contains(*ip))) {
        return Err(refuse("InvalidParameterValue", format!("The address {bad} is not in the subnet's range")));
    }
    let more6 = call.form.small("Ipv6AddressCount").unwrap_or(u32::from(subnet.ipv6_on_creation && named6.is_empty()));
    let (ipv4, mut ipv6) = call.region.take_addresses(&subnet_id, wanted, 1 + more, more6)?;
    ipv6.extend(named6);
    let interface = Interface {
        subnet: subnet_id,
        vpc: subnet.vpc,
        zone: subnet.zone,
        description: call.form.text_or("Description", "").to_owned(),
        mac: call.region.mac(),
        ipv4,
        ipv6,
        public: None,
        groups,
        source_dest_check: true,
        attachment: None,
        balancer: None,
        tags,
    };
    let id = call.region.id(Kind::Interface);
    let mut shown_now = nodes(call.region, &id, &interface);
    shown_now.retain(|node| !matches!(node, Node::Text(name, _) if name == "status"));
    shown_now.push(text("status", "pending"));
    call.region.interfaces.insert(&id, interface, call.now);
    let mut answer = vec![group("networkInterface", shown_now)];
    answer.extend(call.form.text("ClientToken").map(|token| text("clientToken", token)));
    Ok(answer)
}

pub(super) fn delete(call: &mut Call<'_>) -> Outcome {
    let id = call.must("NetworkInterfaceId")?.to_owned();
    let interface = call.region.interfaces.get(&id).ok_or_else(|| Kind::Interface.missing(&id))?;
    if interface.balancer.is_some() {
        return Err(managed(&id));
    }
    if interface.attachment.is_some() {
        return Err(refuse("InvalidParameterValue", format!("Network interface '{id}' is currently in use.")));
    }
    call.region.drop_interface(&id, call.now);
    Ok(done())
}

fn managed(id: &str) -> AwsError {
    refuse("OperationNotPermitted", format!("You are not allowed to manage '{id}': it is managed by a service."))
}

pub(super) fn attach(call: &mut Call<'_>) -> Outcome {
    let (id, instance_id) = (call.must("NetworkInterfaceId")?.to_owned(), call.must("InstanceId")?.to_owned());
    let index: u8 = call.form.small("DeviceIndex").unwrap_or(0);
    let region = &mut *call.region;
    let interface = region.interfaces.get(&id).ok_or_else(|| Kind::Interface.missing(&id))?;
    let instance = region.instances.get(&instance_id).ok_or_else(|| Kind::Instance.missing(&instance_id))?;
    if interface.attachment.is_some() {
        return Err(refuse("InvalidNetworkInterface.InUse", format!("Interface: [{id}] in use.")));
    }
    if interface.zone != instance.zone {
        let message = format!("Interface {id} and instance {instance_id} are in different availability zones");
        return Err(refuse("InvalidParameterCombination", message));
    }
    if !matches!(instance.state, InstanceState::Running | InstanceState::Stopped) {
        return Err(refuse("IncorrectState", format!("Instance '{instance_id}' is not 'running' or 'stopped'.")));
    }
    if instance.interfaces.contains_key(&index) {
        let message = format!("Instance '{instance_id}' already has an interface attached at device index '{index}'.");
        return Err(refuse("InvalidParameterValue", message));
    }
    let most = InstanceType::named(&instance.kind).map_or(1, |kind| usize::from(kind.interfaces));
    if instance.interfaces.len() >= most {
        let message =
            format!("Interface count {} exceeds the limit for {}", instance.interfaces.len() + 1, instance.kind);
        return Err(refuse("AttachmentLimitExceeded", message));
    }
    let attachment = InterfaceAttachment {
        id: region.id(Kind::Attachment),
        instance: Some(instance_id.clone()),
        index,
        delete_on_termination: false,
        at: call.now,
    };
    let answer = vec![text("attachmentId", &attachment.id), shown("networkCardIndex", 0)];
    region.interfaces.edit(&id, call.now).into_iter().for_each(|it| it.attachment = Some(attachment.clone()));
    if let Some(instance) = region.instances.edit(&instance_id, call.now) {
        instance.interfaces.insert(index, id);
    }
    Ok(answer)
}

pub(super) fn detach(call: &mut Call<'_>) -> Outcome {
    let wanted = call.must("AttachmentId")?.to_owned();
    let region = &mut *call.region;
    let has = |it: &Interface| it.attachment.as_ref().is_some_and(|at| at.id == wanted);
    let found = region.interfaces.iter().find(|(_, it)| has(it)).map(|(id, it)| (id.to_owned(), it.attachment.clone()));
    let (id, attachment) = found.ok_or_else(|| Kind::Attachment.missing(&wanted))?;
    let Some((instance, index)) = attachment.and_then(|it| Some((it.instance?, it.index))) else {
        return Err(managed(&id));
    };
    if index == 0 {
        let message = "The network interface at device index 0 cannot be detached.";
        return Err(refuse("OperationNotPermitted", message));
    }
    region.interfaces.edit(&id, call.now).into_iter().for_each(|it| it.attachment = None);
    if let Some(instance) = region.instances.edit(&instance, call.now) {
        instance.interfaces.remove(&index);
    }
    Ok(done())
}

pub(super) fn modify_attribute(call: &mut Call<'_>) -> Outcome {
    let id = call.must("NetworkInterfaceId")?.to_owned();
    let region = &mut *call.region;
    let interface = region.interfaces.get(&id).ok_or_else(|| Kind::Interface.missing(&id))?;
    if interface.balancer.is_some() {
        return Err(managed(&id));
    }
    let changes = ["SourceDestCheck", "Description", "SecurityGroupId", "Attachment"];
    if changes.iter().filter(|name| call.form.has(name)).count() != 1 {
        return Err(refuse("InvalidParameterCombination", "Exactly one attribute can be modified at a time"));
    }
    let given = call.form.list("SecurityGroupId");
    let groups =
        if given.is_empty() { None } else { Some(region.groups_for_interface(&given, &interface.vpc, call.config)?) };
    let keep = call.form.flag("Attachment.DeleteOnTermination");
    let attached = interface.attachment.as_ref().map(|it| it.id.as_str());
    if keep.is_some() && attached != call.form.text("Attachment.AttachmentId") {
        return Err(Kind::Attachment.missing(call.form.text_or("Attachment.AttachmentId", "")));
    }
    let check = call.form.flag("SourceDestCheck.Value");
    let owner = interface.attachment.as_ref().filter(|it| it.index == 0).and_then(|it| it.instance.clone());
    let interface = region.interfaces.edit(&id, call.now).ok_or_else(|| Kind::Interface.missing(&id))?;
    interface.source_dest_check = check.unwrap_or(interface.source_dest_check);
    interface.description = call.form.text_or("Description.Value", &interface.description).to_owned();
    interface.groups = groups.unwrap_or(std::mem::take(&mut interface.groups));
    if let (Some(keep), Some(attachment)) = (keep, &mut interface.attachment) {
        attachment.delete_on_termination = keep;
    }
    if let (Some(check), Some(owner)) = (check, owner) {
        region.instances.edit(&owner, call.now).into_iter().for_each(|it| it.source_dest_check = check);
    }
    Ok(done())
}

fn limit(region: &Region, it: &Interface) -> usize {
    let instance = it.attachment.as_ref().and_then(|at| region.instances.get(at.instance.as_deref()?));
    let kind = instance.and_then(|instance| InstanceType::named(&instance.kind));
    kind.map_or(MAX_ADDRESSES, |kind| usize::from(kind.addresses))
}

fn too_many_addresses(id: &str, most: usize) -> AwsError {
    refuse(
        "PrivateIpAddressLimitExceeded",
        format!("Number of private addresses exceeds the limit of {most} for '{id}'."),
    )
}

pub(super) fn assign_private(call: &mut Call<'_>) -> Outcome {
    let id = call.must("NetworkInterfaceId")?.to_owned();
    let named: Vec<Ipv4Addr> = call.form.list("PrivateIpAddress").iter().filter_map(|ip| ip.parse().ok()).collect();
    let count: usize = call.form.small("SecondaryPrivateIpAddressCount").unwrap_or(0);
    let region = &mut *call.region;
    let interface = region.interfaces.get(&id).ok_or_else(|| Kind::Interface.missing(&id))?;
    let (most, subnet) = (limit(region, interface), interface.subnet.clone());
    if named.is_empty() == (count == 0) {
        return Err(refuse("InvalidParameterCombination", "Give either addresses or their number"));
    }
    if interface.ipv4.len() + named.len() + count > most {
        return Err(too_many_addresses(&id, most));
    }
    let mut taken = Vec::new();
    if named.is_empty() {
        taken = region.take_addresses(&subnet, None, u32::try_from(count).unwrap_or(0), 0)?.0;
    }
    for address in named {
        taken.extend(region.take_addresses(&subnet, Some(address), 1, 0)?.0);
    }
    let list = items("assignedPrivateIpAddressesSet", taken.iter().map(|ip| vec![shown("privateIpAddress", ip)]));
    region.interfaces.edit(&id, call.now).into_iter().for_each(|it| it.ipv4.extend(&taken));
    Ok(vec![text("networkInterfaceId", id), list])
}

pub(super) fn unassign_private(call: &mut Call<'_>) -> Outcome {
    let id = call.must("NetworkInterfaceId")?.to_owned();
    let gone: Vec<Ipv4Addr> = call.form.list("PrivateIpAddress").iter().filter_map(|ip| ip.parse().ok()).collect();
    let region = &mut *call.region;
    let interface = region.interfaces.get(&id).ok_or_else(|| Kind::Interface.missing(&id))?;
    let secondary = interface.ipv4.get(1..).unwrap_or_default();
    if let Some(bad) = gone.iter().find(|ip| !secondary.contains(ip)) {
        let message = format!("Some of the specified addresses are not assigned to interface {id}: {bad}");
        return Err(refuse("InvalidParameterValue", message));
    }
    let subnet = interface.subnet.clone();
    region.interfaces.edit(&id, call.now).into_iter().for_each(|it| it.ipv4.retain(|ip| !gone.contains(ip)));
    if let Some(pool) = region.pools.get_mut(&subnet) {
        gone.iter().for_each(|ip| pool.give_back(*ip));
    }
    Ok(done())
}

pub(super) fn assign_ipv6(call: &mut Call<'_>) -> Outcome {
    let id = call.must("NetworkInterfaceId")?.to_owned();
    let named: Vec<Ipv6Addr> = call.form.list("Ipv6Addresses").iter().filter_map(|ip| ip.parse().ok()).collect();
    let count: usize = call.form.small("Ipv6AddressCount").unwrap_or(0);
    let region = &mut *call.region;
    let interface = region.interfaces.get(&id).ok_or_else(|| Kind::Interface.missing(&id))?;
    let (most, subnet, has) = (limit(region, interface), interface.subnet.clone(), interface.ipv6.len());
    let net = region.subnets.get(&subnet).and_then(|it| it.cidr6);
    if let Some(bad) = named.iter().find(|ip| !net.is_some_and(|net| net.contains(*ip))) {
        return Err(refuse("InvalidParameterValue", format!("The address {bad} is not in the subnet's range")));
    }
    if has + named.len() + count > most {
        return Err(too_many_addresses(&id, most));
    }
    let mut taken = region.take_addresses(&subnet, None, 0, u32::try_from(count).unwrap_or(0))?.1;
    taken.extend(named);
    let list = item_texts("assignedIpv6Addresses", taken.iter().map(ToString::to_string));
    region.interfaces.edit(&id, call.now).into_iter().for_each(|it| it.ipv6.extend(&taken));
    Ok(vec![text("networkInterfaceId", id), list])
}

pub(super) fn unassign_ipv6(call: &mut Call<'_>) -> Outcome {
    let id = call.must("NetworkInterfaceId")?.to_owned();
    let gone: Vec<Ipv6Addr> = call.form.list("Ipv6Addresses").iter().filter_map(|ip| ip.parse().ok()).collect();
    let interface = call.region.interfaces.get(&id).ok_or_else(|| Kind::Interface.missing(&id))?;
    if let Some(bad) = gone.iter().find(|ip| !interface.ipv6.contains(ip)) {
        return Err(refuse("InvalidParameterValue", format!("{bad} is not assigned to interface {id}")));
    }
    call.region.interfaces.edit(&id, call.now).into_iter().for_each(|it| it.ipv6.retain(|ip| !gone.contains(ip)));
    let list = item_texts("unassignedIpv6Addresses", gone.iter().map(ToString::to_string));
    Ok(vec![text("networkInterfaceId", id), list])
}

pub(super) fn describe(call: &mut Call<'_>) -> Outcome {
    let region = &*call.region;
    let missing = |id: &str| Kind::Interface.missing(id);
    let (found, token) = call.describe(&region.interfaces, "NetworkInterfaceId", missing, |filters, id, it| {
        let attached = it.attachment.as_ref();
        filters.hold(&it.tags, |name| match name {
            "network-interface-id" => one(id),
            "subnet-id" => one(&it.subnet),
            "vpc-id" => one(&it.vpc),
            "group-id" => it.groups.clone(),
            "description" => one(&it.description),
            "status" => one(if attached.is_some() { "in-use" } else { "available" }),
            "attachment.instance-id" => maybe(attached.and_then(|it| it.instance.as_ref())),
            "attachment.attachment-id" => maybe(attached.map(|it| &it.id)),
            "attachment.device-index" => maybe(attached.map(|it| it.index)),
            "private-ip-address" => maybe(it.ipv4.first()),
            "addresses.private-ip-address" => it.ipv4.iter().map(ToString::to_string).collect(),
            "addresses.association.public-ip" => {
                let elastic = it.ipv4.iter().filter_map(|ip| region.elastic_of(id, *ip)).map(|(_, it)| it.address);
                elastic.chain(it.public).map(|ip| ip.to_string()).collect()
            }
            "availability-zone" => one(&it.zone),
            "source-dest-check" => one(it.source_dest_check),
            "requester-managed" => one(it.balancer.is_some()),
            "requester-id" => maybe(it.balancer.as_ref().map(|_| "amazon-elb")),
            "interface-type" => one(if it.balancer.is_some() { "network_load_balancer" } else { "interface" }),
            _ => Vec::new(),
        })
    })?;
    let mut answer = vec![items("networkInterfaceSet", found.into_iter().map(|(id, it)| nodes(region, id, it)))];
    answer.extend(call.token(token));
    Ok(answer)
}

fn nodes(region: &Region, id: &str, it: &Interface) -> Vec<Node> {
    let mut nodes = show::interface_facts(region, id, it);
    nodes.push(text("availabilityZone", &it.zone));
    nodes.push(shown("requesterManaged", it.balancer.is_some()));
    nodes.extend(it.balancer.as_ref().map(|_| text("requesterId", "amazon-elb")));
    nodes.push(show::tags(&it.tags));
    nodes.extend(it.attachment.as_ref().map(|at| {
        let mut facts = vec![
            text("attachmentId", &at.id),
            shown("deviceIndex", at.index),
            text("status", "attached"),
            text("attachTime", moment(at.at)),
            shown("deleteOnTermination", at.delete_on_termination),
            text("instanceOwnerId", if at.instance.is_some() { region.account.as_str() } else { "amazon-elb" }),
            shown("networkCardIndex", 0),
        ];
        facts.extend(at.instance.as_ref().map(|instance| text("instanceId", instance)));
        group("attachment", facts)
    }));
    nodes
}

impl Region {
    /// A hardware address.
    pub(crate) fn mac(&mut self) -> String {
        let hex = self.ids.hex(10);
        let pairs: Vec<&str> = (0..5).map(|pair| &hex[pair * 2..pair * 2 + 2]).collect();
        format!("02:{}", pairs.join(":"))
    }

    /// An interface is gone, its addresses are free.
    pub(crate) fn drop_interface(&mut self, id: &str, now: Timestamp) {
        let Some(interface) = self.interfaces.remove(id, now) else { return };
        if let Some(pool) = self.pools.get_mut(&interface.subnet) {
            interface.ipv4.iter().for_each(|ip| pool.give_back(*ip));
        }
        let on_it: Vec<String> = self
            .addresses
            .iter()
            .filter(|(_, it)| it.association.as_ref().is_some_and(|at| at.interface == id))
            .map(|(address, _)| address.to_owned())
            .collect();
        for address in on_it {
            self.addresses.edit(&address, now).into_iter().for_each(|it| it.association = None);
        }
    }
}
