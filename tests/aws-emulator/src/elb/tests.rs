//! ELB as tables: calls, and what they answer.

use crate::config::Config;
use crate::health::Finding;
use crate::table::Service;
use crate::testing::{REGION, World};

type Step<'a> = (&'a str, &'a str, &'a str, &'a str);

const CERTIFICATE: &str = "arn:aws:acm:eu-central-1:123456789012:certificate/1";

/// A world with two subnets, a network and a running instance.
fn world() -> (World, Vec<String>) {
    let mut config = Config::default();
    config.certificates.insert(CERTIFICATE.to_owned(), "example.com".to_owned());
    config.quotas.listeners_per_balancer = 2;
    let mut world = World::with(config);
    let (one, two) = (world.subnet("eu-central-1a"), world.subnet("eu-central-1b"));
    let vpc = world.ec2("DescribeVpcs", "").get("vpcSet.item.vpcId");
    let instance = world.run(1, &format!("SubnetId={one}")).remove(0);
    (world, vec![one, two, vpc, instance])
}

/// Makes the calls; `$0` to `$3` are subnets, network and instance, then what steps keep.
fn play(world: &mut World, mut kept: Vec<String>, steps: &[Step<'_>]) {
    for (action, form, want, keep) in steps {
        let mut filled = (*form).to_owned();
        for (index, value) in kept.iter().enumerate().rev() {
            filled = filled.replace(&format!("${index}"), value);
        }
        if *action == "wait" {
            world.wait(form.parse().unwrap());
            continue;
        }
        match world.call(Service::Elb, action, &filled).0 {
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
}

const NLB: &str = "Name=one&Type=network&Subnets.member.1=$0&Subnets.member.2=$1";
const GROUP: &str = "Name=pods&Protocol=TCP&Port=80&VpcId=$2";
const FORWARD: &str = "DefaultActions.member.1.Type=forward&DefaultActions.member.1.TargetGroupArn=$5";
const HEALTH: &str = "TargetHealthDescriptions.member.TargetHealth";

#[test]
fn a_network_load_balancer_from_start_to_end() {
    let (mut world, kept) = world();
    let state = |word: &str| format!("{HEALTH}.State={word}");
    let reason = |word: &str| format!("{HEALTH}.Reason={word}");
    let listener = format!("LoadBalancerArn=$4&Protocol=TCP&Port=80&{FORWARD}");
    play(
        &mut world,
        kept,
        &[
            ("CreateLoadBalancer", NLB, "ok", "LoadBalancers.member.LoadBalancerArn"),
            ("CreateTargetGroup", GROUP, "ok", "TargetGroups.member.TargetGroupArn"),
            ("CreateLoadBalancer", NLB, "ok", "LoadBalancers.member.State.Code=provisioning"),
            ("CreateLoadBalancer", &format!("{NLB}&Scheme=internal"), "DuplicateLoadBalancerName", ""),
            ("CreateTargetGroup", &GROUP.replace("=80", "=81"), "DuplicateTargetGroupName", ""),
            ("RegisterTargets", "TargetGroupArn=$5&Targets.member.1.Id=$3", "ok", ""),
            ("DescribeTargetHealth", "TargetGroupArn=$5", "ok", &reason("Target.NotInUse")),
            ("CreateListener", &listener, "ok", ""),
            ("CreateListener", &listener, "ok", ""),
            ("DescribeListeners", "LoadBalancerArn=$4", "ok", "Listeners.member.Port=80"),
        ],
    );
    let (mut world, kept) = self::world();
    play(
        &mut world,
        kept,
        &[
            ("CreateLoadBalancer", NLB, "ok", "LoadBalancers.member.LoadBalancerArn"),
            ("CreateTargetGroup", GROUP, "ok", "TargetGroups.member.TargetGroupArn"),
            ("CreateListener", &listener, "ok", "Listeners.member.ListenerArn"),
            (
                "CreateListener",
                &listener.replace("Port=80", "Port=80&AlpnPolicy.member.1=None"),
                "ALPNPolicyNotSupported",
                "",
            ),
            ("CreateListener", &listener.replace("=TCP", "=HTTP"), "ValidationError", ""),
            ("CreateListener", &listener.replace("=TCP", "=TLS"), "ValidationError", ""),
            ("CreateListener", &listener.replace("=80", "=443"), "ok", ""),
            ("CreateListener", &listener.replace("=80", "=444"), "TooManyListeners", ""),
            ("RegisterTargets", "TargetGroupArn=$5&Targets.member.1.Id=i-0123456789abcdef0", "InvalidTarget", ""),
            ("RegisterTargets", "TargetGroupArn=$5&Targets.member.1.Id=$3", "ok", ""),
            ("DescribeTargetHealth", "TargetGroupArn=$5", "ok", &reason("Elb.RegistrationInProgress")),
            ("wait", "2000", "", ""),
            ("DescribeTargetHealth", "TargetGroupArn=$5", "ok", &state("healthy")),
            (
                "DescribeTargetHealth",
                "TargetGroupArn=$5&Targets.member.1.Id=$3&Targets.member.1.Port=99",
                "ok",
                &reason("Target.NotRegistered"),
            ),
            ("DeleteTargetGroup", "TargetGroupArn=$5", "ResourceInUse", ""),
            (
                "ModifyTargetGroupAttributes",
                "TargetGroupArn=$5&Attributes.member.1.Key=deregistration_delay.timeout_seconds&Attributes.member.1.Value=10",
                "ok",
                "",
            ),
            ("DeregisterTargets", "TargetGroupArn=$5&Targets.member.1.Id=$3", "ok", ""),
            ("DescribeTargetHealth", "TargetGroupArn=$5", "ok", &state("draining")),
            ("wait", "10000", "", ""),
            ("DescribeTargetHealth", "TargetGroupArn=$5", "ok", &state("")), // it is gone
            ("DescribeLoadBalancers", "Names.member.1=one", "ok", "LoadBalancers.member.State.Code=active"),
            (
                "ModifyLoadBalancerAttributes",
                "LoadBalancerArn=$4&Attributes.member.1.Key=deletion_protection.enabled&Attributes.member.1.Value=true",
                "ok",
                "",
            ),
            ("DeleteLoadBalancer", "LoadBalancerArn=$4", "OperationNotPermitted", ""),
            (
                "ModifyLoadBalancerAttributes",
                "LoadBalancerArn=$4&Attributes.member.1.Key=deletion_protection.enabled&Attributes.member.1.Value=false",
                "ok",
                "",
            ),
            ("DeleteLoadBalancer", "LoadBalancerArn=$4", "ok", ""),
            ("DeleteLoadBalancer", "LoadBalancerArn=$4", "ok", ""),
            ("DescribeLoadBalancers", "LoadBalancerArns.member.1=$4", "LoadBalancerNotFound", ""),
            ("DescribeListeners", "ListenerArns.member.1=$6", "ListenerNotFound", ""),
            ("DeleteTargetGroup", "TargetGroupArn=$5", "ok", ""),
        ],
    );
    assert!(
        !world
            .ec2("DescribeNetworkInterfaces", "Filter.1.Name=requester-managed&Filter.1.Value.1=true")
            .all("networkInterfaceSet.item.status")
            .is_empty(),
        "interfaces linger"
    );
    world.wait(3_000);
    assert_eq!(
        world
            .ec2("DescribeNetworkInterfaces", "Filter.1.Name=requester-managed&Filter.1.Value.1=true")
            .all("networkInterfaceSet.item.status")
            .len(),
        0
    );
}

#[test]
fn names_say_the_family() {
    let (mut world, kept) = world();
    let nlb = NLB.replace("$0", &kept[0]).replace("$1", &kept[1]);
    let net = world.elb("CreateLoadBalancer", &nlb);
    let arn = net.get("LoadBalancers.member.LoadBalancerArn");
    assert!(arn.starts_with("arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/net/one/"), "{arn}");
    let id = arn.rsplit('/').next().unwrap();
    let dns = net.get("LoadBalancers.member.DNSName");
    assert_eq!(dns, format!("one-{id}.elb.eu-central-1.amazonaws.com"));
    let alb = nlb.replace("=network", "=application").replace("=one", "=two");
    let arn = world.elb("CreateLoadBalancer", &alb).get("LoadBalancers.member.LoadBalancerArn");
    assert!(arn.contains(":loadbalancer/app/two/"), "{arn}");
}

#[test]
fn an_application_load_balancer_routes_by_rules() {
    let (mut world, kept) = world();
    let alb = NLB.replace("=network", "=application");
    let group = GROUP.replace("=TCP", "=HTTP");
    let https = format!(
        "LoadBalancerArn=$4&Protocol=HTTPS&Port=443&Certificates.member.1.CertificateArn={CERTIFICATE}&{FORWARD}"
    );
    let rule = "ListenerArn=$6&Priority=1&Conditions.member.1.Field=path-pattern&Conditions.member.1.Values.member.1=/app1*&\
                Actions.member.1.Type=forward&Actions.member.1.TargetGroupArn=$5";
    play(
        &mut world,
        kept,
        &[
            ("CreateLoadBalancer", &alb, "ok", "LoadBalancers.member.LoadBalancerArn"),
            ("CreateTargetGroup", &group, "ok", "TargetGroups.member.TargetGroupArn"),
            ("CreateListener", &https.replace("certificate/1", "certificate/2"), "CertificateNotFound", ""),
            ("CreateListener", &https, "ok", "Listeners.member.ListenerArn"),
            ("CreateRule", rule, "ok", "Rules.member.RuleArn"),
            ("CreateRule", rule, "PriorityInUse", ""),
            ("CreateRule", &rule.replace("path-pattern", "colour"), "ValidationError", ""),
            ("DescribeRules", "ListenerArn=$6", "ok", "Rules.member.Priority=1,default"),
            (
                "DescribeRules",
                "RuleArns.member.1=$7",
                "ok",
                "Rules.member.Conditions.member.PathPatternConfig.Values.member=/app1*",
            ),
            (
                "SetRulePriorities",
                "RulePriorities.member.1.RuleArn=$7&RulePriorities.member.1.Priority=7",
                "ok",
                "Rules.member.Priority=7",
            ),
            ("ModifyListener", "ListenerArn=$6&SslPolicy=none", "SSLPolicyNotFound", ""),
            (
                "ModifyListener",
                "ListenerArn=$6&DefaultActions.member.1.Type=fixed-response&DefaultActions.member.1.FixedResponseConfig.StatusCode=404",
                "ok",
                "",
            ),
            ("DeleteTargetGroup", "TargetGroupArn=$5", "ResourceInUse", ""),
            ("DeleteRule", "RuleArn=$7", "ok", ""),
            ("DeleteTargetGroup", "TargetGroupArn=$5", "ok", ""),
            (
                "RemoveListenerCertificates",
                &format!("ListenerArn=$6&Certificates.member.1.CertificateArn={CERTIFICATE}"),
                "OperationNotPermitted",
                "",
            ),
            ("SetSubnets", "LoadBalancerArn=$4&Subnets.member.1=$0", "ValidationError", ""),
            ("CreateLoadBalancer", &alb.replace("=one", "=-one"), "ValidationError", ""),
            (
                "CreateLoadBalancer",
                "Name=two&Subnets.member.1=$0&Subnets.member.2=$0",
                "InvalidConfigurationRequest",
                "",
            ),
            ("AddTags", "ResourceArns.member.1=$4&Tags.member.1.Key=owner&Tags.member.1.Value=t", "ok", ""),
            ("DescribeTags", "ResourceArns.member.1=$4", "ok", "TagDescriptions.member.Tags.member.Value=t"),
            ("RemoveTags", "ResourceArns.member.1=$4&TagKeys.member.1=owner", "ok", ""),
            ("DescribeTags", "ResourceArns.member.1=$4", "ok", "TagDescriptions.member.Tags.member.Value="),
            ("DescribeSSLPolicies", "PageSize=1", "ok", "SslPolicies.member.Name=ELBSecurityPolicy-2016-08"),
        ],
    );
}

#[test]
fn targets_fall_ill_and_get_well() {
    let (mut world, kept) = world();
    let fill = |form: &str, all: &[String]| {
        all.iter()
            .enumerate()
            .rev()
            .fold(form.to_owned(), |form, (index, value)| form.replace(&format!("${index}"), value))
    };
    let mut all = kept.clone();
    all.push(world.elb("CreateLoadBalancer", &fill(NLB, &all)).get("LoadBalancers.member.LoadBalancerArn"));
    all.push(world.elb("CreateTargetGroup", &fill(GROUP, &all)).get("TargetGroups.member.TargetGroupArn"));
    world.elb("CreateListener", &fill(&format!("LoadBalancerArn=$4&Protocol=TCP&Port=80&{FORWARD}"), &all));
    world.elb("RegisterTargets", &fill("TargetGroupArn=$5&Targets.member.1.Id=$3", &all));
    let health = |world: &mut World| {
        let reply = world.elb("DescribeTargetHealth", &fill("TargetGroupArn=$5", &all));
        let reason = reply.all(&format!("{HEALTH}.Reason"));
        format!("{} {}", reply.get(&format!("{HEALTH}.State")), reason.join(""))
    };
    let script = |world: &mut World, finding: Option<Finding>| {
        let region = world.account.regions.get_mut(REGION).unwrap();
        region.scripted_health.clear();
        region.scripted_health.extend(finding.map(|it| (kept[3].clone(), it)));
    };
    script(&mut world, Some(Finding::Timeout));
    world.wait(2_000);
    assert_eq!(health(&mut world), "initial Elb.InitialHealthChecking");
    world.wait(30_000);
    assert_eq!(health(&mut world), "unhealthy Target.Timeout");
    script(&mut world, None);
    world.wait(4 * 30_000);
    assert!(health(&mut world).starts_with("unhealthy"), "five good checks are needed");
    world.wait(30_000);
    assert_eq!(health(&mut world), "healthy ");
    world.ec2("StopInstances", &format!("InstanceId.1={}", kept[3]));
    assert_eq!(health(&mut world), "unused Target.InvalidState");
    world.ec2("TerminateInstances", &format!("InstanceId.1={}", kept[3]));
    assert_eq!(health(&mut world), "draining Target.DeregistrationInProgress");
}
