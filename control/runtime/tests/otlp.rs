//! A real collector's side of OTLP: an HTTP server that decodes what a process sends.

#![allow(clippy::unwrap_used, reason = "a test says by failing what is wrong")]

use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::any_value::Value,
    metrics::v1::{metric::Data, number_data_point},
};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prost::Message;
use std::{convert::Infallible, sync::Arc, time::Duration};
use timonel_runtime::{
    OnError, Registry, Tasks, Telemetry, TelemetryConfig, continue_trace, export_metrics, follow_trace,
    propagate_trace, remember_trace,
};
use tokio::{net::TcpListener, sync::Notify};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PATIENCE: Duration = Duration::from_secs(30);

/// What the collector has been sent.
#[derive(Default)]
struct Collector {
    traces: Mutex<Vec<ExportTraceServiceRequest>>,
    logs: Mutex<Vec<ExportLogsServiceRequest>>,
    metrics: Mutex<Vec<ExportMetricsServiceRequest>>,
    news: Notify,
}

impl Collector {
    async fn take(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<bytes::Bytes>>, Infallible> {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        match path.as_str() {
            "/v1/traces" => self.traces.lock().push(ExportTraceServiceRequest::decode(body).unwrap()),
            "/v1/logs" => self.logs.lock().push(ExportLogsServiceRequest::decode(body).unwrap()),
            "/v1/metrics" => self.metrics.lock().push(ExportMetricsServiceRequest::decode(body).unwrap()),
            other => panic!("sent to {other}"),
        }
        self.news.notify_one();
        Ok(Response::new(Full::default()))
    }

    async fn until(&self, done: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !done(self) {
                self.news.notified().await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the collector was not sent everything");
    }

    /// Name, trace and parent of every span.
    fn spans(&self) -> Vec<(String, String, String)> {
        let traces = self.traces.lock();
        let scopes = traces.iter().flat_map(|request| &request.resource_spans).flat_map(|spans| &spans.scope_spans);
        let spans = scopes.flat_map(|scope| &scope.spans);
        spans.map(|span| (span.name.clone(), hex(&span.trace_id), hex(&span.parent_span_id))).collect()
    }

    /// Text and trace of every log record.
    fn records(&self) -> Vec<(String, String)> {
        let logs = self.logs.lock();
        let scopes = logs.iter().flat_map(|request| &request.resource_logs).flat_map(|logs| &logs.scope_logs);
        let text = |value: Option<Value>| match value {
            Some(Value::StringValue(text)) => text,
            other => format!("{other:?}"),
        };
        let records = scopes.flat_map(|scope| &scope.log_records);
        records.map(|one| (text(one.body.clone().and_then(|body| body.value)), hex(&one.trace_id))).collect()
    }

    /// The last figure of a counter.
    fn counter(&self, name: &str) -> Option<f64> {
        let requests = self.metrics.lock();
        let scopes = requests.iter().flat_map(|one| &one.resource_metrics).flat_map(|one| &one.scope_metrics);
        let metric = scopes.flat_map(|scope| &scope.metrics).rfind(|metric| metric.name == name)?;
        let Some(Data::Sum(sum)) = &metric.data else { return None };
        match sum.data_points[0].value {
            Some(number_data_point::Value::AsDouble(value)) => Some(value),
            _ => None,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn collector(tasks: &Tasks) -> (Arc<Collector>, String) {
    let collector = Arc::new(Collector::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/", listener.local_addr().unwrap());
    let (serving, scope) = (collector.clone(), tasks.clone());
    tasks.spawn("collector", OnError::Log, async move {
        loop {
            let (stream, _) = listener.accept().await?;
            let collector = serving.clone();
            scope.spawn("connection", OnError::Log, async move {
                let service = service_fn(move |request| collector.clone().take(request));
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
            });
        }
        #[allow(unreachable_code, reason = "names the error type of the loop")]
        Ok::<_, std::io::Error>(())
    });
    (collector, endpoint)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traces_logs_and_metrics_arrive_and_an_objects_trace_is_one() {
    let tasks = Tasks::root("test");
    let (collector, endpoint) = collector(&tasks).await;
    let telemetry = Telemetry::start(&TelemetryConfig {
        service: "test",
        otlp_endpoint: Some(endpoint),
        metrics_period: Some(Duration::from_millis(20)),
        ..TelemetryConfig::default()
    })
    .unwrap();
    let (registry, things) = (Registry::default(), Counter::<u64>::default());
    registry.register("things", "Things that happened", things.clone());
    export_metrics(&registry.source(), &[("cluster", "demo")]);
    things.inc_by(5);

    let mut headers = http::HeaderMap::new();
    headers.insert("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01").parse().unwrap());
    let request = tracing::info_span!(target: "timonel::test", "request");
    assert!(continue_trace(&request, &headers));
    request.in_scope(|| tracing::warn!(target: "timonel::test", "something to say"));
    request.in_scope(|| tracing::warn!(target: "hyper::test", "the exporter's own words"));
    let mut onward = http::HeaderMap::new();
    request.in_scope(|| propagate_trace(&mut onward));
    assert!(onward["traceparent"].to_str().unwrap().contains(TRACE));
    remember_trace(&request, "uid-1");
    drop(request);
    let later = tracing::info_span!(target: "timonel::test", "later");
    assert!(follow_trace(&later, "uid-1"));
    later.in_scope(|| ());
    drop(later);
    let unrelated = tracing::info_span!(target: "timonel::test", "unrelated");
    assert!(!follow_trace(&unrelated, "uid-2") && !continue_trace(&unrelated, &http::HeaderMap::new()));
    unrelated.in_scope(|| ());
    drop(unrelated);

    collector.until(|collector| collector.counter("things_total").is_some()).await;
    tokio::task::spawn_blocking(|| telemetry.shutdown()).await.unwrap();
    collector.until(|collector| collector.spans().len() >= 3 && !collector.records().is_empty()).await;
    assert_eq!(collector.counter("things_total"), Some(5.0));
    assert_eq!(collector.records(), [("something to say".to_owned(), TRACE.to_owned())]);
    let spans = collector.spans();
    let of = |name: &str| spans.iter().find(|(found, ..)| found == name).cloned().unwrap();
    assert_eq!((of("request").1.as_str(), of("request").2.as_str()), (TRACE, "b7ad6b7169203331"));
    assert_eq!(of("later").1, TRACE);
    assert_ne!(of("unrelated").1, TRACE);
    assert!(tasks.shutdown(PATIENCE).await);
}
