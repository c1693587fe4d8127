//! Machines of the fleet and the instances behind them.
//!
//! Writes of a Machine: its finalizer and the status fields `phase`, `instanceID`, `providerID`, `addresses` and the
//! `Ready` condition. Never orders a second instance for a Machine, and never removes what it cannot name.

use crate::{
    absence::{AbsenceLedger, Verdict, is_mass_disappearance},
    action::{Act, Action, CloudCall, Kind, Subject},
    error::CloudError,
    model::{Instance, InstanceId, InstanceState, MachineOrder, Owner, TAG_FLEET, Tags},
    objects::{annotation, has_finalizer, with_finalizer, without_finalizer},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use timonel_fleet::{Machine, MachineAddress, MachinePhase, MachineStatus};

/// Finalizer of a Machine that may have an instance.
pub const FINALIZER_MACHINE: &str = "timonel.io/instance";
/// `off` keeps the machine's instance powered off; anything else, or nothing, keeps it on.
pub const ANNOTATION_POWER: &str = "timonel.io/power";

/// Age below which an instance without a Machine is left alone: the Machine may not have been seen yet.
const ORPHAN_AGE: SignedDuration = SignedDuration::from_secs(60);
/// Listings that must show an orphan before it is removed.
const ORPHAN_LOOKS: u32 = 2;
/// Orders in one look at most.
const ORDERS_PER_LOOK: usize = 50;

/// What a look shows of a Machine's instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// None, and none was ever known.
    Nothing,
    /// Known before and not listed; nobody confirmed that it is gone.
    Absent,
    /// Ordered.
    Pending,
    /// Powered on; its node has not joined.
    Running,
    /// Powered on; its node joined.
    Joined,
    /// Powered off.
    Stopped,
    /// Gone for good, by two independent looks.
    Gone,
    /// The cloud refused the order.
    Refused,
}

/// What follows for the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineStep {
    /// Order it.
    Order,
    /// Nothing: look again.
    Wait,
    /// Bring its power to what is wanted.
    Power,
    /// Remove it.
    Remove,
    /// Let the Machine go: nothing stands behind it.
    Release,
}

/// The one table of a Machine's life: what is wanted (kept, or being deleted) and what is seen give the phase to show
/// and the step to take.
#[must_use]
pub fn transition(deleting: bool, phase: MachinePhase, seen: Seen) -> (MachinePhase, MachineStep) {
    use MachinePhase as P;
    use MachineStep as S;
    match (deleting, phase, seen) {
        (true, _, Seen::Nothing | Seen::Gone | Seen::Refused) => (P::Deleting, S::Release),
        (true, _, Seen::Absent) => (P::Deleting, S::Wait),
        (true, _, _) => (P::Deleting, S::Remove),
        (false, P::Failed, Seen::Gone) => (P::Failed, S::Wait),
        (false, _, Seen::Nothing) => (P::Provisioning, S::Order),
        (false, _, Seen::Refused) => (P::Failed, S::Order),
        (false, phase, Seen::Absent) => (phase, S::Wait),
        (false, _, Seen::Pending) => (P::Provisioning, S::Wait),
        (false, _, Seen::Running) => (P::Booting, S::Power),
        (false, _, Seen::Joined) => (P::Running, S::Power),
        (false, phase, Seen::Stopped) => (phase, S::Power),
        (false, _, Seen::Gone) => (P::Failed, S::Wait),
    }
}

/// What the plan looks at.
#[derive(Clone, Copy, Debug)]
pub struct MachineView<'a> {
    /// UID of the fleet.
    pub fleet: &'a str,
    /// Every Machine.
    pub machines: &'a [Arc<Machine>],
    /// Every instance with the fleet's tag.
    pub instances: &'a [Instance],
    /// When the instances were listed.
    pub observed: Timestamp,
    /// The time.
    pub now: Timestamp,
}

