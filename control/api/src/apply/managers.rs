//! `metadata.managedFields`: who owns what, told apart by name, operation, version and subresource.
//!
//! A set is read only when somebody asks for it; one that nobody changed is written as it was read.

use std::cell::OnceCell;

use super::set::FieldSet;
use crate::{Key, Object, Value};

/// Managers that updated, beyond which the oldest share one entry.
const MAX_UPDATERS: usize = 10;
/// The name of that entry.
const ANCIENT: &str = "ancient-changes";

/// What a manager does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// A set that may not have been read yet.
#[derive(Clone, Debug)]
pub(super) struct Owned {
    text: Option<Value>,
    set: OnceCell<FieldSet>,
}

impl Owned {
    pub(super) fn new(set: FieldSet) -> Self {
        Self { text: None, set: OnceCell::from(set) }
    }

    fn of_text(text: Value) -> Self {
        Self { text: Some(text), set: OnceCell::new() }
    }

    pub(super) fn set(&self) -> &FieldSet {
        self.set.get_or_init(|| match &self.text {
            Some(Value::Raw(text)) => FieldSet::parse(text).unwrap_or_default(),
            Some(other) => FieldSet::parse(&String::from_utf8_lossy(&crate::encode_json(other))).unwrap_or_default(),
            None => FieldSet::new(),
        })
    }

    fn into_value(self) -> Value {
        match (self.text, self.set.into_inner()) {
            (Some(text), _) => text,
            (None, set) => Value::Raw(set.unwrap_or_default().to_json()),
        }
    }
}

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct Manager {
    pub(super) name: Key,
    pub(super) operation: Operation,
    pub(super) api_version: Key,
    pub(super) subresource: Key,
    pub(super) time: Option<Key>,
    pub(super) owned: Owned,
}

impl Manager {
    /// Whether two entries are of one manager: appliers keep their entry when they change the version.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.name == other.name
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// As upstream's messages name it.
    pub(super) fn shown(&self) -> String {
        let mut text = crate::fieldpath::quote(&self.name);
        if !self.subresource.is_empty() {
            text = format!("{text} with subresource {}", crate::fieldpath::quote(&self.subresource));
        }
        match self.operation {
            Operation::Apply => text,
            Operation::Update => format!("{text} using {}", self.api_version),
        }
    }

    fn identity(&self) -> (&str, Operation, &str, &str) {
        (&self.name, self.operation, &self.api_version, &self.subresource)
    }

    fn read(entry: &Value, at: usize) -> Result<Self, String> {
        let operation = match entry.str_at(&["operation"]) {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return Err("operation must be `Apply` or `Update`".into()),
        };
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        if text("apiVersion").is_empty() {
            return Err("apiVersion must not be empty".into());
        }
        match text("fieldsType") {
            "FieldsV1" => {}
            "" => return Err(format!("missing fieldsType in managed fields entry {at}")),
            other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {at}")),
        }
        let owned = match entry.get("fieldsV1") {
            None | Some(Value::Null) => Owned::new(FieldSet::new()),
            Some(fields) => Owned::of_text(fields.clone()),
        };
        Ok(Self {
            name: text("manager").into(),
            operation,
            api_version: text("apiVersion").into(),
            subresource: text("subresource").into(),
            time: entry.get("time").and_then(Value::as_str).map(Key::from),
            owned,
        })
    }

    fn into_value(self) -> Value {
        let mut entry = Vec::with_capacity(7);
        entry.push((Key::const_new("apiVersion"), Value::String(self.api_version)));
        entry.push((Key::const_new("fieldsType"), Value::from("FieldsV1")));
        entry.push((Key::const_new("fieldsV1"), self.owned.into_value()));
        if !self.name.is_empty() {
            entry.push((Key::const_new("manager"), Value::String(self.name)));
        }
        let operation = match self.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        entry.push((Key::const_new("operation"), Value::from(operation)));
        if !self.subresource.is_empty() {
            entry.push((Key::const_new("subresource"), Value::String(self.subresource)));
        }
        if let Some(time) = self.time {
            entry.push((Key::const_new("time"), Value::String(time)));
        }
        Value::Object(Object::from_members(entry))
    }
}

