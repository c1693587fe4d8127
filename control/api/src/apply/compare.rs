//! What changed between two objects of a type, as sets of fields.

use super::element::{Element, compare_values};
use super::set::FieldSet;
use super::shape::{Shape, Ty, value_of};
use crate::schema::TypeDef;
use crate::{Key, Object, Schema, TypeId, Value};

/// The fields that differ. No field is in two of the sets.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// All but the fields that a filter takes out.
    pub(super) fn filtered(self, filter: impl Fn(FieldSet) -> FieldSet) -> Self {
        Self { added: filter(self.added), modified: filter(self.modified), removed: filter(self.removed) }
    }

    fn push(&mut self, element: &Element, part: (Own, Self)) {
        let (own, below) = part;
        for (set, below, member) in [
            (&mut self.added, below.added, own == Own::Added),
            (&mut self.modified, below.modified, own == Own::Modified),
            (&mut self.removed, below.removed, own == Own::Removed),
        ] {
            if member || !below.is_empty() {
                set.push(element.clone(), member, below);
            }
        }
    }

    fn settle(&mut self) {
        self.added.settle();
        self.modified.settle();
        self.removed.settle();
    }

    fn join(&mut self, other: &Self) {
        self.added = self.added.union(&other.added);
        self.modified = self.modified.union(&other.modified);
        self.removed = self.removed.union(&other.removed);
    }
}

/// What happened to a node itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    Same,
    Added,
    Modified,
    Removed,
}

/// An element of a list that cannot be told apart from others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoKey(String);

type Outcome = Result<(Own, Changes), NoKey>;

/// What changed from `old` to `new`. Members that only the server sets (`apiVersion`, `kind`, the metadata in
/// [`super::SYSTEM`]) are not looked at: nobody owns them.
pub(super) fn compare(schema: &Schema, ty: TypeId, old: &Value, new: &Value) -> Result<Changes, NoKey> {
    let walk = Walk { schema };
    let shape = Ty::of(ty).shape(schema, new);
    walk.members(&shape, old.as_object(), new.as_object(), |name| !matches!(name, "apiVersion" | "kind"), true)
}

struct Walk<'s> {
    schema: &'s Schema,
}

/// Whether a list or an object has nothing in it, or is not there.
fn is_void(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::List(list)) => list.is_empty(),
        Some(Value::Object(object)) => object.is_empty(),
        _ => true,
    }
}

impl<'s> Walk<'s> {
    fn node(&self, ty: Ty<'s>, old: Option<&Value>, new: Option<&Value>) -> Outcome {
        let shape = match (old, new) {
            (None, None) => return Ok((Own::Same, Changes::default())),
            (Some(value), None) | (None, Some(value)) => ty.shape(self.schema, value),
            (Some(before), Some(after)) => {
                let (was, is) = (ty.shape(self.schema, before), ty.shape(self.schema, after));
                if !was.is_like(&is) && !before.is_null() && !after.is_null() {
                    // What was owned part by part is one value, or the other way round.
                    let (_, mut changes) = self.of_shape(&was, Some(before), Some(&Value::Null))?;
                    let (own, more) = self.of_shape(&is, Some(&Value::Null), Some(after))?;
                    changes.join(&more);
                    let own = if matches!(is, Shape::Leaf) || matches!(was, Shape::Leaf) { Own::Modified } else { own };
                    return Ok((own, changes));
                }
                if before.is_null() { is } else { was }
            }
        };
        self.of_shape(&shape, old, new)
    }

    fn of_shape(&self, shape: &Shape<'s>, old: Option<&Value>, new: Option<&Value>) -> Outcome {
        if matches!(shape, Shape::Leaf) || (is_void(old) && is_void(new)) {
            return Ok((leaf(old, new), Changes::default()));
        }
        let own = match (old, new) {
            (None, _) => Own::Added,
            (_, None) => Own::Removed,
            _ => Own::Same,
        };
        let changes = match shape {
            Shape::Leaf => Changes::default(),
            Shape::Struct(_) | Shape::Map(_) => {
                self.members(shape, old.and_then(Value::as_object), new.and_then(Value::as_object), |_| true, false)?
            }
            Shape::Keyed(inner, keys) => self.elements(*inner, Some(keys), list(old), list(new))?,
            Shape::Set => self.elements(Ty::of_scalar(), None, list(old), list(new))?,
        };
        Ok((own, changes))
    }

