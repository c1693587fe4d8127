//! The evaluator: walks a checked tree and counts what it costs, in upstream's units, as it goes.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::ast::{
    Bind, Call, Element, Entry, Expr, Fold, Ident, Kind, Literal, Select, StructLiteral, Target, operator,
};
use crate::cost::{self, LIST_COST, MAP_COST, STRUCT_COST};
use crate::error::EvalError;
use crate::extension::Extension;
use crate::value::{List, Map, Text, Val, map_key};

/// One evaluation.
pub(crate) struct Machine<'a> {
    variables: Vec<Option<Val<'a>>>,
    /// Variables of folds and bindings, as deep as the checker counted.
    locals: Vec<Val<'a>>,
    cost: u64,
    limit: u64,
}

type Outcome<'a> = Result<Val<'a>, EvalError>;

impl<'a> Machine<'a> {
    pub(crate) fn new(variables: Vec<Option<Val<'a>>>, locals: usize, limit: u64) -> Self {
        Self { variables, locals: Vec::with_capacity(locals), cost: 0, limit }
    }

    pub(crate) fn cost(&self) -> u64 {
        self.cost
    }

    fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(EvalError::CostLimit) } else { Ok(()) }
    }

    pub(crate) fn run(&mut self, expr: &Expr) -> Outcome<'a> {
        match &expr.kind {
            Kind::Literal(literal) => Ok(literal_value(literal)),
            Kind::Ident(ident) => self.ident(ident),
            Kind::Select(select) => self.select(select),
            Kind::Call(call) => self.call(call),
            Kind::List(elements) => self.list(elements),
            Kind::Map(entries) => self.map(entries),
            Kind::Struct(literal) => self.struct_literal(literal),
            Kind::Fold(fold) => self.fold(fold),
            Kind::Bind(bind) => self.bind(bind),
        }
    }

    fn ident(&mut self, ident: &Ident) -> Outcome<'a> {
        self.charge(cost::SELECT_COST)?;
        match &ident.target {
            Target::Local(at) => Ok(self.locals[*at].clone()),
            Target::Variable(at) => self.variables[*at]
                .clone()
                .ok_or_else(|| EvalError::failed(format!("no such attribute(s): {}", ident.name))),
            Target::Type(name) => Ok(Val::Type((*name).into())),
            Target::Unresolved => Err(EvalError::failed(format!("no such attribute(s): {}", ident.name))),
        }
    }

    fn select(&mut self, select: &Select) -> Outcome<'a> {
        let operand = self.run(&select.operand)?;
        if select.test {
            return present(&operand, &select.field).map(Val::Bool);
        }
        self.charge(cost::SELECT_COST)?;
        match operand {
            Val::Optional(None) => Ok(Val::Optional(None)),
            Val::Optional(Some(inner)) => optional_field(&inner, &select.field),
            operand => field(&operand, &select.field)?.ok_or_else(|| EvalError::no_such_key(&select.field)),
        }
    }

    fn call(&mut self, call: &Call) -> Outcome<'a> {
        match &*call.name {
            operator::AND => return self.logic(call, false),
            operator::OR => return self.logic(call, true),
            operator::CONDITIONAL => return self.conditional(call),
            operator::NOT_STRICTLY_FALSE => {
                let outcome = self.run(&call.args[0]);
                self.charge(1)?;
                return Ok(Val::Bool(match outcome {
                    Err(EvalError::CostLimit) => return Err(EvalError::CostLimit),
                    Ok(Val::Bool(truth)) => truth,
                    _ => true,
                }));
            }
            operator::OPTIONAL_SELECT => return self.optional_select(call),
            "or" | "orValue" if call.target.is_some() => return self.or(call),
            _ => {}
        }
        let mut args = Vec::with_capacity(call.args.len() + 1);
        if let Some(target) = &call.target {
            args.push(self.run(target)?);
        }
        for arg in &call.args {
            args.push(self.run(arg)?);
        }
        if &*call.name == operator::ADD
            && let [Val::List(_), Val::List(_)] = args.as_slice()
        {
            return self.concatenate(args);
        }
        let outcome = run_overload(call, &args)?;
        self.charge(cost::of_call(&call.name, &args, &outcome))?;
        Ok(outcome)
    }

    /// Takes the left list, so that a fold's accumulator grows in place.
    fn concatenate(&mut self, mut args: Vec<Val<'a>>) -> Outcome<'a> {
        self.charge(1)?;
        let (Some(Val::List(right)), Some(Val::List(left))) = (args.pop(), args.pop()) else {
            return Err(EvalError::no_such_overload());
        };
        left.plus(&right).map(Val::List)
    }

    /// `&&` and `||`: whichever side decides, decides, even when the other faults.
    fn logic(&mut self, call: &Call, decides: bool) -> Outcome<'a> {
        let mut fault = None;
        for arg in &call.args {
            match self.run(arg) {
                Ok(Val::Bool(truth)) if truth == decides => return Ok(Val::Bool(decides)),
                Ok(Val::Bool(_)) => {}
                Ok(_) => fault = fault.or(Some(EvalError::no_such_overload())),
                Err(EvalError::CostLimit) => return Err(EvalError::CostLimit),
                Err(error) => fault = fault.or(Some(error)),
            }
        }
        fault.map_or(Ok(Val::Bool(!decides)), Err)
    }

    fn conditional(&mut self, call: &Call) -> Outcome<'a> {
        let [condition, yes, no] = call.args.as_slice() else { return Err(EvalError::no_such_overload()) };
        match self.run(condition)? {
            Val::Bool(true) => self.run(yes),
            Val::Bool(false) => self.run(no),
            _ => Err(EvalError::no_such_overload()),
        }
    }

    fn optional_select(&mut self, call: &Call) -> Outcome<'a> {
        let operand = self.run(&call.args[0])?;
        self.charge(cost::SELECT_COST)?;
        let Kind::Literal(Literal::String(name)) = &call.args[1].kind else {
            return Err(EvalError::no_such_overload());
        };
        match operand {
            Val::Optional(None) => Ok(Val::Optional(None)),
            Val::Optional(Some(inner)) => optional_field(&inner, name),
            operand => optional_field(&operand, name),
        }
    }

    /// `a.or(b)` and `a.orValue(b)`: the right side is evaluated only when wanted.
    fn or(&mut self, call: &Call) -> Outcome<'a> {
        let (Some(target), [other]) = (&call.target, call.args.as_slice()) else {
            return Err(EvalError::no_such_overload());
        };
        let held = self.run(target)?;
        self.charge(1)?;
        match held {
            Val::Optional(Some(inner)) if &*call.name == "orValue" => Ok((*inner).clone()),
            Val::Optional(Some(inner)) => Ok(Val::Optional(Some(inner))),
            Val::Optional(None) => self.run(other),
            _ => Err(EvalError::no_such_overload()),
        }
    }

    fn list(&mut self, elements: &[Element]) -> Outcome<'a> {
        let mut list = Vec::with_capacity(elements.len());
        let mut constant = true;
        for element in elements {
            constant &= matches!(element.value.kind, Kind::Literal(_)) && !element.optional;
            let value = self.run(&element.value)?;
            match value {
                Val::Optional(None) if element.optional => {}
                Val::Optional(Some(inner)) if element.optional => list.push((*inner).clone()),
                value => list.push(value),
            }
        }
        // A list of literals is made once, when upstream plans the program.
        if !constant {
            self.charge(LIST_COST)?;
        }
        Ok(Val::list(list))
    }

    fn map(&mut self, entries: &[Entry]) -> Outcome<'a> {
        let mut map = BTreeMap::new();
        for entry in entries {
            let key = map_key(&self.run(&entry.key)?)?;
            let value = match self.run(&entry.value)? {
                Val::Optional(None) if entry.optional => continue,
                Val::Optional(Some(inner)) if entry.optional => (*inner).clone(),
                value => value,
            };
            if map.insert(key.clone(), value).is_some() {
                return Err(EvalError::failed(format!("Failed with repeated key: {key}")));
            }
        }
        let literal = |expr: &Expr| matches!(expr.kind, Kind::Literal(_));
        let constant = entries.iter().all(|entry| literal(&entry.key) && literal(&entry.value) && !entry.optional);
        if !constant {
            self.charge(MAP_COST)?;
        }
        Ok(Val::Map(Map::Shared(Rc::new(map))))
    }

    fn struct_literal(&mut self, literal: &StructLiteral) -> Outcome<'a> {
        let mut fields = Vec::with_capacity(literal.fields.len());
        for field in &literal.fields {
            let value = match self.run(&field.value)? {
                Val::Optional(None) if field.optional => continue,
                Val::Optional(Some(inner)) if field.optional => (*inner).clone(),
                value => value,
            };
            let name = crate::escape::unescape(&field.name).unwrap_or_else(|| (&*field.name).into());
            fields.push((name.as_ref().into(), value));
        }
        self.charge(STRUCT_COST)?;
        Ok(Val::extension(Extension::Struct((&*literal.name).into(), fields)))
    }

    fn bind(&mut self, bind: &Bind) -> Outcome<'a> {
        let held = self.run(&bind.init)?;
        self.locals.push(held);
        let outcome = self.run(&bind.body);
        self.locals.pop();
        outcome
    }

    fn fold(&mut self, fold: &Fold) -> Outcome<'a> {
        let range = self.run(&fold.range)?;
        let init = self.run(&fold.init)?;
        let depth = self.locals.len();
        self.locals.push(init);
        let outcome = self.steps(fold, &range, depth);
        self.locals.truncate(depth + 1);
        let outcome = outcome.and_then(|()| self.run(&fold.result));
        self.locals.truncate(depth);
        outcome
    }

    fn steps(&mut self, fold: &Fold, range: &Val<'a>, depth: usize) -> Result<(), EvalError> {
        let two = fold.var2.is_some();
        let mut fault = None;
        match range {
            Val::List(list) => {
                for (at, item) in list.iter().enumerate() {
                    let (first, second) = if two {
                        (Val::Int(i64::try_from(at).unwrap_or(i64::MAX)), Some(item?))
                    } else {
                        (item?, None)
                    };
                    if !self.step(fold, depth, (first, second), &mut fault)? {
                        return Ok(());
                    }
                }
            }
            Val::Map(map) => {
                for key in map.keys() {
                    let second = if two { map.get(&key).transpose()? } else { None };
                    if !self.step(fold, depth, (key, second), &mut fault)? {
                        return Ok(());
                    }
                }
            }
            _ => return Err(EvalError::no_such_overload()),
        }
        fault.map_or(Ok(()), Err)
    }

    /// One step; false when the fold is decided, whatever faulted before: a step of `&&` or `||` that faults
    /// is remembered, and a later one may still decide.
    fn step(
        &mut self,
        fold: &Fold,
        depth: usize,
        (first, second): (Val<'a>, Option<Val<'a>>),
        fault: &mut Option<EvalError>,
    ) -> Result<bool, EvalError> {
        self.locals.push(first);
        self.locals.extend(second);
        let going = match self.run(&fold.condition)? {
            Val::Bool(going) => going,
            _ => return Err(EvalError::no_such_overload()),
        };
        if going {
            let logic =
                matches!(&fold.step.kind, Kind::Call(call) if matches!(&*call.name, operator::AND | operator::OR));
            match self.step_value(fold, depth) {
                Ok(next) => self.locals[depth] = next,
                Err(error) if logic && error != EvalError::CostLimit => {
                    fault.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        self.locals.truncate(depth + 1);
        Ok(going)
    }

    fn step_value(&mut self, fold: &Fold, depth: usize) -> Outcome<'a> {
        // `@result + [x]` takes the accumulator out of its slot, so that it is held once and grows in place.
        if let Kind::Call(call) = &fold.step.kind {
            if let Some(grown) = self.grow(call, depth)? {
                return Ok(grown);
            }
            if &*call.name == operator::CONDITIONAL
                && let [condition, yes, no] = call.args.as_slice()
                && let Kind::Call(append) = &yes.kind
            {
                return match self.run(condition)? {
                    Val::Bool(true) => match self.grow(append, depth)? {
                        Some(grown) => Ok(grown),
                        None => self.run(yes),
                    },
                    Val::Bool(false) => self.run(no),
                    _ => Err(EvalError::no_such_overload()),
                };
            }
        }
        self.run(&fold.step)
    }

    fn grow(&mut self, call: &Call, depth: usize) -> Result<Option<Val<'a>>, EvalError> {
        let (operator::ADD, [left, right]) = (&*call.name, call.args.as_slice()) else { return Ok(None) };
        let accumulator =
            matches!(&left.kind, Kind::Ident(ident) if matches!(ident.target, Target::Local(at) if at == depth));
        if !accumulator || !matches!(self.locals[depth], Val::List(_)) {
            return Ok(None);
        }
        let right = self.run(right)?;
        self.charge(cost::SELECT_COST)?;
        let left = std::mem::replace(&mut self.locals[depth], Val::Null);
        self.concatenate(vec![left, right]).map(Some)
    }
}

