//! `APIService` objects of what this server answers itself: written at the start for built-in groups, and kept in
//! line with the definitions of custom resources. Which to write is decided in [`plan`], which is pure.

use super::registered::{GROUP, PLURAL, Registered};
use crate::{ApiServer, admission::Lookup, http::JSON, registry};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};
use timonel_api::{Scheme, Status, Value, strategy::semantic_equal};
use timonel_runtime::OnError;

/// Who keeps an object.
const MANAGED: [&str; 3] = ["metadata", "labels", "kube-aggregator.kubernetes.io/automanaged"];
/// Values of that label: once at the start, or always.
const ON_START: &str = "onstart";
const ALWAYS: &str = "true";
/// Priorities of what has none of its own, as upstream gives them to custom resources.
const CUSTOM: (i64, i64) = (1_000, 100);
/// Where the objects are written.
const PATH: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// Upstream's priorities of groups: which comes first in lists, and whose resource a short name means.
const GROUPS: [(&str, i64); 25] = [
    ("", 18_000),
    ("apps", 17_800),
    ("events.k8s.io", 17_750),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("networking.k8s.io", 17_200),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("storage.k8s.io", 16_800),
    ("apiextensions.k8s.io", 16_700),
    ("admissionregistration.k8s.io", 16_700),
    ("scheduling.k8s.io", 16_600),
    ("coordination.k8s.io", 16_500),
    ("node.k8s.io", 16_300),
    ("discovery.k8s.io", 16_200),
    ("resource.k8s.io", 16_200),
    ("flowcontrol.apiserver.k8s.io", 16_100),
    ("internal.apiserver.k8s.io", 16_000),
    ("storagemigration.k8s.io", 15_800),
    // Has no object; it comes before all others.
    ("apiregistration.k8s.io", 20_000),
    ("config.openshift.io", 1_100),
    ("operator.openshift.io", 1_080),
];

/// Versions whose priority is not what [`version_priority`] says of their stage.
const VERSIONS: [(&str, &str, i64); 10] = [
    ("", "v1", 1),
    ("autoscaling", "v2", 30),
    ("authentication.k8s.io", "v1alpha1", 1),
    ("certificates.k8s.io", "v1alpha1", 1),
    ("storage.k8s.io", "v1alpha1", 1),
    ("node.k8s.io", "v1alpha1", 1),
    ("flowcontrol.apiserver.k8s.io", "v1", 21),
    ("resource.k8s.io", "v1", 21),
    ("resource.k8s.io", "v1beta2", 15),
    ("resource.k8s.io", "v1alpha3", 1),
];

fn version_priority(group: &str, version: &str) -> i64 {
    let own = VERSIONS.iter().find(|(known, of, _)| *known == group && *of == version);
    own.map_or(if version.contains("alpha") || version.contains("beta") { 9 } else { 15 }, |own| own.2)
}

/// Priorities of a group and version that this server answers itself.
pub(crate) fn local_priorities(group: &str, version: &str) -> (i64, i64) {
    priorities(group, version, !GROUPS.iter().any(|(known, _)| *known == group))
}

/// Priorities of a group and a version of it.
fn priorities(group: &str, version: &str, custom: bool) -> (i64, i64) {
    let known = GROUPS.iter().find(|(known, _)| *known == group).map(|(_, priority)| *priority);
    match known {
        Some(priority) if !custom => (priority, version_priority(group, version)),
        known => (known.unwrap_or(CUSTOM.0), CUSTOM.1),
    }
}

fn object(group: &str, version: &str, custom: bool) -> Value {
    let (group_priority, priority) = priorities(group, version, custom);
    let mut object = Value::object();
    object.set_at(&["apiVersion"], "apiregistration.k8s.io/v1");
    object.set_at(&["kind"], "APIService");
    object.set_at(&["metadata", "name"], format!("{version}.{group}"));
    object.set_at(&MANAGED, if custom { ALWAYS } else { ON_START });
    if !group.is_empty() {
        object.set_at(&["spec", "group"], group);
    }
    object.set_at(&["spec", "version"], version);
    object.set_at(&["spec", "groupPriorityMinimum"], group_priority);
    object.set_at(&["spec", "versionPriority"], priority);
    object
}

