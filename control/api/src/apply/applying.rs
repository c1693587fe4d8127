//! An apply: the live object, the applied one, and what becomes of both.

use super::compare::same;
use super::conflict::{self, Conflict};
use super::managers::{Manager, Managers, Operation, Owned};
use super::merge::merge;
use super::owned::{owned_fields, stored_fields};
use super::remove::{reconciled, with_named, without};
use super::set::FieldSet;
use super::track::write;
use super::{ENTRIES, Tracker};
use crate::{Gvk, Status, Value};

/// The manager of `kubectl apply --server-side`, who takes over what `kubectl apply` owned.
const KUBECTL: &str = "kubectl";
/// Who owns what was there before anybody was tracked.
const BEFORE: &str = "before-first-apply";

/// An object that cannot be applied.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApplyError {
    /// It is not what the request is about (400).
    #[error("{0}")]
    BadRequest(String),
    /// It is not of its type, or the live object cannot be merged with it (500, as upstream answers).
    #[error("{0}")]
    Mismatch(String),
    /// Others own what it would change (409).
    #[error("{} conflicts", .0.len())]
    Conflicts(Vec<Conflict>),
}

impl ApplyError {
    /// What a client is told.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::BadRequest(why) => Status::bad_request(why.clone()),
            Self::Mismatch(why) => Status {
                code: 500,
                reason: String::new().into(),
                message: why.clone(),
                details: None,
                continue_token: None,
            },
            Self::Conflicts(conflicts) => conflict::status(conflicts),
        }
    }
}

/// What an apply makes.
struct Applied {
    /// The new object; `None` when it is the live one.
    object: Option<Value>,
    managers: Managers,
}

