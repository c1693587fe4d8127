//! The end of a namespace: its pods go first, then everything else, then its finalizer. What is left is asked of the
//! server, never guessed from caches.

use crate::{
    common::objects::{deleting, namespace},
    framework::{Action, Answer, Change, Controller, Key, Kind, Leftover, Object, Plan, Question, View, Write},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Namespace, NamespaceCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use std::collections::BTreeMap;

const FINALIZER: &str = "kubernetes";
/// Shortest and longest wait between two looks at what is left.
const SHORTEST_WAIT: SignedDuration = SignedDuration::from_millis(200);
const LONGEST_WAIT: SignedDuration = SignedDuration::from_secs(15);

/// Empties namespaces that are being deleted.
#[derive(Debug)]
pub(crate) struct Namespaces;

impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Namespace, Kind::Pod]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("Namespace", "spec.finalizers"), ("Namespace", "status.conditions"), ("*", "deleted with its namespace")]
    }

    fn keys(&self, view: &View, change: &Change, keys: &mut Vec<Key>) {
        match change.object() {
            Object::Namespace(found) => keys.push(Key::of(&found.metadata)),
            Object::Pod(pod) if change.new.is_none() => {
                let key = Key::new("", namespace(&pod.metadata));
                if view.namespaces.get(&key).is_some_and(|namespace| deleting(&namespace.metadata)) {
                    keys.push(key);
                }
            }
            _ => {}
        }
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let Some(found) = view.namespaces.get(key) else { return Plan::none() };
        let Some(since) = &found.metadata.deletion_timestamp else { return Plan::none() };
        let finalizers = found.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            return Plan::none();
        }
        let question = Question::Contents { namespace: key.name.clone() };
        let Some(Answer::Contents { left, errors }) = view.memory.answer(&question, since.0) else {
            return vec![Action::ask(question)].into();
        };
        if left.is_empty() && errors.is_empty() {
            return vec![finalize(found, &finalizers)].into();
        }
        let asked = view.memory.answered_at(&question).unwrap_or(now);
        let first = found.status.as_ref().is_none_or(|status| status.conditions.as_ref().is_none_or(Vec::is_empty));
        let pods_went = left.iter().any(is_pods) && view.pods.in_namespace(&key.name).next().is_none();
        let due = asked.saturating_add(wait(since.0, asked)).unwrap_or(Timestamp::MAX);
        let mut plan = Plan::none();
        if !first && !pods_went && now < due {
            plan.look_again(due);
            return plan;
        }
        // Pods first: what they hold (volumes, secrets, network policies) must outlive them.
        let stage: Vec<&Leftover> = if left.iter().any(is_pods) {
            left.iter().filter(|leftover| is_pods(leftover)).collect()
        } else {
            left.iter().collect()
        };
        for leftover in &stage {
            plan.push(Write::DeleteAll { resource: leftover.resource.clone(), namespace: key.name.clone() });
        }
        plan.actions.extend(report(found, &stage, errors, now));
        plan.push(Action::ask(question));
        plan
    }
}

fn is_pods(leftover: &Leftover) -> bool {
    *leftover.resource.plural == *"pods" && leftover.resource.group().is_empty()
}

/// Looks grow rarer the longer a deletion takes.
fn wait(since: Timestamp, asked: Timestamp) -> SignedDuration {
    (asked.duration_since(since) / 4).clamp(SHORTEST_WAIT, LONGEST_WAIT)
}

fn finalize(found: &Namespace, finalizers: &[String]) -> Action {
    let mut namespace = found.clone();
    let rest: Vec<String> = finalizers.iter().filter(|finalizer| *finalizer != FINALIZER).cloned().collect();
    namespace.spec.get_or_insert_default().finalizers = Some(rest);
    Write::UpdateSubresource(namespace.into(), "finalize").into()
}

