//! The schemas and levels that every cluster has, and how they are kept: the mandatory ones exactly, the suggested
//! ones unless somebody said that they are his. Pure.

use std::{collections::BTreeMap, sync::Arc};
use timonel_api::{
    Value,
    strategy::{semantic_equal, timestamp},
};

pub(super) const SCHEMA: &str = "FlowSchema";
const LEVEL: &str = "PriorityLevelConfiguration";
pub(super) const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
/// Whether the server keeps the object's spec.
const AUTO_UPDATE: [&str; 3] = ["metadata", "annotations", "apf.kubernetes.io/autoupdate-spec"];
/// Objects whose spec nobody may change.
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

/// Queues of a level and how many of them a flow is dealt.
type Queues = (i64, i64);

/// Levels: name, shares, percent that may be lent, queues (none: it refuses).
const LEVELS: [(&str, i64, i64, Option<Queues>); 8] = [
    ("exempt", 0, 0, None),
    ("catch-all", 5, 0, None),
    ("system", 30, 33, Some((64, 6))),
    ("node-high", 40, 25, Some((64, 6))),
    ("leader-election", 10, 0, Some((16, 4))),
    ("workload-high", 40, 50, Some((128, 6))),
    ("workload-low", 100, 90, Some((128, 6))),
    ("global-default", 20, 50, Some((128, 6))),
];
const QUEUE_LENGTH: i64 = 50;

/// What a default schema is about.
#[derive(Clone, Copy)]
enum About {
    Everything,
    /// Verbs, and for each rule: group, resources, whether outside namespaces too.
    Resources(&'static [&'static str], &'static [(&'static str, &'static [&'static str], bool)]),
    Health,
}

const NODE: &str = "Group system:nodes";
const EVERYBODY: [&str; 2] = ["Group system:unauthenticated", "Group system:authenticated"];
const KUBE_SYSTEM: &str = "ServiceAccount *";
const LEASES: (&str, &[&str], bool) = ("coordination.k8s.io", &["leases"], false);

