//! What happens by itself: load balancers come to be, targets are checked, drain and go.

use super::model::{Target, TargetGroup, TargetState};
use crate::config::Config;
use crate::ec2::InstanceState;
use crate::health::{Asks, Finding, Probe};
use crate::region::{Region, Timer};
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// The most checks that wait for a prober.
const MAX_PROBES: usize = 100_000;

impl Region {
    /// A load balancer can be used.
    pub(crate) fn balancer_is_made(&mut self, arn: &str, now: Timestamp) {
        self.balancers.edit(arn, now).into_iter().for_each(|it| it.active = true);
    }

    /// The load balancers whose listeners lead to a group.
    pub(crate) fn users_of(&self, group: &str) -> BTreeSet<&str> {
        let rules = self.listener_rules.iter().filter(|(_, rule)| rule.actions.groups().contains(&group));
        rules.filter_map(|(_, rule)| Some(self.listeners.get(&rule.listener)?.balancer.as_str())).collect()
    }

    /// After listeners changed: targets of groups begin to be used, or cease.
    pub(crate) fn use_again(&mut self, config: &Config, groups: &[String], now: Timestamp) {
        for arn in groups {
            let used = !self.users_of(arn).is_empty();
            let Some(group) = self.target_groups.get(arn) else { continue };
            let wrong = |target: &Target| {
                (target.state == TargetState::Unused) == used && target.state != TargetState::Draining
            };
            let keys: Vec<String> =
                group.targets.iter().filter(|(_, it)| wrong(it)).map(|(key, _)| key.clone()).collect();
            for key in keys {
                self.begin_target(config, arn, &key, used, now);
            }
        }
    }

    /// A target is registered in a group that is used or not.
    pub(crate) fn begin_target(&mut self, config: &Config, arn: &str, key: &str, used: bool, now: Timestamp) {
        let wait = config.timings.registration;
        let timer = Timer::Target(arn.to_owned(), key.to_owned());
        let moves = used.then(|| self.after(now, wait, timer));
        let target = self.target_groups.edit(arn, now).and_then(|group| group.targets.get_mut(key));
        if let Some(target) = target {
            target.state = if used { TargetState::Registering } else { TargetState::Unused };
            target.moves = moves;
            target.row = 0;
            target.last = None;
        }
    }

    /// A target leaves: at once when it took no traffic, else after its group's delay.
    pub(crate) fn drain(&mut self, arn: &str, key: &str, now: Timestamp) {
        let Some(group) = self.target_groups.get(arn) else { return };
        let Some(target) = group.targets.get(key) else { return };
        let delay = group.attributes.get("deregistration_delay.timeout_seconds").and_then(|it| it.parse::<u64>().ok());
        match target.state {
            TargetState::Draining => {}
            TargetState::Healthy | TargetState::Unhealthy | TargetState::Checking => {
                let timer = Timer::Target(arn.to_owned(), key.to_owned());
                let moves = self.after(now, delay.unwrap_or(300) * 1_000, timer);
                let target = self.target_groups.edit(arn, now).and_then(|group| group.targets.get_mut(key));
                target.into_iter().for_each(|it| {
                    it.state = TargetState::Draining;
                    it.moves = Some(moves);
                });
            }
            TargetState::Unused | TargetState::Registering => {
                self.target_groups.edit(arn, now).into_iter().for_each(|group| drop(group.targets.remove(key)));
            }
        }
    }

    /// A terminated instance leaves all its groups.
    pub(crate) fn leave_target_groups(&mut self, _config: &Config, instance: &str, now: Timestamp) {
        let held = |group: &TargetGroup| {
            group.targets.iter().filter(|(_, it)| it.id == instance).map(|(key, _)| key.clone()).collect::<Vec<_>>()
        };
        let all: Vec<(String, Vec<String>)> =
            self.target_groups.iter().filter(|(_, it)| !it.by_ip).map(|(arn, it)| (arn.to_owned(), held(it))).collect();
        for (arn, keys) in all {
            keys.iter().for_each(|key| self.drain(&arn, key, now));
        }
    }

    /// A target's registration or draining is over.
    pub(crate) fn target_moves(&mut self, config: &Config, arn: &str, key: &str, now: Timestamp) {
        let target = self.target_groups.get(arn).and_then(|group| group.targets.get(key));
        let Some(target) = target.filter(|target| target.moves == Some(now)) else { return };
        match target.state {
            TargetState::Registering => {
                if let Some(target) = self.target_groups.edit(arn, now).and_then(|it| it.targets.get_mut(key)) {
                    target.state = TargetState::Checking;
                }
                self.probe_is_due(config, arn, key, now);
            }
            TargetState::Draining => {
                self.target_groups.edit(arn, now).into_iter().for_each(|group| drop(group.targets.remove(key)));
            }
            _ => {}
        }
    }

