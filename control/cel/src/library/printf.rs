//! `'...'.format([...])`: `%s %d %f %e %b %x %X %o %%`.

use super::Outcome;
use super::conversions::{spell, spell_double};
use crate::error::EvalError;
use crate::value::{List, Val};

/// Digits after the point where the clause names none.
const DEFAULT_PRECISION: usize = 6;
/// Most digits that a clause may name.
const MAX_PRECISION: usize = 1000;

pub(super) fn format<'a>(pattern: &str, args: &List<'_>) -> Outcome<'a> {
    let mut out = String::with_capacity(pattern.len() * 2);
    let mut next = 0;
    let mut rest = pattern;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let precision = precision(&mut rest)?;
        let mut chars = rest.chars();
        let Some(verb) = chars.next() else {
            return Err(EvalError::failed("unexpected end of string"));
        };
        rest = chars.as_str();
        let arg = args.get(next).ok_or_else(|| EvalError::failed(format!("index {next} out of range")))??;
        next += 1;
        clause(&mut out, verb, precision, &arg)?;
    }
    out.push_str(rest);
    Ok(Val::string(out))
}

fn precision(rest: &mut &str) -> Result<Option<usize>, EvalError> {
    let Some(after) = rest.strip_prefix('.') else { return Ok(None) };
    let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    let digits = after[..end].parse().ok().filter(|digits| *digits <= MAX_PRECISION);
    *rest = &after[end..];
    digits.map(Some).ok_or_else(|| EvalError::failed("error while converting precision to integer"))
}

fn clause(out: &mut String, verb: char, precision: Option<usize>, arg: &Val<'_>) -> Result<(), EvalError> {
    let digits = precision.unwrap_or(DEFAULT_PRECISION);
    let text = match (verb, arg) {
        ('s', arg) => plain(arg)?,
        ('d', Val::Int(_) | Val::Uint(_)) => plain(arg)?,
        #[expect(clippy::cast_precision_loss, reason = "printed with a few digits")]
        ('f' | 'e', Val::Int(number)) => float(verb, digits, *number as f64),
        #[expect(clippy::cast_precision_loss, reason = "printed with a few digits")]
        ('f' | 'e', Val::Uint(number)) => float(verb, digits, *number as f64),
        ('f' | 'e', Val::Double(number)) => float(verb, digits, *number),
        ('b', Val::Bool(truth)) => u8::from(*truth).to_string(),
        ('b' | 'o' | 'x' | 'X', Val::Int(number)) => {
            let sign = if *number < 0 { "-" } else { "" };
            format!("{sign}{}", radix(verb, number.unsigned_abs()))
        }
        ('b' | 'o' | 'x' | 'X', Val::Uint(number)) => radix(verb, *number),
        ('x', Val::String(text)) => hex(text.as_str().as_bytes(), false),
        ('X', Val::String(text)) => hex(text.as_str().as_bytes(), true),
        ('x', Val::Bytes(bytes)) => hex(bytes, false),
        ('X', Val::Bytes(bytes)) => hex(bytes, true),
        ('d' | 'f' | 'e' | 'b' | 'o' | 'x' | 'X', arg) => {
            let message = format!("could not convert argument {} to the type that %{verb} wants", arg.type_name());
            return Err(EvalError::failed(format!("error during formatting: {message}")));
        }
        (verb, _) => {
            return Err(EvalError::failed(format!(
                "could not parse formatting clause: unrecognized formatting clause \"{verb}\""
            )));
        }
    };
    out.push_str(&text);
    Ok(())
}

fn float(verb: char, digits: usize, number: f64) -> String {
    if !number.is_finite() {
        return spell_double(number);
    }
    if verb == 'f' {
        return format!("{number:.digits$}");
    }
    let text = format!("{number:.digits$e}");
    let (mantissa, power) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, power) = power.strip_prefix('-').map_or(('+', power), |power| ('-', power));
    format!("{mantissa}e{sign}{power:0>2}")
}

fn radix(verb: char, number: u64) -> String {
    match verb {
        'b' => format!("{number:b}"),
        'o' => format!("{number:o}"),
        'x' => format!("{number:x}"),
        _ => format!("{number:X}"),
    }
}

fn hex(bytes: &[u8], upper: bool) -> String {
    bytes.iter().map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") }).collect()
}

/// `%s`: text as it is, lists and maps with their members.
fn plain(arg: &Val<'_>) -> Result<String, EvalError> {
    Ok(match arg {
        Val::Null => "null".to_owned(),
        Val::Type(name) => name.to_string(),
        Val::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Val::List(list) => {
            let items: Result<Vec<String>, EvalError> = list.iter().map(|item| plain(&item?)).collect();
            format!("[{}]", items?.join(", "))
        }
        Val::Map(map) => {
            let member = |key: &Val<'_>| -> Result<String, EvalError> {
                let value = map.get(key).transpose()?.unwrap_or(Val::Null);
                Ok(format!("{}: {}", plain(key)?, plain(&value)?))
            };
            let members: Result<Vec<String>, EvalError> = map.keys().iter().map(member).collect();
            format!("{{{}}}", members?.join(", "))
        }
        other => spell(other).ok_or_else(|| {
            EvalError::failed(format!("string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps, was given {}", other.type_name()))
        })?,
    })
}
