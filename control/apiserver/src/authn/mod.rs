//! Who makes a request: credentials to [`User`].
//!
//! Decides over values: a verified certificate, a token, the objects of the cluster. Never authorizes.

mod user;

pub use user::{
    ANONYMOUS, AUTHENTICATED_GROUP, MASTERS_GROUP, NODE_USER_PREFIX, NODES_GROUP, SERVICE_ACCOUNT_PREFIX,
    SERVICE_ACCOUNTS_GROUP, UNAUTHENTICATED_GROUP, User,
};
