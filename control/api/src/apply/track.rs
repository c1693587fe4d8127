//! What a create, an update or a patch does to the entries: its manager owns what it set, and everybody loses what
//! it changed or took away.

use super::compare::{Changes, NoKey, compare, same};
use super::managers::{Manager, Managers, Operation, Owned};
use super::{ENTRIES, Tracker};
use crate::{Key, TypeId, Value};

/// What changed, in each version that an entry speaks of.
struct Versioned<'t, 'a> {
    tracker: &'t Tracker<'a>,
    old: &'t Value,
    new: &'t Value,
    known: Vec<(Key, Option<Changes>)>,
}

impl Versioned<'_, '_> {
    /// What changed in a version; `None` when the version is not served any more.
    fn of(&mut self, api_version: &str) -> Result<Option<&Changes>, NoKey> {
        let at = match self.known.iter().position(|(known, _)| known == api_version) {
            Some(at) => at,
            None => {
                let (versions, schema) = (self.tracker.versions, self.tracker.schema);
                let (old, new) = (versions.convert(self.old, api_version), versions.convert(self.new, api_version));
                let changes = match (old, new) {
                    (Some((old, ty)), Some((new, _))) => Some(compare(schema, ty, &old, &new)?),
                    _ => None,
                };
                let filtered = changes.map(|changes| changes.filtered(|set| self.tracker.resets.filter(set)));
                self.known.push((api_version.into(), filtered));
                self.known.len() - 1
            }
        };
        Ok(self.known[at].1.as_ref())
    }
}

impl<'a> Tracker<'a> {
    /// An entry of this request.
    pub(super) fn manager(&self, name: &str, operation: Operation, owned: Owned) -> Manager {
        Manager {
            name: if name.is_empty() { Key::const_new("unknown") } else { name.into() },
            operation,
            api_version: self.api_version.into(),
            subresource: self.subresource.into(),
            time: None,
            owned,
        }
    }

    /// The type of the object in a version.
    pub(super) fn in_version(&self, object: &Value, api_version: &str) -> Option<(Value, TypeId)> {
        if api_version == self.api_version {
            return Some((object.clone(), self.ty));
        }
        self.versions.convert(object, api_version)
    }

    /// An object with nothing in it but what is always there: what a creation starts from.
    #[must_use]
    pub fn blank(&self) -> Value {
        let limits = crate::Limits::default();
        crate::coerce(self.schema, self.ty, Value::object(), &limits)
            .map_or_else(|_| Value::object(), |made| made.value)
    }

    /// Writes into a new object that its creator owns what is in it.
    pub fn create(&self, new: &mut Value, manager: &str) {
        let entries = sent_entries(new);
        new.remove_at(&ENTRIES);
        let managers = match entries {
            Sent::Entries(managers) => managers,
            Sent::Nothing | Sent::Reset => Managers::default(),
        };
        let blank = self.blank();
        if let Ok(managers) = self.tracked(&blank, new, managers, manager) {
            write(new, managers);
        }
    }

    /// Writes into a changed object who owns what of it. `old` is the live object in the request's version; entries
    /// that the client sends along count unless the request is about a subresource.
    pub fn update(&self, old: &Value, new: &mut Value, manager: &str) {
        if self.is_settled(old, new) {
            return;
        }
        let sent = if self.subresource.is_empty() { sent_entries(new) } else { Sent::Nothing };
        new.remove_at(&ENTRIES);
        let managers = match sent {
            Sent::Reset => return,
            Sent::Entries(managers) => managers,
            Sent::Nothing => Managers::read(old.list_at(&ENTRIES)).unwrap_or_default(),
        };
        // What nobody ever tracked is not tracked from some update on.
        if managers.is_empty() {
            return;
        }
        if let Ok(managers) = self.tracked(old, new, managers, manager) {
            write(new, managers);
        }
    }

    /// Whether nothing changed and every entry speaks of the request's version, so that the entries stay as they are.
    /// Controllers write what is there already more often than anything else: that must not cost reading the entries.
    fn is_settled(&self, old: &Value, new: &Value) -> bool {
        let entries = new.list_at(&ENTRIES);
        let ours = |entry: &Value| entry.str_at(&["apiVersion"]) == self.api_version;
        !entries.is_empty() && entries.iter().all(ours) && old == new
    }

    pub(super) fn tracked(
        &self,
        old: &Value,
        new: &Value,
        mut managers: Managers,
        name: &str,
    ) -> Result<Managers, NoKey> {
        let changes = compare(self.schema, self.ty, old, new)?.filtered(|set| self.resets.filter(set));
        if changes.is_empty() && managers.0.iter().all(|manager| manager.api_version == self.api_version) {
            return Ok(managers);
        }
        let gained = changes.added.union(&changes.modified);
        let known = vec![(Key::from(self.api_version), Some(changes))];
        let mut versioned = Versioned { tracker: self, old, new, known };
        let (left, _) = lose(&mut versioned, &managers, None)?;
        managers = left;
        if !gained.is_empty() {
            let mut entry = self.manager(name, Operation::Update, Owned::new(gained));
            if let Some(known) = managers.find(&entry) {
                entry.owned = Owned::new(entry.owned.set().union(known.owned.set()));
            }
            entry.time = Some(self.now.into());
            managers.put(entry);
        }
        managers.cap();
        Ok(managers)
    }

