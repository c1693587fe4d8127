//! Conversion between versions of one kind, there and back.

use super::*;
use crate::{Limits, Scheme, decode_json, encode_json};

fn converted(from: (&str, &str), to: (&str, &str), plural: &str, body: &str) -> Value {
    let scheme = Scheme::with_every_version();
    let from = scheme.resource(from.0, from.1, plural).expect("served");
    let to = scheme.resource(to.0, to.1, plural).expect("served");
    let mut value = decode_json(scheme.schema(), from.body, body.as_bytes(), &Limits::default()).expect(body).value;
    let original = value.clone();
    convert(&mut value, from, to).expect("the same objects");
    let known =
        decode_json(scheme.schema(), to.body, &encode_json(&value), &Limits::default()).expect("of the other version");
    assert!(known.findings.is_empty(), "{:?}", known.findings);
    let mut back = known.value.clone();
    convert(&mut back, to, from).expect("the same objects");
    let back = decode_json(scheme.schema(), from.body, &encode_json(&back), &Limits::default())
        .expect("its own version")
        .value;
    assert_eq!(back, original, "there and back");
    known.value
}

#[test]
fn events_change_names_only() {
    let body = r#"{"apiVersion":"v1","kind":"Event","count":2,"eventTime":"2026-01-02T03:04:05.000006Z","firstTimestamp":"2026-01-02T03:04:05Z","involvedObject":{"kind":"Pod","name":"p"},"message":"m","metadata":{"name":"e","namespace":"n"},"reason":"r","reportingComponent":"c","reportingInstance":"i","source":{"component":"kubelet"},"type":"Normal"}"#;
    let value = converted(("", "v1"), ("events.k8s.io", "v1"), "events", body);
    assert_eq!(value.str_at(&["apiVersion"]), "events.k8s.io/v1");
    assert_eq!(value.str_at(&["note"]), "m");
    assert_eq!(value.str_at(&["regarding", "name"]), "p");
    assert_eq!(value.int_at(&["deprecatedCount"]), Some(2));
    assert_eq!(value.str_at(&["reportingController"]), "c");
    let bare = r#"{"apiVersion":"v1","kind":"Event","involvedObject":{},"metadata":{"name":"e"},"reportingComponent":"","reportingInstance":"","source":{}}"#;
    converted(("", "v1"), ("events.k8s.io", "v1"), "events", bare);
}

#[test]
fn autoscalers_carry_the_rest_in_annotations() {
    let body = r#"{"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","metadata":{"annotations":{"a":"b"},"name":"h"},"spec":{"behavior":{"scaleDown":{"policies":[{"periodSeconds":15,"type":"Percent","value":100}],"selectPolicy":"Max","stabilizationWindowSeconds":60}},"maxReplicas":5,"metrics":[{"pods":{"metric":{"name":"rps"},"target":{"averageValue":"10","type":"AverageValue"}},"type":"Pods"},{"object":{"describedObject":{"kind":"Service","name":"s"},"metric":{"name":"hits","selector":{"matchLabels":{"x":"y"}}},"target":{"type":"Value","value":"3"}},"type":"Object"},{"external":{"metric":{"name":"q"},"target":{"type":"Value","value":"7"}},"type":"External"},{"resource":{"name":"cpu","target":{"averageUtilization":50,"type":"Utilization"}},"type":"Resource"}],"minReplicas":1,"scaleTargetRef":{"kind":"Deployment","name":"d"}},"status":{"conditions":[{"lastTransitionTime":"2026-01-02T03:04:05Z","message":"m","reason":"r","status":"True","type":"AbleToScale"}],"currentMetrics":[{"resource":{"current":{"averageUtilization":40,"averageValue":"400m"},"name":"cpu"},"type":"Resource"}],"currentReplicas":2,"desiredReplicas":2}}"#;
    let value = converted(("autoscaling", "v2"), ("autoscaling", "v1"), "horizontalpodautoscalers", body);
    assert_eq!(value.int_at(&["spec", "targetCPUUtilizationPercentage"]), Some(50));
    assert_eq!(value.int_at(&["status", "currentCPUUtilizationPercentage"]), Some(40));
    assert_eq!(
        value.str_at(&["metadata", "annotations", "autoscaling.alpha.kubernetes.io/metrics"]),
        r#"[{"type":"Pods","pods":{"metricName":"rps","targetAverageValue":"10"}},{"type":"Object","object":{"metricName":"hits","selector":{"matchLabels":{"x":"y"}},"target":{"kind":"Service","name":"s"},"targetValue":"3"}},{"type":"External","external":{"metricName":"q","targetValue":"7"}}]"#
    );
    assert!(
        value
            .str_at(&["metadata", "annotations", "autoscaling.alpha.kubernetes.io/behavior"])
            .contains("StabilizationWindowSeconds")
    );
}

#[test]
fn an_old_autoscaler_becomes_a_current_one() {
    let body = r#"{"apiVersion":"autoscaling/v1","kind":"HorizontalPodAutoscaler","metadata":{"name":"h"},"spec":{"maxReplicas":5,"scaleTargetRef":{"kind":"Deployment","name":"d"},"targetCPUUtilizationPercentage":70},"status":{"currentReplicas":0,"desiredReplicas":0}}"#;
    let value = converted(("autoscaling", "v1"), ("autoscaling", "v2"), "horizontalpodautoscalers", body);
    let metrics = value.list_at(&["spec", "metrics"]);
    assert_eq!(metrics.len(), 1);
    assert_eq!(metrics[0].int_at(&["resource", "target", "averageUtilization"]), Some(70));
}

#[test]
fn other_versions_differ_in_name_only() {
    let body = r#"{"apiVersion":"networking.k8s.io/v1beta1","kind":"ServiceCIDR","metadata":{"name":"c"},"spec":{"cidrs":["10.0.0.0/8"]},"status":{}}"#;
    let value = converted(("networking.k8s.io", "v1beta1"), ("networking.k8s.io", "v1"), "servicecidrs", body);
    assert_eq!(value.str_at(&["apiVersion"]), "networking.k8s.io/v1");
}

#[test]
fn different_objects_are_not_converted() {
    let scheme = Scheme::kubernetes();
    let pods = scheme.resource("", "v1", "pods").expect("served");
    let nodes = scheme.resource("", "v1", "nodes").expect("served");
    let error = convert(&mut Value::object(), pods, nodes).expect_err("not the same");
    assert_eq!(error.to_string(), "/v1, Kind=Pod cannot be converted to /v1, Kind=Node");
}
