//! DELETE: preconditions, grace, finalizers, dependants; one object or a selection.

use super::{
    answer,
    call::{Admitted, Call, read_body},
    commit::{self, Outcome, Put, lane_of},
    paired, read,
};
use crate::{
    admission::Operation,
    body::Body,
    cache::Entry,
    custom,
    http::{self, content},
    rules,
};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use timonel_api::{FieldErrors, Path, Status, Value, strategy, strategy::Propagation};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Attempts when the object changes in between.
const MAX_RACES: usize = 24;
/// Objects deleted between two looks at whether the client is still there.
const BATCH: usize = 500;

/// `DeleteOptions`, from the body and the query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeleteOptions {
    pub(crate) grace: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) policy: Option<String>,
    pub(crate) orphan: Option<bool>,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    pub(crate) async fn read(call: &Call<'_>, body: Body) -> Result<Self, Status> {
        let bytes = read_body(body).await?;
        let mut options = Self { dry_run: call.dry_run()?, ..Self::default() };
        if bytes.is_empty() {
            options.read_query(call)?;
        } else {
            let ty = rules::delete_options_type(&call.view.scheme).ok_or_else(Status::no_such_resource)?;
            options.read_value(&call.decode(ty, "DeleteOptions", content(call.headers)?, &bytes)?);
        }
        options.check()?;
        if options.policy.is_none() && options.orphan.is_none() {
            timonel_api::deletion_warning(call.view.kind()).into_iter().for_each(|warning| call.warn(warning));
        }
        Ok(options)
    }

    fn read_query(&mut self, call: &Call<'_>) -> Result<(), Status> {
        let text = |name| Some(call.query.get(name)).filter(|text| !text.is_empty()).map(str::to_owned);
        self.policy = text("propagationPolicy");
        self.orphan = call.query.find("orphanDependents").map(|_| call.query.flag("orphanDependents"));
        if let Some(grace) = text("gracePeriodSeconds") {
            let invalid = || Status::bad_request(format!("strconv.ParseInt: parsing {grace:?}: invalid syntax"));
            self.grace = Some(grace.parse().map_err(|_| invalid())?);
        }
        Ok(())
    }

    pub(crate) fn read_value(&mut self, value: &Value) {
        let text = |path: &[&str]| value.at(path).and_then(Value::as_str).map(str::to_owned);
        self.grace = value.int_at(&["gracePeriodSeconds"]);
        self.uid = text(&["preconditions", "uid"]);
        self.resource_version = text(&["preconditions", "resourceVersion"]);
        self.policy = text(&["propagationPolicy"]).filter(|policy| !policy.is_empty());
        self.orphan = value.bool_at(&["orphanDependents"]);
        self.dry_run |= value.list_at(&["dryRun"]).iter().any(|item| item.as_str() == Some("All"));
    }

    fn check(&self) -> Result<(), Status> {
        let mut errors = FieldErrors::new();
        if let Some(policy) = &self.policy {
            let known = ["Foreground", "Background", "Orphan"];
            if !known.contains(&policy.as_str()) {
                errors.not_supported(&Path::new("propagationPolicy"), policy.as_str(), &known);
            }
            if self.orphan.is_some() {
                errors.invalid(
                    &Path::new("propagationPolicy"),
                    policy.as_str(),
                    "orphanDependents and deletionPropagation cannot be both set",
                );
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors)) }
    }
}

/// What one look at an object decides.
#[derive(Debug, PartialEq)]
enum Step {
    /// Nothing: it is on its way already.
    Pending,
    /// Mark it (timestamp, grace, finalizers) and leave it to others.
    Mark(Box<Value>),
    /// Take it away.
    Remove,
}

/// Answers DELETE of one object.
pub(crate) async fn delete(call: &Call<'_>, body: Body) -> Result<http::Answer, Status> {
    let options = DeleteOptions::read(call, body).await?;
    let name = &*call.info.name;
    let deleted = delete_named(call, call.namespace(), name, &options).await?;
    answer::deleted(call, &deleted, name)
}

/// What a deletion left.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// The object goes on until its grace ends or its finalizers are gone.
    Marked(Value),
    /// It is gone; this was its last state.
    Gone(Value),
}

