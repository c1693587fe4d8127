//! Who makes a request: credentials to [`User`].
//!
//! Decides over values: a verified certificate, a token, the objects of the cluster. Only tokens that the cluster does
//! not know itself make it ask others: issuers for their keys, a webhook for its word. Never authorizes, but for asking
//! whether one user may act as another.

mod authenticator;
mod bootstrap;
mod claims;
mod impersonation;
mod jwt;
mod others;
mod secret_token;
mod token_request;
mod token_webhook;
mod user;

pub(crate) use authenticator::bearer;
pub use authenticator::{
    Authenticator, AuthnConfig, Identity, Unauthorized, answer_review, review_self, user_info, user_of_certificate,
};
pub(crate) use claims::CREDENTIAL_ID;
pub(crate) use impersonation::is_impersonating;
pub use impersonation::{Impersonated, impersonate};
pub(crate) use jwt::Configuration as AuthenticationConfiguration;
pub(crate) use others::OtherTokens;
pub(crate) use secret_token::{LAST_USED, TokenUse, TokenUses, day};
pub(crate) use token_request::POD_TOKEN_SECONDS;
pub use token_request::TokenGrant;
pub use token_webhook::TokenWebhookConfig;
pub(crate) use token_webhook::{TokenWebhook, post_json};
pub use user::{
    ANONYMOUS, AUTHENTICATED_GROUP, MASTERS_GROUP, NODE_USER_PREFIX, NODES_GROUP, SERVICE_ACCOUNT_PREFIX,
    SERVICE_ACCOUNTS_GROUP, UNAUTHENTICATED_GROUP, User,
};
