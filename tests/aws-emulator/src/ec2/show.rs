//! Instances and interfaces as elements of answers, and the search for instances.

use super::catalogue::InstanceType;
use super::instances::state;
use super::model::{Instance, InstanceState, Interface, Tags};
use super::moment;
use crate::call::{Call, Outcome};
use crate::filters::{Filters, maybe, one};
use crate::ids::Kind;
use crate::region::Region;
use crate::xml::{Node, group, items, show, text};
use std::collections::BTreeMap;

/// Tags as a list.
pub(crate) fn tags(tags: &Tags) -> Node {
    items("tagSet", tags.iter().map(|(key, value)| vec![text("key", key), text("value", value)]))
}

/// The answer of a launch.
pub(super) fn reservation(region: &Region, id: &str, instances: &[String]) -> Vec<Node> {
    let all = instances.iter().filter_map(|it| Some(instance(region, it, region.instances.get(it)?)));
    vec![text("reservationId", id), text("ownerId", &region.account), items("groupSet", []), items("instancesSet", all)]
}

pub(super) fn describe_instances(call: &mut Call<'_>) -> Outcome {
    let region = &*call.region;
    let (found, token) = call.describe(
        &region.instances,
        "InstanceId",
        |id| Kind::Instance.missing(id),
        |filters, id, instance| holds(region, filters, id, instance),
    )?;
    let mut reservations: BTreeMap<&str, Vec<(&str, &Instance)>> = BTreeMap::new();
    for (id, instance) in found {
        reservations.entry(&instance.reservation).or_default().push((id, instance));
    }
    let one = |(id, all): (&str, Vec<(&str, &Instance)>)| {
        vec![
            text("reservationId", id),
            text("ownerId", &region.account),
            items("groupSet", []),
            items("instancesSet", all.into_iter().map(|(id, it)| instance(region, id, it))),
        ]
    };
    let mut answer = vec![items("reservationSet", reservations.into_iter().map(one))];
    answer.extend(call.token(token));
    Ok(answer)
}

fn holds(region: &Region, filters: &Filters, id: &str, it: &Instance) -> bool {
    filters.hold(&it.tags, |name| match name {
        "instance-id" => one(id),
        "image-id" => one(&it.image),
        "instance-type" => one(&it.kind),
        "instance-state-name" => one(it.state.word()),
        "instance-state-code" => one(it.state.code()),
        "availability-zone" => one(&it.zone),
        "subnet-id" => one(&it.subnet),
        "vpc-id" => one(&it.vpc),
        "private-ip-address" => one(it.private_address),
        "private-dns-name" => one(region.private_name(id, it)),
        "ip-address" => maybe(region.public_of(it)),
        "instance-lifecycle" => maybe(it.spot.as_ref().map(|_| "spot")),
        "spot-instance-request-id" => maybe(it.spot.as_ref().map(|spot| &spot.request)),
        "reservation-id" => one(&it.reservation),
        "client-token" => maybe(it.client_token.as_ref()),
        "owner-id" => one(&region.account),
        "launch-time" => one(moment(it.launched)),
        "key-name" => maybe(it.key_name.as_ref()),
        "architecture" => maybe(InstanceType::named(&it.kind).map(InstanceType::architecture)),
        "instance.group-id" => region.interfaces_of(it).flat_map(|(_, eni)| eni.groups.clone()).collect(),
        "network-interface.network-interface-id" => it.interfaces.values().cloned().collect(),
        "network-interface.addresses.private-ip-address" => {
            region.interfaces_of(it).flat_map(|(_, eni)| &eni.ipv4).map(ToString::to_string).collect()
        }
        "block-device-mapping.volume-id" => it.disks.values().map(|disk| disk.volume.clone()).collect(),
        "source-dest-check" => one(it.source_dest_check),
        "iam-instance-profile.arn" => maybe(it.profile.as_ref()),
        _ => Vec::new(),
    })
}

