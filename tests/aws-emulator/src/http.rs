//! The shell of the API: HTTP in, `Account::answer`, HTTP out. Decides nothing.

use crate::account::{Account, Answer, Delivery};
use crate::sigv4::Request;
use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use timonel_runtime::{OnError, Tasks};
use tokio::net::TcpListener;

/// The largest body.
const MAX_BODY: usize = 2 * 1024 * 1024;
/// The most connections at a time.
const MAX_CONNECTIONS: usize = 2_000;
/// How long a connection of a call that shall never be answered is kept.
const SILENCE: Duration = Duration::from_secs(120);

/// What handlers of a shell may say instead of an answer: end the connection.
#[derive(Debug, thiserror::Error)]
#[error("the connection ends without an answer, as scripted")]
pub(crate) struct Hangup;

/// A request whose body is read.
pub(crate) struct Taken {
    pub(crate) request: Request,
}

/// Accepts connections until the scope ends, and gives every request to `serve`. Packets live as many `hops` as that says.
pub(crate) async fn accept<F, R>(
    listener: TcpListener,
    tasks: Tasks,
    (name, hops): (&'static str, impl Fn() -> Option<u8> + Send),
    serve: F,
) -> std::io::Result<()>
where
    F: Fn(Taken) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<Response<Full<Bytes>>, Hangup>> + Send + 'static,
{
    let room = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return Ok(()) };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        // Small answers go out at once.
        stream.set_nodelay(true).unwrap_or_default();
        if let Some(hops) = hops() {
            stream.set_ttl(u32::from(hops)).unwrap_or_default();
        }
        let serve = serve.clone();
        let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
            let serve = serve.clone();
            async move {
                match take(request).await {
                    Ok(taken) => serve(taken).await,
                    Err(status) => Ok(plain(status, "the body is too large or broken")),
                }
            }
        });
        tasks.spawn(name, OnError::Log, async move {
            let mut server = hyper::server::conn::http1::Builder::new();
            let connection = server.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection");
            }
            drop(place);
            Ok::<(), std::convert::Infallible>(())
        });
    }
}

async fn take(request: http::Request<Incoming>) -> Result<Taken, StatusCode> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
    let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let request = Request {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers.iter().map(header).collect(),
        body: body.to_bytes().to_vec(),
    };
    Ok(Taken { request })
}

/// Answers what an instance asks of the metadata service.
pub(crate) async fn metadata(
    account: Arc<Mutex<Account>>,
    time: crate::admin::Time,
    (region, instance): (String, String),
    taken: Taken,
) -> Result<Response<Full<Bytes>>, Hangup> {
    Ok(answer_metadata(&mut account.lock(), &time, &region, &instance, &taken.request))
}

/// The same as a response.
pub(crate) fn answer_metadata(
    account: &mut Account,
    time: &crate::admin::Time,
    region: &str,
    instance: &str,
    request: &Request,
) -> Response<Full<Bytes>> {
    let answer = account.metadata(region, instance, request, time.now());
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    headers.insert(header::SERVER, header::HeaderValue::from_static("EC2ws"));
    if let Some(ttl) = answer.ttl {
        headers.insert("x-aws-ec2-metadata-token-ttl-seconds", header::HeaderValue::from(ttl));
    }
    response
}

/// An answer of plain text.
pub(crate) fn plain(status: StatusCode, text: impl Into<String>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    response
}

/// Answers one call of the API.
pub(crate) async fn api(
    account: Arc<Mutex<Account>>,
    time: crate::admin::Time,
    taken: Taken,
) -> Result<Response<Full<Bytes>>, Hangup> {
    let answer = account.lock().answer(&taken.request, time.now());
    match answer.delivery {
        Delivery::Send => Ok(respond(answer)),
        Delivery::Drop => Err(Hangup),
        Delivery::Silence => {
            tokio::time::sleep(SILENCE).await;
            Err(Hangup)
        }
    }
}

fn respond(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/xml;charset=UTF-8"));
    if let Ok(id) = header::HeaderValue::from_str(&answer.request_id) {
        headers.insert("x-amzn-requestid", id);
    }
    response
}
