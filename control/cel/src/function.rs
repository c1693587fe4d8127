//! Functions: one table entry says a name, its overloads in a small notation, and what runs.
//!
//! The notation is `(int, int): int` for a function, `string.(string): bool` for a method; `A`, `B` are
//! type variables.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::error::EvalError;
use crate::library;
use crate::types::Type;
use crate::value::Val;

/// What runs when a function is called: the target, if any, comes first.
pub(crate) type Run = for<'a> fn(&[Val<'a>]) -> Result<Val<'a>, EvalError>;

/// An entry of a library's table.
pub(crate) struct Declared {
    pub(crate) name: &'static str,
    pub(crate) overloads: &'static [&'static str],
    pub(crate) run: Run,
}

/// A function by name.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) overloads: Vec<Overload>,
    /// Libraries may share a name (`string`, `indexOf`); each overload knows what runs.
    pub(crate) library: Library,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "Function({})", self.name)
    }
}

/// Which environments know a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Library {
    /// All.
    Base,
    /// Those that make patches.
    Mutation,
}

/// One way to call a function.
pub(crate) struct Overload {
    pub(crate) member: bool,
    /// Types of the arguments, the target first.
    pub(crate) params: Vec<Type>,
    pub(crate) result: Type,
    pub(crate) run: Run,
}

static FUNCTIONS: LazyLock<HashMap<&'static str, Function>> = LazyLock::new(|| {
    let mut functions: HashMap<&'static str, Function> = HashMap::new();
    for (library, table) in library::tables() {
        for declared in table {
            let function = functions.entry(declared.name).or_insert_with(|| Function {
                name: declared.name,
                overloads: Vec::new(),
                library,
            });
            function.overloads.extend(declared.overloads.iter().map(|text| overload(text, declared.run)));
        }
    }
    functions
});

/// The function of this name.
pub(crate) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.get(name)
}

fn overload(text: &str, run: Run) -> Overload {
    let mut reader = Notation { rest: text };
    let mut params = Vec::new();
    let member = !text.starts_with('(');
    if member {
        params.push(reader.ty());
        reader.expect('.');
    }
    reader.expect('(');
    while !reader.take(')') {
        params.push(reader.ty());
        reader.take(',');
    }
    reader.expect(':');
    let result = reader.ty();
    Overload { member, params, result, run }
}

/// A reader of the tables' notation, which only this crate writes.
struct Notation<'t> {
    rest: &'t str,
}

impl Notation<'_> {
    fn take(&mut self, what: char) -> bool {
        self.rest = self.rest.trim_start();
        let found = self.rest.strip_prefix(what);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn expect(&mut self, what: char) {
        assert!(self.take(what), "a function table wants {what} before {:?}", self.rest);
    }

    fn ty(&mut self) -> Type {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        match word {
            "list" => self.one(Type::list),
            "opt" => self.one(Type::optional),
            "type" => self.one(|inner| Type::TypeOf(inner.into())),
            "map" => {
                self.expect('(');
                let key = self.ty();
                self.expect(',');
                let value = self.ty();
                self.expect(')');
                Type::map(key, value)
            }
            word => simple(word),
        }
    }

    fn one(&mut self, make: fn(Type) -> Type) -> Type {
        self.expect('(');
        let inner = self.ty();
        self.expect(')');
        make(inner)
    }
}

fn simple(word: &str) -> Type {
    match word {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "A" => Type::Param(0),
        "B" => Type::Param(1),
        "URL" => Type::Opaque(library::URL),
        "IP" => Type::Opaque(library::IP),
        "CIDR" => Type::Opaque(library::CIDR),
        "Quantity" => Type::Opaque(library::QUANTITY),
        "Semver" => Type::Opaque(library::SEMVER),
        "Format" => Type::Opaque(library::FORMAT),
        "Authorizer" => Type::Opaque(library::AUTHORIZER),
        "PathCheck" => Type::Opaque(library::PATH_CHECK),
        "GroupCheck" => Type::Opaque(library::GROUP_CHECK),
        "ResourceCheck" => Type::Opaque(library::RESOURCE_CHECK),
        "Decision" => Type::Opaque(library::DECISION),
        word => unreachable!("a function table names the type {word:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_reads() {
        assert!(FUNCTIONS.len() > 100, "{}", FUNCTIONS.len());
        let contains = find("contains").expect("declared");
        assert!(contains.overloads[0].member);
        assert_eq!(contains.overloads[0].params.len(), 2);
        assert_eq!(find("size").expect("declared").overloads.len(), 8);
    }
}
