//! Which objects a request or a controller means: label selectors and field selectors, compiled once, matched
//! often.
//!
//! Never lists anything; matching allocates nothing for labels.

mod fields;
mod labels;
mod parse;

pub use fields::{FieldSelector, FieldSelectorError, field_label, field_value};
pub use labels::{LabelSelector, Labels, Operator, Requirement, SelectorError};
