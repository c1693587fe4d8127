//! Snapshots.

use super::model::{Snapshot, VolumeState};
use super::{moment, show, tags};
use crate::call::{Call, Outcome};
use crate::error::refuse;
use crate::filters::one;
use crate::ids::Kind;
use crate::region::{Region, Timer};
use crate::xml::{Node, done, items, show as shown, text};
use jiff::Timestamp;

pub(super) fn create(call: &mut Call<'_>) -> Outcome {
    let tags = tags::of(call, Kind::Snapshot)?;
    let volume_id = call.must("VolumeId")?.to_owned();
    let volume = call.region.volumes.get(&volume_id).ok_or_else(|| Kind::Volume.missing(&volume_id))?;
    if volume.state == VolumeState::Creating {
        return Err(refuse("IncorrectState", format!("Volume '{volume_id}' is in state 'creating'.")));
    }
    if call.region.snapshots.len() >= call.config.quotas.snapshots {
        return Err(refuse("SnapshotLimitExceeded", "The maximum number of snapshots has been reached."));
    }
    let busy = |it: &Snapshot| it.volume == volume_id && !it.completed;
    if call.region.snapshots.iter().filter(|(_, it)| busy(it)).count() >= 5 {
        let message = format!("Maximum number of pending snapshots exceeded for volume {volume_id}");
        return Err(refuse("ConcurrentSnapshotLimitExceeded", message));
    }
    let (size, encrypted, key) = (volume.shape.size, volume.encrypted, volume.key.clone());
    let id = call.region.id(Kind::Snapshot);
    let ready = call.region.after(call.now, call.config.timings.snapshot, Timer::Snapshot(id.clone()));
    let snapshot = Snapshot {
        volume: volume_id,
        size,
        description: call.form.text_or("Description", "").to_owned(),
        started: call.now,
        ready,
        completed: false,
        encrypted,
        key,
        tags,
    };
    let answer = nodes(call.region, &id, &snapshot, call.now);
    call.region.snapshots.insert(&id, snapshot, call.now);
    Ok(answer)
}

pub(super) fn delete(call: &mut Call<'_>) -> Outcome {
    let id = call.must("SnapshotId")?.to_owned();
    call.region.snapshots.get(&id).ok_or_else(|| Kind::Snapshot.missing(&id))?;
    if let Some((image, _)) = call.region.images.iter().find(|(_, it)| it.root_snapshot == id) {
        return Err(refuse("InvalidSnapshot.InUse", format!("The snapshot {id} is currently in use by {image}")));
    }
    call.region.snapshots.remove(&id, call.now);
    Ok(done())
}

pub(super) fn describe(call: &mut Call<'_>) -> Outcome {
    let region = &*call.region;
    let owners = call.form.list("Owner");
    let own = owners.is_empty() || owners.iter().any(|it| *it == "self" || *it == region.account);
    let missing = |id: &str| Kind::Snapshot.missing(id);
    let (found, token) = call.describe(&region.snapshots, "SnapshotId", missing, |filters, id, it| {
        own && filters.hold(&it.tags, |name| match name {
            "snapshot-id" => one(id),
            "volume-id" => one(&it.volume),
            "status" => one(if it.completed { "completed" } else { "pending" }),
            "owner-id" => one(&region.account),
            "description" => one(&it.description),
            "volume-size" => one(it.size),
            "progress" => one(progress(it, call.now)),
            "encrypted" => one(it.encrypted),
            "start-time" => one(moment(it.started)),
            _ => Vec::new(),
        })
    })?;
    let mut answer = vec![items("snapshotSet", found.into_iter().map(|(id, it)| nodes(region, id, it, call.now)))];
    answer.extend(call.token(token));
    Ok(answer)
}

fn progress(it: &Snapshot, now: Timestamp) -> String {
    if it.completed {
        return "100%".to_owned();
    }
    let total = it.ready.duration_since(it.started).as_millis().max(1);
    let passed = now.duration_since(it.started).as_millis();
    format!("{}%", (passed * 100 / total).clamp(0, 99))
}

fn nodes(region: &Region, id: &str, it: &Snapshot, now: Timestamp) -> Vec<Node> {
    let mut nodes = vec![
        text("snapshotId", id),
        text("volumeId", &it.volume),
        text("status", if it.completed { "completed" } else { "pending" }),
        text("startTime", moment(it.started)),
        text("progress", progress(it, now)),
        text("ownerId", &region.account),
        shown("volumeSize", it.size),
        text("description", &it.description),
        shown("encrypted", it.encrypted),
        text("storageTier", "standard"),
        show::tags(&it.tags),
    ];
    nodes.extend(it.key.as_ref().map(|key| text("kmsKeyId", key)));
    nodes
}

impl Region {
    /// A snapshot can be used.
    pub(crate) fn snapshot_is_made(&mut self, id: &str, now: Timestamp) {
        self.snapshots.edit(id, now).into_iter().for_each(|it| it.completed = true);
    }
}
