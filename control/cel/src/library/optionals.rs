//! Optional values; selecting and choosing between them is the evaluator's.

use super::{Entry, Outcome, mismatch};
use crate::error::EvalError;
use crate::evaluate::elements;
use crate::value::Val;

pub(super) const TABLE: &[Entry] = &[
    ("optional.of", &["(A): opt(A)"], |args| Ok(Val::some(args[0].clone()))),
    ("optional.ofNonZeroValue", &["(A): opt(A)"], of_non_zero),
    ("optional.none", &["(): opt(A)"], |_| Ok(Val::Optional(None))),
    ("value", &["opt(A).(): A"], value),
    ("hasValue", &["opt(A).(): bool"], |args| match &args[0] {
        Val::Optional(held) => Ok(Val::Bool(held.is_some())),
        _ => mismatch(),
    }),
    ("or", &["opt(A).(opt(A)): opt(A)"], |_| mismatch()),
    ("orValue", &["opt(A).(A): A"], |_| mismatch()),
    ("optional.unwrap", &["(list(opt(A))): list(A)"], unwrap),
    ("unwrapOpt", &["list(opt(A)).(): list(A)"], unwrap),
];

fn is_zero(val: &Val<'_>) -> bool {
    match val {
        Val::Null | Val::Bool(false) | Val::Int(0) | Val::Uint(0) | Val::Optional(None) => true,
        Val::Double(number) => *number == 0.0,
        Val::Duration(span) => span.is_zero(),
        Val::String(_) | Val::Bytes(_) | Val::List(_) | Val::Map(_) => val.size() == Some(0),
        _ => false,
    }
}

fn of_non_zero<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    Ok(if is_zero(&args[0]) { Val::Optional(None) } else { Val::some(args[0].clone()) })
}

fn value<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match &args[0] {
        Val::Optional(Some(held)) => Ok((**held).clone()),
        Val::Optional(None) => Err(EvalError::failed("optional.none() dereference")),
        _ => mismatch(),
    }
}

fn unwrap<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let mut held = Vec::new();
    for item in elements(&args[0])?.iter() {
        match item? {
            Val::Optional(Some(inner)) => held.push((*inner).clone()),
            Val::Optional(None) => {}
            _ => return mismatch(),
        }
    }
    Ok(Val::list(held))
}
