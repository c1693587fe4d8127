//! One request for a long connection: which protocols the client speaks decides whether bytes pass as they are
//! or are translated.

use super::{
    NodeTarget,
    remote_command::{CommandStreams, SPDY_PROTOCOL, V5_PROTOCOL, refuse, translate},
    upgrade::{NodeError, SharedConnector, StreamBody, copy_both_ways, strip_hop_by_hop, upgrade_on_node},
    websocket::{accept, carry_bytes, offered_protocols},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::io;
use timonel_runtime::{OnError, Tasks};

/// SPDY frames in WebSocket messages, with the protocol inside as suffix.
const TUNNEL_PREFIX: &str = "SPDY/3.1+";
const SPDY: &str = "SPDY/3.1";
/// The header in which SPDY's users negotiate what the streams mean.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What must not reach a node: it is about the client and the API server.
const PRIVATE_HEADERS: [&str; 5] =
    ["authorization", "impersonate-user", "impersonate-group", "impersonate-uid", "cookie"];

/// Where a long connection goes.
#[derive(Clone, Debug)]
pub struct StreamTarget {
    /// The node.
    pub node: String,
    /// The kubelet, or something behind the node.
    pub target: NodeTarget,
    /// Path and query of the request to it.
    pub path_and_query: String,
    /// Set for exec and attach: their channels can be translated.
    pub command: Option<CommandStreams>,
}

/// How the connection will be served.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    /// The client's own upgrade, passed on as it is.
    Pass,
    /// WebSocket channels to SPDY streams.
    Translate,
    /// SPDY bytes inside WebSocket messages; the protocol that the streams follow.
    Tunnel(String),
}

fn plan(headers: &HeaderMap, command: Option<CommandStreams>) -> Plan {
    let Some(offered) = offered_protocols(headers) else { return Plan::Pass };
    if command.is_some() && offered.contains(&V5_PROTOCOL) {
        return Plan::Translate;
    }
    let tunnelled = offered.iter().find_map(|name| name.strip_prefix(TUNNEL_PREFIX));
    tunnelled.map_or(Plan::Pass, |inner| Plan::Tunnel(inner.to_owned()))
}

/// Serves a request for an upgrade: returns the answer for the client and goes on in `tasks`. The caller has
/// authenticated and authorized the request.
///
/// # Errors
/// When the node cannot be reached before the client has been answered.
pub async fn serve_upgrade<B>(
    mut request: Request<B>,
    to: StreamTarget,
    connector: SharedConnector,
    tasks: &Tasks,
) -> Result<Response<StreamBody>, NodeError> {
    let on_client = hyper::upgrade::on(&mut request);
    let (parts, _) = request.into_parts();
    match plan(&parts.headers, to.command) {
        Plan::Pass => pass(parts.method, parts.headers, on_client, to, connector, tasks).await,
        Plan::Tunnel(inner) => tunnel(&parts.headers, &inner, on_client, to, connector, tasks).await,
        Plan::Translate => Ok(command(&parts.headers, on_client, to, connector, tasks)),
    }
}

/// Passes a request for an upgrade on as it is, whatever the protocol: returns the answer for the client and goes on
/// in `tasks`.
///
/// # Errors
/// When the other server cannot be reached.
pub(crate) async fn pass_upgrade<B>(
    mut request: Request<B>,
    to: StreamTarget,
    connector: SharedConnector,
    tasks: &Tasks,
) -> Result<Response<StreamBody>, NodeError> {
    let on_client = hyper::upgrade::on(&mut request);
    let (parts, _) = request.into_parts();
    pass(parts.method, parts.headers, on_client, to, connector, tasks).await
}

fn node_request(method: Method, to: &StreamTarget, headers: HeaderMap) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = method;
    *request.headers_mut() = headers;
    for name in PRIVATE_HEADERS {
        request.headers_mut().remove(name);
    }
    request.headers_mut().insert(header::HOST, HeaderValue::from_static("node"));
    // A path that does not parse is the root, where a kubelet answers 404.
    *request.uri_mut() = to.path_and_query.parse().unwrap_or_default();
    request
}

