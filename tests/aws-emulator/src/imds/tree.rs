//! The tree of metadata: names and what stands there.

use super::whole_seconds;
use crate::ec2::{Instance, Interface};
use crate::region::Region;
use jiff::Timestamp;

/// Names at the top; those with a slash have names below.
const TOP: &str = "ami-id\nami-launch-index\nblock-device-mapping/\nevents/\nhostname\niam/\ninstance-action\n\
                   instance-id\ninstance-life-cycle\ninstance-type\nlocal-hostname\nlocal-ipv4\nmac\nnetwork/\nplacement/\n\
                   public-hostname\npublic-ipv4\nreservation-id\nsecurity-groups\nservices/\ntags/";

/// What stands at `name`.
pub(super) fn lookup(
    region: &Region,
    id: &str,
    it: &Instance,
    role: Option<&str>,
    name: &str,
    now: Timestamp,
) -> Option<String> {
    let primary = it.interfaces.get(&0).and_then(|eni| region.interfaces.get(eni));
    let trimmed = name.trim_end_matches('/');
    if let Some(rest) = trimmed.strip_prefix("network/interfaces/macs") {
        return interfaces(region, it, rest.trim_start_matches('/'));
    }
    if let Some(rest) = trimmed.strip_prefix("tags/instance") {
        return tags(it, rest.trim_start_matches('/'));
    }
    Some(match trimmed {
        "" => TOP.to_owned(),
        "ami-id" => it.image.clone(),
        "ami-launch-index" => it.launch_index.to_string(),
        "block-device-mapping" => "ami\nroot".to_owned(),
        "block-device-mapping/ami" | "block-device-mapping/root" => it.root_device.clone(),
        "events" => "maintenance/\nrecommendations/".to_owned(),
        "events/maintenance/scheduled" => scheduled(it),
        "events/recommendations/rebalance" => {
            let at = it.spot.as_ref()?.rebalance?;
            serde_json::json!({"noticeTime": whole_seconds(at)}).to_string()
        }
        "hostname" | "local-hostname" => region.private_name(id, it),
        "iam" => role.map(|_| "info\nsecurity-credentials/".to_owned())?,
        "iam/info" => {
            let arn = it.profile.as_ref().filter(|_| role.is_some())?;
            let updated = whole_seconds(now);
            serde_json::json!({"Code": "Success", "LastUpdated": updated, "InstanceProfileArn": arn}).to_string()
        }
        "iam/security-credentials" => role?.to_owned(),
        "instance-action" => "none".to_owned(),
        "instance-id" => id.to_owned(),
        "instance-life-cycle" => if it.spot.is_some() { "spot" } else { "on-demand" }.to_owned(),
        "instance-type" => it.kind.clone(),
        "local-ipv4" => it.private_address.to_string(),
        "ipv6" => primary?.ipv6.first()?.to_string(),
        "mac" => primary?.mac.clone(),
        "placement" => "availability-zone\navailability-zone-id\nregion".to_owned(),
        "placement/availability-zone" => it.zone.clone(),
        "placement/availability-zone-id" => region.zone_id(&it.zone),
        "placement/region" => region.name.clone(),
        "public-hostname" => region.public_name(region.public_of(it)?),
        "public-ipv4" => region.public_of(it)?.to_string(),
        "reservation-id" => it.reservation.clone(),
        "security-groups" => names_of_groups(region, primary?),
        "services" => "domain\npartition".to_owned(),
        "services/domain" => "amazonaws.com".to_owned(),
        "services/partition" => "aws".to_owned(),
        "spot/instance-action" => {
            let ends = it.spot.as_ref()?.ends?;
            serde_json::json!({"action": "terminate", "time": whole_seconds(ends)}).to_string()
        }
        "spot/termination-time" => whole_seconds(it.spot.as_ref()?.ends?),
        _ => return None,
    })
}

fn names_of_groups(region: &Region, interface: &Interface) -> String {
    let names = interface.groups.iter().filter_map(|id| region.groups.get(id)).map(|group| group.name.clone());
    names.collect::<Vec<_>>().join("\n")
}

fn scheduled(it: &Instance) -> String {
    let one = |event: &crate::ec2::ScheduledEvent| {
        serde_json::json!({
            "Code": event.code,
            "Description": event.description,
            "EventId": event.id,
            "NotBefore": event.not_before.strftime("%-d %b %Y %H:%M:%S GMT").to_string(),
            "State": "active",
        })
    };
    serde_json::Value::Array(it.events.iter().map(one).collect()).to_string()
}

fn tags(it: &Instance, key: &str) -> Option<String> {
    if !it.metadata.tags {
        return None;
    }
    if key.is_empty() {
        return Some(it.tags.keys().cloned().collect::<Vec<_>>().join("\n"));
    }
    it.tags.get(key).cloned()
}

fn interfaces(region: &Region, it: &Instance, rest: &str) -> Option<String> {
    let (mac, name) = rest.split_once('/').unwrap_or((rest, ""));
    if mac.is_empty() {
        let all: Vec<String> = region.interfaces_of(it).map(|(_, eni)| format!("{}/", eni.mac)).collect();
        return Some(all.join("\n"));
    }
    let (id, eni) = region.interfaces_of(it).find(|(_, eni)| eni.mac == mac)?;
    let lines = |all: Vec<String>| all.join("\n");
    let subnet = region.subnets.get(&eni.subnet)?;
    let vpc = region.vpcs.get(&eni.vpc)?;
    Some(match name {
        "" => "device-number\ninterface-id\nipv6s\nlocal-hostname\nlocal-ipv4s\nmac\nowner-id\nsecurity-group-ids\n\
               subnet-id\nsubnet-ipv4-cidr-block\nvpc-id\nvpc-ipv4-cidr-block"
            .to_owned(),
        "device-number" => eni.attachment.as_ref()?.index.to_string(),
        "interface-id" => id.to_owned(),
        "ipv6s" if !eni.ipv6.is_empty() => lines(eni.ipv6.iter().map(ToString::to_string).collect()),
        "local-hostname" => region.name_of_address(*eni.ipv4.first()?),
        "local-ipv4s" => lines(eni.ipv4.iter().map(ToString::to_string).collect()),
        "mac" => eni.mac.clone(),
        "owner-id" => region.account.clone(),
        "security-group-ids" => lines(eni.groups.clone()),
        "subnet-id" => eni.subnet.clone(),
        "subnet-ipv4-cidr-block" => subnet.cidr.to_string(),
        "subnet-ipv6-cidr-blocks" => subnet.cidr6?.to_string(),
        "vpc-id" => eni.vpc.clone(),
        "vpc-ipv4-cidr-block" => vpc.cidr.to_string(),
        _ => return None,
    })
}
