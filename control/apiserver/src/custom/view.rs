//! One version of a custom resource as the registry needs it: forms, columns, judging.

use super::rules::{Rules, is_blocked};
use crate::{
    cache::{Columns, CustomColumns, encode},
    registry::Part,
};
use bytes::Bytes;
use std::sync::{Arc, OnceLock};
use timonel_api::{
    FieldErrors, Path, Value,
    definition::{Definition, ScalePaths, Version},
};

/// One served version of a definition.
#[derive(Clone, Debug)]
pub(crate) struct Custom {
    pub(crate) definition: Arc<Definition>,
    at: usize,
    /// The form of objects of this version: those stored in it are shown as they are.
    pub(crate) form: String,
    /// The columns of stored objects, in the form of the stored version.
    pub(crate) columns: Columns,
    /// Rules in CEL, compiled when the first object is judged.
    rules: Arc<OnceLock<Option<Rules>>>,
}

/// Names a version and its schema.
fn form(version: &Version) -> String {
    format!("{} {}", version.resource.version, version.structural.fingerprint())
}

impl Custom {
    /// The version at a place of a definition.
    pub(crate) fn new(definition: &Arc<Definition>, at: usize) -> Self {
        let stored = definition.stored();
        let paths = definition.selectable().into_iter();
        let fields = paths.map(|path| (path.to_string(), path.split('.').map(str::to_owned).collect()));
        let columns = CustomColumns { form: form(stored), fields: fields.collect() };
        Self {
            form: form(&definition.versions[at]),
            columns: Columns::Custom(Arc::new(columns)),
            definition: definition.clone(),
            at,
            rules: Arc::default(),
        }
    }

    /// The version.
    pub(crate) fn version(&self) -> &Version {
        &self.definition.versions[self.at]
    }

    /// Brings a stored object, whose columns name `form`, into the form of this version.
    pub(crate) fn normalize(&self, object: &mut Value, form: &str) {
        let name = form.split(' ').next().unwrap_or("");
        if let Some(stored) = self.definition.version(name) {
            stored.structural.prune(object);
            stored.structural.default(object);
        }
        if name != self.version().resource.version {
            self.version().structural.prune(object);
            self.version().structural.default(object);
        }
    }

    /// An object of this version as the store holds it.
    pub(crate) fn encode(&self, object: &Value) -> Bytes {
        let stored = self.definition.stored();
        if stored.structural.fingerprint() == self.version().structural.fingerprint() {
            return encode(object, &self.columns);
        }
        let mut object = object.clone();
        stored.structural.prune(&mut object);
        encode(&object, &self.columns)
    }

    /// Judges a new object; warnings come back.
    pub(crate) fn validate_create(&self, object: &Value, errors: &mut FieldErrors) -> Vec<String> {
        self.version().structural.validate(object, None, errors);
        if let Some(paths) = &self.version().scale {
            check_scale(paths, object, true, errors);
        }
        self.judge(object, None, errors)
    }

    /// Judges a changed object; warnings come back.
    pub(crate) fn validate_update(
        &self,
        part: Part,
        new: &Value,
        old: &Value,
        errors: &mut FieldErrors,
    ) -> Vec<String> {
        let structural = &self.version().structural;
        if part == Part::Status {
            structural.validate_status(new, old, errors);
        } else {
            structural.validate(new, Some(old), errors);
        }
        if let Some(paths) = &self.version().scale {
            check_scale(paths, new, part != Part::Status, errors);
        }
        self.judge(new, Some(old), errors)
    }

    fn judge(&self, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) -> Vec<String> {
        let version = self.version();
        if !version.structural.root().has_rules() || is_blocked(errors) {
            return Vec::new();
        }
        let rules = self.rules.get_or_init(|| Rules::of(&version.schema()));
        rules.as_ref().map(|rules| rules.judge(object, old, errors)).unwrap_or_default()
    }
}

/// What `scale` reads must be numbers of replicas and text.
fn check_scale(paths: &ScalePaths, object: &Value, spec: bool, errors: &mut FieldErrors) {
    let at = |path: &[timonel_api::Key]| path.iter().try_fold(object, |node, name| node.get(name));
    let wish = spec.then_some(&paths.spec_replicas);
    for path in wish.into_iter().chain([&paths.status_replicas]) {
        let shown = format!(".{}", path.join("."));
        let place = Path::new(&shown);
        match at(path) {
            None | Some(Value::Null) => {}
            Some(Value::Int(number)) if *number < 0 => {
                errors.invalid(&place, *number, "should be a non-negative integer");
            }
            Some(Value::Int(number)) if *number > i64::from(i32::MAX) => {
                errors.invalid(&place, *number, format!("should be less than or equal to {}", i32::MAX));
            }
            Some(Value::Int(_)) => {}
            Some(other) => {
                let detail =
                    format!("{shown} accessor error: {} is of the type {}, expected int64", go(other), go_type(other));
                errors.invalid(&place, 0, detail);
            }
        }
    }
    let shown = format!(".{}", paths.selector.join("."));
    if let Some(other) = at(&paths.selector).filter(|found| !matches!(found, Value::String(_) | Value::Null)) {
        if !paths.selector.is_empty() {
            let detail =
                format!("{shown} accessor error: {} is of the type {}, expected string", go(other), go_type(other));
            errors.invalid(&Path::new(&shown), "", detail);
        }
    }
}

fn go(value: &Value) -> String {
    match value {
        Value::String(text) => text.to_string(),
        other => serde_json::to_string(other).unwrap_or_default(),
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int64",
        Value::Float(_) => "float64",
        Value::String(_) => "string",
        Value::List(_) => "[]interface {}",
        Value::Object(_) | Value::Raw(_) => "map[string]interface {}",
    }
}
