//! One version of a custom resource as the registry needs it: forms, columns, judging.

use super::{
    conversion::Converter,
    rules::{Rules, is_blocked},
};
use crate::{
    cache::{Columns, CustomColumns, encode},
    registry::Part,
};
use bytes::Bytes;
use std::sync::{Arc, OnceLock};
use timonel_api::{
    FieldErrors, Path, Status, Value,
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
    /// The webhook that makes objects of one version those of another.
    converter: Option<Arc<Converter>>,
}

/// Objects in one review of a conversion webhook.
const BATCH: usize = 100;

/// The version that a form names.
fn version_of(form: &str) -> &str {
    form.split(' ').next().unwrap_or("")
}

/// Names a version and its schema.
fn form(version: &Version) -> String {
    format!("{} {}", version.resource.version, version.structural.fingerprint())
}

impl Custom {
    /// The version at a place of a definition.
    pub(super) fn new(definition: &Arc<Definition>, at: usize, converter: Option<Arc<Converter>>) -> Self {
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
            converter,
        }
    }

    /// The version.
    pub(crate) fn version(&self) -> &Version {
        &self.definition.versions[self.at]
    }

    /// Whether objects stored in a form must be converted before they can be shown.
    pub(crate) fn converts(&self, form: &str) -> bool {
        self.converter.is_some() && version_of(form) != self.version().resource.version
    }

    /// Whether a webhook converts between the versions.
    pub(crate) const fn has_converter(&self) -> bool {
        self.converter.is_some()
    }

    /// Converts stored objects with their forms into this version.
    pub(crate) async fn convert(&self, objects: Vec<(Value, &str)>) -> Result<Vec<Value>, Status> {
        let Some(converter) = &self.converter else {
            return Ok(objects.into_iter().map(|(object, _)| object).collect());
        };
        let wanted = self.version().resource.api_version();
        let mut converted = Vec::with_capacity(objects.len());
        let mut rest = objects.into_iter().peekable();
        while let Some((_, form)) = rest.peek() {
            let name = version_of(form).to_owned();
            let stored = self.definition.version(&name);
            let mut batch = Vec::new();
            while let Some((mut object, _)) = rest.next_if(|(_, form)| version_of(form) == name && batch.len() < BATCH)
            {
                if let Some(stored) = stored {
                    stored.structural.prune(&mut object);
                    stored.structural.default(&mut object);
                }
                object.set_at(&["apiVersion"], format!("{}/{name}", self.version().resource.group));
                object.set_at(&["kind"], self.version().resource.kind.as_str());
                batch.push(object);
            }
            converted.extend(converter.convert(batch, &wanted).await?);
        }
        for object in &mut converted {
            self.version().structural.prune(object);
            self.version().structural.default(object);
        }
        Ok(converted)
    }

    /// Brings a stored object, whose columns name `form`, into the form of this version.
    pub(crate) fn normalize(&self, object: &mut Value, form: &str) {
        let name = version_of(form);
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
    pub(crate) async fn encode(&self, object: &Value) -> Result<Bytes, Status> {
        let stored = self.definition.stored();
        let same = stored.resource.version == self.version().resource.version;
        if let Some(converter) = self.converter.as_ref().filter(|_| !same) {
            let converted = converter.convert(vec![object.clone()], &stored.resource.api_version()).await?;
            let mut object = converted.into_iter().next().ok_or_else(|| Status::internal("nothing was converted"))?;
            stored.structural.prune(&mut object);
            return Ok(encode(&object, &self.columns));
        }
        if stored.structural.fingerprint() == self.version().structural.fingerprint() {
            return Ok(encode(object, &self.columns));
        }
        let mut object = object.clone();
        stored.structural.prune(&mut object);
        Ok(encode(&object, &self.columns))
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
    let found = at(&paths.selector).filter(|found| !matches!(found, Value::String(_) | Value::Null));
    if let Some(other) = found.filter(|_| !paths.selector.is_empty()) {
        let detail =
            format!("{shown} accessor error: {} is of the type {}, expected string", go(other), go_type(other));
        errors.invalid(&Path::new(&shown), "", detail);
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
