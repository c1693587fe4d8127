//! Every type both ways, with random objects made from the schema; and mutated input, which must never panic.

use super::*;
use crate::{Field, FieldType, Gvk, Object, Schema, Scheme, TypeDef, TypeId};

/// A small source of choices (splitmix64), so that every run is the same.
struct Draw(u64);

impl Draw {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.bits() % u64::from(bound)).expect("below a 32-bit bound")
    }
}

fn word(draw: &mut Draw) -> String {
    const WORDS: [&str; 8] =
        ["a", "name", "é\n\"", "x-y.z/1", "long text that needs memory of its own", "0", "Ω", "end"];
    WORDS[draw.below(8) as usize].to_owned()
}

fn random(schema: &Schema, ty: &FieldType, draw: &mut Draw, depth: u32) -> Value {
    match ty {
        FieldType::Bool => Value::Bool(draw.below(2) == 1),
        FieldType::Int32 => Value::Int(i64::from(i32::from_ne_bytes(draw.below(u32::MAX).to_ne_bytes()))),
        FieldType::Int64 => Value::Int(draw.bits().cast_signed()),
        FieldType::Float => Value::Float(f64::from(draw.below(1000)) + 0.5),
        FieldType::String => Value::from(word(draw)),
        FieldType::Bytes => Value::from(["", "aGk=", "AAEC/w=="][draw.below(3) as usize]),
        FieldType::Quantity => Value::from(["1", "500m", "3Gi", "100n", "0"][draw.below(5) as usize]),
        FieldType::IntOrString if draw.below(2) == 0 => Value::Int(draw.below(70000).into()),
        FieldType::IntOrString => Value::from("25%"),
        FieldType::Time => Value::from(["2026-01-02T03:04:05Z", "1969-12-31T23:59:59Z"][draw.below(2) as usize]),
        FieldType::MicroTime => {
            Value::from(["2026-01-02T03:04:05.000001Z", "1969-12-31T23:59:59.500000Z"][draw.below(2) as usize])
        }
        FieldType::Duration => Value::from("1m30s"),
        FieldType::Any | FieldType::RawExtension | FieldType::FieldsV1 | FieldType::Json => {
            let mut value = Value::object();
            value.set_at(&["f:spec", &word(draw)], Value::List(vec![Value::Null, Value::Float(1.5), Value::Int(-3)]));
            value
        }
        FieldType::SchemaOrBool(_) if draw.below(2) == 0 => Value::Bool(true),
        FieldType::SchemaOrNames(_) if draw.below(2) == 0 => Value::List(vec![Value::from("one"), Value::from("two")]),
        FieldType::SchemaOrList(id) if draw.below(2) == 0 => {
            Value::List(vec![random(schema, &FieldType::Struct(*id), draw, depth + 2)])
        }
        FieldType::Struct(id)
        | FieldType::SchemaOrBool(id)
        | FieldType::SchemaOrList(id)
        | FieldType::SchemaOrNames(id) => random_object(schema, schema.get(*id), draw, depth + 1),
        FieldType::List(inner) => {
            Value::List((0..=draw.below(2)).map(|_| random(schema, inner, draw, depth + 1)).collect())
        }
        FieldType::Map(inner) => (0..=draw.below(2))
            .map(|_| (word(draw).into(), random(schema, inner, draw, depth + 1)))
            .collect::<Object>()
            .into(),
    }
}

fn random_object(schema: &Schema, ty: &TypeDef, draw: &mut Draw, depth: u32) -> Value {
    let chance = |field: &Field| match (&field.ty, depth) {
        (FieldType::Struct(_) | FieldType::List(_) | FieldType::Map(_), 5..) => 0,
        (FieldType::SchemaOrBool(_) | FieldType::SchemaOrList(_) | FieldType::SchemaOrNames(_), 3..) => 0,
        (_, 0..=1) => 4,
        _ => 2,
    };
    let mut object = Object::new();
    for field in &ty.fields {
        if draw.below(5) < chance(field) {
            object.insert(field.name.clone(), random(schema, &field.ty, draw, depth));
        }
    }
    object.into()
}

/// Drops what is written nowhere but in the envelope.
fn without_kinds(value: &mut Value, schema: &Schema, ty: TypeId) {
    let Some(object) = value.as_object_mut() else { return };
    let ty = schema.get(ty);
    object.retain(|key, _| {
        ty.field(key).is_some_and(|field| field.proto > 0 || !matches!(key.as_str(), "kind" | "apiVersion"))
    });
    for (key, member) in object.iter_mut() {
        let Some(field) = ty.field(key) else { continue };
        each_struct(member, &field.ty, &mut |value, id| without_kinds(value, schema, id));
    }
}

