//! A cloud without a machine under it, and the suite that every cloud passes.
//!
//! `FakeCloud` keeps real state (a second attach is refused, an address is given once) and can be told to misbehave
//! the way clouds do: no answer before or after the effect, throttling, listings that are empty or behind.

mod fake;
mod suite;

pub use fake::{FakeCloud, Fault};
pub use suite::{World, run_suite};
