//! Text: the language's own methods, the strings extension, regular expressions.

use super::{Entry, Outcome, index, int, mismatch, printf, text};
use crate::error::EvalError;
use crate::evaluate::elements;
use crate::regex::Pattern;
use crate::value::{Text, Val};

pub(super) const TABLE: &[Entry] = &[
    ("contains", &["string.(string): bool"], |args| Ok(Val::Bool(text(&args[0])?.contains(text(&args[1])?)))),
    ("startsWith", &["string.(string): bool"], |args| Ok(Val::Bool(text(&args[0])?.starts_with(text(&args[1])?)))),
    ("endsWith", &["string.(string): bool"], |args| Ok(Val::Bool(text(&args[0])?.ends_with(text(&args[1])?)))),
    ("matches", &["(string, string): bool", "string.(string): bool"], matches),
    ("find", &["string.(string): string"], find),
    ("findAll", &["string.(string): list(string)", "string.(string, int): list(string)"], find_all),
    ("charAt", &["string.(int): string"], char_at),
    ("indexOf", &["string.(string): int", "string.(string, int): int"], index_of),
    ("lastIndexOf", &["string.(string): int", "string.(string, int): int"], last_index_of),
    ("lowerAscii", &["string.(): string"], |args| Ok(Val::string(text(&args[0])?.to_ascii_lowercase()))),
    ("upperAscii", &["string.(): string"], |args| Ok(Val::string(text(&args[0])?.to_ascii_uppercase()))),
    ("replace", &["string.(string, string): string", "string.(string, string, int): string"], replace),
    ("split", &["string.(string): list(string)", "string.(string, int): list(string)"], split),
    ("substring", &["string.(int): string", "string.(int, int): string"], substring),
    ("trim", &["string.(): string"], |args| Ok(Val::string(text(&args[0])?.trim()))),
    ("join", &["list(string).(): string", "list(string).(string): string"], join),
    ("format", &["string.(list(dyn)): string"], |args| printf::format(text(&args[0])?, elements(&args[1])?)),
    ("strings.quote", &["(string): string"], |args| Ok(Val::string(quote(text(&args[0])?)))),
];

/// What only patches need.
pub(super) const MUTATION: &[Entry] = &[("jsonpatch.escapeKey", &["(string): string"], |args| {
    Ok(Val::string(text(&args[0])?.replace('~', "~0").replace('/', "~1")))
})];

/// Runs with the pattern of an argument: compiled with the expression when it is a literal.
fn with_pattern<T>(arg: &Val<'_>, run: impl FnOnce(&regex::Regex) -> T) -> Result<T, EvalError> {
    match arg {
        Val::String(Text::Pattern(pattern)) => Ok(run(pattern.regex())),
        Val::String(text) => Ok(run(Pattern::compile(text.as_str())?.regex())),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn matches<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let held = text(&args[0])?;
    with_pattern(&args[1], |regex| regex.is_match(held)).map(Val::Bool)
}

fn find<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let held = text(&args[0])?;
    with_pattern(&args[1], |regex| Val::string(regex.find(held).map_or("", |found| found.as_str())))
}

fn find_all<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let held = text(&args[0])?;
    let most = match args.get(2) {
        Some(most) => usize::try_from(index(most)?).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    with_pattern(&args[1], |regex| {
        Val::list(regex.find_iter(held).take(most).map(|found| Val::string(found.as_str())).collect())
    })
}

/// Byte offset of a character's position; the end counts as one.
fn offset(held: &str, at: usize) -> Option<usize> {
    held.char_indices().map(|(offset, _)| offset).chain([held.len()]).nth(at)
}

fn position(held: &str, at: i64) -> Result<usize, EvalError> {
    let offset = usize::try_from(at).ok().and_then(|at| offset(held, at));
    offset.ok_or_else(|| EvalError::failed(format!("index out of range: {at}")))
}

fn char_at<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let held = text(&args[0])?;
    let rest = &held[position(held, index(&args[1])?)?..];
    Ok(Val::string(rest.chars().next().map(String::from).unwrap_or_default()))
}

fn index_of<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let (held, wanted) = (text(&args[0])?, text(&args[1])?);
    let from = match args.get(2) {
        Some(at) => position(held, index(at)?)?,
        None => 0,
    };
    Ok(held[from..].find(wanted).map_or(Val::Int(-1), |at| int(held[..from + at].chars().count())))
}

fn last_index_of<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let (held, wanted) = (text(&args[0])?, text(&args[1])?);
    let until = match args.get(2) {
        Some(at) => (position(held, index(at)?)? + wanted.len()).min(held.len()),
        None => held.len(),
    };
    let until = (until..=held.len()).find(|at| held.is_char_boundary(*at)).unwrap_or(held.len());
    Ok(held[..until].rfind(wanted).map_or(Val::Int(-1), |at| int(held[..at].chars().count())))
}

fn replace<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let (held, from, to) = (text(&args[0])?, text(&args[1])?, text(&args[2])?);
    let most = match args.get(3) {
        Some(most) => usize::try_from(index(most)?).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    Ok(Val::string(held.replacen(from, to, most)))
}

fn split<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let (held, by) = (text(&args[0])?, text(&args[1])?);
    let most = match args.get(2) {
        Some(most) => usize::try_from(index(most)?).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    let parts = if by.is_empty() { characters(held, most) } else { held.splitn(most, by).map(Val::string).collect() };
    Ok(Val::list(parts))
}

fn characters<'a>(held: &str, most: usize) -> Vec<Val<'a>> {
    if most == 0 {
        return Vec::new();
    }
    let cut = offset(held, most - 1).unwrap_or(held.len());
    let (single, rest) = held.split_at(cut);
    let mut parts: Vec<Val<'_>> = single.chars().map(|c| Val::string(c.encode_utf8(&mut [0; 4]) as &str)).collect();
    if !rest.is_empty() {
        parts.push(Val::string(rest));
    }
    parts
}

fn substring<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let held = text(&args[0])?;
    let start = position(held, index(&args[1])?)?;
    let end = match args.get(2) {
        Some(end) => position(held, index(end)?)?,
        None => held.len(),
    };
    if start > end {
        return Err(EvalError::failed(format!("invalid substring range. start: {start}, end: {end}")));
    }
    Ok(Val::string(&held[start..end]))
}

fn join<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let by = match args.get(1) {
        Some(by) => text(by)?,
        None => "",
    };
    let Val::List(list) = &args[0] else { return mismatch() };
    let mut joined = String::new();
    for (at, item) in list.iter().enumerate() {
        if at > 0 {
            joined.push_str(by);
        }
        joined.push_str(text(&item?)?);
    }
    Ok(Val::string(joined))
}

fn quote(held: &str) -> String {
    let mut quoted = String::with_capacity(held.len() + 2);
    quoted.push('"');
    for c in held.chars() {
        let escape = match c {
            '\x07' => 'a',
            '\x08' => 'b',
            '\x0c' => 'f',
            '\n' => 'n',
            '\r' => 'r',
            '\t' => 't',
            '\x0b' => 'v',
            '\\' => '\\',
            '"' => '"',
            c => {
                quoted.push(c);
                continue;
            }
        };
        quoted.push('\\');
        quoted.push(escape);
    }
    quoted.push('"');
    quoted
}
