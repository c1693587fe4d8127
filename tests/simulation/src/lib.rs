//! The seeded simulation: store, API server, controllers, scheduler, cloud controller, fake kubelets and a fake cloud
//! on one thread in virtual time, with faults. The same seed gives the same run.
//!
//! Owns the fakes, the faults, the workload and the invariants. Never reads a clock, starts a thread or opens a socket.

mod chance;
mod chaos;
mod client;
mod cloud;
mod invariants;
mod kubelet;
mod observer;
mod run;
mod snapshot;
mod trace;
mod workload;
mod world;

pub use invariants::{Change, CloudLook, safety, settled};
pub use run::{Outcome, run};
pub use snapshot::Snapshot;
