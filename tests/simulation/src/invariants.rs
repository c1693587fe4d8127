//! What must hold of a cluster: always (safety), and once it is left alone (settled).
//!
//! Pure over the API's objects and the cloud's. An answer is a list of sentences; none means that all is well.

mod safety;
mod settled;
#[cfg(test)]
mod tests;

pub use safety::{Change, safety};
pub(crate) use safety::{Running, machines};
pub use settled::settled;

use serde_json::Value;
use timonel_cloud_core::{Balancer, Instance, Route, Volume, parse_bytes};

/// What the cloud has, looked at directly.
#[derive(Clone, Debug, Default)]
pub struct CloudLook {
    /// Machines.
    pub instances: Vec<Instance>,
    /// Routes.
    pub routes: Vec<Route>,
    /// Load balancers.
    pub balancers: Vec<Balancer>,
    /// Volumes.
    pub volumes: Vec<Volume>,
}

/// Thousandths of a processor.
fn millis(quantity: &Value) -> u64 {
    let text = quantity.as_str().unwrap_or_default();
    match text.strip_suffix('m') {
        Some(text) => text.parse().unwrap_or(0),
        None => text.parse::<u64>().unwrap_or(0) * 1_000,
    }
}

fn bytes(quantity: &Value) -> u64 {
    quantity.as_str().and_then(parse_bytes).unwrap_or(0)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn finished(pod: &Value) -> bool {
    matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed")
}

fn is_true(object: &Value, condition: &str) -> bool {
    list(&object["status"]["conditions"]).any(|c| c["type"] == condition && c["status"] == "True")
}

fn controller<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let owner = list(&object["metadata"]["ownerReferences"]).find(|owner| owner["controller"] == true)?;
    (owner["kind"] == kind).then(|| text(&owner["uid"]))
}
