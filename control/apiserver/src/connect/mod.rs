//! Requests that go on to a node: logs, exec, attach, port-forward, and proxies to pods, services and nodes.
//!
//! Finds the way (in [`target`]), passes bytes on. How a node is reached is the connector's business, how
//! upgraded connections are translated that of `streams`.

mod rewrite;
mod target;
mod tls;

pub use tls::unchecked_tls;

use crate::{
    admission::Operation,
    body::Body,
    http::Answer,
    registry::Call,
    streams::{
        CommandStreams, NodeError, NodeTarget, SharedConnector, StreamTarget, send_to_node, serve_messages,
        serve_upgrade, strip_hop_by_hop, wants_upgrade,
    },
};
use ::http::{HeaderValue, Method, Request, Response, header};
use target::Way;
use timonel_api::{Status, Value};

/// Headers that are between the client and this server.
const PRIVATE: [&str; 2] = ["authorization", "cookie"];
/// What the headers start with by which one acts as somebody else.
const IMPERSONATE: &str = "impersonate-";
/// Bytes of an error text that a kubelet may send.
const MAX_ERROR: usize = 64 << 10;
/// Bytes of a page whose links are rewritten; larger ones pass as they are.
const MAX_PAGE: usize = 3 << 20;

/// Answers a request that goes on to a node.
pub(crate) async fn serve(call: &Call<'_>, body: Body) -> Result<Answer, Status> {
    let subresource = &*call.info.subresource;
    // Reading a log is no connection to admission.
    if subresource != "log" {
        let mut options = options(call);
        call.mutate(Operation::Connect, &mut options, None).await?;
        call.validate(Operation::Connect, &mut options, None).await?;
    }
    let connector = call.server.nodes.clone().ok_or_else(|| Status::service_unavailable("no way to nodes"))?;
    let way = match (call.view.plural(), subresource) {
        (_, "log") => match target::log(call)? {
            Some(way) => way,
            // A pod that is nowhere yet has not said anything.
            None => return Ok(Answer::text(200, "")),
        },
        (_, "exec" | "attach" | "portforward") => target::stream(call)?,
        ("pods", _) => target::pod(call)?,
        ("services", _) => target::service(call)?,
        _ => target::node(call)?,
    };
    let connector = if way.tls { tls::wrap(connector) } else { connector };
    if wants_upgrade(call.headers) && subresource != "log" {
        return upgrade(call, way, connector).await;
    }
    match subresource {
        "log" => log(call, way, connector).await,
        "proxy" => proxy(call, way, connector, body).await,
        _ => Err(Status::bad_request("Upgrade request required")),
    }
}

/// The options of a connection as the object that admission sees.
fn options(call: &Call<'_>) -> Value {
    let query = call.query;
    let kind = match (call.view.plural(), &*call.info.subresource) {
        (_, "exec") => "PodExecOptions",
        (_, "attach") => "PodAttachOptions",
        (_, "portforward") => "PodPortForwardOptions",
        ("pods", _) => "PodProxyOptions",
        ("services", _) => "ServiceProxyOptions",
        _ => "NodeProxyOptions",
    };
    let mut options = Value::object();
    options.set_at(&["apiVersion"], "v1");
    options.set_at(&["kind"], kind);
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if query.flag(flag) {
            options.set_at(&[flag], true);
        }
    }
    if !query.get("container").is_empty() {
        options.set_at(&["container"], query.get("container"));
    }
    let command: Vec<Value> = query.all("command").map(Value::from).collect();
    if !command.is_empty() {
        options.set_at(&["command"], command);
    }
    let ports: Vec<Value> = query.all("ports").filter_map(|port| port.parse::<i64>().ok()).map(Value::from).collect();
    if !ports.is_empty() {
        options.set_at(&["ports"], ports);
    }
    if call.info.subresource == "proxy" {
        options.set_at(&["path"], call.info.rest);
    }
    options
}

async fn upgrade(call: &Call<'_>, way: Way, connector: SharedConnector) -> Result<Answer, Status> {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = call.method.clone();
    *request.headers_mut() = call.headers.clone();
    *request.extensions_mut() = std::mem::take(&mut *call.extensions.lock());
    let command =
        matches!(&*call.info.subresource, "exec" | "attach").then(|| CommandStreams::from_query(call.raw_query));
    let to = StreamTarget { node: way.node, target: way.target, path_and_query: way.path_and_query, command };
    let response =
        serve_upgrade(request, to, connector, &call.server.tasks).await.map_err(|error| node_status(&error))?;
    Ok(Answer::foreign(response.map(Body::new)))
}

