//! Checks of instances, and what the provider plans for them.

use super::model::{Instance, InstanceState, ScheduledEvent};
use super::{instances::state, moment};
use crate::call::{Call, Outcome};
use crate::config::Config;
use crate::events::Event;
use crate::filters::{Filters, one};
use crate::ids::Kind;
use crate::region::{Region, Timer};
use crate::xml::{Node, group, items, text};
use jiff::{SignedDuration, Timestamp};

/// What the checks of an instance say.
fn check(it: &Instance, impaired: bool, config: &Config, now: Timestamp) -> (&'static str, &'static str) {
    let wait = SignedDuration::from_millis(i64::try_from(config.timings.checks).unwrap_or(0));
    match it.state {
        InstanceState::Running if impaired => ("impaired", "failed"),
        InstanceState::Running if now.duration_since(it.began) < wait => ("initializing", "initializing"),
        InstanceState::Running => ("ok", "passed"),
        InstanceState::Pending => ("initializing", "initializing"),
        _ => ("not-applicable", ""),
    }
}

pub(super) fn describe(call: &mut Call<'_>) -> Outcome {
    let region = &*call.region;
    let everything = call.form.flag("IncludeAllInstances").unwrap_or(false);
    let holds = |filters: &Filters, _: &str, it: &Instance| {
        let own = check(it, it.impaired.0, call.config, call.now);
        let system = check(it, it.impaired.1, call.config, call.now);
        (everything || it.state == InstanceState::Running)
            && filters.hold(&it.tags, |name| match name {
                "availability-zone" => one(&it.zone),
                "event.code" => it.events.iter().map(|event| event.code.clone()).collect(),
                "event.not-before" => it.events.iter().map(|event| moment(event.not_before)).collect(),
                "event.instance-event-id" => it.events.iter().map(|event| event.id.clone()).collect(),
                "instance-state-code" => one(it.state.code()),
                "instance-state-name" => one(it.state.word()),
                "instance-status.status" => one(own.0),
                "instance-status.reachability" => one(own.1),
                "system-status.status" => one(system.0),
                "system-status.reachability" => one(system.1),
                _ => Vec::new(),
            })
    };
    let missing = |id: &str| Kind::Instance.missing(id);
    let (found, token) = call.describe(&region.instances, "InstanceId", missing, holds)?;
    let all = found.into_iter().map(|(id, it)| nodes(id, it, call.config, call.now));
    let mut answer = vec![items("instanceStatusSet", all)];
    answer.extend(call.token(token));
    Ok(answer)
}

fn nodes(id: &str, it: &Instance, config: &Config, now: Timestamp) -> Vec<Node> {
    let verdict = |name, impaired| {
        let (status, reach) = check(it, impaired, config, now);
        let detail = vec![text("name", "reachability"), text("status", reach)];
        let details = if reach.is_empty() { vec![] } else { vec![detail] };
        group(name, vec![text("status", status), items("details", details)])
    };
    let event = |event: &ScheduledEvent| {
        vec![
            text("instanceEventId", &event.id),
            text("code", &event.code),
            text("description", &event.description),
            text("notBefore", moment(event.not_before)),
        ]
    };
    vec![
        text("instanceId", id),
        text("availabilityZone", &it.zone),
        state("instanceState", it.state),
        verdict("systemStatus", it.impaired.1),
        verdict("instanceStatus", it.impaired.0),
        items("eventsSet", it.events.iter().map(event)),
    ]
}

impl Region {
    /// The provider plans something for an instance; whether there is such an instance.
    pub(crate) fn schedule(&mut self, id: &str, code: &str, not_before: Timestamp, now: Timestamp) -> bool {
        let event_id = format!("instance-event-0{}", self.ids.hex(16));
        let Some(instance) = self.instances.edit(id, now) else { return false };
        instance.events.push(ScheduledEvent {
            id: event_id.clone(),
            code: code.to_owned(),
            description: format!("The instance is scheduled for {}", code.replace('-', " ")),
            not_before,
        });
        let (instance, code) = (id.to_owned(), code.to_owned());
        self.events.push(now, Event::Scheduled { instance, code, not_before });
        self.at(not_before, Timer::Scheduled(id.to_owned(), event_id));
        true
    }

    /// What was planned comes to pass.
    pub(crate) fn scheduled_event_comes(&mut self, config: &Config, id: &str, event: &str, now: Timestamp) {
        let Some(instance) = self.instances.edit(id, now) else { return };
        let Some(place) = instance.events.iter().position(|it| it.id == event) else { return };
        let event = instance.events.remove(place);
        let reason = ("Server.ScheduledStop", "Server.ScheduledStop: Stopped due to a scheduled event");
        if ["instance-stop", "instance-retirement"].contains(&event.code.as_str()) {
            self.stop(config, id, reason, now);
        }
    }

    /// A spot instance gets its notice; whether it is one.
    pub(crate) fn interrupt(&mut self, id: &str, notice_ms: u64, now: Timestamp) -> bool {
        let ends =
            now.saturating_add(SignedDuration::from_millis(i64::try_from(notice_ms).unwrap_or(0))).unwrap_or(now);
        let spot = self.instances.edit(id, now).and_then(|it| it.spot.as_mut());
        let Some(spot) = spot else { return false };
        spot.ends = Some(ends);
        let event = Event::SpotInterruption { instance: id.to_owned(), action: "terminate".to_owned(), ends };
        self.events.push(now, event);
        self.at(ends, Timer::SpotEnds(id.to_owned()));
        true
    }

    /// A spot instance's notice has run out.
    pub(crate) fn spot_ends(&mut self, config: &Config, id: &str, now: Timestamp) {
        let due = self.instances.get(id).and_then(|it| it.spot.as_ref()).is_some_and(|spot| spot.ends == Some(now));
        let reason = ("Server.SpotInstanceTermination", "Server.SpotInstanceTermination: Spot instance termination");
        if due {
            self.shut_down(config, id, reason, now);
        }
    }

    /// A spot instance is recommended to be replaced; whether it is one.
    pub(crate) fn recommend_rebalance(&mut self, id: &str, now: Timestamp) -> bool {
        let spot = self.instances.edit(id, now).and_then(|it| it.spot.as_mut());
        let Some(spot) = spot else { return false };
        spot.rebalance = Some(now);
        self.events.push(now, Event::Rebalance { instance: id.to_owned() });
        true
    }
}
