//! Scalars that are more than themselves: times, quantities, base64. Each is brought into the one form upstream
//! would write, so that equal values are equal text.

use compact_str::CompactString;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::{Field, FieldType, Quantity, Value};

/// The zero time in Go; JSON writes it as null, so here it is absent.
const GO_ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// A time to the second, in UTC.
pub(super) fn time(text: &str) -> Result<Option<Value>, String> {
    if text == GO_ZERO_TIME {
        return Ok(None);
    }
    if is_plain_utc(text.as_bytes(), 20) && text.parse::<Timestamp>().is_ok() {
        return Ok(Some(text.into()));
    }
    Ok(Some(format_time(parse_time(text, "2006-01-02T15:04:05Z07:00")?).into()))
}

/// A time to the microsecond, in UTC.
pub(super) fn micro_time(text: &str) -> Result<Option<Value>, String> {
    if text == GO_ZERO_TIME || text == "0001-01-01T00:00:00.000000Z" {
        return Ok(None);
    }
    Ok(Some(format_micro_time(parse_time(text, "2006-01-02T15:04:05.000000Z07:00")?).into()))
}

fn parse_time(text: &str, layout: &str) -> Result<Timestamp, String> {
    // Only RFC 3339: jiff reads more than that.
    let bytes = text.as_bytes();
    let shaped = bytes.len() >= 20 && bytes[4] == b'-' && bytes[7] == b'-' && bytes[10] == b'T' && bytes[13] == b':';
    shaped.then(|| text.parse::<Timestamp>().ok()).flatten().ok_or_else(|| {
        let (rest, wanted) = unread(text);
        format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {wanted:?}")
    })
}

/// Where a text stops to be a time, and what Go's layout wants there.
fn unread(text: &str) -> (&str, &'static str) {
    let parts = [
        (4, "2006"),
        (1, "-"),
        (2, "01"),
        (1, "-"),
        (2, "02"),
        (1, "T"),
        (2, "15"),
        (1, ":"),
        (2, "04"),
        (1, ":"),
        (2, "05"),
    ];
    let mut rest = text;
    for (length, wanted) in parts {
        let digits = wanted.as_bytes()[0].is_ascii_digit();
        let fits = rest
            .get(..length)
            .is_some_and(|part| if digits { part.bytes().all(|byte| byte.is_ascii_digit()) } else { part == wanted });
        if !fits {
            return (rest, wanted);
        }
        rest = &rest[length..];
    }
    (rest, "Z07:00")
}