/// All entries of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Managers(pub(super) Vec<Manager>);

impl Managers {
    /// Reads the entries of an object.
    ///
    /// # Errors
    /// What an entry lacks, in upstream's words.
    pub(super) fn read(entries: &[Value]) -> Result<Self, String> {
        let mut managers = Self(Vec::with_capacity(entries.len() + 1));
        for (at, entry) in entries.iter().enumerate() {
            managers.put(Manager::read(entry, at)?);
        }
        Ok(managers)
    }

    /// The same for entries that came from a client: their sets are read too.
    pub(super) fn read_all(entries: &[Value]) -> Result<Self, String> {
        for entry in entries {
            let text = match entry.get("fieldsV1") {
                Some(Value::Raw(text)) => text.clone(),
                Some(other) if !other.is_null() => String::from_utf8_lossy(&crate::encode_json(other)).into(),
                _ => continue,
            };
            FieldSet::parse(&text).map_err(|error| format!("error decoding set: {error}"))?;
        }
        Self::read(entries)
    }

    /// The entries as a list, in upstream's order; `None` when there are none.
    pub(super) fn into_value(mut self) -> Option<Value> {
        if self.0.is_empty() {
            return None;
        }
        self.0.sort_by(|a, b| {
            let key = |m: &Manager| (m.operation, m.time.clone().unwrap_or_default());
            let rest = |m: &Manager| (m.name.clone(), m.api_version.clone(), m.subresource.clone());
            key(a).cmp(&key(b)).then_with(|| rest(a).cmp(&rest(b)))
        });
        Some(Value::List(self.0.into_iter().map(Manager::into_value).collect()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The entry of the same manager.
    pub(super) fn find(&self, other: &Manager) -> Option<&Manager> {
        self.0.iter().find(|manager| manager.is_same(other))
    }

    /// Sets an entry, in place of one of the same manager.
    pub(super) fn put(&mut self, entry: Manager) {
        match self.0.iter_mut().find(|manager| manager.is_same(&entry)) {
            Some(known) => *known = entry,
            None => self.0.push(entry),
        }
    }

    /// Takes the entry of the same manager out.
    pub(super) fn take(&mut self, other: &Manager) -> Option<Manager> {
        let at = self.0.iter().position(|manager| manager.is_same(other))?;
        Some(self.0.remove(at))
    }

    /// Joins the oldest updaters of a version in one entry, until there are few enough.
    pub(super) fn cap(&mut self) {
        let count = self.0.iter().filter(|manager| manager.operation == Operation::Update).count();
        if count <= MAX_UPDATERS {
            return;
        }
        let mut excess = count - MAX_UPDATERS;
        self.0.sort_by(|a, b| {
            let key = |m: &Manager| (m.operation, m.time.clone().unwrap_or_default());
            key(a).cmp(&key(b)).then_with(|| a.identity().cmp(&b.identity()))
        });
        let mut first_of: Vec<(Key, Manager)> = Vec::new();
        let updaters: Vec<Manager> =
            self.0.iter().filter(|manager| manager.operation == Operation::Update).cloned().collect();
        for updater in updaters {
            if excess == 0 {
                break;
            }
            let version = updater.api_version.clone();
            let Some((_, first)) = first_of.iter().find(|(known, _)| *known == version) else {
                first_of.push((version, updater));
                continue;
            };
            let name = Key::const_new(ANCIENT);
            let mut bucket = Manager { name, subresource: Key::default(), ..updater.clone() };
            let known = match self.take(&bucket) {
                Some(known) => known,
                None => {
                    let first = first.clone();
                    self.take(&first).unwrap_or(first)
                }
            };
            bucket.owned = Owned::new(updater.owned.set().union(known.owned.set()));
            if !updater.is_same(&bucket) {
                self.take(&updater);
            }
            self.put(bucket);
            excess -= 1;
        }
    }
}
