//! From source text to the tree: the grammar is the parser crate's; macros that it does not know, bounds
//! on size and depth, and errors as upstream spells them are ours.

use cel::common::ast::{self, EntryExpr, Expr as Parsed, IdedExpr, LiteralValue, SourceInfo};
use std::sync::Arc;

use crate::ast::{
    Bind, Call, Element, Entry, Expr, FieldValue, Fold, Ident, Kind, Literal, Select, StructLiteral, Target, operator,
};
use crate::error::{CompileError, CompileErrors, Source};

/// Longest source, in characters. Upstream's bound is 100,000; nothing real comes near either.
pub(crate) const MAX_SOURCE_CHARS: usize = 32 * 1024;
/// Deepest tree: what the evaluator's recursion can take on a thread of 2 MiB in an unoptimised build.
pub(crate) const MAX_DEPTH: usize = 160;
/// Deepest nesting of brackets and calls, as upstream's parser has it.
const MAX_NESTING: u16 = 250;
/// Sources longer or more nested than this are parsed on a thread with a stack of its own.
const SMALL_SOURCE: usize = 1024;
const SMALL_NESTING: usize = 12;
const PARSER_STACK_BYTES: usize = 256 * 1024 * 1024;

/// Parses `source`.
pub(crate) fn parse(source: &Source) -> Result<(Expr, usize), CompileErrors> {
    let chars = source.text().chars().count();
    if chars > MAX_SOURCE_CHARS {
        let text = format!("expression code point size exceeds limit: size: {chars}, limit {MAX_SOURCE_CHARS}");
        return Err(CompileErrors::one(CompileError::bare(text)));
    }
    if chars <= SMALL_SOURCE && nesting(source.text()) <= SMALL_NESTING {
        return parse_here(source);
    }
    std::thread::scope(|scope| {
        let parser = std::thread::Builder::new().name("cel-parse".to_owned()).stack_size(PARSER_STACK_BYTES);
        let Ok(thread) = parser.spawn_scoped(scope, || parse_here(source)) else {
            return Err(CompileErrors::one(CompileError::bare("no thread to parse on".to_owned())));
        };
        thread
            .join()
            .unwrap_or_else(|_| Err(CompileErrors::one(CompileError::bare("internal error while parsing".to_owned()))))
    })
}

/// Deepest nesting of brackets and longest run of signs: an upper bound, text literals counted too.
fn nesting(source: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' | b'?' | b'!' | b'-' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn parse_here(source: &Source) -> Result<(Expr, usize), CompileErrors> {
    let parser = cel::parser::Parser::new()
        .max_recursion_depth(MAX_NESTING)
        .enable_optional_syntax(true)
        .enable_ident_escape_syntax(false);
    let (tree, info) = parser.parse_with_source_info(source.text()).map_err(|faults| syntax_errors(source, &faults))?;
    let mut lower = Lower { info: &info, source, next: 0, faults: Vec::new(), depth: 0 };
    let expr = lower.expr(tree);
    if lower.faults.is_empty() { Ok((expr, lower.next)) } else { Err(CompileErrors::new(lower.faults)) }
}

fn syntax_errors(source: &Source, faults: &cel::ParseErrors) -> CompileErrors {
    let error = |fault: &cel::ParseError| {
        if let (0, Some(cause)) = (fault.pos.0, &fault.source) {
            return CompileError::bare(cause.to_string());
        }
        let line = usize::try_from(fault.pos.0).unwrap_or(1);
        let column = usize::try_from(fault.pos.1).unwrap_or(1);
        CompileError::at_line(source, line.max(1), column.saturating_sub(1), fault.msg.clone())
    };
    CompileErrors::new(faults.errors.iter().map(error).collect())
}

struct Lower<'s> {
    info: &'s SourceInfo,
    source: &'s Source,
    next: usize,
    depth: usize,
    faults: Vec<CompileError>,
}

