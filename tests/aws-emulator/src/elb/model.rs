//! What ELB keeps: plain values.

use crate::ec2::Tags;
use crate::form::Tree;
use crate::health::Finding;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Where a load balancer stands in one zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) subnet: String,
    pub(crate) interface: String,
    pub(crate) allocation: Option<String>,
}

/// A load balancer.
#[derive(Clone, Debug)]
pub(crate) struct Balancer {
    pub(crate) name: String,
    pub(crate) network: bool,
    pub(crate) internal: bool,
    pub(crate) dualstack: bool,
    pub(crate) vpc: String,
    /// By zone.
    pub(crate) places: BTreeMap<String, Place>,
    pub(crate) groups: Vec<String>,
    pub(crate) created: Timestamp,
    pub(crate) active: bool,
    pub(crate) dns: String,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) tags: Tags,
}

/// How the targets of a group are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) enabled: bool,
    pub(crate) protocol: String,
    pub(crate) port: String,
    pub(crate) path: Option<String>,
    pub(crate) interval: u32,
    pub(crate) timeout: u32,
    pub(crate) healthy: u32,
    pub(crate) unhealthy: u32,
    /// Kind (`HttpCode` or `GrpcCode`) and statuses.
    pub(crate) matcher: Option<(&'static str, String)>,
}

/// States of targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetState {
    /// No listener leads to its group.
    Unused,
    Registering,
    /// Registered, not yet found well or ill.
    Checking,
    Healthy,
    Unhealthy,
    Draining,
}

/// A target.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) id: String,
    pub(crate) port: u16,
    pub(crate) zone: Option<String>,
    pub(crate) state: TargetState,
    /// When its state, or its next check, is due.
    pub(crate) moves: Option<Timestamp>,
    /// Checks of one kind in a row.
    pub(crate) row: u32,
    pub(crate) last: Option<Finding>,
}

/// A target group.
#[derive(Clone, Debug)]
pub(crate) struct TargetGroup {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) version: Option<String>,
    pub(crate) port: u16,
    pub(crate) vpc: String,
    pub(crate) by_ip: bool,
    pub(crate) ipv6: bool,
    pub(crate) check: Check,
    pub(crate) attributes: BTreeMap<String, String>,
    /// By `id:port`.
    pub(crate) targets: BTreeMap<String, Target>,
    pub(crate) tags: Tags,
}

/// What a listener or a rule does, as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Actions(pub(crate) Vec<Tree>);

impl Actions {
    /// The target groups that it leads to.
    pub(crate) fn groups(&self) -> Vec<&str> {
        let mut all: Vec<&str> = Vec::new();
        for action in &self.0 {
            all.extend(action.text("TargetGroupArn"));
            all.extend(action.items("ForwardConfig.TargetGroups").filter_map(|it| it.text("TargetGroupArn")));
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// A listener.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    pub(crate) balancer: String,
    pub(crate) protocol: String,
    pub(crate) port: u16,
    pub(crate) policy: Option<String>,
    /// The first is the default one.
    pub(crate) certificates: Vec<String>,
    pub(crate) alpn: Vec<String>,
    pub(crate) actions: Actions,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) tags: Tags,
}

/// A rule of a listener; the default one is the listener's own actions.
#[derive(Clone, Debug)]
pub(crate) struct ListenerRule {
    pub(crate) listener: String,
    /// `None` is the default rule.
    pub(crate) priority: Option<u32>,
    pub(crate) conditions: Vec<Tree>,
    pub(crate) actions: Actions,
    pub(crate) tags: Tags,
}
