//! What managed fields add to a write: each kind of write of a pod of about 5 KB without them and with them.

mod sample;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use timonel_api::{
    Limits, OneVersion, Scheme, Tracker, Value, decode_json, decode_json_untyped, default_object, encode_json,
    merge_patch, resets_of,
};

const LATER: &str = "2026-11-01T10:05:00Z";

fn writes(c: &mut Criterion) {
    let scheme = Scheme::kubernetes();
    let (schema, limits) = (scheme.schema(), Limits::default());
    let resource = scheme.resource("", "v1", "pods").expect("pods are served");
    let (main, status) = (resets_of("", "Pod", false, true, ""), resets_of("", "Pod", false, true, "status"));
    let tracker = |resets, subresource| Tracker {
        schema,
        ty: resource.body,
        api_version: "v1",
        kind: "Pod",
        subresource,
        resets,
        versions: &OneVersion,
        now: LATER,
    };
    let change = |text: &str| decode_json_untyped(text.as_bytes(), &limits).expect("the patch is valid");
    let text = encode_json(&sample::pod());
    let create = |owners: bool| {
        let mut pod = decode_json(schema, resource.body, black_box(&text), &limits).expect("the pod is valid").value;
        default_object(&scheme, resource, &mut pod);
        if owners {
            tracker(&main, "").create(&mut pod, "kube-controller-manager");
        }
        encode_json(&pod)
    };
    c.bench_function("create", |b| b.iter(|| create(false)));
    c.bench_function("create with owners", |b| b.iter(|| create(true)));

    let mut made = sample::pod();
    default_object(&scheme, resource, &mut made);
    tracker(&main, "").create(&mut made, "kube-controller-manager");
    let mut live = merge_patch(made.clone(), change(r#"{"status":{"phase":"Pending"}}"#));
    tracker(&status, "status").update(&made, &mut live, "kubelet");

    let mut patches = |name: &str, patch: &Value, subresource: &'static str, manager: &str| {
        let resets = if subresource.is_empty() { &main } else { &status };
        let patched = |owners: bool| {
            let mut new = merge_patch(live.clone(), patch.clone());
            if owners {
                tracker(resets, subresource).update(&live, &mut new, manager);
            }
            new
        };
        c.bench_function(name, |b| b.iter(|| patched(false)));
        c.bench_function(&format!("{name} with owners"), |b| b.iter(|| patched(true)));
    };
    let label = change(r#"{"metadata":{"labels":{"a":"b"}}}"#);
    patches("patch of a label", &label, "", "kubectl-label");
    let running = change(r#"{"status":{"phase":"Failed","reason":"Evicted"}}"#);
    patches("patch of the status", &running, "status", "kubelet");
    let nothing = change(r#"{"metadata":{"labels":{"app":"shop"}}}"#);
    patches("patch of nothing", &nothing, "", "kubectl-label");

    let config =
        change(r#"{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"team":"a"},"name":"shop-7d9c6b5f4-x2x7p"}}"#);
    c.bench_function("apply of a label", |b| {
        b.iter_batched(
            || config.clone(),
            |config| tracker(&main, "").apply(&live, &config, "flux", false),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, writes);
criterion_main!(benches);
