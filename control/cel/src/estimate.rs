//! The static estimate: what an expression may cost on the smallest and the largest input that its types
//! allow, by upstream's rules. Which rules may be written depends on these figures.

use crate::ast::{Bind, Call, Expr, Fold, Kind, Literal, operator};
use crate::cost::{
    CHECK_COST, LIST_COST, MAP_COST, NOMINAL, REGEX, REQUIREMENT, REQUIREMENTS_PER_CHAR, SELECT_COST, STRUCT_COST,
    TRAVERSAL, TRAVERSING, scaled,
};
use crate::library;
use crate::types::Type;

/// A range of costs, or of sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CostEstimate {
    /// At least.
    pub min: u64,
    /// At most.
    pub max: u64,
}

/// A range of sizes.
type Size = CostEstimate;

const UNKNOWN: Size = CostEstimate { min: 0, max: u64::MAX };
/// Longest expression behind a named format, which its estimate supposes.
const FORMAT_REGEX_SIZE: f64 = 128.0;
/// Longest name of a format.
const FORMAT_NAME_SIZE: u64 = 64;

impl CostEstimate {
    const fn fixed(cost: u64) -> Self {
        Self { min: cost, max: cost }
    }

    fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    fn scaled(self, factor: f64) -> Self {
        Self { min: scaled(self.min, factor), max: scaled(self.max, factor) }
    }

    fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// Estimates a checked expression.
pub(crate) fn estimate(expr: &Expr, types: &[Type]) -> CostEstimate {
    let mut estimator = Estimator {
        types,
        sizes: vec![None; types.len()],
        entries: vec![None; types.len()],
        locals: Vec::new(),
        root: None,
    };
    estimator.cost(expr)
}

/// Sizes of what a list or map holds.
#[derive(Clone, Copy)]
struct EntrySize {
    key: Size,
    value: Size,
    list: bool,
}

struct Local {
    name: std::sync::Arc<str>,
    ty: Type,
    size: Option<Size>,
    entry: Option<EntrySize>,
    /// Whether it goes over what no path from `self` leads to: a list made on the way, the result of a call.
    made: bool,
}

struct Estimator<'t> {
    types: &'t [Type],
    sizes: Vec<Option<Size>>,
    entries: Vec<Option<EntrySize>>,
    locals: Vec<Local>,
    /// Size of `self`, once met.
    root: Option<Size>,
}

/// Where rules of definitions find the value they are about.
const SELF: &str = "self";