/// What the plan remembers between looks.
#[derive(Clone, Debug, Default)]
pub struct MachineMemory {
    /// Instances that listings lacked. The executor enters the cloud's answers here.
    pub absences: AbsenceLedger,
    /// Orders that failed, by UID of the Machine; the executor enters them and removes them on success.
    pub refused: BTreeMap<String, CloudError>,
    orphans: BTreeMap<InstanceId, (u32, Timestamp)>,
    alarmed: bool,
}

/// Tags by which the fleet finds its instances.
#[must_use]
pub fn fleet_tags(fleet: &str) -> Tags {
    [(TAG_FLEET.to_owned(), fleet.to_owned())].into()
}

/// Decides what to do about every Machine and every instance without one.
pub fn plan_machines(view: &MachineView<'_>, memory: &mut MachineMemory) -> Vec<Action> {
    let mut by_resource: BTreeMap<&str, &Instance> = BTreeMap::new();
    for instance in view.instances {
        let Some(resource) = instance.resource() else { continue };
        let better = by_resource.get(resource).is_none_or(|have| have.state == InstanceState::Gone);
        if better {
            by_resource.insert(resource, instance);
        }
    }
    let uids: BTreeSet<&str> = view.machines.iter().filter_map(|m| m.metadata.uid.as_deref()).collect();
    memory.refused.retain(|uid, _| uids.contains(uid.as_str()));
    let lost = lost(view, &by_resource);
    let mass = is_mass_disappearance(
        lost.values().filter(|listed_gone| !**listed_gone).count(),
        view.machines.iter().filter(|m| !instance_id(m).is_empty()).count(),
    );
    memory.absences.retain(&lost.keys().cloned().collect());
    let (mut actions, mut ask, mut orders) = (Vec::new(), Vec::new(), 0);
    for machine in view.machines {
        let instance = machine.metadata.uid.as_deref().and_then(|uid| by_resource.get(uid).copied());
        let seen = seen(view, memory, machine, instance, mass, &mut ask);
        let planned = plan_machine(view, memory, machine, instance, seen);
        let order = planned.iter().any(|a| matches!(a.act, Act::Cloud(CloudCall::CreateMachine(_))));
        orders += usize::from(order);
        if !order || orders <= ORDERS_PER_LOOK {
            actions.extend(planned);
        }
    }
    if mass && !memory.alarmed {
        actions.extend(view.machines.first().map(|machine| alarm(machine, lost.len())));
    }
    memory.alarmed = mass;
    if let (Some(machine), false) = (view.machines.first(), ask.is_empty()) {
        actions.push(Subject::of(Kind::Machine, &machine.metadata).act(Act::Confirm(ask)));
    }
    actions.extend(sweep(view, memory, &uids));
    actions
}

fn alarm(machine: &Machine, missing: usize) -> Action {
    let message = format!("{missing} instances are missing from the cloud's listing; nothing is removed until then");
    Subject::of(Kind::Machine, &machine.metadata).act(Act::Alarm { reason: "MassDisappearance", message })
}

fn instance_id(machine: &Machine) -> &str {
    machine.status.as_ref().map_or("", |status| status.instance_id.as_str())
}

/// Instances that Machines had and the listing lacks (`false`) or lists as gone (`true`).
fn lost(view: &MachineView<'_>, by_resource: &BTreeMap<&str, &Instance>) -> BTreeMap<InstanceId, bool> {
    let mut lost = BTreeMap::new();
    for machine in view.machines {
        let instance = machine.metadata.uid.as_deref().and_then(|uid| by_resource.get(uid));
        match instance {
            Some(instance) if instance.state == InstanceState::Gone => {
                lost.insert(instance.id.clone(), true);
            }
            None if !instance_id(machine).is_empty() => {
                lost.insert(InstanceId::from(instance_id(machine)), false);
            }
            _ => {}
        }
    }
    lost
}

