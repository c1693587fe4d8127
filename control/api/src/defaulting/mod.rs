//! What upstream fills in when a request leaves it out.
//!
//! Most defaults are a value for a member of a type: the schema's own, and the table in [`rules`]. What depends
//! on other members is a small function per type in [`core`] and [`groups`]. A plan, made once per scheme, says
//! for each type what to do and which members are worth entering; everything else is never looked at.
//! Never allocates names, addresses, ports or times: that is the registry's work.

mod core;
mod groups;
mod rules;

use std::collections::HashMap;

use crate::schema::{Field, FieldType, struct_of};
use crate::{Object, Resource, Schema, Scheme, TypeId, Value};

/// A default that depends on other members of its object.
pub(crate) type Hook = fn(&mut Object);

/// Types within types, at most: no built-in type comes near, and recursive ones are cut off here.
const MAX_DEPTH: usize = 64;

/// What to do for one type.
#[derive(Clone, Debug, Default)]
struct Step {
    values: Vec<(usize, Value)>,
    hook: Option<Hook>,
    /// Members that lead to types with something to do.
    enter: Vec<usize>,
    /// Maps of quantities, which are rounded up to thousandths.
    amounts: Vec<usize>,
}

impl Step {
    fn is_idle(&self) -> bool {
        self.values.is_empty() && self.hook.is_none() && self.enter.is_empty() && self.amounts.is_empty()
    }
}

/// What to do for every type of a schema.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    steps: Vec<Step>,
}

impl Plan {
    pub(crate) fn of(schema: &Schema) -> Self {
        let rules: HashMap<(&str, &str), rules::Rule> =
            rules::RULES.iter().map(|(group, name, rule)| ((*group, *name), *rule)).collect();
        let mut steps: Vec<Step> = schema.ids().map(|id| own_step(schema, id, &rules)).collect();
        // A member is worth entering when its type has something to do; repeat until nothing is added.
        loop {
            let mut changed = false;
            for id in schema.ids() {
                for (at, field) in schema.get(id).fields.iter().enumerate() {
                    let Some(inner) = struct_of(&field.ty) else { continue };
                    if !steps[inner.index()].is_idle() && !steps[id.index()].enter.contains(&at) {
                        steps[id.index()].enter.push(at);
                        changed = true;
                    }
                }
            }
            if !changed {
                return Self { steps };
            }
        }
    }
}

fn own_step(schema: &Schema, id: TypeId, rules: &HashMap<(&str, &str), rules::Rule>) -> Step {
    let ty = schema.get(id);
    let mut step = Step::default();
    for (at, field) in ty.fields.iter().enumerate() {
        if let Some(default) = field.default.as_ref().filter(|default| counts(field, default)) {
            step.values.push((at, default.clone()));
        }
        if matches!(&field.ty, FieldType::Map(inner) if **inner == FieldType::Quantity) {
            step.amounts.push(at);
        }
    }
    if let Some(rule) = group_and_name(&ty.name).and_then(|key| rules.get(&key)) {
        step.hook = rule.hook;
        for (name, literal) in rule.values {
            if let Some(at) = ty.position(name) {
                step.values.retain(|(other, _)| *other != at);
                step.values.push((at, literal.value()));
            }
        }
    }
    step
}

/// Whether a default of the schema is one that upstream applies: the zero value of what is no pointer is only
/// the schema's way of saying that Go writes it anyway.
fn counts(field: &Field, default: &Value) -> bool {
    match default {
        Value::Null => false,
        Value::Object(object) => !object.is_empty() || (field.pointer && !matches!(field.ty, FieldType::Struct(_))),
        _ => field.pointer || !is_zero(default),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Int(number) => *number == 0,
        Value::Float(number) => *number == 0.0,
        Value::String(text) => text.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Object(_) | Value::Raw(_) => false,
    }
}

/// `core` and `Pod` of `io.k8s.api.core.v1.Pod`.
fn group_and_name(name: &str) -> Option<(&str, &str)> {
    let mut parts = name.rsplit('.');
    let (kind, _version, group) = (parts.next()?, parts.next()?, parts.next()?);
    Some((group, kind))
}

/// Fills in what an object of `resource` leaves out.
pub fn default_object(scheme: &Scheme, resource: &Resource, value: &mut Value) {
    default_type(scheme, resource.body, value);
}

/// Fills in what an object of a type leaves out: for bodies of subresources and of requests.
pub fn default_type(scheme: &Scheme, ty: TypeId, value: &mut Value) {
    if let Some(structural) = &scheme.schema().get(ty).structural {
        return structural.default(value);
    }
    let walk = Walk { schema: scheme.schema(), plan: scheme.default_plan() };
    walk.object(ty, value, 0);
}

struct Walk<'s> {
    schema: &'s Schema,
    plan: &'s Plan,
}

impl Walk<'_> {
    fn object(&self, id: TypeId, value: &mut Value, depth: usize) {
        let step = &self.plan.steps[id.index()];
        if depth > MAX_DEPTH || step.is_idle() {
            return;
        }
        let Some(object) = value.as_object_mut() else { return };
        let ty = self.schema.get(id);
        for (at, default) in &step.values {
            let field = &ty.fields[*at];
            let there =
                object.get(&field.name).is_some_and(|value| !value.is_null() && (field.pointer || !is_zero(value)));
            if !there {
                object.insert(field.name.clone(), default.clone());
            }
        }
        if let Some(hook) = step.hook {
            hook(object);
        }
        for at in &step.amounts {
            if let Some(Value::Object(amounts)) = object.get_mut(&ty.fields[*at].name) {
                core::round_amounts(amounts);
            }
        }
        for at in &step.enter {
            let field = &ty.fields[*at];
            if let Some(member) = object.get_mut(&field.name) {
                self.enter(&field.ty, member, depth + 1);
            }
        }
    }

    fn enter(&self, ty: &FieldType, value: &mut Value, depth: usize) {
        match (ty, value) {
            (FieldType::Struct(id), value) => self.object(*id, value, depth),
            (FieldType::List(inner), Value::List(list)) => {
                for item in list {
                    self.enter(inner, item, depth);
                }
            }
            (FieldType::Map(inner), Value::Object(map)) => {
                for (_, item) in map.iter_mut() {
                    self.enter(inner, item, depth);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
