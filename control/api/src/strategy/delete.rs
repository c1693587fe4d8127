//! What a deletion means for an object: how long it may take, and what becomes of its dependants.

use super::KindRef;
use crate::Value;

/// What becomes of dependants when the request does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted after their owner.
    Background,
    /// They lose their owner.
    Orphan,
    /// The kind never has any.
    Unsupported,
}

/// What becomes of the dependants of a kind by default.
#[must_use]
pub fn default_propagation(kind: KindRef<'_>) -> Propagation {
    match (kind.group, kind.kind) {
        _ if kind.custom => Propagation::Background,
        ("", "ReplicationController") | ("batch", "Job") => Propagation::Orphan,
        ("" | "events.k8s.io", "Event") => Propagation::Unsupported,
        _ => Propagation::Background,
    }
}

/// How many seconds an object may take to end; `None` for kinds that are deleted at once.
#[must_use]
pub fn deletion_grace(kind: KindRef<'_>, object: &Value, requested: Option<i64>) -> Option<i64> {
    if !kind.is("", "Pod") {
        return None;
    }
    let own = object.int_at(&["spec", "terminationGracePeriodSeconds"]).unwrap_or(0);
    let unscheduled = object.str_at(&["spec", "nodeName"]).is_empty();
    let finished = matches!(object.str_at(&["status", "phase"]), "Failed" | "Succeeded");
    Some(match requested.unwrap_or(own) {
        _ if unscheduled || finished => 0,
        seconds if seconds < 0 => 1,
        seconds => seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_running_pods_take_their_time() {
        let pod = KindRef::builtin("", "Pod", true);
        for (object, requested, seconds) in [
            (json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}}), None, 30),
            (json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}}), Some(5), 5),
            (json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": -4}}), None, 1),
            (json!({"spec": {"terminationGracePeriodSeconds": 30}}), None, 0),
            (json!({"spec": {"nodeName": "n"}, "status": {"phase": "Succeeded"}}), Some(9), 0),
        ] {
            assert_eq!(deletion_grace(pod, &object.into(), requested), Some(seconds));
        }
        assert_eq!(deletion_grace(KindRef::builtin("", "Node", false), &Value::object(), Some(9)), None);
    }

    #[test]
    fn old_kinds_orphan() {
        for (kind, propagation) in [
            (KindRef::builtin("batch", "Job", true), Propagation::Orphan),
            (KindRef::builtin("apps", "Deployment", true), Propagation::Background),
            (KindRef::builtin("", "Event", true), Propagation::Unsupported),
            (KindRef::custom("batch", "Job", true, true), Propagation::Background),
        ] {
            assert_eq!(default_propagation(kind), propagation);
        }
    }
}
