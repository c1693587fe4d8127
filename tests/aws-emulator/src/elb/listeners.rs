//! Listeners and their certificates.

use super::model::{Actions, Balancer, Listener, ListenerRule};
use super::{attributes, show, tags};
use crate::call::{Call, Outcome};
use crate::config::Config;
use crate::error::{AwsError, refuse};
use crate::filters::Filters;
use crate::form::Tree;
use crate::region::Region;
use crate::xml::{members, show as shown, text};
use jiff::Timestamp;
use std::collections::BTreeSet;

/// Policies of TLS that there are.
pub(super) const POLICIES: [(&str, &[&str]); 4] = [
    ("ELBSecurityPolicy-2016-08", &["TLSv1", "TLSv1.1", "TLSv1.2"]),
    ("ELBSecurityPolicy-TLS-1-2-2017-01", &["TLSv1.2"]),
    ("ELBSecurityPolicy-TLS13-1-2-2021-06", &["TLSv1.2", "TLSv1.3"]),
    ("ELBSecurityPolicy-TLS13-1-3-2021-06", &["TLSv1.3"]),
];

pub(super) fn missing(arn: &str) -> AwsError {
    refuse("ListenerNotFound", format!("One or more listeners not found: {arn}"))
}

fn existing(call: &Call<'_>) -> Result<(String, Listener), AwsError> {
    let arn = call.must("ListenerArn")?;
    let found = call.region.listeners.seen(arn, call.at).ok_or_else(|| missing(arn))?;
    Ok((arn.to_owned(), found.clone()))
}

pub(super) fn create(call: &mut Call<'_>) -> Outcome {
    let tags = tags::given(call)?;
    let balancer_arn = call.must("LoadBalancerArn")?.to_owned();
    let balancer = call.region.balancers.get(&balancer_arn).ok_or_else(|| super::balancers::missing(&balancer_arn))?;
    let needed = |name: &str| {
        call.form.text(name).ok_or_else(|| refuse("ValidationError", format!("A {name} must be specified")))
    };
    let (protocol, port) = (needed("Protocol")?.to_owned(), needed("Port")?.parse().unwrap_or(0));
    let listener = Listener {
        balancer: balancer_arn.clone(),
        port,
        policy: call.form.text("SslPolicy").map(str::to_owned),
        certificates: certificates(call)?,
        alpn: call.form.list("AlpnPolicy").into_iter().map(str::to_owned).collect(),
        actions: Actions(call.form.items("DefaultActions").cloned().collect()),
        attributes: attributes::initial(&attributes::rows_of_listener(&protocol)),
        tags,
        protocol,
    };
    let listener = check(call, balancer, listener)?;
    if let Some((there, it)) = clash(call.region, &listener, None) {
        if it.protocol == listener.protocol
            && it.actions == listener.actions
            && it.certificates == listener.certificates
        {
            return Ok(vec![members("Listeners", [show::listener(there, it)])]);
        }
        let message = format!("A listener already exists on this port for this load balancer '{balancer_arn}'");
        return Err(refuse("DuplicateListener", message));
    }
    if call.region.listeners.iter().filter(|(_, it)| it.balancer == balancer_arn).count()
        >= call.config.quotas.listeners_per_balancer
    {
        return Err(refuse("TooManyListeners", "The maximum number of listeners has been reached"));
    }
    let arn = format!("{}/{}", balancer_arn.replacen(":loadbalancer/", ":listener/", 1), call.region.ids.hex(16));
    let groups: Vec<String> = listener.actions.groups().into_iter().map(str::to_owned).collect();
    let default = ListenerRule {
        listener: arn.clone(),
        priority: None,
        conditions: Vec::new(),
        actions: listener.actions.clone(),
        tags: listener.tags.clone(),
    };
    let rule = format!("{}/{}", arn.replacen(":listener/", ":listener-rule/", 1), call.region.ids.hex(16));
    let answer = show::listener(&arn, &listener);
    call.region.listeners.insert(&arn, listener, call.now);
    call.region.listener_rules.insert(&rule, default, call.now);
    call.region.use_again(call.config, &groups, call.now);
    Ok(vec![members("Listeners", [answer])])
}

