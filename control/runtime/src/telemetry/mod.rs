//! Logs, traces and metrics for every binary: `tracing` to standard error, all three as OTLP when an endpoint is
//! configured, Prometheus text from registries. This module alone knows the OpenTelemetry crates.
//!
//! Never holds anybody up: what the collector does not take in time is dropped. Never logs a request body, a header
//! value or anything else that could hold a secret: that is the caller's duty too, and the reason why nothing here
//! records spans' inputs by itself.

mod export;
mod follow;
mod otlp_metrics;
mod registry;
mod text;

pub use follow::{follow_trace, remember_trace, traces_are_on};
pub use registry::{MetricsSource, Registry, export_metrics};
pub use text::{Family, Kind, Sample, TextError, parse_metrics};

use self::export::Exporter;
use opentelemetry::{global, trace::TracerProvider as _};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_otlp::{ExporterBuildError, LogExporter, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource, logs::SdkLoggerProvider, propagation::TraceContextPropagator, trace::SdkTracerProvider,
};
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// How often metrics are sent unless configured.
const METRICS_PERIOD: Duration = Duration::from_secs(60);
/// What is sent comes from our own code: the exporter's own HTTP client would otherwise report on its reports.
const OWN_TARGET: &str = "timonel";
/// The header by which a peer names the span that a request belongs to.
const TRACE_PARENT: &str = "traceparent";

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
    /// How often metrics are sent; `None` is once a minute.
    pub metrics_period: Option<Duration>,
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
        source: ExporterBuildError,
    },
    /// Another subscriber is in place.
    #[error("telemetry was started twice")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// What sends to a collector.
#[derive(Debug)]
struct Sending {
    traces: SdkTracerProvider,
    logs: SdkLoggerProvider,
    _metrics: DropGuard,
}

/// Running telemetry; ask it to [`Telemetry::shutdown`] so that the last spans leave.
#[derive(Debug)]
pub struct Telemetry {
    sending: Option<Sending>,
}

impl Telemetry {
    /// Starts it for the whole process. Call once, inside a tokio runtime.
    ///
    /// # Errors
    /// A filter or endpoint that cannot be used, or a second start.
    pub fn start(config: &TelemetryConfig) -> Result<Self, TelemetryError> {
        let sending = config.otlp_endpoint.as_deref().map(|endpoint| Sending::start(config, endpoint)).transpose()?;
        let printed = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let printed = if config.json { printed.json().boxed() } else { printed.with_ansi(false).boxed() };
        let own = || filter_fn(|metadata| metadata.target().starts_with(OWN_TARGET));
        let spans = sending.as_ref().map(|sending| {
            let layer = tracing_opentelemetry::layer().with_tracer(sending.traces.tracer(config.service));
            layer.with_filter(own().and(LevelFilter::INFO))
        });
        let sent = match &sending {
            Some(sending) => {
                let layer = OpenTelemetryTracingBridge::new(&sending.logs);
                Some(layer.with_filter(own().and(filter(&config.filter)?)))
            }
            None => None,
        };
        global::set_text_map_propagator(TraceContextPropagator::new());
        tracing_subscriber::registry()
            .with(printed.with_filter(filter(&config.filter)?))
            .with(spans)
            .with(sent)
            .try_init()
            .map_err(TelemetryError::Twice)?;
        if sending.is_some() {
            follow::start();
        }
        Ok(Self { sending })
    }

    /// Sends what is left.
    pub fn shutdown(self) {
        let Some(sending) = self.sending else { return };
        if let Err(error) = sending.traces.shutdown() {
            tracing::warn!(%error, "the last spans were not sent");
        }
        // Nothing can be said of the last records by a record.
        let _ = sending.logs.shutdown();
    }
}

fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    let text = if text.is_empty() { "info" } else { text };
    EnvFilter::try_new(text).map_err(|source| TelemetryError::Filter { filter: text.to_owned(), source })
}

impl Sending {
    fn start(config: &TelemetryConfig, endpoint: &str) -> Result<Self, TelemetryError> {
        let endpoint = endpoint.trim_end_matches('/');
        let failed = |source| TelemetryError::Exporter { endpoint: endpoint.to_owned(), source };
        let resource = Resource::builder().with_service_name(config.service).build();
        let client = Exporter::start();
        let spans = SpanExporter::builder()
            .with_http()
            .with_http_client(client.clone())
            .with_timeout(export::TIMEOUT)
            .with_endpoint(format!("{endpoint}/v1/traces"))
            .build()
            .map_err(failed)?;
        let records = LogExporter::builder()
            .with_http()
            .with_http_client(client.clone())
            .with_timeout(export::TIMEOUT)
            .with_endpoint(format!("{endpoint}/v1/logs"))
            .build()
            .map_err(failed)?;
        let ends = CancellationToken::new();
        otlp_metrics::start(
            client,
            format!("{endpoint}/v1/metrics"),
            config.service,
            config.metrics_period.unwrap_or(METRICS_PERIOD),
            ends.clone(),
        );
        Ok(Self {
            traces: SdkTracerProvider::builder().with_batch_exporter(spans).with_resource(resource.clone()).build(),
            logs: SdkLoggerProvider::builder().with_batch_exporter(records).with_resource(resource).build(),
            _metrics: ends.drop_guard(),
        })
    }
}

/// Makes the span that a peer named in `traceparent` the parent of `span`; tells whether a peer named one.
pub fn continue_trace(span: &tracing::Span, headers: &http::HeaderMap) -> bool {
    if !traces_are_on() || !headers.contains_key(TRACE_PARENT) {
        return false;
    }
    let parent = global::get_text_map_propagator(|propagator| propagator.extract(&HeaderExtractor(headers)));
    span.set_parent(parent).is_ok()
}

/// Names the current span in `traceparent`, for the peer to continue.
pub fn propagate_trace(headers: &mut http::HeaderMap) {
    if !traces_are_on() {
        return;
    }
    let context = tracing::Span::current().context();
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut HeaderInjector(headers)));
}
