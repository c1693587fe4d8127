//! Load balancers, groups, listeners and rules as elements of answers.

use super::model::{Actions, Balancer, Check, Listener, ListenerRule, Target, TargetGroup, TargetState};
use crate::ec2::{InstanceState, moment};
use crate::form::Tree;
use crate::health::Finding;
use crate::region::Region;
use crate::xml::{Node, group, member_texts, members, show, text};
use std::collections::BTreeMap;

pub(super) fn balancer(region: &Region, arn: &str, it: &Balancer) -> Vec<Node> {
    let zone = |(zone, place): (&String, &super::model::Place)| {
        let mut addresses = Vec::new();
        if let Some(allocation) = &place.allocation {
            let ip = region.addresses.get(allocation).map(|it| it.address.to_string()).unwrap_or_default();
            addresses.push(vec![text("IpAddress", ip), text("AllocationId", allocation)]);
        }
        vec![text("ZoneName", zone), text("SubnetId", &place.subnet), members("LoadBalancerAddresses", addresses)]
    };
    let mut nodes = vec![
        text("LoadBalancerArn", arn),
        text("DNSName", &it.dns),
        text("CanonicalHostedZoneId", if it.network { "Z3F0SRJ5LGBH90" } else { "Z215JYRZR1TBD5" }),
        text("CreatedTime", moment(it.created)),
        text("LoadBalancerName", &it.name),
        text("Scheme", if it.internal { "internal" } else { "internet-facing" }),
        text("VpcId", &it.vpc),
        group("State", vec![text("Code", if it.active { "active" } else { "provisioning" })]),
        text("Type", if it.network { "network" } else { "application" }),
        members("AvailabilityZones", it.places.iter().map(zone)),
        text("IpAddressType", if it.dualstack { "dualstack" } else { "ipv4" }),
    ];
    if !it.groups.is_empty() {
        nodes.push(member_texts("SecurityGroups", it.groups.iter().cloned()));
    }
    nodes
}

pub(super) fn target_group(region: &Region, arn: &str, it: &TargetGroup) -> Vec<Node> {
    let mut nodes = vec![
        text("TargetGroupArn", arn),
        text("TargetGroupName", &it.name),
        text("Protocol", &it.protocol),
        show("Port", it.port),
        text("VpcId", &it.vpc),
        text("TargetType", if it.by_ip { "ip" } else { "instance" }),
        text("IpAddressType", if it.ipv6 { "ipv6" } else { "ipv4" }),
        member_texts("LoadBalancerArns", region.users_of(arn)),
    ];
    nodes.extend(check(&it.check));
    nodes.extend(it.version.as_ref().map(|version| text("ProtocolVersion", version)));
    nodes
}

fn check(it: &Check) -> Vec<Node> {
    let mut nodes = vec![
        text("HealthCheckProtocol", &it.protocol),
        text("HealthCheckPort", &it.port),
        show("HealthCheckEnabled", it.enabled),
        show("HealthCheckIntervalSeconds", it.interval),
        show("HealthCheckTimeoutSeconds", it.timeout),
        show("HealthyThresholdCount", it.healthy),
        show("UnhealthyThresholdCount", it.unhealthy),
    ];
    nodes.extend(it.path.as_ref().map(|path| text("HealthCheckPath", path)));
    nodes.extend(it.matcher.as_ref().map(|(kind, codes)| group("Matcher", vec![text(kind, codes)])));
    nodes
}

/// The health of a target in its group.
pub(super) fn health(region: &Region, it: &TargetGroup, target: &Target) -> Vec<Node> {
    let instance = (!it.by_ip).then(|| region.instances.get(&target.id)).flatten();
    let down = !it.by_ip && instance.is_none_or(|it| it.state != InstanceState::Running);
    let (state, reason) = match target.state {
        TargetState::Draining => ("draining", Some("Target.DeregistrationInProgress")),
        TargetState::Unused => ("unused", Some("Target.NotInUse")),
        _ if down => ("unused", Some("Target.InvalidState")),
        TargetState::Registering => ("initial", Some("Elb.RegistrationInProgress")),
        TargetState::Checking => ("initial", Some("Elb.InitialHealthChecking")),
        TargetState::Healthy => ("healthy", None),
        TargetState::Unhealthy => (
            "unhealthy",
            Some(match target.last {
                Some(Finding::Timeout) => "Target.Timeout",
                Some(Finding::Status(_)) => "Target.ResponseCodeMismatch",
                _ => "Target.FailedHealthChecks",
            }),
        ),
    };
    let mut facts = vec![text("State", state)];
    if let Some(reason) = reason {
        facts.push(text("Reason", reason));
        facts.push(text("Description", description(reason, target)));
    }
    vec![described(target), text("HealthCheckPort", check_port(it, target)), group("TargetHealth", facts)]
}

