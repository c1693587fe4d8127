//! Resources, kinds and versions as the scheme finds them.

use super::*;

#[test]
fn every_resource_of_the_table_is_found_both_ways() {
    let scheme = Scheme::with_every_version();
    assert_eq!((scheme.resources().len(), Scheme::kubernetes().resources().len()), (95, 69));
    let served = Scheme::kubernetes();
    let mut stable = served.groups().iter().filter(|group| group.name.as_str() != MIGRATION_GROUP);
    assert!(stable.all(|group| group.versions.iter().all(|version| is_stable(version))));
    for resource in scheme.resources() {
        let found = scheme.resource(&resource.group, &resource.version, &resource.plural).expect("by plural");
        assert_eq!(found.kind, resource.kind);
        assert_eq!(scheme.type_of(&resource.gvk()), Some(resource.body));
        if resource.allows(Verb::List) {
            assert!(resource.list_body.is_some(), "{} has no list type", resource.plural);
            assert!(scheme.storage_of(resource).is_some(), "{}", resource.plural);
        }
    }
}

#[test]
fn parts_know_their_kinds() {
    let scheme = Scheme::kubernetes();
    let deployments = scheme.resource("apps", "v1", "deployments").expect("served");
    let scale = deployments.subresource("scale").expect("served");
    assert_eq!(scale.gvk, Gvk::new("autoscaling", "v1", "Scale"));
    assert!(scale.body.is_some());
    assert_eq!(deployments.subresource("status").expect("served").gvk, deployments.gvk());
    let pods = scheme.resource("", "v1", "pods").expect("served");
    assert_eq!(pods.subresource("eviction").expect("served").gvk, Gvk::new("policy", "v1", "Eviction"));
    assert!(pods.subresource("nothing").is_none());
    assert_eq!(pods.short_names, ["po"]);
}

#[test]
fn events_of_both_groups_are_the_same_objects() {
    let scheme = Scheme::kubernetes();
    let events = scheme.resource("events.k8s.io", "v1", "events").expect("served");
    let stored = scheme.storage_of(events).expect("stored");
    assert_eq!((stored.group.as_str(), stored.version.as_str()), ("", "v1"));
    assert_eq!(scheme.views_of(&events.storage).count(), 2);
    let hpa = scheme.resource("autoscaling", "v1", "horizontalpodautoscalers").expect("served");
    assert_eq!(scheme.storage_of(hpa).expect("stored").version, "v2");
}

#[test]
fn groups_come_in_the_order_of_discovery() {
    let scheme = Scheme::kubernetes();
    let names: Vec<&str> = scheme.groups().iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names[..4], ["", "apiregistration.k8s.io", "apps", "events.k8s.io"]);
    let autoscaling = scheme.groups().iter().find(|group| group.name == "autoscaling").expect("served");
    assert_eq!(autoscaling.versions, ["v2", "v1"]);
}

#[test]
fn kinds_common_to_all_groups_are_found_in_any() {
    let scheme = Scheme::kubernetes();
    let core = scheme.type_of(&Gvk::of("v1", "DeleteOptions")).expect("common");
    assert_eq!(scheme.type_of(&Gvk::of("apps/v1", "DeleteOptions")), Some(core));
    assert!(scheme.type_of(&Gvk::of("apps/v1", "Nothing")).is_none());
    assert!(scheme.type_of(&Gvk::of("meta.k8s.io/v1", "PartialObjectMetadataList")).is_some());
    assert_eq!(Gvk::of("apps/v1", "Deployment").to_string(), "apps/v1, Kind=Deployment");
}

#[test]
fn kinds_of_further_tables_are_served_like_the_built_in_ones() {
    let tables = Tables {
        types: "type\tkind_of\tmap_type\tunions\tgvk\nx.v1.Thing\tobject\t\t\texample.com/v1/Thing\nx.v1.ThingSpec\tobject\t\t\t\n",
        fields: "header\n\
            x.v1.Thing\tapiVersion\tstring\t\t\t\t\t\t\t\t\t\t\n\
            x.v1.Thing\tkind\tstring\t\t\t\t\t\t\t\t\t\t\n\
            x.v1.Thing\tmetadata\tio.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta\t\t\t\t\t\t\t\t\t\t\n\
            x.v1.Thing\tspec\tx.v1.ThingSpec\t\t\t\t\t\t\t\t\t\t\n\
            x.v1.ThingSpec\tsize\tinteger:int32\t\t3\t\t\t\t\t\t\t\t\n",
        ..Tables::default()
    };
    let resources = "header\nexample.com\tv1\tthings\tThing\tNamespaced\tthing\tth\t\tcreate,get,list\tscale(autoscaling/v1/Scale:get)\n";
    let mut builder = Scheme::kubernetes().extend();
    builder.add_tables(&tables, resources).expect("the tables read");
    let scheme = builder.build();
    let things = scheme.resource("example.com", "v1", "things").expect("served");
    assert!(things.subresource("scale").expect("served").body.is_some());
    let body = br#"{"metadata":{"name":"a"},"spec":{"other":1}}"#;
    let decoded = crate::decode_json(scheme.schema(), things.body, body, &crate::Limits::default()).expect("a thing");
    assert_eq!(decoded.findings.len(), 1);
    let mut value = decoded.value;
    crate::default_object(&scheme, things, &mut value);
    assert_eq!(value.int_at(&["spec", "size"]), Some(3));
    assert!(Scheme::kubernetes().resource("example.com", "v1", "things").is_none());
}

#[test]
fn resources_can_be_added_and_taken_out() {
    let scheme = Scheme::kubernetes();
    let pods = scheme.resource("", "v1", "pods").expect("served");
    let mut builder = scheme.extend();
    let mut thing = Resource::clone(pods);
    thing.group = "example.com".into();
    thing.plural = "things".into();
    thing.kind = "Thing".into();
    builder.add_resource(thing);
    let extended = builder.build();
    assert!(extended.resource("example.com", "v1", "things").is_some());
    let mut builder = extended.extend();
    builder.remove_resources(|resource| resource.group == "example.com");
    let reduced = builder.build();
    assert!(reduced.resource("example.com", "v1", "things").is_none());
    assert!(reduced.type_of(&Gvk::of("example.com/v1", "Thing")).is_none());
}
