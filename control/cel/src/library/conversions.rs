//! Conversions between types, and the size of things.

use jiff::Timestamp;

use super::{Entry, Outcome, mismatch};
use crate::error::EvalError;
use crate::time;
use crate::value::Val;

pub(super) const TABLE: &[Entry] = &[
    (
        "size",
        &[
            "(string): int",
            "string.(): int",
            "(bytes): int",
            "bytes.(): int",
            "(list(A)): int",
            "list(A).(): int",
            "(map(A, B)): int",
            "map(A, B).(): int",
        ],
        size,
    ),
    ("type", &["(A): type(A)"], |args| Ok(Val::Type(args[0].type_name().as_ref().into()))),
    ("dyn", &["(A): dyn"], |args| Ok(args[0].clone())),
    ("bool", &["(bool): bool", "(string): bool"], to_bool),
    ("bytes", &["(bytes): bytes", "(string): bytes"], to_bytes),
    ("double", &["(double): double", "(int): double", "(string): double", "(uint): double"], to_double),
    ("duration", &["(duration): duration", "(int): duration", "(string): duration"], to_duration),
    (
        "int",
        &["(int): int", "(double): int", "(duration): int", "(string): int", "(timestamp): int", "(uint): int"],
        to_int,
    ),
    (
        "string",
        &[
            "(string): string",
            "(bool): string",
            "(bytes): string",
            "(double): string",
            "(duration): string",
            "(int): string",
            "(timestamp): string",
            "(uint): string",
            "(IP): string",
            "(CIDR): string",
        ],
        to_string,
    ),
    ("timestamp", &["(timestamp): timestamp", "(int): timestamp", "(string): timestamp"], to_timestamp),
    ("uint", &["(uint): uint", "(double): uint", "(int): uint", "(string): uint"], to_uint),
];

fn size<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match (&args[0], args[0].size()) {
        (Val::Optional(_) | Val::Extension(_), _) | (_, None) => mismatch(),
        (_, Some(size)) => Ok(Val::Int(i64::try_from(size).unwrap_or(i64::MAX))),
    }
}

fn to_bool<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match &args[0] {
        Val::Bool(_) => Ok(args[0].clone()),
        Val::String(text) => match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
            other => Err(EvalError::failed(format!("Type conversion error: cannot convert '{other}' to 'bool'"))),
        },
        _ => mismatch(),
    }
}

fn to_bytes<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match &args[0] {
        Val::Bytes(_) => Ok(args[0].clone()),
        Val::String(text) => Ok(Val::Bytes(text.as_str().as_bytes().into())),
        _ => mismatch(),
    }
}

fn unreadable(text: &str, into: &str) -> EvalError {
    EvalError::failed(format!("strconv.Parse{into}: parsing {text:?}: invalid syntax"))
}

#[expect(clippy::cast_precision_loss, reason = "the conversion's meaning")]
fn to_double<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match &args[0] {
        Val::Double(_) => Ok(args[0].clone()),
        Val::Int(number) => Ok(Val::Double(*number as f64)),
        Val::Uint(number) => Ok(Val::Double(*number as f64)),
        Val::String(text) => {
            let text = text.as_str();
            text.parse().map(Val::Double).map_err(|_| unreadable(text, "Float"))
        }
        _ => mismatch(),
    }
}

fn range(what: &str) -> EvalError {
    EvalError::failed(format!("{what} overflow"))
}

#[expect(clippy::cast_possible_truncation, reason = "checked to be in range")]
fn to_int<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match &args[0] {
        Val::Int(_) => Ok(args[0].clone()),
        Val::Uint(number) => i64::try_from(*number).map(Val::Int).map_err(|_| range("integer")),
        Val::Double(number) if number.abs() < 9_223_372_036_854_775_807.0 => Ok(Val::Int(*number as i64)),
        Val::Double(_) => Err(range("integer")),
        Val::Timestamp(time) => Ok(Val::Int(time.as_second())),
        Val::Duration(span) => i64::try_from(span.as_nanos()).map(Val::Int).map_err(|_| range("integer")),
        Val::String(text) => {
            let text = text.as_str();
            text.parse().map(Val::Int).map_err(|_| unreadable(text, "Int"))
        }
        _ => mismatch(),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
fn to_uint<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match &args[0] {
        Val::Uint(_) => Ok(args[0].clone()),
        Val::Int(number) => u64::try_from(*number).map(Val::Uint).map_err(|_| range("unsigned integer")),
        Val::Double(number) if (0.0..18_446_744_073_709_551_615.0).contains(number) => Ok(Val::Uint(*number as u64)),
        Val::Double(_) => Err(range("unsigned integer")),
        Val::String(text) => {
            let text = text.as_str();
            text.parse().map(Val::Uint).map_err(|_| unreadable(text, "Uint"))
        }
        _ => mismatch(),
    }
}

fn to_duration<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match &args[0] {
        Val::Duration(_) => Ok(args[0].clone()),
        Val::Int(nanos) => Ok(Val::Duration(jiff::SignedDuration::from_nanos(*nanos))),
        Val::String(text) => time::parse_duration(text.as_str()).map(Val::Duration),
        _ => mismatch(),
    }
}

fn to_timestamp<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match &args[0] {
        Val::Timestamp(_) => Ok(args[0].clone()),
        Val::Int(seconds) => Timestamp::from_second(*seconds).map(Val::Timestamp).map_err(|_| range("timestamp")),
        Val::String(text) => time::parse(text.as_str()).map(Val::Timestamp),
        _ => mismatch(),
    }
}

fn to_string<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    if let Val::String(_) = &args[0] {
        return Ok(args[0].clone());
    }
    if let Val::Bytes(bytes) = &args[0] {
        let text = std::str::from_utf8(bytes);
        return text
            .map(Val::string)
            .map_err(|_| EvalError::failed("invalid UTF-8 in bytes, cannot convert to string"));
    }
    spell(&args[0]).map_or_else(mismatch, |text| Ok(Val::string(text)))
}

/// A double as Go's shortest form spells it.
pub(super) fn spell_double(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let exponent = if number == 0.0 { 0.0 } else { number.abs().log10().floor() };
    if !(-5.0..21.0).contains(&exponent) {
        let text = format!("{number:e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, power) = power.strip_prefix('-').map_or(('+', power), |power| ('-', power));
        return format!("{digits}e{sign}{power:0>2}");
    }
    format!("{number}")
}

/// The text of what has one.
pub(super) fn spell(val: &Val<'_>) -> Option<String> {
    Some(match val {
        Val::String(text) => text.as_str().to_owned(),
        Val::Bool(truth) => truth.to_string(),
        Val::Int(number) => number.to_string(),
        Val::Uint(number) => number.to_string(),
        Val::Double(number) => spell_double(*number),
        Val::Timestamp(at) => time::spell(*at),
        Val::Duration(span) => time::spell_duration(*span),
        Val::Extension(extension) => extension.spell()?.into_owned(),
        _ => return None,
    })
}
