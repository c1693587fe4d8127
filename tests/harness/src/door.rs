//! A way into a cluster's API, byte by byte: for tests that must do what no decent client does.

use anyhow::{Context, bail, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

/// Longest wait for bytes.
const SILENCE: Duration = Duration::from_secs(100);
/// Bytes of an answer that are kept.
const MAX_ANSWER: usize = 256 << 20;

/// Where a cluster's API is, and who asks.
#[derive(Clone, Debug)]
pub struct Door {
    /// Where.
    pub address: SocketAddr,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status code.
    pub status: u16,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

fn bytes(config: &Value, list: &str, inner: &str, field: &str) -> anyhow::Result<Vec<u8>> {
    let text = config[list][0][inner][field].as_str().with_context(|| format!("no {field}"))?;
    BASE64_STANDARD.decode(text).with_context(|| field.to_owned())
}

impl Door {
    /// From a kubeconfig of one context, with its data inside.
    ///
    /// # Errors
    /// When something is missing.
    pub fn of(config: &Value) -> anyhow::Result<Self> {
        let cluster = &config["clusters"][0]["cluster"];
        let url = cluster["server"].as_str().context("no server")?;
        let address: SocketAddr = url.trim_start_matches("https://").parse().with_context(|| url.to_owned())?;
        let name = match cluster["tls-server-name"].as_str() {
            Some(name) => ServerName::try_from(name.to_owned())?,
            None => ServerName::IpAddress(address.ip().into()),
        };
        let mut roots = RootCertStore::empty();
        let authority = bytes(config, "clusters", "cluster", "certificate-authority-data")?;
        roots.add(CertificateDer::from_pem_slice(&authority)?)?;
        let chain = bytes(config, "users", "user", "client-certificate-data")?;
        let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&bytes(config, "users", "user", "client-key-data")?)?;
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Self { address, name, config: Arc::new(config) })
    }

    /// A connection whose handshake is done.
    ///
    /// # Errors
    /// When there is none to be had.
    pub fn open(&self) -> anyhow::Result<Line> {
        self.open_within(SILENCE)
    }

    /// The same, where no wait may take longer than `time`.
    ///
    /// # Errors
    /// When there is none to be had in time.
    pub fn open_within(&self, time: Duration) -> anyhow::Result<Line> {
        let mut stream = TcpStream::connect_timeout(&self.address, time)?;
        stream.set_read_timeout(Some(time))?;
        stream.set_write_timeout(Some(time))?;
        stream.set_nodelay(true)?;
        let mut session = ClientConnection::new(self.config.clone(), self.name.clone())?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(Line { stream: StreamOwned::new(session, stream), ahead: Vec::new() })
    }

    /// One request over a connection of its own.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> anyhow::Result<Reply> {
        self.open()?.ask(method, path, kind, body)
    }
}

/// One connection.
#[derive(Debug)]
pub struct Line {
    stream: StreamOwned<ClientConnection, TcpStream>,
    ahead: Vec<u8>,
}

impl Line {
    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn ask(&mut self, method: &str, path: &str, kind: &str, body: &[u8]) -> anyhow::Result<Reply> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.send(&[head.as_bytes(), body].concat())?;
        self.reply()
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// From here on no wait may take longer than `time`.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn patience(&self, time: Duration) -> io::Result<()> {
        self.stream.sock.set_read_timeout(Some(time))?;
        self.stream.sock.set_write_timeout(Some(time))
    }

    /// Reads the head of an answer whose body is read piece by piece; its status.
    ///
    /// # Errors
    /// As [`Self::reply`].
    pub fn head(&mut self) -> anyhow::Result<u16> {
        let head = String::from_utf8(self.until(b"\r\n\r\n")?)?;
        head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status line")
    }

    /// Reads the next chunk of a body; empty at its end.
    ///
    /// # Errors
    /// As [`Self::reply`].
    pub fn chunk(&mut self) -> anyhow::Result<Vec<u8>> {
        let line = self.until(b"\r\n")?;
        let length = usize::from_str_radix(String::from_utf8(line)?.trim(), 16)?;
        let chunk = self.exactly(length)?;
        self.exactly(2)?;
        Ok(chunk)
    }

    /// Reads one answer.
    ///
    /// # Errors
    /// When the connection breaks, or what comes is not HTTP.
    pub fn reply(&mut self) -> anyhow::Result<Reply> {
        let head = self.until(b"\r\n\r\n")?;
        let head = String::from_utf8(head)?.to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status line")?;
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let body = match header("content-length:") {
            Some(length) => self.exactly(length.parse()?)?,
            None if header("transfer-encoding:") == Some("chunked") => self.chunks()?,
            None => Vec::new(),
        };
        Ok(Reply { status, body })
    }

    fn chunks(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Ok(body);
            }
            body.extend(chunk);
            ensure!(body.len() <= MAX_ANSWER, "the answer is too large");
        }
    }

    fn until(&mut self, end: &[u8]) -> anyhow::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.ahead.windows(end.len()).position(|window| window == end) {
                return Ok(self.ahead.drain(..at + end.len()).collect());
            }
            self.more()?;
        }
    }

    fn exactly(&mut self, length: usize) -> anyhow::Result<Vec<u8>> {
        ensure!(length <= MAX_ANSWER, "the answer is too large");
        while self.ahead.len() < length {
            self.more()?;
        }
        Ok(self.ahead.drain(..length).collect())
    }

    /// Reads without writing first: what the other side said before it hung up is still to be had.
    fn more(&mut self) -> anyhow::Result<()> {
        let (session, socket) = (&mut self.stream.conn, &mut self.stream.sock);
        let mut buffer = [0; 16 << 10];
        loop {
            match session.reader().read(&mut buffer) {
                Ok(0) => bail!("the connection ended"),
                Ok(read) => {
                    self.ahead.extend_from_slice(&buffer[..read]);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            ensure!(session.read_tls(socket)? > 0, "the connection ended");
            session.process_new_packets()?;
        }
    }
}
