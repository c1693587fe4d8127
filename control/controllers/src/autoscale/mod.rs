//! Horizontal autoscaling: how many replicas a workload should have, from what its pods use.

mod decide;
mod limits;
mod scale;
mod status;

use crate::framework::Controller;

/// The controllers of this family.
pub(crate) fn controllers() -> Vec<Box<dyn Controller>> {
    vec![Box::new(scale::Autoscalers)]
}
