//! Asks the instance metadata service (IMDSv2) who this machine is and where its cluster is.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Deserialize;
use std::time::Duration;

/// Seconds that a metadata token lives; one reading needs a moment.
const TOKEN_SECONDS: &str = "60";
/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer: user data is at most 16 KiB everywhere.
const MAX_BYTES: usize = 64 * 1024;

/// What the machine was ordered with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct UserData {
    /// `https://host:port` of the service.
    pub(crate) server: String,
    /// TLS server name of the cluster.
    pub(crate) server_name: String,
    /// `sha256:` hash of the key of the cluster's authority.
    pub(crate) authority_hash: String,
}

/// Everything that the metadata service says and joining needs.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) hostname: String,
    pub(crate) address: String,
    pub(crate) document: String,
    pub(crate) signature: String,
    pub(crate) user_data: UserData,
}

/// Why the metadata service was of no help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("metadata service: {path}")]
    Request {
        path: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("metadata service: {path} answered {status}")]
    Status { path: String, status: StatusCode },
    #[error("metadata service: {path} did not answer within {} s", TIMEOUT.as_secs())]
    Slow { path: String },
    #[error("user data names no cluster")]
    UserData(#[source] serde_json::Error),
}

/// Reads it all from the service at `base`, such as `http://169.254.169.254`.
pub(crate) async fn read(base: &str) -> Result<Identity, IdentityError> {
    let client = Metadata { base: base.trim_end_matches('/').to_owned(), http: client() };
    let token = client.call(Method::PUT, "/latest/api/token", ("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_SECONDS));
    let token = token.await?;
    let get = |path| client.call(Method::GET, path, ("x-aws-ec2-metadata-token", &token));
    let user_data = get("/latest/user-data").await?;
    Ok(Identity {
        hostname: get("/latest/meta-data/local-hostname").await?,
        address: get("/latest/meta-data/local-ipv4").await?,
        document: get("/latest/dynamic/instance-identity/document").await?,
        signature: get("/latest/dynamic/instance-identity/signature").await?,
        user_data: serde_json::from_str(&user_data).map_err(IdentityError::UserData)?,
    })
}

type Http = Client<HttpConnector, Empty<Bytes>>;

fn client() -> Http {
    Client::builder(TokioExecutor::new()).build(HttpConnector::new())
}

struct Metadata {
    base: String,
    http: Http,
}

impl Metadata {
    async fn call(&self, method: Method, path: &str, header: (&str, &str)) -> Result<String, IdentityError> {
        let failed = |source| IdentityError::Request { path: path.to_owned(), source };
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header.0, header.1)
            .body(Empty::new())
            .map_err(|error| failed(error.into()))?;
        let answer = async {
            let response = self.http.request(request).await.map_err(|error| failed(error.into()))?;
            let status = response.status();
            if status != StatusCode::OK {
                return Err(IdentityError::Status { path: path.to_owned(), status });
            }
            let body = Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(failed)?.to_bytes();
            String::from_utf8(body.to_vec()).map_err(|error| failed(error.into()))
        };
        let slow = |_| IdentityError::Slow { path: path.to_owned() };
        tokio::time::timeout(TIMEOUT, answer).await.map_err(slow)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_is_strict() {
        let good = r#"{"server":"https://h:1","serverName":"n","authorityHash":"sha256:x"}"#;
        assert!(serde_json::from_str::<UserData>(good).is_ok());
        for bad in [r#"{"server":"https://h:1"}"#, r#"{"server":"","serverName":"","authorityHash":"","x":1}"#] {
            assert!(serde_json::from_str::<UserData>(bad).is_err(), "{bad}");
        }
    }
}
