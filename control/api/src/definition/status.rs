//! The status of a definition: which names it got, whether it is served, how far its removal is.

use jiff::Timestamp;

use crate::strategy::timestamp;
use crate::{Key, Value};

/// Holds a definition until its objects are gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// The annotation by which groups of the project itself say who approved them.
pub(crate) const APPROVAL: &str = "api-approved.kubernetes.io";

/// How far the removal of a definition's objects is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceRemoval {
    /// The definition was deleted just now.
    Pending,
    /// Objects are being deleted.
    InProgress,
    /// All are gone.
    Completed,
}

/// A condition of a definition.
#[must_use]
pub fn condition<'a>(crd: &'a Value, kind: &str) -> Option<&'a Value> {
    crd.list_at(&["status", "conditions"]).iter().find(|condition| condition.str_at(&["type"]) == kind)
}

fn is_true(crd: &Value, kind: &str) -> bool {
    condition(crd, kind).is_some_and(|condition| condition.str_at(&["status"]) == "True")
}

/// Whether a definition is served.
#[must_use]
pub fn is_established(crd: &Value) -> bool {
    is_true(crd, "Established")
}

/// Whether a definition's objects are being removed.
#[must_use]
pub fn is_terminating(crd: &Value) -> bool {
    !crd.str_at(&["metadata", "deletionTimestamp"]).is_empty() || is_true(crd, "Terminating")
}

/// Sets a condition; its time changes with its status only.
fn set(crd: &mut Value, kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) {
    let conditions = crd.entry_at(&["status", "conditions"]).make_list();
    let at = conditions.iter().position(|condition| condition.str_at(&["type"]) == kind).unwrap_or_else(|| {
        conditions.push(Value::object());
        conditions.len() - 1
    });
    let condition = &mut conditions[at];
    if condition.str_at(&["status"]) != status || condition.str_at(&["lastTransitionTime"]).is_empty() {
        condition.set_at(&["lastTransitionTime"], timestamp(now));
    }
    for (member, text) in [("type", kind), ("status", status), ("reason", reason), ("message", message)] {
        condition.set_at(&[member], text);
    }
}

fn remove(crd: &mut Value, kind: &str) {
    if let Some(Value::List(conditions)) = crd.at_mut(&["status", "conditions"]) {
        conditions.retain(|condition| condition.str_at(&["type"]) != kind);
    }
}

/// What a new or changed definition carries beside what its author wrote: the stored versions.
pub fn prepare_definition(crd: &mut Value) {
    let storage = crd.list_at(&["spec", "versions"]).iter().find(|version| version.bool_at(&["storage"]) == Some(true));
    let Some(name) = storage.map(|version| version.str_at(&["name"]).to_owned()) else { return };
    let stored = crd.entry_at(&["status", "storedVersions"]).make_list();
    if !stored.iter().any(|known| known.as_str() == Some(&name)) {
        stored.push(name.into());
    }
}

/// Names in use by other definitions of a group.
#[derive(Debug, Default)]
struct Taken {
    resources: Vec<Key>,
    kinds: Vec<Key>,
}

impl Taken {
    fn of<'a>(crd: &Value, others: impl IntoIterator<Item = &'a Value>) -> Self {
        let group = crd.str_at(&["spec", "group"]);
        let mut taken = Self::default();
        for other in others {
            let same = other.str_at(&["metadata", "name"]) == crd.str_at(&["metadata", "name"]);
            if same || other.str_at(&["spec", "group"]) != group {
                continue;
            }
            let Some(names) = other.at(&["status", "acceptedNames"]) else { continue };
            taken.resources.extend(["plural", "singular"].map(|member| Key::from(names.str_at(&[member]))));
            taken.resources.extend(texts(names, "shortNames"));
            taken.kinds.extend(["kind", "listKind"].map(|member| Key::from(names.str_at(&[member]))));
        }
        taken
    }
}

fn texts(names: &Value, member: &str) -> Vec<Key> {
    names.list_at(&[member]).iter().filter_map(Value::as_str).map(Key::from).collect()
}

