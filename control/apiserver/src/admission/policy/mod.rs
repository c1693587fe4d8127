//! Policies in the Common Expression Language: match conditions, validating and mutating admission policies.

mod apply;
mod checks;
mod compiled;
mod conditions;
mod expressions;
mod matching;
mod mutating;
mod parameters;
mod type_check;
mod validating;

pub(crate) use checks::check_expressions;
pub(crate) use compiled::PolicyIndex;
pub(crate) use conditions::{Condition, Matched, conditions_hold, holds};
pub(crate) use mutating::mutate;
pub(crate) use type_check::write_type_checks;
pub(crate) use validating::validate;
