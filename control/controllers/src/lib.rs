//! The built-in controllers of a cluster: each a pure `plan(view, key, now)` over shared caches, all carried out by one
//! executor in one task. They speak to any Kubernetes API server through `kube::Client`. Load balancers, routes and
//! the initialisation of nodes belong to the cloud controller, never here.

#![cfg_attr(test, allow(clippy::needless_pass_by_value, reason = "tables of JSON literals read best by value"))]

mod autoscale;
mod certificates;
mod cluster;
mod common;
#[cfg(test)]
mod converge_tests;
mod framework;
mod metrics;
mod network;
mod nodes;
mod run;
mod signing;
mod storage;
#[cfg(test)]
mod testing;
mod tokens;
mod workloads;

pub use framework::{
    Action, Answer, Cache, Change, Controller, Failure, Graph, Key, Kind, Leftover, Member, Memory, NotMigrated, Note,
    Object, Plan, PodUsage, Propagation, Question, Resource, Target, Tone, TwoWriters, Update, View, Write,
    check_writers, print_graph, reference,
};
pub use metrics::Metrics;
pub use run::{ControllersConfig, Error, NodeRanges, controllers, run};
pub use signing::{ClusterSigner, SignRequest};
