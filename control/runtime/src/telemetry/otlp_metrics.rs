//! Metrics as OTLP: what the sources tell as text, read and sent once a period. What a collector does not take is lost:
//! the next period tells the same sums again.

use super::{
    export::{Exporter, TIMEOUT},
    registry::sources,
    text::{Family, Kind, Sample, parse_metrics},
};
use bytes::Bytes;
use opentelemetry_http::HttpClient;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric, number_data_point,
    },
    resource::v1::Resource,
};
use prost::Message;
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio_util::sync::CancellationToken;

/// When figures began and when they were read, nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u64,
    now: u64,
}

/// Sends once a period until `ends`.
pub(super) fn start(
    client: Exporter,
    endpoint: String,
    service: &'static str,
    period: Duration,
    ends: CancellationToken,
) {
    let start = now();
    #[allow(clippy::disallowed_methods, reason = "ends with the token, which the telemetry's handle owns")]
    tokio::spawn(ends.run_until_cancelled_owned(async move {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            for (source, attributes) in sources() {
                match parse_metrics(&source.text()) {
                    Ok(families) => {
                        let request = request(&families, service, &attributes, Span { start, now: now() });
                        send(&client, &endpoint, &request).await;
                    }
                    Err(error) => tracing::debug!(%error, "metrics that cannot be read are not exported"),
                }
            }
        }
    }));
}

fn now() -> u64 {
    #[allow(clippy::disallowed_methods, reason = "stamps what is exported; nothing is decided by it")]
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

async fn send(client: &Exporter, endpoint: &str, request: &ExportMetricsServiceRequest) {
    let body = Bytes::from(request.encode_to_vec());
    let request = http::Request::post(endpoint).header(http::header::CONTENT_TYPE, "application/x-protobuf").body(body);
    let Ok(request) = request else { return };
    match tokio::time::timeout(TIMEOUT * 2, client.send_bytes(request)).await {
        Ok(Ok(answer)) if answer.status().is_success() => {}
        Ok(Ok(answer)) => tracing::debug!(status = %answer.status(), "the collector refused metrics"),
        Ok(Err(error)) => tracing::debug!(%error, "metrics were not sent"),
        Err(_) => tracing::debug!("the collector is too slow for metrics"),
    }
}

fn request(
    families: &[Family],
    service: &str,
    attributes: &[(String, String)],
    span: Span,
) -> ExportMetricsServiceRequest {
    let scope = InstrumentationScope { name: "timonel".to_owned(), ..InstrumentationScope::default() };
    let metrics = families.iter().filter_map(|family| metric_of(family, attributes, span)).collect();
    let resource = Resource { attributes: vec![key_value("service.name", service)], ..Resource::default() };
    let scoped = ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() };
    let resource =
        ResourceMetrics { resource: Some(resource), scope_metrics: vec![scoped], ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![resource] }
}

fn key_value(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

fn metric_of(family: &Family, attributes: &[(String, String)], span: Span) -> Option<Metric> {
    let cumulative = AggregationTemporality::Cumulative as i32;
    let numbers = || family.samples.iter().map(|sample| number(sample, attributes, span)).collect();
    let data = match family.kind {
        Kind::Counter => {
            metric::Data::Sum(Sum { data_points: numbers(), aggregation_temporality: cumulative, is_monotonic: true })
        }
        Kind::Gauge | Kind::Untyped => metric::Data::Gauge(Gauge { data_points: numbers() }),
        Kind::Histogram => metric::Data::Histogram(Histogram {
            data_points: histograms(family, attributes, span),
            aggregation_temporality: cumulative,
        }),
        // Nothing of ours is one.
        Kind::Summary => return None,
    };
    let (name, description) = (family.name.clone(), family.help.clone());
    Some(Metric { name, description, data: Some(data), ..Metric::default() })
}

fn labels(labels: &[(String, String)], attributes: &[(String, String)]) -> Vec<KeyValue> {
    let own = labels.iter().filter(|(key, _)| key != "le");
    attributes.iter().chain(own).map(|(key, value)| key_value(key, value)).collect()
}

fn number(sample: &Sample, attributes: &[(String, String)], span: Span) -> NumberDataPoint {
    NumberDataPoint {
        attributes: labels(&sample.labels, attributes),
        start_time_unix_nano: span.start,
        time_unix_nano: span.now,
        value: Some(number_data_point::Value::AsDouble(sample.value)),
        ..NumberDataPoint::default()
    }
}

/// One point for each set of labels; text counts in buckets from the first, OTLP in each alone.
fn histograms(family: &Family, attributes: &[(String, String)], span: Span) -> Vec<HistogramDataPoint> {
    let mut points: BTreeMap<Vec<(String, String)>, HistogramDataPoint> = BTreeMap::new();
    for sample in &family.samples {
        let own: Vec<_> = sample.labels.iter().filter(|(key, _)| key != "le").cloned().collect();
        let point = points.entry(own).or_insert_with(|| HistogramDataPoint {
            attributes: labels(&sample.labels, attributes),
            start_time_unix_nano: span.start,
            time_unix_nano: span.now,
            ..HistogramDataPoint::default()
        });
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are whole and positive")]
        let count = sample.value as u64;
        if sample.name.ends_with("_sum") {
            point.sum = Some(sample.value);
        } else if sample.name.ends_with("_count") {
            point.count = count;
        } else {
            let below: u64 = point.bucket_counts.iter().sum();
            point.bucket_counts.push(count.saturating_sub(below));
            let bound = sample.labels.iter().find(|(key, _)| key == "le").and_then(|(_, bound)| bound.parse().ok());
            point.explicit_bounds.extend(bound.filter(|bound: &f64| bound.is_finite()));
        }
    }
    points.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_their_meaning() {
        let text = "# TYPE a_total counter\na_total{x=\"1\"} 3\n# TYPE g gauge\ng 2\n# TYPE h histogram\n\
                    h_bucket{v=\"GET\",le=\"1\"} 1\nh_bucket{v=\"GET\",le=\"+Inf\"} 4\nh_sum{v=\"GET\"} 9\nh_count{v=\"GET\"} 4\n";
        let families = parse_metrics(text).unwrap();
        let attributes = [("cluster".to_owned(), "demo".to_owned())];
        let request = request(&families, "test", &attributes, Span { start: 1, now: 2 });
        let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
        let Some(metric::Data::Sum(sum)) = &metrics[0].data else { panic!("no sum") };
        assert!(sum.is_monotonic);
        assert_eq!(sum.data_points[0].attributes, [key_value("cluster", "demo"), key_value("x", "1")]);
        assert!(matches!(metrics[1].data, Some(metric::Data::Gauge(_))));
        let Some(metric::Data::Histogram(histogram)) = &metrics[2].data else { panic!("no histogram") };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum), (4, Some(9.0)));
        assert_eq!((&point.bucket_counts[..], &point.explicit_bounds[..]), (&[1, 3][..], &[1.0][..]));
    }
}
