//! Rules of security groups: authorised, revoked, listed; duplicates and limits.

use super::model::{GroupRule, Peer, RuleKey, Tags};
use super::{show, tags};
use crate::call::{Call, Outcome};
use crate::error::{AwsError, bad_value, refuse};
use crate::filters::Filters;
use crate::filters::one;
use crate::form::Tree;
use crate::ids::Kind;
use crate::xml::{Node, done, group, items, show as shown, text};

/// A rule as a call asks for it.
type Asked = (RuleKey, Option<String>);

pub(super) fn authorize_ingress(call: &mut Call<'_>) -> Outcome {
    authorize(call, false)
}

pub(super) fn authorize_egress(call: &mut Call<'_>) -> Outcome {
    authorize(call, true)
}

pub(super) fn revoke_ingress(call: &mut Call<'_>) -> Outcome {
    revoke(call, false)
}

pub(super) fn revoke_egress(call: &mut Call<'_>) -> Outcome {
    revoke(call, true)
}

fn authorize(call: &mut Call<'_>, egress: bool) -> Outcome {
    let tags = tags::of(call, Kind::GroupRule)?;
    let id = call.must("GroupId")?.to_owned();
    let vpc = call.region.groups.get(&id).ok_or_else(|| Kind::Group.missing(&id))?.vpc.clone();
    let asked = asked(call, egress)?;
    if asked.is_empty() {
        return Err(refuse("MissingParameter", "The request must contain the parameter ipPermissions"));
    }
    for peer in asked.iter().filter_map(|(key, _)| key.group()) {
        let other = call.region.groups.get(&peer).ok_or_else(|| Kind::Group.missing(&peer))?;
        if other.vpc != vpc {
            return Err(refuse(
                "InvalidGroup.NotFound",
                format!("You have specified two resources that belong to different networks: {peer}"),
            ));
        }
    }
    let group = call.region.groups.get(&id).ok_or_else(|| Kind::Group.missing(&id))?;
    if let Some((key, _)) = asked.iter().find(|(key, _)| group.rules.contains_key(key)) {
        let ports =
            key.from.zip(key.to).map_or("ALL".to_owned(), |(from, to)| format!("from port: {from}, to port: {to}"));
        let message = format!(
            "the specified rule \"peer: {}, {}, {ports}, ALLOW\" already exists",
            key.peer_text(),
            key.protocol.to_uppercase()
        );
        return Err(refuse("InvalidPermission.Duplicate", message));
    }
    let most = call.config.quotas.rules_per_group;
    let is_v6 = |key: &RuleKey| matches!(key.peer, Peer::Ipv6(_));
    for six in [false, true] {
        let has = group.rules.keys().filter(|key| key.egress == egress && is_v6(key) == six).count();
        let more = asked.iter().filter(|(key, _)| is_v6(key) == six).count();
        if more > 0 && has + more > most {
            let message = "The maximum number of rules per security group has been reached.";
            return Err(refuse("RulesPerSecurityGroupLimitExceeded", message));
        }
    }
    let mut made = Vec::new();
    for (key, description) in asked {
        let rule = GroupRule { id: call.region.id(Kind::GroupRule), description, tags: tags.clone() };
        made.push((key, rule));
    }
    let mut answer = done();
    let account = call.region.account.clone();
    answer.push(items("securityGroupRuleSet", made.iter().map(|(key, rule)| nodes(&account, &id, key, rule))));
    if let Some(group) = call.region.groups.edit(&id, call.now) {
        group.rules.extend(made);
    }
    Ok(answer)
}

fn revoke(call: &mut Call<'_>, egress: bool) -> Outcome {
    let id = call.must("GroupId")?.to_owned();
    let by_id: Vec<String> = call.form.list("SecurityGroupRuleId").into_iter().map(str::to_owned).collect();
    let asked = asked(call, egress)?;
    let group = call.region.groups.get(&id).ok_or_else(|| Kind::Group.missing(&id))?;
    if by_id.is_empty() && asked.is_empty() {
        return Err(refuse("MissingParameter", "The request must contain the parameter ipPermissions"));
    }
    let mut keys = Vec::new();
    for rule in &by_id {
        let found = group.rules.iter().find(|(key, it)| it.id == *rule && key.egress == egress);
        keys.push(found.map(|(key, _)| key.clone()).ok_or_else(|| Kind::GroupRule.missing(rule))?);
    }
    for (key, _) in asked {
        if !group.rules.contains_key(&key) {
            let message = "The specified rule does not exist in this security group.";
            return Err(refuse("InvalidPermission.NotFound", message));
        }
        keys.push(key);
    }
    if let Some(group) = call.region.groups.edit(&id, call.now) {
        keys.iter().for_each(|key| drop(group.rules.remove(key)));
    }
    Ok(done())
}

/// The rules that a call's permissions ask for.
fn asked(call: &Call<'_>, egress: bool) -> Result<Vec<Asked>, AwsError> {
    let mut all: Vec<Asked> = Vec::new();
    for permission in call.form.items("IpPermissions") {
        let (protocol, from, to) = ports(permission)?;
        let note = |it: &Tree| it.text("Description").map(str::to_owned);
        let mut peers = Vec::new();
        for range in permission.items("IpRanges") {
            peers.push((Peer::Ipv4(net(range.text_or("CidrIp", ""))?), note(range)));
        }
        for range in permission.items("Ipv6Ranges") {
            peers.push((Peer::Ipv6(net(range.text_or("CidrIpv6", ""))?), note(range)));
        }
        for peer in permission.items("Groups") {
            peers.push((Peer::Group(peer.text_or("GroupId", "").to_owned()), note(peer)));
        }
        if peers.is_empty() {
            return Err(refuse("InvalidParameterValue", "A permission names no source or destination"));
        }
        for (peer, description) in peers {
            let key = RuleKey { egress, protocol: protocol.clone(), from, to, peer };
            if all.iter().any(|(there, _)| *there == key) {
                return Err(refuse("InvalidParameterValue", "The same permission must not appear multiple times"));
            }
            all.push((key, description));
        }
    }
    Ok(all)
}

