//! Changes to an object that a client sends instead of the object: JSON patch, merge patch and strategic merge
//! patch, all on [`Value`]. Whatever a patch makes is brought into form by the schema and defaulted, as a body
//! that came whole would be.
//!
//! Server-side apply is a module of its own ([`crate::Tracker`]); only its body is read here.

mod json;
mod merge;
mod strategic;

pub use json::json_patch;
pub use merge::merge_patch;
pub use strategic::strategic_merge_patch;

use crate::codec::{
    DecodeError, FieldValidation, Finding, Limits, coerce, decode_json_findings, decode_yaml_lenient,
    decode_yaml_untyped,
};
use crate::{Scheme, TypeId, Value, default_type};

/// Operations in one JSON patch, as upstream bounds them.
pub(crate) const MAX_OPERATIONS: usize = 10_000;

/// How a patch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// `application/json-patch+json`
    Json,
    /// `application/merge-patch+json`
    Merge,
    /// `application/strategic-merge-patch+json`
    Strategic,
}

impl PatchKind {
    /// From a request's content type, parameters left out.
    #[must_use]
    pub fn parse(content_type: &str) -> Option<Self> {
        match content_type {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            _ => None,
        }
    }
}

/// A patch that cannot be applied; each variant is answered with a status of its own.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PatchError {
    /// The patch is not what its type says (400).
    #[error("{0}")]
    BadRequest(String),
    /// Too many operations (413).
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
    /// The patch does not fit the object (422).
    #[error("{0}")]
    Unprocessable(String),
    /// What the patch makes is no object of the kind (422, cause `patch`).
    #[error(transparent)]
    Invalid(DecodeError),
}

/// Applies a patch to an object of type `ty` and gives the patched object, defaulted, with warnings.
///
/// # Errors
/// A patch that does not read, does not fit, or makes something that is no object of the type.
pub fn apply_patch(
    scheme: &Scheme,
    ty: TypeId,
    value: Value,
    kind: PatchKind,
    patch: &[u8],
    validation: FieldValidation,
    limits: &Limits,
) -> Result<(Value, Vec<String>), PatchError> {
    let (patch, mut findings) = read(patch, limits)?;
    let patched = match kind {
        PatchKind::Json => {
            // Duplicates in a patch are reported by the operation they stand in.
            findings.clear();
            json_patch(value, &patch, limits)?
        }
        PatchKind::Merge if !matches!(patch, Value::Object(_)) => {
            return Err(PatchError::BadRequest("Invalid JSON Patch".into()));
        }
        PatchKind::Merge => merge_patch(value, patch),
        PatchKind::Strategic => strategic_merge_patch(scheme.schema(), ty, value, patch)?,
    };
    let mut decoded = coerce(scheme.schema(), ty, patched, limits).map_err(PatchError::Invalid)?;
    findings.append(&mut decoded.findings);
    decoded.findings = findings;
    let (mut value, warnings) = decoded.checked(validation).map_err(PatchError::Invalid)?;
    default_type(scheme, ty, &mut value);
    Ok((value, warnings))
}

/// A patch as a tree. Clients may send YAML under a JSON content type; upstream reads JSON only where the patch
/// starts as JSON does.
fn read(patch: &[u8], limits: &Limits) -> Result<(Value, Vec<Finding>), PatchError> {
    let starts_as_json =
        patch.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| matches!(byte, b'{' | b'['));
    if starts_as_json {
        return decode_json_findings(patch, limits)
            .map_err(|error| PatchError::BadRequest(format!("error decoding patch: {error}")));
    }
    decode_yaml_untyped(patch, limits)
        .map(|value| (value, Vec::new()))
        .map_err(|error| PatchError::BadRequest(format!("error decoding patch: {error}")))
}

/// Reads an applied object (YAML, of which JSON is a part), and says what in it is there twice.
///
/// # Errors
/// What is no YAML, or no object; the text is upstream's.
pub fn decode_apply_patch(bytes: &[u8], limits: &Limits) -> Result<(Value, Option<String>), String> {
    let starts_as_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let json = if starts_as_json { decode_json_findings(bytes, limits).ok() } else { None };
    let (value, twice) = match json {
        Some((value, findings)) if findings.is_empty() => (value, None),
        _ => {
            decode_yaml_lenient(bytes, limits).map_err(|problem| format!("error converting YAML to JSON: {problem}"))?
        }
    };
    let found = match value {
        Value::Object(_) => {
            return Ok((value, twice.map(|problem| format!("error converting YAML to JSON: {problem}"))));
        }
        Value::Null => return Ok((Value::object(), None)),
        Value::List(_) => "array",
        Value::String(_) | Value::Raw(_) => "string",
        Value::Bool(_) => "bool",
        Value::Int(_) | Value::Float(_) => "number",
    };
    Err(format!(
        "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"
    ))
}

#[cfg(test)]
mod tests;