type Default = (&'static str, &'static str, i64, &'static str, &'static [&'static str], About);

/// Schemas: name, level, precedence, what tells flows apart, subjects, what they are about.
const SCHEMAS: [Default; 11] = [
    ("exempt", "exempt", 1, "", &["Group system:masters"], About::Everything),
    ("probes", "exempt", 2, "", &EVERYBODY, About::Health),
    (
        "system-leader-election",
        "leader-election",
        100,
        "ByUser",
        &["User system:kube-controller-manager", "User system:kube-scheduler", KUBE_SYSTEM],
        About::Resources(&["get", "create", "update"], &[LEASES]),
    ),
    (
        "system-node-high",
        "node-high",
        400,
        "ByUser",
        &[NODE],
        About::Resources(&["*"], &[("", &["nodes", "nodes/status"], true), LEASES]),
    ),
    ("system-nodes", "system", 500, "ByUser", &[NODE], About::Everything),
    (
        "kube-controller-manager",
        "workload-high",
        800,
        "ByNamespace",
        &["User system:kube-controller-manager"],
        About::Everything,
    ),
    ("kube-scheduler", "workload-high", 800, "ByNamespace", &["User system:kube-scheduler"], About::Everything),
    ("kube-system-service-accounts", "workload-high", 900, "ByNamespace", &[KUBE_SYSTEM], About::Everything),
    ("service-accounts", "workload-low", 9_000, "ByUser", &["Group system:serviceaccounts"], About::Everything),
    ("global-default", "global-default", 9_900, "ByUser", &EVERYBODY, About::Everything),
    (
        "catch-all",
        "catch-all",
        10_000,
        "ByUser",
        &["Group system:unauthenticated", "Group system:authenticated"],
        About::Everything,
    ),
];

fn object(kind: &str, name: &str) -> Value {
    let mut object = Value::object();
    object.set_at(&["apiVersion"], VERSION);
    object.set_at(&["kind"], kind);
    object.set_at(&["metadata", "name"], name);
    object.set_at(&AUTO_UPDATE, "true");
    object
}

fn list(texts: &[&str]) -> Vec<Value> {
    texts.iter().map(|text| Value::from(*text)).collect()
}

fn level((name, shares, lendable, queues): (&str, i64, i64, Option<(i64, i64)>)) -> Value {
    let mut object = object(LEVEL, name);
    let (kind, part) = if name == "exempt" { ("Exempt", "exempt") } else { ("Limited", "limited") };
    object.set_at(&["spec", "type"], kind);
    object.set_at(&["spec", part, "nominalConcurrencyShares"], shares);
    object.set_at(&["spec", part, "lendablePercent"], lendable);
    if part == "limited" {
        let response = |field: &'static str| ["spec", "limited", "limitResponse", field];
        object.set_at(&response("type"), if queues.is_some() { "Queue" } else { "Reject" });
        if let Some((queues, hand)) = queues {
            let queuing = object.entry_at(&response("queuing"));
            queuing.set_at(&["queues"], queues);
            queuing.set_at(&["handSize"], hand);
            queuing.set_at(&["queueLengthLimit"], QUEUE_LENGTH);
        }
    }
    object
}

fn subject(text: &str) -> Value {
    let (kind, name) = text.split_once(' ').unwrap_or((text, ""));
    let mut subject = Value::object();
    subject.set_at(&["kind"], kind);
    match kind {
        "ServiceAccount" => {
            subject.set_at(&["serviceAccount", "namespace"], "kube-system");
            subject.set_at(&["serviceAccount", "name"], name);
        }
        "User" => subject.set_at(&["user", "name"], name),
        _ => subject.set_at(&["group", "name"], name),
    }
    subject
}

fn resource_rule(verbs: &[&str], group: &str, resources: &[&str], cluster: bool) -> Value {
    let mut rule = Value::object();
    rule.set_at(&["verbs"], list(verbs));
    rule.set_at(&["apiGroups"], list(&[group]));
    rule.set_at(&["resources"], list(resources));
    if cluster {
        rule.set_at(&["clusterScope"], true);
    }
    rule.set_at(&["namespaces"], list(&["*"]));
    rule
}

fn path_rule(verb: &str, urls: &[&str]) -> Value {
    let mut rule = Value::object();
    rule.set_at(&["verbs"], list(&[verb]));
    rule.set_at(&["nonResourceURLs"], list(urls));
    rule
}

fn schema((name, level, precedence, by, subjects, about): Default) -> Value {
    let mut object = object(SCHEMA, name);
    object.set_at(&["spec", "priorityLevelConfiguration", "name"], level);
    object.set_at(&["spec", "matchingPrecedence"], precedence);
    if !by.is_empty() {
        object.set_at(&["spec", "distinguisherMethod", "type"], by);
    }
    let mut rule = Value::object();
    rule.set_at(&["subjects"], subjects.iter().map(|text| subject(text)).collect::<Vec<_>>());
    let (resources, paths) = match about {
        About::Everything => (vec![resource_rule(&["*"], "*", &["*"], true)], vec![path_rule("*", &["*"])]),
        About::Health => (Vec::new(), vec![path_rule("get", &["/healthz", "/readyz", "/livez"])]),
        About::Resources(verbs, rules) => {
            let rule =
                |(group, resources, cluster): &(&str, &[&str], bool)| resource_rule(verbs, group, resources, *cluster);
            (rules.iter().map(rule).collect(), Vec::new())
        }
    };
    for (field, rules) in [("resourceRules", resources), ("nonResourceRules", paths)] {
        if !rules.is_empty() {
            rule.set_at(&[field], rules);
        }
    }
    object.set_at(&["spec", "rules"], vec![rule]);
    object
}

/// The levels.
pub(super) fn levels() -> Vec<Value> {
    LEVELS.into_iter().map(level).collect()
}

/// The schemas.
pub(super) fn schemas() -> Vec<Value> {
    SCHEMAS.into_iter().map(schema).collect()
}

/// All of them as a new cluster gets them: with the state in which they are.
pub(crate) fn objects(now: jiff::Timestamp) -> Vec<Value> {
    let mut schemas = schemas();
    for schema in &mut schemas {
        let condition = dangling(schema, true, now);
        schema.set_at(&["status", "conditions"], vec![condition]);
    }
    levels().into_iter().chain(schemas).collect()
}

const DANGLING: &str = "Dangling";

/// The condition that says whether the level is there that a schema names.
fn dangling(schema: &Value, found: bool, now: jiff::Timestamp) -> Value {
    let name = schema.str_at(&["spec", "priorityLevelConfiguration", "name"]);
    let about = format!("This FlowSchema references the PriorityLevelConfiguration object named {name:?}");
    let (status, reason, message) = if found {
        ("False", "Found", format!("{about} and it exists"))
    } else {
        ("True", "NotFound", format!("{about} but there is no such object"))
    };
    let mut condition = Value::object();
    for (field, text) in [
        ("type", DANGLING),
        ("status", status),
        ("lastTransitionTime", &*timestamp(now)),
        ("reason", reason),
        ("message", &message),
    ] {
        condition.set_at(&[field], text);
    }
    condition
}

/// Objects by name.
pub(super) type Named = BTreeMap<String, Arc<Value>>;

/// One object to write.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Write {
    Create(Value),
    Update(Value),
    Status(Value),
    Delete(Value),
}

fn keeps(found: &Value) -> bool {
    let mandatory = MANDATORY.contains(&found.str_at(&["metadata", "name"]));
    mandatory
        || match found.str_at(&AUTO_UPDATE) {
            // Who never changed an object leaves it to the server.
            "" => found.int_at(&["metadata", "generation"]) == Some(1) && is_default(found),
            said => said == "true",
        }
}

fn is_default(found: &Value) -> bool {
    let name = found.str_at(&["metadata", "name"]);
    SCHEMAS.iter().any(|default| default.0 == name) || LEVELS.iter().any(|default| default.0 == name)
}

/// An object as it is stored lacks its kind.
fn of_kind(found: &Value, kind: &str) -> Value {
    let mut object = Value::clone(found);
    object.set_at(&["apiVersion"], VERSION);
    object.set_at(&["kind"], kind);
    object
}

fn plan_kind(kind: &str, wanted: &[Value], existing: &Named, writes: &mut Vec<Write>) {
    for wanted in wanted {
        match existing.get(wanted.str_at(&["metadata", "name"])) {
            None => writes.push(Write::Create(wanted.clone())),
            Some(found) if keeps(found) && !semantic_equal(found.get("spec"), wanted.get("spec")) => {
                let mut changed = of_kind(found, kind);
                changed.set_at(&["spec"], wanted.get("spec").cloned().unwrap_or_default());
                changed.set_at(&AUTO_UPDATE, "true");
                writes.push(Write::Update(changed));
            }
            Some(_) => {}
        }
    }
    let gone = existing.values().filter(|found| !is_default(found) && found.str_at(&AUTO_UPDATE) == "true");
    writes.extend(gone.map(|found| Write::Delete(of_kind(found, kind))));
}

/// What to write so that the objects are as they should be.
pub(super) fn plan(known_levels: &Named, known_schemas: &Named, now: jiff::Timestamp) -> Vec<Write> {
    let mut writes = Vec::new();
    plan_kind(LEVEL, &levels(), known_levels, &mut writes);
    plan_kind(SCHEMA, &schemas(), known_schemas, &mut writes);
    for found in known_schemas.values() {
        let level = found.str_at(&["spec", "priorityLevelConfiguration", "name"]);
        let mut wanted = dangling(found, known_levels.contains_key(level) || MANDATORY.contains(&level), now);
        let conditions = found.list_at(&["status", "conditions"]);
        let known = conditions.iter().find(|condition| condition.str_at(&["type"]) == DANGLING);
        let same = |field: &str| known.is_some_and(|known| known.str_at(&[field]) == wanted.str_at(&[field]));
        if same("status") && same("reason") && same("message") {
            continue;
        }
        if let Some(known) = known.filter(|_| same("status")) {
            wanted.set_at(&["lastTransitionTime"], known.str_at(&["lastTransitionTime"]));
        }
        let mut changed = of_kind(found, SCHEMA);
        let conditions = changed.entry_at(&["status", "conditions"]).make_list();
        conditions.retain(|condition| condition.str_at(&["type"]) != DANGLING);
        conditions.push(wanted);
        writes.push(Write::Status(changed));
    }
    writes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(objects: impl IntoIterator<Item = Value>) -> Named {
        objects.into_iter().map(|one| (one.str_at(&["metadata", "name"]).to_owned(), Arc::new(one))).collect()
    }

    fn now() -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }

    fn said(writes: &[Write]) -> Vec<String> {
        let text = |mark: char, object: &Value| format!("{mark}{}", object.str_at(&["metadata", "name"]));
        let one = |write: &Write| match write {
            Write::Create(object) => text('+', object),
            Write::Update(object) => text('=', object),
            Write::Status(object) => text('~', object),
            Write::Delete(object) => text('-', object),
        };
        writes.iter().map(one).collect()
    }

    fn all() -> (Named, Named) {
        let (schemas, levels): (Vec<_>, Vec<_>) =
            objects(now()).into_iter().partition(|object| object.str_at(&["kind"]) == "FlowSchema");
        (named(levels), named(schemas))
    }

    #[test]
    fn what_a_new_cluster_gets_needs_no_write() {
        let (levels, schemas) = all();
        assert_eq!((levels.len(), schemas.len()), (8, 11));
        assert_eq!(said(&plan(&levels, &schemas, now())), [""; 0]);
        assert_eq!(plan(&Named::new(), &Named::new(), now()).len(), 19);
    }

    #[test]
    fn mandatory_objects_are_exact_and_suggested_ones_may_be_taken_over() {
        let (levels, mut schemas) = all();
        let mut change = |name: &str, auto: &str| {
            let mut object = Value::clone(&schemas[name]);
            object.set_at(&["spec", "matchingPrecedence"], 77);
            object.set_at(&AUTO_UPDATE, auto);
            schemas.insert(name.to_owned(), Arc::new(object));
        };
        change("catch-all", "false");
        change("probes", "false");
        change("service-accounts", "true");
        assert_eq!(said(&plan(&levels, &schemas, now())), ["=service-accounts", "=catch-all"]);
    }

    #[test]
    fn schemas_without_a_level_dangle() {
        let (levels, mut schemas) = all();
        let mut own = Value::clone(&schemas["probes"]);
        own.set_at(&["metadata", "name"], "own");
        own.remove_at(&AUTO_UPDATE);
        own.set_at(&["spec", "priorityLevelConfiguration", "name"], "nowhere");
        schemas.insert("own".into(), Arc::new(own));
        let writes = plan(&levels, &schemas, now());
        let Write::Status(changed) = &writes[0] else { panic!("{writes:?}") };
        let condition = &changed.list_at(&["status", "conditions"])[0];
        assert_eq!((condition.str_at(&["status"]), condition.str_at(&["reason"])), ("True", "NotFound"));
        assert_eq!(
            condition.str_at(&["message"]),
            "This FlowSchema references the PriorityLevelConfiguration object named \"nowhere\" but there is no such object"
        );
        let unwanted = level(("old", 5, 0, None));
        let mut levels = levels;
        levels.insert("old".into(), Arc::new(unwanted));
        assert!(said(&plan(&levels, &schemas, now())).contains(&"-old".to_owned()));
    }
}
