//! Semantic versions.

use semver::Version;
use std::cmp::Ordering;

use super::{Entry, Outcome, text};
use crate::error::EvalError;
use crate::extension::Extension;
use crate::value::Val;

pub(super) const TABLE: &[Entry] = &[
    ("semver", &["(string): Semver", "(string, bool): Semver"], |args| {
        parse(args).map(|version| Val::extension(Extension::Semver(version)))
    }),
    ("isSemver", &["(string): bool", "(string, bool): bool"], is_semver),
    ("isGreaterThan", &["Semver.(Semver): bool"], |args| Ok(Val::Bool(compare(args)?.is_gt()))),
    ("isLessThan", &["Semver.(Semver): bool"], |args| Ok(Val::Bool(compare(args)?.is_lt()))),
    ("compareTo", &["Semver.(Semver): int"], |args| Ok(Val::Int(compare(args)? as i64))),
    ("major", &["Semver.(): int"], |args| number(of(&args[0])?.major)),
    ("minor", &["Semver.(): int"], |args| number(of(&args[0])?.minor)),
    ("patch", &["Semver.(): int"], |args| number(of(&args[0])?.patch)),
];

fn number<'a>(part: u64) -> Outcome<'a> {
    Ok(Val::Int(i64::try_from(part).unwrap_or(i64::MAX)))
}

fn of<'v>(val: &'v Val<'_>) -> Result<&'v Version, EvalError> {
    match val {
        Val::Extension(held) => match &**held {
            Extension::Semver(version) => Ok(version),
            _ => Err(EvalError::no_such_overload()),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

fn compare(args: &[Val<'_>]) -> Result<Ordering, EvalError> {
    Ok(of(&args[0])?.cmp_precedence(of(&args[1])?))
}

/// Without a leading `v`, without leading zeros, with all three numbers.
fn normalized(written: &str) -> String {
    let plain = written.strip_prefix('v').unwrap_or(written);
    let end = plain.find(['-', '+']).unwrap_or(plain.len());
    let (numbers, rest) = plain.split_at(end);
    let mut parts: Vec<&str> = numbers.splitn(3, '.').collect();
    for part in &mut parts {
        let trimmed = part.trim_start_matches('0');
        *part = if trimmed.starts_with(|c: char| c.is_ascii_digit()) || part.is_empty() {
            trimmed
        } else {
            &part[part.len() - trimmed.len() - 1..]
        };
    }
    // A suffix belongs to a whole version only.
    if parts.len() < 3 && !rest.is_empty() {
        return written.to_owned();
    }
    while parts.len() < 3 {
        parts.push("0");
    }
    format!("{}{rest}", parts.join("."))
}

fn parse(args: &[Val<'_>]) -> Result<Version, EvalError> {
    let written = text(&args[0])?;
    let tolerant = match args.get(1) {
        Some(tolerant) => tolerant.as_bool().ok_or_else(EvalError::no_such_overload)?,
        None => false,
    };
    let version = if tolerant { Version::parse(&normalized(written)) } else { Version::parse(written) };
    version.map_err(|error| EvalError::failed(format!("invalid semantic version {written:?}: {error}")))
}

fn is_semver<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    text(&args[0])?;
    Ok(Val::Bool(parse(args).is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_made_whole() {
        for (written, whole) in
            [("v1", "1.0.0"), ("1.02", "1.2.0"), ("01.0.00", "1.0.0"), ("1.2.3-a+b", "1.2.3-a+b"), ("1.2-a", "1.2-a")]
        {
            assert_eq!(normalized(written), whole);
        }
    }
}
