//! The client: one pool of kept-alive connections for each target, calls in flight bounded, answers bounded.

use super::target::{Credentials, WebhookTarget};
use crate::dial::{self, Dialer, Offer, Reach, Spawner, Trust};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{client::legacy::Client, rt::TokioTimer};
use parking_lot::Mutex;
use rustls::{
    client::ResolvesClientCert,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};
use std::{error::Error, sync::Arc, time::Duration};
use timonel_runtime::Tasks;
use tokio::sync::Semaphore;

/// Targets whose connections are kept; the one unused for longest makes room.
const MAX_TARGETS: usize = 256;
/// Calls in flight to one target; further ones wait within their own time.
const MAX_IN_FLIGHT: usize = 100;
/// Idle connections kept to one target that does not speak HTTP/2.
const MAX_IDLE: usize = 8;
const IDLE: Duration = Duration::from_secs(60);
/// Bytes of an answer.
const MAX_ANSWER: usize = 3 << 20;
/// Bytes of an answer's text that a message quotes.
const MAX_QUOTED: usize = 512;

/// Why a webhook gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Its configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// It could not be reached, or did not answer in time.
    #[error("Post {url:?}: {cause}")]
    Post {
        /// What was asked.
        url: String,
        /// Why there is no answer.
        cause: String,
    },
    /// The same for other methods.
    #[error("{method} {url:?}: {cause}")]
    Ask {
        /// The method as Go's client writes it.
        method: String,
        /// What was asked.
        url: String,
        /// Why there is no answer.
        cause: String,
    },
    /// It answered with a status other than 200.
    #[error("{0}")]
    Answer(String),
}

/// Calls webhooks.
pub(crate) struct WebhookClient {
    reach: Reach,
    tasks: Tasks,
    /// Pools in order of use, the latest last.
    pools: Mutex<Vec<(Arc<WebhookTarget>, Arc<Pool>)>>,
}

impl std::fmt::Debug for WebhookClient {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("WebhookClient").field("targets", &self.pools.lock().len()).finish_non_exhaustive()
    }
}

struct Pool {
    client: Client<Dialer, Full<Bytes>>,
    in_flight: Semaphore,
}

impl WebhookClient {
    /// A client that goes that way.
    pub(crate) fn new(reach: Reach, tasks: &Tasks) -> Self {
        Self { reach, tasks: tasks.child("webhooks"), pools: Mutex::default() }
    }

    /// Asks a server outside the cluster and gives back what it answers, whatever its code.
    ///
    /// # Errors
    /// When there is no answer within the time.
    pub(crate) async fn ask(&self, target: &WebhookTarget, what: Exchange) -> Result<(StatusCode, Bytes), CallError> {
        let pool = self.pool(target)?;
        let (url, method, timeout) = (target.url(None), what.method.clone(), what.timeout);
        let failed = |cause: String| CallError::Ask { method: title(&method), url: url.clone(), cause };
        match tokio::time::timeout(timeout, exchange(&pool, &url, target, what)).await {
            Ok(answer) => answer.map_err(|error| failed(chain(&*error))),
            Err(_) => Err(failed("context deadline exceeded".to_owned())),
        }
    }

    /// Posts JSON and gives back the body of the answer.
    ///
    /// # Errors
    /// When there is no answer within `timeout`, or one that is not 200.
    pub(crate) async fn post(
        &self,
        target: &WebhookTarget,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let url = target.url(Some(timeout.as_secs().max(1)));
        let pool = self.pool(target)?;
        let failed = |cause: String| CallError::Post { url: url.clone(), cause };
        let what = Exchange { method: Method::POST, body, user_agent: "kube-apiserver-admission", timeout };
        match tokio::time::timeout(timeout, exchange(&pool, &url, target, what)).await {
            Ok(Ok((StatusCode::OK, answer))) => Ok(answer),
            Ok(Ok((code, answer))) => Err(CallError::Answer(refusal(code, &answer))),
            Ok(Err(error)) => Err(failed(chain(&*error))),
            Err(_) => Err(failed("context deadline exceeded".to_owned())),
        }
    }

