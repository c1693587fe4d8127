//! Every kind of patch on a Pod: the first byte chooses which.
#![no_main]

use libfuzzer_sys::fuzz_target;
use timonel_api::{FieldValidation, Limits, PatchKind, Scheme, apply_patch, decode_json};

const POD: &[u8] = br#"{"metadata":{"name":"a","finalizers":["x","y"],"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i","env":[{"name":"e","value":"v"}]}],"volumes":[{"name":"v","emptyDir":{}}]}}"#;

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, patch)) = bytes.split_first() else { return };
    let kind = [PatchKind::Json, PatchKind::Merge, PatchKind::Strategic][usize::from(choice % 3)];
    let scheme = Scheme::kubernetes();
    let pods = scheme.resource("", "v1", "pods").expect("pods are served");
    let limits = Limits::default();
    let pod = decode_json(scheme.schema(), pods.body, POD, &limits).expect("a pod").value;
    let _ = apply_patch(&scheme, pods.body, pod, kind, patch, FieldValidation::Warn, &limits);
});
