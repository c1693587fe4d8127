//! EC2 as tables: calls, and what they answer.

use crate::table::Service;
use crate::testing::World;

/// One call after another: action, parameters (`$1` is the first value kept), code, and what to keep of the answer.
type Step<'a> = (&'a str, &'a str, &'a str, &'a str);

/// Makes the calls; a step that waits is `("wait", milliseconds, "", "")`.
fn play(world: &mut World, steps: &[Step<'_>]) -> Vec<String> {
    let mut kept = vec![world.image(), world.subnet("eu-central-1a"), world.subnet("eu-central-1b")];
    for (action, form, want, keep) in steps {
        let mut filled = (*form).to_owned();
        for (index, value) in kept.iter().enumerate().rev() {
            filled = filled.replace(&format!("${index}"), value);
        }
        if *action == "wait" {
            world.wait(form.parse().unwrap());
            continue;
        }
        let (outcome, _) = world.call(Service::Ec2, action, &filled);
        match outcome {
            Ok(reply) => {
                assert_eq!(*want, "ok", "{action} {filled}");
                match keep.split_once('=') {
                    Some((path, value)) => assert_eq!(reply.all(path).join(","), value, "{action} {filled}"),
                    None if keep.is_empty() => {}
                    None => kept.push(reply.get(keep)),
                }
            }
            Err(error) => assert_eq!(error.code, *want, "{action} {filled}: {error}"),
        }
    }
    kept
}

const RUN: &str = "ImageId=$0&SubnetId=$1&MinCount=1&MaxCount=1";

#[test]
fn an_instance_lives_and_dies() {
    let state = "reservationSet.item.instancesSet.item.instanceState.name";
    let is = |word: &str| format!("{state}={word}");
    play(
        &mut World::new(),
        &[
            ("RunInstances", RUN, "ok", "instancesSet.item.instanceId"),
            ("DescribeInstances", "InstanceId.1=$3", "ok", &is("pending")),
            ("StartInstances", "InstanceId.1=$3", "ok", "instancesSet.item.currentState.name=pending"),
            ("wait", "3000", "", ""),
            ("DescribeInstances", "InstanceId.1=$3", "ok", &is("running")),
            ("StopInstances", "InstanceId.1=$3", "ok", "instancesSet.item.currentState.name=stopping"),
            ("StartInstances", "InstanceId.1=$3", "IncorrectInstanceState", ""),
            ("wait", "3000", "", ""),
            ("DescribeInstances", "InstanceId.1=$3", "ok", &is("stopped")),
            ("StartInstances", "InstanceId.1=$3", "ok", "instancesSet.item.previousState.name=stopped"),
            ("wait", "3000", "", ""),
            ("ModifyInstanceAttribute", "InstanceId=$3&DisableApiTermination.Value=true", "ok", ""),
            ("TerminateInstances", "InstanceId.1=$3", "OperationNotPermitted", ""),
            ("ModifyInstanceAttribute", "InstanceId=$3&DisableApiTermination.Value=false", "ok", ""),
            ("TerminateInstances", "InstanceId.1=$3", "ok", "instancesSet.item.currentState.name=shutting-down"),
            ("wait", "4000", "", ""),
            ("DescribeInstances", "InstanceId.1=$3", "ok", &is("terminated")),
            ("DescribeVolumes", "", "ok", "volumeSet.item.volumeId="),
            ("DescribeNetworkInterfaces", "", "ok", "networkInterfaceSet.item.networkInterfaceId="),
            ("StopInstances", "InstanceId.1=$3", "IncorrectInstanceState", ""),
            ("wait", "3600000", "", ""),
            ("DescribeInstances", "InstanceId.1=$3", "InvalidInstanceID.NotFound", ""),
        ],
    );
}

#[test]
fn orders_of_instances_are_checked() {
    play(
        &mut World::new(),
        &[
            ("RunInstances", "MinCount=1&MaxCount=1", "MissingParameter", ""),
            ("RunInstances", "ImageId=ami-0123456789abcdef0&MinCount=1&MaxCount=1", "InvalidAMIID.NotFound", ""),
            ("RunInstances", "ImageId=$0&MinCount=2&MaxCount=1", "InvalidParameterValue", ""),
            ("RunInstances", "ImageId=$0&InstanceType=m5.tiny&MinCount=1&MaxCount=1", "InvalidParameterValue", ""),
            ("RunInstances", "ImageId=$0&InstanceType=m6g.large&MinCount=1&MaxCount=1", "InvalidParameterValue", ""),
            (
                "RunInstances",
                "ImageId=$0&MinCount=1&MaxCount=1&SubnetId=subnet-0123456789abcdef0",
                "InvalidSubnetID.NotFound",
                "",
            ),
            (
                "RunInstances",
                "ImageId=$0&MinCount=1&MaxCount=1&SecurityGroupId.1=sg-0123456789abcdef0",
                "InvalidGroup.NotFound",
                "",
            ),
            (
                "RunInstances",
                "ImageId=$0&MinCount=1&MaxCount=1&IamInstanceProfile.Name=none",
                "InvalidParameterValue",
                "",
            ),
            (
                "RunInstances",
                "ImageId=$0&InstanceType=m6i.large&Placement.AvailabilityZone=eu-central-1c&MinCount=1&MaxCount=1",
                "Unsupported",
                "",
            ),
            (
                "RunInstances",
                "ImageId=$0&MinCount=1&MaxCount=1&TagSpecification.1.ResourceType=vpc&TagSpecification.1.Tag.1.Key=a",
                "InvalidParameterValue",
                "",
            ),
            ("RunInstances", "ImageId=$0&MinCount=1&MaxCount=1&DryRun=true", "DryRunOperation", ""),
            ("DescribeInstances", "", "ok", "reservationSet.item.reservationId="),
        ],
    );
}

#[test]
fn a_token_gives_the_same_instances_again() {
    let form = format!("{RUN}&ClientToken=t");
    play(
        &mut World::new(),
        &[
            ("RunInstances", &form, "ok", "instancesSet.item.instanceId"),
            ("RunInstances", &form, "ok", "instancesSet.item.instanceId"),
            ("RunInstances", &format!("{form}&KeyName=k"), "IdempotentParameterMismatch", ""),
            (
                "DescribeInstances",
                "InstanceId.1=$4&Filter.1.Name=instance-id&Filter.1.Value.1=$3",
                "ok",
                "reservationSet.item.instancesSet.item.clientToken=t",
            ),
        ],
    );
}

#[test]
fn capacity_runs_out_by_type_and_zone() {
    let mut world = World::new();
    let region = world.account.regions.get_mut(crate::testing::REGION).unwrap();
    region.capacity.insert(("m5.large".to_owned(), "eu-central-1a".to_owned(), false), 3);
    let two = "ImageId=$0&SubnetId=$1&MinCount=2&MaxCount=2";
    play(
        &mut world,
        &[
            ("RunInstances", two, "ok", "instancesSet.item.instanceId"),
            ("RunInstances", two, "InsufficientInstanceCapacity", ""),
            (
                "RunInstances",
                "ImageId=$0&SubnetId=$1&MinCount=1&MaxCount=5",
                "ok",
                "instancesSet.item.amiLaunchIndex=0",
            ),
            ("RunInstances", "ImageId=$0&SubnetId=$2&MinCount=2&MaxCount=2", "ok", ""),
            ("TerminateInstances", "InstanceId.1=$3", "ok", ""),
            ("RunInstances", RUN, "InsufficientInstanceCapacity", ""),
            ("wait", "4000", "", ""),
            ("RunInstances", RUN, "ok", ""),
        ],
    );
}

#[test]
fn a_fleet_falls_back_over_types_and_zones() {
    let mut world = World::new();
    let region = world.account.regions.get_mut(crate::testing::REGION).unwrap();
    region.capacity.insert(("m5.large".to_owned(), "eu-central-1a".to_owned(), true), 1);
    let fleet = "Type=instant&TargetCapacitySpecification.TotalTargetCapacity=3&\
                 TargetCapacitySpecification.DefaultTargetCapacityType=spot&\
                 LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateName=nodes&\
                 LaunchTemplateConfigs.1.Overrides.1.SubnetId=$1&LaunchTemplateConfigs.1.Overrides.2.SubnetId=$1&\
                 LaunchTemplateConfigs.1.Overrides.3.SubnetId=$2&LaunchTemplateConfigs.1.Overrides.3.InstanceType=c5.large&\
                 TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=pool&TagSpecification.1.Tag.1.Value=a";
    play(
        &mut world,
        &[
            (
                "CreateLaunchTemplate",
                "LaunchTemplateName=nodes&LaunchTemplateData.ImageId=$0&LaunchTemplateData.InstanceType=m5.large",
                "ok",
                "launchTemplate.launchTemplateId",
            ),
            ("CreateFleet", fleet, "ok", "fleetInstanceSet.item.instanceType=m5.large,c5.large"),
            (
                "DescribeInstances",
                "Filter.1.Name=tag:pool&Filter.1.Value.1=a&Filter.2.Name=instance-lifecycle&Filter.2.Value.1=spot&Filter.3.Name=instance-type&Filter.3.Value.1=c5.large",
                "ok",
                "reservationSet.item.instancesSet.item.instanceType=c5.large,c5.large",
            ),
            ("CreateFleet", &fleet.replace("=instant", "=maintain"), "InvalidParameterValue", ""),
        ],
    );
}

#[test]
fn volumes_attach_detach_and_grow() {
    let status = "volumeSet.item.status";
    play(
        &mut World::new(),
        &[
            ("RunInstances", RUN, "ok", "instancesSet.item.instanceId"),
            ("CreateVolume", "AvailabilityZone=eu-central-1a&Size=10&VolumeType=gp3", "ok", "volumeId"),
            ("AttachVolume", "VolumeId=$4&InstanceId=$3&Device=/dev/sdf", "IncorrectState", ""),
            ("wait", "3000", "", ""),
            ("DescribeVolumes", "VolumeId.1=$4", "ok", "volumeSet.item.status=available"),
            ("AttachVolume", "VolumeId=$4&InstanceId=$3&Device=sdf", "InvalidParameterValue", ""),
            ("AttachVolume", "VolumeId=$4&InstanceId=$3&Device=/dev/sdf", "ok", "status=attaching"),
            ("AttachVolume", "VolumeId=$4&InstanceId=$3&Device=/dev/sdg", "VolumeInUse", ""),
            ("DeleteVolume", "VolumeId=$4", "VolumeInUse", ""),
            ("wait", "1000", "", ""),
            ("DescribeVolumes", "VolumeId.1=$4", "ok", "volumeSet.item.attachmentSet.item.status=attached"),
            ("CreateVolume", "AvailabilityZone=eu-central-1a&Size=10&VolumeType=gp3", "ok", "volumeId"),
            ("CreateVolume", "AvailabilityZone=eu-central-1b&Size=10&VolumeType=gp3", "ok", "volumeId"),
            ("wait", "1000", "", ""),
            ("AttachVolume", "VolumeId=$5&InstanceId=$3&Device=/dev/sdf", "InvalidParameterValue", ""),
            ("AttachVolume", "VolumeId=$6&InstanceId=$3&Device=/dev/sdg", "InvalidVolume.ZoneMismatch", ""),
            ("ModifyVolume", "VolumeId=$4&Size=5", "InvalidParameterValue", ""),
            ("ModifyVolume", "VolumeId=$4&Size=20", "ok", "volumeModification.modificationState=modifying"),
            ("wait", "1000", "", ""),
            ("DescribeVolumes", "VolumeId.1=$4", "ok", "volumeSet.item.size=20"),
            (
                "DescribeVolumesModifications",
                "VolumeId.1=$4",
                "ok",
                "volumeModificationSet.item.modificationState=optimizing",
            ),
            ("ModifyVolume", "VolumeId=$4&Size=30", "VolumeModificationRateExceeded", ""),
            ("wait", "20000", "", ""),
            ("DescribeVolumesModifications", "VolumeId.1=$4", "ok", "volumeModificationSet.item.progress=100"),
            ("ModifyVolume", "VolumeId=$4&Size=30", "VolumeModificationRateExceeded", ""),
            ("wait", "21600000", "", ""),
            ("ModifyVolume", "VolumeId=$4&Size=30", "ok", ""),
            ("DescribeVolumesModifications", "VolumeId.1=$5", "InvalidVolumeModification.NotFound", ""),
            ("DetachVolume", "VolumeId=$4", "ok", "status=detaching"),
            ("wait", "1000", "", ""),
            ("DescribeVolumes", "VolumeId.1=$4", "ok", &format!("{status}=available")),
            ("DetachVolume", "VolumeId=$4", "IncorrectState", ""),
            ("DeleteVolume", "VolumeId=$4", "ok", ""),
            ("DescribeVolumes", "VolumeId.1=$4", "InvalidVolume.NotFound", ""),
        ],
    );
}

#[test]
fn shapes_of_volumes_are_checked() {
    let zone = "AvailabilityZone=eu-central-1a";
    for (form, want) in [
        ("Size=10", "ok"),
        ("", "MissingParameter"),
        ("Size=10&VolumeType=gp2&Iops=300", "InvalidParameterCombination"),
        ("Size=10&VolumeType=gp3&Iops=100", "InvalidParameterValue"),
        ("Size=10&VolumeType=gp3&Iops=6000", "InvalidParameterValue"),
        ("Size=100&VolumeType=gp3&Iops=6000&Throughput=500", "ok"),
        ("Size=10&VolumeType=io2", "MissingParameter"),
        ("Size=10&VolumeType=io2&Iops=5000&MultiAttachEnabled=true", "ok"),
        ("Size=10&VolumeType=gp3&MultiAttachEnabled=true", "InvalidParameterCombination"),
        ("Size=10&VolumeType=st1", "InvalidParameterValue"),
        ("Size=10&KmsKeyId=k", "InvalidParameterDependency"),
        ("Size=10&Encrypted=true&KmsKeyId=k", "ok"),
        ("SnapshotId=snap-0123456789abcdef0", "InvalidSnapshot.NotFound"),
    ] {
        assert_eq!(World::new().code(Service::Ec2, "CreateVolume", &format!("{zone}&{form}")), want, "{form}");
    }
    assert_eq!(World::new().code(Service::Ec2, "CreateVolume", "AvailabilityZone=x&Size=1"), "InvalidZone.NotFound");
}

#[test]
fn snapshots_take_time_and_make_volumes() {
    play(
        &mut World::new(),
        &[
            ("CreateVolume", "AvailabilityZone=eu-central-1a&Size=10", "ok", "volumeId"),
            ("CreateSnapshot", "VolumeId=$3", "IncorrectState", ""),
            ("wait", "1000", "", ""),
            ("CreateSnapshot", "VolumeId=$3&Description=d", "ok", "snapshotId"),
            ("DescribeSnapshots", "SnapshotId.1=$4", "ok", "snapshotSet.item.status=pending"),
            ("CreateVolume", "AvailabilityZone=eu-central-1b&SnapshotId=$4", "IncorrectState", ""),
            ("wait", "3000", "", ""),
            ("DescribeSnapshots", "Owner.1=self", "ok", "snapshotSet.item.progress=100%"),
            ("CreateVolume", "AvailabilityZone=eu-central-1b&SnapshotId=$4&Size=9", "InvalidParameterValue", ""),
            ("CreateVolume", "AvailabilityZone=eu-central-1b&SnapshotId=$4", "ok", "size=10"),
            ("DeleteSnapshot", "SnapshotId=$4", "ok", ""),
            ("DeleteSnapshot", "SnapshotId=$4", "InvalidSnapshot.NotFound", ""),
        ],
    );
}

#[test]
fn routes_have_a_limit_and_become_black_holes() {
    let mut config = crate::config::Config::default();
    config.quotas.routes_per_table = 3;
    let state = "routeTableSet.item.routeSet.item.state";
    play(
        &mut World::with(config),
        &[
            ("RunInstances", RUN, "ok", "instancesSet.item.instanceId"),
            ("DescribeRouteTables", "", "ok", "routeTableSet.item.routeTableId"),
            ("CreateRoute", "RouteTableId=$4&DestinationCidrBlock=10.1.0.0/24&InstanceId=$3", "ok", ""),
            ("CreateRoute", "RouteTableId=$4&DestinationCidrBlock=10.1.0.9/24&InstanceId=$3", "ok", ""),
            (
                "CreateRoute",
                "RouteTableId=$4&DestinationCidrBlock=10.1.0.0/24&GatewayId=igw-0123456789abcdef0",
                "InvalidInternetGatewayID.NotFound",
                "",
            ),
            ("CreateRoute", "RouteTableId=$4&DestinationCidrBlock=10.1.1.0/24&InstanceId=$3", "ok", ""),
            ("CreateRoute", "RouteTableId=$4&DestinationCidrBlock=10.1.2.0/24&InstanceId=$3", "RouteLimitExceeded", ""),
            (
                "CreateRoute",
                "RouteTableId=$4&DestinationCidrBlock=172.31.0.0/16&InstanceId=$3",
                "InvalidParameterValue",
                "",
            ),
            ("CreateRoute", "RouteTableId=$4&DestinationCidrBlock=10.1.2.0/24", "MissingParameter", ""),
            (
                "ReplaceRoute",
                "RouteTableId=$4&DestinationCidrBlock=10.1.2.0/24&InstanceId=$3",
                "InvalidParameterValue",
                "",
            ),
            ("DescribeRouteTables", "RouteTableId.1=$4", "ok", &format!("{state}=active,active,active,active")),
            ("StopInstances", "InstanceId.1=$3", "ok", ""),
            ("DescribeRouteTables", "RouteTableId.1=$4", "ok", &format!("{state}=active,blackhole,blackhole,active")),
            ("TerminateInstances", "InstanceId.1=$3", "ok", ""),
            ("wait", "5000", "", ""),
            (
                "DescribeRouteTables",
                "Filter.1.Name=route.state&Filter.1.Value.1=blackhole",
                "ok",
                &format!("{state}=active,blackhole,blackhole,active"),
            ),
            (
                "CreateRoute",
                "RouteTableId=$4&DestinationCidrBlock=10.1.9.0/24&InstanceId=$3",
                "IncorrectInstanceState",
                "",
            ),
            ("DeleteRoute", "RouteTableId=$4&DestinationCidrBlock=10.1.1.0/24", "ok", ""),
            ("DeleteRoute", "RouteTableId=$4&DestinationCidrBlock=10.1.1.0/24", "InvalidRoute.NotFound", ""),
            ("DeleteRoute", "RouteTableId=$4&DestinationCidrBlock=172.31.0.0/16", "InvalidParameterValue", ""),
            ("DeleteRouteTable", "RouteTableId=$4", "DependencyViolation", ""),
        ],
    );
}

#[test]
fn security_groups_know_duplicates_limits_and_users() {
    let mut config = crate::config::Config::default();
    config.quotas.rules_per_group = 2;
    let tcp = |port: u32| {
        format!(
            "GroupId=$3&IpPermissions.1.IpProtocol=tcp&IpPermissions.1.FromPort={port}&IpPermissions.1.ToPort={port}&IpPermissions.1.IpRanges.1.CidrIp=0.0.0.0/0"
        )
    };
    play(
        &mut World::with(config),
        &[
            ("CreateSecurityGroup", "GroupName=web&GroupDescription=d", "ok", "groupId"),
            ("CreateSecurityGroup", "GroupName=web&GroupDescription=d", "InvalidGroup.Duplicate", ""),
            ("AuthorizeSecurityGroupIngress", &tcp(80), "ok", "securityGroupRuleSet.item.securityGroupRuleId"),
            ("AuthorizeSecurityGroupIngress", &tcp(80), "InvalidPermission.Duplicate", ""),
            ("AuthorizeSecurityGroupIngress", &tcp(81), "ok", ""),
            ("AuthorizeSecurityGroupIngress", &tcp(82), "RulesPerSecurityGroupLimitExceeded", ""),
            (
                "AuthorizeSecurityGroupIngress",
                "GroupId=$3&IpPermissions.1.IpProtocol=tcp&IpPermissions.1.IpRanges.1.CidrIp=10.0.0.0/8",
                "InvalidParameterValue",
                "",
            ),
            (
                "AuthorizeSecurityGroupIngress",
                "GroupId=$3&IpPermissions.1.IpProtocol=-1&IpPermissions.1.IpRanges.1.CidrIp=10.0.0.1/8",
                "InvalidParameterValue",
                "",
            ),
            (
                "DescribeSecurityGroupRules",
                "Filter.1.Name=group-id&Filter.1.Value.1=$3&MaxResults=5",
                "ok",
                "securityGroupRuleSet.item.ipProtocol",
            ),
            ("RevokeSecurityGroupIngress", "GroupId=$3&SecurityGroupRuleId.1=$4", "ok", ""),
            (
                "RevokeSecurityGroupIngress",
                "GroupId=$3&SecurityGroupRuleId.1=$4",
                "InvalidSecurityGroupRuleId.NotFound",
                "",
            ),
            ("RevokeSecurityGroupIngress", &tcp(80), "InvalidPermission.NotFound", ""),
            ("RunInstances", &format!("{RUN}&SecurityGroupId.1=$3"), "ok", "instancesSet.item.instanceId"),
            ("DeleteSecurityGroup", "GroupId=$3", "DependencyViolation", ""),
            ("TerminateInstances", "InstanceId.1=$6", "ok", ""),
            ("wait", "4000", "", ""),
            ("DeleteSecurityGroup", "GroupId=$3", "ok", ""),
            ("DescribeSecurityGroups", "GroupId.1=$3", "InvalidGroup.NotFound", ""),
        ],
    );
}

#[test]
fn networks_go_only_when_they_are_empty() {
    play(
        &mut World::new(),
        &[
            ("CreateVpc", "CidrBlock=10.0.0.0/8", "InvalidVpc.Range", ""),
            ("CreateVpc", "CidrBlock=10.0.0.0/16&AmazonProvidedIpv6CidrBlock=true", "ok", "vpc.vpcId"),
            ("CreateSubnet", "VpcId=$3&CidrBlock=10.1.0.0/24", "InvalidSubnet.Range", ""),
            ("CreateSubnet", "VpcId=$3&CidrBlock=10.0.1.0/24&AvailabilityZone=nowhere", "InvalidParameterValue", ""),
            ("CreateSubnet", "VpcId=$3&CidrBlock=10.0.1.0/24", "ok", "subnet.subnetId"),
            ("CreateSubnet", "VpcId=$3&CidrBlock=10.0.1.128/25", "InvalidSubnet.Conflict", ""),
            (
                "CreateNetworkInterface",
                "SubnetId=$4&SecondaryPrivateIpAddressCount=2",
                "ok",
                "networkInterface.networkInterfaceId",
            ),
            (
                "AssignPrivateIpAddresses",
                "NetworkInterfaceId=$5&PrivateIpAddress.1=10.0.1.77",
                "ok",
                "assignedPrivateIpAddressesSet.item.privateIpAddress=10.0.1.77",
            ),
            (
                "AssignPrivateIpAddresses",
                "NetworkInterfaceId=$5&PrivateIpAddress.1=10.0.1.77",
                "InvalidIPAddress.InUse",
                "",
            ),
            ("DescribeSubnets", "SubnetId.1=$4", "ok", "subnetSet.item.availableIpAddressCount=247"),
            ("DeleteSubnet", "SubnetId=$4", "DependencyViolation", ""),
            ("DeleteVpc", "VpcId=$3", "DependencyViolation", ""),
            ("AllocateAddress", "Domain=vpc", "ok", "allocationId"),
            ("AssociateAddress", "AllocationId=$6&NetworkInterfaceId=$5", "Gateway.NotAttached", ""),
            ("CreateInternetGateway", "", "ok", "internetGateway.internetGatewayId"),
            ("AttachInternetGateway", "InternetGatewayId=$7&VpcId=$3", "ok", ""),
            ("AssociateAddress", "AllocationId=$6&NetworkInterfaceId=$5", "ok", "associationId"),
            ("ReleaseAddress", "AllocationId=$6", "InvalidIPAddress.InUse", ""),
            ("DetachInternetGateway", "InternetGatewayId=$7&VpcId=$3", "DependencyViolation", ""),
            ("DisassociateAddress", "AssociationId=$8", "ok", ""),
            ("ReleaseAddress", "AllocationId=$6", "ok", ""),
            ("DetachInternetGateway", "InternetGatewayId=$7&VpcId=$3", "ok", ""),
            ("DeleteInternetGateway", "InternetGatewayId=$7", "ok", ""),
            ("DeleteNetworkInterface", "NetworkInterfaceId=$5", "ok", ""),
            ("DeleteSubnet", "SubnetId=$4", "ok", ""),
            ("DeleteVpc", "VpcId=$3", "ok", ""),
            ("DescribeVpcs", "VpcId.1=$3", "InvalidVpcID.NotFound", ""),
        ],
    );
}

#[test]
fn tags_are_limited_and_found() {
    let mut config = crate::config::Config::default();
    config.quotas.tags = 2;
    play(
        &mut World::with(config),
        &[
            (
                "RunInstances",
                &format!(
                    "{RUN}&TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=Name&TagSpecification.1.Tag.1.Value=n"
                ),
                "ok",
                "instancesSet.item.instanceId",
            ),
            ("CreateTags", "ResourceId.1=$3&Tag.1.Key=a&Tag.1.Value=1", "ok", ""),
            ("CreateTags", "ResourceId.1=$3&Tag.1.Key=b&Tag.1.Value=2", "TagLimitExceeded", ""),
            ("CreateTags", "ResourceId.1=$3&Tag.1.Key=a&Tag.1.Value=2", "ok", ""),
            ("CreateTags", "ResourceId.1=$3&Tag.1.Key=aws:a&Tag.1.Value=2", "InvalidParameterValue", ""),
            ("CreateTags", "ResourceId.1=i-0123456789abcdef0&Tag.1.Key=a", "InvalidInstanceID.NotFound", ""),
            ("CreateTags", "ResourceId.1=table&Tag.1.Key=a", "InvalidID", ""),
            ("DescribeTags", "Filter.1.Name=resource-id&Filter.1.Value.1=$3", "ok", "tagSet.item.value=n,2"),
            ("DeleteTags", "ResourceId.1=$3&Tag.1.Key=a&Tag.1.Value=other", "ok", ""),
            ("DescribeTags", "Filter.1.Name=key&Filter.1.Value.1=a", "ok", "tagSet.item.resourceType=instance"),
            ("DeleteTags", "ResourceId.1=$3&Tag.1.Key=a", "ok", ""),
            ("DescribeTags", "Filter.1.Name=key&Filter.1.Value.1=a", "ok", "tagSet.item.resourceType="),
        ],
    );
}

#[test]
fn pages_follow_each_other_and_tokens_are_checked() {
    let mut world = World::new();
    let mut ids = world.run(7, "InstanceType=t3.micro");
    ids.sort();
    let (mut seen, mut token) = (Vec::new(), String::new());
    for _ in 0..2 {
        let page = world.ec2("DescribeInstances", &format!("MaxResults=5{token}"));
        seen.extend(page.all("reservationSet.item.instancesSet.item.instanceId"));
        token = page.all("nextToken").first().map(|it| format!("&NextToken={it}")).unwrap_or_default();
    }
    seen.sort();
    assert_eq!((seen, token.as_str()), (ids.clone(), ""));
    let form = format!("MaxResults=5&InstanceId.1={}", ids[0]);
    assert_eq!(world.code(Service::Ec2, "DescribeInstances", &form), "InvalidParameterCombination");
    assert_eq!(world.code(Service::Ec2, "DescribeInstances", "NextToken=x"), "InvalidNextToken");
}

#[test]
fn launch_templates_have_versions() {
    let named = "LaunchTemplateName=nodes";
    play(
        &mut World::new(),
        &[
            (
                "CreateLaunchTemplate",
                &format!("{named}&LaunchTemplateData.ImageId=$0&LaunchTemplateData.InstanceType=t3.micro"),
                "ok",
                "launchTemplate.launchTemplateId",
            ),
            (
                "CreateLaunchTemplate",
                &format!("{named}&LaunchTemplateData.ImageId=$0"),
                "InvalidLaunchTemplateName.AlreadyExistsException",
                "",
            ),
            (
                "CreateLaunchTemplateVersion",
                &format!("{named}&SourceVersion=1&LaunchTemplateData.InstanceType=m5.large"),
                "ok",
                "launchTemplateVersion.versionNumber=2",
            ),
            (
                "RunInstances",
                "LaunchTemplate.LaunchTemplateName=nodes&MinCount=1&MaxCount=1",
                "ok",
                "instancesSet.item.instanceType=t3.micro",
            ),
            (
                "RunInstances",
                "LaunchTemplate.LaunchTemplateId=$3&LaunchTemplate.Version=$Latest&MinCount=1&MaxCount=1",
                "ok",
                "instancesSet.item.instanceType=m5.large",
            ),
            (
                "RunInstances",
                "LaunchTemplate.LaunchTemplateName=nodes&LaunchTemplate.Version=3&MinCount=1&MaxCount=1",
                "InvalidLaunchTemplateId.VersionNotFound",
                "",
            ),
            (
                "ModifyLaunchTemplate",
                &format!("{named}&SetDefaultVersion=2"),
                "ok",
                "launchTemplate.defaultVersionNumber=2",
            ),
            (
                "DescribeLaunchTemplateVersions",
                &format!("{named}&LaunchTemplateVersion.1=$Default"),
                "ok",
                "launchTemplateVersionSet.item.launchTemplateData.instanceType=m5.large",
            ),
            (
                "DeleteLaunchTemplateVersions",
                &format!("{named}&LaunchTemplateVersion.1=1&LaunchTemplateVersion.2=2"),
                "ok",
                "successfullyDeletedLaunchTemplateVersionSet.item.versionNumber=1",
            ),
            ("DeleteLaunchTemplate", named, "ok", ""),
            (
                "DescribeLaunchTemplates",
                "LaunchTemplateName.1=nodes",
                "InvalidLaunchTemplateName.NotFoundException",
                "",
            ),
        ],
    );
}
