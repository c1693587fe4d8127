//! The service over real sockets, in one process: clusters' own endpoints, what is told when a port is taken, parts
//! left out, and that clusters know nothing of one another. Needs no root.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod access;
mod bad_days;
mod clock;
mod endpoint;
mod health;
mod isolation;
mod restoring;
mod support;
mod tokens;
