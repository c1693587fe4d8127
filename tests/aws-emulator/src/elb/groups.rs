//! Target groups.

use super::balancers::check_name;
use super::model::{Check, TargetGroup};
use super::{arn, attributes, show, tags};
use crate::call::{Call, Outcome};
use crate::error::{AwsError, refuse};
use crate::filters::Filters;
use crate::form::Tree;
use crate::health::is_matcher;
use crate::ids::Kind;
use crate::xml::members;
use std::collections::BTreeMap;

pub(super) fn missing(arn: &str) -> AwsError {
    refuse("TargetGroupNotFound", format!("Target groups '{arn}' not found"))
}

pub(super) fn create(call: &mut Call<'_>) -> Outcome {
    let tags = tags::given(call)?;
    let name = call.must("Name")?.to_owned();
    check_name(&name)?;
    let needed = |name: &str| {
        let message = format!("A {name} must be specified");
        call.form.text(name).ok_or_else(|| refuse("ValidationError", message))
    };
    let (protocol, vpc) = (needed("Protocol")?.to_owned(), needed("VpcId")?.to_owned());
    let port = needed("Port")?.parse().unwrap_or(0);
    call.region.vpcs.get(&vpc).ok_or_else(|| refuse("ValidationError", Kind::Vpc.missing(&vpc).message))?;
    let by_ip = call.form.text("TargetType") == Some("ip");
    let http = protocol.starts_with("HTTP");
    if call.form.has("ProtocolVersion") && !http {
        return Err(refuse("ValidationError", "A protocol version can only be specified for HTTP and HTTPS"));
    }
    let group = TargetGroup {
        version: http.then(|| call.form.text_or("ProtocolVersion", "HTTP1").to_owned()),
        check: check(call.form, default_check(http), http)?,
        attributes: attributes::of_group(&protocol, by_ip),
        ipv6: call.form.text("IpAddressType") == Some("ipv6"),
        targets: BTreeMap::new(),
        name,
        protocol,
        port,
        vpc,
        by_ip,
        tags,
    };
    if let Some((there, it)) = call.region.target_groups.iter().find(|(_, it)| it.name == group.name) {
        let alike = it.protocol == group.protocol
            && it.port == group.port
            && it.vpc == group.vpc
            && it.by_ip == group.by_ip
            && it.check == group.check
            && it.tags == group.tags;
        if !alike {
            let message =
                format!("A target group with the same name '{}' exists, but with different settings", group.name);
            return Err(refuse("DuplicateTargetGroupName", message));
        }
        return Ok(vec![members("TargetGroups", [show::target_group(call.region, there, it)])]);
    }
    if call.region.target_groups.len() >= call.config.quotas.target_groups {
        return Err(refuse("TooManyTargetGroups", "The maximum number of target groups has been reached"));
    }
    let id = call.region.ids.hex(16);
    let arn = arn(call.region, &format!("targetgroup/{}/{id}", group.name));
    let answer = show::target_group(call.region, &arn, &group);
    call.region.target_groups.insert(&arn, group, call.now);
    Ok(vec![members("TargetGroups", [answer])])
}

fn default_check(http: bool) -> Check {
    Check {
        enabled: true,
        protocol: if http { "HTTP" } else { "TCP" }.to_owned(),
        port: "traffic-port".to_owned(),
        path: http.then(|| "/".to_owned()),
        interval: 30,
        timeout: if http { 5 } else { 10 },
        healthy: 5,
        unhealthy: 2,
        matcher: http.then(|| ("HttpCode", "200".to_owned())),
    }
}

