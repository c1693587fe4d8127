//! The life of instances: terminate, stop, start, and what happens by itself.

use super::catalogue::InstanceType;
use super::model::{AttachState, InstanceState, VolumeState};
use crate::call::{Call, Outcome};
use crate::config::Config;
use crate::error::{AwsError, refuse};
use crate::events::Event;
use crate::ids::Kind;
use crate::region::{Region, Timer};
use crate::xml::{Node, done, group, items, show, text};
use jiff::Timestamp;

/// An instance and the states before and after.
type Change = (String, InstanceState, InstanceState);

pub(super) fn terminate(call: &mut Call<'_>) -> Outcome {
    let ids = known(call)?;
    for (id, instance) in ids.iter().filter_map(|id| Some((id, call.region.instances.get(id)?))) {
        if instance.termination_protection && !instance.state.is_over() {
            let message = format!(
                "The instance '{id}' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again."
            );
            return Err(refuse("OperationNotPermitted", message));
        }
    }
    let reason = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown");
    let changes = ids.iter().map(|id| call.region.shut_down(call.config, id, reason, call.now)).collect();
    Ok(answer(changes))
}

pub(super) fn stop(call: &mut Call<'_>) -> Outcome {
    let ids = known(call)?;
    for (id, instance) in ids.iter().filter_map(|id| Some((id, call.region.instances.get(id)?))) {
        if instance.spot.is_some() {
            return Err(refuse("UnsupportedOperation", format!("You can't stop the Spot Instance '{id}'.")));
        }
        if instance.stop_protection {
            let message = format!(
                "The instance '{id}' may not be stopped. Modify its 'disableApiStop' instance attribute and try again."
            );
            return Err(refuse("OperationNotPermitted", message));
        }
        let stoppable =
            [InstanceState::Running, InstanceState::Pending, InstanceState::Stopping, InstanceState::Stopped];
        if !stoppable.contains(&instance.state) {
            return Err(wrong_state(id, "stopped"));
        }
    }
    let reason = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown");
    let changes = ids.iter().map(|id| call.region.stop(call.config, id, reason, call.now)).collect();
    Ok(answer(changes))
}

pub(super) fn start(call: &mut Call<'_>) -> Outcome {
    let ids = known(call)?;
    for (id, instance) in ids.iter().filter_map(|id| Some((id, call.region.instances.get(id)?))) {
        if ![InstanceState::Stopped, InstanceState::Pending, InstanceState::Running].contains(&instance.state) {
            return Err(wrong_state(id, "started"));
        }
        let key = (instance.kind.clone(), instance.zone.clone(), false);
        let closed = call.region.closed_zones.contains(&instance.zone);
        if instance.state == InstanceState::Stopped && (closed || call.region.capacity.get(&key) == Some(&0)) {
            let message = format!("Insufficient capacity to start {id}.");
            return Err(crate::error::refuse_with(500, "InsufficientInstanceCapacity", message));
        }
    }
    let changes = ids.iter().map(|id| call.region.start(call.config, id, call.now)).collect();
    Ok(answer(changes))
}

pub(super) fn reboot(call: &mut Call<'_>) -> Outcome {
    for id in known(call)? {
        let now = call.now;
        let instance = call.region.instances.edit(&id, now).filter(|it| it.state == InstanceState::Running);
        let instance = instance.ok_or_else(|| wrong_state(&id, "rebooted"))?;
        instance.events.retain(|event| !event.code.ends_with("-reboot"));
    }
    Ok(done())
}

fn known(call: &Call<'_>) -> Result<Vec<String>, AwsError> {
    let mut ids: Vec<String> = call.form.list("InstanceId").into_iter().map(str::to_owned).collect();
    ids.sort_unstable();
    ids.dedup();
    match ids.iter().find(|id| call.region.instances.get(id).is_none()) {
        Some(missing) => Err(Kind::Instance.missing(missing)),
        None => Ok(ids),
    }
}

fn wrong_state(id: &str, done: &str) -> AwsError {
    refuse("IncorrectInstanceState", format!("The instance '{id}' is not in a state from which it can be {done}."))
}

fn answer(changes: Vec<Option<Change>>) -> Vec<Node> {
    let one = |(id, before, after): Change| {
        vec![text("instanceId", id), state("currentState", after), state("previousState", before)]
    };
    vec![items("instancesSet", changes.into_iter().flatten().map(one))]
}

/// A state with its code.
pub(super) fn state(name: &'static str, state: InstanceState) -> Node {
    group(name, vec![show("code", state.code()), text("name", state.word())])
}

impl Region {
    /// Begins the end of an instance.
    pub(crate) fn shut_down(
        &mut self,
        config: &Config,
        id: &str,
        reason: (&str, &str),
        now: Timestamp,
    ) -> Option<Change> {
        let before = self.instances.get(id)?.state;
        if before.is_over() {
            return Some((id.to_owned(), before, before));
        }
        // A stopped instance has nothing to shut down.
        let wait = if before == InstanceState::Stopped { 0 } else { config.timings.shutting_down };
        self.turn(id, InstanceState::ShuttingDown, Some(reason), wait, now);
        self.leave_target_groups(config, id, now);
        if wait == 0 {
            self.advance(config, now);
        }
        Some((id.to_owned(), before, self.instances.get(id)?.state))
    }

