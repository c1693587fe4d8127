//! An applied object laid over the live one. Nothing is removed; lists with keys are merged element by element,
//! in the applied order as far as that says something, else in the live one.

use std::collections::BTreeMap;

use super::element::Element;
use super::shape::{Shape, Ty, value_of};
use crate::{Key, Object, Schema, TypeId, Value};

/// The live object with the applied one over it.
pub(super) fn merge(schema: &Schema, ty: TypeId, live: &Value, applied: &Value) -> Result<Value, String> {
    Ok(Merge { schema }.node(Ty::of(ty), Some(live), Some(applied))?.unwrap_or_default())
}

struct Merge<'s> {
    schema: &'s Schema,
}

/// What stands for an element that is in the live list more than once.
const SEVERAL: Value = Value::Null;

impl<'s> Merge<'s> {
    fn node(&self, ty: Ty<'s>, live: Option<&Value>, applied: Option<&Value>) -> Result<Option<Value>, String> {
        let Some(guide) = applied.filter(|value| !value.is_null()).or(live).or(applied) else { return Ok(None) };
        let shape = ty.shape(self.schema, guide);
        let void = |value: Option<&Value>| match value {
            Some(Value::List(list)) => list.is_empty(),
            Some(Value::Object(object)) => object.is_empty(),
            _ => true,
        };
        if matches!(shape, Shape::Leaf) || (void(live) && void(applied)) {
            return Ok(applied.or(live).cloned());
        }
        Ok(match &shape {
            Shape::Leaf => None,
            Shape::Struct(_) | Shape::Map(_) => {
                let object =
                    self.members(&shape, live.and_then(Value::as_object), applied.and_then(Value::as_object))?;
                (!object.is_empty()).then_some(Value::Object(object))
            }
            Shape::Keyed(inner, keys) => self.elements(*inner, Some(keys), live, applied)?,
            Shape::Set => self.elements(Ty::of_scalar(), None, live, applied)?,
        })
    }

    fn members(&self, shape: &Shape<'s>, live: Option<&Object>, applied: Option<&Object>) -> Result<Object, String> {
        let empty = Object::new();
        let (live, applied) = (live.unwrap_or(&empty), applied.unwrap_or(&empty));
        let mut merged = Vec::with_capacity(live.len() + applied.len());
        for (name, value) in live.iter() {
            let part = match Ty::member(shape, name) {
                Some(ty) => self.node(ty, Some(value), applied.get(name))?,
                None => Some(value.clone()),
            };
            merged.extend(part.map(|part| (name.clone(), part)));
        }
        for (name, value) in applied.iter().filter(|(name, _)| !live.contains(name)) {
            let part = match Ty::member(shape, name) {
                Some(ty) => self.node(ty, None, Some(value))?,
                None => Some(value.clone()),
            };
            merged.extend(part.map(|part| (name.clone(), part)));
        }
        Ok(Object::from_members(merged))
    }

    fn elements(
        &self,
        inner: Ty<'s>,
        keys: Option<&[Key]>,
        live: Option<&Value>,
        applied: Option<&Value>,
    ) -> Result<Option<Value>, String> {
        let list = |value: Option<&'_ Value>| value.and_then(Value::as_list).map_or(&[][..], |list| list).to_vec();
        let (live, applied) = (list(live), list(applied));
        let (live_steps, applied_steps) = (self.steps(inner, keys, &live)?, self.steps(inner, keys, &applied)?);
        let mut live_by = BTreeMap::new();
        for (step, value) in live_steps.iter().zip(&live) {
            live_by.entry(step).and_modify(|known| *known = &SEVERAL).or_insert(value);
        }
        let applied_by: BTreeMap<&Element, &Value> = applied_steps.iter().zip(&applied).collect();
        let mut merged = Vec::with_capacity(live.len().max(applied.len()));
        for step in order(&live_steps, &applied_steps, &live_by, &applied_by) {
            merged.extend(match step {
                Place::Live(at) => self.node(inner, live.get(at), None)?,
                Place::Applied(at) => {
                    let step = &applied_steps[at];
                    self.node(inner, live_by.get(step).copied(), applied_by.get(step).copied())?
                }
            });
        }
        Ok((!merged.is_empty()).then_some(Value::List(merged)))
    }

    fn steps(&self, inner: Ty<'s>, keys: Option<&[Key]>, list: &[Value]) -> Result<Vec<Element>, String> {
        let step = |(at, item): (usize, &Value)| {
            let step = match keys {
                Some(keys) => inner.key_of(self.schema, keys, item),
                None => value_of(item),
            };
            step.map_err(|problem| format!("element {at}: {problem}"))
        };
        list.iter().enumerate().map(step).collect()
    }
}

/// Where an element of the merged list comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Live(usize),
    Applied(usize),
}

/// The order of a merged list: the applied one, with what only the live list has between its neighbours there.
fn order(
    live: &[Element],
    applied: &[Element],
    live_by: &BTreeMap<&Element, &Value>,
    applied_by: &BTreeMap<&Element, &Value>,
) -> Vec<Place> {
    let mut shared = applied.iter().filter(|step| live_by.contains_key(step)).peekable();
    let mut placed = Vec::with_capacity(live.len() + applied.len());
    let mut done: std::collections::BTreeSet<&Element> = std::collections::BTreeSet::new();
    let (mut at, mut next) = (0, 0);
    while at < live.len() || next < applied.len() {
        if let (Some(here), Some(there)) = (live.get(at), applied.get(next)) {
            if here == there {
                placed.push(Place::Applied(next));
                done.insert(there);
                (at, next) = (at + 1, next + 1);
                shared.next();
                continue;
            }
            // In both lists, but another one is due first.
            if applied_by.contains_key(here) && shared.peek().is_some_and(|due| *due != here) {
                at += 1;
                continue;
            }
        }
        if let Some(here) = live.get(at) {
            if !applied_by.contains_key(here) {
                placed.push(Place::Live(at));
                at += 1;
                continue;
            }
            if done.contains(here) {
                at += 1;
            }
        }
        if let Some(there) = applied.get(next) {
            placed.push(Place::Applied(next));
            done.insert(there);
            next += 1;
            if shared.peek() == Some(&there) {
                shared.next();
            }
        }
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_elements_keep_their_place_between_applied_ones() {
        for (live, applied, merged) in [
            ("abc", "", "abc"),
            ("", "ab", "ab"),
            ("abc", "b", "abc"),
            ("abc", "cb", "acb"),
            ("axb", "ba", "xba"),
            ("ab", "xb", "axb"),
            ("ab", "bx", "abx"),
            ("acbd", "ab", "acbd"),
            ("xaybz", "ba", "xybza"),
        ] {
            let steps = |text: &str| -> Vec<Element> {
                text.chars().map(|c| Element::Value(Value::from(c.to_string()))).collect()
            };
            let (live, applied) = (steps(live), steps(applied));
            let by = |list: &'_ [Element]| list.to_vec();
            let (l, a) = (by(&live), by(&applied));
            let live_by = l.iter().map(|step| (step, &Value::Null)).collect();
            let applied_by = a.iter().map(|step| (step, &Value::Null)).collect();
            let text: String = order(&live, &applied, &live_by, &applied_by)
                .into_iter()
                .map(|place| match place {
                    Place::Live(at) => &live[at],
                    Place::Applied(at) => &applied[at],
                })
                .map(|step| step.to_string().replace(['[', '=', '"', ']'], ""))
                .collect();
            assert_eq!(text, merged);
        }
    }
}
