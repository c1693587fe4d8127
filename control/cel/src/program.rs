//! A compiled expression: made once, evaluated any number of times, from any thread.

use std::sync::Arc;

use crate::ast::{Expr, Kind, Target};
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
        names(&self.0.expr, &|target| matches!(target, Target::Variable(held) if *held == at))
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

fn names(expr: &Expr, found: &dyn Fn(&Target) -> bool) -> bool {
    match &expr.kind {
        Kind::Literal(_) => false,
        Kind::Ident(ident) => found(&ident.target),
        Kind::Select(select) => names(&select.operand, found),
        Kind::Call(call) => {
            call.target.as_ref().is_some_and(|target| names(target, found))
                || call.args.iter().any(|arg| names(arg, found))
        }
        Kind::List(elements) => elements.iter().any(|element| names(&element.value, found)),
        Kind::Map(entries) => entries.iter().any(|entry| names(&entry.key, found) || names(&entry.value, found)),
        Kind::Struct(literal) => literal.fields.iter().any(|field| names(&field.value, found)),
        Kind::Fold(fold) => [&fold.range, &fold.init, &fold.condition, &fold.step, &fold.result]
            .into_iter()
            .any(|part| names(part, found)),
        Kind::Bind(bind) => names(&bind.init, found) || names(&bind.body, found),
    }
}
