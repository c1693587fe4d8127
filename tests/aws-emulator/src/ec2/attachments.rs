//! Volumes on instances: attaching, attached, detaching, gone.

use super::catalogue::InstanceType;
use super::model::{AttachState, Disk, InstanceState, VolumeAttachment, VolumeState};
use super::moment;
use crate::call::{Call, Outcome};
use crate::error::refuse;
use crate::events::Event;
use crate::ids::Kind;
use crate::region::{Region, Timer};
use crate::xml::{Node, show as shown, text};
use jiff::Timestamp;

pub(super) fn attach(call: &mut Call<'_>) -> Outcome {
    let (id, instance_id) = (call.must("VolumeId")?.to_owned(), call.must("InstanceId")?.to_owned());
    let device = call.must("Device")?.to_owned();
    let region = &mut *call.region;
    let volume = region.volumes.get(&id).ok_or_else(|| Kind::Volume.missing(&id))?;
    let instance = region.instances.get(&instance_id).ok_or_else(|| Kind::Instance.missing(&instance_id))?;
    if !device.starts_with("/dev/") {
        let message =
            format!("Value ({device}) for parameter device is invalid. {device} is not a valid EBS device name.");
        return Err(refuse("InvalidParameterValue", message));
    }
    if volume.zone != instance.zone {
        let message = format!("The volume '{id}' is not in the same availability zone as instance '{instance_id}'");
        return Err(refuse("InvalidVolume.ZoneMismatch", message));
    }
    if !matches!(instance.state, InstanceState::Running | InstanceState::Stopped) {
        let message = format!("Instance '{instance_id}' is not 'running'.");
        return Err(refuse("IncorrectState", message));
    }
    if volume.attachments.contains_key(&instance_id) || (!volume.attachments.is_empty() && !volume.shape.multi_attach) {
        return Err(refuse("VolumeInUse", format!("{id} is already attached to an instance")));
    }
    if volume.state == VolumeState::Creating {
        return Err(refuse("IncorrectState", format!("{id} is not 'available'.")));
    }
    if instance.disks.contains_key(&device) {
        let message = format!("Invalid value '{device}' for unixDevice. Attachment point {device} is already in use");
        return Err(refuse("InvalidParameterValue", message));
    }
    let kind = InstanceType::named(&instance.kind);
    let most = kind.map_or(0, |kind| kind.volumes(instance.interfaces.len()));
    if region.volumes_of(&instance_id) >= most {
        let message = format!("The maximum number of volumes ({most}) is attached to instance '{instance_id}'.");
        return Err(refuse("AttachmentLimitExceeded", message));
    }
    let timer = Timer::Attachment(id.clone(), instance_id.clone());
    let when = region.after(call.now, call.config.timings.attaching, timer);
    let attachment =
        VolumeAttachment { device: device.clone(), state: AttachState::Attaching, at: call.now, moves: Some(when) };
    let answer = nodes(&id, &instance_id, &attachment, false);
    if let Some(volume) = region.volumes.edit(&id, call.now) {
        volume.state = VolumeState::InUse;
        volume.attachments.insert(instance_id.clone(), attachment);
    }
    if let Some(instance) = region.instances.edit(&instance_id, call.now) {
        instance.disks.insert(device, Disk { volume: id, delete_on_termination: false });
    }
    Ok(answer)
}

pub(super) fn detach(call: &mut Call<'_>) -> Outcome {
    let id = call.must("VolumeId")?.to_owned();
    let region = &mut *call.region;
    let volume = region.volumes.get(&id).ok_or_else(|| Kind::Volume.missing(&id))?;
    let wanted = call.form.text("InstanceId");
    if volume.attachments.is_empty() {
        return Err(refuse("IncorrectState", format!("Volume '{id}' is in the 'available' state.")));
    }
    if volume.attachments.len() > 1 && wanted.is_none() {
        let message = format!("Volume {id} is attached to several instances: the request must name one");
        return Err(refuse("InvalidParameterCombination", message));
    }
    let found = volume.attachments.iter().find(|(instance, _)| wanted.is_none_or(|wanted| wanted == *instance));
    let found = found.filter(|(_, at)| call.form.text("Device").is_none_or(|device| device == at.device));
    let (instance, at) = found.ok_or_else(|| {
        let message = format!("The volume '{id}' is not attached to instance '{}'.", wanted.unwrap_or_default());
        refuse("InvalidAttachment.NotFound", message)
    })?;
    let (instance, device) = (instance.clone(), at.device.clone());
    let root = region.instances.get(&instance).filter(|it| it.root_device == device);
    if root.is_some_and(|it| it.state != InstanceState::Stopped) {
        let message = format!("Unable to detach root volume '{id}' from instance '{instance}'");
        return Err(refuse("OperationNotPermitted", message));
    }
    let was_busy = at.state == AttachState::Busy;
    let force = call.form.flag("Force").unwrap_or(false);
    if was_busy && !force {
        let answer = nodes(&id, &instance, &VolumeAttachment { state: AttachState::Busy, ..at.clone() }, false);
        return Ok(answer);
    }
    let timer = Timer::Attachment(id.clone(), instance.clone());
    let when = region.after(call.now, call.config.timings.detaching, timer);
    let mut answer = Vec::new();
    if let Some(at) = region.volumes.edit(&id, call.now).and_then(|volume| volume.attachments.get_mut(&instance)) {
        at.state = AttachState::Detaching;
        at.moves = Some(when);
        answer = nodes(&id, &instance, at, false);
    }
    Ok(answer)
}

/// An attachment.
pub(super) fn nodes(volume: &str, instance: &str, at: &VolumeAttachment, delete_on_termination: bool) -> Vec<Node> {
    vec![
        text("volumeId", volume),
        text("instanceId", instance),
        text("device", &at.device),
        text("status", at.state.word()),
        text("attachTime", moment(at.at)),
        shown("deleteOnTermination", delete_on_termination),
    ]
}

impl Region {
    /// An attachment is made, or gone.
    pub(crate) fn attachment_moves(&mut self, volume: &str, instance: &str, now: Timestamp) {
        let at = self.volumes.get(volume).and_then(|it| it.attachments.get(instance));
        let Some(at) = at.filter(|at| at.moves == Some(now)) else { return };
        let (state, device) = (at.state, at.device.clone());
        if state == AttachState::Attaching {
            if let Some(at) = self.volumes.edit(volume, now).and_then(|it| it.attachments.get_mut(instance)) {
                at.state = AttachState::Attached;
                at.moves = None;
            }
            let (volume, instance) = (volume.to_owned(), instance.to_owned());
            self.events.push(now, Event::VolumeAttached { volume, instance, device });
        } else if state == AttachState::Detaching {
            if let Some(instance) = self.instances.edit(instance, now) {
                instance.disks.retain(|_, disk| disk.volume != volume);
            }
            self.loosen(volume, instance, now);
        }
    }

    /// A volume's host does not let go of it until it is forced; whether it is attached there.
    pub(crate) fn stick(&mut self, volume: &str, instance: &str, now: Timestamp) -> bool {
        let at = self.volumes.edit(volume, now).and_then(|it| it.attachments.get_mut(instance));
        at.map(|at| at.state = AttachState::Busy).is_some()
    }
}