/// Runs the overload that the values fit; overloads that differ by type share what they run.
fn run_overload<'a>(call: &Call, args: &[Val<'a>]) -> Outcome<'a> {
    let function = call.function.ok_or_else(EvalError::no_such_overload)?;
    let mut tried: Option<crate::function::Run> = None;
    let mut fault = EvalError::no_such_overload();
    for at in &call.overloads {
        let run = function.overloads[*at].run;
        if tried.is_some_and(|tried| std::ptr::fn_addr_eq(tried, run)) {
            continue;
        }
        tried = Some(run);
        match run(args) {
            Err(error) if error == EvalError::no_such_overload() => fault = error,
            outcome => return outcome,
        }
    }
    Err(fault)
}

/// The field of a map or object; `None` when it is not there.
fn field<'a>(operand: &Val<'a>, name: &str) -> Result<Option<Val<'a>>, EvalError> {
    match operand {
        Val::Map(map) => map.field(name).transpose(),
        Val::Extension(extension) => match &**extension {
            Extension::Struct(_, fields) => {
                Ok(fields.iter().find(|(held, _)| held == name).map(|(_, value)| value.clone()))
            }
            _ => Err(EvalError::no_such_overload()),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

fn present(operand: &Val<'_>, name: &str) -> Result<bool, EvalError> {
    match operand {
        Val::Optional(None) => Ok(false),
        Val::Optional(Some(inner)) => present(inner, name),
        operand => Ok(field(operand, name)?.is_some()),
    }
}

fn optional_field<'a>(operand: &Val<'a>, name: &str) -> Outcome<'a> {
    Ok(field(operand, name)?.map_or(Val::Optional(None), Val::some))
}

fn literal_value<'a>(literal: &Literal) -> Val<'a> {
    match literal {
        Literal::Null => Val::Null,
        Literal::Bool(truth) => Val::Bool(*truth),
        Literal::Int(number) => Val::Int(*number),
        Literal::Uint(number) => Val::Uint(*number),
        Literal::Double(number) => Val::Double(*number),
        Literal::String(text) => Val::String(Text::Shared(text.clone())),
        Literal::Bytes(bytes) => Val::Bytes(bytes.clone()),
        Literal::Pattern(pattern) => Val::String(Text::Pattern(pattern.clone())),
    }
}

/// Elements of a list argument.
pub(crate) fn elements<'v, 'a>(val: &'v Val<'a>) -> Result<&'v List<'a>, EvalError> {
    if let Val::List(list) = val { Ok(list) } else { Err(EvalError::no_such_overload()) }
}
