//! Fields that an apply would change and others own, in upstream's words.

use super::element::Element;
use super::managers::Manager;
use super::set::FieldSet;
use crate::{Status, StatusCause};

/// One field and who owns it.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// The owner, as messages name it.
    pub manager: String,
    /// The field.
    pub path: Vec<Element>,
}

fn shown(path: &[Element]) -> String {
    path.iter().map(ToString::to_string).collect()
}

/// The conflicts with one manager.
pub(super) fn with(manager: &Manager, fields: &FieldSet) -> impl Iterator<Item = Conflict> {
    let name = manager.shown();
    fields.paths().into_iter().map(move |path| Conflict { manager: name.clone(), path })
}

/// The conflicts as a client receives them.
pub(super) fn status(conflicts: &[Conflict]) -> Status {
    let cause = |conflict: &Conflict| StatusCause {
        reason: "FieldManagerConflict".into(),
        message: format!("conflict with {}", conflict.manager),
        field: shown(&conflict.path),
    };
    Status::apply_conflict(conflicts.iter().map(cause).collect(), message(conflicts))
}

fn message(conflicts: &[Conflict]) -> String {
    if let [conflict] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", conflict.manager, shown(&conflict.path));
    }
    let mut lines = Vec::with_capacity(conflicts.len() + 1);
    let mut last = "";
    for conflict in conflicts {
        if conflict.manager != last {
            lines.push(format!("conflicts with {}:", conflict.manager));
            last = &conflict.manager;
        }
        lines.push(format!("- {}", shown(&conflict.path)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}
