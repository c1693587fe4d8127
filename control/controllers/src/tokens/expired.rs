//! Throws bootstrap tokens away when their time is over.

use crate::framework::{Action, Change, Controller, Key, Kind, Object, Plan, Target, View};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

const NAMESPACE: &str = "kube-system";
const BOOTSTRAP_TYPE: &str = "bootstrap.kubernetes.io/token";

/// Deletes expired bootstrap tokens.
#[derive(Debug)]
pub(crate) struct BootstrapTokenCleaning;

fn is_bootstrap_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(BOOTSTRAP_TYPE) && secret.metadata.namespace.as_deref() == Some(NAMESPACE)
}

/// When the token expires: never, if it does not say; long ago, if it says nothing that is a time.
fn expiry(secret: &Secret) -> Option<Timestamp> {
    let stated = &secret.data.as_ref()?.get("expiration")?.0;
    if stated.is_empty() {
        return None;
    }
    Some(std::str::from_utf8(stated).ok().and_then(|text| text.parse().ok()).unwrap_or(Timestamp::MIN))
}

impl Controller for BootstrapTokenCleaning {
    fn name(&self) -> &'static str {
        "token-cleaner-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Secret]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("Secret", "deleted when a bootstrap token expires")]
    }

    fn keys(&self, _view: &View, change: &Change, keys: &mut Vec<Key>) {
        if let Some(Object::Secret(secret)) = &change.new
            && is_bootstrap_token(secret)
        {
            keys.push(Key::of(&secret.metadata));
        }
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::none();
        let secret = view.secrets.get(key).filter(|secret| is_bootstrap_token(secret));
        if let Some(secret) = secret
            && let Some(expiry) = expiry(secret)
        {
            if expiry > now {
                plan.look_again(expiry);
            } else {
                plan.push(Action::delete(Target::exact(Kind::Secret, &secret.metadata)));
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, lines, object};
    use k8s_openapi::ByteString;
    use serde_json::json;

    #[test]
    fn when_a_token_goes() {
        for (namespace, expiration, gone, again) in [
            (NAMESPACE, Some("1970-01-01T00:01:40Z"), false, Some(at(100))),
            (NAMESPACE, Some("1970-01-01T00:01:39Z"), false, Some(at(99))),
            (NAMESPACE, Some("1970-01-01T00:00:50Z"), true, None),
            (NAMESPACE, Some("1970-01-01T01:00:50+01:00"), true, None),
            (NAMESPACE, Some("soon"), true, None),
            (NAMESPACE, Some(""), false, None),
            (NAMESPACE, None, false, None),
            ("default", Some("1970-01-01T00:00:50Z"), false, None),
        ] {
            let data = expiration.map_or_else(|| json!({}), |text| json!({"expiration": ByteString(text.into())}));
            let mut view = View::default();
            let meta = json!({"name": "bootstrap-token-abcdef", "namespace": namespace, "uid": "u"});
            view.secrets.insert(object(json!({"metadata": meta, "type": BOOTSTRAP_TYPE, "data": data})));
            let plan = BootstrapTokenCleaning.plan(&view, &Key::new(namespace, "bootstrap-token-abcdef"), at(50));
            assert_eq!((lines(&plan).len(), plan.again), (usize::from(gone), again), "{namespace} {expiration:?}");
        }
    }
}