type Wanted = BTreeMap<String, Value>;

fn add(wanted: &mut Wanted, group: &str, version: &str, custom: bool) {
    wanted.entry(format!("{version}.{group}")).or_insert_with(|| object(group, version, custom));
}

/// The objects of built-in groups.
pub(crate) fn built_in(scheme: &Scheme) -> Vec<Value> {
    let mut wanted = Wanted::new();
    for group in scheme.groups().iter().filter(|group| group.name != GROUP) {
        group.versions.iter().for_each(|version| add(&mut wanted, &group.name, version, false));
    }
    wanted.into_values().collect()
}

/// One object to write.
#[derive(Clone, Debug, PartialEq)]
enum Write {
    Create(Value),
    Update(Value),
    Delete(String),
}

/// What to write so that the objects are those that are wanted. Objects that nobody keeps are left alone; those of
/// built-in groups are looked after at the start only.
fn plan(wanted: &Wanted, existing: &BTreeMap<String, Arc<Value>>, at_start: bool) -> Vec<Write> {
    let looked_after = |label: &str| label == ALWAYS || (at_start && label == ON_START);
    let mut writes = Vec::new();
    for (name, object) in wanted {
        match existing.get(name) {
            None if looked_after(object.str_at(&MANAGED)) => writes.push(Write::Create(object.clone())),
            Some(found)
                if looked_after(found.str_at(&MANAGED)) && !semantic_equal(found.get("spec"), object.get("spec")) =>
            {
                let mut changed = Value::clone(found);
                changed.set_at(&["spec"], object.get("spec").cloned().unwrap_or_default());
                writes.push(Write::Update(changed));
            }
            _ => {}
        }
    }
    let gone = existing.iter().filter(|(name, found)| {
        !wanted.contains_key(*name) && looked_after(found.str_at(&MANAGED)) && Registered::read(found).server.is_none()
    });
    writes.extend(gone.map(|(name, _)| Write::Delete(name.clone())));
    writes
}

fn looked(server: &ApiServer, at_start: bool) -> Vec<Write> {
    let resources = server.resources.load();
    let mut wanted = Wanted::new();
    for group in resources.base().groups().iter().filter(|group| group.name != GROUP) {
        group.versions.iter().for_each(|version| add(&mut wanted, &group.name, version, false));
    }
    for view in resources.served().values().flat_map(|served| served.views()) {
        add(&mut wanted, &view.resource.group, &view.resource.version, true);
    }
    let existing = server.lookup.list(GROUP, PLURAL, None);
    let existing = existing.into_iter().map(|found| (found.str_at(&["metadata", "name"]).to_owned(), found)).collect();
    plan(&wanted, &existing, at_start)
}

/// Brings the objects in line with what is served; `at_start` those of built-in groups too.
pub(crate) async fn settle(server: &Arc<ApiServer>, at_start: bool) -> Result<(), Status> {
    for write in looked(server, at_start) {
        let (line, object, fine) = match &write {
            Write::Create(object) => (["POST", PATH, JSON], object, 409),
            Write::Update(object) => {
                let path = format!("{PATH}/{}", object.str_at(&["metadata", "name"]));
                registry::send_to_self(server, ["PUT", &path, JSON], object, &[404, 409]).await?;
                continue;
            }
            Write::Delete(name) => {
                let path = format!("{PATH}/{name}");
                registry::send_to_self(server, ["DELETE", &path, JSON], &Value::Null, &[404]).await?;
                continue;
            }
        };
        registry::send_to_self(server, line, object, &[fine]).await?;
    }
    Ok(())
}

