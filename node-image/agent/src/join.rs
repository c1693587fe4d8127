//! Joins the cluster: proves which instance this is, and brings home a certificate for the node's name.

use crate::{
    identity::{self, Identity, IdentityError},
    state::Joined,
    tls::{self, TlsError},
};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use std::time::Duration;
use timonel_fleet::{JOIN_PATH, JoinAnswer, JoinRequest};
use timonel_pki::{CertificateSubject, PkiError};
use timonel_runtime::{OnError, Tasks};

/// Longest wait for the service's answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Largest answer.
const MAX_BYTES: usize = 256 * 1024;
/// Group of every node.
const NODES_GROUP: &str = "system:nodes";

/// Why the machine did not join.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("certificate request")]
    Request(#[source] PkiError),
    #[error("asking the service to join")]
    Http(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the service refused: {status}: {message}")]
    Refused { status: StatusCode, message: String },
    #[error("the service did not answer within {} s", TIMEOUT.as_secs())]
    Slow,
    #[error("the service's answer")]
    Answer(#[source] serde_json::Error),
}

/// Joins once. The caller tries again, later, when it fails.
pub(crate) async fn join(metadata: &str, now: Timestamp, tasks: &Tasks) -> Result<Joined, JoinError> {
    let identity = identity::read(metadata).await?;
    let subject = CertificateSubject {
        common_name: format!("system:node:{}", identity.hostname),
        organizations: vec![NODES_GROUP.to_owned()],
        ..CertificateSubject::default()
    };
    let (request, key) = timonel_pki::new_request(&subject).map_err(JoinError::Request)?;
    let answer = tokio::time::timeout(TIMEOUT, ask(&identity, request, tasks)).await.map_err(|_| JoinError::Slow)??;
    let Identity { address, user_data, .. } = identity;
    Ok(Joined { answer, key, server: user_data.server, server_name: user_data.server_name, address, at: now })
}

async fn ask(identity: &Identity, request: String, tasks: &Tasks) -> Result<JoinAnswer, JoinError> {
    let http = |error: Box<dyn std::error::Error + Send + Sync>| JoinError::Http(error);
    let to = &identity.user_data;
    let stream = tls::connect(tls::pinned(&to.authority_hash, &["http/1.1"])?, &to.server, &to.server_name).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| http(error.into()))?;
    tasks.spawn("join connection", OnError::Log, connection);
    let body = JoinRequest { document: identity.document.clone(), signature: identity.signature.clone(), request };
    let body = serde_json::to_vec(&body).map_err(|error| http(error.into()))?;
    let request = Request::post(JOIN_PATH)
        .header(header::HOST, &to.server_name)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| http(error.into()))?;
    let response = sender.send_request(request).await.map_err(|error| http(error.into()))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(http)?.to_bytes();
    if status != StatusCode::OK {
        let message = String::from_utf8_lossy(&body).trim().to_owned();
        return Err(JoinError::Refused { status, message });
    }
    serde_json::from_slice(&body).map_err(JoinError::Answer)
}
