//! YAML as a Deployment.
#![no_main]

use libfuzzer_sys::fuzz_target;
use timonel_api::{Limits, Scheme, decode_yaml};

fuzz_target!(|bytes: &[u8]| {
    let scheme = Scheme::kubernetes();
    let resource = scheme.resource("apps", "v1", "deployments").expect("a served resource");
    let _ = decode_yaml(scheme.schema(), resource.body, bytes, &Limits::default());
});