/// The names that a definition gets, and why it does not get the others (reason and message).
fn accept(crd: &Value, taken: &Taken) -> (Value, Option<(&'static str, String)>) {
    let empty = Value::object();
    let wanted = crd.at(&["spec", "names"]).unwrap_or(&empty);
    let had = crd.at(&["status", "acceptedNames"]).unwrap_or(&empty);
    let mut got = if had.as_object().is_some() { had.clone() } else { Value::object() };
    let mut conflict = None;
    let in_use = |name: &str| format!("{} is already in use", crate::quote(name));
    for (member, used, reason) in [
        ("plural", &taken.resources, "PluralConflict"),
        ("singular", &taken.resources, "SingularConflict"),
        ("shortNames", &taken.resources, "ShortNamesConflict"),
        ("kind", &taken.kinds, "KindConflict"),
        ("listKind", &taken.kinds, "ListKindConflict"),
    ] {
        let (names, known) = if member == "shortNames" {
            (texts(wanted, member), texts(had, member))
        } else {
            (vec![Key::from(wanted.str_at(&[member]))], vec![Key::from(had.str_at(&[member]))])
        };
        let fresh = names.iter().filter(|name| !known.contains(name));
        let lost: Vec<String> = fresh.filter(|name| used.contains(name)).map(|name| in_use(name)).collect();
        match lost.len() {
            0 => match wanted.get(member) {
                Some(value) => got.set_at(&[member], value.clone()),
                None => drop(got.remove_at(&[member])),
            },
            1 => conflict = Some((reason, lost.into_iter().next().unwrap_or_default())),
            _ => conflict = Some((reason, format!("[{}]", lost.join(", ")))),
        }
    }
    match wanted.get("categories") {
        Some(value) => got.set_at(&["categories"], value.clone()),
        None => drop(got.remove_at(&["categories"])),
    }
    (got, conflict)
}

/// Brings the status up to date with the definition and the others of its group: names, conditions. A
/// definition whose names were accepted is established in the same breath.
pub fn settle<'a>(crd: &mut Value, others: impl IntoIterator<Item = &'a Value>, now: Timestamp) {
    let (names, conflict) = accept(crd, &Taken::of(crd, others));
    for member in ["plural", "kind"] {
        // Both members are written even when empty, as Go writes them.
        if names.get(member).is_none() {
            crd.set_at(&["status", "acceptedNames", member], "");
        }
    }
    let mut names = names;
    for member in ["plural", "kind"] {
        if names.get(member).is_none() {
            names.set_at(&[member], "");
        }
    }
    crd.set_at(&["status", "acceptedNames"], names);
    match &conflict {
        None => set(crd, "NamesAccepted", "True", "NoConflicts", "no conflicts found", now),
        Some((reason, message)) => set(crd, "NamesAccepted", "False", reason, message, now),
    }
    if !is_established(crd) {
        if conflict.is_none() {
            set(crd, "Established", "True", "InitialNamesAccepted", "the initial names have been accepted", now);
        } else {
            set(crd, "Established", "False", "NotAccepted", "not all names are accepted", now);
        }
    }
    remove(crd, "NonStructuralSchema");
    approve(crd, now);
}

/// Groups of the project itself must say who approved them.
fn approve(crd: &mut Value, now: Timestamp) {
    const KIND: &str = "KubernetesAPIApprovalPolicyConformant";
    let group = crd.str_at(&["spec", "group"]);
    if !is_protected(group) {
        return remove(crd, KIND);
    }
    let annotation = crd.str_at(&["metadata", "annotations", APPROVAL]).to_owned();
    let (status, reason, message) = approval(&annotation);
    set(crd, KIND, status, reason, &message, now);
}

/// Whether a group is one of the project's own.
pub(crate) fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// What the annotation of a protected group is worth: status, reason and message.
pub(crate) fn approval(annotation: &str) -> (&'static str, &'static str, String) {
    if annotation.is_empty() {
        let message = format!(
            "protected groups must have approval annotation {}, see https://github.com/kubernetes/enhancements/pull/1111",
            crate::quote(APPROVAL)
        );
        return ("False", "MissingAnnotation", message);
    }
    if annotation.starts_with("unapproved") {
        return ("False", "UnapprovedAnnotation", format!("not approved: {}", crate::quote(annotation)));
    }
    let url = annotation
        .split_once("://")
        .is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.starts_with('/') && !rest.is_empty());
    if url {
        return ("True", "ApprovedAnnotation", format!("approved in {annotation}"));
    }
    let message = format!(
        "protected groups must have approval annotation {} with either a URL or a reason starting with \"unapproved\", \
         see https://github.com/kubernetes/enhancements/pull/1111",
        crate::quote(APPROVAL)
    );
    ("False", "InvalidAnnotation", message)
}

/// Notes how far the removal of the objects is.
pub fn mark_terminating(crd: &mut Value, step: InstanceRemoval, now: Timestamp) {
    let (status, reason, message) = match step {
        InstanceRemoval::Pending => (
            "True",
            "InstanceDeletionPending",
            "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
        ),
        InstanceRemoval::InProgress => ("True", "InstanceDeletionInProgress", "CustomResource deletion is in progress"),
        InstanceRemoval::Completed => ("False", "InstanceDeletionCompleted", "removed all instances"),
    };
    set(crd, "Terminating", status, reason, message, now);
}

/// Takes the finalizer away that waits for the objects.
pub fn release(crd: &mut Value) {
    if let Some(Value::List(finalizers)) = crd.at_mut(&["metadata", "finalizers"]) {
        finalizers.retain(|name| name.as_str() != Some(CLEANUP_FINALIZER));
        if finalizers.is_empty() {
            crd.remove_at(&["metadata", "finalizers"]);
        }
    }
}
