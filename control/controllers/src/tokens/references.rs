//! Takes the name of a token's Secret that was deleted off its service account.

use super::{ACCOUNT_NAME, holds_token};
use crate::{
    common::objects::{annotation, namespace},
    framework::{Action, Change, Controller, Key, Kind, Object, Plan, View},
};
use jiff::Timestamp;

/// Removes references; a key's name is `ACCOUNT/SECRET`, since the Secret itself is no more.
#[derive(Debug)]
pub(crate) struct TokenReferences;

impl Controller for TokenReferences {
    fn name(&self) -> &'static str {
        "serviceaccount-token-reference-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Secret, Kind::ServiceAccount]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("ServiceAccount", "secrets without deleted tokens")]
    }

    fn keys(&self, _view: &View, change: &Change, keys: &mut Vec<Key>) {
        if let (Some(Object::Secret(old)), None) = (&change.old, &change.new)
            && holds_token(old)
            && let Some(account) = annotation(&old.metadata, ACCOUNT_NAME)
        {
            let secret = old.metadata.name.as_deref().unwrap_or_default();
            keys.push(Key::new(namespace(&old.metadata), &format!("{account}/{secret}")));
        }
    }

    fn plan(&self, view: &View, key: &Key, _now: Timestamp) -> Plan {
        let Some((account, secret)) = key.name.split_once('/') else { return Plan::none() };
        if view.secrets.find(&key.namespace, secret).is_some() {
            return Plan::none();
        }
        let Some(account) = view.service_accounts.find(&key.namespace, account) else { return Plan::none() };
        let refers = |to: &Option<String>| to.as_deref() == Some(secret);
        if !account.secrets.iter().flatten().any(|reference| refers(&reference.name)) {
            return Plan::none();
        }
        let mut account = (**account).clone();
        account.secrets.get_or_insert_default().retain(|reference| !refers(&reference.name));
        vec![Action::update(account)].into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, outline};
    use k8s_openapi::api::core::v1::Secret;
    use serde_json::json;

    #[test]
    fn a_deleted_token_is_no_longer_referred_to() {
        let secret: Secret = object(json!({"type": super::super::TOKEN_TYPE,
            "metadata": {"name": "ci", "namespace": "team", "annotations": {ACCOUNT_NAME: "robot"}}}));
        let mut view = View::default();
        view.service_accounts.insert(object(json!({"metadata": {"name": "robot", "namespace": "team"},
            "secrets": [{"name": "ci"}, {"name": "other"}]})));
        let mut keys = Vec::new();
        let change = Change { old: Some(Object::from(secret.clone())), new: None };
        TokenReferences.keys(&view, &change, &mut keys);
        assert_eq!(keys, [Key::new("team", "robot/ci")]);
        let plan = TokenReferences.plan(&view, &keys[0], at(0));
        assert_eq!(outline(&plan)[0].body["secrets"], json!([{"name": "other"}]));
        view.secrets.insert(secret);
        assert_eq!(TokenReferences.plan(&view, &keys[0], at(0)), Plan::none(), "made again meanwhile");
    }
}