/// The listener that has the same port; UDP and TCP are apart, TCP_UDP is both.
fn clash<'a>(region: &'a Region, new: &Listener, own: Option<&str>) -> Option<(&'a str, &'a Listener)> {
    let sides = |protocol: &str| match protocol {
        "UDP" => [false, true],
        "TCP_UDP" => [true, true],
        _ => [true, false],
    };
    let both = |a: &str, b: &str| sides(a).iter().zip(sides(b)).any(|(a, b)| *a && b);
    region.listeners.iter().find(|(arn, it)| {
        Some(*arn) != own && it.balancer == new.balancer && it.port == new.port && both(&it.protocol, &new.protocol)
    })
}

fn certificates(call: &Call<'_>) -> Result<Vec<String>, AwsError> {
    let given: Vec<&str> = call.form.items("Certificates").filter_map(|it| it.text("CertificateArn")).collect();
    match given.iter().find(|arn| !call.config.certificates.contains_key(**arn)) {
        Some(bad) => Err(refuse("CertificateNotFound", format!("Certificate '{bad}' not found"))),
        None => Ok(given.into_iter().map(str::to_owned).collect()),
    }
}

/// Holds a listener to its load balancer's kind, and fills in what a TLS listener has when nothing is said.
fn check(call: &Call<'_>, balancer: &Balancer, mut listener: Listener) -> Result<Listener, AwsError> {
    let allowed: &[&str] = if balancer.network { &["TCP", "TLS", "UDP", "TCP_UDP"] } else { &["HTTP", "HTTPS"] };
    if !allowed.contains(&listener.protocol.as_str()) {
        let message = format!("Listener protocol '{}' must be one of '{}'", listener.protocol, allowed.join(", "));
        return Err(refuse("ValidationError", message));
    }
    let secure = ["TLS", "HTTPS"].contains(&listener.protocol.as_str());
    if secure && listener.certificates.is_empty() {
        let message = format!("A certificate must be specified for {} listeners", listener.protocol);
        return Err(refuse("ValidationError", message));
    }
    if !secure && (!listener.certificates.is_empty() || listener.policy.is_some()) {
        let message = format!("Certificates and policies cannot be specified for {} listeners", listener.protocol);
        return Err(refuse("ValidationError", message));
    }
    if !listener.alpn.is_empty() && listener.protocol != "TLS" {
        return Err(refuse("ALPNPolicyNotSupported", "ALPN policies are for TLS listeners only"));
    }
    if secure {
        let policy = listener.policy.get_or_insert_with(|| POLICIES[0].0.to_owned());
        if !POLICIES.iter().any(|known| known.0 == policy) {
            return Err(refuse("SSLPolicyNotFound", format!("SSL policy '{policy}' not found")));
        }
    }
    check_actions(call, &listener.balancer, balancer, &listener.actions)?;
    Ok(listener)
}

/// Holds actions to their load balancer and the groups that they lead to.
pub(super) fn check_actions(
    call: &Call<'_>,
    arn: &str,
    balancer: &Balancer,
    actions: &Actions,
) -> Result<(), AwsError> {
    let last = actions.0.last().and_then(|it| it.text("Type"));
    if !matches!(last, Some("forward" | "redirect" | "fixed-response")) {
        return Err(refuse("ValidationError", "The last action must be of type forward, redirect or fixed-response"));
    }
    let balancer_protocols: &[&str] =
        if balancer.network { &["TCP", "TLS", "UDP", "TCP_UDP"] } else { &["HTTP", "HTTPS"] };
    if balancer.network && (actions.0.len() != 1 || last != Some("forward")) {
        return Err(refuse("InvalidLoadBalancerAction", "Network load balancers only support forward actions"));
    }
    if actions.0.iter().any(|it| it.text("Type") == Some("forward") && Actions(vec![it.clone()]).groups().is_empty()) {
        return Err(refuse("ValidationError", "A forward action must name a target group"));
    }
    for group_arn in actions.groups() {
        let group = call.region.target_groups.get(group_arn).ok_or_else(|| super::groups::missing(group_arn))?;
        if !balancer_protocols.contains(&group.protocol.as_str()) {
            let message = format!("Target group '{group_arn}' has a protocol that the load balancer does not support");
            return Err(refuse("IncompatibleProtocols", message));
        }
        if group.vpc != balancer.vpc {
            let message = format!("Target group '{group_arn}' is not in the load balancer's VPC");
            return Err(refuse("InvalidConfigurationRequest", message));
        }
        if call.region.users_of(group_arn).iter().any(|other| *other != arn) {
            let message = format!(
                "The following target groups cannot be associated with more than one load balancer: {group_arn}"
            );
            return Err(refuse("TargetGroupAssociationLimit", message));
        }
    }
    let rules =
        call.region.listener_rules.iter().filter(|(_, rule)| {
            call.region.listeners.get(&rule.listener).is_some_and(|listener| listener.balancer == arn)
        });
    let mut all: BTreeSet<&str> = rules.flat_map(|(_, rule)| rule.actions.groups()).collect();
    all.extend(actions.groups());
    if all.len() > call.config.quotas.target_groups_per_balancer {
        let code = "TooManyUniqueTargetGroupsPerLoadBalancer";
        return Err(refuse(code, "The maximum number of unique target groups of the load balancer has been reached"));
    }
    Ok(())
}

