//! The Common Expression Language as Kubernetes uses it: a checker with upstream's messages, costs with
//! upstream's figures, upstream's libraries, and values read lazily from API objects.
//!
//! The grammar is the `cel` crate's. Never does I/O; never reads a clock. What an authorizer says, and
//! members that are computed, come through traits that the caller implements.

mod ast;
mod check;
mod cost;
mod environment;
mod error;
mod escape;
mod estimate;
mod evaluate;
mod extension;
mod function;
mod infer;
mod library;
mod openapi;
mod parse;
mod program;
mod regex;
mod time;
mod types;
mod url;
mod value;

pub use environment::{Environment, Structs};
pub use error::{CompileError, CompileErrors, EvalError};
pub use escape::{escape, unescape};
pub use estimate::CostEstimate;
pub use extension::{Authorizer, Check, Decision, Extension, ResourceCheck};
pub use openapi::{object_meta_at_root, smallest_of_openapi, type_of_openapi};
pub use program::{Bindings, Budget, PER_CALL_LIMIT, Program, RUNTIME_BUDGET, compile};
pub use types::{ListSemantics, ListType, ObjectType, Type};
pub use value::{Fields, List, Map, MapKey, Reading, Text, Val};

#[cfg(test)]
mod tests;
