//! Controllers of workloads: pods from templates.

mod cron;
mod daemon;
mod daemon_node;
mod deployment;
mod deployment_scale;
mod deployment_status;
mod history;
mod job;
mod job_indexes;
mod job_outcome;
mod job_pods;
#[cfg(test)]
mod job_tests;
mod job_ttl;
mod replicas;
mod schedule;
mod stateful;
mod stateful_pod;

use crate::framework::Controller;
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::ReplicationController};

pub(crate) use deployment::scaled;

/// The controllers of this family.
pub(crate) fn controllers() -> Vec<Box<dyn Controller>> {
    vec![
        Box::new(replicas::Replicas::<ReplicaSet>::new()),
        Box::new(replicas::Replicas::<ReplicationController>::new()),
        Box::new(deployment::Deployments),
        Box::new(stateful::StatefulSets),
        Box::new(daemon::DaemonSets),
        Box::new(job::Jobs),
        Box::new(job_ttl::JobTimeToLive),
        Box::new(cron::CronJobs),
    ]
}
