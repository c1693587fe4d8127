//! The libraries: the language's own functions, and those that Kubernetes adds.

mod addresses;
mod authorization;
mod conversions;
mod formats;
mod lists;
mod numbers;
mod operators;
mod optionals;
mod printf;
mod strings;
mod times;
mod versions;

pub(crate) use formats::NamedFormat;

use crate::error::EvalError;
use crate::function::{Declared, Library, Run};
use crate::types::Type;
use crate::value::Val;

pub(crate) const URL: &str = "kubernetes.URL";
pub(crate) const IP: &str = "net.IP";
pub(crate) const CIDR: &str = "net.CIDR";
pub(crate) const QUANTITY: &str = "kubernetes.Quantity";
pub(crate) const SEMVER: &str = "kubernetes.Semver";
pub(crate) const FORMAT: &str = "kubernetes.NamedFormat";
pub(crate) const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
pub(crate) const PATH_CHECK: &str = "kubernetes.authorization.PathCheck";
pub(crate) const GROUP_CHECK: &str = "kubernetes.authorization.GroupCheck";
pub(crate) const RESOURCE_CHECK: &str = "kubernetes.authorization.ResourceCheck";
pub(crate) const DECISION: &str = "kubernetes.authorization.Decision";

/// All tables, with the environments that know them.
pub(crate) fn tables() -> Vec<(Library, Vec<Declared>)> {
    let mut tables: Vec<(Library, Vec<Declared>)> = [
        operators::TABLE,
        conversions::TABLE,
        strings::TABLE,
        lists::TABLE,
        times::TABLE,
        optionals::TABLE,
        addresses::TABLE,
        numbers::TABLE,
        versions::TABLE,
        formats::TABLE,
        authorization::TABLE,
    ]
    .into_iter()
    .map(|table| (Library::Base, table.iter().map(Entry::declared).collect()))
    .collect();
    tables.push((Library::Base, formats::constants()));
    tables.push((Library::Mutation, strings::MUTATION.iter().map(Entry::declared).collect()));
    tables
}

/// A table's line: name, overloads, what runs.
type Entry = (&'static str, &'static [&'static str], Run);

trait EntryExt {
    fn declared(&self) -> Declared;
}

impl EntryExt for Entry {
    fn declared(&self) -> Declared {
        Declared { name: self.0, overloads: self.1, run: self.2 }
    }
}

/// The type that a name stands for as a value.
pub(crate) fn type_named(name: &str) -> Option<(&'static str, Type)> {
    Some(match name {
        "bool" => ("bool", Type::Bool),
        "bytes" => ("bytes", Type::Bytes),
        "double" => ("double", Type::Double),
        "int" => ("int", Type::Int),
        "uint" => ("uint", Type::Uint),
        "string" => ("string", Type::String),
        "list" => ("list", Type::list(Type::Dyn)),
        "map" => ("map", Type::map(Type::Dyn, Type::Dyn)),
        "null_type" => ("null_type", Type::Null),
        "type" => ("type", Type::TypeOf(Type::Dyn.into())),
        "optional_type" => ("optional_type", Type::optional(Type::Dyn)),
        "google.protobuf.Timestamp" => ("google.protobuf.Timestamp", Type::Timestamp),
        "google.protobuf.Duration" => ("google.protobuf.Duration", Type::Duration),
        URL => (URL, Type::Opaque(URL)),
        IP => (IP, Type::Opaque(IP)),
        CIDR => (CIDR, Type::Opaque(CIDR)),
        QUANTITY => (QUANTITY, Type::Opaque(QUANTITY)),
        SEMVER => (SEMVER, Type::Opaque(SEMVER)),
        FORMAT => (FORMAT, Type::Opaque(FORMAT)),
        _ => return None,
    })
}

type Outcome<'a> = Result<Val<'a>, EvalError>;

/// A method or function was given what it has no overload for.
fn mismatch<'a>() -> Outcome<'a> {
    Err(EvalError::no_such_overload())
}

fn text<'v>(val: &'v Val<'_>) -> Result<&'v str, EvalError> {
    val.as_str().ok_or_else(EvalError::no_such_overload)
}

fn index(val: &Val<'_>) -> Result<i64, EvalError> {
    match val {
        Val::Int(number) => Ok(*number),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn int<'a>(number: usize) -> Val<'a> {
    Val::Int(i64::try_from(number).unwrap_or(i64::MAX))
}
