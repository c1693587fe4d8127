//! The seam to the cluster's keys: what a signer is asked, and how its answer becomes part of an object.
//! Keys and certificates are the implementor's; nothing here holds one.

use crate::tokens::token_claims;
use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
        core::v1::Secret,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use std::time::Duration;

/// A certificate request that was approved.
#[derive(Clone, Debug)]
pub struct SignRequest {
    /// `kubernetes.io/kube-apiserver-client` and so on.
    pub signer_name: String,
    /// The PKCS#10 request as PEM.
    pub request_pem: Vec<u8>,
    /// The key usages that were asked for and checked, in the API's words.
    pub usages: Vec<String>,
    /// How long the requester wants it to last, if it said so.
    pub duration: Option<Duration>,
}

/// Signs with the cluster's authorities and keys.
#[async_trait]
pub trait ClusterSigner: Send + Sync {
    /// The certificate chain as PEM.
    ///
    /// # Errors
    /// Why the request cannot be signed, for the request's `Failed` condition.
    async fn sign_certificate(&self, request: SignRequest) -> Result<Vec<u8>, String>;

    /// A service account's token with these claims.
    ///
    /// # Errors
    /// Why there is none.
    async fn sign_token(&self, claims: &serde_json::Value) -> Result<String, String>;
}

/// Signs `request`, or marks it as failed, in its status.
pub(crate) async fn sign(
    request: &mut CertificateSigningRequest,
    signer: &dyn ClusterSigner,
    now: Timestamp,
) -> Result<(), String> {
    let asked = SignRequest {
        signer_name: request.spec.signer_name.clone(),
        request_pem: request.spec.request.0.clone(),
        usages: request.spec.usages.clone().unwrap_or_default(),
        duration: request
            .spec
            .expiration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map(Duration::from_secs),
    };
    let status = request.status.get_or_insert_default();
    match signer.sign_certificate(asked).await {
        Ok(certificate) => status.certificate = Some(ByteString(certificate)),
        Err(message) => status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
            type_: "Failed".to_owned(),
            status: "True".to_owned(),
            reason: Some("SignerValidationFailure".to_owned()),
            message: Some(message),
            last_update_time: Some(Time(now)),
            last_transition_time: Some(Time(now)),
        }),
    }
    Ok(())
}

/// Puts a token into a Secret that names its service account.
pub(crate) async fn sign_token(secret: &mut Secret, signer: &dyn ClusterSigner) -> Result<(), String> {
    let claims = token_claims(secret).ok_or("the Secret names no service account")?;
    let token = signer.sign_token(&claims).await?;
    secret.data.get_or_insert_default().insert("token".to_owned(), ByteString(token.into_bytes()));
    Ok(())
}
