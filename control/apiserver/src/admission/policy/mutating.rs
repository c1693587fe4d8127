//! Mutating admission policies: patches made by expressions, applied in order.

use super::{
    compiled::{Binding, Mutation, Policy},
    conditions::{Matched, holds},
    expressions::{Inputs, Variables},
    parameters,
    validating::{evaluate, is_excluded},
};
use crate::{
    admission::{
        Lookup,
        webhook::{Subject, read_back},
    },
    registry::View,
};
use std::{collections::BTreeSet, sync::Arc};
use timonel_api::{Key, Limits, Status, Value, json_patch};
use timonel_cel::{Budget, ObjectType, Structs, Type};

/// Types that mutating expressions may write: `JSONPatch{...}`, and `Object`, `Object.spec` and so on, whose fields
/// are known only when they are applied.
#[derive(Debug)]
pub(crate) struct MutationStructs;

impl MutationStructs {
    /// One operation of a JSON patch.
    pub(super) fn patch() -> ObjectType {
        let text = |name: &str| (Key::from(name), Type::String);
        ObjectType::new("JSONPatch", [text("op"), text("path"), text("from"), (Key::from("value"), Type::Dyn)])
    }
}

impl Structs for MutationStructs {
    fn named(&self, name: &str) -> Option<ObjectType> {
        if name == "JSONPatch" {
            return Some(Self::patch());
        }
        (name == "Object" || name.starts_with("Object.")).then(|| ObjectType::open(name))
    }
}

/// Lets every mutating policy change the object. Returns the changed object, in the storage version, or `None` when
/// nothing changed. `again` runs the built-in rules over an object that policies changed.
pub(crate) fn mutate(
    subject: &Subject<'_>,
    again: impl Fn(&mut Value) -> Result<(), Status>,
) -> Result<Option<Value>, Status> {
    let server = subject.call.server;
    let lookup: &dyn Lookup = server.lookup.as_ref();
    let policies = server.mutating_policies.policies(lookup);
    let Some(object) = subject.object.filter(|object| !object.is_null()) else { return Ok(None) };
    if policies.1.is_empty() || is_excluded(subject) {
        return Ok(None);
    }
    let mut pass = Pass { subject: *subject, object: object.clone(), asked: BTreeSet::new(), due: BTreeSet::new() };
    pass.run(&policies.1, false, lookup)?;
    if pass.object == *object {
        return Ok(None);
    }
    let before = pass.object.clone();
    again(&mut pass.object)?;
    if pass.object != before {
        pass.due = pass.asked.clone();
    }
    if !pass.due.is_empty() {
        pass.run(&policies.1, true, lookup)?;
    }
    Ok(Some(pass.object))
}

/// One pass over the policies and what it left.
struct Pass<'a> {
    subject: Subject<'a>,
    object: Value,
    /// Policies that were applied and want to be applied again when something changes.
    asked: BTreeSet<usize>,
    due: BTreeSet<usize>,
}

impl Pass<'_> {
    fn run(&mut self, policies: &[Policy], again: bool, lookup: &dyn Lookup) -> Result<(), Status> {
        let mut faults: Vec<String> = Vec::new();
        for (at, policy) in policies.iter().enumerate() {
            if again && !self.due.contains(&at) {
                continue;
            }
            for binding in &policy.bindings {
                let held = self.object.clone();
                let subject = Subject { object: Some(&held), ..self.subject };
                let applied = apply_binding(policy, binding, &subject, lookup);
                match applied {
                    Ok(Some(new)) if new != held => {
                        self.object = new;
                        self.due.extend(self.asked.iter().copied());
                    }
                    Ok(_) => {}
                    Err(why) if policy.fails_closed => faults.push(format!(
                        "policy '{}' with binding '{}' denied request: {why}",
                        policy.name, binding.name
                    )),
                    Err(_) => {}
                }
            }
            if policy.reinvoked {
                self.asked.insert(at);
            }
        }
        self.refused(&faults)
    }

    fn refused(&self, faults: &[String]) -> Result<(), Status> {
        let Some(first) = faults.first() else { return Ok(()) };
        let view = &self.subject.call.view;
        let mut status = Status::forbidden(view.group(), view.plural(), self.subject.name, first);
        status.message = first.clone();
        for fault in faults {
            status = status.with_cause("", fault.as_str(), "");
        }
        Err(status)
    }
}

/// The object as a binding leaves it; `None` when the binding does not mean the write.
fn apply_binding(
    policy: &Policy,
    binding: &Binding,
    subject: &Subject<'_>,
    lookup: &dyn Lookup,
) -> Result<Option<Value>, String> {
    let Some(view) = policy.matches.view(subject, lookup) else { return Ok(None) };
    if binding.matches.as_ref().is_some_and(|matches| matches.view(subject, lookup).is_none()) {
        return Ok(None);
    }
    let params = parameters::collect(policy, binding, subject, lookup)
        .map_err(|why| format!("failed to configure binding: {why}"))?;
    let Some(mut object) = subject.object.cloned() else { return Ok(None) };
    for params in params {
        object = apply_steps(policy, subject, &view, &object, &params)?.unwrap_or(object);
    }
    Ok(Some(object))
}

fn apply_steps(
    policy: &Policy,
    subject: &Subject<'_>,
    view: &Arc<View>,
    object: &Value,
    params: &Value,
) -> Result<Option<Value>, String> {
    let mut object = object.clone();
    let mut budget = Budget::default();
    for (at, step) in policy.mutations.iter().enumerate() {
        let current = object.clone();
        let subject = Subject { object: Some(&current), ..*subject };
        let inputs = Inputs::new(&subject, view).map_err(|status| status.message)?;
        let bindings = inputs.bindings(Some(params)).map_err(|error| error.to_string())?;
        if at == 0 {
            match holds(&policy.conditions, &bindings) {
                Matched::Yes => {}
                Matched::No => return Ok(None),
                Matched::Failed(why) => return Err(why),
            }
        }
        let bindings = Variables::bind(bindings, &policy.variables);
        let made = evaluate(&step.program, &bindings, &mut budget)?;
        let made = made.to_value().map_err(|error| error.to_string())?;
        object = apply_step(step, &subject, view, &current, &made)?;
    }
    Ok(Some(object))
}

fn apply_step(
    step: &Mutation,
    subject: &Subject<'_>,
    view: &Arc<View>,
    object: &Value,
    made: &Value,
) -> Result<Value, String> {
    let shown = subject.in_version(view, object).map_err(|status| status.message)?.into_owned();
    let new = if step.apply {
        super::apply::apply(subject, view, &shown, made)?
    } else {
        json_patch(shown, made, &Limits::default())
            .map_err(|error| format!("JSON Patch: {}", crate::rules::patch_status(&error).message))?
    };
    read_back(subject, view, object, &new).map_err(|status| status.message)
}
