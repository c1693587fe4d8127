//! The API server's metrics, under upstream's names.

use crate::http::RequestInfo;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InflightLabels {
    request_kind: &'static str,
}

/// Counters of one API server. Requests are counted by what they name only when that is served, so that a
/// client cannot make up series.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram>,
    inflight: Family<InflightLabels, Gauge>,
    long_running: Family<DurationLabels, Gauge>,
}

/// Upper bounds of the latency buckets, in seconds (upstream's, thinned out).
const BUCKETS: [f64; 12] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0, 2.0, 5.0, 15.0, 60.0];

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        let (inflight, long_running) = (Family::default(), Family::default());
        registry.register("apiserver_request", "Requests by what they ask for and the answer's code", requests.clone());
        registry.register(
            "apiserver_request_duration_seconds",
            "Seconds from a request's head to its answer's head",
            durations.clone(),
        );
        registry.register("apiserver_current_inflight_requests", "Requests being worked on", inflight.clone());
        registry.register("apiserver_longrunning_requests", "Watches and streams that are open", long_running.clone());
        Self { registry, requests, durations, inflight, long_running }
    }
}

impl Metrics {
    /// The text that Prometheus reads.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to memory does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    pub(crate) fn answered(&self, info: &RequestInfo<'_>, known: bool, code: u16, took: Duration) {
        let labels = duration_labels(info, known);
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        let DurationLabels { verb, group, version, resource, subresource, scope, component } = labels;
        let labels = RequestLabels { verb, group, version, resource, subresource, scope, component, code };
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts a request as being worked on until the guard goes.
    pub(crate) fn inflight(&self, read_only: bool) -> Inflight {
        let request_kind = if read_only { "readOnly" } else { "mutating" };
        Inflight::count(self.inflight.get_or_create(&InflightLabels { request_kind }).clone())
    }

    /// Counts a watch or stream as open until the guard goes.
    pub(crate) fn long_running(&self, info: &RequestInfo<'_>) -> LongRunning {
        Inflight::count(self.long_running.get_or_create(&duration_labels(info, true)).clone())
    }
}

/// A gauge that is one higher for as long as this lives.
#[derive(Debug)]
pub(crate) struct Inflight(Gauge);

/// The same for what has no bound in time.
pub(crate) type LongRunning = Inflight;

impl Inflight {
    fn count(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }

    pub(crate) fn now(&self) -> i64 {
        self.0.get()
    }
}

impl Drop for Inflight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn duration_labels(info: &RequestInfo<'_>, known: bool) -> DurationLabels {
    let text = |text: &str| if known { text.to_owned() } else { String::new() };
    let scope = match (info.is_resource, info.is_named, info.namespace.is_empty()) {
        (false, ..) => "",
        (_, true, _) => "resource",
        (_, _, false) => "namespace",
        _ => "cluster",
    };
    DurationLabels {
        verb: if known { info.verb.to_ascii_uppercase() } else { "other".to_owned() },
        group: text(&info.group),
        version: text(&info.version),
        resource: text(&info.resource),
        subresource: text(&info.subresource),
        scope,
        component: "apiserver",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Query;

    #[test]
    fn requests_are_counted_under_upstreams_names() {
        let metrics = Metrics::default();
        let info = RequestInfo::parse(&::http::Method::GET, "/api/v1/namespaces/x/pods", &Query::default());
        metrics.answered(&info, true, 200, Duration::from_millis(3));
        let guard = metrics.inflight(true);
        let text = metrics.text();
        assert_eq!(guard.now(), 1);
        for expected in [
            "apiserver_request_total{verb=\"LIST\",group=\"\",version=\"v1\",resource=\"pods\",subresource=\"\",\
             scope=\"namespace\",component=\"apiserver\",code=\"200\"} 1",
            "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 1",
            "apiserver_request_duration_seconds_count{verb=\"LIST\"",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }
}
