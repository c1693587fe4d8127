//! How many seats a request takes: lists by what they hold in memory, all else one. Pure.

use crate::http::{Query, RequestInfo};

/// Bytes that one seat stands for, and the most that a list from the cache holds at once (upstream's).
const BYTES_PER_SEAT: u64 = 100_000;
const MAX_LIST_BYTES: u64 = 1_000_000;
/// Bytes of an object, for want of an average.
const OBJECT_BYTES: u64 = 2_000;
/// Watches of a resource that a write has to tell, for each further seat, and how long that takes in nanoseconds
/// (upstream's).
const WATCHES_PER_SEAT: u64 = 10;
const TELLING: f64 = 5_000_000.0;

/// Seats of a request for a resource that has so many objects.
pub(super) fn seats(info: &RequestInfo<'_>, query: &Query<'_>, objects: impl FnOnce() -> usize) -> u32 {
    let lists = match &*info.verb {
        "list" | "deletecollection" => true,
        // A watch lists first, unless it says from where it goes on.
        "watch" => query.flag("sendInitialEvents") || matches!(query.get("resourceVersion"), "" | "0"),
        _ => false,
    };
    if !lists || !info.name.is_empty() {
        return 1;
    }
    let objects = objects() as u64;
    let limit = query.get("limit").parse::<u64>().ok().filter(|limit| *limit > 0).unwrap_or(u64::MAX);
    let bytes = objects.min(limit).saturating_mul(OBJECT_BYTES).min(MAX_LIST_BYTES);
    u32::try_from(bytes.div_ceil(BYTES_PER_SEAT)).unwrap_or(1).max(1)
}

/// Further work of a write that so many watches hear of, in seat-nanoseconds.
pub(super) fn telling(watches: u64) -> f64 {
    if watches < WATCHES_PER_SEAT {
        return 0.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "thousands at most")]
    let seats = watches.div_ceil(WATCHES_PER_SEAT) as f64;
    seats * TELLING
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_take_seats_by_their_size() {
        for (target, objects, expected) in [
            ("/api/v1/pods", 0, 1),
            ("/api/v1/pods", 50, 1),
            ("/api/v1/pods", 500, 10),
            ("/api/v1/pods", 1_000_000, 10),
            ("/api/v1/pods?limit=100", 1_000_000, 2),
            ("/api/v1/pods?watch=true", 1_000, 10),
            ("/api/v1/pods?watch=true&resourceVersion=7", 1_000, 1),
            ("/api/v1/pods?fieldSelector=metadata.name%3Dx", 1_000, 1),
            ("/api/v1/namespaces/x/pods/y", 1_000, 1),
        ] {
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let query = Query::parse(query);
            let info = RequestInfo::parse(&::http::Method::GET, path, &query);
            assert_eq!(seats(&info, &query, || objects), expected, "{target}");
        }
        assert_eq!([telling(3), telling(25)], [0.0, 3.0 * TELLING]);
    }
}
