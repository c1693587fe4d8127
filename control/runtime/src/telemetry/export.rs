//! Carries exports to the collector: from the SDK's own threads, which have no tokio, and from our task of metrics.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_http::{HttpClient, HttpError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Exports that wait; further ones wait in the SDK's own bounded batch queues, which drop what is too much.
const QUEUE: usize = 4;
/// Longest wait for the collector.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// A collector's answer is a few bytes; more than this is not one.
const ANSWER_BYTES: usize = 64 * 1024;

pub(super) type Request = http::Request<Bytes>;
type Answer = Result<http::Response<Bytes>, HttpError>;

/// A handle to the task that sends, because hyper needs tokio and the SDK's threads have none.
#[derive(Clone, Debug)]
pub(super) struct Exporter(mpsc::Sender<(Request, oneshot::Sender<Answer>)>);

impl Exporter {
    pub(super) fn start() -> Self {
        let (send, mut receive) = mpsc::channel::<(Request, oneshot::Sender<Answer>)>(QUEUE);
        let client = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(HttpConnector::new());
        #[allow(clippy::disallowed_methods, reason = "ends with its queue, which the SDK owns and closes at shutdown")]
        tokio::spawn(async move {
            while let Some((request, answer)) = receive.recv().await {
                // The SDK gave up when nobody takes the answer.
                let _ = answer.send(export(&client, request).await);
            }
        });
        Self(send)
    }
}

async fn export(client: &Client<HttpConnector, Full<Bytes>>, request: Request) -> Answer {
    let response = tokio::time::timeout(TIMEOUT, client.request(request.map(Full::new))).await??;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES).collect().await?.to_bytes();
    Ok(http::Response::from_parts(head, body))
}

#[async_trait::async_trait]
impl HttpClient for Exporter {
    async fn send_bytes(&self, request: Request) -> Answer {
        let (send, receive) = oneshot::channel();
        self.0.send((request, send)).await?;
        receive.await?
    }
}
