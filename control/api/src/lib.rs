//! The Kubernetes API as data: kinds, schema tables and everything that walks them (codecs, defaulting,
//! pruning, patches, validation, printing).
//!
//! Pure: values in, values out. Never reads a clock, a file, a socket or a random number.

mod fieldpath;
mod status;
mod value;

pub use fieldpath::{FieldError, FieldErrorKind, FieldErrors, Path, quote};
pub use status::{Status, StatusCause, StatusDetails, qualified};
pub use value::{Key, Object, Value};