/// The check that a call asks for, over what there is.
fn check(form: &Tree, mut check: Check, http_group: bool) -> Result<Check, AwsError> {
    let wrong = |message: String| Err(refuse("ValidationError", message));
    if let Some(protocol) = form.text("HealthCheckProtocol") {
        if http_group && protocol == "TCP" {
            return wrong("Health check protocol 'TCP' is not supported for this target group".to_owned());
        }
        protocol.clone_into(&mut check.protocol);
        if protocol != "TCP" {
            check.path.get_or_insert_with(|| "/".to_owned());
            check.matcher.get_or_insert_with(|| ("HttpCode", "200-399".to_owned()));
        }
    }
    if check.protocol == "TCP" && (form.has("HealthCheckPath") || form.has("Matcher")) {
        return wrong("Path and matcher are not supported for health checks over TCP".to_owned());
    }
    if let Some(port) = form.text("HealthCheckPort") {
        if port != "traffic-port" && !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return wrong(format!(
                "Health check port '{port}' must be either 'traffic-port' or in the range '1 - 65535'"
            ));
        }
        port.clone_into(&mut check.port);
    }
    if let Some(path) = form.text("HealthCheckPath") {
        if !path.starts_with('/') {
            return wrong(format!("Health check path '{path}' must begin with '/'"));
        }
        check.path = Some(path.to_owned());
    }
    if let Some(codes) = form.text("Matcher.HttpCode") {
        let most = if http_group { 499 } else { 599 };
        if !is_matcher(codes, 200, most) {
            return wrong(format!("Health check matcher HTTP code '{codes}' must be within '200-{most}'"));
        }
        check.matcher = Some(("HttpCode", codes.to_owned()));
    }
    if let Some(codes) = form.text("Matcher.GrpcCode") {
        if !is_matcher(codes, 0, 99) {
            return wrong(format!("Health check matcher GRPC code '{codes}' must be within '0-99'"));
        }
        check.matcher = Some(("GrpcCode", codes.to_owned()));
    }
    check.enabled = form.flag("HealthCheckEnabled").unwrap_or(check.enabled);
    check.interval = form.small("HealthCheckIntervalSeconds").unwrap_or(check.interval);
    check.timeout = form.small("HealthCheckTimeoutSeconds").unwrap_or(check.timeout);
    check.healthy = form.small("HealthyThresholdCount").unwrap_or(check.healthy);
    check.unhealthy = form.small("UnhealthyThresholdCount").unwrap_or(check.unhealthy);
    if http_group && check.timeout >= check.interval {
        return wrong(format!(
            "Health check timeout '{}' must be smaller than the interval '{}'",
            check.timeout, check.interval
        ));
    }
    Ok(check)
}

pub(super) fn modify(call: &mut Call<'_>) -> Outcome {
    let arn = call.must("TargetGroupArn")?.to_owned();
    let group = call.region.target_groups.get(&arn).ok_or_else(|| missing(&arn))?;
    let check = check(call.form, group.check.clone(), group.protocol.starts_with("HTTP"))?;
    call.region.target_groups.edit(&arn, call.now).into_iter().for_each(|it| it.check = check.clone());
    let group = call.region.target_groups.get(&arn).ok_or_else(|| missing(&arn))?;
    Ok(vec![members("TargetGroups", [show::target_group(call.region, &arn, group)])])
}

pub(super) fn delete(call: &mut Call<'_>) -> Outcome {
    let arn = call.must("TargetGroupArn")?.to_owned();
    if call.region.target_groups.get(&arn).is_none() {
        // One that is gone is as good as deleted.
        return Ok(vec![]);
    }
    if !call.region.users_of(&arn).is_empty() {
        let message = format!("Target group '{arn}' is currently in use by a listener or a rule");
        return Err(refuse("ResourceInUse", message));
    }
    call.region.target_groups.remove(&arn, call.now);
    Ok(vec![])
}

pub(super) fn describe(call: &mut Call<'_>) -> Outcome {
    let region = &*call.region;
    let (names, balancer) = (call.form.list("Names"), call.form.text("LoadBalancerArn"));
    if let Some(bad) = names.iter().find(|name| !region.target_groups.all(call.at).any(|(_, it)| it.name == **name)) {
        return Err(refuse("TargetGroupNotFound", format!("One or more target groups not found: {bad}")));
    }
    if let Some(arn) = balancer.filter(|arn| region.balancers.seen(arn, call.at).is_none()) {
        return Err(super::balancers::missing(arn));
    }
    let holds = |_: &Filters, arn: &str, it: &TargetGroup| {
        (names.is_empty() || names.contains(&it.name.as_str()))
            && balancer.is_none_or(|balancer| region.users_of(arn).contains(balancer))
    };
    let (found, token) = call.describe(&region.target_groups, "TargetGroupArns", missing, holds)?;
    let mut answer =
        vec![members("TargetGroups", found.into_iter().map(|(arn, it)| show::target_group(region, arn, it)))];
    answer.extend(call.token(token));
    Ok(answer)
}

pub(super) fn describe_attributes(call: &mut Call<'_>) -> Outcome {
    let arn = call.must("TargetGroupArn")?;
    let group = call.region.target_groups.seen(arn, call.at).ok_or_else(|| missing(arn))?;
    Ok(vec![show::attributes(&group.attributes)])
}

pub(super) fn modify_attributes(call: &mut Call<'_>) -> Outcome {
    let arn = call.must("TargetGroupArn")?.to_owned();
    let group = call.region.target_groups.get(&arn).ok_or_else(|| missing(&arn))?;
    let mut all = group.attributes.clone();
    attributes::change(call.form, &attributes::rows_of_group(&group.protocol), &mut all)?;
    call.region.target_groups.edit(&arn, call.now).into_iter().for_each(|it| it.attributes.clone_from(&all));
    Ok(vec![show::attributes(&all)])
}
