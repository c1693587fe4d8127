//! Quantities.

use std::cmp::Ordering;
use timonel_api::{Format, Quantity};

use super::{Entry, Outcome, mismatch, text};
use crate::error::EvalError;
use crate::extension::Extension;
use crate::value::Val;

pub(super) const TABLE: &[Entry] = &[
    ("quantity", &["(string): Quantity"], |args| parse(text(&args[0])?).map(made)),
    ("isQuantity", &["(string): bool"], |args| Ok(Val::Bool(parse(text(&args[0])?).is_ok()))),
    ("sign", &["Quantity.(): int"], |args| Ok(Val::Int(of(&args[0])?.signum().into()))),
    ("isGreaterThan", &["Quantity.(Quantity): bool"], |args| Ok(Val::Bool(compare(args)?.is_gt()))),
    ("isLessThan", &["Quantity.(Quantity): bool"], |args| Ok(Val::Bool(compare(args)?.is_lt()))),
    ("compareTo", &["Quantity.(Quantity): int"], |args| Ok(Val::Int(compare(args)? as i64))),
    ("asApproximateFloat", &["Quantity.(): double"], |args| Ok(Val::Double(of(&args[0])?.as_f64()))),
    ("asInteger", &["Quantity.(): int"], as_integer),
    ("isInteger", &["Quantity.(): bool"], |args| Ok(Val::Bool(fits(of(&args[0])?)))),
    ("add", &["Quantity.(Quantity): Quantity", "Quantity.(int): Quantity"], |args| {
        Ok(made(of(&args[0])?.add(&operand(&args[1])?)))
    }),
    ("sub", &["Quantity.(Quantity): Quantity", "Quantity.(int): Quantity"], |args| {
        Ok(made(of(&args[0])?.sub(&operand(&args[1])?)))
    }),
];

fn parse(written: &str) -> Result<Quantity, EvalError> {
    written.parse().map_err(|error: timonel_api::QuantityError| EvalError::failed(error.to_string()))
}

fn made<'a>(quantity: Quantity) -> Val<'a> {
    Val::extension(Extension::Quantity(quantity))
}

fn of<'v>(val: &'v Val<'_>) -> Result<&'v Quantity, EvalError> {
    match val {
        Val::Extension(held) => match &**held {
            Extension::Quantity(quantity) => Ok(quantity),
            _ => Err(EvalError::no_such_overload()),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

fn operand(val: &Val<'_>) -> Result<Quantity, EvalError> {
    match val {
        Val::Int(number) => Ok(Quantity::new(*number, Format::DecimalExponent)),
        other => of(other).cloned(),
    }
}

fn compare(args: &[Val<'_>]) -> Result<Ordering, EvalError> {
    Ok(of(&args[0])?.cmp(of(&args[1])?))
}

/// Whether it is a whole number of 64 bits.
fn fits(quantity: &Quantity) -> bool {
    quantity.is_whole(0) && *quantity == Quantity::from(quantity.value())
}

fn as_integer<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let Ok(quantity) = of(&args[0]) else { return mismatch() };
    if fits(quantity) {
        return Ok(Val::Int(quantity.value()));
    }
    Err(EvalError::failed("cannot convert value to integer"))
}
