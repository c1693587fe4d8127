//! Carries out StorageVersionMigrations (KEP 4192): one at a time for each resource, the oldest first.

use crate::{
    common::objects::{created, uid},
    framework::{Action, Answer, Change, Controller, Key, Kind, NotMigrated, Object, Plan, Question, Target, View},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::storagemigration::v1beta1::StorageVersionMigration,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use serde_json::{Value, json};

/// A resource that is not there yet may be a definition's that has just been made.
const PATIENCE: SignedDuration = SignedDuration::from_mins(1);
/// Looks for such a resource are this far apart.
const LOOK: SignedDuration = SignedDuration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(crate) struct StorageVersionMigrations;

impl Controller for StorageVersionMigrations {
    fn name(&self) -> &'static str {
        "storage-version-migrator-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::StorageVersionMigration]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("StorageVersionMigration", "status"), ("*", "stored form of a resource that is migrated")]
    }

    fn keys(&self, view: &View, change: &Change, keys: &mut Vec<Key>) {
        let Object::StorageVersionMigration(migration) = change.object() else { return };
        // When one ends, the next of its resource begins.
        keys.extend(next_of(view, migration).map(|next| Key::of(&next.metadata)));
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::none();
        let Some(migration) = view.migrations.get(key).filter(|one| !is_over(one)) else { return plan };
        if next_of(view, migration).is_some_and(|next| next.metadata.uid != migration.metadata.uid) {
            return plan;
        }
        let question = question(migration);
        let since = if running(migration) { created(&migration.metadata) } else { now };
        match view.memory.answer(&question, since) {
            Some(Answer::Migrated(Ok(version))) => {
                let done = condition("Succeeded", "StorageVersionMigrationSucceeded", "", now);
                plan.push(status(migration, done, Some(version)));
            }
            Some(Answer::Migrated(Err(NotMigrated::Unknown))) if now < until(migration) => {
                let asked = view.memory.answered_at(&question).unwrap_or(now);
                let again = asked.saturating_add(LOOK).unwrap_or(Timestamp::MAX);
                if now >= again {
                    plan.push(Action::ask(question));
                } else {
                    plan.look_again(again);
                }
            }
            Some(Answer::Migrated(Err(why))) => {
                let why = match why {
                    NotMigrated::Unknown => "unable to obtain GVR from discovery",
                    NotMigrated::Refused(why) => why,
                };
                let message = format!("migration encountered unhandled error: {why}");
                let failed = condition("Failed", "StorageVersionMigrationFailed", &message, now);
                plan.push(status(migration, failed, None));
            }
            _ => {
                if !running(migration) {
                    let runs = condition("Running", "MigrationRunning", "The migration is running", now);
                    plan.push(status(migration, runs, None));
                }
                plan.push(Action::ask(question));
            }
        }
        plan
    }
}

fn question(migration: &StorageVersionMigration) -> Question {
    let resource = migration.spec.as_ref().map(|spec| &spec.resource);
    Question::Migrated {
        order: uid(&migration.metadata).to_owned(),
        group: resource.map(|one| one.group.clone()).unwrap_or_default(),
        resource: resource.map(|one| one.resource.clone()).unwrap_or_default(),
    }
}

/// Until when its resource is waited for.
fn until(migration: &StorageVersionMigration) -> Timestamp {
    created(&migration.metadata).saturating_add(PATIENCE).unwrap_or(Timestamp::MAX)
}

fn conditions(migration: &StorageVersionMigration) -> &[Condition] {
    migration.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn has(migration: &StorageVersionMigration, types: &[&str]) -> bool {
    conditions(migration).iter().any(|one| one.status == "True" && types.contains(&one.type_.as_str()))
}

fn running(migration: &StorageVersionMigration) -> bool {
    has(migration, &["Running"])
}

fn is_over(migration: &StorageVersionMigration) -> bool {
    has(migration, &["Succeeded", "Failed"])
}

/// Whose turn it is among those for the same resource.
fn next_of<'a>(view: &'a View, migration: &StorageVersionMigration) -> Option<&'a StorageVersionMigration> {
    let resource = |one: &StorageVersionMigration| one.spec.as_ref().map(|spec| spec.resource.clone());
    let same = view.migrations.all().map(AsRef::as_ref);
    let waiting = same.filter(|one| !is_over(one) && resource(one) == resource(migration));
    waiting.min_by_key(|one| (!running(one), created(&one.metadata), one.metadata.name.clone()))
}

fn condition(kind: &str, reason: &str, message: &str, now: Timestamp) -> Condition {
    Condition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: Time(now),
        observed_generation: None,
    }
}

