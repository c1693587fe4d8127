//! What a launch template says, as answers show it: requests and answers name the same things differently.

use crate::form::Tree;
use crate::xml::{Node, group, item_texts, items, text};

/// Members that are plain values.
type Plain = &'static [(&'static str, &'static str)];

const TOP: Plain = &[
    ("ImageId", "imageId"),
    ("InstanceType", "instanceType"),
    ("KeyName", "keyName"),
    ("UserData", "userData"),
    ("EbsOptimized", "ebsOptimized"),
    ("DisableApiTermination", "disableApiTermination"),
    ("DisableApiStop", "disableApiStop"),
    ("InstanceInitiatedShutdownBehavior", "instanceInitiatedShutdownBehavior"),
];
/// Members with members.
const GROUPS: [(&str, &str, Plain); 5] = [
    ("IamInstanceProfile", "iamInstanceProfile", &[("Arn", "arn"), ("Name", "name")]),
    ("Monitoring", "monitoring", &[("Enabled", "enabled")]),
    ("Placement", "placement", &[("AvailabilityZone", "availabilityZone"), ("Tenancy", "tenancy")]),
    (
        "MetadataOptions",
        "metadataOptions",
        &[
            ("HttpTokens", "httpTokens"),
            ("HttpPutResponseHopLimit", "httpPutResponseHopLimit"),
            ("HttpEndpoint", "httpEndpoint"),
            ("HttpProtocolIpv6", "httpProtocolIpv6"),
            ("InstanceMetadataTags", "instanceMetadataTags"),
        ],
    ),
    (
        "PrivateDnsNameOptions",
        "privateDnsNameOptions",
        &[
            ("HostnameType", "hostnameType"),
            ("EnableResourceNameDnsARecord", "enableResourceNameDnsARecord"),
            ("EnableResourceNameDnsAAAARecord", "enableResourceNameDnsAAAARecord"),
        ],
    ),
];
const DISK: Plain = &[
    ("DeleteOnTermination", "deleteOnTermination"),
    ("Encrypted", "encrypted"),
    ("KmsKeyId", "kmsKeyId"),
    ("Iops", "iops"),
    ("Throughput", "throughput"),
    ("SnapshotId", "snapshotId"),
    ("VolumeSize", "volumeSize"),
    ("VolumeType", "volumeType"),
];
const INTERFACE: Plain = &[
    ("DeviceIndex", "deviceIndex"),
    ("NetworkInterfaceId", "networkInterfaceId"),
    ("SubnetId", "subnetId"),
    ("Description", "description"),
    ("DeleteOnTermination", "deleteOnTermination"),
    ("AssociatePublicIpAddress", "associatePublicIpAddress"),
    ("PrivateIpAddress", "privateIpAddress"),
    ("SecondaryPrivateIpAddressCount", "secondaryPrivateIpAddressCount"),
    ("Ipv6AddressCount", "ipv6AddressCount"),
];
const MARKET: Plain = &[
    ("MaxPrice", "maxPrice"),
    ("SpotInstanceType", "spotInstanceType"),
    ("InstanceInterruptionBehavior", "instanceInterruptionBehavior"),
];

/// The elements of a template's data.
pub(super) fn nodes(data: &Tree) -> Vec<Node> {
    let mut nodes = plain(data, TOP);
    for (asked, shown, members) in GROUPS {
        nodes.extend(data.at(asked).map(|it| group(shown, plain(it, members))));
    }
    if let Some(market) = data.at("InstanceMarketOptions") {
        let mut inner = plain(market, &[("MarketType", "marketType")]);
        inner.extend(market.at("SpotOptions").map(|spot| group("spotOptions", plain(spot, MARKET))));
        nodes.push(group("instanceMarketOptions", inner));
    }
    let list = |name: &str| data.items(name).collect::<Vec<_>>();
    let disks = list("BlockDeviceMapping");
    if !disks.is_empty() {
        let one = |it: &Tree| {
            let mut disk = plain(it, &[("DeviceName", "deviceName"), ("NoDevice", "noDevice")]);
            disk.extend(it.at("Ebs").map(|ebs| group("ebs", plain(ebs, DISK))));
            disk
        };
        nodes.push(items("blockDeviceMappingSet", disks.into_iter().map(one)));
    }
    let interfaces = list("NetworkInterface");
    if !interfaces.is_empty() {
        let one = |it: &Tree| {
            let mut interface = plain(it, INTERFACE);
            let groups = it.list("SecurityGroupId");
            let named = |id: &&str| text("groupId", *id);
            interface.push(group("groupSet", groups.iter().map(named).collect()));
            interface
        };
        nodes.push(items("networkInterfaceSet", interfaces.into_iter().map(one)));
    }
    let groups = data.list("SecurityGroupId");
    if !groups.is_empty() {
        nodes.push(item_texts("securityGroupIdSet", groups));
    }
    let specs = list("TagSpecification");
    if !specs.is_empty() {
        let tag = |it: &Tree| vec![text("key", it.text_or("Key", "")), text("value", it.text_or("Value", ""))];
        let one = |it: &Tree| {
            vec![text("resourceType", it.text_or("ResourceType", "")), items("tagSet", it.items("Tag").map(tag))]
        };
        nodes.push(items("tagSpecificationSet", specs.into_iter().map(one)));
    }
    nodes
}

fn plain(tree: &Tree, members: Plain) -> Vec<Node> {
    members.iter().filter_map(|(asked, shown)| tree.text(asked).map(|value| text(shown, value))).collect()
}