pub(super) fn modify(call: &mut Call<'_>) -> Outcome {
    let (arn, before) = existing(call)?;
    let form: &Tree = call.form;
    let mut listener = before.clone();
    if let Some(protocol) = form.text("Protocol").filter(|it| *it != before.protocol) {
        protocol.clone_into(&mut listener.protocol);
        listener.attributes = attributes::initial(&attributes::rows_of_listener(protocol));
        if !["TLS", "HTTPS"].contains(&protocol) {
            listener.certificates.clear();
            listener.policy = None;
        }
    }
    listener.port = form.small("Port").unwrap_or(listener.port);
    listener.policy = form.text("SslPolicy").map(str::to_owned).or(listener.policy);
    if form.has("Certificates") {
        let default = certificates(call)?;
        listener.certificates = default.into_iter().chain(before.certificates.iter().skip(1).cloned()).collect();
    }
    if form.has("DefaultActions") {
        listener.actions = Actions(form.items("DefaultActions").cloned().collect());
    }
    if form.has("AlpnPolicy") {
        listener.alpn = form.list("AlpnPolicy").into_iter().filter(|it| *it != "None").map(str::to_owned).collect();
    }
    let balancer = call.region.balancers.get(&listener.balancer).ok_or_else(|| super::balancers::missing(&arn))?;
    let listener = check(call, balancer, listener)?;
    if clash(call.region, &listener, Some(&arn)).is_some() {
        return Err(refuse("DuplicateListener", "A listener already exists on this port for this load balancer"));
    }
    let mut groups: Vec<String> = before.actions.groups().into_iter().map(str::to_owned).collect();
    groups.extend(listener.actions.groups().into_iter().map(str::to_owned));
    let answer = show::listener(&arn, &listener);
    let rule = call.region.listener_rules.iter().find(|(_, it)| it.listener == arn && it.priority.is_none());
    if let Some(rule) = rule.map(|(rule, _)| rule.to_owned()) {
        let actions = listener.actions.clone();
        call.region.listener_rules.edit(&rule, call.now).into_iter().for_each(|it| it.actions = actions.clone());
    }
    call.region.listeners.edit(&arn, call.now).into_iter().for_each(|it| *it = listener.clone());
    call.region.use_again(call.config, &groups, call.now);
    Ok(vec![members("Listeners", [answer])])
}

pub(super) fn delete(call: &mut Call<'_>) -> Outcome {
    let arn = call.must("ListenerArn")?.to_owned();
    call.region.listeners.get(&arn).ok_or_else(|| missing(&arn))?;
    call.region.drop_listener(call.config, &arn, call.now);
    Ok(vec![])
}

