//! Throws old certificate requests away.

use super::rules::{condition, issued};
use crate::{
    common::objects::{after, created},
    framework::{Action, Change, Controller, Key, Kind, Plan, Target, View},
};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

/// Seconds that a request is kept after it was decided, and while it is not.
const DECIDED: i64 = 3600;
const PENDING: i64 = 24 * 3600;

/// Cleans requests up.
#[derive(Debug)]
pub(crate) struct RequestCleaning;

impl Controller for RequestCleaning {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-cleaner-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::CertificateSigningRequest]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("CertificateSigningRequest", "deleted when old")]
    }

    fn keys(&self, _view: &View, change: &Change, keys: &mut Vec<Key>) {
        if change.new.is_some() {
            keys.push(Key::of(change.object().meta()));
        }
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let Some(request) = view.signing_requests.get(key) else { return Plan::none() };
        let mut plan = Plan::none();
        match expiry(request) {
            due if due > now => plan.look_again(due),
            _ => plan.push(Action::delete(Target::exact(Kind::CertificateSigningRequest, &request.metadata))),
        }
        plan
    }
}

fn expiry(request: &CertificateSigningRequest) -> Timestamp {
    let since = |kind| {
        let condition = condition(request, kind)?;
        condition.last_update_time.as_ref().or(condition.last_transition_time.as_ref()).map(|time| time.0)
    };
    let approved = since("Approved").filter(|_| issued(request));
    let decided = approved.or_else(|| since("Denied")).or_else(|| since("Failed"));
    decided.map_or_else(|| after(created(&request.metadata), PENDING), |at| after(at, DECIDED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, lines, object};
    use serde_json::{Value, json};

    fn check(status: Value, now: i64, gone: bool) {
        let mut view = View::default();
        view.signing_requests
            .insert(object(json!({"metadata": {"name": "csr", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"request": "", "signerName": "x"}, "status": status})));
        assert_eq!(lines(&RequestCleaning.plan(&view, &Key::new("", "csr"), at(now))).len(), usize::from(gone));
    }

    #[test]
    fn how_long_requests_are_kept() {
        let denied =
            json!({"conditions": [{"type": "Denied", "status": "True", "lastUpdateTime": "1970-01-01T00:00:00Z"}]});
        check(denied.clone(), 3599, false);
        check(denied, 3600, true);
        check(json!({}), 3600, false);
        check(json!({}), 86_400, true);
        let approved =
            json!({"conditions": [{"type": "Approved", "status": "True", "lastUpdateTime": "1970-01-01T00:00:00Z"}]});
        check(approved, 3600, false);
    }
}