    fn pool(&self, target: &WebhookTarget) -> Result<Arc<Pool>, CallError> {
        let mut pools = self.pools.lock();
        if let Some(at) = pools.iter().position(|(held, _)| **held == *target) {
            let found = pools.remove(at);
            let pool = found.1.clone();
            pools.push(found);
            return Ok(pool);
        }
        let target = Arc::new(target.clone());
        let dialer = Dialer {
            host: target.host.clone(),
            port: target.port,
            server_name: target.server_name(),
            tls: if target.plain { None } else { Some(Arc::new(tls(&target).map_err(CallError::Config)?)) },
            reach: self.reach.clone(),
        };
        let client = Client::builder(Spawner(self.tasks.clone()))
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .build(dialer);
        let pool = Arc::new(Pool { client, in_flight: Semaphore::new(MAX_IN_FLIGHT) });
        if pools.len() >= MAX_TARGETS {
            pools.remove(0);
        }
        pools.push((target, pool.clone()));
        Ok(pool)
    }
}

type AnyError = Box<dyn Error + Send + Sync>;

/// `Post`, `Get`: as Go's client names methods in its errors.
fn title(method: &Method) -> String {
    let name = method.as_str();
    name.chars().take(1).chain(name.chars().skip(1).map(|letter| letter.to_ascii_lowercase())).collect()
}

/// What is asked of a server.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) method: Method,
    /// JSON, or nothing.
    pub(crate) body: Bytes,
    pub(crate) user_agent: &'static str,
    pub(crate) timeout: Duration,
}

async fn exchange(
    pool: &Pool,
    url: &str,
    target: &WebhookTarget,
    what: Exchange,
) -> Result<(StatusCode, Bytes), AnyError> {
    let _place = pool.in_flight.acquire().await?;
    let mut request = Request::builder()
        .method(what.method)
        .uri(url)
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, what.user_agent);
    if !what.body.is_empty() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    if !target.credentials.authorization.is_empty() {
        request = request.header(header::AUTHORIZATION, &target.credentials.authorization);
    }
    let mut request = request.body(Full::new(what.body))?;
    timonel_runtime::propagate_trace(request.headers_mut());
    let answer = pool.client.request(request).await?;
    let code = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await?;
    Ok((code, body.to_bytes()))
}

/// An answer that is no answer, in the words of upstream's client.
pub(crate) fn refusal(code: StatusCode, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(MAX_QUOTED)]);
    let text = text.trim();
    match code {
        StatusCode::NOT_FOUND => "the server could not find the requested resource".to_owned(),
        StatusCode::UNAUTHORIZED => "the server has asked for the client to provide credentials".to_owned(),
        StatusCode::FORBIDDEN => "forbidden".to_owned(),
        code if code.is_server_error() => {
            let text = if text.is_empty() { code.canonical_reason().unwrap_or("unknown") } else { text };
            format!("an error on the server ({text:?}) has prevented the request from succeeding")
        }
        _ => "the server rejected our request for an unknown reason".to_owned(),
    }
}

/// The deepest cause says why; what stands above it only says where.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// TLS towards a target.
fn tls(target: &WebhookTarget) -> Result<rustls::ClientConfig, String> {
    let trust = if target.credentials.insecure { Trust::Anything } else { Trust::Bundle(&target.ca_bundle) };
    dial::tls(trust, identity(&target.credentials)?, Offer::Any)
}

/// The client's certificate and key, if it has them.
fn identity(credentials: &Credentials) -> Result<Option<Arc<dyn ResolvesClientCert>>, String> {
    if credentials.certificate_pem.is_empty() {
        return Ok(None);
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&credentials.certificate_pem).collect();
    let chain = chain.map_err(|error| format!("client certificate: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(&credentials.key_pem).map_err(|error| format!("client key: {error}"))?;
    let pair = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|error| error.to_string())?;
    Ok(Some(Arc::new(SingleCertAndKey::from(pair))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_the_words_of_upstreams_client() {
        for (code, body, text) in [
            (404, "", "the server could not find the requested resource"),
            (500, "boom\n", "an error on the server (\"boom\") has prevented the request from succeeding"),
            (503, "", "an error on the server (\"Service Unavailable\") has prevented the request from succeeding"),
        ] {
            assert_eq!(refusal(StatusCode::from_u16(code).unwrap(), body.as_bytes()), text);
        }
    }
}