pub(super) fn describe(call: &mut Call<'_>) -> Outcome {
    let region = &*call.region;
    let balancer = call.form.text("LoadBalancerArn");
    if balancer.is_some() == call.form.has("ListenerArns") {
        return Err(refuse("ValidationError", "You must specify either listener ARNs or a load balancer ARN"));
    }
    if let Some(arn) = balancer.filter(|arn| region.balancers.seen(arn, call.at).is_none()) {
        return Err(super::balancers::missing(arn));
    }
    let holds = |_: &Filters, _: &str, it: &Listener| balancer.is_none_or(|balancer| it.balancer == balancer);
    let (found, token) = call.describe(&region.listeners, "ListenerArns", missing, holds)?;
    let mut answer = vec![members("Listeners", found.into_iter().map(|(arn, it)| show::listener(arn, it)))];
    answer.extend(call.token(token));
    Ok(answer)
}

pub(super) fn describe_attributes(call: &mut Call<'_>) -> Outcome {
    Ok(vec![show::attributes(&existing(call)?.1.attributes)])
}

pub(super) fn modify_attributes(call: &mut Call<'_>) -> Outcome {
    let (arn, listener) = existing(call)?;
    let mut all = listener.attributes;
    attributes::change(call.form, &attributes::rows_of_listener(&listener.protocol), &mut all)?;
    call.region.listeners.edit(&arn, call.now).into_iter().for_each(|it| it.attributes.clone_from(&all));
    Ok(vec![show::attributes(&all)])
}

pub(super) fn add_certificates(call: &mut Call<'_>) -> Outcome {
    let ((arn, listener), given) = (existing(call)?, certificates(call)?);
    if listener.certificates.is_empty() {
        return Err(refuse("OperationNotPermitted", "The listener has no default certificate"));
    }
    let mut all = listener.certificates;
    all.extend(given.iter().filter(|it| !listener_has(&all, it)).cloned().collect::<Vec<_>>());
    if all.len() > call.config.quotas.certificates_per_balancer + 1 {
        return Err(refuse("TooManyCertificates", "The maximum number of certificates has been reached"));
    }
    call.region.listeners.edit(&arn, call.now).into_iter().for_each(|it| it.certificates.clone_from(&all));
    Ok(vec![members("Certificates", given.iter().map(|it| certificate(it, false)))])
}

fn listener_has(all: &[String], wanted: &str) -> bool {
    all.iter().any(|it| it == wanted)
}

fn certificate(arn: &str, default: bool) -> Vec<crate::xml::Node> {
    vec![text("CertificateArn", arn), shown("IsDefault", default)]
}

pub(super) fn remove_certificates(call: &mut Call<'_>) -> Outcome {
    let (arn, listener) = existing(call)?;
    let gone: Vec<String> =
        call.form.items("Certificates").filter_map(|it| it.text("CertificateArn")).map(str::to_owned).collect();
    if listener.certificates.first().is_some_and(|default| gone.contains(default)) {
        return Err(refuse("OperationNotPermitted", "The default certificate of a listener cannot be removed"));
    }
    call.region.listeners.edit(&arn, call.now).into_iter().for_each(|it| it.certificates.retain(|c| !gone.contains(c)));
    Ok(vec![])
}

pub(super) fn describe_certificates(call: &mut Call<'_>) -> Outcome {
    let (_, listener) = existing(call)?;
    let after = call.cursor()?;
    let default = listener.certificates.first().cloned();
    let mut all = listener.certificates;
    all.sort();
    let (page, token) = call.cut(all.into_iter().filter(|it| *it > after), Clone::clone);
    let mut answer = vec![members("Certificates", page.iter().map(|it| certificate(it, Some(it) == default.as_ref())))];
    answer.extend(call.token(token));
    Ok(answer)
}

impl Region {
    /// A listener goes with its rules.
    pub(crate) fn drop_listener(&mut self, config: &Config, arn: &str, now: Timestamp) {
        let rules: Vec<(String, Vec<String>)> = self
            .listener_rules
            .iter()
            .filter(|(_, it)| it.listener == arn)
            .map(|(rule, it)| (rule.to_owned(), it.actions.groups().into_iter().map(str::to_owned).collect()))
            .collect();
        self.listeners.remove(arn, now);
        for (rule, groups) in rules {
            self.listener_rules.remove(&rule, now);
            self.use_again(config, &groups, now);
        }
    }
}
