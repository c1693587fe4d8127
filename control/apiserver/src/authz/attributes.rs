//! What a request wants to do, and the answer to whether it may.

use crate::{
    admission::{AdmissionError, Lookup},
    authn::User,
};

/// One action on one resource (or on a path that is no resource).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, a special verb such
    /// as `bind`; for a path the HTTP method in lower case.
    pub verb: &'a str,
    /// API group; empty for the core group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Resource in the plural; empty when [`Self::path`] is set.
    pub resource: &'a str,
    /// Subresource, or empty.
    pub subresource: &'a str,
    /// Namespace; empty for cluster scope and for all namespaces.
    pub namespace: &'a str,
    /// Name; empty for collections and creations.
    pub name: &'a str,
    /// The path of a request that is not about a resource (`/healthz`).
    pub path: &'a str,
    /// The label selector as the client wrote it.
    pub label_selector: &'a str,
    /// The field selector as the client wrote it.
    pub field_selector: &'a str,
}

impl<'a> Attributes<'a> {
    /// An action on a path that is no resource.
    #[must_use]
    pub fn path(verb: &'a str, path: &'a str) -> Self {
        Self { verb, path, ..Self::default() }
    }

    /// An action on a resource.
    #[must_use]
    pub fn resource(verb: &'a str, group: &'a str, resource: &'a str, namespace: &'a str, name: &'a str) -> Self {
        Self { verb, group, resource, namespace, name, ..Self::default() }
    }

    /// Whether it is about a resource.
    #[must_use]
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }

    /// Whether it only reads.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch")
    }

    /// `resource` or `resource/subresource`, as roles write it.
    #[must_use]
    pub fn combined_resource(&self) -> std::borrow::Cow<'a, str> {
        if self.subresource.is_empty() {
            self.resource.into()
        } else {
            format!("{}/{}", self.resource, self.subresource).into()
        }
    }
}

/// An authorizer's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes, and why.
    Allow(String),
    /// No, whatever others say.
    Deny(String),
    /// Another authorizer may allow it; if none does, these are the reasons.
    NoOpinion(String),
}

impl Decision {
    /// Whether it is a yes.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// The reason, perhaps empty.
    #[must_use]
    pub fn reason(&self) -> &str {
        let (Self::Allow(reason) | Self::Deny(reason) | Self::NoOpinion(reason)) = self;
        reason
    }
}

/// Decides whether a user may do something.
pub trait Authorizer: Send + Sync + std::fmt::Debug {
    /// The answer, from the cluster's objects as `lookup` shows them.
    fn authorize(&self, user: &User, attributes: &Attributes<'_>, lookup: &dyn Lookup) -> Decision;
}

impl<A: Authorizer + ?Sized> Authorizer for std::sync::Arc<A> {
    fn authorize(&self, user: &User, attributes: &Attributes<'_>, lookup: &dyn Lookup) -> Decision {
        (**self).authorize(user, attributes, lookup)
    }
}

/// Asks several authorizers in order: the first that has an opinion decides.
#[derive(Debug)]
pub struct Union(Vec<Box<dyn Authorizer>>);

impl Union {
    /// In the order in which they are asked.
    #[must_use]
    pub fn new(authorizers: Vec<Box<dyn Authorizer>>) -> Self {
        Self(authorizers)
    }
}

impl Authorizer for Union {
    fn authorize(&self, user: &User, attributes: &Attributes<'_>, lookup: &dyn Lookup) -> Decision {
        let mut reasons = Vec::new();
        for authorizer in &self.0 {
            match authorizer.authorize(user, attributes, lookup) {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }
}

/// The text of a refusal, on which clients match:
/// `User "x" cannot list resource "pods" in API group "" in the namespace "y": reason`.
#[must_use]
pub fn forbidden_message(user: &User, attributes: &Attributes<'_>, reason: &str) -> String {
    let name = if user.name.is_empty() { String::new() } else { format!("User {:?} ", user.name) };
    let mut message = if attributes.is_resource() {
        let scope = if attributes.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", attributes.namespace)
        };
        let (verb, resource, group) = (attributes.verb, attributes.combined_resource(), attributes.group);
        format!("{name}cannot {verb} resource \"{resource}\" in API group \"{group}\" {scope}")
    } else {
        format!("{name}cannot {} path {:?}", attributes.verb, attributes.path)
    };
    if !reason.is_empty() {
        message.push_str(": ");
        message.push_str(reason);
    }
    message
}

/// 403 for a request that no authorizer allows.
#[must_use]
pub fn forbidden(user: &User, attributes: &Attributes<'_>, reason: &str) -> AdmissionError {
    let message = forbidden_message(user, attributes, reason);
    AdmissionError::forbidden(attributes.group, attributes.resource, attributes.name, &message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_clients_expect() {
        let user = User::new("x", &[]);
        for (attributes, reason, expected) in [
            (
                Attributes::resource("list", "", "pods", "y", ""),
                "",
                r#"User "x" cannot list resource "pods" in API group "" in the namespace "y""#,
            ),
            (
                Attributes { subresource: "status", ..Attributes::resource("get", "apps", "deployments", "", "d") },
                "because",
                r#"User "x" cannot get resource "deployments/status" in API group "apps" at the cluster scope: because"#,
            ),
            (Attributes::path("get", "/metrics"), "", r#"User "x" cannot get path "/metrics""#),
        ] {
            assert_eq!(forbidden_message(&user, &attributes, reason), expected);
        }
    }
}