impl Estimator<'_> {
    fn ty(&self, expr: &Expr) -> &Type {
        &self.types[expr.id]
    }

    fn cost(&mut self, expr: &Expr) -> CostEstimate {
        match &expr.kind {
            Kind::Literal(_) => CostEstimate::default(),
            Kind::Ident(ident) => {
                if &*ident.name == SELF && self.local(SELF).is_none() {
                    self.root = type_size(self.ty(expr));
                }
                CostEstimate::fixed(SELECT_COST)
            }
            Kind::Select(select) => {
                let operand = self.cost(&select.operand);
                match self.ty(&select.operand).plain() {
                    Type::Map(_) | Type::Object(_) | Type::Param(_) if !select.test => {
                        operand.plus(CostEstimate::fixed(SELECT_COST))
                    }
                    _ => operand,
                }
            }
            Kind::Call(call) => self.call(expr, call),
            Kind::List(elements) => {
                let mut sum = CostEstimate::fixed(LIST_COST);
                let mut value: Option<Size> = None;
                for element in elements {
                    sum = sum.plus(self.cost(&element.value));
                    let size = self.size(&element.value);
                    value = Some(value.map_or(size, |value| value.union(size)));
                }
                let value = value.unwrap_or_default();
                self.entries[expr.id] = Some(EntrySize { key: Size::fixed(1), value, list: true });
                sum
            }
            Kind::Map(_) => self.map(expr),
            Kind::Struct(literal) => literal
                .fields
                .iter()
                .fold(CostEstimate::fixed(STRUCT_COST), |sum, field| sum.plus(self.cost(&field.value))),
            Kind::Fold(fold) => self.fold(expr, fold),
            Kind::Bind(bind) => self.bind(expr, bind),
        }
    }

    fn map(&mut self, expr: &Expr) -> CostEstimate {
        let Kind::Map(entries) = &expr.kind else { return CostEstimate::default() };
        let mut sum = CostEstimate::fixed(MAP_COST);
        let (mut keys, mut values): (Option<Size>, Option<Size>) = (None, None);
        for entry in entries {
            sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
            let (key, value) = (self.size(&entry.key), self.size(&entry.value));
            keys = Some(keys.map_or(key, |keys| keys.union(key)));
            values = Some(values.map_or(value, |values| values.union(value)));
        }
        let (key, value) = (keys.unwrap_or_default(), values.unwrap_or_default());
        self.entries[expr.id] = Some(EntrySize { key, value, list: false });
        sum
    }

    fn bind(&mut self, expr: &Expr, bind: &Bind) -> CostEstimate {
        // Upstream's binding is a fold over an empty list, whose making counts.
        let sum = CostEstimate::fixed(LIST_COST).plus(self.cost(&bind.init));
        let (size, entry) = (self.known_size(&bind.init), self.entry(&bind.init));
        let ty = self.ty(&bind.init).clone();
        self.locals.push(Local { name: bind.var.clone(), ty, size, entry, made: false });
        let sum = sum.plus(self.cost(&bind.body));
        self.sizes[expr.id] = self.known_size(&bind.body);
        self.entries[expr.id] = self.entry(&bind.body);
        self.locals.pop();
        sum
    }

    fn fold(&mut self, expr: &Expr, fold: &Fold) -> CostEstimate {
        let sum = self.cost(&fold.range).plus(self.cost(&fold.init));
        let (size, entry) = (self.known_size(&fold.init), self.entry(&fold.init));
        let ty = self.ty(&fold.init).clone();
        self.locals.push(Local { name: fold.accu.clone(), ty, size, entry, made: false });
        let depth = self.locals.len();
        self.push_variables(fold);
        let each = self.cost(&fold.condition).plus(self.cost(&fold.step));
        let step_entry = self.entry(&fold.step);
        self.locals.truncate(depth);
        let sum = sum.plus(self.cost(&fold.result));
        self.locals.pop();
        let count = self.size(&fold.range);
        match &fold.init.kind {
            Kind::Literal(_) => self.sizes[expr.id] = self.known_size(&fold.init),
            Kind::List(_) | Kind::Map(_) => {
                self.sizes[expr.id] = Some(count);
                self.entries[expr.id] = step_entry;
            }
            _ => {}
        }
        sum.plus(count.times(each))
    }

    fn push_variables(&mut self, fold: &Fold) {
        let range = self.ty(&fold.range).clone();
        let entry = self.entry(&fold.range);
        let list = entry.map_or(matches!(range.plain(), Type::List(_)), |entry| entry.list);
        let (key, value) = match range.plain() {
            Type::List(of) => (Type::Int, of.element.clone()),
            Type::Map(of) => (of.0.clone(), of.1.clone()),
            _ => (Type::Dyn, Type::Dyn),
        };
        let (key_size, value_size) = (entry.map(|entry| entry.key), entry.map(|entry| entry.value));
        let made = Self::is_made(&fold.range);
        let mut push = |name: &std::sync::Arc<str>, ty: Type, size: Option<Size>| {
            self.locals.push(Local { name: name.clone(), ty, size, entry: None, made });
        };
        match &fold.var2 {
            Some(second) => {
                push(&fold.var, key, key_size);
                push(second, value, value_size);
            }
            None if list => push(&fold.var, value, value_size),
            None => push(&fold.var, key, key_size),
        }
    }

    /// Whether no path from `self` leads to a range.
    fn is_made(range: &Expr) -> bool {
        match &range.kind {
            Kind::Ident(_) | Kind::Select(_) => false,
            Kind::Call(call) => !matches!(&*call.name, operator::INDEX | operator::OPTIONAL_SELECT),
            _ => true,
        }
    }

    fn entry(&self, expr: &Expr) -> Option<EntrySize> {
        self.entries[expr.id].or_else(|| match &expr.kind {
            Kind::Ident(ident) => self.local(&ident.name)?.entry,
            _ => None,
        })
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|local| &*local.name == name)
    }

    fn size(&self, expr: &Expr) -> Size {
        self.known_size(expr).unwrap_or(UNKNOWN)
    }

    fn known_size(&self, expr: &Expr) -> Option<Size> {
        if let Some(size) = self.sizes[expr.id] {
            return Some(size);
        }
        match &expr.kind {
            Kind::Literal(Literal::String(text)) => return Some(Size::fixed(text.chars().count() as u64)),
            Kind::Literal(Literal::Pattern(text)) => return Some(Size::fixed(text.source().chars().count() as u64)),
            Kind::Literal(Literal::Bytes(bytes)) => return Some(Size::fixed(bytes.len() as u64)),
            Kind::Literal(_) => return Some(Size::fixed(1)),
            Kind::List(elements) => return Some(Size::fixed(elements.len() as u64)),
            Kind::Map(entries) => return Some(Size::fixed(entries.len() as u64)),
            _ => {}
        }
        let local = match &expr.kind {
            Kind::Ident(ident) => self.local(&ident.name),
            _ => None,
        };
        // Upstream looks sizes up by their path from `self`; what has none it finds at the start of the path.
        if let (Some(root), true) = (self.root, local.is_some_and(|local| local.made)) {
            return Some(root);
        }
        type_size(self.ty(expr)).or_else(|| local.and_then(|local| type_size(&local.ty).or(local.size)))
    }

    fn call(&mut self, expr: &Expr, call: &Call) -> CostEstimate {
        let args: Vec<CostEstimate> = call.args.iter().map(|arg| self.cost(arg)).collect();
        let sum = args.iter().fold(CostEstimate::default(), |sum, arg| sum.plus(*arg));
        if &*call.name == operator::OPTIONAL_SELECT {
            return sum.plus(CostEstimate::fixed(1));
        }
        if &*call.name == "dyn" {
            self.sizes[expr.id] = call.args.first().and_then(|arg| self.known_size(arg));
            self.entries[expr.id] = call.args.first().and_then(|arg| self.entry(arg));
            return sum.plus(CostEstimate::fixed(1));
        }
        match (&*call.name, args.as_slice()) {
            (operator::AND | operator::OR, [left, right]) => {
                return CostEstimate { min: left.min, max: left.plus(*right).max };
            }
            (operator::CONDITIONAL, [condition, yes, no]) => {
                self.sizes[expr.id] = Some(self.size(&call.args[1]).union(self.size(&call.args[2])));
                self.entries[expr.id] = match (self.entry(&call.args[1]), self.entry(&call.args[2])) {
                    (Some(a), Some(b)) => Some(joined(a, b)),
                    _ => None,
                };
                return condition.plus(yes.union(*no));
            }
            _ => {}
        }
        let target = call.target.as_ref().map_or(CostEstimate::default(), |target| self.cost(target));
        let mut total: Option<CostEstimate> = None;
        let mut result: Option<Size> = None;
        for at in &call.overloads {
            let (cost, size) = self.overload(expr, call, *at);
            total = Some(total.map_or(cost, |total| total.union(cost)));
            result = match (result, size) {
                (Some(a), Some(b)) => Some(a.union(b)),
                (a, b) => a.or(b),
            };
        }
        if result.is_some() {
            self.sizes[expr.id] = result;
        }
        target.plus(sum).plus(total.unwrap_or_default())
    }

    /// Cost of one overload, arguments aside, and the size of its result.
    fn overload(&mut self, expr: &Expr, call: &Call, at: usize) -> (CostEstimate, Option<Size>) {
        let Some(overload) = call.function.and_then(|function| function.overloads.get(at)) else {
            return (CostEstimate::fixed(1), None);
        };
        let params = &overload.params;
        let arg = |at: usize| call.args.get(at).map_or(UNKNOWN, |arg| self.size(arg));
        let target = call.target.as_ref().map_or(UNKNOWN, |target| self.size(target));
        let one = (CostEstimate::fixed(1), None);
        let text = |ty: Option<&Type>| matches!(ty, Some(Type::String | Type::Bytes));
        match &*call.name {
            "check" => (CostEstimate::fixed(CHECK_COST), None),
            "fieldSelector" | "labelSelector" => {
                let requirements = arg(0).scaled(REQUIREMENTS_PER_CHAR).scaled(REQUIREMENT);
                (CostEstimate::fixed(LIST_COST).plus(arg(0).scaled(TRAVERSAL)).plus(requirements), None)
            }
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => (self.walk(call, target), None),
            "ip" if matches!(params.as_slice(), [Type::Opaque(_)]) => one,
            "ip" => (arg(0).scaled(TRAVERSAL), None),
            name if NOMINAL.contains(&name) => one,
            "url" | "jsonpatch.escapeKey" => (arg(0).scaled(TRAVERSAL), Some(arg(0))),
            "lowerAscii" | "upperAscii" | "substring" | "trim" => (target.scaled(TRAVERSAL), Some(target)),
            name if TRAVERSING.contains(&name) => (arg(0).scaled(TRAVERSAL), None),
            "ip.isCanonical" => (arg(0).scaled(2.0 * TRAVERSAL), None),
            "replace" => (target.scaled(2.0 * TRAVERSAL), Some(replaced(target, arg(0), arg(1)))),
            "split" => {
                let most = match call.args.get(1).map(|arg| &arg.kind) {
                    Some(Kind::Literal(Literal::Int(most))) => u64::try_from(*most).unwrap_or(u64::MAX),
                    _ => target.max,
                };
                (target.scaled(2.0 * TRAVERSAL), Some(Size { min: 0, max: most }))
            }
            "join" => {
                let size = self.joined_text(call, target);
                (size.scaled(TRAVERSAL), Some(size))
            }
            "find" | "findAll" => {
                let text = target.plus(Size::fixed(1)).scaled(TRAVERSAL);
                (text.times(arg(0).scaled(REGEX)), Some(Size { min: 0, max: target.max }))
            }
            "matches" if call.target.is_some() => {
                (target.plus(Size::fixed(1)).scaled(TRAVERSAL).times(arg(0).scaled(REGEX)), None)
            }
            "contains" => (target.scaled(TRAVERSAL).times(arg(0).scaled(TRAVERSAL)), None),
            "startsWith" | "endsWith" => (arg(0).scaled(TRAVERSAL), None),
            "format" => (target.scaled(TRAVERSAL), None),
            "strings.quote" => {
                let size =
                    Size { min: arg(0).min.saturating_add(2), max: arg(0).max.saturating_mul(2).saturating_add(2) };
                (arg(0).scaled(TRAVERSAL), Some(size))
            }
            "bytes" if text(params.first()) && matches!(params[0], Type::String) => {
                (arg(0).scaled(TRAVERSAL), Some(Size { min: arg(0).min, max: arg(0).max.saturating_mul(4) }))
            }
            "string" if matches!(params.first(), Some(Type::Bytes)) => {
                (arg(0).scaled(TRAVERSAL), Some(Size { min: arg(0).min / 4, max: arg(0).max }))
            }
            "sets.contains" | "sets.intersects" => (arg(0).times(arg(1)).plus(CostEstimate::fixed(1)), None),
            "sets.equivalent" => (arg(0).times(arg(1)).scaled(2.0).plus(CostEstimate::fixed(1)), None),
            "slice" => {
                let (start, end) = (literal_int(call, 0).unwrap_or(0), literal_int(call, 1).unwrap_or(target.max));
                list_call(Size::fixed(end.saturating_sub(start)), 1.0)
            }
            "lists.range" => list_call(Size::fixed(literal_int(call, 0).unwrap_or(u64::MAX)), 1.0),
            "reverse" => list_call(target, 1.0),
            #[expect(clippy::cast_precision_loss, reason = "a depth")]
            "flatten" => match call.args.is_empty() {
                true => list_call(target, 1.0),
                false => list_call(target, literal_int(call, 0).unwrap_or(u64::MAX) as f64),
            },
            "distinct" => list_call(target.times(target), 2.0),
            "sort" => list_call(target.times(target), compare_factor(params.first())),
            "@sortByAssociatedKeys" => list_call(arg(0).times(arg(0)), compare_factor(params.get(1))),
            "containsIP" | "containsCIDR" => (contains_address(&call.name, params, arg(0)), None),
            "validate" => (arg(0).scaled(TRAVERSAL).scaled(FORMAT_REGEX_SIZE * REGEX), None),
            "@in" if matches!(params.get(1), Some(Type::List(_))) => (arg(1), None),
            "_==_" | "_!=_" => (self.equality(call, arg(0), arg(1)), None),
            "_<_" | "_<=_" | "_>_" | "_>=_" if text(params.first()) => (smaller(arg(0), arg(1)), None),
            "_+_" if text(params.first()) => {
                let size = arg(0).plus(arg(1));
                (size.scaled(TRAVERSAL), Some(size))
            }
            "_+_" if matches!(params.first(), Some(Type::List(_))) => {
                let size = arg(0).plus(arg(1));
                if let (Some(a), Some(b)) = (self.entry(&call.args[0]), self.entry(&call.args[1])) {
                    self.entries[expr.id] = Some(joined(a, b));
                }
                (CostEstimate::fixed(1), Some(size))
            }
            operator::INDEX => (CostEstimate::fixed(1), self.entry(&call.args[0]).map(|entry| entry.value)),
            _ => one,
        }
    }

    /// Walking over a list's elements, or over text.
    fn walk(&self, call: &Call, target: Size) -> CostEstimate {
        let ty = call.target.as_ref().map_or(&Type::Dyn, |target| self.ty(target));
        let Type::List(list) = ty.plain() else { return target.scaled(TRAVERSAL) };
        let mut each = CostEstimate::fixed(1);
        if matches!(list.element.plain(), Type::String | Type::Bytes) {
            each = each.plus(element_size(&list.element).scaled(TRAVERSAL));
        }
        target.times(each)
    }

    fn joined_text(&self, call: &Call, target: Size) -> Size {
        let element = call.target.as_ref().map_or(UNKNOWN, |target| element_size(&self.ty(target).element()));
        let size = target.times(element);
        let Some(by) = call.args.first() else { return size };
        let separators = Size { min: target.min.saturating_sub(1), max: target.max.saturating_sub(1) };
        size.plus(self.size(by).times(separators))
    }

    fn equality(&self, call: &Call, left: Size, right: Size) -> CostEstimate {
        let (a, b) = (self.ty(&call.args[0]), self.ty(&call.args[1]));
        if let (Type::Opaque(name), true) = (a.plain(), a.is_exactly(b) && &*call.name == operator::EQUALS) {
            return match *name {
                library::FORMAT => CostEstimate { min: 1, max: FORMAT_NAME_SIZE }.scaled(TRAVERSAL),
                library::URL => {
                    CostEstimate { min: 1, max: if right == UNKNOWN { 1 } else { right.max } }.scaled(TRAVERSAL)
                }
                _ => CostEstimate::fixed(1),
            };
        }
        smaller(left, right)
    }
}