fn each_struct(value: &mut Value, ty: &FieldType, visit: &mut impl FnMut(&mut Value, TypeId)) {
    match (ty, value) {
        (FieldType::List(inner), Value::List(list)) => list.iter_mut().for_each(|item| each_struct(item, inner, visit)),
        (FieldType::Map(inner), Value::Object(map)) => {
            map.iter_mut().for_each(|(_, item)| each_struct(item, inner, visit))
        }
        (
            FieldType::Struct(id)
            | FieldType::SchemaOrBool(id)
            | FieldType::SchemaOrList(id)
            | FieldType::SchemaOrNames(id),
            value,
        ) => match value {
            Value::List(list) => list.iter_mut().for_each(|item| visit(item, *id)),
            value => visit(value, *id),
        },
        _ => {}
    }
}

#[test]
fn every_type_survives_json_and_protobuf() {
    let scheme = Scheme::kubernetes();
    let schema = scheme.schema();
    let limits = Limits::default();
    let mut draw = Draw(1);
    for id in schema.ids() {
        let ty = schema.get(id);
        // The version document has no protobuf form.
        if ty.fields.is_empty() || ty.name.starts_with("io.k8s.apimachinery.pkg.version.") {
            continue;
        }
        for _ in 0..3 {
            let random = random_object(schema, ty, &mut draw, 0);
            let mut value = coerce(schema, id, random, &limits).expect("made from the schema").value;
            without_kinds(&mut value, schema, id);
            let value = coerce(schema, id, value, &limits).expect("still of the type").value;
            let json = encode_json(&value);
            let decoded = decode_json(schema, id, &json, &limits).expect("its own JSON");
            assert_eq!(decoded.value, value, "{} through JSON", ty.name);
            assert!(decoded.findings.is_empty(), "{}: {:?}", ty.name, decoded.findings);
            let mut proto = Vec::new();
            encode_proto_body(schema, id, &value, &mut proto);
            let decoded = decode_proto_body(schema, id, &proto, &limits).expect("its own protobuf");
            assert_eq!(decoded, value, "{} through protobuf", ty.name);
            let mut straight = Vec::new();
            json_to_proto(schema, id, &json, &limits, &mut straight).expect("its own JSON");
            let decoded = decode_proto_body(schema, id, &straight, &limits).expect("its own protobuf");
            assert_eq!(decoded, value, "{} from JSON to protobuf", ty.name);
            assert_eq!(straight.len(), proto.len(), "{}", ty.name);
        }
    }
}

#[test]
fn the_envelope_carries_the_kind() {
    let scheme = Scheme::kubernetes();
    let pod = scheme.type_of(&Gvk::of("v1", "Pod")).expect("served");
    let body = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"image":"i","name":"c","resources":{}}]},"status":{}}"#;
    let value = decode_json(scheme.schema(), pod, body, &Limits::default()).expect("valid").value;
    let proto = encode_proto(scheme.schema(), pod, &value);
    assert!(is_proto(&proto));
    let envelope = Envelope::open(&proto).expect("its own");
    assert_eq!((envelope.api_version, envelope.kind, envelope.content_type), ("v1", "Pod", ""));
    assert_eq!(decode_proto(scheme.schema(), pod, &proto, &Limits::default()), Ok(value));
    assert_eq!(decode_proto(scheme.schema(), pod, body, &Limits::default()), Err(DecodeError::NoEnvelope));
}

/// Bytes as upstream's encoder writes them for `Pod{metadata{name: "a"}, spec{nodeName: "n"}}`: scalars that
/// are no pointers are there although empty.
#[test]
fn what_go_writes_is_read() {
    let scheme = Scheme::kubernetes();
    let pod = scheme.type_of(&Gvk::of("v1", "Pod")).expect("served");
    let meta = b"\x0a\x01a\x12\x00\x1a\x00\x22\x00\x2a\x00\x32\x00\x38\x00\x42\x00";
    let spec = b"\x1a\x00\x32\x00\x42\x00\x4a\x00\x52\x01n\x58\x00";
    let mut raw = vec![0x0a, u8::try_from(meta.len()).expect("short")];
    raw.extend_from_slice(meta);
    raw.extend([0x12, u8::try_from(spec.len()).expect("short")]);
    raw.extend_from_slice(spec);
    raw.extend([0x1a, 0]);
    let value = decode_proto(scheme.schema(), pod, &seal("v1", "Pod", &raw), &Limits::default()).expect("valid");
    assert_eq!(
        String::from_utf8(encode_json(&value)).expect("JSON is text"),
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"nodeName":"n"},"status":{}}"#
    );
}

