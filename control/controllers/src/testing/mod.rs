//! Helpers of this crate's tests: objects from JSON, plans as lines of text, and (in `fake_api`) an API server in memory.

pub(crate) mod fake_api;

use crate::framework::{Object, Plan, Write};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A typed object from JSON.
pub(crate) fn object<T: DeserializeOwned>(mut value: Value) -> T {
    // k8s-openapi checks apiVersion and kind only when they are present in a typed decode; tables leave them out.
    if let Some(fields) = value.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    serde_json::from_value(value).expect("the test's object fits its type")
}

/// Seconds since 1970 as a time.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("in range")
}

/// An action in one line, with the body that would be sent.
#[derive(Debug)]
pub(crate) struct Outline {
    pub(crate) line: String,
    pub(crate) body: Value,
    pub(crate) notes: Vec<String>,
}

fn body(object: &Object) -> Value {
    serde_json::from_slice(&object.to_json().expect("objects encode")).expect("JSON")
}

fn place(object: &Object) -> String {
    let meta = object.meta();
    let name = meta.name.as_ref().or(meta.generate_name.as_ref()).cloned().unwrap_or_default();
    match &meta.namespace {
        Some(namespace) => format!("{:?} {namespace}/{name}", object.kind()),
        None => format!("{:?} {name}", object.kind()),
    }
}

/// A plan, action by action.
pub(crate) fn outline(plan: &Plan) -> Vec<Outline> {
    let line = |write: &Write| match write {
        Write::Create(object) => (format!("create {}", place(object)), body(object)),
        Write::Update(object) => (format!("update {}", place(object)), body(object)),
        Write::UpdateStatus(object) => (format!("status {}", place(object)), body(object)),
        Write::UpdateSubresource(object, name) => (format!("{name} {}", place(object)), body(object)),
        Write::Patch { target, subresource, patch } => {
            let verb = if subresource.is_empty() { "patch" } else { "patch-status" };
            (format!("{verb} {} {}", target.resource.kind, target.key), patch.clone())
        }
        Write::Delete { target, propagation, .. } => {
            let how = propagation.map(|propagation| format!(" {}", propagation.as_str())).unwrap_or_default();
            (format!("delete {} {}{how}", target.resource.kind, target.key), Value::Null)
        }
        Write::DeleteAll { resource, namespace } => {
            (format!("delete-all {} {namespace}", resource.plural), Value::Null)
        }
        Write::Ask(question) => (format!("ask {question:?}"), Value::Null),
        Write::Sign(object) => (format!("sign {}", place(object)), Value::Null),
        Write::Tell => ("tell".to_owned(), Value::Null),
    };
    let outlines = plan.actions.iter().map(|action| {
        let (line, body) = line(&action.write);
        let notes =
            action.success.iter().chain(&action.failure).map(|note| format!("{} {}", note.reason, note.message));
        Outline { line, body, notes: notes.collect() }
    });
    outlines.collect()
}

/// Only the lines of a plan.
pub(crate) fn lines(plan: &Plan) -> Vec<String> {
    outline(plan).into_iter().map(|outline| outline.line).collect()
}
