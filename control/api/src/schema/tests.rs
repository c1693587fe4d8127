//! The tables as they are read: types, fields and what is wrong with a table.

use super::*;
use crate::Scheme;

fn field(ty: &str, name: &str) -> Field {
    let scheme = Scheme::kubernetes();
    let schema = scheme.schema();
    schema.get(schema.id(ty).expect(ty)).field(name).unwrap_or_else(|| panic!("{ty} {name}")).clone()
}

#[test]
fn fields_say_what_the_tables_say() {
    let containers = field("io.k8s.api.core.v1.PodSpec", "containers");
    assert!(matches!(containers.ty, FieldType::List(_)));
    assert_eq!(containers.list, ListKind::Map(vec!["name".into()]));
    assert!(containers.patch.merge);
    assert_eq!(containers.patch.merge_key.as_deref(), Some("name"));
    assert_eq!(containers.proto, 2);
    let volumes = field("io.k8s.api.core.v1.PodSpec", "volumes");
    assert!(volumes.patch.merge && volumes.patch.retain_keys);
    let grace = field("io.k8s.api.core.v1.PodSpec", "terminationGracePeriodSeconds");
    assert!(grace.pointer && grace.omit_empty);
    let node = field("io.k8s.api.core.v1.PodSpec", "nodeName");
    assert!(!node.pointer && node.omit_empty);
    let ready = field("io.k8s.api.core.v1.ContainerStatus", "ready");
    assert!(!ready.pointer && !ready.omit_empty);
    assert!(field("io.k8s.api.core.v1.PodSpec", "nodeSelector").atomic);
}

#[test]
fn special_types_are_known() {
    let cases = [
        ("io.k8s.api.core.v1.HTTPGetAction", "port", FieldType::IntOrString),
        ("io.k8s.api.core.v1.Secret", "data", FieldType::Map(Box::new(FieldType::Bytes))),
        ("io.k8s.api.core.v1.ResourceRequirements", "limits", FieldType::Map(Box::new(FieldType::Quantity))),
        ("io.k8s.api.coordination.v1.LeaseSpec", "renewTime", FieldType::MicroTime),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "creationTimestamp", FieldType::Time),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry", "fieldsV1", FieldType::FieldsV1),
        ("io.k8s.api.apps.v1.ControllerRevision", "data", FieldType::RawExtension),
        (
            "io.k8s.api.authentication.v1.UserInfo",
            "extra",
            FieldType::Map(Box::new(FieldType::List(Box::new(FieldType::String)))),
        ),
    ];
    for (ty, name, expected) in cases {
        assert_eq!(field(ty, name).ty, expected, "{ty} {name}");
    }
}

#[test]
fn every_member_of_a_served_type_has_a_place_in_protobuf() {
    let scheme = Scheme::kubernetes();
    let schema = scheme.schema();
    let inlined = |ty: &TypeDef, at: usize| {
        fn holds(inline: &Inline, at: usize) -> bool {
            inline.members.iter().any(|(_, member)| usize::from(*member) == at)
                || inline.inner.iter().any(|inner| holds(inner, at))
        }
        ty.inlines.iter().any(|inline| holds(inline, at))
    };
    // Discovery's old forms and the version document are JSON only; so are the envelope's members.
    let json_only = ["kind", "apiVersion"];
    let mut missing = Vec::new();
    for id in schema.ids() {
        let ty = schema.get(id);
        if ty.name.starts_with("io.k8s.apimachinery.pkg.version.") {
            continue;
        }
        for (at, field) in ty.fields.iter().enumerate() {
            if field.proto == 0 && !json_only.contains(&field.name.as_str()) && !inlined(ty, at) {
                missing.push(format!("{} {}", ty.name, field.name));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn zero_values_that_go_writes_are_known() {
    let scheme = Scheme::kubernetes();
    let schema = scheme.schema();
    let service = schema.get(schema.id("io.k8s.api.core.v1.Service").expect("a served type"));
    let status = service
        .always
        .iter()
        .find(|(at, _)| service.fields[*at as usize].name == "status")
        .map(|(_, zero)| zero.clone());
    let mut expected = Value::object();
    expected.set_at(&["loadBalancer"], Value::object());
    assert_eq!(status, Some(expected));
}

#[test]
fn a_schema_can_be_extended_without_changing_ids() {
    let scheme = Scheme::kubernetes();
    let meta = scheme.schema().id("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("a served type");
    let mut builder = scheme.extend();
    let schema = builder.schema();
    let id = schema.declare("example.v1.Thing");
    let ty = schema.type_mut(id).expect("declared here");
    ty.fields.push(Field::new("metadata", FieldType::Struct(meta)));
    ty.fields.push(Field::new("apiVersion", FieldType::String));
    let extended = builder.build();
    assert_eq!(extended.schema().id("example.v1.Thing"), Some(id));
    assert_eq!(extended.schema().get(meta).short_name(), "ObjectMeta");
    assert_eq!(extended.schema().get(id).fields[0].name, "apiVersion");
    assert_eq!(scheme.schema().id("example.v1.Thing"), None);
    assert!(extended.schema().get(meta).has_protobuf() && !extended.schema().get(id).has_protobuf());
}

#[test]
fn broken_tables_are_refused_with_their_line() {
    let tables = Tables { types: "h\nonly-one-column\n", ..Tables::default() };
    let error = SchemaBuilder::new().add_tables(&tables).expect_err("too few columns");
    assert_eq!(error.to_string(), "types table, line 2: too few columns");
}
