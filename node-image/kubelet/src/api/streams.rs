//! `/exec`, `/attach`, `/portForward` and `/run`: the runtime's streaming server does the talking; the agent finds
//! the container, asks the runtime for a URL, and passes the upgraded connection through byte by byte.

use super::path::Query;
use super::{Body, Failure, answer, failure};
use crate::decide::model::{ObservedContainer, RunState};
use crate::shell::kubelet::Shared;
use http::uri::Uri;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use std::sync::Arc;
use std::time::Duration;
use timonel_cri::cri::{AttachRequest, ExecRequest};
use timonel_runtime::OnError;
use tokio::net::TcpStream;

/// Limit of `/run`.
const RUN_LIMIT: Duration = Duration::from_mins(5);

/// UID of the pod of that name.
pub(crate) fn find(shared: &Shared, namespace: &str, name: &str) -> Result<String, Failure> {
    let pods = shared.pods.lock();
    let mut found: Vec<Arc<Pod>> = pods.values().map(|entry| entry.pod.borrow().clone()).collect();
    found.retain(|pod| {
        pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name)
    });
    // A pod that is being deleted may still be there beside the one that took its name.
    found.sort_by_key(|pod| pod.metadata.deletion_timestamp.is_some());
    let uid = found.first().and_then(|pod| pod.metadata.uid.clone());
    uid.ok_or_else(|| failure(StatusCode::NOT_FOUND, "pod does not exist"))
}

pub(crate) fn pod(shared: &Shared, uid: &str) -> Result<Arc<Pod>, Failure> {
    let pods = shared.pods.lock();
    let pod = pods.get(uid).map(|entry| entry.pod.borrow().clone());
    pod.ok_or_else(|| failure(StatusCode::NOT_FOUND, "pod does not exist"))
}

type Which<'a> = (&'a str, &'a str, &'a str);

async fn running(shared: &Shared, (namespace, name, container): Which<'_>) -> Result<ObservedContainer, Failure> {
    let uid = find(shared, namespace, name)?;
    let observed = shared.runtime.observe(&uid).await;
    let observed = observed.map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let run = observed.latest(container).filter(|run| run.state == RunState::Running).cloned();
    run.ok_or_else(|| failure(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")")))
}

fn refused(error: &crate::shell::runtime::RuntimeError) -> Failure {
    failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

pub(crate) async fn exec(
    shared: &Arc<Shared>,
    which: Which<'_>,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Failure> {
    let run = running(shared, which).await?;
    let tty = query.yes(&["tty"]);
    let call = ExecRequest {
        container_id: run.id,
        cmd: query.all("command").map(str::to_owned).collect(),
        tty,
        stdin: query.yes(&["input", "stdin"]),
        stdout: query.yes(&["output", "stdout"]),
        // With a terminal both outputs are one.
        stderr: query.yes(&["error", "stderr"]) && !tty,
    };
    let url = shared.runtime.exec(call).await.map_err(|error| refused(&error))?;
    pass(shared, &url, request).await
}

pub(crate) async fn attach(
    shared: &Arc<Shared>,
    which: Which<'_>,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Failure> {
    let run = running(shared, which).await?;
    let uid = find(shared, which.0, which.1)?;
    let definition = crate::decide::model::container_named(&*pod(shared, &uid)?, which.2).map(|(_, one)| one);
    let tty = definition.and_then(|one| one.tty).unwrap_or(false);
    let call = AttachRequest {
        container_id: run.id,
        tty,
        stdin: query.yes(&["input", "stdin"]),
        stdout: query.yes(&["output", "stdout"]),
        stderr: query.yes(&["error", "stderr"]) && !tty,
    };
    let url = shared.runtime.attach(call).await.map_err(|error| refused(&error))?;
    pass(shared, &url, request).await
}

pub(crate) async fn port_forward(
    shared: &Arc<Shared>,
    namespace: &str,
    name: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Failure> {
    let uid = find(shared, namespace, name)?;
    let observed = shared.runtime.observe(&uid).await.map_err(|error| refused(&error))?;
    let sandbox = observed.ready_sandbox().ok_or_else(|| failure(StatusCode::NOT_FOUND, "pod is not running"))?;
    let ports = query.all("port").flat_map(|list| list.split(',')).filter_map(|port| port.parse().ok()).collect();
    let url = shared.runtime.port_forward(&sandbox.id, ports).await.map_err(|error| refused(&error))?;
    pass(shared, &url, request).await
}

/// Runs a command and gives its output.
pub(crate) async fn run(shared: &Arc<Shared>, which: Which<'_>, query: &Query) -> Result<Response<Body>, Failure> {
    let run = running(shared, which).await?;
    let words = query.all("cmd").flat_map(|line| line.split(' ')).chain(query.all("command"));
    let command = words.filter(|word| !word.is_empty()).map(str::to_owned).collect();
    let done = shared.runtime.exec_sync(&run.id, command, RUN_LIMIT).await.map_err(|error| refused(&error))?;
    let mut text = done.stdout;
    text.extend(done.stderr);
    Ok(answer("text/plain; charset=utf-8", text))
}

/// Sends the request on to the runtime's streaming server and joins the two connections.
async fn pass(shared: &Arc<Shared>, url: &str, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
    let bad = |error: &dyn std::fmt::Display| failure(StatusCode::BAD_GATEWAY, format!("streaming server: {error}"));
    let target: Uri = url.parse().map_err(|error: http::uri::InvalidUri| bad(&error))?;
    let authority = target.authority().ok_or_else(|| bad(&"a URL without a host"))?.to_string();
    let stream = TcpStream::connect(&authority).await.map_err(|error| bad(&error))?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| bad(&error))?;
    shared.tasks.spawn("stream", OnError::Log, async move { connection.with_upgrades().await });

    let path = target.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut onward = Request::builder().method(request.method().clone()).uri(path).header(header::HOST, &authority);
    for (name, value) in request.headers().iter().filter(|(name, _)| **name != header::HOST) {
        onward = onward.header(name, value);
    }
    let onward = onward.body(http_body_util::Empty::<bytes::Bytes>::new()).map_err(|error| bad(&error))?;
    let mut back = sender.send_request(onward).await.map_err(|error| bad(&error))?;
    if back.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (head, body) = back.into_parts();
        let body = body.map_err(std::io::Error::other).boxed_unsync();
        return Ok(Response::from_parts(head, body));
    }
    let (theirs, ours) = (hyper::upgrade::on(&mut back), hyper::upgrade::on(request));
    shared.tasks.spawn("stream", OnError::Log, async move {
        let (theirs, ours) = tokio::try_join!(theirs, ours)?;
        // Either side may end it in the middle; that is how such a stream usually ends.
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(theirs), &mut TokioIo::new(ours)).await;
        Ok::<(), hyper::Error>(())
    });
    let mut response = Response::new(super::full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = back.headers().clone();
    Ok(response)
}
