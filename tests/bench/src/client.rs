//! A small HTTP/2 client: as many connections as asked for, each with its own TLS session, and nothing that would
//! cost the client more than the server.

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// HTTP/2 windows of a stream and of a connection: large enough never to be what is measured.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;

/// The media type of objects in protobuf.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Where a server is and as whom to speak to it.
#[derive(Clone)]
pub(crate) struct Target {
    address: SocketAddr,
    server_name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    authorization: Option<HeaderValue>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Target({})", self.address)
    }
}

/// Who the client is.
pub(crate) enum Identity {
    /// Certificate and key in PEM.
    Certificate(Vec<u8>, Vec<u8>),
    Token(String),
}

impl Target {
    pub(crate) fn new(
        address: SocketAddr,
        server_name: &str,
        authority: &[u8],
        identity: &Identity,
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority) {
            roots.add(certificate.context("authority")?)?;
        }
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let (mut tls, authorization) = match identity {
            Identity::Certificate(certificate, key) => {
                let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
                (builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?, None)
            }
            Identity::Token(token) => {
                (builder.with_no_client_auth(), Some(HeaderValue::from_str(&format!("Bearer {token}"))?))
            }
        };
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let server_name = ServerName::try_from(server_name.to_owned())?;
        Ok(Self { address, server_name, tls: Arc::new(tls), authorization })
    }

    /// Opens `count` connections.
    pub(crate) async fn connect(&self, count: usize) -> anyhow::Result<Client> {
        let mut senders = Vec::with_capacity(count);
        for _ in 0..count {
            senders.push(self.connection().await?);
        }
        Ok(Client { senders: senders.into(), target: self.clone() })
    }

    async fn connection(&self) -> anyhow::Result<http2::SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(self.tls.clone()).connect(self.server_name.clone(), stream).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await?;
        #[allow(clippy::disallowed_methods, reason = "ends with its connection, which its senders own")]
        tokio::spawn(async move {
            // A server that is killed breaks its connections: whoever waits for an answer is told.
            let _ = connection.await;
        });
        Ok(sender)
    }
}

/// What to ask for.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) accept: &'static str,
    pub(crate) content: &'static str,
    pub(crate) body: Bytes,
}

impl Ask {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        let json = "application/json";
        Self { method: Method::GET, path: path.into(), accept: json, content: json, body: Bytes::new() }
    }

    pub(crate) fn post(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { method: Method::POST, body: body.into(), ..Self::get(path) }
    }

    pub(crate) fn merge(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        let content = "application/merge-patch+json";
        Self { method: Method::PATCH, body: body.into(), content, ..Self::get(path) }
    }
}

/// Open connections to one server.
#[derive(Clone)]
pub(crate) struct Client {
    senders: Arc<[http2::SendRequest<Full<Bytes>>]>,
    target: Target,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Client({:?}, {})", self.target, self.senders.len())
    }
}

impl Client {
    /// Sends over the connection that `turn` falls on; the answer's head is there when this returns.
    pub(crate) async fn open(&self, turn: usize, ask: Ask) -> anyhow::Result<Response<Incoming>> {
        let uri = format!("https://{}{}", self.target.address, ask.path);
        let mut request = Request::builder().method(ask.method).uri(uri).header(header::ACCEPT, ask.accept);
        if let Some(authorization) = &self.target.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if !ask.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, ask.content);
        }
        let mut sender = self.senders[turn % self.senders.len()].clone();
        let answer = async {
            sender.ready().await?;
            sender.send_request(request.body(Full::new(ask.body))?).await.map_err(anyhow::Error::from)
        };
        tokio::time::timeout(PATIENCE, answer).await.context("no answer")?
    }

    /// Sends and reads the whole answer; a refusal is an error that shows it.
    pub(crate) async fn send(&self, turn: usize, ask: Ask) -> anyhow::Result<Bytes> {
        let (method, path) = (ask.method.clone(), ask.path.clone());
        let response = self.open(turn, ask).await?;
        let status = response.status();
        let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.context("no end")??;
        let body = body.to_bytes();
        if !status.is_success() {
            bail!("{method} {path}: {status}: {}", String::from_utf8_lossy(&body[..body.len().min(400)]));
        }
        Ok(body)
    }

    /// Sends and throws the answer's body away as it comes; its length, and the seconds until its first byte.
    pub(crate) async fn drain(&self, turn: usize, ask: Ask) -> anyhow::Result<(usize, Duration)> {
        let started = tokio::time::Instant::now();
        let response = self.open(turn, ask).await?;
        let status = response.status();
        let (mut body, mut length, mut first) = (response.into_body(), 0, None);
        while let Some(frame) = body.frame().await {
            if let Some(data) = frame?.data_ref() {
                first.get_or_insert_with(|| started.elapsed());
                length += data.len();
            }
        }
        if !status.is_success() {
            bail!("{status}");
        }
        Ok((length, first.unwrap_or_default()))
    }
}
