//! A compiled expression: made once, evaluated any number of times, from any thread.

use std::sync::Arc;

use crate::ast::{Expr, Kind, Literal, Target, operator};
use crate::check::{Checked, check};
use crate::environment::Environment;
use crate::error::{CompileErrors, EvalError, Source};
use crate::estimate::{CostEstimate, estimate};
use crate::evaluate::Machine;
use crate::parse::parse;
use crate::types::Type;
use crate::value::Val;

/// Most that one evaluation may cost, in upstream's units.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// Most that all evaluations of one object or one policy may cost together.
pub const RUNTIME_BUDGET: u64 = 10_000_000;

/// What evaluations may still cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    left: u64,
    per_call: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(RUNTIME_BUDGET)
    }
}

impl Budget {
    /// A budget over several evaluations, each bounded as upstream bounds it.
    #[must_use]
    pub fn new(total: u64) -> Self {
        Self { left: total, per_call: PER_CALL_LIMIT }
    }

    /// What is left.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Takes what something else has cost. False, with nothing left, when there was too little.
    pub fn charge(&mut self, cost: u64) -> bool {
        let enough = cost <= self.left;
        self.left = self.left.saturating_sub(cost);
        enough
    }
}

/// Values of an environment's variables.
#[derive(Clone, Debug, Default)]
pub struct Bindings<'a>(Vec<(&'static str, Val<'a>)>);

impl<'a> Bindings<'a> {
    /// No values.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// With a variable's value.
    #[must_use]
    pub fn with(mut self, name: &'static str, val: Val<'a>) -> Self {
        self.set(name, val);
        self
    }

    /// Sets a variable's value.
    pub fn set(&mut self, name: &'static str, val: Val<'a>) {
        match self.0.iter_mut().find(|(held, _)| *held == name) {
            Some(held) => held.1 = val,
            None => self.0.push((name, val)),
        }
    }

    fn get(&self, name: &str) -> Option<&Val<'a>> {
        self.0.iter().find(|(held, _)| *held == name).map(|(_, val)| val)
    }
}

/// A checked expression. Cheap to clone.
#[derive(Clone)]
pub struct Program(Arc<Compiled>);

struct Compiled {
    source: Source,
    expr: Expr,
    checked: Checked,
    environment: Environment,
    result: Type,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "Program({:?})", self.0.source.text())
    }
}

/// Parses and checks an expression.
///
/// # Errors
/// Everything that is wrong with it, in upstream's words.
pub fn compile(text: &str, environment: &Environment) -> Result<Program, CompileErrors> {
    let source = Source::new(text);
    let (mut expr, nodes) = parse(&source)?;
    let checked = check(&mut expr, nodes, &source, environment)?;
    let result = checked.types[expr.id].clone();
    Ok(Program(Arc::new(Compiled { source, expr, checked, environment: environment.clone(), result })))
}

impl Program {
    /// The expression's text.
    #[must_use]
    pub fn source(&self) -> &str {
        self.0.source.text()
    }

    /// What it evaluates to; `Dyn` when only its input decides.
    #[must_use]
    pub fn result_type(&self) -> &Type {
        self.0.result.plain()
    }

    /// Whether it may evaluate to `wanted`: it does, or only its input decides.
    #[must_use]
    pub fn yields(&self, wanted: &Type) -> bool {
        let found = self.result_type();
        matches!(found, Type::Dyn) || found.is_exactly(wanted)
    }

    /// Whether it names the variable.
    #[must_use]
    pub fn uses(&self, variable: &str) -> bool {
        let Some(at) = self.0.environment.position(variable) else { return false };
        any(&self.0.expr, &|expr| is_variable(expr, at))
    }

    /// Whether it reads the field of the variable, as `variable.field` or `variable.?field`.
    #[must_use]
    pub fn selects(&self, variable: &str, field: &str) -> bool {
        let Some(at) = self.0.environment.position(variable) else { return false };
        any(&self.0.expr, &|expr| match &expr.kind {
            Kind::Select(select) => is_variable(&select.operand, at) && &*select.field == field,
            Kind::Call(call) => {
                call.target.is_none()
                    && &*call.name == operator::OPTIONAL_SELECT
                    && call.args.first().is_some_and(|operand| is_variable(operand, at))
                    && call.args.get(1).is_some_and(
                        |name| matches!(&name.kind, Kind::Literal(Literal::String(text)) if &**text == field),
                    )
            }
            _ => false,
        })
    }

    /// What an evaluation may cost at least and at most.
    #[must_use]
    pub fn estimate(&self) -> CostEstimate {
        estimate(&self.0.expr, &self.0.checked.types)
    }

    /// Evaluates, and takes the cost out of the budget.
    ///
    /// # Errors
    /// When the expression faults on this input, or costs more than it may.
    pub fn evaluate<'a>(&self, bindings: &Bindings<'a>, budget: &mut Budget) -> Result<Val<'a>, EvalError> {
        let environment = &self.0.environment;
        let variables = (0..environment.len()).map(|at| bindings.get(environment.name_at(at)).cloned());
        let limit = budget.left.min(budget.per_call);
        let mut machine = Machine::new(variables.collect(), self.0.checked.locals, limit);
        let outcome = machine.run(&self.0.expr);
        budget.charge(machine.cost());
        outcome
    }
}

fn is_variable(expr: &Expr, at: usize) -> bool {
    matches!(&expr.kind, Kind::Ident(ident) if matches!(ident.target, Target::Variable(held) if held == at))
}

/// Whether a part of an expression passes the test.
fn any(expr: &Expr, test: &dyn Fn(&Expr) -> bool) -> bool {
    if test(expr) {
        return true;
    }
    match &expr.kind {
        Kind::Literal(_) | Kind::Ident(_) => false,
        Kind::Select(select) => any(&select.operand, test),
        Kind::Call(call) => {
            call.target.as_ref().is_some_and(|target| any(target, test)) || call.args.iter().any(|arg| any(arg, test))
        }
        Kind::List(elements) => elements.iter().any(|element| any(&element.value, test)),
        Kind::Map(entries) => entries.iter().any(|entry| any(&entry.key, test) || any(&entry.value, test)),
        Kind::Struct(literal) => literal.fields.iter().any(|field| any(&field.value, test)),
        Kind::Fold(fold) => {
            [&fold.range, &fold.init, &fold.condition, &fold.step, &fold.result].into_iter().any(|part| any(part, test))
        }
        Kind::Bind(bind) => any(&bind.init, test) || any(&bind.body, test),
    }
}
