//! What admission sees of a write, the contract of a plugin, and the chain of plugins.

use super::{AdmissionError, Lookup};
use crate::authn::User;
use std::collections::BTreeMap;
use timonel_api::Value;
use timonel_runtime::Entropy;

/// The kind of write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// POST of an object or of a subresource that is one (binding, eviction, token).
    Create,
    /// PUT or PATCH.
    Update,
    /// DELETE.
    Delete,
    /// exec, attach, port-forward, proxy.
    Connect,
}

impl Operation {
    /// `CREATE`, `UPDATE`, `DELETE`, `CONNECT`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A write to another object that belongs to this one: committed in the same transaction, or not at all.
#[derive(Clone, Debug, PartialEq)]
pub struct PairedWrite {
    /// API group.
    pub group: &'static str,
    /// Resource in the plural.
    pub resource: &'static str,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The object as it is to be; its `metadata.resourceVersion` is the precondition. When that fails, admission
    /// runs again over fresh objects.
    pub object: Value,
}

/// One write on its way to the store.
#[derive(Debug)]
pub struct AdmissionRequest<'a> {
    /// The kind of write.
    pub operation: Operation,
    /// API group of the resource.
    pub group: &'a str,
    /// API version of the request.
    pub version: &'a str,
    /// Resource in the plural.
    pub resource: &'a str,
    /// Subresource, or empty.
    pub subresource: &'a str,
    /// Kind of [`Self::object`].
    pub kind: &'a str,
    /// Namespace; empty for cluster scope.
    pub namespace: &'a str,
    /// Name; empty when it is yet to be generated.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a User,
    /// The stored object, for updates and deletions.
    pub old: Option<&'a Value>,
    /// The new object; for `Connect` the options of the connection; `Null` for a deletion.
    pub object: &'a mut Value,
    /// `CreateOptions`, `UpdateOptions`, `PatchOptions` or `DeleteOptions`.
    pub options: &'a Value,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// The time of the request.
    pub now: jiff::Timestamp,
    /// For generated names.
    pub entropy: &'a Entropy,
    /// `Warning` headers of the answer.
    pub warnings: Vec<String>,
    /// Annotations of the audit event.
    pub audit: BTreeMap<String, String>,
    /// Writes to other objects that must be committed together with this one.
    pub paired: Vec<PairedWrite>,
}

impl AdmissionRequest<'_> {
    /// Whether it is about this resource itself (not a subresource).
    #[must_use]
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.subresource.is_empty() && self.is_any(group, resource)
    }

    /// Whether it is about this resource or a subresource of it.
    #[must_use]
    pub fn is_any(&self, group: &str, resource: &str) -> bool {
        self.resource == resource && self.group == group
    }

    /// The name for messages: the request's, or the object's own.
    #[must_use]
    pub fn display_name(&self) -> &str {
        if self.name.is_empty() { self.object.str_at(&["metadata", "name"]) } else { self.name }
    }

    /// 403 about this object.
    #[must_use]
    pub fn forbidden(&self, why: &str) -> AdmissionError {
        let generated = self.object.str_at(&["metadata", "generateName"]);
        let name = match self.display_name() {
            "" if !generated.is_empty() => generated,
            "" => "Unknown",
            name => name,
        };
        AdmissionError::forbidden(self.group, self.resource, name, why)
    }

    /// Whether this write only frees the object for deletion (an update of an object that is being deleted).
    #[must_use]
    pub fn is_deleting(&self) -> bool {
        self.old.is_some_and(|old| !old.str_at(&["metadata", "deletionTimestamp"]).is_empty())
    }

    /// Adds a `Warning` header.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }
}

/// One rule of admission.
pub trait AdmissionPlugin: Send + Sync + std::fmt::Debug {
    /// Upstream's name of it.
    fn name(&self) -> &'static str;

    /// Changes the object, before validation.
    ///
    /// # Errors
    /// A refusal.
    fn mutate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        let _ = (request, lookup);
        Ok(())
    }

    /// Judges the object, after validation. May add warnings and paired writes, never changes the object.
    ///
    /// # Errors
    /// A refusal.
    fn validate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        let _ = (request, lookup);
        Ok(())
    }
}

/// The plugins of a cluster, in order.
///
/// A write passes [`Self::mutate`], then mutating policies and webhooks, then the kind's own validation, then
/// validating policies and webhooks, then [`Self::validate_after_webhooks`] (quota comes last, so that nothing
/// that is refused later has been charged).
#[derive(Debug)]
pub struct AdmissionChain {
    plugins: Vec<Box<dyn AdmissionPlugin>>,
    last: Vec<Box<dyn AdmissionPlugin>>,
}

impl AdmissionChain {
    /// `plugins` run before webhooks, `last` after.
    #[must_use]
    pub fn new(plugins: Vec<Box<dyn AdmissionPlugin>>, last: Vec<Box<dyn AdmissionPlugin>>) -> Self {
        Self { plugins, last }
    }

    /// Lets every plugin change the object, in order.
    ///
    /// # Errors
    /// The first refusal.
    pub fn mutate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        self.plugins.iter().chain(&self.last).try_for_each(|plugin| plugin.mutate(request, lookup))
    }

    /// Lets every plugin but the last ones judge the object, in order: validating webhooks come after it.
    ///
    /// # Errors
    /// The first refusal.
    pub fn validate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        self.plugins.iter().try_for_each(|plugin| plugin.validate(request, lookup))
    }

    /// Lets the last plugins judge the object.
    ///
    /// # Errors
    /// The first refusal.
    pub fn validate_after_webhooks(
        &self,
        request: &mut AdmissionRequest<'_>,
        lookup: &dyn Lookup,
    ) -> Result<(), AdmissionError> {
        self.last.iter().try_for_each(|plugin| plugin.validate(request, lookup))
    }

    /// The plugins' names, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.plugins.iter().chain(&self.last).map(|plugin| plugin.name())
    }
}
