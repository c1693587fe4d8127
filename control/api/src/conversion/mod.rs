//! The same stored object in another of its versions. Most versions differ in name only; autoscalers and
//! events have rules of their own.

mod autoscaler;
mod event;

use crate::{Resource, Value};

/// Versions that do not share storage cannot be converted into one another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{from} cannot be converted to {to}")]
pub struct ConversionError {
    /// What the object is.
    pub from: String,
    /// What it should become.
    pub to: String,
}

/// Turns an object of `from` into one of `to`, in place.
///
/// # Errors
/// When the two are not views of the same stored objects.
pub fn convert(value: &mut Value, from: &Resource, to: &Resource) -> Result<(), ConversionError> {
    if from.storage != to.storage {
        return Err(ConversionError { from: from.gvk().to_string(), to: to.gvk().to_string() });
    }
    if from.group == to.group && from.version == to.version {
        return Ok(());
    }
    match (from.kind.as_str(), from.api_version().as_str(), to.api_version().as_str()) {
        ("HorizontalPodAutoscaler", "autoscaling/v1", "autoscaling/v2") => autoscaler::to_current(value),
        ("HorizontalPodAutoscaler", "autoscaling/v2", "autoscaling/v1") => autoscaler::to_old(value),
        ("Event", "v1", "events.k8s.io/v1") => event::to_events(value),
        ("Event", "events.k8s.io/v1", "v1") => event::to_core(value),
        _ => {}
    }
    value.set_at(&["apiVersion"], to.api_version());
    Ok(())
}

#[cfg(test)]
mod tests;
