//! Defaults of the kinds, case by case.

use super::*;
use crate::{Gvk, Limits, decode_json, encode_json};

fn defaulted(api_version: &str, kind: &str, body: &str) -> Value {
    let scheme = Scheme::kubernetes();
    let gvk = Gvk::of(api_version, kind);
    let ty = scheme.type_of(&gvk).expect("served");
    let mut value = decode_json(scheme.schema(), ty, body.as_bytes(), &Limits::default()).expect(body).value;
    default_type(&scheme, ty, &mut value);
    let mut again = value.clone();
    default_type(&scheme, ty, &mut again);
    assert_eq!(again, value, "defaulting again changes nothing");
    value
}

fn check(api_version: &str, kind: &str, body: &str, path: &[&str], expected: &str) {
    let value = defaulted(api_version, kind, body);
    let found =
        value.at(path).map_or_else(|| "absent".into(), |value| String::from_utf8(encode_json(value)).expect("text"));
    assert_eq!(found, expected, "{kind} {body} {path:?}");
}

#[test]
fn a_pod_gets_what_upstream_gives_it() {
    let body = r#"{"spec":{"volumes":[{"name":"v"},{"name":"s","secret":{"secretName":"x"}}],"containers":[{"name":"c","image":"nginx","ports":[{"containerPort":80}],"livenessProbe":{"httpGet":{"port":80}},"resources":{"limits":{"cpu":"1"}}}]}}"#;
    let expected = r#"{"containers":[{"image":"nginx","imagePullPolicy":"Always","livenessProbe":{"failureThreshold":3,"httpGet":{"path":"/","port":80,"scheme":"HTTP"},"periodSeconds":10,"successThreshold":1,"timeoutSeconds":1},"name":"c","ports":[{"containerPort":80,"protocol":"TCP"}],"resources":{"limits":{"cpu":"1"},"requests":{"cpu":"1"}},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}],"dnsPolicy":"ClusterFirst","enableServiceLinks":true,"restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30,"volumes":[{"emptyDir":{},"name":"v"},{"name":"s","secret":{"defaultMode":420,"secretName":"x"}}]}"#;
    check("v1", "Pod", body, &["spec"], expected);
    check(
        "v1",
        "Pod",
        r#"{"spec":{"terminationGracePeriodSeconds":0}}"#,
        &["spec", "terminationGracePeriodSeconds"],
        "0",
    );
}

#[test]
fn the_pull_policy_follows_the_tag() {
    let cases = [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1", "IfNotPresent"),
        ("localhost:5000/nginx", "Always"),
        ("localhost:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:00", "IfNotPresent"),
        ("nginx:latest@sha256:00", "Always"),
        ("", "IfNotPresent"),
    ];
    for (image, expected) in cases {
        let mut container = Object::new();
        container.insert("image", image);
        core::container(&mut container);
        assert_eq!(core::text(&container, "imagePullPolicy"), expected, "{image}");
    }
}

#[test]
fn host_network_takes_ports_of_the_host() {
    let body = r#"{"spec":{"hostNetwork":true,"containers":[{"name":"c","ports":[{"containerPort":80}]}]}}"#;
    let port =
        defaulted("v1", "Pod", body).list_at(&["spec", "containers"])[0].list_at(&["ports"])[0].int_at(&["hostPort"]);
    assert_eq!(port, Some(80));
}

