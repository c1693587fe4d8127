//! What may go: images nobody uses when the disk fills, and dead containers that nobody will ask for.

use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// Disk usage, in per cent, between which images are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageThresholds {
    /// Removal starts above this.
    pub high_percent: u64,
    /// And goes on down to this.
    pub low_percent: u64,
}

impl Default for ImageThresholds {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80 }
    }
}

/// An image younger than this stays: it was pulled for a container about to start.
const LEAST_IMAGE_AGE: SignedDuration = SignedDuration::from_mins(2);

/// An image as the collector sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredImage {
    pub(crate) id: String,
    pub(crate) bytes: u64,
    pub(crate) used: bool,
    pub(crate) pinned: bool,
    pub(crate) first_seen: Timestamp,
    pub(crate) last_used: Timestamp,
}

/// Images to remove, the longest unused first, until usage falls to the low mark.
pub(crate) fn images_to_remove(
    images: &[StoredImage],
    used_bytes: u64,
    total_bytes: u64,
    thresholds: &ImageThresholds,
    now: Timestamp,
) -> Vec<String> {
    if total_bytes == 0 || used_bytes * 100 / total_bytes < thresholds.high_percent {
        return Vec::new();
    }
    let mut to_free = used_bytes.saturating_sub(total_bytes / 100 * thresholds.low_percent);
    let idle =
        |image: &&StoredImage| !image.used && !image.pinned && now.duration_since(image.first_seen) >= LEAST_IMAGE_AGE;
    let mut idle: Vec<&StoredImage> = images.iter().filter(idle).collect();
    idle.sort_by_key(|image| (image.last_used, image.first_seen, image.id.clone()));
    let mut out = Vec::new();
    for image in idle {
        if to_free == 0 {
            break;
        }
        to_free = to_free.saturating_sub(image.bytes);
        out.push(image.id.clone());
    }
    out
}

/// A dead run of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeadContainer {
    pub(crate) id: String,
    pub(crate) pod_uid: String,
    pub(crate) name: String,
    pub(crate) attempt: u32,
    pub(crate) pod_known: bool,
}

/// Dead runs kept per container of a living pod: one for `logs --previous`, besides the newest.
const KEPT_PER_CONTAINER: usize = 2;

/// Dead containers to remove: all of pods that are gone, and all but the newest of living ones.
pub(crate) fn containers_to_remove(dead: &[DeadContainer]) -> Vec<String> {
    let mut by_container: BTreeMap<(&str, &str), Vec<&DeadContainer>> = BTreeMap::new();
    for one in dead {
        by_container.entry((&one.pod_uid, &one.name)).or_default().push(one);
    }
    let mut out = Vec::new();
    for runs in by_container.values_mut() {
        runs.sort_by_key(|run| std::cmp::Reverse((run.attempt, run.id.clone())));
        let keep = if runs[0].pod_known { KEPT_PER_CONTAINER } else { 0 };
        out.extend(runs.iter().skip(keep).map(|run| run.id.clone()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, bytes: u64, used: bool, age: i64, idle: i64) -> StoredImage {
        let now = Timestamp::from_second(10_000).expect("time");
        let ago = |seconds| now - SignedDuration::from_secs(seconds);
        StoredImage { id: id.into(), bytes, used, pinned: false, first_seen: ago(age), last_used: ago(idle) }
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let now = Timestamp::from_second(10_000).expect("time");
        let images = [
            image("old", 5, false, 5000, 4000),
            image("older", 5, false, 5000, 4500),
            image("busy", 50, true, 5000, 5000),
            image("new", 50, false, 10, 10),
        ];
        let limits = ImageThresholds::default();
        for (used, expected) in
            [(84, vec![]), (85, vec!["older"]), (90, vec!["older", "old"]), (100, vec!["older", "old"])]
        {
            assert_eq!(images_to_remove(&images, used, 100, &limits, now), expected, "{used}");
        }
        assert!(images_to_remove(&images, 0, 0, &limits, now).is_empty());
    }

    #[test]
    fn one_previous_run_stays() {
        let dead = |id: &str, attempt, pod_known| DeadContainer {
            id: id.into(),
            pod_uid: if pod_known { "p" } else { "gone" }.into(),
            name: "c".into(),
            attempt,
            pod_known,
        };
        let all = [dead("a0", 0, true), dead("a2", 2, true), dead("a1", 1, true), dead("x", 0, false)];
        assert_eq!(containers_to_remove(&all), ["x", "a0"]);
    }
}