/// Deletes one object, or sets its end in motion.
pub(crate) async fn delete_named(
    call: &Call<'_>,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
    for _ in 0..MAX_RACES {
        let entry = call.view.slot.get(namespace, name).ok_or_else(|| call.view.not_found(name))?;
        call.view.prepare(std::slice::from_ref(&entry)).await?;
        let old = call.view.decode_stored(&entry)?;
        check_preconditions(call, name, options, &old)?;
        call.mutate(Operation::Delete, &mut Value::Null, Some(&old)).await?;
        let admitted = call.validate(Operation::Delete, &mut Value::Null, Some(&old)).await?;
        match decide(call, &old, options) {
            Step::Pending => return Ok(Deleted::Marked(call.view.present(old)?)),
            Step::Mark(new) if options.dry_run => return Ok(Deleted::Marked(call.view.present(*new)?)),
            Step::Mark(new) => {
                let put = Put {
                    key: entry.key().clone(),
                    based_on: entry.revision,
                    value: call.encode(&new).await?,
                    lease: None,
                    beside: Vec::new(),
                };
                if let Some(entry) = call.server.committer.put(&call.view, put).await? {
                    call.view.prepare(std::slice::from_ref(&entry)).await?;
                    return Ok(Deleted::Marked(call.view.decode(&entry)?));
                }
            }
            Step::Remove if options.dry_run => return Ok(Deleted::Gone(call.view.present(old)?)),
            Step::Remove => {
                if remove(call, &entry, admitted).await? {
                    return Ok(Deleted::Gone(call.view.present(old)?));
                }
            }
        }
    }
    Err(Status::modified(call.view.group(), call.view.plural(), name))
}

fn check_preconditions(call: &Call<'_>, name: &str, options: &DeleteOptions, old: &Value) -> Result<(), Status> {
    let conflict = |why: &str| Status::conflict(call.view.group(), call.view.plural(), name, why);
    let (uid, version) = (old.str_at(&["metadata", "uid"]), old.str_at(&["metadata", "resourceVersion"]));
    if let Some(asked) = options.uid.as_deref().filter(|asked| *asked != uid) {
        return Err(conflict(&format!(
            "the UID in the precondition ({asked}) does not match the UID in record ({uid}). The object might have \
             been deleted and then recreated"
        )));
    }
    if let Some(asked) = options.resource_version.as_deref().filter(|asked| *asked != version) {
        return Err(conflict(&format!(
            "the ResourceVersion in the precondition ({asked}) does not match the ResourceVersion in record \
             ({version}). The object might have been modified"
        )));
    }
    Ok(())
}

fn decide(call: &Call<'_>, old: &Value, options: &DeleteOptions) -> Step {
    if call.view.plural() == "namespaces" && call.view.group().is_empty() {
        return decide_namespace(old, options, call.now);
    }
    if custom::is_definition(&call.view) {
        return decide_object(call.view.kind(), &custom::on_delete(old, call.now), options, call.now);
    }
    decide_object(call.view.kind(), old, options, call.now)
}

fn decide_object(kind: timonel_api::KindRef<'_>, old: &Value, options: &DeleteOptions, now: Timestamp) -> Step {
    let mut new = old.clone();
    let graceful = match shorten(old, options, &mut new) {
        Grace::Pending => return Step::Pending,
        Grace::Shorter(seconds) => Some(seconds),
        Grace::Fresh => strategy::deletion_grace(kind, old, options.grace)
            .filter(|_| old.str_at(&["metadata", "deletionTimestamp"]).is_empty())
            .inspect(|seconds| mark(&mut new, now, *seconds)),
    };
    let had_finalizers = !old.list_at(&["metadata", "finalizers"]).is_empty();
    let changed = set_dependants_finalizer(kind, &mut new, options);
    let pending = !new.list_at(&["metadata", "finalizers"]).is_empty();
    match graceful {
        Some(seconds) if seconds > 0 || pending => Step::Mark(Box::new(new)),
        _ if pending => {
            if old.str_at(&["metadata", "deletionTimestamp"]).is_empty() {
                mark(&mut new, now, 0);
            }
            if had_finalizers && !changed && new == *old { Step::Pending } else { Step::Mark(Box::new(new)) }
        }
        _ => Step::Remove,
    }
}

enum Grace {
    /// Not being deleted gracefully yet (or not a kind that is).
    Fresh,
    /// Being deleted, and this request does not hasten it.
    Pending,
    /// Being deleted, and this request leaves so many seconds.
    Shorter(i64),
}

