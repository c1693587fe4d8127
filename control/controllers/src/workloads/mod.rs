//! Controllers of workloads: pods from templates.

mod daemon;
mod daemon_node;
mod deployment;
mod deployment_scale;
mod deployment_status;
mod history;
mod replicas;
mod stateful;
mod stateful_pod;

use crate::framework::Controller;

/// The controllers of this family.
pub(crate) fn controllers() -> Vec<Box<dyn Controller>> {
    vec![Box::new(replicas::ReplicaSets), Box::new(replicas::ReplicationControllers), Box::new(deployment::Deployments)]
}
