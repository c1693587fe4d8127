//! Logs, traces and metrics for every binary: `tracing` to standard error, OTLP when an endpoint is configured,
//! Prometheus text from one registry. This module alone knows the OpenTelemetry crates.
//!
//! Never logs a request body, a header value or anything else that could hold a secret: that is the caller's
//! duty too, and the reason why nothing here records spans' inputs by itself.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry::{global, trace::TracerProvider as _};
use opentelemetry_http::{HeaderExtractor, HeaderInjector, HttpClient, HttpError};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// Exports under way at once; further ones wait in the SDK's own bounded batch queue.
const EXPORT_QUEUE: usize = 4;
/// Longest wait for the collector.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// A collector's answer is a few bytes; more than this is not one.
const EXPORT_ANSWER_BYTES: usize = 64 * 1024;

/// How a process reports.
#[derive(Clone, Debug, Default)]
pub struct TelemetryConfig {
    /// `service.name`.
    pub service: &'static str,
    /// Filter in `tracing`'s syntax, such as `info,timonel_store=debug`; empty is `info`.
    pub filter: String,
    /// Logs as JSON, one object a line.
    pub json: bool,
    /// OTLP over HTTP, such as `http://127.0.0.1:4318`; `None` sends nothing anywhere.
    pub otlp_endpoint: Option<String>,
}

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error("log filter {filter:?}")]
    Filter {
        /// What was given.
        filter: String,
        /// Why.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The exporter could not be made.
    #[error("OTLP exporter for {endpoint}")]
    Exporter {
        /// What was given.
        endpoint: String,
        /// Why.
        #[source]
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// Another subscriber is in place.
    #[error("telemetry was started twice")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Running telemetry; ask it to [`Telemetry::shutdown`] so that the last spans leave.
#[derive(Debug)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Starts it for the whole process. Call once, inside a tokio runtime.
    ///
    /// # Errors
    /// A filter or endpoint that cannot be used, or a second start.
    pub fn start(config: &TelemetryConfig) -> Result<Self, TelemetryError> {
        let filter = if config.filter.is_empty() { "info" } else { &config.filter };
        let filter = EnvFilter::try_new(filter)
            .map_err(|source| TelemetryError::Filter { filter: config.filter.clone(), source })?;
        let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let logs = if config.json { logs.json().boxed() } else { logs.with_ansi(false).boxed() };
        let traces = config.otlp_endpoint.as_deref().map(|endpoint| tracer(config.service, endpoint)).transpose()?;
        let spans =
            traces.as_ref().map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer(config.service)));
        global::set_text_map_propagator(TraceContextPropagator::new());
        tracing_subscriber::registry()
            .with(logs.with_filter(filter))
            .with(spans)
            .try_init()
            .map_err(TelemetryError::Twice)?;
        Ok(Self { traces })
    }

    /// Sends what is left.
    pub fn shutdown(self) {
        if let Some(Err(error)) = self.traces.map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// Makes the span that a peer named in `traceparent` the parent of `span`.
pub fn continue_trace(span: &tracing::Span, headers: &http::HeaderMap) {
    let parent = global::get_text_map_propagator(|propagator| propagator.extract(&HeaderExtractor(headers)));
    // Fails only where no OTLP layer runs: then there is no trace to continue.
    let _ = span.set_parent(parent);
}

/// Names the current span in `traceparent`, for the peer to continue.
pub fn propagate_trace(headers: &mut http::HeaderMap) {
    let context = tracing::Span::current().context();
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut HeaderInjector(headers)));
}

fn tracer(service: &'static str, endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(Exporter::start())
        .with_timeout(EXPORT_TIMEOUT)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .build()
        .map_err(|source| TelemetryError::Exporter { endpoint: endpoint.to_owned(), source })?;
    let resource = Resource::builder().with_service_name(service).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

type Request = http::Request<Bytes>;
type Answer = Result<http::Response<Bytes>, HttpError>;

/// Carries exports from the SDK's own thread to a task, because hyper needs tokio and that thread has none.
#[derive(Debug)]
struct Exporter(mpsc::Sender<(Request, oneshot::Sender<Answer>)>);

impl Exporter {
    fn start() -> Self {
        let (send, mut receive) = mpsc::channel::<(Request, oneshot::Sender<Answer>)>(EXPORT_QUEUE);
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
    let response = tokio::time::timeout(EXPORT_TIMEOUT, client.request(request.map(Full::new))).await??;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, EXPORT_ANSWER_BYTES).collect().await?.to_bytes();
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
