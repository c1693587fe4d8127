//! Throws away tokens that earlier versions of Kubernetes made by themselves and that nobody used for a year: first
//! marked invalid, and a year later deleted (KEP 2799). Tokens that a person made are left alone.

use super::{ACCOUNT_NAME, ACCOUNT_UID, holds_token, mounted::refers_to};
use crate::{
    common::objects::{annotation, created, label, name, namespace, uid},
    framework::{Action, Answer, Change, Controller, Key, Kind, Object, Plan, Question, Target, View},
};
use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

/// How long a token may lie unused, and then be invalid.
const KEPT: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Looks at a token are this far apart.
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// The last day on which a token was seen, and the day on which it was marked.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// Where the API server tells since when it notes the use of tokens.
const TRACKING: (&str, &str, &str) = ("kube-system", "kube-apiserver-legacy-service-account-token-tracking", "since");

/// Cleans unused tokens up.
#[derive(Debug)]
pub(crate) struct UnusedTokenCleaning;

impl Controller for UnusedTokenCleaning {
    fn name(&self) -> &'static str {
        "legacy-serviceaccount-token-cleaner-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Pod, Kind::Secret, Kind::ServiceAccount]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("Secret", "deleted when nobody uses the token"), ("Secret", "metadata.labels[legacy-token-invalid-since]")]
    }

    fn keys(&self, _view: &View, change: &Change, keys: &mut Vec<Key>) {
        if let Some(Object::Secret(secret)) = &change.new
            && holds_token(secret)
        {
            keys.push(Key::of(&secret.metadata));
        }
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let Some(secret) = view.secrets.get(key).filter(|secret| holds_token(secret)) else { return Plan::none() };
        let mut plan = Plan::none();
        plan.look_again(later(now, DAY));
        let oldest = earlier(now, KEPT);
        if created(&secret.metadata) >= oldest || secret.metadata.deletion_timestamp.is_some() {
            return plan;
        }
        if !made_by_kubernetes(view, secret) || used_since(secret, day(oldest)) || mounted(view, secret) {
            return plan;
        }
        let question = tracking();
        match view.memory.answer(&question, earlier(now, DAY)) {
            None => plan.push(Action::ask(question)),
            Some(Answer::Data(since)) if tracked_long_enough(since.as_deref(), now) => {
                plan.actions.extend(remove(secret, now));
            }
            Some(_) => {}
        }
        plan
    }
}

fn tracking() -> Question {
    let (namespace, name, key) = TRACKING;
    Question::Data { namespace: namespace.to_owned(), name: name.to_owned(), key: key.to_owned() }
}

fn earlier(now: Timestamp, by: SignedDuration) -> Timestamp {
    now.saturating_sub(by).unwrap_or(Timestamp::MIN)
}

fn later(now: Timestamp, by: SignedDuration) -> Timestamp {
    now.saturating_add(by).unwrap_or(Timestamp::MAX)
}

