//! EC2: instances, networks, volumes. Each module owns one kind of resource; the state itself is `Region`.

mod addresses;
mod attachments;
mod attributes;
mod catalogue;
mod fleets;
mod group_rules;
mod groups;
mod images;
mod instances;
mod interfaces;
mod launch;
mod model;
mod show;
mod snapshots;
mod status;
mod subnets;
mod tables;
mod tags;
mod template_data;
mod templates;
#[cfg(test)]
mod tests;
mod types;
mod volumes;
mod vpcs;

use crate::call::Handler;
use jiff::Timestamp;
pub(crate) use model::{
    ElasticAddress, Gateway, Group, Image, Instance, InstanceState, Interface, InterfaceAttachment, Pool, RouteTable,
    ScheduledEvent, Snapshot, Subnet, Tags, Template, Volume, Vpc,
};

/// A moment as answers write it.
pub(crate) fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// What answers each action.
pub(crate) const HANDLERS: &[(&str, Handler)] = &[
    ("RunInstances", launch::run_instances),
    ("CreateFleet", fleets::create),
    ("TerminateInstances", instances::terminate),
    ("StopInstances", instances::stop),
    ("StartInstances", instances::start),
    ("RebootInstances", instances::reboot),
    ("ModifyInstanceAttribute", attributes::modify),
    ("ModifyInstanceMetadataOptions", attributes::modify_metadata),
    ("DescribeInstanceAttribute", attributes::describe),
    ("DescribeInstances", show::describe_instances),
    ("DescribeInstanceStatus", status::describe),
    ("DescribeInstanceTypes", types::describe_types),
    ("DescribeInstanceTypeOfferings", types::describe_offerings),
    ("DescribeSpotPriceHistory", types::describe_prices),
    ("DescribeRegions", types::describe_regions),
    ("DescribeAvailabilityZones", types::describe_zones),
    ("DescribeImages", images::describe),
    ("CreateTags", tags::create_tags),
    ("DeleteTags", tags::delete_tags),
    ("DescribeTags", tags::describe_tags),
    ("CreateLaunchTemplate", templates::create),
    ("CreateLaunchTemplateVersion", templates::create_version),
    ("ModifyLaunchTemplate", templates::modify),
    ("DeleteLaunchTemplate", templates::delete),
    ("DeleteLaunchTemplateVersions", templates::delete_versions),
    ("DescribeLaunchTemplates", templates::describe),
    ("DescribeLaunchTemplateVersions", templates::describe_versions),
    ("CreateVpc", vpcs::create),
    ("DeleteVpc", vpcs::delete),
    ("ModifyVpcAttribute", vpcs::modify_attribute),
    ("DescribeVpcAttribute", vpcs::describe_attribute),
    ("DescribeVpcs", vpcs::describe),
    ("CreateInternetGateway", vpcs::create_gateway),
    ("AttachInternetGateway", vpcs::attach_gateway),
    ("DetachInternetGateway", vpcs::detach_gateway),
    ("DeleteInternetGateway", vpcs::delete_gateway),
    ("DescribeInternetGateways", vpcs::describe_gateways),
    ("CreateSubnet", subnets::create),
    ("DeleteSubnet", subnets::delete),
    ("ModifySubnetAttribute", subnets::modify_attribute),
    ("DescribeSubnets", subnets::describe),
    ("CreateRouteTable", tables::create),
    ("DeleteRouteTable", tables::delete),
    ("AssociateRouteTable", tables::associate),
    ("DisassociateRouteTable", tables::disassociate),
    ("CreateRoute", tables::create_route),
    ("ReplaceRoute", tables::replace_route),
    ("DeleteRoute", tables::delete_route),
    ("DescribeRouteTables", tables::describe),
    ("CreateSecurityGroup", groups::create),
    ("DeleteSecurityGroup", groups::delete),
    ("DescribeSecurityGroups", groups::describe),
    ("DescribeSecurityGroupRules", group_rules::describe),
    ("AuthorizeSecurityGroupIngress", group_rules::authorize_ingress),
    ("AuthorizeSecurityGroupEgress", group_rules::authorize_egress),
    ("RevokeSecurityGroupIngress", group_rules::revoke_ingress),
    ("RevokeSecurityGroupEgress", group_rules::revoke_egress),
    ("CreateNetworkInterface", interfaces::create),
    ("DeleteNetworkInterface", interfaces::delete),
    ("AttachNetworkInterface", interfaces::attach),
    ("DetachNetworkInterface", interfaces::detach),
    ("ModifyNetworkInterfaceAttribute", interfaces::modify_attribute),
    ("AssignPrivateIpAddresses", interfaces::assign_private),
    ("UnassignPrivateIpAddresses", interfaces::unassign_private),
    ("AssignIpv6Addresses", interfaces::assign_ipv6),
    ("UnassignIpv6Addresses", interfaces::unassign_ipv6),
    ("DescribeNetworkInterfaces", interfaces::describe),
    ("AllocateAddress", addresses::allocate),
    ("ReleaseAddress", addresses::release),
    ("AssociateAddress", addresses::associate),
    ("DisassociateAddress", addresses::disassociate),
    ("DescribeAddresses", addresses::describe),
    ("CreateVolume", volumes::create),
    ("DeleteVolume", volumes::delete),
    ("ModifyVolume", volumes::modify),
    ("AttachVolume", attachments::attach),
    ("DetachVolume", attachments::detach),
    ("DescribeVolumes", volumes::describe),
    ("DescribeVolumesModifications", volumes::describe_modifications),
    ("DescribeVolumeStatus", volumes::describe_status),
    ("CreateSnapshot", snapshots::create),
    ("DeleteSnapshot", snapshots::delete),
    ("DescribeSnapshots", snapshots::describe),
];
