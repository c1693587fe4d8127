//! What the API server itself sets, keeps and drops in an object before it judges and stores it: system fields of
//! the metadata, status on create, spec on a status update, generations, and the few defaults that depend on the
//! object's identity. Also what happens to an object that is deleted.
//!
//! Values in, values out: time and UIDs are arguments. Never allocates an address or a port; never validates.

mod create;
mod delete;
mod pods;
mod semantic;
mod services;
mod update;

pub use create::{GENERATED_SUFFIX, NAME_ALPHABET, fill_system_fields, generate_name, prepare_create, timestamp};
pub use delete::{Propagation, default_propagation, deletion_grace};
pub use pods::{pod_qos, prepare_ephemeral_containers, prepare_resize};
pub use semantic::{semantic_equal, semantic_zero};
pub use update::{
    allows_create_on_update, allows_unconditional_update, prepare_approval, prepare_finalize, prepare_status_update,
    prepare_update,
};

/// Which rules an object falls under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindRef<'a> {
    /// The API group, empty for the core group.
    pub group: &'a str,
    /// The kind.
    pub kind: &'a str,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether status is a subresource of its own (always so for built-in kinds that have a status).
    pub status: bool,
    /// Whether a CustomResourceDefinition declares it.
    pub custom: bool,
}

impl<'a> KindRef<'a> {
    /// A kind that every cluster has.
    #[must_use]
    pub const fn builtin(group: &'a str, kind: &'a str, namespaced: bool) -> Self {
        Self { group, kind, namespaced, status: true, custom: false }
    }

    /// A kind that a CustomResourceDefinition declares.
    #[must_use]
    pub const fn custom(group: &'a str, kind: &'a str, namespaced: bool, status: bool) -> Self {
        Self { group, kind, namespaced, status, custom: true }
    }

    pub(crate) fn is(&self, group: &str, kind: &str) -> bool {
        !self.custom && self.group == group && self.kind == kind
    }
}
