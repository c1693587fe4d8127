//! The fields that an object names: what its applier owns. Checks the object against its type on the way,
//! since an applied object comes without having been decoded by it.

use super::element::Element;
use super::set::FieldSet;
use super::shape::{Shape, Ty, value_of};
use crate::{Object, Schema, TypeId, Value};

/// Mistakes of an applied object that are reported, at most.
const MAX_MISTAKES: usize = 64;

/// The fields an object names, or what in it is not of its type.
pub(super) fn owned_fields(schema: &Schema, ty: TypeId, object: &Value) -> Result<FieldSet, String> {
    let mut walk = Walk { schema, mistakes: Vec::new(), path: Vec::new(), unique: true };
    let (_, set) = walk.node(Ty::of(ty), object);
    walk.finish()?;
    Ok(set)
}

/// The same for a stored object, where the same element may be there twice.
pub(super) fn stored_fields(schema: &Schema, ty: TypeId, object: &Value) -> FieldSet {
    let mut walk = Walk { schema, mistakes: Vec::new(), path: Vec::new(), unique: false };
    walk.node(Ty::of(ty), object).1
}

struct Walk<'s> {
    schema: &'s Schema,
    mistakes: Vec<String>,
    path: Vec<String>,
    /// Whether an element that is there twice is a mistake.
    unique: bool,
}

impl<'s> Walk<'s> {
    fn finish(mut self) -> Result<(), String> {
        match self.mistakes.len() {
            0 => Ok(()),
            1 => Err(self.mistakes.remove(0)),
            _ => Err(format!("errors:\n  {}", self.mistakes.join("\n  "))),
        }
    }

    fn mistake(&mut self, what: &str) {
        if self.mistakes.len() < MAX_MISTAKES {
            let path = self.path.concat();
            self.mistakes.push(if path.is_empty() { what.to_owned() } else { format!("{path}: {what}") });
        }
    }

    fn within<R>(&mut self, step: impl FnOnce() -> String, inside: impl FnOnce(&mut Self) -> R) -> R {
        // Paths are only for mistakes of appliers; walks over stored objects make none.
        if self.unique {
            self.path.push(step());
        }
        let result = inside(self);
        if self.unique {
            self.path.pop();
        }
        result
    }

    /// Whether the node itself is owned, and what is below it.
    fn node(&mut self, ty: Ty<'s>, value: &Value) -> (bool, FieldSet) {
        if self.unique
            && let Some(mismatch) = ty.mismatch(value)
        {
            self.mistake(&mismatch);
            return (false, FieldSet::new());
        }
        let shape = ty.shape(self.schema, value);
        match (&shape, value) {
            (Shape::Leaf, _) => {
                self.check_leaf(ty, value);
                (true, FieldSet::new())
            }
            (Shape::Struct(_) | Shape::Map(_), Value::Object(object)) => (false, self.members(&shape, object)),
            (Shape::Keyed(inner, keys), Value::List(list)) => {
                let (schema, inner) = (self.schema, *inner);
                (false, self.elements(list, inner, |item| inner.key_of(schema, keys, item)))
            }
            (Shape::Set, Value::List(list)) => (false, self.elements(list, Ty::of_scalar(), value_of)),
            _ => (false, FieldSet::new()),
        }
    }

    fn members(&mut self, shape: &Shape<'s>, object: &Object) -> FieldSet {
        let mut set = FieldSet::new();
        for (name, value) in object.iter() {
            let Some(ty) = Ty::member(shape, name) else {
                if !self.unique {
                    continue;
                }
                // One is enough: upstream stops there too.
                self.within(|| format!(".{name}"), |walk| walk.mistake("field not declared in schema"));
                return set;
            };
            let (owned, below) = self.within(|| format!(".{name}"), |walk| walk.node(ty, value));
            let empty = value.is_null() || value.as_object().is_some_and(Object::is_empty);
            let entry = match shape {
                Shape::Struct(ty) => ty.field(name).is_none(),
                _ => true,
            };
            set.push(Element::Field(name.clone()), owned || empty || entry, below);
        }
        set
    }

    fn elements(
        &mut self,
        list: &[Value],
        inner: Ty<'s>,
        step: impl Fn(&Value) -> Result<Element, String>,
    ) -> FieldSet {
        let mut found: Vec<(Element, usize)> = Vec::with_capacity(list.len());
        for (at, item) in list.iter().enumerate() {
            match step(item) {
                Ok(element) => found.push((element, at)),
                Err(problem) => {
                    self.mistake(&format!("element {at}: {problem}"));
                    return FieldSet::new();
                }
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let mut set = FieldSet::new();
        for same in found.chunk_by(|a, b| a.0 == b.0) {
            let (element, at) = &same[0];
            if same.len() > 1 && self.unique {
                self.mistake(&format!("duplicate entries for key {element}"));
            }
            let below = match same {
                [_] => self.within(|| element.to_string(), |walk| walk.node(inner, &list[*at]).1),
                _ => FieldSet::new(),
            };
            set.push(element.clone(), true, below);
        }
        set
    }

    /// What is owned as one is still to be of its type.
    fn check_leaf(&mut self, ty: Ty<'s>, value: &Value) {
        if !self.unique {
            return;
        }
        let shape = ty.inside(self.schema);
        match (&shape, value) {
            (Some(shape @ (Shape::Struct(_) | Shape::Map(_))), Value::Object(object)) => {
                self.members(shape, object);
            }
            (Some(Shape::Keyed(inner, _)), Value::List(list)) => {
                let inner = *inner;
                for (at, item) in list.iter().enumerate() {
                    self.within(|| format!("[{at}]"), |walk| walk.node(inner, item));
                }
            }
            _ => {}
        }
    }
}
