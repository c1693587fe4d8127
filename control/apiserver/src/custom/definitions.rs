//! What the server adds to definitions as they are written: stored versions, accepted names, conditions.

use super::definitions_resource;
use crate::registry::{Call, View};
use jiff::Timestamp;
use timonel_api::{
    Value,
    definition::{CLEANUP_FINALIZER, InstanceRemoval, mark_terminating, prepare_definition, settle},
};

/// Whether a view is that of definitions.
pub(crate) fn is_definition(view: &View) -> bool {
    view.storage.storage == definitions_resource()
}

fn settled(call: &Call<'_>, object: &mut Value) {
    let resources = call.server.resources.load();
    settle(object, resources.served().values().map(|other| other.brief()), call.now);
}

/// A new definition.
pub(crate) fn on_create(call: &Call<'_>, object: &mut Value) {
    if is_definition(&call.view) {
        prepare_definition(object);
        settled(call, object);
    }
}

/// A changed one, whichever part changed.
pub(crate) fn on_update(call: &Call<'_>, new: &mut Value) {
    if is_definition(&call.view) {
        prepare_definition(new);
        settled(call, new);
    }
}

/// One that is deleted stays until its objects are gone.
pub(crate) fn on_delete(old: &Value, now: Timestamp) -> Value {
    let mut old = old.clone();
    if old.str_at(&["metadata", "deletionTimestamp"]).is_empty() {
        let finalizers = old.entry_at(&["metadata", "finalizers"]).make_list();
        if !finalizers.iter().any(|name| name.as_str() == Some(CLEANUP_FINALIZER)) {
            finalizers.push(CLEANUP_FINALIZER.into());
        }
        mark_terminating(&mut old, InstanceRemoval::Pending, now);
    }
    old
}
