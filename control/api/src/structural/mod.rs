//! Structural schemas of custom resources, compiled once per version of a CustomResourceDefinition.
//!
//! A [`Structural`] is a tree of nodes; decoding, pruning, defaulting and validation walk it beside the object.
//! It hangs on the root [`crate::TypeDef`] of its kind, so that every codec and patch of the built-in kinds finds
//! it there. Never does I/O; never looks at another object.

mod compile;
mod defaulting;
mod embedded;
mod formats;
mod lists;
mod node;
mod pattern;
mod prune;
mod types;
mod validate;

pub use compile::CompileError;
pub(crate) use compile::fnv;
pub use node::{Additional, Limits as ValueLimits, ListType, Node, Rule, ScalarType};
pub(crate) use pattern::problem_of_pattern;
pub(crate) use prune::{Mode, child_of, is_envelope};
pub(crate) use types::type_name;

use crate::{FieldErrors, Value};

/// A compiled schema.
#[derive(Debug)]
pub struct Structural {
    root: Node,
    /// What the schema compiles from, as an identity: versions with equal text treat objects alike.
    fingerprint: String,
}

impl Structural {
    /// Compiles a schema as it stands in a definition (`openAPIV3Schema`).
    ///
    /// # Errors
    /// A pattern that is no regular expression, or too much depth.
    pub fn compile(schema: &Value) -> Result<Self, CompileError> {
        let root = compile::root(schema)?;
        Ok(Self { root, fingerprint: compile::fingerprint(schema) })
    }

    /// The root node.
    #[must_use]
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// Equal for schemas that are equal.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Takes out of an object what the schema does not know; `apiVersion`, `kind` and `metadata` are left alone.
    pub fn prune(&self, object: &mut Value) {
        prune::prune_object(&self.root, object);
    }

    /// Takes out of any value what the schema does not know.
    pub(crate) fn prune_value(&self, value: &mut Value) {
        prune::prune(&self.root, value);
    }

    /// Fills in defaults, and takes out nulls where none are allowed.
    pub fn default(&self, object: &mut Value) {
        defaulting::apply(&self.root, object);
    }

    /// Judges an object's values; with `old`, what was wrong before and did not change is let pass.
    pub fn validate(&self, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
        validate::run(&self.root, object, old, None, errors);
        embedded::validate(&self.root, object, errors);
        lists::validate(&self.root, object, old, errors);
    }

    /// Judges the status alone.
    pub fn validate_status(&self, object: &Value, old: &Value, errors: &mut FieldErrors) {
        if let (Some(node), Some(status)) = (self.root.property("status"), object.get("status")) {
            validate::run(node, status, Some(old.get("status").unwrap_or(&Value::Null)), Some("status"), errors);
        }
        embedded::validate(&self.root, object, errors);
        lists::validate(&self.root, object, Some(old), errors);
    }
}

#[cfg(test)]
mod tests;
