//! What expressions of one purpose may name: variables with their types, and objects they may make.

use std::sync::Arc;

use crate::types::{ObjectType, Type};

/// Finds the object types that an expression may write as literals (`Object.spec{...}`).
pub trait Structs: Send + Sync {
    /// The type of this name.
    fn named(&self, name: &str) -> Option<ObjectType>;
}

/// What an expression may name. Cheap to clone; the order of variables is that of their declaration.
#[derive(Clone, Default)]
pub struct Environment {
    variables: Vec<(Arc<str>, Type)>,
    structs: Option<Arc<dyn Structs>>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Environment").field("variables", &self.variables).finish_non_exhaustive()
    }
}

impl Environment {
    /// An environment without variables: the language and its libraries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a variable; its name may be dotted. A later one of the same name replaces an earlier.
    #[must_use]
    pub fn variable(mut self, name: &str, ty: Type) -> Self {
        match self.variables.iter_mut().find(|(held, _)| &**held == name) {
            Some(held) => held.1 = ty,
            None => self.variables.push((name.into(), ty)),
        }
        self
    }

    /// With objects that expressions may make, and the functions for making patches.
    #[must_use]
    pub fn mutation(mut self, structs: Arc<dyn Structs>) -> Self {
        self.structs = Some(structs);
        self
    }

    pub(crate) fn makes_patches(&self) -> bool {
        self.structs.is_some()
    }

    pub(crate) fn struct_named(&self, name: &str) -> Option<ObjectType> {
        self.structs.as_ref()?.named(name)
    }

    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.variables.iter().position(|(held, _)| &**held == name)
    }

    pub(crate) fn type_at(&self, at: usize) -> &Type {
        &self.variables[at].1
    }

    pub(crate) fn name_at(&self, at: usize) -> &str {
        &self.variables[at].0
    }

    pub(crate) fn len(&self) -> usize {
        self.variables.len()
    }
}
