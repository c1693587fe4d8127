//! Apply configurations of mutating policies: laid over the object as server-side apply lays one over a live object,
//! without owners.

use crate::{admission::webhook::Subject, registry::View};
use timonel_api::{FieldType, ListKind, Path, Schema, TypeId, Value};

/// Lays an apply configuration over the object, both in the version of `view`.
///
/// # Errors
/// When it does not fit the type, or would replace what is owned as a whole.
pub(super) fn apply(subject: &Subject<'_>, view: &View, live: &Value, made: &Value) -> Result<Value, String> {
    let kind = subject.kind_in(view);
    let ty = view.scheme.type_of(&kind).ok_or_else(|| format!("no type for {}", kind.kind))?;
    let mut atomics = Vec::new();
    find_atomics(view.scheme.schema(), ty, made, None, &mut atomics);
    if !atomics.is_empty() {
        let places = atomics.join(", ");
        return Err(format!(
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {places}"
        ));
    }
    let merged = timonel_api::merge_applied(view.scheme.schema(), ty, live, made);
    merged.map_err(|why| format!("error applying patch: failed to merge patch: {why}"))
}

/// Paths of what is owned as a whole: setting a part of it would drop the rest.
fn find_atomics(schema: &Schema, ty: TypeId, value: &Value, path: Option<&Path>, found: &mut Vec<String>) {
    let (ty, Some(object)) = (schema.get(ty), value.as_object()) else { return };
    for (name, member) in object.iter() {
        let Some(field) = ty.field(name) else { continue };
        let place = path.map_or_else(|| Path::new(name), |path| path.child(name));
        let whole = match (&field.ty, member) {
            (FieldType::List(_), Value::List(_)) => field.list == ListKind::Atomic,
            (FieldType::Struct(id), Value::Object(_)) => field.atomic || schema.get(*id).atomic,
            (FieldType::Map(_), Value::Object(_)) => field.atomic,
            _ => false,
        };
        if whole {
            found.push(format!(".{place}"));
        }
        match (&field.ty, member) {
            (FieldType::Struct(id), member) => find_atomics(schema, *id, member, Some(&place), found),
            (FieldType::List(inner), Value::List(items)) => {
                if let FieldType::Struct(id) = &**inner {
                    for (at, item) in items.iter().enumerate() {
                        find_atomics(schema, *id, item, Some(&place.index(at)), found);
                    }
                }
            }
            _ => {}
        }
    }
}
