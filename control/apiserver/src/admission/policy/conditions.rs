//! Match conditions: all must hold; one that does not, wins over one that faults.

use super::expressions::{CONDITIONS, Inputs, Variables};
use crate::{admission::webhook::Subject, registry::View};
use timonel_api::{Key, Status, Value};
use timonel_cel::{Bindings, Budget, Environment, Program, compile};

/// Most that all conditions of one webhook or policy may cost together.
const BUDGET: u64 = 2_500_000;

/// One condition.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    pub(crate) program: Result<Program, String>,
}

/// What conditions say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Matched {
    Yes,
    No,
    /// None says no, and these faulted.
    Failed(String),
}

impl Condition {
    pub(crate) fn parse_all(conditions: &[Value]) -> Vec<Self> {
        Self::parse_in(conditions, &CONDITIONS)
    }

    pub(crate) fn parse_in(conditions: &[Value], environment: &Environment) -> Vec<Self> {
        let parse = |condition: &Value| Self {
            program: compile(condition.str_at(&["expression"]), environment)
                .map_err(|errors| format!("compilation failed: {errors}")),
        };
        conditions.iter().map(parse).collect()
    }
}

/// Whether a webhook's conditions hold for a write in a version.
pub(crate) fn conditions_hold(
    conditions: &[Condition],
    subject: &Subject<'_>,
    view: &View,
    params: &Value,
) -> Result<Matched, Status> {
    if conditions.is_empty() {
        return Ok(Matched::Yes);
    }
    let inputs = Inputs::new(subject, view)?;
    let bindings = inputs.bindings(Some(params)).map_err(Status::internal)?;
    Ok(holds(conditions, &Variables::bind(bindings, &[])))
}

/// The same over values at hand.
pub(crate) fn holds(conditions: &[Condition], bindings: &Bindings<'_>) -> Matched {
    let mut budget = Budget::new(BUDGET);
    let mut faults: Vec<String> = Vec::new();
    for condition in conditions {
        let outcome = match &condition.program {
            Err(why) => Err(why.clone()),
            Ok(program) => program
                .evaluate(bindings, &mut budget)
                .map_err(|error| format!("expression '{}' resulted in error: {error}", program.source())),
        };
        match outcome.map(|val| val.as_bool()) {
            Ok(Some(true)) => {}
            Ok(_) => return Matched::No,
            Err(fault) => faults.push(fault),
        }
    }
    match faults.as_slice() {
        [] => Matched::Yes,
        [one] => Matched::Failed(one.clone()),
        many => Matched::Failed(format!("[{}]", many.join(", "))),
    }
}

/// Programs by name.
pub(crate) type Named = (Key, Result<Program, String>);
