//! The type checker: resolves names and overloads, infers every node's type and says what cannot be,
//! in upstream's words.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ast::{Call, Expr, Fold, Ident, Kind, Literal, Select, StructLiteral, Target, operator};
use crate::environment::Environment;
use crate::error::{CompileError, CompileErrors, Source};
use crate::function::{self, Function, Library, Overload};
use crate::infer::{Unifier, most_general};
use crate::library;
use crate::regex::Pattern;
use crate::types::Type;

/// What the checker found out, by node.
pub(crate) struct Checked {
    pub(crate) types: Vec<Type>,
    /// Variables in reach at the deepest place.
    pub(crate) locals: usize,
}

/// Checks a tree, and writes into it what names mean.
pub(crate) fn check(
    expr: &mut Expr,
    nodes: usize,
    source: &Source,
    environment: &Environment,
) -> Result<Checked, CompileErrors> {
    let mut checker = Checker {
        source,
        environment,
        types: vec![Type::Dyn; nodes],
        unifier: Unifier::default(),
        scope: Vec::new(),
        deepest: 0,
        faults: Vec::new(),
    };
    checker.expr(expr);
    if !checker.faults.is_empty() {
        return Err(CompileErrors::new(checker.faults));
    }
    let unifier = checker.unifier;
    let types = checker.types.iter().map(|ty| unifier.resolve(ty, true)).collect();
    Ok(Checked { types, locals: checker.deepest })
}

struct Checker<'c> {
    source: &'c Source,
    environment: &'c Environment,
    types: Vec<Type>,
    unifier: Unifier,
    /// Variables of folds and bindings in reach, the innermost last.
    scope: Vec<(Arc<str>, Type)>,
    deepest: usize,
    faults: Vec<CompileError>,
}