fn shorten(old: &Value, options: &DeleteOptions, new: &mut Value) -> Grace {
    let marked = old.str_at(&["metadata", "deletionTimestamp"]);
    let Some(current) = old.int_at(&["metadata", "deletionGracePeriodSeconds"]).filter(|_| !marked.is_empty()) else {
        return Grace::Fresh;
    };
    // Only pods have a grace above zero; an object that only waits for finalizers is looked at afresh.
    match options.grace {
        Some(asked) if asked < current => {
            let end: Option<Timestamp> = marked.parse().ok();
            if let Some(end) = end.and_then(|end| end.checked_add(SignedDuration::from_secs(asked - current)).ok()) {
                new.set_at(&["metadata", "deletionTimestamp"], strategy::timestamp(end));
            }
            new.set_at(&["metadata", "deletionGracePeriodSeconds"], asked);
            Grace::Shorter(asked)
        }
        _ if current > 0 => Grace::Pending,
        _ => Grace::Fresh,
    }
}

fn mark(new: &mut Value, now: Timestamp, seconds: i64) {
    let end = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(now);
    new.set_at(&["metadata", "deletionTimestamp"], strategy::timestamp(end));
    new.set_at(&["metadata", "deletionGracePeriodSeconds"], seconds);
    if let Some(generation) = new.int_at(&["metadata", "generation"]).filter(|generation| *generation > 0) {
        new.set_at(&["metadata", "generation"], generation + 1);
    }
}

/// Sets or takes away the finalizers by which the garbage collector knows what to do with dependants. Returns
/// whether that changed anything.
fn set_dependants_finalizer(kind: timonel_api::KindRef<'_>, new: &mut Value, options: &DeleteOptions) -> bool {
    let default = strategy::default_propagation(kind);
    if default == Propagation::Unsupported {
        return false;
    }
    let has = |name: &str| new.list_at(&["metadata", "finalizers"]).iter().any(|item| item.as_str() == Some(name));
    let (has_orphan, has_foreground) = (has(ORPHAN), has(FOREGROUND));
    let wanted = match (options.policy.as_deref(), options.orphan) {
        (Some("Orphan"), _) | (None, Some(true)) => Some(ORPHAN),
        (Some("Foreground"), _) => Some(FOREGROUND),
        (Some(_), _) | (None, Some(false)) => None,
        (None, None) if has_orphan => Some(ORPHAN),
        (None, None) if has_foreground => Some(FOREGROUND),
        (None, None) => (default == Propagation::Orphan).then_some(ORPHAN),
    };
    if has_orphan == (wanted == Some(ORPHAN)) && has_foreground == (wanted == Some(FOREGROUND)) {
        return false;
    }
    let list = new.entry_at(&["metadata", "finalizers"]).make_list();
    list.retain(|item| !matches!(item.as_str(), Some(ORPHAN | FOREGROUND)));
    list.extend(wanted.map(Value::from));
    if list.is_empty() {
        new.remove_at(&["metadata", "finalizers"]);
    }
    true
}

/// A namespace ends in two steps: it is marked, and its finalizer goes when it is empty.
fn decide_namespace(old: &Value, options: &DeleteOptions, now: Timestamp) -> Step {
    let _ = options;
    let mut new = old.clone();
    if old.str_at(&["metadata", "deletionTimestamp"]).is_empty() {
        new.set_at(&["metadata", "deletionTimestamp"], strategy::timestamp(now));
    }
    new.set_at(&["status", "phase"], "Terminating");
    let busy = !old.list_at(&["spec", "finalizers"]).is_empty() || !old.list_at(&["metadata", "finalizers"]).is_empty();
    if !busy {
        Step::Remove
    } else if new == *old {
        Step::Pending
    } else {
        Step::Mark(Box::new(new))
    }
}

/// Whether an update takes away the last reason why a deleted object is still there.
pub(crate) fn is_released(new: &Value, old: &Value) -> bool {
    let free = |value: &Value| {
        value.list_at(&["metadata", "finalizers"]).is_empty()
            && (value.str_at(&["kind"]) != "Namespace" || value.list_at(&["spec", "finalizers"]).is_empty())
    };
    let deleted = !old.str_at(&["metadata", "deletionTimestamp"]).is_empty();
    let grace = old.int_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0);
    deleted && grace == 0 && free(new)
}