    /// Begins to stop an instance.
    pub(crate) fn stop(&mut self, config: &Config, id: &str, reason: (&str, &str), now: Timestamp) -> Option<Change> {
        let before = self.instances.get(id)?.state;
        if !matches!(before, InstanceState::Running | InstanceState::Pending) {
            return Some((id.to_owned(), before, before));
        }
        self.turn(id, InstanceState::Stopping, Some(reason), config.timings.stopping, now);
        Some((id.to_owned(), before, InstanceState::Stopping))
    }

    /// Begins to start an instance.
    fn start(&mut self, config: &Config, id: &str, now: Timestamp) -> Option<Change> {
        let instance = self.instances.get(id)?;
        let (before, zone) = (instance.state, instance.zone.clone());
        if before != InstanceState::Stopped {
            return Some((id.to_owned(), before, before));
        }
        if let Some(kind) = InstanceType::named(&instance.kind) {
            self.take_host(kind, &zone, false);
        }
        self.turn(id, InstanceState::Pending, None, config.timings.pending, now);
        let instance = self.instances.edit(id, now)?;
        instance.launched = now;
        instance.began = now;
        Some((id.to_owned(), before, InstanceState::Pending))
    }

    /// Puts an instance into a state that ends by itself.
    fn turn(&mut self, id: &str, to: InstanceState, reason: Option<(&str, &str)>, wait: u64, now: Timestamp) {
        let when = self.after(now, wait, Timer::Instance(id.to_owned()));
        if let Some(instance) = self.instances.edit(id, now) {
            instance.state = to;
            instance.moves = Some(when);
            instance.reason = reason.map(|(code, message)| (code.to_owned(), message.to_owned()));
        }
        self.tell_state(id, to, now);
    }

    pub(crate) fn tell_state(&mut self, id: &str, state: InstanceState, now: Timestamp) {
        self.events.push(now, Event::InstanceState { instance: id.to_owned(), state: state.word().to_owned() });
    }

    /// An instance takes a host.
    pub(crate) fn take_host(&mut self, kind: &InstanceType, zone: &str, spot: bool) {
        self.vcpus[usize::from(spot)] += u64::from(kind.vcpus);
        if let Some(left) = self.capacity.get_mut(&(kind.name.to_owned(), zone.to_owned(), spot)) {
            *left = left.saturating_sub(1);
        }
    }

    fn leave_host(&mut self, id: &str) {
        let Some(instance) = self.instances.get(id) else { return };
        let spot = instance.spot.is_some();
        let key = (instance.kind.clone(), instance.zone.clone(), spot);
        if let Some(kind) = InstanceType::named(&key.0) {
            self.vcpus[usize::from(spot)] = self.vcpus[usize::from(spot)].saturating_sub(u64::from(kind.vcpus));
        }
        if let Some(left) = self.capacity.get_mut(&key) {
            *left += 1;
        }
    }

    /// A state has lasted as long as it does.
    pub(crate) fn instance_moves(&mut self, config: &Config, id: &str, when: Timestamp) {
        let Some(instance) = self.instances.get(id).filter(|instance| instance.moves == Some(when)) else { return };
        let to = match instance.state {
            InstanceState::Pending => InstanceState::Running,
            InstanceState::Stopping => InstanceState::Stopped,
            InstanceState::ShuttingDown => InstanceState::Terminated,
            _ => return,
        };
        if !to.has_host() {
            self.leave_host(id);
        }
        if to == InstanceState::Terminated {
            self.let_go(id, when);
            self.after(when, config.timings.terminated_shown, Timer::ForgetInstance(id.to_owned()));
        }
        if let Some(instance) = self.instances.edit(id, when) {
            instance.state = to;
            instance.moves = None;
            if to == InstanceState::Running {
                instance.began = when;
                instance.reason = None;
            }
        }
        self.tell_state(id, to, when);
    }

    /// A terminated instance lets go of its disks, interfaces and addresses.
    fn let_go(&mut self, id: &str, now: Timestamp) {
        let Some(instance) = self.instances.edit(id, now) else { return };
        let disks = std::mem::take(&mut instance.disks);
        let interfaces = std::mem::take(&mut instance.interfaces);
        instance.events.clear();
        for disk in disks.into_values() {
            if disk.delete_on_termination {
                self.volumes.remove(&disk.volume, now);
            } else {
                self.loosen(&disk.volume, id, now);
            }
        }
        for interface in interfaces.into_values() {
            let attachment = self.interfaces.get(&interface).and_then(|it| it.attachment.clone());
            if attachment.is_some_and(|attachment| attachment.delete_on_termination) {
                self.drop_interface(&interface, now);
            } else if let Some(interface) = self.interfaces.edit(&interface, now) {
                interface.attachment = None;
                interface.public = None;
            }
        }
    }

    /// A volume is not attached to an instance any more.
    pub(crate) fn loosen(&mut self, volume: &str, instance: &str, now: Timestamp) {
        if let Some(disk) = self.volumes.edit(volume, now)
            && let Some(gone) = disk.attachments.remove(instance)
        {
            if disk.attachments.is_empty() {
                disk.state = VolumeState::Available;
            }
            if gone.state != AttachState::Attaching {
                let event = Event::VolumeDetached { volume: volume.to_owned(), instance: instance.to_owned() };
                self.events.push(now, event);
            }
        }
    }
}
