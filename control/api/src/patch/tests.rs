//! The patch kinds, case by case.

use super::*;
use crate::codec::decode_json_untyped;
use crate::{Gvk, encode_json};

fn tree(text: &str) -> Value {
    decode_json_untyped(text.as_bytes(), &Limits::default()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn text(value: &Value) -> String {
    String::from_utf8(encode_json(value)).expect("JSON is text")
}

fn strategic(kind: (&str, &str), old: &str, patch: &str) -> Result<String, PatchError> {
    let scheme = Scheme::kubernetes();
    let ty = scheme.type_of(&Gvk::of(kind.0, kind.1)).expect("served");
    strategic_merge_patch(scheme.schema(), ty, tree(old), tree(patch)).map(|value| text(&value))
}

const POD: (&str, &str) = ("v1", "Pod");

fn check_pod(old: &str, patch: &str, expected: &str) {
    assert_eq!(strategic(POD, old, patch).as_deref(), Ok(expected), "{old} + {patch}");
}

/// The examples of RFC 7386, appendix A.
#[test]
fn merge_patch_examples() {
    let cases = [
        (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
        (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
        (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
        (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
        (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
        ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
        ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
    ];
    for (old, patch, expected) in cases {
        assert_eq!(text(&merge_patch(tree(old), tree(patch))), expected, "{old} + {patch}");
    }
}

#[test]
fn json_patch_operations() {
    let cases = [
        (
            r#"{"a":1}"#,
            r#"[{"op":"add","path":"/b","value":[1]},{"op":"add","path":"/b/-","value":3},{"op":"add","path":"/b/1","value":2}]"#,
            Ok(r#"{"a":1,"b":[1,2,3]}"#),
        ),
        (
            r#"{"a":{"b/c":1,"d~e":2}}"#,
            r#"[{"op":"remove","path":"/a/b~1c"},{"op":"replace","path":"/a/d~0e","value":3}]"#,
            Ok(r#"{"a":{"d~e":3}}"#),
        ),
        (r#"{"a":[1,2,3]}"#, r#"[{"op":"remove","path":"/a/-1"}]"#, Ok(r#"{"a":[1,2]}"#)),
        (
            r#"{"a":[1]}"#,
            r#"[{"op":"move","from":"/a/0","path":"/b"},{"op":"copy","from":"/b","path":"/c"}]"#,
            Ok(r#"{"a":[],"b":1,"c":1}"#),
        ),
        (
            r#"{"a":1}"#,
            r#"[{"op":"test","path":"/a","value":1},{"op":"test","path":"/b","value":null}]"#,
            Ok(r#"{"a":1}"#),
        ),
        (r#"{"a":1}"#, r#"[{"op":"test","path":"/a","value":2}]"#, Err("testing value /a failed: test failed")),
        (
            r#"{"a":1}"#,
            r#"[{"op":"remove","path":"/b"}]"#,
            Err("error in remove for path: '/b': Unable to remove nonexistent key: b: missing value"),
        ),
        (r#"{"a":1}"#, r#"[{"op":"replace","path":"/b","value":1}]"#, Ok(r#"{"a":1,"b":1}"#)),
        (
            r#"{"a":1}"#,
            r#"[{"op":"add","path":"/b/c","value":1}]"#,
            Err(r#"add operation does not apply: doc is missing path: "/b/c": missing value"#),
        ),
        (
            r#"{"a":[]}"#,
            r#"[{"op":"add","path":"/a/1","value":1}]"#,
            Err("error in add for path: '/a/1': Unable to access invalid index: 1: invalid index referenced"),
        ),
        (r#"{"a":1}"#, r#"[{"op":"nothing","path":"/a"}]"#, Err("Unexpected kind: nothing")),
        (r#"{"a":1}"#, r#"[{"op":"add"}]"#, Err("operation missing path field: missing value")),
    ];
    for (old, patch, expected) in cases {
        let outcome = json_patch(tree(old), &tree(patch), &Limits::default()).map(|value| text(&value));
        let expected = expected.map(str::to_owned).map_err(|text| PatchError::Unprocessable(text.into()));
        assert_eq!(outcome, expected, "{old} + {patch}");
    }
}

#[test]
fn json_patches_are_bounded() {
    let limits = Limits { bytes: 64, ..Limits::default() };
    let many = Value::List(vec![tree(r#"{"op":"test","path":"/a"}"#); MAX_OPERATIONS + 1]);
    assert_eq!(json_patch(Value::object(), &many, &limits), Err(PatchError::TooManyOperations(MAX_OPERATIONS + 1)));
    let doubling = Value::List(vec![tree(r#"{"op":"copy","from":"/a","path":"/a/-"}"#); 30]);
    assert!(matches!(json_patch(tree(r#"{"a":["xxxx"]}"#), &doubling, &limits), Err(PatchError::Unprocessable(_))));
    assert!(matches!(json_patch(Value::object(), &Value::object(), &limits), Err(PatchError::BadRequest(_))));
}

#[test]
fn strategic_lists_merge_by_key() {
    check_pod(
        r#"{"spec":{"containers":[{"name":"a","image":"1"},{"name":"b","image":"1"}]}}"#,
        r#"{"spec":{"containers":[{"name":"b","image":"2"}]}}"#,
        r#"{"spec":{"containers":[{"image":"1","name":"a"},{"image":"2","name":"b"}]}}"#,
    );
    check_pod(
        r#"{"spec":{"containers":[{"name":"a","env":[{"name":"x","value":"1"}],"args":["1","2"]}]}}"#,
        r#"{"spec":{"containers":[{"name":"a","env":[{"name":"y","value":"2"}],"args":["3"]}]}}"#,
        r#"{"spec":{"containers":[{"args":["3"],"env":[{"name":"y","value":"2"},{"name":"x","value":"1"}],"name":"a"}]}}"#,
    );
    check_pod(
        r#"{"spec":{"containers":[{"name":"a"},{"name":"b"}]}}"#,
        r#"{"spec":{"containers":[{"name":"a","$patch":"delete"}]}}"#,
        r#"{"spec":{"containers":[{"name":"b"}]}}"#,
    );
    check_pod(
        r#"{"spec":{"containers":[{"name":"a"},{"name":"b"}]}}"#,
        r#"{"spec":{"containers":[{"$patch":"replace"},{"name":"c"}]}}"#,
        r#"{"spec":{"containers":[{"name":"c"}]}}"#,
    );
    check_pod(
        r#"{"spec":{"tolerations":[{"key":"a"}]}}"#,
        r#"{"spec":{"tolerations":[{"key":"b"}]}}"#,
        r#"{"spec":{"tolerations":[{"key":"b"}]}}"#,
    );
}

#[test]
fn strategic_primitive_lists() {
    check_pod(
        r#"{"metadata":{"finalizers":["a","b"]}}"#,
        r#"{"metadata":{"finalizers":["b","c"]}}"#,
        r#"{"metadata":{"finalizers":["a","b","c"]}}"#,
    );
    check_pod(
        r#"{"metadata":{"finalizers":["a","b","c"]}}"#,
        r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["b"]}}"#,
        r#"{"metadata":{"finalizers":["a","c"]}}"#,
    );
    check_pod(
        r#"{"metadata":{"finalizers":["a","b"]}}"#,
        r#"{"metadata":{"$setElementOrder/finalizers":["c","a"],"$deleteFromPrimitiveList/finalizers":["b"],"finalizers":["c"]}}"#,
        r#"{"metadata":{"finalizers":["c","a"]}}"#,
    );
    check_pod(
        r#"{"metadata":{}}"#,
        r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["b"]}}"#,
        r#"{"metadata":{}}"#,
    );
}

#[test]
fn strategic_directives_on_objects() {
    check_pod(
        r#"{"metadata":{"labels":{"a":"1"}}}"#,
        r#"{"metadata":{"labels":{"$patch":"replace","b":"2"}}}"#,
        r#"{"metadata":{"labels":{"b":"2"}}}"#,
    );
    check_pod(
        r#"{"metadata":{"labels":{"a":"1"}}}"#,
        r#"{"metadata":{"labels":{"$patch":"delete"}}}"#,
        r#"{"metadata":{"labels":{}}}"#,
    );
    check_pod(
        r#"{"metadata":{"labels":{"a":"1","b":"2"}}}"#,
        r#"{"metadata":{"labels":{"a":null,"c":"3"}}}"#,
        r#"{"metadata":{"labels":{"b":"2","c":"3"}}}"#,
    );
    check_pod(
        r#"{"metadata":{}}"#,
        r#"{"metadata":{"labels":{"a":null,"c":"3"}}}"#,
        r#"{"metadata":{"labels":{"c":"3"}}}"#,
    );
    check_pod(
        r#"{"spec":{"volumes":[{"name":"v","emptyDir":{}},{"name":"w","emptyDir":{}}]}}"#,
        r#"{"spec":{"volumes":[{"name":"v","$retainKeys":["name","hostPath"],"hostPath":{"path":"/"}}]}}"#,
        r#"{"spec":{"volumes":[{"hostPath":{"path":"/"},"name":"v"},{"emptyDir":{},"name":"w"}]}}"#,
    );
    let deployment = strategic(
        ("apps/v1", "Deployment"),
        r#"{"spec":{"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":1}}}}"#,
        r#"{"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"}}}"#,
    );
    assert_eq!(deployment.as_deref(), Ok(r#"{"spec":{"strategy":{"type":"Recreate"}}}"#));
}

#[test]
fn strategic_order_is_the_patchs() {
    check_pod(
        r#"{"spec":{"containers":[{"name":"a"},{"name":"b"},{"name":"c"}]}}"#,
        r#"{"spec":{"$setElementOrder/containers":[{"name":"c"},{"name":"new"},{"name":"a"}],"containers":[{"name":"new"}]}}"#,
        r#"{"spec":{"containers":[{"name":"b"},{"name":"c"},{"name":"new"},{"name":"a"}]}}"#,
    );
    check_pod(
        r#"{"spec":{"containers":[{"name":"a"},{"name":"b"}]}}"#,
        r#"{"spec":{"$setElementOrder/containers":[{"name":"b"},{"name":"a"}]}}"#,
        r#"{"spec":{"containers":[{"name":"b"},{"name":"a"}]}}"#,
    );
}

#[test]
fn strategic_mistakes_are_named() {
    let cases = [
        (
            r#"{"spec":{"containers":[{"image":"x"}]}}"#,
            r#"map: {"image":"x"} does not contain declared merge key: name"#,
        ),
        (r#"{"spec":{"$patch":"unknown"}}"#, "unknown patch type: unknown"),
        (r#"{"metadata":{"$setElementOrder/finalizers":"x"}}"#, "invalid patch format of setElementOrder list"),
        (r#"{"spec":{"$retainKeys":["a"],"nodeName":"n"}}"#, "invalid patch format of retainKeys"),
        (
            r#"{"spec":{"$setElementOrder/containers":[{"name":"b"}],"containers":[{"name":"a"}]}}"#,
            "The order in patch list doesn't match $setElementOrder list",
        ),
    ];
    for (patch, expected) in cases {
        let error = strategic(POD, r#"{"metadata":{},"spec":{"containers":[{"name":"a"}]}}"#, patch).expect_err(patch);
        assert_eq!(error, PatchError::BadRequest(expected.into()), "{patch}");
    }
}

#[test]
fn a_patched_object_is_checked_and_defaulted() {
    let scheme = Scheme::kubernetes();
    let ty = scheme.type_of(&Gvk::of("v1", "Service")).expect("served");
    let apply = |kind, patch: &str, validation| {
        let old = tree(r#"{"kind":"Service","metadata":{"name":"s"},"spec":{"ports":[{"port":80}]}}"#);
        let old = coerce(scheme.schema(), ty, old, &Limits::default()).expect("a service").value;
        apply_patch(&scheme, ty, old, kind, patch.as_bytes(), validation, &Limits::default())
    };
    let (value, warnings) = apply(
        PatchKind::Merge,
        r#"{"spec":{"type":"NodePort","foo":1},"metadata":{"labels":{"a":"1","a":"2"}}}"#,
        FieldValidation::Warn,
    )
    .expect("applies");
    assert_eq!(value.str_at(&["spec", "externalTrafficPolicy"]), "Cluster");
    assert_eq!(warnings, [r#"duplicate field "metadata.labels.a""#, r#"unknown field "spec.foo""#]);
    let strict = apply(PatchKind::Strategic, r#"{"spec":{"foo":1}}"#, FieldValidation::Strict).expect_err("unknown");
    assert_eq!(strict.to_string(), r#"strict decoding error: unknown field "spec.foo""#);
    assert!(matches!(
        apply(PatchKind::Merge, r#"{"spec":{"ports":1}}"#, FieldValidation::Ignore),
        Err(PatchError::Invalid(_))
    ));
    assert!(matches!(apply(PatchKind::Merge, "[]", FieldValidation::Ignore), Err(PatchError::BadRequest(_))));
    assert!(matches!(apply(PatchKind::Json, "[{", FieldValidation::Ignore), Err(PatchError::BadRequest(_))));
    let (value, _) = apply(
        PatchKind::Json,
        r#"[{"op":"add","path":"/status/loadBalancer/ingress","value":[{"ip":"1.2.3.4"}]}]"#,
        FieldValidation::Strict,
    )
    .expect("applies");
    assert_eq!(value.list_at(&["status", "loadBalancer", "ingress"])[0].str_at(&["ip"]), "1.2.3.4");
}
