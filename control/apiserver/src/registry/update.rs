//! PUT and PATCH: from what is stored to what shall be, again when somebody else was faster.

use super::{
    answer,
    call::{Call, read_body},
    commit::Put,
    create::{Written, check_namespace, create_object, mutate},
    delete,
    owners::Owners,
    paired,
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
use timonel_api::{FieldErrors, Path, Status, Value, keep_times, strategy};

/// Attempts of a change that names no resource version.
const MAX_RACES: usize = 24;

/// Which part of an object a request changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Main,
    Status,
    Finalize,
    Approval,
    EphemeralContainers,
    Resize,
}

impl Part {
    /// The part behind a subresource's name, if it is one that shows the whole object.
    pub(crate) fn of(subresource: &str) -> Option<Self> {
        Some(match subresource {
            "" => Self::Main,
            "status" => Self::Status,
            "finalize" => Self::Finalize,
            "approval" => Self::Approval,
            "ephemeralcontainers" => Self::EphemeralContainers,
            "resize" => Self::Resize,
            _ => return None,
        })
    }
}

/// How the new object comes from the stored one (given in the request's version).
pub(crate) trait Change: Send + Sync {
    fn change(&self, old: &Value) -> Result<Value, Status>;
    /// What is created when there is nothing to change.
    fn new_object(&self) -> Option<Result<Value, Status>>;
    /// Whether it creates what other changes would not.
    fn creates(&self) -> bool {
        false
    }
    /// Whether a lost race is worth another look although the object names a resource version: a patch that
    /// does not name one itself.
    fn retries(&self) -> bool;
}

struct Replace<'a> {
    object: Value,
    owners: Owners<'a>,
}

impl Change for Replace<'_> {
    fn change(&self, old: &Value) -> Result<Value, Status> {
        let mut new = self.object.clone();
        self.owners.update(old, &mut new);
        Ok(new)
    }

    fn new_object(&self) -> Option<Result<Value, Status>> {
        let mut new = self.object.clone();
        self.owners.create(&mut new);
        Some(Ok(new))
    }

    fn retries(&self) -> bool {
        self.object.str_at(&["metadata", "resourceVersion"]).is_empty()
    }
}

/// Answers PUT.
pub(crate) async fn update(call: &Call<'_>, part: Part, body: Body) -> Result<http::Answer, Status> {
    let bytes = read_body(body).await?;
    let mut object = call.decode_object(content(call.headers)?, &bytes)?;
    check_names(call, &mut object)?;
    rules::apply_defaults(&call.view.scheme, &call.view.resource, &mut object);
    modify(call, part, &Replace { object, owners: Owners::new(call)? }).await
}

/// The object's name and namespace are the request's.
pub(crate) fn check_names(call: &Call<'_>, object: &mut Value) -> Result<(), Status> {
    check_namespace(call, object)?;
    let (name, asked) = (object.str_at(&["metadata", "name"]), &*call.info.name);
    if name.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({asked} based on URL) was undeterminable: name must be provided"
        )));
    }
    if name != asked {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({asked})"
        )));
    }
    Ok(())
}

/// Changes an object and answers with it.
pub(crate) async fn modify(call: &Call<'_>, part: Part, change: &dyn Change) -> Result<http::Answer, Status> {
    let (written, created) = modify_object(call, part, change).await?;
    answer::written(call, written, if created { 201 } else { 200 }).await
}

/// Changes an object; tells whether it had to be created.
pub(crate) async fn modify_object(call: &Call<'_>, part: Part, change: &dyn Change) -> Result<(Written, bool), Status> {
    let name = &*call.info.name;
    let key = call.view.slot.key(call.namespace(), name);
    for _ in 0..MAX_RACES {
        let Some(entry) = call.view.slot.get_key(&key) else {
            return create_instead(call, part, change).await;
        };
        match attempt(call, part, change, &entry).await? {
            Attempt::Done(written) => return Ok((written, false)),
            Attempt::Raced { named: true } if !change.retries() => break,
            Attempt::Raced { .. } => {}
        }
    }
    Err(Status::modified(call.view.group(), call.view.plural(), name))
}

async fn create_instead(call: &Call<'_>, part: Part, change: &dyn Change) -> Result<(Written, bool), Status> {
    let missing = || call.view.not_found(&call.info.name);
    let main = part == Part::Main && call.info.subresource.is_empty();
    if !main || !(change.creates() || strategy::allows_create_on_update(call.view.kind())) {
        return Err(missing());
    }
    let object = change.new_object().ok_or_else(missing)??;
    call.authorize_create().await?;
    if !object.str_at(&["metadata", "uid"]).is_empty() {
        let why = format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: ",
            object.str_at(&["metadata", "uid"])
        );
        return Err(Status::conflict(call.view.group(), call.view.plural(), &call.info.name, &why));
    }
    let object = call.view.absorb(object)?;
    Ok((create_object(call, &|| Ok(object.clone())).await?, true))
}