/// An instance.
fn instance(region: &Region, id: &str, it: &Instance) -> Vec<Node> {
    let is_there = it.state != InstanceState::Terminated;
    let kind = InstanceType::named(&it.kind);
    let mut nodes = vec![
        text("instanceId", id),
        text("imageId", &it.image),
        state("instanceState", it.state),
        text("privateDnsName", if is_there { region.private_name(id, it) } else { String::new() }),
        text("dnsName", region.public_of(it).map(|ip| region.public_name(ip)).unwrap_or_default()),
        text("reason", it.reason.as_ref().map_or(String::new(), |reason| format!("User initiated ({})", reason.0))),
        show("amiLaunchIndex", it.launch_index),
        items("productCodes", []),
        text("instanceType", &it.kind),
        text("launchTime", moment(it.launched)),
        group("placement", vec![text("availabilityZone", &it.zone), text("groupName", ""), text("tenancy", "default")]),
        group("monitoring", vec![text("state", "disabled")]),
        text("architecture", kind.map_or("x86_64", InstanceType::architecture)),
        text("rootDeviceType", "ebs"),
        text("rootDeviceName", &it.root_device),
        disks(region, id, it),
        text("virtualizationType", "hvm"),
        text("clientToken", it.client_token.clone().unwrap_or_default()),
        tags(&it.tags),
        text("hypervisor", "xen"),
        items(
            "networkInterfaceSet",
            region.interfaces_of(it).map(|(eni, facts)| interface_of_instance(region, eni, facts)),
        ),
        show("ebsOptimized", it.ebs_optimized),
        show("enaSupport", true),
        group(
            "cpuOptions",
            vec![
                show("coreCount", kind.map_or(1, |kind| (kind.vcpus / 2).max(1))),
                show("threadsPerCore", kind.map_or(1, |kind| if kind.vcpus > 1 && !kind.arm { 2 } else { 1 })),
            ],
        ),
        metadata(it),
        group(
            "privateDnsNameOptions",
            vec![
                text("hostnameType", if it.resource_name_host { "resource-name" } else { "ip-name" }),
                show("enableResourceNameDnsARecord", it.resource_name_host),
                show("enableResourceNameDnsAAAARecord", false),
            ],
        ),
        text("platformDetails", "Linux/UNIX"),
        text("usageOperation", "RunInstances"),
    ];
    if is_there {
        nodes.extend(in_network(region, it));
    }
    nodes.extend(it.key_name.as_ref().map(|name| text("keyName", name)));
    if let Some((code, message)) = &it.reason {
        nodes.push(group("stateReason", vec![text("code", code), text("message", message)]));
    }
    if let Some(spot) = &it.spot {
        nodes.push(text("instanceLifecycle", "spot"));
        nodes.push(text("spotInstanceRequestId", &spot.request));
    }
    if let Some(arn) = &it.profile {
        nodes.push(group("iamInstanceProfile", vec![text("arn", arn), text("id", "AIPAEXAMPLEPROFILE000")]));
    }
    nodes
}

fn in_network(region: &Region, it: &Instance) -> Vec<Node> {
    let primary = it.interfaces.get(&0).and_then(|eni| region.interfaces.get(eni));
    let groups = primary.map(|eni| eni.groups.clone()).unwrap_or_default();
    let mut nodes = vec![
        text("subnetId", &it.subnet),
        text("vpcId", &it.vpc),
        show("privateIpAddress", it.private_address),
        show("sourceDestCheck", it.source_dest_check),
        group_set(region, &groups),
    ];
    nodes.extend(region.public_of(it).map(|ip| show("ipAddress", ip)));
    nodes.extend(primary.and_then(|eni| eni.ipv6.first()).map(|ip| show("ipv6Address", ip)));
    nodes
}

fn disks(region: &Region, id: &str, it: &Instance) -> Node {
    let one = |(device, disk): (&String, &super::model::Disk)| {
        let attachment = region.volumes.get(&disk.volume).and_then(|volume| volume.attachments.get(id));
        let mut ebs = vec![
            text("volumeId", &disk.volume),
            text("status", attachment.map_or("detached", |it| it.state.word())),
            show("deleteOnTermination", disk.delete_on_termination),
        ];
        ebs.extend(attachment.map(|it| text("attachTime", moment(it.at))));
        vec![text("deviceName", device), group("ebs", ebs)]
    };
    items("blockDeviceMapping", it.disks.iter().map(one))
}

pub(super) fn metadata(it: &Instance) -> Node {
    let onoff = |on: bool| if on { "enabled" } else { "disabled" };
    group("metadataOptions", metadata_fields(it, onoff))
}

pub(super) fn metadata_fields(it: &Instance, onoff: impl Fn(bool) -> &'static str) -> Vec<Node> {
    vec![
        text("state", if it.state == InstanceState::Pending { "pending" } else { "applied" }),
        text("httpTokens", if it.metadata.tokens_required { "required" } else { "optional" }),
        show("httpPutResponseHopLimit", it.metadata.hop_limit),
        text("httpEndpoint", onoff(it.metadata.enabled)),
        text("httpProtocolIpv6", onoff(it.metadata.ipv6)),
        text("instanceMetadataTags", onoff(it.metadata.tags)),
    ]
}

/// Security groups with their names.
pub(super) fn group_set(region: &Region, groups: &[String]) -> Node {
    let name = |id: &String| region.groups.get(id).map(|group| group.name.clone()).unwrap_or_default();
    items("groupSet", groups.iter().map(|id| vec![text("groupId", id), text("groupName", name(id))]))
}

