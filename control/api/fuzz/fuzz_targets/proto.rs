//! Protobuf as a Pod and as a custom resource definition.
#![no_main]

use libfuzzer_sys::fuzz_target;
use timonel_api::{Limits, Scheme, decode_proto, decode_proto_body, encode_proto_body};

fuzz_target!(|bytes: &[u8]| {
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
});