/// The conditions of a deletion under way, each with its good and its bad news.
fn report(found: &Namespace, left: &[&Leftover], errors: &[String], now: Timestamp) -> Option<Action> {
    let mut resources: Vec<String> = left
        .iter()
        .map(|left| format!("{}.{} has {} resource instances", left.resource.plural, left.resource.group(), left.count))
        .collect();
    resources.sort();
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for (finalizer, count) in left.iter().flat_map(|left| &left.finalizers) {
        *finalizers.entry(finalizer).or_default() += count;
    }
    let finalizers: Vec<String> =
        finalizers.iter().map(|(finalizer, count)| format!("{finalizer} in {count} resource instances")).collect();
    let bad = |list: &[String], reason: &'static str, message: String| (!list.is_empty()).then_some((reason, message));
    let conditions = [
        (
            "NamespaceDeletionDiscoveryFailure",
            bad(
                errors,
                "DiscoveryFailed",
                format!("Discovery failed for some groups, {} failing: {}", errors.len(), errors.join(", ")),
            ),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            None,
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            bad(&resources, "SomeResourcesRemain", format!("Some resources are remaining: {}", resources.join(", "))),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            bad(
                &finalizers,
                "SomeFinalizersRemain",
                format!("Some content in the namespace has finalizers remaining: {}", finalizers.join(", ")),
            ),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    let mut namespace = found.clone();
    let known = namespace.status.get_or_insert_default().conditions.get_or_insert_default();
    let before = known.clone();
    for (kind, bad, good) in conditions {
        let (status, reason, message) = match bad {
            Some((reason, message)) => ("True", reason, message),
            None => ("False", good.0, good.1.to_owned()),
        };
        set(known, kind, status, reason, message, now);
    }
    (*known != before).then(|| Action::update_status(namespace))
}

fn set(known: &mut Vec<NamespaceCondition>, kind: &str, status: &str, reason: &str, message: String, now: Timestamp) {
    let position = known.iter().position(|condition| condition.type_ == kind);
    let since = position
        .and_then(|at| known.get(at))
        .filter(|old| old.status == status)
        .and_then(|old| old.last_transition_time.clone());
    let condition = NamespaceCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(since.unwrap_or(Time(now))),
    };
    match position {
        Some(at) => known[at] = condition,
        None => known.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, lines, object, outline};
    use serde_json::{Value, json};

    fn view(conditions: &Value) -> View {
        let mut view = View::default();
        view.namespaces
            .insert(object(json!({"metadata": {"name": "team", "deletionTimestamp": "1970-01-01T00:01:40Z"},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"conditions": conditions}})));
        view
    }

    fn learn(view: &mut View, seconds: i64, left: &[(Kind, usize)]) {
        let left = left.iter().map(|(kind, count)| Leftover {
            resource: kind.resource(),
            count: *count,
            finalizers: BTreeMap::from([("example.org/keep".to_owned(), *count)]),
        });
        let answer = Answer::Contents { left: left.collect(), errors: Vec::new() };
        view.memory.learn(Question::Contents { namespace: "team".to_owned() }, at(seconds), answer);
    }

    fn plan(view: &View, seconds: i64) -> Plan {
        Namespaces.plan(view, &Key::new("", "team"), at(seconds))
    }

    #[test]
    fn asks_empties_and_finalizes() {
        let mut view = view(&json!([]));
        assert!(lines(&plan(&view, 100))[0].starts_with("ask"));
        learn(&mut view, 100, &[(Kind::Pod, 2), (Kind::Service, 1)]);
        let outlines = outline(&plan(&view, 100));
        assert_eq!(outlines[0].line, "delete-all pods team");
        assert_eq!(outlines[1].line, "status Namespace team");
        let conditions = &outlines[1].body["status"]["conditions"];
        assert_eq!(conditions[3]["message"], "Some resources are remaining: pods. has 2 resource instances");
        assert_eq!(conditions[4]["reason"], "SomeFinalizersRemain");
        assert!(outlines[2].line.starts_with("ask"));
        learn(&mut view, 101, &[]);
        let outlines = outline(&plan(&view, 101));
        assert_eq!(outlines[0].line, "finalize Namespace team");
        assert_eq!(outlines[0].body["spec"]["finalizers"], json!([]));
    }

    #[test]
    fn waits_longer_the_longer_it_takes() {
        let mut view = view(&json!([{"type": "NamespaceContentRemaining", "status": "True"}]));
        learn(&mut view, 140, &[(Kind::Service, 1)]);
        let early = plan(&view, 141);
        assert_eq!((early.actions.len(), early.again), (0, Some(at(150))));
        assert_eq!(lines(&plan(&view, 150))[0], "delete-all services team");
    }

    #[test]
    fn a_live_namespace_is_left_alone() {
        let mut view = View::default();
        view.namespaces.insert(object(json!({"metadata": {"name": "team"}, "spec": {"finalizers": ["kubernetes"]}})));
        assert_eq!(plan(&view, 0), Plan::none());
    }
}