/// What both views of an interface have in common.
pub(super) fn interface_facts(region: &Region, id: &str, it: &Interface) -> Vec<Node> {
    let association = |private| {
        let elastic = region.elastic_of(id, private);
        let first = it.ipv4.first() == Some(&private);
        let public = elastic.map(|(_, address)| address.address).or(it.public.filter(|_| first))?;
        let mut nodes = vec![
            show("publicIp", public),
            text("publicDnsName", region.public_name(public)),
            text("ipOwnerId", if elastic.is_some() { region.account.as_str() } else { "amazon" }),
        ];
        if let Some((allocation, address)) = elastic {
            nodes.push(text("allocationId", allocation));
            nodes.extend(address.association.as_ref().map(|it| text("associationId", &it.id)));
        }
        Some(nodes)
    };
    let name = |private: &std::net::Ipv4Addr| region.name_of_address(*private);
    let one = |(position, private): (usize, &std::net::Ipv4Addr)| {
        let mut nodes = vec![
            show("privateIpAddress", private),
            text("privateDnsName", name(private)),
            show("primary", position == 0),
        ];
        // An instance's view has no identifiers of elastic addresses; they are left out where they do not belong.
        nodes.extend(association(*private).map(|nodes| group("association", nodes)));
        nodes
    };
    let primary = it.ipv4.first();
    let mut nodes = vec![
        text("networkInterfaceId", id),
        text("subnetId", &it.subnet),
        text("vpcId", &it.vpc),
        text("description", &it.description),
        text("ownerId", &region.account),
        text("status", if it.attachment.is_some() { "in-use" } else { "available" }),
        text("macAddress", &it.mac),
        show("sourceDestCheck", it.source_dest_check),
        group_set(region, &it.groups),
        items("privateIpAddressesSet", it.ipv4.iter().enumerate().map(one)),
        items("ipv6AddressesSet", it.ipv6.iter().map(|ip| vec![show("ipv6Address", ip)])),
        text("interfaceType", if it.balancer.is_some() { "network_load_balancer" } else { "interface" }),
    ];
    nodes.extend(primary.map(|ip| show("privateIpAddress", ip)));
    nodes.extend(primary.map(|ip| text("privateDnsName", name(ip))));
    nodes.extend(primary.and_then(|ip| association(*ip)).map(|nodes| group("association", nodes)));
    nodes
}

fn interface_of_instance(region: &Region, id: &str, it: &Interface) -> Vec<Node> {
    let mut nodes = interface_facts(region, id, it);
    for node in &mut nodes {
        without_elastic_ids(node);
    }
    nodes.extend(it.attachment.as_ref().map(|at| {
        let facts = vec![
            text("attachmentId", &at.id),
            show("deviceIndex", at.index),
            text("status", "attached"),
            text("attachTime", moment(at.at)),
            show("deleteOnTermination", at.delete_on_termination),
            show("networkCardIndex", 0),
        ];
        group("attachment", facts)
    }));
    nodes
}

fn without_elastic_ids(node: &mut Node) {
    let Node::Group(name, members) = node else { return };
    if name == "association" {
        members.retain(|it| !matches!(it, Node::Text(name, _) if name == "allocationId" || name == "associationId"));
    }
    members.iter_mut().for_each(without_elastic_ids);
}

impl Region {
    /// The interfaces of an instance, by device index.
    pub(crate) fn interfaces_of<'a>(&'a self, it: &'a Instance) -> impl Iterator<Item = (&'a str, &'a Interface)> {
        it.interfaces.values().filter_map(|id| Some((id.as_str(), self.interfaces.get(id)?)))
    }

    /// The public address of an instance.
    pub(crate) fn public_of(&self, it: &Instance) -> Option<std::net::Ipv4Addr> {
        let id = it.interfaces.get(&0)?;
        let primary = self.interfaces.get(id)?;
        let elastic = primary.ipv4.first().and_then(|ip| self.elastic_of(id, *ip)).map(|(_, it)| it.address);
        elastic.or(primary.public.filter(|_| it.state.has_host()))
    }

    /// The host name of an instance in its network.
    pub(crate) fn private_name(&self, id: &str, it: &Instance) -> String {
        if !it.resource_name_host {
            return self.name_of_address(it.private_address);
        }
        if self.name == "us-east-1" {
            format!("{id}.ec2.internal")
        } else {
            format!("{id}.{}.compute.internal", self.name)
        }
    }

    /// The host name of a private address.
    pub(crate) fn name_of_address(&self, address: std::net::Ipv4Addr) -> String {
        let dashed = address.to_string().replace('.', "-");
        if self.name == "us-east-1" {
            format!("ip-{dashed}.ec2.internal")
        } else {
            format!("ip-{dashed}.{}.compute.internal", self.name)
        }
    }

    /// The host name of a public address.
    pub(crate) fn public_name(&self, address: std::net::Ipv4Addr) -> String {
        let dashed = address.to_string().replace('.', "-");
        if self.name == "us-east-1" {
            format!("ec2-{dashed}.compute-1.amazonaws.com")
        } else {
            format!("ec2-{dashed}.{}.compute.amazonaws.com", self.name)
        }
    }
}