/// Has a task bring the objects in line, when they are not; there is one such task at a time.
pub(super) fn look(server: &Arc<ApiServer>) {
    let busy = &server.aggregation.registering;
    if looked(server, false).is_empty() || busy.swap(true, Ordering::AcqRel) {
        return;
    }
    let weak = Arc::downgrade(server);
    server.tasks.spawn("registration of custom groups", OnError::Log, async move {
        loop {
            let Some(server) = weak.upgrade() else { return Ok(()) };
            let done = settle(&server, false).await;
            let busy = &server.aggregation.registering;
            busy.store(false, Ordering::Release);
            // What changed while this worked was heard of by nobody else.
            if done.is_err() || looked(&server, false).is_empty() || busy.swap(true, Ordering::AcqRel) {
                return done;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(list: &[(&str, &str, bool)]) -> Wanted {
        let mut wanted = Wanted::new();
        list.iter().for_each(|(group, version, custom)| add(&mut wanted, group, version, *custom));
        wanted
    }

    fn found(objects: Vec<Value>) -> BTreeMap<String, Arc<Value>> {
        objects.into_iter().map(|object| (object.str_at(&["metadata", "name"]).to_owned(), Arc::new(object))).collect()
    }

    #[test]
    fn every_built_in_group_is_registered_with_upstreams_priorities() {
        let objects = built_in(&Scheme::kubernetes());
        let priority = |name: &str| {
            let object = objects.iter().find(|object| object.str_at(&["metadata", "name"]) == name).unwrap();
            let number = |field: &str| object.int_at(&["spec", field]).unwrap();
            (number("groupPriorityMinimum"), number("versionPriority"))
        };
        for (name, expected) in [
            ("v1.", (18_000, 1)),
            ("v1.apps", (17_800, 15)),
            ("v2.autoscaling", (17_500, 30)),
            ("v1.flowcontrol.apiserver.k8s.io", (16_100, 21)),
            ("v1.resource.k8s.io", (16_200, 21)),
            ("v1.admissionregistration.k8s.io", (16_700, 15)),
        ] {
            assert_eq!(priority(name), expected, "{name}");
        }
        assert!(objects.iter().all(|object| object.int_at(&["spec", "groupPriorityMinimum"]) > Some(CUSTOM.0)));
        assert!(!objects.iter().any(|object| object.str_at(&["spec", "group"]) == GROUP));
    }

    #[test]
    fn only_what_is_kept_is_written() {
        let wanted = wanted(&[("apps", "v1", false), ("a.b", "v1", true)]);
        let names = |writes: Vec<Write>| -> Vec<String> {
            let name = |object: &Value| object.str_at(&["metadata", "name"]).to_owned();
            let said = |write| match write {
                Write::Create(object) => format!("+{}", name(&object)),
                Write::Update(object) => format!("={}", name(&object)),
                Write::Delete(name) => format!("-{name}"),
            };
            writes.into_iter().map(said).collect()
        };
        assert_eq!(names(plan(&wanted, &found(Vec::new()), true)), ["+v1.a.b", "+v1.apps"]);
        assert_eq!(names(plan(&wanted, &found(Vec::new()), false)), ["+v1.a.b"]);
        assert_eq!(names(plan(&wanted, &found(wanted.values().cloned().collect()), true)), [""; 0]);
        let mut changed = object("a.b", "v1", true);
        changed.set_at(&["spec", "versionPriority"], 7);
        let mut own = object("apps", "v1", false);
        own.set_at(&["spec", "versionPriority"], 7);
        own.remove_at(&MANAGED);
        let gone = object("gone.example", "v1", true);
        assert_eq!(names(plan(&wanted, &found(vec![changed, own, gone]), true)), ["=v1.a.b", "-v1.gone.example"]);
        let mut remote = object("gone.example", "v1", true);
        remote.set_at(&["spec", "service", "name"], "s");
        let rest = [remote, object("apps", "v1", false), object("a.b", "v1", true)];
        assert_eq!(names(plan(&wanted, &found(rest.into()), true)), [""; 0], "a server of its own is somebody's");
    }
}
