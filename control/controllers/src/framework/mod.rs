//! The machinery that all controllers share: caches, plans, the queue, the executor, the loop. It knows nothing of
//! any particular controller.

mod action;
mod cache;
mod controller;
mod discovery;
mod engine;
mod events;
mod execute;
mod graph;
mod http;
mod kinds;
mod migrate;
mod queue;
mod view;

pub use action::{Action, Note, Plan, Propagation, Target, Tone, Write, reference};
pub use cache::{Cache, Update};
pub use controller::{Controller, TwoWriters, check_writers, print_graph};
pub use graph::{Graph, Member};
pub use kinds::{Change, Key, Kind, Object, Resource, View};
pub use view::{Answer, Failure, Leftover, Memory, NotMigrated, PodUsage, Question};

pub(crate) use engine::Engine;
pub(crate) use events::Recorder;
pub(crate) use execute::Executor;
