//! The syntax tree that checker, estimator and evaluator walk. Macros are folds by then; every node has
//! an id of its own, which indexes what the checker finds out about it.

use std::sync::Arc;

use crate::function::Function;
use crate::regex::Pattern;

/// A node.
#[derive(Debug)]
pub(crate) struct Expr {
    /// Indexes the checker's findings.
    pub(crate) id: usize,
    /// Where it stands in the source, in bytes.
    pub(crate) at: u32,
    pub(crate) kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Literal(Literal),
    Ident(Ident),
    Select(Select),
    Call(Call),
    List(Vec<Element>),
    Map(Vec<Entry>),
    Struct(StructLiteral),
    Fold(Box<Fold>),
    /// `cel.bind(name, value, body)`: the name is the slot that the checker gives it.
    Bind(Box<Bind>),
}

#[derive(Clone, Debug)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
    /// Text that a call uses as a regular expression.
    Pattern(Arc<Pattern>),
}

/// A name, and what the checker resolved it to.
#[derive(Debug)]
pub(crate) struct Ident {
    pub(crate) name: Arc<str>,
    pub(crate) target: Target,
}

/// What a name stands for.
#[derive(Clone, Debug, Default)]
pub(crate) enum Target {
    /// Nothing yet.
    #[default]
    Unresolved,
    /// A variable of the environment, by position.
    Variable(usize),
    /// A variable of a fold or a binding, by depth.
    Local(usize),
    /// A type as a value.
    Type(&'static str),
}

#[derive(Debug)]
pub(crate) struct Select {
    pub(crate) operand: Box<Expr>,
    pub(crate) field: Arc<str>,
    /// `has(operand.field)`.
    pub(crate) test: bool,
}

#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) name: Arc<str>,
    pub(crate) target: Option<Box<Expr>>,
    pub(crate) args: Vec<Expr>,
    /// What the checker resolved the name to.
    pub(crate) function: Option<&'static Function>,
    /// Overloads that may be meant, by position.
    pub(crate) overloads: Vec<usize>,
}

#[derive(Debug)]
pub(crate) struct Element {
    pub(crate) value: Expr,
    /// `[?value]`: left out when absent.
    pub(crate) optional: bool,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: Expr,
    pub(crate) value: Expr,
    pub(crate) optional: bool,
}

#[derive(Debug)]
pub(crate) struct StructLiteral {
    pub(crate) name: Arc<str>,
    pub(crate) fields: Vec<FieldValue>,
}

#[derive(Debug)]
pub(crate) struct FieldValue {
    pub(crate) at: u32,
    pub(crate) name: Arc<str>,
    pub(crate) value: Expr,
    pub(crate) optional: bool,
}

#[derive(Debug)]
pub(crate) struct Fold {
    pub(crate) range: Expr,
    pub(crate) var: Arc<str>,
    /// The second variable: the value, where the first is a key or an index.
    pub(crate) var2: Option<Arc<str>>,
    pub(crate) accu: Arc<str>,
    pub(crate) init: Expr,
    pub(crate) condition: Expr,
    pub(crate) step: Expr,
    pub(crate) result: Expr,
}

#[derive(Debug)]
pub(crate) struct Bind {
    pub(crate) var: Arc<str>,
    pub(crate) init: Expr,
    pub(crate) body: Expr,
}

/// Names of the operators, as messages spell them.
pub(crate) mod operator {
    pub(crate) const CONDITIONAL: &str = "_?_:_";
    pub(crate) const AND: &str = "_&&_";
    pub(crate) const OR: &str = "_||_";
    pub(crate) const NOT: &str = "!_";
    pub(crate) const ADD: &str = "_+_";
    pub(crate) const EQUALS: &str = "_==_";
    pub(crate) const INDEX: &str = "_[_]";
    pub(crate) const OPTIONAL_SELECT: &str = "_?._";
    pub(crate) const NOT_STRICTLY_FALSE: &str = "@not_strictly_false";
    /// The name that folds give their accumulator.
    pub(crate) const ACCUMULATOR: &str = "@result";
}

impl Expr {
    /// The dotted name that this spells, when it is nothing but names.
    pub(crate) fn qualified_name(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(ident) => Some(ident.name.to_string()),
            Kind::Select(select) if !select.test => {
                Some(format!("{}.{}", select.operand.qualified_name()?, select.field))
            }
            _ => None,
        }
    }
}
