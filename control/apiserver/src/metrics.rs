//! The API server's metrics, under upstream's names.

use crate::http::RequestInfo;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use std::time::Duration;
use timonel_api::GroupResource;
use timonel_runtime::Registry;

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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreLabels {
    operation: &'static str,
    group: String,
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ObjectLabels {
    group: String,
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClientLabels {
    code: u16,
    host: &'static str,
    method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabels {
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UnavailableLabels {
    name: String,
    reason: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// What is told of the store, whatever it is: clients know these names from etcd.
#[derive(Clone, Debug)]
pub(crate) struct StoreMetrics {
    durations: Histograms<StoreLabels>,
}

impl StoreMetrics {
    /// A write of an object of a resource took so long.
    pub(crate) fn wrote(&self, operation: &'static str, resource: &GroupResource, took: Duration) {
        let (group, resource) = (resource.group.to_string(), resource.resource.to_string());
        let labels = StoreLabels { operation, group, resource };
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
    }
}

/// Counters of one API server. Requests are counted by what they name only when that is served, so that a
/// client cannot make up series.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Histograms<DurationLabels>,
    inflight: Family<InflightLabels, Gauge>,
    long_running: Family<DurationLabels, Gauge>,
    objects: Family<ObjectLabels, Gauge>,
    clients: Family<ClientLabels, Counter>,
    store: StoreMetrics,
    unavailable: Family<ServiceLabels, Gauge>,
    became_unavailable: Family<UnavailableLabels, Counter>,
}

/// Upper bounds of the latency buckets, in seconds (upstream's, thinned out).
const BUCKETS: [f64; 12] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0, 2.0, 5.0, 15.0, 60.0];

/// Where clients in this process reach the API, as the metric of clients names it.
const IN_PROCESS: &str = "in-process";

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

impl Default for Metrics {
    fn default() -> Self {
        let new = Self {
            registry: Registry::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(histogram),
            inflight: Family::default(),
            long_running: Family::default(),
            objects: Family::default(),
            clients: Family::default(),
            store: StoreMetrics { durations: Family::new_with_constructor(histogram) },
            unavailable: Family::default(),
            became_unavailable: Family::default(),
        };
        let Self { registry, requests, durations, inflight, long_running, objects, clients, store, .. } = &new;
        registry.register("apiserver_request", "Requests by what they ask for and the answer's code", requests.clone());
        registry.register(
            "apiserver_request_duration_seconds",
            "Seconds from a request's head to its answer's head",
            durations.clone(),
        );
        registry.register("apiserver_current_inflight_requests", "Requests being worked on", inflight.clone());
        registry.register("apiserver_longrunning_requests", "Watches and streams that are open", long_running.clone());
        registry.register("apiserver_resource_objects", "Stored objects by resource", objects.clone());
        registry.register("rest_client_requests", "Requests of the control plane's own clients", clients.clone());
        registry.register(
            "etcd_request_duration_seconds",
            "Seconds that a write to the store took, whatever the store is",
            store.durations.clone(),
        );
        registry.register(
            "aggregator_unavailable_apiservice",
            "Whether the server of an APIService cannot be asked",
            new.unavailable.clone(),
        );
        registry.register(
            "aggregator_unavailable_apiservice",
            "How often the server of an APIService was found not to answer",
            new.became_unavailable.clone(),
        );
        new
    }
}

impl Metrics {
    /// The text that Prometheus reads.
    pub(crate) fn text(&self) -> String {
        self.registry.text()
    }

    /// Where the other parts of this control plane register theirs.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What the store's writers tell.
    pub(crate) fn store(&self) -> StoreMetrics {
        self.store.clone()
    }

    /// Says how many objects a resource has.
    pub(crate) fn objects(&self, resource: &GroupResource, count: usize) {
        let (group, resource) = (resource.group.to_string(), resource.resource.to_string());
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.objects.get_or_create(&ObjectLabels { group, resource }).set(count);
    }

    /// The server of an `APIService` was found to be there or not.
    pub(crate) fn api_service(&self, name: &str, available: bool, reason: &'static str) {
        let labels = ServiceLabels { name: name.to_owned() };
        self.unavailable.get_or_create(&labels).set(i64::from(!available));
        if !available {
            let labels = UnavailableLabels { name: name.to_owned(), reason };
            self.became_unavailable.get_or_create(&labels).inc();
        }
    }

    /// A client in this process was answered.
    pub(crate) fn client(&self, method: &::http::Method, code: u16) {
        let labels = ClientLabels { code, host: IN_PROCESS, method: method.as_str().to_owned() };
        self.clients.get_or_create(&labels).inc();
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
        let _guard = metrics.inflight(true);
        let pods = GroupResource { group: "".into(), resource: "pods".into() };
        metrics.objects(&pods, 3);
        metrics.client(&::http::Method::GET, 200);
        metrics.store().wrote("create", &pods, Duration::from_millis(2));
        let text = metrics.text();
        for expected in [
            "apiserver_request_total{verb=\"LIST\",group=\"\",version=\"v1\",resource=\"pods\",subresource=\"\",\
             scope=\"namespace\",component=\"apiserver\",code=\"200\"} 1",
            "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 1",
            "apiserver_request_duration_seconds_count{verb=\"LIST\"",
            "apiserver_resource_objects{group=\"\",resource=\"pods\"} 3",
            "rest_client_requests_total{code=\"200\",host=\"in-process\",method=\"GET\"} 1",
            "etcd_request_duration_seconds_count{operation=\"create\",group=\"\",resource=\"pods\"} 1",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        let families = timonel_runtime::parse_metrics(&text).unwrap();
        assert!(families.iter().all(|family| !family.help.is_empty() && family.kind != timonel_runtime::Kind::Untyped));
    }
}
