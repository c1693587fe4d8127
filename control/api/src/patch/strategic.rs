//! Strategic merge patch: a merge patch that knows which lists merge by which key, and carries directives
//! (`$patch`, `$retainKeys`, `$setElementOrder/…`, `$deleteFromPrimitiveList/…`).

use super::PatchError;
use crate::schema::{Field, FieldType};
use crate::{Key, Object, Schema, TypeId, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

/// Merges within merges, at most; input is bounded in depth before it comes here.
const MAX_DEPTH: usize = 512;

type Outcome<T> = Result<T, PatchError>;

/// The object with the patch merged in.
///
/// # Errors
/// Directives that do not read, elements without their merge key, lists that cannot merge.
pub fn strategic_merge_patch(schema: &Schema, ty: TypeId, value: Value, patch: Value) -> Outcome<Value> {
    let Value::Object(patch) = patch else { return Err(bad("invalid JSON document")) };
    let object = match value {
        Value::Object(object) => object,
        _ => Object::new(),
    };
    let merged = Merge { schema }.object(object, patch, Some(&FieldType::Struct(ty)), 0)?;
    Ok(Value::Object(merged))
}

fn bad(text: &str) -> PatchError {
    PatchError::BadRequest(text.into())
}

fn unprocessable(text: impl Into<String>) -> PatchError {
    PatchError::Unprocessable(text.into())
}

struct Merge<'s> {
    schema: &'s Schema,
}

/// What is known of one member.
#[derive(Clone, Copy)]
struct Member<'s> {
    ty: Option<&'s FieldType>,
    merges: bool,
    replaces: bool,
    key: Option<&'s str>,
}

impl<'s> Merge<'s> {
    fn member(&self, ty: Option<&'s FieldType>, name: &str) -> Member<'s> {
        let plain = |ty| Member { ty, merges: false, replaces: false, key: None };
        match ty {
            Some(
                FieldType::Struct(id)
                | FieldType::SchemaOrBool(id)
                | FieldType::SchemaOrList(id)
                | FieldType::SchemaOrNames(id),
            ) => self.of_struct(*id, name),
            Some(FieldType::Map(inner)) => plain(Some(&**inner)),
            _ => plain(None),
        }
    }

    fn of_struct(&self, id: TypeId, name: &str) -> Member<'s> {
        let Some(field) = self.schema.get(id).field(name) else {
            return Member { ty: None, merges: false, replaces: false, key: None };
        };
        let Field { ty, patch, .. } = field;
        Member { ty: Some(ty), merges: patch.merge, replaces: patch.replace, key: patch.merge_key.as_deref() }
    }

    fn object(
        &self,
        mut object: Object,
        mut patch: Object,
        ty: Option<&'s FieldType>,
        depth: usize,
    ) -> Outcome<Object> {
        if depth > MAX_DEPTH {
            return Err(bad("invalid JSON document"));
        }
        if let Some(directive) = patch.remove(DIRECTIVE) {
            return match directive.as_str() {
                Some("replace") => Ok(patch),
                Some("delete") => Ok(Object::new()),
                _ => Err(unknown_directive(&directive)),
            };
        }
        retain_keys(&mut object, &mut patch)?;
        self.ordered_lists(&mut object, &mut patch, ty, depth)?;
        for (name, change) in patch {
            self.change(&mut object, &name, change, ty, depth)?;
        }
        Ok(object)
    }

    fn change(
        &self,
        object: &mut Object,
        name: &Key,
        change: Value,
        ty: Option<&'s FieldType>,
        depth: usize,
    ) -> Outcome<()> {
        let (name, deletes) = match name.strip_prefix(DELETE_FROM) {
            Some(plain) => (plain, true),
            None => (name.as_str(), false),
        };
        if change.is_null() {
            object.remove(name);
            return Ok(());
        }
        let member = self.member(ty, name);
        match (object.get_mut(name), change) {
            (Some(Value::Object(old)), Value::Object(change)) if !deletes => {
                *old = if member.replaces {
                    change
                } else {
                    self.object(std::mem::take(old), change, member.ty, depth + 1)?
                };
            }
            (Some(Value::List(old)), Value::List(change)) => {
                *old = self.list(std::mem::take(old), change, member, deletes, depth)?;
            }
            (_, _) if deletes => {}
            (_, mut change) => {
                if settle(&mut change) {
                    object.insert(name, change);
                } else {
                    object.remove(name);
                }
            }
        }
        Ok(())
    }

