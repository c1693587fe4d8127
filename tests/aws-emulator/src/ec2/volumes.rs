//! Volumes: made, changed while in use, removed, listed.

use super::model::{AttachState, Modification, Tags, Volume, VolumeShape, VolumeState};
use super::{moment, show, tags};
use crate::call::{Call, Outcome};
use crate::config::Config;
use crate::error::{AwsError, refuse};
use crate::filters::{maybe, one};
use crate::form::Tree;
use crate::ids::Kind;
use crate::region::{Region, Timer};
use crate::xml::{Node, done, group, items, show as shown, text};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// What each type allows: sizes in GiB, operations a second, throughput in MiB/s (0: none may be given).
type Limits = (&'static str, (u32, u32), (u32, u32), (u32, u32));

const LIMITS: [Limits; 7] = [
    ("gp3", (1, 65_536), (3_000, 80_000), (125, 2_000)),
    ("gp2", (1, 16_384), (0, 0), (0, 0)),
    ("io1", (4, 16_384), (100, 64_000), (0, 0)),
    ("io2", (4, 65_536), (100, 256_000), (0, 0)),
    ("st1", (125, 16_384), (0, 0), (0, 0)),
    ("sc1", (125, 16_384), (0, 0), (0, 0)),
    ("standard", (1, 1_024), (0, 0), (0, 0)),
];

/// The shape that a request asks for; `size` names its member for the size.
pub(super) fn shape(spec: &Tree, size: &str, otherwise: u32) -> VolumeShape {
    let kind = spec.text_or("VolumeType", "gp2").to_owned();
    let size = spec.small(size).unwrap_or(otherwise);
    complete(VolumeShape {
        iops: spec.small("Iops"),
        throughput: spec.small("Throughput"),
        multi_attach: spec.flag("MultiAttachEnabled").unwrap_or(false),
        kind,
        size,
    })
}

/// Fills in what a type has when nothing is said.
fn complete(mut shape: VolumeShape) -> VolumeShape {
    match shape.kind.as_str() {
        "gp3" => {
            shape.iops = shape.iops.or(Some(3_000));
            shape.throughput = shape.throughput.or(Some(125));
        }
        "gp2" => shape.iops = Some((shape.size.saturating_mul(3)).clamp(100, 16_000)),
        _ => {}
    }
    shape
}

fn check(shape: &VolumeShape, given: &Tree) -> Result<(), AwsError> {
    let wrong = |message: String| Err(refuse("InvalidParameterValue", message));
    let Some((name, sizes, iops, throughput)) = LIMITS.iter().find(|limits| limits.0 == shape.kind) else {
        return wrong(format!("Invalid value '{}' for VolumeType.", shape.kind));
    };
    if !(sizes.0..=sizes.1).contains(&shape.size) {
        let message = format!(
            "Volume of {}GiB is out of the range of {name} volumes ({} to {}GiB).",
            shape.size, sizes.0, sizes.1
        );
        return wrong(message);
    }
    if iops.1 == 0 && given.has("Iops") {
        return Err(refuse(
            "InvalidParameterCombination",
            format!("The parameter iops is not supported for {name} volumes."),
        ));
    }
    if throughput.1 == 0 && given.has("Throughput") {
        let message = format!("The parameter throughput is not supported for {name} volumes.");
        return Err(refuse("InvalidParameterCombination", message));
    }
    if iops.1 > 0 {
        let Some(wanted) = shape.iops else {
            return Err(refuse(
                "MissingParameter",
                format!("The parameter iops must be specified for {name} volumes."),
            ));
        };
        let per_gib = if shape.kind == "io1" {
            50
        } else if shape.kind == "io2" {
            1_000
        } else {
            500
        };
        let most = iops.1.min(shape.size.saturating_mul(per_gib).max(iops.0));
        if !(iops.0..=most).contains(&wanted) {
            return wrong(format!("Volume iops of {wanted} is out of the range ({} to {most}).", iops.0));
        }
    }
    if let Some(wanted) = shape.throughput.filter(|_| throughput.1 > 0)
        && !(throughput.0..=throughput.1).contains(&wanted)
    {
        return wrong(format!(
            "Volume throughput of {wanted} is out of the range ({} to {}).",
            throughput.0, throughput.1
        ));
    }
    if shape.multi_attach && !["io1", "io2"].contains(&shape.kind.as_str()) {
        let message = format!("Multi-Attach is not supported for {name} volumes.");
        return Err(refuse("InvalidParameterCombination", message));
    }
    Ok(())
}

pub(super) fn create(call: &mut Call<'_>) -> Outcome {
    let tags = tags::of(call, Kind::Volume)?;
    let zone = call.must("AvailabilityZone")?.to_owned();
    if !call.region.zones().contains(&zone) {
        return Err(refuse("InvalidZone.NotFound", format!("The zone '{zone}' does not exist.")));
    }
    let snapshot = call.form.text("SnapshotId");
    let source = match snapshot {
        None => None,
        Some(id) => Some(call.region.snapshots.get(id).ok_or_else(|| Kind::Snapshot.missing(id))?),
    };
    let size = source.map_or(0, |it| it.size);
    if size == 0 && !call.form.has("Size") {
        return Err(refuse("MissingParameter", "The request must contain the parameter size/snapshot"));
    }
    if let Some(source) = source.filter(|it| !it.completed) {
        let message =
            format!("Snapshot is in invalid state - {}", if source.completed { "completed" } else { "pending" });
        return Err(refuse("IncorrectState", message));
    }
    let shape = shape(call.form, "Size", size);
    check(&shape, call.form)?;
    if shape.size < size {
        return Err(refuse(
            "InvalidParameterValue",
            format!("Volume of size {}GB is smaller than snapshot, expect size >= {size}GB", shape.size),
        ));
    }
    if call.region.volumes.len() >= call.config.quotas.volumes {
        return Err(refuse("VolumeLimitExceeded", "The maximum number of volumes has been reached."));
    }
    let key = call.form.text("KmsKeyId").map(str::to_owned).or_else(|| source.and_then(|it| it.key.clone()));
    let encrypted = call.form.flag("Encrypted").unwrap_or(false) || source.is_some_and(|it| it.encrypted);
    if call.form.has("KmsKeyId") && !encrypted {
        return Err(refuse(
            "InvalidParameterDependency",
            "The parameter KmsKeyId requires the parameter Encrypted to be set.",
        ));
    }
    let own_key = format!("arn:aws:kms:{}:{}:key/aws-ebs", call.region.name, call.region.account);
    let volume = Volume {
        zone,
        shape,
        state: VolumeState::Creating,
        created: call.now,
        snapshot: snapshot.map(str::to_owned),
        encrypted,
        key: encrypted.then(|| key.unwrap_or(own_key)),
        attachments: BTreeMap::new(),
        modification: None,
        tags,
    };
    let id = call.region.id(Kind::Volume);
    let answer = nodes(&id, &volume);
    call.region.volumes.insert(&id, volume, call.now);
    call.region.after(call.now, call.config.timings.volume_creating, Timer::Volume(id));
    Ok(answer)
}

pub(super) fn delete(call: &mut Call<'_>) -> Outcome {
    let id = call.must("VolumeId")?.to_owned();
    let volume = call.region.volumes.get(&id).ok_or_else(|| Kind::Volume.missing(&id))?;
    if let Some(instance) = volume.attachments.keys().next() {
        return Err(refuse("VolumeInUse", format!("Volume {id} is currently attached to {instance}")));
    }
    if volume.state != VolumeState::Available {
        return Err(refuse("IncorrectState", format!("Volume '{id}' is in state '{}'.", volume.state.word())));
    }
    call.region.volumes.remove(&id, call.now);
    Ok(done())
}

pub(super) fn modify(call: &mut Call<'_>) -> Outcome {
    let id = call.must("VolumeId")?.to_owned();
    let volume = call.region.volumes.get(&id).ok_or_else(|| Kind::Volume.missing(&id))?;
    if volume.state == VolumeState::Creating {
        return Err(refuse("IncorrectState", format!("Volume {id} is in state 'creating'.")));
    }
    if let Some(last) = &volume.modification {
        if last.state != "completed" {
            let message = format!(
                "You've reached the maximum modification rate per volume limit. Wait until the modification of {id} is completed."
            );
            let code =
                if last.state == "modifying" { "IncorrectModificationState" } else { "VolumeModificationRateExceeded" };
            return Err(refuse(code, message));
        }
        let passed = call.now.duration_since(last.started).as_millis();
        if passed < i128::from(call.config.timings.modification_pause) {
            let message = "You've reached the maximum modification rate per volume limit. Wait at least 6 hours between modifications per EBS volume.";
            return Err(refuse("VolumeModificationRateExceeded", message));
        }
    }
    let from = volume.shape.clone();
    let kind = call.form.text_or("VolumeType", &from.kind).to_owned();
    let same = kind == from.kind;
    let to = complete(VolumeShape {
        size: call.form.small("Size").unwrap_or(from.size),
        iops: call.form.small("Iops").or(from.iops.filter(|_| same)),
        throughput: call.form.small("Throughput").or(from.throughput.filter(|_| same)),
        multi_attach: call.form.flag("MultiAttachEnabled").unwrap_or(from.multi_attach),
        kind,
    });
    if to.size < from.size {
        return Err(refuse("InvalidParameterValue", "New size cannot be smaller than existing size"));
    }
    if to == from {
        return Err(refuse("InvalidParameterValue", "The volume has these properties already"));
    }
    check(&to, call.form)?;
    let modification = Modification { from, to, state: "modifying", started: call.now, ended: None };
    let answer = vec![group("volumeModification", modification_nodes(&id, &modification, call.now, call.config))];
    call.region.volumes.edit(&id, call.now).into_iter().for_each(|it| it.modification = Some(modification.clone()));
    call.region.after(call.now, call.config.timings.modifying, Timer::Modification(id));
    Ok(answer)
}

fn modification_nodes(id: &str, it: &Modification, now: Timestamp, config: &Config) -> Vec<Node> {
    let total = config.timings.modifying + config.timings.optimizing;
    let passed = u64::try_from(now.duration_since(it.started).as_millis()).unwrap_or(0);
    let progress = if it.state == "completed" { 100 } else { (passed * 100).checked_div(total).unwrap_or(0).min(99) };
    let mut nodes = vec![
        text("volumeId", id),
        text("modificationState", it.state),
        shown("progress", progress),
        text("startTime", moment(it.started)),
        shown("originalSize", it.from.size),
        text("originalVolumeType", &it.from.kind),
        shown("originalMultiAttachEnabled", it.from.multi_attach),
        shown("targetSize", it.to.size),
        text("targetVolumeType", &it.to.kind),
        shown("targetMultiAttachEnabled", it.to.multi_attach),
    ];
    nodes.extend(it.from.iops.map(|value| shown("originalIops", value)));
    nodes.extend(it.to.iops.map(|value| shown("targetIops", value)));
    nodes.extend(it.from.throughput.map(|value| shown("originalThroughput", value)));
    nodes.extend(it.to.throughput.map(|value| shown("targetThroughput", value)));
    nodes.extend(it.ended.map(|ended| text("endTime", moment(ended))));
    nodes
}

pub(super) fn describe(call: &mut Call<'_>) -> Outcome {
    let region = &*call.region;
    let missing = |id: &str| Kind::Volume.missing(id);
    let (found, token) = call.describe(&region.volumes, "VolumeId", missing, |filters, id, it| {
        filters.hold(&it.tags, |name| match name {
            "volume-id" => one(id),
            "status" => one(it.state.word()),
            "availability-zone" => one(&it.zone),
            "volume-type" => one(&it.shape.kind),
            "size" => one(it.shape.size),
            "snapshot-id" => maybe(it.snapshot.as_ref()),
            "encrypted" => one(it.encrypted),
            "create-time" => one(moment(it.created)),
            "multi-attach-enabled" => one(it.shape.multi_attach),
            "attachment.instance-id" => it.attachments.keys().cloned().collect(),
            "attachment.status" => it.attachments.values().map(|at| at.state.word().to_owned()).collect(),
            "attachment.device" => it.attachments.values().map(|at| at.device.clone()).collect(),
            _ => Vec::new(),
        })
    })?;
    let mut answer = vec![items("volumeSet", found.into_iter().map(|(id, it)| nodes(id, it)))];
    answer.extend(call.token(token));
    Ok(answer)
}

pub(super) fn describe_modifications(call: &mut Call<'_>) -> Outcome {
    let region = &*call.region;
    let none = Tags::new();
    let missing = |id: &str| Kind::Volume.missing(id);
    let (found, token) = call.describe(&region.volumes, "VolumeId", missing, |filters, id, it| {
        let Some(modification) = &it.modification else { return false };
        filters.hold(&none, |name| match name {
            "modification-state" => one(modification.state),
            "original-size" => one(modification.from.size),
            "target-size" => one(modification.to.size),
            "original-volume-type" => one(&modification.from.kind),
            "target-volume-type" => one(&modification.to.kind),
            "volume-id" => one(id),
            _ => Vec::new(),
        })
    })?;
    if let Some(id) = call.form.list("VolumeId").into_iter().find(|id| !found.iter().any(|(it, _)| it == id)) {
        let message = format!("Modification for volume '{id}' does not exist.");
        return Err(refuse("InvalidVolumeModification.NotFound", message));
    }
    let all = found.into_iter().filter_map(|(id, it)| Some((id, it.modification.as_ref()?)));
    let all = all.map(|(id, it)| modification_nodes(id, it, call.now, call.config));
    let mut answer = vec![items("volumeModificationSet", all)];
    answer.extend(call.token(token));
    Ok(answer)
}

pub(super) fn describe_status(call: &mut Call<'_>) -> Outcome {
    let region = &*call.region;
    let none = Tags::new();
    let missing = |id: &str| Kind::Volume.missing(id);
    let (found, token) = call.describe(&region.volumes, "VolumeId", missing, |filters, _, it| {
        filters.hold(&none, |name| match name {
            "availability-zone" => one(&it.zone),
            "volume-status.status" => one("ok"),
            _ => Vec::new(),
        })
    })?;
    let passed = |name| vec![text("name", name), text("status", "passed")];
    let one = |(id, it): (&str, &Volume)| {
        let details = items("details", [passed("io-enabled")]);
        vec![
            text("volumeId", id),
            text("availabilityZone", &it.zone),
            group("volumeStatus", vec![text("status", "ok"), details]),
            items("eventsSet", []),
            items("actionsSet", []),
        ]
    };
    let mut answer = vec![items("volumeStatusSet", found.into_iter().map(one))];
    answer.extend(call.token(token));
    Ok(answer)
}

fn nodes(id: &str, it: &Volume) -> Vec<Node> {
    let attachment =
        |(instance, at): (&String, &super::model::VolumeAttachment)| super::attachments::nodes(id, instance, at, false);
    let mut nodes = vec![
        text("volumeId", id),
        shown("size", it.shape.size),
        text("snapshotId", it.snapshot.clone().unwrap_or_default()),
        text("availabilityZone", &it.zone),
        text("status", it.state.word()),
        text("createTime", moment(it.created)),
        items("attachmentSet", it.attachments.iter().map(attachment)),
        text("volumeType", &it.shape.kind),
        shown("encrypted", it.encrypted),
        shown("multiAttachEnabled", it.shape.multi_attach),
        show::tags(&it.tags),
    ];
    nodes.extend(it.shape.iops.map(|value| shown("iops", value)));
    nodes.extend(it.shape.throughput.map(|value| shown("throughput", value)));
    nodes.extend(it.key.as_ref().map(|key| text("kmsKeyId", key)));
    nodes
}

impl Region {
    /// A new volume can be used.
    pub(crate) fn volume_is_made(&mut self, id: &str, now: Timestamp) {
        if let Some(volume) = self.volumes.edit(id, now)
            && volume.state == VolumeState::Creating
        {
            volume.state = VolumeState::Available;
        }
    }

    /// A change of a volume goes on: the shape is there once it optimises.
    pub(crate) fn modification_moves(&mut self, config: &Config, id: &str, now: Timestamp) {
        let Some(volume) = self.volumes.edit(id, now) else { return };
        let Some(modification) = &mut volume.modification else { return };
        match modification.state {
            "modifying" => {
                modification.state = "optimizing";
                volume.shape = modification.to.clone();
                self.after(now, config.timings.optimizing, Timer::Modification(id.to_owned()));
            }
            "optimizing" => {
                modification.state = "completed";
                modification.ended = Some(now);
            }
            _ => {}
        }
    }

    /// How many volumes an instance holds that are not being detached.
    pub(crate) fn volumes_of(&self, instance: &str) -> usize {
        let Some(instance_facts) = self.instances.get(instance) else { return 0 };
        let held = |disk: &&super::model::Disk| {
            let at = self.volumes.get(&disk.volume).and_then(|volume| volume.attachments.get(instance));
            at.is_some_and(|at| at.state != AttachState::Detaching)
        };
        instance_facts.disks.values().filter(held).count()
    }
}
