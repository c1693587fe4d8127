//! Every decision of the node agent, as functions of values: what a pod needs next (`plan`), what is true of it
//! (`status`), whether the node takes it (`admission`), what the node says of itself (`node`), and the files and
//! configurations that pods get. Nothing here reads a clock, a file, a socket or a random number.

pub(crate) mod admission;
pub(crate) mod backoff;
pub(crate) mod containers;
pub(crate) mod env;
pub(crate) mod eviction;
pub(crate) mod files;
pub(crate) mod gc;
pub(crate) mod model;
pub(crate) mod names;
pub(crate) mod node;
pub(crate) mod plan;
pub(crate) mod probe;
pub(crate) mod quantity;
pub(crate) mod resources;
pub(crate) mod sandbox;
pub(crate) mod security;
pub(crate) mod selector;
pub(crate) mod status;
