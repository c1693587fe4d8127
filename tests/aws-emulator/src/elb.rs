//! Elastic Load Balancing, version 2. Each module owns one kind of resource; the state itself is `Region`.

mod attributes;
mod balancers;
mod groups;
mod life;
mod listeners;
mod model;
mod rules;
mod show;
mod tags;
mod targets;
#[cfg(test)]
mod tests;

use crate::call::Handler;
use crate::ec2::Tags;
use crate::region::Region;
pub(crate) use model::{Balancer, Listener, ListenerRule, TargetGroup};

/// An ARN of the service.
pub(crate) fn arn(region: &Region, resource: &str) -> String {
    format!("arn:aws:elasticloadbalancing:{}:{}:{resource}", region.name, region.account)
}

impl Region {
    /// The tags of a load balancer, group, listener or rule.
    pub(crate) fn elb_tags(&self, arn: &str) -> Option<&Tags> {
        let resource = arn.splitn(6, ':').nth(5)?;
        match resource.split('/').next()? {
            "loadbalancer" => self.balancers.get(arn).map(|it| &it.tags),
            "targetgroup" => self.target_groups.get(arn).map(|it| &it.tags),
            "listener" => self.listeners.get(arn).map(|it| &it.tags),
            "listener-rule" => self.listener_rules.get(arn).map(|it| &it.tags),
            _ => None,
        }
    }
}

/// What answers each action.
pub(crate) const HANDLERS: &[(&str, Handler)] = &[
    ("CreateLoadBalancer", balancers::create),
    ("DeleteLoadBalancer", balancers::delete),
    ("DescribeLoadBalancers", balancers::describe),
    ("DescribeLoadBalancerAttributes", balancers::describe_attributes),
    ("ModifyLoadBalancerAttributes", balancers::modify_attributes),
    ("SetSubnets", balancers::set_subnets),
    ("SetSecurityGroups", balancers::set_groups),
    ("SetIpAddressType", balancers::set_address_type),
    ("CreateTargetGroup", groups::create),
    ("ModifyTargetGroup", groups::modify),
    ("DeleteTargetGroup", groups::delete),
    ("DescribeTargetGroups", groups::describe),
    ("DescribeTargetGroupAttributes", groups::describe_attributes),
    ("ModifyTargetGroupAttributes", groups::modify_attributes),
    ("RegisterTargets", targets::register),
    ("DeregisterTargets", targets::deregister),
    ("DescribeTargetHealth", targets::describe_health),
    ("CreateListener", listeners::create),
    ("ModifyListener", listeners::modify),
    ("DeleteListener", listeners::delete),
    ("DescribeListeners", listeners::describe),
    ("DescribeListenerAttributes", listeners::describe_attributes),
    ("ModifyListenerAttributes", listeners::modify_attributes),
    ("AddListenerCertificates", listeners::add_certificates),
    ("RemoveListenerCertificates", listeners::remove_certificates),
    ("DescribeListenerCertificates", listeners::describe_certificates),
    ("CreateRule", rules::create),
    ("ModifyRule", rules::modify),
    ("DeleteRule", rules::delete),
    ("SetRulePriorities", rules::set_priorities),
    ("DescribeRules", rules::describe),
    ("AddTags", tags::add),
    ("RemoveTags", tags::remove),
    ("DescribeTags", tags::describe),
    ("DescribeAccountLimits", rules::describe_limits),
    ("DescribeSSLPolicies", rules::describe_policies),
];
