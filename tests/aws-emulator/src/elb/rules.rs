//! Rules of listeners; and what the service says of itself.

use super::listeners::{POLICIES, check_actions};
use super::model::{Actions, ListenerRule};
use super::{show, tags};
use crate::call::{Call, Outcome};
use crate::error::{AwsError, refuse};
use crate::filters::Filters;
use crate::form::Tree;
use crate::xml::{member_texts, members, text};

/// The most values of the conditions of one rule.
const MAX_VALUES: usize = 5;
/// Conditions that there are, and where their values stand.
const FIELDS: [(&str, &str); 6] = [
    ("host-header", "HostHeaderConfig"),
    ("path-pattern", "PathPatternConfig"),
    ("http-header", "HttpHeaderConfig"),
    ("query-string", "QueryStringConfig"),
    ("http-request-method", "HttpRequestMethodConfig"),
    ("source-ip", "SourceIpConfig"),
];

fn missing(arn: &str) -> AwsError {
    refuse("RuleNotFound", format!("One or more rules not found: {arn}"))
}

/// The conditions of a call; what is given in the short form gets the long one too, as answers have both.
fn conditions(form: &Tree) -> Result<Vec<Tree>, AwsError> {
    let mut all = Vec::new();
    let mut count = 0;
    for asked in form.items("Conditions") {
        let field = asked.text_or("Field", "");
        let Some((_, config)) = FIELDS.iter().find(|known| known.0 == field) else {
            let message = format!(
                "Condition field '{field}' must be one of '[path-pattern, host-header, http-header, http-request-method, query-string, source-ip]'"
            );
            return Err(refuse("ValidationError", message));
        };
        let long = format!("{config}.Values");
        let (short, given) = (asked.list("Values"), asked.items(&long).count());
        if short.is_empty() == (given == 0) {
            return Err(refuse("ValidationError", format!("A condition on '{field}' must have values, in one form")));
        }
        count += short.len() + given;
        let mut condition = asked.clone();
        for (number, value) in short.iter().enumerate() {
            condition.set(&format!("{long}.{}", number + 1), value);
        }
        if short.is_empty() && ["host-header", "path-pattern"].contains(&field) {
            for (number, value) in asked.list(&long).iter().enumerate() {
                condition.set(&format!("Values.{}", number + 1), value);
            }
        }
        all.push(condition);
    }
    if count > MAX_VALUES {
        return Err(refuse("ValidationError", format!("Rules cannot have more than {MAX_VALUES} condition values")));
    }
    Ok(all)
}

pub(super) fn create(call: &mut Call<'_>) -> Outcome {
    let tags = tags::given(call)?;
    let listener_arn = call.must("ListenerArn")?.to_owned();
    let listener = call.region.listeners.get(&listener_arn).ok_or_else(|| super::listeners::missing(&listener_arn))?;
    let balancer_arn = listener.balancer.clone();
    let balancer = call.region.balancers.get(&balancer_arn).ok_or_else(|| super::balancers::missing(&balancer_arn))?;
    if balancer.network {
        return Err(refuse("InvalidLoadBalancerAction", "Listeners of network load balancers have no rules"));
    }
    let conditions = conditions(call.form)?;
    if conditions.is_empty() {
        return Err(refuse("ValidationError", "A condition must be specified"));
    }
    let actions = Actions(call.form.items("Actions").cloned().collect());
    check_actions(call, &balancer_arn, balancer, &actions)?;
    let priority = call.form.small("Priority");
    let taken = |it: &ListenerRule| it.listener == listener_arn && it.priority == priority;
    if call.region.listener_rules.iter().any(|(_, it)| taken(it)) {
        return Err(refuse("PriorityInUse", format!("Priority '{}' is currently in use", priority.unwrap_or(0))));
    }
    let of_balancer = |it: &ListenerRule| {
        it.priority.is_some()
            && call.region.listeners.get(&it.listener).is_some_and(|listener| listener.balancer == balancer_arn)
    };
    if call.region.listener_rules.iter().filter(|(_, it)| of_balancer(it)).count()
        >= call.config.quotas.rules_per_balancer
    {
        return Err(refuse("TooManyRules", "The maximum number of rules has been reached"));
    }
    let arn = format!("{}/{}", listener_arn.replacen(":listener/", ":listener-rule/", 1), call.region.ids.hex(16));
    let groups: Vec<String> = actions.groups().into_iter().map(str::to_owned).collect();
    let rule = ListenerRule { listener: listener_arn, priority, conditions, actions, tags };
    let answer = show::rule(&arn, &rule);
    call.region.listener_rules.insert(&arn, rule, call.now);
    call.region.use_again(call.config, &groups, call.now);
    Ok(vec![members("Rules", [answer])])
}

pub(super) fn modify(call: &mut Call<'_>) -> Outcome {
    let arn = call.must("RuleArn")?.to_owned();
    let before = call.region.listener_rules.get(&arn).ok_or_else(|| missing(&arn))?.clone();
    if before.priority.is_none() {
        return Err(refuse("OperationNotPermitted", format!("Default rule '{arn}' cannot be modified")));
    }
    let mut rule = before.clone();
    if call.form.has("Conditions") {
        rule.conditions = conditions(call.form)?;
    }
    if call.form.has("Actions") {
        rule.actions = Actions(call.form.items("Actions").cloned().collect());
        let balancer_arn = call.region.listeners.get(&rule.listener).map(|it| it.balancer.clone()).unwrap_or_default();
        let balancer = call.region.balancers.get(&balancer_arn).ok_or_else(|| super::balancers::missing(&arn))?;
        check_actions(call, &balancer_arn, balancer, &rule.actions)?;
    }
    let mut groups: Vec<String> = before.actions.groups().into_iter().map(str::to_owned).collect();
    groups.extend(rule.actions.groups().into_iter().map(str::to_owned));
    call.region.listener_rules.edit(&arn, call.now).into_iter().for_each(|it| *it = rule.clone());
    call.region.use_again(call.config, &groups, call.now);
    Ok(vec![members("Rules", [show::rule(&arn, &rule)])])
}

