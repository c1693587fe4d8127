//! Requests to nodes over HTTP/1.1, those that upgrade included, and the copying of upgraded bytes.

use super::{NodeConnector, NodeTarget};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use hyper_util::rt::TokioIo;
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use timonel_runtime::{OnError, Tasks};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout},
};

/// A node has this long to answer a request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// A connection on which nothing moves for so long is closed (upstream's kubelet uses the same).
const IDLE_LIMIT: Duration = Duration::from_secs(4 * 3600);
/// Bytes under way in one direction.
const COPY_BUFFER_BYTES: usize = 16 << 10;

/// Why a node gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// No connection.
    #[error("connecting to node {node:?}: {source}")]
    Connect {
        /// The node.
        node: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("speaking to node {node:?}: {source}")]
    Http {
        /// The node.
        node: String,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// No answer in time.
    #[error("node {node:?} did not answer in time")]
    TimedOut {
        /// The node.
        node: String,
    },
}

/// Sends one request to a node over a connection of its own and returns the answer, whose body streams (and
/// which, at 101, can be upgraded with `hyper::upgrade::on`).
///
/// # Errors
/// When the node cannot be reached or does not answer.
pub async fn send_to_node<B>(
    connector: &dyn NodeConnector,
    node: &str,
    target: NodeTarget,
    request: Request<B>,
    tasks: &Tasks,
) -> Result<Response<hyper::body::Incoming>, NodeError>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let timed_out = || NodeError::TimedOut { node: node.to_owned() };
    let http = |source| NodeError::Http { node: node.to_owned(), source };
    let io = connector.connect(node, target);
    let io = timeout(HEAD_DEADLINE, io)
        .await
        .map_err(|_| timed_out())?
        .map_err(|source| NodeError::Connect { node: node.to_owned(), source })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(http)?;
    tasks.spawn("node-connection", OnError::Log, connection.with_upgrades());
    timeout(HEAD_DEADLINE, sender.send_request(request)).await.map_err(|_| timed_out())?.map_err(http)
}

/// Removes the headers that are about one connection only, but for those of an upgrade.
pub fn strip_hop_by_hop(headers: &mut HeaderMap, keep_upgrade: bool) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let upgrade = headers.get(header::UPGRADE).cloned().filter(|_| keep_upgrade);
    for name in named {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding"] {
        headers.remove(name);
    }
    headers.remove(header::CONNECTION);
    headers.remove(header::UPGRADE);
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
}

/// Whether the client asks for an upgrade.
#[must_use]
pub fn wants_upgrade(headers: &HeaderMap) -> bool {
    let asks = |value: &HeaderValue| {
        value.to_str().is_ok_and(|text| text.split(',').any(|part| part.trim().eq_ignore_ascii_case("upgrade")))
    };
    headers.contains_key(header::UPGRADE) && headers.get_all(header::CONNECTION).iter().any(asks)
}

/// Copies both ways until both sides have ended or nothing moves any more. The end of one direction is passed on
/// while the other goes on.
///
/// # Errors
/// When a side breaks, or nothing moves for too long.
pub async fn copy_both_ways<A, B>(a: A, b: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_a, mut to_a) = tokio::io::split(a);
    let (mut from_b, mut to_b) = tokio::io::split(b);
    let moved = Moved { start: Instant::now(), last: AtomicU64::new(0) };
    let there = copy_one_way(&mut from_a, &mut to_b, &moved);
    let back = copy_one_way(&mut from_b, &mut to_a, &moved);
    tokio::try_join!(there, back).map(|_| ())
}

/// When something last moved in either direction.
struct Moved {
    start: Instant,
    last: AtomicU64,
}

impl Moved {
    fn mark(&self) {
        self.last.store(self.start.elapsed().as_secs(), Ordering::Relaxed);
    }

    fn is_idle(&self) -> bool {
        self.start.elapsed().as_secs().saturating_sub(self.last.load(Ordering::Relaxed)) >= IDLE_LIMIT.as_secs()
    }
}

async fn copy_one_way<R, W>(from: &mut R, to: &mut W, moved: &Moved) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    loop {
        let read = match timeout(IDLE_LIMIT, from.read(&mut buffer)).await {
            Ok(read) => read?,
            Err(_) if moved.is_idle() => return Err(io::ErrorKind::TimedOut.into()),
            Err(_) => continue,
        };
        moved.mark();
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
    }
}

/// What both sides of an answered upgrade need: the answer for the client, and the node's bytes.
pub(super) struct NodeUpgrade {
    pub(super) response: Response<hyper::body::Incoming>,
}

impl NodeUpgrade {
    pub(super) fn is_switched(&self) -> bool {
        self.response.status() == StatusCode::SWITCHING_PROTOCOLS
    }

    pub(super) async fn into_io(self) -> Result<TokioIo<hyper::upgrade::Upgraded>, hyper::Error> {
        hyper::upgrade::on(self.response).await.map(TokioIo::new)
    }
}

/// Asks a node for an upgrade.
pub(super) async fn upgrade_on_node(
    connector: &dyn NodeConnector,
    node: &str,
    target: NodeTarget,
    request: Request<http_body_util::Empty<Bytes>>,
    tasks: &Tasks,
) -> Result<NodeUpgrade, NodeError> {
    Ok(NodeUpgrade { response: send_to_node(connector, node, target, request, tasks).await? })
}

/// The body of an answer that comes from a node or from here.
pub type StreamBody = Pin<Box<dyn Body<Data = Bytes, Error = hyper::Error> + Send>>;

/// A connector that can be shared by tasks.
pub type SharedConnector = Arc<dyn NodeConnector>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_headers_stay_behind() {
        for (keep, expected) in [(true, vec!["accept", "connection", "upgrade"]), (false, vec!["accept"])] {
            let mut headers = HeaderMap::new();
            for (name, value) in [
                ("connection", "Upgrade, X-Own"),
                ("upgrade", "SPDY/3.1"),
                ("x-own", "1"),
                ("te", "x"),
                ("accept", "*"),
            ] {
                headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            assert!(wants_upgrade(&headers));
            strip_hop_by_hop(&mut headers, keep);
            let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_go_both_ways_and_each_way_ends_alone() {
        let (mut client, near) = tokio::io::duplex(64);
        let (far, mut node) = tokio::io::duplex(64);
        let talk = async {
            client.write_all(&[7; 1000]).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let serve = async {
            let mut asked = Vec::new();
            node.read_to_end(&mut asked).await.unwrap();
            node.write_all(format!("got {}", asked.len()).as_bytes()).await.unwrap();
            node.shutdown().await.unwrap();
        };
        let (copied, answer, ()) = tokio::join!(copy_both_ways(near, far), talk, serve);
        copied.unwrap();
        assert_eq!(answer, b"got 1000");
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_end() {
        let (_client, near) = tokio::io::duplex(64);
        let (far, _node) = tokio::io::duplex(64);
        let error = copy_both_ways(near, far).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