enum Attempt {
    Done(Written),
    /// Somebody else was faster; `named` tells whether the new object names a resource version.
    Raced {
        named: bool,
    },
}

async fn attempt(call: &Call<'_>, part: Part, change: &dyn Change, entry: &Arc<Entry>) -> Result<Attempt, Status> {
    let view = &call.view;
    view.prepare(std::slice::from_ref(entry)).await?;
    let old = view.decode_stored(entry)?;
    let shown = view.shown(&old)?;
    let changed = change.change(&shown)?;
    let mut new = view.absorb(changed)?;
    let named = check_version(call, &new, entry)?;
    match named {
        Some(false) => return Ok(Attempt::Raced { named: true }),
        Some(true) => {}
        None => new.set_at(&["metadata", "resourceVersion"], entry.revision.to_string()),
    }
    check_uid(call, &new, &old)?;
    mutate(call, Operation::Update, &mut new, Some(&old)).await?;
    prepare(call, part, &mut new, &old);
    keep_identity(&mut new, &old);
    keep_times(&old, &mut new);
    custom::on_update(call, &mut new);
    let allocated = if part == Part::Main {
        call.server.services.on_update(call, &mut new, &old).await?
    } else {
        Default::default()
    };
    judge(call, part, &new, &old)?;
    let admitted = call.validate(Operation::Update, &mut new, Some(&old)).await?;
    if call.dry_run()? {
        return Ok(Attempt::Done(Written::DryRun(Box::new(new))));
    }
    if delete::is_released(&new, &old) {
        return match delete::remove(call, entry, admitted).await? {
            true => Ok(Attempt::Done(Written::DryRun(Box::new(new)))),
            false => Ok(Attempt::Raced { named: named.is_some() }),
        };
    }
    let mut beside = paired::steps(call.server, admitted.paired)?;
    let value = call.encode(&new).await?;
    if beside.is_empty() && entry.is(&value) {
        return Ok(Attempt::Done(Written::Stored(entry.clone())));
    }
    beside.extend(allocated.steps());
    let lease = call.server.events.lease_for(call).await?;
    let put = Put { key: entry.key().clone(), based_on: entry.revision, value, lease, beside };
    Ok(match call.server.committer.put(view, put).await? {
        Some(written) => Attempt::Done(Written::Stored(written)),
        None => Attempt::Raced { named: named.is_some() },
    })
}

/// Whether the new object is based on what is stored: `None` when it does not say.
fn check_version(call: &Call<'_>, new: &Value, entry: &Entry) -> Result<Option<bool>, Status> {
    let asked = new.str_at(&["metadata", "resourceVersion"]);
    if asked.is_empty() || asked == "0" {
        if strategy::allows_unconditional_update(call.view.kind()) {
            return Ok(None);
        }
        let mut errors = FieldErrors::new();
        errors.invalid(&Path::new("metadata").child("resourceVersion"), 0, "must be specified for an update");
        let kind = call.view.kind();
        return Err(Status::invalid(kind.group, kind.kind, &call.info.name, &errors));
    }
    let asked = super::list_options::parse_version(asked)?;
    Ok(Some(asked == Some(entry.revision)))
}

fn check_uid(call: &Call<'_>, new: &Value, old: &Value) -> Result<(), Status> {
    let (asked, found) = (new.str_at(&["metadata", "uid"]), old.str_at(&["metadata", "uid"]));
    if asked.is_empty() || asked == found {
        return Ok(());
    }
    let why = format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {found}");
    Err(Status::conflict(call.view.group(), call.view.plural(), &call.info.name, &why))
}

fn prepare(call: &Call<'_>, part: Part, new: &mut Value, old: &Value) {
    match part {
        Part::Main => {
            strategy::prepare_update(call.view.kind(), new, old);
            call.write_type_checks(new);
        }
        Part::Status => strategy::prepare_status_update(call.view.kind(), new, old, call.now),
        Part::Finalize => strategy::prepare_finalize(new, old),
        Part::Approval => strategy::prepare_approval(new, old, call.now),
        Part::EphemeralContainers => strategy::prepare_ephemeral_containers(new, old),
        Part::Resize => strategy::prepare_resize(new, old),
    }
}

/// What neither client nor admission changes.
fn keep_identity(new: &mut Value, old: &Value) {
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        match old.at(&["metadata", field]) {
            Some(value) => new.set_at(&["metadata", field], value.clone()),
            None => drop(new.remove_at(&["metadata", field])),
        }
    }
}

fn judge(call: &Call<'_>, part: Part, new: &Value, old: &Value) -> Result<(), Status> {
    let kind = call.view.kind();
    let mut errors = rules::validate_update(part, &call.view, new, old, |warning| call.warn(warning));
    if part == Part::Main {
        errors.extend(admission::check_expressions(kind, new, Some(old)));
    }
    if !errors.is_empty() {
        return Err(Status::invalid(kind.group, kind.kind, &call.info.name, &errors));
    }
    Ok(())
}