fn status(migration: &StorageVersionMigration, condition: Condition, version: Option<&String>) -> Action {
    let mut all = conditions(migration).to_vec();
    all.push(condition);
    let mut status = json!({"conditions": all});
    if let Some(version) = version {
        status["resourceVersion"] = Value::from(version.clone());
    }
    let target = Target::exact(Kind::StorageVersionMigration, &migration.metadata);
    Action::patch_status(target, json!({"status": status}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, outline};

    fn migration(name: &str, second: i64, conditions: &[&str]) -> StorageVersionMigration {
        let conditions = conditions.iter().map(|kind| {
            json!({"type": kind, "status": "True", "reason": "R", "message": "", "lastTransitionTime": at(second)})
        });
        object(json!({
            "metadata": {"name": name, "uid": name, "resourceVersion": "1", "creationTimestamp": at(second)},
            "spec": {"resource": {"group": "example.com", "resource": "widgets"}},
            "status": {"conditions": conditions.collect::<Vec<_>>()}}))
    }

    fn view(migrations: Vec<StorageVersionMigration>) -> View {
        let mut view = View::default();
        migrations.into_iter().for_each(|one| view.migrations.insert(one));
        view
    }

    /// What is done about a migration after an answer, in words: actions, and the last condition that is written.
    fn done(view: &View, name: &str, now: i64) -> Vec<String> {
        let plan = StorageVersionMigrations.plan(view, &Key::new("", name), at(now));
        let outlines = outline(&plan).into_iter().map(|one| {
            let last = one.body["status"]["conditions"].as_array().and_then(|all| all.last().cloned());
            let verb = one.line.split(' ').next().unwrap_or_default().to_owned();
            last.map_or(verb.clone(), |last| format!("{verb} {} {}", last["type"], last["message"]))
        });
        outlines.collect()
    }

    fn answered(name: &str, answer: Result<String, NotMigrated>) -> View {
        let one = migration(name, 0, &["Running"]);
        let mut view = view(vec![one.clone()]);
        view.memory.learn(question(&one), at(10), Answer::Migrated(answer));
        view
    }

    #[test]
    fn a_migration_runs_and_ends() {
        let start = view(vec![migration("a", 0, &[])]);
        let told = r#"patch-status "Running" "The migration is running""#;
        assert_eq!(done(&start, "a", 1), [told, "ask"]);
        assert_eq!(done(&view(vec![migration("a", 0, &["Running"])]), "a", 1), ["ask"], "taken up again");
        let plan = StorageVersionMigrations.plan(&answered("a", Ok("77".into())), &Key::new("", "a"), at(11));
        let body = &outline(&plan)[0].body;
        assert_eq!(body["status"]["resourceVersion"], "77");
        assert_eq!(body["status"]["conditions"][1]["type"], "Succeeded");
        for over in ["Succeeded", "Failed"] {
            assert!(done(&view(vec![migration("a", 0, &["Running", over])]), "a", 1).is_empty());
        }
    }

    #[test]
    fn what_cannot_be_fails() {
        let refused = answered("a", Err(NotMigrated::Refused("no".into())));
        assert_eq!(done(&refused, "a", 11), [r#"patch-status "Failed" "migration encountered unhandled error: no""#]);
        let unknown = answered("a", Err(NotMigrated::Unknown));
        assert!(done(&unknown, "a", 11).is_empty());
        assert_eq!(done(&unknown, "a", 15), ["ask"], "it may come");
        let failed =
            r#"patch-status "Failed" "migration encountered unhandled error: unable to obtain GVR from discovery""#;
        assert_eq!(done(&unknown, "a", 61), [failed]);
    }

    #[test]
    fn one_at_a_time_and_the_oldest_first() {
        let both = view(vec![migration("a", 5, &[]), migration("b", 3, &[])]);
        assert!(done(&both, "a", 6).is_empty());
        assert_eq!(done(&both, "b", 6).len(), 2);
        let running = view(vec![migration("a", 5, &["Running"]), migration("b", 3, &[])]);
        assert!(done(&running, "b", 6).is_empty());
        let after = view(vec![migration("a", 5, &["Running", "Succeeded"]), migration("b", 3, &[])]);
        let change = Change { old: None, new: Some(Object::from(migration("a", 5, &["Running", "Succeeded"]))) };
        let mut keys = Vec::new();
        StorageVersionMigrations.keys(&after, &change, &mut keys);
        assert_eq!(keys, [Key::new("", "b")]);
    }
}