impl Checker<'_> {
    fn fault(&mut self, at: u32, message: String) {
        self.faults.push(CompileError::at(self.source, at, message));
    }

    fn mismatch(&mut self, at: u32, wanted: &Type, found: &Type) {
        self.fault(at, format!("expected type '{wanted}' but found '{found}'"));
    }

    fn resolved(&self, ty: &Type) -> Type {
        self.unifier.resolve(ty, false)
    }

    fn enter(&mut self, name: &Arc<str>, ty: Type) {
        self.scope.push((name.clone(), ty));
        self.deepest = self.deepest.max(self.scope.len());
    }

    fn expr(&mut self, expr: &mut Expr) -> Type {
        let at = expr.at;
        let ty = match &mut expr.kind {
            Kind::Literal(literal) => literal_type(literal),
            Kind::Ident(ident) => self.ident(ident, at),
            Kind::Select(_) => self.select(expr),
            Kind::Call(_) => self.call(expr),
            Kind::List(_) => self.list(expr),
            Kind::Map(_) => self.map(expr),
            Kind::Struct(literal) => self.struct_literal(literal, at),
            Kind::Fold(fold) => self.fold(fold),
            Kind::Bind(bind) => {
                let ty = self.expr(&mut bind.init);
                self.enter(&bind.var, ty);
                let ty = self.expr(&mut bind.body);
                self.scope.pop();
                ty
            }
        };
        self.types[expr.id] = ty.clone();
        ty
    }

    fn lookup(&self, name: &str) -> Option<(Target, Type)> {
        if let Some(at) = self.scope.iter().rposition(|(held, _)| &**held == name) {
            return Some((Target::Local(at), self.scope[at].1.clone()));
        }
        if let Some(at) = self.environment.position(name) {
            return Some((Target::Variable(at), self.environment.type_at(at).clone()));
        }
        let (name, ty) = library::type_named(name)?;
        Some((Target::Type(name), Type::TypeOf(Arc::new(ty))))
    }

    fn ident(&mut self, ident: &mut Ident, at: u32) -> Type {
        if let Some((target, ty)) = self.lookup(&ident.name) {
            ident.target = target;
            return ty;
        }
        self.undeclared(&ident.name, at)
    }

    fn undeclared(&mut self, name: &str, at: u32) -> Type {
        self.fault(at, format!("undeclared reference to '{name}' (in container '')"));
        Type::Error
    }

    fn select(&mut self, expr: &mut Expr) -> Type {
        // A dotted name may be a variable as a whole.
        if let Some(name) = expr.qualified_name()
            && let Some((target, ty)) = self.lookup(&name)
        {
            expr.kind = Kind::Ident(Ident { name: name.into(), target });
            return ty;
        }
        let at = expr.at;
        let Kind::Select(Select { operand, field, test }) = &mut expr.kind else {
            unreachable!("called for selects");
        };
        let (field, test) = (field.clone(), *test);
        let operand = self.expr(operand);
        let ty = self.field(&operand, &field, at, false);
        if test { Type::Bool } else { self.resolved(&ty) }
    }

    fn field(&mut self, operand: &Type, field: &str, at: u32, optional: bool) -> Type {
        let operand = self.resolved(operand);
        let (target, was_optional) = unwrap_optional(&operand);
        let found = match target.plain() {
            Type::Map(map) => map.1.clone(),
            Type::Object(object) => object.field(field).unwrap_or_else(|| {
                self.fault(at, format!("undefined field '{field}'"));
                Type::Error
            }),
            Type::Param(_) => {
                self.unifier.assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                let message = format!("type '{other}' does not support field selection");
                self.fault(at, message);
                Type::Dyn
            }
        };
        if was_optional || optional { Type::optional(found) } else { found }
    }

    fn call(&mut self, expr: &mut Expr) -> Type {
        let at = expr.at;
        let Kind::Call(call) = &mut expr.kind else { unreachable!("called for calls") };
        if &*call.name == operator::OPTIONAL_SELECT {
            return self.optional_select(call, at);
        }
        let mut types: Vec<Type> = Vec::with_capacity(call.args.len() + 1);
        let args: Vec<Type> = call.args.iter_mut().map(|arg| self.expr(arg)).collect();
        if let Some(target) = &mut call.target {
            // `a.b.c()` may be a function of that name.
            let qualified = target.qualified_name().map(|name| format!("{name}.{}", call.name));
            let namespaced = qualified.and_then(|name| self.find(&name));
            if let Some(function) = namespaced {
                call.target = None;
                call.name = function.name.into();
            } else {
                types.push(self.expr(target));
            }
        }
        types.extend(args);
        let Some(function) = self.find(&call.name) else {
            let name = call.name.clone();
            return self.undeclared(&name, at);
        };
        call.function = Some(function);
        let ty = self.overload(call, function, &types, at);
        self.literal_arguments(call);
        ty
    }

    fn find(&self, name: &str) -> Option<&'static Function> {
        let found = function::find(name)?;
        (found.library == Library::Base || self.environment.makes_patches()).then_some(found)
    }

    fn optional_select(&mut self, call: &mut Call, at: u32) -> Type {
        let (Some(field), true) = (
            call.args.get(1).and_then(|field| match &field.kind {
                Kind::Literal(Literal::String(text)) => Some(text.clone()),
                _ => None,
            }),
            call.args.len() == 2,
        ) else {
            self.fault(at, "unsupported optional field selection".to_owned());
            return Type::Error;
        };
        let operand = self.expr(&mut call.args[0]);
        self.types[call.args[1].id] = Type::String;
        let ty = self.field(&operand, &field, at, true);
        self.resolved(&ty)
    }

    fn overload(&mut self, call: &mut Call, function: &'static Function, types: &[Type], at: u32) -> Type {
        if matches!(function.name, operator::AND | operator::OR) {
            return self.logic(call, types);
        }
        let member = call.target.is_some();
        let mut result: Option<Type> = None;
        call.overloads.clear();
        for (position, overload) in function.overloads.iter().enumerate() {
            if overload.member != member || overload.params.len() != types.len() {
                continue;
            }
            let Some(found) = self.try_overload(overload, types) else { continue };
            call.overloads.push(position);
            result = Some(match result {
                None => found,
                Some(first) if first.is_dyn() || first.is_exactly(&found) => first,
                Some(_) => Type::Dyn,
            });
        }
        result.unwrap_or_else(|| {
            let args: Vec<String> = types.iter().map(|ty| self.unifier.resolve(ty, true).to_string()).collect();
            let signature = match (member, args.split_first()) {
                (true, Some((target, rest))) => format!("{target}.({})", rest.join(", ")),
                _ => format!("({})", args.join(", ")),
            };
            self.fault(at, format!("found no matching overload for '{}' applied to '{signature}'", function.name));
            Type::Error
        })
    }

    fn logic(&mut self, call: &mut Call, types: &[Type]) -> Type {
        call.overloads = vec![0];
        for (arg, ty) in call.args.iter().zip(types) {
            if !self.unifier.assignable(ty, &Type::Bool) {
                let found = self.resolved(ty);
                self.faults.push(CompileError::at(
                    self.source,
                    arg.at,
                    format!("expected type 'bool' but found '{found}'"),
                ));
            }
        }
        Type::Bool
    }

    fn try_overload(&mut self, overload: &Overload, types: &[Type]) -> Option<Type> {
        let mut fresh: BTreeMap<u32, Type> = BTreeMap::new();
        let params: Vec<Type> =
            overload.params.iter().map(|param| self.unifier.instantiate(param, &mut fresh)).collect();
        if !self.unifier.all_assignable(types, &params) {
            return None;
        }
        let result = self.unifier.instantiate(&overload.result, &mut fresh);
        Some(self.resolved(&result))
    }

    /// Text that a call will parse is checked while it is a literal.
    fn literal_arguments(&mut self, call: &mut Call) {
        let at = usize::from(call.target.is_none() && &*call.name == "matches");
        let Some(arg) = call.args.get_mut(at) else { return };
        let Kind::Literal(Literal::String(text)) = &arg.kind else { return };
        let place = arg.at;
        match &*call.name {
            "matches" | "find" | "findAll" => match Pattern::compile(text) {
                Ok(pattern) => arg.kind = Kind::Literal(Literal::Pattern(Arc::new(pattern))),
                Err(_) if &*call.name == "matches" => self.fault(place, "invalid matches argument".to_owned()),
                Err(_) => {}
            },
            "duration" if crate::time::parse_duration(text).is_err() => {
                self.fault(place, "invalid duration argument".to_owned());
            }
            "timestamp" if crate::time::parse(text).is_err() => {
                self.fault(place, "invalid timestamp argument".to_owned());
            }
            _ => {}
        }
    }

    fn join(&mut self, at: u32, joined: Option<Type>, next: Type) -> Type {
        let Some(joined) = joined else { return next };
        if self.unifier.assignable(&joined, &next) {
            return most_general(joined, next);
        }
        let (wanted, found) = (self.resolved(&joined), self.resolved(&next));
        self.mismatch(at, &wanted, &found);
        Type::Error
    }

    /// The type behind an optional element, which must be one.
    fn optional_part(&mut self, ty: &Type, at: u32) -> Type {
        let ty = self.resolved(ty);
        let (inner, was_optional) = unwrap_optional(&ty);
        if !was_optional && !inner.is_dyn_or_error() {
            self.mismatch(at, &Type::optional(inner.clone()), &inner);
        }
        inner
    }

    fn list(&mut self, expr: &mut Expr) -> Type {
        let Kind::List(elements) = &mut expr.kind else { unreachable!("called for lists") };
        let mut joined = None;
        for element in elements {
            let mut ty = self.expr(&mut element.value);
            if element.optional {
                ty = self.optional_part(&ty, element.value.at);
            }
            joined = Some(self.join(element.value.at, joined, ty));
        }
        Type::list(joined.unwrap_or_else(|| self.unifier.fresh()).plain().clone())
    }

    fn map(&mut self, expr: &mut Expr) -> Type {
        let Kind::Map(entries) = &mut expr.kind else { unreachable!("called for maps") };
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            let key = self.expr(&mut entry.key);
            keys = Some(self.join(entry.key.at, keys, key));
            let mut value = self.expr(&mut entry.value);
            if entry.optional {
                value = self.optional_part(&value, entry.value.at);
            }
            values = Some(self.join(entry.value.at, values, value));
        }
        let key = keys.unwrap_or_else(|| self.unifier.fresh());
        let value = values.unwrap_or_else(|| self.unifier.fresh());
        Type::map(key.plain().clone(), value.plain().clone())
    }

    fn struct_literal(&mut self, literal: &mut StructLiteral, at: u32) -> Type {
        let found = self.environment.struct_named(&literal.name);
        if found.is_none() {
            let name = literal.name.clone();
            self.undeclared(&name, at);
        }
        for field in &mut literal.fields {
            let mut value = self.expr(&mut field.value);
            let Some(ty) = &found else { continue };
            if field.optional {
                value = self.optional_part(&value, field.value.at);
            }
            let Some(wanted) = ty.field(&field.name) else {
                let message = format!("undefined field '{}'", field.name);
                self.fault(field.at, message);
                continue;
            };
            if !self.unifier.assignable(&wanted, &value) {
                let value = self.resolved(&value);
                let message =
                    format!("expected type of field '{}' is '{wanted}' but provided type is '{value}'", field.name);
                self.fault(field.at, message);
            }
        }
        found.map_or(Type::Error, Type::Object)
    }

    fn fold(&mut self, fold: &mut Fold) -> Type {
        let range = self.expr(&mut fold.range);
        let accu = self.expr(&mut fold.init);
        let range = self.resolved(&range);
        let (first, second) = self.fold_variables(fold, &range);
        let depth = self.scope.len();
        self.enter(&fold.accu, accu.clone());
        self.enter(&fold.var, first);
        if let Some(name) = fold.var2.clone() {
            self.enter(&name, second);
        }
        let condition = self.expr(&mut fold.condition);
        self.assert(fold.condition.at, &Type::Bool, &condition);
        let step = self.expr(&mut fold.step);
        self.assert(fold.step.at, &accu, &step);
        self.scope.truncate(depth + 1);
        let result = self.expr(&mut fold.result);
        self.scope.truncate(depth);
        self.resolved(&result)
    }

    fn assert(&mut self, at: u32, wanted: &Type, found: &Type) {
        if !self.unifier.assignable(wanted, found) {
            let (wanted, found) = (self.resolved(wanted), self.resolved(found));
            self.mismatch(at, &wanted, &found);
        }
    }

    fn fold_variables(&mut self, fold: &Fold, range: &Type) -> (Type, Type) {
        let two = fold.var2.is_some();
        match range.plain() {
            Type::List(list) if two => (Type::Int, list.element.clone()),
            Type::List(list) => (list.element.clone(), Type::Dyn),
            Type::Map(map) => (map.0.clone(), map.1.clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.unifier.assignable(&Type::Dyn, range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.fault(fold.range.at, message);
                (Type::Error, Type::Error)
            }
        }
    }
}

fn unwrap_optional(ty: &Type) -> (Type, bool) {
    match ty.plain() {
        Type::Optional(inner) => ((**inner).clone(), true),
        _ => (ty.clone(), false),
    }
}

fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) | Literal::Pattern(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}
