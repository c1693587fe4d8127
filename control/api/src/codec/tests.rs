//! Codecs: what is read, what is refused, and that what is written is read again as the same.

use super::*;
use crate::{Gvk, Scheme, TypeId};

fn ty(api_version: &str, kind: &str) -> TypeId {
    Scheme::kubernetes().type_of(&Gvk::of(api_version, kind)).expect("a served kind")
}

fn json(kind: &str, text: &str) -> Result<Decoded, DecodeError> {
    decode_json(Scheme::kubernetes().schema(), ty("v1", kind), text.as_bytes(), &Limits::default())
}

fn text(value: &Value) -> String {
    String::from_utf8(encode_json(value)).expect("JSON is text")
}

/// What a body of a kind becomes, by way of JSON, of YAML (a superset) and of a tree.
fn check(kind: &str, input: &str, expected: &str) {
    let decoded = json(kind, input).expect(input);
    assert_eq!(text(&decoded.value), expected, "{input}");
    let scheme = Scheme::kubernetes();
    let again = decode_yaml(scheme.schema(), ty("v1", kind), input.as_bytes(), &Limits::default()).expect(input);
    assert_eq!(text(&again.value), expected, "as YAML: {input}");
    let settled = coerce(scheme.schema(), ty("v1", kind), decoded.value.clone(), &Limits::default()).expect(input);
    assert_eq!(settled.value, decoded.value, "decoding again changes nothing");
}

