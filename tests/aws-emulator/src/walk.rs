//! A generated walk: random calls in random order, and what must hold after each of them.

use crate::ids::Ids;
use crate::table::Service;
use crate::testing::{REGION, World};
use crate::{ec2::InstanceState, region::Region};
use std::collections::BTreeSet;

/// Calls of one walk.
const STEPS: usize = 600;
const WALKS: u64 = 12;

/// What has been made so far, by kind.
#[derive(Default)]
struct Known {
    all: Vec<(&'static str, String)>,
}

impl Known {
    fn pick(&self, ids: &mut Ids, kind: &str) -> String {
        let fitting: Vec<&String> = self.all.iter().filter(|(it, _)| *it == kind).map(|(_, id)| id).collect();
        let count = u64::try_from(fitting.len()).unwrap();
        if count == 0 {
            format!("{kind}-0123456789abcdef0")
        } else {
            fitting[usize::try_from(ids.number() % count).unwrap()].clone()
        }
    }
}

/// Action, parameters with `{kind}` for a known identifier, what to keep: kind and where.
const MOVES: &[(Service, &str, &str, &str, &str)] = &[
    (
        Service::Ec2,
        "RunInstances",
        "ImageId={ami}&SubnetId={subnet}&MinCount=1&MaxCount=2",
        "i",
        "instancesSet.item.instanceId",
    ),
    (Service::Ec2, "TerminateInstances", "InstanceId.1={i}", "", ""),
    (Service::Ec2, "StopInstances", "InstanceId.1={i}", "", ""),
    (Service::Ec2, "StartInstances", "InstanceId.1={i}", "", ""),
    (Service::Ec2, "CreateVolume", "AvailabilityZone=eu-central-1a&Size=1&VolumeType=gp3", "vol", "volumeId"),
    (
        Service::Ec2,
        "CreateVolume",
        "AvailabilityZone=eu-central-1a&Size=4&VolumeType=io2&Iops=100&MultiAttachEnabled=true",
        "vol",
        "volumeId",
    ),
    (Service::Ec2, "AttachVolume", "VolumeId={vol}&InstanceId={i}&Device=/dev/sd{n}", "", ""),
    (Service::Ec2, "DetachVolume", "VolumeId={vol}&InstanceId={i}", "", ""),
    (Service::Ec2, "DeleteVolume", "VolumeId={vol}", "", ""),
    (Service::Ec2, "ModifyVolume", "VolumeId={vol}&Size={n}", "", ""),
    (Service::Ec2, "CreateSnapshot", "VolumeId={vol}", "snap", "snapshotId"),
    (Service::Ec2, "CreateSecurityGroup", "GroupName=g{n}&GroupDescription=d", "sg", "groupId"),
    (Service::Ec2, "DeleteSecurityGroup", "GroupId={sg}", "", ""),
    (
        Service::Ec2,
        "AuthorizeSecurityGroupIngress",
        "GroupId={sg}&IpPermissions.1.IpProtocol=-1&IpPermissions.1.Groups.1.GroupId={sg}",
        "",
        "",
    ),
    (Service::Ec2, "ModifyInstanceAttribute", "InstanceId={i}&GroupId.1={sg}", "", ""),
    (Service::Ec2, "CreateRoute", "RouteTableId={rtb}&DestinationCidrBlock=10.0.{n}.0/24&InstanceId={i}", "", ""),
    (Service::Ec2, "DeleteRoute", "RouteTableId={rtb}&DestinationCidrBlock=10.0.{n}.0/24", "", ""),
    (
        Service::Ec2,
        "CreateNetworkInterface",
        "SubnetId={subnet}&SecurityGroupId.1={sg}",
        "eni",
        "networkInterface.networkInterfaceId",
    ),
    (Service::Ec2, "AttachNetworkInterface", "NetworkInterfaceId={eni}&InstanceId={i}&DeviceIndex=1", "", ""),
    (Service::Ec2, "DeleteNetworkInterface", "NetworkInterfaceId={eni}", "", ""),
    (Service::Ec2, "AllocateAddress", "Domain=vpc", "eipalloc", "allocationId"),
    (Service::Ec2, "AssociateAddress", "AllocationId={eipalloc}&NetworkInterfaceId={eni}", "", ""),
    (Service::Ec2, "AssociateAddress", "AllocationId={eipalloc}&InstanceId={i}", "", ""),
    (Service::Ec2, "ReleaseAddress", "AllocationId={eipalloc}", "", ""),
    (Service::Ec2, "CreateTags", "ResourceId.1={i}&Tag.1.Key=k{n}&Tag.1.Value=v", "", ""),
    (
        Service::Elb,
        "CreateLoadBalancer",
        "Name=lb{n}&Type=network&Subnets.1={subnet}&SecurityGroups.1={sg}",
        "lb",
        "LoadBalancers.member.LoadBalancerArn",
    ),
    (Service::Elb, "DeleteLoadBalancer", "LoadBalancerArn={lb}", "", ""),
    (
        Service::Elb,
        "CreateTargetGroup",
        "Name=tg{n}&Protocol=TCP&Port=80&VpcId={vpc}",
        "tg",
        "TargetGroups.member.TargetGroupArn",
    ),
    (Service::Elb, "DeleteTargetGroup", "TargetGroupArn={tg}", "", ""),
    (
        Service::Elb,
        "CreateListener",
        "LoadBalancerArn={lb}&Protocol=TCP&Port={n}&DefaultActions.1.Type=forward&DefaultActions.1.TargetGroupArn={tg}",
        "listener",
        "Listeners.member.ListenerArn",
    ),
    (Service::Elb, "DeleteListener", "ListenerArn={listener}", "", ""),
    (Service::Elb, "RegisterTargets", "TargetGroupArn={tg}&Targets.1.Id={i}", "", ""),
    (Service::Elb, "DeregisterTargets", "TargetGroupArn={tg}&Targets.1.Id={i}", "", ""),
];

#[test]
fn a_random_walk_leaves_nothing_dangling() {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for seed in 1..=WALKS {
        let mut ids = Ids::new(seed);
        let mut world = World::new();
        let mut known = Known::default();
        known.all.push(("ami", world.image()));
        known.all.push(("subnet", world.subnet("eu-central-1a")));
        known.all.push(("vpc", world.ec2("DescribeVpcs", "").get("vpcSet.item.vpcId")));
        known.all.push(("rtb", world.ec2("DescribeRouteTables", "").get("routeTableSet.item.routeTableId")));
        let mut made: BTreeSet<String> = BTreeSet::new();
        for step in 0..STEPS {
            let (service, action, form, kind, path) = MOVES[usize::try_from(ids.number()).unwrap() % MOVES.len()];
            let mut filled = form.replace("{n}", &(1 + ids.number() % 8).to_string());
            while let Some((before, rest)) = filled.split_once('{') {
                let (kind, after) = rest.split_once('}').unwrap();
                filled = format!("{before}{}{after}", known.pick(&mut ids, kind));
            }
            if let Ok(reply) = world.call(service, action, &filled).0 {
                done.insert(action);
                for id in if path.is_empty() { Vec::new() } else { reply.all(path) } {
                    // Load balancers, groups and listeners may be answered again under their name.
                    let fresh = made.insert(id.clone());
                    assert!(fresh || service == Service::Elb, "{id} was given twice, seed {seed} step {step}");
                    known.all.push((kind, id));
                }
            }
            world.wait(i64::try_from(ids.number() % 1_500).unwrap());
            let region = &world.account.regions[REGION];
            if let Some(fault) = fault(region, &world.account.config.quotas, &made) {
                panic!("seed {seed} step {step} after {action} {filled}: {fault}");
            }
        }
    }
    let all: BTreeSet<&str> = MOVES.iter().map(|it| it.1).collect();
    assert_eq!(done, all, "every kind of call succeeded at least once");
}

/// The first thing that must hold and does not.
fn fault(region: &Region, quotas: &crate::config::Quotas, made: &BTreeSet<String>) -> Option<String> {
    attachments(region).or_else(|| networks(region, quotas)).or_else(|| balancers(region)).or_else(|| {
        region.instances.iter().find(|(id, _)| !made.contains(*id)).map(|(id, _)| format!("{id} was never made"))
    })
}

fn attachments(region: &Region) -> Option<String> {
    for (id, volume) in region.volumes.iter() {
        if volume.attachments.len() > 1 && !volume.shape.multi_attach {
            return Some(format!("{id} is attached twice"));
        }
        for instance in volume.attachments.keys() {
            let holds =
                region.instances.get(instance).is_some_and(|it| it.disks.values().any(|disk| disk.volume == id));
            if !holds {
                return Some(format!("{id} is attached to {instance}, which does not know"));
            }
        }
    }
    for (id, instance) in region.instances.iter() {
        if instance.state == InstanceState::Terminated && !(instance.disks.is_empty() && instance.interfaces.is_empty())
        {
            return Some(format!("{id} is terminated and holds something"));
        }
        if let Some(disk) = instance.disks.values().find(|disk| region.volumes.get(&disk.volume).is_none()) {
            return Some(format!("{id} holds {}, which is gone", disk.volume));
        }
        if let Some(eni) = instance.interfaces.values().find(|eni| region.interfaces.get(eni).is_none()) {
            return Some(format!("{id} holds {eni}, which is gone"));
        }
    }
    None
}

fn networks(region: &Region, quotas: &crate::config::Quotas) -> Option<String> {
    let mut taken = BTreeSet::new();
    for (id, interface) in region.interfaces.iter() {
        if let Some(group) = interface.groups.iter().find(|group| region.groups.get(group).is_none()) {
            return Some(format!("{id} has {group}, which is gone"));
        }
        if let Some(ip) = interface.ipv4.iter().find(|ip| !taken.insert((&interface.subnet, **ip))) {
            return Some(format!("{ip} is used twice"));
        }
        let instance = interface.attachment.as_ref().and_then(|it| it.instance.as_ref());
        if let Some(instance) =
            instance.filter(|it| region.instances.get(it).is_none_or(|it| it.state == InstanceState::Terminated))
        {
            return Some(format!("{id} is attached to {instance}, which is gone"));
        }
    }
    for (id, address) in region.addresses.iter() {
        if let Some(at) = address.association.as_ref().filter(|at| region.interfaces.get(&at.interface).is_none()) {
            return Some(format!("{id} leads to {}, which is gone", at.interface));
        }
    }
    let free: usize = region.pools.values().map(crate::ec2::Pool::free).sum();
    let all: usize = region.subnets.iter().map(|(_, it)| (1usize << (32 - it.cidr.prefix_len())) - 5).sum();
    if free + taken.len() != all {
        return Some(format!("{} addresses are lost", all.abs_diff(free + taken.len())));
    }
    let full = region.tables.iter().find(|(_, it)| it.routes.len() > quotas.routes_per_table + 2);
    let many = region.addresses.len() > quotas.addresses;
    full.map(|(id, _)| format!("{id} has too many routes")).or(many.then(|| "too many addresses".to_owned()))
}

fn balancers(region: &Region) -> Option<String> {
    for (arn, listener) in region.listeners.iter() {
        if region.balancers.get(&listener.balancer).is_none() {
            return Some(format!("{arn} has no load balancer"));
        }
        if let Some(group) =
            listener.actions.groups().into_iter().find(|group| region.target_groups.get(group).is_none())
        {
            return Some(format!("{arn} leads to {group}, which is gone"));
        }
        if region.users_of(listener.actions.groups().first()?).len() > 1 {
            return Some(format!("{arn} shares its group with another load balancer"));
        }
    }
    let rules = region.listener_rules.iter().find(|(_, it)| region.listeners.get(&it.listener).is_none());
    rules.map(|(arn, _)| format!("{arn} has no listener"))
}
