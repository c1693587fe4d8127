//! The way of every call: permission, dry runs, faults, lag, rate; and that tables and handlers agree.

use super::Delivery;
use crate::config::{Config, RoleConfig, UserConfig};
use crate::faults::Rule;
use crate::table::Service;
use crate::testing::{REGION, World};
use serde_json::json;

#[test]
fn every_action_of_the_tables_has_a_handler_and_the_other_way_round() {
    let world = World::new();
    for service in Service::ALL {
        let table: Vec<&str> = world.account.tables[&service].keys().map(String::as_str).collect();
        let handlers: Vec<&str> =
            world.account.handlers.keys().filter(|(it, _)| *it == service).map(|(_, name)| *name).collect();
        assert_eq!(table, handlers);
    }
}

fn user(name: &str, statement: &serde_json::Value) -> UserConfig {
    UserConfig {
        name: name.to_owned(),
        access_key: format!("AKIA{name}"),
        secret_key: "s".to_owned(),
        policies: vec![json!({"Version": "2012-10-17", "Statement": statement})],
    }
}

#[test]
fn a_policy_is_asked_for_every_resource_of_a_call() {
    let owned = json!({"StringEquals": {"aws:ResourceTag/owner": "timonel"}});
    let statement = json!([
        {"Effect": "Allow", "Action": ["ec2:Describe*"], "Resource": "*"},
        {"Effect": "Allow", "Action": "ec2:CreateVolume", "Resource": "arn:aws:ec2:*:*:volume/*",
         "Condition": {"StringEquals": {"aws:RequestTag/owner": "timonel"}}},
        {"Effect": "Allow", "Action": "ec2:CreateTags", "Resource": "arn:aws:ec2:*:*:volume/*",
         "Condition": {"StringEquals": {"ec2:CreateAction": "CreateVolume"}}},
        {"Effect": "Allow", "Action": "ec2:DeleteVolume", "Resource": "*", "Condition": owned},
    ]);
    let mut world = World::with(Config { users: vec![user("own", &statement)], ..Config::default() });
    let tagged = |value: &str| {
        format!(
            "AvailabilityZone=eu-central-1a&Size=1&TagSpecification.1.ResourceType=volume&TagSpecification.1.Tag.1.Key=owner&TagSpecification.1.Tag.1.Value={value}"
        )
    };
    let call = |world: &mut World, action: &str, form: &str| {
        let outcome = world.call_as("AKIAown", Service::Ec2, action, form).0;
        outcome.map(|reply| reply.all("volumeId").join("")).unwrap_or_else(|error| error.code.into_owned())
    };
    let denied = "UnauthorizedOperation";
    assert_eq!(call(&mut world, "CreateVolume", "AvailabilityZone=eu-central-1a&Size=1"), denied);
    assert_eq!(call(&mut world, "CreateVolume", &tagged("other")), denied);
    let id = call(&mut world, "CreateVolume", &tagged("timonel"));
    assert!(id.starts_with("vol-"), "{id}");
    assert_eq!(call(&mut world, "CreateTags", &format!("ResourceId.1={id}&Tag.1.Key=a&Tag.1.Value=b")), denied);
    world.wait(1_000);
    let foreign = "vol-0123456789abcdef0";
    assert_eq!(call(&mut world, "DeleteVolume", &format!("VolumeId={foreign}")), denied);
    assert_eq!(call(&mut world, "DeleteVolume", &format!("VolumeId={id}&DryRun=true")), "DryRunOperation");
    assert_eq!(call(&mut world, "DeleteVolume", &format!("VolumeId={id}")), "");
    assert_eq!(call(&mut world, "RunInstances", "MinCount=1&MaxCount=1"), denied);
}

#[test]
fn a_role_is_assumed_with_its_external_id_for_a_while() {
    let trust = json!({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "sts:AssumeRole",
        "Principal": {"AWS": "arn:aws:iam::123456789012:root"},
        "Condition": {"StringEquals": {"sts:ExternalId": "secret"}}}});
    let allow = json!({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "ec2:*", "Resource": "*"}});
    let role = RoleConfig { name: "nodes".to_owned(), trust, policies: vec![allow], max_session_seconds: 3600 };
    let mut world = World::with(Config { roles: vec![role], ..Config::default() });
    let form = "RoleArn=arn:aws:iam::123456789012:role/nodes&RoleSessionName=s";
    for (more, want) in [
        ("", "AccessDenied"),
        ("&ExternalId=guess", "AccessDenied"),
        ("&ExternalId=secret&DurationSeconds=7200", "ValidationError"),
        ("&ExternalId=secret&DurationSeconds=60", "ValidationError"),
        ("&ExternalId=secret&Policy=%7B%7D", "MalformedPolicyDocument"),
        ("&ExternalId=secret", "ok"),
    ] {
        assert_eq!(world.code(Service::Sts, "AssumeRole", &format!("{form}{more}")), want, "{more}");
    }
    let reply = world.call(Service::Sts, "AssumeRole", &format!("{form}&ExternalId=secret")).0.unwrap();
    let key = reply.get("Credentials.AccessKeyId");
    let who = world.call_as(&key, Service::Sts, "GetCallerIdentity", "").0.unwrap();
    assert_eq!(who.get("Arn"), "arn:aws:sts::123456789012:assumed-role/nodes/s");
    assert!(world.call_as(&key, Service::Ec2, "DescribeTags", "").0.is_ok());
    let elb = world.call_as(&key, Service::Elb, "DescribeLoadBalancers", "").0;
    assert_eq!(elb.unwrap_err().code, "AccessDenied");
    let narrowed = format!("{form}&ExternalId=secret&Policy=%7B%22Statement%22%3A%5B%5D%7D");
    let key = world.call(Service::Sts, "AssumeRole", &narrowed).0.unwrap().get("Credentials.AccessKeyId");
    assert_eq!(world.call_as(&key, Service::Ec2, "DescribeTags", "").0.unwrap_err().code, "UnauthorizedOperation");
}

