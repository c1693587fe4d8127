//! Operators: arithmetic that faults instead of overflowing, equality, order, membership, indexing.

use std::cmp::Ordering;

use super::{Entry, Outcome, mismatch};
use crate::error::EvalError;
use crate::value::Val;

const ORDERED: &[&str] = &[
    "(bool, bool): bool",
    "(int, int): bool",
    "(int, double): bool",
    "(int, uint): bool",
    "(uint, uint): bool",
    "(uint, double): bool",
    "(uint, int): bool",
    "(double, double): bool",
    "(double, int): bool",
    "(double, uint): bool",
    "(string, string): bool",
    "(bytes, bytes): bool",
    "(timestamp, timestamp): bool",
    "(duration, duration): bool",
];

/// What the evaluator itself runs (`&&`, `?:`) stands here for its types.
pub(super) const TABLE: &[Entry] = &[
    ("_?_:_", &["(bool, A, A): A"], never),
    ("_&&_", &["(bool, bool): bool"], never),
    ("_||_", &["(bool, bool): bool"], never),
    ("!_", &["(bool): bool"], not),
    ("@not_strictly_false", &["(bool): bool"], never),
    ("_==_", &["(A, A): bool"], equal),
    ("_!=_", &["(A, A): bool"], unequal),
    ("_<_", ORDERED, |args| order(args, Ordering::is_lt)),
    ("_<=_", ORDERED, |args| order(args, Ordering::is_le)),
    ("_>_", ORDERED, |args| order(args, Ordering::is_gt)),
    ("_>=_", ORDERED, |args| order(args, Ordering::is_ge)),
    (
        "_+_",
        &[
            "(bytes, bytes): bytes",
            "(double, double): double",
            "(duration, duration): duration",
            "(duration, timestamp): timestamp",
            "(timestamp, duration): timestamp",
            "(int, int): int",
            "(list(A), list(A)): list(A)",
            "(string, string): string",
            "(uint, uint): uint",
        ],
        add,
    ),
    (
        "_-_",
        &[
            "(double, double): double",
            "(duration, duration): duration",
            "(int, int): int",
            "(timestamp, duration): timestamp",
            "(timestamp, timestamp): duration",
            "(uint, uint): uint",
        ],
        subtract,
    ),
    ("_*_", &["(double, double): double", "(int, int): int", "(uint, uint): uint"], multiply),
    ("_/_", &["(double, double): double", "(int, int): int", "(uint, uint): uint"], divide),
    ("_%_", &["(int, int): int", "(uint, uint): uint"], modulo),
    ("-_", &["(double): double", "(int): int"], negate),
    (
        "_[_]",
        &["(list(A), int): A", "(map(A, B), A): B", "(opt(list(A)), int): opt(A)", "(opt(map(A, B)), A): opt(B)"],
        at,
    ),
    (
        "_[?_]",
        &[
            "(list(A), int): opt(A)",
            "(opt(list(A)), int): opt(A)",
            "(map(A, B), A): opt(B)",
            "(opt(map(A, B)), A): opt(B)",
        ],
        optional_at,
    ),
    ("@in", &["(A, list(A)): bool", "(A, map(A, B)): bool"], contained),
];

fn never<'a>(_: &[Val<'a>]) -> Outcome<'a> {
    mismatch()
}

fn not<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match args {
        [Val::Bool(truth)] => Ok(Val::Bool(!truth)),
        _ => mismatch(),
    }
}

fn equal<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    Ok(Val::Bool(args[0].equals(&args[1])))
}

fn unequal<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    Ok(Val::Bool(!args[0].equals(&args[1])))
}

fn order<'a>(args: &[Val<'a>], holds: fn(Ordering) -> bool) -> Outcome<'a> {
    match args[0].compare(&args[1]) {
        Some(found) => Ok(Val::Bool(holds(found))),
        None if matches!((&args[0], &args[1]), (Val::Double(_), _) | (_, Val::Double(_))) => Ok(Val::Bool(false)),
        None => mismatch(),
    }
}

fn overflow(what: &str) -> EvalError {
    EvalError::failed(format!("{what} overflow"))
}

fn checked<'a, T>(result: Option<T>, what: &str, make: fn(T) -> Val<'a>) -> Outcome<'a> {
    result.map(make).ok_or_else(|| overflow(what))
}

