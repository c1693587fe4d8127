//! Custom resources: from definitions in the cache to views that are served, and the life of definitions.
//!
//! A definition is served from the moment in which the cache has it established: the cache calls `refresh`
//! before it tells anyone that it has the change. Never decodes or judges an object itself: that is the compiled
//! schema's work.

mod cleanup;
mod conversion;
mod definitions;
mod rules;
mod served;
mod view;

pub(crate) use definitions::{is_definition, on_create, on_delete, on_update};
pub(crate) use rules::check as check_rules;
pub(crate) use served::{Served, definitions_resource, start};
pub(crate) use view::Custom;