    /// The entries after `old` became `new` by an apply of `manager`, and what others owned of what changed.
    pub(super) fn after_apply(
        &self,
        old: &Value,
        new: &Value,
        managers: &Managers,
        manager: &Manager,
    ) -> Result<(Managers, Vec<(Manager, super::FieldSet)>), NoKey> {
        let changes = compare(self.schema, self.ty, old, new)?.filtered(|set| self.resets.filter(set));
        let known = vec![(Key::from(self.api_version), Some(changes))];
        lose(&mut Versioned { tracker: self, old, new, known }, managers, Some(manager))
    }
}

/// Takes from everybody but `but` what changed; gives what is left, and what of it was set to something else.
fn lose(
    versioned: &mut Versioned<'_, '_>,
    managers: &Managers,
    but: Option<&Manager>,
) -> Result<(Managers, Vec<(Manager, super::FieldSet)>), NoKey> {
    let (mut left, mut taken) = (Managers::default(), Vec::new());
    for manager in &managers.0 {
        if but.is_some_and(|but| but.is_same(manager)) {
            left.0.push(manager.clone());
            continue;
        }
        let Some(changes) = versioned.of(&manager.api_version)? else { continue };
        if changes.is_empty() {
            left.0.push(manager.clone());
            continue;
        }
        let set = manager.owned.set();
        let lost = set.intersection(&changes.added.union(&changes.modified));
        let rest = set.difference(&lost).difference(&changes.removed);
        if !lost.is_empty() {
            taken.push((manager.clone(), lost));
        }
        if rest.is_empty() {
            continue;
        }
        let mut entry = manager.clone();
        if rest != *set {
            entry.owned = Owned::new(rest);
        }
        left.0.push(entry);
    }
    Ok((left, taken))
}

/// What a client sends as entries.
enum Sent {
    /// Nothing, or nothing that reads.
    Nothing,
    /// The wish that nobody owns anything.
    Reset,
    Entries(Managers),
}

fn sent_entries(object: &Value) -> Sent {
    let Some(entries) = object.at(&ENTRIES).and_then(Value::as_list) else { return Sent::Nothing };
    let blank = |entry: &Value| entry.as_object().is_some_and(|entry| entry.iter().all(|(_, value)| value.is_null()));
    match entries {
        [] => Sent::Reset,
        [entry] if blank(entry) => Sent::Reset,
        entries => match Managers::read_all(entries) {
            Ok(managers) => Sent::Entries(managers),
            Err(_) => Sent::Nothing,
        },
    }
}

/// Writes the entries into an object.
pub(super) fn write(object: &mut Value, managers: Managers) {
    match managers.into_value() {
        Some(entries) => object.set_at(&ENTRIES, entries),
        None => drop(object.remove_at(&ENTRIES)),
    }
}

/// What is wrong with an object's entries, if something is.
#[must_use]
pub fn entries_problem(object: &Value) -> Option<String> {
    Managers::read_all(object.list_at(&ENTRIES)).err()
}

/// Gives the entries their old times back when nothing else of the object changed, so that nothing is written.
pub fn keep_times(old: &Value, new: &mut Value) {
    let (before, after) = (old.list_at(&ENTRIES), new.list_at(&ENTRIES));
    if before.is_empty() || before.len() != after.len() || before == after {
        return;
    }
    let untimed = |entry: &Value| {
        let mut entry = entry.clone();
        entry.remove_at(&["time"]);
        entry
    };
    if before.iter().zip(after).any(|(a, b)| untimed(a) != untimed(b)) {
        return;
    }
    let members = |object: &Value| object.as_object().map_or(0, crate::Object::len);
    let unchanged = members(old) == members(new)
        && old.as_object().into_iter().flat_map(|object| object.iter()).all(|(name, value)| match name.as_str() {
            "metadata" => same_metadata(value, new.get("metadata").unwrap_or(&Value::Null)),
            _ => new.get(name).is_some_and(|other| same(value, other)),
        });
    if unchanged {
        let entries = before.to_vec();
        new.set_at(&ENTRIES, entries);
    }
}

fn same_metadata(old: &Value, new: &Value) -> bool {
    let members = |value: &Value| value.as_object().map_or(0, crate::Object::len);
    members(old) == members(new)
        && old
            .as_object()
            .into_iter()
            .flat_map(|object| object.iter())
            .all(|(name, value)| name == "managedFields" || new.get(name).is_some_and(|other| same(value, other)))
}
