//! What a controller is, and the table of all of them: who reads what, who writes what. Two writers of one field are
//! refused at start.

use super::{
    action::Plan,
    kinds::{Change, Key, Kind, View},
};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// One controller: a function from a view to a plan, and the map from changes to keys.
///
/// It holds configuration only. It never reads a clock, draws a random number or keeps state between looks.
pub trait Controller: Send + Sync {
    /// Its name, which is also the source of its events.
    fn name(&self) -> &'static str;

    /// The kinds whose caches must be complete before it decides, and whose changes it hears of.
    fn reads(&self) -> &'static [Kind];

    /// Kind and field of everything it writes.
    fn writes(&self) -> &'static [(&'static str, &'static str)];

    /// Which keys a change makes worth a look.
    fn keys(&self, view: &View, change: &Change, keys: &mut Vec<Key>);

    /// What to do about `key`.
    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan;

    /// Whether it looks at objects by uid through the owner graph rather than by changes.
    fn follows_graph(&self) -> bool {
        false
    }
}

/// Two controllers claim the same field.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{first} and {second} both write {kind} {field}")]
pub struct TwoWriters {
    first: &'static str,
    second: &'static str,
    kind: &'static str,
    field: &'static str,
}

/// Checks that no field has two writers.
///
/// # Errors
/// The first field found to have two.
pub fn check_writers(controllers: &[Box<dyn Controller>]) -> Result<(), TwoWriters> {
    let mut owners = BTreeMap::new();
    for controller in controllers {
        for &(kind, field) in controller.writes() {
            if let Some(first) = owners.insert((kind, field), controller.name()) {
                return Err(TwoWriters { first, second: controller.name(), kind, field });
            }
        }
    }
    Ok(())
}

/// The table of controllers as text, for the golden file and for people.
#[must_use]
pub fn print_graph(controllers: &[Box<dyn Controller>]) -> String {
    let mut text = String::new();
    for controller in controllers {
        let mut reads: Vec<_> = controller.reads().iter().map(|kind| format!("{kind:?}")).collect();
        reads.sort();
        let mut writes: Vec<_> = controller.writes().iter().map(|(kind, field)| format!("{kind} {field}")).collect();
        writes.sort();
        text.push_str(&format!("{}\n  reads  {}\n", controller.name(), reads.join(", ")));
        for write in writes {
            text.push_str(&format!("  writes {write}\n"));
        }
    }
    text
}
