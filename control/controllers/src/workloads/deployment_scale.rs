//! The sizes of a deployment's replica sets: how a rollout grows the new one and shrinks the old ones, and how a
//! change of the deployment's size is shared among them. Pure arithmetic.

use super::deployment::{MAX, Rollout, size};
use crate::common::objects::{annotation, created};
use k8s_openapi::api::apps::v1::ReplicaSet;
use std::{cmp::Reverse, sync::Arc};

/// A replica set and the size it should get.
#[derive(Debug)]
pub(super) struct Scale<'a> {
    pub(super) set: &'a Arc<ReplicaSet>,
    pub(super) to: i32,
    /// Whether the annotations are worth a write of their own.
    pub(super) annotate: bool,
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// The size that the new replica set may grow to from `size`, within the surge.
pub(super) fn room_to_grow(rollout: &Rollout<'_>, from: i32) -> i32 {
    let total: i32 = rollout.all().map(|set| size(set)).sum();
    let room = rollout.wanted().saturating_add(rollout.surge()).saturating_sub(total);
    if room <= 0 { from } else { from + room.min(rollout.wanted() - from).max(0) }
}

/// One step of a rolling update: grow the new one if there is room, else shrink the old ones.
pub(super) fn roll<'a>(rollout: &Rollout<'a>, new: &'a Arc<ReplicaSet>) -> Vec<Scale<'a>> {
    let (wanted, present) = (rollout.wanted(), size(new));
    let to = if present > wanted { wanted } else { room_to_grow(rollout, present) };
    if to != present {
        return vec![Scale { set: new, to, annotate: false }];
    }
    let total: i32 = rollout.all().map(|set| size(set)).sum();
    let least = wanted - rollout.unavailable();
    let room = total - least - (present - available(new));
    if room <= 0 {
        return Vec::new();
    }
    let mut sizes: Vec<(&Arc<ReplicaSet>, i32)> = rollout.old.iter().map(|set| (*set, size(set))).collect();
    // Pods that do not work go first: they would block the rollout, and nobody misses them.
    let mut left = room;
    for (set, size) in &mut sizes {
        let useless = (*size - available(set)).clamp(0, left);
        *size -= useless;
        left -= useless;
    }
    let mut spare = rollout.all().map(|set| available(set)).sum::<i32>() - least;
    for (_, size) in &mut sizes {
        let gone = (*size).clamp(0, spare.max(0));
        *size -= gone;
        spare -= gone;
    }
    sizes.into_iter().map(|(set, to)| Scale { set, to, annotate: false }).collect()
}

/// One step of a recreation: all old ones to nothing, then the new one to full size once no old pod runs.
pub(super) fn recreate<'a>(rollout: &Rollout<'a>, old_pods_run: bool) -> Vec<Scale<'a>> {
    let shrink: Vec<_> = rollout.old.iter().filter(|set| size(set) > 0).collect();
    if !shrink.is_empty() {
        return shrink.into_iter().map(|set| Scale { set, to: 0, annotate: false }).collect();
    }
    let new = rollout.new.filter(|_| !old_pods_run);
    new.map(|set| Scale { set, to: rollout.wanted(), annotate: false }).into_iter().collect()
}

/// Shares a change of the deployment's size among its replica sets in proportion to theirs.
pub(super) fn proportional<'a>(rollout: &Rollout<'a>) -> Vec<Scale<'a>> {
    let active: Vec<_> = rollout.all().filter(|set| size(set) > 0).collect();
    let latest = || rollout.new.or_else(|| rollout.old.iter().copied().max_by_key(|set| created(&set.metadata)));
    let sole = match active.as_slice() {
        [] => latest(),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(set) = sole {
        return vec![Scale { set, to: rollout.wanted(), annotate: true }];
    }
    if rollout.new.is_some_and(|new| size(new) == rollout.wanted() && available(new) == rollout.wanted()) {
        let old = rollout.old.iter().copied().filter(|set| size(set) > 0);
        return old.map(|set| Scale { set, to: 0, annotate: false }).collect();
    }
    if rollout.recreates() || active.is_empty() {
        return Vec::new();
    }
    share(rollout, active)
}

fn share<'a>(rollout: &Rollout<'a>, mut sets: Vec<&'a Arc<ReplicaSet>>) -> Vec<Scale<'a>> {
    let total: i32 = sets.iter().map(|set| size(set)).sum();
    let allowed = if rollout.wanted() > 0 { rollout.wanted() + rollout.surge() } else { 0 };
    let change = allowed - total;
    if change >= 0 {
        sets.sort_by_key(|set| (Reverse(size(set)), Reverse(created(&set.metadata))));
    } else {
        sets.sort_by_key(|set| (Reverse(size(set)), created(&set.metadata)));
    }
    let mut given = 0;
    let mut scales: Vec<Scale<'a>> = Vec::new();
    for set in sets {
        let part = if change == 0 { 0 } else { proportion(rollout, set, change, given) };
        given += part;
        scales.push(Scale { set, to: size(set) + part, annotate: true });
    }
    if let Some(first) = scales.first_mut() {
        first.to = (first.to + change - given).max(0);
    }
    scales
}

/// The part of `change` that falls to `set` when `given` is already shared out.
fn proportion(rollout: &Rollout<'_>, set: &ReplicaSet, change: i32, given: i32) -> i32 {
    let allowed = change - given;
    let fraction = if rollout.wanted() == 0 {
        -size(set)
    } else {
        let known = annotation(&set.metadata, MAX).and_then(|max| max.parse::<i32>().ok()).filter(|max| *max != 0);
        let replicas = || rollout.deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
        let before = known.unwrap_or_else(replicas);
        if before == 0 {
            return 0;
        }
        let new = f64::from(size(set)) * f64::from(rollout.wanted() + rollout.surge()) / f64::from(before);
        // Sizes are far below 2^31, so that the rounded value fits.
        new.round() as i32 - size(set)
    };
    if change > 0 { fraction.min(allowed) } else { fraction.max(allowed) }
}
