//! JSON as a Pod and as anything: what reads can be written and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use timonel_api::{Limits, Scheme, decode_json, decode_json_untyped, encode_json};

fuzz_target!(|bytes: &[u8]| {
    let scheme = Scheme::kubernetes();
    let pods = scheme.resource("", "v1", "pods").expect("pods are served");
    let limits = Limits::default();
    if let Ok(decoded) = decode_json(scheme.schema(), pods.body, bytes, &limits) {
        let again = decode_json(scheme.schema(), pods.body, &encode_json(&decoded.value), &limits).expect("its own JSON");
        assert_eq!(again.value, decoded.value);
    }
    if let Ok(value) = decode_json_untyped(bytes, &limits) {
        decode_json_untyped(&encode_json(&value), &limits).expect("its own JSON");
    }
});