/// A range as AWS takes it: with no bits set behind the prefix.
fn net<N: std::str::FromStr + PartialEq + Copy + Trunc>(text: &str) -> Result<N, AwsError> {
    let net: N = text.parse().map_err(|_| bad_value(text, "cidrIp"))?;
    if net.truncated() != net {
        return Err(refuse("InvalidParameterValue", format!("CIDR block {text} is malformed")));
    }
    Ok(net)
}

trait Trunc {
    fn truncated(self) -> Self;
}

impl Trunc for ipnet::Ipv4Net {
    fn truncated(self) -> Self {
        self.trunc()
    }
}

impl Trunc for ipnet::Ipv6Net {
    fn truncated(self) -> Self {
        self.trunc()
    }
}

fn ports(permission: &Tree) -> Result<(String, Option<i32>, Option<i32>), AwsError> {
    let given = permission.text_or("IpProtocol", "").to_lowercase();
    let protocol = match given.as_str() {
        "6" => "tcp",
        "17" => "udp",
        "1" => "icmp",
        "58" => "icmpv6",
        "all" => "-1",
        other => other,
    }
    .to_owned();
    let named = ["-1", "tcp", "udp", "icmp", "icmpv6"].contains(&protocol.as_str());
    if !named && protocol.parse::<u8>().is_err() {
        return Err(refuse(
            "InvalidParameterValue",
            format!("Invalid value '{given}' for IP protocol. Unknown protocol."),
        ));
    }
    let (from, to): (Option<i32>, Option<i32>) = (permission.small("FromPort"), permission.small("ToPort"));
    match protocol.as_str() {
        "tcp" | "udp" => {
            let both = from.zip(to).filter(|(from, to)| *from >= 0 && from <= to);
            match both {
                Some((from, to)) => Ok((protocol, Some(from), Some(to))),
                None => Err(refuse(
                    "InvalidParameterValue",
                    "Invalid value for portRange. Must specify both from and to ports with TCP/UDP.",
                )),
            }
        }
        "icmp" | "icmpv6" => Ok((protocol, from.or(Some(-1)), to.or(Some(-1)))),
        // All protocols, or one by number: ports are not looked at.
        _ => Ok((protocol, None, None)),
    }
}

impl RuleKey {
    fn peer_text(&self) -> String {
        match &self.peer {
            Peer::Ipv4(net) => net.to_string(),
            Peer::Ipv6(net) => net.to_string(),
            Peer::Group(id) => id.clone(),
        }
    }
}

fn nodes(account: &str, of: &str, key: &RuleKey, rule: &GroupRule) -> Vec<Node> {
    let mut nodes = vec![
        text("securityGroupRuleId", &rule.id),
        text("groupId", of),
        text("groupOwnerId", account),
        shown("isEgress", key.egress),
        text("ipProtocol", &key.protocol),
        shown("fromPort", key.from.unwrap_or(-1)),
        shown("toPort", key.to.unwrap_or(-1)),
        show::tags(&rule.tags),
    ];
    nodes.push(match &key.peer {
        Peer::Ipv4(net) => shown("cidrIpv4", net),
        Peer::Ipv6(net) => shown("cidrIpv6", net),
        Peer::Group(id) => group("referencedGroupInfo", vec![text("groupId", id), text("userId", account)]),
    });
    nodes.extend(rule.description.as_ref().map(|it| text("description", it)));
    nodes
}

pub(super) fn describe(call: &mut Call<'_>) -> Outcome {
    let filters = Filters::of(call.form);
    let wanted = call.form.list("SecurityGroupRuleId");
    let after = call.cursor()?;
    let none = Tags::new();
    let mut all: Vec<(&str, &str, &RuleKey, &GroupRule)> = Vec::new();
    let only = filters.exact("group-id");
    let groups: Vec<_> = match &only {
        Some(ids) => ids.iter().filter_map(|id| call.region.groups.seen_entry(id, call.at)).collect(),
        None => call.region.groups.all(call.at).collect(),
    };
    for (id, it) in groups {
        for (key, rule) in &it.rules {
            call.looked_at.set(call.looked_at.get() + 1);
            let field = |name: &str| match name {
                "group-id" => one(id),
                "security-group-rule-id" => one(&rule.id),
                _ => Vec::new(),
            };
            let named = wanted.is_empty() || wanted.contains(&rule.id.as_str());
            let tags = if rule.tags.is_empty() { &none } else { &rule.tags };
            if named && rule.id > after && filters.hold(tags, field) {
                all.push((&rule.id, id, key, rule));
            }
        }
    }
    if let Some(missing) = wanted.iter().find(|id| !all.iter().any(|it| it.0 == **id)) {
        return Err(Kind::GroupRule.missing(missing));
    }
    all.sort_by_key(|it| it.0);
    let (page, token) = call.cut(all.into_iter(), |it| it.0.to_owned());
    let account = &call.region.account;
    let rules = page.into_iter().map(|(_, id, key, rule)| nodes(account, id, key, rule));
    let mut answer = vec![items("securityGroupRuleSet", rules)];
    answer.extend(call.token(token));
    Ok(answer)
}
