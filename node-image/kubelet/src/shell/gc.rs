//! Housekeeping: logs, dead containers, images, folders and cgroups of pods that are gone, and eviction when the
//! node runs short. Looks at a fixed pace; the decisions are elsewhere.

use super::kubelet::Shared;
use super::{logs, machine};
use crate::decide::eviction::{Pressure, pressures, victim};
use crate::decide::gc::{DeadContainer, StoredImage, containers_to_remove, images_to_remove};
use crate::decide::model::RunState;
use crate::decide::names::{CONTAINER_NAME, Labels as _, POD_UID, RESTART_COUNT};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use timonel_cri::cri::ContainerState;
use timonel_runtime::OnError;

/// Shortages and logs are looked at this often; the rest at every so manieth look.
const PERIOD: Duration = Duration::from_secs(10);
const CLEANING_TICKS: u32 = 6;
const IMAGE_TICKS: u32 = 30;

/// When an image was first seen and last used.
type Seen = BTreeMap<String, (Timestamp, Timestamp)>;

pub(crate) fn run(shared: &Arc<Shared>) {
    let this = shared.clone();
    shared.tasks.spawn("housekeeping", OnError::Log, async move {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut seen = BTreeMap::new();
        let mut tick: u32 = 0;
        loop {
            ticks.tick().await;
            tick = tick.wrapping_add(1);
            evict(&this);
            rotate(&this).await;
            if tick.is_multiple_of(CLEANING_TICKS) {
                clean(&this).await;
            }
            if tick.is_multiple_of(IMAGE_TICKS) {
                images(&this, &mut seen).await;
            }
        }
        #[allow(unreachable_code, reason = "gives the block its error type")]
        Ok::<(), std::convert::Infallible>(())
    });
}

fn evict(shared: &Arc<Shared>) {
    let free = machine::free(&shared.config.root_dir);
    let short = pressures(&free, &shared.config.eviction);
    if short.is_empty() {
        return;
    }
    shared.node_changed.notify_one();
    for pressure in short {
        let pods = shared.live_pods();
        let running = pods
            .iter()
            .filter(|pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running")));
        let usage = |pod: &Pod| match pressure {
            Pressure::Memory => shared.cgroups.memory(&shared.cgroups.path(pod)).unwrap_or(0),
            Pressure::Disk | Pressure::Pids => 0,
        };
        let ranked: Vec<(&Pod, u64)> = running.map(|pod| (pod, usage(pod))).collect();
        let Some(chosen) = victim(&ranked, pressure) else { continue };
        let message = format!("The node was low on resource: {}. ", pressure.resource());
        shared.events.pod(chosen, true, "Evicted", message.clone());
        let uid = chosen.metadata.uid.as_deref().unwrap_or_default();
        if let Some(entry) = shared.pods.lock().get(uid) {
            entry.signals.evict("Evicted", message);
        }
        return;
    }
}

async fn rotate(shared: &Arc<Shared>) {
    let running: Vec<(String, String)> = {
        let pods = shared.pods.lock();
        let seen = pods.values().map(|entry| entry.observed.lock().clone());
        seen.flat_map(|observed| {
            let running = observed.containers.iter().filter(|one| one.state == RunState::Running);
            running.map(|one| (one.id.clone(), one.log_path.clone())).collect::<Vec<_>>()
        })
        .collect()
    };
    let config = &shared.config;
    for (id, path) in running {
        let done = logs::rotate(
            &shared.runtime,
            &id,
            Path::new(&path),
            config.log_max_bytes,
            config.log_max_files,
            config.clock.now(),
        );
        if let Err(error) = done.await {
            tracing::warn!(path, %error, "log rotation");
        }
    }
}

/// Dead containers, and what pods left that are gone.
async fn clean(shared: &Arc<Shared>) {
    if !shared.listed() {
        return;
    }
    let known: BTreeSet<String> = shared.pods.lock().keys().cloned().collect();
    let Ok(containers) = shared.runtime.containers(None).await else { return };
    let dead: Vec<DeadContainer> = containers
        .iter()
        .filter(|one| one.state() == ContainerState::ContainerExited)
        .filter_map(|one| {
            let uid = one.labels.label(POD_UID)?.to_owned();
            Some(DeadContainer {
                id: one.id.clone(),
                pod_known: known.contains(&uid),
                pod_uid: uid,
                name: one.labels.label(CONTAINER_NAME).unwrap_or_default().to_owned(),
                attempt: one.annotations.label(RESTART_COUNT).and_then(|count| count.parse().ok()).unwrap_or(0),
            })
        })
        .collect();
    for id in containers_to_remove(&dead) {
        if let Err(error) = shared.runtime.remove(&id).await {
            tracing::debug!(id, %error, "remove a dead container");
        }
    }
    let alive: BTreeSet<&str> = containers.iter().filter_map(|one| one.labels.label(POD_UID)).collect();
    for uid in shared.volumes.pods() {
        if !known.contains(&uid)
            && !alive.contains(uid.as_str())
            && let Err(error) = shared.volumes.tear_down(&uid, true).await
        {
            tracing::warn!(uid, %error, "folder of a pod that is gone");
        }
    }
    for (uid, path) in shared.cgroups.pods() {
        if !known.contains(&uid) && !alive.contains(uid.as_str()) {
            shared.cgroups.remove(&path).await;
        }
    }
}

async fn images(shared: &Arc<Shared>, seen: &mut Seen) {
    let now = shared.config.clock.now();
    let answers =
        tokio::try_join!(shared.runtime.list_images(), shared.runtime.containers(None), shared.runtime.image_fs());
    let Ok((images, containers, file_systems)) = answers else { return };
    let used: BTreeSet<&str> = containers.iter().map(|one| one.image_ref.as_str()).collect();
    let brought = shared.config.brought_images.borrow().names.clone();
    let stored: Vec<StoredImage> = {
        seen.retain(|id, _| images.iter().any(|image| image.id == *id));
        images
            .iter()
            .map(|image| {
                let in_use = used.contains(image.id.as_str())
                    || image.repo_digests.iter().chain(&image.repo_tags).any(|name| used.contains(name.as_str()));
                let times = seen.entry(image.id.clone()).or_insert((now, now));
                if in_use {
                    times.1 = now;
                }
                StoredImage {
                    id: image.id.clone(),
                    bytes: image.size,
                    used: in_use,
                    pinned: image.pinned
                        || image.repo_tags.iter().any(|tag| tag.contains("/pause:") || brought.contains(tag)),
                    first_seen: times.0,
                    last_used: times.1,
                }
            })
            .collect()
    };
    let mount = file_systems.first().and_then(|one| one.fs_id.clone()).map(|id| id.mountpoint);
    let (total, free) = machine::disk(Path::new(mount.as_deref().unwrap_or("/")));
    for id in images_to_remove(&stored, total.saturating_sub(free), total, &shared.config.image_gc, now) {
        if let Err(error) = shared.runtime.remove_image(&id).await {
            tracing::warn!(id, %error, "remove an image");
        }
    }
}
