//! JSON patch (RFC 6902), with upstream's words where it refuses one.

use super::{MAX_OPERATIONS, PatchError};
use crate::{Limits, Value, encode_json};

/// Applies the operations of a patch one after another; if one fails, nothing is applied.
///
/// # Errors
/// A patch that is no list of operations, has too many, or does not fit the object.
pub fn json_patch(mut value: Value, patch: &Value, limits: &Limits) -> Result<Value, PatchError> {
    let Some(operations) = patch.as_list() else {
        return Err(PatchError::BadRequest(
            "json: cannot unmarshal object into Go value of type jsonpatch.Patch".into(),
        ));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations(operations.len()));
    }
    let mut copied = 0;
    for operation in operations {
        if !matches!(operation, Value::Object(_)) {
            return Err(PatchError::BadRequest(
                "json: cannot unmarshal value into Go value of type jsonpatch.Operation".into(),
            ));
        }
        apply(&mut value, operation, &mut copied, limits).map_err(PatchError::Unprocessable)?;
    }
    Ok(value)
}

fn apply(value: &mut Value, operation: &Value, copied: &mut usize, limits: &Limits) -> Result<(), String> {
    let path = || {
        let path = operation.get("path").and_then(Value::as_str);
        path.ok_or_else(|| "operation missing path field: missing value".to_owned())
    };
    let from = || {
        let from = operation.get("from").and_then(Value::as_str);
        from.ok_or_else(|| "operation, missing from field: missing value".to_owned())
    };
    match operation.str_at(&["op"]) {
        "add" => add(value, path()?, operation.get("value").cloned().unwrap_or_default(), "add"),
        "remove" => remove(value, path()?, "remove").map(drop),
        "replace" => replace(value, path()?, operation.get("value").cloned().unwrap_or_default()),
        "move" => {
            let moved = remove(value, from()?, "move")?;
            add(value, path()?, moved, "move")
        }
        "test" => test(value, path()?, operation.get("value").unwrap_or(&Value::Null)),
        "copy" => {
            let from = from()?;
            let copy = get(value, from).ok_or_else(|| {
                format!("copy operation does not apply: doc is missing from path: {from}: missing value")
            })?;
            let copy = copy.clone();
            *copied += encode_json(&copy).len();
            if *copied > limits.bytes {
                return Err(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {}",
                    limits.bytes
                ));
            }
            add(value, path()?, copy, "copy")
        }
        other => Err(format!("Unexpected kind: {other}")),
    }
}

/// A pointer's steps, unescaped; none for the whole document.
fn steps(path: &str) -> Option<Vec<String>> {
    if path.is_empty() {
        return Some(Vec::new());
    }
    let steps = path.strip_prefix('/')?.split('/');
    Some(steps.map(|step| step.replace("~1", "/").replace("~0", "~")).collect())
}

/// The position an index means; negative ones count from the end.
fn position(step: &str, len: usize) -> Result<usize, String> {
    let invalid = |index: i64| format!("Unable to access invalid index: {index}: invalid index referenced");
    let index: i64 = step.parse().map_err(|_| {
        format!("value was not a proper array index: '{step}': strconv.Atoi: parsing {step:?}: invalid syntax")
    })?;
    let len = i64::try_from(len).map_err(|_| invalid(index))?;
    let at = if index < 0 { index + len } else { index };
    usize::try_from(at).ok().filter(|_| at < len).ok_or_else(|| invalid(index))
}

fn child<'v>(value: &'v Value, step: &str) -> Option<&'v Value> {
    match value {
        Value::Object(object) => object.get(step),
        Value::List(list) => list.get(position(step, list.len()).ok()?),
        _ => None,
    }
}

fn get<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    steps(path)?.iter().try_fold(value, |value, step| child(value, step))
}

/// The container a pointer's last step is in, and that step.
fn container<'v>(value: &'v mut Value, path: &str) -> Option<(&'v mut Value, String)> {
    let mut steps = steps(path)?;
    let last = steps.pop()?;
    let mut at = value;
    for step in &steps {
        at = match at {
            Value::Object(object) => object.get_mut(step)?,
            Value::List(list) => {
                let position = position(step, list.len()).ok()?;
                list.get_mut(position)?
            }
            _ => return None,
        };
    }
    matches!(at, Value::Object(_) | Value::List(_)).then_some((at, last))
}

fn add(value: &mut Value, path: &str, new: Value, operation: &str) -> Result<(), String> {
    if path.is_empty() {
        *value = new;
        return Ok(());
    }
    let missing = || match operation {
        "add" => format!("add operation does not apply: doc is missing path: {path:?}: missing value"),
        other => format!("{other} operation does not apply: doc is missing destination path: {path}: missing value"),
    };
    match container(value, path).ok_or_else(missing)? {
        (Value::List(list), step) if step == "-" => list.push(new),
        (Value::List(list), step) => {
            // One position past the end is where an element may be added.
            let at = position(&step, list.len() + 1)
                .map_err(|error| format!("error in {operation} for path: '{path}': {error}"))?;
            list.insert(at, new);
        }
        (container, step) => drop(container.make_object().insert(step, new)),
    }
    Ok(())
}

fn remove(value: &mut Value, path: &str, operation: &str) -> Result<Value, String> {
    let missing = || match operation {
        "move" => format!("move operation does not apply: doc is missing from path: {path}: missing value"),
        other => format!("{other} operation does not apply: doc is missing path: {path:?}: missing value"),
    };
    let failed = |error: String| format!("error in {operation} for path: '{path}': {error}");
    match container(value, path).ok_or_else(missing)? {
        (Value::List(list), step) => {
            let at = position(&step, list.len()).map_err(failed)?;
            Ok(list.remove(at))
        }
        (container, step) => container
            .make_object()
            .remove(&step)
            .ok_or_else(|| failed(format!("Unable to remove nonexistent key: {step}: missing value"))),
    }
}

fn replace(value: &mut Value, path: &str, new: Value) -> Result<(), String> {
    if path.is_empty() {
        *value = new;
        return Ok(());
    }
    let missing_key = || format!("replace operation does not apply: doc is missing key: {path}: missing value");
    let missing_path = || format!("replace operation does not apply: doc is missing path: {path}: missing value");
    match container(value, path).ok_or_else(missing_path)? {
        (Value::List(list), step) => {
            let at = position(&step, list.len()).map_err(|_| missing_key())?;
            list[at] = new;
        }
        // Of objects, upstream's library replaces what is not there too.
        (container, step) => drop(container.make_object().insert(step, new)),
    }
    Ok(())
}

fn test(value: &Value, path: &str, expected: &Value) -> Result<(), String> {
    let found = get(value, path);
    let same = match found {
        None => expected.is_null(),
        Some(found) => found == expected,
    };
    if same { Ok(()) } else { Err(format!("testing value {path} failed: test failed")) }
}