#[test]
fn members_are_sorted_and_zero_values_are_as_go_writes_them() {
    check(
        "ConfigMap",
        r#"{"metadata":{"name":"a","labels":{"z":"1","b":"2"},"uid":"","annotations":{}},"kind":"ConfigMap","data":null}"#,
        r#"{"kind":"ConfigMap","metadata":{"labels":{"b":"2","z":"1"},"name":"a"}}"#,
    );
    check("ServiceAccount", "{}", r#"{"metadata":{}}"#);
    check(
        "Pod",
        r#"{"spec":{"nodeName":"","terminationGracePeriodSeconds":0,"containers":[{"name":"c"}]}}"#,
        r#"{"metadata":{},"spec":{"containers":[{"name":"c","resources":{}}],"terminationGracePeriodSeconds":0},"status":{}}"#,
    );
}

#[test]
fn scalars_take_their_canonical_form() {
    check(
        "Pod",
        r#"{"spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":0.5,"memory":"1024Mi","a":2,"b":"1000m"}}}]}}"#,
        r#"{"metadata":{},"spec":{"containers":[{"name":"c","resources":{"limits":{"a":"2","b":"1","cpu":"500m","memory":"1Gi"}}}]},"status":{}}"#,
    );
    check(
        "Pod",
        r#"{"metadata":{"creationTimestamp":"2026-01-02T05:04:05.25+02:00","deletionTimestamp":null}}"#,
        r#"{"metadata":{"creationTimestamp":"2026-01-02T03:04:05Z"},"spec":{},"status":{}}"#,
    );
    check("Secret", r#"{"data":{"a":"aGk="}}"#, r#"{"data":{"a":"aGk="},"metadata":{}}"#);
    check(
        "Service",
        r#"{"spec":{"ports":[{"port":80,"targetPort":"http"},{"port":81,"targetPort":8}]}}"#,
        r#"{"metadata":{},"spec":{"ports":[{"port":80,"targetPort":"http"},{"port":81,"targetPort":8}]},"status":{"loadBalancer":{}}}"#,
    );
}

#[test]
fn strings_read_and_write_every_escape() {
    let input = r#"{"data":{"k":"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00\ud800x é"}}"#;
    let decoded = json("ConfigMap", input).expect("valid").value;
    assert_eq!(decoded.str_at(&["data", "k"]), "a\"\\/\u{8}\u{c}\n\r\té😀\u{fffd}x é");
    assert_eq!(decode_json_untyped(&encode_json(&decoded), &Limits::default()), Ok(decoded));
}

#[test]
fn what_does_not_belong_is_found_by_path() {
    let cases = [
        (r#"{"spec":{"foo":1}}"#, vec![r#"unknown field "spec.foo""#]),
        (
            r#"{"spec":{"containers":[{"name":"a","bad":{"x":[1]}}]}}"#,
            vec![r#"unknown field "spec.containers[0].bad""#],
        ),
        (r#"{"kind":"Pod","kind":"Pod"}"#, vec![r#"duplicate field "kind""#]),
        (r#"{"metadata":{"labels":{"a":"1","a":"2"}}}"#, vec![r#"duplicate field "metadata.labels.a""#]),
        (r#"{"Kind":"x","kind":"Pod"}"#, vec![r#"unknown field "Kind""#]),
    ];
    for (input, expected) in cases {
        let found: Vec<String> = json("Pod", input).expect(input).findings.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{input}");
    }
    let decoded = json("Pod", r#"{"spec":{"foo":1},"bar":2}"#).expect("reads");
    assert!(decoded.value.at(&["spec", "foo"]).is_none());
    let error = decoded.clone().checked(FieldValidation::Strict).expect_err("strict");
    assert_eq!(error.to_string(), r#"strict decoding error: unknown field "spec.foo", unknown field "bar""#);
    assert_eq!(decoded.clone().checked(FieldValidation::Warn).expect("warns").1.len(), 2);
    assert!(decoded.checked(FieldValidation::Ignore).expect("ignores").1.is_empty());
}

#[test]
fn of_duplicates_the_last_counts() {
    let decoded = json("Pod", r#"{"spec":{"nodeName":"a","hostname":"h","nodeName":"b"}}"#).expect("reads").value;
    assert_eq!(decoded.str_at(&["spec", "nodeName"]), "b");
    assert_eq!(decoded.str_at(&["spec", "hostname"]), "h");
}

#[test]
fn wrong_types_are_named_as_go_names_them() {
    let cases = [
        (
            r#"{"spec":{"containers":"x"}}"#,
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            r#"{"spec":{"priority":"x"}}"#,
            "json: cannot unmarshal string into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            r#"{"spec":{"priority":1.5}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            r#"{"spec":{"priority":3000000000}}"#,
            "json: cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            r#"{"metadata":{"labels":{"a":1}}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels.a of type string",
        ),
        (
            r#"{"metadata":{"name":{}}}"#,
            "json: cannot unmarshal object into Go struct field ObjectMeta.metadata.name of type string",
        ),
        ("[]", "json: cannot unmarshal array into Go value of type v1.Pod"),
        ("null", "json: cannot unmarshal null into Go value of type v1.Pod"),
    ];
    for (input, expected) in cases {
        assert_eq!(json("Pod", input).expect_err(input).to_string(), expected, "{input}");
    }
}

#[test]
fn broken_json_is_refused() {
    let cases = [
        "",
        "{",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1,}",
        "{,}",
        "{{}",
        "[1",
        "{\"metadata\":{}}x",
        "{\"metadata\":{\"name\":\"a}",
        "{\"metadata\":nul}",
        "{\"kind\":\"\\x\"}",
        "{\"kind\":\"\\u12\"}",
        "{\"kind\":\"a\nb\"}",
        "{'kind':1}",
        "{\"spec\":{\"priority\":01}}",
        "{\"spec\":{\"priority\":-}}",
        "{\"spec\":{\"priority\":1.}}",
        "{\"spec\":{\"containers\":[1,]}}",
    ];
    for input in cases {
        assert!(json("Pod", input).is_err(), "{input} was read");
    }
}

#[test]
fn size_and_depth_are_bounded() {
    let limits = Limits { bytes: 64, depth: 8 };
    let long = vec![b' '; 65];
    assert_eq!(decode_json_untyped(&long, &limits), Err(DecodeError::TooLarge { limit: 64 }));
    let deep = "[".repeat(9);
    assert_eq!(decode_json_untyped(deep.as_bytes(), &limits), Err(DecodeError::TooDeep { limit: 8 }));
    let deep = "[".repeat(1_000_000);
    assert_eq!(decode_json_untyped(deep.as_bytes(), &Limits::default()), Err(DecodeError::TooDeep { limit: 200 }));
}

#[test]
fn schemas_within_a_definition_take_all_their_forms() {
    let input = r#"{"spec":{"group":"g","names":{"kind":"K","plural":"p"},"scope":"Cluster","versions":[{"name":"v1","schema":{"openAPIV3Schema":{"additionalProperties":true,"default":{"b":null},"items":[{"type":"string"}],"properties":{"a":{"additionalProperties":{"type":"string"},"items":{"type":"x"},"x-kubernetes-int-or-string":true}},"type":"object"}},"served":true,"storage":true}]}}"#;
    let scheme = Scheme::kubernetes();
    let ty = ty("apiextensions.k8s.io/v1", "CustomResourceDefinition");
    let value = decode_json(scheme.schema(), ty, input.as_bytes(), &Limits::default()).expect("reads").value;
    let spec = |value: &Value| text(value.get("spec").expect("has one"));
    assert!(input.contains(&spec(&value)), "{}", spec(&value));
    let proto = encode_proto(scheme.schema(), ty, &value);
    assert_eq!(decode_proto(scheme.schema(), ty, &proto, &Limits::default()).expect("reads"), value);
}

#[test]
fn the_kind_of_a_body_can_be_read_alone() {
    let limits = Limits::default();
    let body = br#" {"metadata":{"a":[1,{}]},"kind":"Pod","apiVersion":"v1","broken":"#;
    assert_eq!(peek_kind(body, &limits), Ok(("v1".into(), "Pod".into())));
    assert_eq!(peek_kind(b"{}", &limits), Ok((String::new(), String::new())));
    assert!(peek_kind(b"[]", &limits).is_err());
    assert!(peek_kind(b"{{}", &limits).is_err());
}

#[test]
fn yaml_reads_as_json_does() {
    let scheme = Scheme::kubernetes();
    let yaml =
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  other: \"yes\"\n  text: |\n    one\n    two\n";
    let value =
        decode_yaml(scheme.schema(), ty("v1", "ConfigMap"), yaml.as_bytes(), &Limits::default()).expect("reads").value;
    assert_eq!(value.str_at(&["data", "text"]), "one\ntwo\n");
    assert_eq!(value.str_at(&["data", "other"]), "yes");
    assert!(decode_yaml(scheme.schema(), ty("v1", "Pod"), b"a: [", &Limits::default()).is_err());
    let bomb = format!(
        "a: &a [x,x,x,x,x,x,x,x,x]\n{}",
        (0..12)
            .map(|at| {
                let (next, last) = (char::from(b'b' + at), char::from(b'a' + at));
                format!("{next}: &{next} [{}]\n", vec![format!("*{last}"); 9].join(","))
            })
            .collect::<String>()
    );
    assert!(decode_yaml_untyped(bomb.as_bytes(), &Limits::default()).is_err(), "a billion laughs");
}

#[test]
fn durations_are_written_as_go_writes_them() {
    for (text, nanos) in [
        ("1h0m0s", 3_600_000_000_000),
        ("1m30s", 90_000_000_000),
        ("1.5s", 1_500_000_000),
        ("250ms", 250_000_000),
        ("-2s", -2_000_000_000),
        ("0s", 0),
    ] {
        assert_eq!(duration_nanos(text), Some(nanos), "{text}");
        assert_eq!(scalar::format_duration(nanos), text);
    }
    for text in ["", "1", "x", "1y", "s"] {
        assert_eq!(duration_nanos(text), None, "{text}");
    }
}
