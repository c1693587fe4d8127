//! The way from a client to the API server, with everything that a network does to it.
//!
//! Also looks at what components write: an update without a precondition is a violation.

use crate::{chance::Chance, trace::Trace};
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture, stream};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use kube::{Client, client::Body as KubeBody};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use timonel_apiserver::{ApiServer, Body, BodyError, Caller};
use tower::Service;

/// Where the API server is; a restart replaces it.
#[derive(Clone, Debug)]
pub(crate) struct Front(Arc<Mutex<Arc<ApiServer>>>);

impl Front {
    pub(crate) fn new(server: Arc<ApiServer>) -> Self {
        Self(Arc::new(Mutex::new(server)))
    }

    pub(crate) fn server(&self) -> Arc<ApiServer> {
        self.0.lock().clone()
    }

    pub(crate) fn replace(&self, server: Arc<ApiServer>) {
        *self.0.lock() = server;
    }
}

#[derive(Debug, Default)]
struct Weather {
    stormy: bool,
    cut_off: BTreeSet<String>,
}

/// How bad the network is. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Network(Arc<Mutex<Weather>>);

impl Network {
    /// Turns faults of all links on or off.
    pub(crate) fn storm(&self, on: bool) {
        self.0.lock().stormy = on;
    }

    /// Cuts a client off, or lets it back.
    pub(crate) fn cut(&self, client: &str, off: bool) {
        let mut weather = self.0.lock();
        if off {
            weather.cut_off.insert(client.to_owned());
        } else {
            weather.cut_off.remove(client);
        }
    }

    /// Whether faults happen.
    pub(crate) fn storms(&self) -> bool {
        self.0.lock().stormy
    }

    fn is_cut(&self, client: &str) -> bool {
        self.0.lock().cut_off.contains(client)
    }
}

/// What befalls one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Refused with this code before it has any effect.
    Refused(u16),
    /// Lost on the way there.
    Lost,
    /// Done, but the answer is lost.
    AnswerLost,
}

/// One client's link to the API server.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) front: Front,
    pub(crate) caller: Caller,
    pub(crate) network: Network,
    pub(crate) chance: Chance,
    pub(crate) trace: Trace,
    /// Whether faults happen on this link at all.
    pub(crate) faulty: bool,
    /// Whether every write must carry a precondition.
    pub(crate) fenced: bool,
}

impl Link {
    pub(crate) fn client(self) -> Client {
        Client::new(self, "default")
    }

    fn fault(&self) -> Fault {
        if !self.faulty || !self.network.storms() {
            return Fault::None;
        }
        match self.chance.between(0, 99) {
            0 => Fault::Refused(500),
            1 => Fault::Refused(429),
            2 => Fault::Refused(409),
            3 => Fault::Lost,
            4 | 5 => Fault::AnswerLost,
            _ => Fault::None,
        }
    }

    fn delay(&self) -> Duration {
        match self.faulty && self.network.storms() {
            true if self.chance.once_in(50) => self.chance.millis(500, 4_000),
            true => self.chance.millis(1, 20),
            false => Duration::from_millis(1),
        }
    }

    async fn answer(self, request: Request<KubeBody>) -> Result<Response<Body>, BodyError> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let (method, path) = (parts.method.clone(), parts.uri.to_string());
        let watch = path.contains("watch=true") || path.contains("watch=1");
        if self.fenced {
            unfenced(&method, &path, &body).into_iter().for_each(|what| {
                self.trace.violated(format!("{} writes without a precondition: {what}", self.name));
            });
        }
        let fault = self.fault();
        tokio::time::sleep(self.delay()).await;
        let line = |end: &str| format!("{} {method} {path} {end}", self.name);
        if self.network.is_cut(&self.name) || fault == Fault::Lost {
            self.trace.note(line("lost"));
            tokio::time::sleep(Duration::from_millis(500)).await;
            return Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
        }
        if let Fault::Refused(code) = fault
            && !(code == 409 && method == Method::GET)
        {
            self.trace.note(line(&format!("refused {code}")));
            return Ok(refusal(code)?);
        }
        let request = Request::from_parts(parts, Body::from(body));
        let server = self.front.server();
        let response = server.call(request, self.caller.clone()).await;
        drop(server);
        self.trace.note(line(response.status().as_str()));
        if watch {
            return Ok(self.cut_watch(response));
        }
        tokio::time::sleep(self.delay()).await;
        if fault == Fault::AnswerLost || self.network.is_cut(&self.name) {
            self.trace.note(line("answer lost"));
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        Ok(response)
    }