    fn members(
        &self,
        shape: &Shape<'s>,
        old: Option<&Object>,
        new: Option<&Object>,
        looked_at: impl Fn(&str) -> bool,
        root: bool,
    ) -> Result<Changes, NoKey> {
        const EMPTY: &Object = &Object::new();
        let mut changes = Changes::default();
        let there = (old.is_some(), new.is_some());
        let (old_members, new_members) = (old.unwrap_or(EMPTY), new.unwrap_or(EMPTY));
        let (mut old, mut new) = (old_members.iter().peekable(), new_members.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some((a, _)), Some((b, _))) => a.cmp(b),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => break,
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            let Some((name, _)) = before.or(after) else { continue };
            let (before, after) = (before.map(|(_, value)| value), after.map(|(_, value)| value));
            let Some(ty) = Ty::member(shape, name).filter(|_| looked_at(name)) else { continue };
            if root && name == "metadata" {
                self.metadata(ty, before, after, &mut changes)?;
                continue;
            }
            // What Go never leaves out is there as null.
            let (before, after) = match shape {
                Shape::Struct(ty) if ty.field(name).is_some_and(|field| !field.omit_empty) => {
                    (before.or(there.0.then_some(&Value::Null)), after.or(there.1.then_some(&Value::Null)))
                }
                _ => (before, after),
            };
            let part = self.node(ty, before, after)?;
            if part.0 != Own::Same || !part.1.is_empty() {
                changes.push(&Element::Field(name.clone()), part);
            }
        }
        if let Shape::Struct(ty) = shape
            && there.0 != there.1
        {
            absent(ty, if there.0 { old_members } else { new_members }, there.1, &mut changes);
        }
        Ok(changes)
    }

    fn metadata(
        &self,
        ty: Ty<'s>,
        old: Option<&Value>,
        new: Option<&Value>,
        changes: &mut Changes,
    ) -> Result<(), NoKey> {
        let shape = ty.shape(self.schema, new.or(old).unwrap_or(&Value::Null));
        let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
        let below = self.members(&shape, old, new, |name| !super::SYSTEM.contains(&name), false)?;
        if !below.is_empty() {
            changes.push(&Element::Field(Key::const_new("metadata")), (Own::Same, below));
        }
        Ok(())
    }

    fn elements(&self, inner: Ty<'s>, keys: Option<&[Key]>, old: &[Value], new: &[Value]) -> Result<Changes, NoKey> {
        if old == new {
            return Ok(Changes::default());
        }
        let (old, new) = (self.indexed(inner, keys, old)?, self.indexed(inner, keys, new)?);
        let mut changes = Changes::default();
        let (mut old, mut new) = (&old[..], &new[..]);
        while let Some(element) = match (old.first(), new.first()) {
            (Some((a, _)), Some((b, _))) => Some(a.min(b)),
            (a, b) => a.or(b).map(|(element, _)| element),
        } {
            let run = |list: &[(Element, &Value)]| list.iter().take_while(|(other, _)| other == element).count();
            let (before, rest_old) = old.split_at(run(old));
            let (after, rest_new) = new.split_at(run(new));
            self.same_key(inner, before, after, &mut changes)?;
            (old, new) = (rest_old, rest_new);
        }
        changes.settle();
        Ok(changes)
    }

    /// Elements with one key: usually one before and one after; several are one value that is owned as one.
    fn same_key(
        &self,
        inner: Ty<'s>,
        old: &[(Element, &Value)],
        new: &[(Element, &Value)],
        changes: &mut Changes,
    ) -> Result<(), NoKey> {
        let Some((element, _)) = old.first().or(new.first()) else { return Ok(()) };
        let before = if old.len() < 2 { old.first().map(|(_, value)| *value) } else { None };
        let after = if new.len() < 2 { new.first().map(|(_, value)| *value) } else { None };
        if old.len() > 1 && new.len() > 1 {
            if old.len() != new.len() || old.iter().zip(new).any(|((_, a), (_, b))| !same(a, b)) {
                changes.modified.push(element.clone(), true, FieldSet::new());
            }
            return Ok(());
        }
        changes.push(element, self.node(inner, before, after)?);
        if old.len() > 1 {
            changes.removed.push(element.clone(), true, FieldSet::new());
        }
        if new.len() > 1 {
            changes.added.push(element.clone(), true, FieldSet::new());
        }
        Ok(())
    }

    fn indexed<'v>(
        &self,
        inner: Ty<'s>,
        keys: Option<&[Key]>,
        list: &'v [Value],
    ) -> Result<Vec<(Element, &'v Value)>, NoKey> {
        let mut found = Vec::with_capacity(list.len());
        for item in list {
            let element = match keys {
                Some(keys) => inner.key_of(self.schema, keys, item),
                None => value_of(item),
            };
            found.push((element.map_err(NoKey)?, item));
        }
        found.sort_by(|a: &(Element, &Value), b| a.0.cmp(&b.0));
        Ok(found)
    }
}

/// A struct came or went with members that nobody set and that Go writes all the same.
fn absent(ty: &TypeDef, members: &Object, came: bool, changes: &mut Changes) {
    let own = if came { Own::Added } else { Own::Removed };
    for at in &ty.nulls {
        let name = &ty.fields[usize::from(*at)].name;
        if !members.contains(name) {
            changes.push(&Element::Field(name.clone()), (own, Changes::default()));
        }
    }
    changes.settle();
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_list).unwrap_or(&[])
}

fn leaf(old: Option<&Value>, new: Option<&Value>) -> Own {
    match (old, new) {
        (None, _) => Own::Added,
        (_, None) => Own::Removed,
        (Some(old), Some(new)) if same(old, new) => Own::Same,
        _ => Own::Modified,
    }
}

/// Whether two values are equal; whole numbers however they are written.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    a == b || compare_values(a, b).is_eq()
}