fn fault(world: &mut World, rule: serde_json::Value) {
    let rule: Rule = serde_json::from_value(rule).unwrap();
    assert!(world.account.faults.arm(rule, world.now));
}

#[test]
fn faults_before_and_after_the_effect() {
    let cases = [
        (json!({"do": "throttle"}), "RequestLimitExceeded", Delivery::Send, 1),
        (json!({"do": "deny"}), "UnauthorizedOperation", Delivery::Send, 1),
        (json!({"do": "error-before", "code": "InternalError", "status": 500}), "InternalError", Delivery::Send, 1),
        (json!({"do": "error-after", "code": "InternalError", "status": 500}), "InternalError", Delivery::Send, 2),
        (json!({"do": "timeout-before"}), "InternalError", Delivery::Silence, 1),
        (json!({"do": "timeout-after"}), "ok", Delivery::Silence, 2),
        (json!({"do": "drop-after"}), "ok", Delivery::Drop, 2),
        (json!({"do": "half"}), "InternalError", Delivery::Send, 2),
    ];
    for (effect, code, delivery, vpcs) in cases {
        let mut world = World::new();
        fault(&mut world, json!({"name": "f", "action": "CreateVpc", "times": 1, "effect": effect.clone()}));
        let (outcome, delivered) = world.call(Service::Ec2, "CreateVpc", "CidrBlock=10.0.0.0/16");
        let got = outcome.err().map_or("ok".to_owned(), |error| error.code.into_owned());
        assert_eq!((got.as_str(), delivered), (code, delivery), "{effect}");
        let count = world.ec2("DescribeVpcs", "").all("vpcSet.item.vpcId").len();
        assert_eq!(count, vpcs, "{effect}");
        let entry = world.account.ledger.after(0, 1).next().unwrap();
        assert_eq!((entry.fault.as_deref(), entry.took_effect), (Some("f"), vpcs == 2), "{effect}");
    }
}

#[test]
fn half_of_a_list_takes_effect() {
    let mut world = World::new();
    let ids = world.run(3, "InstanceType=t3.micro");
    fault(&mut world, json!({"name": "f", "action": "CreateTags", "effect": {"do": "half"}}));
    let form =
        format!("ResourceId.1={}&ResourceId.2={}&ResourceId.3={}&Tag.1.Key=a&Tag.1.Value=b", ids[0], ids[1], ids[2]);
    assert_eq!(world.code(Service::Ec2, "CreateTags", &form), "InternalError");
    let tagged = world.ec2("DescribeTags", "Filter.1.Name=key&Filter.1.Value.1=a").all("tagSet.item.resourceId");
    assert_eq!(tagged.len(), 2);
}

#[test]
fn lies_are_told_for_as_long_as_they_last() {
    let mut world = World::new();
    fault(&mut world, json!({"name": "stale", "action": "DescribeVpcs", "seconds": 10, "effect": {"do": "stale"}}));
    world.wait(1_000);
    world.ec2("CreateVpc", "CidrBlock=10.0.0.0/16");
    let count = |world: &mut World| world.ec2("DescribeVpcs", "").all("vpcSet.item.vpcId").len();
    assert_eq!(count(&mut world), 1);
    world.wait(9_000);
    assert_eq!(count(&mut world), 2);
    fault(&mut world, json!({"name": "empty", "action": "Describe*", "times": 1, "effect": {"do": "empty"}}));
    assert_eq!(count(&mut world), 0);
    assert_eq!(count(&mut world), 2);
}