impl Tracker<'_> {
    /// The live object with `config` applied by `manager`, entries included. It is not yet brought into form or
    /// defaulted: applied nulls are still in it.
    ///
    /// # Errors
    /// What is not of the request's kind, not of its type, or owned by others.
    pub fn apply(&self, live: &Value, config: &Value, manager: &str, force: bool) -> Result<Value, ApplyError> {
        self.check(config)?;
        let mut managers = Managers::read(live.list_at(&ENTRIES))
            .map_err(|problem| ApplyError::Mismatch(format!("failed to decode managed fields: {problem}")))?;
        let mut live = live.clone();
        live.remove_at(&ENTRIES);
        if managers.is_empty() {
            managers = self.before_first(&live)?;
        }
        let outcome = match self.attempt(&live, config, managers.clone(), manager, force) {
            Err(ApplyError::Conflicts(conflicts)) if manager == KUBECTL => {
                self.take_over(&live, config, managers, conflicts)
            }
            outcome => outcome,
        }?;
        let changed = outcome.object.is_some();
        let mut object = outcome.object.unwrap_or(live);
        let mut managers = outcome.managers;
        if changed {
            let own = self.manager(manager, Operation::Apply, Owned::new(FieldSet::new()));
            if let Some(entry) = managers.0.iter_mut().find(|entry| entry.is_same(&own)) {
                entry.time = Some(self.now.into());
            }
        }
        write(&mut object, managers);
        if manager == KUBECTL {
            super::last_applied::refresh(&mut object, config);
        }
        Ok(object)
    }

    fn check(&self, config: &Value) -> Result<(), ApplyError> {
        let (api_version, kind) = (config.str_at(&["apiVersion"]), config.str_at(&["kind"]));
        if api_version != self.api_version || kind != self.kind {
            return Err(ApplyError::BadRequest(format!("invalid object type: {}", Gvk::of(api_version, kind))));
        }
        if config.at(&ENTRIES).is_some_and(|entries| !entries.is_null()) {
            return Err(ApplyError::BadRequest("metadata.managedFields must be nil".into()));
        }
        Ok(())
    }

    /// The entry of what was there before anybody was tracked; none for an object that is not there yet.
    fn before_first(&self, live: &Value) -> Result<Managers, ApplyError> {
        let mut object = live.clone();
        self.create(&mut object, BEFORE);
        Ok(Managers::read(object.list_at(&ENTRIES)).unwrap_or_default())
    }

    fn named(&self, config: &Value) -> String {
        let text = |name| config.str_at(&["metadata", name]);
        format!("{}/{}; {}", text("namespace"), text("name"), Gvk::of(self.api_version, self.kind))
    }

    /// What a client is told about a merged object that cannot be brought into form.
    #[must_use]
    pub fn cannot_convert(&self, config: &Value, problem: &crate::DecodeError) -> ApplyError {
        let kind = Gvk::of(self.api_version, self.kind);
        let what = match problem {
            crate::DecodeError::Type { found, expected, .. } if found.starts_with("number ") && found.contains('.') => {
                format!("cannot convert float64 to {expected}")
            }
            other => other.to_string(),
        };
        let named = self.named(config);
        ApplyError::Mismatch(format!(
            "failed to convert new object ({named}) to proper version: unable to convert unstructured object to {kind}: {what}"
        ))
    }

    pub(super) fn fields_of_config(&self, config: &Value) -> Result<FieldSet, ApplyError> {
        owned_fields(self.schema, self.ty, config).map_err(|problem| {
            ApplyError::Mismatch(format!("failed to create typed patch object ({}): {problem}", self.named(config)))
        })
    }

    fn attempt(
        &self,
        live: &Value,
        config: &Value,
        mut managers: Managers,
        name: &str,
        force: bool,
    ) -> Result<Applied, ApplyError> {
        let mismatch = |what: &str, why: String| ApplyError::Mismatch(format!("failed to {what}: {why}"));
        self.reconcile(live, &mut managers);
        let set = self.resets.filter(self.fields_of_config(config)?);
        let merged = merge(self.schema, self.ty, live, config).map_err(|why| mismatch("merge config", why))?;
        let mut entry = self.manager(name, Operation::Apply, Owned::new(set));
        let last = managers.take(&entry);
        entry.time = last.as_ref().and_then(|last| last.time.clone());
        managers.0.push(entry.clone());
        let new = match &last {
            Some(last) if !last.owned.set().is_empty() => self.pruned(merged, &managers, last, &entry)?,
            _ => merged,
        };
        let (left, taken) = self
            .after_apply(live, &new, &managers, &entry)
            .map_err(|why| mismatch("compare objects", why.to_string()))?;
        if !force && !taken.is_empty() {
            return Err(ApplyError::Conflicts(conflicts(taken)));
        }
        Ok(Applied { object: (!same(live, &new)).then_some(new), managers: without_system(left, &entry) })
    }

    /// What was granular and is owned as one by now counts as the whole.
    fn reconcile(&self, live: &Value, managers: &mut Managers) {
        for manager in &mut managers.0 {
            let ty = if manager.api_version == self.api_version {
                Some(self.ty)
            } else {
                self.versions.convert(live, &manager.api_version).map(|(_, ty)| ty)
            };
            if let Some(set) = ty.and_then(|ty| reconciled(self.schema, ty, manager.owned.set())) {
                manager.owned = Owned::new(set);
            }
        }
    }

    /// Takes out what the manager applied last time, does not apply any more, and nobody else owns.
    fn pruned(&self, merged: Value, managers: &Managers, last: &Manager, own: &Manager) -> Result<Value, ApplyError> {
        if last.api_version == own.api_version && last.owned.set().difference(own.owned.set()).is_empty() {
            return Ok(merged);
        }
        let Some((in_last, ty)) = self.in_version(&merged, &last.api_version) else { return Ok(merged) };
        let fields = |object: &Value, ty| with_named(self.schema, ty, &stored_fields(self.schema, ty, object));
        let given_up = with_named(self.schema, ty, last.owned.set());
        let mut pruned = without(self.schema, ty, &in_last, &given_up);
        let mut versions: Vec<&str> = managers.0.iter().map(|manager| &*manager.api_version).collect();
        versions.sort_unstable();
        versions.dedup();
        versions.sort_by_key(|version| *version != &*last.api_version);
        let mut at = last.api_version.to_string();
        for version in versions {
            let owned = managers.0.iter().filter(|manager| &*manager.api_version == version);
            let owned = owned.fold(FieldSet::new(), |all, manager| all.union(manager.owned.set()));
            let Some((whole, ty)) = self.between(&in_last, &last.api_version, version) else { continue };
            let Some((rest, _)) = self.between(&pruned, &at, version) else { continue };
            let keep = fields(&rest, ty).union(&with_named(self.schema, ty, &owned));
            pruned = without(self.schema, ty, &whole, &fields(&whole, ty).difference(&keep));
            at = version.to_owned();
        }
        let Some((pruned, _)) = self.between(&pruned, &at, &last.api_version) else { return Ok(merged) };
        let gone = fields(&in_last, ty).difference(&fields(&pruned, ty)).intersection(&given_up);
        let result = without(self.schema, ty, &in_last, &gone);
        Ok(self.between(&result, &last.api_version, self.api_version).map_or(merged, |(object, _)| object))
    }

    /// An object of one version in another.
    fn between(&self, object: &Value, from: &str, to: &str) -> Option<(Value, crate::TypeId)> {
        if from == to {
            return if to == self.api_version {
                Some((object.clone(), self.ty))
            } else {
                self.versions.convert(object, to)
            };
        }
        if to == self.api_version {
            return self.versions.convert(object, to).or_else(|| Some((object.clone(), self.ty)));
        }
        self.versions.convert(object, to)
    }

    /// `kubectl apply --server-side` may take what `kubectl apply` set.
    fn take_over(
        &self,
        live: &Value,
        config: &Value,
        managers: Managers,
        conflicts: Vec<Conflict>,
    ) -> Result<Applied, ApplyError> {
        let Some(allowed) = super::last_applied::unchanged(self, live) else {
            return Err(ApplyError::Conflicts(conflicts));
        };
        let rest: Vec<Conflict> = conflicts.into_iter().filter(|conflict| !allowed.contains(&conflict.path)).collect();
        if !rest.is_empty() {
            return Err(ApplyError::Conflicts(rest));
        }
        self.attempt(live, config, managers, KUBECTL, true)
    }
}

fn conflicts(mut taken: Vec<(Manager, FieldSet)>) -> Vec<Conflict> {
    taken.sort_by_key(|(manager, _)| {
        (manager.name.clone(), manager.operation, manager.api_version.clone(), manager.subresource.clone())
    });
    taken.iter().flat_map(|(manager, fields)| conflict::with(manager, fields)).collect()
}

/// What only the server sets is nobody's.
fn without_system(mut managers: Managers, own: &Manager) -> Managers {
    let mut system = FieldSet::of(&["apiVersion"]).union(&FieldSet::of(&["kind"])).union(&FieldSet::of(&["metadata"]));
    for name in super::SYSTEM {
        system = system.union(&FieldSet::of(&["metadata", name]));
    }
    if let Some(mut entry) = managers.take(own) {
        let set = entry.owned.set().difference(&system);
        if !set.is_empty() {
            entry.owned = Owned::new(set);
            managers.0.push(entry);
        }
    }
    managers
}
