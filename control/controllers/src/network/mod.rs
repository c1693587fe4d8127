//! Controllers of service discovery: which addresses stand behind a service.

mod endpoints;
mod mirror;
mod service_ranges;
mod slice_set;
mod slices;

use crate::framework::Controller;

/// The controllers of this family.
pub(crate) fn controllers() -> Vec<Box<dyn Controller>> {
    vec![
        Box::new(slices::EndpointSlices),
        Box::new(endpoints::EndpointsObjects),
        Box::new(mirror::Mirror),
        Box::new(service_ranges::ServiceRanges),
    ]
}
