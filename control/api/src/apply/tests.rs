//! Applying and updating whole objects, against what upstream does and as properties.

use proptest::prelude::*;

use super::*;
use crate::{Limits, Scheme, coerce, default_type};

fn value(json: serde_json::Value) -> Value {
    Value::from(json)
}

struct World {
    scheme: std::sync::Arc<Scheme>,
    ty: TypeId,
    api_version: &'static str,
    kind: &'static str,
    resets: Resets,
    now: &'static str,
}

impl World {
    fn new(api_version: &'static str, kind: &'static str) -> Self {
        let scheme = Scheme::kubernetes();
        let gvk = crate::Gvk::of(api_version, kind);
        let ty = scheme.type_of(&gvk).unwrap();
        let resets = resets_of(&gvk.group, kind, false, true, "");
        Self { scheme, ty, api_version, kind, resets, now: "2026-01-01T00:00:00Z" }
    }

    fn tracker(&self) -> Tracker<'_> {
        Tracker {
            schema: self.scheme.schema(),
            ty: self.ty,
            api_version: self.api_version,
            kind: self.kind,
            subresource: "",
            resets: &self.resets,
            versions: &OneVersion,
            now: self.now,
        }
    }

    /// As the registry brings an object into form.
    fn formed(&self, object: Value) -> Value {
        let mut object = coerce(self.scheme.schema(), self.ty, object, &Limits::default()).unwrap().value;
        default_type(&self.scheme, self.ty, &mut object);
        object
    }

    fn object(&self, mut json: serde_json::Value) -> Value {
        json["apiVersion"] = self.api_version.into();
        json["kind"] = self.kind.into();
        value(json)
    }

    fn apply(&self, live: &Value, json: serde_json::Value, manager: &str, force: bool) -> Result<Value, ApplyError> {
        let mut live = live.clone();
        if live.is_null() {
            live = self.tracker().blank();
        }
        self.tracker().apply(&live, &self.object(json), manager, force).map(|object| self.formed(object))
    }

    fn update(&self, live: &Value, json: serde_json::Value, manager: &str) -> Value {
        let mut new = self.formed(self.object(json));
        self.tracker().update(live, &mut new, manager);
        new
    }

    fn create(&self, json: serde_json::Value, manager: &str) -> Value {
        let mut new = self.formed(self.object(json));
        self.tracker().create(&mut new, manager);
        new
    }
}

/// `manager operation fields` of every entry.
fn entries(object: &Value) -> Vec<String> {
    let entry = |entry: &Value| {
        let fields = match entry.get("fieldsV1") {
            Some(Value::Raw(text)) => text.to_string(),
            other => format!("{other:?}"),
        };
        format!("{} {} {fields}", entry.str_at(&["manager"]), entry.str_at(&["operation"]))
    };
    object.list_at(&ENTRIES).iter().map(entry).collect()
}

