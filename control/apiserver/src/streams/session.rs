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
}
