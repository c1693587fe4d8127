//! What an autoscaler's behaviour and bounds make of a proposal. Pure.

use crate::common::objects::after;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// A lower proposal must stand this long before it is followed, unless the behaviour says otherwise.
const DOWN_WINDOW_SECONDS: i32 = 300;

/// What is known when a proposal is judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation<'a> {
    pub(super) current: i32,
    pub(super) least: i32,
    pub(super) most: i32,
    pub(super) behavior: Option<&'a HorizontalPodAutoscalerBehavior>,
    /// When it was last scaled.
    pub(super) scaled: Option<Timestamp>,
    /// Since when each proposal has been on the other side of the current number: (more, fewer).
    pub(super) proposed: (Option<Timestamp>, Option<Timestamp>),
    pub(super) now: Timestamp,
}

/// A judged proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) replicas: i32,
    /// Of the condition `AbleToScale`.
    pub(super) able: (&'static str, &'static str),
    /// Of the condition `ScalingLimited`: whether, why.
    pub(super) limited: (bool, &'static str, &'static str),
}

const READY: (&str, &str) = ("ReadyForNewScale", "recommended size matches current size");
pub(super) const DOWN_STABILIZED: &str = "ScaleDownStabilized";
pub(super) const UP_STABILIZED: &str = "ScaleUpStabilized";
const WITHIN: (bool, &str, &str) = (false, "DesiredWithinRange", "the desired count is within the acceptable range");

/// Holds a proposal to stabilization, policies and bounds.
pub(super) fn judge(proposal: i32, at: Situation<'_>) -> Judged {
    let up = at.behavior.and_then(|behavior| behavior.scale_up.as_ref());
    let down = at.behavior.and_then(|behavior| behavior.scale_down.as_ref());
    let window = |rules: Option<&HPAScalingRules>, default| {
        i64::from(rules.and_then(|rules| rules.stabilization_window_seconds).unwrap_or(default))
    };
    let stands = |since: Option<Timestamp>, seconds| seconds == 0 || since.is_some_and(|s| after(s, seconds) <= at.now);
    let still = |able| Judged { replicas: at.current, able, limited: WITHIN };
    if proposal < at.current && !stands(at.proposed.1, window(down, DOWN_WINDOW_SECONDS)) {
        return still((
            DOWN_STABILIZED,
            "recent recommendations were higher than current one, applying the highest recent recommendation",
        ));
    }
    if proposal > at.current && !stands(at.proposed.0, window(up, 0)) {
        return still((
            UP_STABILIZED,
            "recent recommendations were lower than current one, applying the lowest recent recommendation",
        ));
    }
    let (rate, rate_text) = if proposal > at.current {
        (
            proposal.min(ceiling(up, at)),
            ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"),
        )
    } else {
        (
            proposal.max(floor(down, at)),
            ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"),
        )
    };
    let replicas = rate.clamp(at.least, at.most);
    let limited = if replicas < rate || (replicas == at.most && proposal > at.most) {
        (true, "TooManyReplicas", "the desired replica count is more than the maximum replica count")
    } else if replicas > rate {
        (true, "TooFewReplicas", "the desired replica count is less than the minimum replica count")
    } else if rate != proposal {
        (true, rate_text.0, rate_text.1)
    } else {
        WITHIN
    };
    Judged { replicas, able: READY, limited }
}

/// The number that one policy allows. A policy whose period is not over since the last scaling allows no more yet.
fn allowed(policy: &HPAScalingPolicy, at: Situation<'_>, more: bool) -> i32 {
    let pending = at.scaled.is_some_and(|scaled| after(scaled, i64::from(policy.period_seconds)) > at.now);
    if pending {
        return at.current;
    }
    let current = i64::from(at.current);
    let value = i64::from(policy.value);
    let number = match (policy.type_.as_str(), more) {
        ("Pods", true) => current + value,
        ("Pods", false) => current - value,
        (_, true) => (current * (100 + value) + 99) / 100,
        (_, false) => current * (100 - value).max(0) / 100,
    };
    i32::try_from(number.max(0)).unwrap_or(i32::MAX)
}

