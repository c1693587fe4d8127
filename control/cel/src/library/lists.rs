//! Lists and sets: Kubernetes' additions and the lists extension.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Entry, Outcome, index, int, mismatch};
use crate::error::EvalError;
use crate::evaluate::elements;
use crate::value::{List, Map, MapKey, Val, map_key};

const COMPARABLE: &[&str] = &[
    "list(int).(): bool",
    "list(uint).(): bool",
    "list(double).(): bool",
    "list(bool).(): bool",
    "list(duration).(): bool",
    "list(timestamp).(): bool",
    "list(string).(): bool",
    "list(bytes).(): bool",
];
const EXTREME: &[&str] = &[
    "list(int).(): int",
    "list(uint).(): uint",
    "list(double).(): double",
    "list(bool).(): bool",
    "list(duration).(): duration",
    "list(timestamp).(): timestamp",
    "list(string).(): string",
    "list(bytes).(): bytes",
];
const SORTABLE: &[&str] = &[
    "list(int).(): list(int)",
    "list(uint).(): list(uint)",
    "list(double).(): list(double)",
    "list(bool).(): list(bool)",
    "list(duration).(): list(duration)",
    "list(timestamp).(): list(timestamp)",
    "list(string).(): list(string)",
    "list(bytes).(): list(bytes)",
];
const SORTABLE_BY: &[&str] = &[
    "list(A).(list(int)): list(A)",
    "list(A).(list(uint)): list(A)",
    "list(A).(list(double)): list(A)",
    "list(A).(list(bool)): list(A)",
    "list(A).(list(duration)): list(A)",
    "list(A).(list(timestamp)): list(A)",
    "list(A).(list(string)): list(A)",
    "list(A).(list(bytes)): list(A)",
];

pub(super) const TABLE: &[Entry] = &[
    ("isSorted", COMPARABLE, is_sorted),
    ("min", EXTREME, |args| extreme(args, "min", Ordering::is_lt)),
    ("max", EXTREME, |args| extreme(args, "max", Ordering::is_gt)),
    (
        "sum",
        &["list(int).(): int", "list(uint).(): uint", "list(double).(): double", "list(duration).(): duration"],
        sum,
    ),
    ("indexOf", &["list(A).(A): int"], |args| position(args, false)),
    ("lastIndexOf", &["list(A).(A): int"], |args| position(args, true)),
    ("slice", &["list(A).(int, int): list(A)"], slice),
    ("flatten", &["list(list(A)).(): list(A)", "list(dyn).(int): list(dyn)"], flatten),
    ("sort", SORTABLE, |args| sort(elements(&args[0])?.to_vec()?.clone(), elements(&args[0])?.to_vec()?)),
    ("@sortByAssociatedKeys", SORTABLE_BY, |args| sort(elements(&args[0])?.to_vec()?, elements(&args[1])?.to_vec()?)),
    ("lists.range", &["(int): list(int)"], range),
    ("reverse", &["list(A).(): list(A)"], reverse),
    ("distinct", &["list(A).(): list(A)"], distinct),
    ("first", &["list(A).(): opt(A)"], |args| edge(elements(&args[0])?, 0)),
    ("last", &["list(A).(): opt(A)"], |args| edge(elements(&args[0])?, elements(&args[0])?.len().wrapping_sub(1))),
    ("sets.contains", &["(list(A), list(A)): bool"], |args| Ok(Val::Bool(holds_all(&args[0], &args[1])?))),
    ("sets.equivalent", &["(list(A), list(A)): bool"], |args| {
        Ok(Val::Bool(holds_all(&args[0], &args[1])? && holds_all(&args[1], &args[0])?))
    }),
    ("sets.intersects", &["(list(A), list(A)): bool"], intersects),
    ("cel.@mapInsert", &["(map(A, B), A, B): map(A, B)", "(map(A, B), map(A, B)): map(A, B)"], map_insert),
];

/// Longest list that `lists.range` makes: what the run-time cost could not bound.
const MAX_RANGE: i64 = 1_000_000;

fn is_sorted<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let list = elements(&args[0])?.to_vec()?;
    for pair in list.windows(2) {
        match pair[0].compare(&pair[1]) {
            Some(Ordering::Greater) => return Ok(Val::Bool(false)),
            Some(_) => {}
            None => return mismatch(),
        }
    }
    Ok(Val::Bool(true))
}

fn extreme<'a>(args: &[Val<'a>], name: &str, better: fn(Ordering) -> bool) -> Outcome<'a> {
    let mut best: Option<Val<'a>> = None;
    for item in elements(&args[0])?.iter() {
        let item = item?;
        best = match best {
            None => Some(item),
            Some(held) if better(item.compare(&held).ok_or_else(EvalError::no_such_overload)?) => Some(item),
            held => held,
        };
    }
    best.ok_or_else(|| EvalError::failed(format!("{name} called on empty list")))
}