/// `2006-01-02T15:04:05Z`.
pub(super) fn format_time(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2006-01-02T15:04:05.000000Z`.
pub(super) fn format_micro_time(time: Timestamp) -> String {
    let civil = time.to_zoned(TimeZone::UTC);
    format!("{}.{:06}Z", civil.strftime("%Y-%m-%dT%H:%M:%S"), civil.subsec_nanosecond() / 1000)
}

fn is_plain_utc(bytes: &[u8], len: usize) -> bool {
    bytes.len() == len
        && bytes.iter().zip(b"dddd-dd-ddTdd:dd:ddZ").all(|(byte, form)| match form {
            b'd' => byte.is_ascii_digit(),
            other => byte == other,
        })
}

/// A quantity in canonical text.
pub(super) fn quantity(text: &str) -> Result<CompactString, String> {
    if is_canonical_quantity(text.as_bytes()) {
        return Ok(text.into());
    }
    let parsed: Quantity = text.trim().parse().map_err(|error: crate::QuantityError| error.to_string())?;
    Ok(compact_str::format_compact!("{parsed}"))
}

/// Whether the commonest notations are canonical at a glance: a whole number that its suffix's next step does
/// not divide.
fn is_canonical_quantity(bytes: &[u8]) -> bool {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 || digits > 15 || bytes[0] == b'0' {
        return bytes == b"0";
    }
    let number = bytes[..digits].iter().fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    match &bytes[digits..] {
        b"" | b"m" => number % 1000 != 0,
        b"Ki" | b"Mi" | b"Gi" => number % 1024 != 0,
        _ => false,
    }
}

/// Base64 as the encoder would write it.
pub(super) fn base64_text(text: &str) -> Result<CompactString, String> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    if text.bytes().any(|byte| matches!(byte, b'\r' | b'\n')) {
        let joined: CompactString = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        return base64_text(&joined);
    }
    STANDARD.decode(text).map_err(|_| {
        // Where Go stops: the first byte that is none of the alphabet, or the start of the group that is cut short.
        let alien = |byte: &u8| !(byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='));
        let at = text.as_bytes().iter().position(alien).unwrap_or(text.len() / 4 * 4);
        format!("illegal base64 data at input byte {at}")
    })?;
    Ok(text.into())
}

/// A number with a fraction; whole numbers are kept as integers so that they are equal however written.
pub(super) fn float(number: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() < EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small")]
        return Value::Int(number as i64);
    }
    Value::Float(number)
}

/// A tree as the text that it is written as.
pub(super) fn raw(value: &Value) -> Value {
    let text = crate::encode_json(value);
    Value::Raw(String::from_utf8_lossy(&text).into())
}

/// Whether Go would leave this member out.
pub(super) fn is_left_out(field: &Field, value: &Value) -> bool {
    if field.pointer || !field.omit_empty {
        return false;
    }
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Int(number) => *number == 0 && !matches!(field.ty, FieldType::IntOrString),
        Value::Float(number) => *number == 0.0,
        Value::String(text) => text.is_empty(),
        // An empty list of owners is the wish that nobody owns anything.
        Value::List(list) => list.is_empty() && field.name != "managedFields",
        Value::Object(object) => object.is_empty() && matches!(field.ty, FieldType::Map(_)),
        Value::Raw(_) => false,
    }
}

/// What `null` among the elements of a list or the values of a map stands for.
pub(super) fn zero(ty: &FieldType) -> Value {
    match ty {
        FieldType::Bool => Value::Bool(false),
        FieldType::Int32 | FieldType::Int64 | FieldType::Float | FieldType::IntOrString => Value::Int(0),
        FieldType::String | FieldType::Bytes => Value::from(""),
        FieldType::Quantity => Value::from("0"),
        FieldType::Struct(_) => Value::object(),
        _ => Value::Null,
    }
}

const NANOS: [(&str, i64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Nanoseconds of Go's notation for durations, such as `1h2m3.5s`; `None` for what does not read.
#[must_use]
pub fn duration_nanos(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0_i128;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let nanos = NANOS.iter().find(|(name, _)| *name == unit)?.1;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(nanos.into())?)?;
        let mut unit = i128::from(nanos);
        for digit in fraction.chars() {
            unit /= 10;
            total += unit * i128::from(digit.to_digit(10)?);
        }
        rest = tail;
    }
    if text.is_empty() { None } else { i64::try_from(total * sign).ok() }
}

/// Go's notation of a duration: `1h0m0s`, `1.5s`, `250ms`.
pub(super) fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let all = nanos.unsigned_abs();
    if all == 0 {
        return "0s".into();
    }
    let fraction = |unit: u64| {
        let text = format!("{}.{:0width$}", all / unit, all % unit, width = unit.ilog10() as usize);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match all {
        0..1_000 => format!("{sign}{all}ns"),
        1_000..1_000_000 => format!("{sign}{}\u{b5}s", fraction(1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", fraction(1_000_000)),
        _ => {
            let seconds = all / 1_000_000_000;
            let below = all % 60_000_000_000;
            let text = format!("{}.{:09}", below / 1_000_000_000, below % 1_000_000_000);
            let text = text.trim_end_matches('0').trim_end_matches('.');
            match (seconds / 3600, seconds / 60 % 60) {
                (0, 0) => format!("{sign}{text}s"),
                (0, minutes) => format!("{sign}{minutes}m{text}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{text}s"),
            }
        }
    }
}