    fn list(
        &self,
        old: Vec<Value>,
        change: Vec<Value>,
        member: Member<'s>,
        deletes: bool,
        depth: usize,
    ) -> Outcome<Vec<Value>> {
        if deletes {
            return Ok(old.into_iter().filter(|item| !change.contains(item)).collect());
        }
        if !member.merges {
            return Ok(change);
        }
        self.merge_lists(old, change, member, depth)
    }

    fn merge_lists(
        &self,
        old: Vec<Value>,
        change: Vec<Value>,
        member: Member<'s>,
        depth: usize,
    ) -> Outcome<Vec<Value>> {
        let Some(first) = old.first().or(change.first()) else { return Ok(old) };
        let is_object = |item: &Value| matches!(item, Value::Object(_));
        let objects = is_object(first);
        if old.iter().chain(&change).any(|item| matches!(item, Value::List(_))) {
            return Err(unprocessable("lists of lists are not supported"));
        }
        if old.iter().chain(&change).any(|item| is_object(item) != objects) {
            return Err(bad("list element types are not identical"));
        }
        let live_order = old.clone();
        let (merged, patch_order) = if objects {
            let key = member.key.ok_or_else(|| bad("cannot merge lists without merge key"))?;
            self.merge_objects(old, change, member, key, depth)?
        } else {
            let mut merged: Vec<Value> = Vec::with_capacity(old.len() + change.len());
            for item in old.into_iter().chain(change.iter().cloned()) {
                if !merged.contains(&item) {
                    merged.push(item);
                }
            }
            (merged, change)
        };
        let key = member.key.filter(|_| objects);
        Ok(in_order(merged, &patch_order, &live_order, key))
    }

    /// Merges elements that are told apart by a key; gives the list and the patch's own order.
    fn merge_objects(
        &self,
        mut old: Vec<Value>,
        change: Vec<Value>,
        member: Member<'s>,
        key: &str,
        depth: usize,
    ) -> Outcome<(Vec<Value>, Vec<Value>)> {
        let mut plain = Vec::with_capacity(change.len());
        let mut replaces = false;
        for item in change {
            match item.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default()) {
                None => plain.push(item),
                Some("delete") => {
                    let value = item.get(key).ok_or_else(|| no_key(&item, key))?;
                    old.retain(|other| other.get(key) != Some(value));
                }
                Some("replace") => replaces = true,
                Some("merge") => return Err(bad("merging lists cannot yet be specified in the patch")),
                Some(_) => return Err(unknown_directive(item.get(DIRECTIVE).unwrap_or(&Value::Null))),
            }
        }
        if replaces {
            return Ok((plain, Vec::new()));
        }
        let element = match member.ty {
            Some(FieldType::List(inner)) => Some(&**inner),
            _ => None,
        };
        for item in &plain {
            let value = item.get(key).ok_or_else(|| no_key(item, key))?;
            let found = old.iter().position(|other| other.get(key) == Some(value));
            match (found.map(|at| std::mem::take(&mut old[at])), item.clone()) {
                (Some(Value::Object(object)), Value::Object(change)) => {
                    let merged = self.object(object, change, element, depth + 1)?;
                    old[found.expect("there is an object because it was found")] = Value::Object(merged);
                }
                (_, mut item) => {
                    settle(&mut item);
                    old.push(item);
                }
            }
        }
        Ok((old, plain))
    }

    /// Lists whose order the patch gives: merged and put in order here, and taken out of the patch.
    fn ordered_lists(
        &self,
        object: &mut Object,
        patch: &mut Object,
        ty: Option<&'s FieldType>,
        depth: usize,
    ) -> Outcome<()> {
        let directives: Vec<Key> =
            patch.iter().map(|(name, _)| name).filter(|name| name.starts_with(ELEMENT_ORDER)).cloned().collect();
        for directive in directives {
            let format = || bad("invalid patch format of setElementOrder list");
            let Some(Value::List(order)) = patch.remove(&directive) else { return Err(format()) };
            let name = directive.strip_prefix(ELEMENT_ORDER).unwrap_or_default();
            let change = match patch.remove(name) {
                None => None,
                Some(Value::List(change)) => Some(change),
                Some(_) => return Err(format()),
            };
            let member = self.member(ty, name);
            check_order(change.as_deref().unwrap_or_default(), &order, member.key)?;
            let old = match object.get(name) {
                None | Some(Value::Null) => None,
                Some(Value::List(old)) => Some(old.clone()),
                Some(_) => return Err(format()),
            };
            let live_order = old.clone().unwrap_or_default();
            let merged = match (old, change) {
                (None, None) => continue,
                (Some(old), None) => old,
                (None, Some(change)) => {
                    let mut change = Value::List(change);
                    settle(&mut change);
                    std::mem::take(change.make_list())
                }
                (Some(old), Some(change)) => self.list(old, change, member, false, depth)?,
            };
            let objects = merged.first().is_some_and(|item| matches!(item, Value::Object(_)));
            let ordered = in_order(merged, &order, &live_order, member.key.filter(|_| objects));
            object.insert(name, ordered);
        }
        Ok(())
    }
}

