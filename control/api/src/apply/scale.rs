//! The entries of an object as its `scale` has them, and back: of all fields, only the number of replicas.

use super::ENTRIES;
use super::element::Element;
use super::managers::{Managers, Owned};
use super::set::FieldSet;
use crate::{Key, Value};

const SCALE: &str = "autoscaling/v1";

fn replicas_in_scale() -> Vec<Element> {
    vec![Element::Field(Key::const_new("spec")), Element::Field(Key::const_new("replicas"))]
}

fn one(path: &[Element]) -> FieldSet {
    let mut set = FieldSet::new();
    set.insert(path);
    set
}

fn path_of(members: &[&str]) -> Vec<Element> {
    members.iter().map(|name| Element::Field((*name).into())).collect()
}

/// The entries of an object that own its replicas, as entries of its scale. `replicas` says where a version has
/// the number.
#[must_use]
pub fn entries_of_scale(object: &Value, replicas: &dyn Fn(&str) -> Option<Vec<String>>) -> Option<Value> {
    let managers = Managers::read(object.list_at(&ENTRIES)).ok()?;
    let mut of_scale = Managers::default();
    for mut manager in managers.0 {
        let Some(path) = replicas(&manager.api_version) else { continue };
        if manager.owned.set().contains(&path_of(&path.iter().map(String::as_str).collect::<Vec<_>>())) {
            manager.owned = Owned::new(one(&replicas_in_scale()));
            manager.api_version = Key::const_new(SCALE);
            of_scale.put(manager);
        }
    }
    of_scale.into_value()
}

/// The entries of an object after its scale was changed: `scale` has the entries of the new scale.
#[must_use]
pub fn entries_with_scale(
    object: &Value,
    scale: &Value,
    api_version: &str,
    replicas: &dyn Fn(&str) -> Option<Vec<String>>,
) -> Option<Value> {
    let managers = Managers::read(object.list_at(&ENTRIES)).ok()?;
    let mut of_scale = Managers::read(scale.list_at(&ENTRIES)).ok()?;
    let in_version =
        |version: &str| replicas(version).map(|path| path_of(&path.iter().map(String::as_str).collect::<Vec<_>>()));
    let mut all = Managers::default();
    for mut manager in managers.0 {
        let Some(path) = in_version(&manager.api_version) else { continue };
        if !manager.owned.set().contains(&path) {
            all.put(manager);
            continue;
        }
        let mut as_scale = manager.clone();
        as_scale.api_version = Key::const_new(SCALE);
        if of_scale.take(&as_scale).is_some() {
            all.put(manager);
            continue;
        }
        let rest = manager.owned.set().difference(&one(&path));
        if !rest.is_empty() {
            manager.owned = Owned::new(rest);
            all.put(manager);
        }
    }
    for mut manager in of_scale.0 {
        if let Some(path) = in_version(api_version).filter(|_| manager.owned.set().contains(&replicas_in_scale())) {
            manager.owned = Owned::new(one(&path));
            manager.api_version = api_version.into();
            // As upstream: what is owned by way of the scale carries no time.
            manager.time = None;
            all.put(manager);
        }
    }
    all.into_value()
}
