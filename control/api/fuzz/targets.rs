// The bodies of the fuzz targets: cargo-fuzz runs them for hours, an ordinary test for a second each.

use timonel_api::{
    FieldSelector, FieldValidation, LabelSelector, Limits, PatchKind, Quantity, Scheme, apply_patch, decode_json,
    decode_json_untyped, decode_proto, decode_proto_body, decode_yaml, encode_json, encode_proto_body,
};

/// What patches are applied to.
const POD: &[u8] = br#"{"metadata":{"name":"a","finalizers":["x","y"],"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i","env":[{"name":"e","value":"v"}]}],"volumes":[{"name":"v","emptyDir":{}}]}}"#;

/// JSON as a Pod and as anything: what reads can be written and read again as the same.
pub(crate) fn json(bytes: &[u8]) {
    let scheme = Scheme::kubernetes();
    let pods = scheme.resource("", "v1", "pods").expect("pods are served");
    let limits = Limits::default();
    if let Ok(decoded) = decode_json(scheme.schema(), pods.body, bytes, &limits) {
        let text = encode_json(&decoded.value);
        let again = decode_json(scheme.schema(), pods.body, &text, &limits).expect("its own JSON");
        assert_eq!(again.value, decoded.value);
    }
    if let Ok(value) = decode_json_untyped(bytes, &limits) {
        decode_json_untyped(&encode_json(&value), &limits).expect("its own JSON");
    }
}

/// Protobuf as a Pod and as a custom resource definition.
pub(crate) fn proto(bytes: &[u8]) {
    let scheme = Scheme::kubernetes();
    let limits = Limits::default();
    for (group, plural) in [("", "pods"), ("apiextensions.k8s.io", "customresourcedefinitions")] {
        let resource = scheme.resource(group, "v1", plural).expect("a served resource");
        let _ = decode_proto(scheme.schema(), resource.body, bytes, &limits);
        if let Ok(value) = decode_proto_body(scheme.schema(), resource.body, bytes, &limits) {
            let mut out = Vec::new();
            encode_proto_body(scheme.schema(), resource.body, &value, &mut out);
            decode_proto_body(scheme.schema(), resource.body, &out, &limits).expect("its own protobuf");
        }
    }
}

/// YAML as a Deployment.
pub(crate) fn yaml(bytes: &[u8]) {
    let scheme = Scheme::kubernetes();
    let resource = scheme.resource("apps", "v1", "deployments").expect("a served resource");
    let _ = decode_yaml(scheme.schema(), resource.body, bytes, &Limits::default());
}

/// Every kind of patch on a Pod: the first byte chooses which.
pub(crate) fn patch(bytes: &[u8]) {
    let Some((choice, patch)) = bytes.split_first() else { return };
    let kind = [PatchKind::Json, PatchKind::Merge, PatchKind::Strategic][usize::from(choice % 3)];
    let scheme = Scheme::kubernetes();
    let pods = scheme.resource("", "v1", "pods").expect("pods are served");
    let limits = Limits::default();
    let pod = decode_json(scheme.schema(), pods.body, POD, &limits).expect("a pod").value;
    let _ = apply_patch(&scheme, pods.body, pod, kind, patch, FieldValidation::Warn, &limits);
}

/// What stands in queries and in single fields: selectors and quantities.
pub(crate) fn words(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = LabelSelector::parse(text);
    let _ = FieldSelector::parse(text, "", "v1", "Pod", &[]);
    if let Ok(quantity) = text.parse::<Quantity>() {
        let shown = quantity.to_string();
        assert_eq!(shown.parse::<Quantity>().expect("its own text").to_string(), shown);
    }
}