fn node_status(error: &NodeError) -> Status {
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        text = format!("{text}: {source}");
    }
    Status::internal(format!("error trying to reach service: {text}"))
}

async fn send(
    call: &Call<'_>,
    way: Way,
    connector: SharedConnector,
    mut request: Request<Body>,
) -> Result<Response<Body>, Status> {
    timonel_runtime::propagate_trace(request.headers_mut());
    let sent = send_to_node(&*connector, &way.node, way.target, request, &call.server.tasks).await;
    Ok(sent.map_err(|error| node_status(&error))?.map(Body::new))
}

async fn log(call: &Call<'_>, way: Way, connector: SharedConnector) -> Result<Answer, Status> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = way.path_and_query.parse().map_err(Status::internal)?;
    request.headers_mut().insert(header::HOST, HeaderValue::from_static("kubelet"));
    let response = send(call, way, connector, request).await?;
    if response.status().is_success() && wants_upgrade(call.headers) {
        let mut client = Request::new(());
        *client.headers_mut() = call.headers.clone();
        *client.extensions_mut() = std::mem::take(&mut *call.extensions.lock());
        let answer = serve_messages(client, response.into_body(), &call.server.tasks);
        let refused = || Status::bad_request("none of the WebSocket protocols offered is for logs");
        return answer.map(|answer| Answer::foreign(answer.map(Body::new))).ok_or_else(refused);
    }
    if response.status().is_success() {
        return Ok(Answer::body(200, "text/plain", response.into_body()));
    }
    let code = response.status().as_u16();
    let bytes = crate::body::read(response.into_body(), MAX_ERROR).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut status = Status::bad_request(text.clone());
    match code {
        400 => {}
        404 => (status.code, status.reason) = (404, "NotFound".into()),
        _ => status = Status::internal(text),
    }
    Err(status)
}

async fn proxy(call: &Call<'_>, way: Way, connector: SharedConnector, body: Body) -> Result<Answer, Status> {
    if call.info.rest.is_empty() && matches!(*call.method, Method::GET | Method::HEAD) {
        let query = if call.raw_query.is_empty() { String::new() } else { format!("?{}", call.raw_query) };
        return Ok(Answer::text(301, "").with(header::LOCATION, &format!("{}/{query}", call.info.path)));
    }
    let mut request = Request::new(body);
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = way.path_and_query.parse().map_err(|_| Status::bad_request("the path is not valid"))?;
    let headers = request.headers_mut();
    *headers = call.headers.clone();
    strip_hop_by_hop(headers, false);
    let acting = headers.keys().filter(|name| name.as_str().starts_with(IMPERSONATE)).cloned().collect::<Vec<_>>();
    for name in PRIVATE.map(header::HeaderName::from_static).into_iter().chain(acting) {
        headers.remove(name);
    }
    // Links can only be rewritten in what is not compressed.
    headers.remove(header::ACCEPT_ENCODING);
    for (name, value) in [("host", &way.host), ("x-forwarded-uri", &call.info.path.to_owned())] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    let prefix = call.info.path.strip_suffix(call.info.rest).unwrap_or(call.info.path).to_owned();
    let host = way.host.clone();
    let mut response = send(call, way, connector, request).await?;
    strip_hop_by_hop(response.headers_mut(), false);
    rewrite::location(response.headers_mut(), &prefix, &host);
    let is_page = response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|ty| ty.starts_with("text/html"));
    let small = http_body::Body::size_hint(response.body()).upper().is_none_or(|size| size <= MAX_PAGE as u64);
    if is_page && small {
        let (mut parts, body) = response.into_parts();
        let page = crate::body::read(body, MAX_PAGE).await.map_err(Status::internal)?;
        parts.headers.remove(header::CONTENT_LENGTH);
        let page = rewrite::page(&String::from_utf8_lossy(&page), &prefix, &host);
        response = Response::from_parts(parts, page.into());
    }
    Ok(Answer::foreign(response))
}

/// The kubelet of a node, for what every way to it shares.
fn kubelet(node: &str, path_and_query: String) -> Way {
    Way { node: node.to_owned(), target: NodeTarget::Kubelet, path_and_query, host: node.to_owned(), tls: false }
}
