//! Taking out what a schema does not know: the rules, for trees here and for the JSON decoder beside.

use super::node::{Additional, Node};
use crate::Value;

/// How what stands at a place is treated.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode<'n> {
    /// Kept as it is, whatever it is.
    Keep,
    /// Members of objects are taken out; scalars and lists stay.
    Empty,
    /// By a schema; what it does not list is kept or not.
    By { node: &'n Node, keep: bool },
}

impl<'n> Mode<'n> {
    pub(crate) fn of(node: &'n Node) -> Self {
        Self::By { node, keep: node.preserve }
    }

    /// Whether an object here has metadata of its own.
    pub(crate) fn is_embedded(self) -> bool {
        matches!(self, Self::By { node, .. } if node.embedded)
    }

    /// How items of a list are treated.
    pub(crate) fn items(self) -> Self {
        match self {
            Self::By { node, keep } => match &node.items {
                Some(items) => Self::By { node: items, keep: keep || items.preserve },
                None if keep => Self::Keep,
                None => Self::Empty,
            },
            other => other,
        }
    }
}

/// How a member is treated; `None` when it is taken out.
pub(crate) fn child_of<'n>(mode: Mode<'n>, name: &str) -> Option<Mode<'n>> {
    let Mode::By { node, keep } = mode else {
        return matches!(mode, Mode::Keep).then_some(Mode::Keep);
    };
    if let Some(child) = node.property(name) {
        return Some(Mode::of(child));
    }
    match &node.additional {
        Some(Additional::Of(child)) => Some(Mode::of(child)),
        Some(Additional::Any | Additional::None) => Some(Mode::Empty),
        None => keep.then_some(Mode::Keep),
    }
}

/// Members of an object with metadata, which have rules of their own.
pub(crate) fn is_envelope(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

/// Prunes a whole object; its envelope and those of embedded objects stay as they are.
pub(super) fn prune_object(node: &Node, value: &mut Value) {
    walk(Mode::of(node), true, value);
}

/// Prunes a tree below `node`.
pub(super) fn prune(node: &Node, value: &mut Value) {
    walk(Mode::of(node), node.embedded, value);
}

fn walk(mode: Mode<'_>, embedded: bool, value: &mut Value) {
    match (mode, value) {
        (Mode::Keep, _) => {}
        (_, Value::Object(object)) => {
            object.retain(|name, member| {
                if embedded && is_envelope(name) {
                    return true;
                }
                match child_of(mode, name) {
                    Some(inner) => {
                        walk(inner, inner.is_embedded(), member);
                        true
                    }
                    None => false,
                }
            });
        }
        (_, Value::List(list)) => {
            let inner = mode.items();
            list.iter_mut().for_each(|item| walk(inner, inner.is_embedded(), item));
        }
        _ => {}
    }
}
