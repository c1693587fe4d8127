//! Cron schedules: five fields, names, lists, ranges, steps and the usual short forms, in any time zone. Pure.

use jiff::{SignedDuration, Timestamp, ToSpan, civil::DateTime, tz::TimeZone};

/// Years looked ahead before a schedule counts as one that never comes.
const MAX_YEARS: i16 = 5;
/// Steps taken at most in one search: days, hours and minutes of that time, generously.
const MAX_STEPS: usize = 20_000;
const MONTHS: &[&str] = &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const DAYS: &[&str] = &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// A parsed schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Schedule {
    /// By the calendar.
    Calendar(Calendar),
    /// At a fixed distance.
    Every(SignedDuration),
}

/// Bit sets of the values that match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Calendar {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    any_day: bool,
    any_weekday: bool,
}

impl Schedule {
    /// Reads a schedule.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        if let Some(every) = text.strip_prefix("@every ") {
            let every: SignedDuration = every.trim().parse().ok()?;
            return (every >= SignedDuration::from_secs(1)).then_some(Self::Every(every));
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else { return None };
        let open = |field: &str| field.starts_with('*') || field.starts_with('?');
        Some(Self::Calendar(Calendar {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, MONTHS)?,
            weekdays: field(weekdays, 0, 6, DAYS)?,
            any_day: open(days),
            any_weekday: open(weekdays),
        }))
    }

    /// The first time after `from`; none if none comes.
    pub(super) fn next(&self, from: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(every) => from.checked_add(*every).ok(),
            Self::Calendar(calendar) => calendar.next(from, zone),
        }
    }
}

impl Calendar {
    fn day_matches(&self, at: DateTime) -> bool {
        let day = self.days & (1 << at.day()) != 0;
        let weekday = self.weekdays & (1 << at.weekday().to_sunday_zero_offset()) != 0;
        // Where both are restricted either will do.
        if self.any_day || self.any_weekday { day && weekday } else { day || weekday }
    }

    fn next(&self, from: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = zone.to_datetime(from);
        let mut at = start.date().at(start.hour(), start.minute(), 0, 0).checked_add(1.minute()).ok()?;
        for _ in 0..MAX_STEPS {
            if at.year() > start.year() + MAX_YEARS {
                return None;
            }
            if self.months & (1 << at.month()) == 0 {
                at = at.date().first_of_month().at(0, 0, 0, 0).checked_add(1.month()).ok()?;
            } else if !self.day_matches(at) {
                at = at.date().at(0, 0, 0, 0).checked_add(1.day()).ok()?;
            } else if self.hours & (1 << at.hour()) == 0 {
                at = at.date().at(at.hour(), 0, 0, 0).checked_add(1.hour()).ok()?;
            } else if self.minutes & (1 << at.minute()) == 0 {
                at = at.checked_add(1.minute()).ok()?;
            } else {
                let found = zone.to_timestamp(at).ok()?;
                // Where clocks go back the same wall time comes twice.
                if found > from {
                    return Some(found);
                }
                at = at.checked_add(1.minute()).ok()?;
            }
        }
        None
    }
}

/// One field as a bit set.
fn field(text: &str, least: u32, most: u32, names: &[&str]) -> Option<u64> {
    let value = |text: &str| {
        let named = names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let number = named.and_then(|at| u32::try_from(at).ok()).map(|at| at + least).or_else(|| text.parse().ok())?;
        (number >= least && number <= most).then_some(number)
    };
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<u32>().ok().filter(|step| *step > 0)?)),
            None => (part, None),
        };
        let (first, last) = match range.split_once('-') {
            Some((first, last)) => (value(first)?, value(last)?),
            None if range == "*" || range == "?" => (least, most),
            // A single value with a step runs to the end.
            None => (value(range)?, if step.is_some() { most } else { value(range)? }),
        };
        if first > last {
            return None;
        }
        for number in (first..=last).step_by(usize::try_from(step.unwrap_or(1)).ok()?) {
            bits |= 1 << number;
        }
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: &str, zone: &str, from: &str, expected: &str) {
        let zone = TimeZone::get(zone).expect("a zone");
        let schedule = Schedule::parse(schedule).expect("a schedule");
        let from: Timestamp = from.parse().expect("a time");
        let next = schedule.next(from, &zone).map(|at| at.to_string()).unwrap_or_default();
        assert_eq!(next, expected, "{schedule:?}");
    }

    #[test]
    fn next_times() {
        check("*/15 * * * *", "UTC", "2026-01-01T10:07:30Z", "2026-01-01T10:15:00Z");
        check("0 9 * * MON-FRI", "UTC", "2026-01-02T09:00:00Z", "2026-01-05T09:00:00Z");
        check("30 4 1,15 * 5", "UTC", "2026-01-02T05:00:00Z", "2026-01-09T04:30:00Z");
        check("@monthly", "UTC", "2026-01-31T23:59:00Z", "2026-02-01T00:00:00Z");
        check("@every 1h", "UTC", "2026-01-01T00:00:10Z", "2026-01-01T01:00:10Z");
        check("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z");
        check("0 0 31 2 *", "UTC", "2026-01-01T00:00:00Z", "");
        check("0 9 * * *", "Europe/Berlin", "2026-07-01T00:00:00Z", "2026-07-01T07:00:00Z");
        check("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T01:30:00Z");
    }

    #[test]
    fn what_is_no_schedule() {
        for text in ["", "* * * *", "60 * * * *", "* * * * 8", "5-1 * * * *", "*/0 * * * *", "@every 0s", "x * * * *"] {
            assert_eq!(Schedule::parse(text), None, "{text}");
        }
    }
}