fn check_port(it: &TargetGroup, target: &Target) -> String {
    if it.check.port == "traffic-port" { target.port.to_string() } else { it.check.port.clone() }
}

fn described(target: &Target) -> Node {
    let mut nodes = vec![text("Id", &target.id), show("Port", target.port)];
    nodes.extend(target.zone.as_ref().map(|zone| text("AvailabilityZone", zone)));
    group("Target", nodes)
}

fn description(reason: &str, target: &Target) -> String {
    match (reason, target.last) {
        ("Target.ResponseCodeMismatch", Some(Finding::Status(code))) => {
            format!("Health checks failed with these codes: [{code}]")
        }
        ("Target.DeregistrationInProgress", _) => "Target deregistration is in progress".to_owned(),
        ("Target.NotInUse", _) => "Target group is not configured to receive traffic from the load balancer".to_owned(),
        ("Target.InvalidState", _) => "Target is in the stopped state".to_owned(),
        ("Elb.RegistrationInProgress", _) => "Target registration is in progress".to_owned(),
        ("Elb.InitialHealthChecking", _) => "Initial health checks in progress".to_owned(),
        ("Target.Timeout", _) => "Request timed out".to_owned(),
        _ => "Health checks failed".to_owned(),
    }
}

/// A target that is not registered.
pub(super) fn not_registered(id: &str, port: u16) -> Vec<Node> {
    let facts = vec![
        text("State", "unused"),
        text("Reason", "Target.NotRegistered"),
        text("Description", "Target is not registered to the target group"),
    ];
    vec![
        group("Target", vec![text("Id", id), show("Port", port)]),
        text("HealthCheckPort", port.to_string()),
        group("TargetHealth", facts),
    ]
}

pub(super) fn listener(arn: &str, it: &Listener) -> Vec<Node> {
    let mut nodes = vec![
        text("ListenerArn", arn),
        text("LoadBalancerArn", &it.balancer),
        show("Port", it.port),
        text("Protocol", &it.protocol),
        actions("DefaultActions", &it.actions),
    ];
    if let Some(first) = it.certificates.first() {
        nodes.push(members("Certificates", [vec![text("CertificateArn", first)]]));
    }
    nodes.extend(it.policy.as_ref().map(|policy| text("SslPolicy", policy)));
    if !it.alpn.is_empty() {
        nodes.push(member_texts("AlpnPolicy", it.alpn.iter().cloned()));
    }
    nodes
}

pub(super) fn rule(arn: &str, it: &ListenerRule) -> Vec<Node> {
    vec![
        text("RuleArn", arn),
        text("Priority", it.priority.map_or("default".to_owned(), |priority| priority.to_string())),
        members("Conditions", it.conditions.iter().map(tree)),
        actions("Actions", &it.actions),
        show("IsDefault", it.priority.is_none()),
    ]
}

/// Actions, each in both forms where it forwards to a single group.
fn actions(name: &'static str, it: &Actions) -> Node {
    let count = it.0.len();
    let one = |(position, action): (usize, &Tree)| {
        let mut shown = action.clone();
        let groups: Vec<&str> =
            action.items("ForwardConfig.TargetGroups").filter_map(|it| it.text("TargetGroupArn")).collect();
        if let (Some(arn), true) = (action.text("TargetGroupArn"), groups.is_empty()) {
            shown.set("ForwardConfig.TargetGroups.1.TargetGroupArn", arn);
            shown.set("ForwardConfig.TargetGroups.1.Weight", "1");
            shown.set("ForwardConfig.TargetGroupStickinessConfig.Enabled", "false");
        } else if let ([only], None) = (groups.as_slice(), action.text("TargetGroupArn")) {
            shown.set("TargetGroupArn", only);
        }
        if count > 1 && !action.has("Order") {
            shown.set("Order", &(position + 1).to_string());
        }
        tree(&shown)
    };
    members(name, it.0.iter().enumerate().map(one))
}

/// What was asked for, as elements of the same names.
fn tree(it: &Tree) -> Vec<Node> {
    it.named().map(|(name, below)| element(name.to_owned(), below)).collect()
}

fn element(name: String, it: &Tree) -> Node {
    if let Some(value) = it.own() {
        return Node::Text(name.into(), value.to_owned());
    }
    let mut all: Vec<Node> = it.numbered().map(|item| element("member".to_owned(), item)).collect();
    all.extend(tree(it));
    Node::Group(name.into(), all)
}

/// Attributes as a list.
pub(super) fn attributes(all: &BTreeMap<String, String>) -> Node {
    members("Attributes", all.iter().map(|(key, value)| vec![text("Key", key), text("Value", value)]))
}