fn seen(
    view: &MachineView<'_>,
    memory: &mut MachineMemory,
    machine: &Machine,
    instance: Option<&Instance>,
    mass: bool,
    ask: &mut Vec<InstanceId>,
) -> Seen {
    let joined = machine.status.as_ref().is_some_and(|status| !status.joined_instance.is_empty());
    let (id, listed_gone) = match instance {
        Some(instance) => match instance.state {
            InstanceState::Pending => return Seen::Pending,
            InstanceState::Running => return if joined { Seen::Joined } else { Seen::Running },
            InstanceState::Stopped => return Seen::Stopped,
            InstanceState::Gone => (instance.id.clone(), true),
        },
        None if instance_id(machine).is_empty() => {
            let uid = machine.metadata.uid.as_deref().unwrap_or_default();
            return if memory.refused.contains_key(uid) { Seen::Refused } else { Seen::Nothing };
        }
        None => (InstanceId::from(instance_id(machine)), false),
    };
    match memory.absences.missed(&id, view.observed, listed_gone) {
        Verdict::Gone if listed_gone || !mass => Seen::Gone,
        Verdict::Ask => {
            ask.push(id);
            Seen::Absent
        }
        _ => Seen::Absent,
    }
}

fn plan_machine(
    view: &MachineView<'_>,
    memory: &MachineMemory,
    machine: &Machine,
    instance: Option<&Instance>,
    seen: Seen,
) -> Vec<Action> {
    let subject = Subject::of(Kind::Machine, &machine.metadata);
    let deleting = machine.metadata.deletion_timestamp.is_some();
    let held = has_finalizer(&machine.metadata, FINALIZER_MACHINE);
    match (deleting, held) {
        (true, false) => return Vec::new(),
        (false, false) => {
            let finalizers = with_finalizer(&machine.metadata, FINALIZER_MACHINE);
            return vec![subject.patch(json!({ "metadata": { "finalizers": finalizers } }))];
        }
        _ => {}
    }
    let status = machine.status.clone().unwrap_or_default();
    let (phase, step) = transition(deleting, status.phase, seen);
    let mut actions = act(view, machine, &subject, instance, step);
    let wanted = wanted_status(view, memory, machine, &status, instance, phase);
    if wanted != status && step != MachineStep::Release {
        actions.push(subject.patch_status(&json!({
            "phase": wanted.phase, "instanceID": wanted.instance_id, "providerID": wanted.provider_id,
            "addresses": wanted.addresses, "conditions": wanted.conditions,
        })));
    }
    actions
}

fn act(
    view: &MachineView<'_>,
    machine: &Machine,
    subject: &Subject,
    instance: Option<&Instance>,
    step: MachineStep,
) -> Vec<Action> {
    let call = match (step, instance) {
        (MachineStep::Order, _) => CloudCall::CreateMachine(Box::new(order(view.fleet, machine))),
        (MachineStep::Remove, Some(instance)) => CloudCall::DeleteMachine(instance.id.clone()),
        (MachineStep::Power, Some(instance)) => {
            let off = annotation(&machine.metadata, ANNOTATION_POWER) == Some("off");
            match (off, instance.state) {
                (true, InstanceState::Running) => CloudCall::StopMachine(instance.id.clone()),
                (false, InstanceState::Stopped) => CloudCall::StartMachine(instance.id.clone()),
                _ => return Vec::new(),
            }
        }
        (MachineStep::Release, _) => {
            let finalizers = without_finalizer(&machine.metadata, FINALIZER_MACHINE);
            return vec![subject.patch(json!({ "metadata": { "finalizers": finalizers } }))];
        }
        (MachineStep::Wait | MachineStep::Remove | MachineStep::Power, _) => return Vec::new(),
    };
    vec![subject.call(call)]
}

fn order(fleet: &str, machine: &Machine) -> MachineOrder {
    let uid = machine.metadata.uid.clone().unwrap_or_default();
    MachineOrder {
        token: uid.clone(),
        owner: Owner::new(machine.spec.cluster_uid.clone(), uid),
        pool: machine.spec.pool.clone(),
        name: machine.metadata.name.clone().unwrap_or_default(),
        instance_type: machine.spec.instance_type.clone(),
        zone: machine.spec.zone.clone(),
        image: machine.spec.image.clone(),
        user_data: machine.spec.user_data.clone(),
        tags: fleet_tags(fleet),
    }
}