    /// A check of a target is due: it is asked of the prober, or answered as scripted.
    pub(crate) fn probe_is_due(&mut self, config: &Config, arn: &str, key: &str, now: Timestamp) {
        let Some(group) = self.target_groups.get(arn) else { return };
        let Some(target) = group.targets.get(key).filter(|target| target.moves == Some(now)) else { return };
        let checked = [TargetState::Checking, TargetState::Healthy, TargetState::Unhealthy];
        if !checked.contains(&target.state) {
            return;
        }
        let interval = u64::from(group.check.interval) * 1_000;
        let probe = self.probe(arn, key, group, target);
        let enabled = group.check.enabled;
        let next = self.after(now, interval, Timer::Probe(arn.to_owned(), key.to_owned()));
        if let Some(target) = self.target_groups.edit(arn, now).and_then(|it| it.targets.get_mut(key)) {
            target.moves = Some(next);
        }
        match probe {
            None => {}
            Some(_) if !enabled => self.find(arn, key, Finding::Healthy, now),
            // One that finds no room is made the next time it is due.
            Some(_) if config.probe_outside && self.probes.len() >= MAX_PROBES => {}
            Some(probe) if config.probe_outside => self.probes.push_back(probe),
            Some(probe) => {
                let by_port = self.scripted_health.get(&format!("{}:{}", target_name(&probe), probe.port));
                let by_target = self.scripted_health.get(target_name(&probe));
                let finding = by_port.or(by_target).copied().unwrap_or(Finding::Healthy);
                self.find(arn, key, finding, now);
            }
        }
    }

    /// What to ask a target; nothing when it does not run.
    fn probe(&self, arn: &str, key: &str, group: &TargetGroup, target: &Target) -> Option<Probe> {
        let address: IpAddr = if group.by_ip {
            target.id.parse().ok()?
        } else {
            let instance = self.instances.get(&target.id)?;
            (instance.state == InstanceState::Running).then_some(instance.private_address)?.into()
        };
        let asks = match group.check.protocol.as_str() {
            "HTTP" => Asks::Http,
            "HTTPS" => Asks::Https,
            _ => Asks::Tcp,
        };
        Some(Probe {
            group: arn.to_owned(),
            target: key.to_owned(),
            address,
            port: group.check.port.parse().unwrap_or(target.port),
            asks,
            path: group.check.path.clone().unwrap_or_else(|| "/".to_owned()),
            matcher: group.check.matcher.as_ref().map_or("200-399".to_owned(), |it| it.1.clone()),
            timeout: Duration::from_secs(u64::from(group.check.timeout)),
        })
    }

    /// A check came back.
    pub(crate) fn find(&mut self, arn: &str, key: &str, finding: Finding, now: Timestamp) {
        let Some(group) = self.target_groups.get(arn) else { return };
        let (healthy, unhealthy) = (group.check.healthy, group.check.unhealthy);
        let Some(target) = self.target_groups.edit(arn, now).and_then(|it| it.targets.get_mut(key)) else { return };
        let well = finding == Finding::Healthy;
        let same = target.last.is_some_and(|last| (last == Finding::Healthy) == well);
        target.row = if same { target.row.saturating_add(1) } else { 1 };
        target.last = Some(finding);
        let row = target.row;
        target.state = match (target.state, well) {
            // A new target is well with its first good check.
            (TargetState::Checking, true) => TargetState::Healthy,
            (TargetState::Unhealthy, true) if row >= healthy => TargetState::Healthy,
            (TargetState::Checking | TargetState::Healthy, false) if row >= unhealthy => TargetState::Unhealthy,
            (state, _) => state,
        };
    }

    /// Load balancers' interfaces linger for a while after they are let go.
    pub(crate) fn let_interface_linger(&mut self, config: &Config, id: &str, now: Timestamp) {
        self.after(now, config.timings.interfaces_linger, Timer::Interface(id.to_owned()));
    }
}

/// What scripts name a target: the instance or address it was registered as.
fn target_name(probe: &Probe) -> &str {
    probe.target.rsplit_once(':').map_or(probe.target.as_str(), |(id, _)| id)
}