fn spdy_headers(protocol: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
    if let Ok(protocol) = HeaderValue::from_str(protocol) {
        headers.insert(STREAM_PROTOCOL, protocol);
    }
    headers
}

fn empty(response: Response<()>) -> Response<StreamBody> {
    response.map(|()| {
        Box::pin(Empty::new().map_err(|never: std::convert::Infallible| -> hyper::Error { match never {} }))
            as StreamBody
    })
}

fn relay(response: Response<hyper::body::Incoming>) -> Response<StreamBody> {
    let mut response = response.map(|body| Box::pin(body) as StreamBody);
    strip_hop_by_hop(response.headers_mut(), false);
    response
}

async fn client_io(on_client: OnUpgrade) -> io::Result<TokioIo<hyper::upgrade::Upgraded>> {
    on_client.await.map(TokioIo::new).map_err(io::Error::other)
}

async fn pass(
    method: Method,
    mut headers: HeaderMap,
    on_client: OnUpgrade,
    to: StreamTarget,
    connector: SharedConnector,
    tasks: &Tasks,
) -> Result<Response<StreamBody>, NodeError> {
    strip_hop_by_hop(&mut headers, true);
    let request = node_request(method, &to, headers);
    let upgrade = upgrade_on_node(&*connector, &to.node, to.target, request, tasks).await?;
    if !upgrade.is_switched() {
        return Ok(relay(upgrade.response));
    }
    let mut answer = Response::new(());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().clone_from(upgrade.response.headers());
    tasks.spawn("pass-stream", OnError::Log, async move {
        let (client, node) = (client_io(on_client).await?, upgrade.into_io().await.map_err(io::Error::other)?);
        quiet(copy_both_ways(client, node).await)
    });
    Ok(empty(answer))
}

async fn tunnel(
    headers: &HeaderMap,
    inner: &str,
    on_client: OnUpgrade,
    to: StreamTarget,
    connector: SharedConnector,
    tasks: &Tasks,
) -> Result<Response<StreamBody>, NodeError> {
    let request = node_request(Method::POST, &to, spdy_headers(inner));
    let upgrade = upgrade_on_node(&*connector, &to.node, to.target, request, tasks).await?;
    let answer = accept(headers, &format!("{TUNNEL_PREFIX}{inner}"));
    let (true, Some(answer)) = (upgrade.is_switched(), answer) else { return Ok(relay(upgrade.response)) };
    tasks.spawn("tunnel-stream", OnError::Log, async move {
        let (client, node) = (client_io(on_client).await?, upgrade.into_io().await.map_err(io::Error::other)?);
        quiet(carry_bytes(client, node).await)
    });
    Ok(empty(answer))
}

/// The client is answered first: what goes wrong afterwards it reads on the error channel.
fn command(
    headers: &HeaderMap,
    on_client: OnUpgrade,
    to: StreamTarget,
    connector: SharedConnector,
    tasks: &Tasks,
) -> Response<StreamBody> {
    let Some(answer) = accept(headers, V5_PROTOCOL) else {
        let mut refusal = Response::new(());
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        return empty(refusal);
    };
    let inner = tasks.clone();
    tasks.spawn("command-stream", OnError::Log, async move {
        let client = client_io(on_client).await?;
        let streams = to.command.unwrap_or_default();
        let request = node_request(Method::POST, &to, spdy_headers(SPDY_PROTOCOL));
        let upgrade = upgrade_on_node(&*connector, &to.node, to.target, request, &inner).await;
        let done = match upgrade {
            Err(error) => refuse(client, &error.to_string()).await,
            Ok(upgrade) if !upgrade.is_switched() => refuse(client, &said(upgrade.response).await).await,
            Ok(upgrade) => translate(client, upgrade.into_io().await.map_err(io::Error::other)?, streams).await,
        };
        quiet(done)
    });
    empty(answer)
}

/// Longest answer of a node that is read for its reason.
const MAX_REASON_BYTES: usize = 16 << 10;

async fn said(response: Response<hyper::body::Incoming>) -> String {
    let status = response.status();
    let body = http_body_util::Limited::new(response.into_body(), MAX_REASON_BYTES).collect().await;
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
    if text.is_empty() { format!("the node answered {status}") } else { text }
}