fn wanted_status(
    view: &MachineView<'_>,
    memory: &MachineMemory,
    machine: &Machine,
    status: &MachineStatus,
    instance: Option<&Instance>,
    phase: MachinePhase,
) -> MachineStatus {
    let mut wanted = status.clone();
    wanted.phase = phase;
    if let Some(instance) = instance {
        let address =
            |a: &crate::model::Address| MachineAddress { kind: a.kind.as_str().to_owned(), address: a.address.clone() };
        wanted.instance_id.clone_from(&instance.id.0);
        wanted.provider_id.clone_from(&instance.provider_id);
        wanted.addresses = instance.addresses.iter().map(address).collect();
    }
    let uid = machine.metadata.uid.as_deref().unwrap_or_default();
    let (ready, reason, message) = match (phase, memory.refused.get(uid)) {
        (MachinePhase::Running, _) => ("True", "NodeJoined", "its node joined".to_owned()),
        (MachinePhase::Failed, Some(error)) => ("False", "OrderRefused", error.to_string()),
        (MachinePhase::Failed, None) => ("False", "InstanceGone", "its instance is gone".to_owned()),
        (MachinePhase::Pending, _) => ("False", "Pending", String::new()),
        (MachinePhase::Provisioning, _) => ("False", "Provisioning", "ordered from the cloud".to_owned()),
        (MachinePhase::Booting, _) => ("False", "Booting", "the instance runs, its node has not joined".to_owned()),
        (MachinePhase::Deleting, _) => ("False", "Deleting", "the instance is being removed".to_owned()),
    };
    let old = wanted.conditions.iter().position(|c| c.type_ == "Ready");
    let since = old.map(|at| &wanted.conditions[at]).filter(|c| c.status == ready);
    let condition = Condition {
        type_: "Ready".to_owned(),
        status: ready.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: since.map_or(Time(view.now), |c| c.last_transition_time.clone()),
        observed_generation: machine.metadata.generation,
    };
    match old {
        Some(at) => wanted.conditions[at] = condition,
        None => wanted.conditions.push(condition),
    }
    wanted
}

/// Instances whose Machine is gone: removed once they are old enough, two listings showed them, and they are few.
fn sweep(view: &MachineView<'_>, memory: &mut MachineMemory, uids: &BTreeSet<&str>) -> Vec<Action> {
    let live: Vec<&Instance> = view.instances.iter().filter(|i| i.state != InstanceState::Gone).collect();
    let is_orphan = |i: &Instance| {
        i.resource().is_some_and(|uid| !uids.contains(uid)) && view.now.duration_since(i.created) >= ORPHAN_AGE
    };
    let orphans: Vec<&&Instance> = live.iter().filter(|i| is_orphan(i)).collect();
    let ids: BTreeSet<&InstanceId> = orphans.iter().map(|i| &i.id).collect();
    memory.orphans.retain(|id, _| ids.contains(id));
    let mass = is_mass_disappearance(orphans.len(), live.len());
    let mut actions = Vec::new();
    for instance in orphans {
        let seen = memory.orphans.entry(instance.id.clone()).or_insert((0, view.observed));
        if seen.0 == 0 || view.observed > seen.1 {
            *seen = (seen.0.saturating_add(1), view.observed);
        }
        if seen.0 < ORPHAN_LOOKS {
            continue;
        }
        let subject = Subject::absent(Kind::Machine, &instance.name);
        if !mass {
            actions.push(subject.call(CloudCall::DeleteMachine(instance.id.clone())));
        } else if seen.0 == ORPHAN_LOOKS && seen.1 == view.observed {
            let message = format!("instance {} belongs to no Machine, as do too many others to remove", instance.id);
            actions.push(subject.act(Act::Alarm { reason: "MassOrphans", message }));
        }
    }
    actions
}

#[cfg(test)]
#[path = "machines_tests.rs"]
mod tests;