#[test]
fn reads_lag_behind_and_catch_up() {
    let mut world = World::with(Config { lag_ms: 2_000, ..Config::default() });
    world.wait(10_000);
    let id = world.ec2("CreateVpc", "CidrBlock=10.0.0.0/16").get("vpc.vpcId");
    world.wait(1_000);
    let form = format!("VpcId.1={id}");
    let seen: Vec<String> = (0..40).map(|_| world.code(Service::Ec2, "DescribeVpcs", &form)).collect();
    let missed = seen.iter().filter(|code| *code == "InvalidVpcID.NotFound").count();
    assert!((5..35).contains(&missed), "{missed} of 40 reads were stale");
    world.wait(1_000);
    assert!((0..40).all(|_| world.code(Service::Ec2, "DescribeVpcs", &form) == "ok"));
}

#[test]
fn rates_are_limited_when_asked_for() {
    let mut world = World::with(Config { throttle: true, ..Config::default() });
    let codes: Vec<String> = (0..60).map(|_| world.code(Service::Ec2, "DescribeVpcs", "")).collect();
    assert_eq!(codes.iter().filter(|code| *code == "ok").count(), 50);
    assert_eq!(codes[59], "RequestLimitExceeded");
    world.wait(1_000);
    assert_eq!(world.code(Service::Ec2, "DescribeVpcs", ""), "ok");
    let elb: Vec<String> = (0..41).map(|_| world.code(Service::Elb, "DescribeLoadBalancers", "")).collect();
    assert_eq!(elb[40], "Throttling");
}

#[test]
fn spot_instances_are_taken_away_after_their_notice() {
    let mut world = World::new();
    let id = world.run(1, "InstanceMarketOptions.MarketType=spot").remove(0);
    let now = world.now;
    let region = world.account.regions.get_mut(REGION).unwrap();
    assert!(region.recommend_rebalance(&id, now));
    assert!(region.interrupt(&id, 120_000, now));
    world.wait(119_000);
    let state = |world: &mut World| {
        world
            .ec2("DescribeInstances", &format!("InstanceId.1={id}"))
            .get("reservationSet.item.instancesSet.item.instanceState.name")
    };
    assert_eq!(state(&mut world), "running");
    world.wait(1_000);
    assert_eq!(state(&mut world), "shutting-down");
    let reply = world.ec2("DescribeInstances", &format!("InstanceId.1={id}"));
    assert_eq!(reply.get("reservationSet.item.instancesSet.item.stateReason.code"), "Server.SpotInstanceTermination");
    assert_eq!(world.code(Service::Ec2, "StopInstances", &format!("InstanceId.1={id}")), "UnsupportedOperation");
}

#[test]
fn what_the_provider_plans_is_told_and_comes_to_pass() {
    let mut world = World::new();
    let id = world.run(1, "").remove(0);
    world.wait(10_000);
    let now = world.now;
    let region = world.account.regions.get_mut(REGION).unwrap();
    assert!(region.schedule(&id, "instance-stop", now + jiff::SignedDuration::from_secs(60), now));
    let reply = world.ec2("DescribeInstanceStatus", &format!("InstanceId.1={id}"));
    assert_eq!(reply.get("instanceStatusSet.item.eventsSet.item.code"), "instance-stop");
    assert_eq!(reply.get("instanceStatusSet.item.instanceStatus.status"), "ok");
    world.wait(63_000);
    let reply = world.ec2("DescribeInstanceStatus", &format!("InstanceId.1={id}&IncludeAllInstances=true"));
    assert_eq!(reply.get("instanceStatusSet.item.instanceState.name"), "stopped");
}

#[test]
fn the_work_of_a_call_does_not_grow_with_the_region() {
    let mut world = World::new();
    let vpc = world.ec2("CreateVpc", "CidrBlock=10.0.0.0/16").get("vpc.vpcId");
    let form = format!("VpcId={vpc}&CidrBlock=10.0.0.0/17");
    let subnet = world.ec2("CreateSubnet", &form).get("subnet.subnetId");
    let image = world.image();
    let mut first = String::new();
    for _ in 0..10 {
        let form = format!("ImageId={image}&SubnetId={subnet}&MinCount=1000&MaxCount=1000&InstanceType=t3.micro");
        first = world.ec2("RunInstances", &form).get("instancesSet.item.instanceId");
    }
    world.wait(3_000);
    let looked = |world: &mut World, action: &str, form: &str| {
        world.ec2(action, form);
        world.account.ledger.after(world.account.ledger.count() - 1, 1).next().unwrap().looked_at
    };
    for (action, form, most) in [
        ("DescribeInstances", format!("InstanceId.1={first}"), 1),
        ("DescribeInstances", "MaxResults=1000".to_owned(), 1_001),
        ("DescribeInstanceStatus", format!("InstanceId.1={first}"), 1),
        ("DescribeVolumes", "MaxResults=5".to_owned(), 6),
        ("DescribeTags", format!("Filter.1.Name=resource-id&Filter.1.Value.1={first}"), 1),
        ("CreateTags", format!("ResourceId.1={first}&Tag.1.Key=a&Tag.1.Value=b"), 0),
    ] {
        assert!(looked(&mut world, action, &form) <= most, "{action} {form}");
    }
}
