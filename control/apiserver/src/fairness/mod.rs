//! API Priority and Fairness: which requests belong together, how much of the server each priority level gets, and
//! whose turn it is when more is asked for than there is.
//!
//! [`schema`] classifies, [`core`] decides who runs (pure: time and requests are arguments), [`share`] says how many
//! seats each level has, [`width`] how many a request takes. [`gate`] is the shell that makes requests wait;
//! [`keeper`] follows the objects of `flowcontrol.apiserver.k8s.io` and keeps those that every cluster has.

mod core;
mod defaults;
mod dump;
mod gate;
mod keeper;
mod queue;
mod schema;
mod share;
mod telling;
mod width;

pub(crate) use defaults::objects as default_objects;
pub(crate) use dump::dump;
pub(crate) use gate::{Asked, Fairness, Permit};
pub(crate) use keeper::{settle, start};
pub(crate) use schema::Schema;