/// What a type says of a value's size. Upstream's types of objects have none: comparing them counts as nothing.
fn type_size(ty: &Type) -> Option<Size> {
    match ty.plain() {
        Type::Object(_) => Some(Size::default()),
        _ => ty.max_size().map(|max| Size { min: 0, max }).or_else(|| scalar(ty).then(|| Size::fixed(1))),
    }
}

/// A call that makes a list, and the list's size.
fn list_call(size: Size, factor: f64) -> (CostEstimate, Option<Size>) {
    (size.scaled(factor).plus(CostEstimate::fixed(1 + LIST_COST)), Some(size))
}

/// Comparing elements costs more when they are text.
fn compare_factor(list: Option<&Type>) -> f64 {
    let text = list.is_some_and(|list| matches!(list.element().plain(), Type::String | Type::Bytes));
    if text { 2.0 + TRAVERSAL } else { 2.0 }
}

fn literal_int(call: &Call, at: usize) -> Option<u64> {
    match call.args.get(at).map(|arg| &arg.kind) {
        Some(Kind::Literal(Literal::Int(number))) => Some(u64::try_from(*number).unwrap_or(0)),
        _ => None,
    }
}

fn element_size(ty: &Type) -> Size {
    match ty.plain() {
        Type::Object(_) => Size::default(),
        _ => ty.max_size().map_or(UNKNOWN, |max| Size { min: 0, max }),
    }
}