fn ceiling(rules: Option<&HPAScalingRules>, at: Situation<'_>) -> i32 {
    let default = [("Pods", 4), ("Percent", 100)].map(|(kind, value)| HPAScalingPolicy {
        type_: kind.to_owned(),
        value,
        period_seconds: 15,
    });
    let policies =
        rules.and_then(|rules| rules.policies.as_deref()).filter(|list| !list.is_empty()).unwrap_or(&default);
    let each = policies.iter().map(|policy| allowed(policy, at, true));
    match rules.and_then(|rules| rules.select_policy.as_deref()) {
        Some("Disabled") => at.current,
        Some("Min") => each.min().unwrap_or(at.current),
        _ => each.max().unwrap_or(at.current),
    }
}

fn floor(rules: Option<&HPAScalingRules>, at: Situation<'_>) -> i32 {
    let default = [HPAScalingPolicy { type_: "Percent".to_owned(), value: 100, period_seconds: 15 }];
    let policies =
        rules.and_then(|rules| rules.policies.as_deref()).filter(|list| !list.is_empty()).unwrap_or(&default);
    let each = policies.iter().map(|policy| allowed(policy, at, false));
    match rules.and_then(|rules| rules.select_policy.as_deref()) {
        Some("Disabled") => at.current,
        Some("Min") => each.max().unwrap_or(at.current),
        _ => each.min().unwrap_or(at.current),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;
    use serde_json::{Value, json};

    fn check(current: i32, proposal: i32, behavior: Value, since: Option<i64>, expected: (i32, &str)) {
        let behavior: Option<HorizontalPodAutoscalerBehavior> = serde_json::from_value(behavior).unwrap();
        let since = since.map(at);
        let situation = Situation {
            current,
            least: 1,
            most: 20,
            behavior: behavior.as_ref(),
            scaled: None,
            proposed: (since, since),
            now: at(1000),
        };
        let judged = judge(proposal, situation);
        let why = if judged.limited.0 { judged.limited.1 } else { judged.able.0 };
        assert_eq!((judged.replicas, why), expected, "{current} to {proposal}");
    }

    #[test]
    fn bounds_rates_and_windows() {
        let none = || Value::Null;
        check(2, 4, none(), None, (4, "ReadyForNewScale"));
        check(2, 12, none(), None, (6, "ScaleUpLimit"));
        check(10, 30, none(), None, (20, "TooManyReplicas"));
        check(4, 2, none(), None, (4, "ScaleDownStabilized"));
        check(4, 2, none(), Some(800), (4, "ScaleDownStabilized"));
        check(4, 2, none(), Some(700), (2, "ReadyForNewScale"));
        check(4, 0, none(), Some(700), (1, "TooFewReplicas"));
        check(4, 2, json!({"scaleDown": {"stabilizationWindowSeconds": 0}}), None, (2, "ReadyForNewScale"));
        check(4, 2, json!({"scaleDown": {"selectPolicy": "Disabled"}}), Some(0), (4, "ScaleDownLimit"));
        let slow = json!({"scaleDown": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}});
        check(4, 1, slow, Some(0), (3, "ScaleDownLimit"));
        check(4, 8, json!({"scaleUp": {"stabilizationWindowSeconds": 60}}), Some(990), (4, "ScaleUpStabilized"));
    }

    #[test]
    fn a_policy_waits_for_its_period() {
        let situation = Situation {
            current: 2,
            least: 1,
            most: 20,
            behavior: None,
            scaled: Some(at(990)),
            proposed: (None, None),
            now: at(1000),
        };
        assert_eq!(judge(9, situation).replicas, 2);
        assert_eq!(judge(9, Situation { scaled: Some(at(985)), ..situation }).replicas, 6);
    }
}
