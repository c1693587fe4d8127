//! Facts and small functions that several controllers share: owners, selectors, pods, times, hashes.

pub(crate) mod disruption;
pub(crate) mod names;
pub(crate) mod objects;
pub(crate) mod pods;
pub(crate) mod requests;
pub(crate) mod scheduling;
pub(crate) mod selector;
pub(crate) mod template;