fn day(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

/// Whether use has been noted for a whole year, counted from the day after the one that is stated.
fn tracked_long_enough(since: Option<&str>, now: Timestamp) -> bool {
    let first = since.and_then(|text| text.parse::<Date>().ok()).and_then(|date| date.tomorrow().ok());
    let first = first.and_then(|date| date.to_zoned(TimeZone::UTC).ok()).map(|midnight| midnight.timestamp());
    first.is_some_and(|first| first <= earlier(now, KEPT))
}

/// Whether the token was used on `oldest` or later; one whose note cannot be read counts as used.
fn used_since(secret: &Secret, oldest: Date) -> bool {
    match label(&secret.metadata, LAST_USED) {
        None => false,
        Some(text) => text.parse::<Date>().map_or(true, |used| used >= oldest),
    }
}

/// Whether its account lists it: so did the versions that made tokens by themselves.
fn made_by_kubernetes(view: &View, secret: &Secret) -> bool {
    let meta = &secret.metadata;
    let found = annotation(meta, ACCOUNT_NAME).and_then(|name| view.service_accounts.find(namespace(meta), name));
    let Some(account) = found else { return false };
    let stated = annotation(meta, ACCOUNT_UID).unwrap_or_default();
    let same = stated.is_empty() || stated == uid(&account.metadata);
    same && account.secrets.iter().flatten().any(|reference| reference.name.as_deref() == Some(name(meta)))
}

fn mounted(view: &View, secret: &Secret) -> bool {
    let meta = &secret.metadata;
    view.pods.in_namespace(namespace(meta)).any(|pod| refers_to(pod, name(meta)))
}

fn remove(secret: &Secret, now: Timestamp) -> Option<Action> {
    let target = Target::exact(Kind::Secret, &secret.metadata);
    let marked = label(&secret.metadata, INVALID_SINCE).and_then(|text| text.parse::<Date>().ok());
    let Some(marked) = marked else {
        let today = day(now).to_string();
        return Some(Action::patch(target, json!({"metadata": {"labels": {INVALID_SINCE: today}}})));
    };
    (marked < day(earlier(now, KEPT))).then(|| Action::delete(target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{lines, object};
    use serde_json::Value;

    const NOW: &str = "2026-11-21T12:00:00Z";

    /// A token that may go, changed by a merge, and what is done about it.
    fn check(secret: &Value, account: &Value, pod: &Value, since: Option<&str>, expected: &[&str]) {
        let mut view = View::default();
        let mut whole = json!({"type": super::super::TOKEN_TYPE, "metadata": {"name": "old", "namespace": "team",
            "creationTimestamp": "2020-01-01T00:00:00Z", "annotations": {ACCOUNT_NAME: "robot", ACCOUNT_UID: "u"}}});
        whole["metadata"]["labels"] = secret["labels"].clone();
        if let Some(at) = secret.get("created") {
            whole["metadata"]["creationTimestamp"] = at.clone();
        }
        view.secrets.insert(object(whole));
        view.service_accounts.insert(object(json!({"metadata": {"name": "robot", "namespace": "team", "uid": "u"},
            "secrets": account})));
        view.pods.insert(object(json!({"metadata": {"name": "p", "namespace": "team"}, "spec": pod})));
        let now: Timestamp = NOW.parse().unwrap();
        if let Some(since) = since {
            view.memory.learn(tracking(), now, Answer::Data(Some(since.to_owned())));
        }
        let plan = UnusedTokenCleaning.plan(&view, &Key::new("team", "old"), now);
        assert_eq!(lines(&plan), expected, "{secret} {account} {pod} {since:?}");
        assert_eq!(plan.again, Some(later(now, DAY)));
    }

    #[test]
    fn which_tokens_go() {
        let (listed, idle) = (json!([{"name": "old"}]), json!({"containers": []}));
        let long = Some("2024-01-01");
        let (mark, delete) = (["patch Secret team/old"], ["delete Secret team/old"]);
        check(&json!({}), &listed, &idle, long, &mark);
        check(&json!({"labels": {LAST_USED: "2025-11-20"}}), &listed, &idle, long, &mark);
        check(&json!({"labels": {LAST_USED: "2025-11-21"}}), &listed, &idle, long, &[]);
        check(&json!({"labels": {LAST_USED: "yesterday"}}), &listed, &idle, long, &[]);
        check(&json!({"labels": {INVALID_SINCE: "2025-11-20"}}), &listed, &idle, long, &delete);
        check(&json!({"labels": {INVALID_SINCE: "2025-11-21"}}), &listed, &idle, long, &[]);
        check(&json!({"labels": {INVALID_SINCE: "once"}}), &listed, &idle, long, &mark);
        check(&json!({"created": "2026-01-01T00:00:00Z"}), &listed, &idle, long, &[]);
        check(&json!({}), &json!([]), &idle, long, &[]);
        check(&json!({}), &listed, &json!({"containers": [], "imagePullSecrets": [{"name": "old"}]}), long, &[]);
        check(&json!({}), &listed, &idle, Some("2025-11-20"), &mark);
        check(&json!({}), &listed, &idle, Some("2025-11-21"), &[]);
        check(&json!({}), &listed, &idle, Some("never"), &[]);
        let asks = format!("ask {:?}", tracking());
        check(&json!({}), &listed, &idle, None, &[&asks]);
    }
}