impl Lower<'_> {
    fn make(&mut self, at: u32, kind: Kind) -> Expr {
        let id = self.next;
        self.next += 1;
        Expr { id, at, kind }
    }

    fn fault(&mut self, at: u32, text: impl Into<String>) {
        self.faults.push(CompileError::at(self.source, at, text.into()));
    }

    fn at(&self, id: u64) -> u32 {
        self.info.offset_for(id).map_or(0, |(start, _)| start)
    }

    fn expr(&mut self, parsed: IdedExpr) -> Expr {
        let at = self.at(parsed.id);
        if self.depth >= MAX_DEPTH {
            if self.faults.is_empty() {
                self.fault(at, format!("expression is nested deeper than {MAX_DEPTH} levels"));
            }
            return self.make(at, Kind::Literal(Literal::Null));
        }
        self.depth += 1;
        let kind = self.kind(parsed.expr, at);
        self.depth -= 1;
        self.make(at, kind)
    }

    fn boxed(&mut self, parsed: IdedExpr) -> Box<Expr> {
        Box::new(self.expr(parsed))
    }

    fn kind(&mut self, parsed: Parsed, at: u32) -> Kind {
        match parsed {
            Parsed::Unspecified => {
                self.fault(at, "unsupported expression");
                Kind::Literal(Literal::Null)
            }
            Parsed::Literal(literal) => Kind::Literal(lower_literal(literal)),
            Parsed::Ident(name) => ident(&name),
            Parsed::Select(select) => Kind::Select(Select {
                operand: self.boxed(*select.operand),
                field: select.field.into(),
                test: select.test,
            }),
            Parsed::Call(call) => self.call(call, at),
            Parsed::List(list) => {
                let optional = list.optional_indices;
                let elements = list.elements.into_iter().enumerate();
                Kind::List(
                    elements
                        .map(|(at, value)| Element { value: self.expr(value), optional: optional.contains(&at) })
                        .collect(),
                )
            }
            Parsed::Map(map) => Kind::Map(map.entries.into_iter().filter_map(|entry| self.entry(entry.expr)).collect()),
            Parsed::Struct(literal) => self.struct_literal(literal),
            Parsed::Comprehension(fold) => {
                let fold = *fold;
                Kind::Fold(Box::new(Fold {
                    range: self.expr(fold.iter_range),
                    var: fold.iter_var.into(),
                    var2: fold.iter_var2.map(Into::into),
                    accu: fold.accu_var.into(),
                    init: self.expr(fold.accu_init),
                    condition: self.expr(fold.loop_cond),
                    step: self.expr(fold.loop_step),
                    result: self.expr(fold.result),
                }))
            }
        }
    }

    fn entry(&mut self, entry: EntryExpr) -> Option<Entry> {
        match entry {
            EntryExpr::MapEntry(entry) => {
                let (key, value) = (self.expr(entry.key), self.expr(entry.value));
                Some(Entry { key, value, optional: entry.optional })
            }
            EntryExpr::StructField(_) => None,
        }
    }

    fn struct_literal(&mut self, literal: ast::StructExpr) -> Kind {
        let fields = literal.entries.into_iter().filter_map(|entry| match entry.expr {
            EntryExpr::StructField(field) => Some(FieldValue {
                at: self.at(entry.id),
                name: field.field.into(),
                value: self.expr(field.value),
                optional: field.optional,
            }),
            EntryExpr::MapEntry(_) => None,
        });
        let fields = fields.collect();
        Kind::Struct(StructLiteral { name: literal.type_name.into(), fields })
    }

    fn call(&mut self, call: ast::CallExpr, at: u32) -> Kind {
        let Some(target) = call.target else {
            let args = call.args.into_iter().map(|arg| self.expr(arg)).collect();
            return plain_call(&call.func_name, None, args);
        };
        let on_cel = matches!(&target.expr, Parsed::Ident(name) if name == "cel");
        match (call.func_name.as_str(), call.args.len()) {
            ("bind", 3) if on_cel => self.bind(call.args, at),
            ("all" | "exists" | "exists_one" | "existsOne", 3)
            | ("transformList" | "transformMap" | "transformMapEntry", 3 | 4) => {
                self.two_variables(&call.func_name, *target, call.args, at)
            }
            ("optMap" | "optFlatMap", 2) => self.optional_map(call.func_name == "optMap", *target, call.args, at),
            ("sortBy", 2) => self.sort_by(*target, call.args, at),
            _ => {
                let target = self.boxed(*target);
                let args = call.args.into_iter().map(|arg| self.expr(arg)).collect();
                plain_call(&call.func_name, Some(target), args)
            }
        }
    }

    fn name(&mut self, arg: Option<IdedExpr>, what: &str) -> Arc<str> {
        match arg {
            Some(IdedExpr { expr: Parsed::Ident(name), .. }) if !name.starts_with('@') => name.into(),
            other => {
                let at = other.map_or(0, |arg| self.at(arg.id));
                self.fault(at, what);
                "@fault".into()
            }
        }
    }

    fn bind(&mut self, args: Vec<IdedExpr>, _at: u32) -> Kind {
        let mut args = args.into_iter();
        let var = self.name(args.next(), "cel.bind() variable names must be simple identifiers");
        let init = self.next_expr(&mut args);
        let body = self.next_expr(&mut args);
        Kind::Bind(Box::new(Bind { var, init, body }))
    }

    fn next_expr(&mut self, args: &mut std::vec::IntoIter<IdedExpr>) -> Expr {
        let arg = args.next().unwrap_or_default();
        self.expr(arg)
    }

    fn ident(&mut self, name: &str, at: u32) -> Expr {
        self.make(at, ident(name))
    }

    fn literal(&mut self, literal: Literal, at: u32) -> Expr {
        self.make(at, Kind::Literal(literal))
    }

    fn operation(&mut self, name: &str, args: Vec<Expr>, at: u32) -> Expr {
        self.make(at, plain_call(name, None, args))
    }

    /// `target.optMap(v, f)`: `target.hasValue() ? optional.of(bind v = target.value() in f) : optional.none()`.
    fn optional_map(&mut self, wrap: bool, target: IdedExpr, args: Vec<IdedExpr>, at: u32) -> Kind {
        let mut args = args.into_iter();
        let var = self.name(args.next(), "optMap() variable name must be a simple identifier");
        // The target is read twice; binding it keeps it evaluated once.
        let held: Arc<str> = "@target".into();
        let init = self.expr(target);
        let present = self.ident(&held, at);
        let present = self.make(at, plain_call("hasValue", Some(Box::new(present)), Vec::new()));
        let value = self.ident(&held, at);
        let value = self.make(at, plain_call("value", Some(Box::new(value)), Vec::new()));
        let body = self.next_expr(&mut args);
        let mut mapped = self.make(at, Kind::Bind(Box::new(Bind { var, init: value, body })));
        if wrap {
            mapped = self.operation("optional.of", vec![mapped], at);
        }
        let none = self.operation("optional.none", Vec::new(), at);
        let body = self.operation(operator::CONDITIONAL, vec![present, mapped, none], at);
        Kind::Bind(Box::new(Bind { var: held, init, body }))
    }

    /// `target.sortBy(v, key)`: keys first, then elements by them.
    fn sort_by(&mut self, target: IdedExpr, args: Vec<IdedExpr>, at: u32) -> Kind {
        let mut args = args.into_iter();
        let var = self.name(args.next(), "sortBy variable name must be a simple identifier");
        let held: Arc<str> = "@sorted".into();
        let init = self.expr(target);
        let range = self.ident(&held, at);
        let key = self.next_expr(&mut args);
        let keys = self.collect(range, var, None, key, None, at);
        let list = self.ident(&held, at);
        let body = self.make(at, plain_call("@sortByAssociatedKeys", Some(Box::new(list)), vec![keys]));
        Kind::Bind(Box::new(Bind { var: held, init, body }))
    }

    /// A fold that appends `element` for each step where `filter` holds.
    fn collect(
        &mut self,
        range: Expr,
        var: Arc<str>,
        var2: Option<Arc<str>>,
        element: Expr,
        filter: Option<Expr>,
        at: u32,
    ) -> Expr {
        let single = self.make(at, Kind::List(vec![Element { value: element, optional: false }]));
        let accu = self.ident(operator::ACCUMULATOR, at);
        let mut step = self.operation(operator::ADD, vec![accu, single], at);
        if let Some(filter) = filter {
            let accu = self.ident(operator::ACCUMULATOR, at);
            step = self.operation(operator::CONDITIONAL, vec![filter, step, accu], at);
        }
        let init = self.make(at, Kind::List(Vec::new()));
        self.fold(range, (var, var2), init, None, step, None, at)
    }

    fn fold(
        &mut self,
        range: Expr,
        (var, var2): (Arc<str>, Option<Arc<str>>),
        init: Expr,
        condition: Option<Expr>,
        step: Expr,
        result: Option<Expr>,
        at: u32,
    ) -> Expr {
        let condition = condition.unwrap_or_else(|| self.literal(Literal::Bool(true), at));
        let result = result.unwrap_or_else(|| self.ident(operator::ACCUMULATOR, at));
        let accu = operator::ACCUMULATOR.into();
        self.make(at, Kind::Fold(Box::new(Fold { range, var, var2, accu, init, condition, step, result })))
    }

    fn two_variables(&mut self, name: &str, target: IdedExpr, args: Vec<IdedExpr>, at: u32) -> Kind {
        let range = self.expr(target);
        let last = args.len() - 1;
        let mut args = args.into_iter();
        let var = self.name(args.next(), "argument must be a simple name");
        let var2 = self.name(args.next(), "argument must be a simple name");
        if var == var2 {
            self.fault(at, format!("duplicate variable name: {var}"));
        }
        let vars = (var, Some(var2));
        let filter = (last == 3).then(|| self.next_expr(&mut args));
        let body = self.next_expr(&mut args);
        let accu = self.ident(operator::ACCUMULATOR, at);
        let fold = match name {
            "all" | "exists" => {
                let all = name == "all";
                let init = self.literal(Literal::Bool(all), at);
                let held = self.ident(operator::ACCUMULATOR, at);
                let going = if all { held } else { self.operation(operator::NOT, vec![held], at) };
                let condition = self.operation(operator::NOT_STRICTLY_FALSE, vec![going], at);
                let join = if all { operator::AND } else { operator::OR };
                let step = self.operation(join, vec![accu, body], at);
                self.fold(range, vars, init, Some(condition), step, None, at)
            }
            "exists_one" | "existsOne" => {
                let (init, one) = (self.literal(Literal::Int(0), at), self.literal(Literal::Int(1), at));
                let more = self.operation(operator::ADD, vec![accu, one], at);
                let same = self.ident(operator::ACCUMULATOR, at);
                let step = self.operation(operator::CONDITIONAL, vec![body, more, same], at);
                let (count, one) = (self.ident(operator::ACCUMULATOR, at), self.literal(Literal::Int(1), at));
                let result = self.operation(operator::EQUALS, vec![count, one], at);
                self.fold(range, vars, init, None, step, Some(result), at)
            }
            "transformList" => self.collect(range, vars.0, vars.1, body, filter, at),
            _ => {
                let mut with = vec![accu];
                if name == "transformMap" {
                    with.push(self.ident(&vars.0, at));
                }
                with.push(body);
                let mut step = self.operation("cel.@mapInsert", with, at);
                if let Some(filter) = filter {
                    let same = self.ident(operator::ACCUMULATOR, at);
                    step = self.operation(operator::CONDITIONAL, vec![filter, step, same], at);
                }
                let init = self.make(at, Kind::Map(Vec::new()));
                self.fold(range, vars, init, None, step, None, at)
            }
        };
        fold.kind
    }
}

fn ident(name: &str) -> Kind {
    let name = name.strip_prefix('.').unwrap_or(name);
    Kind::Ident(Ident { name: name.into(), target: Target::Unresolved })
}

fn plain_call(name: &str, target: Option<Box<Expr>>, args: Vec<Expr>) -> Kind {
    Kind::Call(Call { name: name.into(), target, args, function: None, overloads: Vec::new() })
}

fn lower_literal(literal: LiteralValue) -> Literal {
    match literal {
        LiteralValue::Boolean(truth) => Literal::Bool(truth.into_inner()),
        LiteralValue::Bytes(bytes) => Literal::Bytes(bytes.into_inner().into()),
        LiteralValue::Double(number) => Literal::Double(number.into_inner()),
        LiteralValue::Int(number) => Literal::Int(number.into_inner()),
        LiteralValue::Null => Literal::Null,
        LiteralValue::String(text) => Literal::String(text.into_inner().into()),
        LiteralValue::UInt(number) => Literal::Uint(number.into_inner()),
    }
}
