//! What follows the built-in rules on a write's way: policies, then webhooks, mutating and later validating.

use super::{Operation, policy, webhook, webhook::Subject};
use crate::registry::Call;
use timonel_api::{Status, Value};

/// Lets policies and webhooks change the object, and the built-in rules once more when they did.
pub(crate) async fn mutate_by_others(
    call: &Call<'_>,
    operation: Operation,
    object: &mut Value,
    old: Option<&Value>,
    built_in: impl Fn(&mut Value) -> Result<(), Status> + Send + Sync,
) -> Result<(), Status> {
    let (server, lookup) = (call.server, call.server.lookup.as_ref());
    if server.mutating_policies.is_empty(lookup) && server.mutating_webhooks.is_empty(lookup) {
        return Ok(());
    }
    let options = options(call);
    let judged = subject(call, operation, object, old, &options)?;
    if let Some(new) = call.settled(|| policy::mutate(&judged, &built_in)).await? {
        *object = new;
    }
    if let Some(new) = webhook::mutate(subject(call, operation, object, old, &options)?, &built_in).await? {
        *object = new;
    }
    Ok(())
}

/// Lets policies and webhooks refuse the write.
pub(crate) async fn judge_by_others(
    call: &Call<'_>,
    operation: Operation,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    let (server, lookup) = (call.server, call.server.lookup.as_ref());
    if server.validating_policies.is_empty(lookup) && server.validating_webhooks.is_empty(lookup) {
        return Ok(());
    }
    let options = options(call);
    let subject = subject(call, operation, object, old, &options)?;
    call.settled(|| policy::validate(&subject)).await?;
    webhook::validate(subject).await
}

fn subject<'a>(
    call: &'a Call<'a>,
    operation: Operation,
    object: &'a Value,
    old: Option<&'a Value>,
    options: &'a Value,
) -> Result<Subject<'a>, Status> {
    let (name, namespace) = call.place(old);
    let name = if name.is_empty() { object.str_at(&["metadata", "name"]) } else { name };
    Ok(Subject {
        call,
        operation,
        namespace,
        name,
        subresource: &call.info.subresource,
        object: (!object.is_null()).then_some(object),
        old,
        options,
        dry_run: call.dry_run()?,
    })
}

/// The options of a request as the object that their kind is.
fn options(call: &Call<'_>) -> Value {
    let kind = match &*call.info.verb {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        "patch" => "PatchOptions",
        "delete" | "deletecollection" => "DeleteOptions",
        _ => return Value::Null,
    };
    let mut options = Value::object();
    options.set_at(&["kind"], kind);
    options.set_at(&["apiVersion"], "meta.k8s.io/v1");
    let dry_run: Vec<Value> = call.query.all("dryRun").filter(|value| !value.is_empty()).map(Value::from).collect();
    if !dry_run.is_empty() {
        options.set_at(&["dryRun"], dry_run);
    }
    for name in ["fieldManager", "fieldValidation", "propagationPolicy"] {
        let value = call.query.get(name);
        if !value.is_empty() {
            options.set_at(&[name], value);
        }
    }
    if call.query.flag("force") {
        options.set_at(&["force"], true);
    }
    options
}
