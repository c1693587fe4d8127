//! Security groups.

use super::model::{Group, GroupRule, Peer, RuleKey};
use super::vpcs::all_out;
use super::{show, tags};
use crate::call::{Call, Outcome};
use crate::config::Config;
use crate::error::{AwsError, refuse};
use crate::filters::{maybe, one};
use crate::ids::Kind;
use crate::region::Region;
use crate::xml::{Node, done, items, show as shown, text};
use std::collections::BTreeMap;

pub(super) fn create(call: &mut Call<'_>) -> Outcome {
    let tags = tags::of(call, Kind::Group)?;
    let (name, description) = (call.must("GroupName")?.to_owned(), call.must("GroupDescription")?.to_owned());
    if name.starts_with("sg-") || name == "default" {
        let message = format!("Value ({name}) for parameter GroupName is invalid.");
        return Err(refuse("InvalidParameterValue", message));
    }
    let default = || call.region.vpcs.iter().find(|(_, vpc)| vpc.is_default).map(|(id, _)| id.to_owned());
    let vpc = call.form.text("VpcId").map(str::to_owned).or_else(default);
    let vpc = vpc.ok_or_else(|| refuse("VPCIdNotSpecified", "No default VPC for this user"))?;
    call.region.vpcs.get(&vpc).ok_or_else(|| Kind::Vpc.missing(&vpc))?;
    if call.region.groups.iter().any(|(_, it)| it.vpc == vpc && it.name == name) {
        let message = format!("The security group '{name}' already exists for VPC '{vpc}'");
        return Err(refuse("InvalidGroup.Duplicate", message));
    }
    if call.region.groups.len() >= call.config.quotas.groups_per_region {
        return Err(refuse("SecurityGroupLimitExceeded", "The maximum number of security groups has been reached."));
    }
    let id = call.region.id(Kind::Group);
    let rules = BTreeMap::from([(all_out(), call.region.new_rule())]);
    let arn = text("securityGroupArn", call.region.ec2_arn(Kind::Group, &id));
    let answer = vec![text("groupId", &id), show::tags(&tags), arn];
    call.region.groups.insert(&id, Group { name, description, vpc, rules, tags }, call.now);
    Ok(answer)
}

pub(super) fn delete(call: &mut Call<'_>) -> Outcome {
    let id = call.must("GroupId")?.to_owned();
    let region = &mut *call.region;
    let group = region.groups.get(&id).ok_or_else(|| Kind::Group.missing(&id))?;
    if group.name == "default" {
        return Err(refuse("CannotDelete", "the specified group: \"default\" name cannot be deleted by a user"));
    }
    let used = region.interfaces.iter().any(|(_, it)| it.groups.contains(&id));
    let peer = Peer::Group(id.clone());
    let referenced = region.groups.iter().any(|(other, it)| other != id && it.rules.keys().any(|key| key.peer == peer));
    if used || referenced {
        return Err(refuse("DependencyViolation", format!("resource {id} has a dependent object")));
    }
    region.groups.remove(&id, call.now);
    let mut answer = done();
    answer.push(text("groupId", id));
    Ok(answer)
}

pub(super) fn describe(call: &mut Call<'_>) -> Outcome {
    let region = &*call.region;
    let names = call.form.list("GroupName");
    if let Some(missing) = names.iter().find(|name| !region.groups.all(call.at).any(|(_, it)| it.name == **name)) {
        return Err(refuse("InvalidGroup.NotFound", format!("The security group '{missing}' does not exist")));
    }
    let missing = |id: &str| Kind::Group.missing(id);
    let (found, token) = call.describe(&region.groups, "GroupId", missing, |filters, id, it| {
        let named = names.is_empty() || names.contains(&it.name.as_str());
        let ingress = || it.rules.keys().filter(|key| !key.egress);
        named
            && filters.hold(&it.tags, |name| match name {
                "group-id" => one(id),
                "group-name" => one(&it.name),
                "description" => one(&it.description),
                "vpc-id" => one(&it.vpc),
                "owner-id" => one(&region.account),
                "ip-permission.cidr" => ingress().filter_map(|key| key.cidr4()).collect(),
                "ip-permission.from-port" => ingress().flat_map(|key| maybe(key.from)).collect(),
                "ip-permission.to-port" => ingress().flat_map(|key| maybe(key.to)).collect(),
                "ip-permission.protocol" => ingress().map(|key| key.protocol.clone()).collect(),
                "ip-permission.group-id" => ingress().filter_map(|key| key.group()).collect(),
                _ => Vec::new(),
            })
    })?;
    let mut answer = vec![items("securityGroupInfo", found.into_iter().map(|(id, it)| nodes(region, id, it)))];
    answer.extend(call.token(token));
    Ok(answer)
}

