//! Controllers of tokens that are kept in Secrets: which are filled with a token, and which are thrown away. That a
//! token is good for a request is for the API server to say, never decided here.

mod expired;
mod fill;
mod mounted;
mod references;
mod unused;

pub(crate) use fill::claims as token_claims;

use crate::{framework::Controller, run::ControllersConfig};
use k8s_openapi::api::core::v1::Secret;

/// The type of a Secret that holds a service account's token.
const TOKEN_TYPE: &str = "kubernetes.io/service-account-token";
/// The annotations that say whose token it is.
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// The controllers that need the cluster's keys.
pub(crate) fn signing(config: &ControllersConfig) -> Vec<Box<dyn Controller>> {
    match config.signers {
        Some(_) => vec![Box::new(fill::TokenFilling { authority: config.cluster_ca_pem.clone() })],
        None => Vec::new(),
    }
}

/// The controllers that need none.
pub(crate) fn controllers() -> Vec<Box<dyn Controller>> {
    vec![
        Box::new(references::TokenReferences),
        Box::new(expired::BootstrapTokenCleaning),
        Box::new(unused::UnusedTokenCleaning),
    ]
}

/// Whether a Secret is to hold a service account's token.
fn holds_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TOKEN_TYPE)
}
