//! The fuzz targets, a second each: malformed input is refused, never a panic, never without bound.

#[path = "../fuzz/targets.rs"]
mod targets;

use timonel_api::{Limits, Scheme, decode_json, encode_proto, encode_proto_body};

const POD: &[u8] = br#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","namespace":"b","labels":{"app":"x"},"creationTimestamp":"2026-01-01T00:00:00Z"},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80,"protocol":"TCP"}],"env":[{"name":"E","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}],"resources":{"requests":{"cpu":"10m","memory":"16Mi"}},"livenessProbe":{"httpGet":{"path":"/","port":"http"}}}],"volumes":[{"name":"v","projected":{"sources":[{"serviceAccountToken":{"path":"t"}}]}}],"tolerations":[{"key":"k","operator":"Exists"}]},"status":{"phase":"Running","podIPs":[{"ip":"10.0.0.1"}]}}"#;

#[test]
fn json() {
    assert!(timonel_fuzz::run(&[POD, br#"{"a":[1,-0.5,1e9,"\u0041\n",null,true]}"#, b"[]"], targets::json) > 100);
}

#[test]
fn proto() {
    let scheme = Scheme::kubernetes();
    let pods = scheme.resource("", "v1", "pods").unwrap();
    let pod = decode_json(scheme.schema(), pods.body, POD, &Limits::default()).unwrap().value;
    let mut body = Vec::new();
    encode_proto_body(scheme.schema(), pods.body, &pod, &mut body);
    let enveloped = encode_proto(scheme.schema(), pods.body, &pod);
    assert!(timonel_fuzz::run(&[&body, &enveloped], targets::proto) > 100);
}

#[test]
fn yaml() {
    let deployment = b"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec:\n  replicas: 2\n  selector: &s\n    matchLabels: {app: x}\n  template:\n    metadata: *s\n    spec:\n      containers:\n      - name: c\n        image: \"i\"\n        args: [\"a\", 'b', |\n          c]\n";
    assert!(timonel_fuzz::run(&[deployment, POD, b"- a\n- b: c\n"], targets::yaml) > 100);
}

#[test]
fn patch() {
    let corpus: [&[u8]; 5] = [
        br#"0[{"op":"add","path":"/metadata/labels/x~1y","value":"z"},{"op":"move","from":"/spec/volumes/0","path":"/spec/volumes/-"},{"op":"test","path":"/spec","value":{}}]"#,
        br#"1{"metadata":{"labels":{"a":null,"b":"c"}},"spec":{"containers":[{"name":"d"}]}}"#,
        br#"2{"spec":{"containers":[{"name":"c","image":"j","$patch":"replace"},{"name":"x","$patch":"delete"}],"$setElementOrder/containers":[{"name":"c"}]}}"#,
        br#"2{"metadata":{"$deleteFromPrimitiveList/finalizers":["x"],"finalizers":["z"]},"spec":{"$retainKeys":["containers"]}}"#,
        br#"2{"$patch":"merge"}"#,
    ];
    // The first byte chooses the kind by its value: '0' is 48, which three divides.
    assert!(timonel_fuzz::run(&corpus, targets::patch) > 100);
}

#[test]
fn words() {
    let corpus: [&[u8]; 7] = [
        b"app=x,tier!=y,env in (a, b),zone notin (c),!gone,there",
        b"metadata.name=a,spec.nodeName!=b,status.phase=x\\,y",
        b"100m",
        b"1.5Gi",
        b"12e6",
        b"-0.000000001",
        b"9223372036854775807Ki",
    ];
    assert!(timonel_fuzz::run(&corpus, targets::words) > 100);
}