pub(super) fn delete(call: &mut Call<'_>) -> Outcome {
    let arn = call.must("RuleArn")?.to_owned();
    let rule = call.region.listener_rules.get(&arn).ok_or_else(|| missing(&arn))?.clone();
    if rule.priority.is_none() {
        return Err(refuse("OperationNotPermitted", format!("Default rule '{arn}' cannot be deleted")));
    }
    call.region.listener_rules.remove(&arn, call.now);
    let groups: Vec<String> = rule.actions.groups().into_iter().map(str::to_owned).collect();
    call.region.use_again(call.config, &groups, call.now);
    Ok(vec![])
}

pub(super) fn set_priorities(call: &mut Call<'_>) -> Outcome {
    let asked: Vec<(String, Option<u32>)> = call
        .form
        .items("RulePriorities")
        .map(|it| (it.text_or("RuleArn", "").to_owned(), it.small("Priority")))
        .collect();
    for (arn, priority) in &asked {
        let rule = call.region.listener_rules.get(arn).ok_or_else(|| missing(arn))?;
        let moves = |other: &str| asked.iter().any(|(it, _)| it == other);
        let taken = call.region.listener_rules.iter().any(|(other, it)| {
            other != arn && it.listener == rule.listener && it.priority == *priority && !moves(other)
        });
        let twice = asked.iter().filter(|(_, it)| it == priority).count() > 1;
        if rule.priority.is_none() || taken || twice {
            let code = if rule.priority.is_none() { "OperationNotPermitted" } else { "PriorityInUse" };
            return Err(refuse(code, format!("Priority '{}' cannot be set", priority.unwrap_or(0))));
        }
    }
    let mut answer = Vec::new();
    for (arn, priority) in asked {
        if let Some(rule) = call.region.listener_rules.edit(&arn, call.now) {
            rule.priority = priority;
            answer.push(show::rule(&arn, rule));
        }
    }
    Ok(vec![members("Rules", answer)])
}

pub(super) fn describe(call: &mut Call<'_>) -> Outcome {
    let region = &*call.region;
    let listener = call.form.text("ListenerArn");
    if listener.is_some() == call.form.has("RuleArns") {
        return Err(refuse("ValidationError", "You must specify either rule ARNs or a listener ARN"));
    }
    if let Some(arn) = listener.filter(|arn| region.listeners.seen(arn, call.at).is_none()) {
        return Err(super::listeners::missing(arn));
    }
    let holds = |_: &Filters, _: &str, it: &ListenerRule| listener.is_none_or(|listener| it.listener == listener);
    let (mut found, token) = call.describe(&region.listener_rules, "RuleArns", missing, holds)?;
    found.sort_by_key(|(_, it)| it.priority.unwrap_or(u32::MAX));
    let mut answer = vec![members("Rules", found.into_iter().map(|(arn, it)| show::rule(arn, it)))];
    answer.extend(call.token(token));
    Ok(answer)
}

pub(super) fn describe_limits(call: &mut Call<'_>) -> Outcome {
    let quotas = &call.config.quotas;
    let all = [
        ("application-load-balancers", quotas.application_balancers),
        ("certificates-per-application-load-balancer", quotas.certificates_per_balancer),
        ("certificates-per-network-load-balancer", quotas.certificates_per_balancer),
        ("listeners-per-application-load-balancer", quotas.listeners_per_balancer),
        ("listeners-per-network-load-balancer", quotas.listeners_per_balancer),
        ("network-load-balancers", quotas.network_balancers),
        ("rules-per-application-load-balancer", quotas.rules_per_balancer),
        ("target-groups", quotas.target_groups),
        ("targets-per-application-load-balancer", quotas.targets_per_group),
        ("targets-per-network-load-balancer", quotas.targets_per_group),
    ];
    let after = call.cursor()?;
    let (page, token) = call.cut(all.into_iter().filter(|it| it.0 > after.as_str()), |it| it.0.to_owned());
    let limits = page.into_iter().map(|(name, most)| vec![text("Name", name), text("Max", most.to_string())]);
    let mut answer = vec![members("Limits", limits)];
    answer.extend(call.token(token));
    Ok(answer)
}

pub(super) fn describe_policies(call: &mut Call<'_>) -> Outcome {
    let names = call.form.list("Names");
    if let Some(bad) = names.iter().find(|name| !POLICIES.iter().any(|it| it.0 == **name)) {
        return Err(refuse("SSLPolicyNotFound", format!("SSL policy '{bad}' not found")));
    }
    let after = call.cursor()?;
    let all = POLICIES.into_iter().filter(|it| (names.is_empty() || names.contains(&it.0)) && it.0 > after.as_str());
    let (page, token) = call.cut(all, |it| it.0.to_owned());
    let policies = page
        .into_iter()
        .map(|(name, protocols)| vec![text("Name", name), member_texts("SslProtocols", protocols.iter().copied())]);
    let mut answer = vec![members("SslPolicies", policies)];
    answer.extend(call.token(token));
    Ok(answer)
}