#[test]
fn a_creator_owns_what_is_there() {
    let world = World::new("apps/v1", "Deployment");
    let made = world.create(
        serde_json::json!({
            "metadata": {"name": "d", "namespace": "n", "labels": {"app": "x"}, "uid": "ignored"},
            "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": {"metadata": {"labels": {"app": "x"}},
                "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}}},
        }),
        "kubectl-create",
    );
    // As upstream 1.36 answers.
    let fields = r#"{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:progressDeadlineSeconds":{},"f:replicas":{},"f:revisionHistoryLimit":{},"f:selector":{},"f:strategy":{"f:rollingUpdate":{".":{},"f:maxSurge":{},"f:maxUnavailable":{}},"f:type":{}},"f:template":{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:imagePullPolicy":{},"f:name":{},"f:ports":{".":{},"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{},"f:protocol":{}}},"f:resources":{},"f:terminationMessagePath":{},"f:terminationMessagePolicy":{}}},"f:dnsPolicy":{},"f:restartPolicy":{},"f:schedulerName":{},"f:securityContext":{},"f:terminationGracePeriodSeconds":{}}}}}"#;
    assert_eq!(entries(&made), [format!("kubectl-create Update {fields}")]);
}

#[test]
fn an_applier_owns_what_it_names_and_gives_up_what_it_leaves_out() {
    let world = World::new("v1", "ConfigMap");
    let config = |data: serde_json::Value| serde_json::json!({"metadata": {"name": "c"}, "data": data});
    let first = world.apply(&Value::Null, config(serde_json::json!({"a": "1", "b": "2"})), "one", false).unwrap();
    assert_eq!(entries(&first), [r#"one Apply {"f:data":{"f:a":{},"f:b":{}}}"#]);
    let second = world.apply(&first, config(serde_json::json!({"b": "2", "c": "3"})), "two", false).unwrap();
    let third = world.apply(&second, config(serde_json::json!({"a": "1"})), "one", false).unwrap();
    assert_eq!(third.get("data"), Some(&value(serde_json::json!({"a": "1", "b": "2", "c": "3"}))));
    assert_eq!(entries(&third), [r#"one Apply {"f:data":{"f:a":{}}}"#, r#"two Apply {"f:data":{"f:b":{},"f:c":{}}}"#]);
    let fourth = world.apply(&third, config(serde_json::json!({})), "two", false).unwrap();
    assert_eq!(fourth.get("data"), Some(&value(serde_json::json!({"a": "1"}))));
}

#[test]
fn what_others_own_conflicts_until_it_is_forced() {
    let world = World::new("apps/v1", "Deployment");
    let spec = |replicas: i32| {
        serde_json::json!({"metadata": {"name": "d"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    };
    let live = world.create(spec(1), "kubectl-create");
    let refused = world.apply(&live, spec(3), "flux", false).unwrap_err().status();
    assert_eq!(refused.code, 409);
    assert_eq!(
        refused.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-create\" using apps/v1: .spec.replicas"
    );
    let causes = &refused.details.as_ref().unwrap().causes;
    assert_eq!((&*causes[0].reason, &*causes[0].field), ("FieldManagerConflict", ".spec.replicas"));
    let taken = world.apply(&live, spec(3), "flux", true).unwrap();
    assert_eq!(taken.int_at(&["spec", "replicas"]), Some(3));
    assert!(!entries(&taken)[1].contains("replicas"), "{:?}", entries(&taken));
    // The same value conflicts with nobody: both own it.
    assert!(world.apply(&taken, spec(3), "argo", false).is_ok());
}

#[test]
fn updates_take_and_join() {
    let world = World::new("v1", "ConfigMap");
    let applied = world.apply(&Value::Null, serde_json::json!({"data": {"a": "1", "b": "2"}}), "one", false).unwrap();
    let updated = world.update(&applied, serde_json::json!({"data": {"a": "9", "c": "3"}}), "edit");
    assert_eq!(entries(&updated), [r#"edit Update {"f:data":{"f:a":{},"f:c":{}}}"#]);
    let again = world.update(&updated, serde_json::json!({"data": {"a": "9", "c": "4", "d": "1"}}), "edit");
    assert_eq!(entries(&again), [r#"edit Update {"f:data":{"f:a":{},"f:c":{},"f:d":{}}}"#]);
    let reset = world.update(&again, serde_json::json!({"metadata": {"managedFields": [{}]}, "data": {"a": "9"}}), "x");
    assert!(reset.at(&ENTRIES).is_none());
}

#[test]
fn old_updaters_share_an_entry() {
    let world = World::new("v1", "ConfigMap");
    let mut live = world.create(serde_json::json!({"data": {"k": "v"}}), "m00");
    let mut data = serde_json::json!({"k": "v"});
    for at in 1..13 {
        data[format!("k{at}")] = "v".into();
        live = world.update(&live, serde_json::json!({"data": data}), &format!("m{at:02}"));
    }
    let entries = entries(&live);
    assert_eq!(entries.len(), 10, "{entries:?}");
    assert!(entries[0].starts_with("ancient-changes Update") && entries[0].contains("f:k1"), "{entries:?}");
}

#[test]
fn kubectl_takes_over_what_it_applied_on_the_client() {
    let world = World::new("v1", "ConfigMap");
    let last = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"1"}}"#;
    let annotations = serde_json::json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    let live = world.create(
        serde_json::json!({"metadata": {"name": "c", "annotations": annotations}, "data": {"a": "1"}}),
        "kubectl-client-side-apply",
    );
    let config = serde_json::json!({"metadata": {"name": "c"}, "data": {"a": "2"}});
    assert!(world.apply(&live, config.clone(), "flux", false).is_err());
    let taken = world.apply(&live, config, "kubectl", false).unwrap();
    assert_eq!(taken.str_at(&["data", "a"]), "2");
    let note = taken.str_at(&["metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"]);
    assert!(note.contains(r#""a":"2""#), "{note}");
}

#[test]
fn what_is_not_of_the_type_is_named() {
    let world = World::new("apps/v1", "Deployment");
    for (config, why) in [
        (serde_json::json!({"spec": {"foo": 1}}), ".spec.foo: field not declared in schema"),
        (serde_json::json!({"spec": {"replicas": "x"}}), ".spec.replicas: expected numeric (int or float), got string"),
        (serde_json::json!({"spec": []}), ".spec: expected map, got &{[]}"),
        (
            serde_json::json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}}}),
            ".spec.template.spec.containers: duplicate entries for key [name=\"a\"]",
        ),
    ] {
        let refused = world.apply(&Value::Null, config, "m", false).unwrap_err().status();
        assert_eq!(refused.code, 500);
        assert_eq!(
            refused.message,
            format!("failed to create typed patch object (/; apps/v1, Kind=Deployment): {why}")
        );
    }
    let tracker = world.tracker();
    let wrong = tracker.apply(&Value::object(), &value(serde_json::json!({"kind": "Pod"})), "m", false);
    assert_eq!(wrong.unwrap_err().status().code, 400);
}

/// A pod template with some of a few containers, ports and labels.
fn any_config() -> impl Strategy<Value = serde_json::Value> {
    let port = (prop::sample::select(vec![80, 81]), prop::sample::select(vec!["TCP", "UDP"]))
        .prop_map(|(port, protocol)| serde_json::json!({"containerPort": port, "protocol": protocol}));
    let ports = prop::collection::btree_map(0_u8..2, port, 0..2).prop_map(|ports| {
        let mut ports: Vec<serde_json::Value> = ports.into_values().collect();
        ports.dedup();
        ports
    });
    let container = (prop::sample::select(vec!["a", "b", "c"]), prop::sample::select(vec!["x", "y"]), ports);
    let labels = prop::collection::btree_map(prop::sample::select(vec!["k", "l", "m"]), "[xy]", 0..3);
    (prop::collection::btree_map(0_u8..3, container, 1..3), labels, prop::option::of(0_i32..3)).prop_map(
        |(containers, labels, replicas)| {
            let mut seen = std::collections::BTreeSet::new();
            let containers: Vec<serde_json::Value> = containers
                .into_values()
                .filter(|(name, ..)| seen.insert(*name))
                .map(|(name, image, ports)| serde_json::json!({"name": name, "image": image, "ports": ports}))
                .collect();
            let mut spec = serde_json::json!({"template": {"spec": {"containers": containers}}});
            if let Some(replicas) = replicas {
                spec["replicas"] = replicas.into();
            }
            serde_json::json!({"metadata": {"labels": labels}, "spec": spec})
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn applying_twice_is_applying_once(first in any_config(), second in any_config()) {
        let world = World::new("apps/v1", "Deployment");
        let live = world.create(first, "creator");
        let once = world.apply(&live, second.clone(), "m", true).unwrap();
        let twice = world.apply(&once, second, "m", false).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn what_was_applied_comes_back(first in any_config(), second in any_config()) {
        let world = World::new("apps/v1", "Deployment");
        let live = world.create(first, "creator");
        let applied = world.apply(&live, second.clone(), "m", true).unwrap();
        let config = world.object(second);
        let changes = compare::compare(world.scheme.schema(), world.ty, &config, &applied).unwrap();
        prop_assert!(changes.modified.is_empty(), "{:?}", changes.modified);
    }

    #[test]
    fn leaving_out_removes(first in any_config(), second in any_config()) {
        let world = World::new("apps/v1", "Deployment");
        let one = world.apply(&Value::Null, first, "m", false).unwrap();
        let two = world.apply(&one, second.clone(), "m", false).unwrap();
        let fresh = world.apply(&Value::Null, second, "m", false).unwrap();
        // Containers keep their order from before; as sets both are the same.
        let changes = compare::compare(world.scheme.schema(), world.ty, &two, &fresh).unwrap();
        let left = changes.added.union(&changes.modified);
        prop_assert!(left.is_empty(), "{:?}", changes);
    }

    #[test]
    fn managers_of_different_fields_never_conflict(data in prop::collection::btree_map("[a-c]", "[xy]", 1..4), other in prop::collection::btree_map("[d-f]", "[xy]", 1..4)) {
        let world = World::new("v1", "ConfigMap");
        let one = world.apply(&Value::Null, serde_json::json!({"data": data}), "one", false).unwrap();
        let two = world.apply(&one, serde_json::json!({"data": other}), "two", false);
        prop_assert!(two.is_ok(), "{two:?}");
        let again = world.apply(&two.unwrap(), serde_json::json!({"data": data}), "one", false);
        prop_assert!(again.is_ok());
    }
}
