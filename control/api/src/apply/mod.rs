//! Server-side apply: who owns which fields of an object, and what an applied object makes of it.
//!
//! Everything is a walk over the one schema, for built-in and custom types alike. [`shape`] answers the only
//! question about types that matters here: is a node owned as one, by members, by entries, or by elements that
//! keys or values tell apart? Three walks use it:
//!
//! - [`owned`]: the fields an applied object names; checks it against its type on the way;
//! - [`compare`]: the fields that differ between two objects, as three sets made bottom up in one pass, so that
//!   what is equal costs neither a path nor an allocation;
//! - [`merge`] and [`remove`]: the applied object over the live one, and without what was given up.
//!
//! A set of fields ([`FieldSet`]) is a sorted tree of steps; the set operations are one merge of two sorted lists
//! per level. `fieldsV1` is kept as text ([`Value::Raw`]) wherever an object travels, and read only when a request
//! changes fields: [`managers`] reads a set when asked and writes back the text it read if nobody changed it.
//!
//! [`track`] decides what a create, update or patch does to the entries; [`Tracker::apply`] what an apply does:
//!
//! 1. merge the applied object over the live one;
//! 2. take out what the manager applied last time, does not apply any more, and nobody else owns;
//! 3. what changed by that and is owned by others conflicts, unless forced: then they lose it;
//! 4. the manager owns exactly what it applied.
//!
//! Entries may speak of the object in other versions: the caller converts ([`Versions`]). Which fields a request
//! cannot change whatever it says ([`Resets`]) is the caller's knowledge too. Pure: never reads a clock, never
//! stores, never admits; the managers' names are given.

mod applying;
mod compare;
mod conflict;
mod element;
mod fields_v1;
mod last_applied;
mod managers;
mod merge;
mod name;
mod owned;
mod remove;
mod resets;
mod scale;
mod set;
mod shape;
mod track;

pub use applying::ApplyError;
pub use conflict::Conflict;
pub use element::Element;
pub use fields_v1::FieldsError;
pub use name::{MAX_MANAGER_NAME, manager_from_user_agent, validate_manager_name};
pub use resets::{Resets, resets_of};
pub use scale::{entries_of_scale, entries_with_scale};
pub use set::FieldSet;
pub use track::{entries_problem, keep_times};

use crate::{Schema, TypeId, Value};

/// Members of the metadata that nobody owns, because only the server sets them.
const SYSTEM: [&str; 9] = [
    "clusterName",
    "creationTimestamp",
    "generation",
    "managedFields",
    "name",
    "namespace",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Where the entries of an object are.
const ENTRIES: [&str; 2] = ["metadata", "managedFields"];

/// The same object in other versions.
pub trait Versions {
    /// The object in a version, with the version's type; `None` for a version that is not served any more.
    fn convert(&self, object: &Value, api_version: &str) -> Option<(Value, TypeId)>;
}

/// For objects of a single version.
#[derive(Clone, Copy, Debug)]
pub struct OneVersion;

impl Versions for OneVersion {
    fn convert(&self, _: &Value, _: &str) -> Option<(Value, TypeId)> {
        None
    }
}

/// What a request is about, as far as owning fields goes.
#[derive(Clone, Copy)]
pub struct Tracker<'a> {
    /// All types.
    pub schema: &'a Schema,
    /// The type of the object in the request's version.
    pub ty: TypeId,
    /// The request's version.
    pub api_version: &'a str,
    /// The kind the request is about.
    pub kind: &'a str,
    /// The subresource the request is about; empty for the object itself.
    pub subresource: &'a str,
    /// What the request cannot change.
    pub resets: &'a Resets,
    /// The object in other versions.
    pub versions: &'a dyn Versions,
    /// The time of the request as the API writes it.
    pub now: &'a str,
}

impl std::fmt::Debug for Tracker<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracker")
            .field("kind", &self.kind)
            .field("subresource", &self.subresource)
            .finish_non_exhaustive()
    }
}

/// An applied object laid over the live one, without owners: what a mutating policy's apply configuration does.
///
/// # Errors
/// When either does not fit the type.
pub fn merge_applied(schema: &Schema, ty: TypeId, live: &Value, applied: &Value) -> Result<Value, String> {
    merge::merge(schema, ty, live, applied)
}

#[cfg(test)]
mod tests;