#[test]
fn requests_of_a_pod_follow_its_containers() {
    let body = r#"{"spec":{"resources":{"limits":{"cpu":"4","memory":"1Gi"}},"containers":[{"name":"a","resources":{"requests":{"cpu":"500m"}}},{"name":"b","resources":{"requests":{"cpu":"1"}}}],"initContainers":[{"name":"i","resources":{"requests":{"cpu":"2"}}}]}}"#;
    check("v1", "Pod", body, &["spec", "resources", "requests"], r#"{"cpu":"2","memory":"1Gi"}"#);
}

#[test]
fn fine_amounts_are_rounded_up() {
    let body = r#"{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"1500u","x":"100n"}}}]}}"#;
    let value = defaulted("v1", "Pod", body);
    let requests = value.list_at(&["spec", "containers"])[0].at(&["resources", "requests"]).expect("there").clone();
    assert_eq!(requests.str_at(&["cpu"]), "2m");
    assert_eq!(requests.str_at(&["x"]), "1m");
}

#[test]
fn services_by_type() {
    let spec = |body: &str| defaulted("v1", "Service", body).get("spec").expect("there").clone();
    let cluster = spec(r#"{"spec":{"ports":[{"port":80},{"port":81,"targetPort":"x","protocol":"UDP"}]}}"#);
    assert_eq!(
        String::from_utf8(encode_json(&cluster)).expect("text"),
        r#"{"internalTrafficPolicy":"Cluster","ports":[{"port":80,"protocol":"TCP","targetPort":80},{"port":81,"protocol":"UDP","targetPort":"x"}],"sessionAffinity":"None","type":"ClusterIP"}"#
    );
    let balanced = spec(r#"{"spec":{"type":"LoadBalancer","sessionAffinity":"ClientIP"}}"#);
    assert_eq!(balanced.bool_at(&["allocateLoadBalancerNodePorts"]), Some(true));
    assert_eq!(balanced.str_at(&["externalTrafficPolicy"]), "Cluster");
    assert_eq!(balanced.int_at(&["sessionAffinityConfig", "clientIP", "timeoutSeconds"]), Some(10_800));
    let name = spec(r#"{"spec":{"type":"ExternalName"}}"#);
    assert!(name.get("internalTrafficPolicy").is_none() && name.get("externalTrafficPolicy").is_none());
}

#[test]
fn workloads() {
    let cases: [(&str, &str, &str, &[&str], &str); 14] = [
        (
            "apps/v1",
            "Deployment",
            "{}",
            &["spec", "strategy"],
            r#"{"rollingUpdate":{"maxSurge":"25%","maxUnavailable":"25%"},"type":"RollingUpdate"}"#,
        ),
        (
            "apps/v1",
            "Deployment",
            r#"{"spec":{"strategy":{"type":"Recreate"}}}"#,
            &["spec", "strategy"],
            r#"{"type":"Recreate"}"#,
        ),
        ("apps/v1", "Deployment", r#"{"spec":{"replicas":0}}"#, &["spec", "replicas"], "0"),
        ("apps/v1", "Deployment", "{}", &["spec", "progressDeadlineSeconds"], "600"),
        (
            "apps/v1",
            "Deployment",
            r#"{"spec":{"template":{"spec":{}}}}"#,
            &["spec", "template", "spec", "enableServiceLinks"],
            "absent",
        ),
        (
            "apps/v1",
            "DaemonSet",
            "{}",
            &["spec", "updateStrategy", "rollingUpdate"],
            r#"{"maxSurge":0,"maxUnavailable":1}"#,
        ),
        (
            "apps/v1",
            "StatefulSet",
            "{}",
            &["spec", "persistentVolumeClaimRetentionPolicy"],
            r#"{"whenDeleted":"Retain","whenScaled":"Retain"}"#,
        ),
        ("apps/v1", "StatefulSet", "{}", &["spec", "updateStrategy", "rollingUpdate", "partition"], "0"),
        (
            "apps/v1",
            "StatefulSet",
            r#"{"spec":{"updateStrategy":{"type":"OnDelete"}}}"#,
            &["spec", "updateStrategy"],
            r#"{"type":"OnDelete"}"#,
        ),
        ("batch/v1", "Job", "{}", &["spec", "completions"], "1"),
        ("batch/v1", "Job", r#"{"spec":{"parallelism":2}}"#, &["spec", "completions"], "absent"),
        ("batch/v1", "Job", r#"{"spec":{"backoffLimitPerIndex":1}}"#, &["spec", "backoffLimit"], "2147483647"),
        (
            "batch/v1",
            "CronJob",
            r#"{"spec":{"jobTemplate":{"spec":{}}}}"#,
            &["spec", "jobTemplate", "spec", "backoffLimit"],
            "absent",
        ),
        ("batch/v1", "CronJob", "{}", &["spec", "concurrencyPolicy"], r#""Allow""#),
    ];
    for (api_version, kind, body, path, expected) in cases {
        check(api_version, kind, body, path, expected);
    }
}

#[test]
fn the_other_groups() {
    let cases: [(&str, &str, &str, &[&str], &str); 14] = [
        (
            "v1",
            "Namespace",
            r#"{"metadata":{"name":"n"}}"#,
            &["metadata", "labels"],
            r#"{"kubernetes.io/metadata.name":"n"}"#,
        ),
        ("v1", "Namespace", "{}", &["status", "phase"], r#""Active""#),
        ("v1", "Secret", "{}", &["type"], r#""Opaque""#),
        ("v1", "PersistentVolumeClaim", "{}", &["spec", "volumeMode"], r#""Filesystem""#),
        ("v1", "PersistentVolume", "{}", &["spec", "persistentVolumeReclaimPolicy"], r#""Retain""#),
        (
            "v1",
            "LimitRange",
            r#"{"spec":{"limits":[{"type":"Container","max":{"cpu":"2"}}]}}"#,
            &["spec", "limits"],
            r#"[{"default":{"cpu":"2"},"defaultRequest":{"cpu":"2"},"max":{"cpu":"2"},"type":"Container"}]"#,
        ),
        (
            "networking.k8s.io/v1",
            "NetworkPolicy",
            r#"{"spec":{"egress":[{}]}}"#,
            &["spec", "policyTypes"],
            r#"["Ingress","Egress"]"#,
        ),
        (
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            r#"{"subjects":[{"kind":"User","name":"u"},{"kind":"ServiceAccount","name":"s"}]}"#,
            &["subjects"],
            r#"[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"u"},{"kind":"ServiceAccount","name":"s"}]"#,
        ),
        ("storage.k8s.io/v1", "StorageClass", "{}", &["volumeBindingMode"], r#""Immediate""#),
        (
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            "{}",
            &["spec", "metrics"],
            r#"[{"resource":{"name":"cpu","target":{"averageUtilization":80,"type":"Utilization"}},"type":"Resource"}]"#,
        ),
        (
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            r#"{"spec":{"names":{"kind":"Foo"},"versions":[{"name":"v1","storage":true}]}}"#,
            &["status", "storedVersions"],
            r#"["v1"]"#,
        ),
        (
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            r#"{"spec":{"names":{"kind":"Foo"}}}"#,
            &["spec", "conversion"],
            r#"{"strategy":"None"}"#,
        ),
        (
            "discovery.k8s.io/v1",
            "EndpointSlice",
            r#"{"ports":[{"port":1}]}"#,
            &["ports"],
            r#"[{"name":"","port":1,"protocol":"TCP"}]"#,
        ),
        ("authentication.k8s.io/v1", "TokenRequest", "{}", &["spec", "expirationSeconds"], "3600"),
    ];
    for (api_version, kind, body, path, expected) in cases {
        check(api_version, kind, body, path, expected);
    }
}