fn sum<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let overflow = || EvalError::failed("integer overflow");
    let mut total: Option<Val<'a>> = None;
    for item in elements(&args[0])?.iter() {
        let item = item?;
        total = Some(match (total, item) {
            (None, item @ (Val::Int(_) | Val::Uint(_) | Val::Double(_) | Val::Duration(_))) => item,
            (Some(Val::Int(a)), Val::Int(b)) => Val::Int(a.checked_add(b).ok_or_else(overflow)?),
            (Some(Val::Uint(a)), Val::Uint(b)) => Val::Uint(a.checked_add(b).ok_or_else(overflow)?),
            (Some(Val::Double(a)), Val::Double(b)) => Val::Double(a + b),
            (Some(Val::Duration(a)), Val::Duration(b)) => Val::Duration(a.checked_add(b).ok_or_else(overflow)?),
            _ => return mismatch(),
        });
    }
    Ok(total.unwrap_or(Val::Int(0)))
}

fn position<'a>(args: &[Val<'a>], last: bool) -> Outcome<'a> {
    let list = elements(&args[0])?.to_vec()?;
    let same = |item: &Val<'a>| item.equals(&args[1]);
    let at = if last { list.iter().rposition(same) } else { list.iter().position(same) };
    Ok(at.map_or(Val::Int(-1), int))
}

fn slice<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let list = elements(&args[0])?.to_vec()?;
    let (start, end) = (index(&args[1])?, index(&args[2])?);
    let fault = |text: String| EvalError::failed(text);
    if start < 0 || end < 0 {
        return Err(fault(format!("cannot slice({start}, {end}), negative indexes not supported")));
    }
    if start > end {
        return Err(fault(format!(
            "cannot slice({start}, {end}), start index must be less than or equal to end index"
        )));
    }
    let (from, to) = (usize::try_from(start).unwrap_or(usize::MAX), usize::try_from(end).unwrap_or(usize::MAX));
    let part = list
        .get(from..to)
        .ok_or_else(|| fault(format!("cannot slice({start}, {end}), list is length {}", list.len())))?;
    Ok(Val::list(part.to_vec()))
}

fn flatten<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let depth = match args.get(1) {
        Some(depth) => index(depth)?,
        None => 1,
    };
    if depth < 0 {
        return Err(EvalError::failed("level must be non-negative"));
    }
    let mut flat = Vec::new();
    flatten_into(elements(&args[0])?, depth, &mut flat)?;
    Ok(Val::list(flat))
}

fn flatten_into<'a>(list: &List<'a>, depth: i64, flat: &mut Vec<Val<'a>>) -> Result<(), EvalError> {
    for item in list.iter() {
        match item? {
            Val::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, flat)?,
            item => flat.push(item),
        }
    }
    Ok(())
}

fn sort<'a>(list: Vec<Val<'a>>, keys: Vec<Val<'a>>) -> Outcome<'a> {
    if list.len() != keys.len() {
        return Err(EvalError::failed("sortBy wants one key for each element"));
    }
    if keys.windows(2).any(|pair| pair[0].compare(&pair[1]).is_none()) {
        return Err(EvalError::failed("list elements must be comparable"));
    }
    let mut pairs: Vec<(Val<'a>, Val<'a>)> = keys.into_iter().zip(list).collect();
    pairs.sort_by(|a, b| a.0.compare(&b.0).unwrap_or(Ordering::Equal));
    Ok(Val::list(pairs.into_iter().map(|(_, item)| item).collect()))
}

fn range<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let end = index(&args[0])?;
    if end > MAX_RANGE {
        return Err(EvalError::failed(format!("lists.range is bounded by {MAX_RANGE}")));
    }
    Ok(Val::list((0..end).map(Val::Int).collect()))
}

fn reverse<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let mut list = elements(&args[0])?.to_vec()?;
    list.reverse();
    Ok(Val::list(list))
}

fn distinct<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let mut kept: Vec<Val<'a>> = Vec::new();
    for item in elements(&args[0])?.iter() {
        let item = item?;
        if !kept.iter().any(|held| held.equals(&item)) {
            kept.push(item);
        }
    }
    Ok(Val::list(kept))
}

fn edge<'a>(list: &List<'a>, at: usize) -> Outcome<'a> {
    Ok(list.get(at).transpose()?.map_or(Val::Optional(None), Val::some))
}

fn holds_all<'a>(list: &Val<'a>, wanted: &Val<'a>) -> Result<bool, EvalError> {
    let list = elements(list)?.to_vec()?;
    for item in elements(wanted)?.iter() {
        let item = item?;
        if !list.iter().any(|held| held.equals(&item)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn intersects<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let other = elements(&args[1])?.to_vec()?;
    for item in elements(&args[0])?.iter() {
        let item = item?;
        if other.iter().any(|held| held.equals(&item)) {
            return Ok(Val::Bool(true));
        }
    }
    Ok(Val::Bool(false))
}

fn map_insert<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let Val::Map(Map::Shared(held)) = &args[0] else { return mismatch() };
    let mut map: BTreeMap<MapKey, Val<'a>> = (**held).clone();
    let mut insert = |key: &Val<'a>, value: Val<'a>| {
        let key = map_key(key)?;
        let repeated = EvalError::failed(format!("insert failed: key {key} already exists"));
        if map.insert(key, value).is_some() { Err(repeated) } else { Ok(()) }
    };
    match args {
        [_, key, value] => insert(key, value.clone())?,
        [_, Val::Map(more)] => {
            for key in more.keys() {
                let value = more.get(&key).transpose()?.unwrap_or(Val::Null);
                insert(&key, value)?;
            }
        }
        _ => return mismatch(),
    }
    Ok(Val::Map(Map::Shared(Rc::new(map))))
}
