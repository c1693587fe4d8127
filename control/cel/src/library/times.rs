//! Parts of times and spans.

use jiff::Zoned;

use super::{Entry, Outcome, mismatch, text};
use crate::time;
use crate::value::Val;

const OF_TIME: &[&str] = &["timestamp.(): int", "timestamp.(string): int"];
const OF_BOTH: &[&str] = &["timestamp.(): int", "timestamp.(string): int", "duration.(): int"];

pub(super) const TABLE: &[Entry] = &[
    ("getFullYear", OF_TIME, |args| part(args, |at| at.year().into())),
    ("getMonth", OF_TIME, |args| part(args, |at| i64::from(at.month()) - 1)),
    ("getDayOfYear", OF_TIME, |args| part(args, |at| i64::from(at.day_of_year()) - 1)),
    ("getDayOfMonth", OF_TIME, |args| part(args, |at| i64::from(at.day()) - 1)),
    ("getDate", OF_TIME, |args| part(args, |at| at.day().into())),
    ("getDayOfWeek", OF_TIME, |args| part(args, |at| at.weekday().to_sunday_zero_offset().into())),
    ("getHours", OF_BOTH, |args| either(args, |at| at.hour().into(), 3_600_000)),
    ("getMinutes", OF_BOTH, |args| either(args, |at| at.minute().into(), 60_000)),
    ("getSeconds", OF_BOTH, |args| either(args, |at| at.second().into(), 1_000)),
    ("getMilliseconds", OF_BOTH, |args| either(args, |at| at.millisecond().into(), 1)),
];

fn part<'a>(args: &[Val<'a>], of: fn(&Zoned) -> i64) -> Outcome<'a> {
    let Val::Timestamp(at) = &args[0] else { return mismatch() };
    let zone = match args.get(1) {
        Some(zone) => text(zone)?,
        None => "UTC",
    };
    Ok(Val::Int(of(&time::in_zone(*at, zone)?)))
}

fn either<'a>(args: &[Val<'a>], of: fn(&Zoned) -> i64, millis: i128) -> Outcome<'a> {
    match &args[0] {
        Val::Duration(span) => Ok(Val::Int(i64::try_from(span.as_millis() / millis).unwrap_or(i64::MAX))),
        _ => part(args, of),
    }
}