    /// A watch that breaks off at some time while the weather is bad, and is silent while its client is cut off.
    fn cut_watch(self, response: Response<Body>) -> Response<Body> {
        let stormy = self.faulty && self.network.storms();
        let life = if stormy { self.chance.millis(5_000, 120_000) } else { Duration::from_secs(86_400) };
        let end = tokio::time::Instant::now() + life;
        let (parts, body) = response.into_parts();
        let frames = stream::unfold((body, self), move |(mut body, link)| async move {
            let frame = tokio::select! {
                biased;
                () = tokio::time::sleep_until(end) => return None,
                frame = body.frame() => frame?,
            };
            if link.network.is_cut(&link.name) {
                return None;
            }
            let frame: Result<Frame<Bytes>, BodyError> = frame;
            Some((frame, (body, link)))
        });
        Response::from_parts(parts, Body::new(StreamBody::new(Box::pin(frames))))
    }
}

impl Service<Request<KubeBody>> for Link {
    type Response = Response<Body>;
    type Error = BodyError;
    type Future = BoxFuture<'static, Result<Response<Body>, BodyError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<KubeBody>) -> Self::Future {
        self.clone().answer(request).boxed()
    }
}

fn refusal(code: u16) -> Result<Response<Body>, http::Error> {
    let reason = match code {
        409 => "Conflict",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code,
        "message": "a fault of the simulation", "metadata": {}});
    let status = Body::from(status.to_string());
    Response::builder()
        .status(StatusCode::from_u16(code)?)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(status)
}

/// What a write lacks that would refuse it if it were stale, if it lacks it.
fn unfenced(method: &Method, path: &str, body: &[u8]) -> Option<String> {
    let path = path.split('?').next().unwrap_or(path);
    if path.contains("/events") || path.contains("/leases/") {
        return None;
    }
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let meta = &value["metadata"];
    let versioned = meta["resourceVersion"].as_str().is_some_and(|version| !version.is_empty());
    let fenced = match *method {
        Method::PUT => versioned,
        Method::PATCH => versioned || meta["uid"].is_string(),
        // The last segment of a collection's path is a plural of the API; whole collections go only with a namespace.
        Method::DELETE => value["preconditions"].is_object() || is_collection(path),
        _ => true,
    };
    (!fenced).then(|| format!("{method} {path} {}", String::from_utf8_lossy(body)))
}

fn is_collection(path: &str) -> bool {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let rest = match segments.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        _ => return false,
    };
    matches!(rest, [_] | ["namespaces", _, _])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_need_a_precondition() {
        for (method, path, body, fenced) in [
            (Method::PUT, "/api/v1/nodes/n", r#"{"metadata":{"resourceVersion":"7"}}"#, true),
            (Method::PUT, "/api/v1/nodes/n", r#"{"metadata":{}}"#, false),
            (Method::PATCH, "/api/v1/nodes/n", r#"{"metadata":{"uid":"u"}}"#, true),
            (Method::PATCH, "/api/v1/nodes/n", r#"{"spec":{}}"#, false),
            (Method::DELETE, "/api/v1/namespaces/a/pods/p", r#"{"preconditions":{"uid":"u"}}"#, true),
            (Method::DELETE, "/api/v1/namespaces/a/pods/p", "{}", false),
            (Method::DELETE, "/api/v1/namespaces/a/pods", "{}", true),
            (Method::POST, "/api/v1/namespaces/a/pods", "{}", true),
            (Method::PATCH, "/api/v1/namespaces/a/events/e", "{}", true),
        ] {
            assert_eq!(unfenced(&method, path, body.as_bytes()).is_none(), fenced, "{method} {path} {body}");
        }
    }
}