/// A peer that leaves is how such connections end, not a failure of the server.
fn quiet(ended: io::Result<()>) -> io::Result<()> {
    if let Err(error) = ended {
        tracing::debug!(%error, "stream ended");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::{NodeConnector, NodeIo, testing::kubelet};
    use async_trait::async_trait;
    use futures::{SinkExt, StreamExt};
    use hyper::{server::conn::http1, service::service_fn};
    use std::{convert::Infallible, sync::Arc, time::Duration};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio_tungstenite::tungstenite::{Error, Message, client::IntoClientRequest};

    #[test]
    fn the_clients_protocols_decide() {
        let websocket = |protocols: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("k"));
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocols));
            headers
        };
        let mut spdy = HeaderMap::new();
        spdy.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
        let command = Some(CommandStreams::default());
        for (headers, command, expected) in [
            (spdy, command, Plan::Pass),
            (websocket("v5.channel.k8s.io, v4.channel.k8s.io"), command, Plan::Translate),
            (websocket("v4.channel.k8s.io"), command, Plan::Pass),
            (websocket("v5.channel.k8s.io"), None, Plan::Pass),
            (websocket("SPDY/3.1+portforward.k8s.io"), None, Plan::Tunnel("portforward.k8s.io".into())),
        ] {
            assert_eq!(plan(&headers, command), expected, "{headers:?}");
        }
    }

    #[test]
    fn a_node_never_sees_the_clients_credentials() {
        let to = StreamTarget {
            node: "n".into(),
            target: NodeTarget::Kubelet,
            path_and_query: "/exec/ns/p/c?command=sh".into(),
            command: None,
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer secret"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        let request = node_request(Method::POST, &to, headers);
        assert!(!request.headers().contains_key(header::AUTHORIZATION));
        assert!(request.headers().contains_key(header::ACCEPT));
        assert_eq!(request.uri().path(), "/exec/ns/p/c");
    }

    const PIPE_BYTES: usize = 1 << 16;

    /// Nodes whose kubelet upgrades `/exec` to SPDY streams, `/portForward` to an echo, and refuses the rest.
    struct Nodes(Tasks);

    async fn answer(mut request: Request<hyper::body::Incoming>, tasks: Tasks) -> Result<Response<String>, Infallible> {
        let path = request.uri().path().to_owned();
        let upgrade = request.headers().get(header::UPGRADE).cloned();
        let protocol = request.headers().get(STREAM_PROTOCOL).cloned();
        if path == "/missing" || upgrade.as_ref().is_none_or(|name| name != SPDY) {
            return Ok(Response::builder().status(404).body("pod does not exist".to_owned()).unwrap());
        }
        let on_upgrade = hyper::upgrade::on(&mut request);
        tasks.spawn("kubelet", OnError::Log, async move {
            let mut io = TokioIo::new(on_upgrade.await.unwrap());
            if path == "/portForward" {
                let mut bytes = [0; 5];
                io.read_exact(&mut bytes).await.unwrap();
                io.write_all(&bytes).await.unwrap();
                io.shutdown().await.unwrap();
            } else {
                kubelet(io, b"").await;
            }
            Ok::<(), Infallible>(())
        });
        let mut answer = Response::builder().status(101).header("Connection", "Upgrade").header("Upgrade", SPDY);
        if let Some(protocol) = protocol {
            answer = answer.header(STREAM_PROTOCOL, protocol);
        }
        Ok(answer.body(String::new()).unwrap())
    }

    #[async_trait]
    impl NodeConnector for Nodes {
        async fn connect(&self, node: &str, _: NodeTarget) -> io::Result<Box<dyn NodeIo>> {
            if node == "gone" {
                return Err(io::ErrorKind::NotConnected.into());
            }
            let (near, far) = tokio::io::duplex(PIPE_BYTES);
            let tasks = self.0.clone();
            let service = service_fn(move |request| answer(request, tasks.clone()));
            let serve = http1::Builder::new().serve_connection(TokioIo::new(far), service).with_upgrades();
            self.0.spawn("node", OnError::Log, serve);
            Ok(Box::new(near))
        }
    }

    /// An API server that sends every request to `path` on `node`; returns the client's end.
    fn api(tasks: &Tasks, node: &str, path: &str, command: Option<CommandStreams>) -> DuplexStream {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let to = StreamTarget {
            node: node.to_owned(),
            target: NodeTarget::Kubelet,
            path_and_query: path.to_owned(),
            command,
        };
        let (inner, connector) = (tasks.clone(), Arc::new(Nodes(tasks.clone())));
        let service = service_fn(move |request| {
            let (to, connector, tasks) = (to.clone(), connector.clone(), inner.clone());
            async move { serve_upgrade(request, to, connector, &tasks).await }
        });
        let serve = http1::Builder::new().serve_connection(TokioIo::new(far), service).with_upgrades();
        tasks.spawn("api", OnError::Log, serve);
        near
    }

    async fn dial(io: DuplexStream, protocol: &'static str) -> Result<Vec<String>, Error> {
        let mut request = "ws://api/x".into_client_request()?;
        request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        let (mut socket, _) = tokio_tungstenite::client_async(request, io).await?;
        let tunnelled = protocol.starts_with(TUNNEL_PREFIX);
        let messages: &[&[u8]] = if tunnelled { &[b"he", b"llo"] } else { &[b"\0hello", b"\xff\0"] };
        for message in messages {
            socket.send(Message::Binary(Bytes::from_static(message))).await?;
        }
        let mut seen = Vec::new();
        while let Some(message) = socket.next().await {
            match message? {
                Message::Binary(bytes) => seen.push(String::from_utf8_lossy(&bytes).into_owned()),
                Message::Close(frame) => seen.push(format!("close {}", frame.map_or(0, |frame| frame.code.into()))),
                _ => {}
            }
        }
        Ok(seen)
    }

    #[tokio::test]
    async fn clients_and_kubelets_meet_over_real_upgrades() {
        let tasks = Tasks::root("test");
        let streams = Some(CommandStreams { stdin: true, stdout: true, stderr: true, tty: false });
        let exec = dial(api(&tasks, "n", "/exec/ns/p/c", streams), V5_PROTOCOL).await.unwrap();
        assert_eq!(exec, ["\u{1}", "\u{1}hello", "\u{3}{\"metadata\":{},\"status\":\"Success\"}", "close 1000"]);
        let forward = dial(api(&tasks, "n", "/portForward", None), "SPDY/3.1+portforward.k8s.io").await.unwrap();
        assert_eq!((forward.concat().as_str(), forward.last().unwrap().as_str()), ("helloclose 1000", "close 1000"));
        tasks.shutdown(Duration::from_secs(5)).await;
    }

    #[tokio::test]
    async fn refusals_reach_the_client() {
        let tasks = Tasks::root("test");
        let streams = Some(CommandStreams { stdout: true, ..CommandStreams::default() });
        for (node, path, text) in [("n", "/missing", "pod does not exist"), ("gone", "/exec", "not connected")] {
            let told = dial(api(&tasks, node, path, streams), V5_PROTOCOL).await.unwrap();
            assert!(told[0].starts_with("\u{3}{") && told[0].contains(text), "{told:?}");
            assert_eq!(told[1], "close 1000");
        }
        // Before the client is answered, the node's own refusal is the answer.
        let refused = dial(api(&tasks, "n", "/missing", None), "SPDY/3.1+portforward.k8s.io").await.unwrap_err();
        assert!(matches!(&refused, Error::Http(answer) if answer.status() == 404), "{refused:?}");
        tasks.shutdown(Duration::from_secs(5)).await;
    }

    #[tokio::test]
    async fn an_upgrade_of_the_clients_own_is_passed_on() {
        let tasks = Tasks::root("test");
        let mut client = api(&tasks, "n", "/portForward", None);
        let request = "POST /x HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 101 ") && head.contains("x-stream-protocol-version: portforward.k8s.io"));
        client.write_all(b"hello").await.unwrap();
        let mut echo = Vec::new();
        client.read_to_end(&mut echo).await.unwrap();
        assert_eq!(echo, b"hello");
        tasks.shutdown(Duration::from_secs(5)).await;
    }
}
