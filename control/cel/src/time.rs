//! Times and spans: Go's spelling of durations, RFC 3339, and time zones by name or offset.

use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, Zoned};

use crate::error::EvalError;

/// A field of an object: RFC 3339, or a bare date.
pub(crate) fn parse_field(text: &str) -> Result<Timestamp, EvalError> {
    if text.len() == "2026-01-01".len() {
        let date: Result<jiff::civil::Date, _> = text.parse();
        if let Some(zoned) = date.ok().and_then(|date| date.to_zoned(TimeZone::UTC).ok()) {
            return Ok(zoned.timestamp());
        }
    }
    parse(text)
}

/// RFC 3339.
pub(crate) fn parse(text: &str) -> Result<Timestamp, EvalError> {
    let zoned = text.contains(['T', 't']) && !text.contains('[');
    let time = if zoned { text.parse::<Timestamp>().ok() } else { None };
    time.ok_or_else(|| EvalError::failed(format!("invalid timestamp: cannot parse {text:?} as RFC 3339")))
}

/// RFC 3339 in UTC, with as many digits of the second as there are.
pub(crate) fn spell(time: Timestamp) -> String {
    time.to_string()
}

const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Go's notation: `1h30m`, `-1.5s`, `0`.
pub(crate) fn parse_duration(text: &str) -> Result<SignedDuration, EvalError> {
    let nanos = duration_nanos(text).and_then(|nanos| i64::try_from(nanos).ok());
    nanos.map(SignedDuration::from_nanos).ok_or_else(|| EvalError::failed(format!("time: invalid duration {text:?}")))
}

fn duration_nanos(text: &str) -> Option<i128> {
    let (sign, mut rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_i128;
    while !rest.is_empty() {
        let whole_end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (whole, after) = rest.split_at(whole_end);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len())),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let scale = UNITS.iter().find(|(name, _)| *name == unit)?.1;
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(scale)?)?;
        let mut place = scale;
        for digit in fraction.bytes() {
            place /= 10;
            total = total.checked_add(i128::from(digit - b'0') * place)?;
        }
        rest = after;
    }
    Some(sign * total)
}

/// Seconds with a fraction, as the language spells durations: `90s`, `1.5s`.
pub(crate) fn spell_duration(span: SignedDuration) -> String {
    let nanos = span.as_nanos();
    let (whole, fraction) = (nanos / 1_000_000_000, (nanos % 1_000_000_000).unsigned_abs());
    if fraction == 0 {
        return format!("{whole}s");
    }
    let sign = if nanos < 0 { "-" } else { "" };
    format!("{sign}{}.{}s", whole.unsigned_abs(), format!("{fraction:09}").trim_end_matches('0'))
}

/// A time as a zone's clocks show it: a name of the time-zone database, or an offset.
pub(crate) fn in_zone(time: Timestamp, zone: &str) -> Result<Zoned, EvalError> {
    if zone.is_empty() || zone == "UTC" {
        return Ok(time.to_zoned(TimeZone::UTC));
    }
    let offset = |text: &str| -> Option<TimeZone> {
        let (sign, rest) = match text.as_bytes().first()? {
            b'-' => (-1, &text[1..]),
            b'+' => (1, &text[1..]),
            _ => (1, text),
        };
        let (hours, minutes) = rest.split_once(':')?;
        let seconds = hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60;
        Some(Offset::from_seconds(sign * seconds).ok()?.to_time_zone())
    };
    let zone = if zone.contains(':') { offset(zone) } else { TimeZone::get(zone).ok() }
        .ok_or_else(|| EvalError::failed(format!("unknown time zone {zone}")))?;
    Ok(time.to_zoned(zone))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, spelled) in [
            ("1h30m", Some("5400s")),
            ("-1.5s", Some("-1.500s")),
            ("0", Some("0s")),
            ("1ms", Some("0.001s")),
            ("1", None),
            ("", None),
            ("1x", None),
            ("10000000000000000h", None),
        ] {
            let span = parse_duration(text).ok().map(spell_duration);
            assert_eq!(span, spelled.map(|text| text.replace(".500s", ".5s")), "{text}");
        }
    }

    #[test]
    fn times_read_and_move_between_zones() {
        let time = parse("2026-01-02T03:04:05.5+01:00").expect("a time");
        assert_eq!(spell(time), "2026-01-02T02:04:05.5Z");
        assert_eq!(in_zone(time, "-02:30").expect("a zone").hour(), 23);
        assert!(parse("2026-01-02").is_err() && parse("2026-01-02 03:04:05Z").is_err());
        assert!(in_zone(time, "Nowhere/None").is_err());
    }
}
