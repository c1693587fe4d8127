//! A real HTTPS server on loopback that answers as a test says, and remembers what it was asked.

use super::support::World;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use serde_json::Value as Json;
use std::{convert::Infallible, sync::Arc, time::Duration};
use timonel_pki::{Authority, ServerSpec, Validity};
use timonel_runtime::{Clock, OnError};
use tokio_rustls::TlsAcceptor;

/// One request: path, the header `Authorization`, body (null where it is no JSON).
pub(crate) type Asked = (String, String, Json);

pub(crate) struct Remote {
    pub(crate) port: u16,
    pub(crate) ca: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Remote {
    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    /// Waits until it was asked so often.
    pub(crate) async fn wait_for(&self, count: usize) -> Vec<Asked> {
        for _ in 0..500 {
            let asked = self.asked();
            if asked.len() >= count {
                return asked;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("asked {} times, not {count}", self.asked().len());
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// A kubeconfig of it, with a token.
    pub(crate) fn kubeconfig(&self, path: &str) -> String {
        let ca = BASE64.encode(&self.ca);
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: k, cluster: {{server: '{}{path}', certificate-authority-data: {ca}}}}}]\n\
             users: [{{name: u, user: {{token: hook-token}}}}]\n\
             contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n",
            self.url()
        )
    }
}

/// Serves `answer(path, body)` until the world ends.
pub(crate) async fn remote(
    world: &World,
    answer: impl Fn(&str, &Json) -> (u16, String) + Send + Sync + 'static,
) -> Remote {
    let validity = Validity::starting(Clock::system().now(), jiff::SignedDuration::from_hours(1));
    let authority = Authority::create("remote", validity).unwrap();
    let spec = ServerSpec { dns_names: vec!["localhost".to_owned()], ..ServerSpec::default() };
    let (chain, key) = authority.issue_server(&spec, validity).unwrap().rustls().unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (asked, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
    let (seen, tasks) = (asked.clone(), world.tasks.clone());
    world.tasks.spawn::<std::io::Error>("remote", OnError::Log, async move {
        loop {
            let (stream, _) = listener.accept().await?;
            let (acceptor, seen, answer) = (acceptor.clone(), seen.clone(), answer.clone());
            tasks.spawn::<std::io::Error>("remote connection", OnError::Log, async move {
                let io = TokioIo::new(acceptor.accept(stream).await?);
                let service = service_fn(move |request: Request<Incoming>| {
                    let (seen, answer) = (seen.clone(), answer.clone());
                    async move {
                        let path = request.uri().path().to_owned();
                        let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
                        let authorization = header.unwrap_or("").to_owned();
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let body = serde_json::from_slice(&body).unwrap_or_default();
                        let (code, text) = answer(&path, &body);
                        seen.lock().push((path, authorization, body));
                        let response = Response::builder().status(code).header("content-type", "application/json");
                        Ok::<_, Infallible>(response.body(Full::new(bytes::Bytes::from(text))).unwrap())
                    }
                });
                // How a peer leaves is its own affair.
                drop(auto::Builder::new(TokioExecutor::new()).serve_connection(io, service).await);
                Ok(())
            });
        }
    });
    Remote { port, ca: authority.cert_pem().to_owned(), asked }
}