fn smaller(a: Size, b: Size) -> CostEstimate {
    let max = a.max.min(b.max);
    CostEstimate { min: u64::from(max > 0), max }.scaled(TRAVERSAL)
}

fn joined(a: EntrySize, b: EntrySize) -> EntrySize {
    EntrySize { key: a.key.union(b.key), value: a.value.union(b.value), list: a.list }
}

fn scalar(ty: &Type) -> bool {
    match ty.plain() {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        Type::Optional(inner) => scalar(inner),
        _ => false,
    }
}

fn contains_address(name: &str, params: &[Type], arg: Size) -> CostEstimate {
    // Addresses have 4 or 16 bytes.
    let size = Size { min: 4, max: 16 };
    let mut cost = size.plus(size).scaled(TRAVERSAL);
    if name == "containsCIDR" {
        cost = cost.plus(size.scaled(TRAVERSAL)).plus(CostEstimate::fixed(1));
    }
    if matches!(params.get(1), Some(Type::String)) {
        cost = cost.plus(arg.scaled(TRAVERSAL));
    }
    cost
}

/// Size of a text after replacements: the longest and the shortest that may come out.
fn replaced(held: Size, from: Size, to: Size) -> Size {
    let (most, kept_most) = if from.min == 0 {
        (held.max.saturating_add(1), held.max)
    } else if to.max <= from.min {
        (0, held.max)
    } else {
        (held.max.div_ceil(from.min), 0)
    };
    let (least, kept_least) = if from.max == 0 {
        (held.min.saturating_add(1), held.min)
    } else if from.max <= to.min {
        (0, held.min)
    } else {
        (held.min.div_ceil(from.max), 0)
    };
    Size {
        min: least.saturating_mul(to.min).saturating_add(kept_least),
        max: most.saturating_mul(to.max).saturating_add(kept_most),
    }
}
