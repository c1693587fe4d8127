//! Targets of groups: registered, deregistered, their health.

use super::groups::missing;
use super::model::{Target, TargetGroup, TargetState};
use super::show;
use crate::call::{Call, Outcome};
use crate::ec2::InstanceState;
use crate::error::{AwsError, refuse};
use crate::form::Tree;
use crate::xml::members;

fn group(call: &Call<'_>) -> Result<(String, TargetGroup), AwsError> {
    let arn = call.must("TargetGroupArn")?;
    let found = call.region.target_groups.seen(arn, call.at).ok_or_else(|| missing(arn))?;
    Ok((arn.to_owned(), found.clone()))
}

fn named(form: &Tree, group: &TargetGroup) -> Vec<(String, u16, Option<String>)> {
    form.items("Targets")
        .map(|it| {
            let zone = it.text("AvailabilityZone").map(str::to_owned);
            (it.text_or("Id", "").to_owned(), it.small("Port").unwrap_or(group.port), zone)
        })
        .collect()
}

pub(super) fn register(call: &mut Call<'_>) -> Outcome {
    let (arn, group) = group(call)?;
    let wanted = named(call.form, &group);
    if wanted.is_empty() {
        return Err(refuse("ValidationError", "At least one target must be specified"));
    }
    for (id, _, zone) in &wanted {
        check(call, &group, id, zone.as_deref())?;
    }
    let key = |id: &str, port: u16| format!("{id}:{port}");
    let more = wanted.iter().filter(|(id, port, _)| !group.targets.contains_key(&key(id, *port))).count();
    if group.targets.len() + more > call.config.quotas.targets_per_group {
        return Err(refuse("TooManyTargets", "The maximum number of targets of the target group has been reached"));
    }
    let used = !call.region.users_of(&arn).is_empty();
    for (id, port, zone) in wanted {
        let key = key(&id, port);
        let there = group.targets.get(&key);
        if there.is_some_and(|it| it.state != TargetState::Draining) {
            continue;
        }
        let zone =
            zone.or_else(|| if group.by_ip { None } else { call.region.instances.get(&id).map(|it| it.zone.clone()) });
        let zone = zone.filter(|_| group.by_ip);
        let target = Target { id, port, zone, state: TargetState::Unused, moves: None, row: 0, last: None };
        if let Some(group) = call.region.target_groups.edit(&arn, call.now) {
            group.targets.insert(key.clone(), target);
        }
        call.region.begin_target(call.config, &arn, &key, used, call.now);
    }
    Ok(vec![])
}

/// Whether something can be a target of the group.
fn check(call: &Call<'_>, group: &TargetGroup, id: &str, zone: Option<&str>) -> Result<(), AwsError> {
    let bad = |why: String| Err(refuse("InvalidTarget", format!("The following targets are not valid: '{id}' {why}")));
    if !group.by_ip {
        return match call.region.instances.get(id) {
            None => bad("does not exist".to_owned()),
            Some(it) if it.vpc != group.vpc => bad("is in another VPC".to_owned()),
            Some(it) if it.state != InstanceState::Running => bad("is not in the running state".to_owned()),
            Some(_) => Ok(()),
        };
    }
    let Ok(address) = id.parse::<std::net::IpAddr>() else {
        return Err(refuse("ValidationError", format!("The IP address '{id}' is not a valid address")));
    };
    let vpc = call.region.vpcs.get(&group.vpc);
    let inside = vpc.is_some_and(|vpc| match address {
        std::net::IpAddr::V4(ip) => vpc.cidr.contains(&ip),
        std::net::IpAddr::V6(ip) => vpc.cidr6.is_some_and(|net| net.contains(&ip)),
    });
    if address.is_ipv6() != group.ipv6 {
        return Err(refuse("ValidationError", format!("'{id}' is not of the target group's address type")));
    }
    match (inside, zone) {
        (true, None | Some(_)) => Ok(()),
        (false, Some("all")) if is_private(address) => Ok(()),
        (false, Some("all")) => bad("is not in an allowed range".to_owned()),
        (false, _) => bad("is not within the VPC: its Availability Zone must be 'all'".to_owned()),
    }
}

/// Ranges that targets outside the VPC may be in.
fn is_private(address: std::net::IpAddr) -> bool {
    let std::net::IpAddr::V4(ip) = address else { return false };
    let shared = ip.octets()[0] == 100 && (64..128).contains(&ip.octets()[1]);
    ip.is_private() || shared
}

pub(super) fn deregister(call: &mut Call<'_>) -> Outcome {
    let (arn, group) = group(call)?;
    if call.form.items("Targets").next().is_none() {
        return Err(refuse("ValidationError", "At least one target must be specified"));
    }
    for asked in call.form.items("Targets") {
        let (id, port) = (asked.text_or("Id", ""), asked.small::<u16>("Port"));
        // Without a port, all of its ports leave.
        let fits = |it: &Target| it.id == id && port.is_none_or(|port| port == it.port);
        let keys: Vec<&String> = group.targets.iter().filter(|(_, it)| fits(it)).map(|(key, _)| key).collect();
        if keys.is_empty() && !group.by_ip && call.region.instances.get(id).is_none() {
            return Err(refuse("InvalidTarget", format!("The following targets are not valid: '{id}'")));
        }
        keys.into_iter().for_each(|key| call.region.drain(&arn, key, call.now));
    }
    Ok(vec![])
}

pub(super) fn describe_health(call: &mut Call<'_>) -> Outcome {
    let (_, group) = group(call)?;
    let asked = named(call.form, &group);
    let region = &*call.region;
    call.looked_at.set(group.targets.len() as u64);
    let all: Vec<_> = if asked.is_empty() {
        group.targets.values().map(|target| show::health(region, &group, target)).collect()
    } else {
        let one = |(id, port, _): &(String, u16, Option<String>)| match group.targets.get(&format!("{id}:{port}")) {
            Some(target) => show::health(region, &group, target),
            None => show::not_registered(id, *port),
        };
        asked.iter().map(one).collect()
    };
    Ok(vec![members("TargetHealthDescriptions", all)])
}
