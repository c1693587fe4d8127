//! Fields taken out of an object; and sets of fields read as the members they imply.

use super::element::Element;
use super::set::FieldSet;
use super::shape::{Shape, Ty, value_of};
use crate::{Object, Schema, TypeId, Value};

/// The object without the fields of a set.
pub(super) fn without(schema: &Schema, ty: TypeId, object: &Value, gone: &FieldSet) -> Value {
    if gone.is_empty() {
        return object.clone();
    }
    node(schema, Ty::of(ty), object, gone)
}

fn node<'s>(schema: &'s Schema, ty: Ty<'s>, value: &Value, gone: &FieldSet) -> Value {
    match (ty.shape(schema, value), value) {
        (shape @ (Shape::Struct(_) | Shape::Map(_)), Value::Object(object)) => {
            Value::Object(members(schema, &shape, object, gone))
        }
        (Shape::Keyed(inner, keys), Value::List(list)) => {
            elements(schema, inner, list, gone, |item| inner.key_of(schema, keys, item).ok())
        }
        (Shape::Set, Value::List(list)) => elements(schema, Ty::of_scalar(), list, gone, |item| value_of(item).ok()),
        // Of what is owned as one, nothing is left when a part of it goes.
        (_, Value::Object(_)) => Value::object(),
        (_, Value::List(_)) => Value::List(Vec::new()),
        (_, scalar) => scalar.clone(),
    }
}

fn members<'s>(schema: &'s Schema, shape: &Shape<'s>, object: &Object, gone: &FieldSet) -> Object {
    let mut left = Vec::with_capacity(object.len());
    for (name, value) in object.iter() {
        let found = gone.find(&Element::Field(name.clone()));
        let kept = match (found, Ty::member(shape, name)) {
            (None, _) | (_, None) => value.clone(),
            (Some(step), _) if step.member => continue,
            (Some(step), Some(ty)) => node(schema, ty, value, &step.below),
        };
        left.push((name.clone(), kept));
    }
    Object::from_members(left)
}

fn elements<'s>(
    schema: &'s Schema,
    inner: Ty<'s>,
    list: &[Value],
    gone: &FieldSet,
    step: impl Fn(&Value) -> Option<Element>,
) -> Value {
    let mut left = Vec::with_capacity(list.len());
    for item in list {
        match step(item).and_then(|step| gone.find(&step)) {
            Some(step) if step.member => {}
            Some(step) => left.push(node(schema, inner, item, &step.below)),
            None => left.push(item.clone()),
        }
    }
    Value::List(left)
}

/// The set with every named member of a struct that leads to one of its fields.
pub(super) fn with_named(schema: &Schema, ty: TypeId, set: &FieldSet) -> FieldSet {
    named(schema, Some(Ty::of(ty)), set)
}

fn named<'s>(schema: &'s Schema, ty: Option<Ty<'s>>, set: &FieldSet) -> FieldSet {
    let shape = ty.and_then(|ty| ty.bare_shape(schema));
    set.nodes()
        .iter()
        .map(|step| {
            let (declared, inner) = match (&step.element, &shape) {
                (Element::Field(name), Some(shape @ Shape::Struct(ty))) => {
                    (ty.field(name).is_some(), Ty::member(shape, name))
                }
                (Element::Field(name), Some(shape @ Shape::Map(_))) => (false, Ty::member(shape, name)),
                (Element::Keys(_), Some(Shape::Keyed(inner, _))) => (false, Some(*inner)),
                _ => (false, None),
            };
            (step.element.clone(), step.member || declared, named(schema, inner, &step.below))
        })
        .collect()
}

/// The set as the schema has it: of what is owned as one by now, only the whole. `None` when nothing differs.
pub(super) fn reconciled(schema: &Schema, ty: TypeId, set: &FieldSet) -> Option<FieldSet> {
    let mut changed = false;
    let made = reconcile(schema, Some(Ty::of(ty)), set, &mut changed);
    changed.then_some(made)
}

fn reconcile<'s>(schema: &'s Schema, ty: Option<Ty<'s>>, set: &FieldSet, changed: &mut bool) -> FieldSet {
    let shape = ty.and_then(|ty| ty.bare_shape(schema));
    set.nodes()
        .iter()
        .map(|step| {
            let inner = match (&step.element, &shape) {
                (Element::Field(name), Some(shape)) => Ty::member(shape, name),
                (Element::Keys(_), Some(Shape::Keyed(inner, _))) => Some(*inner),
                _ => None,
            };
            let whole = inner.and_then(|ty| ty.bare_shape(schema)).is_some_and(|shape| matches!(shape, Shape::Leaf));
            if whole && !step.below.is_empty() {
                *changed = true;
                return (step.element.clone(), true, FieldSet::new());
            }
            (step.element.clone(), step.member, reconcile(schema, inner, &step.below, changed))
        })
        .collect()
}
