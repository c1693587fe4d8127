//! Conditions of an autoscaler. Pure.

use jiff::Timestamp;
use k8s_openapi::{
    api::autoscaling::v2::{HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

/// Sets a condition; its time changes with its status, and with a reason that a later look counts from.
pub(super) fn set(
    status: &mut HorizontalPodAutoscalerStatus,
    kind: &str,
    is: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let word = if is { "True" } else { "False" };
    let old = conditions.iter().find(|condition| condition.type_ == kind);
    let counted = reason.ends_with("Stabilized");
    let same = old.filter(|old| old.status == word && (old.reason.as_deref() == Some(reason) || !counted));
    let since = same.and_then(|old| old.last_transition_time.clone()).unwrap_or(Time(now));
    let new = HorizontalPodAutoscalerCondition {
        type_: kind.to_owned(),
        status: word.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since),
    };
    match conditions.iter_mut().find(|condition| condition.type_ == kind) {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

/// Since when a condition has had this reason.
pub(super) fn since(status: &HorizontalPodAutoscalerStatus, kind: &str, reason: &str) -> Option<Timestamp> {
    let found = status.conditions.iter().flatten().find(|condition| condition.type_ == kind)?;
    let time = found.last_transition_time.as_ref().filter(|_| found.reason.as_deref() == Some(reason))?;
    Some(time.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn times_change_with_what_is_counted_from() {
        let mut status = HorizontalPodAutoscalerStatus::default();
        let mut step = |is, reason: &str, now| {
            set(&mut status, "AbleToScale", is, reason, "", at(now));
            since(&status, "AbleToScale", reason)
        };
        assert_eq!(step(true, "SucceededGetScale", 1), Some(at(1)));
        assert_eq!(step(true, "ReadyForNewScale", 2), Some(at(1)));
        assert_eq!(step(true, "ScaleDownStabilized", 3), Some(at(3)));
        assert_eq!(step(true, "ScaleDownStabilized", 4), Some(at(3)));
        assert_eq!(step(false, "FailedGetScale", 5), Some(at(5)));
    }
}