fn unknown_directive(directive: &Value) -> PatchError {
    bad(&format!("unknown patch type: {}", directive.as_str().unwrap_or("(not text)")))
}

fn no_key(item: &Value, key: &str) -> PatchError {
    let item = String::from_utf8_lossy(&crate::encode_json(item)).into_owned();
    bad(&format!("map: {item} does not contain declared merge key: {key}"))
}

/// Takes directives and nulls out of what is newly added; whether anything is left to add.
fn settle(value: &mut Value) -> bool {
    match value {
        Value::Object(object) => {
            if object.contains(DIRECTIVE) {
                return false;
            }
            object.retain(|name, member| {
                let directive = name == RETAIN_KEYS || name.starts_with(ELEMENT_ORDER) || name.starts_with(DELETE_FROM);
                !directive && !member.is_null() && settle(member)
            });
        }
        Value::List(list) => list.retain_mut(settle),
        _ => {}
    }
    true
}

fn retain_keys(object: &mut Object, patch: &mut Object) -> Outcome<()> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let format = || bad("invalid patch format of retainKeys");
    let keys = keys.as_list().ok_or_else(format)?;
    let kept = |name: &str| keys.iter().any(|key| key.as_str() == Some(name));
    let stray = patch.iter().any(|(name, value)| {
        !value.is_null() && !name.starts_with(DELETE_FROM) && !name.starts_with(ELEMENT_ORDER) && !kept(name)
    });
    if stray {
        return Err(format());
    }
    object.retain(|name, _| kept(name));
    Ok(())
}

/// Whether two elements are the same one: by key, or by value.
fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    }
}

/// The patch may only name elements in the order it gives.
fn check_order(change: &[Value], order: &[Value], key: Option<&str>) -> Outcome<()> {
    if order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for item in change.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        if !rest.any(|other| same(item, other, key)) {
            return Err(bad("The order in patch list doesn't match $setElementOrder list"));
        }
    }
    Ok(())
}

/// Elements the patch names in the patch's order, the others in the server's; where both are known to the
/// server's order they are interleaved by it.
fn in_order(merged: Vec<Value>, patch_order: &[Value], live_order: &[Value], key: Option<&str>) -> Vec<Value> {
    let index = |order: &[Value], item: &Value| order.iter().position(|other| same(item, other, key));
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| index(patch_order, item).is_some());
    named.sort_by_key(|item| index(patch_order, item).unwrap_or(usize::MAX));
    others.sort_by_key(|item| index(live_order, item).unwrap_or(usize::MAX));
    let mut result = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let other_first = match (others.peek(), named.peek()) {
            (None, None) => return result,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(other), Some(name)) => match (index(live_order, other), index(live_order, name)) {
                (Some(other), Some(name)) => other < name,
                _ => false,
            },
        };
        result.extend(if other_first { others.next() } else { named.next() });
    }
}