fn add<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match (&args[0], &args[1]) {
        (Val::Int(a), Val::Int(b)) => checked(a.checked_add(*b), "integer", Val::Int),
        (Val::Uint(a), Val::Uint(b)) => checked(a.checked_add(*b), "unsigned integer", Val::Uint),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a + b)),
        (Val::String(a), Val::String(b)) => Ok(Val::string([a.as_str(), b.as_str()].concat())),
        (Val::Bytes(a), Val::Bytes(b)) => Ok(Val::Bytes([&a[..], &b[..]].concat().into())),
        (Val::Duration(a), Val::Duration(b)) => checked(a.checked_add(*b), "duration", Val::Duration),
        (Val::Duration(span), Val::Timestamp(time)) | (Val::Timestamp(time), Val::Duration(span)) => {
            checked(time.checked_add(*span).ok(), "timestamp", Val::Timestamp)
        }
        (Val::List(a), Val::List(b)) => a.clone().plus(b).map(Val::List),
        _ => mismatch(),
    }
}

fn subtract<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match (&args[0], &args[1]) {
        (Val::Int(a), Val::Int(b)) => checked(a.checked_sub(*b), "integer", Val::Int),
        (Val::Uint(a), Val::Uint(b)) => checked(a.checked_sub(*b), "unsigned integer", Val::Uint),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a - b)),
        (Val::Duration(a), Val::Duration(b)) => checked(a.checked_sub(*b), "duration", Val::Duration),
        (Val::Timestamp(a), Val::Duration(b)) => checked(a.checked_sub(*b).ok(), "timestamp", Val::Timestamp),
        (Val::Timestamp(a), Val::Timestamp(b)) => Ok(Val::Duration(a.duration_since(*b))),
        _ => mismatch(),
    }
}

fn multiply<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match (&args[0], &args[1]) {
        (Val::Int(a), Val::Int(b)) => checked(a.checked_mul(*b), "integer", Val::Int),
        (Val::Uint(a), Val::Uint(b)) => checked(a.checked_mul(*b), "unsigned integer", Val::Uint),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a * b)),
        _ => mismatch(),
    }
}

fn divide<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match (&args[0], &args[1]) {
        (Val::Int(_), Val::Int(0)) | (Val::Uint(_), Val::Uint(0)) => Err(EvalError::failed("division by zero")),
        (Val::Int(a), Val::Int(b)) => checked(a.checked_div(*b), "integer", Val::Int),
        (Val::Uint(a), Val::Uint(b)) => Ok(Val::Uint(a / b)),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a / b)),
        _ => mismatch(),
    }
}

fn modulo<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match (&args[0], &args[1]) {
        (Val::Int(_), Val::Int(0)) | (Val::Uint(_), Val::Uint(0)) => Err(EvalError::failed("modulus by zero")),
        (Val::Int(a), Val::Int(b)) => checked(a.checked_rem(*b), "integer", Val::Int),
        (Val::Uint(a), Val::Uint(b)) => Ok(Val::Uint(a % b)),
        _ => mismatch(),
    }
}

fn negate<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match &args[0] {
        Val::Int(number) => checked(number.checked_neg(), "integer", Val::Int),
        Val::Double(number) => Ok(Val::Double(-number)),
        _ => mismatch(),
    }
}

/// The element or member; `None` when there is none.
fn found<'a>(container: &Val<'a>, key: &Val<'a>) -> Result<Option<Val<'a>>, EvalError> {
    match (container, key) {
        (Val::List(list), key) => {
            let at = match key {
                Val::Int(at) => usize::try_from(*at).ok(),
                Val::Uint(at) => usize::try_from(*at).ok(),
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "checked to be whole and in range"
                )]
                Val::Double(at) if at.fract() == 0.0 && (0.0..1e9).contains(at) => Some(*at as usize),
                _ => return Err(EvalError::no_such_overload()),
            };
            at.and_then(|at| list.get(at)).transpose()
        }
        (Val::Map(map), key) => map.get(key).transpose(),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn spelled(key: &Val<'_>) -> String {
    super::conversions::spell(key).unwrap_or_else(|| key.type_name().into_owned())
}

fn at<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    if let Val::Optional(_) = &args[0] {
        return optional_at(args);
    }
    found(&args[0], &args[1])?.ok_or_else(|| match &args[0] {
        Val::List(_) => EvalError::failed(format!("index out of bounds: {}", spelled(&args[1]))),
        _ => EvalError::no_such_key(spelled(&args[1])),
    })
}

fn optional_at<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let held = match &args[0] {
        Val::Optional(None) => None,
        Val::Optional(Some(inner)) => found(inner, &args[1])?,
        container => found(container, &args[1])?,
    };
    Ok(held.map_or(Val::Optional(None), Val::some))
}

fn contained<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match &args[1] {
        Val::List(list) => {
            for item in list.iter() {
                if item?.equals(&args[0]) {
                    return Ok(Val::Bool(true));
                }
            }
            Ok(Val::Bool(false))
        }
        Val::Map(map) => Ok(Val::Bool(map.get(&args[0]).is_some())),
        _ => mismatch(),
    }
}
