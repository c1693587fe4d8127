//! Who makes a request.

use std::collections::BTreeMap;

/// The name of whoever shows no credential.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group of everyone without a credential.
pub const UNAUTHENTICATED_GROUP: &str = "system:unauthenticated";
/// The group of everyone with one.
pub const AUTHENTICATED_GROUP: &str = "system:authenticated";
/// The group that may do anything; no role can take that away.
pub const MASTERS_GROUP: &str = "system:masters";
/// The group of nodes.
pub const NODES_GROUP: &str = "system:nodes";
/// What a node's user name starts with.
pub const NODE_USER_PREFIX: &str = "system:node:";
/// What a service account's user name starts with: `system:serviceaccount:NAMESPACE:NAME`.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// The group of all service accounts; with `:NAMESPACE`, of those of one namespace.
pub const SERVICE_ACCOUNTS_GROUP: &str = "system:serviceaccounts";

/// An identity, as authentication (and perhaps impersonation) found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Unique among active users.
    pub name: String,
    /// Unique over time; empty where the credential has none.
    pub uid: String,
    /// Groups, in the order in which authentication gave them.
    pub groups: Vec<String>,
    /// Further facts of the credential, for authorization and audit.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user with a name and groups.
    #[must_use]
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        Self { name: name.into(), groups: groups.iter().map(|group| (*group).to_owned()).collect(), ..Self::default() }
    }

    /// Whoever shows no credential.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::new(ANONYMOUS, &[UNAUTHENTICATED_GROUP])
    }

    /// The user behind a service account.
    #[must_use]
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            name: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
            uid: uid.to_owned(),
            groups: vec![SERVICE_ACCOUNTS_GROUP.to_owned(), format!("{SERVICE_ACCOUNTS_GROUP}:{namespace}")],
            extra: BTreeMap::new(),
        }
    }

    /// The part of the service that works in a cluster's name (controllers, scheduler): it may do anything.
    #[must_use]
    pub fn system(component: &str) -> Self {
        Self::new(format!("system:{component}"), &[MASTERS_GROUP, AUTHENTICATED_GROUP])
    }

    /// Whether it belongs to `group`.
    #[must_use]
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|member| member == group)
    }

    /// The node this user is: a member of the nodes' group with a node's name.
    #[must_use]
    pub fn node_name(&self) -> Option<&str> {
        let name = self.name.strip_prefix(NODE_USER_PREFIX)?;
        (!name.is_empty() && self.in_group(NODES_GROUP)).then_some(name)
    }

    /// Namespace and name of the service account this user is.
    #[must_use]
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        let (namespace, name) = self.name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
        (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
    }

    /// The same user as a member of `group`.
    #[must_use]
    pub fn with_group(mut self, group: &str) -> Self {
        if !self.in_group(group) {
            self.groups.push(group.to_owned());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_nodes_and_service_accounts() {
        for (name, groups, node, account) in [
            ("system:node:n1", &[NODES_GROUP][..], Some("n1"), None),
            ("system:node:n1", &[], None, None),
            ("system:node:", &[NODES_GROUP], None, None),
            ("system:serviceaccount:ns:sa", &[], None, Some(("ns", "sa"))),
            ("system:serviceaccount:ns:sa:x", &[], None, None),
            ("system:serviceaccount:ns", &[], None, None),
            ("alice", &[NODES_GROUP], None, None),
        ] {
            let user = User::new(name, groups);
            assert_eq!(user.node_name(), node, "{name}");
            assert_eq!(user.as_service_account(), account, "{name}");
        }
    }
}