/// Takes an object out of the store; `false` when it changed meanwhile.
pub(crate) async fn remove(call: &Call<'_>, entry: &Arc<Entry>, admitted: Admitted) -> Result<bool, Status> {
    let mut beside = call.server.services.on_delete(call, entry)?;
    beside.extend(paired::steps(call.server, admitted.paired)?);
    let change = commit::Change {
        key: entry.key().clone(),
        based_on: entry.revision,
        value: None,
        lease: None,
        lane: lane_of(&call.view),
        beside,
    };
    Ok(matches!(call.server.committer.commit(change).await?, Outcome::Done(_)))
}

/// Answers DELETE of a collection.
pub(crate) async fn delete_collection(call: &Call<'_>, body: Body) -> Result<http::Answer, Status> {
    let options = DeleteOptions::read(call, body).await?;
    let page = read::page(call).await?;
    for batch in page.entries.chunks(BATCH) {
        for entry in batch {
            match delete_named(call, entry.namespace(), entry.name(), &options).await {
                Err(status) if status.code == 404 || (status.code == 409 && options.uid.is_none()) => {}
                other => drop(other?),
            }
        }
        tokio::task::yield_now().await;
    }
    answer::list(call, page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use timonel_api::KindRef;

    const POD: KindRef<'static> = KindRef::builtin("", "Pod", true);
    const DEPLOYMENT: KindRef<'static> = KindRef::builtin("apps", "Deployment", true);

    fn step(kind: KindRef<'_>, object: serde_json::Value, options: &DeleteOptions) -> String {
        let now: Timestamp = "2026-11-01T10:00:00Z".parse().unwrap();
        match decide_object(kind, &object.into(), options, now) {
            Step::Pending => "pending".into(),
            Step::Remove => "remove".into(),
            Step::Mark(new) => format!(
                "{} {} {}",
                new.str_at(&["metadata", "deletionTimestamp"]),
                new.int_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or(-1),
                new.list_at(&["metadata", "finalizers"]).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
            ),
        }
    }

    #[test]
    fn deletions_take_upstreams_steps() {
        let none = DeleteOptions::default();
        let grace = |seconds| DeleteOptions { grace: Some(seconds), ..DeleteOptions::default() };
        let policy = |name: &str| DeleteOptions { policy: Some(name.into()), ..DeleteOptions::default() };
        let running = json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}});
        let ending = json!({"metadata": {"deletionTimestamp": "2026-11-01T10:00:20Z", "deletionGracePeriodSeconds": 30},
            "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}});
        let held = json!({"metadata": {"finalizers": ["x/y"]}});
        for (kind, object, options, expected) in [
            (POD, running.clone(), &none, "2026-11-01T10:00:30Z 30 "),
            (POD, running, &grace(0), "remove"),
            (POD, json!({"spec": {}}), &none, "remove"),
            (POD, ending.clone(), &none, "pending"),
            (POD, ending.clone(), &grace(60), "pending"),
            (POD, ending.clone(), &grace(5), "2026-11-01T09:59:55Z 5 "),
            (POD, ending, &grace(0), "remove"),
            (DEPLOYMENT, json!({}), &none, "remove"),
            (DEPLOYMENT, held, &none, "2026-11-01T10:00:00Z 0 x/y"),
            (DEPLOYMENT, json!({}), &policy("Foreground"), "2026-11-01T10:00:00Z 0 foregroundDeletion"),
            (DEPLOYMENT, json!({}), &policy("Orphan"), "2026-11-01T10:00:00Z 0 orphan"),
            (DEPLOYMENT, json!({"metadata": {"finalizers": ["orphan"]}}), &policy("Background"), "remove"),
        ] {
            assert_eq!(step(kind, object.clone(), options), expected, "{object} {options:?}");
        }
    }

    #[test]
    fn an_object_goes_with_its_last_finalizer() {
        let held = json!({"metadata": {"finalizers": ["a"], "deletionTimestamp": "t"}});
        let free = json!({"metadata": {"deletionTimestamp": "t"}});
        let alive = json!({"metadata": {}});
        let leaving = json!({"metadata": {"deletionTimestamp": "t", "deletionGracePeriodSeconds": 30}});
        for (new, old, expected) in
            [(&free, &held, true), (&alive, &alive, false), (&held, &held, false), (&leaving, &leaving, false)]
        {
            assert_eq!(is_released(&new.clone().into(), &old.clone().into()), expected, "{new}");
        }
    }
}
