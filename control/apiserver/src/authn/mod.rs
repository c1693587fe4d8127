//! Who makes a request: credentials to [`User`].
//!
//! Decides over values: a verified certificate, a token, the objects of the cluster. Never authorizes, but for
//! asking whether one user may act as another.

mod authenticator;
mod bootstrap;
mod claims;
mod impersonation;
mod token_request;
mod user;

pub use authenticator::{
    Authenticator, AuthnConfig, Identity, Unauthorized, review_self, user_info, user_of_certificate,
};
pub use impersonation::impersonate;
pub(crate) use token_request::POD_TOKEN_SECONDS;
pub use token_request::TokenGrant;
pub use user::{
    ANONYMOUS, AUTHENTICATED_GROUP, MASTERS_GROUP, NODE_USER_PREFIX, NODES_GROUP, SERVICE_ACCOUNT_PREFIX,
    SERVICE_ACCOUNTS_GROUP, UNAUTHENTICATED_GROUP, User,
};
