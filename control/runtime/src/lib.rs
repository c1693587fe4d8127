//! What every long-running part shares: the clock, randomness, owned tasks and (in `telemetry`) logs, traces
//! and metrics. This is the only crate that reads a clock, draws a random number or spawns; everything else
//! receives these as values, so that a simulation can own them.

mod clock;
mod entropy;
mod error;
mod file;
mod tasks;
mod telemetry;
#[cfg(feature = "kube")]
mod watch;

pub use clock::{Clock, ClockShift};
pub use entropy::Entropy;
pub use error::chain;
pub use file::replace_file;
pub use tasks::{OnError, Tasks};
pub use telemetry::{
    Family, Kind, MetricsSource, Registry, Sample, Telemetry, TelemetryConfig, TelemetryError, TextError,
    continue_trace, export_metrics, follow_trace, parse_metrics, propagate_trace, remember_trace, traces_are_on,
};
#[cfg(feature = "kube")]
pub use watch::reflect;
