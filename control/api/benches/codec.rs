//! What one object costs: a Pod of about 5 KB through every codec, defaulting and the patches.

use std::hint::black_box;

mod sample;

use criterion::{Criterion, criterion_group, criterion_main};
use timonel_api::{
    Limits, Scheme, decode_json, decode_proto, default_object, encode_json, encode_proto, merge_patch,
    strategic_merge_patch,
};

fn codecs(c: &mut Criterion) {
    let scheme = Scheme::kubernetes();
    let schema = scheme.schema();
    let resource = scheme.resource("", "v1", "pods").expect("pods are served");
    let limits = Limits::default();
    let pod = sample::pod();
    let (json, proto) = (encode_json(&pod), encode_proto(schema, resource.body, &pod));
    println!("pod: {} bytes of JSON, {} of protobuf", json.len(), proto.len());
    c.bench_function("json decode", |b| {
        b.iter(|| decode_json(schema, resource.body, black_box(&json), &limits));
    });
    c.bench_function("json encode", |b| b.iter(|| encode_json(black_box(&pod))));
    c.bench_function("proto decode", |b| {
        b.iter(|| decode_proto(schema, resource.body, black_box(&proto), &limits));
    });
    c.bench_function("proto encode", |b| b.iter(|| encode_proto(schema, resource.body, black_box(&pod))));
    c.bench_function("json decode untyped, proto encode", |b| {
        b.iter(|| {
            let object = timonel_api::decode_json_object(black_box(&json), &limits).expect("its own");
            encode_proto(schema, resource.body, &object)
        });
    });
    c.bench_function("json to proto", |b| {
        b.iter(|| {
            let mut out = Vec::with_capacity(8 << 10);
            timonel_api::json_to_proto(schema, resource.body, black_box(&json), &limits, &mut out).map(|()| out)
        });
    });
    c.bench_function("clone", |b| b.iter(|| black_box(&pod).clone()));
    c.bench_function("default", |b| {
        b.iter_batched(
            || pod.clone(),
            |mut pod| default_object(&scheme, resource, &mut pod),
            criterion::BatchSize::SmallInput,
        );
    });
    let change = |text: &str| timonel_api::decode_json_untyped(text.as_bytes(), &limits).expect("the patch is valid");
    let labels = change(r#"{"metadata":{"labels":{"a":"b"}}}"#);
    c.bench_function("merge patch", |b| {
        b.iter_batched(
            || (pod.clone(), labels.clone()),
            |(pod, patch)| merge_patch(pod, patch),
            criterion::BatchSize::SmallInput,
        );
    });
    let status = change(r#"{"status":{"conditions":[{"type":"Ready","status":"False"}]}}"#);
    c.bench_function("strategic merge patch", |b| {
        b.iter_batched(
            || (pod.clone(), status.clone()),
            |(pod, patch)| strategic_merge_patch(schema, resource.body, pod, patch),
            criterion::BatchSize::SmallInput,
        );
    });
    c.bench_function("scheme from tables", |b| b.iter(Scheme::from_tables));
}

criterion_group!(benches, codecs);
criterion_main!(benches);