fn nodes(region: &Region, id: &str, it: &Group) -> Vec<Node> {
    vec![
        text("groupId", id),
        text("groupName", &it.name),
        text("groupDescription", &it.description),
        text("ownerId", &region.account),
        text("vpcId", &it.vpc),
        text("securityGroupArn", region.ec2_arn(Kind::Group, id)),
        items("ipPermissions", permissions(region, it, false)),
        items("ipPermissionsEgress", permissions(region, it, true)),
        show::tags(&it.tags),
    ]
}

/// Protocol and range of ports.
type Ports<'a> = (&'a str, Option<i32>, Option<i32>);

/// Rules as permissions: those of one protocol and range of ports together.
fn permissions(region: &Region, it: &Group, egress: bool) -> Vec<Vec<Node>> {
    let mut all: BTreeMap<Ports<'_>, Vec<(&RuleKey, &GroupRule)>> = BTreeMap::new();
    for (key, rule) in it.rules.iter().filter(|(key, _)| key.egress == egress) {
        all.entry((&key.protocol, key.from, key.to)).or_default().push((key, rule));
    }
    let described = |mut nodes: Vec<Node>, rule: &GroupRule| {
        nodes.extend(rule.description.as_ref().map(|it| text("description", it)));
        nodes
    };
    all.into_iter()
        .map(|((protocol, from, to), rules)| {
            let pick = |choose: &dyn Fn(&Peer) -> Option<Vec<Node>>| -> Vec<Vec<Node>> {
                rules.iter().filter_map(|(key, rule)| choose(&key.peer).map(|nodes| described(nodes, rule))).collect()
            };
            let groups = pick(&|peer| match peer {
                Peer::Group(group) => Some(vec![text("groupId", group), text("userId", &region.account)]),
                _ => None,
            });
            let v4 = pick(&|peer| match peer {
                Peer::Ipv4(net) => Some(vec![shown("cidrIp", net)]),
                _ => None,
            });
            let v6 = pick(&|peer| match peer {
                Peer::Ipv6(net) => Some(vec![shown("cidrIpv6", net)]),
                _ => None,
            });
            let mut nodes = vec![text("ipProtocol", protocol)];
            nodes.extend(from.map(|port| shown("fromPort", port)));
            nodes.extend(to.map(|port| shown("toPort", port)));
            nodes.extend([
                items("groups", groups),
                items("ipRanges", v4),
                items("ipv6Ranges", v6),
                items("prefixListIds", []),
            ]);
            nodes
        })
        .collect()
}

impl RuleKey {
    pub(super) fn cidr4(&self) -> Option<String> {
        if let Peer::Ipv4(net) = &self.peer { Some(net.to_string()) } else { None }
    }

    pub(super) fn group(&self) -> Option<String> {
        if let Peer::Group(id) = &self.peer { Some(id.clone()) } else { None }
    }
}

impl Region {
    /// The security groups that an interface in `vpc` gets: the given ones, which must exist there, else the default.
    pub(crate) fn groups_for_interface(
        &self,
        given: &[&str],
        vpc: &str,
        config: &Config,
    ) -> Result<Vec<String>, AwsError> {
        if given.is_empty() {
            let default = self.groups.iter().find(|(_, it)| it.vpc == vpc && it.name == "default");
            return Ok(default.map(|(id, _)| vec![id.to_owned()]).unwrap_or_default());
        }
        if given.len() > config.quotas.groups_per_interface {
            let message = "The maximum number of security groups per interface has been reached.";
            return Err(refuse("SecurityGroupsPerInterfaceLimitExceeded", message));
        }
        for id in given {
            let group = self.groups.get(id).ok_or_else(|| Kind::Group.missing(id))?;
            if group.vpc != vpc {
                let message =
                    format!("You have specified two resources that belong to different networks: {id} and {vpc}.");
                return Err(refuse("InvalidParameter", message));
            }
        }
        Ok(given.iter().map(|id| (*id).to_owned()).collect())
    }

    /// A rule by its identifier: its group, what it is about, the rule.
    pub(crate) fn group_rule(&self, id: &str) -> Option<(&str, &RuleKey, &GroupRule)> {
        self.groups.iter().find_map(|(group, it)| {
            it.rules.iter().find(|(_, rule)| rule.id == id).map(|(key, rule)| (group, key, rule))
        })
    }

    pub(crate) fn edit_group_rule_tags(&mut self, id: &str, now: jiff::Timestamp) -> Option<&mut super::model::Tags> {
        let group = self.group_rule(id)?.0.to_owned();
        let rules = &mut self.groups.edit(&group, now)?.rules;
        rules.values_mut().find(|rule| rule.id == id).map(|rule| &mut rule.tags)
    }
}
