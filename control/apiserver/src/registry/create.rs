//! POST: a new object.

use super::{
    call::{Call, read_body},
    commit::Put,
    owners, paired, requester,
};
use crate::{
    admission::{self, Operation},
    body::Body,
    cache::Entry,
    custom,
    http::{self, content},
    rules,
};
use std::sync::Arc;
use timonel_api::{
    Status, Value, entries_problem,
    strategy::{GENERATED_SUFFIX, fill_system_fields, generate_name, prepare_create},
};

/// Names tried for `generateName`.
const MAX_GENERATED: usize = 8;
/// Attempts in all, when what is written beside (a quota, an address) changes in between.
const MAX_RACES: usize = 24;

/// What a creation gives: the stored object, or what it would have been.
#[derive(Debug)]
pub(crate) enum Written {
    Stored(Arc<Entry>),
    DryRun(Box<Value>),
}

/// Creates the object in the body and answers with it.
pub(crate) async fn create(call: &Call<'_>, body: Body) -> Result<http::Answer, Status> {
    let bytes = read_body(body).await?;
    // Decoded again for every further attempt, which few creations need; a copy for each first one costs more.
    let read = || {
        let mut object = call.decode_object(content(call.headers)?, &bytes)?;
        check_namespace(call, &mut object)?;
        rules::apply_defaults(&call.view.scheme, &call.view.resource, &mut object);
        owners::Owners::new(call)?.create(&mut object);
        call.view.absorb(object)
    };
    let written = create_object(call, &read).await?;
    super::answer::written(call, written, 201).await
}

/// The same for the decoded object in the storage version that `read` gives, once for each attempt.
pub(crate) async fn create_object(
    call: &Call<'_>,
    read: &(dyn Fn() -> Result<Value, Status> + Sync),
) -> Result<Written, Status> {
    let mut object = read()?;
    let generated = object.str_at(&["metadata", "name"]).is_empty();
    let (mut names, mut last) = (0, None);
    for attempts in 0..MAX_RACES {
        if attempts > 0 {
            object = read()?;
        }
        match attempt(call, std::mem::take(&mut object)).await {
            Err(status) if generated && &*status.reason == "AlreadyExists" && names < MAX_GENERATED => {
                names += 1;
                last = Some(status);
            }
            Ok(None) => {}
            other => return other.and_then(|written| written.ok_or_else(|| Status::internal("nothing was written"))),
        }
        if names == MAX_GENERATED {
            break;
        }
    }
    match last.and_then(|status| status.details) {
        Some(details) if names == MAX_GENERATED => {
            Err(Status::generate_name_conflict(call.view.group(), call.view.plural(), &details.name, 1))
        }
        _ => Err(Status::server_timeout(call.view.group(), call.view.plural(), "create", 1)),
    }
}

/// One attempt; `None` when something that is written beside (a quota, an address) was changed by others.
async fn attempt(call: &Call<'_>, mut object: Value) -> Result<Option<Written>, Status> {
    mutate(call, Operation::Create, &mut object, None).await?;
    let kind = call.view.kind();
    fill_system_fields(&mut object, &call.server.entropy.uuid(), call.now);
    name_it(call, &mut object);
    prepare_create(kind, &mut object, call.now);
    timonel_api::fill_always(call.view.scheme.schema(), call.view.storage.body, &mut object);
    requester::stamp(call, &mut object);
    call.write_type_checks(&mut object);
    let name = object.str_at(&["metadata", "name"]).to_owned();
    let key = call.view.slot.key(call.namespace(), &name);
    let exists = || already_exists(call, &key, &name);
    custom::on_create(call, &mut object);
    let allocated = call.server.services.on_create(call, &mut object).await?;
    judge(call, &object, &name)?;
    let admitted = call.validate(Operation::Create, &mut object, None).await?;
    if call.view.slot.get_key(&key).is_some() {
        return Err(exists());
    }
    if call.dry_run()? {
        return Ok(Some(Written::DryRun(Box::new(object))));
    }
    let mut beside = paired::steps(call.server, admitted.paired)?;
    beside.extend(allocated.steps());
    let alone = beside.is_empty();
    let lease = call.server.events.lease_for(call).await?;
    let put = Put { key: key.clone(), based_on: 0, value: call.encode(&object).await?, lease, beside };
    match call.server.committer.put(&call.view, put).await? {
        Some(entry) => Ok(Some(Written::Stored(entry))),
        None if alone || call.view.slot.get_key(&key).is_some() => Err(exists()),
        None => Ok(None),
    }
}

/// 409; says so when the name will be free again.
fn already_exists(call: &Call<'_>, key: &bytes::Bytes, name: &str) -> Status {
    let mut status = Status::already_exists(call.view.group(), call.view.plural(), name);
    let there = call.view.slot.get_key(key).and_then(|entry| entry.decode().ok());
    if there.is_some_and(|object| !object.str_at(&["metadata", "deletionTimestamp"]).is_empty()) {
        status.message.insert_str(0, "object is being deleted: ");
    }
    status
}

/// Runs the mutating half of admission; entries of owners that it leaves broken are put back.
pub(super) async fn mutate(
    call: &Call<'_>,
    operation: Operation,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    const ENTRIES: [&str; 2] = ["metadata", "managedFields"];
    let before = object.at(&ENTRIES).cloned();
    call.mutate(operation, object, old).await?;
    if object.at(&ENTRIES) == before.as_ref() {
        return Ok(());
    }
    if let Some(problem) = entries_problem(object) {
        call.warn(format!(
            ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; please fix your requests: {problem}"
        ));
        match before {
            Some(before) => object.set_at(&ENTRIES, before),
            None => drop(object.remove_at(&ENTRIES)),
        }
    }
    Ok(())
}

fn judge(call: &Call<'_>, object: &Value, name: &str) -> Result<(), Status> {
    let kind = call.view.kind();
    let mut errors = rules::validate_create(&call.view, object, |warning| call.warn(warning));
    errors.extend(admission::check_expressions(kind, object, None));
    if !errors.is_empty() {
        return Err(Status::invalid(kind.group, kind.kind, name, &errors));
    }
    Ok(())
}

/// Makes a name from `generateName`. Without either, validation refuses with upstream's words.
fn name_it(call: &Call<'_>, object: &mut Value) {
    if !object.str_at(&["metadata", "name"]).is_empty() {
        return;
    }
    let prefix = object.str_at(&["metadata", "generateName"]).to_owned();
    // The one kind that names itself.
    if prefix.is_empty() && call.view.kind().kind == "LimitRange" && call.view.group().is_empty() {
        return object.set_at(&["metadata", "name"], call.server.entropy.uuid());
    }
    if prefix.is_empty() {
        return;
    }
    let mut random = [0; GENERATED_SUFFIX];
    call.server.entropy.fill(&mut random);
    object.set_at(&["metadata", "name"], generate_name(&prefix, &random));
}

/// The object's namespace is the request's.
pub(crate) fn check_namespace(call: &Call<'_>, object: &mut Value) -> Result<(), Status> {
    let found = object.str_at(&["metadata", "namespace"]).to_owned();
    let asked = call.namespace();
    if found.is_empty() && !asked.is_empty() {
        object.set_at(&["metadata", "namespace"], asked);
    } else if asked.is_empty() && !call.view.resource.namespaced && !found.is_empty() {
        object.remove_at(&["metadata", "namespace"]);
    } else if found != asked {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if call.view.resource.namespaced && asked.is_empty() {
        return Err(Status::bad_request("an empty namespace may not be set during creation"));
    }
    Ok(())
}
