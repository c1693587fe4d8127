//! Configuration files in upstream's formats: YAML or JSON of a known kind, checked before anything uses them. Pure.

use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use timonel_api::{FieldErrors, Limits, Value, decode_yaml_untyped};

/// Files by the name under which a configuration speaks of them: kubeconfigs of webhooks and what those name.
///
/// A configuration never reads the disk: whoever takes it from a user decides what its names mean.
pub type AccessFiles = BTreeMap<String, String>;

/// The file that a configuration names: by the whole name, or by its last part, as a Secret's keys hold it.
pub(crate) fn find<'f>(files: &'f AccessFiles, name: &str) -> Option<&'f String> {
    files.get(name).or_else(|| files.get(name.rsplit('/').next().unwrap_or(name)))
}

/// Bytes of one configuration file.
const MAX_FILE: usize = 1 << 20;

/// Why a configuration is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It is no file of its kind.
    #[error("failed decoding: {0}")]
    Decode(String),
    /// It says what it may not.
    #[error("{0}")]
    Invalid(String),
    /// A file that it names is not there.
    #[error("{field}: no file {name:?} was given")]
    Missing {
        /// Which member names it.
        field: String,
        /// The name.
        name: String,
    },
}

/// A file of a kind; members that the kind does not have are passed over.
pub(crate) fn decode_lenient<T: DeserializeOwned>(text: &str, version: &str, kind: &str) -> Result<T, FileError> {
    let (value, _) = decode(text, &[version], kind)?;
    serde_json::from_value(value).map_err(|error| FileError::Decode(error.to_string()))
}

/// A file of a kind; members that the kind does not have are refused.
pub(crate) fn decode_strict<T: DeserializeOwned>(text: &str, versions: &[&str], kind: &str) -> Result<T, FileError> {
    let (value, _) = decode(text, versions, kind)?;
    serde_json::from_value(value).map_err(|error| FileError::Decode(format!("strict decoding error: {error}")))
}

fn decode(text: &str, versions: &[&str], kind: &str) -> Result<(Json, String), FileError> {
    if text.len() > MAX_FILE {
        return Err(FileError::Decode(format!("it has more than {MAX_FILE} bytes")));
    }
    let value = decode_yaml_untyped(text.as_bytes(), &Limits::default());
    let mut value: Value = value.map_err(|error| FileError::Decode(error.to_string()))?;
    let [found_version, found_kind] = ["apiVersion", "kind"].map(|name| value.str_at(&[name]).to_owned());
    for (what, name) in [(&found_kind, "Kind"), (&found_version, "apiVersion")] {
        if what.is_empty() {
            return Err(FileError::Decode(format!("Object '{name}' is missing")));
        }
    }
    if found_kind != kind || !versions.contains(&found_version.as_str()) {
        return Err(FileError::Decode(format!(
            "no kind {found_kind:?} is registered for version {found_version:?}, expected {kind} of {}",
            versions.join(" or ")
        )));
    }
    let object = value.make_object();
    object.remove("apiVersion");
    object.remove("kind");
    object.remove("metadata");
    Ok((Json::from(&value), found_version))
}

/// Broken rules as one text, each once, in upstream's form of several errors.
pub(crate) fn aggregate(errors: &FieldErrors) -> Result<(), FileError> {
    let mut texts: Vec<String> = Vec::new();
    for error in errors.iter().map(ToString::to_string) {
        if !texts.contains(&error) {
            texts.push(error);
        }
    }
    Err(FileError::Invalid(match texts.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Thing {
        #[allow(dead_code, reason = "only its form matters")]
        a: i64,
    }

    #[test]
    fn files_are_what_they_say_they_are() {
        for (text, expected) in [
            ("apiVersion: g/v1\nkind: Thing\na: 1", None),
            ("{\"apiVersion\": \"g/v1\", \"kind\": \"Thing\", \"a\": 1}", None),
            ("kind: Thing\na: 1", Some("failed decoding: Object 'apiVersion' is missing")),
            ("apiVersion: g/v1\na: 1", Some("failed decoding: Object 'Kind' is missing")),
            (
                "apiVersion: g/v2\nkind: Thing\na: 1",
                Some("failed decoding: no kind \"Thing\" is registered for version \"g/v2\", expected Thing of g/v1"),
            ),
            (
                "apiVersion: g/v1\nkind: Thing\na: 1\nb: 2",
                Some("failed decoding: strict decoding error: unknown field `b`, expected `a`"),
            ),
        ] {
            let found = decode_strict::<Thing>(text, &["g/v1"], "Thing").err().map(|error| error.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
        for text in ["", "- 1", "a: [", "\u{0}"] {
            decode_strict::<Thing>(text, &["g/v1"], "Thing").unwrap_err();
        }
        assert!(decode_strict::<Thing>(&"#".repeat(MAX_FILE + 1), &["g/v1"], "Thing").is_err());
    }
}