#[test]
fn a_list_joined_from_items_reads_as_a_list() {
    let scheme = Scheme::kubernetes();
    let schema = scheme.schema();
    let item = scheme.type_of(&Gvk::of("v1", "ConfigMap")).expect("served");
    let list = scheme.type_of(&Gvk::of("v1", "ConfigMapList")).expect("served");
    let mut items = Vec::new();
    for name in ["a", "b"] {
        let mut value = Value::object();
        value.set_at(&["metadata", "name"], name);
        let mut body = Vec::new();
        encode_proto_body(schema, item, &value, &mut body);
        items.push(body);
    }
    let mut meta = Value::object();
    meta.set_at(&["resourceVersion"], "7");
    let bytes = encode_proto_list(schema, "v1", "ConfigMapList", &meta, items.iter().map(Vec::as_slice));
    let value = decode_proto(schema, list, &bytes, &Limits::default()).expect("its own");
    assert_eq!(value.str_at(&["metadata", "resourceVersion"]), "7");
    let names: Vec<&str> = value.list_at(&["items"]).iter().map(|item| item.str_at(&["metadata", "name"])).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn watch_events_are_framed() {
    let event = encode_proto_watch_event("ADDED", b"k8s\0rest");
    let len = u32::from_be_bytes(event[..4].try_into().expect("four bytes"));
    assert_eq!(len as usize, event.len() - 4);
    assert_eq!(&event[4..], b"\x0a\x05ADDED\x12\x0a\x0a\x08k8s\0rest");
}

/// The same objects as upstream's own encoders write them in both forms (`testdata/upstream.tsv`, random
/// objects of nearly every kind): both read as the same tree, which is what upstream's JSON says but for nulls.
#[test]
fn upstreams_own_encodings_are_read_alike() {
    use base64::Engine;
    let scheme = Scheme::kubernetes();
    let limits = Limits::default();
    let mut kinds = 0;
    for line in include_str!("../../testdata/upstream.tsv").lines().skip(1) {
        let (proto, json) = line.split_once('\t').expect("two columns");
        let (api_version, kind) = peek_kind(json.as_bytes(), &limits).expect("an object");
        let ty = scheme.type_of(&Gvk::of(&api_version, &kind)).expect("a served kind");
        let decoded = decode_json(scheme.schema(), ty, json.as_bytes(), &limits).expect("upstream's JSON");
        assert!(decoded.findings.is_empty(), "{kind}: {:?}", decoded.findings);
        let proto = base64::engine::general_purpose::STANDARD.decode(proto).expect("base64");
        let from_proto = decode_proto(scheme.schema(), ty, &proto, &limits).expect("upstream's protobuf");
        assert_eq!(from_proto, decoded.value, "{kind}");
        let mut plain = decode_json_object(json.as_bytes(), &limits).expect("JSON");
        let mut ours = decoded.value;
        drop_nulls(&mut plain);
        drop_nulls(&mut ours);
        assert_eq!(ours, plain, "{kind}");
        kinds += 1;
    }
    assert!(kinds > 80, "only {kinds} objects in the table");
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|_, member| !member.is_null());
            object.iter_mut().for_each(|(_, member)| drop_nulls(member));
        }
        Value::List(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Thousands of broken inputs: an error or a value, never a panic, and what reads can be written.
#[test]
fn mutated_input_never_panics() {
    const ROUNDS: u32 = 4000;
    let scheme = Scheme::kubernetes();
    let schema = scheme.schema();
    let limits = Limits { bytes: 1 << 20, depth: 40 };
    let pod = scheme.type_of(&Gvk::of("v1", "Pod")).expect("served");
    let mut draw = Draw(2);
    let value =
        coerce(schema, pod, random_object(schema, schema.get(pod), &mut draw, 0), &limits).expect("valid").value;
    let seeds = [encode_json(&value), encode_proto(schema, pod, &value)];
    for round in 0..ROUNDS {
        let mut bytes = seeds[(round % 2) as usize].clone();
        for _ in 0..=draw.below(4) {
            let at = draw.below(u32::try_from(bytes.len()).expect("small")) as usize;
            match draw.below(4) {
                0 => bytes[at] = u8::try_from(draw.below(256)).expect("a byte"),
                1 => bytes.truncate(at.max(1)),
                2 => drop(bytes.remove(at)),
                _ => bytes.insert(at, b"{}[]\",:\\0e-\x00\xff"[draw.below(13) as usize]),
            }
            if bytes.is_empty() {
                bytes.push(0);
            }
        }
        // An error or not, but an end.
        let _ = json_to_proto(schema, pod, &bytes, &limits, &mut Vec::new());
        let decoded = [
            decode_json(schema, pod, &bytes, &limits).map(|decoded| decoded.value),
            decode_proto(schema, pod, &bytes, &limits),
            decode_yaml(schema, pod, &bytes[..bytes.len().min(200)], &limits).map(|decoded| decoded.value),
        ];
        for value in decoded.into_iter().flatten() {
            let json = encode_json(&value);
            assert!(decode_json(schema, pod, &json, &Limits::default()).is_ok(), "{}", String::from_utf8_lossy(&json));
        }
    }
}
